//! What is remembered of each change, so that a task that comes again is answered and not done again.
//!
//! One file a change, in two states: its plans are recorded, so that it may have been applied; or it was applied, and the
//! answer is there to be given again. A change that failed stays in the first state, because a task that comes again then
//! has to be tried again. Invariants: a plan is on the disk before anything is written to the directory; secrets are there
//! only as ConductorOne gets them, encrypted; a file that cannot be understood counts as absent, which is safe because the
//! state of the directory is asked before each write.

use std::{io, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Answer;
use crate::{
    connector::provision::{Effect, Plan},
    crypto::{Sha256, hex},
    proto::Any,
    state_folder::Place,
};

/// The form of the files; others are set aside.
const VERSION: u32 = 1;
const PART: &str = "journal";
/// How long a change is remembered.
const KEPT_FOR: Duration = Duration::from_hours(7 * 24);
/// How many changes are remembered.
const MOST: usize = 10_000;
/// How many plans of one change are recorded; the first is the one that matters.
const MOST_PLANS: usize = 64;
/// The length of the id of a task.
const TASK_ID_LENGTH: usize = 27;

/// What is remembered of one change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    version: u32,
    /// The id of the change.
    pub(super) id: String,
    /// What kind of request it was.
    pub(super) kind: String,
    /// Tells requests apart.
    pub(super) fingerprint: String,
    began: Timestamp,
    changed: Timestamp,
    /// What was about to be written, in the order in which it was recorded.
    pub(super) plans: Vec<Plan>,
    /// The end; absent while it is not known.
    pub(super) applied: Option<Applied>,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Applied {
    response: Packed,
    annotations: Vec<Packed>,
    pub(super) effect: Effect,
    /// Whose access or account it was.
    pub(super) subject: String,
    pub(super) request_ids: Vec<String>,
    /// The success is in the audit trail.
    pub(super) audited: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Packed {
    type_url: String,
    value: String,
}

impl Packed {
    fn of(any: &Any) -> Self {
        Self {
            type_url: any.type_url.clone(),
            value: BASE64_STANDARD.encode(&any.value),
        }
    }

    fn any(&self) -> Option<Any> {
        Some(Any {
            type_url: self.type_url.clone(),
            value: BASE64_STANDARD.decode(&self.value).ok()?,
        })
    }
}

impl Entry {
    /// An entry of a change of which nothing is known yet.
    pub(super) fn new(id: &str, kind: &str, fingerprint: &str, now: Timestamp) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            kind: kind.to_owned(),
            fingerprint: fingerprint.to_owned(),
            began: now,
            changed: now,
            plans: Vec::new(),
            applied: None,
        }
    }

    /// Adds what is about to be written; a plan that is there already is not repeated.
    pub(super) fn intend(&mut self, plan: &Plan, now: Timestamp) {
        self.changed = now;
        if self.plans.len() < MOST_PLANS && !self.plans.contains(plan) {
            self.plans.push(plan.clone());
        }
    }

    /// Adds the end.
    pub(super) fn apply(
        &mut self,
        answer: &Answer,
        subject: &str,
        request_ids: &[String],
        now: Timestamp,
    ) {
        self.changed = now;
        self.applied = Some(Applied {
            response: Packed::of(&answer.response),
            annotations: answer.annotations.iter().map(Packed::of).collect(),
            effect: answer.effect,
            subject: subject.to_owned(),
            request_ids: request_ids.to_vec(),
            audited: false,
        });
    }

    /// The answer, if there is one.
    pub(super) fn answer(&self) -> Option<Answer> {
        let applied = self.applied.as_ref()?;
        Some(Answer {
            response: applied.response.any()?,
            annotations: applied
                .annotations
                .iter()
                .map(Packed::any)
                .collect::<Option<_>>()?,
            effect: applied.effect,
            plans: self.plans.clone(),
        })
    }

    /// Reads a file; `None` when it is damaged, of another version, or of another change.
    fn parse(content: &[u8], id: &str) -> Option<Self> {
        let entry: Self = serde_json::from_slice(content).ok()?;
        let is_whole = entry.applied.is_none() || entry.answer().is_some();
        (entry.version == VERSION && entry.id == id && is_whole).then_some(entry)
    }
}

/// The files of all changes.
#[derive(Debug)]
pub(super) struct Journal {
    place: Place,
}

impl Journal {
    pub(super) const fn new(place: Place) -> Self {
        Self { place }
    }

    /// What is remembered of a change.
    pub(super) async fn find(&self, id: &str) -> io::Result<Option<Entry>> {
        let id = id.to_owned();
        self.place
            .work(move |place| {
                let Some(folder) = place.existing()? else {
                    return Ok(None);
                };
                let name = file_name(&id);
                let Some(content) = folder.read(PART, &name)? else {
                    return Ok(None);
                };
                let entry = Entry::parse(&content, &id);
                if entry.is_none() {
                    folder.set_aside(PART, &name)?;
                    tracing::warn!(
                        task.id = id,
                        "what was remembered of this change cannot be read and was set aside; the state of the directory \
                         decides what is left to do"
                    );
                }
                Ok(entry)
            })
            .await
    }

    /// Remembers an entry; it is on the disk when this returns.
    pub(super) async fn save(&self, entry: &Entry) -> io::Result<()> {
        let content = serde_json::to_vec(entry)?;
        let name = file_name(&entry.id);
        self.place
            .work(move |place| place.ensured()?.write(PART, &name, &content))
            .await
    }

    /// Forgets what is too old.
    pub(super) async fn prune(&self, now: Timestamp) -> io::Result<usize> {
        let oldest = now.saturating_sub(KEPT_FOR).unwrap_or(Timestamp::MIN);
        self.place
            .work(move |place| match place.existing()? {
                Some(folder) => folder.prune(PART, oldest, MOST),
                None => Ok(0),
            })
            .await
    }
}

/// The ids of ConductorOne are names of files as they are; of others the digest is.
pub(super) fn file_name(id: &str) -> String {
    let plain = id.len() == TASK_ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain {
        format!("{id}.json")
    } else {
        format!("sha256-{}.json", hex(&Sha256::digest(id.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::{connector as v2, pack};

    const ID: &str = "2fZ8bqH3vK1nX0dQyW5tRm7sLpA";

    fn plan(number: u32) -> Plan {
        Plan {
            operation: "group.member.add".to_owned(),
            subject: "user:1".to_owned(),
            object: format!("group:{number}"),
            before: json!({"member": false}),
            after: json!({"member": true}),
        }
    }

    fn entry() -> Entry {
        let mut entry = Entry::new(ID, "grant", "f", Timestamp::UNIX_EPOCH);
        entry.intend(&plan(1), Timestamp::UNIX_EPOCH);
        entry
    }

    fn answer() -> Answer {
        Answer {
            response: pack(&v2::GrantManagerServiceGrantResponse::default()),
            annotations: vec![pack(&v2::GrantAlreadyExists {})],
            effect: Effect::AlreadyTrue,
            plans: vec![plan(1)],
        }
    }

    fn journal(work: &tempfile::TempDir) -> Journal {
        Journal::new(Place::new(work.path().to_owned()))
    }

    #[tokio::test]
    async fn what_was_saved_is_found_by_another_process() {
        let work = tempfile::tempdir().unwrap();
        let mut entry = entry();
        {
            let journal = journal(&work);
            assert_eq!(journal.find(ID).await.unwrap(), None);
            journal.save(&entry).await.unwrap();
            assert_eq!(journal.find(ID).await.unwrap().as_ref(), Some(&entry));
            entry.apply(
                &answer(),
                "user:1",
                &["r1".to_owned()],
                Timestamp::UNIX_EPOCH,
            );
            journal.save(&entry).await.unwrap();
        }
        let found = journal(&work).find(ID).await.unwrap().unwrap();
        assert_eq!(found, entry);
        assert_eq!(found.answer().unwrap(), answer());
    }

    #[tokio::test]
    async fn what_cannot_be_understood_counts_as_absent_and_is_set_aside() {
        let work = tempfile::tempdir().unwrap();
        let journal = journal(&work);
        let mut other_version = entry();
        other_version.version = 2;
        let mut other_change = entry();
        other_change.id = "other".to_owned();
        let mut bad_answer = entry();
        bad_answer.apply(&answer(), "user:1", &[], Timestamp::UNIX_EPOCH);
        bad_answer.applied.as_mut().unwrap().response.value = "?".to_owned();
        for content in [
            Vec::new(),
            b"{".to_vec(),
            serde_json::to_vec(&other_version).unwrap(),
            serde_json::to_vec(&other_change).unwrap(),
            serde_json::to_vec(&bad_answer).unwrap(),
        ] {
            let folder = journal.place.ensured().unwrap();
            folder.write(PART, &file_name(ID), &content).unwrap();
            assert_eq!(journal.find(ID).await.unwrap(), None);
            assert_eq!(folder.names(PART).unwrap(), [format!("{ID}.json.corrupt")]);
        }
    }

    #[test]
    fn ids_of_another_form_are_never_paths() {
        for id in ["", "../../etc/passwd", "a b", "2fZ8bqH3vK1nX0dQyW5tRm7sLp/"] {
            let name = file_name(id);
            assert!(name.starts_with("sha256-") && !name.contains('/'), "{name}");
        }
        assert_eq!(file_name(ID), format!("{ID}.json"));
    }

    #[test]
    fn plans_are_recorded_once_and_not_without_end() {
        let mut entry = entry();
        for number in 0..200 {
            entry.intend(&plan(1), Timestamp::UNIX_EPOCH);
            entry.intend(&plan(number), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(entry.plans.len(), MOST_PLANS);
        assert_eq!(entry.plans[0], plan(1));
    }
}
