//! Administrators: accounts of their own, beside directory users, in the same resource type.
//!
//! Profile keys: `id`, `organization`, `account_kind` = `administrator`, `is_administrator`, `administrator_roles`,
//! `directory_user_id` (the same person's directory account), `mfa_required`, `mfa_enrolled`, `api_key_allowed`,
//! `api_key_set`, `api_key_created_at`, `api_key_expires_at`, `api_key_updated_at`, `password_changed_at`.
//!
//! Owns the list of administrators of a sync (one call for most tenants), their resources and their link to directory
//! users. Never merges on a guess: where a link or an e-mail fits more than one account, the accounts stay apart.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    JumpCloud,
    client::{Convention, List},
    ids::{Id, USER, resource_id},
    list_file::ListFile,
    listing::{Keep, Omitted, Record, read, row_to_json},
    profile::{Profile, display_name, filled, full_name, timestamp},
    session::Session,
    users::{assemble, email},
    wire,
};
use crate::{
    connector::Error,
    proto::connector::{self as v2, user_trait},
};

const FIELDS: &str = "_id email firstname lastname roleName roleNames enableMultiFactor totpEnrolled suspended \
    apiKeyAllowed apiKeySet apiKeyHash apiKeyUpdatedAt passwordUpdatedAt created organization";

/// One administrator with a usable id.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) id: String,
    pub(super) row: wire::Administrator,
}

impl Account {
    /// The account of a row; `None` when the row has no usable id.
    pub(super) fn new(row: wire::Administrator) -> Option<Self> {
        let id = row.id()?.to_owned();
        Some(Self { id, row })
    }

    /// The names of all roles; `roleName` counts only where `roleNames` is empty.
    pub(super) fn roles(&self) -> Vec<&str> {
        let mut names: Vec<&str> = wire::texts(&self.row.role_names).collect();
        if names.is_empty() {
            names.extend(filled(self.row.role_name.as_deref()));
        }
        names
    }

    fn email_key(&self) -> Option<String> {
        email_key(self.row.email.as_deref())
    }
}

impl Record for Account {
    type Row = wire::Administrator;
    type Key = Id;

    fn of(row: wire::Administrator) -> Result<Self, Omitted> {
        Self::new(row).ok_or(Omitted::Nameless)
    }

    fn key(&self) -> Id {
        Id::new(&self.id)
    }

    fn encode(&self) -> Vec<u8> {
        row_to_json(&self.row)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Self::new(serde_json::from_slice(bytes).ok()?)
    }
}

/// All administrators of a sync, each once.
#[derive(Debug, Default)]
pub(super) struct Administrators {
    pub(super) accounts: Vec<Account>,
    /// Where they are kept, if they are.
    file: Option<ListFile>,
}

impl Administrators {
    /// Which of them to serve to somebody who asks for `count` from `first` on; see [`ListFile::served`].
    pub(super) fn served(&self, first: usize, count: usize) -> std::ops::Range<usize> {
        match &self.file {
            Some(file) => file.served(first, count),
            None => first..first.saturating_add(count),
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.id == id)
    }
}

/// How e-mail addresses are compared: without regard to case.
pub(super) fn email_key(email: Option<&str>) -> Option<String> {
    filled(email).map(|email| email.trim().to_lowercase())
}

impl JumpCloud {
    /// The administrators, read by the first call of a sync.
    pub(super) async fn administrators(
        &self,
        session: &Session,
    ) -> Result<Arc<Administrators>, Error> {
        session
            .administrators
            .get_or_try_init(|| self.read_administrators(session))
            .await
            .cloned()
    }

    async fn read_administrators(&self, session: &Session) -> Result<Arc<Administrators>, Error> {
        let list = List {
            template: "/api/users",
            ids: Vec::new(),
            query: vec![("sort", "_id".to_owned()), ("fields", FIELDS.to_owned())],
            convention: Convention::Wrapped,
        };
        let mut accounts = Vec::new();
        let keep = Keep::durably(session, "administrators.list");
        let take = |account| accounts.push(account);
        let read = read::<Account>(&self.client, session, keep, list, take).await?;
        if let Some(org_id) = self.client.org_id()
            && read.unscoped
        {
            // One without organisation belongs to the provider, and may administer this organisation too.
            accounts.retain(|account| {
                filled(account.row.organization.as_deref())
                    .is_none_or(|organization| organization.eq_ignore_ascii_case(org_id))
            });
        }
        Ok(Arc::new(Administrators {
            accounts,
            file: read.file,
        }))
    }

    /// One administrator by id.
    pub(super) async fn get_administrator(&self, id: &str) -> Result<Account, Error> {
        let row: wire::Administrator = self.client.get("/api/users/{id}", &[id], &[]).await?;
        Account::new(row).ok_or_else(|| Error::Decode {
            method: "GET",
            endpoint: "/api/users/{id}",
            field: "_id".to_owned(),
            problem: "missing, empty or unusable".to_owned(),
        })
    }
}

/// The account of an administrator; says nothing of departments and job titles, which JumpCloud does not keep here.
pub(super) fn resource(account: &Account, directory_user: Option<&str>) -> v2::Resource {
    let row = &account.row;
    let address = email(row.email.as_deref());
    let name = full_name(row.firstname.as_deref(), row.lastname.as_deref());
    let key = row.api_key_hash.as_ref();

    let mut profile = Profile::default();
    profile
        .text("id", Some(&account.id))
        .text("organization", row.organization.as_deref())
        .text("account_kind", Some("administrator"))
        .flag("is_administrator", Some(true))
        .list("administrator_roles", account.roles().into_iter())
        .text("directory_user_id", directory_user)
        .flag("mfa_required", row.enable_multi_factor)
        .flag("mfa_enrolled", row.totp_enrolled)
        .flag("api_key_allowed", row.api_key_allowed)
        .flag("api_key_set", row.api_key_set)
        .text(
            "api_key_created_at",
            key.and_then(|key| key.created_at.as_deref()),
        )
        .text(
            "api_key_expires_at",
            key.and_then(|key| key.expire_at.as_deref()),
        )
        .text("api_key_updated_at", row.api_key_updated_at.as_deref())
        .text("password_changed_at", row.password_updated_at.as_deref());

    let (status, details) = if row.suspended == Some(true) {
        (v2::status::ResourceStatus::Disabled, "suspended")
    } else {
        (v2::status::ResourceStatus::Enabled, "")
    };
    let resource = v2::Resource {
        id: Some(resource_id(USER, &account.id)),
        display_name: display_name([Some(name.as_str()), row.email.as_deref()], &account.id),
        profile: Some(profile.into_struct()),
        status: Some(v2::Status {
            status: status.into(),
            details: details.to_owned(),
        }),
        created_at: timestamp(row.created.as_deref()),
        ..v2::Resource::default()
    };
    let trait_ = v2::UserTrait {
        emails: address
            .map(|address| user_trait::Email {
                address: address.to_owned(),
                is_primary: true,
            })
            .into_iter()
            .collect(),
        login: address.unwrap_or_default().to_owned(),
        account_type: user_trait::AccountType::Human.into(),
        mfa_status: row
            .totp_enrolled
            .map(|mfa_enabled| user_trait::MfaStatus { mfa_enabled }),
        structured_name: super::users::structured_name(
            row.firstname.as_deref(),
            None,
            row.lastname.as_deref(),
        ),
        ..v2::UserTrait::default()
    };
    assemble(resource, trait_)
}

/// Which directory user belongs to which administrator, in both directions.
#[derive(Debug, Default)]
pub(super) struct Links {
    user_of: HashMap<Id, Box<str>>,
    administrator_of: HashMap<Id, Box<str>>,
}

impl Links {
    /// The directory user of an administrator.
    pub(super) fn user_of(&self, administrator: &str) -> Option<&str> {
        self.user_of.get(&Id::new(administrator)).map(AsRef::as_ref)
    }

    /// The administrator of a directory user.
    pub(super) fn administrator_of(&self, user: &str) -> Option<&str> {
        self.administrator_of.get(&Id::new(user)).map(AsRef::as_ref)
    }
}

/// Finds the links while the users stream by; remembers only users that fit an administrator.
#[derive(Debug)]
pub(super) struct Matcher<'a> {
    administrators: &'a Administrators,
    by_id: HashMap<&'a str, usize>,
    by_email: HashMap<String, Vec<usize>>,
    candidates: Vec<Candidates>,
}

#[derive(Debug, Default, Clone)]
struct Candidates {
    by_id: Vec<Box<str>>,
    by_email: Vec<Box<str>>,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(administrators: &'a Administrators) -> Self {
        let accounts = &administrators.accounts;
        let mut by_email: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, account) in accounts.iter().enumerate() {
            if let Some(key) = account.email_key() {
                by_email.entry(key).or_default().push(index);
            }
        }
        Self {
            administrators,
            by_id: accounts
                .iter()
                .enumerate()
                .map(|(index, account)| (account.id.as_str(), index))
                .collect(),
            by_email,
            candidates: vec![Candidates::default(); accounts.len()],
        }
    }

    /// Takes a user into account: by the administrator it names, else by its e-mail.
    pub(super) fn see(&mut self, id: &str, administrator: Option<&str>, email: Option<&str>) {
        if let Some(named) = administrator.and_then(|named| self.by_id.get(named)) {
            if let Some(candidates) = self.candidates.get_mut(*named) {
                candidates.by_id.push(id.into());
            }
            return;
        }
        if filled(administrator).is_some() {
            // Linked to an administrator that this key cannot see; the e-mail must not say otherwise.
            return;
        }
        let Some(indexes) = email_key(email).and_then(|key| self.by_email.get(&key)) else {
            return;
        };
        for index in indexes {
            if let Some(candidates) = self.candidates.get_mut(*index) {
                candidates.by_email.push(id.into());
            }
        }
    }

    /// The links that are beyond doubt, and the ids of administrators that fit more than one account.
    pub(super) fn finish(self) -> (Links, Vec<String>) {
        let mut links = Links::default();
        let mut ambiguous = Vec::new();
        let shared_email = |account: &Account| {
            account
                .email_key()
                .and_then(|key| self.by_email.get(&key))
                .is_some_and(|owners| owners.len() > 1)
        };
        let named: HashSet<&str> = self
            .candidates
            .iter()
            .flat_map(|candidates| candidates.by_id.iter().map(AsRef::as_ref))
            .collect();
        for (account, candidates) in self.administrators.accounts.iter().zip(&self.candidates) {
            let user = match (candidates.by_id.as_slice(), candidates.by_email.as_slice()) {
                ([user], _) => user,
                ([], []) => continue,
                ([], [user]) if !shared_email(account) && !named.contains(user.as_ref()) => user,
                _ => {
                    ambiguous.push(account.id.clone());
                    continue;
                }
            };
            links.user_of.insert(Id::new(&account.id), user.clone());
            links
                .administrator_of
                .insert(Id::new(user), account.id.as_str().into());
        }
        (links, ambiguous)
    }
}
