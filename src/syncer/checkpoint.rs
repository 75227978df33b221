//! How far a sync has come, in the form in which it waits for the next process.
//!
//! A checkpoint names the phase and, inside a phase, the listings that are not done. What a listing had stored when the
//! process died is deleted and read again, so that the file never holds rows of two readings of one listing. Written
//! between the pages of the listings and never ahead of the rows: everything that it calls done is in the database.

use serde::{Deserialize, Serialize};

use super::token::Quality;
use crate::c1z::GrantOutcome;

/// Raised with every change of meaning; another number makes a sync begin anew.
const FORMAT: u32 = 1;

/// The phases in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    Resources,
    StaticEntitlements,
    Entitlements,
    Grants,
    Expansion,
    Seal,
}

impl Phase {
    /// The name in logs, progress and statistics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Resources => "resources",
            Self::StaticEntitlements => "static entitlements",
            Self::Entitlements => "entitlements",
            Self::Grants => "grants",
            Self::Expansion => "expansion",
            Self::Seal => "seal",
        }
    }
}

/// What is left of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Position {
    /// All of it.
    Start,
    /// The listings of these resource types.
    Types(Vec<String>),
    /// The listings of some stored resources, by row, and of everything after them.
    Rows {
        /// Begun and not done.
        open: Vec<i64>,
        /// The type whose resources come next; `None` = no more.
        type_id: Option<String>,
        /// The last of its rows that was taken.
        after: i64,
    },
}

impl Position {
    /// The resource types that are left; `None` = all.
    pub(super) fn types(self) -> Option<Vec<String>> {
        match self {
            Self::Types(types) => Some(types),
            Self::Start | Self::Rows { .. } => None,
        }
    }
}

/// What was counted so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    pub(super) enqueued: u64,
    pub(super) drained: u64,
    pub(super) completed: u64,
    /// Listings that answered "not found".
    pub(super) missing: u64,
    pub(super) warnings: Vec<String>,
    /// Warnings beyond those kept.
    pub(super) more_warnings: u64,
    pub(super) quality: Quality,
    pub(super) grants: GrantOutcome,
    pub(super) has_external_matches: bool,
}

impl Counters {
    /// Adds what one listing counted.
    pub(super) fn add(&mut self, listing: &Self) {
        self.enqueued += listing.enqueued;
        self.drained += listing.drained;
        self.completed += listing.completed;
        self.missing += listing.missing;
        self.warnings.extend_from_slice(&listing.warnings);
        self.more_warnings += listing.more_warnings;
        self.quality.add(listing.quality);
        self.grants.add(listing.grants);
        self.has_external_matches |= listing.has_external_matches;
    }
}

/// The state of an unfinished sync.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// Which meaning the rest has.
    pub(super) format: u32,
    pub(super) phase: Phase,
    pub(super) position: Position,
    /// What the start-up check said; it is not repeated.
    pub(super) notes: Vec<String>,
    /// Resource types that may not be read.
    pub(super) unreadable: Vec<String>,
    pub(super) counters: Counters,
    /// Grants before the expansion, once that is known.
    pub(super) direct_grants: Option<u64>,
    /// See [`Connector::pace`](crate::connector::Connector::pace).
    pub(super) pace: u64,
}

impl Checkpoint {
    /// A sync that has done nothing yet.
    pub(super) fn at_start(notes: Vec<String>, unreadable: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            phase: Phase::Resources,
            position: Position::Start,
            notes,
            unreadable,
            counters: Counters::default(),
            direct_grants: None,
            pace: 0,
        }
    }

    /// Reads a checkpoint back; the error says why it cannot be gone on from.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it ended before its first checkpoint".to_owned());
        }
        let read: Self = serde_json::from_str(text)
            .map_err(|error| format!("its checkpoint cannot be read: {error}"))?;
        if read.format == FORMAT {
            Ok(read)
        } else {
            Err(format!(
                "its checkpoint has format {}, this version writes {FORMAT}",
                read.format
            ))
        }
    }

    /// The text that [`Checkpoint::parse`] reads. Nothing in it can fail to be written; an empty text makes a sync begin
    /// anew.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
