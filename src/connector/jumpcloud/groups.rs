//! User groups and their members.
//!
//! A group whose members are decided by a rule gives grants that nobody can take away by hand; the grant says so, with
//! the rule. That is read back from the profile of the group, so listing members needs no memory of listing groups.

use std::sync::Arc;

use super::{
    JumpCloud,
    client::{Convention, List},
    ids::{GROUP, USER, entitlement_id, grant, resource_id},
    listing::{End, Listing, Row, edge_page, parse_position, place},
    profile::{Profile, clip, description, display_name, filled, phrase, text_of},
    session::{Session, Warning},
    survey::Read,
    wire,
};
use crate::{
    connector::{Error, Page},
    proto::{
        Any, Struct,
        connector::{self as v2, entitlement::PurposeValue},
        pack, string_value,
    },
};

const FIELDS: &str =
    "name,type,description,email,attributes,membershipMethod,memberQuery,memberQueryErrorFlags";

/// The file of the list in the folder of a sync.
pub(super) const LIST: &str = "groups.list";

/// How much of a rule goes into each grant.
const MAX_RULE_IN_GRANT: usize = 512;

impl JumpCloud {
    /// One page of groups.
    pub(super) async fn list_groups(
        &self,
        session: &Session,
        token: Option<&str>,
    ) -> Result<Page<v2::Resource>, Error> {
        self.groups(session).await?.page(GROUP, token).await
    }

    /// The groups, read by the first call of a sync.
    pub(super) async fn groups(&self, session: &Session) -> Result<Arc<Listing>, Error> {
        let read = || async {
            let list = List {
                template: "/api/v2/usergroups",
                ids: Vec::new(),
                query: vec![("sort", "name".to_owned()), ("fields", FIELDS.to_owned())],
                convention: Convention::Array,
            };
            let place = place(session, &self.settings.work_dir, LIST);
            Listing::read::<wire::UserGroup>(&self.client, session, place, list, None)
                .await
                .map(Arc::new)
        };
        session.groups.get_or_try_init(read).await.cloned()
    }

    /// One group by id.
    pub(super) async fn get_group(&self, id: &str) -> Result<v2::Resource, Error> {
        let row = self.find_group(id).await?.ok_or_else(|| Error::NotFound {
            what: format!("group {}", clip(id, 64)),
        })?;
        Ok(resource(&row, row.id().unwrap_or(id)))
    }

    /// JumpCloud's record of a group; `None` when there is no such group.
    pub(super) async fn find_group(&self, id: &str) -> Result<Option<wire::UserGroup>, Error> {
        let ids = [id];
        let look = || self.client.get("/api/v2/usergroups/{id}", &ids, &[]);
        self.find(&[Read::Groups], look).await
    }

    /// One page of the members of a group.
    pub(super) async fn list_members(
        &self,
        session: &Session,
        group: &v2::Resource,
        id: &str,
        token: Option<&str>,
    ) -> Result<Page<v2::Grant>, Error> {
        let position = parse_position(GROUP, token)?;
        self.recall(session).await?;
        let annotations = match text_of(group.profile.as_ref(), METHOD) {
            Some(_) => how_members_come(group.profile.as_ref()),
            // Told by id alone: whether the grants can be taken away is worth a call.
            None => how_members_come(self.get_group(id).await?.profile.as_ref()),
        };
        let list = List {
            template: "/api/v2/usergroups/{id}/members",
            ids: vec![id.to_owned()],
            query: Vec::new(),
            convention: Convention::Array,
        };
        let page = edge_page(
            &self.client,
            session,
            &self.settings.work_dir,
            list,
            position,
        )
        .await?;
        let mut items = Vec::with_capacity(page.edges.len());
        for (end, key) in &page.edges {
            let member = key.to_string();
            if session.dangles(*end, key) {
                session.warn(
                    match end {
                        End::User => Warning::DanglingMember,
                        End::Group => Warning::DanglingGroup,
                    },
                    &member,
                );
                continue;
            }
            let mut annotations = annotations.clone();
            let kind = match end {
                End::User => USER,
                End::Group => {
                    annotations.push(expandable(&member));
                    GROUP
                }
            };
            items.push(grant(GROUP, id, kind, &member, annotations));
        }
        Ok(Page {
            items,
            next: page.next.map(|position| position.to_string()),
            annotations: Vec::new(),
        })
    }
}

/// Says that the members of a group hold what the group holds.
pub(super) fn expandable(group: &str) -> Any {
    pack(&v2::GrantExpandable {
        entitlement_ids: vec![entitlement_id(GROUP, group)],
        shallow: false,
        resource_type_ids: vec![USER.to_owned()],
    })
}

/// The entitlement of a group.
pub(super) fn entitlement(group: &v2::Resource, id: &str) -> v2::Entitlement {
    let name = group.display_name.as_str();
    v2::Entitlement {
        id: entitlement_id(GROUP, id),
        resource: Some(group.clone()),
        display_name: phrase("", name, " Group Member"),
        description: phrase("Member of ", name, " group"),
        grantable_to: vec![super::capabilities::user_type()],
        purpose: PurposeValue::Assignment.into(),
        slug: "member".to_owned(),
        annotations: Vec::new(),
    }
}

/// Profile key of how a group gets its members.
pub(super) const METHOD: &str = "membership_method";
/// Profile key of the rule of a dynamic group.
pub(super) const RULE: &str = "membership_rule";
/// The value of [`METHOD`] where the rule alone decides.
pub(super) const AUTOMATED: &str = "DYNAMIC_AUTOMATED";
const REVIEWED: &str = "DYNAMIC_REVIEW_REQUIRED";

/// Annotations of every grant of a group with this profile.
pub(super) fn how_members_come(profile: Option<&Struct>) -> Vec<Any> {
    let method = text_of(profile, METHOD).unwrap_or_default();
    let reason = match method {
        AUTOMATED => {
            "A rule in JumpCloud decides who is a member of this group; change the rule or the user's attributes."
        }
        REVIEWED => {
            "A rule in JumpCloud proposes who is a member of this group, and an administrator applies it."
        }
        _ => return Vec::new(),
    };
    let mut metadata = Struct::default();
    let mut put = |key: &str, text: &str| {
        metadata.fields.insert(key.to_owned(), string_value(text));
    };
    put("reason", reason);
    put(METHOD, method);
    if let Some(rule) = text_of(profile, RULE) {
        put(RULE, &clip(rule, MAX_RULE_IN_GRANT));
    }
    vec![if method == AUTOMATED {
        pack(&v2::GrantImmutable {
            source_id: String::new(),
            metadata: Some(metadata),
        })
    } else {
        // Such a member can be taken out by hand, and stays out until somebody applies the proposal again.
        pack(&v2::GrantMetadata {
            metadata: Some(metadata),
        })
    }]
}

impl Row for wire::UserGroup {
    fn usable_id(&self) -> Option<&str> {
        self.id()
    }

    fn to_resource(&self, id: &str) -> v2::Resource {
        resource(self, id)
    }
}

pub(super) fn resource(row: &wire::UserGroup, id: &str) -> v2::Resource {
    let method = filled(row.membership_method.as_deref()).map_or_else(
        || "NOTSET".to_owned(),
        |method| method.trim().to_uppercase(),
    );
    let rule = row.member_query.as_ref().map(ToString::to_string);
    let dynamic = method.starts_with("DYNAMIC");

    let mut profile = Profile::default();
    // Present even when empty, as the official connector has it.
    profile.value(
        "email",
        string_value(clip(row.email.as_deref().unwrap_or_default(), 1024)),
    );
    profile
        .text("id", Some(id))
        .text("type", Some("user_group"))
        .text(METHOD, Some(&method));
    if dynamic {
        profile.text(RULE, rule.as_deref()).list(
            "membership_rule_errors",
            wire::texts(&row.member_query_error_flags),
        );
    }
    if let Some(attributes) = &row.attributes {
        attribute_summary(&mut profile, attributes);
    }
    let profile = profile.into_struct();
    #[expect(deprecated, reason = "older readers of the file look here")]
    let trait_ = v2::GroupTrait {
        icon: None,
        profile: Some(profile.clone()),
        group_source_type: if dynamic { "dynamic" } else { "native" }.to_owned(),
        raw_group_source_type: clip(&method, 256),
    };
    v2::Resource {
        id: Some(resource_id(GROUP, id)),
        display_name: display_name([row.name.as_deref()], id),
        description: description(row.description.as_deref()),
        annotations: vec![pack(&trait_)],
        profile: Some(profile),
        ..v2::Resource::default()
    }
}

fn attribute_summary(profile: &mut Profile, attributes: &wire::GroupAttributes) {
    fn names(items: &[wire::Named]) -> impl Iterator<Item = &str> {
        items.iter().filter_map(|item| filled(item.name.as_deref()))
    }
    if let Some(sudo) = &attributes.sudo {
        profile
            .flag("device_sudo", sudo.enabled)
            .flag("device_sudo_without_password", sudo.without_password);
    }
    profile
        .list("ldap_groups", names(&attributes.ldap_groups))
        .list("posix_groups", names(&attributes.posix_groups))
        .flag("samba_enabled", attributes.samba_enabled);
    if let Some(radius) = &attributes.radius {
        profile.list("radius_reply_attributes", names(&radius.reply));
    }
}
