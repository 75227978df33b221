//! What existed in a directory, and when; what a file says; and whether the one can have been read out of the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use baton_jumpcloud::{
    c1z::{GrantFilter, Reader, ResourceFilter},
    proto::connector as v2,
    sim::jumpcloud::Truth,
};
use jiff::Timestamp;

use crate::jumpcloud_sync::{ADMINISTRATION, role_id};

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thing {
    pub kind: String,
    pub id: String,
}

impl Thing {
    pub fn new(kind: &str, id: impl ToString) -> Self {
        Self {
            kind: kind.to_owned(),
            id: id.to_string(),
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

/// What a file can say: a resource, or a grant of the one entitlement that a resource has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    Is(Thing),
    /// The account of a directory user is enabled.
    Works(Thing),
    Has {
        on: Thing,
        whom: Thing,
    },
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(thing) => write!(f, "{thing}"),
            Self::Works(thing) => write!(f, "{thing} enabled"),
            Self::Has { on, whom } => write!(f, "{on} for {whom}"),
        }
    }
}

/// Everything that a directory holds now, but for access that is inherited: that follows from the rest.
pub fn facts(truth: &Truth) -> BTreeSet<Fact> {
    let mut facts = BTreeSet::new();
    let user = |id| Thing::new("user", id);
    let mut is = |thing: Thing| facts.insert(Fact::Is(thing));
    for id in truth.users.keys().chain(truth.admins.keys()) {
        is(user(id));
    }
    for id in truth.groups.keys() {
        is(Thing::new("group", id));
    }
    for id in truth.apps.keys() {
        is(Thing::new("app", id));
    }
    for name in truth.role_names() {
        is(Thing::new("role", role_id(name)));
    }
    is(Thing::new("app", ADMINISTRATION));
    for (id, is) in &truth.users {
        if !matches!(
            is.status.as_str(),
            "staged" | "suspended" | "legacy_suspended"
        ) {
            facts.insert(Fact::Works(user(id)));
        }
    }
    let mut has = |on: Thing, whom: Thing| facts.insert(Fact::Has { on, whom });
    for (id, group) in &truth.groups {
        for member in &group.members {
            has(Thing::new("group", id), user(member));
        }
    }
    for (id, app) in &truth.apps {
        for group in &app.groups {
            has(Thing::new("app", id), Thing::new("group", group));
        }
        for member in &app.users {
            has(Thing::new("app", id), user(member));
        }
    }
    for (id, admin) in &truth.admins {
        has(Thing::new("app", ADMINISTRATION), user(id));
        for role in &admin.roles {
            has(Thing::new("role", role_id(role)), user(id));
        }
    }
    facts
}

/// From when to when a fact was true; each end lies somewhere between two looks.
#[derive(Debug, Clone, Copy)]
struct Span {
    born: (Timestamp, Timestamp),
    gone: (Timestamp, Timestamp),
}

/// What was true when, as far as somebody looked.
#[derive(Debug, Clone)]
pub struct History {
    looked: Timestamp,
    now: BTreeSet<Fact>,
    spans: BTreeMap<Fact, Vec<Span>>,
    changes: usize,
}

impl History {
    pub fn new(at: Timestamp, facts: BTreeSet<Fact>) -> Self {
        let mut history = Self {
            looked: Timestamp::MIN,
            now: BTreeSet::new(),
            spans: BTreeMap::new(),
            changes: 0,
        };
        history.look(at, facts);
        history.changes = 0;
        history
    }

    /// Notes what is true now; what differs from the last look became so in between.
    pub fn look(&mut self, at: Timestamp, facts: BTreeSet<Fact>) {
        let between = (self.looked, at);
        for gone in self.now.difference(&facts) {
            self.changes += 1;
            if let Some(span) = self.spans.get_mut(gone).and_then(|spans| spans.last_mut()) {
                span.gone = between;
            }
        }
        for new in facts.difference(&self.now) {
            self.changes += 1;
            self.spans.entry(new.clone()).or_default().push(Span {
                born: between,
                gone: (Timestamp::MAX, Timestamp::MAX),
            });
        }
        self.now = facts;
        self.looked = at;
    }

    /// How many facts began or ended after the first look.
    pub fn changes(&self) -> usize {
        self.changes
    }

    /// Whether it can have been true at some moment.
    pub fn may(&self, fact: &Fact, from: Timestamp, until: Timestamp) -> bool {
        self.spans.get(fact).is_some_and(|spans| {
            spans
                .iter()
                .any(|span| span.born.0 <= until && span.gone.1 >= from)
        })
    }

    /// What was true all the time.
    pub fn must(&self, from: Timestamp, until: Timestamp) -> impl Iterator<Item = &Fact> {
        self.spans.iter().filter_map(move |(fact, spans)| {
            spans
                .iter()
                .any(|span| span.born.1 <= from && span.gone.0 >= until)
                .then_some(fact)
        })
    }
}

/// What one uploaded file says.
#[derive(Debug, Clone)]
pub struct Said {
    pub task: String,
    pub started: Timestamp,
    pub ended: Timestamp,
    /// In the order of the file, repeats included.
    pub facts: Vec<Fact>,
}

impl Said {
    /// Reads it with the library's own reader. Blocks for a moment.
    pub fn read(task: &str, file: &Path, work_dir: &Path) -> Result<Self, String> {
        let reader = Reader::open(file, work_dir).map_err(|error| error.to_string())?;
        let sync = reader.latest_sync().map_err(|error| error.to_string())?;
        let thing = |id: Option<&v2::ResourceId>| {
            let id = id.ok_or("a row has no id")?;
            Ok::<_, String>(Thing::new(&id.resource_type, &id.resource))
        };
        let mut facts = Vec::new();
        let mut enabled = BTreeSet::new();
        for resource in reader.resources(&sync.sync_id, ResourceFilter::All) {
            let resource = resource.map_err(|error| error.to_string())?;
            let it = thing(resource.id.as_ref())?;
            let status = resource.status.unwrap_or_default().status();
            if it.kind == "user" && status == v2::status::ResourceStatus::Enabled {
                enabled.insert(it.clone());
            }
            facts.push(Fact::Is(it));
        }
        for grant in reader.grants(&sync.sync_id, GrantFilter::All) {
            let grant = grant.map_err(|error| error.to_string())?.grant;
            let on = grant.entitlement.as_ref();
            let on = on.and_then(|entitlement| entitlement.resource.as_ref());
            let whom = grant.principal.as_ref();
            let on = thing(on.and_then(|resource| resource.id.as_ref()))?;
            let whom = thing(whom.and_then(|resource| resource.id.as_ref()))?;
            if on.id == ADMINISTRATION {
                // Nobody is told which administrators are suspended.
                enabled.remove(&whom);
            }
            facts.push(Fact::Has { on, whom });
        }
        facts.extend(enabled.into_iter().map(Fact::Works));
        Ok(Self {
            task: task.to_owned(),
            started: sync.started_at,
            ended: sync.ended_at.unwrap_or(sync.started_at),
            facts,
        })
    }

    /// What is wrong with it, given what was true between its start and its end.
    pub fn problems(&self, history: &History) -> Vec<String> {
        let (from, until) = (self.started, self.ended);
        let said: BTreeSet<&Fact> = self.facts.iter().collect();
        let mut problems = Vec::new();
        if said.len() < self.facts.len() {
            let mut seen = BTreeSet::new();
            let doubled: Vec<&Fact> = self
                .facts
                .iter()
                .filter(|fact| !seen.insert(*fact))
                .collect();
            problems.push(named("doubled", &doubled));
        }
        let inherited = self.inherited();
        let strange: Vec<&Fact> = said
            .iter()
            .copied()
            .filter(|fact| !inherited.contains(fact) && !history.may(fact, from, until))
            .collect();
        problems.push(named("was never there while the sync ran", &strange));
        let missing: Vec<&Fact> = history
            .must(from, until)
            .chain(&inherited)
            .filter(|fact| !said.contains(fact))
            .collect();
        problems.push(named("was there all the time and is missing", &missing));
        problems.retain(|problem| !problem.is_empty());
        problems
    }

    /// The access that users have by groups, as far as this file speaks of them.
    fn inherited(&self) -> BTreeSet<Fact> {
        let mut members: BTreeMap<&Thing, Vec<&Thing>> = BTreeMap::new();
        for fact in &self.facts {
            if let Fact::Has { on, whom } = fact
                && on.kind == "group"
            {
                members.entry(on).or_default().push(whom);
            }
        }
        let mut inherited = BTreeSet::new();
        for fact in &self.facts {
            if let Fact::Has { on, whom } = fact
                && on.kind == "app"
                && whom.kind == "group"
            {
                for member in members.get(whom).into_iter().flatten() {
                    inherited.insert(Fact::Has {
                        on: on.clone(),
                        whom: (*member).clone(),
                    });
                }
            }
        }
        inherited
    }
}

fn named(what: &str, facts: &[&Fact]) -> String {
    const EXAMPLES: usize = 4;
    if facts.is_empty() {
        return String::new();
    }
    let examples: Vec<String> = facts
        .iter()
        .take(EXAMPLES)
        .map(ToString::to_string)
        .collect();
    format!("{what}: {} ({})", facts.len(), examples.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn is(kind: &str, id: &str) -> Fact {
        Fact::Is(Thing::new(kind, id))
    }

    fn has(on: (&str, &str), whom: (&str, &str)) -> Fact {
        Fact::Has {
            on: Thing::new(on.0, on.1),
            whom: Thing::new(whom.0, whom.1),
        }
    }

    /// A user who is in a group, which has an application.
    fn directory() -> BTreeSet<Fact> {
        BTreeSet::from([
            is("user", "u1"),
            is("user", "u2"),
            is("group", "g"),
            is("app", "a"),
            has(("group", "g"), ("user", "u1")),
            has(("app", "a"), ("group", "g")),
        ])
    }

    fn said(facts: impl IntoIterator<Item = Fact>) -> Said {
        let mut facts: Vec<Fact> = facts.into_iter().collect();
        facts.push(has(("app", "a"), ("user", "u1")));
        Said {
            task: "t".to_owned(),
            started: at(10),
            ended: at(20),
            facts,
        }
    }

    fn problem(said: &Said, history: &History) -> String {
        let problems = said.problems(history);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].clone()
    }

    #[test]
    fn a_file_of_a_directory_that_stands_still_is_its_truth() {
        let history = History::new(at(1), directory());
        assert_eq!(said(directory()).problems(&history), Vec::<String>::new());
        assert_eq!(history.changes(), 0);
    }

    #[test]
    fn each_row_that_is_missing_doubled_or_made_up_is_found() {
        let history = History::new(at(1), directory());
        for gone in directory() {
            let mut less = said(directory());
            less.facts.retain(|fact| *fact != gone);
            let problems = less.problems(&history);
            assert!(
                problems
                    .iter()
                    .any(|text| text.contains("is missing") && text.contains(&gone.to_string())),
                "{gone}: {problems:?}"
            );
            let mut twice = said(directory());
            twice.facts.push(gone.clone());
            assert!(problem(&twice, &history).contains("doubled: 1"), "{gone}");
        }
        for extra in [
            is("user", "u3"),
            is("role", "r"),
            has(("group", "g"), ("user", "u2")),
            has(("app", "a"), ("user", "u2")),
        ] {
            let mut more = said(directory());
            more.facts.push(extra.clone());
            let problems = more.problems(&history);
            assert!(
                problems.iter().any(|text| text.contains("was never there")),
                "{extra}: {problems:?}"
            );
        }
    }

    #[test]
    fn inherited_access_follows_from_the_rows_of_the_file() {
        let history = History::new(at(1), directory());
        let mut less = said(directory());
        less.facts.pop();
        assert!(problem(&less, &history).contains("app:a for user:u1"));
    }

    #[test]
    fn what_changes_while_a_sync_runs_may_be_in_the_file_or_not() {
        let mut history = History::new(at(1), directory());
        let mut later = directory();
        later.remove(&is("user", "u2"));
        later.insert(is("user", "u3"));
        history.look(at(14), directory());
        history.look(at(15), later.clone());
        assert_eq!(history.changes(), 2);
        for facts in [
            directory(),
            later.clone(),
            directory().union(&later).cloned().collect(),
            directory().intersection(&later).cloned().collect(),
        ] {
            assert_eq!(said(facts).problems(&history), Vec::<String>::new());
        }
    }

    #[test]
    fn what_changed_before_a_sync_began_or_after_it_ended_is_judged_as_it_was_then() {
        let mut history = History::new(at(1), directory());
        let mut early = directory();
        early.remove(&is("user", "u2"));
        history.look(at(8), directory());
        history.look(at(9), early.clone());
        let mut late = early.clone();
        late.insert(is("user", "u3"));
        history.look(at(21), early.clone());
        history.look(at(22), late.clone());
        assert_eq!(said(early.clone()).problems(&history), Vec::<String>::new());
        assert!(problem(&said(directory()), &history).contains("user:u2"));
        assert!(problem(&said(late), &history).contains("user:u3"));
    }

    #[test]
    fn a_change_that_nobody_saw_happen_is_given_the_whole_time_between_two_looks() {
        let mut history = History::new(at(1), directory());
        let mut later = directory();
        later.insert(is("user", "u3"));
        history.look(at(15), later.clone());
        assert_eq!(said(directory()).problems(&history), Vec::<String>::new());
        assert_eq!(said(later).problems(&history), Vec::<String>::new());
    }
}
