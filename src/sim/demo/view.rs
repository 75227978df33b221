//! What ConductorOne would show, read from the uploaded file.

use std::{collections::BTreeMap, path::Path};

use super::table::{Align, Table, number};
use crate::{
    c1z::{GrantFilter, Reader, ResourceFilter},
    proto::{Kind, Struct, connector as v2, find},
};

/// The tables, and how many rows they left out.
#[derive(Debug)]
pub(super) struct View {
    pub(super) accounts: Table,
    pub(super) accounts_left_out: u64,
    pub(super) entitlements: Table,
    pub(super) entitlements_left_out: u64,
}

/// Who holds an entitlement, by how they came to it.
#[derive(Debug, Default, Clone, Copy)]
struct Holders {
    direct: u64,
    inherited: u64,
    groups: u64,
}

impl View {
    /// Reads the newest sync of a file; `rows` limits each table. Blocks.
    pub(super) fn read(file: &Path, work_dir: &Path, rows: usize) -> anyhow::Result<Self> {
        let reader = Reader::open(file, work_dir)?;
        let sync_id = reader.latest_sync()?.sync_id;
        let (accounts, accounts_left_out) = accounts(&reader, &sync_id, rows)?;
        let (entitlements, entitlements_left_out) = entitlements(&reader, &sync_id, rows)?;
        Ok(Self {
            accounts,
            accounts_left_out,
            entitlements,
            entitlements_left_out,
        })
    }
}

fn accounts(reader: &Reader, sync_id: &str, limit: usize) -> anyhow::Result<(Table, u64)> {
    let mut table = Table::new([
        ("ACCOUNT", Align::Left),
        ("KIND", Align::Left),
        ("STATUS", Align::Left),
        ("E-MAIL", Align::Left),
        ("MANAGER", Align::Left),
        ("MFA", Align::Left),
    ]);
    // A third of the rows is kept for administrators, who come last in the file.
    let (mut users, mut administrators) = (Vec::new(), Vec::new());
    let mut total = 0_u64;
    for resource in reader.resources(sync_id, ResourceFilter::Type("user")) {
        let account = Account::of(&resource?);
        total += 1;
        let (rows, room) = if account.is_administrator {
            (&mut administrators, limit.div_ceil(3))
        } else {
            (&mut users, limit)
        };
        if rows.len() < room {
            rows.push(account);
        }
    }
    users.truncate(limit.saturating_sub(administrators.len()));
    let shown = (users.len() + administrators.len()) as u64;
    for account in users.into_iter().chain(administrators) {
        table.row([
            account.name,
            if account.is_administrator {
                "administrator"
            } else {
                "user"
            }
            .to_owned(),
            account.status,
            account.email,
            account.manager,
            account.mfa.to_owned(),
        ]);
    }
    Ok((table, total - shown))
}

struct Account {
    name: String,
    is_administrator: bool,
    status: String,
    email: String,
    manager: String,
    mfa: &'static str,
}

impl Account {
    #[expect(
        deprecated,
        reason = "a reader takes the older places of profile and status too"
    )]
    fn of(resource: &v2::Resource) -> Self {
        use v2::{status::ResourceStatus, user_trait::status::Status};

        let user: v2::UserTrait = find(&resource.annotations).unwrap_or_default();
        let profile = resource.profile.as_ref().or(user.profile.as_ref());
        let text = |key: &str| match field(profile, key) {
            Some(Kind::StringValue(text)) => text.as_str(),
            _ => "",
        };
        let (word, details) = match (&resource.status, &user.status) {
            (Some(status), _) => (
                match status.status() {
                    ResourceStatus::Enabled => "enabled",
                    ResourceStatus::Disabled => "disabled",
                    ResourceStatus::Deleted => "deleted",
                    ResourceStatus::Unspecified => "unknown",
                },
                status.details.as_str(),
            ),
            (None, Some(status)) => (
                match status.status() {
                    Status::Enabled => "enabled",
                    Status::Disabled => "disabled",
                    Status::Deleted => "deleted",
                    Status::Unspecified => "unknown",
                },
                status.details.as_str(),
            ),
            (None, None) => ("unknown", ""),
        };
        let email = user
            .emails
            .iter()
            .find(|email| email.is_primary)
            .or(user.emails.first())
            .map_or("", |email| email.address.as_str());
        Self {
            name: resource.display_name.clone(),
            is_administrator: text("account_kind") == "administrator",
            status: if details.is_empty() {
                word.to_owned()
            } else {
                format!("{word} ({details})")
            },
            email: email.to_owned(),
            manager: text("manager").to_owned(),
            mfa: match &user.mfa_status {
                Some(status) if status.mfa_enabled => "yes",
                Some(_) => "no",
                None => "",
            },
        }
    }
}

fn field<'a>(profile: Option<&'a Struct>, key: &str) -> Option<&'a Kind> {
    profile?.fields.get(key)?.kind.as_ref()
}

fn entitlements(reader: &Reader, sync_id: &str, limit: usize) -> anyhow::Result<(Table, u64)> {
    let mut holders: BTreeMap<String, Holders> = BTreeMap::new();
    for stored in reader.grants(sync_id, GrantFilter::All) {
        let grant = stored?.grant;
        let id = grant.entitlement.as_ref().map_or("", |e| e.id.as_str());
        let principal = grant.principal.as_ref().and_then(|p| p.id.as_ref());
        let counts = holders.entry(id.to_owned()).or_default();
        let own = grant
            .sources
            .as_ref()
            .is_none_or(|sources| sources.sources.is_empty() || sources.sources.contains_key(id));
        match principal.map_or("", |id| id.resource_type.as_str()) {
            "user" if own => counts.direct += 1,
            "user" => counts.inherited += 1,
            _ => counts.groups += 1,
        }
    }
    let mut table = Table::new([
        ("ENTITLEMENT", Align::Left),
        ("OF", Align::Left),
        ("DIRECT", Align::Right),
        ("INHERITED", Align::Right),
        ("GROUPS", Align::Right),
    ]);
    let mut by_type: BTreeMap<String, Vec<v2::Entitlement>> = BTreeMap::new();
    let mut total = 0_u64;
    for entitlement in reader.entitlements(sync_id, None) {
        let entitlement = entitlement?;
        total += 1;
        let kind = entitlement
            .resource
            .as_ref()
            .and_then(|resource| resource.id.as_ref())
            .map_or_else(String::new, |id| id.resource_type.clone());
        let rows = by_type.entry(kind).or_default();
        if rows.len() < limit {
            rows.push(entitlement);
        }
    }
    let mut shown = 0;
    for (kind, rows) in &by_type {
        for entitlement in rows
            .iter()
            .take(if kind == "role" { limit / 3 } else { limit })
        {
            let counts = holders.get(&entitlement.id).copied().unwrap_or_default();
            let blank_or = |count: u64| {
                if count == 0 {
                    "-".to_owned()
                } else {
                    number(count)
                }
            };
            table.row([
                entitlement.display_name.clone(),
                kind.clone(),
                blank_or(counts.direct),
                blank_or(counts.inherited),
                blank_or(counts.groups),
            ]);
            shown += 1;
        }
    }
    Ok((table, total - shown))
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        c1z::{Finish, Store, SyncStart},
        proto::{pack, string_value},
    };

    fn resource(kind: &str, id: &str) -> v2::Resource {
        v2::Resource {
            id: Some(v2::ResourceId {
                resource_type: kind.to_owned(),
                resource: id.to_owned(),
                ..Default::default()
            }),
            display_name: format!("The {kind} {id}"),
            ..Default::default()
        }
    }

    fn account(id: &str, profile: &[(&str, &str)], details: &str) -> v2::Resource {
        v2::Resource {
            annotations: vec![pack(&v2::UserTrait {
                emails: vec![v2::user_trait::Email {
                    address: format!("{id}@example.com"),
                    is_primary: true,
                }],
                mfa_status: Some(v2::user_trait::MfaStatus { mfa_enabled: true }),
                ..Default::default()
            })],
            profile: Some(Struct {
                fields: profile
                    .iter()
                    .map(|(key, text)| ((*key).to_owned(), string_value(*text)))
                    .collect(),
            }),
            status: Some(v2::Status {
                status: if details.is_empty() { 1 } else { 2 },
                details: details.to_owned(),
            }),
            ..resource("user", id)
        }
    }

    fn grant(app: &v2::Entitlement, principal: &str, id: &str, sources: &[&str]) -> v2::Grant {
        v2::Grant {
            entitlement: Some(app.clone()),
            principal: Some(resource(principal, id)),
            id: format!("{principal}:{id}"),
            sources: (!sources.is_empty()).then(|| v2::GrantSources {
                sources: sources
                    .iter()
                    .map(|source| {
                        (
                            (*source).to_owned(),
                            v2::grant_sources::GrantSource::default(),
                        )
                    })
                    .collect(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn accounts_and_holders_are_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sync.c1z");
        let now = jiff::Timestamp::UNIX_EPOCH;
        let start = SyncStart {
            sync_id: "2abcdefghijklmnopqrstuvwxyz".to_owned(),
            sync_type: "full".to_owned(),
            started_at: now,
        };
        let mut store = Store::create(folder.path(), &start, CancellationToken::new()).unwrap();
        let mut users: Vec<v2::Resource> = (1..=4)
            .map(|id| account(&format!("u{id}"), &[("manager", "boss@example.com")], ""))
            .collect();
        users.push(account(
            "a1",
            &[("account_kind", "administrator")],
            "suspended",
        ));
        store.put_resources(&users, now).unwrap();
        store.put_resources(&[resource("app", "1")], now).unwrap();
        let app = v2::Entitlement {
            id: "app:1".to_owned(),
            resource: Some(resource("app", "1")),
            display_name: "Payroll access".to_owned(),
            ..Default::default()
        };
        store
            .put_entitlements(std::slice::from_ref(&app), now)
            .unwrap();
        let grants = vec![
            grant(&app, "user", "u1", &[]),
            grant(&app, "user", "u2", &["app:1", "group:1"]),
            grant(&app, "user", "u3", &["group:1"]),
            grant(&app, "group", "1", &[]),
        ];
        store.put_grants(grants, now).unwrap();
        let finish = Finish {
            ended_at: now,
            token: "{}".to_owned(),
            supports_diff: true,
            invariants: None,
            step_durations_ms: BTreeMap::new(),
        };
        store.finish(&finish, true).unwrap();
        store.seal(&file).unwrap();

        let view = View::read(&file, folder.path(), 3).unwrap();
        let accounts = view.accounts.to_string();
        let lines: Vec<Vec<&str>> = accounts
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[0],
            ["ACCOUNT", "KIND", "STATUS", "E-MAIL", "MANAGER", "MFA"]
        );
        assert_eq!(
            lines[1],
            [
                "The",
                "user",
                "u1",
                "user",
                "enabled",
                "u1@example.com",
                "boss@example.com",
                "yes"
            ]
        );
        assert_eq!(
            lines[3],
            [
                "The",
                "user",
                "a1",
                "administrator",
                "disabled",
                "(suspended)",
                "a1@example.com",
                "yes"
            ]
        );
        assert_eq!((lines.len(), view.accounts_left_out), (4, 2));
        let entitlements = view.entitlements.to_string();
        let row: Vec<&str> = entitlements
            .lines()
            .nth(1)
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!(row, ["Payroll", "access", "app", "2", "1", "1"]);
        assert_eq!(view.entitlements_left_out, 0);
    }
}
