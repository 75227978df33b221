//! Applications, who may use them, and the synthetic application that stands for JumpCloud's own administration.
//!
//! Access through a group stays access of the group, to be expanded by the engine: two calls an application, and what
//! is direct stays apart from what is inherited. The set-up of an application holds a private key; it is neither asked
//! for nor decoded.

use std::sync::Arc;

use url::Url;

use super::{
    JumpCloud,
    client::{Convention, List},
    groups::expandable,
    ids::{ADMINISTRATION_APP, APP, GROUP, USER, entitlement_id, grant, resource_id},
    listing::{End, Listing, Row, edge_page, place},
    profile::{Profile, clip, description, display_name, filled, phrase, timestamp},
    session::{Session, Warning},
    survey::Read,
    wire,
};
use crate::{
    connector::{Error, Page, SyncScope},
    proto::{
        connector::{
            self as v2, app_trait::AppFlag, entitlement::PurposeValue,
            non_human_identity_trait::NhiType,
        },
        pack,
    },
};

const FIELDS: &str = "_id name displayName displayLabel description active beta logo learnMore organization created \
    ssoUrl sso";

/// Which bindings of an application a page of grants holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Groups,
    Users,
}

impl Phase {
    const fn target(self) -> &'static str {
        match self {
            Self::Groups => "user_group",
            Self::Users => "user",
        }
    }

    const fn end(self) -> End {
        match self {
            Self::Groups => End::Group,
            Self::Users => End::User,
        }
    }

    const fn principal_type(self) -> &'static str {
        match self {
            Self::Groups => GROUP,
            Self::Users => USER,
        }
    }
}

fn parse_token(token: Option<&str>) -> Result<Option<(Phase, usize)>, Error> {
    let Some(token) = token else {
        return Ok(None);
    };
    let parsed = token.split_once(':').and_then(|(phase, position)| {
        let position = position.parse().ok()?;
        match phase {
            "groups" => Some((Phase::Groups, position)),
            "users" => Some((Phase::Users, position)),
            _ => None,
        }
    });
    parsed
        .map(Some)
        .ok_or_else(|| super::unknown_token(APP, token))
}

fn token(phase: Phase, position: usize) -> String {
    match phase {
        Phase::Groups => format!("groups:{position}"),
        Phase::Users => format!("users:{position}"),
    }
}

impl JumpCloud {
    /// One page of applications; the first begins with the synthetic one.
    pub(super) async fn list_apps(
        &self,
        session: &Session,
        token: Option<&str>,
    ) -> Result<Page<v2::Resource>, Error> {
        let read = || async {
            let list = List {
                template: "/api/applications",
                ids: Vec::new(),
                query: vec![("sort", "_id".to_owned()), ("fields", FIELDS.to_owned())],
                convention: Convention::Wrapped,
            };
            let place = place(session, &self.settings.work_dir, "applications.list");
            let first = Some(administration());
            Listing::read::<wire::Application>(&self.client, session, place, list, first)
                .await
                .map(Arc::new)
        };
        let apps = session.apps.get_or_try_init(read).await?;
        apps.page(APP, token).await
    }

    /// One application by id.
    pub(super) async fn get_app(&self, id: &str) -> Result<v2::Resource, Error> {
        if id == ADMINISTRATION_APP {
            return Ok(administration());
        }
        // Unlike the list, this endpoint is not described to take `fields`; what the answer has besides is dropped.
        let ids = [id];
        let look = || self.client.get("/api/applications/{id}", &ids, &[]);
        let row: wire::Application =
            self.find(&[Read::Applications], look)
                .await?
                .ok_or_else(|| Error::NotFound {
                    what: format!("application {}", clip(id, 64)),
                })?;
        Ok(resource(&row, row.id().unwrap_or(id)))
    }

    /// One page of the groups, then of the users bound to an application.
    pub(super) async fn list_assignees(
        &self,
        scope: &SyncScope,
        session: &Session,
        id: &str,
        page_token: Option<&str>,
    ) -> Result<Page<v2::Grant>, Error> {
        if id == ADMINISTRATION_APP {
            return self.list_administrators_as_assignees(session).await;
        }
        let wanted = |phase: Phase| super::reads(scope, phase.principal_type());
        let (phase, position) = match parse_token(page_token)? {
            Some(position) => position,
            None if wanted(Phase::Groups) => (Phase::Groups, 0),
            None if wanted(Phase::Users) => (Phase::Users, 0),
            None => return Ok(Page::default()),
        };
        let list = List {
            template: "/api/v2/applications/{id}/associations",
            ids: vec![id.to_owned()],
            query: vec![("targets", phase.target().to_owned())],
            convention: Convention::Array,
        };
        self.recall(session).await?;
        let work_dir = &self.settings.work_dir;
        let page = edge_page(&self.client, session, work_dir, list, position).await?;
        let mut items = Vec::with_capacity(page.edges.len());
        for (end, key) in &page.edges {
            let principal = key.to_string();
            if *end != phase.end() {
                session.warn(Warning::StrangeEdge, phase.target());
                continue;
            }
            if session.dangles(*end, key) {
                session.warn(
                    match end {
                        End::User => Warning::DanglingAssignee,
                        End::Group => Warning::DanglingGroup,
                    },
                    &principal,
                );
                continue;
            }
            let annotations = match end {
                End::User => Vec::new(),
                End::Group => vec![expandable(&principal)],
            };
            items.push(grant(
                APP,
                id,
                phase.principal_type(),
                &principal,
                annotations,
            ));
        }
        let next = match (page.next, phase) {
            (Some(position), phase) => Some(token(phase, position)),
            (None, Phase::Groups) if wanted(Phase::Users) => Some(token(Phase::Users, 0)),
            (None, _) => None,
        };
        Ok(Page {
            items,
            next,
            annotations: Vec::new(),
        })
    }

    async fn list_administrators_as_assignees(
        &self,
        session: &Session,
    ) -> Result<Page<v2::Grant>, Error> {
        self.grants_of_administrators(session, APP, ADMINISTRATION_APP, |_| true)
            .await
    }
}

/// The entitlement of an application.
pub(super) fn entitlement(app: &v2::Resource, id: &str) -> v2::Entitlement {
    let name = app.display_name.as_str();
    v2::Entitlement {
        id: entitlement_id(APP, id),
        resource: Some(app.clone()),
        display_name: phrase("", name, " app access"),
        description: phrase("Assigned to ", name, " app"),
        grantable_to: if id == ADMINISTRATION_APP {
            vec![super::capabilities::user_type()]
        } else {
            vec![
                super::capabilities::user_type(),
                super::capabilities::group_type(),
            ]
        },
        purpose: PurposeValue::Assignment.into(),
        slug: "access".to_owned(),
        annotations: Vec::new(),
    }
}

fn administration() -> v2::Resource {
    let mut profile = Profile::default();
    profile
        .text("id", Some(ADMINISTRATION_APP))
        .flag("synthetic", Some(true));
    let profile = profile.into_struct();
    #[expect(deprecated, reason = "older readers of the file look here")]
    let trait_ = v2::AppTrait {
        profile: Some(profile.clone()),
        app_source_type: "native".to_owned(),
        ..v2::AppTrait::default()
    };
    v2::Resource {
        id: Some(resource_id(APP, ADMINISTRATION_APP)),
        display_name: "JumpCloud Administration".to_owned(),
        description: "Access to the administration of this JumpCloud organisation".to_owned(),
        annotations: vec![pack(&trait_)],
        profile: Some(profile),
        ..v2::Resource::default()
    }
}

impl Row for wire::Application {
    fn usable_id(&self) -> Option<&str> {
        self.id()
    }

    fn to_resource(&self, id: &str) -> v2::Resource {
        resource(self, id)
    }
}

fn resource(row: &wire::Application, id: &str) -> v2::Resource {
    let sso = row.sso.as_ref();
    let kind = sso
        .and_then(|sso| filled(sso.kind.as_deref()))
        .map(str::trim);
    let mut profile = Profile::default();
    profile
        .text("id", Some(id))
        .text("name", row.name.as_deref())
        .text("template", row.display_name.as_deref())
        .text("organization", row.organization.as_deref())
        .flag("active", row.active)
        .flag("beta", row.beta)
        .text("sso_type", kind)
        .text("sso_url", row.sso_url.as_deref())
        .text(
            "certificate_expires_at",
            sso.and_then(|sso| sso.idp_cert_expiration_at.as_deref()),
        );
    let profile = profile.into_struct();

    let protocol = kind.and_then(protocol);
    let mut flags: Vec<i32> = Vec::new();
    if sso.and_then(|sso| sso.hidden) == Some(true) {
        flags.push(AppFlag::Hidden.into());
    }
    if row.active == Some(false) {
        flags.push(AppFlag::Inactive.into());
    }
    flags.extend(protocol.map(|(flag, _)| i32::from(flag)));
    #[expect(deprecated, reason = "older readers of the file look here")]
    let trait_ = v2::AppTrait {
        help_url: https_address(row.learn_more.as_deref()),
        icon: None,
        logo: row
            .logo
            .as_ref()
            .and_then(|logo| filled(logo.url.as_deref()))
            .filter(|url| url.len() <= 1024 && !url.chars().any(char::is_control))
            .map(|url| v2::AssetRef { id: url.to_owned() }),
        profile: Some(profile.clone()),
        flags,
        app_source_type: protocol.map_or("native", |(_, name)| name).to_owned(),
        raw_app_source_type: clip(kind.unwrap_or_default(), 256),
    };
    let identity = v2::NonHumanIdentityTrait {
        nhi_type: NhiType::AppRegistration.into(),
        nhi_detail: "jumpcloud.application".to_owned(),
    };
    v2::Resource {
        id: Some(resource_id(APP, id)),
        display_name: display_name(
            [
                row.display_label.as_deref(),
                row.display_name.as_deref(),
                row.name.as_deref(),
            ],
            id,
        ),
        description: description(row.description.as_deref()),
        annotations: vec![pack(&trait_), pack(&identity)],
        profile: Some(profile),
        created_at: timestamp(row.created.as_deref()),
        ..v2::Resource::default()
    }
}

/// The sign-on protocol behind the words that JumpCloud uses for it.
fn protocol(kind: &str) -> Option<(AppFlag, &'static str)> {
    let kind = kind.to_lowercase();
    if kind.starts_with("saml") {
        Some((AppFlag::Saml, "saml"))
    } else if kind.starts_with("oidc") || kind.starts_with("openid") {
        Some((AppFlag::Oidc, "oidc"))
    } else if kind.starts_with("bookmark") {
        Some((AppFlag::Bookmark, "bookmark"))
    } else {
        None
    }
}

/// The address as written, when ConductorOne takes it as a help address; else empty.
fn https_address(text: Option<&str>) -> String {
    filled(text)
        .map(str::trim)
        .filter(|text| text.len() <= 1024 && text.starts_with("https://"))
        .filter(|text| {
            text.is_ascii() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
        })
        .filter(|text| Url::parse(text).is_ok_and(|url| url.has_host()))
        .unwrap_or_default()
        .to_owned()
}
