//! The checks of JumpCloud: the key and its organisation, then each list that a sync reads, then what is beside a sync.
//!
//! Reads only. JumpCloud's own words may name a person, so they are not repeated.

use std::time::Duration;

use super::{Class, Finding, Run, count_of, counted};
use crate::{
    clock::{Clock as _, SystemClock},
    config::{Config, ProvisioningMode},
    connector::{
        Error,
        jumpcloud::{
            client::Client,
            survey::{self, Read, Sample},
        },
    },
    error::{Class as ErrorClass, Classify as _},
    http::retry::Policy,
};

/// The names of these checks, in order.
pub(super) const NAMES: &[&str] = &[
    "jumpcloud-key",
    "jumpcloud-users",
    "jumpcloud-administrators",
    "jumpcloud-groups",
    "jumpcloud-members",
    "jumpcloud-applications",
    "jumpcloud-assignees",
    "jumpcloud-roles",
    "jumpcloud-insights",
    "jumpcloud-throttling",
    "jumpcloud-provisioning",
];
/// A failure that passes by itself gets one more chance, if that is soon.
const PATIENCE: Policy = Policy {
    max_attempts: 2,
    min_delay: Duration::from_millis(300),
    max_delay: Duration::from_secs(1),
    budget: Duration::from_secs(3),
};
/// How many organisations are shown by their id.
const SHOWN: usize = 5;
const GIVE_ROLE: &str = "give the administrator or the service account of the key a role that may read this, such as Read Only";

pub(super) async fn check(run: &mut Run, config: &Config, client: Option<&Client>) {
    let [
        key,
        users,
        administrators,
        groups,
        members,
        applications,
        assignees,
        roles,
        insights,
        throttling,
        provisioning,
    ] = NAMES
    else {
        return;
    };
    let Some(client) = client else {
        for name in NAMES {
            run.skip(name, "jumpcloud-credentials failed");
        }
        return;
    };
    // Organisations are listed for the key, not for one of them.
    let whole = client.for_trial(PATIENCE, false);
    let client = client.for_trial(PATIENCE, true);
    let org_id = config.jumpcloud.org_id.as_deref();
    let mut lists = Lists {
        client: &client,
        host: config.jumpcloud.console_url.host_str().unwrap_or_default(),
        stopped: None,
    };
    let listed = async {
        match survey::organizations(&whole).await {
            Ok(found) => organizations(&found, org_id),
            // Where an organisation is named the lists tell themselves whether the key is good.
            Err(error) if allows_more(&error) => Ok((
                Finding::warning(format!(
                    "the key is accepted; its organisations cannot be listed ({})",
                    brief(&error)
                )),
                (),
            )),
            Err(error) => Err(failed(&error, lists.host)),
        }
    };
    if run.step(key, listed).await.is_none() {
        lists.stopped = Some("jumpcloud-key failed");
    }
    lists.read(run, users, Read::Users).await;
    lists.read(run, administrators, Read::Administrators).await;
    let group = lists.read(run, groups, Read::Groups).await;
    lists
        .read_of(run, members, group, "there is no group", Read::Members)
        .await;
    let application = lists.read(run, applications, Read::Applications).await;
    let none = "there is no application";
    lists
        .read_of(run, assignees, application, none, Read::Assignees)
        .await;
    lists.read(run, roles, Read::Roles).await;
    lists.insights(run, insights).await;
    run.note(throttling, throttled(&[&whole, &client]));
    run.note(provisioning, writing(config.provisioning.mode));
}

/// The lists of one organisation.
struct Lists<'a> {
    client: &'a Client,
    host: &'a str,
    /// Why no more of them are read.
    stopped: Option<&'static str>,
}

impl Lists<'_> {
    async fn read(&mut self, run: &mut Run, name: &'static str, read: Read) -> Option<Sample> {
        if let Some(why) = self.stopped {
            run.skip(name, why);
            return None;
        }
        let mut stop = None;
        let work = async {
            match survey::sample(self.client, &read).await {
                Ok(sample) => Ok((rows(&read, &sample), sample)),
                Err(error) if read == Read::Roles && allows_more(&error) => {
                    Err(Finding::warning(brief(&error)).advise(
                        "a sync goes on without this list: roles that nobody has are missing then",
                    ))
                }
                Err(error) => {
                    stop = stops(&error);
                    Err(failed(&error, self.host))
                }
            }
        };
        let sample = run.step(name, work).await;
        self.stopped = stop;
        sample
    }

    /// Reads the list below the first row of another one.
    async fn read_of(
        &mut self,
        run: &mut Run,
        name: &'static str,
        above: Option<Sample>,
        none: &str,
        read: impl FnOnce(String) -> Read,
    ) {
        let first = match above {
            None => None,
            Some(sample) => match sample.ids.into_iter().next() {
                Some(id) => Some(id),
                None => return run.skip(name, none),
            },
        };
        match (first, self.stopped) {
            (Some(id), None) => {
                self.read(run, name, read(id)).await;
            }
            (_, stopped) => {
                run.skip(
                    name,
                    stopped.unwrap_or("the list above it could not be read"),
                );
            }
        }
    }

    /// Nothing of this version needs it, so that it cannot fail.
    async fn insights(&self, run: &mut Run, name: &'static str) {
        if let Some(why) = self.stopped {
            return run.skip(name, why);
        }
        let now = SystemClock.now();
        let since = now.checked_sub(Duration::from_hours(1)).unwrap_or(now);
        let work = async {
            match survey::events_since(self.client, since).await {
                Ok(count) => Ok((
                    Finding::ok(format!("{} in the last hour", counted(count, "event")))
                        .number("events", count),
                    (),
                )),
                Err(error) => Err(Finding::warning(brief(&error)).advise(
                    "Directory Insights is not needed by a sync or a change; it is not part of every plan, and not every \
                     role may read it",
                )),
            }
        };
        run.step(name, work).await;
    }
}

fn organizations(found: &Sample, org_id: Option<&str>) -> Result<(Finding, ()), Finding> {
    let count = found.total.unwrap_or(0).max(count_of(found.ids.len()));
    let mut shown = found
        .ids
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if count > count_of(SHOWN) {
        shown.push_str(", …");
    }
    let seen = format!(
        "the key is accepted and sees {}: {shown}",
        counted(count, "organisation")
    );
    let numbered = |finding: Finding| finding.number("organizations", count);
    match org_id {
        _ if count == 0 => Err(numbered(
            Finding::failed(
                Class::Permission,
                "the key is accepted and sees no organisation",
            )
            .advise(GIVE_ROLE),
        )),
        // The rest of a long list was not read.
        Some(id)
            if count > count_of(found.ids.len())
                || found.ids.iter().any(|one| one.eq_ignore_ascii_case(id)) =>
        {
            Ok((numbered(Finding::ok(format!("{seen}; {id} is used"))), ()))
        }
        Some(id) => Err(numbered(
            Finding::failed(Class::Configuration, format!("{seen}; {id} is not among them"))
                .advise("correct --org-id (BATON_ORG_ID), or take the key of an administrator of that organisation"),
        )),
        None if count > 1 => Err(numbered(
            Finding::failed(Class::Configuration, format!("{seen}; none is chosen"))
                .advise("choose one of them with --org-id (BATON_ORG_ID)"),
        )),
        None => Ok((numbered(Finding::ok(seen)), ())),
    }
}

fn rows(read: &Read, sample: &Sample) -> Finding {
    let what = read.what();
    let rows = count_of(sample.rows);
    match sample.total {
        Some(total) => Finding::ok(format!("{rows} of {total} {what} read"))
            .number("rows", rows)
            .number("total", total),
        None => Finding::ok(format!("{rows} {what} read")).number("rows", rows),
    }
}

/// Whether the credentials are accepted, though not for this.
fn allows_more(error: &Error) -> bool {
    matches!(error.class(), ErrorClass::NotFound)
        || matches!(
            error,
            Error::Http {
                status: 402 | 403,
                ..
            }
        )
}

/// Why nothing else needs to be tried after this failure.
fn stops(error: &Error) -> Option<&'static str> {
    match (error.class(), error) {
        (_, Error::Unauthenticated { .. }) => Some("JumpCloud refuses the credentials"),
        (_, Error::Transport { .. }) => Some("JumpCloud cannot be reached"),
        (ErrorClass::Throttled(_), _) => Some("JumpCloud asks to wait"),
        _ => None,
    }
}

/// What happened, without words of JumpCloud.
fn brief(error: &Error) -> String {
    match error {
        Error::Http {
            method,
            endpoint,
            status,
            ..
        } => format!("{method} {endpoint} answered {status}"),
        Error::Unauthenticated { .. } => "JumpCloud refused the credentials (401)".to_owned(),
        Error::Transport { kind, source, .. } => {
            let mut cause: &(dyn std::error::Error + 'static) = source.as_ref();
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            format!("no answer ({kind}: {cause})")
        }
        other => other.to_string(),
    }
}

fn failed(error: &Error, host: &str) -> Finding {
    let (class, advice) = match error {
        Error::Unauthenticated { .. } => (
            Class::Credentials,
            "check that the key or the client secret is the current one, that API access is enabled for its \
             administrator, and that the organisation lives in this region (--region us, eu or in)"
                .to_owned(),
        ),
        Error::Http { status: 402, .. } => (
            Class::Permission,
            "the JumpCloud plan of the organisation does not include this; leave its type out with \
             --sync-resource-types (BATON_SYNC_RESOURCE_TYPES)"
                .to_owned(),
        ),
        Error::Http { status: 403, .. } => (Class::Permission, GIVE_ROLE.to_owned()),
        Error::Http {
            status: 300..=399 | 404,
            ..
        } => (
            Class::Configuration,
            format!("{host} does not serve this: check --region, --base-url and --org-id"),
        ),
        Error::Http { .. } if matches!(error.class(), ErrorClass::Throttled(_)) => (
            Class::Unreachable,
            "JumpCloud asks to slow down: try again in some minutes, and see what else uses the API".to_owned(),
        ),
        Error::Http { .. } if error.class() == ErrorClass::Retryable => (
            Class::Unreachable,
            "JumpCloud is in trouble: try again in a while, and see status.jumpcloud.com".to_owned(),
        ),
        Error::Transport { kind: "tls", .. } => (
            Class::Unreachable,
            "if a proxy inspects TLS here, give the certificate of its authority with --ca-file (BATON_CA_FILE); check \
             the clock of this machine"
                .to_owned(),
        ),
        Error::Transport { .. } => (
            Class::Unreachable,
            format!(
                "allow outgoing HTTPS to {host} (firewall, network policy, DNS), or set HTTPS_PROXY where a proxy is the \
                 only way out"
            ),
        ),
        Error::Invalid { .. } => (
            Class::Configuration,
            "correct the setting that is named".to_owned(),
        ),
        _ => (
            Class::Other,
            format!("see whether {host} is JumpCloud (--base-url); if it is, report this with the version of the program"),
        ),
    };
    Finding::failed(class, brief(error)).advise(advice)
}

/// JumpCloud announces no quota: that it was exceeded is all there is to see.
fn throttled(clients: &[&Client]) -> Finding {
    let stats = clients
        .iter()
        .flat_map(|client| client.stats().into_values());
    let (calls, throttled) = stats.fold((0, 0), |(calls, throttled), stats| {
        (calls + stats.calls, throttled + stats.throttled)
    });
    if calls == 0 {
        return Finding::skipped("nothing was asked of JumpCloud");
    }
    let seen = format!(
        "{throttled} of {} asked to slow down",
        counted(calls, "answer")
    );
    let finding = if throttled == 0 {
        Finding::ok(seen)
    } else {
        Finding::warning(seen).advise(
            "something else uses much of what JumpCloud allows the organisation: a sync will be slow; --max-concurrency \
             lowers the share of this connector",
        )
    };
    finding
        .number("calls", calls)
        .number("throttled", throttled)
}

fn writing(mode: ProvisioningMode) -> Finding {
    match mode {
        ProvisioningMode::Off => Finding::skipped("provisioning is off: nothing is ever changed"),
        ProvisioningMode::On | ProvisioningMode::DryRun => Finding::skipped(
            "whether the key may change users, groups and roles shows in a change only, and none was made",
        )
        .advise("to be sure, grant and revoke a group for a test user"),
    }
}
