//! What only changes read of JumpCloud, as leniently as [`wire`] reads the rest.

use serde::Deserialize;

use super::super::wire::{self, flag, id_text, lenient, text};

/// The answer of a search for users.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Hits {
    #[serde(deserialize_with = "lenient")]
    pub(super) results: Vec<wire::SystemUser>,
}

/// An organisation, of which only the rule for passwords matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Organization {
    #[serde(rename = "_id", deserialize_with = "id_text")]
    pub(super) underscore_id: Option<String>,
    #[serde(rename = "id", deserialize_with = "id_text")]
    pub(super) plain_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub(super) settings: Option<Settings>,
}

impl Organization {
    pub(super) fn id(&self) -> Option<&str> {
        wire::usable(self.underscore_id.as_deref())
            .or_else(|| wire::usable(self.plain_id.as_deref()))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Settings {
    /// `custom`, or the name of a fixed set of rules.
    #[serde(deserialize_with = "text")]
    pub(super) password_compliance: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub(super) password_policy: Option<PasswordPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PasswordPolicy {
    #[serde(deserialize_with = "flag")]
    pub(super) enable_min_length: Option<bool>,
    #[serde(deserialize_with = "text")]
    pub(super) min_length: Option<String>,
    #[serde(deserialize_with = "flag")]
    pub(super) needs_lowercase: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) needs_uppercase: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) needs_numeric: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) needs_symbolic: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) allow_username_substring: Option<bool>,
    #[serde(deserialize_with = "flag")]
    pub(super) disallow_sequential_or_repetitive_chars: Option<bool>,
}

/// An SSH key of a user, without the key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SshKey {
    #[serde(rename = "_id", deserialize_with = "id_text")]
    pub(super) id: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) name: Option<String>,
}

/// A change of state that JumpCloud will make by itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Scheduled {
    #[serde(rename = "scheduledJobId", deserialize_with = "id_text")]
    pub(super) job_id: Option<String>,
    #[serde(deserialize_with = "id_text")]
    pub(super) system_user_id: Option<String>,
    #[serde(deserialize_with = "text")]
    pub(super) state: Option<String>,
    #[serde(rename = "scheduledDate", deserialize_with = "text")]
    pub(super) date: Option<String>,
}
