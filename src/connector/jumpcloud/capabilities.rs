//! What this connector can do, told as it is.

use super::ids::{APP, GROUP, ROLE, USER};
use crate::proto::{
    Any,
    connector::{self as v2, Capability, resource_type::Trait},
    pack,
};

fn resource_type(
    id: &str,
    name: &str,
    kind: Trait,
    description: &str,
    reads: &[&str],
    mut annotations: Vec<Any>,
) -> v2::ResourceType {
    annotations.push(pack(&v2::CapabilityPermissions {
        permissions: reads
            .iter()
            .map(|permission| v2::CapabilityPermission {
                permission: (*permission).to_owned(),
            })
            .collect(),
    }));
    v2::ResourceType {
        id: id.to_owned(),
        display_name: name.to_owned(),
        traits: vec![kind.into()],
        annotations,
        description: description.to_owned(),
        sourced_externally: false,
    }
}

/// Directory users and administrators. Their access is told by groups, roles and applications.
pub(super) fn user_type() -> v2::ResourceType {
    resource_type(
        USER,
        "User",
        Trait::User,
        "Directory users and administrators of the JumpCloud organisation",
        &["Read users", "Read administrators"],
        vec![pack(&v2::SkipEntitlementsAndGrants {})],
    )
}

/// User groups.
pub(super) fn group_type() -> v2::ResourceType {
    resource_type(
        GROUP,
        "Group",
        Trait::Group,
        "User groups, static and dynamic",
        &["Read user groups"],
        Vec::new(),
    )
}

/// Administrator roles.
pub(super) fn role_type() -> v2::ResourceType {
    resource_type(
        ROLE,
        "Role",
        Trait::Role,
        "Roles of administrators, built-in and custom",
        &["Read administrators", "Read roles"],
        Vec::new(),
    )
}

/// Applications.
pub(super) fn app_type() -> v2::ResourceType {
    resource_type(
        APP,
        "App",
        Trait::App,
        "Single sign-on applications, and the administration of JumpCloud itself",
        &["Read applications", "Read administrators"],
        Vec::new(),
    )
}

/// All resource types, in the order of the official connector.
pub(super) fn resource_types() -> Vec<v2::ResourceType> {
    vec![user_type(), group_type(), role_type(), app_type()]
}

/// The metadata sent in Hello.
pub(super) fn metadata() -> v2::ConnectorMetadata {
    let mut types = resource_types();
    types.sort_by(|one, other| one.id.cmp(&other.id));
    let resource_type_capabilities = types
        .into_iter()
        .map(|kind| v2::ResourceTypeCapability {
            permissions: Some(
                crate::proto::find::<v2::CapabilityPermissions>(&kind.annotations)
                    .unwrap_or_default(),
            ),
            resource_type: Some(kind),
            capabilities: vec![Capability::Sync.into(), Capability::TargetedSync.into()],
            ..v2::ResourceTypeCapability::default()
        })
        .collect();
    v2::ConnectorMetadata {
        display_name: "JumpCloud".to_owned(),
        description: "Reads the users, administrators, groups, roles and applications of a JumpCloud organisation, and \
            who has access to what."
            .to_owned(),
        capabilities: Some(v2::ConnectorCapabilities {
            resource_type_capabilities,
            connector_capabilities: vec![
                Capability::Sync.into(),
                Capability::TargetedSync.into(),
                Capability::ServiceModeTargetedSync.into(),
            ],
            credential_details: Some(v2::CredentialDetails::default()),
        }),
        ..v2::ConnectorMetadata::default()
    }
}
