//! Tries out what a sync reads: one page of each list, the organisations of the key, and Directory Insights.
//!
//! Owns which lists those are. Writes nothing, and gives back counts and ids alone: no name and no address of a person
//! leaves this file.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    client::{Client, Convention, List, Method, Repeat},
    wire,
};
use crate::connector::Error;

const INSIGHTS: &str = "/insights/directory/v1/events/count";

/// A list that a sync reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Directory users.
    Users,
    /// Administrators.
    Administrators,
    /// User groups.
    Groups,
    /// The members of the group with this id.
    Members(String),
    /// Applications.
    Applications,
    /// The groups that the application with this id is bound to.
    Assignees(String),
    /// Administrator roles; a sync can do without.
    Roles,
}

impl Read {
    /// What it lists, in the plural.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Administrators => "administrators",
            Self::Groups => "user groups",
            Self::Members(_) => "members of a user group",
            Self::Applications => "applications",
            Self::Assignees(_) => "user groups of an application",
            Self::Roles => "administrator roles",
        }
    }

    /// The listing with as few fields as it can give.
    pub fn list(&self) -> List {
        let (template, convention) = match self {
            Self::Users => ("/api/systemusers", Convention::Wrapped),
            Self::Administrators => ("/api/users", Convention::Wrapped),
            Self::Groups => ("/api/v2/usergroups", Convention::Array),
            Self::Members(_) => ("/api/v2/usergroups/{id}/members", Convention::Array),
            Self::Applications => ("/api/applications", Convention::Wrapped),
            Self::Assignees(_) => ("/api/v2/applications/{id}/associations", Convention::Array),
            Self::Roles => ("/api/v2/roles", Convention::Wrapped),
        };
        let query = match self {
            Self::Users | Self::Administrators | Self::Applications => {
                vec![("fields", "_id".to_owned())]
            }
            // The id comes with it; it is no name of a field here.
            Self::Groups => vec![("fields", "name".to_owned())],
            Self::Assignees(_) => vec![("targets", "user_group".to_owned())],
            Self::Members(_) | Self::Roles => Vec::new(),
        };
        let ids = match self {
            Self::Members(id) | Self::Assignees(id) => vec![id.clone()],
            _ => Vec::new(),
        };
        List {
            template,
            ids,
            query,
            convention,
        }
    }
}

/// The first page of a list, at most 100 rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The ids of its rows, where they have one.
    pub ids: Vec<String>,
    /// How many rows it has.
    pub rows: usize,
    /// How many rows the whole list has, where JumpCloud says so.
    pub total: Option<u64>,
}

/// The id of a row under either of its names.
#[derive(Deserialize)]
struct Row {
    #[serde(rename = "_id", default)]
    first: Value,
    #[serde(rename = "id", default)]
    second: Value,
}

/// Reads the first page of a list. Cancel-safe.
pub async fn sample(client: &Client, read: &Read) -> Result<Sample, Error> {
    first_page(client, &read.list()).await
}

/// The organisations that the credentials see, by id. Cancel-safe.
///
/// Give it a client that names no organisation: JumpCloud refuses to list them for one.
pub async fn organizations(client: &Client) -> Result<Sample, Error> {
    let list = List {
        template: "/api/organizations",
        ids: Vec::new(),
        query: Vec::new(),
        convention: Convention::Wrapped,
    };
    first_page(client, &list).await
}

/// How many events Directory Insights has since then. Cancel-safe.
///
/// A query that JumpCloud wants as a `POST`; it changes nothing.
pub async fn events_since(client: &Client, since: Timestamp) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Count {
        count: u64,
    }
    let body = json!({"service": ["all"], "start_time": since.to_string()});
    let written = client
        .write::<_, Count>(Method::Post, INSIGHTS, &[], Some(&body), Repeat::Always)
        .await?;
    Ok(written.value.count)
}

async fn first_page(client: &Client, list: &List) -> Result<Sample, Error> {
    let page = client.page::<Row>(list, 0).await?;
    Ok(Sample {
        rows: page.items.len(),
        total: page.total,
        ids: page
            .items
            .iter()
            .filter_map(|row| {
                wire::usable(row.first.as_str()).or_else(|| wire::usable(row.second.as_str()))
            })
            .map(str::to_owned)
            .collect(),
    })
}
