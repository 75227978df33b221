//! The field rules that ConductorOne's side applies to what it receives, as data-driven checks.
//!
//! A rule names a field by its path and says what is wrong with it, never the value. The limits are those of the
//! service's own validation annotations: `B` counts bytes, `chars` counts code points, and "empty ok" skips the rule
//! for the zero value.

use std::{collections::BTreeSet, sync::OnceLock};

use prost::{Message, Name};
use prost_types::{DescriptorProto, FileDescriptorSet};

use crate::proto::{
    Any, DESCRIPTORS, RpcStatus,
    baton::{
        BatonServiceFinishTaskRequest, BatonServiceGetTaskRequest, BatonServiceGetTasksRequest,
        BatonServiceHeartbeatRequest, BatonServiceHelloRequest,
        baton_service_finish_task_request::FinalState,
        baton_service_hello_request::{BuildInfo, OsInfo},
        baton_service_upload_asset_request::{UploadData, UploadEof, UploadMetadata},
    },
    connector as v2,
};

mod results;

pub(super) use results::broken_by_result;

/// The most annotations that a request of the service may carry.
const MAX_ANNOTATIONS: usize = 16;
/// The most bytes of one data message of an upload.
const MAX_CHUNK: usize = 1024 * 1024;

/// One broken rule: the path of the field, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) field: String,
    pub(super) problem: String,
}

/// All rules that `message` breaks.
pub(super) fn broken<M: Rules>(message: &M) -> Vec<Broken> {
    let mut checker = Checker::default();
    message.check(&mut checker);
    checker.broken
}

/// A message whose fields have rules.
pub(super) trait Rules {
    /// Reports every broken rule to `at`.
    fn check(&self, at: &mut Checker);
}

/// What a rule makes of the zero value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Fine,
    Broken,
}

/// Collects broken rules along the path of the field.
#[derive(Debug, Default)]
pub(super) struct Checker {
    path: Vec<String>,
    broken: Vec<Broken>,
}

impl Checker {
    pub(super) fn report(&mut self, field: &str, problem: impl Into<String>) {
        let mut path = self.path.join(".");
        if !path.is_empty() && !field.is_empty() {
            path.push('.');
        }
        path.push_str(field);
        self.broken.push(Broken {
            field: path,
            problem: problem.into(),
        });
    }

    fn within(&mut self, field: String, check: impl FnOnce(&mut Self)) {
        self.path.push(field);
        check(self);
        drop(self.path.pop());
    }

    fn bytes(&mut self, field: &str, value: &str, most: usize, empty: Empty) {
        if value.is_empty() {
            if empty == Empty::Broken {
                self.report(field, format!("is empty, must have 1 to {most} bytes"));
            }
        } else if value.len() > most {
            let length = value.len();
            self.report(
                field,
                format!("has {length} bytes, at most {most} are allowed"),
            );
        }
    }

    fn chars(&mut self, field: &str, value: &str, most: usize, empty: Empty) {
        let length = value.chars().count();
        if length == 0 && empty == Empty::Broken {
            self.report(field, format!("is empty, must have 1 to {most} characters"));
        } else if length > most {
            self.report(
                field,
                format!("has {length} characters, at most {most} are allowed"),
            );
        }
    }

    fn task_id(&mut self, field: &str, value: &str) {
        if !is_task_id(value) {
            let length = value.len();
            self.report(
                field,
                format!("must be 27 letters and digits, has {length} bytes"),
            );
        }
    }

    fn https(&mut self, field: &str, value: &str, most: usize) {
        self.bytes(field, value, most, Empty::Fine);
        if !value.is_empty() && (!value.starts_with("https://") || url::Url::parse(value).is_err())
        {
            self.report(field, "must be a URI that starts with https://");
        }
    }

    fn email(&mut self, field: &str, value: &str) {
        let is_email = value.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.is_empty()
                && !domain.contains('@')
                && !value.chars().any(char::is_whitespace)
        });
        if !is_email {
            self.report(field, "must be an e-mail address");
        }
    }

    fn defined<E: TryFrom<i32>>(&mut self, field: &str, value: i32) {
        if E::try_from(value).is_err() {
            self.report(
                field,
                format!("has the value {value}, which is not defined"),
            );
        }
    }

    fn required<'a, M>(&mut self, field: &str, message: Option<&'a M>) -> Option<&'a M> {
        if message.is_none() {
            self.report(field, "is required");
        }
        message
    }

    fn message<M: Rules>(&mut self, field: &str, message: Option<&M>) {
        if let Some(message) = message {
            self.within(field.to_owned(), |at| message.check(at));
        }
    }

    fn required_message<M: Rules>(&mut self, field: &str, message: Option<&M>) {
        let message = self.required(field, message);
        self.message(field, message);
    }

    fn each<M: Rules>(&mut self, field: &str, messages: &[M]) {
        for (index, message) in messages.iter().enumerate() {
            self.within(format!("{field}[{index}]"), |at| message.check(at));
        }
    }

    fn request_annotations(&mut self, field: &str, annotations: &[Any]) {
        if annotations.len() > MAX_ANNOTATIONS {
            let count = annotations.len();
            self.report(
                field,
                format!("has {count} items, at most {MAX_ANNOTATIONS} are allowed"),
            );
        }
        self.each(field, annotations);
    }

    fn response(&mut self, field: &str, any: &Any, expected: &str) {
        if any.type_url.strip_prefix(PREFIX) != Some(expected) {
            self.report(
                &format!("{field}.type_url"),
                format!("must be {PREFIX}{expected}"),
            );
        }
    }

    /// Checks a packed message of a known type.
    fn packed<M: Rules + Message + Default>(&mut self, any: &Any) {
        match M::decode(any.value.as_slice()) {
            Ok(message) => message.check(self),
            Err(_undecodable) => self.report("value", "does not decode as its type"),
        }
    }
}

/// Whether a text has the form of a task id.
pub(super) fn is_task_id(text: &str) -> bool {
    text.len() == 27 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

const PREFIX: &str = "type.googleapis.com/";

/// Whether the contract has a message of this full name.
fn is_message(name: &str) -> bool {
    static NAMES: OnceLock<BTreeSet<String>> = OnceLock::new();
    NAMES
        .get_or_init(|| {
            let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
            let mut names = BTreeSet::new();
            for file in &files.file {
                collect(file.package(), &file.message_type, &mut names);
            }
            names
        })
        .contains(name)
}

fn collect(scope: &str, messages: &[DescriptorProto], names: &mut BTreeSet<String>) {
    for message in messages {
        let name = format!("{scope}.{}", message.name());
        collect(&name, &message.nested_type, names);
        names.insert(name);
    }
}

/// Tries the listed types one after the other; `true` when one of them was it.
macro_rules! check_packed {
    ($at:ident, $any:ident, $name:ident: $($type:ty),+ $(,)?) => {
        $(if $name == <$type as Name>::full_name() {
            $at.packed::<$type>($any);
            return;
        })+
    };
}

/// Messages of the contract without rules of their own.
macro_rules! no_rules {
    ($($type:ty),+ $(,)?) => {
        $(impl Rules for $type {
            fn check(&self, _at: &mut Checker) {}
        })+
    };
}

impl Rules for Any {
    fn check(&self, at: &mut Checker) {
        let Some(name) = self.type_url.strip_prefix(PREFIX) else {
            at.report("type_url", format!("must start with {PREFIX}"));
            return;
        };
        let is_name = !name.is_empty()
            && name.split('.').all(|part| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            });
        if !is_name {
            at.report("type_url", "must end with the full name of a message");
            return;
        }
        if name.starts_with("c1.") && !is_message(name) {
            at.report(
                "type_url",
                "names a message that the contract does not have",
            );
            return;
        }
        check_packed!(at, self, name:
            v2::UserTrait, v2::GroupTrait, v2::RoleTrait, v2::AppTrait, v2::SecretTrait,
            v2::ExternalLink, v2::GrantExpandable, v2::GrantImmutable, v2::GrantMetadata,
            v2::EntitlementImmutable, v2::EntitlementExclusionGroup, v2::ChildResourceType,
            v2::SkipEntitlementsAndGrants, v2::SkipGrants, v2::SkipEntitlements,
            v2::ExternalTicketSettings, v2::CapabilityPermissions, v2::OptInRequired,
            v2::Deprecated, v2::SkipSyncAnomalyDetection, v2::V1Identifier, v2::RawId, v2::Aliases,
            v2::GrantAlreadyExists, v2::GrantAlreadyRevoked, v2::GrantReplaced,
            v2::ResourceDeleted, v2::ResourceDoesNotExist, v2::RateLimitDescription,
            v2::RateLimitWaitReport, v2::RequestId, v2::InsertResourceGrants,
            v2::ExternalTicketRef, v2::NonHumanIdentityTrait,
            v2::GrantManagerServiceGrantResponse, v2::GrantManagerServiceRevokeResponse,
            v2::CreateAccountResponse, v2::CreateResourceResponse, v2::DeleteResourceResponse,
            v2::RotateCredentialResponse, v2::IssueCredentialResponse,
            v2::TicketsServiceCreateTicketResponse, v2::TicketsServiceListTicketSchemasResponse,
            v2::TicketsServiceGetTicketResponse, v2::TicketsServiceBulkCreateTicketsResponse,
            v2::TicketsServiceBulkGetTicketsResponse, v2::ListActionSchemasResponse,
            v2::GetActionSchemaResponse, v2::InvokeActionResponse, v2::GetActionStatusResponse,
            v2::ListEventFeedsResponse, v2::ListEventsResponse,
        );
        if matches!(
            name,
            "c1.connector.v2.ETag"
                | "c1.connector.v2.ETagMetadata"
                | "c1.connector.v2.ETagMatch"
                | "c1.connector.v2.BatonID"
        ) {
            at.report("type_url", "names a type that connectors must not send");
        }
    }
}

no_rules!(
    v2::RoleTrait,
    v2::GrantImmutable,
    v2::GrantMetadata,
    v2::EntitlementImmutable,
    v2::EntitlementExclusionGroup,
    v2::ChildResourceType,
    v2::SkipEntitlementsAndGrants,
    v2::SkipGrants,
    v2::SkipEntitlements,
    v2::ExternalTicketSettings,
    v2::CapabilityPermissions,
    v2::OptInRequired,
    v2::Deprecated,
    v2::SkipSyncAnomalyDetection,
    v2::V1Identifier,
    v2::RawId,
    v2::GrantAlreadyExists,
    v2::GrantAlreadyRevoked,
    v2::ResourceDoesNotExist,
    v2::RateLimitDescription,
    v2::RateLimitWaitReport,
    v2::RequestId,
    v2::InsertResourceGrants,
    v2::ExternalTicketRef,
);

// c1.connectorapi.baton.v1

impl Rules for BatonServiceHelloRequest {
    fn check(&self, at: &mut Checker) {
        at.chars("host_id", &self.host_id, 256, Empty::Broken);
        if !self.task_id.is_empty() {
            at.task_id("task_id", &self.task_id);
        }
        at.required_message("build_info", self.build_info.as_ref());
        at.required_message("os_info", self.os_info.as_ref());
        at.required_message("connector_metadata", self.connector_metadata.as_ref());
        at.request_annotations("annotations", &self.annotations);
    }
}

// An empty field of these two is legal on the wire, but registration is known to fail on it.
impl Rules for BuildInfo {
    fn check(&self, at: &mut Checker) {
        at.chars("lang_version", &self.lang_version, 256, Empty::Broken);
        at.chars("package", &self.package, 256, Empty::Broken);
        at.chars("package_version", &self.package_version, 256, Empty::Broken);
    }
}

impl Rules for OsInfo {
    fn check(&self, at: &mut Checker) {
        for (field, value) in [
            ("hostname", &self.hostname),
            ("os", &self.os),
            ("platform", &self.platform),
            ("platform_version", &self.platform_version),
            ("platform_family", &self.platform_family),
            ("kernel_version", &self.kernel_version),
            ("kernel_arch", &self.kernel_arch),
            ("virtualization_system", &self.virtualization_system),
        ] {
            at.chars(field, value, 256, Empty::Broken);
        }
    }
}

impl Rules for BatonServiceGetTaskRequest {
    fn check(&self, at: &mut Checker) {
        at.chars("host_id", &self.host_id, 256, Empty::Broken);
    }
}

impl Rules for BatonServiceGetTasksRequest {
    fn check(&self, at: &mut Checker) {
        at.chars("host_id", &self.host_id, 256, Empty::Broken);
        if !(1..=100).contains(&self.page_size) {
            at.report(
                "page_size",
                format!("is {}, must be 1 to 100", self.page_size),
            );
        }
        for (index, id) in self.known_task_ids.iter().enumerate() {
            at.task_id(&format!("known_task_ids[{index}]"), id);
        }
        at.request_annotations("annotations", &self.annotations);
    }
}

impl Rules for BatonServiceHeartbeatRequest {
    fn check(&self, at: &mut Checker) {
        at.chars("host_id", &self.host_id, 256, Empty::Broken);
        at.task_id("task_id", &self.task_id);
        if self.task_ids.len() > 100 {
            let count = self.task_ids.len();
            at.report(
                "task_ids",
                format!("has {count} items, at most 100 are allowed"),
            );
        }
        for (index, id) in self.task_ids.iter().enumerate() {
            at.task_id(&format!("task_ids[{index}]"), id);
        }
        at.request_annotations("annotations", &self.annotations);
    }
}

impl Rules for BatonServiceFinishTaskRequest {
    fn check(&self, at: &mut Checker) {
        at.chars("host_id", &self.host_id, 256, Empty::Broken);
        at.task_id("task_id", &self.task_id);
        match &self.final_state {
            None => at.report("final_state", "is required: either error or success"),
            Some(FinalState::Success(success)) => {
                if self.status.is_some() {
                    at.report("status", "must be absent beside success");
                }
                at.within("success".to_owned(), |at| {
                    at.request_annotations("annotations", &success.annotations);
                    at.message("response", success.response.as_ref());
                });
            }
            Some(FinalState::Error(error)) => {
                at.required_message("status", self.status.as_ref());
                at.within("error".to_owned(), |at| {
                    at.request_annotations("annotations", &error.annotations);
                    at.message("response", error.response.as_ref());
                });
            }
        }
    }
}

impl Rules for RpcStatus {
    fn check(&self, at: &mut Checker) {
        if !(1..=16).contains(&self.code) {
            at.report(
                "code",
                format!("is {}, must be the number of an error, 1 to 16", self.code),
            );
        }
        if self.message.is_empty() {
            at.report("message", "is empty, must say what failed");
        }
        at.each("details", &self.details);
    }
}

impl Rules for UploadMetadata {
    fn check(&self, at: &mut Checker) {
        at.chars("metadata.host_id", &self.host_id, 256, Empty::Broken);
        at.task_id("metadata.task_id", &self.task_id);
        at.request_annotations("metadata.annotations", &self.annotations);
    }
}

impl Rules for UploadData {
    fn check(&self, at: &mut Checker) {
        let length = self.data.len();
        if !(1..=MAX_CHUNK).contains(&length) {
            at.report(
                "data.data",
                format!("has {length} bytes, must have 1 to {MAX_CHUNK}"),
            );
        }
    }
}

impl Rules for UploadEof {
    fn check(&self, at: &mut Checker) {
        let length = self.sha256_checksum.len();
        if length != 32 {
            at.report(
                "eof.sha256_checksum",
                format!("has {length} bytes, must have 32 raw bytes"),
            );
        }
        at.request_annotations("eof.annotations", &self.annotations);
    }
}

// c1.connector.v2: what Hello carries

impl Rules for v2::ConnectorMetadata {
    fn check(&self, at: &mut Checker) {
        at.bytes("display_name", &self.display_name, 1024, Empty::Broken);
        at.https("help_url", &self.help_url, 1024);
        at.message("icon", self.icon.as_ref());
        at.message("logo", self.logo.as_ref());
        at.each("annotations", &self.annotations);
        at.bytes("description", &self.description, 4096, Empty::Fine);
        at.required_message("capabilities", self.capabilities.as_ref());
    }
}

impl Rules for v2::AssetRef {
    fn check(&self, at: &mut Checker) {
        at.bytes("id", &self.id, 1024, Empty::Broken);
    }
}

impl Rules for v2::ConnectorCapabilities {
    fn check(&self, at: &mut Checker) {
        at.each(
            "resource_type_capabilities",
            &self.resource_type_capabilities,
        );
        for (index, capability) in self.connector_capabilities.iter().enumerate() {
            at.defined::<v2::Capability>(&format!("connector_capabilities[{index}]"), *capability);
        }
        if let Some(details) = &self.credential_details {
            at.within("credential_details".to_owned(), |at| {
                at.message(
                    "capability_account_provisioning",
                    details.capability_account_provisioning.as_ref(),
                );
                at.message(
                    "capability_credential_rotation",
                    details.capability_credential_rotation.as_ref(),
                );
            });
        }
    }
}

fn credential_options(at: &mut Checker, supported: &[i32], preferred: i32) {
    for (index, option) in supported.iter().enumerate() {
        at.defined::<v2::CapabilityDetailCredentialOption>(
            &format!("supported_credential_options[{index}]"),
            *option,
        );
    }
    if !supported.contains(&preferred) {
        at.report(
            "preferred_credential_option",
            "must be one of the supported options",
        );
    }
}

impl Rules for v2::CredentialDetailsAccountProvisioning {
    fn check(&self, at: &mut Checker) {
        credential_options(
            at,
            &self.supported_credential_options,
            self.preferred_credential_option,
        );
    }
}

impl Rules for v2::CredentialDetailsCredentialRotation {
    fn check(&self, at: &mut Checker) {
        credential_options(
            at,
            &self.supported_credential_options,
            self.preferred_credential_option,
        );
    }
}

impl Rules for v2::ResourceTypeCapability {
    fn check(&self, at: &mut Checker) {
        at.required_message("resource_type", self.resource_type.as_ref());
        for (index, capability) in self.capabilities.iter().enumerate() {
            at.defined::<v2::Capability>(&format!("capabilities[{index}]"), *capability);
        }
        if let Some(issue) = &self.credential_issue {
            for (index, option) in issue.options.iter().enumerate() {
                at.bytes(
                    &format!("credential_issue.options[{index}].secret_resource_type_id"),
                    &option.secret_resource_type_id,
                    1024,
                    Empty::Broken,
                );
            }
        }
    }
}

impl Rules for v2::ResourceType {
    fn check(&self, at: &mut Checker) {
        at.bytes("id", &self.id, 1024, Empty::Broken);
        at.bytes("display_name", &self.display_name, 1024, Empty::Fine);
        for (index, role) in self.traits.iter().enumerate() {
            at.defined::<v2::resource_type::Trait>(&format!("traits[{index}]"), *role);
            if self
                .traits
                .iter()
                .take(index)
                .any(|earlier| earlier == role)
            {
                at.report("traits", "must be unique");
            }
        }
        at.each("annotations", &self.annotations);
        at.bytes("description", &self.description, 4096, Empty::Fine);
    }
}

// c1.connector.v2: what files and responses carry

impl Rules for v2::ResourceId {
    fn check(&self, at: &mut Checker) {
        at.bytes("resource_type", &self.resource_type, 1024, Empty::Broken);
        at.bytes("resource", &self.resource, 1024, Empty::Broken);
    }
}

impl Rules for v2::Status {
    fn check(&self, at: &mut Checker) {
        at.defined::<v2::status::ResourceStatus>("status", self.status);
        at.bytes("details", &self.details, 1024, Empty::Fine);
    }
}

impl Rules for v2::Resource {
    fn check(&self, at: &mut Checker) {
        at.required_message("id", self.id.as_ref());
        at.message("parent_resource_id", self.parent_resource_id.as_ref());
        at.bytes("display_name", &self.display_name, 1024, Empty::Fine);
        at.each("annotations", &self.annotations);
        at.bytes("description", &self.description, 2048, Empty::Fine);
        at.message("icon", self.icon.as_ref());
        at.message("status", self.status.as_ref());
    }
}

impl Rules for v2::Entitlement {
    fn check(&self, at: &mut Checker) {
        at.required_message("resource", self.resource.as_ref());
        at.bytes("id", &self.id, 1024, Empty::Broken);
        at.bytes("display_name", &self.display_name, 1024, Empty::Fine);
        at.bytes("description", &self.description, 2048, Empty::Fine);
        at.each("grantable_to", &self.grantable_to);
        at.each("annotations", &self.annotations);
        at.defined::<v2::entitlement::PurposeValue>("purpose", self.purpose);
    }
}

impl Rules for v2::Grant {
    fn check(&self, at: &mut Checker) {
        at.required_message("entitlement", self.entitlement.as_ref());
        at.required_message("principal", self.principal.as_ref());
        at.bytes("id", &self.id, 1024, Empty::Broken);
        at.each("annotations", &self.annotations);
    }
}

impl Rules for v2::UserTrait {
    #[expect(deprecated, reason = "what is still sent is still checked")]
    fn check(&self, at: &mut Checker) {
        for (index, email) in self.emails.iter().enumerate() {
            at.email(&format!("emails[{index}].address"), &email.address);
        }
        at.message("icon", self.icon.as_ref());
        at.defined::<v2::user_trait::AccountType>("account_type", self.account_type);
        if let Some(status) = &self.status {
            at.defined::<v2::user_trait::status::Status>("status.status", status.status);
            at.bytes("status.details", &status.details, 1024, Empty::Fine);
        }
    }
}

impl Rules for v2::GroupTrait {
    #[expect(deprecated, reason = "what is still sent is still checked")]
    fn check(&self, at: &mut Checker) {
        at.message("icon", self.icon.as_ref());
        at.bytes(
            "group_source_type",
            &self.group_source_type,
            64,
            Empty::Fine,
        );
        at.bytes(
            "raw_group_source_type",
            &self.raw_group_source_type,
            256,
            Empty::Fine,
        );
    }
}

impl Rules for v2::AppTrait {
    #[expect(deprecated, reason = "what is still sent is still checked")]
    fn check(&self, at: &mut Checker) {
        at.https("help_url", &self.help_url, 1024);
        at.message("icon", self.icon.as_ref());
        at.message("logo", self.logo.as_ref());
        at.bytes("app_source_type", &self.app_source_type, 64, Empty::Fine);
        at.bytes(
            "raw_app_source_type",
            &self.raw_app_source_type,
            256,
            Empty::Fine,
        );
    }
}

impl Rules for v2::SecretTrait {
    fn check(&self, at: &mut Checker) {
        at.message("created_by_id", self.created_by_id.as_ref());
        at.message("identity_id", self.identity_id.as_ref());
        at.defined::<v2::secret_trait::CredentialType>("credential_type", self.credential_type);
    }
}

impl Rules for v2::NonHumanIdentityTrait {
    fn check(&self, at: &mut Checker) {
        at.defined::<v2::non_human_identity_trait::NhiType>("nhi_type", self.nhi_type);
        at.bytes("nhi_detail", &self.nhi_detail, 1024, Empty::Fine);
    }
}

impl Rules for v2::ExternalLink {
    fn check(&self, at: &mut Checker) {
        at.https("url", &self.url, 1024);
    }
}

impl Rules for v2::GrantExpandable {
    fn check(&self, at: &mut Checker) {
        if self.entitlement_ids.is_empty() {
            at.report("entitlement_ids", "is empty, must have at least one item");
        }
        let mut ids: Vec<&str> = self.entitlement_ids.iter().map(String::as_str).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != self.entitlement_ids.len() {
            at.report("entitlement_ids", "must be unique");
        }
    }
}

impl Rules for v2::Aliases {
    fn check(&self, at: &mut Checker) {
        if !(1..=100).contains(&self.ids.len()) {
            at.report("ids", "must have 1 to 100 items");
        }
        for (index, id) in self.ids.iter().enumerate() {
            at.chars(&format!("ids[{index}]"), id, 256, Empty::Broken);
        }
    }
}

impl Rules for v2::GrantReplaced {
    fn check(&self, at: &mut Checker) {
        at.bytes(
            "replaced_grant_id",
            &self.replaced_grant_id,
            usize::MAX,
            Empty::Broken,
        );
    }
}

impl Rules for v2::ResourceDeleted {
    fn check(&self, at: &mut Checker) {
        at.required_message("resource_id", self.resource_id.as_ref());
    }
}

impl Rules for v2::GrantManagerServiceGrantResponse {
    fn check(&self, at: &mut Checker) {
        at.each("annotations", &self.annotations);
        at.each("grants", &self.grants);
    }
}

impl Rules for v2::CreateAccountResponse {
    fn check(&self, at: &mut Checker) {
        use v2::create_account_response::Result as Outcome;
        let resource = match &self.result {
            Some(Outcome::Success(result)) => result.resource.as_ref(),
            Some(Outcome::ActionRequired(result)) => result.resource.as_ref(),
            Some(Outcome::AlreadyExists(result)) => result.resource.as_ref(),
            Some(Outcome::InProgress(result)) => result.resource.as_ref(),
            None => {
                at.report("result", "is required");
                None
            }
        };
        at.message("resource", resource);
        at.each("annotations", &self.annotations);
    }
}

impl Rules for v2::CreateResourceResponse {
    fn check(&self, at: &mut Checker) {
        at.message("created", self.created.as_ref());
        at.each("annotations", &self.annotations);
    }
}

impl Rules for v2::RotateCredentialResponse {
    fn check(&self, at: &mut Checker) {
        at.message("resource_id", self.resource_id.as_ref());
        at.each("annotations", &self.annotations);
    }
}

impl Rules for v2::IssueCredentialResponse {
    fn check(&self, at: &mut Checker) {
        at.message("secret", self.secret.as_ref());
        at.each("annotations", &self.annotations);
    }
}

impl Rules for v2::ListEventsResponse {
    fn check(&self, at: &mut Checker) {
        at.bytes("cursor", &self.cursor, 4096, Empty::Fine);
        at.each("annotations", &self.annotations);
    }
}

impl Rules for v2::ListEventFeedsResponse {
    fn check(&self, at: &mut Checker) {
        for (index, feed) in self.list.iter().enumerate() {
            at.bytes(&format!("list[{index}].id"), &feed.id, 1024, Empty::Broken);
            for kind in &feed.supported_event_types {
                at.defined::<v2::EventType>(&format!("list[{index}].supported_event_types"), *kind);
            }
        }
        at.each("annotations", &self.annotations);
    }
}

impl Rules for v2::TicketsServiceListTicketSchemasResponse {
    fn check(&self, at: &mut Checker) {
        at.bytes("next_page_token", &self.next_page_token, 4096, Empty::Fine);
        at.each("annotations", &self.annotations);
    }
}

/// Responses whose annotations alone have rules.
macro_rules! annotated {
    ($($type:ty),+ $(,)?) => {
        $(impl Rules for $type {
            fn check(&self, at: &mut Checker) {
                at.each("annotations", &self.annotations);
            }
        })+
    };
}

annotated!(
    v2::GrantManagerServiceRevokeResponse,
    v2::DeleteResourceResponse,
    v2::TicketsServiceCreateTicketResponse,
    v2::TicketsServiceGetTicketResponse,
    v2::ListActionSchemasResponse,
    v2::GetActionSchemaResponse,
    v2::InvokeActionResponse,
    v2::GetActionStatusResponse,
);

impl Rules for v2::TicketsServiceBulkCreateTicketsResponse {
    fn check(&self, at: &mut Checker) {
        at.each("tickets", &self.tickets);
    }
}

impl Rules for v2::TicketsServiceBulkGetTicketsResponse {
    fn check(&self, at: &mut Checker) {
        at.each("tickets", &self.tickets);
    }
}
