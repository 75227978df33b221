//! The check of what the service account of the pod may do, for the `kubernetes-*` settings that are used.

use super::Run;
use crate::config::Config;

/// The names of these checks.
pub(super) const NAMES: &[&str] = &["kubernetes-permissions"];

#[cfg(not(feature = "kubernetes"))]
#[expect(clippy::unused_async, reason = "as in a build that has the part")]
pub(super) async fn check(run: &mut Run, _config: &Config) {
    for name in NAMES {
        run.skip(name, "this build has no part for Kubernetes");
    }
}

#[cfg(feature = "kubernetes")]
pub(super) async fn check(run: &mut Run, config: &Config) {
    use crate::kubernetes::access;

    let asked = &config.kubernetes;
    let secret = asked.secret.as_ref().map(|secret| secret.name.as_str());
    let permissions = access::needed(secret, asked.events, asked.lease.as_deref());
    for name in NAMES {
        if permissions.is_empty() {
            run.skip(name, "no kubernetes-* setting is used");
        } else {
            let namespace = asked.pod.namespace.clone();
            run.step(name, Box::pin(asking::all(&permissions, namespace)))
                .await;
        }
    }
}

#[cfg(feature = "kubernetes")]
mod asking {
    use super::super::{Class, Finding, count_of, counted};
    use crate::{
        error::chain,
        kubernetes::{
            self,
            access::{self, Permission},
        },
    };

    /// Asks for each permission.
    pub(super) async fn all(
        permissions: &[Permission],
        namespace: Option<String>,
    ) -> Result<(Finding, ()), Finding> {
        let client = kubernetes::client().await.map_err(|error| {
            Finding::failed(Class::Configuration, "no way to the Kubernetes API")
                .advise(chain(&error))
        })?;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        let mut missing = Vec::new();
        for permission in permissions {
            let allowed = access::is_allowed(&client, &namespace, permission)
                .await
                .map_err(|error| {
                    Finding::failed(
                        Class::Unreachable,
                        format!("the Kubernetes API does not answer ({})", chain(&error)),
                    )
                    .advise(
                        "let the pod reach the API server (network policy), and mount the token of a service account",
                    )
                })?;
            if !allowed {
                missing.push(permission);
            }
        }
        Ok((judge(permissions.len(), &missing, &namespace), ()))
    }

    fn judge(asked: usize, missing: &[&Permission], namespace: &str) -> Finding {
        let held = asked - missing.len();
        let seen = format!(
            "{held} of {} in namespace {namespace}",
            counted(count_of(asked), "permission")
        );
        let finding = if missing.is_empty() {
            Finding::ok(seen)
        } else if missing.iter().all(|permission| permission.optional) {
            Finding::warning(seen)
        } else {
            Finding::failed(Class::Permission, seen)
        };
        let finding = missing.iter().fold(finding, |finding, permission| {
            finding.advise(if permission.optional {
                format!("allow \"{permission}\" in the Role of the service account, unless the object is there already")
            } else {
                format!("allow \"{permission}\" in the Role of the service account")
            })
        });
        finding
            .number("asked", count_of(asked))
            .number("held", count_of(held))
    }
}
