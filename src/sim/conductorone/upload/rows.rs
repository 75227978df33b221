//! The rows of an uploaded file: every blob decoded, its field rules applied, its ids compared with the columns.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use rusqlite::Connection;

use crate::{
    proto::{connector as v2, find},
    sim::conductorone::rules,
};

/// How many broken rules of rows are named before the inspection gives up.
const MAX_FINDINGS: usize = 20;

/// What is wrong with rows, by table and row number.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, table: &str, row: i64, what: impl fmt::Display) -> anyhow::Result<()> {
        self.0.push(format!("{table} row {row}: {what}"));
        if self.0.len() >= MAX_FINDINGS {
            bail!("{} (and perhaps more)", self.0.join("; "));
        }
        Ok(())
    }

    fn rules<M: rules::Rules>(&mut self, table: &str, row: i64, message: &M) -> anyhow::Result<()> {
        for broken in rules::broken(message) {
            self.add(table, row, format!("{} {}", broken.field, broken.problem))?;
        }
        Ok(())
    }
}

/// Checks what conversion to the newer format and ingestion need of every row.
pub(super) fn check(connection: &Connection) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    let traits = check_resource_types(connection, &mut findings)?;
    let resources = check_resources(connection, &traits, &mut findings)?;
    let entitlements = check_entitlements(connection, &resources, &mut findings)?;
    check_grants(connection, &resources, &entitlements, &mut findings)?;
    let strangers: i64 = connection.query_row(
        "SELECT (SELECT count(*) FROM v1_resources WHERE sync_id NOT IN (SELECT sync_id FROM v1_sync_runs))
              + (SELECT count(*) FROM v1_entitlements WHERE sync_id NOT IN (SELECT sync_id FROM v1_sync_runs))
              + (SELECT count(*) FROM v1_grants WHERE sync_id NOT IN (SELECT sync_id FROM v1_sync_runs))",
        [],
        |row| row.get(0),
    )?;
    ensure!(
        strangers == 0,
        "{strangers} rows belong to a sync that is not in the file"
    );
    ensure!(findings.0.is_empty(), "{}", findings.0.join("; "));
    Ok(())
}

type Traits = BTreeMap<String, Vec<i32>>;

fn check_resource_types(
    connection: &Connection,
    findings: &mut Findings,
) -> anyhow::Result<Traits> {
    const TABLE: &str = "v1_resource_types";
    let mut traits = Traits::new();
    let mut query = connection.prepare("SELECT id, external_id, data FROM v1_resource_types")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (number, id, data): (i64, String, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let message = v2::ResourceType::decode(data.as_slice())
            .with_context(|| format!("{TABLE} row {number} does not decode"))?;
        findings.rules(TABLE, number, &message)?;
        if message.id != id {
            findings.add(TABLE, number, "external_id is not the id of the message")?;
        }
        traits.insert(id, message.traits);
    }
    Ok(traits)
}

fn check_resources(
    connection: &Connection,
    traits: &Traits,
    findings: &mut Findings,
) -> anyhow::Result<BTreeSet<String>> {
    use v2::resource_type::Trait;
    const TABLE: &str = "v1_resources";
    let mut ids = BTreeSet::new();
    let mut query = connection.prepare(
        "SELECT id, resource_type_id, external_id, parent_resource_type_id, parent_resource_id, data
         FROM v1_resources",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (number, kind, id): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let parent: (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
        let message = v2::Resource::decode(row.get::<_, Vec<u8>>(5)?.as_slice())
            .with_context(|| format!("{TABLE} row {number} does not decode"))?;
        findings.rules(TABLE, number, &message)?;
        let own = message.id.clone().unwrap_or_default();
        if own.resource_type != kind || key(&own) != id {
            findings.add(TABLE, number, "the columns are not the id of the message")?;
        }
        let of_message = match &message.parent_resource_id {
            Some(parent) => (
                Some(parent.resource_type.clone()),
                Some(parent.resource.clone()),
            ),
            None => (None, None),
        };
        if parent != of_message {
            findings.add(
                TABLE,
                number,
                "the parent columns are not the parent of the message",
            )?;
        }
        match traits.get(&kind) {
            None => findings.add(TABLE, number, "its resource type is not in the file")?,
            Some(traits) => {
                for role in traits {
                    let annotations = message.annotations.as_slice();
                    let has = match Trait::try_from(*role) {
                        Ok(Trait::User) => find::<v2::UserTrait>(annotations).is_some(),
                        Ok(Trait::Group) => find::<v2::GroupTrait>(annotations).is_some(),
                        Ok(Trait::Role) => find::<v2::RoleTrait>(annotations).is_some(),
                        Ok(Trait::App) => find::<v2::AppTrait>(annotations).is_some(),
                        Ok(Trait::Secret) => find::<v2::SecretTrait>(annotations).is_some(),
                        _ => true,
                    };
                    if !has {
                        findings.add(TABLE, number, "lacks the trait of its resource type")?;
                    }
                }
            }
        }
        ids.insert(id);
    }
    Ok(ids)
}

fn check_entitlements(
    connection: &Connection,
    resources: &BTreeSet<String>,
    findings: &mut Findings,
) -> anyhow::Result<BTreeSet<String>> {
    const TABLE: &str = "v1_entitlements";
    let mut ids = BTreeSet::new();
    let mut query = connection.prepare(
        "SELECT id, resource_type_id, resource_id, external_id, data FROM v1_entitlements",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (number, kind, resource, id): (i64, String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let message = v2::Entitlement::decode(row.get::<_, Vec<u8>>(4)?.as_slice())
            .with_context(|| format!("{TABLE} row {number} does not decode"))?;
        findings.rules(TABLE, number, &message)?;
        let own = resource_id(message.resource.as_ref());
        if message.id != id || own.resource_type != kind || own.resource != resource {
            findings.add(TABLE, number, "the columns are not the ids of the message")?;
        }
        if !resources.contains(&key(&own)) {
            findings.add(TABLE, number, "its resource is not in the file")?;
        }
        ids.insert(id);
    }
    Ok(ids)
}

fn check_grants(
    connection: &Connection,
    resources: &BTreeSet<String>,
    entitlements: &BTreeSet<String>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    const TABLE: &str = "v1_grants";
    let mut query = connection.prepare(
        "SELECT id, resource_type_id, resource_id, entitlement_id, principal_resource_type_id,
                principal_resource_id, external_id, expansion, needs_expansion, data
         FROM v1_grants",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        let columns: [String; 6] = [
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
            row.get(6)?,
        ];
        let expansion: Option<Vec<u8>> = row.get(7)?;
        let needs_expansion: i64 = row.get(8)?;
        let message = v2::Grant::decode(row.get::<_, Vec<u8>>(9)?.as_slice())
            .with_context(|| format!("{TABLE} row {number} does not decode"))?;
        findings.rules(TABLE, number, &message)?;
        let entitlement = message.entitlement.clone().unwrap_or_default();
        let of = resource_id(entitlement.resource.as_ref());
        let principal = resource_id(message.principal.as_ref());
        if !resources.contains(&key(&principal)) {
            findings.add(TABLE, number, "its principal is not in the file")?;
        }
        if !entitlements.contains(&entitlement.id) {
            findings.add(TABLE, number, "its entitlement is not in the file")?;
        }
        let of_message = [
            of.resource_type,
            of.resource,
            entitlement.id,
            principal.resource_type,
            principal.resource,
            message.id,
        ];
        if columns != of_message {
            findings.add(TABLE, number, "the columns are not the ids of the message")?;
        }
        if find::<v2::GrantExpandable>(&message.annotations).is_some() {
            findings.add(
                TABLE,
                number,
                "keeps GrantExpandable in its data, must be in expansion",
            )?;
        }
        match expansion {
            Some(bytes) => {
                let expandable = v2::GrantExpandable::decode(bytes.as_slice())
                    .with_context(|| format!("{TABLE} row {number}: expansion does not decode"))?;
                findings.rules(TABLE, number, &expandable)?;
                if needs_expansion != 1 {
                    findings.add(
                        TABLE,
                        number,
                        "has an expansion but needs_expansion is not 1",
                    )?;
                }
            }
            None if needs_expansion != 0 => {
                findings.add(TABLE, number, "has no expansion but needs_expansion is set")?;
            }
            None => {}
        }
    }
    let twins: i64 = connection.query_row(
        "SELECT count(*) FROM (SELECT 1 FROM v1_grants
         GROUP BY entitlement_id, principal_resource_type_id, principal_resource_id, sync_id
         HAVING count(*) > 1)",
        [],
        |row| row.get(0),
    )?;
    if twins > 0 {
        findings.add(
            TABLE,
            0,
            format!("{twins} pairs of entitlement and principal are not unique"),
        )?;
    }
    Ok(())
}

fn resource_id(resource: Option<&v2::Resource>) -> v2::ResourceId {
    resource
        .and_then(|resource| resource.id.clone())
        .unwrap_or_default()
}

fn key(id: &v2::ResourceId) -> String {
    format!("{}:{}", id.resource_type, id.resource)
}
