//! Reports the few facts that people should hear of as Events on our own pod, where `kubectl describe pod` shows them.
//!
//! Owns the words and the pace; `crate::notice` decides what is worth an Event, and the log stays the full record. Never
//! holds anything up: a failing API server costs Events and nothing else. Invariants: a topic (a kind of notice, of one
//! peer) makes at most one Event a minute, which counts everything of that minute, so a thousand changes make a handful
//! of Events; a note is at most 1 KiB and holds counts and reasons, no names of people.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Complaints, FAREWELL_LIMIT, capped, explained};
use crate::notice::{Notice, Peer};

/// Who reports, as Events show it.
const REPORTER: &str = "baton-jumpcloud";
/// At most one Event of a topic in this time.
const INTERVAL: Duration = Duration::from_mins(1);
/// The longest that one Event may take to be written.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// The longest note that the API accepts, in bytes.
const NOTE_LIMIT: usize = 1024;
/// The longest name of a reporting instance that the API accepts.
const INSTANCE_LIMIT: usize = 128;
const RULE: &str = "apiGroups [events.k8s.io], resources [events], verbs [create, patch]";

/// Writes notices as Events about `pod` until `shutdown`, and then what was still held back.
///
/// The first notice of a topic is written at once; more of it within a minute are counted and written together when the
/// minute is over. What cannot be written is dropped. Returns as well when nobody is left to tell anything. Dropping the
/// future loses what was held back.
pub async fn run(
    client: Client,
    pod: ObjectReference,
    mut notices: broadcast::Receiver<Notice>,
    shutdown: CancellationToken,
) {
    let mut desk = Desk {
        writer: Writer::new(client, pod),
        topics: BTreeMap::new(),
    };
    loop {
        let due = desk.due();
        let next = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = next => desk.write_due().await,
            told = notices.recv() => match told {
                Ok(notice) => desk.hear(notice).await,
                Err(RecvError::Lagged(count)) => missed(count),
                Err(RecvError::Closed) => break,
            },
        }
    }
    let farewell = async {
        loop {
            match notices.try_recv() {
                Ok(notice) => desk.hear(notice).await,
                Err(TryRecvError::Lagged(count)) => missed(count),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        desk.write_all().await;
    };
    if timeout(FAREWELL_LIMIT, farewell).await.is_err() {
        tracing::debug!("the last Events were not written in time");
    }
}

fn missed(count: u64) {
    tracing::debug!(
        count,
        "more happened at once than fits the queue of Events; the log has it all"
    );
}

/// What is put together in one Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Topic {
    reason: &'static str,
    peer: Option<Peer>,
}

impl Topic {
    fn of(notice: &Notice) -> Self {
        let (reason, peer) = match notice {
            Notice::SyncFinished { .. } => ("SyncFinished", None),
            Notice::SyncFailed { .. } => ("SyncFailed", None),
            Notice::ChangeMade { .. } => ("ChangeMade", None),
            Notice::ChangeFailed { .. } => ("ChangeFailed", None),
            Notice::CredentialsRejected { peer, .. } => ("CredentialsRejected", Some(*peer)),
            Notice::CredentialsReplaced { peer } => ("CredentialsReplaced", Some(*peer)),
            Notice::Degraded { peer, .. } => ("Degraded", Some(*peer)),
            Notice::Recovered { peer } => ("Recovered", Some(*peer)),
        };
        Self { reason, peer }
    }
}

/// Notices of one topic that are written together.
#[derive(Debug)]
struct Batch {
    count: u64,
    /// How many changes of each kind of task.
    kinds: BTreeMap<&'static str, u64>,
    last: Notice,
}

impl Batch {
    fn of(notice: Notice) -> Self {
        let mut batch = Self {
            count: 0,
            kinds: BTreeMap::new(),
            last: notice.clone(),
        };
        batch.add(notice);
        batch
    }

    fn add(&mut self, notice: Notice) {
        self.count += 1;
        if let Notice::ChangeMade { kind } | Notice::ChangeFailed { kind, .. } = &notice {
            *self.kinds.entry(kind).or_default() += 1;
        }
        self.last = notice;
    }

    fn event(&self) -> Event {
        let (type_, action) = match &self.last {
            Notice::SyncFinished { .. } => (EventType::Normal, "Sync"),
            Notice::SyncFailed { .. } => (EventType::Warning, "Sync"),
            Notice::ChangeMade { .. } => (EventType::Normal, "Change"),
            Notice::ChangeFailed { .. } => (EventType::Warning, "Change"),
            Notice::CredentialsRejected { .. } => (EventType::Warning, "Authenticate"),
            Notice::CredentialsReplaced { .. } => (EventType::Normal, "Authenticate"),
            Notice::Degraded { .. } => (EventType::Warning, "Connect"),
            Notice::Recovered { .. } => (EventType::Normal, "Connect"),
        };
        Event {
            type_,
            reason: Topic::of(&self.last).reason.to_owned(),
            note: Some(capped(&self.note(), NOTE_LIMIT)),
            action: action.to_owned(),
            secondary: None,
        }
    }

    fn note(&self) -> String {
        let count = self.count;
        match (&self.last, count) {
            (
                Notice::SyncFinished {
                    resources,
                    entitlements,
                    grants,
                    warnings,
                },
                _,
            ) => {
                let held = format!(
                    "{resources} resources, {entitlements} entitlements, {grants} grants, {warnings} warnings"
                );
                match count {
                    1 => format!("A full sync was uploaded: {held}"),
                    _ => format!("{count} full syncs were uploaded, the last: {held}"),
                }
            }
            (Notice::SyncFailed { problem }, 1) => format!("A full sync failed: {problem}"),
            (Notice::SyncFailed { problem }, _) => {
                format!("{count} full syncs failed, the last: {problem}")
            }
            (Notice::ChangeMade { kind }, 1) => format!("1 change was made: {kind}"),
            (Notice::ChangeMade { .. }, _) => {
                format!("{count} changes were made: {}", self.counted_kinds())
            }
            (Notice::ChangeFailed { kind, problem }, 1) => {
                format!("1 change failed ({kind}): {problem}")
            }
            (Notice::ChangeFailed { problem, .. }, _) => format!(
                "{count} changes failed ({}), the last: {problem}",
                self.counted_kinds()
            ),
            (Notice::CredentialsRejected { peer, problem }, _) => {
                format!("{peer} rejects the credentials: {problem}")
            }
            (Notice::CredentialsReplaced { peer }, _) => {
                format!("{peer} takes the rotated credentials, which are in use now")
            }
            (Notice::Degraded { peer, problem }, _) => {
                format!("{peer} does not answer usefully: {problem}")
            }
            (Notice::Recovered { peer }, _) => format!("{peer} answers again"),
        }
    }

    fn counted_kinds(&self) -> String {
        let kinds: Vec<_> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        kinds.join(", ")
    }
}

/// The last minute of a topic.
#[derive(Debug)]
struct Minute {
    over: Instant,
    held_back: Option<Batch>,
}

/// Decides when what is written.
struct Desk {
    writer: Writer,
    topics: BTreeMap<Topic, Minute>,
}

impl Desk {
    /// When the next minute is over in which something was held back.
    fn due(&self) -> Option<Instant> {
        self.topics
            .values()
            .filter(|minute| minute.held_back.is_some())
            .map(|minute| minute.over)
            .min()
    }

    async fn hear(&mut self, notice: Notice) {
        let topic = Topic::of(&notice);
        let now = Instant::now();
        match self.topics.get_mut(&topic) {
            Some(minute) if now < minute.over || minute.held_back.is_some() => {
                match &mut minute.held_back {
                    Some(batch) => batch.add(notice),
                    held_back => *held_back = Some(Batch::of(notice)),
                }
            }
            _ => self.write(topic, Batch::of(notice)).await,
        }
    }

    async fn write_due(&mut self) {
        let now = Instant::now();
        self.write_held_back(|minute| minute.over <= now).await;
    }

    async fn write_all(&mut self) {
        self.write_held_back(|_minute| true).await;
    }

    async fn write_held_back(&mut self, which: impl Fn(&Minute) -> bool) {
        let batches: Vec<_> = self
            .topics
            .iter_mut()
            .filter(|(_, minute)| which(minute))
            .filter_map(|(topic, minute)| Some((*topic, minute.held_back.take()?)))
            .collect();
        for (topic, batch) in batches {
            self.write(topic, batch).await;
        }
    }

    async fn write(&mut self, topic: Topic, batch: Batch) {
        let minute = Minute {
            over: Instant::now() + INTERVAL,
            held_back: None,
        };
        self.topics.insert(topic, minute);
        self.writer.write(topic, &batch.event()).await;
    }
}

/// Writes Events, and counts up the last one where the same is said again.
struct Writer {
    client: Client,
    pod: ObjectReference,
    /// The note of the last Event of a topic, and the recorder that wrote it.
    ///
    /// A recorder counts up its first Event for whatever comes with the same reason, and keeps the note of the first; so
    /// one is used again only for the same words.
    last: BTreeMap<Topic, (Option<String>, Recorder)>,
    complaints: Complaints,
}

impl Writer {
    fn new(client: Client, pod: ObjectReference) -> Self {
        Self {
            client,
            pod,
            last: BTreeMap::new(),
            complaints: Complaints::default(),
        }
    }

    async fn write(&mut self, topic: Topic, event: &Event) {
        let recorder = match self.last.remove(&topic) {
            Some((note, recorder)) if note == event.note => recorder,
            _ => Recorder::new(self.client.clone(), self.reporter()),
        };
        let written = timeout(CALL_LIMIT, recorder.publish(event, &self.pod)).await;
        let problem = match written {
            Ok(Ok(())) => {
                self.last.insert(topic, (event.note.clone(), recorder));
                if self.complaints.settled() {
                    tracing::info!("Events are written again");
                }
                return;
            }
            // The recorder goes: what it would count up may not exist any more.
            Ok(Err(error)) => explained(&error, RULE),
            Err(_elapsed) => "the API server does not answer in time".to_owned(),
        };
        if self.complaints.due() {
            tracing::warn!(
                reason = topic.reason,
                error = problem,
                "an Event could not be written and is dropped"
            );
        }
    }

    fn reporter(&self) -> Reporter {
        Reporter {
            controller: REPORTER.to_owned(),
            instance: self.pod.name.as_ref().map(|name| capped_name(name)),
        }
    }
}

/// The name of the pod as far as the API accepts it there; names are ASCII.
fn capped_name(name: &str) -> String {
    name.get(..INSTANCE_LIMIT).unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests;
