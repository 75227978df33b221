//! What can be said about an account: the fields that ConductorOne may fill in, and what they are in JumpCloud.
//!
//! The same table serves the form for new accounts, the arguments of the action that changes accounts, and the reading
//! of both. A key counts in our spelling (`job_title`) and in JumpCloud's (`jobTitle`), without regard to case. A key
//! that is in no table is refused, so that a misspelt mapping does not lose data in silence.
//!
//! Lengths are those of JumpCloud's published description; what else JumpCloud demands it says itself.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::super::{
    profile::{clip, filled},
    users::email,
    wire,
};
use crate::{
    connector::Error,
    proto::{
        Kind, Struct, Value, config,
        connector::{
            self as v2,
            connector_account_creation_schema::{
                BoolField, Field, MapField, StringField, field::Field as FieldKind,
            },
        },
    },
};

/// A field that is one text.
pub(super) struct Text {
    /// The key in ConductorOne.
    pub(super) key: &'static str,
    /// The field in JumpCloud.
    pub(super) api: &'static str,
    label: &'static str,
    about: &'static str,
    example: &'static str,
    /// Characters.
    max: usize,
    pub(super) get: fn(&wire::SystemUser) -> Option<&str>,
}

macro_rules! texts {
    ($($key:literal $api:literal $max:literal $field:ident $label:literal $about:literal $example:literal;)+) => {
        /// All texts, in the order of the form.
        pub(super) static TEXTS: &[Text] = &[$(Text {
            key: $key,
            api: $api,
            label: $label,
            about: $about,
            example: $example,
            max: $max,
            get: |row| row.$field.as_deref(),
        }),+];
    };
}

texts! {
    "username" "username" 1024 username "Username"
        "Login name; when it is left out, the part before the @ of the login, else of the e-mail address" "avery.fixture";
    "email" "email" 1024 email "E-mail" "Primary e-mail address, unique in the organisation" "avery@example.com";
    "first_name" "firstname" 1024 firstname "First name" "Given name" "Avery";
    "middle_name" "middlename" 1024 middlename "Middle name" "Middle name" "";
    "last_name" "lastname" 1024 lastname "Last name" "Family name" "Fixture";
    "display_name" "displayname" 1024 displayname "Display name" "Name shown to people" "Avery Fixture";
    "alternate_email" "alternateEmail" 1024 alternate_email "Alternate e-mail"
        "Second address; mail for a person without a password goes here first" "avery@example.org";
    "job_title" "jobTitle" 1024 job_title "Job title" "Job title" "Developer";
    "department" "department" 1024 department "Department" "Department; rules of dynamic groups often use it" "Engineering";
    "company" "company" 1024 company "Company" "Company" "Example Corp";
    "cost_center" "costCenter" 1024 cost_center "Cost centre" "Cost centre" "CC-210";
    "location" "location" 1024 location "Location" "Place of work" "Utrecht";
    "employee_id" "employeeIdentifier" 256 employee_identifier "Employee ID"
        "Employee identifier, unique in the organisation" "E-1001";
    "employee_type" "employeeType" 1024 employee_type "Employee type" "Kind of employment" "Contractor";
    "description" "description" 1024 description "Description" "Free text" "";
}

/// Keys of telephone numbers, and JumpCloud's word for their kind.
const PHONES: [(&str, &str, &str); 2] = [
    ("work_phone", "work", "Work phone"),
    ("mobile_phone", "mobile", "Mobile phone"),
];

const MANAGER: &str = "manager";
const ATTRIBUTES: &str = "attributes";
const ATTRIBUTE_PREFIX: &str = "attributes.";
const STATE: &str = "state";
const SEND_EMAIL: &str = "send_email";
const MANAGER_ABOUT: &str = "The manager, by the id or the e-mail address of their directory user";
const ATTRIBUTES_ABOUT: &str = "Custom attributes by name; names have letters and digits only. A single one can be given as attributes.<name>";
const MAX_TEXT: usize = 1024;
/// How many custom attributes a request may hold.
const MAX_ATTRIBUTES: usize = 256;

/// What the fields are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new account: an empty text says nothing.
    Create,
    /// A change of an account: an empty text empties the field.
    Update,
}

/// What somebody said about an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// By JumpCloud's names.
    pub(super) texts: BTreeMap<&'static str, String>,
    /// By JumpCloud's kinds.
    pub(super) phones: BTreeMap<&'static str, String>,
    /// Custom attributes.
    pub(super) attributes: BTreeMap<String, String>,
    /// Id or e-mail address of the manager.
    pub(super) manager: Option<String>,
    /// The account is to wait instead of working at once.
    pub(super) staged: Option<bool>,
    /// Whether JumpCloud may write to the person.
    pub(super) send_email: Option<bool>,
}

impl Fields {
    /// Reads what is there; keys without a value say nothing.
    pub(super) fn read(said: &Struct, purpose: Purpose) -> Result<Self, Error> {
        let mut fields = Self::default();
        let mut seen = BTreeSet::new();
        for (key, value) in &said.fields {
            let silent = matches!(value.kind, None | Some(Kind::NullValue(_)));
            if let Some(name) = key.strip_prefix(ATTRIBUTE_PREFIX) {
                if !silent {
                    fields.attribute(name, value, purpose)?;
                }
                continue;
            }
            let place = known(key, purpose)?;
            if silent {
                continue;
            }
            if !seen.insert(place) {
                return Err(invalid(format!(
                    "the field {place} is given twice, once as {}; give it once",
                    clip(key, 64)
                )));
            }
            if let Some(text) = TEXTS.iter().find(|text| text.key == place) {
                let value = text_of(place, value, text.max)?;
                if matches!(text.key, "email" | "alternate_email")
                    && !value.is_empty()
                    && email(Some(&value)).is_none()
                {
                    return Err(no_address(place, &value));
                }
                if !value.is_empty() || purpose == Purpose::Update {
                    fields.texts.insert(text.api, value);
                }
            } else if let Some((_, kind, _)) = PHONES.iter().find(|(key, _, _)| *key == place) {
                let value = text_of(place, value, MAX_TEXT)?;
                if !value.is_empty() || purpose == Purpose::Update {
                    fields.phones.insert(kind, value);
                }
            } else if place == MANAGER {
                let value = text_of(place, value, MAX_TEXT)?;
                if !value.is_empty() || purpose == Purpose::Update {
                    fields.manager = Some(value);
                }
            } else if place == ATTRIBUTES {
                let Some(Kind::StructValue(map)) = &value.kind else {
                    return Err(invalid(format!(
                        "the field attributes is {}; give an object of names and texts",
                        shape(value)
                    )));
                };
                for (name, value) in &map.fields {
                    if !matches!(value.kind, None | Some(Kind::NullValue(_))) {
                        fields.attribute(name, value, purpose)?;
                    }
                }
            } else if place == STATE {
                fields.staged = match text_of(place, value, MAX_TEXT)?
                    .to_ascii_lowercase()
                    .as_str()
                {
                    "" => None,
                    "staged" => Some(true),
                    "active" | "activated" => Some(false),
                    other => {
                        return Err(invalid(format!(
                            "the field state is a text of {} bytes; it is staged or active",
                            other.len()
                        )));
                    }
                };
            } else {
                fields.send_email = flag_of(place, value)?;
            }
        }
        Ok(fields)
    }

    fn attribute(&mut self, name: &str, value: &Value, purpose: Purpose) -> Result<(), Error> {
        let good = (1..=MAX_TEXT).contains(&name.len()) && name.chars().all(char::is_alphanumeric);
        if !good {
            return Err(invalid(format!(
                "a custom attribute has a name of {} bytes that is not made of letters and digits only",
                name.len()
            )));
        }
        let value = text_of(&format!("{ATTRIBUTE_PREFIX}{name}"), value, MAX_TEXT)?;
        if value.is_empty() && purpose == Purpose::Create {
            return Ok(());
        }
        if self.attributes.insert(name.to_owned(), value).is_some() {
            return Err(invalid(format!(
                "the custom attribute {} is given twice; give it once",
                clip(name, 64)
            )));
        }
        if self.attributes.len() > MAX_ATTRIBUTES {
            return Err(invalid(format!(
                "more than {MAX_ATTRIBUTES} custom attributes are given"
            )));
        }
        Ok(())
    }

    /// The names of all JumpCloud fields that are said something about.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.texts.keys().copied().collect();
        for (said, name) in [
            (self.manager.is_some(), "manager"),
            (!self.phones.is_empty(), "phoneNumbers"),
            (!self.attributes.is_empty(), "attributes"),
        ] {
            if said {
                names.push(name);
            }
        }
        names
    }
}

/// A person who is to get an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewUser {
    pub(super) username: String,
    pub(super) email: String,
    /// Everything, `username` and `email` too.
    pub(super) fields: Fields,
}

impl NewUser {
    /// Reads login, e-mails and profile; the profile wins where they differ.
    pub(super) fn read(info: &v2::AccountInfo) -> Result<Self, Error> {
        let nothing = Struct::default();
        let mut fields = Fields::read(info.profile.as_ref().unwrap_or(&nothing), Purpose::Create)?;
        let addresses = || {
            info.emails
                .iter()
                .filter(|email| filled(Some(&email.address)).is_some())
        };
        let address = match fields.texts.get("email") {
            Some(address) => address.clone(),
            None => addresses()
                .find(|email| email.is_primary)
                .or_else(|| addresses().next())
                .map(|email| email.address.trim().to_owned())
                .ok_or_else(|| {
                    invalid(
                        "the account has no e-mail address, which JumpCloud requires: give one as e-mail of the account \
                         or as email in its profile"
                            .to_owned(),
                    )
                })?,
        };
        if email(Some(&address)).is_none() {
            return Err(no_address("email", &address));
        }
        let second = addresses()
            .map(|email| email.address.trim())
            .find(|second| !second.eq_ignore_ascii_case(&address));
        if let Some(second) = second
            && email(Some(second)).is_some()
        {
            fields
                .texts
                .entry("alternateEmail")
                .or_insert_with(|| second.to_owned());
        }
        let username = match (fields.texts.get("username"), filled(Some(&info.login))) {
            (Some(username), _) => username.clone(),
            // Many products sign in with the address, which is no username in JumpCloud.
            (None, login) => {
                let login = login.unwrap_or(&address).trim();
                login
                    .rsplit_once('@')
                    .map_or(login, |(local, _)| local)
                    .to_owned()
            }
        };
        let long = username.chars().count() > MAX_TEXT;
        if long
            || username
                .chars()
                .any(|c| c.is_whitespace() || c.is_control())
        {
            return Err(invalid(format!(
                "the username ({} bytes) is longer than {MAX_TEXT} characters or holds spaces or control characters: give \
                 another one as username in the profile",
                username.len()
            )));
        }
        fields.texts.insert("username", username.clone());
        fields.texts.insert("email", address.clone());
        Ok(Self {
            username,
            email: address,
            fields,
        })
    }

    /// The body of the request that makes the account, without its password.
    pub(super) fn body(&self, manager: Option<&str>, staged: bool) -> Map<String, Json> {
        let fields = &self.fields;
        let mut body: Map<String, Json> = fields
            .texts
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Json::from(text.as_str())))
            .collect();
        body.insert(
            "state".to_owned(),
            if staged { "STAGED" } else { "ACTIVATED" }.into(),
        );
        if let Some(manager) = manager {
            body.insert("manager".to_owned(), manager.into());
        }
        if !fields.attributes.is_empty() {
            let attributes = fields.attributes.iter();
            body.insert(
                "attributes".to_owned(),
                attributes
                    .map(|(name, value)| json!({"name": name, "value": value}))
                    .collect(),
            );
        }
        if !fields.phones.is_empty() {
            let phones = fields.phones.iter();
            body.insert(
                "phoneNumbers".to_owned(),
                phones
                    .map(|(kind, number)| json!({"type": kind, "number": number}))
                    .collect(),
            );
        }
        body
    }
}

/// The form for new accounts.
pub(in super::super) fn schema() -> v2::ConnectorAccountCreationSchema {
    let text = |default: Option<&str>| {
        FieldKind::StringField(StringField {
            default_value: default.map(str::to_owned),
        })
    };
    let mut rows: Vec<(&str, &str, &str, &str, bool, FieldKind)> = TEXTS
        .iter()
        .map(|row| {
            let required = row.key == "email";
            (
                row.key,
                row.label,
                row.about,
                row.example,
                required,
                text(None),
            )
        })
        .collect();
    rows.push((
        MANAGER,
        "Manager",
        MANAGER_ABOUT,
        "blake@example.com",
        false,
        text(None),
    ));
    for (key, _, label) in PHONES {
        rows.push((
            key,
            label,
            "Telephone number",
            "+31 30 555 0101",
            false,
            text(None),
        ));
    }
    rows.push((
        ATTRIBUTES,
        "Custom attributes",
        ATTRIBUTES_ABOUT,
        "",
        false,
        FieldKind::MapField(MapField::default()),
    ));
    rows.push((
        STATE,
        "State",
        "active: the account works at once. staged: it waits until somebody activates it",
        "active",
        false,
        text(Some("active")),
    ));
    rows.push((
        SEND_EMAIL,
        "Send e-mail",
        "Whether JumpCloud writes to the person when the account becomes active: how to choose a password if it has none, \
         else a welcome",
        "",
        false,
        FieldKind::BoolField(BoolField {
            default_value: Some(true),
        }),
    ));
    v2::ConnectorAccountCreationSchema {
        field_map: (1..)
            .zip(rows)
            .map(|(order, (key, label, about, example, required, field))| {
                let field = Field {
                    display_name: label.to_owned(),
                    required,
                    description: about.to_owned(),
                    placeholder: example.to_owned(),
                    order,
                    deprecated: false,
                    field: Some(field),
                };
                (key.to_owned(), field)
            })
            .collect(),
    }
}

/// The arguments of an action that changes an account, none of them required.
pub(super) fn arguments() -> Vec<config::Field> {
    use config::field::Field as Kind;

    let field = |name: &str, label: &str, about: &str, example: &str, kind: Kind| config::Field {
        name: name.to_owned(),
        display_name: label.to_owned(),
        description: format!("{about}. Left out: stays as it is; empty: is emptied"),
        placeholder: example.to_owned(),
        field: Some(kind),
        ..config::Field::default()
    };
    let text = |max: usize| {
        Kind::StringField(config::StringField {
            rules: Some(config::StringRules {
                max_len: u64::try_from(max).ok(),
                ..config::StringRules::default()
            }),
            ..config::StringField::default()
        })
    };
    let mut fields: Vec<config::Field> = TEXTS
        .iter()
        .map(|row| {
            // What happens without it is no matter here.
            let about = if row.key == "username" {
                "Login name; JumpCloud refuses to change it once devices or directories are bound to the person"
            } else {
                row.about
            };
            field(row.key, row.label, about, row.example, text(row.max))
        })
        .collect();
    fields.push(field(MANAGER, "Manager", MANAGER_ABOUT, "", text(MAX_TEXT)));
    for (key, _, label) in PHONES {
        fields.push(field(key, label, "Telephone number", "", text(MAX_TEXT)));
    }
    fields.push(field(
        ATTRIBUTES,
        "Custom attributes",
        ATTRIBUTES_ABOUT,
        "",
        Kind::StringMapField(config::StringMapField::default()),
    ));
    fields
}

/// The key of the table that a key of a request means.
fn known(key: &str, purpose: Purpose) -> Result<&'static str, Error> {
    let plain = |key: &str| key.replace('_', "").to_ascii_lowercase();
    let wanted = plain(key);
    let texts = TEXTS
        .iter()
        .flat_map(|row| [(row.key, row.key), (row.api, row.key)]);
    let others = PHONES
        .iter()
        .map(|(key, _, _)| *key)
        .chain([MANAGER, ATTRIBUTES])
        .chain(
            [STATE, SEND_EMAIL]
                .into_iter()
                .filter(|_| purpose == Purpose::Create),
        )
        .map(|key| (key, key));
    let found = texts
        .chain(others)
        .find(|(name, _)| plain(name) == wanted)
        .map(|(_, place)| place);
    found.ok_or_else(|| {
        let mut keys: Vec<&str> = TEXTS.iter().map(|row| row.key).collect();
        keys.extend(PHONES.iter().map(|(key, _, _)| *key));
        keys.extend([MANAGER, ATTRIBUTES]);
        if purpose == Purpose::Create {
            keys.extend([STATE, SEND_EMAIL]);
        }
        invalid(format!(
            "the field {} is none that an account can have; there are {}",
            clip(key, 64),
            keys.join(", ")
        ))
    })
}

/// A text, or a whole number as text, without blanks around it.
fn text_of(place: &str, value: &Value, max: usize) -> Result<String, Error> {
    let text = match &value.kind {
        Some(Kind::StringValue(text)) => text.trim().to_owned(),
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 1e15 => {
            format!("{number:.0}")
        }
        _ => {
            return Err(invalid(format!(
                "the field {} is {}; give a text",
                clip(place, 64),
                shape(value)
            )));
        }
    };
    let length = text.chars().count();
    if length > max {
        return Err(invalid(format!(
            "the field {} has {length} characters; JumpCloud takes at most {max}",
            clip(place, 64)
        )));
    }
    if text
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
    {
        return Err(invalid(format!(
            "the field {} holds control characters; take them out",
            clip(place, 64)
        )));
    }
    Ok(text)
}

/// A boolean, or one as text; an empty text says nothing.
fn flag_of(place: &str, value: &Value) -> Result<Option<bool>, Error> {
    match &value.kind {
        Some(Kind::BoolValue(flag)) => Ok(Some(*flag)),
        Some(Kind::StringValue(text)) if text.trim().is_empty() => Ok(None),
        Some(Kind::StringValue(text)) if text.trim().eq_ignore_ascii_case("true") => Ok(Some(true)),
        Some(Kind::StringValue(text)) if text.trim().eq_ignore_ascii_case("false") => {
            Ok(Some(false))
        }
        _ => Err(invalid(format!(
            "the field {} is {}; give true or false",
            clip(place, 64),
            shape(value)
        ))),
    }
}

/// What kind of value it is, without the value.
pub(super) fn shape(value: &Value) -> String {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => "null".to_owned(),
        Some(Kind::NumberValue(_)) => "a number".to_owned(),
        Some(Kind::StringValue(text)) => format!("a text of {} bytes", text.len()),
        Some(Kind::BoolValue(_)) => "a boolean".to_owned(),
        Some(Kind::StructValue(map)) => format!("an object with {} fields", map.fields.len()),
        Some(Kind::ListValue(list)) => format!("a list of {}", list.values.len()),
    }
}

fn no_address(place: &str, value: &str) -> Error {
    invalid(format!(
        "the field {place} ({} bytes) is no e-mail address: it needs one @ with something on both sides, no spaces, and at \
         most 320 bytes",
        value.len()
    ))
}

fn invalid(what: String) -> Error {
    Error::Invalid { what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{bool_value, list_value, number_value, string_value};

    fn said(fields: &[(&str, Value)]) -> Struct {
        Struct {
            fields: fields
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
        }
    }

    fn map(fields: &[(&str, Value)]) -> Value {
        Value {
            kind: Some(Kind::StructValue(said(fields))),
        }
    }

    fn address(address: &str, is_primary: bool) -> v2::account_info::Email {
        v2::account_info::Email {
            address: address.to_owned(),
            is_primary,
        }
    }

    #[test]
    fn every_field_of_the_form_is_read_under_our_name_and_under_that_of_jumpcloud() {
        for row in TEXTS {
            let value = if row.key.contains("email") {
                "a@example.com"
            } else {
                "x"
            };
            for key in [row.key, row.api, &row.key.to_uppercase()] {
                let read =
                    Fields::read(&said(&[(key, string_value(value))]), Purpose::Create).unwrap();
                assert_eq!(
                    read.texts,
                    BTreeMap::from([(row.api, value.to_owned())]),
                    "{key}"
                );
            }
        }
        let form = schema();
        for key in form.field_map.keys() {
            assert!(known(key, Purpose::Create).is_ok(), "{key}");
        }
        for argument in arguments() {
            assert!(known(&argument.name, Purpose::Update).is_ok());
        }
        let mut orders: Vec<i32> = form.field_map.values().map(|field| field.order).collect();
        orders.sort_unstable();
        let count = i32::try_from(orders.len()).unwrap();
        assert_eq!(orders, (1..=count).collect::<Vec<_>>());
        let required: Vec<&String> = form
            .field_map
            .iter()
            .filter_map(|(key, field)| field.required.then_some(key))
            .collect();
        assert_eq!(required, ["email"]);
    }

    #[test]
    fn values_are_read_by_their_kind() {
        let read = Fields::read(
            &said(&[
                ("employee_id", number_value(1001.0)),
                ("manager", string_value(" 64ab00000000000000000002 ")),
                ("work_phone", string_value("+31 30 555 0101")),
                (
                    "attributes",
                    map(&[("badge", string_value("B-77")), ("none", string_value(""))]),
                ),
                ("attributes.level", number_value(3.0)),
                ("state", string_value("Staged")),
                ("send_email", string_value("false")),
                ("department", Value { kind: None }),
                ("company", string_value("  ")),
            ]),
            Purpose::Create,
        )
        .unwrap();
        assert_eq!(
            read,
            Fields {
                texts: BTreeMap::from([("employeeIdentifier", "1001".to_owned())]),
                phones: BTreeMap::from([("work", "+31 30 555 0101".to_owned())]),
                attributes: BTreeMap::from([
                    ("badge".to_owned(), "B-77".to_owned()),
                    ("level".to_owned(), "3".to_owned()),
                ]),
                manager: Some("64ab00000000000000000002".to_owned()),
                staged: Some(true),
                send_email: Some(false),
            }
        );
        let emptied =
            Fields::read(&said(&[("company", string_value(""))]), Purpose::Update).unwrap();
        assert_eq!(emptied.texts, BTreeMap::from([("company", String::new())]));
    }

    #[test]
    fn bad_fields_are_named_with_their_shape_and_without_their_value() {
        let long = "x".repeat(257);
        let cases = [
            (
                "favourite_colour",
                string_value("SECRETSEED"),
                "favourite_colour is none",
            ),
            (
                "employee_id",
                string_value(long),
                "employee_id has 257 characters",
            ),
            ("first_name", bool_value(true), "first_name is a boolean"),
            (
                "first_name",
                string_value("a\u{7}b"),
                "first_name holds control characters",
            ),
            (
                "alternate_email",
                string_value("SECRETSEED"),
                "alternate_email (10 bytes) is no e-mail",
            ),
            ("attributes", list_value([]), "attributes is a list of 0"),
            (
                "attributes",
                map(&[("a b", string_value("SECRETSEED"))]),
                "name of 3 bytes",
            ),
            (
                "attributes.x",
                map(&[]),
                "attributes.x is an object with 0 fields",
            ),
            ("state", string_value("SECRETSEED"), "staged or active"),
            (
                "send_email",
                string_value("maybe"),
                "send_email is a text of 5 bytes",
            ),
        ];
        for (key, value, expected) in cases {
            let error = Fields::read(&said(&[(key, value)]), Purpose::Create).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }));
            let text = error.to_string();
            assert!(text.contains(expected), "{key}: {text}");
            assert!(!text.contains("SECRETSEED"), "{text}");
        }
        let twice = said(&[
            ("job_title", string_value("a")),
            ("jobTitle", string_value("b")),
        ]);
        let error = Fields::read(&twice, Purpose::Create).unwrap_err();
        assert!(error.to_string().contains("job_title is given twice"));
        for key in ["state", "send_email"] {
            assert!(Fields::read(&said(&[(key, string_value("true"))]), Purpose::Update).is_err());
        }
    }

    #[test]
    fn a_new_user_is_named_by_profile_then_login_then_address() {
        let cases: [(_, &str, &str); 4] = [
            (
                vec![("username", string_value("from.profile"))],
                "from.login",
                "from.profile",
            ),
            (vec![], " from.login ", "from.login"),
            (vec![], "login.address@example.com", "login.address"),
            (vec![], "", "dana.new"),
        ];
        for (profile, login, expected) in cases {
            let user = NewUser::read(&v2::AccountInfo {
                emails: vec![
                    address("old@example.org", false),
                    address("dana.new@example.com", true),
                ],
                login: login.to_owned(),
                profile: Some(said(&profile)),
                ..v2::AccountInfo::default()
            })
            .unwrap();
            assert_eq!(user.username, expected);
            assert_eq!(user.email, "dana.new@example.com");
            assert_eq!(user.fields.texts["alternateEmail"], "old@example.org");
        }
    }

    #[test]
    fn a_new_user_needs_an_address_and_a_name_without_spaces() {
        let mut info = v2::AccountInfo::default();
        let error = NewUser::read(&info).unwrap_err().to_string();
        assert!(error.contains("no e-mail address"), "{error}");
        info.emails = vec![address("nobody", true)];
        assert!(
            NewUser::read(&info)
                .unwrap_err()
                .to_string()
                .contains("is no e-mail address")
        );
        info.emails = vec![address("dana@example.com", true)];
        info.login = "dana new".to_owned();
        assert!(
            NewUser::read(&info)
                .unwrap_err()
                .to_string()
                .contains("the username (8 bytes)")
        );
    }

    #[test]
    fn the_body_holds_what_was_said_in_jumpclouds_words() {
        let user = NewUser::read(&v2::AccountInfo {
            emails: vec![address("dana.new@example.com", true)],
            profile: Some(said(&[
                ("first_name", string_value("Dana")),
                ("attributes", map(&[("badge", string_value("B-90"))])),
                ("mobile_phone", string_value("1")),
            ])),
            ..v2::AccountInfo::default()
        })
        .unwrap();
        assert_eq!(
            Json::from(user.body(Some("64ab00000000000000000002"), true)),
            json!({
                "username": "dana.new", "email": "dana.new@example.com", "firstname": "Dana", "state": "STAGED",
                "manager": "64ab00000000000000000002",
                "attributes": [{"name": "badge", "value": "B-90"}],
                "phoneNumbers": [{"type": "mobile", "number": "1"}],
            })
        );
        assert_eq!(
            user.fields.names(),
            [
                "email",
                "firstname",
                "username",
                "phoneNumbers",
                "attributes"
            ]
        );
    }
}
