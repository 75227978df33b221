//! What tests, scripts and people say to a running simulator, and what they ask it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

use anyhow::Context as _;
use secrecy::SecretString;

use super::{
    Break, KeyKind, Revealed, RpcFaultError, RpcRule, Synced, keys,
    state::{
        Breach, Event, Finish, Heartbeat, Hello, Poll, Rpc, Shared, Stage, TaskState, TokenRequest,
        Upload, kind,
    },
};
use crate::{
    proto::{baton, connector as v2},
    sim::{Certificate, Injected, Outage},
};

/// A handle on a running simulator. All methods are cheap; only the `wait_for_…` ones wait.
#[derive(Debug, Clone)]
pub struct Control(pub(super) Arc<Shared>);

// Tasks.
impl Control {
    /// Queues a task and answers with its id; a task without id gets a fresh one.
    pub fn enqueue(&self, task: baton::Task) -> String {
        let kind = kind(&task);
        let (moment, id) = self.0.update(|state| {
            let id = state.enqueue(task, self.0.config.clock.now());
            (self.0.moment(state), id)
        });
        self.0.tell(moment, format!("task    {kind} {id} queued"));
        id
    }

    /// Lets the next heartbeats of a task say that it is cancelled; `false` when there is no such task.
    pub fn cancel(&self, task_id: &str) -> bool {
        self.0.update(|state| match state.task(task_id) {
            Some(task) => {
                task.cancelled = true;
                true
            }
            None => false,
        })
    }

    /// Lets a task run out: it is not handed out again. `false` when there is no such task.
    pub fn give_up(&self, task_id: &str) -> bool {
        self.0.update(|state| match state.task(task_id) {
            Some(task) => {
                task.stage = Stage::Finished;
                true
            }
            None => false,
        })
    }

    /// Hands a task out once more, as if its lease had ended: while it runs, or after its end. `false` when there is no
    /// such task.
    pub fn deliver_again(&self, task_id: &str) -> bool {
        let found = self.0.update(|state| {
            let task = state.task(task_id)?;
            task.stage = Stage::Queued;
            let kind = kind(&task.task);
            Some((self.0.moment(state), kind))
        });
        let Some((moment, kind)) = found else {
            return false;
        };
        self.0
            .tell(moment, format!("task    {kind} {task_id} queued again"));
        true
    }

    /// Issues another client secret; the older ones are accepted until [`Control::retire_secrets`].
    pub fn rotate_secret(&self) -> anyhow::Result<SecretString> {
        self.0.client.rotate()
    }

    /// Accepts the newest client secret only, and no token of the others any more.
    pub fn retire_secrets(&self) {
        self.0.client.retire();
        self.revoke_tokens();
    }

    /// The objects of the latest uploaded file, for tasks that name them. Blocks for a moment.
    pub fn synced(&self) -> anyhow::Result<Synced> {
        let path = self
            .uploads()
            .into_iter()
            .rev()
            .find(|upload| upload.summary.is_some())
            .context("no file was uploaded yet")?
            .path;
        Synced::open(&path)
    }

    /// A task and what became of it.
    pub fn task(&self, task_id: &str) -> Option<TaskState> {
        self.0.lock().task(task_id).map(|task| task.clone())
    }

    /// All tasks in the order in which they were queued.
    pub fn tasks(&self) -> Vec<TaskState> {
        self.0.lock().tasks.clone()
    }
}

// Secrets.
impl Control {
    /// Asks for secrets to be sealed for a key of the simulator, which is made when it is first named.
    pub fn encrypt_to(&self, key: KeyKind) -> anyhow::Result<v2::EncryptionConfig> {
        self.0.keys.config(key)
    }

    /// Seals a password for the connector.
    pub fn seal(&self, password: &SecretString) -> anyhow::Result<v2::EncryptedData> {
        keys::seal_for_connector(&self.0.client.secret, password)
    }

    /// The secrets that the latest end of a task gave, each copy opened.
    ///
    /// Fails when there is no such end, and on a secret that no key of the simulator opens.
    pub fn reveal(&self, task_id: &str) -> anyhow::Result<Vec<Revealed>> {
        let found = {
            let mut state = self.0.lock();
            let finish = state
                .finishes
                .iter()
                .rev()
                .find(|finish| finish.request.task_id == task_id)
                .map(|finish| finish.request.clone());
            finish.zip(state.task(task_id).map(|task| task.task.clone()))
        };
        let (finish, task) =
            found.with_context(|| format!("the task {task_id:?} is not finished"))?;
        self.0.keys.reveal(task.task_type.as_ref(), &finish)
    }
}

// Switches and faults.
impl Control {
    /// Refuses the client secret (`401 invalid_client`) from now on, or accepts it again; issued tokens stay good.
    pub fn reject_secret(&self, reject: bool) {
        self.0.update(|state| state.faults.reject_secret = reject);
    }

    /// Lets the token endpoint answer 503 for a while.
    pub fn token_endpoint_down_for(&self, time: Duration) {
        self.0
            .update(|state| state.faults.token_down_until = Some(Instant::now() + time));
    }

    /// Changes the life of the tokens issued from now on.
    pub fn set_token_life(&self, life: Duration) {
        self.0.update(|state| state.token_life = life);
    }

    /// Forgets every token issued, so that the next call of each client is `Unauthenticated`.
    pub fn revoke_tokens(&self) {
        self.0.update(|state| state.tokens.revoke_all());
    }

    /// Changes `next_poll` and `next_heartbeat` of the answers from now on.
    pub fn set_intervals(&self, next_poll: Option<Duration>, next_heartbeat: Option<Duration>) {
        self.0.update(|state| {
            state.next_poll = next_poll;
            state.next_heartbeat = next_heartbeat;
        });
    }

    /// Answers the next call of a method with this code instead of acting on it; further calls queue up.
    pub fn fail_next(&self, rpc: Rpc, code: tonic::Code) {
        self.0
            .update(|state| state.faults.fail.entry(rpc).or_default().push_back(code));
    }

    /// Delays every call of a method from now on; zero takes the delay away.
    pub fn delay(&self, rpc: Rpc, by: Duration) {
        self.0.update(|state| {
            if by.is_zero() {
                state.faults.delays.remove(&rpc);
            } else {
                state.faults.delays.insert(rpc, by);
            }
        });
    }

    /// Refuses the checksum of the next upload although it is right.
    pub fn refuse_next_checksum(&self) {
        self.0.update(|state| state.faults.refuse_checksums += 1);
    }

    /// Acts on the next `FinishTask` but answers `Unavailable`; one repeat of it is then no breach.
    pub fn lose_next_finish_answer(&self) {
        self.0.update(|state| state.faults.lose_finish_answers += 1);
    }

    /// Breaks the next upload off as soon as this many bytes have come.
    pub fn break_next_upload(&self, after_bytes: u64, how: Break) {
        self.0
            .update(|state| state.faults.break_uploads.push_back((after_bytes, how)));
    }

    /// Sends GOAWAY on every connection; running calls end normally.
    pub fn goaway(&self) {
        let drain = self
            .0
            .update(|state| std::mem::replace(&mut state.drain, CancellationToken::new()));
        drain.cancel();
    }

    /// Closes the port and drops every connection, until [`Control::end_outage`].
    pub fn begin_outage(&self) {
        self.begin_outage_of(Outage::Refuse);
    }

    /// Closes the port and drops every connection; the same port comes back by itself after this time.
    pub fn outage_for(&self, time: Duration) {
        self.outage_of(Outage::Refuse, time);
    }

    /// Makes the network fail in this way until [`Control::end_outage`]; every open connection ends.
    pub fn begin_outage_of(&self, how: Outage) {
        self.0.network.down(how, None);
        self.0.cut_off();
    }

    /// Makes the network fail in this way for a while; with no time at all, every open connection ends and nothing more.
    pub fn outage_of(&self, how: Outage, time: Duration) {
        self.0.network.down(how, Some(time));
        self.0.cut_off();
    }

    /// Puts a fault in force as long as the answer lives; see [`RpcRule`] for how it is written.
    pub fn inject(&self, rule: &str) -> Result<Injected, RpcFaultError> {
        rule.parse().map(|rule| self.inject_rule(rule))
    }

    /// The same for a rule that has been read already.
    pub fn inject_rule(&self, rule: RpcRule) -> Injected {
        self.0.injections.add(rule)
    }

    /// How often injected faults have struck, by their kind (the text without its value).
    pub fn fired(&self) -> BTreeMap<String, u64> {
        self.0.injections.counts()
    }

    /// Shows another certificate from the next connection on; those that are open stay.
    pub fn show(&self, which: Certificate) -> anyhow::Result<()> {
        self.0.tls.show(which)
    }

    /// TLS handshakes that came to nothing.
    pub fn failed_handshakes(&self) -> u64 {
        self.0.tls.failed()
    }

    /// Lets the simulator's clock go ahead by this many seconds, or behind: the one that assertions and tokens are judged
    /// by and that `Date` shows. The moments of its records stay true.
    pub fn skew_clock(&self, seconds: i64) {
        self.0.set_skew(seconds);
    }

    /// Opens the port again.
    pub fn end_outage(&self) {
        self.0.network.up();
    }
}

// Records.
impl Control {
    /// Everything that broke a rule so far; counts as seen afterwards.
    pub fn breaches(&self) -> Vec<Breach> {
        self.0.update(|state| {
            state.seen = state.breaches.len();
            state.breaches.clone()
        })
    }

    /// The breaches that nobody has looked at.
    pub(super) fn unseen(&self) -> Vec<Breach> {
        let state = self.0.lock();
        state
            .breaches
            .get(state.seen..)
            .unwrap_or_default()
            .to_vec()
    }

    /// How often a method was called, refused and failed calls included.
    pub fn calls(&self, rpc: Rpc) -> u64 {
        self.0.lock().calls.get(&rpc).copied().unwrap_or_default()
    }

    /// The latest requests to the token endpoint, oldest first.
    pub fn token_requests(&self) -> Vec<TokenRequest> {
        self.0.lock().token_requests.iter().cloned().collect()
    }

    /// The latest Hellos, oldest first.
    pub fn hellos(&self) -> Vec<Hello> {
        self.0.lock().hellos.iter().cloned().collect()
    }

    /// The latest polls that were answered, oldest first.
    pub fn polls(&self) -> Vec<Poll> {
        self.0.lock().polls.iter().cloned().collect()
    }

    /// The latest heartbeats, oldest first.
    pub fn heartbeats(&self) -> Vec<Heartbeat> {
        self.0.lock().heartbeats.iter().cloned().collect()
    }

    /// The latest finishes, oldest first.
    pub fn finishes(&self) -> Vec<Finish> {
        self.0.lock().finishes.iter().cloned().collect()
    }

    /// The latest verified uploads, oldest first.
    pub fn uploads(&self) -> Vec<Upload> {
        self.0.lock().uploads.iter().cloned().collect()
    }

    /// Everything that happens from now on, in words; a slow reader loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events()
    }
}

// Waiting. Each returns at once when what it waits for has happened already, and fails after the time-out.
impl Control {
    /// Waits for the first Hello.
    pub async fn wait_for_hello(&self, timeout: Duration) -> anyhow::Result<Hello> {
        self.wait_for_hellos(1, timeout).await
    }

    /// Waits until this many Hellos have come; answers with the latest.
    pub async fn wait_for_hellos(&self, count: usize, timeout: Duration) -> anyhow::Result<Hello> {
        self.0
            .wait_for("a Hello", timeout, |state| {
                (state.hellos.len() >= count).then(|| state.hellos.back().cloned())?
            })
            .await
    }

    /// Waits until a method has been called this often, refused and failed calls included.
    pub async fn wait_for_calls(
        &self,
        rpc: Rpc,
        count: u64,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        self.0
            .wait_for(&format!("call {count} of {rpc}"), timeout, |state| {
                (state.calls.get(&rpc).copied().unwrap_or_default() >= count).then_some(())
            })
            .await
    }

    /// Waits until a task has been handed out this often.
    pub async fn wait_for_delivery(
        &self,
        task_id: &str,
        count: u32,
        timeout: Duration,
    ) -> anyhow::Result<TaskState> {
        self.0
            .wait_for(
                &format!("delivery {count} of task {task_id}"),
                timeout,
                |state| {
                    state
                        .tasks
                        .iter()
                        .find(|task| task.task.id == task_id && task.deliveries >= count)
                        .cloned()
                },
            )
            .await
    }

    /// Waits until a task has sent this many heartbeats.
    pub async fn wait_for_heartbeats(
        &self,
        task_id: &str,
        count: usize,
        timeout: Duration,
    ) -> anyhow::Result<Heartbeat> {
        self.0
            .wait_for(
                &format!("heartbeat {count} of task {task_id}"),
                timeout,
                |state| {
                    state
                        .heartbeats
                        .iter()
                        .filter(|heartbeat| heartbeat.task_ids.iter().any(|id| id == task_id))
                        .nth(count.saturating_sub(1))
                        .cloned()
                },
            )
            .await
    }

    /// Waits for the first verified upload of a task.
    pub async fn wait_for_upload(
        &self,
        task_id: &str,
        timeout: Duration,
    ) -> anyhow::Result<Upload> {
        self.0
            .wait_for(&format!("the upload of task {task_id}"), timeout, |state| {
                state
                    .uploads
                    .iter()
                    .find(|upload| upload.task_id == task_id)
                    .cloned()
            })
            .await
    }

    /// Waits for the first finish of a task.
    pub async fn wait_for_finish(
        &self,
        task_id: &str,
        timeout: Duration,
    ) -> anyhow::Result<Finish> {
        self.0
            .wait_for(&format!("the end of task {task_id}"), timeout, |state| {
                state
                    .finishes
                    .iter()
                    .find(|finish| finish.request.task_id == task_id)
                    .cloned()
            })
            .await
    }

    /// Waits until a task has been finished this often, repeats of a lost answer included; answers with the latest.
    pub async fn wait_for_finishes(
        &self,
        task_id: &str,
        count: usize,
        timeout: Duration,
    ) -> anyhow::Result<Finish> {
        self.0
            .wait_for(
                &format!("end {count} of task {task_id}"),
                timeout,
                |state| {
                    state
                        .finishes
                        .iter()
                        .filter(|finish| finish.request.task_id == task_id)
                        .nth(count.saturating_sub(1))
                        .cloned()
                },
            )
            .await
    }

    /// Waits until a token request was refused.
    pub async fn wait_for_refusal(&self, timeout: Duration) -> anyhow::Result<TokenRequest> {
        self.0
            .wait_for("a refused token request", timeout, |state| {
                state
                    .token_requests
                    .iter()
                    .find(|request| request.refused.is_some())
                    .cloned()
            })
            .await
    }

    /// Waits until a rule is broken.
    pub async fn wait_for_breach(&self, timeout: Duration) -> anyhow::Result<Breach> {
        self.0
            .wait_for("a breach", timeout, |state| state.breaches.last().cloned())
            .await
    }
}
