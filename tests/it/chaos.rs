//! Whole lives of the daemon, each decided by a seed: tasks, faults at both simulators, a directory that others change,
//! deaths and restarts with the same work folder; and after each, what must hold whatever happened.
//!
//! `make chaos SEED=1 RUNS=300` lives them. A life is decided by its seed and number but for the moments at which the
//! system lets things happen; `make chaos SEED=1 RUN=17` lives one again. The report is in `target/chaos`, and so are
//! the plan and the logs of every life in which something did not hold.
//!
//! Two lives of five have no faults: they measure what a sync that died once, at a random request, need not ask again.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::json;
use tokio::time::Instant;

mod history;
mod judge;
mod life;
mod plan;

pub use self::life::{AUDIT_LOG, DOCUMENTED, KEPT_OPEN};
use self::{
    judge::{Asked, Violation},
    life::{Figures, Lived},
    plan::{Plan, Story},
};

/// The seed of the lives that every test run lives.
const SEED: u64 = 1;
/// How many lives go on at once: they wait most of the time.
const AT_ONCE: usize = 5;
/// A life that takes longer is kept like one in which something did not hold.
const LONG: Duration = Duration::from_secs(30);
/// From so many measured lives on the share of saved calls is judged.
const ENOUGH: usize = 20;
/// The least share of calls that a resumption must save in the median.
const LEAST_SAVED: f64 = 0.45;

/// An attempt that saves no more than this share began anew.
const NOTHING: f64 = 0.02;
/// A sync that died after this share of its calls has something to go on with.
const SOMETHING: f64 = 0.1;

/// What one life adds to the report.
struct Outcome {
    plan: Plan,
    violations: Vec<Violation>,
    figures: Figures,
    /// Faults that struck, by kind.
    faults: BTreeMap<String, u64>,
    /// Tasks by kind and end.
    tasks: BTreeMap<String, u64>,
    took: Duration,
}

async fn live(plan: Plan) -> Outcome {
    let begun = Instant::now();
    // A panic was printed when it happened.
    let lived = AssertUnwindSafe(life::live(&plan)).catch_unwind().await;
    let mut outcome = Outcome {
        plan,
        violations: Vec::new(),
        figures: Figures::default(),
        faults: BTreeMap::new(),
        tasks: BTreeMap::new(),
        took: begun.elapsed(),
    };
    if outcome.took > LONG
        && let Ok(lived) = &lived
    {
        keep(&outcome, &lived.logs);
    }
    match lived {
        Ok(Lived {
            observed,
            figures,
            logs,
        }) => {
            outcome.violations = judge::judge(&observed);
            outcome.figures = figures;
            for blow in observed.blows.iter().filter(|blow| blow.fired > 0) {
                *outcome.faults.entry(blow.kind.clone()).or_default() += blow.fired;
            }
            for task in &observed.tasks {
                let name = format!("{} {}", task.wish.name(), ending(task));
                *outcome.tasks.entry(name).or_default() += 1;
            }
            if !outcome.violations.is_empty() {
                keep(&outcome, &logs);
            }
        }
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("panicked");
            outcome.violations.push(Violation {
                rule: "the life can be lived",
                text: text.to_owned(),
            });
            keep(&outcome, &[]);
        }
    }
    outcome
}

fn ending(task: &Asked) -> String {
    match task.answers.last() {
        None => "unanswered".to_owned(),
        Some(answer) if answer.is_success() => "success".to_owned(),
        Some(answer) => format!("error {}", answer.code),
    }
}

fn folder() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("chaos")
}

fn life_folder(plan: &Plan) -> PathBuf {
    folder().join(format!("life-{}-{}", plan.base, plan.number))
}

/// Keeps what a person needs who looks into it.
fn keep(outcome: &Outcome, logs: &[String]) {
    let folder = life_folder(&outcome.plan);
    fs::create_dir_all(&folder).unwrap();
    for (number, log) in logs.iter().enumerate() {
        fs::write(folder.join(format!("daemon-{number}.log")), log).unwrap();
    }
    let mut text = String::new();
    for violation in &outcome.violations {
        writeln!(text, "{violation}").unwrap();
    }
    writeln!(text, "\n{:#?}\n{:#?}", outcome.plan, outcome.figures).unwrap();
    fs::write(folder.join("plan.txt"), text).unwrap();
}

/// Lives these, prints and writes the report, and gives back what did not hold.
#[expect(clippy::print_stdout, reason = "the report is for who runs it")]
async fn all(base: u64, numbers: Vec<u64>, at_once: usize) -> Vec<String> {
    let begun = Instant::now();
    let runs = numbers.len();
    let outcomes: Vec<Outcome> = stream::iter(numbers)
        .map(|number| {
            let plan = Plan::of(base, number);
            async move {
                let outcome = live(plan).await;
                if outcome.took > LONG {
                    println!("life {number} took {:.0} s", outcome.took.as_secs_f64());
                }
                for violation in &outcome.violations {
                    let folder = life_folder(&outcome.plan);
                    println!("life {number}: {violation} (see {})", folder.display());
                }
                outcome
            }
        })
        .buffer_unordered(at_once)
        .collect()
        .await;
    let report = Report::of(base, runs, &outcomes, begun.elapsed());
    fs::create_dir_all(folder()).unwrap();
    let json = serde_json::to_string_pretty(&report.json()).unwrap();
    fs::write(folder().join("report.json"), json + "\n").unwrap();
    let text = report.text();
    fs::write(folder().join("report.txt"), &text).unwrap();
    println!("{text}");
    report.violations
}

struct Report {
    base: u64,
    runs: usize,
    took: Duration,
    violations: Vec<String>,
    faults: BTreeMap<String, u64>,
    tasks: BTreeMap<String, u64>,
    kills: u32,
    terms: u32,
    restarts: u32,
    moves: usize,
    /// Calls of an undisturbed sync, calls before the death, calls after it.
    measured: Vec<(u64, u64, u64)>,
    longest: Duration,
}

impl Report {
    fn of(base: u64, runs: usize, outcomes: &[Outcome], took: Duration) -> Self {
        let mut report = Self {
            base,
            runs,
            took,
            violations: Vec::new(),
            faults: BTreeMap::new(),
            tasks: BTreeMap::new(),
            kills: 0,
            terms: 0,
            restarts: 0,
            moves: 0,
            measured: Vec::new(),
            longest: Duration::ZERO,
        };
        for outcome in outcomes {
            let number = outcome.plan.number;
            for violation in &outcome.violations {
                report
                    .violations
                    .push(format!("life {number}: {violation}"));
            }
            for (kind, count) in &outcome.faults {
                *report.faults.entry(kind.clone()).or_default() += count;
            }
            for (kind, count) in &outcome.tasks {
                *report.tasks.entry(kind.clone()).or_default() += count;
            }
            report.kills += outcome.figures.kills;
            report.terms += outcome.figures.terms;
            report.restarts += outcome.figures.restarts;
            report.moves += outcome.figures.moves;
            report.measured.extend(outcome.figures.resumed);
            if let Some(problem) = outcome.figures.resumed.and_then(began_anew) {
                report.violations.push(format!("life {number}: {problem}"));
            }
            report.longest = report.longest.max(outcome.took);
        }
        report.violations.sort();
        if let Some(problem) = too_little_saved(&report.measured) {
            report.violations.push(problem);
        }
        report
    }

    fn json(&self) -> serde_json::Value {
        let [calls_min, calls_median, calls_max] =
            spread(self.measured.iter().map(|measured| measured.0).collect());
        json!({
            "seed": self.base,
            "runs": self.runs,
            "violations": self.violations,
            "faults": self.faults,
            "faults_total": self.faults.values().sum::<u64>(),
            "kills": self.kills,
            "terms": self.terms,
            "restarts": self.restarts,
            "changes_by_others": self.moves,
            "tasks": self.tasks,
            "tasks_total": self.tasks.values().sum::<u64>(),
            "resumption": {
                "measured": self.measured.len(),
                "resumed": self.resumed(),
                "median_share_saved": median(&saved(&self.measured)),
                "median_share_wasted": median(&wasted(&self.measured)),
                "calls_of_a_sync": {"least": calls_min, "median": calls_median, "most": calls_max},
            },
            "seconds": self.took.as_secs_f64(),
            "longest_life_seconds": self.longest.as_secs_f64(),
        })
    }

    /// Measured lives in which the next attempt asked for less than a whole sync; the others died with their first calls.
    fn resumed(&self) -> usize {
        saved(&self.measured)
            .iter()
            .filter(|share| **share > NOTHING)
            .count()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let percent = |share: f64| share * 100.0;
        writeln!(
            text,
            "{} lives from seed {} in {:.0} s (the longest {:.0} s): {} violations",
            self.runs,
            self.base,
            self.took.as_secs_f64(),
            self.longest.as_secs_f64(),
            self.violations.len()
        )
        .unwrap();
        writeln!(
            text,
            "{} deaths ({} SIGKILL, {} SIGTERM), {} restarts, {} changes of the directory by others",
            self.kills + self.terms,
            self.kills,
            self.terms,
            self.restarts,
            self.moves
        )
        .unwrap();
        let [least, middle, most] =
            spread(self.measured.iter().map(|measured| measured.0).collect());
        writeln!(
            text,
            "{} syncs without faults died once at a random request ({least} to {most} calls, median {middle}): {} went \
             on, {} died with their first calls; {:.1} % of the calls saved in the median, {:.1} % asked twice (at most \
             {:.1} %)",
            self.measured.len(),
            self.resumed(),
            self.measured.len() - self.resumed(),
            percent(median(&saved(&self.measured))),
            percent(median(&wasted(&self.measured))),
            percent(wasted(&self.measured).into_iter().fold(0.0, f64::max))
        )
        .unwrap();
        for (title, counts) in [("tasks", &self.tasks), ("faults that struck", &self.faults)] {
            writeln!(text, "{} {title}:", counts.values().sum::<u64>()).unwrap();
            for (name, count) in counts {
                writeln!(text, "  {count:6} {name}").unwrap();
            }
        }
        for violation in &self.violations {
            writeln!(text, "VIOLATION {violation}").unwrap();
        }
        text
    }
}

/// The share of the calls of a sync that the attempt after the death did not need.
fn saved(measured: &[(u64, u64, u64)]) -> Vec<f64> {
    shares(measured, |(calm, _, after)| calm - after)
}

/// The share of the calls of a sync that were made twice.
fn wasted(measured: &[(u64, u64, u64)]) -> Vec<f64> {
    shares(measured, |(calm, before, after)| before + after - calm)
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn shares(measured: &[(u64, u64, u64)], of: impl Fn((f64, f64, f64)) -> f64) -> Vec<f64> {
    measured
        .iter()
        .map(|&(calm, before, after)| {
            let calm = calm as f64;
            of((calm, before as f64, after as f64)) / calm
        })
        .collect()
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn spread(mut values: Vec<u64>) -> [u64; 3] {
    values.sort_unstable();
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    [
        at(0),
        at(values.len() / 2),
        at(values.len().saturating_sub(1)),
    ]
}

/// What is wrong when a sync that had come some way was begun anew after the death.
fn began_anew(measured: (u64, u64, u64)) -> Option<String> {
    let (calm, before, after) = measured;
    let is_late = shares(&[measured], |(_, before, _)| before)[0] > SOMETHING;
    let is_whole = saved(&[measured])[0] <= NOTHING;
    (is_late && is_whole).then(|| {
        format!(
            "a sync of {calm} calls died after {before} of them and was begun anew with {after}"
        )
    })
}

fn too_little_saved(measured: &[(u64, u64, u64)]) -> Option<String> {
    let share = median(&saved(measured));
    (measured.len() >= ENOUGH && share < LEAST_SAVED).then(|| {
        format!(
            "a resumption saves {:.1} % of the calls in the median, at least {:.0} % are wanted",
            share * 100.0,
            LEAST_SAVED * 100.0
        )
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_lives_of_the_daemon_under_random_faults_and_deaths() {
    let violations = all(SEED, (0..6).collect(), AT_ONCE).await;
    assert!(violations.is_empty(), "{violations:#?}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "which lives are lived comes from the person who runs them"
)]
fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).unwrap_or_default();
    (!text.is_empty()).then(|| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; make chaos runs it"]
async fn many_lives() {
    let base = number_of("BATON_CHAOS_SEED").unwrap_or(SEED);
    let numbers = match number_of("BATON_CHAOS_RUN") {
        Some(number) => vec![number],
        None => (0..number_of("BATON_CHAOS_RUNS").unwrap_or(300)).collect(),
    };
    let at_once = number_of("BATON_CHAOS_AT_ONCE").and_then(|count| usize::try_from(count).ok());
    let violations = all(base, numbers, at_once.unwrap_or(AT_ONCE)).await;
    assert!(
        violations.is_empty(),
        "{} violations; see the top of this file for how to live one of these again",
        violations.len()
    );
}

#[test]
fn what_a_resumption_saves_is_judged_from_twenty_measurements_on() {
    let good = vec![(100, 50, 52); ENOUGH];
    let poor = vec![(100, 50, 60); ENOUGH];
    assert_eq!(too_little_saved(&good), None);
    assert_eq!(too_little_saved(&poor[1..]), None);
    let problem = too_little_saved(&poor).unwrap();
    assert!(problem.contains("saves 40.0 %"), "{problem}");
    assert_eq!(began_anew((100, 50, 52)), None);
    assert_eq!(began_anew((100, 4, 100)), None);
    assert!(began_anew((100, 50, 99)).unwrap().contains("with 99"));
    assert_eq!(saved(&good)[0], 0.48);
    assert_eq!(wasted(&good)[0], 0.02);
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(spread(vec![3, 1, 2]), [1, 2, 3]);
}

#[test]
fn a_report_counts_what_the_lives_did_and_names_what_did_not_hold() {
    let outcome = |number, violations: &[&'static str]| Outcome {
        plan: Plan::of(1, number),
        violations: violations
            .iter()
            .map(|&rule| Violation {
                rule,
                text: "why".to_owned(),
            })
            .collect(),
        figures: Figures {
            kills: 2,
            resumed: Some((100, 50, 55)),
            ..Figures::default()
        },
        faults: BTreeMap::from([("a fault".to_owned(), 3)]),
        tasks: BTreeMap::from([("sync_full success".to_owned(), 1)]),
        took: Duration::from_secs(number),
    };
    assert!(outcome(0, &[]).plan.is_resume());
    assert!(matches!(outcome(4, &[]).plan.story, Story::Storm { .. }));
    let outcomes = [outcome(1, &[]), outcome(2, &["nothing leaks"])];
    let report = Report::of(1, 2, &outcomes, Duration::from_secs(9));
    assert_eq!(report.violations, ["life 2: nothing leaks: why"]);
    let json = report.json();
    assert_eq!(json["kills"], 4);
    assert_eq!(json["faults"]["a fault"], 6);
    assert_eq!(json["resumption"]["median_share_saved"], 0.45);
    assert!(
        report
            .text()
            .contains("VIOLATION life 2: nothing leaks: why")
    );
}
