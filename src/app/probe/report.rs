//! What a probe found: checks, their results, and the exit code that follows.
//!
//! Owns the classes of failure and their order. Holds no secret, no name and no address of a person.

use std::{collections::BTreeMap, time::Duration};

use crate::config::EXIT_BAD_CONFIGURATION;

/// Who has to act on a failed check, from the least to the most urgent: the worst one of a report decides its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// None of the others.
    Other,
    /// A peer cannot be reached, or does not answer usefully.
    Unreachable,
    /// The credentials are accepted and may not do something that a sync needs.
    Permission,
    /// Something is wrong with this machine: its clock, its disk.
    Machine,
    /// Credentials are rejected.
    Credentials,
    /// The configuration cannot work.
    Configuration,
}

impl Class {
    /// Every class, the most urgent first.
    pub const ALL: [Self; 6] = [
        Self::Configuration,
        Self::Credentials,
        Self::Machine,
        Self::Permission,
        Self::Unreachable,
        Self::Other,
    ];

    /// The exit code: the one that a daemon or a one-shot run ends with for the same reason.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Configuration => EXIT_BAD_CONFIGURATION,
            Self::Credentials => 16,
            Self::Machine => 9,
            Self::Permission => 7,
            Self::Unreachable => 14,
            Self::Other => 1,
        }
    }

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::Machine => "machine",
            Self::Permission => "permission",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }

    /// What its exit code means, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Configuration => "bad configuration",
            Self::Credentials => "credentials rejected",
            Self::Machine => "the clock or the disk of this machine",
            Self::Permission => "a permission is missing",
            Self::Unreachable => "not reachable",
            Self::Other => "any other failure, or interrupted",
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work.
    Failed(Class),
    /// It was not checked.
    Skipped,
}

impl Outcome {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed(_) => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen, on one line.
    pub seen: String,
    /// What to do, a line each.
    pub advice: Vec<String>,
    /// The numbers in what was seen.
    pub numbers: BTreeMap<&'static str, u64>,
}

impl Finding {
    fn new(outcome: Outcome, seen: impl Into<String>) -> Self {
        Self {
            outcome,
            seen: seen.into(),
            advice: Vec::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// All is well.
    pub fn ok(seen: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, seen)
    }

    /// Somebody should look at it.
    pub fn warning(seen: impl Into<String>) -> Self {
        Self::new(Outcome::Warning, seen)
    }

    /// It does not work.
    pub fn failed(class: Class, seen: impl Into<String>) -> Self {
        Self::new(Outcome::Failed(class), seen)
    }

    /// It was not checked, for this reason.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, why)
    }

    /// Adds what to do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.numbers.insert(name, value);
        self
    }
}

/// One check of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, which never changes its meaning.
    pub name: &'static str,
    /// What it found.
    pub finding: Finding,
    /// How long it took; absent where nothing was waited for.
    pub took: Option<Duration>,
}

/// All that a probe found, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The network was used.
    pub online: bool,
    /// A signal ended it early.
    pub interrupted: bool,
    /// The checks in the order in which they were made.
    pub checks: Vec<Check>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// The most urgent class of its failures.
    pub fn worst(&self) -> Option<Class> {
        self.checks
            .iter()
            .filter_map(|check| match check.finding.outcome {
                Outcome::Failed(class) => Some(class),
                _ => None,
            })
            .max()
    }

    /// The exit code: 0 without a failure, else that of the most urgent class; 1 when it was interrupted before.
    pub fn exit_code(&self) -> u8 {
        match self.worst() {
            Some(class) => class.exit_code(),
            None if self.interrupted => Class::Other.exit_code(),
            None => 0,
        }
    }

    /// How many checks ended with this word.
    pub fn count(&self, outcome: &str) -> usize {
        self.checks
            .iter()
            .filter(|check| check.finding.outcome.name() == outcome)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome], interrupted: bool) -> Report {
        Report {
            online: true,
            interrupted,
            checks: outcomes
                .iter()
                .map(|outcome| Check {
                    name: "some-check",
                    finding: Finding::new(*outcome, "seen"),
                    took: None,
                })
                .collect(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn only_a_failure_or_an_interruption_is_an_exit_code() {
        let fine = [Outcome::Ok, Outcome::Warning, Outcome::Skipped];
        assert_eq!(report(&fine, false).exit_code(), 0);
        assert_eq!(report(&fine, true).exit_code(), 1);
        assert_eq!(report(&[], false).exit_code(), 0);
    }

    #[test]
    fn the_most_urgent_class_wins_whatever_the_order() {
        for (at, urgent) in Class::ALL.into_iter().enumerate() {
            let mut rest: Vec<_> = Class::ALL[at..]
                .iter()
                .map(|class| Outcome::Failed(*class))
                .collect();
            assert_eq!(report(&rest, true).exit_code(), urgent.exit_code());
            rest.reverse();
            assert_eq!(report(&rest, false).worst(), Some(urgent));
        }
    }

    #[test]
    fn exit_codes_and_names_differ_and_mean_what_they_mean_elsewhere() {
        let codes: Vec<_> = Class::ALL.iter().map(|class| class.exit_code()).collect();
        assert_eq!(codes, [64, 16, 9, 7, 14, 1]);
        let names: std::collections::BTreeSet<_> =
            Class::ALL.iter().map(|class| class.name()).collect();
        assert_eq!(names.len(), Class::ALL.len());
    }
}
