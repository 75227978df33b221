//! Who may ask what: API keys, OAuth clients and their tokens, permissions, and the choice of the organisation.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::{
    behaviour::Behaviour,
    id::Id,
    routes::{Collection, Endpoint, Route},
};

/// What the owner of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRole {
    /// Administrator With Billing: everything.
    Full,
    /// Everything except changes to administrators.
    Administrator,
    /// Reads everything.
    ReadOnly,
    /// Neither applications nor administrators nor roles; of the rest it changes users only.
    HelpDesk,
    /// Reads everything except Directory Insights.
    CommandRunner,
    /// API access is switched off: every request is answered 401.
    NoApiAccess,
}

impl KeyRole {
    fn denies(self, collection: Collection) -> bool {
        match self {
            Self::Full | Self::Administrator | Self::ReadOnly | Self::NoApiAccess => false,
            Self::HelpDesk => matches!(
                collection,
                Collection::Applications | Collection::Administrators | Collection::Roles
            ),
            Self::CommandRunner => collection == Collection::Insights,
        }
    }

    fn may_write(self, collection: Collection) -> bool {
        match self {
            Self::Full => true,
            Self::Administrator => collection != Collection::Administrators,
            Self::HelpDesk => collection == Collection::Users,
            Self::ReadOnly | Self::CommandRunner | Self::NoApiAccess => false,
        }
    }

    /// The role of the administrator whose key it is.
    const fn name(self) -> &'static str {
        match self {
            Self::Full | Self::NoApiAccess => "Administrator With Billing",
            Self::Administrator => "Administrator",
            Self::ReadOnly => "Read Only",
            Self::HelpDesk => "Help Desk",
            Self::CommandRunner => "Command Runner",
        }
    }
}

/// An API key.
#[derive(Debug, Clone)]
pub struct Key {
    /// How tests and logs call it.
    pub name: String,
    /// The text of `x-api-key`.
    pub secret: SecretString,
    /// What its owner is.
    pub role: KeyRole,
    /// Collections that answer 403, beside those that the role denies.
    pub denied: BTreeSet<Collection>,
    /// Collections whose changes answer 403, beside those that the role may not change.
    pub denied_writes: BTreeSet<Collection>,
    /// Which organisations it can see, by their position in the configuration; empty for all.
    pub organizations: Vec<usize>,
}

impl Key {
    /// A key of this role for all organisations.
    pub fn new(name: &str, secret: &str, role: KeyRole) -> Self {
        Self {
            name: name.to_owned(),
            secret: SecretString::from(secret),
            role,
            denied: BTreeSet::new(),
            denied_writes: BTreeSet::new(),
            organizations: Vec::new(),
        }
    }

    /// The same key without these collections.
    #[must_use]
    pub fn without(mut self, denied: impl IntoIterator<Item = Collection>) -> Self {
        self.denied.extend(denied);
        self
    }

    /// The same key, which may read these collections only.
    #[must_use]
    pub fn reading(mut self, collections: impl IntoIterator<Item = Collection>) -> Self {
        self.denied_writes.extend(collections);
        self
    }
}

/// An OAuth client (a service account), which may see everything in all organisations.
#[derive(Debug, Clone)]
pub struct OAuthClient {
    /// Client id.
    pub id: String,
    /// Client secret.
    pub secret: SecretString,
    /// How long its tokens live.
    pub token_life: Duration,
}

/// How many tokens are remembered.
const TOKENS: usize = 1024;

#[derive(Debug)]
pub(super) struct Access {
    keys: RwLock<Vec<Arc<Key>>>,
    clients: Vec<OAuthClient>,
    organizations: Vec<Id>,
    /// Text and end of each token.
    tokens: Mutex<VecDeque<(String, Instant)>>,
    issued: AtomicU64,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    Key(Arc<Key>),
    Token,
}

/// A caller with the organisation that the request is about.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    /// Position of the organisation.
    pub organization: usize,
    /// All organisations that the caller can see.
    pub visible: Vec<usize>,
    /// Whether `x-org-id` was sent.
    pub named_organization: bool,
    /// The role of the administrator who asks.
    pub role: &'static str,
}

/// Why not: the status, whose body is the standard one of that status unless a message is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Denied {
    pub status: u16,
    pub message: Option<&'static str>,
}

const fn denied(status: u16) -> Denied {
    Denied {
        status,
        message: None,
    }
}

/// The answer of the token endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenReply {
    pub status: u16,
    pub body: String,
}

impl Access {
    pub(super) fn new(keys: Vec<Key>, clients: Vec<OAuthClient>, organizations: Vec<Id>) -> Self {
        Self {
            keys: RwLock::new(keys.into_iter().map(Arc::new).collect()),
            clients,
            organizations,
            tokens: Mutex::new(VecDeque::new()),
            issued: AtomicU64::new(0),
        }
    }

    /// Accepts these keys from now on, and no others.
    pub(super) fn replace_keys(&self, keys: Vec<Key>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) =
            keys.into_iter().map(Arc::new).collect();
    }

    /// Recognises the caller by `x-api-key` or a bearer token.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Option<Caller> {
        if let Some(secret) = text(headers, "x-api-key") {
            return self
                .keys
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .find(|key| key.secret.expose_secret() == secret)
                .filter(|key| key.role != KeyRole::NoApiAccess)
                .cloned()
                .map(Caller::Key);
        }
        let authorization = text(headers, header::AUTHORIZATION.as_str())?;
        let (scheme, token) = authorization.split_once(' ')?;
        let now = Instant::now();
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tokens
            .iter()
            .any(|(text, end)| text == token.trim() && now < *end);
        (scheme.eq_ignore_ascii_case("bearer") && known).then_some(Caller::Token)
    }

    /// Decides whether a caller may ask this, and about which organisation.
    pub(super) fn authorize(
        &self,
        caller: &Caller,
        route: &Route,
        headers: &HeaderMap,
        behaviour: &Behaviour,
    ) -> Result<Granted, Denied> {
        let visible: Vec<usize> = match caller {
            Caller::Key(key) if !key.organizations.is_empty() => key.organizations.clone(),
            Caller::Key(_) | Caller::Token => (0..self.organizations.len()).collect(),
        };
        let named = text(headers, "x-org-id");
        if named.is_some()
            && behaviour.refuse_org_on_admins
            && matches!(
                route.endpoint,
                Endpoint::AdminList
                    | Endpoint::AdminGet
                    | Endpoint::AdminUpdate
                    | Endpoint::AdminDelete
            )
        {
            return Err(denied(403));
        }
        let organization = match named {
            Some(text) => {
                let id: Id = text.parse().map_err(|_problem| Denied {
                    status: 400,
                    message: Some("Bad Request: x-org-id is malformed"),
                })?;
                self.organizations
                    .iter()
                    .position(|&organization| organization == id)
                    .filter(|position| visible.contains(position))
                    .ok_or(denied(404))?
            }
            None if visible.len() > 1
                && !matches!(
                    route.endpoint,
                    Endpoint::OrganizationList | Endpoint::OrganizationGet
                ) =>
            {
                return Err(denied(401));
            }
            None => visible.first().copied().ok_or(denied(401))?,
        };
        if let Some(collection) = route.collection {
            let by_key = match caller {
                Caller::Key(key) => {
                    let reading = key.role.denies(collection) || key.denied.contains(&collection);
                    let writing = route.writes()
                        && (!key.role.may_write(collection)
                            || key.denied_writes.contains(&collection));
                    reading || writing
                }
                Caller::Token => false,
            };
            let by_behaviour = behaviour.deny.contains(&collection)
                || (route.writes() && behaviour.deny_writes.contains(&collection));
            if by_key || by_behaviour {
                return Err(denied(403));
            }
        }
        Ok(Granted {
            organization,
            visible,
            named_organization: named.is_some(),
            role: match caller {
                Caller::Key(key) => key.role.name(),
                Caller::Token => KeyRole::Full.name(),
            },
        })
    }

    /// Answers a request for a token (client credentials, HTTP Basic).
    pub(super) fn token(&self, headers: &HeaderMap, form: &[u8]) -> TokenReply {
        let refused = |status, body: &str| TokenReply {
            status,
            body: body.to_owned(),
        };
        let Some(client) = self.client(headers) else {
            return refused(
                401,
                r#"{"error":"invalid_client","error_description":"client authentication failed"}"#,
            );
        };
        let mut grant_type = None;
        let mut scope = None;
        for (name, value) in url::form_urlencoded::parse(form) {
            match name.as_ref() {
                "grant_type" => grant_type = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        match grant_type.as_deref() {
            Some("client_credentials") => {}
            Some(_) => return refused(400, r#"{"error":"unsupported_grant_type"}"#),
            None => return refused(400, r#"{"error":"invalid_request"}"#),
        }
        if scope.as_deref() != Some("api") {
            return refused(400, r#"{"error":"invalid_scope"}"#);
        }
        let number = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
        let token = format!("SECRETSEED-token-{number}");
        let now = Instant::now();
        if let Some(end) = now.checked_add(client.token_life) {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.retain(|(_, end)| now < *end);
            if tokens.len() == TOKENS {
                tokens.pop_front();
            }
            tokens.push_back((token.clone(), end));
        }
        TokenReply {
            status: 200,
            body: format!(
                r#"{{"access_token":"{token}","expires_in":{},"scope":"api","token_type":"bearer"}}"#,
                client.token_life.as_secs()
            ),
        }
    }

    fn client(&self, headers: &HeaderMap) -> Option<&OAuthClient> {
        let authorization = text(headers, header::AUTHORIZATION.as_str())?;
        let (scheme, encoded) = authorization.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (id, secret) = pair.split_once(':')?;
        self.clients
            .iter()
            .find(|client| same(&client.id, id) && same(client.secret.expose_secret(), secret))
    }

    /// How many tokens were issued.
    pub(super) fn tokens_issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Forgets all tokens: their bearers get 401.
    pub(super) fn revoke_tokens(&self) {
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// OAuth lets the client encode id and secret as form values before Basic; both spellings are taken.
fn same(want: &str, have: &str) -> bool {
    let encoded: String = url::form_urlencoded::byte_serialize(want.as_bytes()).collect();
    have == want || have == encoded
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::jumpcloud::{id::IdKind, routes::ROUTES};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn route(template: &str) -> &'static Route {
        ROUTES
            .iter()
            .find(|route| route.template == template)
            .unwrap()
    }

    fn access() -> (Access, Vec<Id>) {
        let organizations: Vec<Id> = (0..3)
            .map(|seed| Id::derive(seed, IdKind::Organization, 0))
            .collect();
        let mut single = Key::new("single", "SECRETSEED-single", KeyRole::Full);
        single.organizations = vec![1];
        let access = Access::new(
            vec![
                Key::new("all", "SECRETSEED-all", KeyRole::Full),
                single,
                Key::new("off", "SECRETSEED-off", KeyRole::NoApiAccess),
                Key::new("desk", "SECRETSEED-desk", KeyRole::HelpDesk)
                    .without([Collection::Groups]),
            ],
            vec![OAuthClient {
                id: "client".to_owned(),
                secret: SecretString::from("SECRETSEED/secret"),
                token_life: Duration::from_secs(2),
            }],
            organizations.clone(),
        );
        (access, organizations)
    }

    fn ask(access: &Access, pairs: &[(&'static str, &str)], template: &str) -> Result<usize, u16> {
        let headers = headers(pairs);
        let caller = access.authenticate(&headers).ok_or(401_u16)?;
        access
            .authorize(&caller, route(template), &headers, &Behaviour::default())
            .map(|granted| granted.organization)
            .map_err(|denied| denied.status)
    }

    #[test]
    fn the_organisation_is_chosen_by_key_and_header() {
        let (access, ids) = access();
        let ids: Vec<String> = ids.iter().map(Id::to_string).collect();
        let users = "/api/systemusers";
        for (key, org, template, want) in [
            ("SECRETSEED-single", None, users, Ok(1)),
            ("SECRETSEED-single", Some(&*ids[1]), users, Ok(1)),
            ("SECRETSEED-single", Some(&*ids[0]), users, Err(404)),
            ("SECRETSEED-single", Some("nonsense"), users, Err(400)),
            ("SECRETSEED-all", None, users, Err(401)),
            ("SECRETSEED-all", None, "/api/organizations", Ok(0)),
            ("SECRETSEED-all", Some(&*ids[2]), users, Ok(2)),
            (
                "SECRETSEED-all",
                Some("64aa00000000000000000000"),
                users,
                Err(404),
            ),
            ("SECRETSEED-off", Some(&*ids[0]), users, Err(401)),
            ("SECRETSEED-wrong", None, users, Err(401)),
            ("SECRETSEED-desk", Some(&*ids[0]), users, Ok(0)),
            (
                "SECRETSEED-desk",
                Some(&*ids[0]),
                "/api/applications",
                Err(403),
            ),
            (
                "SECRETSEED-desk",
                Some(&*ids[0]),
                "/api/v2/usergroups",
                Err(403),
            ),
        ] {
            let mut pairs = vec![("x-api-key", key)];
            pairs.extend(org.map(|org| ("x-org-id", org)));
            assert_eq!(
                ask(&access, &pairs, template),
                want,
                "{key} {org:?} {template}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_opens_the_door_until_it_expires_or_is_revoked() {
        let (access, ids) = access();
        let organization = ids[0].to_string();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let form: &[u8] = b"grant_type=client_credentials&scope=api";
        let token = |pair: &str, form: &[u8]| {
            let reply = access.token(&headers(&[("authorization", &basic(pair))]), form);
            (reply.status, reply.body)
        };
        assert_eq!(token("client:wrong", form).0, 401);
        assert_eq!(token("client:SECRETSEED%2Fsecret", form).0, 200);
        assert!(
            token("client:SECRETSEED/secret", b"grant_type=password")
                .1
                .contains("unsupported")
        );
        assert!(
            token(
                "client:SECRETSEED/secret",
                b"grant_type=client_credentials&scope=x"
            )
            .1
            .contains("invalid_scope")
        );
        let (status, body) = token("client:SECRETSEED/secret", form);
        assert_eq!(status, 200);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let bearer = format!("Bearer {}", body["access_token"].as_str().unwrap());
        let pairs = [("authorization", &*bearer), ("x-org-id", &organization)];
        assert_eq!(ask(&access, &pairs, "/api/systemusers"), Ok(0));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(ask(&access, &pairs, "/api/systemusers"), Err(401));
        assert_eq!(access.tokens_issued(), 2);
    }
}
