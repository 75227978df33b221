//! The real binary as a child process beside both simulators: started with a clean environment, watched, ended, judged.
//!
//! Whoever starts a child must wait for its end: only then are its output searched for secrets and its folders for
//! files that it left.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use baton_jumpcloud::{
    proto::baton::task::SyncFullTask,
    sim::{
        conductorone::{self, ConductorOneSim, Finish, Summary, Upload, full_sync},
        jumpcloud::{self, FULL_KEY, JumpCloudSim, Shape, Truth},
    },
    state_folder,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// How long anything that must happen may take on a machine with much to do.
pub const PATIENCE: Duration = Duration::from_secs(30);

const BINARY: &str = env!("CARGO_BIN_EXE_baton-jumpcloud");

/// A small organisation, so that a sync takes a moment only.
pub fn small() -> Shape {
    Shape {
        users: 130,
        groups: 6,
        members_per_group: 15,
        apps: 4,
        admins: 5,
        ..Shape::default()
    }
}

/// Both simulators, and the folders and files of a child.
pub struct Scene {
    pub cloud: ConductorOneSim,
    pub directory: JumpCloudSim,
    folder: TempDir,
}

impl Scene {
    pub async fn start() -> Self {
        Self::of(conductorone::Config::default(), small()).await
    }

    pub async fn of(config: conductorone::Config, shape: Shape) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cloud = ConductorOneSim::start(config).await.unwrap();
        let directory = JumpCloudSim::start(jumpcloud::Config::of(shape))
            .await
            .unwrap();
        for name in ["work", "tmp", "cwd"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        for (name, text) in [
            ("client-secret", cloud.client_secret_text()),
            ("ca.pem", cloud.ca_pem()),
            ("api-key", FULL_KEY),
        ] {
            write_private(&folder.path().join(name), text);
        }
        Self {
            cloud,
            directory,
            folder,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn work_dir(&self) -> PathBuf {
        self.path("work")
    }

    /// Waits until so many syncs have their folders: the first heartbeat of a task may come before.
    pub async fn wait_for_folders(&self, count: usize) {
        let made = async {
            while entries(&self.work_dir()).len() < count {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let made = timeout(PATIENCE, made).await;
        assert!(made.is_ok(), "the syncs have no folders");
    }

    /// A child without arguments: nothing but the folders is set.
    pub fn bare(&self) -> Launch {
        let secret = self.cloud.client_secret_text();
        let payload = secret.rsplit(':').next().unwrap();
        let jwk = URL_SAFE_NO_PAD.decode(payload).unwrap();
        let jwk: serde_json::Value = serde_json::from_slice(&jwk).unwrap();
        Launch {
            program: vec![BINARY.into()],
            flags: Vec::new(),
            variables: Vec::new(),
            folder: self.folder.path().to_owned(),
            secrets: vec![
                // The marker is in API keys and in access tokens.
                "SECRETSEED".to_owned(),
                jwk["d"].as_str().unwrap().to_owned(),
                payload.to_owned(),
                // How every JSON object begins in base64url: keys, assertions and their headers.
                "eyJ".to_owned(),
            ],
        }
    }

    /// A daemon with its credentials in files and the logs of a person who hunts an error.
    pub fn service(&self) -> Launch {
        self.bare()
            .flag("client-id", self.cloud.client_id())
            .flag("client-secret-file", self.path("client-secret"))
            .flag("ca-file", self.path("ca.pem"))
            .flag("api-key-file", self.path("api-key"))
            .flag("base-url", &self.directory.base_url)
            .flag("work-dir", self.work_dir())
            .flag("shutdown-grace", "8s")
            .flag("log-format", "json")
            .flag("log-level", "debug")
    }

    /// A one-shot sync to `sync.c1z` in the working folder of the child.
    pub fn one_shot(&self) -> Launch {
        self.bare()
            .flag("api-key-file", self.path("api-key"))
            .flag("base-url", &self.directory.base_url)
            .flag("work-dir", self.work_dir())
            .flag("log-format", "json")
            .flag("log-level", "debug")
    }

    /// Starts a daemon and waits for its Hello.
    pub async fn serving(&self, launch: Launch) -> Daemon {
        let hellos = self.cloud.hellos().len();
        let daemon = launch.start();
        self.cloud
            .wait_for_hellos(hellos + 1, PATIENCE)
            .await
            .unwrap();
        daemon
    }

    pub fn enqueue_sync(&self) -> String {
        self.cloud.enqueue(full_sync(SyncFullTask::default()))
    }

    pub async fn finish(&self, task: &str) -> Finish {
        self.cloud.wait_for_finish(task, PATIENCE).await.unwrap()
    }

    /// Asserts that a sync ends well and that its file holds what the directory holds.
    pub async fn expect_truth(&self, task: &str) -> Upload {
        let finish = self.finish(task).await;
        assert!(
            finish.is_success(),
            "{}: {}",
            finish.code(),
            finish.message()
        );
        let upload = self
            .cloud
            .wait_for_upload(task, Duration::ZERO)
            .await
            .unwrap();
        let Summary {
            resources, grants, ..
        } = upload.summary.as_ref().unwrap();
        assert_truth(resources, grants, &self.directory.truth());
        upload
    }

    /// The end of every test of recovery: one more sync is right, SIGTERM ends the daemon well, no rule was broken.
    pub async fn recovered(&self, daemon: Daemon) -> Exit {
        let task = self.enqueue_sync();
        self.expect_truth(&task).await;
        let exit = daemon.terminate().await;
        self.cloud.assert_clean();
        exit
    }
}

fn write_private(path: &Path, text: &str) {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};

    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Asserts that a file has exactly the rows, by resource type, that the directory's state calls for.
pub fn assert_truth(
    resources: &BTreeMap<String, u64>,
    grants: &BTreeMap<String, u64>,
    truth: &Truth,
) {
    let counts = truth.counts();
    let expected = [
        ("user", counts.users + counts.admins, 0),
        ("group", counts.groups, counts.memberships),
        ("role", truth.role_names().len(), counts.admin_roles),
        // Administrators have the synthetic administration application.
        (
            "app",
            counts.apps + 1,
            counts.group_bindings + counts.effective_access + counts.admins,
        ),
    ];
    for (kind, rows, access) in expected {
        let row = |of: &BTreeMap<String, u64>| of.get(kind).copied().unwrap_or_default();
        assert_eq!(row(resources), rows as u64, "resources of type {kind}");
        assert_eq!(row(grants), access as u64, "grants on type {kind}");
    }
}

/// A child that is not started yet.
#[derive(Clone)]
pub struct Launch {
    program: Vec<OsString>,
    flags: Vec<(String, OsString)>,
    variables: Vec<(String, OsString)>,
    folder: PathBuf,
    secrets: Vec<String>,
}

impl Launch {
    /// Sets a flag, in the place of an earlier value.
    pub fn flag(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self = self.without(name);
        self.flags.push((format!("--{name}"), value.into()));
        self
    }

    pub fn switch(mut self, name: &str) -> Self {
        self.flags.push((format!("--{name}=true"), OsString::new()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.flags.retain(|(flag, _)| *flag != format!("--{name}"));
        self
    }

    /// An argument that is no flag, such as a command.
    pub fn word(mut self, word: &str) -> Self {
        self.flags.push((word.to_owned(), OsString::new()));
        self
    }

    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Another build of the binary.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = vec![path.into()];
        self
    }

    /// Runs the binary under another program.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        let mut program: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        program.append(&mut self.program);
        self.program = program;
        self
    }

    /// One more text that must not be shown.
    pub fn secret(mut self, text: &str) -> Self {
        self.secrets.push(text.to_owned());
        self
    }

    pub fn start(self) -> Daemon {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]);
        for (name, value) in &self.flags {
            command.arg(name);
            if !value.is_empty() {
                command.arg(value);
            }
        }
        let mut child = command
            .env_clear()
            .env("TMPDIR", self.folder.join("tmp"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.join("cwd"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let stdout = Arc::new(Output::default());
        let stderr = Arc::new(Output::default());
        let mut readers = JoinSet::new();
        readers.spawn(capture(child.stdout.take().unwrap(), Arc::clone(&stdout)));
        readers.spawn(capture(child.stderr.take().unwrap(), Arc::clone(&stderr)));
        Daemon {
            child,
            pid: Pid::from_raw(pid).unwrap(),
            stdout,
            stderr,
            readers,
            folder: self.folder,
            secrets: self.secrets,
            judged: AtomicBool::new(false),
        }
    }

    /// Starts the child and waits for its end.
    pub async fn run(self) -> Exit {
        self.start().ended().await
    }
}

struct Output {
    bytes: Mutex<Vec<u8>>,
    changed: watch::Sender<()>,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            bytes: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Output {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

async fn capture(mut from: impl AsyncRead + Unpin, to: Arc<Output>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        to.bytes.lock().unwrap().extend_from_slice(&buffer[..count]);
        to.changed.send_replace(());
    }
}

/// A running child.
pub struct Daemon {
    child: Child,
    pub pid: Pid,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
    readers: JoinSet<()>,
    folder: PathBuf,
    secrets: Vec<String>,
    judged: AtomicBool,
}

/// How a child ended, and all that it said.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Exit {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", tail(&self.stderr));
        self
    }

    /// The one line with which a failed run ends.
    #[track_caller]
    pub fn verdict(&self) -> &str {
        let line = self.stderr.trim_end().lines().last().unwrap();
        assert!(line.starts_with("error: "), "{line}");
        line
    }
}

/// What is left in a folder, besides what outlives the process on purpose.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with(state_folder::NAME))
        .collect()
}

/// The first of these wrappers under which a program runs here.
pub async fn permitted<'a>(wrappers: &[&'a [&'a str]]) -> Option<&'a [&'a str]> {
    for wrapper in wrappers {
        let probe = Command::new(wrapper[0])
            .args(&wrapper[1..])
            .arg("true")
            .output()
            .await;
        if probe.is_ok_and(|probe| probe.status.success()) {
            return Some(wrapper);
        }
    }
    None
}

/// Says that a test has checked nothing.
#[expect(
    clippy::print_stderr,
    reason = "a test that checks nothing must say so"
)]
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(60);
    lines[from..].join("\n")
}

/// What a process holds at a moment.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Open files by path, other descriptors by kind (`socket`, `pipe`, …).
    pub files: BTreeMap<String, usize>,
    pub rss_kib: u64,
    /// As `rss_kib`, but what is shared with other processes counts in part.
    pub pss_kib: u64,
    pub threads: u64,
}

impl Daemon {
    /// What it holds, but for open files whose path holds one of these texts.
    pub fn held(&self, ignored: &[&str]) -> Held {
        let process = format!("/proc/{}", self.pid.as_raw_nonzero());
        let read = |name: &str| std::fs::read_to_string(format!("{process}/{name}"));
        let number = |text: &str, field: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(field))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or_default()
        };
        let status = read("status").unwrap_or_default();
        let mut held = Held {
            files: BTreeMap::new(),
            rss_kib: number(&status, "VmRSS:"),
            pss_kib: number(&read("smaps_rollup").unwrap_or_default(), "Pss:"),
            threads: number(&status, "Threads:"),
        };
        let descriptors = std::fs::read_dir(format!("{process}/fd"));
        for entry in descriptors.into_iter().flatten().flatten() {
            // One that was closed meanwhile.
            let Ok(target) = std::fs::read_link(entry.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            if !ignored.iter().any(|text| target.contains(text)) {
                // Sockets and the like have a number behind a colon.
                let kind = target.split(":[").next().unwrap_or_default();
                *held.files.entry(kind.to_owned()).or_default() += 1;
            }
        }
        held
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Waits until the child has written this to standard error.
    pub async fn said(&self, text: &str) {
        let mut changed = self.stderr.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if self.stderr.text().contains(text) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        let said = timeout(PATIENCE, wait).await;
        assert!(said.is_ok(), "the child did not say {text:?}");
    }

    /// How often the child has written this to standard error.
    pub fn count(&self, text: &str) -> usize {
        self.stderr.text().matches(text).count()
    }

    /// The first value of a field in the log lines so far.
    pub fn logged(&self, message: &str, field: &str) -> Option<String> {
        self.stderr
            .text()
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|line| line["msg"] == message)
            .and_then(|line| line[field].as_str().map(str::to_owned))
    }

    /// Closes our ends of the pipes to the child.
    pub async fn close_output(&mut self) {
        self.readers.shutdown().await;
    }

    /// Whether it has ended already.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGTERM; asserts that the end is a good one.
    pub async fn terminate(self) -> Exit {
        self.signal(Signal::TERM);
        self.ended().await.expect(0)
    }

    /// Waits for the end; asserts that no secret was shown and no file is left.
    pub async fn ended(self) -> Exit {
        let folder = self.folder.clone();
        let exit = self.ended_leaving().await;
        for name in ["work", "tmp"] {
            let left = entries(&folder.join(name));
            assert!(left.is_empty(), "left in {name}: {left:?}");
        }
        exit
    }

    /// Waits for the end of a child that may leave files; asserts that no secret was shown.
    pub async fn ended_leaving(mut self) -> Exit {
        let begun = Instant::now();
        let Ok(status) = timeout(PATIENCE, self.child.wait()).await else {
            panic!("the child has not ended after {:?}", begun.elapsed());
        };
        let reading = async { while self.readers.join_next().await.is_some() {} };
        timeout(PATIENCE, reading).await.unwrap();
        let exit = Exit {
            code: status.unwrap().code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        };
        for secret in &self.secrets {
            for text in [&exit.stdout, &exit.stderr] {
                if let Some(line) = text.lines().find(|line| line.contains(secret.as_str())) {
                    // The line itself would put the secret into the output of the suite.
                    let line: String = line.split(secret.as_str()).next().unwrap().to_owned();
                    panic!("a secret is shown behind: {line}");
                }
            }
        }
        // A child that shows a secret has failed its test by now; the search at the end knows more forms of secrets.
        crate::secrets::keep(&format!("{}{}", exit.stdout, exit.stderr));
        self.judged.store(true, Ordering::Relaxed);
        exit
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "shows why a test failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the child said:\n{}", tail(&self.stderr.text()));
        } else {
            assert!(
                *self.judged.get_mut(),
                "a child was not waited for, so nobody judged its output"
            );
        }
    }
}
