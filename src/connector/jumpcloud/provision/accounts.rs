//! Accounts of directory users: making and deleting them.
//!
//! An account is found by username and e-mail address before it is made, without regard to case. Both fit the same user:
//! that user is the account, and if an earlier attempt at the same change got as far as writing, it is ours, so the rest
//! of the work is done to it. Only one fits, or they fit two users: the request is refused, naming ids only. The request
//! that makes a user is sent once; when its answer is lost, the user is looked for.
//!
//! JumpCloud writes to the person when an account becomes active, and has no switch for that at creation. An account that
//! is to start silently is therefore made staged, and activated without mail.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::{
    super::{
        JumpCloud,
        administrators::email_key,
        client::{Method, Repeat},
        ids::USER,
        profile::{clip, filled},
        session::Session,
        wire,
    },
    account_schema::NewUser,
    already,
    confirm::{confirm, settle},
    explained,
    guard::linked_id,
    passwords::plaintext,
    plan_for, planned, rows,
};
use crate::{
    connector::{
        Error,
        provision::{Account, Change, Credential, Done, Effect, NewAccount, Permit, Plan},
    },
    error::{Class, Classify, Code},
    proto::connector as v2,
};

const CREATE: &str = "user.create";
const SEARCH: &str = "/api/search/systemusers";
/// Rows of a page of search results.
const HITS: usize = 100;
/// How many pages of search results are read; a search for a short name may find thousands.
const MAX_PAGES: usize = 50;
/// The id of an account in a dry run.
const PLANNED: &str = "planned";

/// Who has the username and the e-mail address that a new account wants.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nobody,
    /// One user has both.
    Same(String),
    Taken(Taken),
}

/// Users that have one of the two.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    username: Option<String>,
    email: Option<String>,
}

impl Taken {
    fn refusal(&self) -> Error {
        let by = |what: &str, id: &String| format!("the {what} belongs to user {id}");
        let facts: Vec<String> = self
            .username
            .iter()
            .map(|id| by("username", id))
            .chain(self.email.iter().map(|id| by("e-mail address", id)))
            .collect();
        Error::Refused {
            what: format!(
                "the account cannot be made: {}, and not to one user with both; change the request, or that user",
                facts.join(" and ")
            ),
        }
    }
}

/// The body of the request that makes a user.
#[derive(Serialize)]
struct Creation<'a> {
    #[serde(flatten)]
    fields: &'a Map<String, Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
}

/// What is to be done to an account that exists by our doing.
struct Finish<'a> {
    /// Activate it, with or without mail.
    activate: Option<bool>,
    /// A password that it does not have yet.
    password: Option<&'a SecretString>,
    expire: bool,
}

impl JumpCloud {
    /// Makes an account, or finds the one that is asked for.
    pub(super) async fn make_account(
        &self,
        resource_type_id: &str,
        account: &NewAccount,
        change: Change<'_>,
    ) -> Result<Done<Account>, Error> {
        if !matches!(resource_type_id, "" | USER) {
            return Err(Error::Unsupported {
                what: format!(
                    "accounts are made as resource type user only, not {}",
                    clip(resource_type_id, 64)
                ),
            });
        }
        let user = NewUser::read(&account.info)?;
        let manager = match user.fields.manager.as_deref() {
            Some(manager) => Some(self.manager_id(manager).await?),
            None => None,
        };
        let ours = is_ours(change);
        let found = if ours {
            // The user of an attempt that was cut off a moment ago may not show yet.
            self.look_up_patiently(&user).await?
        } else {
            self.look_up(&user).await?
        };
        match found {
            Found::Taken(taken) => Err(taken.refusal()),
            Found::Same(id) if ours => self.adopt(&id, &user, account, change).await,
            Found::Same(id) => self.existing(&id).await,
            Found::Nobody => {
                self.create(&user, manager.as_deref(), account, change)
                    .await
            }
        }
    }

    /// An account that somebody else made.
    async fn existing(&self, id: &str) -> Result<Done<Account>, Error> {
        let account = Account {
            resource: self.get_user(&Session::default(), id).await?,
            existed: true,
            secrets: Vec::new(),
        };
        Ok(Done::unwritten(account, Effect::AlreadyTrue))
    }

    async fn create(
        &self,
        user: &NewUser,
        manager: Option<&str>,
        account: &NewAccount,
        change: Change<'_>,
    ) -> Result<Done<Account>, Error> {
        let password = self
            .password_for(&account.credential, &user.username)
            .await?;
        let staged = user.fields.staged == Some(true);
        let silent = !staged && user.fields.send_email == Some(false);
        let fields = user.body(manager, staged || silent);
        let plan = plan(
            user,
            &account.credential,
            account.force_change,
            "user:new".to_owned(),
            json!({"exists": false}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            let mut fields = fields;
            if silent {
                fields.insert("state".to_owned(), "ACTIVATED".into());
            }
            return self.as_planned(fields).await;
        }
        let body = Creation {
            fields: &fields,
            password: password.as_ref().map(ExposeSecret::expose_secret),
        };
        let written = self
            .client
            .write::<_, Option<wire::SystemUser>>(
                Method::Post,
                "/api/systemusers",
                &[],
                Some(&body),
                Repeat::UnlessSent,
            )
            .await
            .map_err(|error| explained(error, "create users"));
        let mut request_ids = Vec::new();
        let answered = match written {
            Ok(written) => {
                request_ids.extend(written.request_id);
                written
                    .value
                    .as_ref()
                    .and_then(wire::SystemUser::id)
                    .map(str::to_owned)
            }
            Err(error) if error.may_have_been_applied() => {
                tracing::info!(
                    reason = ?error.code(),
                    "the answer to the request for a new user was lost, so the user is looked for"
                );
                match self.find_made(user).await {
                    Ok(Some(id)) => Some(id),
                    Ok(None) | Err(_) => return Err(error),
                }
            }
            Err(error) => return self.refused(user, account, change, error).await,
        };
        let id = match answered {
            Some(id) => id,
            None => self.find_made(user).await?.ok_or_else(|| Error::Unconfirmed {
                what: "POST /api/systemusers was accepted, but the user does not show yet: ask again".to_owned(),
            })?,
        };
        let finish = Finish {
            activate: silent.then_some(false),
            password: None,
            expire: account.force_change && password.is_some(),
        };
        let resource = self.finish(&id, finish, &mut request_ids).await?;
        let told = matches!(account.credential, Credential::Random(_));
        let made = made(resource, password.filter(|_| told));
        Ok(Done::written(made, request_ids))
    }

    /// Goes on with a user that an earlier attempt made. Its password, if it was made up, is known to nobody by now.
    async fn adopt(
        &self,
        id: &str,
        user: &NewUser,
        account: &NewAccount,
        change: Change<'_>,
    ) -> Result<Done<Account>, Error> {
        let password = match &account.credential {
            Credential::Random(options) => Some(self.make_password(options, &user.username).await?),
            _ => None,
        };
        let plan = plan(
            user,
            &account.credential,
            account.force_change,
            format!("{USER}:{id}"),
            json!({"exists": true}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(Done {
                effect: Effect::Planned,
                ..self.existing(id).await?
            });
        }
        let finish = Finish {
            activate: (user.fields.staged != Some(true))
                .then(|| user.fields.send_email.unwrap_or(true)),
            password: password.as_ref(),
            expire: account.force_change
                && matches!(
                    account.credential,
                    Credential::Random(_) | Credential::Given(_)
                ),
        };
        let mut request_ids = Vec::new();
        let resource = self.finish(id, finish, &mut request_ids).await?;
        Ok(Done::written(made(resource, password), request_ids))
    }

    /// Brings a user that is ours to where it was meant to be, and reads it back.
    async fn finish(
        &self,
        id: &str,
        finish: Finish<'_>,
        request_ids: &mut Vec<String>,
    ) -> Result<v2::Resource, Error> {
        let row = settle(|| self.read_directory_user(id))
            .await?
            .ok_or_else(|| Error::Unconfirmed {
                what: format!("user {id} was made, but does not show yet: ask again"),
            })?;
        if let Some(password) = finish.password {
            request_ids.extend(self.put_password(id, password, &row).await?);
        }
        if let Some(send_email) = finish.activate
            && is_staged(&row)
        {
            request_ids.extend(
                self.activate_staged(id, json!({"email": send_email}))
                    .await?
                    .1,
            );
        }
        if finish.expire {
            request_ids.extend(self.expire(id).await?);
        }
        self.get_user(&Session::default(), id).await
    }

    /// Activates a staged user; `body` says who gets mail.
    pub(super) async fn activate_staged(
        &self,
        id: &str,
        body: Json,
    ) -> Result<(wire::SystemUser, Option<String>), Error> {
        let written = self
            .send(
                Method::Post,
                "/api/systemusers/{id}/state/activate",
                &[id],
                Some(&body),
                Repeat::Always,
                "activate users",
            )
            .await;
        // A repeated activation of a user that is active by now is refused; the state says which it was.
        let written = match written {
            Err(error) if error.code() == Code::InvalidArgument => {
                let row = self.read_directory_user(id).await?;
                row.filter(is_active)
                    .map_or_else(|| Err(error), |_| Ok(None))
            }
            written => written,
        };
        confirm(&format!("activating user {id}"), written, || async {
            Ok(self.read_directory_user(id).await?.filter(is_active))
        })
        .await
    }

    /// What a dry run answers: the account as it would be.
    async fn as_planned(&self, fields: Map<String, Json>) -> Result<Done<Account>, Error> {
        let row = serde_json::from_value::<wire::SystemUser>(fields.into()).unwrap_or_default();
        let planned = made(self.directory_user(&row, PLANNED).await?, None);
        Ok(Done::unwritten(planned, Effect::Planned))
    }

    /// JumpCloud refused a new user. Where that is because it exists, says who it is.
    async fn refused(
        &self,
        user: &NewUser,
        account: &NewAccount,
        change: Change<'_>,
        error: Error,
    ) -> Result<Done<Account>, Error> {
        if !is_duplicate(&error) {
            return Err(error);
        }
        let mut found = self.look_up(user).await?;
        if found == Found::Nobody {
            if let Some(owner) = self.owner_of_employee_id(user).await? {
                return Err(Error::Refused {
                    what: format!(
                        "the account cannot be made: the employee ID belongs to user {owner}; change the request, or that \
                         user"
                    ),
                });
            }
            // JumpCloud knows somebody whom it does not show yet.
            found = self.look_up_patiently(user).await?;
        }
        match found {
            Found::Same(id) if is_ours(change) => self.adopt(&id, user, account, change).await,
            Found::Same(id) => self.existing(&id).await,
            Found::Taken(taken) => Err(taken.refusal()),
            Found::Nobody => Err(error),
        }
    }

    async fn owner_of_employee_id(&self, user: &NewUser) -> Result<Option<String>, Error> {
        let Some(number) = user.fields.texts.get("employeeIdentifier") else {
            return Ok(None);
        };
        let filter = json!({"filter": {"and": [{"employeeIdentifier": number}]}});
        let hits = self.search(filter, "employeeIdentifier").await?;
        let owner = hits
            .iter()
            .find(|row| row.employee_identifier.as_ref() == Some(number))
            .and_then(wire::SystemUser::id);
        Ok(owner.map(str::to_owned))
    }

    /// Looks for a user that was just made.
    async fn find_made(&self, user: &NewUser) -> Result<Option<String>, Error> {
        settle(|| async {
            Ok(match self.look_up(user).await? {
                Found::Same(id) => Some(id),
                Found::Nobody | Found::Taken(_) => None,
            })
        })
        .await
    }

    async fn look_up_patiently(&self, user: &NewUser) -> Result<Found, Error> {
        let seen = settle(|| async {
            let found = self.look_up(user).await?;
            Ok((found != Found::Nobody).then_some(found))
        });
        Ok(seen.await?.unwrap_or(Found::Nobody))
    }

    async fn look_up(&self, user: &NewUser) -> Result<Found, Error> {
        let exact = json!({"filter": {"or": [{"username": user.username}, {"email": user.email}]}});
        let found = judge(&self.search(exact, "username email").await?, user);
        if matches!(found, Found::Same(_)) {
            return Ok(found);
        }
        // The filter compares letter by letter; the text search does not, but finds parts too.
        let text = json!({
            "searchFilter": {"searchTerm": [user.username, user.email], "fields": ["username", "email"]},
        });
        let hits = self.search(text, "username email").await?;
        Ok(match (judge(&hits, user), found) {
            (Found::Nobody, exact) => exact,
            (found, _) => found,
        })
    }

    /// All users that a search finds, with these fields.
    async fn search(&self, mut body: Json, fields: &str) -> Result<Vec<wire::SystemUser>, Error> {
        let mut all = Vec::new();
        for page in 0..MAX_PAGES {
            if let Some(body) = body.as_object_mut() {
                body.insert("fields".to_owned(), fields.into());
                body.insert("limit".to_owned(), HITS.into());
                body.insert("skip".to_owned(), (page * HITS).into());
            }
            // It only reads.
            let found = self
                .client
                .write::<_, rows::Hits>(Method::Post, SEARCH, &[], Some(&body), Repeat::Always)
                .await?;
            let count = found.value.results.len();
            // Else the pages would hold a hundred times as much as they are thought to.
            if count > HITS {
                return Err(Error::Decode {
                    method: "POST",
                    endpoint: SEARCH,
                    field: "results".to_owned(),
                    problem: format!("{count} rows where at most {HITS} were asked for"),
                });
            }
            all.extend(found.value.results);
            if count < HITS {
                break;
            }
        }
        Ok(all)
    }

    /// The id of a manager who is named by id or by e-mail address.
    pub(super) async fn manager_id(&self, said: &str) -> Result<String, Error> {
        if said.contains('@') {
            let key = email_key(Some(said));
            for body in [
                json!({"filter": {"and": [{"email": said}]}}),
                json!({"searchFilter": {"searchTerm": said, "fields": ["email"]}}),
            ] {
                let hits = self.search(body, "email").await?;
                let found = hits
                    .iter()
                    .find(|row| email_key(row.email.as_deref()) == key)
                    .and_then(wire::SystemUser::id);
                if let Some(id) = found {
                    return Ok(id.to_owned());
                }
            }
            return Err(Error::Invalid {
                what: format!(
                    "the field manager is an e-mail address of {} bytes that no directory user has",
                    said.len()
                ),
            });
        }
        let id = super::super::usable(USER, said)?;
        match self.read_directory_user(id).await? {
            Some(_) => Ok(id.to_owned()),
            None => Err(Error::Invalid {
                what: format!(
                    "the field manager ({} bytes) is the id of no directory user; give the id or the e-mail address of \
                     one",
                    said.len()
                ),
            }),
        }
    }

    /// The record of a directory user that is to be changed; says so where there is none.
    pub(super) async fn changeable_user(&self, id: &str) -> Result<wire::SystemUser, Error> {
        match self.read_directory_user(id).await? {
            Some(row) => Ok(row),
            None => Err(self.nobody(id, "be changed as an account").await),
        }
    }

    /// Deletes a directory user.
    pub(super) async fn delete_user(
        &self,
        id: &str,
        change: Change<'_>,
    ) -> Result<Done<()>, Error> {
        if !self.settings.allowed.account_deletion {
            return Err(Error::Refused {
                what: "deleting accounts is not allowed: allow it with --allow-account-deletion \
                       (BATON_ALLOW_ACCOUNT_DELETION), or suspend the user, which takes all access and can be undone"
                    .to_owned(),
            });
        }
        let row = match self.changeable_user(id).await {
            Ok(row) => row,
            Err(Error::NotFound { .. }) => {
                return Ok(Done::unwritten((), already(change)));
            }
            Err(error) => return Err(error),
        };
        self.spare_administrator(&row).await?;
        let plan = plan_for(
            "user.delete",
            format!("{USER}:{id}"),
            json!({"exists": true, "state": row.state, "administrator": linked_id(&row)}),
            json!({"exists": false}),
        );
        if let Some(planned) = planned(&plan, change, || ()).await? {
            return Ok(planned);
        }
        // The people whom this one manages are left without a manager, and not with one that does not exist.
        let written = self
            .order(
                Method::Delete,
                "/api/systemusers/{id}?cascade_manager=null",
                &[id],
                "delete users",
            )
            .await;
        let ((), request_id) = confirm(
            &format!("deleting user {id}"),
            gone_is_done(written),
            || async {
                let row = self.read_directory_user(id).await?;
                Ok(row.is_none().then_some(()))
            },
        )
        .await?;
        Ok(Done::written((), request_id))
    }
}

/// An account that is made, with the password that ConductorOne is to learn.
fn made(resource: v2::Resource, password: Option<SecretString>) -> Account {
    Account {
        resource,
        existed: false,
        secrets: password.map(plaintext).into_iter().collect(),
    }
}

/// Whether an earlier attempt at this change got as far as making the account. It saw that there was none.
fn is_ours(change: Change<'_>) -> bool {
    change.earlier.is_some_and(|plan| plan.operation == CREATE)
}

/// A deletion that was repeated, or that somebody else was faster with, finds nothing.
pub(super) fn gone_is_done(
    written: Result<Option<String>, Error>,
) -> Result<Option<String>, Error> {
    match written {
        Err(error) if error.class() == Class::NotFound => Ok(None),
        written => written,
    }
}

pub(super) fn is_staged(row: &wire::SystemUser) -> bool {
    row.state
        .as_deref()
        .is_some_and(|state| state.trim().eq_ignore_ascii_case("STAGED"))
}

/// Old records have no state and are active unless suspended.
pub(super) fn is_active(row: &wire::SystemUser) -> bool {
    row.suspended != Some(true)
        && filled(row.state.as_deref())
            .is_none_or(|state| state.trim().eq_ignore_ascii_case("ACTIVATED"))
}

pub(super) fn is_suspended(row: &wire::SystemUser) -> bool {
    row.suspended == Some(true)
        || row
            .state
            .as_deref()
            .is_some_and(|state| state.trim().eq_ignore_ascii_case("SUSPENDED"))
}

/// Whether JumpCloud refused because something has to be unique. Its statuses differ, so its words count too.
pub(super) fn is_duplicate(error: &Error) -> bool {
    match error {
        Error::Http { status: 409, .. } => true,
        Error::Http {
            status: 400 | 422,
            words: Some(words),
            ..
        } => {
            let words = words.as_str().to_lowercase();
            ["exist", "duplicate", "unique", "taken", "in use"]
                .iter()
                .any(|sign| words.contains(sign))
        }
        _ => false,
    }
}

/// Who of the users found has the username and the e-mail address.
fn judge(hits: &[wire::SystemUser], user: &NewUser) -> Found {
    let owner = |get: fn(&wire::SystemUser) -> Option<&str>, wanted: &str| {
        let wanted = email_key(Some(wanted));
        hits.iter()
            .find(|row| email_key(get(row)) == wanted)
            .and_then(wire::SystemUser::id)
            .map(str::to_owned)
    };
    let username = owner(|row| row.username.as_deref(), &user.username);
    let email = owner(|row| row.email.as_deref(), &user.email);
    match (username, email) {
        (None, None) => Found::Nobody,
        (Some(one), Some(other)) if one == other => Found::Same(one),
        (username, email) => Found::Taken(Taken { username, email }),
    }
}

fn plan(
    user: &NewUser,
    credential: &Credential,
    force_change: bool,
    subject: String,
    before: Json,
) -> Plan {
    let credential = match credential {
        Credential::Unspecified => "unspecified",
        Credential::Random(_) => "random",
        Credential::None => "none",
        Credential::Sso => "sso",
        Credential::Given(_) => "given",
    };
    let after = json!({
        "exists": true,
        "state": if user.fields.staged == Some(true) { "STAGED" } else { "ACTIVATED" },
        "password": credential,
        "expired": force_change,
        "mail": user.fields.send_email != Some(false),
        "fields": user.fields.names(),
    });
    plan_for(CREATE, subject, before, after)
}
