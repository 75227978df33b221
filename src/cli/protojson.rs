//! Protobuf messages as JSON, after the rules of the protobuf JSON mapping and in the layout of the official connectors.
//!
//! Works from the descriptors that the build keeps, so it knows every message of `proto/`, whatever an `Any` holds. Fields
//! come in the order of their declaration, absent ones are left out, 64-bit numbers are texts, enum values are names.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::{Message, Name};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::proto::{Any, DESCRIPTORS, Kind, ProtoDuration, Struct, Timestamp, Value};

/// Deeper than any message of ours; what came from elsewhere must not exhaust the stack.
const DEPTH: usize = 64;

/// Renders a message with an indent of two blanks and no line end at the end.
pub(super) fn render<M: Name>(message: &M) -> Result<String, String> {
    let registry = Registry::load()?;
    let json = registry.message(&M::full_name(), &message.encode_to_vec(), DEPTH)?;
    let mut text = String::new();
    json.write(0, &mut text);
    Ok(text)
}

enum Json {
    Text(String),
    Bare(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

impl Json {
    fn write(&self, indent: usize, out: &mut String) {
        let line = |out: &mut String, indent: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", indent));
        };
        match self {
            Self::Bare(text) => out.push_str(text),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::List(items) if items.is_empty() => out.push_str("[]"),
            Self::Map(entries) if entries.is_empty() => out.push_str("{}"),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    line(out, indent + 1);
                    item.write(indent + 1, out);
                }
                line(out, indent);
                out.push(']');
            }
            Self::Map(entries) => {
                out.push('{');
                for (index, (name, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    line(out, indent + 1);
                    out.push_str(&quoted(name));
                    out.push_str(": ");
                    value.write(indent + 1, out);
                }
                line(out, indent);
                out.push('}');
            }
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// Messages and enums by their full name.
struct Registry {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Registry {
    fn load() -> Result<Self, String> {
        let set = FileDescriptorSet::decode(DESCRIPTORS)
            .map_err(|error| format!("the descriptors cannot be read: {error}"))?;
        let mut registry = Self {
            messages: BTreeMap::new(),
            enums: BTreeMap::new(),
        };
        for file in set.file {
            let package = file.package().to_owned();
            for message in file.message_type {
                registry.add(&package, message);
            }
            for one in file.enum_type {
                registry
                    .enums
                    .insert(format!("{package}.{}", one.name()), one);
            }
        }
        Ok(registry)
    }

    fn add(&mut self, scope: &str, message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add(&name, nested.clone());
        }
        for one in &message.enum_type {
            self.enums
                .insert(format!("{name}.{}", one.name()), one.clone());
        }
        self.messages.insert(name, message);
    }

    fn message(&self, name: &str, bytes: &[u8], depth: usize) -> Result<Json, String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err("a message is nested too deeply".to_owned());
        };
        let broken = |error: prost::DecodeError| format!("{name} cannot be read: {error}");
        match name {
            "google.protobuf.Any" => {
                return self.any(&Any::decode(bytes).map_err(broken)?, depth);
            }
            "google.protobuf.Timestamp" => {
                let time = Timestamp::decode(bytes).map_err(broken)?;
                return Ok(Json::Text(time.to_string()));
            }
            "google.protobuf.Duration" => {
                let time = ProtoDuration::decode(bytes).map_err(broken)?;
                return Ok(Json::Text(time.to_string()));
            }
            "google.protobuf.Struct" => {
                return structure(&Struct::decode(bytes).map_err(broken)?, depth);
            }
            "google.protobuf.Value" => {
                return value(&Value::decode(bytes).map_err(broken)?, depth);
            }
            _ => {}
        }
        let descriptor = self
            .messages
            .get(name)
            .ok_or_else(|| format!("the message type {name} is not known"))?;
        let mut raw = fields(bytes).map_err(|problem| format!("{name} {problem}"))?;
        let mut entries = Vec::new();
        for field in &descriptor.field {
            let values = raw.remove(&field.number()).unwrap_or_default();
            if let Some(json) = self.field(field, &values, depth)? {
                entries.push((field.json_name().to_owned(), json));
            }
        }
        Ok(Json::Map(entries))
    }

    fn any(&self, any: &Any, depth: usize) -> Result<Json, String> {
        let mut entries = vec![("@type".to_owned(), Json::Text(any.type_url.clone()))];
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        match self.message(name, &any.value, depth)? {
            Json::Map(fields) if name != "google.protobuf.Struct" => entries.extend(fields),
            other => entries.push(("value".to_owned(), other)),
        }
        Ok(Json::Map(entries))
    }

    fn field(
        &self,
        field: &FieldDescriptorProto,
        values: &[Wire<'_>],
        depth: usize,
    ) -> Result<Option<Json>, String> {
        let repeated = field.label() == Label::Repeated;
        if !repeated {
            return match values.last() {
                Some(last) => Ok(Some(self.single(field, *last, depth)?)),
                None => Ok(None),
            };
        }
        let entry = match field.r#type() {
            Type::Message => self
                .messages
                .get(field.type_name().trim_start_matches('.'))
                .filter(|message| {
                    message
                        .options
                        .as_ref()
                        .is_some_and(prost_types::MessageOptions::map_entry)
                }),
            _ => None,
        };
        if let Some(entry) = entry {
            return self.map(entry, values, depth);
        }
        let mut items = Vec::new();
        for wire in values {
            match (field.r#type(), wire) {
                (Type::String | Type::Bytes | Type::Message, _)
                | (_, Wire::Number(_) | Wire::Fixed64(_) | Wire::Fixed32(_)) => {
                    items.push(self.single(field, *wire, depth)?);
                }
                (_, Wire::Bytes(packed)) => {
                    for number in unpacked(field, packed)? {
                        items.push(self.single(field, number, depth)?);
                    }
                }
            }
        }
        Ok((!items.is_empty()).then_some(Json::List(items)))
    }

    fn map(
        &self,
        entry: &DescriptorProto,
        values: &[Wire<'_>],
        depth: usize,
    ) -> Result<Option<Json>, String> {
        let mut map = BTreeMap::new();
        for wire in values {
            let Wire::Bytes(bytes) = wire else {
                return Err("holds a map entry that is no message".to_owned());
            };
            let raw = fields(bytes)?;
            let part = |number: i32| {
                let field = entry.field.iter().find(|field| field.number() == number)?;
                Some((field, raw.get(&number).and_then(|values| values.last())))
            };
            let key = match part(1) {
                Some((field, Some(wire))) => match self.single(field, *wire, depth)? {
                    Json::Text(text) | Json::Bare(text) => text,
                    Json::List(_) | Json::Map(_) => String::new(),
                },
                _ => String::new(),
            };
            let value = match part(2) {
                Some((field, Some(wire))) => self.single(field, *wire, depth)?,
                Some((field, None)) if field.r#type() == Type::Message => Json::Map(Vec::new()),
                Some((field, None)) if field.r#type() == Type::String => Json::Text(String::new()),
                _ => Json::Bare("0".to_owned()),
            };
            map.insert(key, value);
        }
        Ok((!map.is_empty()).then(|| Json::Map(map.into_iter().collect())))
    }

    fn single(
        &self,
        field: &FieldDescriptorProto,
        wire: Wire<'_>,
        depth: usize,
    ) -> Result<Json, String> {
        let mismatch = || format!("{} has the wrong wire type", field.name());
        Ok(match (field.r#type(), wire) {
            (Type::Message, Wire::Bytes(bytes)) => {
                self.message(field.type_name().trim_start_matches('.'), bytes, depth)?
            }
            (Type::String, Wire::Bytes(bytes)) => Json::Text(
                std::str::from_utf8(bytes)
                    .map_err(|_error| format!("{} is not valid UTF-8", field.name()))?
                    .to_owned(),
            ),
            (Type::Bytes, Wire::Bytes(bytes)) => Json::Text(STANDARD.encode(bytes)),
            (Type::Bool, Wire::Number(number)) => Json::Bare((number != 0).to_string()),
            (Type::Enum, Wire::Number(number)) => self.enum_value(field, number),
            (Type::Int64, Wire::Number(number)) | (Type::Sfixed64, Wire::Fixed64(number)) => {
                Json::Text(number.cast_signed().to_string())
            }
            (Type::Uint64, Wire::Number(number)) | (Type::Fixed64, Wire::Fixed64(number)) => {
                Json::Text(number.to_string())
            }
            (Type::Int32, Wire::Number(number)) => {
                Json::Bare(low(number).cast_signed().to_string())
            }
            (Type::Uint32, Wire::Number(number)) => Json::Bare(low(number).to_string()),
            (Type::Fixed32, Wire::Fixed32(number)) => Json::Bare(number.to_string()),
            (Type::Sint32 | Type::Sint64, Wire::Number(number)) => {
                let decoded = (number >> 1).cast_signed() ^ -(number & 1).cast_signed();
                if field.r#type() == Type::Sint32 {
                    Json::Bare(decoded.to_string())
                } else {
                    Json::Text(decoded.to_string())
                }
            }
            (Type::Sfixed32, Wire::Fixed32(number)) => Json::Bare(number.cast_signed().to_string()),
            (Type::Double, Wire::Fixed64(number)) => float(f64::from_bits(number)),
            (Type::Float, Wire::Fixed32(number)) => float(f64::from(f32::from_bits(number))),
            _ => return Err(mismatch()),
        })
    }

    fn enum_value(&self, field: &FieldDescriptorProto, number: u64) -> Json {
        let number = low(number).cast_signed();
        self.enums
            .get(field.type_name().trim_start_matches('.'))
            .and_then(|one| one.value.iter().find(|value| value.number() == number))
            .map_or_else(
                || Json::Bare(number.to_string()),
                |value| Json::Text(value.name().to_owned()),
            )
    }
}

/// Signed 32-bit numbers and enums travel as 64 bits; the low half is the number.
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(number: u64) -> u32 {
    number as u32
}

fn float(number: f64) -> Json {
    if number.is_finite() {
        Json::Bare(serde_json::Number::from_f64(number).map_or_else(
            || "0".to_owned(),
            |number| {
                let text = number.to_string();
                text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
            },
        ))
    } else if number.is_nan() {
        Json::Text("NaN".to_owned())
    } else if number > 0.0 {
        Json::Text("Infinity".to_owned())
    } else {
        Json::Text("-Infinity".to_owned())
    }
}

fn structure(message: &Struct, depth: usize) -> Result<Json, String> {
    message
        .fields
        .iter()
        .map(|(name, member)| Ok((name.clone(), value(member, depth)?)))
        .collect::<Result<_, _>>()
        .map(Json::Map)
}

fn value(message: &Value, depth: usize) -> Result<Json, String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err("a message is nested too deeply".to_owned());
    };
    Ok(match &message.kind {
        None | Some(Kind::NullValue(_)) => Json::Bare("null".to_owned()),
        Some(Kind::NumberValue(number)) => float(*number),
        Some(Kind::StringValue(text)) => Json::Text(text.clone()),
        Some(Kind::BoolValue(flag)) => Json::Bare(flag.to_string()),
        Some(Kind::StructValue(inner)) => structure(inner, depth)?,
        Some(Kind::ListValue(list)) => Json::List(
            list.values
                .iter()
                .map(|item| value(item, depth))
                .collect::<Result<_, _>>()?,
        ),
    })
}

#[derive(Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of an encoded message by number, in their order.
fn fields(mut bytes: &[u8]) -> Result<BTreeMap<i32, Vec<Wire<'_>>>, String> {
    let mut fields: BTreeMap<i32, Vec<Wire<'_>>> = BTreeMap::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number =
            i32::try_from(key >> 3).map_err(|_error| "has a bad field number".to_owned())?;
        let wire = match key & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            1 => Wire::Fixed64(u64::from_le_bytes(chunk(&mut bytes)?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_error| cut())?;
                let (value, rest) = bytes.split_at_checked(length).ok_or_else(cut)?;
                bytes = rest;
                Wire::Bytes(value)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(chunk(&mut bytes)?)),
            other => return Err(format!("uses the wire type {other}")),
        };
        fields.entry(number).or_default().push(wire);
    }
    Ok(fields)
}

fn unpacked<'a>(
    field: &FieldDescriptorProto,
    mut bytes: &'a [u8],
) -> Result<Vec<Wire<'a>>, String> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(match field.r#type() {
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                Wire::Fixed64(u64::from_le_bytes(chunk(&mut bytes)?))
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                Wire::Fixed32(u32::from_le_bytes(chunk(&mut bytes)?))
            }
            _ => Wire::Number(varint(&mut bytes)?),
        });
    }
    Ok(values)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(cut)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("holds a number of more than 64 bits".to_owned())
}

fn chunk<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], String> {
    let (value, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
    *bytes = rest;
    Ok(*value)
}

fn cut() -> String {
    "ends in the middle of a field".to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::{connector as v2, pack, string_value};

    static REGISTRY: LazyLock<Registry> = LazyLock::new(|| Registry::load().unwrap());

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for type_url in [
                "type.googleapis.com/c1.connector.v2.ConnectorMetadata",
                "type.googleapis.com/google.protobuf.Any",
                "type.googleapis.com/google.protobuf.Struct",
                "type.googleapis.com/c1.config.v1.Configuration",
            ] {
                drop(REGISTRY.any(&Any { type_url: type_url.to_owned(), value: bytes.clone() }, DEPTH));
            }
        }
    }

    #[test]
    fn a_message_that_nests_itself_without_end_is_refused() {
        let mut any = pack(&v2::ResourceId::default());
        for _ in 0..200 {
            any = Any {
                type_url: "type.googleapis.com/google.protobuf.Any".to_owned(),
                value: any.encode_to_vec(),
            };
        }
        assert!(render(&any).unwrap_err().contains("too deeply"));
    }

    #[test]
    fn numbers_of_64_bits_are_texts_and_enums_are_names() {
        let capabilities = v2::ConnectorCapabilities {
            connector_capabilities: vec![2, 11, 99],
            ..v2::ConnectorCapabilities::default()
        };
        assert_eq!(
            render(&capabilities).unwrap(),
            "{\n  \"connectorCapabilities\": [\n    \"CAPABILITY_SYNC\",\n    \"CAPABILITY_TARGETED_SYNC\",\n    99\n  ]\n}"
        );
    }

    #[test]
    fn an_any_shows_its_type_beside_its_fields() {
        let id = v2::ResourceId {
            resource_type: "user".to_owned(),
            resource: "1".to_owned(),
            ..v2::ResourceId::default()
        };
        assert_eq!(
            render(&pack(&id)).unwrap(),
            "{\n  \"@type\": \"type.googleapis.com/c1.connector.v2.ResourceId\",\n  \"resourceType\": \"user\",\n  \
             \"resource\": \"1\"\n}"
        );
    }

    #[test]
    fn a_struct_is_plain_json() {
        let message = Struct {
            fields: [("a".to_owned(), string_value("b\n"))]
                .into_iter()
                .collect(),
        };
        let metadata = v2::ConnectorMetadata {
            profile: Some(message),
            ..v2::ConnectorMetadata::default()
        };
        assert_eq!(
            render(&metadata).unwrap(),
            "{\n  \"profile\": {\n    \"a\": \"b\\n\"\n  }\n}"
        );
    }

    #[test]
    fn maps_and_present_but_empty_messages_are_shown() {
        let schema = v2::ConnectorAccountCreationSchema {
            field_map: [(
                "email".to_owned(),
                v2::connector_account_creation_schema::Field::default(),
            )]
            .into_iter()
            .collect(),
        };
        assert_eq!(
            render(&schema).unwrap(),
            "{\n  \"fieldMap\": {\n    \"email\": {}\n  }\n}"
        );
        let capabilities = v2::ConnectorCapabilities {
            credential_details: Some(v2::CredentialDetails::default()),
            ..v2::ConnectorCapabilities::default()
        };
        assert_eq!(
            render(&capabilities).unwrap(),
            "{\n  \"credentialDetails\": {}\n}"
        );
    }

    #[test]
    fn an_any_of_an_unknown_type_is_an_error_that_names_it() {
        let any = Any {
            type_url: "type.googleapis.com/no.such.Message".to_owned(),
            value: Vec::new(),
        };
        assert!(render(&any).unwrap_err().contains("no.such.Message"));
    }
}
