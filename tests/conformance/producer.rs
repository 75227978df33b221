//! What the judge needs of our code beside the two programs: the descriptor set of the build, and files that our engine
//! writes from directories that the judge made up.
//!
//! `producer descriptors OUT` writes the descriptor set. `producer files IN OUT_DIR` reads one directory a line (JSON,
//! messages as base64 of their wire form) and writes `<name>.plain.c1z`, where grants are left unexpanded, and
//! `<name>.expanded.c1z`, where our expansion has run. `producer settings OUT` writes every setting as one line of JSON.
//! `producer crypto` answers questions about encryption, one line of JSON each, until its input ends. `producer
//! simulator PORT_FILE API_KEY` is a JumpCloud simulator of an organisation that the flags of `baton-sim` cannot
//! describe: nested groups, and names in many scripts. It, too, ends with its input.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    path::Path,
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use baton_jumpcloud::{
    clock::SystemClock,
    config::settings::SETTINGS,
    control_plane::credentials::ClientSecret,
    crypto::{
        open::{self, KeyKind, RevealKey, reveal},
        password::Recipe,
        seal::{Plaintext, Recipients},
    },
    error,
    proto::{self, connector as v2},
    sim::jumpcloud::{self, JumpCloudSim, Key, KeyRole, MembershipMethod, Shape},
    syncer::{self, Environment, NoProgress, SyncRequest, fake::FakeConnector},
};
use prost::Message;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
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
        keep: false,
    };
    syncer::sync_to_file(&connector(directory)?, &request, environment, target)
        .await
        .with_context(|| format!("writing {}", target.display()))?;
    Ok(())
}

/// What the judge asks about encryption; which members are set depends on what is to be done.
#[derive(Deserialize)]
struct Question {
    #[serde(rename = "do")]
    task: String,
    #[serde(default)]
    configs: Vec<String>,
    #[serde(default)]
    plain: String,
    key: usize,
    #[serde(default)]
    secret: String,
    count: usize,
}

#[derive(Default, Serialize)]
struct Answer {
    error: String,
    messages: Vec<String>,
    texts: Vec<String>,
}

/// Answers every line of the input. Keys that it makes up stay here; the judge sees their public halves.
fn crypto() -> anyhow::Result<()> {
    let mut keys = Vec::new();
    for line in io::stdin().lock().lines() {
        let question: Question = serde_json::from_str(&line?)?;
        let answer = answer(&question, &mut keys).unwrap_or_else(|refusal| Answer {
            error: error::chain(refusal.as_ref()),
            ..Answer::default()
        });
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        io::stdout().lock().write_all(line.as_bytes())?;
        io::stdout().lock().flush()?;
    }
    Ok(())
}

fn answer(question: &Question, keys: &mut Vec<RevealKey>) -> anyhow::Result<Answer> {
    let mut answer = Answer::default();
    match question.task.as_str() {
        "seal" => {
            let recipients = Recipients::try_new(&messages(&question.configs)?)?;
            let plain =
                v2::PlaintextData::decode(BASE64_STANDARD.decode(&question.plain)?.as_slice())?;
            let sealed = recipients.seal(&Plaintext {
                name: plain.name,
                description: plain.description,
                schema: plain.schema,
                secret: String::from_utf8(plain.bytes)?.into(),
            })?;
            answer.messages = texts(&sealed);
        }
        "keys" => {
            *keys = KeyKind::ALL
                .into_iter()
                .map(|kind| RevealKey::generate(kind).context("no key could be made"))
                .collect::<Result<_, _>>()?;
            let configs: Vec<_> = keys.iter().map(RevealKey::encryption_config).collect();
            answer.messages = texts(&configs);
        }
        "reveal" => {
            let key = keys.get(question.key).context("there is no such key")?;
            for data in messages(&question.configs)? {
                let opened = reveal(key, &data)?;
                answer
                    .messages
                    .push(BASE64_STANDARD.encode(opened.expose_secret()));
            }
        }
        "open" => {
            let secret = ClientSecret::parse(&SecretString::from(question.secret.as_str()))?;
            let password = open::password(secret.key(), &messages(&question.configs)?)?;
            answer.texts.push(password.expose_secret().to_owned());
        }
        "passwords" => {
            let options = v2::credential_options::RandomPassword::decode(
                BASE64_STANDARD.decode(&question.plain)?.as_slice(),
            )?;
            let recipe = Recipe::of(Some(&options))?;
            for _ in 0..question.count {
                let password = recipe.generate()?;
                answer.texts.push(password.expose_secret().to_owned());
            }
        }
        other => anyhow::bail!("{other} is no question"),
    }
    Ok(answer)
}

fn texts<M: Message>(messages: &[M]) -> Vec<String> {
    messages
        .iter()
        .map(|message| BASE64_STANDARD.encode(message.encode_to_vec()))
        .collect()
}

/// Serves an organisation whose groups are nested four deep, in a ring, and by two ways, under names in many scripts.
async fn simulator(port_file: &Path, api_key: &str) -> anyhow::Result<()> {
    const NAMES: [&str; 10] = [
        "Größenwahn & Söhne",
        "研究開発部",
        "Отдел продаж",
        "مجموعة المالية",
        "Ομάδα \"Ω\"",
        "👩🏽‍🚀 crew",
        "e\u{301}quipe (decomposed)",
        "Łódź | 100 % <b>bold</b>",
        "tab\tand\u{a0}spaces ",
        "a name that is long enough to be cut anywhere that cuts names, which nobody should do to names of groups at all",
    ];
    let mut config = jumpcloud::Config::of(Shape {
        users: 60,
        groups: 4,
        members_per_group: 6,
        apps: 4,
        groups_per_app: 1,
        admins: 3,
        ..Shape::default()
    });
    config.keys = vec![Key::new("conformance", api_key, KeyRole::Full)];
    let simulator = JumpCloudSim::start(config).await?;
    simulator
        .edit(|tenant| -> anyhow::Result<()> {
            let users = tenant.user_ids();
            let mut groups = Vec::new();
            for (name, members) in NAMES.iter().zip(users.chunks(6)) {
                let group = tenant.add_group(name, MembershipMethod::Static);
                tenant.set_members(group, members)?;
                groups.push(group);
            }
            let pick = |numbers: &[usize]| -> Vec<jumpcloud::Id> {
                numbers
                    .iter()
                    .filter_map(|&n| groups.get(n).copied())
                    .collect()
            };
            // A chain, a second way to its end, and a ring (7, 8, 9) that hangs below it.
            let nested: [(usize, &[usize]); 7] = [
                (0, &[1, 6]),
                (1, &[2]),
                (2, &[3, 4]),
                (5, &[3, 7]),
                (7, &[8]),
                (8, &[9]),
                (9, &[7]),
            ];
            for (outer, inner) in nested {
                for group in pick(&[outer]) {
                    tenant.set_nested_groups(group, &pick(inner))?;
                }
            }
            for (app, bound) in tenant.app_ids().into_iter().zip([0, 5, 8]) {
                tenant.set_app_bindings(app, &pick(&[bound]), &[])?;
                tenant.set_field(app, "displayName", Some("Büro-Anwendung ∞".into()))?;
            }
            Ok(())
        })
        .context("there is no organisation")??;
    // Written aside and renamed, so that the judge never reads half of it.
    let aside = port_file.with_extension("partial");
    tokio::fs::write(&aside, simulator.address().to_string()).await?;
    tokio::fs::rename(&aside, port_file).await?;
    tokio::task::spawn_blocking(|| io::stdin().lock().read_to_end(&mut Vec::new())).await??;
    simulator.shutdown().await;
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
        ["crypto"] => crypto()?,
        ["simulator", port_file, api_key] => simulator(Path::new(port_file), api_key).await?,
        _ => anyhow::bail!(
            "usage: producer descriptors OUT | producer settings OUT | producer files IN OUT_DIR | producer crypto | \
             producer simulator PORT_FILE API_KEY"
        ),
    }
    Ok(())
}
