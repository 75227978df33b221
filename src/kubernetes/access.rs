//! Asks the API server what the service account of this pod may do, without doing it.
//!
//! Every service account may ask that about itself.

use std::fmt;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};

/// One verb on one resource in the namespace of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// The verb, such as `get`.
    pub verb: &'static str,
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The resource, in the plural.
    pub resource: &'static str,
    /// The name of the object; absent for all.
    pub name: Option<String>,
    /// The part works without it, in some cases.
    pub optional: bool,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        match &self.name {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

/// What the parts that are asked for need; the table of [`super`].
pub fn needed(secret: Option<&str>, events: bool, lease: Option<&str>) -> Vec<Permission> {
    let of = |group, resource, name: Option<&str>, verbs: &[&'static str]| {
        let permission = |verb: &&'static str| Permission {
            verb,
            group,
            resource,
            name: name.map(str::to_owned),
            optional: false,
        };
        verbs.iter().map(permission).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    if let Some(name) = secret {
        all.extend(of("", "secrets", Some(name), &["get", "list", "watch"]));
    }
    if events {
        all.extend(of("events.k8s.io", "events", None, &["create", "patch"]));
    }
    if let Some(name) = lease {
        const GROUP: &str = "coordination.k8s.io";
        all.extend(of(GROUP, "leases", Some(name), &["get", "update"]));
        all.extend(
            of(GROUP, "leases", None, &["create"])
                .into_iter()
                .map(|permission| Permission {
                    optional: true,
                    ..permission
                }),
        );
    }
    all
}

/// Whether the API server allows this in a namespace. Cancel-safe.
pub async fn is_allowed(
    client: &Client,
    namespace: &str,
    permission: &Permission,
) -> Result<bool, kube::Error> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some(permission.verb.to_owned()),
                group: Some(permission.group.to_owned()),
                resource: Some(permission.resource.to_owned()),
                name: permission.name.clone(),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = Api::<SelfSubjectAccessReview>::all(client.clone())
        .create(&PostParams::default(), &review)
        .await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
