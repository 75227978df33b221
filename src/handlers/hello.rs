//! The Hello that announces this connector: what it is built from, where it runs, what it can do.
//!
//! Every field is filled, each at most 256 characters long, because the server refuses longer ones and is said to
//! refuse empty ones. Nothing here guesses: a fact that cannot be read gets the SDK's fallback for it.

use std::{fmt, fs::File, io::Read, path::Path, sync::Arc};

use async_trait::async_trait;

use super::{Context, Error, Outcome, TaskHandler};
use crate::{
    connector::Connector,
    proto::baton::{
        self, BatonServiceHelloRequest,
        baton_service_hello_request::{BuildInfo, OsInfo},
    },
};

/// The longest value that the server accepts in a field of build and OS information, in characters.
const FIELD_LIMIT: usize = 256;
/// The most that is read of a file under `/proc`, `/sys` or `/etc`.
const FILE_LIMIT: u64 = 64 * 1024;
const UNKNOWN: &str = "unknown";

/// What the kernel says about itself (`uname`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The name of the host.
    pub host: String,
    /// The release, such as `6.1.0-18-amd64`.
    pub release: String,
    /// The machine, such as `x86_64`.
    pub machine: String,
}

impl Kernel {
    fn running() -> Self {
        let name = rustix::system::uname();
        Self {
            host: name.nodename().to_string_lossy().into_owned(),
            release: name.release().to_string_lossy().into_owned(),
            machine: name.machine().to_string_lossy().into_owned(),
        }
    }
}

/// Where this process runs. Read once; none of it changes while the process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemInfo {
    hostname: String,
    os: String,
    platform: String,
    platform_version: String,
    platform_family: String,
    kernel_version: String,
    kernel_arch: String,
    virtualization_system: String,
}

impl SystemInfo {
    /// Reads the facts of this machine from a few small files; blocks for microseconds.
    pub fn detect() -> Self {
        Self::read(Path::new("/"), Kernel::running())
    }

    /// The facts of a machine whose files are found under `root`.
    fn read(root: &Path, kernel: Kernel) -> Self {
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            os => os,
        };
        let release = OsRelease::read(root);
        // The order matters: each fallback is the value decided before it.
        let platform = or(release.id, os);
        let platform_family = or(release.family, &platform);
        let kernel_version = or(kernel.release, UNKNOWN);
        let platform_version = or(release.version, &kernel_version);
        Self {
            hostname: or(kernel.host, UNKNOWN),
            os: os.to_owned(),
            platform,
            platform_version,
            platform_family,
            kernel_version,
            kernel_arch: or(kernel.machine, std::env::consts::ARCH),
            virtualization_system: virtualization(root).to_owned(),
        }
    }

    fn to_message(&self) -> OsInfo {
        OsInfo {
            hostname: clamp(&self.hostname),
            os: clamp(&self.os),
            platform: clamp(&self.platform),
            platform_version: clamp(&self.platform_version),
            platform_family: clamp(&self.platform_family),
            kernel_version: clamp(&self.kernel_version),
            kernel_arch: clamp(&self.kernel_arch),
            virtualization_system: clamp(&self.virtualization_system),
        }
    }
}

/// The three values of `os-release` that Hello reports; empty where it does not say.
#[derive(Debug, Default)]
struct OsRelease {
    id: String,
    family: String,
    version: String,
}

impl OsRelease {
    fn read(root: &Path) -> Self {
        let text = ["etc/os-release", "usr/lib/os-release"]
            .into_iter()
            .find_map(|file| read(root, file))
            .unwrap_or_default();
        let mut release = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else {
                continue;
            };
            let value = value.trim_matches(['"', '\'']);
            match key {
                "ID" => value.clone_into(&mut release.id),
                // Listed from the nearest relative to the farthest.
                "ID_LIKE" => {
                    value
                        .split_whitespace()
                        .next()
                        .unwrap_or_default()
                        .clone_into(&mut release.family);
                }
                "VERSION_ID" => value.clone_into(&mut release.version),
                _ => {}
            }
        }
        release
    }
}

/// The container or the hypervisor around this process; the innermost one counts.
fn virtualization(root: &Path) -> &'static str {
    container(root)
        .or_else(|| hypervisor(root))
        .unwrap_or("none")
}

fn container(root: &Path) -> Option<&'static str> {
    if root.join("run/.containerenv").exists() {
        return Some("podman");
    }
    let cgroup = read(root, "proc/self/cgroup").unwrap_or_default();
    if cgroup.contains("kubepods") || root.join("var/run/secrets/kubernetes.io").exists() {
        return Some("kubernetes");
    }
    if root.join(".dockerenv").exists() || cgroup.contains("/docker") {
        return Some("docker");
    }
    if cgroup.contains("/lxc") {
        return Some("lxc");
    }
    // With cgroup namespaces the path above is `/`; the layers of the root file system still tell.
    let mounts = read(root, "proc/self/mountinfo").unwrap_or_default();
    let layers = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))?;
    [
        ("/containerd/", "containerd"),
        ("/docker/", "docker"),
        ("/containers/storage/", "container"),
    ]
    .into_iter()
    .find_map(|(mark, name)| layers.contains(mark).then_some(name))
}

fn hypervisor(root: &Path) -> Option<&'static str> {
    if read(root, "sys/hypervisor/type").is_some_and(|kind| kind.trim() == "xen") {
        return Some("xen");
    }
    let board = [
        "sys/class/dmi/id/sys_vendor",
        "sys/class/dmi/id/product_name",
    ]
    .into_iter()
    .filter_map(|file| read(root, file))
    .collect::<String>();
    let named = [
        ("VMware", "vmware"),
        ("VirtualBox", "vbox"),
        ("innotek", "vbox"),
        ("Virtual Machine", "hyperv"),
        ("Xen", "xen"),
        ("QEMU", "kvm"),
        ("KVM", "kvm"),
        ("Amazon EC2", "kvm"),
        ("Google", "kvm"),
    ]
    .into_iter()
    .find_map(|(mark, name)| board.contains(mark).then_some(name));
    named.or_else(|| {
        let processor = read(root, "proc/cpuinfo")?;
        processor
            .lines()
            .any(|line| {
                line.starts_with("flags")
                    && line.split_whitespace().any(|flag| flag == "hypervisor")
            })
            .then_some("hypervisor")
    })
}

/// The beginning of a file, read as text; `None` if it cannot be read or is empty.
fn read(root: &Path, file: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(root.join(file))
        .ok()?
        .take(FILE_LIMIT)
        .read_to_end(&mut bytes)
        .ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (!text.trim().is_empty()).then_some(text)
}

fn or(value: String, fallback: &str) -> String {
    if value.trim().is_empty() {
        fallback.to_owned()
    } else {
        value
    }
}

fn clamp(value: &str) -> String {
    value.chars().take(FIELD_LIMIT).collect()
}

/// Builds the Hello of this process.
pub struct Announcement {
    connector: Arc<dyn Connector>,
    system: SystemInfo,
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcement")
            .field("system", &self.system)
            .finish_non_exhaustive()
    }
}

impl Announcement {
    /// Announces a connector that runs on this system.
    pub fn new(connector: Arc<dyn Connector>, system: SystemInfo) -> Self {
        Self { connector, system }
    }

    /// The message: with an empty `task_id` at start, with the id of the task in answer to a hello task.
    ///
    /// `host_id` is left to the control plane.
    pub fn request(&self, task_id: &str) -> BatonServiceHelloRequest {
        BatonServiceHelloRequest {
            task_id: task_id.to_owned(),
            build_info: Some(BuildInfo {
                lang_version: clamp(concat!("rust", env!("BATON_RUSTC_VERSION"))),
                package: clamp(env!("CARGO_PKG_NAME")),
                package_version: clamp(env!("CARGO_PKG_VERSION")),
            }),
            os_info: Some(self.system.to_message()),
            connector_metadata: Some(self.connector.metadata()),
            ..BatonServiceHelloRequest::default()
        }
    }
}

/// Answers `hello`: a Hello that carries the task's id ends the task, so no `FinishTask` follows.
#[derive(Debug)]
pub struct Hello {
    announcement: Arc<Announcement>,
}

impl Hello {
    /// Answers with this announcement.
    pub const fn new(announcement: Arc<Announcement>) -> Self {
        Self { announcement }
    }
}

#[async_trait]
impl TaskHandler for Hello {
    async fn handle(&self, _task: &baton::Task, context: Context<'_>) -> Result<Outcome, Error> {
        let request = self.announcement.request(context.task_id);
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(Error::Stopped),
            answer = context.control_plane.hello(request) => {
                answer.map(|()| Outcome::Answered).map_err(Error::Hello)
            }
        }
    }
}

#[cfg(test)]
mod tests;
