//! One handler for each kind of task, and the registry that finds it.
//!
//! A handler turns one task into an [`Outcome`] or an [`Error`]; it never reports the end of a task itself, never
//! retries what the dispatcher retries, and never sees the connection to ConductorOne but through
//! [`ControlPlane`]. Invariants: every kind has a handler; a handler that is asked to stop through
//! [`Context::cancel`] leaves no file behind but what its next attempt goes on with.
//!
//! What each kind is answered with:
//!
//! | Kind | Answer |
//! |---|---|
//! | `hello` | a Hello with the task's id, and no `FinishTask`; `FinishTask` only when that fails |
//! | `sync_full` | the uploaded file, then success without response and annotations; `FailedPrecondition`, not retryable, for a directory that has shrunk too much |
//! | `list_event_feeds` | an empty list: this connector has no event feeds |
//! | `list_events` | `NotFound`, not retryable: no feed exists under any name |
//! | `grant`, `revoke`, `create_account`, `create_resource`, `delete_resource`, `rotate_credential` | what [`crate::provisioning`] made of it; `FailedPrecondition` while provisioning is off, and in a dry run with the plan; not retryable |
//! | `issue_credential` | `Unimplemented`, not retryable (`FailedPrecondition` while provisioning is off) |
//! | `list_action_schemas`, `get_action_schema` | the schemas; `NotFound` for a name that is not there |
//! | `invoke_action`, `action_status` | the state of the run; the first fails with the run |
//! | tickets, `event_feed`, `create_sync_diff`, `compact_syncs`, and kinds this version does not know | `Unimplemented`, not retryable |

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    connector::{self, Connector},
    control_plane::{self, ControlPlane},
    error::{Class, Classify, Code, Words},
    notice::Notices,
    proto::{
        Any,
        baton::{self, task::TaskType},
    },
    provisioning::{self, Provisioning},
    syncer,
    telemetry::metrics::Metrics,
};

pub mod actions;
pub mod changes;
pub mod event_feeds;
pub mod full_sync;
pub mod hello;
pub mod unsupported;

/// The kinds of task that the contract knows, one for each member of `Task.task_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the names are those of the members of Task.task_type"
)]
pub enum Kind {
    None,
    Hello,
    SyncFull,
    Grant,
    Revoke,
    CreateAccount,
    CreateResource,
    DeleteResource,
    RotateCredentials,
    EventFeed,
    CreateTicket,
    ListTicketSchemas,
    GetTicket,
    BulkCreateTickets,
    BulkGetTickets,
    ActionListSchemas,
    ActionGetSchema,
    ActionInvoke,
    ActionStatus,
    CreateSyncDiff,
    CompactSyncs,
    ListEventFeeds,
    ListEvents,
    IssueCredential,
    /// The task has no type, or one that this version does not know.
    Unknown,
}

impl Kind {
    /// Every kind, in the order of the contract.
    pub const ALL: [Self; 25] = [
        Self::None,
        Self::Hello,
        Self::SyncFull,
        Self::Grant,
        Self::Revoke,
        Self::CreateAccount,
        Self::CreateResource,
        Self::DeleteResource,
        Self::RotateCredentials,
        Self::EventFeed,
        Self::CreateTicket,
        Self::ListTicketSchemas,
        Self::GetTicket,
        Self::BulkCreateTickets,
        Self::BulkGetTickets,
        Self::ActionListSchemas,
        Self::ActionGetSchema,
        Self::ActionInvoke,
        Self::ActionStatus,
        Self::CreateSyncDiff,
        Self::CompactSyncs,
        Self::ListEventFeeds,
        Self::ListEvents,
        Self::IssueCredential,
        Self::Unknown,
    ];

    /// Whether a success of this kind has changed the directory, or may have.
    pub const fn is_change(self) -> bool {
        matches!(
            self,
            Self::Grant
                | Self::Revoke
                | Self::CreateAccount
                | Self::CreateResource
                | Self::DeleteResource
                | Self::RotateCredentials
                | Self::IssueCredential
                | Self::ActionInvoke
        )
    }

    /// The kind of a task.
    pub const fn of(task: &baton::Task) -> Self {
        match &task.task_type {
            None => Self::Unknown,
            Some(TaskType::None(_)) => Self::None,
            Some(TaskType::Hello(_)) => Self::Hello,
            Some(TaskType::SyncFull(_)) => Self::SyncFull,
            Some(TaskType::Grant(_)) => Self::Grant,
            Some(TaskType::Revoke(_)) => Self::Revoke,
            Some(TaskType::CreateAccount(_)) => Self::CreateAccount,
            Some(TaskType::CreateResource(_)) => Self::CreateResource,
            Some(TaskType::DeleteResource(_)) => Self::DeleteResource,
            Some(TaskType::RotateCredentials(_)) => Self::RotateCredentials,
            Some(TaskType::EventFeed(_)) => Self::EventFeed,
            Some(TaskType::CreateTicketTask(_)) => Self::CreateTicket,
            Some(TaskType::ListTicketSchemas(_)) => Self::ListTicketSchemas,
            Some(TaskType::GetTicket(_)) => Self::GetTicket,
            Some(TaskType::BulkCreateTickets(_)) => Self::BulkCreateTickets,
            Some(TaskType::BulkGetTickets(_)) => Self::BulkGetTickets,
            Some(TaskType::ActionListSchemas(_)) => Self::ActionListSchemas,
            Some(TaskType::ActionGetSchema(_)) => Self::ActionGetSchema,
            Some(TaskType::ActionInvoke(_)) => Self::ActionInvoke,
            Some(TaskType::ActionStatus(_)) => Self::ActionStatus,
            Some(TaskType::CreateSyncDiff(_)) => Self::CreateSyncDiff,
            Some(TaskType::CompactSyncs(_)) => Self::CompactSyncs,
            Some(TaskType::ListEventFeeds(_)) => Self::ListEventFeeds,
            Some(TaskType::ListEvents(_)) => Self::ListEvents,
            Some(TaskType::IssueCredential(_)) => Self::IssueCredential,
        }
    }

    /// The name used in logs and messages, the one that the SDK uses too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hello => "hello",
            Self::SyncFull => "sync_full",
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::CreateAccount => "create_account",
            Self::CreateResource => "create_resource",
            Self::DeleteResource => "delete_resource",
            Self::RotateCredentials => "rotate_credential",
            Self::EventFeed => "event_feed",
            Self::CreateTicket => "create_ticket",
            Self::ListTicketSchemas => "list_ticket_schemas",
            Self::GetTicket => "get_ticket",
            Self::BulkCreateTickets => "bulk_create_tickets",
            Self::BulkGetTickets => "bulk_get_tickets",
            Self::ActionListSchemas => "list_action_schemas",
            Self::ActionGetSchema => "get_action_schema",
            Self::ActionInvoke => "invoke_action",
            Self::ActionStatus => "action_status",
            Self::CreateSyncDiff => "create_sync_diff",
            Self::CompactSyncs => "compact_syncs",
            Self::ListEventFeeds => "list_event_feeds",
            Self::ListEvents => "list_events",
            Self::IssueCredential => "issue_credential",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the kind is about tickets.
    pub const fn is_ticketing(self) -> bool {
        matches!(
            self,
            Self::CreateTicket
                | Self::ListTicketSchemas
                | Self::GetTicket
                | Self::BulkCreateTickets
                | Self::BulkGetTickets
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a handler may use while it works on one task.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The id of the task: 27 alphanumerics.
    pub task_id: &'a str,
    /// The kind of the task.
    pub kind: Kind,
    /// Asks the handler to stop and clean up.
    pub cancel: &'a CancellationToken,
    /// ConductorOne wants the task no more; fires before `cancel`. Work that could be gone on with is thrown away then.
    pub revoked: &'a CancellationToken,
    /// The connection to ConductorOne, for uploads and for Hello.
    pub control_plane: &'a dyn ControlPlane,
    /// Hears what people should know.
    pub notices: &'a Notices,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("task_id", &self.task_id)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// How a task that did not fail is reported.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Another call has answered the task already: no `FinishTask` is sent.
    Answered,
    /// `FinishTask` with `success`.
    Finished {
        /// The response message of the connector operation, if the kind has one.
        response: Option<Any>,
        /// Annotations beside the response.
        annotations: Vec<Any>,
    },
}

impl Outcome {
    /// Success with a response and no annotations.
    pub const fn response(response: Any) -> Self {
        Self::Finished {
            response: Some(response),
            annotations: Vec::new(),
        }
    }
}

/// Does the work of one kind of task.
#[async_trait]
pub trait TaskHandler: Send + Sync + 'static {
    /// Works on a task until it is done, failed, or stopped through [`Context::cancel`].
    ///
    /// Not meant to be dropped midway: the dispatcher cancels first, and drops only what does not stop in time.
    async fn handle(&self, task: &baton::Task, context: Context<'_>) -> Result<Outcome, Error>;
}

/// Why a task could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This version has no handler for the kind.
    #[error("task type {kind} is not supported by baton-jumpcloud {version}", version = env!("CARGO_PKG_VERSION"))]
    Unsupported {
        /// The kind asked for.
        kind: Kind,
    },
    /// The task has no type, or one that did not exist when this version was built.
    #[error("the task has no type that baton-jumpcloud {version} knows; a newer version may", version = env!("CARGO_PKG_VERSION"))]
    UnknownType,
    /// The contract has it, and JumpCloud has nothing of the kind.
    #[error("this connector does not support {what}")]
    NotOffered {
        /// What was asked for, and why there is none.
        what: &'static str,
    },
    /// Provisioning is a dry run, so nothing was changed.
    #[error("{plan}")]
    DryRun {
        /// What would have been done.
        plan: String,
    },
    /// The change was not made, or is not known to be.
    #[error(transparent)]
    Provisioning(#[from] provisioning::Error),
    /// The action that the task asked for has run and failed.
    #[error("the action failed")]
    ActionFailed {
        /// The code of the failure.
        code: Code,
        /// The text of the failure, with what the directory said.
        #[source]
        words: Option<Words>,
    },
    /// The task lacks a field, or has one in the wrong form.
    #[error("malformed {kind} task: {problem}")]
    Malformed {
        /// The kind of the task.
        kind: Kind,
        /// The field, the shape of its value, and what is expected.
        problem: String,
    },
    /// The task names something that does not exist here.
    #[error("{what} not found")]
    NotFound {
        /// Kind and name of the thing.
        what: String,
    },
    /// The task was stopped on purpose.
    #[error("the task was stopped")]
    Stopped,
    /// The directory failed.
    #[error(transparent)]
    Connector(#[from] connector::Error),
    /// The sync failed.
    #[error("the sync failed")]
    Sync(#[source] syncer::Error),
    /// The file was made and not uploaded, because it holds far less than the last one.
    #[error(
        "the sync was not uploaded, because ConductorOne would take what is missing for access that was taken away: since \
         the last sync ({since:.0}) {drops}, more than shrink-limit allows ({limit} %); check what JumpCloud holds and what \
         the key may read, and if the directory has shrunk, set shrink-accept-until to a time after the next sync"
    )]
    Shrunk {
        /// Which rows of which types, before and now.
        drops: String,
        /// When the last good sync was finished.
        since: Timestamp,
        /// The largest share that may go, in percent.
        limit: u8,
    },
    /// The file was made but could not be uploaded.
    #[error("the upload of the sync file failed")]
    Upload(#[source] control_plane::Error),
    /// ConductorOne did not accept the Hello that answers the task.
    #[error("the answer to the hello task failed")]
    Hello(#[source] control_plane::Error),
    /// The working folder could not be used.
    #[error("cannot {action}")]
    WorkDir {
        /// What was being done, with the path.
        action: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether this connector, as it is configured, refuses such tasks altogether.
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Unsupported { .. }
                | Self::UnknownType
                | Self::NotOffered { .. }
                | Self::DryRun { .. }
                | Self::Provisioning(provisioning::Error::Off)
        )
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Unsupported { .. }
            | Self::UnknownType
            | Self::NotOffered { .. }
            | Self::DryRun { .. }
            | Self::Shrunk { .. }
            | Self::Malformed { .. } => Class::Permanent,
            Self::ActionFailed { code, .. } => code.class(),
            Self::Provisioning(error) => error.class(),
            Self::NotFound { .. } => Class::NotFound,
            Self::Stopped => Class::Cancelled,
            Self::Connector(error) => error.class(),
            Self::Sync(error) => error.class(),
            Self::Upload(error) | Self::Hello(error) => error.class(),
            Self::WorkDir { .. } => Class::Retryable,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Unsupported { .. } | Self::UnknownType | Self::NotOffered { .. } => {
                Code::Unimplemented
            }
            Self::DryRun { .. } | Self::Shrunk { .. } => Code::FailedPrecondition,
            Self::Provisioning(error) => error.code(),
            Self::ActionFailed { code, .. } => *code,
            Self::Malformed { .. } => Code::InvalidArgument,
            Self::NotFound { .. } => Code::NotFound,
            Self::Stopped => Code::Cancelled,
            Self::Connector(error) => error.code(),
            Self::Sync(error) => error.code(),
            Self::Upload(error) | Self::Hello(error) => error.code(),
            Self::WorkDir { .. } => Code::Internal,
        }
    }
}

/// What the handlers need to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of temporary files; must exist and be writable.
    pub work_dir: PathBuf,
    /// What makes changes.
    pub provisioning: Arc<Provisioning>,
    /// What local flags say about syncs.
    pub sync: full_sync::LocalOptions,
    /// Where syncs are counted.
    pub metrics: Metrics,
}

/// Finds the handler of a task; every kind has one.
#[derive(Clone)]
pub struct Registry {
    announcement: Arc<hello::Announcement>,
    by_kind: BTreeMap<Kind, Arc<dyn TaskHandler>>,
    fallback: Arc<dyn TaskHandler>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("kinds", &self.by_kind.keys())
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// The handlers of the product for a connector.
    ///
    /// Reads facts about the operating system from a few small files; call it once, at start.
    pub fn new(connector: &Arc<dyn Connector>, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let announcement = Arc::new(hello::Announcement::new(
            Arc::clone(connector),
            hello::SystemInfo::detect(),
        ));
        let mut by_kind: BTreeMap<Kind, Arc<dyn TaskHandler>> = BTreeMap::new();
        by_kind.insert(
            Kind::Hello,
            Arc::new(hello::Hello::new(Arc::clone(&announcement))),
        );
        by_kind.insert(
            Kind::SyncFull,
            Arc::new(
                full_sync::FullSync::new(
                    Arc::clone(connector),
                    clock,
                    settings.work_dir,
                    settings.sync,
                    settings.metrics,
                )
                .remembering(settings.provisioning.place().clone()),
            ),
        );
        let event_feeds: Arc<dyn TaskHandler> = Arc::new(event_feeds::EventFeeds);
        by_kind.insert(Kind::ListEventFeeds, Arc::clone(&event_feeds));
        by_kind.insert(Kind::ListEvents, event_feeds);
        let actions: Arc<dyn TaskHandler> =
            Arc::new(actions::Actions::new(Arc::clone(&settings.provisioning)));
        for kind in [
            Kind::ActionListSchemas,
            Kind::ActionGetSchema,
            Kind::ActionInvoke,
            Kind::ActionStatus,
        ] {
            by_kind.insert(kind, Arc::clone(&actions));
        }
        let changes: Arc<dyn TaskHandler> = Arc::new(changes::Changes::new(settings.provisioning));
        for kind in [
            Kind::Grant,
            Kind::Revoke,
            Kind::CreateAccount,
            Kind::CreateResource,
            Kind::DeleteResource,
            Kind::RotateCredentials,
            Kind::IssueCredential,
        ] {
            by_kind.insert(kind, Arc::clone(&changes));
        }
        Self {
            announcement,
            by_kind,
            fallback: Arc::new(unsupported::Unsupported),
        }
    }

    /// Replaces the handler of a kind.
    #[must_use]
    pub fn with(mut self, kind: Kind, handler: Arc<dyn TaskHandler>) -> Self {
        self.by_kind.insert(kind, handler);
        self
    }

    /// The handler of a kind.
    pub fn handler(&self, kind: Kind) -> &dyn TaskHandler {
        self.by_kind.get(&kind).unwrap_or(&self.fallback).as_ref()
    }

    /// The Hello that this process sends at start, or in answer to the hello task with this id.
    pub fn hello(&self, task_id: &str) -> baton::BatonServiceHelloRequest {
        self.announcement.request(task_id)
    }
}
