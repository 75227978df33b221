//! The checks that need no network: credentials' shape, work folder, certificates, clock.

use std::path::Path;

use jiff::{Timestamp, civil::date, tz::TimeZone};
use rustix::fs::statvfs;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;

use super::{Class, Finding, Run, count_of, counted, proxy_rules};
use crate::{
    app::jumpcloud_client,
    clock::{Clock as _, SystemClock},
    config::{Config, Source},
    connector::jumpcloud::client::Client,
    control_plane::{
        channel::Connector,
        credentials::{Credentials, Host},
    },
    error::chain,
};

/// The names of these checks, in order.
pub(super) const NAMES: &[&str] = &[
    "conductorone-credentials",
    "jumpcloud-credentials",
    "work-folder",
    "certificates",
    "clock",
];

/// Less free space is worth a word: a sync of a large organisation needs about this much.
const LITTLE_SPACE: u64 = 512 << 20;
/// With less free space not even a small sync ends.
const NO_SPACE: u64 = 16 << 20;
/// The longest that a request to JumpCloud takes in a probe, in seconds.
const HTTP_SECONDS: u64 = 10;

/// What the checks of the network build on.
pub(super) struct Parts {
    /// Whom to ask at ConductorOne, and as whom; absent in one-shot mode, and where they cannot be read.
    pub(super) credentials: Option<(Credentials, Host)>,
    /// The way to ConductorOne.
    pub(super) connector: Option<Connector>,
    /// The way to JumpCloud.
    pub(super) client: Option<Client>,
}

pub(super) fn check(run: &mut Run, config: &Config, source: &dyn Source) -> Parts {
    let credentials = run.ended("conductorone-credentials", conductorone(config), None);
    let client = run.ended("jumpcloud-credentials", jumpcloud(config), None);
    run.note("work-folder", work_folder(&config.work_dir, source));
    let connector = run.ended("certificates", certificates(config, source), None);
    run.note("clock", clock(SystemClock.now()));
    Parts {
        credentials,
        connector,
        client,
    }
}

fn unusable(error: &(dyn std::error::Error + 'static)) -> Finding {
    Finding::failed(Class::Configuration, "cannot be used").advise(chain(error))
}

fn conductorone(config: &Config) -> Result<(Finding, (Credentials, Host)), Finding> {
    let Some(service) = &config.service else {
        return Err(Finding::skipped(super::conductorone::ONE_SHOT));
    };
    let read = Credentials::parse(
        service.client_id.value().expose_secret(),
        service.client_secret.value(),
    )
    .and_then(|credentials| {
        let host = credentials.api_host(service.api_host.as_deref())?;
        Ok((credentials, host))
    });
    match read {
        Ok((credentials, host)) => {
            let by = match service.api_host {
                Some(_) => " (BATON_C1_API_HOST)",
                None => "",
            };
            let seen = format!("client id and client secret can be read, for {host}{by}");
            Ok((Finding::ok(seen), (credentials, host)))
        }
        Err(error) => Err(unusable(&error)),
    }
}

fn jumpcloud(config: &Config) -> Result<(Finding, Client), Finding> {
    let mut config = config.clone();
    config.jumpcloud.http_timeout = config
        .jumpcloud
        .http_timeout
        .min(std::time::Duration::from_secs(HTTP_SECONDS));
    match jumpcloud_client(&config) {
        Ok(client) => {
            let noun = if client.is_service_account() {
                "a service account"
            } else {
                "an API key"
            };
            let host = config.jumpcloud.console_url.host_str().unwrap_or_default();
            Ok((Finding::ok(format!("{noun}, for {host}")), client))
        }
        Err(error) => Err(unusable(&error)),
    }
}

fn work_folder(folder: &Path, source: &dyn Source) -> Finding {
    let shown = folder.display();
    if let Err(error) = source.check_writable(folder) {
        return Finding::failed(
            Class::Machine,
            format!("files cannot be made in {shown} ({error})"),
        )
        .advise(
            "give an existing folder that this user may write to with --work-dir (BATON_WORK_DIR)",
        );
    }
    match statvfs(folder) {
        Ok(space) => free_space(
            &shown.to_string(),
            space.f_bavail.saturating_mul(space.f_frsize),
        ),
        Err(error) => Finding::warning(format!(
            "{shown} is writable; its free space cannot be told ({error})"
        )),
    }
}

fn free_space(folder: &str, free: u64) -> Finding {
    let seen = format!("{folder} is writable, {} MiB free", free >> 20);
    let finding = if free < NO_SPACE {
        Finding::failed(Class::Machine, seen)
            .advise("make room, or give another folder with --work-dir (BATON_WORK_DIR)")
    } else if free < LITTLE_SPACE {
        Finding::warning(seen).advise(
            "a sync of a large organisation may need more than that; give it 512 MiB or more",
        )
    } else {
        Finding::ok(seen)
    };
    finding.number("free_bytes", free)
}

fn certificates(config: &Config, source: &dyn Source) -> Result<(Finding, Connector), Finding> {
    let connector = Connector::try_new(
        config.extra_ca_pem.as_deref(),
        &proxy_rules(source),
        &super::conductorone::timeouts(),
    )
    .map_err(|error| unusable(&error))?;
    let extra = count_of(config.extra_ca_pem.as_deref().map_or(0, |pem| {
        CertificateDer::pem_slice_iter(pem).flatten().count()
    }));
    let seen = match extra {
        0 => "those of the system".to_owned(),
        _ => format!(
            "those of the system, and {} of the CA file",
            counted(extra, "certificate")
        ),
    };
    Ok((Finding::ok(seen).number("extra", extra), connector))
}

/// A clock that was never set stands at the start of some epoch; one that is merely wrong shows at ConductorOne.
fn clock(now: Timestamp) -> Finding {
    let year = |year| {
        date(year, 1, 1)
            .to_zoned(TimeZone::UTC)
            .map(|day| day.timestamp())
    };
    let plausible =
        year(2026).is_ok_and(|first| now >= first) && year(2100).is_ok_and(|last| now < last);
    let seen = format!("{now:.0}");
    if plausible {
        Finding::ok(seen)
    } else {
        Finding::failed(Class::Machine, seen)
            .advise("set the clock of this machine (NTP); signed requests are rejected and certificates do not hold")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::probe::report::Outcome;

    #[test]
    fn a_clock_outside_this_century_is_wrong() {
        for (text, outcome) in [
            ("1970-01-01T00:00:09Z", Outcome::Failed(Class::Machine)),
            ("2025-12-31T23:59:59Z", Outcome::Failed(Class::Machine)),
            ("2026-01-01T00:00:00Z", Outcome::Ok),
            ("2099-12-31T00:00:00Z", Outcome::Ok),
            ("2100-01-01T00:00:00Z", Outcome::Failed(Class::Machine)),
        ] {
            let finding = clock(text.parse().unwrap());
            assert_eq!(finding.outcome, outcome, "{text}");
            assert_eq!(finding.seen, text);
        }
    }

    #[test]
    fn free_space_is_judged_by_what_a_sync_needs() {
        for (free, outcome) in [
            (0, Outcome::Failed(Class::Machine)),
            (NO_SPACE - 1, Outcome::Failed(Class::Machine)),
            (NO_SPACE, Outcome::Warning),
            (LITTLE_SPACE - 1, Outcome::Warning),
            (LITTLE_SPACE, Outcome::Ok),
        ] {
            let finding = free_space("/work", free);
            assert_eq!(finding.outcome, outcome, "{free}");
            assert_eq!(finding.numbers["free_bytes"], free);
        }
    }
}
