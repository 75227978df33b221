//! Lists read whole at their first page and kept page by page: resources and the edges of the graph.
//!
//! Reading a list in one go lets the client fetch its pages at once and notice rows that moved while it read; serving it
//! page by page keeps the memory of whoever stores it small. Each id is taken once. A sync with a folder of its own keeps
//! its lists there, and goes on with them after a restart: what is held in memory comes from the file alone.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    marker::PhantomData,
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::OnceCell;

use super::{
    client::{Client, Identified, List, Progress},
    ids::Id,
    list_file::{ListFile, Page as Kept, Place, damaged},
    session::Session,
    wire,
};
use crate::{
    connector::{Error, Page},
    crypto::Sha256,
    error::{Classify, Code},
    proto::connector as v2,
    supervisor::lock,
};

/// Edges that take no more pages than this stay in memory; longer ones are kept like a list, and this many pages of
/// them make a page of grants.
const EDGE_PAGES: usize = 10;

/// What is kept of a row.
pub(super) trait Record: Sized + Send {
    /// JumpCloud's row.
    type Row: DeserializeOwned + Identified + Send + 'static;
    /// What no other record of the list has.
    type Key: Eq + Hash + Send;
    /// Whether the list itself may be gone, as that of an object that was deleted.
    const MAY_BE_GONE: bool = false;

    /// The record of a row.
    fn of(row: Self::Row) -> Result<Self, Omitted>;
    /// What no other record of the list has.
    fn key(&self) -> Self::Key;
    /// The record as it is kept.
    fn encode(&self) -> Vec<u8>;
    /// The record that was kept like this; `None` where it is none.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Why a row is left out.
#[derive(Debug)]
pub(super) enum Omitted {
    /// It has no usable id.
    Nameless,
    /// It is of a kind that means nothing here.
    Strange(String),
}

/// How a list is kept.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keep<'a> {
    /// Not at all: the records are held by whoever takes them.
    Memory,
    /// In a file.
    File(Place<'a>),
    /// In a file when it has more than [`EDGE_PAGES`] pages; else in memory.
    LongFile(Place<'a>),
}

impl<'a> Keep<'a> {
    /// In a file where that outlives the process.
    pub(super) fn durably(session: &'a Session, name: &'a str) -> Self {
        session.folder().map_or(Self::Memory, |folder| {
            Self::File(Place::Named(folder, name))
        })
    }
}

/// Where the list with this name is kept in a sync; nameless in `work_dir` without a folder of the sync.
pub(super) fn place<'a>(session: &'a Session, work_dir: &'a Path, name: &'a str) -> Place<'a> {
    session
        .folder()
        .map_or(Place::Nameless(work_dir), |folder| {
            Place::Named(folder, name)
        })
}

/// A list that was read to its end.
#[derive(Debug)]
pub(super) struct ReadList<K> {
    /// Its pages, unless it is kept in memory.
    pub(super) file: Option<ListFile>,
    /// The pages of a list that was too short for a file.
    pub(super) short: Vec<Kept>,
    /// The keys of all records.
    pub(super) known: HashSet<K>,
    /// Whether rows of other organisations may be among its own.
    pub(super) unscoped: bool,
}

/// Reads a list to its end, from where an earlier process came to; `take` gets every record once, in order.
pub(super) async fn read<R: Record>(
    client: &Client,
    session: &Session,
    keep: Keep<'_>,
    list: List,
    mut take: impl FnMut(R) + Send,
) -> Result<ReadList<R::Key>, Error> {
    let endpoint = list.template;
    let what = format!(
        "{endpoint} {:?} {:?} of {}",
        list.ids,
        list.query,
        client.org_id().unwrap_or("the only organisation")
    );
    let mut progress = Progress::default();
    let mut done = ReadList {
        file: None,
        short: Vec::new(),
        known: HashSet::new(),
        unscoped: false,
    };
    let place = match keep {
        Keep::Memory => None,
        Keep::File(place) => Some(place),
        Keep::LongFile(place) => exists(place).await.then_some(place),
    };
    if let Some(place) = place {
        let replay = |page: &Kept| {
            let records: Option<Vec<R>> =
                page.records.iter().map(|bytes| R::decode(bytes)).collect();
            let (Some(records), Some(mark)) = (records, &page.mark) else {
                return false;
            };
            progress.pass(mark);
            session.warn_of(page);
            done.unscoped |= page.unscoped;
            for record in records {
                if done.known.insert(record.key()) {
                    take(record);
                }
            }
            true
        };
        done.file = Some(ListFile::open(place, what.clone(), replay).await?);
    }
    if done.file.as_ref().is_some_and(ListFile::is_complete) {
        tracing::debug!(http.endpoint = endpoint, "a list needs no reading");
    } else {
        let mut walk = client.walk::<R::Row>(list, progress);
        while let Some(step) = walk.next().await.map_err(gone::<R>)? {
            let mut page = Kept {
                mark: Some(step.mark),
                unscoped: client.administrators_are_unscoped(),
                ..Kept::default()
            };
            for row in step.rows {
                match R::of(row) {
                    Ok(record) => {
                        if done.known.insert(record.key()) {
                            page.records.push(record.encode());
                            take(record);
                        }
                    }
                    Err(Omitted::Nameless) => page.nameless += 1,
                    Err(Omitted::Strange(kind)) => page.strange.push(kind),
                }
            }
            session.warn_of(&page);
            done.unscoped |= page.unscoped;
            match (&mut done.file, keep) {
                (Some(file), _) => file.append(page).await?,
                (None, Keep::LongFile(place)) => {
                    done.short.push(page);
                    if done.short.len() > EDGE_PAGES {
                        let mut file = ListFile::open(place, what.clone(), |_| false).await?;
                        for page in std::mem::take(&mut done.short) {
                            file.append(page).await?;
                        }
                        done.file = Some(file);
                    }
                }
                (None, _) => {}
            }
        }
        if let Some(file) = &mut done.file {
            file.finish(walk.doubt()).await?;
        }
        if let Some(doubt) = walk.doubt() {
            session.doubt(endpoint, doubt);
        }
        tracing::debug!(
            http.endpoint = endpoint,
            row.count = done.known.len(),
            "read a list"
        );
        return Ok(done);
    }
    if let Some(doubt) = done.file.as_ref().and_then(ListFile::doubt) {
        session.doubt(endpoint, doubt);
    }
    Ok(done)
}

/// The error of a list. A whole list that is not there is none of an object that was deleted meanwhile, and must not look
/// like an empty one.
fn gone<R: Record>(error: Error) -> Error {
    if R::MAY_BE_GONE || error.code() != Code::NotFound {
        return error;
    }
    Error::Invalid {
        what: format!("a list of JumpCloud is not there any more: {error}"),
    }
}

async fn exists(place: Place<'_>) -> bool {
    match place {
        Place::Named(folder, name) => tokio::fs::try_exists(folder.join(name))
            .await
            .unwrap_or(false),
        Place::Nameless(_) => false,
    }
}

/// A row that is a resource.
pub(super) trait Row: DeserializeOwned + Identified + Send + 'static {
    /// The id, if it is usable.
    fn usable_id(&self) -> Option<&str>;
    /// The resource of a row with this id.
    fn to_resource(&self, id: &str) -> v2::Resource;
}

struct Stored<T>(v2::Resource, PhantomData<fn() -> T>);

impl<T: Row> Record for Stored<T> {
    type Row = T;
    type Key = Id;

    fn of(row: T) -> Result<Self, Omitted> {
        let id = row.usable_id().ok_or(Omitted::Nameless)?;
        Ok(Self(row.to_resource(id), PhantomData))
    }

    fn key(&self) -> Id {
        key_of(&self.0)
    }

    fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let resource = v2::Resource::decode(bytes).ok()?;
        Some(Self(resource, PhantomData))
    }
}

/// The id of a resource in memory.
pub(super) fn key_of(resource: &v2::Resource) -> Id {
    Id::new(resource.id.as_ref().map_or("", |id| id.resource.as_str()))
}

/// A row as JumpCloud has it, kept as JSON.
pub(super) fn row_to_json<T: Serialize>(row: &T) -> Vec<u8> {
    // Text, numbers and flags into memory: cannot fail, and what is not there would be refused when it is read.
    serde_json::to_vec(row).unwrap_or_default()
}

/// The resources of one type in one sync.
#[derive(Debug)]
pub(super) struct Listing {
    file: ListFile,
    /// Comes before everything else.
    first: Option<v2::Resource>,
    /// All ids, sorted.
    known: Vec<Id>,
}

impl Listing {
    /// Reads a list to its end; `first` comes before everything else.
    pub(super) async fn read<T: Row>(
        client: &Client,
        session: &Session,
        place: Place<'_>,
        list: List,
        first: Option<v2::Resource>,
    ) -> Result<Self, Error> {
        let read = read::<Stored<T>>(client, session, Keep::File(place), list, drop).await?;
        Ok(Self {
            file: read.file.ok_or_else(|| damaged("it is not there"))?,
            first,
            known: sorted(read.known),
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
        let served = self.file.served(parse_position(resource_type, token)?, 1);
        let mut items = Vec::new();
        if served.start == 0 {
            items.extend(self.first.clone());
        }
        let next = served.end;
        for number in served {
            for bytes in records(&self.file, number).await? {
                let resource = v2::Resource::decode(bytes.as_slice());
                items.push(resource.map_err(|_with_details| damaged("a resource is none"))?);
            }
        }
        Ok(Page {
            items,
            next: (next < self.file.pages()).then(|| next.to_string()),
            annotations: Vec::new(),
        })
    }
}

/// The records of a page; none behind the last one.
pub(super) async fn records(file: &ListFile, number: usize) -> Result<Vec<Vec<u8>>, Error> {
    let page = file.page(number).await?;
    Ok(page.map(|page| page.records).unwrap_or_default())
}

/// Keys in order, without room to spare.
pub(super) fn sorted<K: Ord>(known: HashSet<K>) -> Vec<K> {
    let mut known: Vec<K> = known.into_iter().collect();
    known.sort_unstable();
    known
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

/// One edge of an object, known by its far end.
struct Edge(End, Id);

impl Record for Edge {
    type Row = wire::Edge;
    type Key = (End, Id);
    const MAY_BE_GONE: bool = true;

    fn of(row: wire::Edge) -> Result<Self, Omitted> {
        let to = row.to.ok_or(Omitted::Nameless)?;
        let end = match to.kind.as_deref() {
            Some("user") => End::User,
            // The second is what the official connector looks for.
            Some("user_group" | "group") => End::Group,
            other => {
                let kind = other.unwrap_or_default();
                return Err(Omitted::Strange(super::profile::clip(kind, 128)));
            }
        };
        let id = wire::usable(to.id.as_deref()).ok_or(Omitted::Nameless)?;
        Ok(Self(end, Id::new(id)))
    }

    fn key(&self) -> (End, Id) {
        (self.0, self.1.clone())
    }

    fn encode(&self) -> Vec<u8> {
        let end = match self.0 {
            End::User => 'u',
            End::Group => 'g',
        };
        format!("{end}{}", self.1).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (end, id) = std::str::from_utf8(bytes).ok()?.split_at_checked(1)?;
        let end = match end {
            "u" => End::User,
            "g" => End::Group,
            _ => return None,
        };
        Some(Self(end, Id::new(id)))
    }
}

/// The edges of one object, each once, in the order of JumpCloud.
#[derive(Debug)]
pub(super) enum Edges {
    Short(Vec<Kept>),
    Long(ListFile),
}

/// Edges that are being served; forgotten with their last page.
#[derive(Debug, Default)]
pub(super) struct OpenEdges(Mutex<HashMap<String, Arc<OnceCell<Edges>>>>);

/// A page of edges and the position of the next one.
pub(super) struct EdgePage {
    pub(super) edges: Vec<(End, Id)>,
    pub(super) next: Option<usize>,
}

/// The edges of a list from a position on.
pub(super) async fn edge_page(
    client: &Client,
    session: &Session,
    work_dir: &Path,
    list: List,
    position: usize,
) -> Result<EdgePage, Error> {
    let key = format!("{} {:?} {:?}", list.template, list.ids, list.query);
    let open = &session.open_edges;
    let cell = Arc::clone(lock(&open.0).entry(key.clone()).or_default());
    let name = file_name(&key);
    let read_all = || async {
        let keep = Keep::LongFile(place(session, work_dir, &name));
        let read = read::<Edge>(client, session, keep, list, drop).await?;
        Ok(match read.file {
            Some(file) => Edges::Long(file),
            None => Edges::Short(read.short),
        })
    };
    let page = match cell.get_or_try_init(read_all).await? {
        Edges::Short(pages) => {
            let mut edges = Vec::new();
            for page in pages {
                edges.extend(decoded(&page.records)?);
            }
            EdgePage { edges, next: None }
        }
        Edges::Long(file) => {
            let served = file.served(position.saturating_mul(EDGE_PAGES), EDGE_PAGES);
            let next = (served.end < file.pages()).then_some(served.end / EDGE_PAGES);
            let mut edges = Vec::new();
            for number in served {
                edges.extend(decoded(&records(file, number).await?)?);
            }
            EdgePage { edges, next }
        }
    };
    if page.next.is_none() {
        // A file stays where it is: its last page may be asked for again after a restart.
        lock(&open.0).remove(&key);
    }
    Ok(page)
}

fn decoded(records: &[Vec<u8>]) -> Result<Vec<(End, Id)>, Error> {
    records
        .iter()
        .map(|bytes| Edge::decode(bytes).map(|Edge(end, id)| (end, id)))
        .collect::<Option<_>>()
        .ok_or_else(|| damaged("an edge is none"))
}

/// Ids may hold what names of files may not.
fn file_name(key: &str) -> String {
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(key.as_bytes()));
    format!("edges-{digest}.list")
}
