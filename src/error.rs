//! How failures are classed. Retry, task outcome and log level are decided from [`Class`] and [`Code`] only.

use std::{fmt, time::Duration};

/// The status codes of gRPC, which the product uses for task results and exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of google.rpc.Code")]
#[repr(i32)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with this number; any other number is [`Code::Unknown`], as in gRPC itself.
    pub fn from_number(number: i32) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| code.number() == number)
            .unwrap_or(Self::Unknown)
    }

    /// The number on the wire, which is also the exit code of a one-shot run.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The code that Go connectors give to an HTTP status (the HTTP helper of the SDK).
    pub fn from_http(status: u16) -> Self {
        match status {
            401 => Self::Unauthenticated,
            402 | 403 => Self::PermissionDenied,
            404 | 410 => Self::NotFound,
            408 => Self::DeadlineExceeded,
            409 => Self::AlreadyExists,
            412 => Self::FailedPrecondition,
            501 => Self::Unimplemented,
            429 | 500..=599 => Self::Unavailable,
            400..=499 => Self::InvalidArgument,
            _ => Self::Unknown,
        }
    }

    /// The class that this code has when nothing more is known.
    pub fn class(self) -> Class {
        match self {
            Self::Unavailable | Self::DeadlineExceeded | Self::Aborted | Self::Internal => {
                Class::Retryable
            }
            Self::ResourceExhausted => Class::Throttled(None),
            Self::Unauthenticated | Self::PermissionDenied => Class::Auth,
            Self::NotFound => Class::NotFound,
            Self::Cancelled => Class::Cancelled,
            Self::Ok
            | Self::Unknown
            | Self::InvalidArgument
            | Self::AlreadyExists
            | Self::FailedPrecondition
            | Self::OutOfRange
            | Self::Unimplemented
            | Self::DataLoss => Class::Permanent,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Trying again may help.
    Retryable,
    /// Trying again helps after a pause, of this length where the peer said so.
    Throttled(Option<Duration>),
    /// A credential or a permission is missing; a person must act.
    Auth,
    /// The object does not exist.
    NotFound,
    /// Trying again gives the same answer.
    Permanent,
    /// The work was stopped on purpose.
    Cancelled,
}

/// An error of a boundary that says what can be done about it.
pub trait Classify {
    /// The class of this failure.
    fn class(&self) -> Class;
    /// The gRPC code that reports this failure to ConductorOne and to the shell.
    fn code(&self) -> Code;
}

/// What a peer said of a request in its own words, which may name a person: the innermost source of an error.
///
/// For ConductorOne and the shell, which asked; not for logs above debug, Events, the admin server or the audit trail,
/// which have [`told`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Words(String);

impl Words {
    /// The words, or `None` where there are none.
    pub fn new(words: impl Into<String>) -> Option<Self> {
        Some(words.into())
            .filter(|words| !words.is_empty())
            .map(Self)
    }

    /// The words themselves.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The whole chain of an error on one line, outermost first, with the words of a peer.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    joined(error, |_| true)
}

/// The chain of an error without the words of a peer, which may name a person.
pub fn told(error: &(dyn std::error::Error + 'static)) -> String {
    joined(error, |inner| !inner.is::<Words>())
}

fn joined(
    error: &(dyn std::error::Error + 'static),
    takes: impl Fn(&(dyn std::error::Error + 'static)) -> bool,
) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if takes(inner) && !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// A name that came from a peer, quoted and capped for use in a message.
pub fn quoted(name: &str) -> String {
    const LIMIT: usize = 64;
    match name.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{:?}…", name.get(..end).unwrap_or_default()),
        None => format!("{name:?}"),
    }
}
