//! What this connector can do, told as it is.

use super::{
    Allowed,
    ids::{APP, GROUP, ROLE, USER},
    provision::account_schema,
};
use crate::proto::{
    Any,
    connector::{
        self as v2, Capability, CapabilityDetailCredentialOption as CredentialOption,
        resource_type::Trait,
    },
    pack,
};

fn resource_type(
    id: &str,
    name: &str,
    kind: Trait,
    description: &str,
    needs: &[&str],
    mut annotations: Vec<Any>,
) -> v2::ResourceType {
    annotations.push(pack(&v2::CapabilityPermissions {
        permissions: needs
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
        &["Read users", "Read administrators", "Manage users"],
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
        &["Read user groups", "Manage user groups"],
        Vec::new(),
    )
}

/// Administrator roles.
pub(super) fn role_type(allowed: Allowed) -> v2::ResourceType {
    let needs: &[&str] = if allowed.administrator_roles {
        &["Read administrators", "Read roles", "Manage administrators"]
    } else {
        &["Read administrators", "Read roles"]
    };
    resource_type(
        ROLE,
        "Role",
        Trait::Role,
        "Roles of administrators, built-in and custom",
        needs,
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
        &[
            "Read applications",
            "Read administrators",
            "Manage applications",
        ],
        Vec::new(),
    )
}

/// All resource types, in the order of the official connector.
pub(super) fn resource_types(allowed: Allowed) -> Vec<v2::ResourceType> {
    vec![user_type(), group_type(), role_type(allowed), app_type()]
}

/// What can be done with resources of a type, in the order of the SDK.
fn capabilities(resource_type: &str, allowed: Allowed) -> Vec<Capability> {
    let mut can = vec![Capability::Sync, Capability::TargetedSync];
    match resource_type {
        USER => {
            can.push(Capability::AccountProvisioning);
            if allowed.account_deletion {
                can.push(Capability::ResourceDelete);
            }
            can.push(Capability::CredentialRotation);
        }
        GROUP => can.extend([
            Capability::Provision,
            Capability::ResourceDelete,
            Capability::ResourceCreate,
        ]),
        APP => can.push(Capability::Provision),
        ROLE if allowed.administrator_roles => can.push(Capability::Provision),
        _ => {}
    }
    can
}

/// The ways in which accounts get a password.
fn credential_details() -> v2::CredentialDetails {
    let numbers = |options: &[CredentialOption]| options.iter().map(|one| (*one).into()).collect();
    let preferred = CredentialOption::RandomPassword.into();
    v2::CredentialDetails {
        capability_account_provisioning: Some(v2::CredentialDetailsAccountProvisioning {
            supported_credential_options: numbers(&[
                CredentialOption::NoPassword,
                CredentialOption::RandomPassword,
                CredentialOption::Sso,
                CredentialOption::EncryptedPassword,
            ]),
            preferred_credential_option: preferred,
        }),
        capability_credential_rotation: Some(v2::CredentialDetailsCredentialRotation {
            supported_credential_options: numbers(&[
                CredentialOption::RandomPassword,
                CredentialOption::EncryptedPassword,
            ]),
            preferred_credential_option: preferred,
        }),
    }
}

/// The metadata sent in Hello.
pub(super) fn metadata(allowed: Allowed) -> v2::ConnectorMetadata {
    let mut types = resource_types(allowed);
    types.sort_by(|one, other| one.id.cmp(&other.id));
    let mut all: Vec<i32> = vec![
        Capability::Actions.into(),
        Capability::ServiceModeTargetedSync.into(),
    ];
    let resource_type_capabilities = types
        .into_iter()
        .map(|kind| {
            let capabilities: Vec<i32> = capabilities(&kind.id, allowed)
                .into_iter()
                .map(Into::into)
                .collect();
            all.extend(&capabilities);
            v2::ResourceTypeCapability {
                permissions: Some(
                    crate::proto::find::<v2::CapabilityPermissions>(&kind.annotations)
                        .unwrap_or_default(),
                ),
                resource_type: Some(kind),
                capabilities,
                ..v2::ResourceTypeCapability::default()
            }
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    v2::ConnectorMetadata {
        display_name: "JumpCloud".to_owned(),
        description: "Reads the users, administrators, groups, roles and applications of a JumpCloud organisation and who \
            has access to what. Where provisioning is switched on it also grants and revokes that access, creates and \
            changes accounts, sets passwords, and creates and deletes groups."
            .to_owned(),
        capabilities: Some(v2::ConnectorCapabilities {
            resource_type_capabilities,
            connector_capabilities: all,
            credential_details: Some(credential_details()),
        }),
        account_creation_schema: Some(account_schema::schema()),
        ..v2::ConnectorMetadata::default()
    }
}
