//! Directory users, and the listing of resource type `user`, which holds administrators too.
//!
//! The first page of a sync streams the whole listing once into a file, because the manager of a user may come later in
//! the listing than the user. In memory stay ids and the e-mail addresses of managers: about 10 MiB for 100,000 users,
//! while reading about 20 MiB. Later pages come from the file.
//!
//! Profile keys of the official connector: `id`, `job_title`, `organization`, `department`, `username`, `manager_id`,
//! `manager` (an e-mail), `employee_id`, `employee_type`. Ours beside them, left out where JumpCloud says nothing:
//!
//! | About | Keys |
//! |---|---|
//! | account | `account_kind` = `directory_user`, `creation_source`, `description` |
//! | work | `company`, `cost_center`, `location`, `phone_numbers`, `addresses` |
//! | administration | `is_administrator`, `administrator_id`, `administrator_roles` |
//! | password | `password_state` (`set`, `expired`, `never_set`), `password_changed_at`, `password_expires_at`, `password_never_expires`, `password_authority`, `locked_at` |
//! | second factor | `mfa_required`, `mfa_excluded`, `mfa_excluded_until`, `mfa_enrollment`, `mfa_totp`, `mfa_webauthn`, `mfa_push`, `mfa_jumpcloud_go` |
//! | devices | `device_sudo`, `device_sudo_without_password`, `ssh_key_count`, `ssh_key_names` |
//! | origin | `external_source_type`, `external_dn`, `restricted_fields` |
//!
//! Custom attributes are `attribute_<name>`, a prefix that no other key has, so no attribute can pose as a built-in
//! fact. A user asked for alone has the link to an administrator only where JumpCloud's own record names it: a match by
//! e-mail needs the whole list.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prost::Message;

use super::{
    JumpCloud,
    administrators::{self, Administrators, Links, Matcher},
    client::{Convention, List},
    ids::{Id, USER, resource_id},
    list_file::{ListFile, damaged},
    listing::{Keep, Omitted, Record, place, read, records, sorted},
    profile::{Profile, clip, display_name, filled, full_name, text_of, timestamp},
    session::{Session, Warning},
    survey::Read,
    wire,
};
use crate::{
    connector::{Error, Page},
    proto::{
        bool_value,
        connector::{self as v2, user_trait},
        list_value, pack, string_value,
    },
};

const FIELDS: &str = "_id username email alternateEmail firstname middlename lastname displayname description \
    organization created creationSource jobTitle department company costCenter location employeeIdentifier \
    employeeType manager phoneNumbers addresses state activated suspended account_locked account_locked_date \
    password_date password_expiration_date password_expired password_never_expires sudo passwordless_sudo \
    enable_user_portal_multifactor totp_enabled mfa mfaEnrollment ssh_keys external_source_type external_dn \
    restrictedFields delegatedAuthority admin attributes";

/// The file of the list in the folder of a sync.
pub(super) const LIST: &str = "users.list";

/// How many administrators make a page.
const ADMINISTRATORS_PER_PAGE: usize = 100;

/// The users of a sync: on disk the resources, in memory what joins them to others.
#[derive(Debug)]
pub(super) struct Users {
    file: ListFile,
    /// E-mail addresses of those who manage somebody.
    managers: HashMap<Id, Box<str>>,
    /// All ids, sorted.
    known: Vec<Id>,
    pub(super) links: Links,
    administrators: Arc<Administrators>,
}

impl Users {
    /// Whether this sync has a directory user with this id.
    pub(super) fn contains(&self, id: &Id) -> bool {
        self.known.binary_search(id).is_ok()
    }

    /// The resource of a user that was kept, joined to manager and administrator.
    fn resource(&self, bytes: &[u8]) -> Result<v2::Resource, Error> {
        let record = <UserRecord as Record>::decode(bytes);
        let parts = record.and_then(|record| record.resource.zip(record.trait_));
        let (mut resource, trait_) = parts.ok_or_else(|| damaged("a user is none"))?;
        self.complete(&mut resource);
        Ok(assemble(resource, trait_))
    }

    fn complete(&self, resource: &mut v2::Resource) {
        let Some(profile) = resource.profile.as_mut() else {
            return;
        };
        let email = text_of(Some(profile), "manager_id")
            .and_then(|manager| self.managers.get(&Id::new(manager)));
        if let Some(email) = email {
            profile
                .fields
                .insert("manager".to_owned(), string_value(email.as_ref()));
        }
        let administrator = text_of(Some(profile), "id")
            .and_then(|id| self.links.administrator_of(id))
            .and_then(|id| self.administrators.find(id));
        if let Some(account) = administrator {
            let roles = account.roles().into_iter().map(string_value);
            for (key, value) in [
                ("is_administrator", bool_value(true)),
                ("administrator_id", string_value(account.id.as_str())),
                ("administrator_roles", list_value(roles)),
            ] {
                profile.fields.insert(key.to_owned(), value);
            }
        }
    }
}

/// Where in the listing of users a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursor {
    /// Page of the spool.
    Directory(usize),
    /// Offset into the list of administrators.
    Administrators(usize),
}

impl Cursor {
    fn parse(token: Option<&str>) -> Result<Self, Error> {
        let Some(token) = token else {
            return Ok(Self::Directory(0));
        };
        let parsed = token.split_once(':').and_then(|(phase, position)| {
            let position = position.parse().ok()?;
            match phase {
                "users" => Some(Self::Directory(position)),
                "administrators" => Some(Self::Administrators(position)),
                _ => None,
            }
        });
        parsed.ok_or_else(|| super::unknown_token(USER, token))
    }

    fn token(self) -> String {
        match self {
            Self::Directory(page) => format!("users:{page}"),
            Self::Administrators(offset) => format!("administrators:{offset}"),
        }
    }
}

impl JumpCloud {
    /// One page of directory users, then of administrators.
    pub(super) async fn list_users(
        &self,
        session: &Session,
        token: Option<&str>,
    ) -> Result<Page<v2::Resource>, Error> {
        let cursor = Cursor::parse(token)?;
        let users = self.users(session).await?;
        match cursor {
            Cursor::Directory(number) => {
                let served = users.file.served(number, 1);
                let end = served.end;
                let mut items = Vec::new();
                for number in served {
                    for bytes in records(&users.file, number).await? {
                        items.push(users.resource(&bytes)?);
                    }
                }
                let next = if end < users.file.pages() {
                    Some(Cursor::Directory(end))
                } else {
                    (!users.administrators.accounts.is_empty()).then_some(Cursor::Administrators(0))
                };
                Ok(Page {
                    items,
                    next: next.map(Cursor::token),
                    annotations: Vec::new(),
                })
            }
            Cursor::Administrators(offset) => {
                let accounts = &users.administrators.accounts;
                let served = users.administrators.served(offset, ADMINISTRATORS_PER_PAGE);
                let end = served.end;
                let items = accounts
                    .iter()
                    .skip(served.start)
                    .take(served.len())
                    .filter_map(|account| {
                        let linked = users.links.user_of(&account.id);
                        let merged = self.settings.merge_administrators && linked.is_some();
                        // Two accounts with one id: the second would take the place of the first in the file.
                        let taken = users.contains(&Id::new(&account.id));
                        if taken {
                            session.warn(Warning::IdTakenByUser, &account.id);
                        }
                        (!merged && !taken).then(|| administrators::resource(account, linked))
                    })
                    .collect();
                Ok(Page {
                    items,
                    next: (end < accounts.len()).then(|| Cursor::Administrators(end).token()),
                    annotations: Vec::new(),
                })
            }
        }
    }

    /// The users, read by the first call of a sync.
    pub(super) async fn users(&self, session: &Session) -> Result<Arc<Users>, Error> {
        session
            .users
            .get_or_try_init(|| self.read_users(session))
            .await
            .cloned()
    }

    async fn read_users(&self, session: &Session) -> Result<Arc<Users>, Error> {
        let administrators = self.administrators(session).await?;
        let mut matcher = Matcher::new(&administrators);
        let mut emails: HashMap<Id, Box<str>> = HashMap::new();
        let mut managers: HashSet<Id> = HashSet::new();
        let list = List {
            template: "/api/systemusers",
            ids: Vec::new(),
            query: vec![("sort", "_id".to_owned()), ("fields", FIELDS.to_owned())],
            convention: Convention::Wrapped,
        };
        let take = |record: UserRecord| {
            let id = record.id();
            let address = record.email.as_deref();
            matcher.see(id, record.administrator.as_deref(), address);
            managers.extend(record.manager().map(Id::new));
            match email(address) {
                Some(address) => {
                    emails.insert(Id::new(id), address.into());
                }
                None if filled(address).is_some() => session.warn(Warning::EmailUnusable, id),
                None => {}
            }
        };
        let keep = Keep::File(place(session, &self.settings.work_dir, LIST));
        let read = read::<UserRecord>(&self.client, session, keep, list, take).await?;
        let (links, ambiguous) = matcher.finish();
        if self.settings.merge_administrators {
            for id in ambiguous {
                session.warn(Warning::AmbiguousAdministrator, &id);
            }
        }
        let known = sorted(read.known);
        emails.retain(|id, _| managers.contains(id));
        emails.shrink_to_fit();
        tracing::debug!(
            resource.type = USER,
            row.count = known.len(),
            administrator.count = administrators.accounts.len(),
            "read the list of users"
        );
        Ok(Arc::new(Users {
            file: read.file.ok_or_else(|| damaged("it is not there"))?,
            managers: emails,
            known,
            links,
            administrators,
        }))
    }

    /// A directory user, else an administrator, by id.
    pub(super) async fn get_user(
        &self,
        session: &Session,
        id: &str,
    ) -> Result<v2::Resource, Error> {
        let look = || async {
            match super::absent(self.get_directory_user(id, FIELDS).await)? {
                Some(row) => self.directory_user(&row, id).await,
                None => self.administrator_account(session, id).await,
            }
        };
        let found = self
            .find(&[Read::Users, Read::Administrators], look)
            .await?;
        found.ok_or_else(|| not_found(id))
    }

    /// JumpCloud's record of a directory user; `None` when there is no such user.
    pub(super) async fn read_directory_user(
        &self,
        id: &str,
    ) -> Result<Option<wire::SystemUser>, Error> {
        self.find_directory_user(id, FIELDS).await
    }

    /// As [`JumpCloud::read_directory_user`], with these fields alone.
    pub(super) async fn find_directory_user(
        &self,
        id: &str,
        fields: &str,
    ) -> Result<Option<wire::SystemUser>, Error> {
        self.find(&[Read::Users], || self.get_directory_user(id, fields))
            .await
    }

    async fn get_directory_user(&self, id: &str, fields: &str) -> Result<wire::SystemUser, Error> {
        self.client
            .get("/api/systemusers/{id}", &[id], &[("fields", fields)])
            .await
    }

    /// The resource of a directory user, joined to the manager.
    pub(super) async fn directory_user(
        &self,
        row: &wire::SystemUser,
        id: &str,
    ) -> Result<v2::Resource, Error> {
        let (mut resource, trait_) = parts(row, row.id().unwrap_or(id));
        let manager = match wire::usable(row.manager.as_deref()) {
            Some(manager) => self.find_directory_user(manager, "email").await?,
            None => None,
        };
        let address = manager
            .as_ref()
            .and_then(|manager| email(manager.email.as_deref()));
        if let (Some(profile), Some(address)) = (resource.profile.as_mut(), address) {
            profile
                .fields
                .insert("manager".to_owned(), string_value(address));
        }
        Ok(assemble(resource, trait_))
    }

    async fn administrator_account(
        &self,
        session: &Session,
        id: &str,
    ) -> Result<v2::Resource, Error> {
        let account = super::absent(self.get_administrator(id).await)?;
        let account = account.ok_or_else(|| not_found(id))?;
        if self.settings.merge_administrators {
            // A merged administrator has no resource of its own, and only the whole list of users can tell.
            let users = self.users(session).await?;
            return match users.links.user_of(id) {
                Some(_) => Err(not_found(id)),
                None => Ok(administrators::resource(&account, None)),
            };
        }
        let linked = session
            .users
            .get()
            .and_then(|users| users.links.user_of(id).map(str::to_owned));
        Ok(administrators::resource(&account, linked.as_deref()))
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound {
        what: format!("user {}", clip(id, 64)),
    }
}

/// What is kept of a user.
#[derive(Clone, PartialEq, Message)]
struct UserRecord {
    /// Not yet joined to manager and administrator.
    #[prost(message, optional, tag = "1")]
    resource: Option<v2::Resource>,
    #[prost(message, optional, tag = "2")]
    trait_: Option<v2::UserTrait>,
    /// As JumpCloud has it.
    #[prost(string, optional, tag = "3")]
    email: Option<String>,
    /// The administrator that the user's own record names.
    #[prost(string, optional, tag = "4")]
    administrator: Option<String>,
}

impl UserRecord {
    fn id(&self) -> &str {
        let id = self.resource.as_ref().and_then(|it| it.id.as_ref());
        id.map_or("", |id| id.resource.as_str())
    }

    fn manager(&self) -> Option<&str> {
        let profile = self.resource.as_ref()?.profile.as_ref();
        text_of(profile, "manager_id")
    }
}

impl Record for UserRecord {
    type Row = wire::SystemUser;
    type Key = Id;

    fn of(row: wire::SystemUser) -> Result<Self, Omitted> {
        let id = row.id().ok_or(Omitted::Nameless)?;
        let (resource, trait_) = parts(&row, id);
        Ok(Self {
            resource: Some(resource),
            trait_: Some(trait_),
            administrator: row.admin.and_then(|admin| admin.id),
            email: row.email,
        })
    }

    fn key(&self) -> Id {
        Id::new(self.id())
    }

    fn encode(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        <Self as Message>::decode(bytes).ok()
    }
}

/// Adds the trait, with the copies of profile, status and creation date that older readers look for in it.
pub(super) fn assemble(mut resource: v2::Resource, mut trait_: v2::UserTrait) -> v2::Resource {
    #[expect(deprecated, reason = "older readers of the file look here")]
    {
        trait_.profile.clone_from(&resource.profile);
        trait_.created_at = resource.created_at;
        trait_.status = resource.status.as_ref().map(|status| user_trait::Status {
            status: status.status,
            details: status.details.clone(),
        });
    }
    resource.annotations.insert(0, pack(&trait_));
    resource
}

/// An e-mail address, unless it is no address at all.
pub(super) fn email(text: Option<&str>) -> Option<&str> {
    filled(text).map(str::trim).filter(|address| {
        let shaped = address
            .rsplit_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
        shaped
            && address.len() <= 320
            && !address.chars().any(|c| c.is_whitespace() || c.is_control())
    })
}

/// The parts of a name; `None` when there are none.
pub(super) fn structured_name(
    given: Option<&str>,
    middle: Option<&str>,
    family: Option<&str>,
) -> Option<user_trait::StructuredName> {
    let part = |text| clip(filled(text).map(str::trim).unwrap_or_default(), 1024);
    let name = user_trait::StructuredName {
        given_name: part(given),
        family_name: part(family),
        middle_names: filled(middle).map(|_| part(middle)).into_iter().collect(),
        ..user_trait::StructuredName::default()
    };
    (name != user_trait::StructuredName::default()).then_some(name)
}

/// Whether the account works, and what more there is to say.
///
/// A lock-out after wrong passwords ends by itself or by an unlock, and an account whose password was never set is
/// waiting for its owner: neither was disabled by anybody, so both stay enabled and say so.
fn status(row: &wire::SystemUser) -> v2::Status {
    use v2::status::ResourceStatus as Is;

    let state = filled(row.state.as_deref()).map(|state| state.trim().to_uppercase());
    let suspended = row.suspended == Some(true);
    let (status, details) = match state.as_deref() {
        _ if suspended => (Is::Disabled, "suspended".to_owned()),
        Some("SUSPENDED") => (Is::Disabled, "suspended".to_owned()),
        Some("STAGED") => (Is::Disabled, "staged".to_owned()),
        None | Some("ACTIVATED") => {
            let mut details = Vec::new();
            if row.account_locked == Some(true) {
                details.push("locked");
            }
            if row.activated == Some(false) {
                details.push("password never set");
            }
            (Is::Enabled, details.join(", "))
        }
        Some(other) => (
            Is::Unspecified,
            clip(&format!("unknown state {}", other.to_lowercase()), 128),
        ),
    };
    v2::Status {
        status: status.into(),
        details,
    }
}

/// Whether a second factor is enrolled; `None` when JumpCloud says nothing about it.
fn mfa_enabled(row: &wire::SystemUser) -> Option<bool> {
    let overall = row
        .mfa_enrollment
        .as_ref()
        .and_then(|enrollment| filled(enrollment.overall_status.as_deref()));
    if let Some(overall) = overall {
        return Some(overall.eq_ignore_ascii_case("ENROLLED"));
    }
    let configured = row.mfa.as_ref().and_then(|mfa| mfa.configured);
    match (row.totp_enabled, configured) {
        (None, None) => None,
        (totp, configured) => Some(totp == Some(true) || configured == Some(true)),
    }
}

fn password_state(row: &wire::SystemUser) -> &'static str {
    if row.activated == Some(false) {
        "never_set"
    } else if row.password_expired == Some(true) {
        "expired"
    } else {
        "set"
    }
}

/// Resource and trait of a user, not yet joined to manager and administrator.
fn parts(row: &wire::SystemUser, id: &str) -> (v2::Resource, v2::UserTrait) {
    let name = full_name(row.firstname.as_deref(), row.lastname.as_deref());
    let primary = email(row.email.as_deref());
    let second = email(row.alternate_email.as_deref()).filter(|second| {
        primary.is_none_or(|primary| primary.to_lowercase() != second.to_lowercase())
    });
    let mut emails: Vec<user_trait::Email> = Vec::new();
    for (address, is_primary) in [(primary, true), (second, false)] {
        emails.extend(address.map(|address| user_trait::Email {
            address: address.to_owned(),
            is_primary,
        }));
    }
    let resource = v2::Resource {
        id: Some(resource_id(USER, id)),
        display_name: display_name(
            [
                row.displayname.as_deref(),
                Some(name.as_str()),
                row.username.as_deref(),
                row.email.as_deref(),
            ],
            id,
        ),
        profile: Some(profile(row, id).into_struct()),
        status: Some(status(row)),
        created_at: timestamp(row.created.as_deref()),
        ..v2::Resource::default()
    };
    let trait_ = v2::UserTrait {
        emails,
        login: clip(filled(row.username.as_deref()).unwrap_or_default(), 1024),
        account_type: user_trait::AccountType::Human.into(),
        employee_ids: filled(row.employee_identifier.as_deref())
            .map(|id| clip(id, 1024))
            .into_iter()
            .collect(),
        mfa_status: mfa_enabled(row).map(|mfa_enabled| user_trait::MfaStatus { mfa_enabled }),
        structured_name: structured_name(
            row.firstname.as_deref(),
            row.middlename.as_deref(),
            row.lastname.as_deref(),
        ),
        ..v2::UserTrait::default()
    };
    (resource, trait_)
}

fn profile(row: &wire::SystemUser, id: &str) -> Profile {
    let mut profile = Profile::default();
    // Custom attributes go first, so that even a reserved key cannot be overwritten by one.
    for attribute in &row.attributes {
        if let Some(name) = filled(attribute.name.as_deref()) {
            profile.text(
                &format!("attribute_{}", name.trim()),
                attribute.value.as_deref(),
            );
        }
    }
    profile
        .text("id", Some(id))
        .text("job_title", row.job_title.as_deref())
        .text("organization", row.organization.as_deref())
        .text("department", row.department.as_deref())
        .text("username", row.username.as_deref())
        .text("manager_id", row.manager.as_deref())
        .text("employee_id", row.employee_identifier.as_deref())
        .text("employee_type", row.employee_type.as_deref())
        .text("company", row.company.as_deref())
        .text("cost_center", row.cost_center.as_deref())
        .text("location", row.location.as_deref())
        .text("description", row.description.as_deref())
        .text("account_kind", Some("directory_user"))
        .text("creation_source", row.creation_source.as_deref());
    profile
        .objects(
            "phone_numbers",
            row.phone_numbers.iter().map(|phone| {
                let mut entry = Profile::default();
                if filled(phone.number.as_deref()).is_some() {
                    entry
                        .text("type", phone.kind.as_deref())
                        .text("number", phone.number.as_deref());
                }
                entry
            }),
        )
        .objects("addresses", row.addresses.iter().map(address));
    profile
        .text("password_state", Some(password_state(row)))
        .text("password_changed_at", row.password_date.as_deref())
        .text(
            "password_expires_at",
            row.password_expiration_date.as_deref(),
        )
        .flag("password_never_expires", row.password_never_expires)
        .text("locked_at", row.account_locked_date.as_deref())
        .flag("mfa_required", row.enable_user_portal_multifactor);
    if let Some(mfa) = &row.mfa {
        profile
            .flag("mfa_excluded", mfa.exclusion)
            .text("mfa_excluded_until", mfa.exclusion_until.as_deref());
    }
    if let Some(enrollment) = &row.mfa_enrollment {
        profile
            .text("mfa_enrollment", enrollment.overall_status.as_deref())
            .text("mfa_totp", enrollment.totp_status.as_deref())
            .text("mfa_webauthn", enrollment.web_authn_status.as_deref())
            .text("mfa_push", enrollment.push_status.as_deref())
            .text("mfa_jumpcloud_go", enrollment.jc_go_status.as_deref());
    }
    profile
        .flag("device_sudo", row.sudo)
        .flag("device_sudo_without_password", row.passwordless_sudo)
        .count("ssh_key_count", row.ssh_keys.len())
        .list(
            "ssh_key_names",
            row.ssh_keys
                .iter()
                .filter_map(|key| filled(key.name.as_deref())),
        )
        .text("external_source_type", row.external_source_type.as_deref())
        .text("external_dn", row.external_dn.as_deref())
        .list(
            "restricted_fields",
            row.restricted_fields
                .iter()
                .filter_map(|restricted| filled(restricted.field.as_deref())),
        )
        .text(
            "password_authority",
            row.delegated_authority
                .as_ref()
                .and_then(|authority| authority.name.as_deref()),
        );
    let admin = row
        .admin
        .as_ref()
        .filter(|admin| filled(admin.id.as_deref()).is_some());
    profile.flag("is_administrator", Some(admin.is_some()));
    if let Some(admin) = admin {
        let mut roles: Vec<&str> = wire::texts(&admin.role_names).collect();
        if roles.is_empty() {
            roles.extend(filled(admin.role_name.as_deref()));
        }
        profile
            .text("administrator_id", admin.id.as_deref())
            .list("administrator_roles", roles.into_iter());
    }
    profile
}

fn address(address: &wire::Address) -> Profile {
    let mut entry = Profile::default();
    entry
        .text("street", address.street_address.as_deref())
        .text("street_extension", address.extended_address.as_deref())
        .text("city", address.locality.as_deref())
        .text("region", address.region.as_deref())
        .text("postal_code", address.postal_code.as_deref())
        .text("country", address.country.as_deref())
        .text("po_box", address.po_box.as_deref());
    if !entry.is_empty() {
        entry.text("type", address.kind.as_deref());
    }
    entry
}
