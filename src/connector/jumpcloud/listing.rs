//! Lists read whole at their first page: resources on disk, edges of the graph in memory.
//!
//! Reading a list in one go lets the client fetch its pages at once and notice rows that moved while it read; serving it
//! page by page keeps the memory of whoever stores it small. Each id is taken once.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::StreamExt;
use prost::Message;
use serde::de::DeserializeOwned;

use super::{
    client::{Client, List},
    ids::Id,
    session::{Session, Warning},
    spool::{Spool, Writer},
    wire,
};
use crate::{
    connector::{Error, Page},
    proto::connector as v2,
};

/// How many edges make a page of grants.
const EDGES_PER_PAGE: usize = 1000;

/// A row that is a resource.
pub(super) trait Row: DeserializeOwned + Send + 'static {
    /// The id, if it is usable.
    fn usable_id(&self) -> Option<&str>;
    /// The resource of a row with this id.
    fn to_resource(&self, id: &str) -> v2::Resource;
}

/// The resources of one type in one sync.
#[derive(Debug)]
pub(super) struct Listing {
    spool: Spool,
    /// All ids, sorted.
    known: Vec<Id>,
}

impl Listing {
    /// Reads a list to its end; `first` comes before everything else.
    pub(super) async fn read<T: Row>(
        client: &Client,
        session: &Session,
        folder: &Path,
        list: List,
        first: Option<v2::Resource>,
    ) -> Result<Self, Error> {
        let endpoint = list.template;
        let mut spool = Writer::create(folder).await?;
        let mut known = HashSet::new();
        let mut pages = client.pages::<T>(list);
        let mut bytes = first
            .as_ref()
            .map(Message::encode_length_delimited_to_vec)
            .unwrap_or_default();
        while let Some(rows) = pages.next().await.transpose()? {
            for row in rows {
                let Some(id) = row.usable_id() else {
                    session.warn(Warning::RowWithoutId, "");
                    continue;
                };
                if known.insert(Id::new(id)) {
                    let resource = row.to_resource(id);
                    bytes.extend_from_slice(&resource.encode_length_delimited_to_vec());
                }
            }
            spool.append(std::mem::take(&mut bytes)).await?;
        }
        if !bytes.is_empty() {
            spool.append(bytes).await?;
        }
        let mut known: Vec<Id> = known.into_iter().collect();
        known.sort_unstable();
        tracing::debug!(
            http.endpoint = endpoint,
            row.count = known.len(),
            "read a list"
        );
        Ok(Self {
            spool: spool.finish(),
            known,
        })
    }

    /// Whether this sync has a resource with this id.
    pub(super) fn contains(&self, id: &Id) -> bool {
        self.known.binary_search(id).is_ok()
    }

    /// A page of the list.
    pub(super) async fn page(
        &self,
        resource_type: &str,
        token: Option<&str>,
    ) -> Result<Page<v2::Resource>, Error> {
        let number = parse_position(resource_type, token)?;
        let bytes = self.spool.page(number).await?.unwrap_or_default();
        let mut rest = bytes.as_slice();
        let mut items = Vec::new();
        while !rest.is_empty() {
            items.push(decode(&mut rest)?);
        }
        Ok(Page {
            items,
            next: (number + 1 < self.spool.pages()).then(|| (number + 1).to_string()),
            annotations: Vec::new(),
        })
    }
}

/// The next message of a spooled page.
pub(super) fn decode<M: Message + Default>(rest: &mut &[u8]) -> Result<M, Error> {
    M::decode_length_delimited(rest).map_err(|error| Error::Local {
        what: "understanding the temporary file in the work folder".to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    })
}

/// A page token that is a plain number.
pub(super) fn parse_position(resource_type: &str, token: Option<&str>) -> Result<usize, Error> {
    token.map_or(Ok(0), |token| {
        token
            .parse()
            .ok()
            .ok_or_else(|| super::unknown_token(resource_type, token))
    })
}

/// What the far end of an edge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum End {
    User,
    Group,
}

/// The edges of one object, each once, in the order of JumpCloud.
pub(super) type Edges = Arc<Vec<(End, Id)>>;

/// Edges that are served over several pages; emptied by the last one.
#[derive(Debug, Default)]
pub(super) struct LongEdges(Mutex<HashMap<String, Edges>>);

impl LongEdges {
    fn find(&self, key: &str) -> Option<Edges> {
        self.lock().get(key).map(Arc::clone)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Edges>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A page of edges and the position of the next one.
pub(super) struct EdgePage {
    pub(super) edges: Vec<(End, Id)>,
    pub(super) next: Option<usize>,
}

/// The edges of a list from a position on. What does not fit one page is remembered until the last page.
pub(super) async fn edge_page(
    client: &Client,
    session: &Session,
    list: List,
    position: usize,
) -> Result<EdgePage, Error> {
    let key = format!("{} {:?} {:?}", list.template, list.ids, list.query);
    let known = if position == 0 {
        None
    } else {
        session.long_edges.find(&key)
    };
    let all = match known {
        Some(all) => all,
        None => Arc::new(read_edges(client, session, list).await?),
    };
    let end = position.saturating_add(EDGES_PER_PAGE);
    let next = (end < all.len()).then_some(end);
    if next.is_some() {
        session.long_edges.lock().insert(key, Arc::clone(&all));
    } else if position > 0 {
        session.long_edges.lock().remove(&key);
    }
    Ok(EdgePage {
        edges: all
            .iter()
            .skip(position)
            .take(EDGES_PER_PAGE)
            .cloned()
            .collect(),
        next,
    })
}

async fn read_edges(
    client: &Client,
    session: &Session,
    list: List,
) -> Result<Vec<(End, Id)>, Error> {
    let mut pages = client.pages::<wire::Edge>(list);
    let mut seen = HashSet::new();
    let mut edges = Vec::new();
    while let Some(rows) = pages.next().await.transpose()? {
        for row in rows {
            let Some(to) = row.to else {
                session.warn(Warning::RowWithoutId, "");
                continue;
            };
            let end = match to.kind.as_deref() {
                Some("user") => End::User,
                // The second is what the official connector looks for.
                Some("user_group" | "group") => End::Group,
                other => {
                    session.warn(Warning::StrangeEdge, other.unwrap_or_default());
                    continue;
                }
            };
            let Some(id) = wire::usable(to.id.as_deref()) else {
                session.warn(Warning::RowWithoutId, "");
                continue;
            };
            let edge = (end, Id::new(id));
            if seen.insert(edge.clone()) {
                edges.push(edge);
            }
        }
    }
    Ok(edges)
}
