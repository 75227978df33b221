//! JSON types exactly as JumpCloud serves them; unknown fields are ignored, missing ones tolerated.
//!
//! Owns the reading of single rows and nothing else. Invariants: a row that is a JSON object always decodes, whatever
//! its fields hold, so one odd value never costs a sync; a scalar of another type is read as text where that is
//! plausible (`"employeeIdentifier": 1001`), though never as an id; anything else counts as absent. Fields that hold
//! secrets (an application's `config` with its private key) have no place here, so they are dropped while decoding and
//! can never travel on.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::client::Identified;

/// A directory user (`/api/systemusers`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SystemUser {
    #[serde(rename = "_id", deserialize_with = "id_text")]
    underscore_id: Option<String>,
    #[serde(rename = "id", deserialize_with = "id_text")]
    plain_id: Option<String>,
    /// Login name.
    #[serde(deserialize_with = "text")]
    pub username: Option<String>,
    /// Primary e-mail.
    #[serde(deserialize_with = "text")]
    pub email: Option<String>,
    /// Second e-mail; often empty text.
    #[serde(rename = "alternateEmail", deserialize_with = "text")]
    pub alternate_email: Option<String>,
    /// Given name.
    #[serde(deserialize_with = "text")]
    pub firstname: Option<String>,
    /// Middle name.
    #[serde(deserialize_with = "text")]
    pub middlename: Option<String>,
    /// Family name.
    #[serde(deserialize_with = "text")]
    pub lastname: Option<String>,
    /// Name for display; often empty text.
    #[serde(deserialize_with = "text")]
    pub displayname: Option<String>,
    /// Free text.
    #[serde(deserialize_with = "text")]
    pub description: Option<String>,
    /// Id of the organisation.
    #[serde(deserialize_with = "text")]
    pub organization: Option<String>,
    /// RFC 3339 text.
    #[serde(deserialize_with = "text")]
    pub created: Option<String>,
    /// Such as `jumpcloud:bulk`.
    #[serde(rename = "creationSource", deserialize_with = "text")]
    pub creation_source: Option<String>,
    /// Job title.
    #[serde(rename = "jobTitle", deserialize_with = "text")]
    pub job_title: Option<String>,
    /// Department.
    #[serde(deserialize_with = "text")]
    pub department: Option<String>,
    /// Company.
    #[serde(deserialize_with = "text")]
    pub company: Option<String>,
    /// Cost centre.
    #[serde(rename = "costCenter", deserialize_with = "text")]
    pub cost_center: Option<String>,
    /// Location.
    #[serde(deserialize_with = "text")]
    pub location: Option<String>,
    /// Employee identifier, unique in the organisation.
    #[serde(rename = "employeeIdentifier", deserialize_with = "text")]
    pub employee_identifier: Option<String>,
    /// Such as `Employee` or `Contractor`.
    #[serde(rename = "employeeType", deserialize_with = "text")]
    pub employee_type: Option<String>,
    /// Id of another directory user.
    #[serde(deserialize_with = "text")]
    pub manager: Option<String>,
    /// Telephone numbers.
    #[serde(rename = "phoneNumbers", deserialize_with = "lenient")]
    pub phone_numbers: Vec<PhoneNumber>,
    /// Postal addresses.
    #[serde(deserialize_with = "lenient")]
    pub addresses: Vec<Address>,
    /// `STAGED`, `ACTIVATED` or `SUSPENDED`; missing on old records.
    #[serde(deserialize_with = "text")]
    pub state: Option<String>,
    /// False while no password was ever set.
    #[serde(deserialize_with = "flag")]
    pub activated: Option<bool>,
    /// Suspended by an administrator.
    #[serde(deserialize_with = "flag")]
    pub suspended: Option<bool>,
    /// Locked out after wrong passwords.
    #[serde(deserialize_with = "flag")]
    pub account_locked: Option<bool>,
    /// When the lock-out happened.
    #[serde(deserialize_with = "text")]
    pub account_locked_date: Option<String>,
    /// When the password was last set.
    #[serde(deserialize_with = "text")]
    pub password_date: Option<String>,
    /// When the password expires.
    #[serde(deserialize_with = "text")]
    pub password_expiration_date: Option<String>,
    /// The password has expired.
    #[serde(deserialize_with = "flag")]
    pub password_expired: Option<bool>,
    /// The password never expires.
    #[serde(deserialize_with = "flag")]
    pub password_never_expires: Option<bool>,
    /// Administrator on every bound device.
    #[serde(deserialize_with = "flag")]
    pub sudo: Option<bool>,
    /// `sudo` without a password.
    #[serde(deserialize_with = "flag")]
    pub passwordless_sudo: Option<bool>,
    /// The user portal asks for a second factor.
    #[serde(deserialize_with = "flag")]
    pub enable_user_portal_multifactor: Option<bool>,
    /// A TOTP device is enrolled.
    #[serde(deserialize_with = "flag")]
    pub totp_enabled: Option<bool>,
    /// Multi-factor configuration.
    #[serde(deserialize_with = "lenient")]
    pub mfa: Option<Mfa>,
    /// Enrolment per factor.
    #[serde(rename = "mfaEnrollment", deserialize_with = "lenient")]
    pub mfa_enrollment: Option<MfaEnrollment>,
    /// SSH keys; the key texts are not read.
    #[serde(deserialize_with = "lenient")]
    pub ssh_keys: Vec<SshKey>,
    /// Such as `active_directory`, `scim` or empty.
    #[serde(deserialize_with = "text")]
    pub external_source_type: Option<String>,
    /// Name in the foreign directory.
    #[serde(deserialize_with = "text")]
    pub external_dn: Option<String>,
    /// Fields that a foreign directory owns.
    #[serde(rename = "restrictedFields", deserialize_with = "lenient")]
    pub restricted_fields: Vec<RestrictedField>,
    /// Who checks the password.
    #[serde(rename = "delegatedAuthority", deserialize_with = "lenient")]
    pub delegated_authority: Option<Named>,
    /// The linked administrator.
    #[serde(deserialize_with = "lenient")]
    pub admin: Option<AdminLink>,
    /// Custom attributes.
    #[serde(deserialize_with = "lenient")]
    pub attributes: Vec<Attribute>,
}

/// A telephone number of a user.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PhoneNumber {
    /// Such as `work`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: Option<String>,
    /// The number as typed.
    #[serde(deserialize_with = "text")]
    pub number: Option<String>,
}

/// A postal address of a user.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names are JumpCloud's")]
pub struct Address {
    /// Such as `work`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: Option<String>,
    /// Street and number.
    #[serde(deserialize_with = "text")]
    pub street_address: Option<String>,
    /// Flat, floor.
    #[serde(deserialize_with = "text")]
    pub extended_address: Option<String>,
    /// City.
    #[serde(deserialize_with = "text")]
    pub locality: Option<String>,
    /// State or province.
    #[serde(deserialize_with = "text")]
    pub region: Option<String>,
    /// Postal code.
    #[serde(deserialize_with = "text")]
    pub postal_code: Option<String>,
    /// Country.
    #[serde(deserialize_with = "text")]
    pub country: Option<String>,
    /// Post office box.
    #[serde(deserialize_with = "text")]
    pub po_box: Option<String>,
}

/// Multi-factor configuration of a user.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mfa {
    /// A factor is set up.
    #[serde(deserialize_with = "flag")]
    pub configured: Option<bool>,
    /// Exempt from multi-factor for now.
    #[serde(deserialize_with = "flag")]
    pub exclusion: Option<bool>,
    /// When the exemption ends.
    #[serde(deserialize_with = "text")]
    pub exclusion_until: Option<String>,
}

/// Enrolment per factor, each such as `ENROLLED` or `NOT_ENROLLED`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names are JumpCloud's")]
pub struct MfaEnrollment {
    /// All factors together.
    #[serde(deserialize_with = "text")]
    pub overall_status: Option<String>,
    /// One-time codes.
    #[serde(deserialize_with = "text")]
    pub totp_status: Option<String>,
    /// Security keys and passkeys.
    #[serde(deserialize_with = "text")]
    pub web_authn_status: Option<String>,
    /// JumpCloud Protect.
    #[serde(deserialize_with = "text")]
    pub push_status: Option<String>,
    /// JumpCloud Go.
    #[serde(deserialize_with = "text")]
    pub jc_go_status: Option<String>,
}

/// An SSH key of a user, without the key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SshKey {
    /// The user's label.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
}

/// A field that a foreign directory owns.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RestrictedField {
    /// The field's name.
    #[serde(deserialize_with = "text")]
    pub field: Option<String>,
    /// `active_directory`, `federated_identity_provider` or `scim`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: Option<String>,
}

/// Anything of which only the name matters.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    /// The name.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
}

/// The administrator that a directory user is linked to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AdminLink {
    /// Id of the administrator.
    #[serde(deserialize_with = "id_text")]
    pub id: Option<String>,
    /// First role.
    #[serde(deserialize_with = "text")]
    pub role_name: Option<String>,
    /// All roles.
    #[serde(deserialize_with = "lenient")]
    pub role_names: Vec<Text>,
}

/// A custom attribute.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Attribute {
    /// Its name, alphanumeric by JumpCloud's rule.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// Its value.
    #[serde(deserialize_with = "text")]
    pub value: Option<String>,
}

/// An administrator (`/api/users`).
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Administrator {
    #[serde(rename = "_id", deserialize_with = "id_text")]
    underscore_id: Option<String>,
    #[serde(rename = "id", deserialize_with = "id_text")]
    plain_id: Option<String>,
    /// E-mail, which is also the login.
    #[serde(deserialize_with = "text")]
    pub email: Option<String>,
    /// Given name.
    #[serde(deserialize_with = "text")]
    pub firstname: Option<String>,
    /// Family name.
    #[serde(deserialize_with = "text")]
    pub lastname: Option<String>,
    /// First role.
    #[serde(deserialize_with = "text")]
    pub role_name: Option<String>,
    /// All roles.
    #[serde(deserialize_with = "lenient")]
    pub role_names: Vec<Text>,
    /// A second factor is demanded.
    #[serde(deserialize_with = "flag")]
    pub enable_multi_factor: Option<bool>,
    /// A TOTP device is enrolled.
    #[serde(deserialize_with = "flag")]
    pub totp_enrolled: Option<bool>,
    /// Suspended.
    #[serde(deserialize_with = "flag")]
    pub suspended: Option<bool>,
    /// May have an API key.
    #[serde(deserialize_with = "flag")]
    pub api_key_allowed: Option<bool>,
    /// Has an API key.
    #[serde(deserialize_with = "flag")]
    pub api_key_set: Option<bool>,
    /// Facts about the API key; its hash is not read.
    #[serde(deserialize_with = "lenient")]
    pub api_key_hash: Option<ApiKeyFacts>,
    /// When the API key was last replaced.
    #[serde(deserialize_with = "text")]
    pub api_key_updated_at: Option<String>,
    /// When the password was last set.
    #[serde(deserialize_with = "text")]
    pub password_updated_at: Option<String>,
    /// RFC 3339 text.
    #[serde(deserialize_with = "text")]
    pub created: Option<String>,
    /// Id of the organisation; null for a provider's administrators.
    #[serde(deserialize_with = "text")]
    pub organization: Option<String>,
}

/// Facts about an API key.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiKeyFacts {
    /// How the key begins; JumpCloud shows this to every administrator.
    #[serde(deserialize_with = "text")]
    pub prefix: Option<String>,
    /// When it was made.
    #[serde(deserialize_with = "text")]
    pub created_at: Option<String>,
    /// When it ends.
    #[serde(deserialize_with = "text")]
    pub expire_at: Option<String>,
}

/// A user group (`/api/v2/usergroups`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UserGroup {
    #[serde(rename = "_id", deserialize_with = "id_text")]
    underscore_id: Option<String>,
    #[serde(rename = "id", deserialize_with = "id_text")]
    plain_id: Option<String>,
    /// Unique name.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// Free text.
    #[serde(deserialize_with = "text")]
    pub description: Option<String>,
    /// Address of the group.
    #[serde(deserialize_with = "text")]
    pub email: Option<String>,
    /// `NOTSET`, `STATIC`, `DYNAMIC_AUTOMATED` or `DYNAMIC_REVIEW_REQUIRED`.
    #[serde(deserialize_with = "text")]
    pub membership_method: Option<String>,
    /// The rule of a dynamic group.
    #[serde(deserialize_with = "lenient")]
    pub member_query: Option<serde_json::Value>,
    /// Such as `CYCLE`.
    #[serde(deserialize_with = "lenient")]
    pub member_query_error_flags: Vec<Text>,
    /// What membership brings along.
    #[serde(deserialize_with = "lenient")]
    pub attributes: Option<GroupAttributes>,
}

/// What membership of a group brings along.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupAttributes {
    /// Administrator on devices.
    #[serde(deserialize_with = "lenient")]
    pub sudo: Option<Sudo>,
    /// Groups in LDAP.
    #[serde(deserialize_with = "lenient")]
    pub ldap_groups: Vec<Named>,
    /// Groups on Unix devices.
    #[serde(deserialize_with = "lenient")]
    pub posix_groups: Vec<Named>,
    /// RADIUS reply attributes; the values are not read.
    #[serde(deserialize_with = "lenient")]
    pub radius: Option<Radius>,
    /// Samba authentication.
    #[serde(deserialize_with = "flag")]
    pub samba_enabled: Option<bool>,
}

/// Administrator rights on devices.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sudo {
    /// Given.
    #[serde(deserialize_with = "flag")]
    pub enabled: Option<bool>,
    /// Without a password.
    #[serde(deserialize_with = "flag")]
    pub without_password: Option<bool>,
}

/// RADIUS reply attributes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Radius {
    /// One entry per attribute.
    #[serde(deserialize_with = "lenient")]
    pub reply: Vec<Named>,
}

/// One edge of the graph (`members`, `associations`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Edge {
    /// The far end.
    #[serde(deserialize_with = "lenient")]
    pub to: Option<GraphObject>,
}

/// One end of an edge.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct GraphObject {
    /// Object id.
    #[serde(deserialize_with = "id_text")]
    pub id: Option<String>,
    /// Such as `user` or `user_group`. Anything but a text spoils the whole object: it decides what the edge means.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// An administrator role (`/api/v2/roles`).
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Role {
    /// Object id; not the resource id.
    #[serde(deserialize_with = "id_text")]
    pub id: Option<String>,
    /// Name.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// Free text.
    #[serde(deserialize_with = "text")]
    pub description: Option<String>,
    /// What the role may do.
    #[serde(deserialize_with = "lenient")]
    pub scopes: Vec<Text>,
}

/// An application (`/api/applications`). Its `config`, which holds a private key, is never read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Application {
    #[serde(rename = "_id", deserialize_with = "id_text")]
    underscore_id: Option<String>,
    #[serde(rename = "id", deserialize_with = "id_text")]
    plain_id: Option<String>,
    /// Key of the template, such as `slack`.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// Name of the template.
    #[serde(deserialize_with = "text")]
    pub display_name: Option<String>,
    /// The administrator's own label.
    #[serde(deserialize_with = "text")]
    pub display_label: Option<String>,
    /// Free text.
    #[serde(deserialize_with = "text")]
    pub description: Option<String>,
    /// In use.
    #[serde(deserialize_with = "flag")]
    pub active: Option<bool>,
    /// Beta template.
    #[serde(deserialize_with = "flag")]
    pub beta: Option<bool>,
    /// Logo.
    #[serde(deserialize_with = "lenient")]
    pub logo: Option<Logo>,
    /// Address of a help page.
    #[serde(deserialize_with = "text")]
    pub learn_more: Option<String>,
    /// Id of the organisation.
    #[serde(deserialize_with = "text")]
    pub organization: Option<String>,
    /// RFC 3339 text.
    #[serde(deserialize_with = "text")]
    pub created: Option<String>,
    /// Where single sign-on starts.
    #[serde(deserialize_with = "text")]
    pub sso_url: Option<String>,
    /// Single sign-on.
    #[serde(deserialize_with = "lenient")]
    pub sso: Option<Sso>,
}

/// The logo of an application.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Logo {
    /// Where it is served.
    #[serde(deserialize_with = "text")]
    pub url: Option<String>,
}

/// Single sign-on of an application.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sso {
    /// Such as `saml`, `oidc` or `bookmark`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: Option<String>,
    /// Not shown in the portal.
    #[serde(deserialize_with = "flag")]
    pub hidden: Option<bool>,
    /// When the certificate ends.
    #[serde(deserialize_with = "text")]
    pub idp_cert_expiration_at: Option<String>,
}

macro_rules! identified {
    ($($row:ident with $($field:ident)or+;)+) => {$(
        impl Identified for $row {
            fn identity(&self) -> Option<String> {
                self.id().map(str::to_owned)
            }

            fn is_bare(&self) -> bool {
                $(self.$field.is_none())&&+
            }
        }

        impl $row {
            /// The object id: `_id`, else `id`; `None` when neither is usable.
            pub fn id(&self) -> Option<&str> {
                usable(self.underscore_id.as_deref()).or_else(|| usable(self.plain_id.as_deref()))
            }
        }
    )+};
}

// JumpCloud has these fields in each row of the kind; one that lacks them all was spoilt on the way.
identified! {
    SystemUser with username or email;
    Administrator with email or role_name;
    UserGroup with name;
    Application with name or display_name or display_label;
}

impl Identified for GraphObject {
    fn identity(&self) -> Option<String> {
        // What an edge means without its kind nobody can tell; to leave it out would look like access taken away.
        let kind = self.kind.as_deref()?;
        usable(self.id.as_deref()).map(|id| format!("{kind}:{id}"))
    }
}

impl Identified for Edge {
    fn identity(&self) -> Option<String> {
        self.to.as_ref()?.identity()
    }
}

impl Identified for Role {
    fn identity(&self) -> Option<String> {
        usable(self.id.as_deref()).map(str::to_owned)
    }
}

/// Two ids and the words around them must fit the 1,024 bytes of a grant id.
const MAX_ID: usize = 256;

/// An id that can be stored: not empty, at most 256 bytes, no control characters or spaces around it.
pub fn usable(id: Option<&str>) -> Option<&str> {
    id.filter(|id| {
        !id.is_empty()
            && id.len() <= MAX_ID
            && id.trim().len() == id.len()
            && !id.chars().any(char::is_control)
    })
}

/// A list element that should be text; anything else is `None`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Text(pub Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer).map(Self)
    }
}

struct Scalar;

enum Read {
    Text(String),
    Flag(bool),
    Nothing,
}

impl<'de> Visitor<'de> for Scalar {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E>(self, value: &str) -> Result<Read, E> {
        Ok(Read::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Read, E> {
        Ok(Read::Text(value))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Read, E> {
        Ok(Read::Flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Read, E> {
        Ok(Read::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Read, E> {
        Ok(Read::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Read, E> {
        Ok(Read::Text(value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Read, E> {
        Ok(Read::Nothing)
    }

    fn visit_none<E>(self) -> Result<Read, E> {
        Ok(Read::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Read, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Read::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Read::Nothing)
    }
}

pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match deserializer.deserialize_any(Scalar)? {
        Read::Text(text) => Some(text),
        Read::Flag(value) => Some(value.to_string()),
        Read::Nothing => None,
    })
}

/// Reads an id. `JumpCloud`'s are texts; a number in the place of one would be the id of another object.
pub(super) fn id_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(id) => Some(id),
        _ => None,
    })
}

pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(match deserializer.deserialize_any(Scalar)? {
        Read::Flag(value) => Some(value),
        Read::Text(text) => match text.as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        Read::Nothing => None,
    })
}

/// Reads a nested value; one of another shape counts as absent, and in a list only the odd elements are left out.
pub(super) fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Lenient,
{
    serde_json::Value::deserialize(deserializer).map(T::read)
}

pub(super) trait Lenient {
    fn read(value: serde_json::Value) -> Self;
}

impl<T: DeserializeOwned> Lenient for Option<T> {
    fn read(value: serde_json::Value) -> Self {
        if value.is_null() {
            return None;
        }
        serde_json::from_value(value).ok()
    }
}

/// The most elements of a list inside of a row, or of rows that a search finds, that are looked at.
const MAX_ELEMENTS: usize = 10_000;

impl<T: DeserializeOwned> Lenient for Vec<T> {
    fn read(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Array(items) => items
                .into_iter()
                .take(MAX_ELEMENTS)
                .filter_map(|item| serde_json::from_value(item).ok())
                .collect(),
            _ => Self::new(),
        }
    }
}

/// Reads the texts of a list in order, without empty ones.
pub fn texts(items: &[Text]) -> impl Iterator<Item = &str> {
    items
        .iter()
        .filter_map(|Text(text)| text.as_deref())
        .filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read<T: DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn both_spellings_of_the_id_may_be_present_at_once() {
        let user: SystemUser = read(json!({"_id": "a1", "id": "a1"}));
        assert_eq!(user.id(), Some("a1"));
        let group: UserGroup = read(json!({"id": "b2"}));
        assert_eq!(group.id(), Some("b2"));
        let app: Application = read(json!({"_id": "", "id": "c3"}));
        assert_eq!(app.id(), Some("c3"));
    }

    #[test]
    fn an_unusable_id_counts_as_none() {
        for id in [
            json!(null),
            json!(""),
            json!(" x"),
            json!("a\u{0}b"),
            json!({"$oid": "x"}),
            json!(7),
            json!(true),
            json!("x".repeat(257)),
        ] {
            let user: SystemUser = read(json!({"_id": id}));
            assert_eq!(user.id(), None, "{id}");
        }
    }

    #[test]
    fn nulls_numbers_and_odd_shapes_never_cost_the_row() {
        let user: SystemUser = read(json!({
            "_id": "a1", "employeeIdentifier": 1001, "username": null, "email": {"odd": true},
            "suspended": "true", "activated": 0, "account_locked": null, "totp_enabled": [1],
            "attributes": {"not": "a list"}, "phoneNumbers": [{"number": 42}, "odd"],
            "admin": "nobody", "mfa": null, "ssh_keys": null, "unknown": {"deep": [1, 2]},
        }));
        assert_eq!(user.employee_identifier.as_deref(), Some("1001"));
        assert_eq!((user.username, user.email), (None, None));
        assert_eq!((user.suspended, user.activated), (Some(true), Some(false)));
        assert_eq!((user.account_locked, user.totp_enabled), (None, None));
        assert!(user.attributes.is_empty() && user.admin.is_none() && user.ssh_keys.is_empty());
        assert_eq!(user.phone_numbers.len(), 1);
        assert_eq!(user.phone_numbers[0].number.as_deref(), Some("42"));
    }

    #[test]
    fn the_private_key_of_an_application_is_dropped_while_decoding() {
        let app: Application = read(json!({
            "_id": "a1", "config": {"idpPrivateKey": {"value": "SECRETSEED-private-key"}},
        }));
        assert!(!format!("{app:?}").contains("SECRETSEED"));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i64>().prop_map(|value| json!(value)),
            any::<f64>().prop_map(|value| json!(value)),
            any::<String>().prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
                prop::collection::btree_map("[a-zA-Z_]{0,8}", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_object_decodes_whatever_its_fields_hold(
            value in any_json(),
            field in prop::sample::select(vec![
                "_id", "id", "email", "state", "suspended", "attributes", "admin", "mfa", "mfaEnrollment",
                "ssh_keys", "roleNames", "apiKeyHash", "memberQuery", "sso", "logo", "to", "scopes", "config",
            ]),
        ) {
            let row = json!({ field: value });
            prop_assert!(serde_json::from_value::<SystemUser>(row.clone()).is_ok());
            prop_assert!(serde_json::from_value::<Administrator>(row.clone()).is_ok());
            prop_assert!(serde_json::from_value::<UserGroup>(row.clone()).is_ok());
            prop_assert!(serde_json::from_value::<Edge>(row.clone()).is_ok());
            prop_assert!(serde_json::from_value::<Role>(row.clone()).is_ok());
            prop_assert!(serde_json::from_value::<Application>(row).is_ok());
        }
    }
}
