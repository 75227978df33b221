//! Runs of actions: each goes on by itself once it was begun, and its state can be asked for by id, also after a restart.
//!
//! The id of a run is the id of the task that asked for it, so a task that comes again finds its run. The record of a run
//! is on the disk before the run begins. A run that a dead process left behind is begun again at start: what an action
//! does is the same whether it is done once or twice, and the journal knows how far it came. Invariants: a run has ended
//! exactly when its record says so; a run that only shutdown stopped is not ended.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use super::{Error, Provisioning, Request, Shared};
use crate::{
    config::ProvisioningMode,
    connector::provision::Effect,
    error::{Class, Classify as _, Code, chain, quoted},
    proto::{
        Kind, Struct,
        config::{ConstraintKind, Field, field::Field as Shape},
        connector::{self as v2, BatonActionStatus},
        number_value, string_value,
    },
    supervisor::lock,
};

/// How long a request for a run waits for its end. Longer than the second of the SDK, so that an action that has to wait
/// for JumpCloud once is still answered at once and not only when ConductorOne asks again.
pub const INLINE_WAIT: Duration = Duration::from_secs(15);
/// How long a run may take, as in the SDK.
const RUN_LIMIT: Duration = Duration::from_hours(1);
/// How many runs are remembered.
const MOST: usize = 1000;
/// The longest arguments of a run, in bytes of their message: each run is kept on the disk.
const MAX_ARGUMENTS: usize = 64 * 1024;
const PART: &str = "actions";
const VERSION: u32 = 1;

/// What is known of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The id of the run.
    pub id: String,
    /// The name of the action.
    pub name: String,
    /// Running, complete or failed.
    pub state: BatonActionStatus,
    /// The result; the text `error` where the run failed; how far it is while it runs.
    pub response: Struct,
    /// The code of the failure.
    pub code: Option<Code>,
    /// A dry run: what would have been done.
    pub planned: Option<String>,
}

impl Status {
    fn is_settled(&self) -> bool {
        self.state != BatonActionStatus::Running
    }

    /// Why the run failed, if it did.
    pub fn error(&self) -> Option<&str> {
        (self.state == BatonActionStatus::Failed)
            .then(|| crate::proto::text_of(&self.response, "error").unwrap_or("action failed"))
    }
}

/// The file of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    version: u32,
    id: String,
    name: String,
    resource_type_id: String,
    arguments: String,
    asked_by: Option<String>,
    began: Timestamp,
    end: Option<End>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct End {
    response: String,
    /// The number of the code of a failure.
    failed: Option<i32>,
}

impl Record {
    fn status(&self) -> Option<Status> {
        let (state, response, code) = match &self.end {
            None => (BatonActionStatus::Running, Struct::default(), None),
            Some(end) => (
                if end.failed.is_some() {
                    BatonActionStatus::Failed
                } else {
                    BatonActionStatus::Complete
                },
                decoded(&end.response)?,
                end.failed.map(Code::from_number),
            ),
        };
        Some(Status {
            id: self.id.clone(),
            name: self.name.clone(),
            state,
            response,
            code,
            planned: None,
        })
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(content).ok()?;
        decoded(&record.arguments)?;
        record.status()?;
        (record.version == VERSION).then_some(record)
    }
}

fn decoded(text: &str) -> Option<Struct> {
    Struct::decode(BASE64_STANDARD.decode(text).ok()?.as_slice()).ok()
}

/// The runs that this process began, and the last ones that ended.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<BTreeMap<String, watch::Receiver<Status>>>);

impl Runs {
    fn find(&self, id: &str) -> Option<watch::Receiver<Status>> {
        lock(&self.0).get(id).cloned()
    }

    /// Adds a run; the one that is there already stays.
    fn begin(&self, status: Status) -> Result<watch::Sender<Status>, watch::Receiver<Status>> {
        let mut runs = lock(&self.0);
        if let Some(there) = runs.get(&status.id) {
            return Err(there.clone());
        }
        if runs.len() >= MOST {
            let settled = runs
                .iter()
                .find(|(_, run)| run.borrow().is_settled())
                .map(|(id, _)| id.clone());
            if let Some(id) = settled {
                runs.remove(&id);
            }
        }
        let id = status.id.clone();
        let (sender, receiver) = watch::channel(status);
        runs.insert(id, receiver);
        Ok(sender)
    }

    fn forget(&self, id: &str) {
        lock(&self.0).remove(id);
    }
}

impl Provisioning {
    /// The schemas of all actions, or of those of one resource type. Not gated by the switch.
    pub fn action_schemas(&self, resource_type_id: &str) -> Vec<v2::BatonActionSchema> {
        let mut schemas = self.shared.provisioner.action_schemas();
        if !resource_type_id.is_empty() {
            schemas.retain(|schema| schema.resource_type_id == resource_type_id);
        }
        schemas
    }

    /// The schema of the action of this name that belongs to no resource type, as in the SDK.
    pub fn action_schema(&self, name: &str) -> Result<v2::BatonActionSchema, Error> {
        self.shared.schema(name, "")
    }

    /// Begins a run, or finds the one that has this id, and waits for its end, though not longer than `wait`.
    ///
    /// Dropping the future does not stop the run.
    pub async fn invoke(
        &self,
        id: &str,
        name: &str,
        resource_type_id: &str,
        arguments: &Struct,
        asked_by: Option<&str>,
        wait: Duration,
    ) -> Result<Status, Error> {
        if self.mode() == ProvisioningMode::Off {
            return Err(Error::Off);
        }
        self.shared
            .check_action(name, resource_type_id, arguments)?;
        let mut run = match self.shared.runs.find(id) {
            Some(run) => run,
            None => match self.shared.recorded(id).await? {
                Some(record) if record.end.is_some() => {
                    return record.status().ok_or_else(|| no_run(id));
                }
                Some(record) => self.shared.begin(record),
                None => {
                    let record = Record {
                        version: VERSION,
                        id: id.to_owned(),
                        name: name.to_owned(),
                        resource_type_id: resource_type_id.to_owned(),
                        arguments: BASE64_STANDARD.encode(arguments.encode_to_vec()),
                        asked_by: asked_by.map(str::to_owned),
                        began: self.shared.clock.now(),
                        end: None,
                    };
                    // A dry run leaves nothing behind, so that the same request can be made in earnest.
                    if self.mode() == ProvisioningMode::On {
                        self.shared
                            .remember(&record)
                            .await
                            .map_err(|source| Error::Memory {
                                action: "record the run of the action",
                                source,
                            })?;
                    }
                    self.shared.begin(record)
                }
            },
        };
        // The run goes on when the wait is over, and a sender that is gone leaves its last word.
        drop(timeout(wait, run.wait_for(Status::is_settled)).await);
        let status = run.borrow().clone();
        Ok(status)
    }

    /// What is known of a run.
    pub async fn action_status(&self, id: &str) -> Result<Status, Error> {
        if let Some(run) = self.shared.runs.find(id) {
            return Ok(run.borrow().clone());
        }
        self.shared
            .recorded(id)
            .await?
            .and_then(|record| record.status())
            .ok_or_else(|| no_run(id))
    }
}

fn no_run(id: &str) -> Error {
    Error::NoRun { id: quoted(id) }
}

impl Shared {
    fn schema(&self, name: &str, resource_type_id: &str) -> Result<v2::BatonActionSchema, Error> {
        self.provisioner
            .action_schemas()
            .into_iter()
            .find(|schema| schema.name == name && schema.resource_type_id == resource_type_id)
            .ok_or_else(|| Error::NoAction { name: quoted(name) })
    }

    /// Refuses an action that is not there, and arguments that do not fit it.
    pub(super) fn check_action(
        &self,
        name: &str,
        resource_type_id: &str,
        arguments: &Struct,
    ) -> Result<(), Error> {
        let schema = self.schema(name, resource_type_id)?;
        check(&schema, arguments).map_err(|problem| Error::Arguments { problem })
    }

    fn begin(self: &Arc<Self>, record: Record) -> watch::Receiver<Status> {
        let status = Status {
            id: record.id.clone(),
            name: record.name.clone(),
            state: BatonActionStatus::Running,
            response: Struct::default(),
            code: None,
            planned: None,
        };
        match self.runs.begin(status) {
            Ok(sender) => {
                let run = sender.subscribe();
                let this = Arc::clone(self);
                self.supervisor
                    .spawn("action", async move { this.finish(record, &sender).await });
                run
            }
            Err(there) => there,
        }
    }

    /// Runs an action to its end.
    async fn finish(&self, mut record: Record, state: &watch::Sender<Status>) {
        let request = Request::Invoke {
            name: record.name.clone(),
            resource_type_id: record.resource_type_id.clone(),
            arguments: decoded(&record.arguments).unwrap_or_default(),
        };
        let progress = |percent: u8, text: &str| {
            state.send_modify(|status| {
                let fields = &mut status.response.fields;
                fields.insert(
                    "progress_percent".to_owned(),
                    number_value(f64::from(percent.min(100))),
                );
                fields.insert("progress".to_owned(), string_value(text));
            });
        };
        let shutdown = self.supervisor.shutdown_token();
        let ran = timeout(
            RUN_LIMIT,
            self.run(
                &record.id,
                request,
                record.asked_by.as_deref(),
                &shutdown,
                Some(&progress),
            ),
        )
        .await;
        let mut planned = None;
        let (status, response, code) = match ran {
            Ok(Ok(answer)) => {
                planned = (answer.effect == Effect::Planned).then(|| answer.planned_text());
                let response = v2::InvokeActionResponse::decode(answer.response.value.as_slice())
                    .ok()
                    .and_then(|response| response.response)
                    .unwrap_or_default();
                (BatonActionStatus::Complete, response, None)
            }
            Ok(Err(error)) if error.class() == Class::Cancelled && shutdown.is_cancelled() => {
                tracing::info!(
                    action.id = record.id,
                    action.name = record.name,
                    "an action was stopped by the shutdown; it goes on at the next start"
                );
                self.runs.forget(&record.id);
                return;
            }
            Ok(Err(error)) => failed(error.code(), &chain(&error)),
            Err(_elapsed) => failed(
                Code::DeadlineExceeded,
                "the action took longer than an hour",
            ),
        };
        record.end = Some(End {
            response: BASE64_STANDARD.encode(response.encode_to_vec()),
            failed: code.map(Code::number),
        });
        if self.settings.mode == ProvisioningMode::On
            && let Err(error) = self.remember(&record).await
        {
            tracing::warn!(
                action.id = record.id,
                error = chain(&error),
                "the end of an action cannot be recorded; after a restart it is run again"
            );
        }
        tracing::info!(
            action.id = record.id,
            action.name = record.name,
            failed = code.is_some(),
            "an action has ended"
        );
        state.send_modify(|now| {
            now.state = status;
            now.response = response;
            now.code = code;
            now.planned = planned;
        });
    }

    /// Begins the runs again that a dead process left behind.
    pub(super) async fn resume_actions(self: &Arc<Self>) {
        if self.settings.mode != ProvisioningMode::On {
            return;
        }
        let found = self
            .place
            .work(|place| {
                let Some(folder) = place.existing()? else {
                    return Ok(Vec::new());
                };
                folder.prune(PART, Timestamp::MIN, MOST)?;
                let mut left = Vec::new();
                for name in folder.names(PART)? {
                    let record = folder
                        .read(PART, &name)?
                        .and_then(|content| Record::parse(&content));
                    left.extend(record.filter(|record| record.end.is_none()));
                }
                Ok(left)
            })
            .await;
        match found {
            Ok(records) => {
                for record in records {
                    tracing::info!(
                        action.id = record.id,
                        action.name = record.name,
                        "an action that was cut off by the end of a process goes on"
                    );
                    drop(self.begin(record));
                }
            }
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the runs of actions cannot be read; those that were cut off do not go on"
            ),
        }
    }

    async fn recorded(&self, id: &str) -> Result<Option<Record>, Error> {
        let name = super::journal::file_name(id);
        let wanted = id.to_owned();
        self.place
            .work(move |place| {
                let Some(folder) = place.existing()? else {
                    return Ok(None);
                };
                let record = folder
                    .read(PART, &name)?
                    .and_then(|content| Record::parse(&content));
                Ok(record.filter(|record| record.id == wanted))
            })
            .await
            .map_err(|source| Error::Memory {
                action: "read what is remembered of the action",
                source,
            })
    }

    async fn remember(&self, record: &Record) -> io::Result<()> {
        let content = serde_json::to_vec(record)?;
        let name = super::journal::file_name(&record.id);
        let is_new = record.end.is_none();
        self.place
            .work(move |place| {
                let folder = place.ensured()?;
                // The record of a run that ends takes the place of one that is there.
                if is_new {
                    folder.prune(PART, Timestamp::MIN, MOST)?;
                }
                folder.write(PART, &name, &content)
            })
            .await
    }
}

fn failed(code: Code, text: &str) -> (BatonActionStatus, Struct, Option<Code>) {
    let mut response = Struct::default();
    response
        .fields
        .insert("success".to_owned(), crate::proto::bool_value(false));
    response
        .fields
        .insert("error".to_owned(), string_value(text));
    (BatonActionStatus::Failed, response, Some(code))
}

/// Checks arguments against a schema: their size, what is required, of which shape, and together with what. A null counts
/// as absent.
fn check(schema: &v2::BatonActionSchema, arguments: &Struct) -> Result<(), String> {
    let length = arguments.encoded_len();
    if length > MAX_ARGUMENTS {
        return Err(format!(
            "the arguments have {length} bytes; up to {MAX_ARGUMENTS} are read"
        ));
    }
    let is_given = |name: &String| {
        arguments
            .fields
            .get(name)
            .and_then(|value| value.kind.as_ref())
            .is_some_and(|kind| !matches!(kind, Kind::NullValue(_)))
    };
    for field in &schema.arguments {
        if !is_given(&field.name) {
            if field.is_required {
                return Err(format!("argument {} is missing", field.name));
            }
            continue;
        }
        let kind = arguments
            .fields
            .get(&field.name)
            .and_then(|value| value.kind.as_ref());
        if let Some(kind) = kind
            && let Some(expected) = misfit(field, kind)
        {
            return Err(format!(
                "argument {} is {}, where {expected} is expected",
                field.name,
                shape(kind)
            ));
        }
    }
    for constraint in &schema.constraints {
        let names = &constraint.field_names;
        let given = names.iter().filter(|name| is_given(name)).count();
        let all = names.join(", ");
        match constraint.kind() {
            ConstraintKind::RequiredTogether if given != 0 && given != names.len() => {
                return Err(format!("arguments {all} must be given together"));
            }
            ConstraintKind::MutuallyExclusive if given > 1 => {
                return Err(format!("only one of the arguments {all} may be given"));
            }
            ConstraintKind::AtLeastOne if given == 0 => {
                return Err(format!("at least one of the arguments {all} must be given"));
            }
            ConstraintKind::DependentOn
                if given > 0 && !constraint.secondary_field_names.iter().all(is_given) =>
            {
                return Err(format!(
                    "{all} cannot be given without {}",
                    constraint.secondary_field_names.join(", ")
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a field expects, where the value is something else.
fn misfit(field: &Field, kind: &Kind) -> Option<&'static str> {
    let (fits, expected) = match field.field.as_ref()? {
        Shape::StringField(_) => (matches!(kind, Kind::StringValue(_)), "a text"),
        Shape::IntField(_) => (
            matches!(kind, Kind::NumberValue(number) if number.fract() == 0.0),
            "a whole number",
        ),
        Shape::BoolField(_) => (matches!(kind, Kind::BoolValue(_)), "true or false"),
        Shape::StringMapField(_) | Shape::ResourceField(_) => {
            (matches!(kind, Kind::StructValue(_)), "an object")
        }
        // The id alone is understood as well.
        Shape::ResourceIdField(_) => (
            matches!(kind, Kind::StructValue(_) | Kind::StringValue(_)),
            "the id of a resource",
        ),
        Shape::StringSliceField(_)
        | Shape::ResourceIdSliceField(_)
        | Shape::ResourceSliceField(_)
        | Shape::EntitlementSliceField(_)
        | Shape::GrantSliceField(_) => (matches!(kind, Kind::ListValue(_)), "a list"),
    };
    (!fits).then_some(expected)
}

const fn shape(kind: &Kind) -> &'static str {
    match kind {
        Kind::NullValue(_) => "nothing",
        Kind::NumberValue(_) => "a number",
        Kind::StringValue(_) => "a text",
        Kind::BoolValue(_) => "true or false",
        Kind::StructValue(_) => "an object",
        Kind::ListValue(_) => "a list",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::{
        self,
        config::{BoolField, Constraint, IntField, ResourceIdField, StringField, StringSliceField},
    };

    fn field(name: &str, is_required: bool, shape: Shape) -> Field {
        Field {
            name: name.to_owned(),
            is_required,
            field: Some(shape),
            ..Field::default()
        }
    }

    fn constraint(kind: ConstraintKind, names: &[&str], others: &[&str]) -> Constraint {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Constraint {
            kind: kind.into(),
            field_names: owned(names),
            secondary_field_names: owned(others),
            ..Constraint::default()
        }
    }

    fn checked(schema: &v2::BatonActionSchema, arguments: serde_json::Value) -> Result<(), String> {
        let serde_json::Value::Object(members) = arguments else {
            panic!("an object");
        };
        check(schema, &proto::structure(members))
    }

    #[test]
    fn arguments_are_held_against_the_shapes_of_their_fields() {
        let schema = v2::BatonActionSchema {
            arguments: vec![
                field(
                    "user",
                    true,
                    Shape::ResourceIdField(ResourceIdField::default()),
                ),
                field("days", false, Shape::IntField(IntField::default())),
                field("mail", false, Shape::BoolField(BoolField::default())),
                field("to", false, Shape::StringField(StringField::default())),
                field(
                    "keys",
                    false,
                    Shape::StringSliceField(StringSliceField::default()),
                ),
            ],
            ..v2::BatonActionSchema::default()
        };
        for good in [
            json!({"user": "u1"}),
            json!({"user": {"resource_id": "u1"}, "days": 3, "mail": false, "to": "", "keys": []}),
            json!({"user": "u1", "days": null, "something": "else"}),
        ] {
            assert_eq!(checked(&schema, good.clone()), Ok(()), "{good}");
        }
        for (bad, words) in [
            (json!({}), "argument user is missing"),
            (json!({"user": null}), "argument user is missing"),
            (json!({"user": 7}), "argument user is a number"),
            (
                json!({"user": "u1", "days": 1.5}),
                "a whole number is expected",
            ),
            (
                json!({"user": "u1", "days": "3"}),
                "argument days is a text",
            ),
            (
                json!({"user": "u1", "mail": "yes"}),
                "true or false is expected",
            ),
            (json!({"user": "u1", "to": {}}), "argument to is an object"),
            (json!({"user": "u1", "keys": "k"}), "a list is expected"),
        ] {
            let problem = checked(&schema, bad.clone()).unwrap_err();
            assert!(problem.contains(words), "{bad}: {problem}");
        }
    }

    #[test]
    fn each_kind_of_constraint_is_held_up_and_a_null_counts_as_absent() {
        use ConstraintKind as K;

        let cases = [
            (K::RequiredTogether, json!({}), true),
            (K::RequiredTogether, json!({"a": 1, "b": 1}), true),
            (K::RequiredTogether, json!({"a": 1, "b": null}), false),
            (K::MutuallyExclusive, json!({"a": 1}), true),
            (K::MutuallyExclusive, json!({"a": 1, "b": null}), true),
            (K::MutuallyExclusive, json!({"a": 1, "b": 1}), false),
            (K::AtLeastOne, json!({"b": 1}), true),
            (K::AtLeastOne, json!({"a": null}), false),
            (K::DependentOn, json!({}), true),
            (K::DependentOn, json!({"a": 1, "c": 1}), true),
            (K::DependentOn, json!({"a": 1}), false),
        ];
        for (kind, arguments, fits) in cases {
            let schema = v2::BatonActionSchema {
                constraints: vec![constraint(kind, &["a", "b"], &["c"])],
                ..v2::BatonActionSchema::default()
            };
            let result = checked(&schema, arguments.clone());
            assert_eq!(result.is_ok(), fits, "{kind:?} {arguments}: {result:?}");
        }
    }

    #[test]
    fn a_record_that_is_damaged_or_of_another_version_is_none() {
        let record = Record {
            version: VERSION,
            id: "1".to_owned(),
            name: "suspend_user".to_owned(),
            resource_type_id: String::new(),
            arguments: BASE64_STANDARD.encode(Struct::default().encode_to_vec()),
            asked_by: None,
            began: Timestamp::UNIX_EPOCH,
            end: Some(End {
                response: BASE64_STANDARD.encode(failed(Code::NotFound, "gone").1.encode_to_vec()),
                failed: Some(Code::NotFound.number()),
            }),
        };
        let good = serde_json::to_vec(&record).unwrap();
        let status = Record::parse(&good).unwrap().status().unwrap();
        assert_eq!(
            (status.error(), status.code),
            (Some("gone"), Some(Code::NotFound))
        );
        let other = Record {
            version: VERSION + 1,
            ..record.clone()
        };
        let garbled = Record {
            arguments: "not base64".to_owned(),
            ..record
        };
        for bad in [
            serde_json::to_vec(&other).unwrap(),
            serde_json::to_vec(&garbled).unwrap(),
            good[..good.len() / 2].to_vec(),
            b"{}".to_vec(),
        ] {
            assert!(Record::parse(&bad).is_none());
        }
    }

    #[test]
    fn arguments_that_nobody_needs_are_refused() {
        let schema = v2::BatonActionSchema::default();
        let arguments = json!({"x": "y".repeat(MAX_ARGUMENTS)});
        let problem = checked(&schema, arguments).unwrap_err();
        assert!(problem.contains("up to 65536 are read"), "{problem}");
    }

    #[test]
    fn only_runs_that_have_ended_make_room() {
        let runs = Runs::default();
        let status = |number: usize, state| Status {
            id: format!("{number:04}"),
            name: String::new(),
            state,
            response: Struct::default(),
            code: None,
            planned: None,
        };
        let mut senders = Vec::new();
        for number in 0..MOST {
            senders.push(
                runs.begin(status(number, BatonActionStatus::Running))
                    .unwrap(),
            );
        }
        senders[7].send_modify(|now| now.state = BatonActionStatus::Complete);
        runs.begin(status(MOST, BatonActionStatus::Running))
            .unwrap();
        assert!(runs.find("0007").is_none());
        assert!(runs.find("0006").is_some());
        assert!(
            runs.begin(status(6, BatonActionStatus::Running)).is_err(),
            "a run that is there stays"
        );
    }
}
