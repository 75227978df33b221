//! The outputs of `config` and `capabilities`.

use super::{CliError, protojson};
use crate::{
    config::settings::{self, Kind},
    proto::{Any, config as v1, connector as v2, pack},
};

/// The common settings that ConductorOne shows to operators, in the order of the Go SDK.
const COMMON: &[&str] = &[
    "log-level",
    "log-level-debug-expires-at",
    "session-store-maximum-size",
    "otel-collector-endpoint",
    "otel-collector-endpoint-tls-cert-path",
    "otel-collector-endpoint-tls-cert",
    "otel-collector-endpoint-tls-insecure",
    "otel-tracing-disabled",
    "otel-logging-disabled",
    "health-check",
    "health-check-port",
    "health-check-bind-address",
    "http-timeout-seconds",
];

/// Our settings that ConductorOne shows, with their titles.
const OWN: &[(&str, &str)] = &[
    ("api-key", "API key"),
    ("jumpcloud-client-id", "Service account client ID"),
    ("jumpcloud-client-secret", "Service account client secret"),
    ("org-id", "Organization ID"),
    ("region", "Region"),
    ("base-url", "Base URL"),
    ("merge-administrators", "Merge administrators into users"),
];

/// The output of `config`: `c1.config.v1.Configuration` as JSON with an indent of two, without a line end.
pub fn config_schema_json() -> Result<String, CliError> {
    rendered(protojson::render(&configuration()))
}

/// The output of `capabilities`: an `Any` of `ConnectorCapabilities` as JSON with an indent of two, without a line end.
pub fn capabilities_json(capabilities: &v2::ConnectorCapabilities) -> Result<String, CliError> {
    rendered(protojson::render(&pack(capabilities)))
}

/// The messages that a one-shot change answers with, as JSON with an indent of two and a line end each.
pub fn answer_json(messages: &[Any]) -> Result<String, CliError> {
    let mut text = String::new();
    for message in messages {
        text.push_str(&rendered(protojson::render(message))?);
        text.push('\n');
    }
    Ok(text)
}

fn rendered(result: Result<String, String>) -> Result<String, CliError> {
    result.map_err(|message| CliError::Render { message })
}

fn configuration() -> v1::Configuration {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let constraint =
        |kind: v1::ConstraintKind, fields: &[&str], secondary: &[&str]| v1::Constraint {
            kind: kind.into(),
            field_names: names(fields),
            secondary_field_names: names(secondary),
            ..v1::Constraint::default()
        };
    v1::Configuration {
        fields: COMMON
            .iter()
            .map(|name| field(name, "", true))
            .chain(OWN.iter().map(|(name, title)| field(name, title, false)))
            .collect(),
        constraints: vec![
            constraint(
                v1::ConstraintKind::DependentOn,
                &["health-check-port", "health-check-bind-address"],
                &["health-check"],
            ),
            constraint(
                v1::ConstraintKind::AtLeastOne,
                &["api-key", "jumpcloud-client-id"],
                &[],
            ),
            constraint(
                v1::ConstraintKind::MutuallyExclusive,
                &["api-key", "jumpcloud-client-id"],
                &[],
            ),
            constraint(
                v1::ConstraintKind::RequiredTogether,
                &["jumpcloud-client-id", "jumpcloud-client-secret"],
                &[],
            ),
            constraint(
                v1::ConstraintKind::MutuallyExclusive,
                &["region", "base-url"],
                &[],
            ),
        ],
        display_name: "JumpCloud".to_owned(),
        is_directory: true,
        ..v1::Configuration::default()
    }
}

fn field(name: &str, title: &str, is_ops: bool) -> v1::Field {
    let setting = settings::find(name);
    let default = setting.and_then(|setting| setting.default).unwrap_or("");
    let kind = setting.map_or(Kind::Text, |setting| setting.kind);
    let value = match kind {
        Kind::Switch => v1::field::Field::BoolField(v1::BoolField {
            default_value: default == "true",
            ..v1::BoolField::default()
        }),
        Kind::Integer => v1::field::Field::IntField(v1::IntField {
            default_value: default.parse().unwrap_or_default(),
            rules: (name == "http-timeout-seconds").then(|| v1::Int64Rules {
                gte: Some(1),
                lte: Some(1800),
                ..v1::Int64Rules::default()
            }),
            ..v1::IntField::default()
        }),
        Kind::List => v1::field::Field::StringSliceField(v1::StringSliceField::default()),
        Kind::Text | Kind::Mode | Kind::Secret | Kind::Path | Kind::Duration => {
            v1::field::Field::StringField(v1::StringField {
                default_value: default.to_owned(),
                rules: (name == "region").then(|| v1::StringRules {
                    r#in: ["us", "eu", "in"].map(str::to_owned).to_vec(),
                    ..v1::StringRules::default()
                }),
                ..v1::StringField::default()
            })
        }
    };
    v1::Field {
        name: name.to_owned(),
        display_name: title.to_owned(),
        description: setting.map_or("", |setting| setting.help).to_owned(),
        is_ops,
        // The certificate is kept out of logs like a secret, but ConductorOne does not store it as one.
        is_secret: kind == Kind::Secret && !is_ops,
        field: Some(value),
        ..v1::Field::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_schema_lists_the_common_fields_and_ours_and_nothing_private() {
        let text = config_schema_json().unwrap();
        assert!(text.starts_with("{\n  \"fields\": [\n    {\n      \"name\": \"log-level\""));
        assert!(text.ends_with('}'));
        let json: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<_> = json["fields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|field| field["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            COMMON
                .iter()
                .copied()
                .chain(OWN.iter().map(|(name, _)| *name))
                .collect::<Vec<_>>()
        );
        assert!(names.iter().all(|name| settings::find(name).is_some()));
        assert_eq!(json["displayName"], "JumpCloud");
    }

    #[test]
    fn numbers_rules_and_secrets_have_the_official_shape() {
        let json: Value = serde_json::from_str(&config_schema_json().unwrap()).unwrap();
        let field = |name: &str| {
            json["fields"]
                .as_array()
                .unwrap()
                .iter()
                .find(|field| field["name"] == name)
                .unwrap()
                .clone()
        };
        assert_eq!(
            field("http-timeout-seconds")["intField"],
            serde_json::json!({"defaultValue": "300", "rules": {"gte": "1", "lte": "1800"}})
        );
        assert_eq!(field("health-check")["boolField"], serde_json::json!({}));
        assert_eq!(field("health-check")["isOps"], true);
        assert_eq!(field("api-key")["isSecret"], true);
        assert_eq!(field("api-key")["stringField"], serde_json::json!({}));
        assert_eq!(
            json["constraints"][0]["kind"],
            "CONSTRAINT_KIND_DEPENDENT_ON"
        );
    }

    #[test]
    fn capabilities_are_wrapped_with_their_type() {
        let capabilities = v2::ConnectorCapabilities {
            resource_type_capabilities: vec![v2::ResourceTypeCapability {
                resource_type: Some(v2::ResourceType {
                    id: "user".to_owned(),
                    display_name: "User".to_owned(),
                    traits: vec![v2::resource_type::Trait::User.into()],
                    annotations: vec![pack(&v2::SkipEntitlementsAndGrants {})],
                    ..v2::ResourceType::default()
                }),
                capabilities: vec![v2::Capability::Sync.into()],
                permissions: Some(v2::CapabilityPermissions::default()),
                ..v2::ResourceTypeCapability::default()
            }],
            connector_capabilities: vec![v2::Capability::Sync.into()],
            credential_details: Some(v2::CredentialDetails::default()),
        };
        let text = capabilities_json(&capabilities).unwrap();
        assert!(text.starts_with(
            "{\n  \"@type\": \"type.googleapis.com/c1.connector.v2.ConnectorCapabilities\",\n  \
             \"resourceTypeCapabilities\": [\n    {\n      \"resourceType\": {\n        \"id\": \"user\","
        ));
        let json: Value = serde_json::from_str(&text).unwrap();
        let first = &json["resourceTypeCapabilities"][0];
        assert_eq!(
            first["resourceType"]["traits"],
            serde_json::json!(["TRAIT_USER"])
        );
        assert_eq!(
            first["resourceType"]["annotations"][0]["@type"],
            "type.googleapis.com/c1.connector.v2.SkipEntitlementsAndGrants"
        );
        assert_eq!(first["permissions"], serde_json::json!({}));
        assert_eq!(json["credentialDetails"], serde_json::json!({}));
    }
}
