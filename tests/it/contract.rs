//! The wire contract is what the table says it is.

use baton_jumpcloud::proto::DESCRIPTORS;
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

fn enum_rows(parent: &str, descriptor: &EnumDescriptorProto, rows: &mut Vec<String>) {
    for value in &descriptor.value {
        rows.push(format!(
            "enum\t{parent}.{}\t{}\t{}",
            descriptor.name(),
            value.name(),
            value.number()
        ));
    }
}

fn message_rows(parent: &str, descriptor: &DescriptorProto, rows: &mut Vec<String>) {
    let name = format!("{parent}.{}", descriptor.name());
    let map = descriptor
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry());
    rows.push(format!("message\t{name}{}", if map { "\tmap" } else { "" }));
    for field in &descriptor.field {
        let kind = match field.r#type() {
            Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
            scalar => scalar
                .as_str_name()
                .trim_start_matches("TYPE_")
                .to_lowercase(),
        };
        let label = if field.label() == Label::Repeated {
            "repeated"
        } else {
            "singular"
        };
        let group = match field.oneof_index {
            _ if field.proto3_optional() => "explicit".to_owned(),
            Some(index) => format!(
                "oneof {}",
                descriptor.oneof_decl[usize::try_from(index).unwrap()].name()
            ),
            None => "-".to_owned(),
        };
        rows.push(format!(
            "field\t{name}\t{}\t{}\t{kind}\t{label}\t{group}\t{}",
            field.name(),
            field.number(),
            field.json_name()
        ));
    }
    for inner in &descriptor.enum_type {
        enum_rows(&name, inner, rows);
    }
    for inner in &descriptor.nested_type {
        message_rows(&name, inner, rows);
    }
}

fn compiled() -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let mut rows = Vec::new();
    for file in set
        .file
        .iter()
        .filter(|file| file.package().starts_with("c1."))
    {
        for descriptor in &file.enum_type {
            enum_rows(file.package(), descriptor, &mut rows);
        }
        for descriptor in &file.message_type {
            message_rows(file.package(), descriptor, &mut rows);
        }
        for service in &file.service {
            for method in &service.method {
                let streaming = |on: bool| if on { "stream" } else { "unary" };
                rows.push(format!(
                    "method\t{}.{}\t{}\t{}\t{}\t{}\t{}",
                    file.package(),
                    service.name(),
                    method.name(),
                    method.input_type().trim_start_matches('.'),
                    method.output_type().trim_start_matches('.'),
                    streaming(method.client_streaming()),
                    streaming(method.server_streaming()),
                ));
            }
        }
    }
    rows.sort();
    rows
}

#[test]
fn every_message_field_enum_value_and_method_is_as_pinned() {
    let pinned: Vec<&str> = include_str!("../../proto/contract.tsv").lines().collect();
    let compiled = compiled();
    let gone: Vec<_> = pinned
        .iter()
        .filter(|row| !compiled.iter().any(|other| other == *row))
        .collect();
    let new: Vec<_> = compiled
        .iter()
        .filter(|row| !pinned.contains(&row.as_str()))
        .collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "pinned but not compiled: {gone:#?}\ncompiled but not pinned: {new:#?}"
    );
    assert_eq!(pinned.len(), compiled.len(), "a row is there twice");
    assert!(pinned.len() > 1_000, "the table was cut");
}
