//! The wire contract: code generated from `proto/`, and the few helpers on it.
//!
//! The generated `c1.connector.v2` messages are the vocabulary of connector, syncer and c1z: they are what a file
//! stores, so no parallel set of domain structs is kept.

mod generated {
    #![expect(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::pedantic,
        clippy::restriction,
        reason = "generated from proto/"
    )]
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}

pub use generated::c1::{
    config::v1 as config, connector::v2 as connector, connectorapi::baton::v1 as baton,
};
pub use prost_types::{Any, Duration as ProtoDuration, Struct, Timestamp, Value, value::Kind};
pub use tonic_types::pb::Status as RpcStatus;

use prost::Name;

pub mod codec;

/// The descriptor set of `proto/`, as compiled by the build.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Packs a message the way the Go SDK does: type URL `type.googleapis.com/<full name>`.
pub fn pack<M: Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

/// Whether `any` holds a message of type `M`, judged by the name after the last slash of its type URL.
pub fn is<M: Name>(any: &Any) -> bool {
    any.type_url.rsplit('/').next() == Some(M::full_name().as_str())
}

/// The first message of type `M` in a list of annotations; one that does not decode counts as absent.
pub fn find<M: Name + Default>(annotations: &[Any]) -> Option<M> {
    annotations
        .iter()
        .find(|any| is::<M>(any))
        .and_then(|any| M::decode(any.value.as_slice()).ok())
}

/// Whether a list of annotations holds a message of type `M`.
pub fn has<M: Name>(annotations: &[Any]) -> bool {
    annotations.iter().any(is::<M>)
}

/// A string as a `google.protobuf.Value`.
pub fn string_value(text: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.into())),
    }
}

/// A boolean as a `google.protobuf.Value`.
pub fn bool_value(value: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(value)),
    }
}

/// A number as a `google.protobuf.Value`.
pub fn number_value(value: f64) -> Value {
    Value {
        kind: Some(Kind::NumberValue(value)),
    }
}

/// A list of strings as a `google.protobuf.Value`.
pub fn list_value(items: impl IntoIterator<Item = Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(prost_types::ListValue {
            values: items.into_iter().collect(),
        })),
    }
}

/// A JSON object as a `google.protobuf.Struct`; numbers beyond 53 bits lose precision, as in every Struct.
pub fn structure(members: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct {
        fields: members
            .into_iter()
            .map(|(name, member)| (name, value(member)))
            .collect(),
    }
}

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => return list_value(items.into_iter().map(value)),
        Json::Object(members) => Kind::StructValue(structure(members)),
    };
    Value { kind: Some(kind) }
}

/// The text of a member, where it is one.
pub fn text_of<'a>(object: &'a Struct, name: &str) -> Option<&'a str> {
    match object.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}
