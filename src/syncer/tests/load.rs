//! The cost of engine and writer alone, on tenants made up page by page. Run by hand, in release mode, one at a time:
//! `cargo test --release --all-features --lib syncer::tests::load -- --ignored --nocapture --test-threads 1`

use std::time::Instant;

use async_trait::async_trait;

use super::*;
use crate::{clock::SystemClock, connector::SyncScope, model};

struct Tenant {
    users: usize,
    groups: usize,
    members: usize,
    apps: usize,
    groups_per_app: usize,
}

const PAGE: usize = 100;

fn name(kind: &str, number: usize) -> String {
    format!("5f{kind:.2}c0de{number:016}")
}

impl Tenant {
    fn resource(kind: &str, number: usize) -> v2::Resource {
        let text = |value: String| proto::string_value(value);
        let mut made = match kind {
            "user" => user(&name(kind, number)),
            "group" => group(&name(kind, number)),
            _ => app(&name(kind, number)),
        };
        if kind == "user" {
            let profile = proto::Struct {
                fields: (0..12)
                    .map(|field| {
                        (
                            format!("attribute_{field}"),
                            text(format!("value {field} of {number}")),
                        )
                    })
                    .collect(),
            };
            made.annotations = vec![proto::pack(&v2::UserTrait {
                login: format!("user.{number}@example.com"),
                employee_ids: vec![format!("E{number:08}"); 8],
                ..v2::UserTrait::default()
            })];
            made.profile = Some(profile);
        }
        made
    }

    fn page<T>(all: usize, token: Option<&str>, make: impl Fn(usize) -> T) -> Page<T> {
        let from: usize = token.map_or(0, |token| token.parse().unwrap());
        let to = (from + PAGE).min(all);
        Page {
            items: (from..to).map(make).collect(),
            next: (to < all).then(|| to.to_string()),
            annotations: Vec::new(),
        }
    }
}

#[async_trait]
impl Connector for Tenant {
    fn metadata(&self) -> v2::ConnectorMetadata {
        v2::ConnectorMetadata::default()
    }

    fn fingerprint(&self, _salt: &str) -> String {
        "tenant".to_owned()
    }

    async fn validate(&self) -> Result<connector::Validation, connector::Error> {
        Ok(connector::Validation::default())
    }

    fn resource_types(&self) -> Vec<v2::ResourceType> {
        three_types().resource_types()
    }

    async fn list_resources(
        &self,
        _scope: &SyncScope,
        kind: &str,
        _parent: Option<&v2::ResourceId>,
        token: Option<&str>,
    ) -> Result<Page<v2::Resource>, connector::Error> {
        let all = match kind {
            "user" => self.users,
            "group" => self.groups,
            _ => self.apps,
        };
        Ok(Self::page(all, token, |number| {
            Self::resource(kind, number)
        }))
    }

    async fn get_resource(
        &self,
        _scope: &SyncScope,
        id: &v2::ResourceId,
    ) -> Result<v2::Resource, connector::Error> {
        Err(connector::Error::NotFound {
            what: id.resource.clone(),
        })
    }

    async fn list_entitlements(
        &self,
        _scope: &SyncScope,
        resource: &v2::Resource,
        _token: Option<&str>,
    ) -> Result<Page<v2::Entitlement>, connector::Error> {
        Ok(Page::last(vec![entitlement(resource, "member")]))
    }

    async fn list_grants(
        &self,
        _scope: &SyncScope,
        resource: &v2::Resource,
        token: Option<&str>,
    ) -> Result<Page<v2::Grant>, connector::Error> {
        let own = resource.id.as_ref().unwrap();
        let number: usize = own.resource.rsplit('e').next().unwrap().parse().unwrap();
        let slim = v2::Resource {
            id: Some(own.clone()),
            ..v2::Resource::default()
        };
        let given = entitlement(&slim, "member");
        if own.resource_type == "group" {
            return Ok(Self::page(self.members, token, |member| {
                let member = (number * 37 + member * 61) % self.users;
                grant(&given, &id("user", &name("user", member)))
            }));
        }
        Ok(Page::last(
            (0..self.groups_per_app)
                .map(|each| {
                    let group = id("group", &name("group", (number * 7 + each) % self.groups));
                    let expansion = v2::GrantExpandable {
                        entitlement_ids: vec![model::entitlement_id(&group, "member")],
                        ..v2::GrantExpandable::default()
                    };
                    expandable(&given, &group, &expansion)
                })
                .collect(),
        ))
    }

    async fn cleanup(&self, _sync_id: &str) {}
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

async fn measure(tenant: Tenant) -> (f64, u64) {
    let bench = Bench::new();
    let environment = Environment {
        work_dir: bench.folder.path(),
        clock: &SystemClock,
        progress: &NoProgress,
        cancel: &bench.cancel,
        keep: false,
    };
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let report = sync_to_file(
        &tenant,
        &SyncRequest::default(),
        environment,
        &bench.target(),
    )
    .await
    .unwrap();
    let (cpu, peak) = (cpu_seconds() - cpu, peak_mib());
    println!(
        "{} users, {} grants, {} of them expanded: {:.1} s wall, {cpu:.1} s CPU, peak {peak} MiB, file {} MiB",
        report.resources["user"],
        report.grants.values().sum::<u64>(),
        report.expanded_grants,
        begun.elapsed().as_secs_f64(),
        report.file_bytes >> 20,
    );
    println!("{:?}", report.steps);
    (cpu, peak)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, run by hand in release mode"]
async fn a_tenant_of_5000_users_costs_little_cpu() {
    let (cpu, _) = measure(Tenant {
        users: 5_000,
        groups: 200,
        members: 60,
        apps: 80,
        groups_per_app: 4,
    })
    .await;
    assert!(cpu <= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, run by hand in release mode"]
async fn a_tenant_of_100000_users_fits_in_memory() {
    let (_, peak) = measure(Tenant {
        users: 100_000,
        groups: 2_000,
        members: 500,
        apps: 300,
        groups_per_app: 4,
    })
    .await;
    assert!(peak <= 68);
}
