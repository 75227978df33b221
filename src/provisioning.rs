//! One change of the directory from request to answer: once in effect, journaled, audited.
//!
//! Owns the switch, the order of the steps, what is remembered of each change ([`journal`]), who waits for whom
//! ([`locks`]), the credentials that go in and out, the runs of actions ([`actions`]) and the audit trail ([`audit`]). It
//! never knows how a directory is changed (the [`Provisioner`] does) and never talks to ConductorOne.
//!
//! Invariants, for changes with the same id, over any number of deliveries and deaths of the process:
//!
//! - nothing is written before the plan is on the disk, and nothing at all in a dry run;
//! - once the answer is on the disk, it is given again and nothing else happens;
//! - in between, the next attempt is told what the first one was about to do, and the state of the directory decides what
//!   is left of it;
//! - the success is in the audit file once.
//!
//! Without the work directory (another machine, a volume that was not kept) the second point is lost: the state of the
//! directory still makes the change happen once, but a password that was made up is replaced by another one.
//!
//! The SDK tries a grant or a revocation up to three more times, 15, 30 and 45 seconds apart, when it fails with
//! `Unavailable` or `DeadlineExceeded`. The client of the directory does that here, with a shorter pause and the state
//! check in between, so there is no second loop around it.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::ProvisioningMode,
    connector::{
        self,
        provision::{self, Change, Done, Effect, Ledger, NewAccount, Permit, Plan, Provisioner},
    },
    crypto::{Sha256, hex, open, seal},
    error::{Class, Classify, Code, chain, told},
    model::resource_text,
    proto::{Any, Struct, connector as v2, is, pack},
    state_folder::Place,
    supervisor::{Supervisor, lock},
    telemetry::metrics::{ChangeOutcome, Metrics},
};

pub mod actions;
mod audit;
mod credentials;
mod journal;
mod locks;

pub use self::credentials::Keys;
use self::{
    actions::Runs,
    audit::{Record, Trail, Verdict},
    credentials::Ready,
    journal::{Entry, Journal},
    locks::{Locks, Lost, Ticket},
};

/// How often old entries of the journal are looked for, in changes.
const PRUNE_EVERY: u64 = 500;
/// The longest id that is repeated in a record, in characters.
const ID_LIMIT: usize = 256;

/// How changes are made.
#[derive(Clone)]
pub struct Settings {
    /// Whether they are made at all.
    pub mode: ProvisioningMode,
    /// Folder in which changes are remembered; must exist and be writable.
    pub work_dir: PathBuf,
    /// File that the audit trail is appended to.
    pub audit_log: Option<PathBuf>,
    /// The keys of the client secret, to which passwords come encrypted; a one-shot run has none.
    pub keys: Keys,
    /// The longest that a request waits for others about the same thing.
    pub wait_limit: Duration,
    /// Is told each step as it is reached; for tests that end the process there.
    pub observer: Option<Observer>,
    /// Where changes are counted.
    pub metrics: Metrics,
}

impl Settings {
    /// Settings with the usual limits, no audit file, no key, and numbers that nobody reads.
    pub fn new(mode: ProvisioningMode, work_dir: PathBuf) -> Self {
        Self {
            mode,
            work_dir,
            audit_log: None,
            keys: Keys::default(),
            wait_limit: Duration::from_mins(10),
            observer: None,
            metrics: Metrics::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("mode", &self.mode)
            .field("work_dir", &self.work_dir)
            .field("audit_log", &self.audit_log)
            .finish_non_exhaustive()
    }
}

/// Hears of each [`Step`].
pub type Observer = Arc<dyn Fn(Step) + Send + Sync>;

/// Hears how far an action is: percent, and words.
type Progress<'a> = dyn Fn(u8, &str) + Send + Sync + 'a;

/// A moment on the way of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The request was accepted.
    Received,
    /// Nobody has to be waited for any more.
    Locked,
    /// The directory was asked, and the plan is about to be recorded.
    Planned,
    /// The plan is on the disk.
    Intended,
    /// The directory is as wanted.
    Written,
    /// The answer is on the disk.
    Recorded,
    /// The success is in the audit trail.
    Audited,
    /// The answer is about to be given.
    Finished,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 8] = [
        Self::Received,
        Self::Locked,
        Self::Planned,
        Self::Intended,
        Self::Written,
        Self::Recorded,
        Self::Audited,
        Self::Finished,
    ];

    /// The name used in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Locked => "locked",
            Self::Planned => "planned",
            Self::Intended => "intended",
            Self::Written => "written",
            Self::Recorded => "recorded",
            Self::Audited => "audited",
            Self::Finished => "finished",
        }
    }
}

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the requests of c1.connector.v2"
)]
pub enum Request {
    /// Give an entitlement to a principal.
    Grant {
        entitlement: v2::Entitlement,
        principal: v2::Resource,
    },
    /// Take a grant away.
    Revoke { grant: v2::Grant },
    /// Make an account.
    CreateAccount {
        info: v2::AccountInfo,
        options: Option<v2::CredentialOptions>,
        encryption: Vec<v2::EncryptionConfig>,
        resource_type_id: String,
    },
    /// Make another resource.
    CreateResource { resource: v2::Resource },
    /// Delete a resource.
    DeleteResource {
        id: v2::ResourceId,
        parent: Option<v2::ResourceId>,
    },
    /// Give an account a new credential.
    RotateCredential {
        id: v2::ResourceId,
        options: Option<v2::CredentialOptions>,
        encryption: Vec<v2::EncryptionConfig>,
    },
    /// Run an action to its end.
    Invoke {
        name: String,
        resource_type_id: String,
        arguments: Struct,
    },
}

impl Request {
    /// The name of every kind.
    const KINDS: [&'static str; 7] = [
        "grant",
        "revoke",
        "create_account",
        "create_resource",
        "delete_resource",
        "rotate_credential",
        "invoke_action",
    ];

    /// The name of the kind, the one that tasks have too.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Grant { .. } => "grant",
            Self::Revoke { .. } => "revoke",
            Self::CreateAccount { .. } => "create_account",
            Self::CreateResource { .. } => "create_resource",
            Self::DeleteResource { .. } => "delete_resource",
            Self::RotateCredential { .. } => "rotate_credential",
            Self::Invoke { .. } => "invoke_action",
        }
    }

    /// The request as the connector sees it. `account` stands for the one of a `CreateAccount`.
    fn view<'a>(&'a self, account: &'a NewAccount) -> provision::Request<'a> {
        match self {
            Self::Grant {
                entitlement,
                principal,
            } => provision::Request::Grant {
                entitlement,
                principal,
            },
            Self::Revoke { grant } => provision::Request::Revoke { grant },
            Self::CreateAccount { .. } => provision::Request::CreateAccount { account },
            Self::CreateResource { resource } => provision::Request::CreateResource { resource },
            Self::DeleteResource { id, .. } => provision::Request::DeleteResource { id },
            Self::RotateCredential { id, .. } => provision::Request::RotateCredential { id },
            Self::Invoke {
                name,
                resource_type_id,
                arguments,
            } => provision::Request::Invoke {
                name,
                resource_type_id,
                arguments,
            },
        }
    }

    /// Tells apart requests that cannot be deliveries of one task.
    ///
    /// Only what a request is about counts: the objects in it also carry descriptions that a sender may render anew.
    fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        let mut add = |bytes: &[u8]| {
            digest.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(bytes);
        };
        add(self.kind().as_bytes());
        let text_of = |id: Option<&v2::ResourceId>| id.map(resource_text).unwrap_or_default();
        let entitlement_text = |entitlement: Option<&v2::Entitlement>| {
            let resource = entitlement.and_then(|entitlement| entitlement.resource.as_ref());
            text_of(resource.and_then(|resource| resource.id.as_ref()))
        };
        match self {
            Self::Grant {
                entitlement,
                principal,
            } => {
                add(entitlement_text(Some(entitlement)).as_bytes());
                add(text_of(principal.id.as_ref()).as_bytes());
            }
            Self::Revoke { grant } => {
                add(entitlement_text(grant.entitlement.as_ref()).as_bytes());
                let principal = grant.principal.as_ref();
                add(text_of(principal.and_then(|principal| principal.id.as_ref())).as_bytes());
            }
            Self::CreateAccount {
                info,
                resource_type_id,
                ..
            } => {
                add(resource_type_id.as_bytes());
                add(info.login.as_bytes());
                for email in &info.emails {
                    add(email.address.as_bytes());
                }
            }
            Self::CreateResource { resource } => {
                let kind = resource.id.as_ref().map(|id| id.resource_type.as_str());
                add(kind.unwrap_or_default().as_bytes());
                add(resource.display_name.as_bytes());
            }
            Self::DeleteResource { id, .. } | Self::RotateCredential { id, .. } => {
                add(resource_text(id).as_bytes());
            }
            Self::Invoke {
                name,
                resource_type_id,
                arguments,
            } => {
                add(name.as_bytes());
                add(resource_type_id.as_bytes());
                add(&arguments.encode_to_vec());
            }
        }
        hex(&digest.finish())
    }

    /// Whose access or account it is about, and on what; of an account or resource that is to be made, only the type.
    fn parties(&self, keys: &[String]) -> (String, String) {
        let text_of = |id: Option<&v2::ResourceId>| id.map(resource_text).unwrap_or_default();
        let of_resource =
            |resource: Option<&v2::Resource>| text_of(resource.and_then(|one| one.id.as_ref()));
        let of_entitlement = |entitlement: Option<&v2::Entitlement>| {
            of_resource(entitlement.and_then(|one| one.resource.as_ref()))
        };
        let (subject, object) = match self {
            Self::Grant {
                entitlement,
                principal,
            } => (
                of_resource(Some(principal)),
                of_entitlement(Some(entitlement)),
            ),
            Self::Revoke { grant } => (
                of_resource(grant.principal.as_ref()),
                of_entitlement(grant.entitlement.as_ref()),
            ),
            Self::CreateAccount {
                resource_type_id, ..
            } => {
                let kind = Some(resource_type_id.as_str()).filter(|kind| !kind.is_empty());
                (format!("{}:new", kind.unwrap_or("user")), String::new())
            }
            Self::CreateResource { resource } => {
                let kind = resource.id.as_ref().map(|id| id.resource_type.as_str());
                (format!("{}:new", kind.unwrap_or_default()), String::new())
            }
            Self::DeleteResource { id, .. } | Self::RotateCredential { id, .. } => {
                (resource_text(id), String::new())
            }
            Self::Invoke { name, .. } => (
                keys.first().cloned().unwrap_or_default(),
                format!("action:{name}"),
            ),
        };
        (clipped(&subject), clipped(&object))
    }
}

/// How a request ended well.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The response message of the operation.
    pub response: Any,
    /// What the SDK repeats beside the response; the annotations of the response itself.
    pub annotations: Vec<Any>,
    /// What was done. [`Effect::Planned`]: a dry run, in which nothing was.
    pub effect: Effect,
    /// What was, or would be, written.
    pub plans: Vec<Plan>,
}

impl Answer {
    /// What a dry run would have done, in words.
    pub fn planned_text(&self) -> String {
        let plans: Vec<String> = self
            .plans
            .iter()
            .map(|plan| {
                let object = if plan.object.is_empty() {
                    String::new()
                } else {
                    format!(" on {}", plan.object)
                };
                format!(
                    "{} for {}{object} (from {} to {})",
                    plan.operation, plan.subject, plan.before, plan.after
                )
            })
            .collect();
        format!(
            "dry run: every check passed, and nothing was changed; it would be: {}",
            plans.join(", then ")
        )
    }
}

/// Why a change was not made, or is not known to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operator has not allowed changes.
    #[error(
        "provisioning is not enabled; start the connector with --provisioning (BATON_PROVISIONING=true) to allow changes"
    )]
    Off,
    /// The id belongs to another request.
    #[error(
        "the id of this request was used for another {kind} request before; ask with an id of its own"
    )]
    Reused {
        /// The kind of the request that had it first.
        kind: String,
    },
    /// The credential asked for is described in a wrong way.
    #[error("{problem}")]
    Malformed {
        /// The field, its shape and what to do.
        problem: String,
    },
    /// Nobody could ever read the password.
    #[error(
        "a random password is asked for without encryption configs, so nobody would ever know it; name at least one key"
    )]
    NobodyToTell,
    /// A key of ConductorOne cannot be used, or a secret could not be encrypted to it.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// The password in the request cannot be read.
    #[error(transparent)]
    Open(#[from] open::Error),
    /// Other requests about the same thing took too long.
    #[error(
        "other requests about the same user, group or application took longer than {seconds} s; ask again later"
    )]
    Busy {
        /// How long it was waited.
        seconds: u64,
    },
    /// The request was cancelled before anything was written.
    #[error("the change was stopped before anything was written")]
    Cancelled,
    /// What has to be remembered of the change cannot be.
    #[error(
        "cannot {action}, so nothing was changed; the work directory must be writable and have room"
    )]
    Memory {
        /// What was being done.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The directory, or its rules.
    #[error(transparent)]
    Connector(#[from] connector::Error),
    /// No action has this name.
    #[error("action schema {name} not found")]
    NoAction {
        /// The name, quoted and clipped.
        name: String,
    },
    /// No run of an action has this id.
    #[error("action {id} not found")]
    NoRun {
        /// The id, quoted and clipped.
        id: String,
    },
    /// An argument of an action is missing or wrong.
    #[error("{problem}")]
    Arguments {
        /// The argument, its shape and what to do.
        problem: String,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Off
            | Self::Reused { .. }
            | Self::Malformed { .. }
            | Self::NobodyToTell
            | Self::Arguments { .. } => Class::Permanent,
            Self::Seal(error) => error.class(),
            Self::Open(error) => error.class(),
            Self::Busy { .. } | Self::Memory { .. } => Class::Retryable,
            Self::Cancelled => Class::Cancelled,
            Self::Connector(error) => error.class(),
            Self::NoAction { .. } | Self::NoRun { .. } => Class::NotFound,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Off => Code::FailedPrecondition,
            Self::Reused { .. }
            | Self::Malformed { .. }
            | Self::NobodyToTell
            | Self::Arguments { .. } => Code::InvalidArgument,
            Self::Seal(error) => error.code(),
            Self::Open(error) => error.code(),
            Self::Busy { .. } => Code::Unavailable,
            Self::Cancelled => Code::Cancelled,
            Self::Memory { .. } => Code::Internal,
            Self::Connector(error) => error.code(),
            Self::NoAction { .. } | Self::NoRun { .. } => Code::NotFound,
        }
    }
}

impl Error {
    fn is_stop(&self) -> bool {
        self.class() == Class::Cancelled
    }

    /// It was stopped before it did anything that the audit trail should know of.
    fn is_stop_before_writing(&self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Connector(connector::Error::Cancelled)
        )
    }
}

/// Makes changes, one way for all that ask.
#[derive(Debug)]
pub struct Provisioning {
    shared: Arc<Shared>,
}

struct Shared {
    provisioner: Arc<dyn Provisioner>,
    clock: Arc<dyn Clock>,
    supervisor: Supervisor,
    settings: Settings,
    place: Place,
    journal: Journal,
    trail: Trail,
    locks: Locks,
    runs: Runs,
    changes: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What stays the same of a request on its way.
struct Job<'a> {
    id: &'a str,
    kind: &'static str,
    fingerprint: String,
    subject: String,
    object: String,
    asked_by: Option<&'a str>,
    /// Hears how far an action is.
    progress: Option<&'a Progress<'a>>,
}

impl Provisioning {
    /// Changes made by this connector. Nothing is read or written yet.
    pub fn new(
        provisioner: Arc<dyn Provisioner>,
        clock: Arc<dyn Clock>,
        supervisor: Supervisor,
        settings: Settings,
    ) -> Self {
        let place = Place::new(settings.work_dir.clone());
        settings.metrics.changing(Request::KINDS);
        Self {
            shared: Arc::new(Shared {
                provisioner,
                clock,
                supervisor,
                journal: Journal::new(place.clone()),
                trail: Trail::new(settings.audit_log.clone()),
                locks: Locks::default(),
                runs: Runs::default(),
                changes: AtomicU64::new(0),
                place,
                settings,
            }),
        }
    }

    /// Whether, and how, changes are made.
    pub fn mode(&self) -> ProvisioningMode {
        self.shared.settings.mode
    }

    /// The folder in which changes are remembered.
    pub fn place(&self) -> &Place {
        &self.shared.place
    }

    /// Forgets what is old, and goes on with actions that a dead process left behind. To be called once, at start.
    ///
    /// Failures are logged: a change finds out itself whether it can be remembered.
    pub async fn start(&self) {
        if self.mode() == ProvisioningMode::Off {
            return;
        }
        self.shared.prune().await;
        self.shared.resume_actions().await;
    }

    /// Makes a change, or gives the answer that it got before.
    ///
    /// `id` names the change over all deliveries of the same task. `cancel` is obeyed before a write. A dry run
    /// answers with [`Effect::Planned`] where something would be changed. Dropping the future is safe: the next attempt
    /// finds out how far this one came.
    pub async fn run(
        &self,
        id: &str,
        request: Request,
        asked_by: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<Answer, Error> {
        self.shared.run(id, request, asked_by, cancel, None).await
    }
}

impl Shared {
    async fn run(
        &self,
        id: &str,
        request: Request,
        asked_by: Option<&str>,
        cancel: &CancellationToken,
        progress: Option<&Progress<'_>>,
    ) -> Result<Answer, Error> {
        let kind = request.kind();
        let result = self.serve(id, request, asked_by, cancel, progress).await;
        self.settings.metrics.changed(
            kind,
            match &result {
                Ok(answer) => match answer.effect {
                    Effect::Changed => ChangeOutcome::Changed,
                    Effect::AlreadyTrue => ChangeOutcome::AlreadyTrue,
                    Effect::Planned => ChangeOutcome::Planned,
                },
                Err(Error::Off) => ChangeOutcome::Refused,
                Err(error) if error.is_stop() => ChangeOutcome::Stopped,
                Err(_) => ChangeOutcome::Failed,
            },
        );
        result
    }

    async fn serve(
        &self,
        id: &str,
        mut request: Request,
        asked_by: Option<&str>,
        cancel: &CancellationToken,
        progress: Option<&Progress<'_>>,
    ) -> Result<Answer, Error> {
        if self.settings.mode == ProvisioningMode::Off {
            return Err(Error::Off);
        }
        self.step(Step::Received);
        let fingerprint = request.fingerprint();
        let mut account = NewAccount::default();
        if let Request::CreateAccount { info, .. } = &mut request {
            account.info = std::mem::take(info);
        }
        let keys = self.provisioner.keys(request.view(&account));
        let (subject, object) = request.parties(&keys);
        let job = Job {
            id,
            kind: request.kind(),
            fingerprint,
            subject,
            object,
            asked_by,
            progress,
        };
        // Taken before anything is waited for, so that requests about one thing are served in the order of their coming.
        let ticket = self
            .locks
            .reserve(keys.into_iter().chain([format!("change {id}")]));
        let result = self
            .answer_or_change(&job, &request, account, &ticket, cancel)
            .await;
        drop(ticket);
        if result.is_ok() {
            self.step(Step::Finished);
        }
        if self.changes.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1 {
            self.prune().await;
        }
        result
    }

    async fn answer_or_change(
        &self,
        job: &Job<'_>,
        request: &Request,
        account: NewAccount,
        ticket: &Ticket<'_>,
        cancel: &CancellationToken,
    ) -> Result<Answer, Error> {
        let entry = match self.recall(job).await? {
            Recalled::Answer(answer) => return Ok(answer),
            Recalled::Entry(entry) => entry,
        };
        let recorder = Recorder {
            shared: self,
            planned: Mutex::default(),
            entry: tokio::sync::Mutex::new(entry),
            progress: job.progress,
        };
        let result = self
            .change(job, request, account, ticket, &recorder, cancel)
            .await;
        if let Err(error) = &result
            && !error.is_stop_before_writing()
        {
            let plans = std::mem::take(&mut *lock(&recorder.planned));
            self.audit_failure(job, error, plans).await;
        }
        result
    }

    /// What is remembered of a change: the answer, or how far it came.
    async fn recall(&self, job: &Job<'_>) -> Result<Recalled, Error> {
        let found = self
            .journal
            .find(job.id)
            .await
            .map_err(|source| Error::Memory {
                action: "read what is remembered of this change",
                source,
            })?;
        let Some(mut entry) = found else {
            let now = self.clock.now();
            let entry = Entry::new(job.id, job.kind, &job.fingerprint, now);
            return Ok(Recalled::Entry(entry));
        };
        if entry.fingerprint != job.fingerprint {
            return Err(Error::Reused { kind: entry.kind });
        }
        let Some(answer) = entry.answer() else {
            return Ok(Recalled::Entry(entry));
        };
        tracing::info!(
            task.id = job.id,
            task.kind = job.kind,
            "this change was made before, and gets the same answer"
        );
        let effect = answer.effect;
        if let Some(applied) = &entry.applied
            && !applied.audited
        {
            let record = Record {
                subject: applied.subject.clone(),
                request_ids: applied.request_ids.clone(),
                ..self.record(job, Verdict::of(effect), answer.plans.clone())
            };
            self.audit_success(&mut entry, &record, true).await;
        }
        Ok(Recalled::Answer(answer))
    }

    async fn change(
        &self,
        job: &Job<'_>,
        request: &Request,
        mut account: NewAccount,
        ticket: &Ticket<'_>,
        recorder: &Recorder<'_>,
        cancel: &CancellationToken,
    ) -> Result<Answer, Error> {
        if let Request::Invoke {
            name,
            resource_type_id,
            arguments,
        } = request
        {
            self.check_action(name, resource_type_id, arguments)?;
        }
        let ready = self.ready(request)?;
        if !ticket.is_first() {
            ticket
                .wait(self.settings.wait_limit, cancel)
                .await
                .map_err(|lost| match lost {
                    Lost::Busy => Error::Busy {
                        seconds: self.settings.wait_limit.as_secs(),
                    },
                    Lost::Cancelled => Error::Cancelled,
                })?;
            // The one before may have been the same change.
            match self.recall(job).await? {
                Recalled::Answer(answer) => return Ok(answer),
                Recalled::Entry(entry) => *recorder.entry.lock().await = entry,
            }
        }
        self.step(Step::Locked);
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.trail.ready().await.map_err(|source| Error::Memory {
            action: "open the audit file",
            source,
        })?;
        account.credential = ready.credential.clone();
        account.force_change = ready.force_change;
        let earlier = recorder.entry.lock().await.plans.first().cloned();
        let change = Change {
            earlier: earlier.as_ref(),
            ledger: recorder,
            cancel,
        };
        let done = self.call(job, request, &account, &ready, change).await?;
        self.step(Step::Written);
        self.conclude(job, done, recorder).await
    }

    /// Lets the connector make the change, and puts the response together.
    async fn call(
        &self,
        job: &Job<'_>,
        request: &Request,
        account: &NewAccount,
        ready: &Ready,
        change: Change<'_>,
    ) -> Result<Made, Error> {
        let provisioner = self.provisioner.as_ref();
        let annotated = |effect| provisioner.annotations(request.view(account), effect);
        let about =
            |resource: &v2::Resource| resource.id.as_ref().map(|id| clipped(&resource_text(id)));
        Ok(match request {
            Request::Grant {
                entitlement,
                principal,
            } => {
                let done = provisioner.grant(entitlement, principal, change).await?;
                let mut annotations = annotated(done.effect);
                // A grant tells of the one that it replaced; ConductorOne looks for that beside the response.
                annotations.extend(
                    done.value
                        .iter()
                        .flat_map(|grant| &grant.annotations)
                        .filter(|any| is::<v2::GrantReplaced>(any))
                        .cloned(),
                );
                Made::of(done, annotations, |grants, annotations| {
                    pack(&v2::GrantManagerServiceGrantResponse {
                        grants,
                        annotations,
                    })
                })
            }
            Request::Revoke { grant } => {
                let done = provisioner.revoke(grant, change).await?;
                let annotations = annotated(done.effect);
                Made::of(done, annotations, |(), annotations| {
                    pack(&v2::GrantManagerServiceRevokeResponse { annotations })
                })
            }
            Request::CreateAccount {
                resource_type_id, ..
            } => {
                let done = provisioner
                    .create_account(resource_type_id, account, change)
                    .await?;
                let annotations = annotated(done.effect);
                let subject = about(&done.value.resource);
                let encrypted_data = ready.seal(&done.value.secrets)?;
                Made {
                    subject,
                    ..Made::of(done, annotations, |account, annotations| {
                        pack(&v2::CreateAccountResponse {
                            result: Some(result_of(account)),
                            encrypted_data,
                            annotations,
                        })
                    })
                }
            }
            Request::CreateResource { resource } => {
                let done = provisioner.create_resource(resource, change).await?;
                let annotations = annotated(done.effect);
                Made {
                    subject: about(&done.value),
                    ..Made::of(done, annotations, |created, annotations| {
                        pack(&v2::CreateResourceResponse {
                            created: Some(created),
                            annotations,
                        })
                    })
                }
            }
            // No resource of this connector is below another, so the parent decides nothing.
            Request::DeleteResource { id, .. } => {
                let done = provisioner.delete_resource(id, change).await?;
                let annotations = annotated(done.effect);
                Made::of(done, annotations, |(), annotations| {
                    pack(&v2::DeleteResourceResponse { annotations })
                })
            }
            Request::RotateCredential { id, .. } => {
                let done = provisioner
                    .rotate_credential(id, &ready.credential, ready.force_change, change)
                    .await?;
                let annotations = annotated(done.effect);
                let encrypted_data = ready.seal(&done.value)?;
                Made::of(done, annotations, |_secrets, annotations| {
                    pack(&v2::RotateCredentialResponse {
                        encrypted_data,
                        resource_id: Some(id.clone()),
                        annotations,
                    })
                })
            }
            Request::Invoke {
                name,
                resource_type_id,
                arguments,
            } => {
                let done = provisioner
                    .invoke(name, resource_type_id, arguments, change)
                    .await?;
                Made::of(done, Vec::new(), |response, annotations| {
                    pack(&v2::InvokeActionResponse {
                        id: job.id.to_owned(),
                        status: v2::BatonActionStatus::Complete.into(),
                        annotations,
                        response: Some(response),
                        name: name.clone(),
                    })
                })
            }
        })
    }

    /// Remembers and audits a change that was made.
    ///
    /// What fails here is logged and does not change the answer: the directory is as wanted.
    async fn conclude(
        &self,
        job: &Job<'_>,
        made: Made,
        recorder: &Recorder<'_>,
    ) -> Result<Answer, Error> {
        let mut entry = recorder.entry.lock().await;
        let is_dry = self.settings.mode == ProvisioningMode::DryRun;
        let answer = Answer {
            response: made.response,
            annotations: made.annotations,
            effect: made.effect,
            plans: if is_dry {
                std::mem::take(&mut *lock(&recorder.planned))
            } else {
                entry.plans.clone()
            },
        };
        let subject = made.subject.unwrap_or_else(|| job.subject.clone());
        let record = Record {
            subject: subject.clone(),
            request_ids: made.request_ids.clone(),
            ..self.record(job, Verdict::of(made.effect), answer.plans.clone())
        };
        if is_dry {
            self.audit(&record, false).await;
            return Ok(answer);
        }
        entry.apply(&answer, &subject, &made.request_ids, self.clock.now());
        if let Err(error) = self.journal.save(&entry).await {
            tracing::error!(
                task.id = job.id,
                error = chain(&error),
                "the answer to a change cannot be remembered; should its task come again, the state of the directory decides"
            );
        }
        self.step(Step::Recorded);
        self.audit_success(&mut entry, &record, false).await;
        Ok(answer)
    }

    fn record(&self, job: &Job<'_>, result: Verdict, changes: Vec<Plan>) -> Record {
        Record {
            time: self.clock.now(),
            task_id: clipped(job.id),
            kind: job.kind,
            result,
            dry_run: self.settings.mode == ProvisioningMode::DryRun,
            asked_by: job.asked_by.map(clipped),
            subject: job.subject.clone(),
            object: job.object.clone(),
            changes,
            request_ids: Vec::new(),
            code: None,
            error: None,
        }
    }

    /// Adds the success of an entry to the audit trail, and remembers that it is there.
    async fn audit_success(&self, entry: &mut Entry, record: &Record, again: bool) {
        if !self.audit(record, again).await {
            return;
        }
        if let Some(applied) = &mut entry.applied {
            applied.audited = true;
        }
        // When this fails, the trail is searched for the record should the task come again.
        if let Err(error) = self.journal.save(entry).await {
            tracing::warn!(
                task.id = entry.id,
                error = chain(&error),
                "it cannot be remembered that a change is in the audit trail"
            );
        }
        self.step(Step::Audited);
    }

    async fn audit_failure(&self, job: &Job<'_>, error: &Error, plans: Vec<Plan>) {
        let was_begun = !plans.is_empty();
        let verdict = match error.class() {
            Class::Permanent | Class::NotFound | Class::Auth if !was_begun => Verdict::Refused,
            _ => Verdict::Failed,
        };
        let record = Record {
            code: Some(error.code().to_string()),
            error: Some(told(error)),
            ..self.record(job, verdict, plans)
        };
        self.audit(&record, false).await;
    }

    async fn audit(&self, record: &Record, again: bool) -> bool {
        let written = self.trail.record(record, again).await;
        if let Err(error) = &written {
            tracing::error!(
                task.id = record.task_id,
                error = chain(error),
                "a record cannot be added to the audit file; the log has it"
            );
        }
        written.is_ok()
    }

    async fn prune(&self) {
        match self.journal.prune(self.clock.now()).await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(removed, "old entries of the journal were removed"),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "old entries of the journal cannot be removed"
            ),
        }
    }

    fn step(&self, step: Step) {
        if let Some(observer) = &self.settings.observer {
            observer(step);
        }
    }
}

/// What the journal has of a change.
enum Recalled {
    Answer(Answer),
    Entry(Entry),
}

/// What the connector did, with the response.
struct Made {
    response: Any,
    annotations: Vec<Any>,
    effect: Effect,
    request_ids: Vec<String>,
    /// The thing that was made, where there was none before.
    subject: Option<String>,
}

impl Made {
    /// What was done to a thing that the request names, with the annotations in the response and beside it.
    fn of<T>(
        done: Done<T>,
        annotations: Vec<Any>,
        response: impl FnOnce(T, Vec<Any>) -> Any,
    ) -> Self {
        Self {
            response: response(done.value, annotations.clone()),
            annotations,
            effect: done.effect,
            request_ids: done.request_ids,
            subject: None,
        }
    }
}

fn result_of(account: provision::Account) -> v2::create_account_response::Result {
    use v2::create_account_response::{AlreadyExistsResult, Result, SuccessResult};

    let resource = Some(account.resource);
    if account.existed {
        Result::AlreadyExists(AlreadyExistsResult {
            resource,
            is_create_account_result: true,
        })
    } else {
        Result::Success(SuccessResult {
            resource,
            is_create_account_result: true,
            invitation_expires_at: None,
        })
    }
}

/// Puts plans into the journal before they are carried out.
struct Recorder<'a> {
    shared: &'a Shared,
    /// The plans of this attempt.
    planned: Mutex<Vec<Plan>>,
    entry: tokio::sync::Mutex<Entry>,
    progress: Option<&'a Progress<'a>>,
}

#[async_trait]
impl Ledger for Recorder<'_> {
    async fn intend(&self, plan: &Plan) -> Result<Permit, connector::Error> {
        self.shared.step(Step::Planned);
        if self.shared.settings.mode == ProvisioningMode::DryRun {
            lock(&self.planned).push(plan.clone());
            return Ok(Permit::Pretend);
        }
        let mut entry = self.entry.lock().await;
        entry.intend(plan, self.shared.clock.now());
        self.shared
            .journal
            .save(&entry)
            .await
            .map_err(|source| connector::Error::Local {
                what: "the plan of this change cannot be recorded, so it was not carried out; the work directory must be \
                       writable and have room"
                    .to_owned(),
                source,
            })?;
        lock(&self.planned).push(plan.clone());
        self.shared.step(Step::Intended);
        Ok(Permit::Write)
    }

    fn progress(&self, percent: u8, text: &str) {
        if let Some(progress) = self.progress {
            progress(percent, text);
        }
    }
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(ID_LIMIT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
