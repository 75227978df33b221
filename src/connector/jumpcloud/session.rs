//! What one sync remembers between calls: cached listings, ids seen, warnings.
//!
//! A session is made by the first call that names its sync and dropped by the clean-up of that sync; nothing outlives
//! it, so a daemon never answers one sync from the data of another. Memory grows with ids, never with whole objects.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

use super::{administrators::Administrators, ids::Id, roles::Roles, users::Users};

/// The memory of one sync.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Read once, by whoever needs them first.
    pub(super) administrators: OnceCell<Arc<Administrators>>,
    /// Read by the first page of users.
    pub(super) users: OnceCell<Arc<Users>>,
    /// Read once, by whoever needs them first.
    pub(super) roles: OnceCell<Arc<Roles>>,
    listings: Mutex<HashMap<String, Listing>>,
    warnings: Mutex<BTreeMap<Warning, Tally>>,
}

#[derive(Debug, Default)]
struct Listing {
    /// The page on which an id came first, so that serving a page again serves it whole.
    first_seen: HashMap<Id, u64>,
    complete: bool,
}

impl Session {
    /// Whether `id` was not on an earlier page of this listing. Offset paging repeats rows when objects appear.
    pub(super) fn is_new(&self, listing: &str, id: &Id, skip: u64) -> bool {
        let mut listings = lock(&self.listings);
        if !listings.contains_key(listing) {
            listings.insert(listing.to_owned(), Listing::default());
        }
        listings
            .get_mut(listing)
            .is_none_or(|listing| *listing.first_seen.entry(id.clone()).or_insert(skip) == skip)
    }

    /// Says that a listing was read to its end; its ids are kept.
    pub(super) fn complete(&self, listing: &str) {
        lock(&self.listings)
            .entry(listing.to_owned())
            .or_default()
            .complete = true;
    }

    /// Drops what is known of a listing.
    pub(super) fn forget(&self, listing: &str) {
        lock(&self.listings).remove(listing);
    }

    /// Whether a listing that was read to its end lacks this id. `false` while the listing is not known whole.
    pub(super) fn lacks(&self, listing: &str, id: &Id) -> bool {
        lock(&self.listings)
            .get(listing)
            .is_some_and(|listing| listing.complete && !listing.first_seen.contains_key(id))
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

/// Takes each id of a listing once.
///
/// A listing of one page needs no memory beyond the page, which is the case of nearly every group and application.
#[derive(Debug)]
pub(super) struct Dedup<'a> {
    earlier: Option<(&'a Session, &'a str, u64)>,
    here: HashSet<Id>,
}

impl<'a> Dedup<'a> {
    /// For the page at `skip` of a listing of several pages.
    pub(super) fn new(session: &'a Session, listing: &'a str, skip: u64) -> Self {
        Self {
            earlier: Some((session, listing, skip)),
            here: HashSet::new(),
        }
    }

    /// For a listing that is one page.
    pub(super) fn of_one_page() -> Self {
        Self {
            earlier: None,
            here: HashSet::new(),
        }
    }

    /// Whether this id comes for the first time.
    pub(super) fn take(&mut self, id: &str) -> bool {
        let id = Id::new(id);
        let is_new = self
            .earlier
            .is_none_or(|(session, listing, skip)| session.is_new(listing, &id, skip));
        self.here.insert(id) && is_new
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
    /// The same id twice in one listing.
    RepeatedRow,
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
            Self::RepeatedRow => "rows that JumpCloud sent twice were taken once",
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_served_again_is_served_whole() {
        let session = Session::default();
        let id = Id::new("x");
        assert!(session.is_new("groups", &id, 0));
        assert!(session.is_new("groups", &id, 0));
        assert!(!session.is_new("groups", &id, 100));
        assert!(session.is_new("apps", &id, 100));
    }

    #[test]
    fn an_id_lacks_only_in_a_listing_that_was_read_to_its_end() {
        let session = Session::default();
        assert!(!session.lacks("groups", &Id::new("y")));
        session.is_new("groups", &Id::new("x"), 0);
        assert!(!session.lacks("groups", &Id::new("y")));
        session.complete("groups");
        assert!(session.lacks("groups", &Id::new("y")));
        assert!(!session.lacks("groups", &Id::new("x")));
    }

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
