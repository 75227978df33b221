//! Changes against a directory that holds state, with processes that die at any step.

use std::{collections::BTreeSet, path::Path};

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::json;

use super::*;
use crate::{
    clock::SystemClock,
    connector::provision::{Account, Credential},
    crypto::seal::Plaintext,
    supervisor::guarded,
};

const ID: &str = "2fZ8bqH3vK1nX0dQyW5tRm7sLpA";

/// A directory of which nothing but memberships can be changed.
#[derive(Debug, Default)]
struct Directory {
    members: Mutex<BTreeSet<(String, String)>>,
    writes: AtomicU64,
    /// The process dies after the next write, before anybody hears of it.
    dies_after_write: Mutex<bool>,
    /// The next request fails before its write.
    fails: Mutex<bool>,
}

impl Directory {
    fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    async fn set(
        &self,
        group: &str,
        user: &str,
        wanted: bool,
        change: Change<'_>,
    ) -> Result<Effect, connector::Error> {
        let key = (group.to_owned(), user.to_owned());
        if lock(&self.members).contains(&key) == wanted {
            return Ok(match change.earlier {
                Some(_) => Effect::Changed,
                None => Effect::AlreadyTrue,
            });
        }
        let plan = Plan {
            operation: "group.member".to_owned(),
            subject: user.to_owned(),
            object: group.to_owned(),
            before: json!({"member": !wanted}),
            after: json!({"member": wanted}),
        };
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(Effect::Planned);
        }
        if std::mem::take(&mut *lock(&self.fails)) {
            return Err(connector::Error::Http {
                method: "POST",
                endpoint: "/members",
                status: 503,
                advice: String::new(),
                words: None,
                retry_after: None,
            });
        }
        // Somebody else may come in here, if the locks let them.
        tokio::task::yield_now().await;
        self.writes.fetch_add(1, Ordering::SeqCst);
        if wanted {
            lock(&self.members).insert(key);
        } else {
            lock(&self.members).remove(&key);
        }
        if std::mem::take(&mut *lock(&self.dies_after_write)) {
            die();
        }
        Ok(Effect::Changed)
    }
}

/// Ends this life; [`guarded`] sees it.
fn die() {
    std::panic::resume_unwind(Box::new("the process dies"));
}

fn unsupported() -> connector::Error {
    connector::Error::Unsupported {
        what: "not here".to_owned(),
    }
}

fn text(resource: Option<&v2::Resource>) -> String {
    resource_text(resource.unwrap().id.as_ref().unwrap())
}

#[async_trait]
impl Provisioner for Directory {
    fn keys(&self, request: provision::Request<'_>) -> Vec<String> {
        match request {
            provision::Request::Grant {
                entitlement,
                principal,
            } => vec![text(entitlement.resource.as_ref()), text(Some(principal))],
            provision::Request::Revoke { grant } => vec![
                text(grant.entitlement.as_ref().unwrap().resource.as_ref()),
                text(grant.principal.as_ref()),
            ],
            _ => Vec::new(),
        }
    }

    async fn grant(
        &self,
        entitlement: &v2::Entitlement,
        principal: &v2::Resource,
        change: Change<'_>,
    ) -> Result<Done<Vec<v2::Grant>>, connector::Error> {
        let (group, user) = (text(entitlement.resource.as_ref()), text(Some(principal)));
        let effect = self.set(&group, &user, true, change).await?;
        Ok(Done::unwritten(Vec::new(), effect))
    }

    async fn revoke(
        &self,
        grant: &v2::Grant,
        change: Change<'_>,
    ) -> Result<Done<()>, connector::Error> {
        let group = text(grant.entitlement.as_ref().unwrap().resource.as_ref());
        let user = text(grant.principal.as_ref());
        let effect = self.set(&group, &user, false, change).await?;
        Ok(Done::unwritten((), effect))
    }

    async fn create_account(
        &self,
        _resource_type_id: &str,
        _account: &NewAccount,
        _change: Change<'_>,
    ) -> Result<Done<Account>, connector::Error> {
        Err(unsupported())
    }

    async fn create_resource(
        &self,
        _resource: &v2::Resource,
        _change: Change<'_>,
    ) -> Result<Done<v2::Resource>, connector::Error> {
        Err(unsupported())
    }

    async fn delete_resource(
        &self,
        _id: &v2::ResourceId,
        _change: Change<'_>,
    ) -> Result<Done<()>, connector::Error> {
        Err(unsupported())
    }

    async fn rotate_credential(
        &self,
        _id: &v2::ResourceId,
        _credential: &Credential,
        _force_change: bool,
        _change: Change<'_>,
    ) -> Result<Done<Vec<Plaintext>>, connector::Error> {
        Err(unsupported())
    }

    fn action_schemas(&self) -> Vec<v2::BatonActionSchema> {
        Vec::new()
    }

    async fn invoke(
        &self,
        _name: &str,
        _resource_type_id: &str,
        _arguments: &Struct,
        _change: Change<'_>,
    ) -> Result<Done<Struct>, connector::Error> {
        Err(unsupported())
    }
}

fn resource(kind: &str, id: u8) -> v2::Resource {
    v2::Resource {
        id: Some(v2::ResourceId {
            resource_type: kind.to_owned(),
            resource: id.to_string(),
            ..v2::ResourceId::default()
        }),
        ..v2::Resource::default()
    }
}

/// The request that a user be a member, or no member, of a group.
fn request(group: u8, user: u8, wanted: bool) -> Request {
    let entitlement = v2::Entitlement {
        id: format!("group:{group}:member"),
        resource: Some(resource("group", group)),
        ..v2::Entitlement::default()
    };
    let principal = resource("user", user);
    if wanted {
        Request::Grant {
            entitlement,
            principal,
        }
    } else {
        Request::Revoke {
            grant: v2::Grant {
                entitlement: Some(entitlement),
                principal: Some(principal),
                ..v2::Grant::default()
            },
        }
    }
}

/// A process that works in this folder, and dies at its first arrival at a step.
fn process(directory: &Arc<Directory>, work: &Path, dies_at: Option<Step>) -> Provisioning {
    let observer: Observer = Arc::new(move |step| {
        if Some(step) == dies_at {
            die();
        }
    });
    Provisioning::new(
        Arc::clone(directory) as _,
        Arc::new(SystemClock),
        Supervisor::new(),
        Settings {
            audit_log: Some(work.join("audit")),
            observer: Some(observer),
            ..Settings::new(ProvisioningMode::On, work.to_owned())
        },
    )
}

async fn run(process: &Provisioning, id: &str, request: &Request) -> Result<Answer, Error> {
    let never = CancellationToken::new();
    process.run(id, request.clone(), None, &never).await
}

/// How many records of the audit trail say that this change was made, or that there was nothing to do.
fn audited(work: &Path, id: &str) -> usize {
    std::fs::read_to_string(work.join("audit"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record["task_id"] == id)
        .filter(|record| record["result"] == "success" || record["result"] == "unchanged")
        .count()
}

/// How an attempt at a change ends before its time.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    DiesAt(Step),
    DiesAfterWrite,
    Fails,
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        6 => select(&Step::ALL[..]).prop_map(Mishap::DiesAt),
        2 => Just(Mishap::DiesAfterWrite),
        2 => Just(Mishap::Fails),
    ]
}

/// One task: what it wants, the mishaps of its first deliveries, and which earlier task comes again after it.
type Task = (u8, u8, bool, Vec<Mishap>, Option<usize>);

async fn play(tasks: Vec<Task>) {
    let work = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::default());
    let mut answers: Vec<(String, Request, Answer)> = Vec::new();
    for (number, (group, user, wanted, mishaps, again)) in tasks.into_iter().enumerate() {
        let id = format!("{number:027}");
        let request = request(group, user, wanted);
        let key = (format!("group:{group}"), format!("user:{user}"));
        let needed = lock(&directory.members).contains(&key) != wanted;
        let before = directory.writes();
        for mishap in mishaps {
            let dies_at = match mishap {
                Mishap::DiesAt(step) => Some(step),
                Mishap::DiesAfterWrite => {
                    *lock(&directory.dies_after_write) = true;
                    None
                }
                Mishap::Fails => {
                    *lock(&directory.fails) = true;
                    None
                }
            };
            let process = process(&directory, work.path(), dies_at);
            // A life that ends well is a delivery whose answer got lost.
            drop(guarded(run(&process, &id, &request)).await);
            *lock(&directory.dies_after_write) = false;
            *lock(&directory.fails) = false;
        }
        let survivor = process(&directory, work.path(), None);
        let answer = run(&survivor, &id, &request).await.unwrap();
        assert_eq!(directory.writes() - before, u64::from(needed), "{id}");
        assert_eq!(lock(&directory.members).contains(&key), wanted, "{id}");
        assert_eq!(answer.effect == Effect::Changed, needed, "{id}");
        answers.push((id, request, answer));

        // A task that comes again gets its answer, and does nothing, whatever others did since.
        if let Some(again) = again {
            let (id, request, answer) = &answers[again % answers.len()];
            let before = directory.writes();
            assert_eq!(run(&survivor, id, request).await.unwrap(), *answer);
            assert_eq!(directory.writes(), before, "{id}");
        }
    }
    for (id, ..) in &answers {
        assert_eq!(audited(work.path(), id), 1, "{id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_change_is_made_once_however_often_its_process_dies(
        tasks in vec(
            (0_u8..2, 0_u8..2, any::<bool>(), vec(mishap(), 0..4), option::of(any::<usize>())),
            1..6,
        ),
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(play(tasks));
    }
}

#[tokio::test]
async fn a_death_at_each_step_alone_is_followed_by_one_effect_one_answer_and_one_record() {
    for step in Step::ALL {
        Box::pin(play(vec![(
            0,
            0,
            true,
            vec![Mishap::DiesAt(step)],
            Some(0),
        )]))
        .await;
    }
    Box::pin(play(vec![(
        0,
        0,
        true,
        vec![Mishap::DiesAfterWrite],
        Some(0),
    )]))
    .await;
}

#[tokio::test]
async fn deliveries_of_one_task_at_the_same_time_make_one_change_and_get_one_answer() {
    let work = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::default());
    let process = process(&directory, work.path(), None);
    let wish = request(0, 0, true);
    let (first, second, third) = tokio::join!(
        run(&process, ID, &wish),
        run(&process, ID, &wish),
        run(&process, ID, &wish),
    );
    let first = first.unwrap();
    assert_eq!(first.effect, Effect::Changed);
    assert_eq!((second.unwrap(), third.unwrap()), (first.clone(), first));
    assert_eq!(directory.writes(), 1);
    assert_eq!(audited(work.path(), ID), 1);
}

#[tokio::test]
async fn tasks_that_want_the_same_at_the_same_time_make_one_change() {
    let work = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::default());
    let process = process(&directory, work.path(), None);
    let wish = request(0, 0, true);
    let (one, other) = tokio::join!(run(&process, ID, &wish), run(&process, "other", &wish));
    assert_eq!(one.unwrap().effect, Effect::Changed);
    assert_eq!(other.unwrap().effect, Effect::AlreadyTrue);
    assert_eq!(directory.writes(), 1);
}

#[tokio::test]
async fn an_id_that_comes_with_another_wish_is_refused() {
    let work = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::default());
    let process = process(&directory, work.path(), None);
    run(&process, ID, &request(0, 0, true)).await.unwrap();
    for other in [
        request(0, 1, true),
        request(1, 0, true),
        request(0, 0, false),
    ] {
        let error = run(&process, ID, &other).await.unwrap_err();
        assert!(matches!(error, Error::Reused { .. }), "{error}");
    }
    assert_eq!(directory.writes(), 1);
}
