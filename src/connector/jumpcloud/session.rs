//! What one sync remembers between calls: cached listings, ids seen, warnings.
//!
//! A session is made by the first call that names its sync and dropped by the clean-up of that sync; nothing outlives
//! it, so a daemon never answers one sync from the data of another. Memory grows with ids, never with whole objects. What a
//! sync has to know after a restart is in the files of its folder, and read from there when it is needed.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::sync::OnceCell;

use super::{
    administrators::Administrators,
    client::Doubt,
    ids::Id,
    list_file,
    listing::{End, Listing, OpenEdges},
    roles::Roles,
    users::Users,
};
use crate::{connector::SyncScope, supervisor::lock};

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
    pub(super) open_edges: OpenEdges,
    /// Set when the lists that an earlier process read are in memory again.
    pub(super) recalled: OnceCell<()>,
    folder: Option<PathBuf>,
    warnings: Mutex<BTreeMap<Warning, Tally>>,
}

impl Session {
    fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            ..Self::default()
        }
    }

    /// The folder that lives as long as the sync, over restarts.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Counts the rows that a page of a list lacks.
    pub(super) fn warn_of(&self, page: &list_file::Page) {
        for _ in 0..page.nameless {
            self.warn(Warning::RowWithoutId, "");
        }
        for kind in &page.strange {
            self.warn(Warning::StrangeEdge, kind);
        }
    }

    /// Counts a list that may lack rows, because it changed whenever it was read.
    pub(super) fn doubt(&self, endpoint: &str, doubt: Doubt) {
        let promised = doubt
            .promised
            .map_or_else(|| "an unknown number".to_owned(), |rows| rows.to_string());
        let example = format!(
            "{endpoint}: {promised} promised, {} read, after {} readings",
            doubt.read, doubt.readings
        );
        self.warn(Warning::Moving, &example);
    }

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
    /// An administrator with the id of a directory user.
    IdTakenByUser,
    /// The list of roles could not be read.
    RolesUnreadable,
    /// Two role names give the same id.
    RolesMerged,
    /// A list that changed whenever it was read.
    Moving,
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
            Self::IdTakenByUser => {
                "administrators with the id of a directory user were left out of the accounts"
            }
            Self::RolesUnreadable => {
                "the list of administrator roles could not be read, so built-in roles and those in use were taken; \
                 allow the key to read roles to see all of them"
            }
            Self::RolesMerged => {
                "roles whose names differ only in punctuation or case share one id"
            }
            Self::Moving => {
                "lists changed each time they were read, so rows that were there all the time may be missing"
            }
        }
    }
}

/// The sessions of all running syncs.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// The session of a sync, made when it is new.
    pub(super) fn of(&self, scope: &SyncScope) -> Arc<Session> {
        let mut sessions = lock(&self.0);
        if let Some(session) = sessions.get(&scope.sync_id) {
            return Arc::clone(session);
        }
        let session = Arc::new(Session::new(scope.folder.clone()));
        sessions.insert(scope.sync_id.clone(), Arc::clone(&session));
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
        let scope = SyncScope {
            sync_id: "a".to_owned(),
            resource_type_ids: Vec::new(),
            folder: None,
        };
        let first = sessions.of(&scope);
        assert!(Arc::ptr_eq(&first, &sessions.of(&scope)));
        sessions.end("a");
        assert!(sessions.find("a").is_none());
        assert!(!Arc::ptr_eq(&first, &sessions.of(&scope)));
    }
}
