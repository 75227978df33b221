//! Actions on directory users: what there is, with which arguments, and which code runs it.
//!
//! Each action is published twice under one name: by itself, because only those can be looked up by name, and for
//! resource type `user`, so that it shows beside a user. Of the ones for a type no two share an action type, as
//! ConductorOne demands. Expiring a password and forcing a change of it are one thing in JumpCloud, hence one action.

use serde_json::{Value as Json, json};

use super::{
    super::{
        JumpCloud,
        ids::USER,
        profile::{clip, filled, text_of},
    },
    account_schema::{arguments, shape},
    argument_id, plan_for,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done, Effect, Plan},
    },
    proto::{
        Kind, Struct, Value, bool_value,
        config::{self, ConstraintKind, field::Field as FieldKind},
        connector::{self as v2, ActionType},
        list_value, string_value,
    },
};

mod attributes;
mod credentials;
mod memberships;
mod schedule;
mod state;

/// An action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Suspend,
    Activate,
    Unlock,
    ExpirePassword,
    ResetMfa,
    ScheduleSuspend,
    ScheduleActivate,
    RemoveSshKey,
    RemoveFromAllGroups,
    UpdateAttributes,
}

/// One line of the table.
struct Line {
    action: Action,
    name: &'static str,
    label: &'static str,
    about: &'static str,
    kind: ActionType,
}

const LINES: [Line; 10] = [
    Line {
        action: Action::Suspend,
        name: "suspend_user",
        label: "Suspend user",
        about: "Takes all access from a user at once; memberships stay, so that activating the user brings it back",
        kind: ActionType::AccountDisable,
    },
    Line {
        action: Action::Activate,
        name: "activate_user",
        label: "Activate user",
        about: "Makes a suspended or staged user active",
        kind: ActionType::AccountEnable,
    },
    Line {
        action: Action::Unlock,
        name: "unlock_user",
        label: "Unlock user",
        about: "Ends a lock-out after wrong passwords",
        kind: ActionType::Dynamic,
    },
    Line {
        action: Action::ExpirePassword,
        name: "expire_password",
        label: "Expire password and force a change",
        about: "Expires the password of a user, who must choose another one at the next sign-in",
        kind: ActionType::Dynamic,
    },
    Line {
        action: Action::ResetMfa,
        name: "reset_mfa",
        label: "Reset MFA",
        about: "Removes the one-time-password device of a user, who has to enrol again; can exempt the user from MFA for \
                that time",
        kind: ActionType::Dynamic,
    },
    Line {
        action: Action::ScheduleSuspend,
        name: "schedule_suspend",
        label: "Schedule suspension",
        about: "Has JumpCloud suspend a user at a given time",
        kind: ActionType::Dynamic,
    },
    Line {
        action: Action::ScheduleActivate,
        name: "schedule_activate",
        label: "Schedule activation",
        about: "Has JumpCloud activate a user at a given time",
        kind: ActionType::Dynamic,
    },
    Line {
        action: Action::RemoveSshKey,
        name: "remove_ssh_key",
        label: "Remove SSH key",
        about: "Removes one SSH key of a user, named by its id or by its name",
        kind: ActionType::Dynamic,
    },
    Line {
        action: Action::RemoveFromAllGroups,
        name: "remove_user_from_all_groups",
        label: "Remove user from all groups",
        about: "Takes a user out of every user group except dynamic ones, whose rules decide themselves; those are reported",
        kind: ActionType::Dynamic,
    },
    Line {
        action: Action::UpdateAttributes,
        name: "update_user_attributes",
        label: "Update user attributes",
        about: "Changes fields and custom attributes of a user; only what differs is written",
        kind: ActionType::AccountUpdateProfile,
    },
];

const USER_ID: &str = "user_id";
const SEND_EMAIL: &str = "send_email";
const EMAIL_TO: &str = "email_to";
const EXCLUSION_DAYS: &str = "exclusion_days";
const EXCLUSION_UNTIL: &str = "exclusion_until";
const START_DATE: &str = "start_date";
const KEY_ID: &str = "key_id";
const KEY_NAME: &str = "key_name";

impl Line {
    fn schema(&self, resource_type_id: &str) -> v2::BatonActionSchema {
        let global = resource_type_id.is_empty();
        let mut action_type: Vec<i32> = Vec::new();
        if global {
            action_type.push(ActionType::Account.into());
        }
        if !global || self.kind != ActionType::Dynamic {
            action_type.push(self.kind.into());
        }
        v2::BatonActionSchema {
            name: self.name.to_owned(),
            arguments: self.arguments(),
            constraints: self.constraints(),
            return_types: self.returns(),
            display_name: self.label.to_owned(),
            description: self.about.to_owned(),
            action_type,
            resource_type_id: resource_type_id.to_owned(),
        }
    }

    fn arguments(&self) -> Vec<config::Field> {
        let mut fields = vec![config::Field {
            is_required: true,
            ..field(
                USER_ID,
                "User",
                "The directory user",
                FieldKind::ResourceIdField(config::ResourceIdField {
                    rules: Some(config::ResourceIdRules {
                        allowed_resource_type_ids: vec![USER.to_owned()],
                    }),
                    ..config::ResourceIdField::default()
                }),
            )
        }];
        let mail = || {
            [
                field(
                    SEND_EMAIL,
                    "Send e-mail",
                    "Whether JumpCloud writes to the person; left out: as JumpCloud does by itself",
                    FieldKind::BoolField(config::BoolField {
                        suggested_value: true,
                        ..config::BoolField::default()
                    }),
                ),
                field(
                    EMAIL_TO,
                    "E-mail to",
                    "Another address for that mail",
                    text_field(),
                ),
            ]
        };
        let start = || config::Field {
            is_required: true,
            placeholder: "2027-01-31T17:00:00Z".to_owned(),
            ..field(
                START_DATE,
                "Start date",
                "When it happens, as RFC 3339 with an offset",
                text_field(),
            )
        };
        match self.action {
            Action::Suspend
            | Action::Unlock
            | Action::ExpirePassword
            | Action::RemoveFromAllGroups => {}
            Action::Activate => fields.extend(mail()),
            Action::ResetMfa => fields.extend([
                field(
                    EXCLUSION_DAYS,
                    "Exempt for days",
                    "For how many days the user needs no second factor",
                    FieldKind::IntField(config::IntField {
                        rules: Some(config::Int64Rules {
                            gte: Some(1),
                            lte: Some(credentials::MAX_EXCLUSION_DAYS),
                            ..config::Int64Rules::default()
                        }),
                        ..config::IntField::default()
                    }),
                ),
                field(
                    EXCLUSION_UNTIL,
                    "Exempt until",
                    "Until when the user needs no second factor, as RFC 3339 with an offset",
                    text_field(),
                ),
            ]),
            Action::ScheduleSuspend => fields.push(start()),
            Action::ScheduleActivate => {
                fields.push(start());
                fields.extend(mail());
            }
            Action::RemoveSshKey => fields.extend([
                field(KEY_ID, "Key id", "The id of the key", text_field()),
                field(
                    KEY_NAME,
                    "Key name",
                    "The name of the key, where only one has it",
                    text_field(),
                ),
            ]),
            Action::UpdateAttributes => fields.extend(arguments()),
        }
        fields
    }

    fn constraints(&self) -> Vec<config::Constraint> {
        let constraint =
            |kind: ConstraintKind, name: &str, fields: &[&str], help: &str| config::Constraint {
                kind: kind.into(),
                field_names: fields.iter().map(|field| (*field).to_owned()).collect(),
                name: name.to_owned(),
                help_text: help.to_owned(),
                ..config::Constraint::default()
            };
        match self.action {
            Action::Activate | Action::ScheduleActivate => vec![constraint(
                ConstraintKind::MutuallyExclusive,
                "one_mail_choice",
                &[SEND_EMAIL, EMAIL_TO],
                "An address for the mail says already that it is sent",
            )],
            Action::ResetMfa => vec![constraint(
                ConstraintKind::MutuallyExclusive,
                "one_exemption",
                &[EXCLUSION_DAYS, EXCLUSION_UNTIL],
                "Give a number of days or an end, not both",
            )],
            Action::RemoveSshKey => {
                let fields = [KEY_ID, KEY_NAME];
                vec![
                    constraint(
                        ConstraintKind::AtLeastOne,
                        "some_key",
                        &fields,
                        "Name the key",
                    ),
                    constraint(
                        ConstraintKind::MutuallyExclusive,
                        "one_key",
                        &fields,
                        "Name the key by its id or by its name, not both",
                    ),
                ]
            }
            Action::UpdateAttributes => {
                let names: Vec<config::Field> = arguments();
                let names: Vec<&str> = names.iter().map(|field| field.name.as_str()).collect();
                vec![constraint(
                    ConstraintKind::AtLeastOne,
                    "some_field",
                    &names,
                    "Give something to change",
                )]
            }
            _ => Vec::new(),
        }
    }

    fn returns(&self) -> Vec<config::Field> {
        let flag = |name: &str, label: &str, about: &str| {
            field(
                name,
                label,
                about,
                FieldKind::BoolField(config::BoolField::default()),
            )
        };
        let text = |name: &str, label: &str, about: &str| field(name, label, about, text_field());
        let texts = |name: &str, label: &str, about: &str| {
            field(
                name,
                label,
                about,
                FieldKind::StringSliceField(config::StringSliceField::default()),
            )
        };
        let mut fields = vec![
            flag("success", "Success", "The user is as asked for"),
            flag("changed", "Changed", "False when the user was so before"),
            text(USER_ID, "User", "Id of the user"),
        ];
        match self.action {
            Action::Suspend | Action::Activate => {
                fields.push(text("state", "State", "State of the user in JumpCloud"));
            }
            Action::Unlock => {}
            Action::ExpirePassword => fields.push(flag(
                "password_expired",
                "Password expired",
                "What JumpCloud shows; it may follow a little later",
            )),
            Action::ResetMfa => fields.push(text(
                EXCLUSION_UNTIL,
                "Exempt until",
                "Until when the user needs no second factor; empty when not exempt",
            )),
            Action::ScheduleSuspend | Action::ScheduleActivate => fields.extend([
                text("scheduled_job_id", "Job id", "Id of the scheduled job"),
                text(START_DATE, "Start date", "When it happens"),
            ]),
            Action::RemoveSshKey => fields.push(text(KEY_ID, "Key id", "Id of the key")),
            Action::RemoveFromAllGroups => fields.extend([
                texts(
                    "removed_groups",
                    "Removed from",
                    "Ids of the groups that the user was taken out of",
                ),
                texts(
                    "dynamic_groups",
                    "Dynamic groups",
                    "Ids of the groups whose rules keep the user",
                ),
            ]),
            Action::UpdateAttributes => fields.push(texts(
                "updated_fields",
                "Updated fields",
                "JumpCloud's names of the fields that differed",
            )),
        }
        fields
    }
}

fn field(name: &str, label: &str, about: &str, kind: FieldKind) -> config::Field {
    config::Field {
        name: name.to_owned(),
        display_name: label.to_owned(),
        description: about.to_owned(),
        field: Some(kind),
        ..config::Field::default()
    }
}

fn text_field() -> FieldKind {
    FieldKind::StringField(config::StringField::default())
}

/// Every action, first the ones without a resource type.
pub(super) fn schemas() -> Vec<v2::BatonActionSchema> {
    ["", USER]
        .into_iter()
        .flat_map(|kind| LINES.iter().map(move |line| line.schema(kind)))
        .collect()
}

impl JumpCloud {
    /// Runs an action.
    pub(super) async fn run_action(
        &self,
        name: &str,
        resource_type_id: &str,
        arguments: &Struct,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let line = LINES
            .iter()
            .find(|line| line.name == name)
            .filter(|_| matches!(resource_type_id, "" | USER))
            .ok_or_else(|| Error::NotFound {
                what: format!("action {}", clip(name, 64)),
            })?;
        let arguments = Arguments::new(arguments, &line.arguments())?;
        let user = arguments.user()?;
        match line.action {
            Action::Suspend => self.suspend_user(user, change).await,
            Action::Activate => self.activate_user(user, &arguments.mail()?, change).await,
            Action::Unlock => self.unlock_user(user, change).await,
            Action::ExpirePassword => self.expire_password(user, change).await,
            Action::ResetMfa => self.reset_mfa(user, &arguments, change).await,
            Action::ScheduleSuspend => {
                let at = arguments.instant(START_DATE)?;
                self.schedule(user, "SUSPENDED", at, &Mail::default(), change)
                    .await
            }
            Action::ScheduleActivate => {
                let at = arguments.instant(START_DATE)?;
                self.schedule(user, "ACTIVATED", at, &arguments.mail()?, change)
                    .await
            }
            Action::RemoveSshKey => self.remove_ssh_key(user, &arguments, change).await,
            Action::RemoveFromAllGroups => self.remove_from_all_groups(user, change).await,
            Action::UpdateAttributes => self.update_attributes(user, &arguments, change).await,
        }
    }
}

/// Who gets JumpCloud's mail about an activation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mail {
    send: Option<bool>,
    to: Option<String>,
}

impl Mail {
    /// The body of the request that activates a staged user.
    fn body(&self) -> Json {
        match (&self.to, self.send) {
            (Some(to), _) => json!({"email": to}),
            (None, Some(send)) => json!({"email": send}),
            (None, None) => json!({}),
        }
    }
}

/// The arguments of an action.
struct Arguments<'a>(&'a Struct);

impl<'a> Arguments<'a> {
    /// Refuses arguments that the action does not have.
    fn new(arguments: &'a Struct, known: &[config::Field]) -> Result<Self, Error> {
        let names = || known.iter().map(|field| field.name.as_str());
        let free = names().any(|name| name == "attributes");
        match arguments
            .fields
            .keys()
            .find(|key| !free && !names().any(|name| name == key.as_str()))
        {
            Some(stranger) => Err(invalid(format!(
                "the action has no argument {}; it has {}",
                clip(stranger, 64),
                names().collect::<Vec<_>>().join(", ")
            ))),
            None => Ok(Self(arguments)),
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0
            .fields
            .get(name)
            .filter(|value| !matches!(value.kind, None | Some(Kind::NullValue(_))))
    }

    /// A text; a blank one counts as absent.
    fn text(&self, name: &str) -> Result<Option<&'a str>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match &value.kind {
                Some(Kind::StringValue(text)) => Ok(filled(Some(text)).map(str::trim)),
                _ => Err(wrong(name, value, "a text")),
            },
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match &value.kind {
                Some(Kind::BoolValue(flag)) => Ok(Some(*flag)),
                Some(Kind::StringValue(text)) if text.eq_ignore_ascii_case("true") => {
                    Ok(Some(true))
                }
                Some(Kind::StringValue(text)) if text.eq_ignore_ascii_case("false") => {
                    Ok(Some(false))
                }
                _ => Err(wrong(name, value, "true or false")),
            },
        }
    }

    /// A whole number from 1 to `max`; also as text, as forms send it.
    fn count(&self, name: &str, max: i64) -> Result<Option<i64>, Error> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let text = match &value.kind {
            Some(Kind::NumberValue(number)) => format!("{number}"),
            Some(Kind::StringValue(text)) => text.trim().to_owned(),
            _ => String::new(),
        };
        match text.parse::<i64>() {
            Ok(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => Err(wrong(
                name,
                value,
                &format!("a whole number from 1 to {max}"),
            )),
        }
    }

    /// The user: an id as text, or an object with resource type and id.
    fn user(&self) -> Result<&'a str, Error> {
        let Some(value) = self.get(USER_ID) else {
            return Err(invalid(format!(
                "the argument {USER_ID} is missing: give the id of a directory user"
            )));
        };
        if let Some(Kind::StructValue(object)) = &value.kind {
            let text = |name| text_of(Some(object), name);
            let kind = [
                "resource_type_id",
                "resourceTypeId",
                "resource_type",
                "resourceType",
            ]
            .into_iter()
            .find_map(text);
            if let Some(kind) = kind.filter(|kind| !matches!(*kind, USER | "")) {
                return Err(invalid(format!(
                    "the argument {USER_ID} is a resource of type {}; give one of type {USER}",
                    clip(kind, 64)
                )));
            }
        }
        let id = argument_id(self.0, USER_ID);
        let id = id.ok_or_else(|| {
            wrong(
                USER_ID,
                value,
                "the id of a user as text, or an object with resource_type_id and resource_id",
            )
        })?;
        super::super::usable(USER, id)
    }

    /// An instant, which must be there.
    fn instant(&self, name: &str) -> Result<jiff::Timestamp, Error> {
        self.maybe_instant(name)?.ok_or_else(|| {
            invalid(format!(
                "the argument {name} is missing: give a date such as 2027-01-31T17:00:00Z"
            ))
        })
    }

    fn maybe_instant(&self, name: &str) -> Result<Option<jiff::Timestamp>, Error> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(instant) => Ok(Some(instant)),
            Err(_) => Err(invalid(format!(
                "the argument {name} is a text of {} bytes that is no RFC 3339 date with an offset, such as \
                 2027-01-31T17:00:00Z",
                text.len()
            ))),
        }
    }

    fn mail(&self) -> Result<Mail, Error> {
        let send = self.flag(SEND_EMAIL)?;
        let to = self.text(EMAIL_TO)?;
        if let Some(to) = to {
            if send.is_some() {
                return Err(invalid(format!(
                    "{SEND_EMAIL} and {EMAIL_TO} are given together; an address says already that mail is sent"
                )));
            }
            if super::super::users::email(Some(to)).is_none() {
                return Err(invalid(format!(
                    "the argument {EMAIL_TO} is a text of {} bytes that is no e-mail address",
                    to.len()
                )));
            }
        }
        Ok(Mail {
            send,
            to: to.map(str::to_owned),
        })
    }
}

fn wrong(name: &str, value: &Value, wanted: &str) -> Error {
    invalid(format!(
        "the argument {name} is {}; give {wanted}",
        shape(value)
    ))
}

fn invalid(what: String) -> Error {
    Error::Invalid { what }
}

/// A plan about a user.
fn plan(operation: &str, user: &str, before: Json, after: Json) -> Plan {
    plan_for(operation, format!("{USER}:{user}"), before, after)
}

/// An instant as JumpCloud writes it.
fn written(instant: jiff::Timestamp) -> String {
    format!("{instant:.3}")
}

/// How an action ended.
struct Outcome {
    fields: Struct,
    effect: Effect,
    request_ids: Vec<String>,
}

impl Outcome {
    fn new(user: &str, effect: Effect) -> Self {
        let fields = [
            ("success", bool_value(true)),
            ("changed", bool_value(effect == Effect::Changed)),
            (USER_ID, string_value(user)),
        ];
        Self {
            fields: Struct {
                fields: fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            },
            effect,
            request_ids: Vec::new(),
        }
    }

    fn request(mut self, ids: impl IntoIterator<Item = String>) -> Self {
        self.request_ids.extend(ids);
        self
    }

    fn value(mut self, name: &str, value: Value) -> Self {
        self.fields.fields.insert(name.to_owned(), value);
        self
    }

    fn text(self, name: &str, text: Option<&str>) -> Self {
        self.value(name, string_value(text.unwrap_or_default()))
    }

    fn texts(self, name: &str, texts: &[String]) -> Self {
        self.value(name, list_value(texts.iter().map(string_value)))
    }

    fn done(self) -> Done<Struct> {
        Done {
            value: self.fields,
            effect: self.effect,
            request_ids: self.request_ids,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::proto::number_value;

    fn said(fields: &[(&str, Value)]) -> Struct {
        Struct {
            fields: fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }
    }

    fn object(fields: &[(&str, Value)]) -> Value {
        Value {
            kind: Some(Kind::StructValue(said(fields))),
        }
    }

    #[test]
    fn every_action_is_there_by_itself_and_for_users() {
        let schemas = schemas();
        for kind in ["", USER] {
            let names: Vec<&str> = schemas
                .iter()
                .filter(|schema| schema.resource_type_id == kind)
                .map(|schema| schema.name.as_str())
                .collect();
            assert_eq!(
                names,
                [
                    "suspend_user",
                    "activate_user",
                    "unlock_user",
                    "expire_password",
                    "reset_mfa",
                    "schedule_suspend",
                    "schedule_activate",
                    "remove_ssh_key",
                    "remove_user_from_all_groups",
                    "update_user_attributes",
                ]
            );
        }
        for schema in &schemas {
            let names: Vec<&str> = schema
                .arguments
                .iter()
                .map(|field| field.name.as_str())
                .collect();
            assert_eq!(names[0], USER_ID);
            assert!(schema.arguments[0].is_required);
            assert_eq!(
                names.iter().collect::<BTreeSet<_>>().len(),
                names.len(),
                "{names:?}"
            );
            for constraint in &schema.constraints {
                for name in &constraint.field_names {
                    assert!(names.contains(&name.as_str()), "{name}");
                }
            }
            assert_eq!(schema.return_types[0].name, "success");
            assert!(!schema.display_name.is_empty() && !schema.description.is_empty());
        }
    }

    #[test]
    fn no_two_actions_of_users_share_an_action_type_that_must_be_unique() {
        let mut seen: BTreeMap<i32, usize> = BTreeMap::new();
        for schema in schemas().iter().filter(|one| one.resource_type_id == USER) {
            for kind in &schema.action_type {
                *seen.entry(*kind).or_default() += 1;
            }
        }
        let unique = |kind: &i32| *kind != i32::from(ActionType::Dynamic);
        assert!(
            seen.iter()
                .filter(|(kind, _)| unique(kind))
                .all(|(_, count)| *count == 1)
        );
        for kind in [
            ActionType::AccountDisable,
            ActionType::AccountEnable,
            ActionType::AccountUpdateProfile,
        ] {
            assert!(seen.contains_key(&kind.into()), "{kind:?}");
        }
    }

    #[test]
    fn the_user_is_read_from_a_text_and_from_every_form_of_an_object() {
        let id = || string_value("64ab00000000000000000001");
        let kind = || string_value("user");
        for value in [
            id(),
            object(&[("resource_type_id", kind()), ("resource_id", id())]),
            object(&[("resourceTypeId", kind()), ("resourceId", id())]),
            object(&[("resource_type", kind()), ("resource", id())]),
            object(&[("resource_id", id())]),
        ] {
            let arguments = said(&[(USER_ID, value)]);
            assert_eq!(
                Arguments(&arguments).user().unwrap(),
                "64ab00000000000000000001"
            );
        }
        let cases = [
            (said(&[]), "user_id is missing"),
            (said(&[(USER_ID, string_value(" "))]), "spaces around it"),
            (said(&[(USER_ID, number_value(1.0))]), "user_id is a number"),
            (
                said(&[(USER_ID, object(&[]))]),
                "user_id is an object with 0 fields",
            ),
            (
                said(&[(
                    USER_ID,
                    object(&[
                        ("resource_type_id", string_value("group")),
                        ("resource_id", id()),
                    ]),
                )]),
                "user_id is a resource of type group",
            ),
        ];
        for (arguments, expected) in cases {
            let error = Arguments(&arguments).user().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn arguments_are_read_by_their_kind_and_refused_by_name() {
        let arguments = said(&[
            ("days", string_value("14")),
            ("many", number_value(366.0)),
            ("half", number_value(1.5)),
            ("flag", string_value("TRUE")),
            ("blank", string_value("  ")),
            ("date", string_value("2027-01-31T17:00:00+01:00")),
            ("local", string_value("2027-01-31T17:00:00")),
        ]);
        let arguments = Arguments(&arguments);
        assert_eq!(arguments.count("days", 365).unwrap(), Some(14));
        assert_eq!(arguments.count("missing", 365).unwrap(), None);
        for name in ["many", "half", "flag"] {
            assert!(arguments.count(name, 365).is_err(), "{name}");
        }
        assert_eq!(arguments.flag("flag").unwrap(), Some(true));
        assert!(arguments.flag("days").is_err());
        assert_eq!(arguments.text("blank").unwrap(), None);
        assert!(arguments.text("many").is_err());
        assert_eq!(
            written(arguments.instant("date").unwrap()),
            "2027-01-31T16:00:00.000Z"
        );
        for name in ["local", "blank", "missing"] {
            let error = arguments.instant(name).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_choice_of_mail_is_one_choice() {
        let read = |fields: &[(&str, Value)]| Arguments(&said(fields)).mail();
        assert_eq!(read(&[]).unwrap().body(), json!({}));
        assert_eq!(
            read(&[(SEND_EMAIL, bool_value(false))]).unwrap().body(),
            json!({"email": false})
        );
        assert_eq!(
            read(&[(EMAIL_TO, string_value("a@example.com"))])
                .unwrap()
                .body(),
            json!({"email": "a@example.com"})
        );
        assert!(read(&[(EMAIL_TO, string_value("nobody"))]).is_err());
        let both = [
            (EMAIL_TO, string_value("a@example.com")),
            (SEND_EMAIL, bool_value(false)),
        ];
        assert!(read(&both).is_err());
    }
}
