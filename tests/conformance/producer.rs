//! What the judge needs of our code beside the two programs: the descriptor set of the build, and files that our engine
//! writes from directories that the judge made up.
//!
//! `producer descriptors OUT` writes the descriptor set. `producer files IN OUT_DIR` reads one directory a line (JSON,
//! messages as base64 of their wire form) and writes `<name>.plain.c1z`, where grants are left unexpanded, and
//! `<name>.expanded.c1z`, where our expansion has run. `producer settings OUT` writes every setting as one line of JSON.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use baton_jumpcloud::{
    clock::SystemClock,
    config::settings::SETTINGS,
    proto::{self, connector as v2},
    syncer::{self, Environment, NoProgress, SyncRequest, fake::FakeConnector},
};
use prost::Message;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

#[derive(Deserialize)]
struct Directory {
    name: String,
    types: Vec<String>,
    /// Static entitlements, by the type that has them.
    #[serde(default)]
    templates: BTreeMap<String, Vec<String>>,
    resources: Vec<String>,
    entitlements: Vec<String>,
    grants: Vec<String>,
}

fn messages<M: Message + Default>(texts: &[String]) -> anyhow::Result<Vec<M>> {
    texts
        .iter()
        .map(|text| Ok(M::decode(BASE64_STANDARD.decode(text)?.as_slice())?))
        .collect()
}

fn connector(directory: &Directory) -> anyhow::Result<FakeConnector> {
    let mut connector = FakeConnector::new();
    for each in messages::<v2::ResourceType>(&directory.types)? {
        connector = connector.with_type(each);
    }
    for (type_id, templates) in &directory.templates {
        for each in messages::<v2::Entitlement>(templates)? {
            connector = connector.with_template(type_id, each);
        }
    }
    for each in messages::<v2::Resource>(&directory.resources)? {
        connector = connector.with_resource(each);
    }
    for each in messages::<v2::Entitlement>(&directory.entitlements)? {
        connector = connector.with_entitlement(each);
    }
    for each in messages::<v2::Grant>(&directory.grants)? {
        connector = connector.with_grant(each);
    }
    Ok(connector)
}

async fn write(directory: &Directory, target: &Path, expand: bool) -> anyhow::Result<()> {
    let request = SyncRequest {
        skip_expand_grants: !expand,
        ..SyncRequest::default()
    };
    let cancel = CancellationToken::new();
    let environment = Environment {
        work_dir: target.parent().context("the target has no folder")?,
        clock: &SystemClock,
        progress: &NoProgress,
        cancel: &cancel,
    };
    syncer::sync_to_file(&connector(directory)?, &request, environment, target)
        .await
        .with_context(|| format!("writing {}", target.display()))?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["descriptors", target] => std::fs::write(target, proto::DESCRIPTORS)?,
        ["files", source, folder] => {
            for line in BufReader::new(File::open(source)?).lines() {
                let directory: Directory = serde_json::from_str(&line?)?;
                for (suffix, expand) in [("plain", false), ("expanded", true)] {
                    let target = Path::new(folder).join(format!("{}.{suffix}.c1z", directory.name));
                    write(&directory, &target, expand).await?;
                }
            }
        }
        ["settings", target] => {
            let mut lines = String::new();
            for setting in SETTINGS {
                let line = serde_json::json!({
                    "name": setting.name,
                    "variable": setting.variable(),
                    "short": setting.short.map(String::from).unwrap_or_default(),
                    "default": setting.default.unwrap_or_default(),
                    "kind": format!("{:?}", setting.kind),
                    "treatment": format!("{:?}", setting.treatment),
                });
                lines.push_str(&line.to_string());
                lines.push('\n');
            }
            std::fs::write(target, lines)?;
        }
        _ => anyhow::bail!(
            "usage: producer descriptors OUT | producer settings OUT | producer files IN OUT_DIR"
        ),
    }
    Ok(())
}
