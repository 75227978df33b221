//! Whole-process figures of the release binary against the simulators, saved with their date.
//!
//! `make bench` builds the release binaries and runs this. Figures: wall time, processor time of the connector alone,
//! peak memory of the connector alone, requests to JumpCloud. The simulator is another process, so that neither its
//! time nor its memory is counted. Each case says how often it runs; the median is saved.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking and prints its result"
)]

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const CONNECTOR: &str = env!("CARGO_BIN_EXE_baton-jumpcloud");
const SIMULATOR: &str = env!("CARGO_BIN_EXE_baton-sim");
const API_KEY: &str = "bench-SECRETSEED-key";

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Sample {
    wall: Duration,
    cpu: Duration,
    peak_kib: u64,
    calls: u64,
    file_bytes: u64,
}

fn wait_for_address(path: &Path) -> String {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.trim().parse::<SocketAddr>().is_ok() => return text.trim().to_owned(),
            _ if Instant::now() > deadline => panic!("{} was not written", path.display()),
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Starts the simulated JumpCloud and gives its base URL.
fn simulator(dir: &Path, arguments: &[&str]) -> (Running, String) {
    let port_file = dir.join("port");
    let child = Command::new(SIMULATOR)
        .args([
            "jumpcloud",
            "--listen",
            "127.0.0.1:0",
            "--api-key",
            API_KEY,
            "--port-file",
        ])
        .arg(&port_file)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    let address = wait_for_address(&port_file);
    (running, format!("http://{address}"))
}

/// Peak resident memory so far, from the kernel's own count.
fn peak_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// User and system time so far, in clock ticks of 10 ms.
fn cpu(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

fn calls(url: &str) -> u64 {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /_sim/requests HTTP/1.0\r\nHost: {address}\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").expect("an HTTP answer").1;
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    value["total"]
        .as_u64()
        .expect("the simulator counts its requests")
}

/// One sync from the shell, watched from outside.
fn sync_once(dir: &Path, url: &str) -> Sample {
    let before = calls(url);
    let target = dir.join("sync.c1z");
    drop(fs::remove_file(&target));
    let start = Instant::now();
    let mut child = Command::new(CONNECTOR)
        .args(["--base-url", url, "--log-level", "error", "--c1z-temp-dir"])
        .arg(dir)
        .arg("-f")
        .arg(&target)
        .env("BATON_API_KEY", API_KEY)
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut peak, mut used) = (0, Duration::ZERO);
    let status = loop {
        peak = peak_kib(child.id()).unwrap_or(peak).max(peak);
        used = cpu(child.id()).unwrap_or(used).max(used);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let wall = start.elapsed();
    assert!(status.success(), "the sync failed: {status}");
    Sample {
        wall,
        cpu: used,
        peak_kib: peak,
        calls: calls(url) - before,
        file_bytes: fs::metadata(&target).unwrap().len(),
    }
}

fn median<T: Copy + Ord>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

fn row(report: &mut String, name: &str, samples: &[Sample], limit: &str) {
    let line = format!(
        "| {name} | {} | {:.2} s | {:.2} s | {:.1} MiB | {} | {:.1} MiB | {limit} |",
        samples.len(),
        median(samples.iter().map(|sample| sample.wall).collect()).as_secs_f64(),
        median(samples.iter().map(|sample| sample.cpu).collect()).as_secs_f64(),
        median(samples.iter().map(|sample| sample.peak_kib).collect()) as f64 / 1024.0,
        median(samples.iter().map(|sample| sample.calls).collect()),
        median(samples.iter().map(|sample| sample.file_bytes).collect()) as f64 / 1_048_576.0,
    );
    println!("{line}");
    writeln!(report, "{line}").unwrap();
}

/// The daemon at rest: from start to its first Hello, and its memory when nothing is to be done.
fn daemon(dir: &Path, jumpcloud: &str) -> (Vec<Duration>, u64) {
    use baton_jumpcloud::sim::conductorone::{ConductorOneSim, Config};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let sim = ConductorOneSim::start(Config::default()).await.unwrap();
        fs::write(dir.join("ca.pem"), sim.ca_pem()).unwrap();
        fs::write(dir.join("client-secret"), sim.client_secret()).unwrap();
        let mut starts = Vec::new();
        let mut idle = 0;
        for round in 0..7 {
            let start = Instant::now();
            let hellos = sim.hellos().len();
            let child = Running(
                Command::new(CONNECTOR)
                    .args([
                        "--client-id",
                        sim.client_id(),
                        "--base-url",
                        jumpcloud,
                        "--log-level",
                        "error",
                    ])
                    .arg("--client-secret-file")
                    .arg(dir.join("client-secret"))
                    .arg("--ca-file")
                    .arg(dir.join("ca.pem"))
                    .arg("--c1z-temp-dir")
                    .arg(dir)
                    .env("BATON_API_KEY", API_KEY)
                    .current_dir(dir)
                    .spawn()
                    .unwrap(),
            );
            while sim.hellos().len() == hellos {
                tokio::time::sleep(Duration::from_micros(500)).await;
                assert!(start.elapsed() < Duration::from_secs(30), "no hello");
            }
            starts.push(start.elapsed());
            if round == 6 {
                tokio::time::sleep(Duration::from_secs(5)).await;
                idle = status_kib(child.0.id(), "VmRSS:").unwrap();
            }
        }
        (starts, idle)
    })
}

fn main() {
    // `cargo test --benches` and friends pass flags; only a plain `cargo bench` measures.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let dir = work.path();
    let now = jiff::Zoned::now();
    let mut report = String::new();
    writeln!(report, "# {}\n", now.strftime("%Y-%m-%d %H:%M %Z")).unwrap();
    writeln!(
        report,
        "Version {}, release profile. Repeat with `make bench`.",
        env!("CARGO_PKG_VERSION")
    )
    .unwrap();
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_matches([':', ' ', '\t']);
    writeln!(
        report,
        "Machine: {} processors, {model}. The simulator runs on the same machine.\n",
        thread::available_parallelism().unwrap()
    )
    .unwrap();
    writeln!(
        report,
        "| case | runs | wall | processor | peak memory | requests | file | aim |"
    )
    .unwrap();
    writeln!(report, "|---|---|---|---|---|---|---|---|").unwrap();

    let medium: &[&str] = &[
        "--users",
        "5000",
        "--groups",
        "200",
        "--members-per-group",
        "60",
        "--apps",
        "80",
        "--groups-per-app",
        "4",
        "--users-per-app",
        "5",
        "--admins",
        "15",
        "--seed",
        "7",
        "--latency",
        "30ms",
    ];
    let url;
    {
        let (sim, base) = simulator(dir, medium);
        url = base;
        let samples: Vec<_> = (0..5).map(|_| sync_once(dir, &url)).collect();
        row(
            &mut report,
            "5,000 users, 200 groups × 60, 80 apps, 15 admins, 30 ms a call",
            &samples,
            "≤ 8 s, ≤ 3 s processor, ≤ 430 requests",
        );
        let (starts, idle) = daemon(dir, &url);
        let hello = median(starts).as_secs_f64() * 1000.0;
        let idle = idle as f64 / 1024.0;
        drop(sim);
        let line = format!(
            "\nDaemon at rest: {idle:.1} MiB resident (aim ≤ 24). Start to first Hello: median {hello:.0} ms of 7 (aim ≤ 200).\n"
        );
        println!("{line}");
        fs::remove_file(dir.join("port")).unwrap();
        let (sim, base) = simulator(
            dir,
            &[
                "--users",
                "100000",
                "--groups",
                "2000",
                "--members-per-group",
                "500",
                "--apps",
                "300",
                "--admins",
                "50",
                "--seed",
                "7",
            ],
        );
        let samples = vec![sync_once(dir, &base)];
        row(
            &mut report,
            "100,000 users, 2,000 groups × 500, 300 apps, 50 admins",
            &samples,
            "≤ 128 MiB",
        );
        drop(sim);
        report.push_str(&line);
    }
    writeln!(
        report,
        "The official connector of January 2025 on the first shape, measured the same way earlier: 4,919 requests, 232 s,\n56 s processor, 65 MB."
    )
    .unwrap();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    fs::create_dir_all(&folder).unwrap();
    let target = folder.join(now.strftime("%Y-%m-%d.md").to_string());
    fs::write(&target, &report).unwrap();
    println!("saved to {}", target.display());
}
