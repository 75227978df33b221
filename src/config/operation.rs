//! What a one-shot run is to do: sync, or one change.

use super::validate::{Resolver, shape};
use crate::proto::{self, Struct};

/// What a one-shot run does. The flags and what they mean together are those of the official connectors.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Operation {
    /// Write a file.
    #[default]
    Sync,
    /// Give an entitlement of the file to a resource of the file.
    Grant {
        /// The id of the entitlement in the file.
        entitlement: String,
        /// The id of the principal.
        principal: String,
        /// The resource type of the principal.
        principal_type: String,
    },
    /// Take away a grant of the file.
    Revoke {
        /// The id of the grant in the file.
        grant: String,
    },
    /// Make an account with a random password.
    CreateAccount {
        /// Its login; may be empty where there is an e-mail address.
        login: String,
        /// Its e-mail address; may be empty.
        email: String,
        /// Its profile.
        profile: Struct,
        /// Its resource type; empty means the only one that has accounts.
        resource_type: String,
    },
    /// Delete a resource.
    DeleteResource {
        /// Its id.
        id: String,
        /// Its resource type.
        resource_type: String,
    },
    /// Give an account a random password.
    RotateCredentials {
        /// The id of the account.
        id: String,
        /// Its resource type.
        resource_type: String,
    },
    /// Print the actions.
    ListActionSchemas {
        /// Of this resource type only; empty means all.
        resource_type: String,
    },
    /// Run an action and print its result.
    InvokeAction {
        /// Its name.
        name: String,
        /// The resource type that it belongs to; empty for a global one.
        resource_type: String,
        /// Its arguments.
        arguments: Struct,
    },
}

impl Operation {
    /// Whether it changes the directory.
    pub const fn is_change(&self) -> bool {
        !matches!(self, Self::Sync | Self::ListActionSchemas { .. })
    }
}

/// The flags that choose an operation; those in a row belong together.
const CHOICES: [&[&str]; 7] = [
    &["grant-entitlement", "grant-principal"],
    &["revoke-grant"],
    &[
        "create-account-login",
        "create-account-email",
        "create-account-profile",
    ],
    &["delete-resource", "delete-resource-type"],
    &["rotate-credentials"],
    &["list-action-schemas"],
    &["invoke-action"],
];

impl Resolver<'_> {
    /// The operation of a one-shot run; in service mode the flags have no effect.
    pub(super) fn operation(&mut self) -> Operation {
        let chosen: Vec<&'static str> = CHOICES
            .iter()
            .filter_map(|names| names.iter().find(|name| self.is_given(name)))
            .copied()
            .collect();
        match *chosen.as_slice() {
            [] => Operation::Sync,
            [name] => self.chosen(name),
            [first, ref others @ ..] => {
                let text = format!(
                    "cannot be given together with --{}: a run does one thing",
                    others.join(" and --")
                );
                self.problem(first, text);
                Operation::Sync
            }
        }
    }

    fn chosen(&mut self, name: &str) -> Operation {
        match name {
            "grant-entitlement" | "grant-principal" => Operation::Grant {
                entitlement: self.needed("grant-entitlement"),
                principal: self.needed("grant-principal"),
                principal_type: self.account_type("grant-principal-type"),
            },
            "revoke-grant" => Operation::Revoke {
                grant: self.needed("revoke-grant"),
            },
            "delete-resource" | "delete-resource-type" => Operation::DeleteResource {
                id: self.needed("delete-resource"),
                resource_type: self.needed("delete-resource-type"),
            },
            "rotate-credentials" => Operation::RotateCredentials {
                id: self.needed("rotate-credentials"),
                resource_type: self.account_type("rotate-credentials-type"),
            },
            "list-action-schemas" => Operation::ListActionSchemas {
                resource_type: self
                    .text("list-action-schemas-resource-type")
                    .unwrap_or_default(),
            },
            "invoke-action" => Operation::InvokeAction {
                name: self.needed("invoke-action"),
                resource_type: self.text("invoke-action-resource-type").unwrap_or_default(),
                arguments: self.object("invoke-action-args"),
            },
            _ => self.account(),
        }
    }

    /// What the profile says of login and e-mail goes before the flags, as in the official connectors.
    fn account(&mut self) -> Operation {
        let profile = self.object("create-account-profile");
        let mut of_profile = |name: &str, flag: &'static str| {
            proto::text_of(&profile, name)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .or_else(|| self.text(flag))
                .unwrap_or_default()
        };
        let login = of_profile("login", "create-account-login");
        let email = of_profile("email", "create-account-email");
        if login.is_empty() && email.is_empty() {
            self.problem(
                "create-account-login",
                "is missing; give it or create-account-email, as a flag or in create-account-profile",
            );
        }
        Operation::CreateAccount {
            login,
            email,
            profile,
            resource_type: self
                .text("create-account-resource-type")
                .unwrap_or_default(),
        }
    }

    /// There is only one type of accounts.
    fn account_type(&mut self, name: &'static str) -> String {
        self.text(name).unwrap_or_else(|| "user".to_owned())
    }

    fn needed(&mut self, name: &'static str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.problem(name, "is missing; the flags beside it need it");
            String::new()
        })
    }

    fn object(&mut self, name: &'static str) -> Struct {
        let Some(text) = self.text(name) else {
            return Struct::default();
        };
        if let Ok(serde_json::Value::Object(members)) = serde_json::from_str(&text) {
            return proto::structure(members);
        }
        let problem = format!("is {}, where a JSON object is expected", shape(&text));
        self.problem(name, problem);
        Struct::default()
    }
}
