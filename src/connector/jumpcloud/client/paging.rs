//! Listings: addresses, one page, and the walk over all pages.
//!
//! A page always asks for [`LIMIT`] rows. A listing ends where its total says so, else with a short page; no page is
//! asked for only to find it empty. Every page must bring rows that its total promises, must differ from the page before,
//! and may point only to its own host, so that no peer can keep a walk going for ever or lead it elsewhere. A page of a
//! walk whose rows mostly have no usable id, or nothing beside it, is no page: what is left of it would look like objects
//! that are gone, or access that was taken away.
//!
//! # Listings that change while they are read
//!
//! JumpCloud has no snapshots and no cursors: a row that is deleted moves all later ones forward, across the border of a
//! page that was read before. So neighbouring pages overlap by one row, and every page must share a row with the one
//! before it. Where it does not, the walk goes back until the pages are connected again. What that is worth depends on
//! the order of the listing:
//!
//! | Order | Lists | What a connected walk proves |
//! |---|---|---|
//! | `_id`, which never changes | users, administrators, applications | Everything: between two shared rows lies a piece that one answer showed without a gap, so whatever existed throughout was read, however much came and went. |
//! | `name`, which people change | groups | The same but for a group that was renamed meanwhile, across a piece that was read to one that was not, together with another change that hides the shift. |
//! | none that is documented | members, bindings, roles | Nothing by itself, as the order may change with each change. |
//!
//! So in every order but the first the rows are counted as well: a reading must have as many distinct rows as its last
//! page promised. Connected by nothing but that count, a reading is believed only when the total stayed the same.
//! A reading that fails this is repeated, at most [`READINGS`] times in all, and two readings that agree are believed;
//! rows of every reading are kept, because they existed while the sync ran. What is doubtful even then is told as
//! [`Doubt`]; a reading that lacks more than a tenth of what it promises is an error.

use std::{
    collections::{HashSet, VecDeque, hash_map::DefaultHasher},
    fmt,
    hash::{Hash as _, Hasher as _},
    pin::pin,
    sync::{Arc, PoisonError},
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use serde::de::{DeserializeOwned, IgnoredAny};
use url::Url;

use super::{
    Client, Convention, List, ListPage,
    decode::{self, Problem, Rows, Wrapped},
    exchange::{Answer, Call, Shared, Verb, decode_error},
};
use crate::connector::Error;

/// Rows of one page; the most that JumpCloud gives.
pub(super) const LIMIT: u64 = 100;
/// No listing is read beyond this row.
const MAX_ROWS: u64 = 10_000_000;
const MAX_ID_BYTES: usize = 1024;
/// How many listings are remembered for the check that pages differ.
const MAX_REMEMBERED: usize = 1024;
/// How often a listing that changes is read at most.
pub(super) const READINGS: u32 = 3;
/// How many pages the walk goes back at most to connect a page to the one before.
const MAX_BRIDGE: usize = 8;
/// How far each of them goes back: half a page, so that it shares rows with the one behind it although more may move.
const BACK: u64 = LIMIT / 2;

impl Shared {
    /// A call to a template with its ids and query, without a body. A template may end with a fixed query of its own.
    pub(super) fn call<'q>(
        &self,
        verb: Verb,
        template: &'static str,
        ids: impl IntoIterator<Item = &'q str>,
        query: impl IntoIterator<Item = (&'q str, &'q str)>,
    ) -> Result<Call, Error> {
        let mut url = if template.starts_with("/insights/") {
            self.insights_url.clone()
        } else {
            self.console_url.clone()
        };
        let invalid = |what: String| Error::Invalid {
            what: format!("the path {template} {what}"),
        };
        let (path_template, fixed_query) = match template.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (template, None),
        };
        if fixed_query.is_some() {
            url.set_query(fixed_query);
        }
        let mut ids = ids.into_iter();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
            for segment in path_template
                .split('/')
                .filter(|segment| !segment.is_empty())
            {
                if segment.starts_with('{') {
                    let id = ids
                        .next()
                        .ok_or_else(|| invalid(format!("needs an id for {segment}")))?;
                    path.push(checked_id(id).map_err(|problem| {
                        invalid(format!("got an id of {} bytes that {problem}", id.len()))
                    })?);
                } else {
                    path.push(segment);
                }
            }
        }
        if ids.next().is_some() {
            return Err(invalid("got more ids than it has places for".to_owned()));
        }
        let mut query = query.into_iter().peekable();
        if query.peek().is_some() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(Call {
            verb,
            template,
            url,
            body: None,
        })
    }

    /// One page with `limit` rows from `skip` on, of which `judge` thinks well.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        list: &List,
        skip: u64,
        limit: u64,
        judge: Judge<T>,
    ) -> Result<ListPage<T>, Error> {
        if skip > MAX_ROWS {
            return Err(Error::Invalid {
                what: format!(
                    "{} has more than {MAX_ROWS} rows or never ends; it is not read further",
                    list.template
                ),
            });
        }
        let mut found = self.fetch(list, skip, limit, judge).await?;
        if let Some(other) = self.repeats(list, skip, &found) {
            // A lone slip of the server, or rows that moved here from there: in both cases the two places differ now.
            found = self.fetch(list, skip, limit, judge).await?;
            let there = self
                .fetch(list, other, limit, any_rows::<IgnoredAny>)
                .await?;
            if there.fingerprint == found.fingerprint && !found.page.items.is_empty() {
                return Err(decode_error(
                    Verb::Get.as_str(),
                    list.template,
                    Problem::new(
                        "results",
                        format!(
                            "the rows from row {skip} on are those of the page before; skip is not honoured"
                        ),
                    ),
                ));
            }
        }
        Ok(found.page)
    }

    async fn fetch<T: DeserializeOwned>(
        &self,
        list: &List,
        skip: u64,
        limit: u64,
        judge: Judge<T>,
    ) -> Result<Found<T>, Error> {
        let (limit_text, skip_text) = (limit.to_string(), skip.to_string());
        let query = list
            .query
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .chain([("limit", limit_text.as_str()), ("skip", skip_text.as_str())]);
        let call = self.call(
            Verb::Get,
            list.template,
            list.ids.iter().map(String::as_str),
            query,
        )?;
        let read = || {
            self.exchange(&call, |answer| {
                let found = page(answer, list, &call.url, skip, limit)?;
                judge(&found.page.items).map_or(Ok(found), Err)
            })
        };
        let mut found = read().await?;
        if found.is_contradictory(skip) {
            // A row that went away between counting and reading looks like this; it does so once only.
            found = read().await?;
        }
        if let Some(total) = found.page.total.filter(|_| found.is_contradictory(skip)) {
            return Err(decode_error(
                Verb::Get.as_str(),
                list.template,
                Problem::new(
                    "results",
                    format!("no rows from row {skip} on although there are {total} in all"),
                ),
            ));
        }
        Ok(found)
    }

    /// Remembers a page; gives the other place of the same listing that had the same rows, if it is the one remembered.
    fn repeats<T>(&self, list: &List, skip: u64, found: &Found<T>) -> Option<u64> {
        if found.page.items.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (list.template, &list.ids, &list.query).hash(&mut hasher);
        let key = hasher.finish();
        let mut last = self
            .last_pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MAX_REMEMBERED && !last.contains_key(&key) {
            last.clear();
        }
        last.insert(key, (skip, found.fingerprint))
            // The first page has none before it in its own reading; what is remembered may be of a reading that failed.
            .filter(|(other, seen)| skip > 0 && *other != skip && *seen == found.fingerprint)
            .map(|(other, _)| other)
    }
}

/// Whether so many rows are lacking that the rest cannot stand for the whole: more than a tenth, and more than one or all.
fn lacks_too_much(lacking: u64, of: u64) -> bool {
    (lacking > 1 || lacking == of) && lacking.saturating_mul(10) > of
}

/// What is wrong with the rows of a page, if anything is.
type Judge<T> = fn(&[T]) -> Option<Problem>;

/// Any rows will do.
pub(super) fn any_rows<T>(_rows: &[T]) -> Option<Problem> {
    None
}

/// Most rows tell what they are. An answer of which less can be read is worth another attempt, like one that is no JSON;
/// people without status and administrators without roles would look like access taken away.
fn identified<T: Identified>(rows: &[T]) -> Option<Problem> {
    let (mut of, mut unnamed, mut empty) = (0_u64, 0_u64, 0_u64);
    for row in rows {
        let is_unnamed = row.identity().is_none();
        of += 1;
        unnamed += u64::from(is_unnamed);
        empty += u64::from(is_unnamed || row.is_bare());
    }
    let words = if lacks_too_much(unnamed, of) {
        format!("{unnamed} of {of} rows have no usable id, which would be a text of 1 to 256 bytes")
    } else if empty > 1 && lacks_too_much(empty, of) {
        format!("{empty} of {of} rows say nothing beside an id")
    } else {
        return None;
    };
    Some(Problem::garbled("results", words))
}

fn checked_id(id: &str) -> Result<&str, &'static str> {
    if id.is_empty() {
        Err("is empty")
    } else if id.len() > MAX_ID_BYTES {
        Err("is too long")
    } else if id == "." || id == ".." {
        Err("would change the path")
    } else if id.chars().any(char::is_control) {
        Err("holds control characters")
    } else if id.contains(['/', '\\', '?', '#', ';', '%']) {
        // No id of JumpCloud has one. They would be escaped, but a gateway that decodes a path once more than it should
        // would see another one.
        Err("holds a character that has a meaning in a path")
    } else {
        Ok(id)
    }
}

struct Found<T> {
    page: ListPage<T>,
    fingerprint: u64,
}

impl<T> Found<T> {
    fn is_contradictory(&self, skip: u64) -> bool {
        self.page.items.is_empty() && self.page.total.is_some_and(|total| total > skip)
    }
}

fn page<T: DeserializeOwned>(
    answer: &Answer,
    list: &List,
    url: &Url,
    skip: u64,
    limit: u64,
) -> Result<Found<T>, Problem> {
    let (items, total) = match list.convention {
        Convention::Wrapped => {
            if answer.body.trim_ascii_start().starts_with(b"[") {
                let problem = "a list, expected an object with the list `results`";
                return Err(Problem::new(".", problem));
            }
            let body: Wrapped<T> = decode::json(&answer.body)?;
            let total = body.total();
            (body.results, total.or(answer.total))
        }
        Convention::Array => {
            let rows: Option<Rows<T>> = decode::json(&answer.body)?;
            (
                rows.map(|Rows(rows)| rows).unwrap_or_default(),
                answer.total,
            )
        }
    };
    let linked = has_next(answer.link.as_deref(), url)?;
    let rows = u64::try_from(items.len()).unwrap_or(u64::MAX);
    let end = skip.saturating_add(rows);
    // A total that the rows themselves exceed says nothing; to believe it would end the listing here.
    let total = total.filter(|&total| rows == 0 || total >= end);
    let more = rows > 0 && (linked || total.map_or(rows >= limit, |total| end < total));
    let mut hasher = DefaultHasher::new();
    rows_text(&answer.body).hash(&mut hasher);
    Ok(Found {
        page: ListPage {
            items,
            total,
            next_skip: more.then_some(end),
        },
        fingerprint: hasher.finish(),
    })
}

/// The rows of a body without the total, which a peer that never ends can raise from page to page.
fn rows_text(body: &[u8]) -> &[u8] {
    let first = body.iter().position(|&byte| byte == b'[');
    let last = body.iter().rposition(|&byte| byte == b']');
    first
        .zip(last)
        .and_then(|(first, last)| body.get(first..=last))
        .unwrap_or(body)
}

/// Whether a `Link` header names a next page; one on another origin is refused.
fn has_next(link: Option<&str>, from: &Url) -> Result<bool, Problem> {
    let mut rest = link.unwrap_or_default();
    while let Some((target, more)) = rest
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
    {
        let parameters = more
            .split_once('<')
            .map_or(more, |(parameters, _)| parameters);
        rest = more;
        let is_next = parameters.split(';').any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value
                        .trim_matches([' ', ',', '"'])
                        .split_ascii_whitespace()
                        .any(|relation| relation.eq_ignore_ascii_case("next"))
            })
        });
        if !is_next {
            continue;
        }
        let same = from
            .join(target)
            .is_ok_and(|target| target.origin() == from.origin());
        if !same {
            return Err(Problem::new(
                "header Link",
                "the next page is on another origin; refused, because the credential would go there",
            ));
        }
        return Ok(true);
    }
    Ok(false)
}

/// What a row is, so that two pages can be compared.
pub trait Identified {
    /// A text that no other row of the listing has; `None` where the row does not tell.
    fn identity(&self) -> Option<String>;

    /// Whether the row lacks all that rows of its kind have beside an id.
    fn is_bare(&self) -> bool {
        false
    }
}

/// One page of a walk, with the rows that were read again to connect it.
#[derive(Debug)]
pub struct Step<T> {
    /// The rows; those of other pages of the same listing may be among them.
    pub rows: Vec<T>,
    /// What to remember of the page, to go on behind it.
    pub mark: Mark,
}

/// What is to be remembered of one step.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mark {
    /// Counts the readings of the listing from 1 on.
    #[prost(uint32, tag = "1")]
    reading: u32,
    /// The row behind the page.
    #[prost(uint64, tag = "2")]
    end: u64,
    /// Whether rows follow.
    #[prost(bool, tag = "3")]
    more: bool,
    /// Rows of the whole listing, where the page said so.
    #[prost(uint64, optional, tag = "4")]
    total: Option<u64>,
    /// The rows that the next page must share one with.
    #[prost(string, repeated, tag = "5")]
    tail: Vec<String>,
    /// Other rows of the step.
    #[prost(string, repeated, tag = "6")]
    others: Vec<String>,
    /// Rows of the page that cannot be told apart from others.
    #[prost(uint64, tag = "7")]
    unclear: u64,
    /// Rows of the page.
    #[prost(uint64, tag = "8")]
    rows: u64,
    /// Whether the page could not be connected to the one before.
    #[prost(bool, tag = "9")]
    torn: bool,
}

/// How far a walk has come: the sum of its marks.
#[derive(Debug, Default)]
pub struct Progress {
    reading: u32,
    end: u64,
    more: bool,
    tail: HashSet<String>,
    first_total: Option<u64>,
    last_total: Option<u64>,
    /// Hashes of the rows of this reading.
    seen: HashSet<u64>,
    unclear: u64,
    torn: bool,
    /// The most rows of one page.
    width: u64,
    /// Whether the last page brought nothing but the row that overlaps, although there are more.
    stuck: bool,
    /// What the reading before this one found.
    before: Option<Sum>,
}

/// What a reading found, to be compared with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    rows: u64,
    total: Option<u64>,
    /// All hashes of rows in one.
    hash: u64,
}

impl Progress {
    /// Adds the mark of the next step.
    pub fn pass(&mut self, mark: &Mark) {
        if mark.reading != self.reading {
            *self = Self {
                reading: mark.reading,
                width: self.width,
                first_total: mark.total,
                before: (self.reading > 0).then(|| self.sum()),
                ..Self::default()
            };
        }
        self.stuck = mark.more && mark.end <= self.end;
        self.end = mark.end;
        self.more = mark.more;
        self.last_total = mark.total.or(self.last_total);
        self.unclear += mark.unclear;
        self.torn |= mark.torn;
        self.width = self.width.max(mark.rows);
        self.tail = mark.tail.iter().cloned().collect();
        for row in mark.tail.iter().chain(&mark.others) {
            let mut hasher = DefaultHasher::new();
            row.hash(&mut hasher);
            self.seen.insert(hasher.finish());
        }
    }

    /// Whether one of these rows is among the last ones.
    fn meets(&self, rows: &HashSet<String>) -> bool {
        rows.iter().any(|row| self.tail.contains(row))
    }

    /// Distinct rows of this reading.
    fn rows(&self) -> u64 {
        u64::try_from(self.seen.len())
            .unwrap_or(u64::MAX)
            .saturating_add(self.unclear)
    }

    /// Whether the next page shows the last row of this one again; pages can be too small for that.
    fn overlaps(&self) -> bool {
        self.width > 1 && !self.stuck
    }

    /// Where the next page begins.
    fn start(&self) -> u64 {
        self.end.saturating_sub(u64::from(self.overlaps()))
    }

    /// How many rows a page brings anew.
    fn step(&self) -> u64 {
        self.width.saturating_sub(1).max(1)
    }

    fn sum(&self) -> Sum {
        Sum {
            rows: self.rows(),
            total: self.last_total,
            hash: self.seen.iter().fold(0, |sum, hash| sum ^ hash),
        }
    }

    /// Whether this reading may have missed a row that was there throughout.
    fn is_doubtful(&self, order: Order) -> bool {
        if self.before == Some(self.sum()) {
            return false;
        }
        let is_short = self.last_total.is_some_and(|total| self.rows() < total);
        let is_steady = self.first_total.is_some() && self.first_total == self.last_total;
        match order {
            Order::Fixed => self.torn,
            Order::Loose => is_short || (self.torn && !is_steady),
        }
    }
}

/// What is known of the order of a listing; see the top of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Fixed,
    Loose,
}

impl Order {
    fn of(list: &List) -> Self {
        let fixed = list
            .query
            .iter()
            .any(|(name, value)| *name == "sort" && value == "_id");
        if fixed { Self::Fixed } else { Self::Loose }
    }
}

/// A listing that may lack rows although it was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// The rows that the last page promised; `None` where it promised none.
    pub promised: Option<u64>,
    /// The distinct rows that the last reading found.
    pub read: u64,
    /// How often the listing was read.
    pub readings: u32,
}

/// Pages that were fetched as one unit of the concurrent part.
type Chunk<T> = Vec<(u64, ListPage<T>)>;

enum Stage<T> {
    First,
    /// One page alone: what the total was before an interruption says little.
    Again,
    Rest(BoxStream<'static, Result<Chunk<T>, Error>>),
    /// Behind all pages that were asked for.
    Behind,
    Done,
}

/// The walk over a listing; see [`Client::walk`].
pub struct Walk<T> {
    client: Client,
    list: Arc<List>,
    order: Order,
    stage: Stage<T>,
    /// Fetched already and still to be connected.
    fetched: VecDeque<(u64, ListPage<T>)>,
    progress: Progress,
    /// Rows of earlier readings.
    ever: HashSet<u64>,
    doubt: Option<Doubt>,
}

impl<T> fmt::Debug for Walk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Walk")
            .field("list", &self.list)
            .field("reading", &self.progress.reading)
            .field("end", &self.progress.end)
            .field("doubt", &self.doubt)
            .finish_non_exhaustive()
    }
}

/// All pages in order; see [`Client::pages`].
pub(super) fn pages<T: DeserializeOwned + Identified + Send + 'static>(
    client: Client,
    list: List,
) -> BoxStream<'static, Result<Vec<T>, Error>> {
    let walk = Walk::new(client, list, Progress::default());
    stream::try_unfold(walk, |mut walk| async move {
        Ok(walk.next().await?.map(|step| (step.rows, walk)))
    })
    .boxed()
}

impl<T: DeserializeOwned + Identified + Send + 'static> Walk<T> {
    pub(super) fn new(client: Client, list: List, progress: Progress) -> Self {
        Self {
            client,
            order: Order::of(&list),
            list: Arc::new(list),
            stage: if progress.reading == 0 {
                Stage::First
            } else {
                Stage::Again
            },
            fetched: VecDeque::new(),
            progress,
            ever: HashSet::new(),
            doubt: None,
        }
    }

    /// The next step; `None` at the end. After an error or a dropped future the walk is over.
    pub async fn next(&mut self) -> Result<Option<Step<T>>, Error> {
        loop {
            if let Some((skip, page)) = self.fetched.pop_front() {
                return self.connect(skip, page).await.map(Some);
            }
            match &mut self.stage {
                Stage::Done => return Ok(None),
                Stage::First => {
                    let page = walked_page(&self.client, &self.list, 0).await?;
                    let step = self.step(0, page, Vec::new(), false, true);
                    self.stage = if self.progress.more {
                        self.rest()?
                    } else {
                        Stage::Behind
                    };
                    return Ok(Some(step));
                }
                Stage::Rest(chunks) => match chunks.next().await {
                    Some(chunk) => self.fetched.extend(chunk?),
                    None => self.stage = Stage::Behind,
                },
                Stage::Again if self.progress.more => {
                    let start = self.progress.start();
                    let page = walked_page(&self.client, &self.list, start).await?;
                    self.fetched.push_back((start, page));
                    self.stage = Stage::Behind;
                }
                Stage::Behind if self.progress.more => self.stage = self.rest()?,
                Stage::Again | Stage::Behind => self.finish()?,
            }
        }
    }

    /// Why the listing may lack rows, once it is at its end.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// Connects a page to the one before, by reading back where rows moved.
    async fn connect(&mut self, skip: u64, page: ListPage<T>) -> Result<Step<T>, Error> {
        let mut right = identities(&page.items);
        // Behind a page that was the last one when it was read comes only what is new.
        let overlaps =
            self.progress.more && self.progress.overlaps() && !self.progress.tail.is_empty();
        let is_clear = page.items.is_empty() || !right.is_empty();
        if !overlaps || !is_clear || self.progress.meets(&right) {
            return Ok(self.step(skip, page, Vec::new(), false, false));
        }
        let mut between = Vec::new();
        let mut connected = false;
        let mut from = skip;
        // A reading that is torn already gains nothing.
        for _ in 0..if self.progress.torn { 0 } else { MAX_BRIDGE } {
            from = from.saturating_sub(BACK);
            let found = self.fetch_back(from).await?;
            let rows = identities(&found.page.items);
            let meets = right.is_empty() || right.iter().any(|row| rows.contains(row));
            connected = meets && (from == 0 || self.progress.meets(&rows));
            between.push(found.page.items);
            if connected || !meets || from == 0 {
                break;
            }
            right = rows;
        }
        tracing::debug!(
            http.endpoint = self.list.template,
            row.skip = skip,
            pages = between.len(),
            connected,
            "a listing moved while it was read"
        );
        Ok(self.step(skip, page, between, !connected, false))
    }

    /// A page out of turn. The pages under way go on meanwhile: they hold places of the limiter until they are read.
    async fn fetch_back(&mut self, from: u64) -> Result<Found<T>, Error> {
        let (client, list) = (self.client.clone(), Arc::clone(&self.list));
        let mut fetching = pin!(client.shared.fetch(&list, from, LIMIT, identified));
        loop {
            let Stage::Rest(chunks) = &mut self.stage else {
                return fetching.await;
            };
            tokio::select! {
                biased;
                found = &mut fetching => return found,
                chunk = chunks.next() => match chunk {
                    Some(chunk) => self.fetched.extend(chunk?),
                    None => self.stage = Stage::Behind,
                },
            }
        }
    }

    fn step(
        &mut self,
        skip: u64,
        page: ListPage<T>,
        between: Vec<Vec<T>>,
        torn: bool,
        is_first: bool,
    ) -> Step<T> {
        let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
        let mut tail: Vec<String> = identities(&page.items).into_iter().collect();
        let rows = count(page.items.len());
        let unclear = rows.saturating_sub(count(tail.len()));
        let mut others: Vec<String> = Vec::new();
        for (number, page) in between.iter().enumerate() {
            let ids = identities(page);
            if number == 0 && tail.is_empty() {
                tail.extend(ids);
            } else {
                others.extend(ids);
            }
        }
        if tail.is_empty() {
            tail.extend(self.progress.tail.iter().cloned());
        }
        let mark = Mark {
            reading: self.progress.reading + u32::from(is_first),
            end: skip.saturating_add(rows),
            more: page.next_skip.is_some(),
            total: page.total,
            tail,
            others,
            unclear,
            rows,
            torn,
        };
        self.progress.pass(&mark);
        // The listing's own order, so that what is kept of it has it too.
        let mut all: Vec<T> = between.into_iter().rev().flatten().collect();
        all.extend(page.items);
        Step { rows: all, mark }
    }

    /// Ends a reading, and begins the next one where this one cannot be believed.
    ///
    /// A listing that lacks more than a tenth of what it promises is no listing: rows with one id in common, or without
    /// any, would otherwise look like objects that are gone.
    fn finish(&mut self) -> Result<(), Error> {
        let progress = &self.progress;
        let doubtful = progress.is_doubtful(self.order);
        if doubtful && progress.reading < READINGS {
            tracing::debug!(
                http.endpoint = self.list.template,
                reading = progress.reading,
                row.count = progress.rows(),
                row.promised = progress.last_total,
                "a listing that changed while it was read is read again"
            );
            self.ever.extend(&progress.seen);
            self.stage = Stage::First;
            return Ok(());
        }
        let named = self.ever.union(&progress.seen).count();
        let named = u64::try_from(named).unwrap_or(u64::MAX);
        let lacking = progress
            .last_total
            .map_or(0, |total| total.saturating_sub(named));
        if let Some(total) = progress.last_total
            && lacks_too_much(lacking, total)
        {
            return Err(decode_error(
                Verb::Get.as_str(),
                self.list.template,
                Problem::new(
                    "results",
                    format!(
                        "{total} rows were promised and {named} different ones read; the others have no id, or that of \
                         another row"
                    ),
                ),
            ));
        }
        self.doubt = doubtful.then(|| Doubt {
            promised: progress.last_total,
            read: progress.rows(),
            readings: progress.reading,
        });
        self.stage = Stage::Done;
        Ok(())
    }

    /// What comes behind the pages so far: as many pages as the total promises; one where nothing is promised.
    fn rest(&self) -> Result<Stage<T>, Error> {
        let start = self.progress.start();
        let step = self.progress.step();
        let end = self.progress.last_total.unwrap_or_default();
        if end > MAX_ROWS {
            return Err(decode_error(
                Verb::Get.as_str(),
                self.list.template,
                Problem::new(
                    "total",
                    format!("{end} rows are more than any organisation has"),
                ),
            ));
        }
        let width = usize::try_from(step).unwrap_or(usize::MAX);
        // The row that overlaps is there already, so a page for nothing but that one is none.
        let overlap = self.progress.end.saturating_sub(start);
        let end = end.saturating_sub(overlap).max(start.saturating_add(1));
        let client = self.client.clone();
        let list = Arc::clone(&self.list);
        let ahead = self.client.shared.limiter.max();
        Ok(Stage::Rest(
            stream::iter((start..end).step_by(width))
                .map(move |skip| {
                    chunk(
                        client.clone(),
                        Arc::clone(&list),
                        skip,
                        step.saturating_add(overlap),
                    )
                })
                .buffered(ahead)
                .boxed(),
        ))
    }
}

fn identities<T: Identified>(rows: &[T]) -> HashSet<String> {
    rows.iter().filter_map(Identified::identity).collect()
}

/// A page of a walk.
async fn walked_page<T: DeserializeOwned + Identified>(
    client: &Client,
    list: &List,
    skip: u64,
) -> Result<ListPage<T>, Error> {
    client.shared.list(list, skip, LIMIT, identified).await
}

/// Reads the rows from `start` to `start + width`, in more than one page where JumpCloud gives short ones.
async fn chunk<T: DeserializeOwned + Identified>(
    client: Client,
    list: Arc<List>,
    start: u64,
    width: u64,
) -> Result<Chunk<T>, Error> {
    let end = start.saturating_add(width);
    let mut pages = Vec::new();
    let mut skip = start;
    loop {
        let page: ListPage<T> = walked_page(&client, &list, skip).await?;
        let next = page.next_skip;
        let overlap = u64::from(page.items.len() > 1);
        pages.push((skip, page));
        match next {
            Some(next) if next < end => skip = next.saturating_sub(overlap),
            _ => return Ok(pages),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_link_counts_only_when_it_is_the_next_page_of_the_same_origin() {
        let from = Url::parse("https://console.jumpcloud.com/api/v2/usergroups?skip=0").unwrap();
        let same = "<https://console.jumpcloud.com/api/v2/usergroups?skip=100&fields=a,b>";
        let cases = [
            (None, Some(false)),
            (Some(String::new()), Some(false)),
            (Some("nonsense".to_owned()), Some(false)),
            (Some(format!("{same}; rel=\"next\"")), Some(true)),
            (Some(format!("{same}; title=x; rel=next")), Some(true)),
            (Some(format!("{same}; rel=\"last next\"")), Some(true)),
            (Some(format!("{same}; rel=\"last\"")), Some(false)),
            (
                Some("</api/v2/usergroups?skip=100>; rel=\"next\"".to_owned()),
                Some(true),
            ),
            (
                Some(format!("{same}; rel=\"prev\", {same}; rel=\"next\"")),
                Some(true),
            ),
            (
                Some("<https://evil.example/x>; rel=\"last\"".to_owned()),
                Some(false),
            ),
            (
                Some("<https://evil.example/x>; rel=\"next\"".to_owned()),
                None,
            ),
            (Some("<//evil.example/x>; rel=next".to_owned()), None),
            (
                Some("<http://console.jumpcloud.com/x>; rel=next".to_owned()),
                None,
            ),
            (
                Some("<https://console.jumpcloud.com:8443/x>; rel=next".to_owned()),
                None,
            ),
            (
                Some(format!(
                    "{same}; rel=\"prev\",<https://evil.example/x>; rel=\"next\""
                )),
                None,
            ),
        ];
        for (link, expected) in cases {
            let found = has_next(link.as_deref(), &from);
            assert_eq!(found.ok(), expected, "{link:?}");
        }
    }

    proptest! {
        #[test]
        fn no_link_header_leads_to_another_origin(
            head in "[ -~]{0,30}", host in "[a-z.]{1,12}", tail in "[ -~]{0,30}"
        ) {
            let from = Url::parse("https://console.jumpcloud.com/api").unwrap();
            let link = format!("<https://{host}/>; rel=next");
            prop_assert!(!matches!(has_next(Some(&link), &from), Ok(true)));
            let _any_answer_but_a_panic = has_next(Some(&format!("{head}<{tail}>{head}")), &from);
        }
    }
}
