//! The probe: would this configuration work here, and if not, what is in the way?
//!
//! Builds the same parts as the daemon and tries them one after the other. Never takes a task and never changes anything
//! in JumpCloud; the Hello is the one that the daemon sends. Invariants: a check that fails stops only those that build
//! on it; every check has a time limit, and all together have one; no finding holds a secret, or a name or an address of
//! a person.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::report::{Check, Class, Finding, Report};
use super::{Failure, proxy_rules, supervised};
use crate::{
    config::{self, Config, Source},
    telemetry::redact::Redactor,
};

mod conductorone;
mod jumpcloud;
mod kubernetes;
mod machine;
pub mod report;

/// The longest that one check takes.
const CHECK_LIMIT: Duration = Duration::from_secs(12);
/// Why a check that builds on the configuration is not made.
const NO_CONFIGURATION: &str = "the configuration is not complete";

/// What to probe.
#[derive(Debug)]
pub struct Request {
    /// The configuration, or why there is none.
    pub config: Result<Box<Config>, config::Error>,
    /// Use the network too.
    pub online: bool,
    /// The longest that all checks take together.
    pub limit: Duration,
}

/// Makes all checks. A signal ends it early, with the rest skipped; a second one ends the process at once.
pub async fn probe(request: &Request, source: &dyn Source) -> Result<Report, Failure> {
    let supervisor = supervised()?;
    let started = Instant::now();
    let mut run = Run {
        checks: Vec::new(),
        deadline: started + request.limit,
        stop: supervisor.shutdown_token(),
        redactor: Redactor::new(&match &request.config {
            Ok(config) => config.secrets(),
            Err(_) => Vec::new(),
        }),
    };
    run.note("configuration", configuration(&request.config));
    if let Ok(config) = &request.config {
        let parts = machine::check(&mut run, config, source);
        if request.online {
            conductorone::check(&mut run, config, source, &parts).await;
            jumpcloud::check(&mut run, config, parts.client.as_ref()).await;
            kubernetes::check(&mut run, config).await;
        }
    } else {
        let online = [conductorone::NAMES, jumpcloud::NAMES, kubernetes::NAMES].concat();
        let names = machine::NAMES.iter().chain(&online);
        let made = if request.online {
            machine::NAMES.len() + online.len()
        } else {
            machine::NAMES.len()
        };
        for name in names.take(made) {
            run.skip(name, NO_CONFIGURATION);
        }
    }
    Ok(Report {
        online: request.online,
        interrupted: run.stop.is_cancelled(),
        checks: run.checks,
        took: started.elapsed(),
    })
}

fn configuration(config: &Result<Box<Config>, config::Error>) -> Finding {
    match config {
        Ok(config) => {
            let mode = match config.service {
                Some(_) => "service mode",
                None => "one-shot mode",
            };
            if config.notices.is_empty() {
                return Finding::ok(mode);
            }
            config.notices.iter().fold(
                Finding::warning(format!(
                    "{mode}, with {}",
                    counted(count_of(config.notices.len()), "remark")
                )),
                Finding::advise,
            )
        }
        Err(error) if error.problems().is_empty() => Finding::failed(
            Class::Configuration,
            "asks for something that this version does not have",
        )
        .advise(error.to_string()),
        Err(error) => error.problems().iter().fold(
            Finding::failed(
                Class::Configuration,
                counted(count_of(error.problems().len()), "problem"),
            ),
            |finding, problem| finding.advise(problem.to_string()),
        ),
    }
}

/// A length as a number of a finding.
fn count_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A number with its noun.
fn counted(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// A probe under way.
struct Run {
    checks: Vec<Check>,
    deadline: Instant,
    stop: CancellationToken,
    redactor: Redactor,
}

impl Run {
    /// Adds a check that was made without waiting, or not made.
    fn note(&mut self, name: &'static str, finding: Finding) {
        self.add(name, finding, None);
    }

    /// Adds a check that is not made, for this reason unless there is a more general one.
    fn skip(&mut self, name: &'static str, why: &str) {
        self.note(name, Finding::skipped(self.over().unwrap_or(why)));
    }

    /// Why no check is made any more.
    fn over(&self) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            Some("interrupted")
        } else if Instant::now() >= self.deadline {
            Some("the time for all checks together is used up (--timeout)")
        } else {
            None
        }
    }

    fn add(&mut self, name: &'static str, mut finding: Finding, took: Option<Duration>) {
        // Nothing secret comes this far; if it did, it would stop here.
        finding.seen = self.line(&finding.seen);
        finding.advice = finding.advice.iter().map(|text| self.line(text)).collect();
        self.checks.push(Check {
            name,
            finding,
            took,
        });
    }

    fn line(&self, text: &str) -> String {
        self.redactor
            .text(&text.replace(|c: char| c.is_control(), " "))
    }

    /// Makes a check within its limit; what it brought, if it went well enough to go on.
    async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(Finding, T), Finding>>,
    ) -> Option<T> {
        if let Some(why) = self.over() {
            self.note(name, Finding::skipped(why));
            return None;
        }
        let begun = Instant::now();
        let limit = CHECK_LIMIT.min(self.deadline.saturating_duration_since(begun));
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Finding::skipped("interrupted")),
            ended = timeout(limit, work) => ended.unwrap_or_else(|_elapsed| {
                Err(Finding::failed(
                    Class::Unreachable,
                    format!("no end within {:.1} s", limit.as_secs_f64()),
                )
                .advise("see whether the peer is slow, or a firewall drops packets without a word"))
            }),
        };
        self.ended(name, ended, Some(begun.elapsed()))
    }

    /// Adds a check that was made; what it brought, if it went well enough to go on.
    fn ended<T>(
        &mut self,
        name: &'static str,
        ended: Result<(Finding, T), Finding>,
        took: Option<Duration>,
    ) -> Option<T> {
        let (finding, value) = match ended {
            Ok((finding, value)) => (finding, Some(value)),
            Err(finding) => (finding, None),
        };
        self.add(name, finding, took);
        value
    }
}
