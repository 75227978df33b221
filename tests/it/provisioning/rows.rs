//! What ConductorOne can ask for, one row a wish.

use baton_jumpcloud::{
    error::Code,
    proto::{self, Any, connector as v2},
    sim::{
        conductorone::{KeyKind, tasks},
        jumpcloud::{Id, MembershipMethod, NewUser, Status, Tenant},
    },
};
use serde_json::{Value as Json, json};

use super::{
    Want, World,
    variants::{Change, Expect, Row},
};

const LOGIN: &str = "nova.hire";
const EMAIL: &str = "Nova.Hire@example.com";
const CREW: &str = "Quality Crew";
const LATER: &str = "2031-05-06T07:08:09.000Z";
const HELP_DESK: &str = "Help Desk";
pub const HELP_DESK_ID: &str = "role_help_desk";

const MEMBERS: &str = "POST /api/v2/usergroups/{id}/members";
const ACCESS: &str = "POST /api/v2/applications/{id}/associations";
const USER: &str = "PUT /api/systemusers/{id}";

/// A grant in the form in which this connector has always listed it.
pub fn grant(on: (&str, &str), whom: (&str, &str), annotations: Vec<Any>) -> v2::Grant {
    let bare = |kind: &str, id: &str| v2::Resource {
        id: Some(tasks::resource_id(kind, id)),
        ..Default::default()
    };
    v2::Grant {
        id: format!("{}-grant:{}:{}:{}:{}", on.0, on.1, whom.0, whom.1, on.1),
        entitlement: Some(v2::Entitlement {
            id: format!("{}:{}", on.0, on.1),
            resource: Some(bare(on.0, on.1)),
            ..Default::default()
        }),
        principal: Some(bare(whom.0, whom.1)),
        annotations,
        ..Default::default()
    }
}

pub fn granted(on: (&str, &str), whom: (&str, &str), exists: bool) -> Want {
    granted_with(on, whom, exists, Vec::new())
}

fn granted_with(on: (&str, &str), whom: (&str, &str), exists: bool, of_grant: Vec<Any>) -> Want {
    let annotations: Vec<Any> = exists
        .then(|| proto::pack(&v2::GrantAlreadyExists {}))
        .into_iter()
        .collect();
    let response = v2::GrantManagerServiceGrantResponse {
        annotations: annotations.clone(),
        grants: vec![grant(on, whom, of_grant)],
    };
    Want::Success(proto::pack(&response), annotations)
}

pub fn revoked(was_gone: bool) -> Want {
    let annotations: Vec<Any> = was_gone
        .then(|| proto::pack(&v2::GrantAlreadyRevoked {}))
        .into_iter()
        .collect();
    let response = v2::GrantManagerServiceRevokeResponse {
        annotations: annotations.clone(),
    };
    Want::Success(proto::pack(&response), annotations)
}

fn deleted(was_gone: bool) -> Want {
    let annotations: Vec<Any> = was_gone
        .then(|| proto::pack(&v2::ResourceDoesNotExist {}))
        .into_iter()
        .collect();
    let response = v2::DeleteResourceResponse {
        annotations: annotations.clone(),
    };
    Want::Success(proto::pack(&response), annotations)
}

fn acted(name: &str, response: Json) -> Want {
    Want::Success(
        proto::pack(&v2::InvokeActionResponse {
            id: String::new(),
            status: v2::BatonActionStatus::Complete.into(),
            annotations: Vec::new(),
            response: Some(tasks::structure(&response)),
            name: name.to_owned(),
        }),
        Vec::new(),
    )
}

fn not_found(word: &str, id: Id) -> Want {
    Want::failed(Code::NotFound, [&word, &id])
}

fn remove_user(world: &World, id: Id) {
    world
        .directory()
        .edit(|tenant| tenant.remove_user(id))
        .unwrap()
        .unwrap();
}

fn remove_group(world: &World, id: Id) {
    world
        .directory()
        .edit(|tenant| tenant.remove_group(id))
        .unwrap()
        .unwrap();
}

fn set(world: &World, id: Id, field: &str, value: Json) {
    world
        .directory()
        .edit(|tenant| tenant.set_field(id, field, Some(value)))
        .unwrap()
        .unwrap();
}

fn set_status(world: &World, id: Id, status: Status) {
    world
        .directory()
        .edit(|tenant| tenant.set_status(id, status))
        .unwrap()
        .unwrap();
}

fn user(world: &World) -> Json {
    world
        .directory()
        .user(world.cast.outsider)
        .unwrap_or_default()
}

/// Whose password a row is about.
pub fn subject(world: &World) -> Id {
    hire(world).map_or(world.cast.outsider, |user| {
        user["_id"].as_str().unwrap().parse().unwrap()
    })
}

fn hire(world: &World) -> Option<Json> {
    world.directory().user_by_username(LOGIN)
}

/// The account that the rows ask for.
pub fn account(profile: &Json) -> v2::AccountInfo {
    v2::AccountInfo {
        emails: vec![v2::account_info::Email {
            address: EMAIL.to_owned(),
            is_primary: true,
        }],
        login: LOGIN.to_owned(),
        login_aliases: Vec::new(),
        profile: Some(tasks::structure(profile)),
    }
}

fn create(
    world: &World,
    credential: Option<v2::CredentialOptions>,
    profile: &Json,
) -> proto::baton::Task {
    let mut whole = json!({"first_name": "Nova", "last_name": "Hire", "department": "Quality"});
    let fields = whole.as_object_mut().unwrap();
    fields.extend(profile.as_object().unwrap().clone());
    fields.insert(
        "manager".to_owned(),
        world.cast.bystander.to_string().into(),
    );
    let keys = [KeyKind::Ed25519, KeyKind::P256, KeyKind::Age];
    tasks::create_account(
        account(&whole),
        credential,
        keys.map(|key| world.cloud().encrypt_to(key).unwrap())
            .to_vec(),
    )
}

fn created(world: &World) -> Want {
    use v2::create_account_response::{Result as Made, SuccessResult};
    let id = hire(world).unwrap()["_id"].as_str().unwrap().to_owned();
    made(Made::Success(SuccessResult {
        resource: Some(named("user", &id)),
        is_create_account_result: true,
        invitation_expires_at: None,
    }))
}

fn exists(world: &World) -> Want {
    use v2::create_account_response::{AlreadyExistsResult, Result as Made};
    let id = hire(world).unwrap()["_id"].as_str().unwrap().to_owned();
    made(Made::AlreadyExists(AlreadyExistsResult {
        resource: Some(named("user", &id)),
        is_create_account_result: true,
    }))
}

fn made(result: v2::create_account_response::Result) -> Want {
    Want::Success(
        proto::pack(&v2::CreateAccountResponse {
            encrypted_data: Vec::new(),
            annotations: Vec::new(),
            result: Some(result),
        }),
        Vec::new(),
    )
}

fn named(kind: &str, id: &str) -> v2::Resource {
    v2::Resource {
        id: Some(tasks::resource_id(kind, id)),
        ..Default::default()
    }
}

/// Somebody else makes the same account.
fn hire_by_hand(world: &World) {
    let id = world
        .directory()
        .edit(|tenant| tenant.add_user(NewUser::default()))
        .unwrap()
        .unwrap();
    set(world, id, "username", LOGIN.to_uppercase().into());
    set(world, id, "email", EMAIL.to_lowercase().into());
}

fn is_hired(world: &World, state: &str, has_password: bool) -> bool {
    let Some(hire) = hire(world) else {
        return false;
    };
    let id = hire["_id"].as_str().unwrap().parse().unwrap();
    hire["state"] == state
        && hire["email"].as_str().unwrap().eq_ignore_ascii_case(EMAIL)
        && (hire["department"] != "Quality"
            || (hire["firstname"] == "Nova"
                && hire["manager"] == json!(world.cast.bystander.to_string())
                && world.directory().password_of(id).is_some() == has_password))
}

fn group_named(world: &World, name: &str) -> Option<Id> {
    let directory = world.directory();
    directory
        .inspect(Tenant::group_ids)
        .unwrap_or_default()
        .into_iter()
        .find(|id| directory.group(*id).unwrap()["name"] == name)
}

fn administrator(world: &World, slot: usize) -> Id {
    world.cast.administrators[slot]
}

fn roles(world: &World, slot: usize) -> Vec<String> {
    world
        .directory()
        .administrator(administrator(world, slot))
        .map(|row| row.roles)
        .unwrap_or_default()
}

fn set_roles(world: &World, slot: usize, roles: &[&str]) {
    let id = administrator(world, slot);
    world
        .directory()
        .edit(|tenant| tenant.set_admin_roles(id, roles))
        .unwrap()
        .unwrap();
}

fn remove_administrator(world: &World, id: Id) {
    world
        .directory()
        .edit(|tenant| tenant.remove_admin(id))
        .unwrap()
        .unwrap();
}

pub fn grant_role(world: &World, whom: Id) -> proto::baton::Task {
    tasks::grant(
        world
            .synced
            .entitlement(&format!("role:{HELP_DESK_ID}"))
            .unwrap(),
        world.resource("user", whom),
    )
}

fn revoke_role(world: &World, role: &str, slot: usize) -> proto::baton::Task {
    let whom = tasks::resource_id("user", &administrator(world, slot).to_string());
    tasks::revoke(world.synced.grant(&format!("role:{role}"), &whom).unwrap())
}

/// The only role of the fourth administrator.
fn only_role(world: &World) -> String {
    let whom = administrator(world, 3);
    let listed = world.synced.resources("role").unwrap();
    let ids = listed.into_iter().map(|role| role.id.unwrap().resource);
    let whom = tasks::resource_id("user", &whom.to_string());
    ids.into_iter()
        .find(|role| world.synced.grant(&format!("role:{role}"), &whom).is_ok())
        .unwrap()
}

/// The administrator that the outsider has become.
pub fn administers(world: &World) -> Option<Id> {
    let email = world
        .directory()
        .inspect(|tenant| tenant.email_of(world.cast.outsider))
        .flatten()?;
    let row = world.directory().administrator_by_email(&email)?;
    row.roles.contains(&HELP_DESK.to_owned()).then_some(row.id)
}

fn act(world: &World, name: &str, more: &Json) -> proto::baton::Task {
    act_on(world.cast.outsider, name, more)
}

fn act_on(user: Id, name: &str, more: &Json) -> proto::baton::Task {
    let mut arguments = json!({
        // As ConductorOne sends a field of this kind.
        "user_id": {"resource_type_id": "user", "resource_id": user.to_string()},
    });
    arguments
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    tasks::action_invoke(name, "user", tasks::structure(&arguments))
}

fn outcome(world: &World, changed: bool, more: Json) -> Json {
    outcome_of(world.cast.outsider, changed, more)
}

fn outcome_of(user: Id, changed: bool, more: Json) -> Json {
    let mut fields = json!({"success": true, "changed": changed, "user_id": user.to_string()});
    fields
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    fields
}

/// The groups that the member stays in, because their rules decide.
fn ruled_groups(world: &World) -> Vec<String> {
    let groups = world.directory().truth().groups.into_iter();
    groups
        .filter(|(_, row)| row.dynamic && row.members.contains(&world.cast.member))
        .map(|(group, _)| group.to_string())
        .collect()
}

fn is_scheduled(world: &World, state: &str) -> bool {
    let writes = world.directory().writes();
    writes.count("POST /api/v2/bulk/userstates") == 1 && user(world)["state"] != state
}

const GONE: (&str, Change, Expect) = (
    "the user",
    |world| remove_user(world, world.cast.outsider),
    |world| not_found("user", world.cast.outsider),
);

const NOTHING: fn(&World) = |_| {};

const ROW: Row = Row {
    name: "",
    flags: &[],
    endpoint: "",
    stage: NOTHING,
    task: |_| proto::baton::Task::default(),
    holds: |_| false,
    done: |_| Want::Failed {
        code: Code::Unknown,
        is_final: true,
        words: Vec::new(),
    },
    already: None,
    missing: &[],
    secrets: 0,
    repeats: false,
    passing: false,
};

const ACTION: Row = Row {
    endpoint: USER,
    missing: &[GONE],
    passing: true,
    repeats: true,
    ..ROW
};

/// All rows.
pub fn table() -> Vec<Row> {
    let mut table = edges();
    table.extend(administration());
    table.extend(accounts());
    table.extend(groups());
    table.extend(actions());
    table
}

fn edges() -> Vec<Row> {
    vec![
        Row {
            name: "membership: granted",
            endpoint: MEMBERS,
            task: |w| w.grant(("group", w.cast.crew), ("user", w.cast.outsider)),
            holds: |w| w.directory().is_member(w.cast.crew, w.cast.outsider),
            done: |w| {
                let (crew, user) = (w.cast.crew.to_string(), w.cast.outsider.to_string());
                granted(("group", &crew), ("user", &user), false)
            },
            already: Some((
                |w| w.set_member(w.cast.crew, w.cast.outsider, true),
                |w| {
                    let (crew, user) = (w.cast.crew.to_string(), w.cast.outsider.to_string());
                    granted(("group", &crew), ("user", &user), true)
                },
            )),
            missing: &[
                (
                    "the group",
                    |w| remove_group(w, w.cast.crew),
                    |w| not_found("group", w.cast.crew),
                ),
                GONE,
            ],
            ..ROW
        },
        Row {
            name: "membership: revoked",
            endpoint: MEMBERS,
            task: |w| w.revoke(("group", w.cast.crew), ("user", w.cast.member)),
            holds: |w| !w.directory().is_member(w.cast.crew, w.cast.member),
            done: |_| revoked(false),
            already: Some((
                |w| w.set_member(w.cast.crew, w.cast.member, false),
                |_| revoked(true),
            )),
            missing: &[
                (
                    "the group",
                    |w| remove_group(w, w.cast.crew),
                    |w| not_found("group", w.cast.crew),
                ),
                (
                    "the user",
                    |w| remove_user(w, w.cast.member),
                    |w| not_found("user", w.cast.member),
                ),
            ],
            ..ROW
        },
        Row {
            name: "access: of a user granted",
            endpoint: ACCESS,
            task: |w| w.grant(("app", w.cast.app), ("user", w.cast.outsider)),
            holds: |w| {
                w.directory()
                    .has_association(w.cast.app, "user", w.cast.outsider)
            },
            done: |w| {
                let (app, user) = (w.cast.app.to_string(), w.cast.outsider.to_string());
                granted(("app", &app), ("user", &user), false)
            },
            already: Some((
                |w| w.set_access(w.cast.app, ("user", w.cast.outsider), true),
                |w| {
                    let (app, user) = (w.cast.app.to_string(), w.cast.outsider.to_string());
                    granted(("app", &app), ("user", &user), true)
                },
            )),
            missing: &[
                (
                    "the application",
                    |w| {
                        w.directory()
                            .edit(|tenant| tenant.remove_app(w.cast.app))
                            .unwrap()
                            .unwrap();
                    },
                    |w| not_found("app", w.cast.app),
                ),
                GONE,
            ],
            ..ROW
        },
        Row {
            name: "access: of a user revoked",
            endpoint: ACCESS,
            stage: |w| {
                // Only by a binding of its own, so that nothing is inherited.
                for group in w.directory().truth().groups.keys() {
                    w.set_member(*group, w.cast.app_user, false);
                }
            },
            task: |w| w.revoke(("app", w.cast.app), ("user", w.cast.app_user)),
            holds: |w| {
                !w.directory()
                    .has_association(w.cast.app, "user", w.cast.app_user)
            },
            done: |_| revoked(false),
            already: Some((
                |w| w.set_access(w.cast.app, ("user", w.cast.app_user), false),
                |_| revoked(true),
            )),
            missing: &[(
                "the user",
                |w| remove_user(w, w.cast.app_user),
                |w| not_found("user", w.cast.app_user),
            )],
            ..ROW
        },
        Row {
            name: "access: of a group granted",
            endpoint: ACCESS,
            task: |w| w.grant(("app", w.cast.app), ("group", w.cast.free_group)),
            holds: |w| {
                w.directory()
                    .has_association(w.cast.app, "user_group", w.cast.free_group)
            },
            done: |w| group_access(w, false),
            already: Some((
                |w| w.set_access(w.cast.app, ("group", w.cast.free_group), true),
                |w| group_access(w, true),
            )),
            missing: &[(
                "the group",
                |w| remove_group(w, w.cast.free_group),
                |w| not_found("group", w.cast.free_group),
            )],
            ..ROW
        },
        Row {
            name: "access: of a group revoked",
            endpoint: ACCESS,
            task: |w| w.revoke(("app", w.cast.app), ("group", w.cast.app_group)),
            holds: |w| {
                !w.directory()
                    .has_association(w.cast.app, "user_group", w.cast.app_group)
            },
            done: |_| revoked(false),
            already: Some((
                |w| w.set_access(w.cast.app, ("group", w.cast.app_group), false),
                |_| revoked(true),
            )),
            missing: &[(
                "the group",
                |w| remove_group(w, w.cast.app_group),
                |w| not_found("group", w.cast.app_group),
            )],
            ..ROW
        },
    ]
}

fn group_access(world: &World, exists: bool) -> Want {
    let (app, group) = (
        world.cast.app.to_string(),
        world.cast.free_group.to_string(),
    );
    let expandable = v2::GrantExpandable {
        entitlement_ids: vec![format!("group:{group}")],
        shallow: false,
        resource_type_ids: vec!["user".to_owned()],
    };
    granted_with(
        ("app", &app),
        ("group", &group),
        exists,
        vec![proto::pack(&expandable)],
    )
}

fn administration() -> Vec<Row> {
    const FLAGS: &[&str] = &["allow-administrator-roles"];
    vec![
        Row {
            name: "role: granted to a directory user",
            flags: FLAGS,
            endpoint: "POST /api/users",
            task: |w| grant_role(w, w.cast.outsider),
            holds: |w| administers(w).is_some(),
            done: |w| {
                let id = administers(w).unwrap().to_string();
                granted(("role", HELP_DESK_ID), ("user", &id), false)
            },
            missing: &[GONE],
            ..ROW
        },
        Row {
            name: "role: granted to an administrator",
            flags: FLAGS,
            endpoint: "PUT /api/users/{id}",
            task: |w| grant_role(w, administrator(w, 2)),
            holds: |w| roles(w, 2).contains(&HELP_DESK.to_owned()),
            done: |w| {
                let id = administrator(w, 2).to_string();
                granted(("role", HELP_DESK_ID), ("user", &id), false)
            },
            already: Some((
                |w| set_roles(w, 2, &["Command Runner", HELP_DESK]),
                |w| {
                    let id = administrator(w, 2).to_string();
                    granted(("role", HELP_DESK_ID), ("user", &id), true)
                },
            )),
            repeats: true,
            ..ROW
        },
        Row {
            name: "role: one of several revoked",
            flags: FLAGS,
            endpoint: "PUT /api/users/{id}",
            // Whoever owns the key that only reads is not changed with it.
            stage: |w| set_roles(w, 4, &["Manager", HELP_DESK]),
            task: |w| revoke_role(w, HELP_DESK_ID, 4),
            holds: |w| !roles(w, 4).contains(&HELP_DESK.to_owned()) && !roles(w, 4).is_empty(),
            done: |_| revoked(false),
            already: Some((|w| set_roles(w, 4, &["Manager"]), |_| revoked(true))),
            repeats: true,
            ..ROW
        },
        Row {
            name: "role: the last one revoked",
            flags: FLAGS,
            endpoint: "DELETE /api/users/{id}",
            task: |w| revoke_role(w, &only_role(w), 3),
            holds: |w| w.directory().truth().admins.len() == 5,
            done: |_| revoked(false),
            already: Some((
                |w| remove_administrator(w, administrator(w, 3)),
                |_| revoked(true),
            )),
            ..ROW
        },
    ]
}

fn accounts() -> Vec<Row> {
    const CREATE: &str = "POST /api/systemusers";
    const NO_MANAGER: (&str, Change, Expect) = (
        "the manager",
        |w| remove_user(w, w.cast.bystander),
        |_| Want::failed(Code::InvalidArgument, [&"manager"]),
    );
    vec![
        Row {
            name: "account: created with a password made up",
            endpoint: CREATE,
            task: |w| create(w, Some(tasks::random_password(24)), &json!({})),
            holds: |w| is_hired(w, "ACTIVATED", true),
            done: created,
            already: Some((hire_by_hand, exists)),
            missing: &[NO_MANAGER],
            secrets: 1,
            ..ROW
        },
        Row {
            name: "account: created without password",
            endpoint: CREATE,
            task: |w| create(w, Some(tasks::no_password()), &json!({})),
            holds: |w| is_hired(w, "ACTIVATED", false),
            done: created,
            already: Some((hire_by_hand, exists)),
            ..ROW
        },
        Row {
            name: "account: created for single sign-on, staged",
            endpoint: CREATE,
            stage: NOTHING,
            task: |w| create(w, Some(tasks::sso("okta")), &json!({"state": "staged"})),
            holds: |w| is_hired(w, "STAGED", false),
            done: created,
            ..ROW
        },
        Row {
            name: "account: created with a password that a person chose",
            endpoint: CREATE,
            task: |w| {
                let chosen = w.cloud().seal(&CHOSEN.into()).unwrap();
                let mut task = create(w, Some(tasks::given_password(vec![chosen])), &json!({}));
                if let Some(proto::baton::task::TaskType::CreateAccount(task)) = &mut task.task_type
                {
                    task.encryption_configs.clear();
                }
                task
            },
            holds: |w| {
                use secrecy::ExposeSecret as _;
                is_hired(w, "ACTIVATED", true)
                    && w.directory()
                        .password_of(subject(w))
                        .is_some_and(|held| held.expose_secret() == CHOSEN)
            },
            done: created,
            ..ROW
        },
        Row {
            name: "account: deleted",
            flags: &["allow-account-deletion"],
            endpoint: "DELETE /api/systemusers/{id}",
            task: |w| {
                tasks::delete_resource(tasks::resource_id("user", &w.cast.outsider.to_string()))
            },
            holds: |w| w.directory().user(w.cast.outsider).is_none(),
            done: |_| deleted(false),
            already: Some((|w| remove_user(w, w.cast.outsider), |_| deleted(true))),
            ..ROW
        },
        Row {
            name: "account: password rotated",
            endpoint: USER,
            task: |w| {
                let keys = [KeyKind::Rsa, KeyKind::Age];
                tasks::rotate_credentials(
                    tasks::resource_id("user", &w.cast.outsider.to_string()),
                    Some(tasks::random_password(32)),
                    keys.map(|key| w.cloud().encrypt_to(key).unwrap()).to_vec(),
                )
            },
            holds: |w| w.directory().password_of(w.cast.outsider).is_some(),
            done: |w| {
                Want::Success(
                    proto::pack(&v2::RotateCredentialResponse {
                        encrypted_data: Vec::new(),
                        resource_id: Some(tasks::resource_id("user", &w.cast.outsider.to_string())),
                        annotations: Vec::new(),
                    }),
                    Vec::new(),
                )
            },
            missing: &[GONE],
            secrets: 1,
            repeats: true,
            ..ROW
        },
    ]
}

/// Long, of all kinds, and without a run.
const CHOSEN: &str = "SECRETSEED-Ch0sen!by.a:person";

fn groups() -> Vec<Row> {
    vec![
        Row {
            name: "group: created",
            endpoint: "POST /api/v2/usergroups",
            task: |_| {
                tasks::create_resource(v2::Resource {
                    id: Some(tasks::resource_id("group", "")),
                    display_name: CREW.to_owned(),
                    description: "Tests everything".to_owned(),
                    ..Default::default()
                })
            },
            holds: |w| group_named(w, CREW).is_some() || group_named(w, "quality crew").is_some(),
            done: |w| {
                let id = group_named(w, CREW).unwrap().to_string();
                Want::Success(
                    proto::pack(&v2::CreateResourceResponse {
                        created: Some(named("group", &id)),
                        annotations: Vec::new(),
                    }),
                    Vec::new(),
                )
            },
            already: Some((
                |w| {
                    w.directory()
                        .edit(|tenant| tenant.add_group("quality crew", MembershipMethod::Static))
                        .unwrap();
                },
                |w| {
                    let id = group_named(w, "quality crew").unwrap();
                    Want::failed(Code::FailedPrecondition, [&"group", &id, &"name"])
                },
            )),
            ..ROW
        },
        Row {
            name: "group: deleted",
            endpoint: "DELETE /api/v2/usergroups/{id}",
            task: |w| {
                tasks::delete_resource(tasks::resource_id("group", &w.cast.free_group.to_string()))
            },
            holds: |w| w.directory().group(w.cast.free_group).is_none(),
            done: |_| deleted(false),
            already: Some((|w| remove_group(w, w.cast.free_group), |_| deleted(true))),
            ..ROW
        },
    ]
}

fn actions() -> Vec<Row> {
    vec![
        Row {
            name: "action: suspend",
            task: |w| act(w, "suspend_user", &json!({})),
            holds: |w| user(w)["state"] == "SUSPENDED",
            done: |w| {
                acted(
                    "suspend_user",
                    outcome(w, true, json!({"state": "SUSPENDED"})),
                )
            },
            already: Some((
                |w| set_status(w, w.cast.outsider, Status::Suspended),
                |w| {
                    acted(
                        "suspend_user",
                        outcome(w, false, json!({"state": "SUSPENDED"})),
                    )
                },
            )),
            ..ACTION
        },
        Row {
            name: "action: activate",
            stage: |w| set_status(w, w.cast.outsider, Status::Suspended),
            task: |w| act(w, "activate_user", &json!({})),
            holds: |w| user(w)["state"] == "ACTIVATED",
            done: |w| {
                acted(
                    "activate_user",
                    outcome(w, true, json!({"state": "ACTIVATED"})),
                )
            },
            already: Some((
                |w| set_status(w, w.cast.outsider, Status::Active),
                |w| {
                    acted(
                        "activate_user",
                        outcome(w, false, json!({"state": "ACTIVATED"})),
                    )
                },
            )),
            ..ACTION
        },
        Row {
            name: "action: unlock",
            endpoint: "POST /api/systemusers/{id}/unlock",
            stage: |w| set_status(w, w.cast.outsider, Status::Locked),
            task: |w| act(w, "unlock_user", &json!({})),
            holds: |w| user(w)["account_locked"] == false,
            done: |w| acted("unlock_user", outcome(w, true, json!({}))),
            already: Some((
                |w| set_status(w, w.cast.outsider, Status::Active),
                |w| acted("unlock_user", outcome(w, false, json!({}))),
            )),
            ..ACTION
        },
        Row {
            name: "action: expire password",
            endpoint: "POST /api/systemusers/{id}/expire",
            stage: |w| set(w, w.cast.outsider, "password_expired", false.into()),
            task: |w| act(w, "expire_password", &json!({})),
            holds: |w| user(w)["password_expired"] == true,
            done: |w| {
                acted(
                    "expire_password",
                    outcome(w, true, json!({"password_expired": true})),
                )
            },
            ..ACTION
        },
        Row {
            name: "action: reset MFA",
            endpoint: "POST /api/systemusers/{id}/resetmfa",
            stage: |w| set(w, w.cast.outsider, "totp_enabled", true.into()),
            task: |w| act(w, "reset_mfa", &json!({})),
            holds: |w| user(w)["totp_enabled"] == false,
            done: |w| {
                acted(
                    "reset_mfa",
                    outcome(w, true, json!({"exclusion_until": ""})),
                )
            },
            ..ACTION
        },
        Row {
            name: "action: schedule suspension",
            endpoint: "POST /api/v2/bulk/userstates",
            task: |w| act(w, "schedule_suspend", &json!({"start_date": LATER})),
            holds: |w| is_scheduled(w, "SUSPENDED"),
            done: |w| {
                acted(
                    "schedule_suspend",
                    outcome(
                        w,
                        true,
                        json!({"start_date": LATER, "scheduled_job_id": "job"}),
                    ),
                )
            },
            ..ACTION
        },
        Row {
            name: "action: schedule activation",
            endpoint: "POST /api/v2/bulk/userstates",
            stage: |w| set_status(w, w.cast.outsider, Status::Suspended),
            task: |w| act(w, "schedule_activate", &json!({"start_date": LATER})),
            holds: |w| is_scheduled(w, "ACTIVATED"),
            done: |w| {
                acted(
                    "schedule_activate",
                    outcome(
                        w,
                        true,
                        json!({"start_date": LATER, "scheduled_job_id": "job"}),
                    ),
                )
            },
            ..ACTION
        },
        Row {
            name: "action: remove from all groups",
            endpoint: MEMBERS,
            stage: |w| {
                // One group that can be left, so that there is one write.
                for (group, row) in w.directory().truth().groups {
                    if !row.dynamic && group != w.cast.crew {
                        w.set_member(group, w.cast.member, false);
                    }
                }
            },
            task: |w| act_on(w.cast.member, "remove_user_from_all_groups", &json!({})),
            holds: |w| !w.directory().is_member(w.cast.crew, w.cast.member),
            done: |w| {
                let ruled = ruled_groups(w);
                acted(
                    "remove_user_from_all_groups",
                    outcome_of(
                        w.cast.member,
                        true,
                        json!({"removed_groups": [w.cast.crew.to_string()], "dynamic_groups": ruled}),
                    ),
                )
            },
            already: Some((
                |w| w.set_member(w.cast.crew, w.cast.member, false),
                |w| {
                    let ruled = ruled_groups(w);
                    acted(
                        "remove_user_from_all_groups",
                        outcome_of(
                            w.cast.member,
                            false,
                            json!({"removed_groups": [], "dynamic_groups": ruled}),
                        ),
                    )
                },
            )),
            missing: &[(
                "the user",
                |w| remove_user(w, w.cast.member),
                |w| not_found("user", w.cast.member),
            )],
            ..ACTION
        },
        Row {
            name: "action: update attributes",
            task: |w| {
                act(
                    w,
                    "update_user_attributes",
                    &json!({"department": "Quality", "job_title": "Lead"}),
                )
            },
            holds: |w| user(w)["department"] == "Quality" && user(w)["jobTitle"] == "Lead",
            done: |w| {
                acted(
                    "update_user_attributes",
                    outcome(
                        w,
                        true,
                        json!({"updated_fields": ["department", "jobTitle"]}),
                    ),
                )
            },
            already: Some((
                |w| {
                    set(w, w.cast.outsider, "department", "Quality".into());
                    set(w, w.cast.outsider, "jobTitle", "Lead".into());
                },
                |w| {
                    acted(
                        "update_user_attributes",
                        outcome(w, false, json!({"updated_fields": []})),
                    )
                },
            )),
            ..ACTION
        },
    ]
}
