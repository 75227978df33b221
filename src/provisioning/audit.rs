//! The audit trail: one record for each change that ended, to the log and optionally to a file.
//!
//! The file holds one JSON object a line and is only ever appended to. Invariants: a record holds ids, states and codes,
//! never a secret, and no name or address of a person unless the id of a thing is one; the success of a change is in the
//! file once, also when the process died around the moment of writing it; a change is not begun while the file cannot be
//! opened.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    connector::provision::{Effect, Plan},
    supervisor::lock,
};

/// How much of the end of the file is searched for a record that may be there; several thousand records.
const TAIL: u64 = 8 * 1024 * 1024;

/// How a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The directory was changed.
    Success,
    /// The directory was as wanted already.
    Unchanged,
    /// A dry run found nothing against it.
    Planned,
    /// It was not begun.
    Refused,
    /// It was begun, or could not be judged; the directory may have been changed in part.
    Failed,
}

impl Verdict {
    pub(super) const fn of(effect: Effect) -> Self {
        match effect {
            Effect::Changed => Self::Success,
            Effect::AlreadyTrue => Self::Unchanged,
            Effect::Planned => Self::Planned,
        }
    }

    /// Whether it is recorded once only.
    const fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Unchanged)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Unchanged => "unchanged",
            Self::Planned => "planned",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Success => "a change was made",
            Self::Unchanged => "a change was asked for that had been made already",
            Self::Planned => "a change was planned in a dry run; nothing was written",
            Self::Refused => "a change was refused",
            Self::Failed => "a change failed",
        }
    }
}

/// One line of the trail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Record {
    pub(super) time: Timestamp,
    /// The id of the change.
    pub(super) task_id: String,
    pub(super) kind: &'static str,
    pub(super) result: Verdict,
    pub(super) dry_run: bool,
    /// Who asked, as far as the request says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asked_by: Option<String>,
    /// Whose access or account it is.
    pub(super) subject: String,
    /// On what; empty where the subject itself is changed.
    pub(super) object: String,
    /// Each thing that was to be done, with the state before and after.
    pub(super) changes: Vec<Plan>,
    /// The ids that the directory gave to the writes.
    pub(super) request_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Record {
    fn log(&self) {
        tracing::info!(
            target: "audit",
            {
                task.id = self.task_id,
                task.kind = self.kind,
                audit.result = self.result.name(),
                audit.dry_run = self.dry_run,
                audit.asked_by = self.asked_by,
                audit.subject = self.subject,
                audit.object = self.object,
                audit.changes = serde_json::to_string(&self.changes).unwrap_or_default(),
                audit.request_ids = self.request_ids.join(" "),
                code = self.code,
                error = self.error,
            },
            "{}",
            self.result.message()
        );
    }
}

/// What is read of a line that is there.
#[derive(Deserialize)]
struct Written {
    task_id: String,
    result: Verdict,
}

/// Where records go.
#[derive(Debug, Clone)]
pub(super) struct Trail {
    file: Option<Arc<Appender>>,
}

#[derive(Debug)]
struct Appender {
    path: PathBuf,
    open: Mutex<Option<File>>,
}

impl Trail {
    /// A trail in the log, and in this file if there is one.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self {
            file: path.map(|path| {
                Arc::new(Appender {
                    path,
                    open: Mutex::default(),
                })
            }),
        }
    }

    /// Proves that the file can be written to.
    pub(super) async fn ready(&self) -> io::Result<()> {
        self.with_file(|file| file.opened(&mut lock(&file.open)).map(drop))
            .await
    }

    /// Adds a record. `again` says that it may be there already.
    pub(super) async fn record(&self, record: &Record, again: bool) -> io::Result<()> {
        record.log();
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let (id, search) = (record.task_id.clone(), again && record.result.is_final());
        self.with_file(move |file| {
            let mut open = lock(&file.open);
            let written = file.append(&mut open, &line, search.then_some(id.as_str()));
            if written.is_err() {
                *open = None;
            }
            written
        })
        .await
    }

    async fn with_file(
        &self,
        work: impl FnOnce(&Appender) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let Some(file) = self.file.clone() else {
            return Ok(());
        };
        tokio::task::spawn_blocking(move || work(&file))
            .await
            .map_err(io::Error::other)
            .flatten()
    }
}

impl Appender {
    /// The open file; opened anew when it was rotated away.
    fn opened<'a>(&self, open: &'a mut Option<File>) -> io::Result<&'a mut File> {
        let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        let current =
            open.take()
                .filter(|file| match (file.metadata(), fs::metadata(&self.path)) {
                    (Ok(held), Ok(named)) => identity(&held) == identity(&named),
                    _ => false,
                });
        let file = match current {
            Some(file) => file,
            None => OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?,
        };
        Ok(open.insert(file))
    }

    fn append(
        &self,
        open: &mut Option<File>,
        line: &[u8],
        unless_there: Option<&str>,
    ) -> io::Result<()> {
        let file = self.opened(open)?;
        if !file.metadata()?.is_file() {
            // A pipe or a terminal has no end to search and no disk to reach.
            return file.write_all(line);
        }
        let tail = tail(file, if unless_there.is_some() { TAIL } else { 1 })?;
        if let Some(id) = unless_there
            && is_recorded(&tail, id)
        {
            return Ok(());
        }
        // A line that a dying process left unfinished stays as it is.
        if tail.last().is_some_and(|byte| *byte != b'\n') {
            file.write_all(b"\n")?;
        }
        file.write_all(line)?;
        file.sync_data()
    }
}

/// The last bytes of a file.
fn tail(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_recorded(tail: &[u8], id: &str) -> bool {
    tail.split(|byte| *byte == b'\n').any(|line| {
        serde_json::from_slice::<Written>(line)
            .is_ok_and(|written| written.task_id == id && written.result.is_final())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn record(id: &str, result: Verdict) -> Record {
        Record {
            time: Timestamp::UNIX_EPOCH,
            task_id: id.to_owned(),
            kind: "grant",
            result,
            dry_run: false,
            asked_by: None,
            subject: "user:1".to_owned(),
            object: "group:2".to_owned(),
            changes: vec![Plan {
                operation: "group.member.add".to_owned(),
                subject: "user:1".to_owned(),
                object: "group:2".to_owned(),
                before: json!({"member": false}),
                after: json!({"member": true}),
            }],
            request_ids: vec!["r1".to_owned()],
            code: None,
            error: None,
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_record_is_one_line_of_json_in_a_private_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let trail = Trail::new(Some(path.clone()));
        trail.ready().await.unwrap();
        trail
            .record(&record("a", Verdict::Success), false)
            .await
            .unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 1);
        assert_eq!(
            serde_json::from_str::<Value>(&lines[0]).unwrap(),
            json!({
                "time": "1970-01-01T00:00:00Z",
                "task_id": "a",
                "kind": "grant",
                "result": "success",
                "dry_run": false,
                "subject": "user:1",
                "object": "group:2",
                "changes": [{
                    "operation": "group.member.add",
                    "subject": "user:1",
                    "object": "group:2",
                    "before": {"member": false},
                    "after": {"member": true},
                }],
                "request_ids": ["r1"],
            })
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_success_that_may_be_there_is_searched_for_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let trail = Trail::new(Some(path.clone()));
        for (id, verdict, again, expected) in [
            ("a", Verdict::Failed, true, 1),
            ("a", Verdict::Success, true, 2),
            ("a", Verdict::Success, true, 2),
            ("b", Verdict::Unchanged, true, 3),
            ("b", Verdict::Unchanged, true, 3),
            ("b", Verdict::Failed, true, 4),
            ("a", Verdict::Success, false, 5),
        ] {
            trail.record(&record(id, verdict), again).await.unwrap();
            assert_eq!(lines(&path).len(), expected, "{id} {verdict:?}");
        }
    }

    #[tokio::test]
    async fn a_line_that_was_cut_off_does_not_swallow_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, "{\"task_id\":\"a\",\"resu").unwrap();
        let trail = Trail::new(Some(path.clone()));
        trail
            .record(&record("a", Verdict::Success), true)
            .await
            .unwrap();
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert!(is_recorded(lines[1].as_bytes(), "a"));
    }

    #[tokio::test]
    async fn a_file_that_was_rotated_away_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let trail = Trail::new(Some(path.clone()));
        trail
            .record(&record("a", Verdict::Success), false)
            .await
            .unwrap();
        fs::rename(&path, folder.path().join("audit.1")).unwrap();
        trail
            .record(&record("b", Verdict::Success), false)
            .await
            .unwrap();
        assert_eq!(lines(&path).len(), 1);
        assert_eq!(lines(&folder.path().join("audit.1")).len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_found_before_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let trail = Trail::new(Some(folder.path().join("missing/audit.jsonl")));
        assert!(trail.ready().await.is_err());
        Trail::new(None).ready().await.unwrap();
    }
}
