//! The port to the directory: what the sync engine and the task handlers need of a connector.
//!
//! The messages are those of `c1.connector.v2`; [`Page`] carries one page of a listing.

use std::path::PathBuf;

use async_trait::async_trait;

use crate::{
    error::{Class, Classify, Code, Words},
    proto::{Any, connector as v2},
};

pub mod jumpcloud;
pub mod provision;

/// One page of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows, in the order of the directory.
    pub items: Vec<T>,
    /// Opaque and non-empty; `None` on the last page.
    pub next: Option<String>,
    /// Annotations of the response, such as `EnqueuePageTokens`.
    pub annotations: Vec<Any>,
}

impl<T> Page<T> {
    /// A page without successor and annotations.
    pub fn last(items: Vec<T>) -> Self {
        Self {
            items,
            next: None,
            annotations: Vec::new(),
        }
    }
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self::last(Vec::new())
    }
}

/// What every listing of one sync has in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SyncScope {
    /// The id of the running sync; state kept between calls belongs to it and ends with [`Connector::cleanup`].
    pub sync_id: String,
    /// The resource types that this sync reads; empty means all. Lets a connector skip what nobody will store.
    pub resource_type_ids: Vec<String>,
    /// A folder that lives as long as this sync, over restarts of the process: what a connector keeps there it finds
    /// again when the sync goes on. `None` = nothing outlives the process.
    pub folder: Option<PathBuf>,
}

/// What a directory lets its reader read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validation {
    /// What people should know (a read-only key, an optional part that is switched off).
    pub warnings: Vec<String>,
    /// Resource types that cannot be read, and that the operator allows to be missing. A sync leaves them out whole, so
    /// that none looks empty.
    pub unreadable: Vec<String>,
}

/// A directory that can be synced. Methods are called concurrently; every future is cancel-safe.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Name, description, capabilities and account schema, as sent in Hello.
    fn metadata(&self) -> v2::ConnectorMetadata;

    /// Checks the credentials and each permission that a sync needs.
    ///
    /// What cannot be read is an error, unless the operator allows it to be missing.
    async fn validate(&self) -> Result<Validation, Error>;

    /// All resource types, in a fixed order.
    fn resource_types(&self) -> Vec<v2::ResourceType>;

    /// One page of the resources of a type under a parent (`None` = top level).
    async fn list_resources(
        &self,
        scope: &SyncScope,
        resource_type_id: &str,
        parent: Option<&v2::ResourceId>,
        page: Option<&str>,
    ) -> Result<Page<v2::Resource>, Error>;

    /// One resource by id (targeted sync).
    async fn get_resource(
        &self,
        scope: &SyncScope,
        id: &v2::ResourceId,
    ) -> Result<v2::Resource, Error>;

    /// Entitlement templates that every resource of a type has; most types have none.
    async fn list_static_entitlements(
        &self,
        _scope: &SyncScope,
        _resource_type_id: &str,
        _page: Option<&str>,
    ) -> Result<Page<v2::Entitlement>, Error> {
        Ok(Page::default())
    }

    /// One page of the entitlements of a resource.
    async fn list_entitlements(
        &self,
        scope: &SyncScope,
        resource: &v2::Resource,
        page: Option<&str>,
    ) -> Result<Page<v2::Entitlement>, Error>;

    /// One page of the grants on the entitlements of a resource.
    async fn list_grants(
        &self,
        scope: &SyncScope,
        resource: &v2::Resource,
        page: Option<&str>,
    ) -> Result<Page<v2::Grant>, Error>;

    /// Warnings gathered since the sync began (dangling members, guessed roles); emptied by the call.
    fn take_warnings(&self, _sync_id: &str) -> Vec<String> {
        Vec::new()
    }

    /// Tells one directory, and the way in which it is read, from another: rows of two syncs may only be mixed where it is
    /// the same. A credential in it is hashed with the salt.
    fn fingerprint(&self, salt: &str) -> String;

    /// How fast the directory may be asked at this moment, in a unit of the connector's own; 0 = it does not say.
    fn pace(&self) -> u64 {
        0
    }

    /// Starts with a pace that an earlier process found out.
    fn set_pace(&self, _pace: u64) {}

    /// Ends a sync: everything kept for it in memory is dropped, whether the sync succeeded or not. What is in its folder
    /// stays; the folder belongs to whoever made it.
    async fn cleanup(&self, sync_id: &str);
}

/// A failure of the directory, or of a request that it cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory answered with an HTTP error.
    #[error("{method} {endpoint} answered {status}{}", detail(.advice))]
    Http {
        /// The HTTP method.
        method: &'static str,
        /// The path template, such as `/api/v2/usergroups/{id}/members`.
        endpoint: &'static str,
        /// The status code.
        status: u16,
        /// What we know of such an answer, and what to do; may be empty.
        advice: String,
        /// The directory's own words, trimmed.
        #[source]
        words: Option<Words>,
        /// How long the directory asks to wait.
        retry_after: Option<std::time::Duration>,
    },
    /// The request did not get an answer.
    #[error("{method} {endpoint} got no answer ({kind})")]
    Transport {
        /// The HTTP method.
        method: &'static str,
        /// The path template.
        endpoint: &'static str,
        /// `connect`, `timeout`, `body`, `tls` or `other`.
        kind: &'static str,
        /// The cause, without the URL.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer could not be understood.
    #[error("{method} {endpoint} answered what cannot be read: field {field}: {problem}")]
    Decode {
        /// The HTTP method.
        method: &'static str,
        /// The path template.
        endpoint: &'static str,
        /// The path of the field inside the answer, `.` for the whole.
        field: String,
        /// What is wrong with it, without the value.
        problem: String,
    },
    /// The object asked for does not exist.
    #[error("{what} not found")]
    NotFound {
        /// Kind and id.
        what: String,
    },
    /// The request names something that this connector does not have, or in the wrong form.
    #[error("{what}")]
    Invalid {
        /// The field, its shape and what to do.
        what: String,
    },
    /// One or more permissions that the sync needs are missing.
    #[error("{what}")]
    Permission {
        /// Every missing permission and what to do.
        what: String,
        /// The directory's own words, where it refused one request.
        #[source]
        words: Option<Words>,
    },
    /// The credentials were refused.
    #[error("{what}")]
    Unauthenticated {
        /// Which credential and what to do.
        what: String,
        /// The directory's own words.
        #[source]
        words: Option<Words>,
    },
    /// The change is not allowed as things are; the words say which rule forbids it and what to do instead.
    #[error("{what}")]
    Refused {
        /// The rule and the way out.
        what: String,
    },
    /// This connector cannot do this at all, or not for this resource type.
    #[error("{what}")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// What the directory shows does not fit together, and may yet: a change that was sent does not show in time, or
    /// something is not found although it should be there.
    #[error("{what}")]
    Unconfirmed {
        /// What was sent or expected, and what was seen instead.
        what: String,
    },
    /// The change was stopped before anything was written.
    #[error("the change was stopped before anything was written")]
    Cancelled,
    /// The change was asked to stop between two of its writes; what is left of it is done when it is asked for again.
    #[error("{what}")]
    Halted {
        /// How far it came.
        what: String,
    },
    /// A failure on our own side, such as a full disk.
    #[error("{what}")]
    Local {
        /// What was being done.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

fn detail(advice: &str) -> String {
    if advice.is_empty() {
        String::new()
    } else {
        format!(": {advice}")
    }
}

impl Error {
    /// Whether the directory may have acted on the request although it did not say so.
    ///
    /// True for an answer that was lost on the way and for failures of the directory's own; false where the request
    /// never left, or was refused.
    pub fn may_have_been_applied(&self) -> bool {
        match self {
            Self::Transport { kind, .. } => !matches!(*kind, "connect" | "tls"),
            Self::Http { status, .. } => *status >= 500 || *status == 408,
            Self::Decode { .. } | Self::Unconfirmed { .. } => true,
            _ => false,
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Http {
                status: 429,
                retry_after,
                ..
            } => Class::Throttled(*retry_after),
            Self::Http {
                status,
                retry_after,
                ..
            } => match (Code::from_http(*status).class(), retry_after) {
                (Class::Retryable, Some(after)) => Class::Throttled(Some(*after)),
                (class, _) => class,
            },
            Self::Transport { .. } | Self::Local { .. } | Self::Unconfirmed { .. } => {
                Class::Retryable
            }
            Self::Cancelled | Self::Halted { .. } => Class::Cancelled,
            Self::NotFound { .. } => Class::NotFound,
            Self::Decode { .. }
            | Self::Invalid { .. }
            | Self::Refused { .. }
            | Self::Unsupported { .. } => Class::Permanent,
            Self::Permission { .. } | Self::Unauthenticated { .. } => Class::Auth,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Http { status, .. } => Code::from_http(*status),
            Self::Transport {
                kind: "timeout", ..
            } => Code::DeadlineExceeded,
            Self::Transport { .. } | Self::Unconfirmed { .. } => Code::Unavailable,
            Self::Decode { .. } | Self::Local { .. } => Code::Internal,
            Self::NotFound { .. } => Code::NotFound,
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::Refused { .. } => Code::FailedPrecondition,
            Self::Unsupported { .. } => Code::Unimplemented,
            Self::Cancelled | Self::Halted { .. } => Code::Cancelled,
            Self::Permission { .. } => Code::PermissionDenied,
            Self::Unauthenticated { .. } => Code::Unauthenticated,
        }
    }
}
