//! What must never be seen: secrets anywhere, names and e-mails of people above debug level.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use baton_jumpcloud::config::ProvisioningMode;
use baton_jumpcloud::{
    admin::health::Health,
    c1z::{Reader, ResourceFilter},
    clock::SystemClock,
    config::{Level, Log, LogFormat},
    connector::{
        Connector,
        jumpcloud::{
            self, JumpCloud,
            client::{Auth, Client},
        },
    },
    control_plane::{self, GrpcControlPlane, credentials::Credentials},
    dispatch,
    error::chain,
    handlers::{self, Registry, full_sync},
    proto::{self, baton::task::SyncFullTask, connector as v2},
    sim::{
        conductorone::{self, ConductorOneSim},
        jumpcloud::{Collection, FULL_KEY, JumpCloudSim, Key, KeyRole, Shape},
    },
    telemetry::{self, metrics::Metrics},
};
use secrecy::SecretString;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::daemon::{PATIENCE, Scene};
use crate::dispatch::fakes::provisioning;

/// Has no form by which a redactor could know it.
const PLAIN_KEY: &str = "SECRETSEED-plain-0001";
const WRONG_KEY: &str = "SECRETSEED-wrong-0002";

/// Keeps what a program printed where the search at the end of `make test` finds it.
pub fn keep(output: &str) {
    static KEPT: AtomicUsize = AtomicUsize::new(0);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("test-output");
    fs::create_dir_all(&folder).unwrap();
    let number = KEPT.fetch_add(1, Ordering::Relaxed);
    let name = format!("program-{}-{number}.log", std::process::id());
    fs::write(folder.join(name), output).unwrap();
}

/// The plain forms of everything that is secret in a run against this server.
fn secrets_of(one: &ConductorOneSim) -> Vec<String> {
    let text = one.client_secret_text();
    let key = text.rsplit(':').next().unwrap();
    let json = {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(key)
            .unwrap()
    };
    let jwk: Value = serde_json::from_slice(&json).unwrap();
    [
        "SECRETSEED",
        "PRIVATE KEY",
        text,
        key,
        jwk["d"].as_str().unwrap(),
        "eyJhbGciOiJFZERTQSI",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[track_caller]
fn assert_clean(what: &str, text: &str, secrets: &[String]) {
    for (number, secret) in secrets.iter().enumerate() {
        let line = text.lines().position(|line| line.contains(secret.as_str()));
        assert_eq!(line, None, "{what} shows secret {number} on this line");
    }
}

/// Everything by which a person of the tenant can be known, read from an uploaded file.
fn people_of(file: &Path, work: &Path) -> BTreeSet<String> {
    let reader = Reader::open(file, work).unwrap();
    let sync = reader.latest_sync().unwrap();
    let mut people = BTreeSet::new();
    for user in reader.resources(&sync.sync_id, ResourceFilter::Type("user")) {
        let user = user.unwrap();
        people.insert(user.display_name);
        let known: v2::UserTrait = proto::find(&user.annotations).unwrap();
        people.insert(known.login);
        people.extend(known.emails.into_iter().map(|email| email.address));
    }
    people.retain(|text| text.len() >= 6);
    people
}

fn database(file: &Path) -> Vec<u8> {
    let packed = fs::read(file).unwrap();
    let mut raw = Vec::new();
    zstd::stream::read::Decoder::new(&packed[5..])
        .unwrap()
        .read_to_end(&mut raw)
        .unwrap();
    raw
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

async fn jumpcloud_sim() -> JumpCloudSim {
    let mut config = baton_jumpcloud::sim::jumpcloud::Config::of(Shape {
        users: 40,
        groups: 6,
        members_per_group: 5,
        apps: 5,
        admins: 4,
        ..Shape::default()
    });
    config
        .keys
        .push(Key::new("plain", PLAIN_KEY, KeyRole::Full));
    JumpCloudSim::start(config).await.unwrap()
}

fn json_log(level: Level) -> Log {
    Log {
        level,
        format: LogFormat::Json,
        paths: Vec::new(),
    }
}

/// A sync that asked everything of `sim`, in service mode, with good and bad moments.
struct Run {
    log: String,
    /// Errors that the log does not hold.
    said: Vec<String>,
    files: Vec<PathBuf>,
    one: ConductorOneSim,
    /// Ends the folder of the work.
    work: TempDir,
}

async fn serve_through_failures(level: Level) -> Run {
    // The subscriber knows no secret, so nothing is hidden that should not have been said.
    let (subscriber, _control, captured) =
        telemetry::capture(&json_log(level), &[], Arc::new(SystemClock));
    // The test's runtime has one thread, so that this covers every part of the daemon but those that block.
    let _guard = crate::captured::listen(subscriber);
    let jumpcloud = jumpcloud_sim().await;
    let one = ConductorOneSim::start(conductorone::Config {
        require_heartbeat: false,
        ..conductorone::Config::default()
    })
    .await
    .unwrap();
    let work = TempDir::new().unwrap();
    let url = jumpcloud.base_url.parse::<url::Url>().unwrap();
    let key = |key: &str| Auth::ApiKey(SecretString::from(key));
    let client = Client::try_new(jumpcloud::client::Settings {
        console_url: url.clone(),
        insights_url: url.clone(),
        auth: key(PLAIN_KEY),
        org_id: None,
        timeout: PATIENCE,
        extra_ca_pem: None,
        max_concurrency: 4,
        rotation_wait: std::time::Duration::ZERO,
    })
    .unwrap();
    let mut said = vec![format!("{client:?}")];
    let connector = Arc::new(JumpCloud::new(
        client.clone(),
        jumpcloud::Settings {
            merge_administrators: false,
            work_dir: work.path().to_owned(),
            optional: Vec::new(),
            allowed: jumpcloud::Allowed::default(),
        },
    ));
    let settings = control_plane::Settings {
        credentials: Credentials::parse(one.client_id(), &one.client_secret_text().into()).unwrap(),
        api_host: None,
        host_id: "secrets-test".to_owned(),
        version: "0.0.0".to_owned(),
        extra_ca_pem: Some(one.ca_pem().as_bytes().to_vec()),
        proxy: control_plane::channel::ProxyRules::default(),
        timeouts: control_plane::Timeouts::default(),
        clock: Arc::new(SystemClock),
        metrics: Metrics::default(),
    };
    said.push(format!("{settings:?}"));
    let plane = Arc::new(GrpcControlPlane::try_new(settings).unwrap());
    said.push(format!("{plane:?}"));
    let provisioning = provisioning(&connector, ProvisioningMode::Off, work.path());
    let connector: Arc<dyn Connector> = connector;
    let registry = Arc::new(Registry::new(
        &connector,
        Arc::new(SystemClock),
        handlers::Settings {
            work_dir: work.path().to_owned(),
            provisioning,
            sync: full_sync::LocalOptions::default(),
            metrics: Metrics::default(),
        },
    ));
    let stop = CancellationToken::new();
    let serve = || {
        dispatch::run(
            dispatch::Settings::default(),
            Arc::clone(&plane) as _,
            Arc::clone(&registry),
            Arc::new(Health::new()),
            Metrics::default(),
            stop.clone(),
        )
    };

    let story = async {
        one.reject_secret(true);
        let refused = serve().await.unwrap_err();
        tracing::error!(error = chain(&refused), "refused");
        said.push(format!("{} {refused:?}", chain(&refused)));
        one.reject_secret(false);

        let tell = async {
            let ask = async || {
                let id = one.enqueue(conductorone::full_sync(SyncFullTask::default()));
                one.wait_for_finish(&id, PATIENCE).await.unwrap()
            };
            jumpcloud.add_fault("/api/systemusers@2:500").unwrap();
            jumpcloud.add_fault("/api/v2/usergroups@2:429").unwrap();
            one.revoke_tokens();
            assert!(ask().await.is_success());
            jumpcloud.clear_faults();
            jumpcloud.deny([Collection::Users]);
            assert!(!ask().await.is_success());
            jumpcloud.deny([]);
            client.replace_auth(key(WRONG_KEY));
            assert!(!ask().await.is_success());
            client.replace_auth(Auth::ClientCredentials {
                token_url: format!("{}/oauth2/token", jumpcloud.base_url)
                    .parse()
                    .unwrap(),
                client_id: baton_jumpcloud::sim::jumpcloud::CLIENT_ID.to_owned(),
                client_secret: SecretString::from(WRONG_KEY),
            });
            assert!(!ask().await.is_success());
            client.replace_auth(key(PLAIN_KEY));
            assert!(ask().await.is_success());
            stop.cancel();
        };
        let (served, ()) = tokio::join!(serve(), tell);
        served.unwrap();
    };
    story.await;

    said.extend(one.finishes().iter().map(|finish| format!("{finish:?}")));
    said.extend(one.hellos().iter().map(|hello| format!("{hello:?}")));
    let files = one
        .uploads()
        .into_iter()
        .map(|upload| upload.path)
        .collect();
    one.assert_clean();
    Run {
        log: captured.text(),
        said,
        files,
        one,
        work,
    }
}

#[tokio::test]
async fn a_daemon_with_debug_logs_shows_no_secret_whatever_fails() {
    let run = serve_through_failures(Level::Debug).await;
    keep(&run.log);
    let secrets = secrets_of(&run.one);
    assert_clean("the log", &run.log, &secrets);
    for text in &run.said {
        assert_clean("an error or a message", text, &secrets);
    }
    for words in [
        "401",
        "may not read users",
        "500",
        "429",
        "rejected the credentials",
    ] {
        assert!(run.log.contains(words), "the log says nothing of {words}");
    }
    assert_eq!(run.files.len(), 2);
    for file in &run.files {
        let raw = database(file);
        for secret in &secrets {
            assert!(!holds(&raw, secret), "the file holds a secret");
        }
    }
    // What is searched for people is a log that could show them.
    let people = people_of(&run.files[0], run.work.path());
    assert!(people.len() > 80, "only {} names", people.len());
    for line in run.log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["level"] == "debug" {
            continue;
        }
        let text = line.to_string();
        let shown = people.iter().find(|person| text.contains(person.as_str()));
        assert_eq!(shown, None, "{text}");
    }
}

#[tokio::test]
async fn the_real_binary_shows_no_secret_whatever_fails() {
    let scene = Scene::start().await;
    let with_key = |key: &str| {
        scene
            .service()
            .without("api-key-file")
            .flag("sync-resume-max-age", "0s")
            .variable("BATON_API_KEY", key)
            .secret("PRIVATE KEY")
    };
    scene.directory.add_fault("/api/systemusers@2:500").unwrap();
    let daemon = scene.serving(with_key(FULL_KEY)).await;
    let task = scene.enqueue_sync();
    assert!(scene.finish(&task).await.is_success());
    let exit = daemon.terminate().await;
    assert!(exit.stderr.contains("answered 500"), "{}", exit.stderr);

    let daemon = scene.serving(with_key(WRONG_KEY)).await;
    let task = scene.enqueue_sync();
    assert!(!scene.finish(&task).await.is_success());
    let exit = daemon.terminate().await;
    assert!(
        exit.stderr.contains("JumpCloud refused the"),
        "{}",
        exit.stderr
    );

    scene.cloud.reject_secret(true);
    let exit = with_key(FULL_KEY).run().await.expect(1);
    assert!(
        exit.verdict().contains("rejected the credentials"),
        "{}",
        exit.verdict()
    );
}
