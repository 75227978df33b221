//! One daemon for a long time: what it holds must not grow.
//!
//! `make soak MINUTES=20` gives the static binary of the image work without a pause for so long, with a modest rate of
//! faults and with rotated credentials, and looks at its memory every five seconds and between two tasks. Before that it
//! lives a day in fast motion: as many syncs, changes and token renewals as a day with a sync every two minutes has;
//! `MINUTES=0` does that alone. Figures, not times, are judged. The report is in `target/soak`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use baton_jumpcloud::{
    proto::baton::task::SyncFullTask,
    sim::{
        conductorone::{Config, full_sync, tasks},
        jumpcloud::{Id, Shape, Tenant},
    },
};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::time::{Instant, interval, sleep};

use crate::{
    chaos::{DOCUMENTED, KEPT_OPEN},
    daemon::{Daemon, PATIENCE, Scene, entries},
};

/// Between two samples of a soak in real time.
const EVERY: Duration = Duration::from_secs(5);
/// The longest part of a soak that does not count.
const WARM_UP: Duration = Duration::from_mins(5);
/// How much memory may grow from the first to the last third of the samples that count. What is resident wanders by a tenth
/// within seconds, so that the ends alone say little.
const MOST_GROWTH: f64 = 0.02;
/// How many idle sockets more than at first: kept connections come and go.
const SPARE_SOCKETS: usize = 9;
/// Fewer samples prove nothing.
const ENOUGH: usize = 12;
/// A sync every two minutes.
const SYNCS_OF_A_DAY: usize = 720;
/// Tokens live for an hour, and are renewed before their end.
const TOKENS_OF_A_DAY: usize = 24;

/// One look at the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    second: u64,
    /// Nothing is to be done at this moment.
    idle: bool,
    rss_kib: u64,
    pss_kib: u64,
    threads: u64,
    /// Descriptors that are no sockets.
    files: usize,
    sockets: usize,
    /// Files and folders that no documentation names.
    temporary: usize,
}

impl Sample {
    fn take(scene: &Scene, daemon: &Daemon, begun: Instant, idle: bool) -> Self {
        let held = daemon.held(&KEPT_OPEN);
        let sockets = held.files.get("socket").copied().unwrap_or_default();
        let left = entries(&scene.work_dir()).into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default();
            !DOCUMENTED.iter().any(|documented| name == *documented)
        });
        Self {
            second: begun.elapsed().as_secs(),
            idle,
            rss_kib: held.rss_kib,
            pss_kib: held.pss_kib,
            threads: held.threads,
            files: held.files.values().sum::<usize>() - sockets,
            sockets,
            temporary: left.count() + entries(&scene.path("tmp")).len(),
        }
    }
}

fn median(samples: &[&Sample]) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(|sample| sample.rss_kib).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What the samples say: the memory held at first and at last, and what must not be.
#[derive(Debug)]
struct Verdict {
    samples: usize,
    first_kib: u64,
    last_kib: u64,
    most_kib: u64,
    problems: Vec<String>,
}

impl Verdict {
    #[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
    fn growth(&self) -> f64 {
        self.last_kib as f64 / self.first_kib.max(1) as f64 - 1.0
    }

    /// Judges what was seen after the warm-up.
    fn of(samples: &[Sample]) -> Self {
        let idle: Vec<&Sample> = samples.iter().filter(|sample| sample.idle).collect();
        let third = idle.len() / 3;
        let mut verdict = Self {
            samples: idle.len(),
            first_kib: median(&idle[..third]),
            last_kib: median(&idle[idle.len() - third..]),
            most_kib: samples
                .iter()
                .map(|sample| sample.rss_kib)
                .max()
                .unwrap_or(0),
            problems: Vec::new(),
        };
        let mut problems = Vec::new();
        if idle.len() < ENOUGH {
            problems.push(format!("{} samples prove nothing", idle.len()));
        }
        if verdict.growth() >= MOST_GROWTH {
            problems.push(format!(
                "memory grew by {:.1} %, from {} to {} KiB",
                verdict.growth() * 100.0,
                verdict.first_kib,
                verdict.last_kib
            ));
        }
        if let Some(first) = idle.first() {
            for sample in &idle {
                let second = sample.second;
                if sample.files != first.files {
                    problems.push(format!(
                        "{} open files at second {second}, {} at first",
                        sample.files, first.files
                    ));
                }
                if sample.sockets > first.sockets + SPARE_SOCKETS {
                    problems.push(format!(
                        "{} sockets at second {second}, {} at first",
                        sample.sockets, first.sockets
                    ));
                }
                if sample.temporary > 0 {
                    problems.push(format!(
                        "{} temporary files at second {second}",
                        sample.temporary
                    ));
                }
            }
        }
        verdict.problems = problems;
        verdict
    }
}

/// The environment that the image gives its program, but for the folder.
fn of_image() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("../../Dockerfile")
        .lines()
        .filter_map(|line| line.strip_prefix("ENV ")?.split_once('='))
        .filter(|(name, _)| *name != "TMPDIR")
}

/// A daemon with work, and what was seen of it.
struct Soak {
    scene: Scene,
    daemon: Daemon,
    begun: Instant,
    samples: Vec<Sample>,
    group: Id,
    users: Vec<Id>,
    syncs: usize,
    changes: usize,
    rotations: usize,
}

impl Soak {
    async fn start(config: Config, shape: Shape, binary: Option<&Path>) -> Self {
        let scene = Scene::of(config, shape).await;
        let launch = scene
            .service()
            .switch("provisioning")
            .flag("audit-log", scene.path(crate::chaos::AUDIT_LOG))
            .flag("credentials-interval", "1s")
            .flag("log-level", "info");
        let launch = match binary {
            Some(path) => of_image().fold(launch.program(path), |launch, (name, value)| {
                launch.variable(name, value)
            }),
            None => launch,
        };
        let daemon = scene.serving(launch).await;
        let truth = scene.directory.truth();
        let group = scene.directory.inspect(Tenant::group_ids).unwrap()[0];
        let users = truth
            .users
            .iter()
            .filter(|(id, facts)| {
                facts.status == "active" && !truth.groups[&group].members.contains(id)
            })
            .map(|(id, _)| *id)
            .take(50)
            .collect();
        Self {
            scene,
            daemon,
            begun: Instant::now(),
            samples: Vec::new(),
            group,
            users,
            syncs: 0,
            changes: 0,
            rotations: 0,
        }
    }

    async fn sync(&mut self) {
        let task = self.scene.cloud.enqueue(full_sync(SyncFullTask::default()));
        self.scene.expect_truth(&task).await;
        self.syncs += 1;
    }

    /// Gives a user the group and takes it away again.
    async fn change(&mut self) {
        let user = self.users[self.changes % self.users.len()].to_string();
        let group = self.group.to_string();
        let bare = |kind: &str, id: &str| baton_jumpcloud::proto::connector::Resource {
            id: Some(tasks::resource_id(kind, id)),
            ..Default::default()
        };
        let entitlement = baton_jumpcloud::proto::connector::Entitlement {
            id: format!("group:{group}"),
            resource: Some(bare("group", &group)),
            ..Default::default()
        };
        let grant = baton_jumpcloud::proto::connector::Grant {
            id: format!("group-grant:{group}:user:{user}:{group}"),
            entitlement: Some(entitlement.clone()),
            principal: Some(bare("user", &user)),
            ..Default::default()
        };
        for task in [
            tasks::grant(entitlement, bare("user", &user)),
            tasks::revoke(grant),
        ] {
            let task = self.scene.cloud.enqueue(task);
            let finish = self.scene.finish(&task).await;
            assert!(finish.is_success(), "{}", finish.message());
        }
        self.changes += 1;
    }

    /// Another client secret in the file; the old one ends when the new one is in use.
    async fn rotate(&mut self) {
        let secret = self.scene.cloud.rotate_secret().unwrap();
        let path = self.scene.path("client-secret");
        let fresh = self.scene.path("client-secret.new");
        fs::write(&fresh, secret.expose_secret()).unwrap();
        fs::rename(&fresh, &path).unwrap();
        self.rotations += 1;
        let begun = Instant::now();
        while self.daemon.count("rotated credentials are in use") < self.rotations {
            assert!(begun.elapsed() < PATIENCE, "the new secret is not in use");
            sleep(Duration::from_millis(100)).await;
        }
        self.scene.cloud.retire_secrets();
    }

    fn look(&mut self, idle: bool) {
        let sample = Sample::take(&self.scene, &self.daemon, self.begun, idle);
        self.samples.push(sample);
    }

    /// Waits until what was just done is over for the daemon too, and looks.
    async fn rest(&mut self) {
        sleep(Duration::from_millis(300)).await;
        self.look(true);
    }

    /// Ends the daemon; judges the samples from this one on.
    async fn end(self, name: &str, warm: usize) -> (Verdict, String, serde_json::Value) {
        let warm = warm.min(self.samples.len());
        let verdict = Verdict::of(&self.samples[warm..]);
        let tokens = self.scene.cloud.token_requests().len();
        let hellos = self.scene.cloud.hellos().len();
        let heartbeats = self.scene.cloud.heartbeats().len();
        let seconds = self.begun.elapsed().as_secs();
        self.daemon.signal(rustix::process::Signal::TERM);
        self.daemon.ended_leaving().await.expect(0);
        self.scene.cloud.assert_clean();
        let last = self.samples.last();
        let mut text = String::new();
        writeln!(
            text,
            "{name}: {seconds} s, {} syncs, {} grants and as many revocations, {} rotations, {tokens} tokens, {heartbeats} \
             heartbeats, {hellos} hello",
            self.syncs, self.changes, self.rotations
        )
        .unwrap();
        writeln!(
            text,
            "  memory held after the warm-up ({} samples): {:.1} MiB at first, {:.1} MiB at last ({:+.2} %), at most {:.1} MiB",
            verdict.samples,
            mib(verdict.first_kib),
            mib(verdict.last_kib),
            verdict.growth() * 100.0,
            mib(verdict.most_kib)
        )
        .unwrap();
        if let Some(last) = last {
            writeln!(
                text,
                "  at the end: Pss {:.1} MiB, {} threads, {} files, {} sockets, {} temporary files",
                mib(last.pss_kib),
                last.threads,
                last.files,
                last.sockets,
                last.temporary
            )
            .unwrap();
        }
        for problem in &verdict.problems {
            writeln!(text, "  PROBLEM {problem}").unwrap();
        }
        let samples: Vec<serde_json::Value> = self
            .samples
            .iter()
            .map(|sample| {
                json!({
                    "second": sample.second, "idle": sample.idle, "rss_kib": sample.rss_kib,
                    "pss_kib": sample.pss_kib, "threads": sample.threads, "files": sample.files,
                    "sockets": sample.sockets, "temporary": sample.temporary,
                })
            })
            .collect();
        let json = json!({
            "name": name, "seconds": seconds, "syncs": self.syncs, "grants": self.changes,
            "rotations": self.rotations, "tokens": tokens, "hellos": hellos, "warm_up_samples": warm,
            "first_kib": verdict.first_kib, "last_kib": verdict.last_kib, "growth": verdict.growth(),
            "problems": verdict.problems, "samples": samples,
        });
        (verdict, text, json)
    }
}

#[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn quick() -> Config {
    Config {
        next_poll: Some(Duration::from_millis(100)),
        inspect_rows: false,
        ..Config::default()
    }
}

/// A day with a sync every two minutes, without the time in between.
async fn day(binary: Option<&Path>, syncs: usize) -> (Verdict, String, serde_json::Value) {
    let config = Config {
        // The daemon renews at two thirds of it, or when it is asked again.
        token_life: Duration::from_secs(4),
        ..quick()
    };
    let mut soak = Soak::start(config, Shape::default(), binary).await;
    for number in 0..syncs {
        soak.sync().await;
        if number % 6 == 0 {
            soak.change().await;
        }
        soak.rest().await;
    }
    assert_eq!(soak.scene.cloud.hellos().len(), 1, "a restart");
    soak.end("a day in fast motion", syncs / 4).await
}

/// Work without a pause for so long.
async fn real_time(binary: Option<&Path>, time: Duration) -> (Verdict, String, serde_json::Value) {
    let shape = Shape {
        users: 1000,
        groups: 50,
        members_per_group: 40,
        apps: 20,
        ..Shape::default()
    };
    let mut soak = Soak::start(quick(), shape, binary).await;
    let mut ticks = interval(EVERY);
    let warm_up = WARM_UP.min(time / 4);
    let mut warm = None;
    let mut cycle = 0_u64;
    while soak.begun.elapsed() < time {
        if warm.is_none() && soak.begun.elapsed() >= warm_up {
            warm = Some(soak.samples.len());
        }
        let rules = [
            "GET *@every101:503",
            "GET *@every157:reset-mid-body",
            "GET *@every211:429",
        ];
        soak.scene.directory.change_behaviour(|behaviour| {
            behaviour.latency = Duration::from_millis(3);
            behaviour.faults = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        });
        match cycle % 12 {
            3 => soak.scene.cloud.goaway(),
            6 => soak.scene.cloud.revoke_tokens(),
            9 => soak.scene.cloud.outage_for(Duration::from_millis(300)),
            11 => soak.rotate().await,
            _ => {}
        }
        {
            // The clock of the samples goes on while the tasks are waited for.
            let Soak {
                scene,
                daemon,
                begun,
                samples,
                ..
            } = &mut soak;
            let task = scene.cloud.enqueue(full_sync(SyncFullTask::default()));
            let mut truth = std::pin::pin!(scene.expect_truth(&task));
            loop {
                tokio::select! {
                    biased;
                    _ = &mut truth => break,
                    _ = ticks.tick() => samples.push(Sample::take(scene, daemon, *begun, false)),
                }
            }
        }
        soak.syncs += 1;
        soak.change().await;
        cycle += 1;
        soak.rest().await;
    }
    soak.end("real time", warm.unwrap_or_default()).await
}

fn report(parts: &[(Verdict, String, serde_json::Value)]) -> (String, Vec<String>) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("soak");
    fs::create_dir_all(&folder).unwrap();
    let text: String = parts.iter().map(|(_, text, _)| text.as_str()).collect();
    let json: Vec<&serde_json::Value> = parts.iter().map(|(.., json)| json).collect();
    let json = serde_json::to_string_pretty(&json).unwrap();
    fs::write(folder.join("report.json"), json + "\n").unwrap();
    fs::write(folder.join("report.txt"), &text).unwrap();
    let problems = parts
        .iter()
        .flat_map(|(verdict, ..)| verdict.problems.clone())
        .collect();
    (text, problems)
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long, and which build, comes from the person who runs it"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long; make soak runs it"]
async fn a_daemon_for_a_long_time() {
    let binary = variable("BATON_SOAK_BINARY").map(PathBuf::from);
    let minutes: u64 = variable("BATON_SOAK_MINUTES").map_or(20, |text| text.parse().unwrap());
    let day = day(binary.as_deref(), SYNCS_OF_A_DAY).await;
    println!("{}", day.1);
    assert!(day.2["tokens"].as_u64() >= Some(TOKENS_OF_A_DAY as u64));
    let mut parts = vec![day];
    if minutes > 0 {
        let real = real_time(binary.as_deref(), Duration::from_mins(minutes)).await;
        println!("{}", real.1);
        parts.push(real);
    }
    let (_, problems) = report(&parts);
    assert!(problems.is_empty(), "{problems:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_day_leaves_nothing_open_and_nothing_behind() {
    let (verdict, text, _) = day(None, 5).await;
    let problems: Vec<&String> = verdict
        .problems
        .iter()
        // So few samples say nothing about memory.
        .filter(|problem| !problem.contains("memory grew") && !problem.contains("prove nothing"))
        .collect();
    assert!(problems.is_empty(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Sample> {
        (0..40)
            .map(|number| Sample {
                second: number * 5,
                idle: number % 2 == 0,
                rss_kib: 50_000 + number % 3,
                pss_kib: 49_000,
                threads: 9,
                files: 7,
                sockets: 5,
                temporary: usize::from(number % 2 != 0),
            })
            .collect()
    }

    fn problems(spoil: impl FnOnce(&mut Vec<Sample>)) -> Vec<String> {
        let mut samples = samples();
        spoil(&mut samples);
        Verdict::of(&samples).problems
    }

    #[test]
    fn what_stays_the_same_is_good() {
        assert_eq!(problems(|_| {}), Vec::<String>::new());
        // Once is no trend.
        assert_eq!(
            problems(|samples| samples[39].rss_kib = 90_000),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_grows_is_found() {
        for (words, spoil) in [
            (
                "memory grew by 3",
                (|samples| {
                    for (number, sample) in (0..).zip(samples.iter_mut()) {
                        sample.rss_kib += number * 60;
                    }
                }) as fn(&mut Vec<Sample>),
            ),
            ("8 open files at second 180", |samples| {
                samples[36].files = 8
            }),
            ("15 sockets at second 180", |samples| {
                samples[36].sockets = 15
            }),
            ("1 temporary files at second 180", |samples| {
                samples[36].temporary = 1
            }),
            ("prove nothing", |samples| samples.truncate(16)),
            ("prove nothing", |samples| {
                samples.iter_mut().for_each(|sample| sample.idle = false)
            }),
        ] {
            let problems = problems(spoil);
            assert_eq!(problems.len(), 1, "{words}: {problems:?}");
            assert!(problems[0].contains(words), "{words}: {problems:?}");
        }
    }
}
