//! Who is tried when, in paused time, with a peer that is a list of texts.

use std::sync::{Mutex, PoisonError};

use secrecy::SecretString;
use tokio::time::sleep;

use super::*;
use crate::{
    clock::{SystemClock, paused},
    config::{Level, Log, LogFormat, ManualSource},
    telemetry,
};

const SECRET: &str = "client-secret";

fn texts(entries: &[(&'static str, &str)]) -> Texts {
    let texts = entries
        .iter()
        .map(|(name, text)| (*name, SecretString::from(*text)));
    Texts(texts.collect())
}

fn joined(texts: &Texts) -> String {
    let texts = texts.0.values().map(SecretString::expose_secret);
    texts.collect::<Vec<_>>().join("+")
}

/// Accepts these texts; all else is rejected, or without verdict.
#[derive(Debug, Default)]
struct Judge {
    accepts: Vec<String>,
    is_away: bool,
    tried: Vec<String>,
}

#[derive(Clone, Default)]
struct Bench(Arc<Mutex<Judge>>);

impl Bench {
    fn with<R>(&self, change: impl FnOnce(&mut Judge) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn accept(&self, text: &str) {
        self.with(|judge| judge.accepts.push(text.to_owned()));
    }

    fn tried(&self) -> Vec<String> {
        self.with(|judge| std::mem::take(&mut judge.tried))
    }
}

#[async_trait]
impl Trial for Bench {
    async fn attempt(&self, _peer: Peer, texts: &Texts) -> Result<(), Refusal> {
        let text = joined(texts);
        self.with(|judge| {
            judge.tried.push(text.clone());
            if judge.is_away {
                Err(Refusal::Undecided("away".to_owned()))
            } else if judge.accepts.contains(&text) {
                Ok(())
            } else {
                Err(Refusal::Rejected("unknown".to_owned()))
            }
        })
    }
}

/// A rotation over one watched pair of texts for ConductorOne.
struct Scene {
    bench: Bench,
    health: Arc<Health>,
    notices: tokio::sync::broadcast::Receiver<Notice>,
    secret: watch::Sender<Option<Arc<Texts>>>,
    standing: watch::Sender<Standing>,
    metrics: Metrics,
    shutdown: CancellationToken,
}

impl Scene {
    fn start() -> (Self, impl Future<Output = ()>) {
        let bench = Bench::default();
        let (scene, run) = Self::judged_by(bench.clone());
        (Self { bench, ..scene }, run)
    }

    fn judged_by(trial: impl Trial + 'static) -> (Self, impl Future<Output = ()>) {
        let health = Arc::new(Health::new());
        health.start();
        let notices = Notices::new();
        let listener = notices.listen();
        let (secret, watched) = watch::channel(None);
        let (standing, standing_seen) = watch::channel(Standing::default());
        let metrics = Metrics::default();
        let shutdown = CancellationToken::new();
        let log = Log {
            level: Level::Error,
            format: LogFormat::Json,
            paths: Vec::new(),
        };
        let (_subscriber, control, _captured) =
            telemetry::capture(&log, &[], Arc::new(SystemClock));
        let rotation = Rotation {
            sides: [
                Side::new(
                    Peer::ConductorOne,
                    texts(&[("client-id", "id"), (SECRET, "old")]),
                ),
                Side::new(Peer::JumpCloud, texts(&[("api-key", "key")])),
            ],
            files: Files {
                secrets: Vec::new(),
                source: Arc::new(ManualSource::new()),
            },
            watched: Some(watched),
            standing: standing_seen,
            interval: Duration::from_secs(10),
            trial: Box::new(trial),
            tell: Tell {
                log: control,
                health: Arc::clone(&health),
                notices,
                metrics: metrics.clone(),
            },
        };
        let run = rotation.run(shutdown.clone());
        let scene = Self {
            bench: Bench::default(),
            health,
            notices: listener,
            secret,
            standing,
            metrics,
            shutdown,
        };
        (scene, run)
    }

    fn bring(&self, entries: &[(&'static str, &str)]) {
        self.secret.send_replace(Some(Arc::new(texts(entries))));
    }

    /// What the metric says of the rejection by any peer.
    fn rejected(&self) -> u64 {
        self.metrics
            .sum("baton_jumpcloud_credentials_rejected", &[])
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.notices.try_recv().ok()).collect()
    }
}

/// Runs a rotation beside what a test does with it.
async fn during(run: impl Future<Output = ()>, act: impl Future<Output = ()>) {
    tokio::select! {
        () = run => panic!("the rotation ended"),
        () = act => {}
    }
}

const MOMENT: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn accepted_texts_are_tried_once_and_told() {
    let (mut scene, run) = Scene::start();
    scene.bench.accept("id+new");
    during(run, async {
        scene.bring(&[(SECRET, "new")]);
        sleep(MOMENT).await;
        assert_eq!(scene.bench.tried(), ["id+new"]);
        sleep(Duration::from_mins(5)).await;
        assert!(scene.bench.tried().is_empty());
        assert!(scene.health.is_ready());
        let peer = Peer::ConductorOne;
        assert_eq!(scene.notices(), [Notice::CredentialsReplaced { peer }]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rejected_texts_make_unready_and_are_tried_again_until_they_are_accepted() {
    let (mut scene, run) = Scene::start();
    during(run, async {
        scene.bring(&[(SECRET, "new")]);
        sleep(Duration::from_secs(95)).await;
        let tried = scene.bench.tried();
        assert!((3..=4).contains(&tried.len()), "{tried:?}");
        assert!(!scene.health.is_ready());
        assert_eq!(scene.rejected(), 1);
        let told = scene.notices();
        assert!(
            matches!(told.as_slice(), [Notice::CredentialsRejected { .. }]),
            "once: {told:?}"
        );
        scene.bench.accept("id+new");
        sleep(Duration::from_secs(41)).await;
        assert!(scene.health.is_ready());
        assert_eq!(scene.rejected(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn going_back_to_the_old_texts_ends_the_fault() {
    let (scene, run) = Scene::start();
    during(run, async {
        scene.bring(&[(SECRET, "new")]);
        sleep(MOMENT).await;
        assert!(!scene.health.is_ready());
        scene.bring(&[(SECRET, "old")]);
        sleep(MOMENT).await;
        assert!(scene.health.is_ready());
        assert_eq!(scene.rejected(), 0);
        assert_eq!(scene.bench.tried(), ["id+new"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_verdict_nothing_is_lost_and_the_trial_is_repeated() {
    let (scene, run) = Scene::start();
    scene.bench.accept("id+new");
    scene.bench.with(|judge| judge.is_away = true);
    during(run, async {
        scene.bring(&[(SECRET, "new")]);
        sleep(Duration::from_secs(35)).await;
        assert!(scene.bench.tried().len() >= 2);
        assert!(scene.health.is_ready(), "an outage is no fault");
        scene.bench.with(|judge| judge.is_away = false);
        sleep(Duration::from_secs(21)).await;
        drop(scene.bench.tried());
        sleep(Duration::from_mins(2)).await;
        assert!(scene.bench.tried().is_empty(), "in use");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_peer_gets_its_own_texts_only() {
    let (scene, run) = Scene::start();
    scene.bench.accept("key2");
    during(run, async {
        scene.bring(&[("client-id", "id"), (SECRET, "old"), ("api-key", "key2")]);
        sleep(MOMENT).await;
        assert_eq!(scene.bench.tried(), ["key2"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_use_is_told_and_goes_with_the_next_success() {
    let (mut scene, run) = Scene::start();
    during(run, async {
        scene
            .standing
            .send_modify(|standing| standing.rejected = true);
        sleep(MOMENT).await;
        assert!(!scene.health.is_ready());
        assert_eq!(scene.notices().len(), 1);
        scene
            .standing
            .send_modify(|standing| standing.rejected = false);
        sleep(MOMENT).await;
        assert!(scene.health.is_ready());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_it() {
    let (scene, run) = Scene::start();
    scene.shutdown.cancel();
    run.await;
}

/// One trial, as the peer saw it.
#[derive(Debug, Clone)]
struct Tried {
    at: Instant,
    text: String,
    /// How often texts had been brought by then.
    age: usize,
    is_accepted: bool,
}

/// Peers that change their mind, and know what ought to be tried now.
#[derive(Debug, Default)]
struct Whim {
    wanted: [String; 2],
    age: usize,
    accepts: bool,
    is_away: bool,
    tried: [Vec<Tried>; 2],
}

#[async_trait]
impl Trial for Arc<Mutex<Whim>> {
    async fn attempt(&self, peer: Peer, texts: &Texts) -> Result<(), Refusal> {
        let text = joined(texts);
        let mut whim = self.lock().unwrap();
        let side = usize::from(peer == Peer::JumpCloud);
        assert_eq!(text, whim.wanted[side], "what is old, or another peer's");
        let verdict = match (whim.is_away, whim.accepts) {
            (true, _) => Err(Refusal::Undecided("away".to_owned())),
            (false, true) => Ok(()),
            (false, false) => Err(Refusal::Rejected("unknown".to_owned())),
        };
        let tried = Tried {
            at: Instant::now(),
            text,
            age: whim.age,
            is_accepted: verdict.is_ok(),
        };
        whim.tried[side].push(tried);
        verdict
    }
}

async fn lives_through(moves: &[(u8, u8, u64)]) {
    let first = ["id+old".to_owned(), "key".to_owned()];
    let whim = Arc::new(Mutex::new(Whim {
        wanted: first.clone(),
        ..Whim::default()
    }));
    let (mut scene, run) = Scene::judged_by(Arc::clone(&whim));
    let mut now = [("client-id", "id"), (SECRET, "old"), ("api-key", "key")];
    let count = || {
        let whim = whim.lock().unwrap();
        whim.tried.each_ref().map(Vec::len)
    };
    during(run, async {
        for (what, number, pause) in moves {
            match what {
                0..=2 => {
                    now[usize::from(*what)].1 = ["one", "two", "three"][usize::from(*number)];
                    let mut whim = whim.lock().unwrap();
                    whim.wanted = [format!("{}+{}", now[0].1, now[1].1), now[2].1.to_owned()];
                    whim.age += 1;
                    // A Secret is always seen whole.
                    scene.bring(&now);
                }
                3 => whim.lock().unwrap().accepts = true,
                4 => whim.lock().unwrap().accepts = false,
                _ => whim.lock().unwrap().is_away = *number > 0,
            }
            if *pause > 0 {
                sleep(Duration::from_millis(*pause)).await;
            }
        }
        {
            let mut whim = whim.lock().unwrap();
            (whim.accepts, whim.is_away) = (true, false);
        }
        sleep(REJECTED_AGAIN + Duration::from_secs(20)).await;
        let settled = count();
        sleep(Duration::from_mins(5)).await;
        assert_eq!(count(), settled, "what is in use is not tried again");
    })
    .await;
    assert!(scene.health.is_ready());
    assert_eq!(scene.rejected(), 0);
    let whim = whim.lock().unwrap();
    let mut accepted = 0;
    for (side, in_use) in first.iter().enumerate() {
        let mut in_use = in_use.as_str();
        let mut last: Option<&Tried> = None;
        for tried in &whim.tried[side] {
            assert_ne!(tried.text, in_use, "it is in use");
            if let Some(last) = last.filter(|last| last.age == tried.age) {
                assert!(tried.at - last.at >= UNDECIDED_AGAIN, "a peer is pressed");
            }
            last = Some(tried);
            if tried.is_accepted {
                in_use = &tried.text;
                accepted += 1;
            }
        }
        assert_eq!(in_use, whim.wanted[side]);
    }
    let replaced = |notice: &Notice| matches!(notice, Notice::CredentialsReplaced { .. });
    let told = scene
        .notices()
        .iter()
        .filter(|notice| replaced(notice))
        .count();
    assert_eq!(told, accepted);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_brought_and_answered_in_the_end_the_last_texts_are_in_use(
        moves in proptest::collection::vec((0_u8..6, 0_u8..3, 0_u64..25_000), 1..25),
        hurry in 0_u64..3,
    ) {
        // Several things may happen before anything is looked at.
        let moves: Vec<_> = moves
            .into_iter()
            .map(|(what, number, pause)| (what, number, if pause % 3 < hurry { 0 } else { pause }))
            .collect();
        paused(lives_through(&moves));
    }
}

mod files {
    use std::path::Path;

    use super::*;
    use crate::cli;

    /// Shows another content of a file from the second reading of the directory on.
    #[derive(Debug)]
    struct Torn {
        first: ManualSource,
        then: ManualSource,
        reads: Mutex<u32>,
    }

    impl Torn {
        fn current(&self) -> &ManualSource {
            let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
            *reads += 1;
            // Three files are read at a turn.
            if *reads <= 3 { &self.first } else { &self.then }
        }
    }

    impl Source for Torn {
        fn variable(&self, name: &str) -> Option<std::ffi::OsString> {
            self.first.variable(name)
        }
        fn variable_names(&self) -> Vec<String> {
            self.first.variable_names()
        }
        fn read(&self, path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
            self.current().read(path, limit)
        }
        fn kind(&self, path: &Path) -> std::io::Result<crate::config::source::PathKind> {
            self.first.kind(path)
        }
        fn check_writable(&self, directory: &Path) -> std::io::Result<()> {
            self.first.check_writable(directory)
        }
        fn temp_dir(&self) -> std::path::PathBuf {
            self.first.temp_dir()
        }
        fn host_name(&self) -> String {
            self.first.host_name()
        }
        fn is_terminal(&self) -> bool {
            false
        }
    }

    fn source(generation: u32) -> ManualSource {
        ManualSource::new()
            .with_variable("BATON_CLIENT_ID_FILE", "/c/id")
            .with_variable("BATON_CLIENT_SECRET_FILE", "/c/secret")
            .with_variable("BATON_API_KEY_FILE", "/c/key")
            .with_file("/c/id", format!("SECRETSEED-id-{generation}"))
            .with_file("/c/secret", format!("SECRETSEED-secret-{generation}\n"))
            .with_file("/c/key", format!("SECRETSEED-key-{generation}"))
    }

    fn files(start: &ManualSource, source: impl Source + 'static) -> Files {
        let Ok(cli::Command::Run(config)) = cli::parse([cli::NAME], start) else {
            panic!("a good configuration");
        };
        Files {
            secrets: config.credentials().into_iter().cloned().collect(),
            source: Arc::new(source),
        }
    }

    #[test]
    fn what_changed_is_reported_once() {
        let mut files = files(&source(1), source(2));
        let texts = files.read().unwrap().unwrap();
        assert_eq!(texts.0.len(), 3);
        assert_eq!(
            texts.0["client-secret"].expose_secret(),
            "SECRETSEED-secret-2"
        );
        assert!(files.read().unwrap().is_none());
    }

    #[test]
    fn a_reading_in_the_middle_of_an_update_is_thrown_away() {
        let torn = Torn {
            first: source(2).with_file("/c/secret", "SECRETSEED-secret-1"),
            then: source(2),
            reads: Mutex::new(0),
        };
        let mut files = files(&source(1), torn);
        assert!(files.read().unwrap().is_none());
        assert_eq!(files.read().unwrap().unwrap().0.len(), 3);
    }

    #[test]
    fn a_file_that_is_missing_is_named_and_changes_nothing() {
        let mut files = files(&source(1), ManualSource::new());
        let problem = files.read().unwrap_err().to_string();
        assert!(problem.contains("--client-id-file"), "{problem}");
    }
}
