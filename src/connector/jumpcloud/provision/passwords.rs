//! Passwords of directory users: what the organisation demands of them, making them up, setting them, expiring them.
//!
//! A password exists only inside [`SecretString`] and inside the body of one request; it is in no error, log or plan.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::json;

use super::{
    super::{
        JumpCloud,
        client::{Convention, List, Method, Repeat},
        ids::USER,
        profile::{clip, filled},
        wire,
    },
    confirm::settle,
    plan_for, planned, rows,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Credential, Done},
    },
    crypto::{
        password::{self, Policy, Recipe},
        seal::Plaintext,
    },
    error::{Classify, Code},
    proto::connector::{self as v2, credential_options::RandomPassword},
};

/// What an organisation demands of its passwords, as far as it can be obeyed in advance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Demands {
    policy: Policy,
    /// The username must not be part of it.
    no_username: bool,
}

impl Demands {
    /// Those that are met where nobody says what they are: what many organisations demand, and hardly a request minds.
    const UNKNOWN: Self = Self {
        policy: Policy {
            min_length: 0,
            lowercase: false,
            uppercase: false,
            digit: false,
            symbol: false,
            no_runs: true,
        },
        no_username: true,
    };

    /// Those of an organisation with these settings.
    fn of(settings: &rows::Settings) -> Self {
        let is = |flag: Option<bool>| flag == Some(true);
        let custom = filled(settings.password_compliance.as_deref())
            .is_none_or(|name| name.trim().eq_ignore_ascii_case("custom"));
        if !custom {
            // JumpCloud names these sets of rules and does not publish them; this is stricter than such rules are.
            return Self {
                policy: Policy {
                    min_length: 12,
                    lowercase: true,
                    uppercase: true,
                    digit: true,
                    symbol: true,
                    no_runs: true,
                },
                no_username: true,
            };
        }
        let Some(policy) = &settings.password_policy else {
            return Self::default();
        };
        let min_length = policy
            .min_length
            .as_deref()
            .and_then(|length| length.trim().parse().ok())
            .filter(|_| policy.enable_min_length != Some(false));
        Self {
            policy: Policy {
                min_length: min_length.unwrap_or_default(),
                lowercase: is(policy.needs_lowercase),
                uppercase: is(policy.needs_uppercase),
                digit: is(policy.needs_numeric),
                symbol: is(policy.needs_symbolic),
                no_runs: is(policy.disallow_sequential_or_repetitive_chars),
            },
            no_username: policy.allow_username_substring == Some(false),
        }
    }

    fn recipe(self, options: &RandomPassword, username: &str) -> Result<Recipe, Error> {
        let recipe = Recipe::of(Some(options))
            .map_err(|error| unmakeable(&error))?
            .at_least(self.policy);
        Ok(recipe.without(self.no_username.then(|| username.trim().to_owned())))
    }
}

fn unmakeable(error: &password::Error) -> Error {
    Error::Invalid {
        what: format!("no password can be made: {error}"),
    }
}

const SET: &str = "user.password.set";
/// Where a plan keeps the date of the password before.
const CHANGED_AT: &str = "password_changed_at";

/// A request body that sets a password.
#[derive(Serialize)]
struct NewPassword<'a> {
    password: &'a str,
}

/// The password as ConductorOne gets it.
pub(super) fn plaintext(secret: SecretString) -> Plaintext {
    Plaintext {
        name: "password".to_owned(),
        description: "Password of the JumpCloud user".to_owned(),
        schema: String::new(),
        secret,
    }
}

impl JumpCloud {
    /// The organisation's demands; where this key may not read them, the usual ones.
    async fn password_demands(&self) -> Result<Demands, Error> {
        let unreadable = |error: Error| match error.code() {
            Code::PermissionDenied | Code::NotFound => {
                tracing::warn!(
                    reason = ?error.code(),
                    "the password policy of the organisation cannot be read with this key, so passwords are made by the \
                     request; JumpCloud refuses one that breaks its policy"
                );
                Ok(Demands::UNKNOWN)
            }
            _ => Err(error),
        };
        let id = if let Some(id) = self.client.org_id() {
            id.to_owned()
        } else {
            let list = List {
                template: "/api/organizations",
                ids: Vec::new(),
                query: Vec::new(),
                convention: Convention::Wrapped,
            };
            let page = match self.client.page::<rows::Organization>(&list, 0).await {
                Ok(page) => page,
                Err(error) => return unreadable(error),
            };
            match page.items.first().and_then(rows::Organization::id) {
                Some(id) => id.to_owned(),
                None => return Ok(Demands::UNKNOWN),
            }
        };
        let answer: Result<rows::Organization, Error> = self
            .client
            .get("/api/organizations/{id}", &[&id], &[])
            .await;
        match answer {
            Ok(organization) => Ok(organization
                .settings
                .map(|settings| Demands::of(&settings))
                .unwrap_or_default()),
            Err(error) => unreadable(error),
        }
    }

    /// The password that a credential means; `None` where it means none.
    pub(super) async fn password_for(
        &self,
        credential: &Credential,
        username: &str,
    ) -> Result<Option<SecretString>, Error> {
        match credential {
            Credential::Random(options) => self.make_password(options, username).await.map(Some),
            Credential::Given(password) => Ok(Some(password.clone())),
            Credential::Unspecified | Credential::None | Credential::Sso => Ok(None),
        }
    }

    /// Makes up a password by the request and the organisation's policy together.
    pub(super) async fn make_password(
        &self,
        options: &RandomPassword,
        username: &str,
    ) -> Result<SecretString, Error> {
        // Bad options are refused before anything is asked.
        Demands::default().recipe(options, username)?;
        let recipe = self.password_demands().await?.recipe(options, username)?;
        recipe.generate().map_err(|error| unmakeable(&error))
    }

    /// Gives a directory user a new password.
    pub(super) async fn set_credential(
        &self,
        id: &v2::ResourceId,
        credential: &Credential,
        force_change: bool,
        change: Change<'_>,
    ) -> Result<Done<Vec<Plaintext>>, Error> {
        if id.resource_type != USER {
            return Err(Error::Unsupported {
                what: format!(
                    "only users have a password; resource type {} has none",
                    clip(&id.resource_type, 64)
                ),
            });
        }
        let user = super::super::usable(USER, &id.resource)?;
        let row = self.changeable_user(user).await?;
        own_password(&row)?;
        let username = row.username.as_deref().unwrap_or_default();
        let Some(password) = self.password_for(credential, username).await? else {
            return Err(Error::Invalid {
                what: "credential_options ask for no password, and a rotation needs one: ask for a random or an encrypted \
                       password"
                    .to_owned(),
            });
        };
        let made_up = matches!(credential, Credential::Random(_));
        let plan = plan_for(
            SET,
            format!("{USER}:{user}"),
            json!({ CHANGED_AT: row.password_date }),
            json!({
                "password": if made_up { "random" } else { "given" },
                "expired": force_change,
            }),
        );
        // A given password that an earlier attempt has set already would be refused as a repetition.
        let set = !made_up
            && change.earlier.is_some_and(|earlier| {
                earlier.operation == SET
                    && earlier.before.get(CHANGED_AT) != plan.before.get(CHANGED_AT)
            });
        if let Some(planned) = planned(&plan, change, Vec::new).await? {
            return Ok(planned);
        }
        let mut request_ids = Vec::new();
        if !set {
            request_ids.extend(self.put_password(user, &password, &row).await?);
        }
        if force_change {
            request_ids.extend(self.expire(user).await?);
        }
        let told = made_up.then(|| plaintext(password));
        Ok(Done::written(told.into_iter().collect(), request_ids))
    }

    /// Sets a password; `before` is the record from before.
    pub(super) async fn put_password(
        &self,
        user: &str,
        password: &SecretString,
        before: &wire::SystemUser,
    ) -> Result<Option<String>, Error> {
        let body = NewPassword {
            password: password.expose_secret(),
        };
        let written = self
            .send(
                Method::Put,
                "/api/systemusers/{id}",
                &[user],
                Some(&body),
                Repeat::Always,
                "set passwords of users",
            )
            .await;
        let moved = || async {
            let row = self.read_directory_user(user).await?;
            Ok(row.filter(|row| {
                filled(row.password_date.as_deref()).is_some()
                    && row.password_date != before.password_date
            }))
        };
        let seen = match &written {
            Err(error) if error.may_have_been_applied() => settle(moved).await,
            // A repeated request may be refused because of the first one: no password may be used twice.
            Err(error) if error.code() == Code::InvalidArgument => moved().await,
            // JumpCloud shows no password, so its word is all there is.
            _ => Ok(None),
        };
        match seen {
            Ok(Some(_)) => Ok(None),
            Ok(None) | Err(_) => written,
        }
    }

    /// Expires a password, so that the person has to choose another one at the next sign-in.
    pub(super) async fn expire(&self, user: &str) -> Result<Option<String>, Error> {
        self.order(
            Method::Post,
            "/api/systemusers/{id}/expire",
            &[user],
            "expire passwords of users",
        )
        .await
    }
}

/// Refuses a user whose password is kept somewhere else.
pub(super) fn own_password(row: &wire::SystemUser) -> Result<(), Error> {
    let authority = row
        .delegated_authority
        .as_ref()
        .and_then(|authority| filled(authority.name.as_deref()));
    let restricted = row.restricted_fields.iter().find(|restricted| {
        restricted
            .field
            .as_deref()
            .is_some_and(|field| field.eq_ignore_ascii_case("password"))
    });
    let owner = match (authority, restricted) {
        (Some(authority), _) => authority,
        (None, Some(restricted)) => {
            filled(restricted.kind.as_deref()).unwrap_or("another directory")
        }
        (None, None) => return Ok(()),
    };
    Err(Error::Refused {
        what: format!(
            "the password of user {} is kept by {}, so it is changed there and not in JumpCloud",
            row.id().unwrap_or_default(),
            clip(owner, 64)
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;
    use crate::proto::connector::PasswordConstraint;

    fn demands(settings: Json) -> Demands {
        Demands::of(&serde_json::from_value(settings).unwrap())
    }

    #[test]
    fn demands_are_those_that_are_switched_on() {
        let policy = json!({
            "enableMinLength": true, "minLength": 14, "needsLowercase": true, "needsUppercase": false,
            "needsNumeric": true, "needsSymbolic": null, "allowUsernameSubstring": false,
            "disallowSequentialOrRepetitiveChars": true,
        });
        let custom = demands(json!({"passwordCompliance": "custom", "passwordPolicy": policy}));
        assert_eq!(
            custom,
            Demands {
                policy: Policy {
                    min_length: 14,
                    lowercase: true,
                    uppercase: false,
                    digit: true,
                    symbol: false,
                    no_runs: true,
                },
                no_username: true,
            }
        );
        assert_eq!(demands(json!({"passwordPolicy": policy})), custom);
        let off =
            json!({"enableMinLength": false, "minLength": 14, "allowUsernameSubstring": true});
        assert_eq!(demands(json!({"passwordPolicy": off})), Demands::default());
        assert_eq!(demands(json!({})), Demands::default());
        let named = demands(json!({"passwordCompliance": "pci3", "passwordPolicy": off}));
        assert!(named.policy.symbol && named.policy.min_length >= 12);
    }

    #[test]
    fn a_password_obeys_the_request_and_the_organisation() {
        let demands = demands(json!({"passwordPolicy": {
            "enableMinLength": true, "minLength": 30, "needsSymbolic": true,
            "allowUsernameSubstring": false, "disallowSequentialOrRepetitiveChars": true,
        }}));
        let options = RandomPassword {
            length: 20,
            constraints: vec![PasswordConstraint {
                char_set: "xyz".to_owned(),
                min_count: 4,
            }],
        };
        for _ in 0..50 {
            let password = demands
                .recipe(&options, " Avery ")
                .unwrap()
                .generate()
                .unwrap();
            let text = password.expose_secret();
            assert_eq!(text.chars().count(), 30);
            assert!(text.chars().any(|c| c.is_ascii_punctuation()));
            assert!(text.chars().filter(|c| "xyz".contains(*c)).count() >= 4);
            assert!(!text.to_lowercase().contains("avery"));
        }
        let short = RandomPassword {
            length: 7,
            constraints: Vec::new(),
        };
        assert!(matches!(
            demands.recipe(&short, ""),
            Err(Error::Invalid { .. })
        ));
    }

    #[test]
    fn a_password_that_is_kept_elsewhere_is_left_alone() {
        let row = |value: Json| serde_json::from_value::<wire::SystemUser>(value).unwrap();
        let cases = [
            (json!({"_id": "u1"}), None),
            (json!({"_id": "u1", "external_source_type": "scim"}), None),
            (
                json!({"_id": "u1", "restrictedFields": [{"field": "department", "type": "scim"}]}),
                None,
            ),
            (
                json!({"_id": "u1", "restrictedFields": [{"field": "password", "type": "scim"}]}),
                Some("user u1 is kept by scim"),
            ),
            (
                json!({"_id": "u1", "delegatedAuthority": {"name": "ActiveDirectory"}}),
                Some("user u1 is kept by ActiveDirectory"),
            ),
        ];
        for (value, expected) in cases {
            let result = own_password(&row(value.clone())).map_err(|error| error.to_string());
            match expected {
                None => assert_eq!(result, Ok(()), "{value}"),
                Some(words) => assert!(result.unwrap_err().contains(words), "{value}"),
            }
        }
    }
}
