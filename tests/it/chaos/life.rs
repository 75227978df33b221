//! Carries a plan out: the world, the daemon and its deaths, tasks, faults and changes; ends with what was observed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use baton_jumpcloud::{
    clock::{Clock as _, SystemClock},
    proto::{
        baton::{self, task::SyncFullTask},
        connector as v2,
    },
    sim::{
        conductorone::{self, KeyKind, Stage, full_sync, tasks},
        jumpcloud::{FULL_KEY, Id, MembershipMethod, NewUser, Tenant, Truth},
        storm::{Damage, Storm, Strike},
    },
};
use fastrand::Rng;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rustix::process::Signal;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    history::{History, Said, facts},
    judge::{Answer, Asked, Blow, Ended, Observed},
    plan::{Death, Excuse, Moment, Order, Plan, Story, Wish, kind},
};
use crate::daemon::{Daemon, Exit, Held, Launch, Scene, entries};

/// How often the world is looked at.
const TICK: Duration = Duration::from_millis(2);
/// How long a whole life may take before what is unfinished counts as forgotten.
const LIFE: Duration = Duration::from_mins(4);
/// Given to the daemon as its grace period.
const GRACE: Duration = Duration::from_secs(4);
/// How much longer its end may take on a machine with much to do.
const SLACK: Duration = Duration::from_secs(10);
/// Changes of the directory in one life.
const MOST_MOVES: usize = 100;
/// Syncs that may be needed at the end until every fault is used up.
const LAST_SYNCS: usize = 6;
/// What the daemon may keep in its work folder between two tasks.
pub const DOCUMENTED: [&str; 1] = [baton_jumpcloud::state_folder::NAME];

/// What stays open from the first change on: the trail, and the lock of the folder of the journal.
pub const KEPT_OPEN: [&str; 2] = [AUDIT_LOG, baton_jumpcloud::state_folder::NAME];
pub const AUDIT_LOG: &str = "audit.jsonl";

/// What one life tells besides what is judged.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    pub kills: u32,
    pub terms: u32,
    pub restarts: u32,
    pub moves: usize,
    /// Requests of a sync that nothing disturbed, those before the death of another one, and those after it.
    pub resumed: Option<(u64, u64, u64)>,
}

/// A life that was lived.
pub struct Lived {
    pub observed: Observed,
    pub figures: Figures,
    /// What each process said.
    pub logs: Vec<String>,
}

/// A task that was given.
struct Given {
    id: String,
    wish: Wish,
    cancel: Option<Duration>,
    again: Option<Duration>,
    handed_out: Option<Instant>,
    cancelled: bool,
    abandoned: bool,
    is_calm: bool,
    /// For a change: whom, and where.
    about: Option<(Id, Id)>,
    login: String,
    has_successor: bool,
}

struct Life<'a> {
    plan: &'a Plan,
    scene: Arc<Scene>,
    random: Rng,
    begun: Instant,
    history: History,
    given: Vec<Given>,
    blows: Vec<Blow>,
    /// Faults in force; each ends with its place among the blows, and with what it did.
    storm: FuturesUnordered<BoxFuture<'static, (usize, Damage)>>,
    protected: BTreeSet<Id>,
    /// Users that no task made: only these may be removed by others.
    theirs: BTreeSet<Id>,
    group: Id,
    figures: Figures,
    ends: Vec<Ended>,
    exits: Vec<Exit>,
    broken: Vec<String>,
    logins: usize,
}

/// Lives it.
pub async fn live(plan: &Plan) -> Lived {
    let config = conductorone::Config {
        next_poll: Some(Duration::from_millis(100)),
        lease: Duration::from_secs(3),
        // What is handed out twice begins its heartbeats anew, while the upload of the first time may be under way.
        require_heartbeat: false,
        ..conductorone::Config::default()
    };
    let scene = Arc::new(Scene::of(config, plan.shape.clone()).await);
    scene.directory.change_behaviour(|behaviour| {
        behaviour.latency = plan.latency;
        behaviour.fault_seed = plan.seed;
        behaviour.retry_after = None;
    });
    let truth = scene.directory.truth();
    let history = History::new(SystemClock.now(), facts(&truth));
    let group = scene.directory.inspect(Tenant::group_ids).unwrap()[0];
    let mut life = Life {
        plan,
        scene,
        random: Rng::with_seed(plan.seed),
        begun: Instant::now(),
        history,
        given: Vec::new(),
        blows: Vec::new(),
        storm: FuturesUnordered::new(),
        protected: BTreeSet::from([group]),
        theirs: truth.users.keys().copied().collect(),
        group,
        figures: Figures::default(),
        ends: Vec::new(),
        exits: Vec::new(),
        broken: Vec::new(),
        logins: 0,
    };
    let launch = life.launch();
    let daemon = life.scene.serving(launch.clone()).await;
    let at_rest = at_rest(&daemon).await;
    life.begun = Instant::now();
    let daemon = match &plan.story {
        Story::Resume {
            at,
            signal,
            other_task,
        } => life.resume(daemon, *at, *signal, *other_task).await,
        Story::Storm {
            orders,
            weather,
            deaths,
            moves,
        } => life.storm(daemon, orders, weather, deaths, *moves).await,
    };
    life.calm().await;
    life.end(daemon, at_rest).await
}

/// What a daemon holds that has nothing to do: the least of some looks, since calls come and go.
async fn at_rest(daemon: &Daemon) -> Held {
    let mut least = daemon.held(&KEPT_OPEN);
    for _ in 0..6 {
        sleep(Duration::from_millis(40)).await;
        let now = daemon.held(&KEPT_OPEN);
        if now.files.values().sum::<usize>() < least.files.values().sum() {
            least = now;
        }
    }
    least
}

impl Life<'_> {
    fn launch(&self) -> Launch {
        self.scene
            .service()
            // A credential in a file could still be replaced, so that one that is refused would be waited for.
            .without("api-key-file")
            .without("client-secret-file")
            .variable("BATON_API_KEY", FULL_KEY)
            .variable("BATON_CLIENT_SECRET", self.scene.cloud.client_secret_text())
            .switch("provisioning")
            .flag("audit-log", self.scene.path(AUDIT_LOG))
            .flag("simulate-haste", "20")
            // Small tenants lose half of something soon; the guard has tests of its own.
            .flag("shrink-limit", "100")
            .flag("http-timeout-seconds", "2")
            .flag("shutdown-grace", format!("{}s", GRACE.as_secs()))
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Notes what is true now.
    fn look(&mut self) {
        let history = &mut self.history;
        self.scene
            .directory
            .inspect(|tenant| history.look(SystemClock.now(), facts(&Truth::of(tenant))));
    }

    // Tasks.

    fn give(&mut self, wish: Wish, cancel: Option<Duration>, again: Option<Duration>) -> usize {
        let mut given = Given {
            id: String::new(),
            wish,
            cancel,
            again,
            handed_out: None,
            cancelled: false,
            abandoned: false,
            is_calm: false,
            about: None,
            login: String::new(),
            has_successor: false,
        };
        let Some(task) = self.task(&mut given) else {
            // Nobody is left to be granted or revoked anything.
            return self.give(Wish::Sync, cancel, again);
        };
        given.id = self.scene.cloud.enqueue(task);
        self.given.push(given);
        self.given.len() - 1
    }

    fn task(&mut self, given: &mut Given) -> Option<baton::Task> {
        let directory = &self.scene.directory;
        let group = self.group;
        match given.wish {
            Wish::Sync => Some(full_sync(SyncFullTask::default())),
            Wish::Account => {
                self.logins += 1;
                given.login = format!("chaos.hire{}", self.logins);
                let account = v2::AccountInfo {
                    emails: vec![v2::account_info::Email {
                        address: format!("{}@example.com", given.login),
                        is_primary: true,
                    }],
                    login: given.login.clone(),
                    profile: Some(tasks::structure(
                        &json!({"first_name": "Chaos", "last_name": "Hire"}),
                    )),
                    ..Default::default()
                };
                let key = self.scene.cloud.encrypt_to(KeyKind::Ed25519).unwrap();
                let password = Some(tasks::random_password(24));
                Some(tasks::create_account(account, password, vec![key]))
            }
            Wish::Grant | Wish::Revoke => {
                let truth = directory.truth();
                let administrators: BTreeSet<Id> = truth
                    .admins
                    .values()
                    .filter_map(|admin| admin.user)
                    .collect();
                let members = &truth.groups[&group].members;
                let user = truth
                    .users
                    .iter()
                    .filter(|(id, facts)| {
                        facts.status == "active"
                            && !administrators.contains(id)
                            && !self.protected.contains(id)
                            && members.contains(id) == (given.wish == Wish::Revoke)
                    })
                    .map(|(id, _)| *id)
                    .next()?;
                self.protected.insert(user);
                given.about = Some((group, user));
                let (on, whom) = (group.to_string(), user.to_string());
                let bare = |kind: &str, id: &str| v2::Resource {
                    id: Some(tasks::resource_id(kind, id)),
                    ..Default::default()
                };
                let entitlement = v2::Entitlement {
                    id: format!("group:{on}"),
                    resource: Some(bare("group", &on)),
                    ..Default::default()
                };
                Some(if given.wish == Wish::Grant {
                    tasks::grant(entitlement, bare("user", &whom))
                } else {
                    tasks::revoke(v2::Grant {
                        id: format!("group-grant:{on}:user:{whom}:{on}"),
                        entitlement: Some(entitlement),
                        principal: Some(bare("user", &whom)),
                        ..Default::default()
                    })
                })
            }
        }
    }

    /// What ConductorOne does to tasks that it has handed out.
    fn attend(&mut self) {
        for given in &mut self.given {
            let Some(state) = self.scene.cloud.task(&given.id) else {
                continue;
            };
            if state.deliveries == 0 {
                continue;
            }
            let age = given.handed_out.get_or_insert_with(Instant::now).elapsed();
            if given.cancel.is_some_and(|after| age >= after) {
                given.cancel = None;
                if state.stage != Stage::Finished {
                    given.cancelled = self.scene.cloud.cancel(&given.id);
                }
            }
            if given.again.is_some_and(|after| age >= after) {
                given.again = None;
                self.scene.cloud.deliver_again(&given.id);
            }
        }
    }

    fn is_answered(&self, given: &Given) -> bool {
        given.abandoned
            || self
                .scene
                .cloud
                .task(&given.id)
                .is_some_and(|state| state.stage == Stage::Finished)
    }

    /// A sync that ended with the process is asked for once more, as another task.
    fn succeed(&mut self) {
        let ended: Vec<usize> = (0..self.given.len())
            .filter(|&index| {
                let given = &self.given[index];
                given.wish == Wish::Sync && !given.has_successor && self.is_answered(given)
            })
            .collect();
        if ended.is_empty() {
            return;
        }
        let finishes = self.scene.cloud.finishes();
        for index in ended {
            self.given[index].has_successor = true;
            let id = &self.given[index].id;
            let stopped = finishes
                .iter()
                .rfind(|finish| finish.request.task_id == *id)
                .is_some_and(|finish| finish.message().contains("shutting down"));
            if stopped {
                self.give(Wish::Sync, None, None);
            }
        }
    }

    // Faults.

    fn strike(&mut self, strike: Strike) {
        let number = self.blows.len();
        self.blows.push(Blow {
            kind: kind(&strike.blow),
            excuse: Excuse::of(&strike.blow),
            // A task may end before the fault that spoilt it does; what did nothing is found out later.
            fired: 0,
        });
        let scene = Arc::clone(&self.scene);
        let storm = Storm {
            seed: self.plan.seed,
            strikes: vec![strike],
        };
        self.storm.push(Box::pin(async move {
            (number, storm.pass(&scene.directory, &scene.cloud).await)
        }));
    }

    /// Lets the faults go on for a moment.
    async fn weather(&mut self) {
        let end = Instant::now() + TICK;
        while let Ok(Some((number, damage))) = timeout_at(end, self.storm.next()).await {
            self.blows[number].fired = damage.total();
            for given in &mut self.given {
                given.cancelled |= damage.cancelled.contains(&given.id);
            }
        }
        tokio::time::sleep_until(end).await;
    }

    /// No fault any more.
    async fn calm(&mut self) {
        // They last two seconds at most.
        while !self.storm.is_empty() {
            self.weather().await;
        }
        Storm::calm(&self.scene.directory, &self.scene.cloud);
    }

    // Changes by somebody else.

    fn change(&mut self) {
        self.figures.moves += 1;
        let Self {
            history,
            random,
            protected,
            theirs,
            scene,
            ..
        } = self;
        let number = random.u32(..);
        scene.directory.edit(|tenant| {
            let before = Truth::of(tenant);
            history.look(SystemClock.now(), facts(&before));
            let free: Vec<Id> = theirs.difference(protected).copied().collect();
            if let Some(new) = somebody_changes(tenant, &before, random, &free, protected, number) {
                theirs.insert(new);
            }
            let after = Truth::of(tenant);
            theirs.retain(|id| after.users.contains_key(id));
            history.look(SystemClock.now(), facts(&after));
        });
    }

    // Stories.

    async fn storm(
        &mut self,
        mut daemon: Daemon,
        orders: &[Order],
        weather: &[(Moment, Strike)],
        deaths: &[Death],
        moves: Option<Duration>,
    ) -> Daemon {
        let mut orders = orders.to_vec();
        orders.sort_by_key(|order| order.at);
        orders.reverse();
        let mut weather = weather.to_vec();
        let first = self.scene.directory.requests_total();
        let mut deaths = deaths.iter();
        let mut death = deaths.next();
        let mut started = (Instant::now(), self.scene.directory.requests_total());
        let mut next_move = Duration::ZERO;
        let mut next_look = Duration::ZERO;
        loop {
            self.weather().await;
            let now = self.elapsed();
            while let Some(order) = orders.pop_if(|order| order.at <= now) {
                self.give(order.wish, order.cancel, order.again);
            }
            let requests = self.scene.directory.requests_total() - first;
            let (due, later) = weather.into_iter().partition(|(when, _)| match when {
                Moment::Requests(count) => requests >= *count,
                Moment::Time(after) => now >= *after,
            });
            weather = later;
            for (_, strike) in due as Vec<_> {
                self.strike(strike);
            }
            self.attend();
            if let Some(every) = moves
                && now >= next_move
                && self.figures.moves < MOST_MOVES
            {
                next_move = now + every;
                self.change();
            }
            if now >= next_look {
                next_look = now + Duration::from_millis(100);
                self.look();
            }
            let is_due = death.is_some_and(|death| match death.when {
                Moment::Requests(count) => {
                    self.scene.directory.requests_total() >= started.1 + count
                }
                Moment::Time(after) => started.0.elapsed() >= after,
            });
            if is_due && let Some(due) = death {
                death = deaths.next();
                daemon = self.die(daemon, due).await;
                started = (Instant::now(), self.scene.directory.requests_total());
            }
            if daemon.has_ended() {
                let exit = daemon.ended_leaving().await;
                self.ended(exit, false, false, Duration::ZERO);
                daemon = self.launch().start();
                self.figures.restarts += 1;
            }
            self.succeed();
            let is_over = orders.is_empty()
                && self
                    .given
                    .iter()
                    .all(|given| self.is_answered(given) && given.again.is_none());
            if is_over || now > LIFE {
                return daemon;
            }
        }
    }

    /// Ends the process and starts another one.
    async fn die(&mut self, daemon: Daemon, death: &Death) -> Daemon {
        self.stop(daemon, death.signal).await;
        sleep(death.rest).await;
        if !death.lease {
            for given in &self.given {
                let state = self.scene.cloud.task(&given.id);
                if state.is_some_and(|state| matches!(state.stage, Stage::Leased { .. })) {
                    self.scene.cloud.deliver_again(&given.id);
                }
            }
        }
        self.figures.restarts += 1;
        self.launch().start()
    }

    async fn stop(&mut self, daemon: Daemon, signal: Signal) {
        let begun = Instant::now();
        daemon.signal(signal);
        let exit = daemon.ended_leaving().await;
        let is_kill = signal == Signal::KILL;
        if is_kill {
            self.figures.kills += 1;
        } else {
            self.figures.terms += 1;
        }
        self.ended(exit, is_kill, !is_kill, begun.elapsed());
        // What the simulator still works on for a client that is gone.
        sleep(Duration::from_millis(20)).await;
    }

    fn ended(&mut self, exit: Exit, killed: bool, asked: bool, took: Duration) {
        self.ends.push(Ended {
            killed,
            asked,
            refused: exit.stderr.contains("refused this connector at start"),
            code: exit.code,
            took,
            limit: GRACE + SLACK,
        });
        self.exits.push(exit);
    }

    async fn resume(
        &mut self,
        daemon: Daemon,
        at: f64,
        signal: Signal,
        other_task: bool,
    ) -> Daemon {
        let before = self.scene.directory.requests_total();
        self.sync_in_peace().await;
        let calm = self.scene.directory.requests_total() - before;
        let first = self.give(Wish::Sync, None, None);
        let from = self.scene.directory.requests_total();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a small number"
        )]
        let target = 1 + (at * calm as f64) as u64;
        let id = self.given[first].id.clone();
        while self.scene.directory.requests_total() < from + target {
            if self.is_answered(&self.given[first]) || self.elapsed() > LIFE {
                // It was over before its time came.
                return daemon;
            }
            sleep(Duration::from_millis(1)).await;
        }
        self.stop(daemon, signal).await;
        let succeeded =
            |finish: &conductorone::Finish| finish.request.task_id == id && finish.is_success();
        if self.scene.cloud.finishes().iter().any(succeeded) {
            // It came to its end within the grace.
            return self.restart();
        }
        let spent = self.scene.directory.requests_total() - from;
        let from = self.scene.directory.requests_total();
        let was_stopped = self.is_answered(&self.given[first]);
        let next = if other_task || was_stopped {
            // ConductorOne has given it up and asks for another one.
            self.scene.cloud.give_up(&id);
            self.given[first].abandoned = !was_stopped;
            self.give(Wish::Sync, None, None)
        } else {
            self.scene.cloud.deliver_again(&id);
            first
        };
        let daemon = self.restart();
        self.wait_for(next).await;
        if self.is_answered(&self.given[next]) {
            let again = self.scene.directory.requests_total() - from;
            self.figures.resumed = Some((calm, spent, again));
        }
        daemon
    }

    fn restart(&mut self) -> Daemon {
        self.figures.restarts += 1;
        self.launch().start()
    }

    async fn wait_for(&self, index: usize) {
        while !self.is_answered(&self.given[index]) && self.elapsed() < LIFE {
            sleep(TICK).await;
        }
    }

    /// One sync that must end well.
    async fn sync_in_peace(&mut self) {
        let index = self.give(Wish::Sync, None, None);
        self.given[index].is_calm = true;
        self.wait_for(index).await;
    }

    // The end.

    /// Syncs until nothing is left of the faults, then ends the process and looks at everything.
    async fn end(mut self, daemon: Daemon, at_rest_before: Held) -> Lived {
        for round in 0..LAST_SYNCS {
            self.begun = Instant::now();
            self.look();
            let is_last = round + 1 == LAST_SYNCS;
            let index = self.give(Wish::Sync, None, None);
            // A fault that was never met may still be waiting for the first few.
            self.given[index].is_calm = is_last || self.blows.is_empty();
            self.wait_for(index).await;
            let id = &self.given[index].id;
            let finishes = self.scene.cloud.finishes();
            if finishes
                .iter()
                .any(|finish| finish.request.task_id == *id && finish.is_success())
            {
                break;
            }
        }
        self.look();
        let at_last = at_rest(&daemon).await;
        let mut left = self.undocumented("idle");
        self.stop(daemon, Signal::TERM).await;
        left.extend(self.undocumented("ended"));
        for path in entries(&self.scene.path("tmp")) {
            left.push(format!("tmp: {}", path.display()));
        }
        let observed = self.observe(at_rest_before, at_last, left).await;
        let logs = self.exits.iter().map(|exit| exit.stderr.clone()).collect();
        Lived {
            observed,
            figures: self.figures,
            logs,
        }
    }

    fn undocumented(&self, when: &str) -> Vec<String> {
        entries(&self.scene.work_dir())
            .into_iter()
            .filter(|path| {
                let name = path.file_name().unwrap_or_default();
                // A sync that failed for now waits there for the next attempt.
                !path.join("sync.json").exists()
                    && !DOCUMENTED.iter().any(|documented| name == *documented)
            })
            .map(|path| format!("{when}: {}", path.display()))
            .collect()
    }

    async fn observe(&mut self, at_rest: Held, at_last: Held, left: Vec<String>) -> Observed {
        let cloud = &self.scene.cloud;
        let finishes = cloud.finishes();
        let writes = self.scene.directory.writes();
        let mut broken = std::mem::take(&mut self.broken);
        let tasks: Vec<Asked> = self
            .given
            .iter()
            .map(|given| {
                let state = cloud.task(&given.id).unwrap();
                let answers = finishes
                    .iter()
                    .filter(|finish| finish.request.task_id == given.id && !finish.repeated)
                    .map(|finish| Answer {
                        code: if finish.is_success() {
                            0
                        } else {
                            finish.code().max(1)
                        },
                        message: finish.message().to_owned(),
                        is_final: finish.is_non_retryable(),
                    })
                    .collect();
                let (writes, is_so) = match (given.wish, given.about) {
                    (Wish::Sync, _) => (0, true),
                    (Wish::Account, _) => {
                        let user = self.scene.directory.user_by_username(&given.login);
                        (usize::from(user.is_some()), user.is_some())
                    }
                    (wish, Some((group, user))) => {
                        let operation = if wish == Wish::Grant { "add" } else { "remove" };
                        let count = writes
                            .recent
                            .iter()
                            .filter(|write| {
                                write.endpoint == "POST /api/v2/usergroups/{id}/members"
                                    && write.ids.contains(&group)
                                    && write.ids.contains(&user)
                                    && write.changed.iter().any(|what| what == operation)
                            })
                            .count();
                        let is_member = self.scene.directory.is_member(group, user);
                        (count, is_member == (wish == Wish::Grant))
                    }
                    (_, None) => (0, false),
                };
                Asked {
                    id: given.id.clone(),
                    wish: given.wish,
                    answers,
                    deliveries: state.deliveries,
                    cancelled: given.cancelled,
                    abandoned: given.abandoned,
                    is_calm: given.is_calm,
                    writes,
                    is_so,
                }
            })
            .collect();
        let mut passwords = Vec::new();
        for task in &tasks {
            if task.wish == Wish::Account && task.answers.last().is_some_and(Answer::is_success) {
                match cloud.reveal(&task.id) {
                    Ok(secrets) => passwords.extend(
                        secrets
                            .iter()
                            .map(|revealed| revealed.secret.expose_secret().to_owned()),
                    ),
                    Err(error) => broken.push(format!("a password cannot be opened: {error:#}")),
                }
            }
        }
        let (files, unreadable) = read(cloud.uploads(), self.scene.path("cwd")).await;
        let was_repeated = tasks.iter().any(|task| task.deliveries > 1);
        let breaches = cloud
            .breaches()
            .into_iter()
            .map(|breach| breach.to_string())
            // The simulator counts heartbeats and uploads from the last delivery on; what the first one did is gone.
            .filter(|text| !(was_repeated && text.contains("without a verified upload")))
            .collect();
        let panics = self
            .exits
            .iter()
            .flat_map(|exit| exit.stderr.lines())
            .filter(|line| line.contains("panicked"))
            .map(str::to_owned)
            .collect();
        Observed {
            tasks,
            files,
            unreadable,
            history: self.history.clone(),
            breaches,
            blows: self.blows.clone(),
            ends: self.ends.clone(),
            accounts_made: writes.count("POST /api/systemusers"),
            at_rest,
            at_last,
            left,
            panics,
            shown: self.shown(&passwords),
            broken,
        }
    }

    /// Where one of these can be read: in what the processes said, and in the files that they left.
    fn shown(&self, passwords: &[String]) -> Vec<String> {
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        for (number, exit) in self.exits.iter().enumerate() {
            texts.insert(format!("the log of process {number}"), exit.stderr.clone());
        }
        let mut todo = vec![
            self.scene.work_dir(),
            self.scene.path("tmp"),
            self.scene.path(AUDIT_LOG),
        ];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(entries(&path));
            } else if let Ok(bytes) = std::fs::read(&path) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                texts.insert(path.display().to_string(), text);
            }
        }
        let secret = self.scene.cloud.client_secret_text();
        let mut secrets: Vec<&str> = passwords.iter().map(String::as_str).collect();
        secrets.extend([FULL_KEY, secret]);
        texts
            .into_iter()
            .filter(|(_, text)| secrets.iter().any(|secret| text.contains(secret)))
            .map(|(place, _)| place)
            .collect()
    }
}

async fn read(
    uploads: Vec<conductorone::Upload>,
    folder: std::path::PathBuf,
) -> (Vec<Said>, Vec<String>) {
    tokio::task::spawn_blocking(move || {
        let (mut files, mut unreadable) = (Vec::new(), Vec::new());
        for upload in uploads.iter().filter(|upload| upload.summary.is_some()) {
            match Said::read(&upload.task_id, Path::new(&upload.path), &folder) {
                Ok(said) => files.push(said),
                Err(problem) => unreadable.push(format!("task {}: {problem}", upload.task_id)),
            }
        }
        (files, unreadable)
    })
    .await
    .unwrap()
}

/// One change as an administrator makes it, of what no task is about; the user that is new.
fn somebody_changes(
    tenant: &mut Tenant,
    truth: &Truth,
    random: &mut Rng,
    users: &[Id],
    protected: &BTreeSet<Id>,
    number: u32,
) -> Option<Id> {
    let mut groups = tenant.group_ids();
    groups.retain(|id| !protected.contains(id));
    let apps = tenant.app_ids();
    let toggled = |of: &BTreeSet<Id>, user: Id| -> Vec<Id> {
        let mut of = of.clone();
        if !of.remove(&user) {
            of.insert(user);
        }
        of.into_iter().collect()
    };
    let user = random.choice(users).copied()?;
    let group = random.choice(&groups).copied()?;
    let app = random.choice(&apps).copied()?;
    match random.u8(0..10) {
        0 | 1 => return Some(tenant.add_user(NewUser::default()).unwrap()),
        2 if users.len() > 20 => tenant.remove_user(user).unwrap(),
        3 if users.len() > 20 => tenant.remove_user_leaving_edges(user).unwrap(),
        4 => {
            let new = tenant.add_group(&format!("Moving {number:08x}"), MembershipMethod::Static);
            tenant.set_members(new, &[user]).unwrap();
        }
        5 if groups.len() > 3 => tenant.remove_group(group).unwrap(),
        6 => {
            let bound = &truth.apps[&app];
            let groups: Vec<Id> = bound.groups.iter().copied().collect();
            let users = toggled(&bound.users, user);
            tenant.set_app_bindings(app, &groups, &users).unwrap();
        }
        _ => {
            let members = toggled(&truth.groups[&group].members, user);
            tenant.set_members(group, &members).unwrap();
        }
    }
    None
}
