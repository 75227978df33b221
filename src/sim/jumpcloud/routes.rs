//! The table of what the simulator serves: which path is which endpoint, which permission it needs, and whether it writes.

use http::Method;

/// A set of endpoints that a key may be denied.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Collection {
    Users,
    Groups,
    Applications,
    Administrators,
    Roles,
    Directories,
    Organizations,
    Insights,
}

impl Collection {
    pub(super) const ALL: [(Self, &'static str); 8] = [
        (Self::Users, "users"),
        (Self::Groups, "groups"),
        (Self::Applications, "applications"),
        (Self::Administrators, "administrators"),
        (Self::Roles, "roles"),
        (Self::Directories, "directories"),
        (Self::Organizations, "organizations"),
        (Self::Insights, "insights"),
    ];
}

/// The name is none of the collections.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no collection; there are users, groups, applications, administrators, roles, directories, organizations \
     and insights"
)]
pub struct CollectionError(String);

impl std::str::FromStr for Collection {
    type Err = CollectionError;

    fn from_str(text: &str) -> Result<Self, CollectionError> {
        Self::ALL
            .into_iter()
            .find_map(|(collection, name)| (name == text).then_some(collection))
            .ok_or_else(|| CollectionError(text.to_owned()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    UserList,
    UserGet,
    AdminSelf,
    AdminList,
    AdminGet,
    GroupList,
    GroupGet,
    GroupMembers,
    GroupMembership,
    GroupAssociations,
    RoleList,
    RoleGet,
    AppList,
    AppGet,
    AppAssociations,
    AppUsers,
    AppGroups,
    UserMemberOf,
    UserAssociations,
    UserApps,
    UserSearch,
    UserCreate,
    UserUpdate,
    UserDelete,
    UserActivate,
    UserUnlock,
    UserExpire,
    UserResetMfa,
    SshKeyList,
    SshKeyAdd,
    SshKeyRemove,
    ScheduleList,
    ScheduleCreate,
    ScheduleCancel,
    GroupCreate,
    GroupReplace,
    GroupDelete,
    GroupMemberChange,
    GroupAssociate,
    AppAssociate,
    UserAssociate,
    AdminCreate,
    AdminUpdate,
    AdminDelete,
    DirectoryList,
    OrganizationList,
    OrganizationGet,
    Token,
    InsightsCount,
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Route {
    pub endpoint: Endpoint,
    pub method: Method,
    pub template: &'static str,
    /// `None` for the token endpoint, which has its own credentials.
    pub collection: Option<Collection>,
}

macro_rules! routes {
    ($($endpoint:ident $method:ident $template:literal $collection:expr;)+) => {
        pub(super) static ROUTES: &[Route] = &[$(Route {
            endpoint: Endpoint::$endpoint,
            method: Method::$method,
            template: $template,
            collection: $collection,
        }),+];
    };
}

routes! {
    UserList GET "/api/systemusers" Some(Collection::Users);
    UserGet GET "/api/systemusers/{id}" Some(Collection::Users);
    AdminSelf GET "/api/users/getSelf" Some(Collection::Administrators);
    AdminList GET "/api/users" Some(Collection::Administrators);
    AdminGet GET "/api/users/{id}" Some(Collection::Administrators);
    GroupList GET "/api/v2/usergroups" Some(Collection::Groups);
    GroupGet GET "/api/v2/usergroups/{id}" Some(Collection::Groups);
    GroupMembers GET "/api/v2/usergroups/{id}/members" Some(Collection::Groups);
    GroupMembership GET "/api/v2/usergroups/{id}/membership" Some(Collection::Groups);
    GroupAssociations GET "/api/v2/usergroups/{id}/associations" Some(Collection::Groups);
    RoleList GET "/api/v2/roles" Some(Collection::Roles);
    RoleGet GET "/api/v2/roles/{id}" Some(Collection::Roles);
    AppList GET "/api/applications" Some(Collection::Applications);
    AppGet GET "/api/applications/{id}" Some(Collection::Applications);
    AppAssociations GET "/api/v2/applications/{id}/associations" Some(Collection::Applications);
    AppUsers GET "/api/v2/applications/{id}/users" Some(Collection::Applications);
    AppGroups GET "/api/v2/applications/{id}/usergroups" Some(Collection::Applications);
    UserMemberOf GET "/api/v2/users/{id}/memberof" Some(Collection::Users);
    UserAssociations GET "/api/v2/users/{id}/associations" Some(Collection::Users);
    UserApps GET "/api/v2/users/{id}/applications" Some(Collection::Users);
    UserSearch POST "/api/search/systemusers" Some(Collection::Users);
    UserCreate POST "/api/systemusers" Some(Collection::Users);
    UserUpdate PUT "/api/systemusers/{id}" Some(Collection::Users);
    UserDelete DELETE "/api/systemusers/{id}" Some(Collection::Users);
    UserActivate POST "/api/systemusers/{id}/state/activate" Some(Collection::Users);
    UserUnlock POST "/api/systemusers/{id}/unlock" Some(Collection::Users);
    UserExpire POST "/api/systemusers/{id}/expire" Some(Collection::Users);
    UserResetMfa POST "/api/systemusers/{id}/resetmfa" Some(Collection::Users);
    SshKeyList GET "/api/systemusers/{id}/sshkeys" Some(Collection::Users);
    SshKeyAdd POST "/api/systemusers/{id}/sshkeys" Some(Collection::Users);
    SshKeyRemove DELETE "/api/systemusers/{id}/sshkeys/{key}" Some(Collection::Users);
    ScheduleList GET "/api/v2/bulk/userstates" Some(Collection::Users);
    ScheduleCreate POST "/api/v2/bulk/userstates" Some(Collection::Users);
    ScheduleCancel DELETE "/api/v2/bulk/userstates/{id}" Some(Collection::Users);
    GroupCreate POST "/api/v2/usergroups" Some(Collection::Groups);
    GroupReplace PUT "/api/v2/usergroups/{id}" Some(Collection::Groups);
    GroupDelete DELETE "/api/v2/usergroups/{id}" Some(Collection::Groups);
    GroupMemberChange POST "/api/v2/usergroups/{id}/members" Some(Collection::Groups);
    GroupAssociate POST "/api/v2/usergroups/{id}/associations" Some(Collection::Groups);
    AppAssociate POST "/api/v2/applications/{id}/associations" Some(Collection::Applications);
    UserAssociate POST "/api/v2/users/{id}/associations" Some(Collection::Users);
    AdminCreate POST "/api/users" Some(Collection::Administrators);
    AdminUpdate PUT "/api/users/{id}" Some(Collection::Administrators);
    AdminDelete DELETE "/api/users/{id}" Some(Collection::Administrators);
    DirectoryList GET "/api/v2/directories" Some(Collection::Directories);
    OrganizationList GET "/api/organizations" Some(Collection::Organizations);
    OrganizationGet GET "/api/organizations/{id}" Some(Collection::Organizations);
    Token POST "/oauth2/token" None;
    InsightsCount POST "/insights/directory/v1/events/count" Some(Collection::Insights);
}

impl Endpoint {
    /// Whether errors have the shape of the second generation.
    pub(super) fn is_v2(self) -> bool {
        ROUTES
            .iter()
            .any(|route| route.endpoint == self && route.template.starts_with("/api/v2/"))
    }
}

impl Route {
    /// Whether it changes the directory; a search and a count only look like it.
    pub(super) fn writes(&self) -> bool {
        self.method != Method::GET
            && !matches!(
                self.endpoint,
                Endpoint::UserSearch | Endpoint::Token | Endpoint::InsightsCount
            )
    }

    /// Method and template, as logs and counters name the endpoint.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method, self.template)
    }
}

/// The texts in a path that stand where its template has `{id}` and `{key}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ids<'a> {
    pub id: Option<&'a str>,
    pub key: Option<&'a str>,
}

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// An endpoint, and the ids in the path.
    Route(&'static Route, Ids<'a>),
    /// The path is served, but not with this method.
    OtherMethod,
    Nothing,
}

/// Finds the endpoint of a path.
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let mut found = Found::Nothing;
    for route in ROUTES {
        // The token endpoint stands on a host of its own in reality, so any path before it is accepted.
        let matched = if route.endpoint == Endpoint::Token {
            path.ends_with(route.template).then(Ids::default)
        } else {
            match_template(route.template, path)
        };
        if let Some(ids) = matched {
            if route.method == *method {
                return Found::Route(route, ids);
            }
            found = Found::OtherMethod;
        }
    }
    found
}

fn match_template<'a>(template: &str, path: &'a str) -> Option<Ids<'a>> {
    let mut ids = Ids::default();
    let mut want = template.split('/');
    let mut have = path.split('/');
    loop {
        match (want.next(), have.next()) {
            (None, None) => return Some(ids),
            (Some("{id}"), Some(value)) if !value.is_empty() => ids.id = Some(value),
            (Some("{key}"), Some(value)) if !value.is_empty() => ids.key = Some(value),
            (Some(a), Some(b)) if a == b => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(method: &Method, path: &str) -> Option<(Endpoint, Option<String>)> {
        match find(method, path) {
            Found::Route(route, ids) => Some((route.endpoint, ids.id.map(str::to_owned))),
            Found::OtherMethod | Found::Nothing => None,
        }
    }

    #[test]
    fn paths_lead_to_their_endpoints() {
        let id = |text: &str| Some(text.to_owned());
        for (path, want) in [
            ("/api/systemusers", Some((Endpoint::UserList, None))),
            (
                "/api/systemusers/64ab",
                Some((Endpoint::UserGet, id("64ab"))),
            ),
            ("/api/users/getSelf", Some((Endpoint::AdminSelf, None))),
            ("/api/users/64ad", Some((Endpoint::AdminGet, id("64ad")))),
            (
                "/api/v2/usergroups/1/members",
                Some((Endpoint::GroupMembers, id("1"))),
            ),
            ("/api/v2/usergroups//members", None),
            ("/api/systemusers/", None),
            ("/api/v2/nothing", None),
        ] {
            assert_eq!(endpoint(&Method::GET, path), want, "{path}");
        }
    }

    #[test]
    fn a_path_may_hold_two_ids() {
        let Found::Route(route, ids) = find(&Method::DELETE, "/api/systemusers/1/sshkeys/2") else {
            panic!("not found");
        };
        assert_eq!(route.endpoint, Endpoint::SshKeyRemove);
        assert_eq!((ids.id, ids.key), (Some("1"), Some("2")));
    }

    #[test]
    fn searching_and_counting_are_no_writes() {
        let writes = |method: &str| {
            let of = ROUTES
                .iter()
                .filter(|route| route.method.as_str() == method);
            of.filter(|route| route.writes()).count()
        };
        assert_eq!((writes("GET"), writes("PUT"), writes("DELETE")), (0, 3, 5));
        assert_eq!(writes("POST"), 13);
    }

    #[test]
    fn the_token_endpoint_may_have_any_base() {
        assert_eq!(
            endpoint(&Method::POST, "/eu/oauth2/token"),
            Some((Endpoint::Token, None))
        );
    }

    #[test]
    fn a_known_path_with_another_method_is_told_apart() {
        assert!(matches!(
            find(&Method::PATCH, "/api/systemusers"),
            Found::OtherMethod
        ));
        assert!(matches!(find(&Method::PUT, "/api/nothing"), Found::Nothing));
    }
}
