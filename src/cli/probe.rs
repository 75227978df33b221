//! The command `probe`: its flags, and its report as a table for people or as JSON for programs.
//!
//! The JSON document is a contract: fields are added, never renamed. `version` is that of the program and `online` tells
//! whether the network was used; `result` is `ok`, `warning` or `failed` for the whole, `exit_code` that of the process,
//! `interrupted` whether a signal ended it early, `duration_ms` the time of all of it. Each of `checks` has its `name`,
//! its `result` (`ok`, `warning`, `failed` or `skipped`), its `class` (who has to act; null unless it failed), what was
//! `seen`, the `numbers` in that by name, what to do as lines of `advice`, and its `duration_ms` (null where nothing was
//! waited for).

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command as Definition};
use serde_json::{Value, json};

use super::{CliError, flags};
use crate::{
    app::probe::{
        Request,
        report::{Class, Outcome, Report},
    },
    config::{self, Source},
};

/// What the command line says about a probe.
#[derive(Debug)]
pub struct Probe {
    /// What to check.
    pub request: Request,
    /// Print JSON instead of a table.
    pub json: bool,
}

/// The command's definition.
pub(super) fn definition() -> Definition {
    let codes: Vec<_> = Class::ALL
        .iter()
        .map(|class| format!("{} {}", class.exit_code(), class.meaning()))
        .collect();
    Definition::new("probe")
        .about("Check whether this configuration works here: what is in the way, and what to do about it.")
        .long_about(
            "Check whether this configuration works here: what is in the way, and what to do about it.\n\nTakes the \
             settings of the daemon or of a one-shot run. Without --online nothing is sent. With it, ConductorOne gets \
             the Hello of the daemon and hands out no task, and JumpCloud is read and never changed. ConductorOne shows \
             what the last Hello said: run the version, the settings and the BATON_HOST_ID of the daemon.",
        )
        .after_help(format!(
            "Exit codes: 0 all is well, warnings included; else that of the most urgent failure, in this order: {}.",
            codes.join(", ")
        ))
        .arg(
            Arg::new("online")
                .long("online")
                .action(ArgAction::SetTrue)
                .help("Ask ConductorOne and JumpCloud too."),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print one JSON document."),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .default_value("60")
                .allow_hyphen_values(true)
                .help("The longest that all checks take together in seconds, 1 to 3600."),
        )
}

/// Understands the command's flags; a configuration that cannot be used is a finding of the probe, not an error here.
pub(super) fn of(matches: &ArgMatches, source: &dyn Source) -> Result<Probe, CliError> {
    Ok(Probe {
        request: Request {
            config: config::resolve(&flags(matches), source).map(Box::new),
            online: matches.get_flag("online"),
            limit: super::seconds(matches)?,
        },
        json: matches.get_flag("json"),
    })
}

/// The report as an aligned table, with what to do below.
pub fn probe_text(report: &Report) -> String {
    let took = |duration: Option<Duration>| {
        duration.map_or_else(String::new, |took| format!("{} ms", took.as_millis()))
    };
    let mut rows = vec![["CHECK", "RESULT", "TIME", "SEEN"].map(str::to_owned)];
    rows.extend(report.checks.iter().map(|check| {
        [
            check.name.to_owned(),
            check.finding.outcome.name().to_owned(),
            took(check.took),
            check.finding.seen.clone(),
        ]
    }));
    let width = |column: fn(&[String; 4]) -> &String| {
        rows.iter()
            .map(|row| column(row).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (name, result, time) = (
        width(|[name, ..]| name),
        width(|[_, result, ..]| result),
        width(|[_, _, time, _]| time),
    );
    let mut lines: Vec<String> = rows
        .iter()
        .map(|[check, outcome, took, seen]| {
            format!("{check:name$}  {outcome:result$}  {took:>time$}  {seen}")
        })
        .collect();
    let advice: Vec<String> = report
        .checks
        .iter()
        .flat_map(|check| {
            let advice = check.finding.advice.iter();
            advice.map(|advice| format!("  {}: {advice}", check.name))
        })
        .collect();
    if !advice.is_empty() {
        lines.extend([String::new(), "What to do:".to_owned()]);
        lines.extend(advice);
    }
    lines.extend([String::new(), summary(report)]);
    if !report.online {
        lines.push("Nothing was sent; --online asks ConductorOne and JumpCloud too.".to_owned());
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The report as one line of JSON.
pub fn probe_json(report: &Report) -> String {
    let checks: Vec<Value> = report
        .checks
        .iter()
        .map(|check| {
            let finding = &check.finding;
            json!({
                "name": check.name,
                "result": finding.outcome.name(),
                "class": match finding.outcome {
                    Outcome::Failed(class) => Some(class.name()),
                    _ => None,
                },
                "seen": finding.seen,
                "numbers": finding.numbers,
                "advice": finding.advice,
                "duration_ms": check.took.map(milliseconds),
            })
        })
        .collect();
    let result = if report.exit_code() != 0 {
        "failed"
    } else if report.count("warning") > 0 {
        "warning"
    } else {
        "ok"
    };
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "online": report.online,
        "result": result,
        "exit_code": report.exit_code(),
        "interrupted": report.interrupted,
        "duration_ms": milliseconds(report.took),
        "checks": checks,
    });
    format!("{document}\n")
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn summary(report: &Report) -> String {
    let counts: Vec<_> = ["ok", "warning", "failed", "skipped"]
        .iter()
        .map(|word| format!("{} {word}", report.count(word)))
        .collect();
    let early = if report.interrupted {
        ", interrupted"
    } else {
        ""
    };
    format!(
        "{} checks in {} ms: {}{early}",
        report.checks.len(),
        report.took.as_millis(),
        counts.join(", ")
    )
}

/// What to say last when the exit code is not 0: which checks failed.
pub fn probe_verdict(report: &Report) -> Option<String> {
    if report.exit_code() == 0 {
        return None;
    }
    let failed: Vec<_> = report
        .checks
        .iter()
        .filter(|check| matches!(check.finding.outcome, Outcome::Failed(_)))
        .map(|check| check.name)
        .collect();
    Some(match (report.worst(), failed.as_slice()) {
        (Some(class), [_, ..]) => format!(
            "the probe failed ({}): {}",
            class.meaning(),
            failed.join(", ")
        ),
        _ => "the probe was interrupted".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::probe::report::{Check, Finding};

    fn report() -> Report {
        let check = |name, finding, took| Check {
            name,
            finding,
            took,
        };
        Report {
            online: true,
            interrupted: false,
            took: Duration::from_millis(1234),
            checks: vec![
                check("clock", Finding::ok("2026-11-26T12:00:00Z"), None),
                check(
                    "conductorone-token",
                    Finding::failed(Class::Credentials, "rejected").advise("issue a new one"),
                    Some(Duration::from_millis(31)),
                ),
                check("conductorone-hello", Finding::skipped("no token"), None),
                check(
                    "jumpcloud-roles",
                    Finding::warning("answered 403")
                        .number("rows", 7)
                        .advise("first")
                        .advise("second"),
                    Some(Duration::from_millis(4)),
                ),
            ],
        }
    }

    #[test]
    fn a_table_is_aligned_and_ends_with_what_to_do() {
        assert_eq!(
            probe_text(&report()),
            "\
CHECK               RESULT    TIME  SEEN
clock               ok              2026-11-26T12:00:00Z
conductorone-token  failed   31 ms  rejected
conductorone-hello  skipped         no token
jumpcloud-roles     warning   4 ms  answered 403

What to do:
  conductorone-token: issue a new one
  jumpcloud-roles: first
  jumpcloud-roles: second

4 checks in 1234 ms: 1 ok, 1 warning, 1 failed, 1 skipped
"
        );
    }

    #[test]
    fn without_advice_there_is_no_such_part() {
        let mut report = report();
        report.online = false;
        report.checks.truncate(1);
        let text = probe_text(&report);
        assert!(!text.contains("What to do") && text.contains("Nothing was sent"));
        assert_eq!(probe_verdict(&report), None);
    }

    #[test]
    fn json_has_every_field_that_is_promised() {
        let text = probe_json(&report());
        assert_eq!(text.lines().count(), 1);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(json["result"], "failed");
        assert_eq!(json["exit_code"], 16);
        assert_eq!(json["online"], true);
        assert_eq!(json["interrupted"], false);
        assert_eq!(json["duration_ms"], 1234);
        assert_eq!(
            json["checks"][1],
            json!({
                "name": "conductorone-token", "result": "failed", "class": "credentials", "seen": "rejected",
                "numbers": {}, "advice": ["issue a new one"], "duration_ms": 31,
            })
        );
        assert_eq!(json["checks"][0]["class"], Value::Null);
        assert_eq!(json["checks"][0]["duration_ms"], Value::Null);
        assert_eq!(json["checks"][3]["numbers"]["rows"], 7);
    }

    #[test]
    fn the_result_of_the_whole_follows_from_the_checks() {
        let mut report = report();
        report.checks.remove(1);
        let result = |report: &Report| {
            serde_json::from_str::<Value>(&probe_json(report)).unwrap()["result"].clone()
        };
        assert_eq!(result(&report), "warning");
        report.checks.pop();
        assert_eq!(result(&report), "ok");
        report.interrupted = true;
        assert_eq!(result(&report), "failed");
        assert_eq!(
            probe_verdict(&report).as_deref(),
            Some("the probe was interrupted")
        );
    }

    #[test]
    fn the_verdict_names_the_failed_checks() {
        assert_eq!(
            probe_verdict(&report()).as_deref(),
            Some("the probe failed (credentials rejected): conductorone-token")
        );
    }
}
