//! What one sync remembers between calls: cached listings, ids seen, warnings.
//!
//! A session is made by the first call that names its sync and dropped by the clean-up of that sync; nothing outlives
//! it, so a daemon never answers one sync from the data of another. Memory grows with ids, never with whole objects.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use tokio::sync::OnceCell;

use super::{
    administrators::Administrators,
    ids::Id,
    listing::{End, Listing, LongEdges},
    roles::Roles,
    users::Users,
};
use crate::supervisor::lock;

/// The memory of one sync.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Read once, by whoever needs them first.
    pub(super) administrators: OnceCell<Arc<Administrators>>,
    /// Read by the first page of users.
    pub(super) users: OnceCell<Arc<Users>>,
    /// Read once, by whoever needs them first.
    pub(super) roles: OnceCell<Arc<Roles>>,
    /// Read by the first page of groups.
    pub(super) groups: OnceCell<Arc<Listing>>,
    /// Read by the first page of applications.
    pub(super) apps: OnceCell<Arc<Listing>>,
    /// Members and bindings that take several pages.
    pub(super) long_edges: LongEdges,
    warnings: Mutex<BTreeMap<Warning, Tally>>,
}

impl Session {
    /// Whether the list that this sync read lacks the far end of an edge; `false` while the list was not read.
    pub(super) fn dangles(&self, end: End, id: &Id) -> bool {
        match end {
            End::User => self.users.get().is_some_and(|users| !users.contains(id)),
            End::Group => self.groups.get().is_some_and(|groups| !groups.contains(id)),
        }
    }

    /// Counts a warning; the first few ids are kept as examples.
    pub(super) fn warn(&self, warning: Warning, example: &str) {
        let mut warnings = lock(&self.warnings);
        let tally = warnings.entry(warning).or_default();
        tally.count += 1;
        if !example.is_empty() && tally.examples.len() < MAX_EXAMPLES {
            tally.examples.push(super::profile::clip(example, 128));
        }
    }

    /// The warnings so far, each kind once; they are told only once.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.warnings))
            .into_iter()
            .map(|(warning, tally)| tally.sentence(warning))
            .collect()
    }
}

const MAX_EXAMPLES: usize = 3;

#[derive(Debug, Default)]
struct Tally {
    count: u64,
    examples: Vec<String>,
}

impl Tally {
    fn sentence(&self, warning: Warning) -> String {
        let Self { count, examples } = self;
        let text = warning.text();
        if examples.is_empty() {
            format!("{text} ({count})")
        } else {
            format!("{text} ({count}, such as {})", examples.join(", "))
        }
    }
}

/// What can be odd about a tenant without making its sync wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Warning {
    /// A row without an id that could be stored.
    RowWithoutId,
    /// A user whose e-mail is no address.
    EmailUnusable,
    /// A group member that is no user of this sync.
    DanglingMember,
    /// An application's user that is no user of this sync.
    DanglingAssignee,
    /// An application's group that is no group of this sync.
    DanglingGroup,
    /// An edge to something that is neither user nor group.
    StrangeEdge,
    /// Several directory users or administrators share the e-mail or link, so nothing was merged.
    AmbiguousAdministrator,
    /// The list of roles could not be read.
    RolesUnreadable,
    /// Two role names give the same id.
    RolesMerged,
}

impl Warning {
    const fn text(self) -> &'static str {
        match self {
            Self::RowWithoutId => "rows without a usable id were left out",
            Self::EmailUnusable => "e-mail texts that are no address were left out",
            Self::DanglingMember => "group members that are not in the list of users were left out",
            Self::DanglingAssignee => {
                "users bound to an application that are not in the list of users were left out"
            }
            Self::DanglingGroup => {
                "groups bound to an application that are not in the list of groups were left out"
            }
            Self::StrangeEdge => {
                "bindings to objects that are neither user nor group were left out"
            }
            Self::AmbiguousAdministrator => {
                "administrators that fit more than one directory user were not merged"
            }
            Self::RolesUnreadable => {
                "the list of administrator roles could not be read, so built-in roles and those in use were taken; \
                 allow the key to read roles to see all of them"
            }
            Self::RolesMerged => {
                "roles whose names differ only in punctuation or case share one id"
            }
        }
    }
}

/// The sessions of all running syncs.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// The session of a sync, made when it is new.
    pub(super) fn of(&self, sync_id: &str) -> Arc<Session> {
        let mut sessions = lock(&self.0);
        if let Some(session) = sessions.get(sync_id) {
            return Arc::clone(session);
        }
        let session = Arc::new(Session::default());
        sessions.insert(sync_id.to_owned(), Arc::clone(&session));
        session
    }

    /// The session of a sync, if it has one.
    pub(super) fn find(&self, sync_id: &str) -> Option<Arc<Session>> {
        lock(&self.0).get(sync_id).cloned()
    }

    /// Drops the session of a sync.
    pub(super) fn end(&self, sync_id: &str) {
        lock(&self.0).remove(sync_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_counted_and_told_once() {
        let session = Session::default();
        for example in ["a", "b", "c", "d"] {
            session.warn(Warning::DanglingMember, example);
        }
        assert_eq!(
            session.take_warnings(),
            ["group members that are not in the list of users were left out (4, such as a, b, c)"]
        );
        assert!(session.take_warnings().is_empty());
    }

    #[test]
    fn sessions_end_with_their_sync() {
        let sessions = Sessions::default();
        let first = sessions.of("a");
        assert!(Arc::ptr_eq(&first, &sessions.of("a")));
        sessions.end("a");
        assert!(sessions.find("a").is_none());
        assert!(!Arc::ptr_eq(&first, &sessions.of("a")));
    }
}
