//! What must hold after every life, whatever happened in it.

use std::{fmt, time::Duration};

use super::{
    history::{History, Said},
    plan::{Excuse, Wish},
};
use crate::daemon::Held;

/// How many sockets more than at rest may be open at the end: the connections to JumpCloud that are kept for the next
/// request, and one to ConductorOne that is being replaced.
const SPARE_SOCKETS: usize = 12;
/// The most memory that a daemon (a debug build) may have at the end of a life.
const MOST_RSS_KIB: u64 = 160 * 1024;
/// Cancelled.
const CANCELLED: i32 = 1;
/// Unavailable.
const UNAVAILABLE: i32 = 14;

/// What must hold was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

/// One answer to a task.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: i32,
    pub message: String,
    pub is_final: bool,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        self.code == 0
    }
}

/// One task, as ConductorOne and the directory see it at the end.
#[derive(Debug, Clone)]
pub struct Asked {
    pub id: String,
    pub wish: Wish,
    /// Without the repeats of a report whose answer was lost.
    pub answers: Vec<Answer>,
    pub deliveries: u32,
    pub cancelled: bool,
    /// ConductorOne gave it up.
    pub abandoned: bool,
    /// Nothing disturbs it.
    pub is_calm: bool,
    /// How often the directory was changed for it.
    pub writes: usize,
    /// Whether what it asks for is so.
    pub is_so: bool,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// We killed it.
    pub killed: bool,
    /// We asked it to end.
    pub asked: bool,
    /// ConductorOne refused it at start, which ends a process.
    pub refused: bool,
    pub code: Option<i32>,
    pub took: Duration,
    pub limit: Duration,
}

/// A fault of the plan.
#[derive(Debug, Clone)]
pub struct Blow {
    pub kind: String,
    pub excuse: Excuse,
    /// How often it struck, at least.
    pub fired: u64,
}

/// Everything that is known of a life at its end.
#[derive(Debug)]
pub struct Observed {
    pub tasks: Vec<Asked>,
    pub files: Vec<Said>,
    /// Files that cannot be read.
    pub unreadable: Vec<String>,
    pub history: History,
    /// Rules of the protocol.
    pub breaches: Vec<String>,
    pub blows: Vec<Blow>,
    pub ends: Vec<Ended>,
    /// Accounts that were made over HTTP.
    pub accounts_made: u64,
    pub at_rest: Held,
    pub at_last: Held,
    /// Entries of the work folder that no documentation names, while the daemon was idle and after its end; and those
    /// of the folder of the system.
    pub left: Vec<String>,
    /// Lines of the logs.
    pub panics: Vec<String>,
    /// Where a secret was seen.
    pub shown: Vec<String>,
    /// What went wrong before there was anything to judge.
    pub broken: Vec<String>,
}

/// Everything that does not hold.
pub fn judge(observed: &Observed) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut add = |rule, text: String| found.push(Violation { rule, text });
    for text in &observed.broken {
        add("the life can be lived", text.clone());
    }
    for task in &observed.tasks {
        answered(task, &mut add);
        explained(task, observed, &mut add);
        effective(task, &mut add);
    }
    let accounts = observed
        .tasks
        .iter()
        .filter(|task| task.wish == Wish::Account)
        .count();
    if observed.accounts_made > accounts as u64 {
        add(
            "one effect",
            format!(
                "{} accounts were made for {accounts} tasks",
                observed.accounts_made
            ),
        );
    }
    for file in &observed.files {
        for problem in file.problems(&observed.history) {
            add("files are true", format!("task {}: {problem}", file.task));
        }
    }
    for text in &observed.unreadable {
        add("files are true", text.clone());
    }
    for text in &observed.breaches {
        add("the protocol is kept", text.clone());
    }
    for end in &observed.ends {
        if !end.killed && !end.asked && !end.refused {
            add(
                "it ends when told to",
                format!("ended by itself with {:?}", end.code),
            );
        } else if end.asked && end.code != Some(0) {
            add(
                "it ends when told to",
                format!("SIGTERM ended it with {:?}", end.code),
            );
        } else if end.asked && end.took > end.limit {
            add(
                "it ends when told to",
                format!("SIGTERM took {:?}", end.took),
            );
        }
    }
    for (kind, count) in &observed.at_last.files {
        let before = observed
            .at_rest
            .files
            .get(kind)
            .copied()
            .unwrap_or_default();
        let spare = if kind == "socket" { SPARE_SOCKETS } else { 0 };
        if *count > before + spare {
            add(
                "nothing leaks",
                format!("open: {count} {kind}, {before} at rest"),
            );
        }
    }
    if observed.at_last.rss_kib > MOST_RSS_KIB {
        add(
            "nothing leaks",
            format!("{} KiB of memory", observed.at_last.rss_kib),
        );
    }
    for path in &observed.left {
        add("nothing leaks", format!("left: {path}"));
    }
    for line in &observed.panics {
        add("nothing panics", line.clone());
    }
    for place in &observed.shown {
        add("no secret is shown", place.clone());
    }
    found
}

fn answered(task: &Asked, add: &mut impl FnMut(&'static str, String)) {
    let Asked { id, answers, .. } = task;
    let name = task.wish.name();
    if answers.is_empty() && !task.abandoned {
        add("every task is answered", format!("{name} {id} is not"));
    }
    // Each delivery may have an answer of its own: ConductorOne asked again.
    if answers.len() > 1 && answers.len() > task.deliveries as usize {
        let (answers, deliveries) = (answers.len(), task.deliveries);
        add(
            "every task is answered once",
            format!("{name} {id}: {answers} answers to {deliveries} deliveries"),
        );
    }
}

fn explained(task: &Asked, observed: &Observed, add: &mut impl FnMut(&'static str, String)) {
    let (name, id) = (task.wish.name(), &task.id);
    for answer in task.answers.iter().filter(|answer| !answer.is_success()) {
        let (code, message) = (answer.code, &answer.message);
        let stopped = code == UNAVAILABLE
            && message.contains("shutting down")
            && observed.ends.iter().any(|end| end.asked);
        let struck = |blow: &&Blow| blow.fired > 0;
        let by_blow = if task.wish == Wish::Sync {
            observed
                .blows
                .iter()
                .filter(struck)
                .any(|blow| blow.excuse.excuses(code))
        } else {
            observed.blows.iter().any(|blow| struck(&blow))
        };
        let cancelled = code == CANCELLED && task.cancelled;
        if task.is_calm || !(stopped || cancelled || by_blow) {
            add(
                "failures have a reason",
                format!("{name} {id} failed with {code}: {message}"),
            );
        }
        if task.wish == Wish::Sync && answer.is_final {
            add(
                "passing faults are not final",
                format!("{name} {id} must not be tried again: {code}: {message}"),
            );
        }
    }
}

fn effective(task: &Asked, add: &mut impl FnMut(&'static str, String)) {
    let (name, id) = (task.wish.name(), &task.id);
    if task.wish == Wish::Sync {
        return;
    }
    if task.writes > 1 {
        add(
            "one effect",
            format!("{name} {id} changed the directory {} times", task.writes),
        );
    }
    if task.answers.iter().any(Answer::is_success) && !task.is_so {
        add(
            "one effect",
            format!("{name} {id} is said to be done and is not"),
        );
    }
    if task.answers.is_empty() && task.writes > 0 && !task.abandoned {
        add(
            "one effect",
            format!("{name} {id} was done and nobody was told"),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use jiff::Timestamp;

    use super::{super::history::Fact, *};
    use crate::chaos::history::Thing;

    fn task(wish: Wish) -> Asked {
        Asked {
            id: wish.name().to_owned(),
            wish,
            answers: vec![Answer {
                code: 0,
                message: String::new(),
                is_final: false,
            }],
            deliveries: 1,
            cancelled: false,
            abandoned: false,
            is_calm: false,
            writes: usize::from(wish != Wish::Sync),
            is_so: wish != Wish::Sync,
        }
    }

    fn good() -> Observed {
        let at = |second| Timestamp::from_second(second).unwrap();
        let facts = BTreeSet::from([
            Fact::Is(Thing::new("user", "u")),
            Fact::Is(Thing::new("group", "g")),
            Fact::Has {
                on: Thing::new("group", "g"),
                whom: Thing::new("user", "u"),
            },
        ]);
        let held = Held {
            files: BTreeMap::from([("socket".to_owned(), 3), ("file".to_owned(), 5)]),
            rss_kib: 50_000,
            ..Held::default()
        };
        Observed {
            tasks: [Wish::Sync, Wish::Grant, Wish::Revoke, Wish::Account]
                .map(task)
                .to_vec(),
            files: vec![Said {
                task: "t".to_owned(),
                started: at(5),
                ended: at(6),
                facts: facts.iter().cloned().collect(),
            }],
            unreadable: Vec::new(),
            history: History::new(at(1), facts),
            breaches: Vec::new(),
            blows: Vec::new(),
            ends: vec![Ended {
                killed: false,
                asked: true,
                refused: false,
                code: Some(0),
                took: Duration::from_secs(1),
                limit: Duration::from_secs(5),
            }],
            accounts_made: 1,
            at_rest: held.clone(),
            at_last: held,
            left: Vec::new(),
            panics: Vec::new(),
            shown: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// One life that is good but for one thing.
    fn found(spoil: impl FnOnce(&mut Observed)) -> Vec<&'static str> {
        let mut observed = good();
        spoil(&mut observed);
        judge(&observed)
            .iter()
            .map(|violation| violation.rule)
            .collect()
    }

    fn fails(task: &mut Asked, code: i32, message: &str) {
        task.answers = vec![Answer {
            code,
            message: message.to_owned(),
            is_final: task.wish != Wish::Sync,
        }];
    }

    fn blow(codes: &'static [i32], fired: u64) -> Blow {
        Blow {
            kind: "a fault".to_owned(),
            excuse: Excuse::Codes(codes),
            fired,
        }
    }

    #[test]
    fn a_good_life_breaks_no_rule() {
        assert_eq!(judge(&good()), []);
    }

    #[test]
    fn each_rule_is_broken_by_a_life_that_is_bad_in_one_thing() {
        type Spoil = fn(&mut Observed);
        let cases: [(&str, Spoil); 22] = [
            ("every task is answered", |o| o.tasks[0].answers.clear()),
            ("every task is answered once", |o| {
                let again = o.tasks[0].answers[0].clone();
                o.tasks[0].answers.push(again);
            }),
            ("failures have a reason", |o| {
                fails(&mut o.tasks[0], 13, "broken")
            }),
            ("failures have a reason", |o| {
                fails(&mut o.tasks[0], 14, "connector is shutting down");
                o.ends[0].asked = false;
                o.ends[0].killed = true;
            }),
            ("failures have a reason", |o| {
                fails(&mut o.tasks[1], 14, "unavailable")
            }),
            ("passing faults are not final", |o| {
                o.blows.push(blow(&[13], 1));
                fails(&mut o.tasks[0], 13, "broken");
                o.tasks[0].answers[0].is_final = true;
            }),
            ("one effect", |o| o.tasks[1].writes = 2),
            ("one effect", |o| o.tasks[2].is_so = false),
            ("one effect", |o| o.accounts_made = 2),
            ("files are true", |o| {
                o.files[0].facts.pop();
            }),
            ("files are true", |o| {
                let again = o.files[0].facts[0].clone();
                o.files[0].facts.push(again);
            }),
            ("files are true", |o| {
                o.files[0]
                    .facts
                    .push(Fact::Is(Thing::new("user", "nobody")));
            }),
            ("files are true", |o| {
                o.unreadable.push("not zstd".to_owned())
            }),
            ("the protocol is kept", |o| {
                o.breaches.push("GetTask".to_owned())
            }),
            ("it ends when told to", |o| o.ends[0].code = Some(1)),
            ("it ends when told to", |o| {
                o.ends[0].took = Duration::from_secs(9)
            }),
            ("it ends when told to", |o| o.ends[0].asked = false),
            ("nothing leaks", |o| {
                o.at_last.files.insert("file".to_owned(), 6);
            }),
            ("nothing leaks", |o| {
                o.at_last.files.insert("socket".to_owned(), 30);
            }),
            ("nothing leaks", |o| o.at_last.rss_kib = 900_000),
            ("nothing leaks", |o| o.left.push("a folder".to_owned())),
            ("the life can be lived", |o| {
                o.broken.push("panicked".to_owned())
            }),
        ];
        for (number, (rule, spoil)) in cases.into_iter().enumerate() {
            assert_eq!(found(spoil), [rule], "case {number}");
        }
        assert_eq!(
            found(|o| o.panics.push("panicked at".to_owned())),
            ["nothing panics"]
        );
        assert_eq!(
            found(|o| o.shown.push("the log".to_owned())),
            ["no secret is shown"]
        );
    }

    #[test]
    fn what_was_done_for_a_task_without_an_answer_is_found_twice() {
        assert_eq!(
            found(|o| o.tasks[1].answers.clear()),
            ["every task is answered", "one effect"]
        );
    }

    #[test]
    fn a_failure_is_excused_by_what_explains_it_and_by_nothing_else() {
        let fail = |o: &mut Observed, blows: Vec<Blow>| {
            fails(&mut o.tasks[0], 16, "refused");
            o.blows = blows;
        };
        assert!(found(|o| fail(o, vec![blow(&[16], 1)])).is_empty());
        // It never struck; it explains something else; nothing was to disturb this task.
        assert_eq!(found(|o| fail(o, vec![blow(&[16], 0)])).len(), 1);
        assert_eq!(found(|o| fail(o, vec![blow(&[13], 1)])).len(), 1);
        let calm = found(|o| {
            fail(o, vec![blow(&[16], 1)]);
            o.tasks[0].is_calm = true;
        });
        assert_eq!(calm, ["failures have a reason"]);
        let cancelled = |is_cancelled| {
            found(|o| {
                fails(&mut o.tasks[0], 1, "task was cancelled");
                o.tasks[0].cancelled = is_cancelled;
            })
        };
        assert!(cancelled(true).is_empty());
        assert_eq!(cancelled(false).len(), 1);
    }

    #[test]
    fn a_process_that_was_refused_at_start_may_end() {
        let refused = |is_refused| {
            found(|o| {
                o.ends[0].asked = false;
                o.ends[0].refused = is_refused;
                o.ends[0].code = Some(1);
            })
        };
        assert!(refused(true).is_empty());
        assert_eq!(refused(false), ["it ends when told to"]);
    }

    #[test]
    fn a_task_that_was_handed_out_twice_may_be_answered_twice() {
        let twice = found(|o| {
            let again = o.tasks[0].answers[0].clone();
            o.tasks[0].answers.push(again);
            o.tasks[0].deliveries = 2;
        });
        assert!(twice.is_empty());
    }
}
