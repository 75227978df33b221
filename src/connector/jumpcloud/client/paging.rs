//! Listings: addresses, one page, and the walk over all pages.
//!
//! A page always asks for [`LIMIT`] rows. A listing ends where its total says so, else with a short page; no page is
//! asked for only to find it empty. Every page must bring rows that its total promises, must differ from the page before,
//! and may point only to its own host, so that no peer can keep a walk going for ever or lead it elsewhere.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    sync::{Arc, PoisonError},
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use serde::de::DeserializeOwned;
use url::Url;

use super::{
    Client, Convention, List, ListPage,
    decode::{self, Problem, Wrapped},
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

    /// One page with `limit` rows from `skip` on.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        list: &List,
        skip: u64,
        limit: u64,
    ) -> Result<ListPage<T>, Error> {
        if skip > MAX_ROWS {
            return Err(Error::Invalid {
                what: format!(
                    "{} has more than {MAX_ROWS} rows or never ends; it is not read further",
                    list.template
                ),
            });
        }
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
        let read = || self.exchange(&call, |answer| page(answer, list, &call.url, skip, limit));
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
        if !found.page.items.is_empty() && self.repeats(list, skip, found.fingerprint) {
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
        Ok(found.page)
    }

    /// Remembers a page; true when it equals the one remembered for another place of the same listing.
    fn repeats(&self, list: &List, skip: u64, fingerprint: u64) -> bool {
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
        last.insert(key, (skip, fingerprint))
            .is_some_and(|(other, seen)| other != skip && seen == fingerprint)
    }
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
            let rows: Option<Vec<T>> = decode::json(&answer.body)?;
            (rows.unwrap_or_default(), answer.total)
        }
    };
    let linked = has_next(answer.link.as_deref(), url)?;
    let rows = u64::try_from(items.len()).unwrap_or(u64::MAX);
    let end = skip.saturating_add(rows);
    let more = rows > 0 && total.map_or(linked || rows >= limit, |total| end < total);
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

/// Rows that were fetched as one unit of the concurrent part.
struct Chunk<T> {
    items: Vec<T>,
    total: Option<u64>,
    next: Option<u64>,
}

enum Stage<T> {
    First,
    Rest(BoxStream<'static, Result<Chunk<T>, Error>>),
    Tail(u64),
    Done,
}

/// The walk over a listing.
struct Walk<T> {
    client: Client,
    list: Arc<List>,
    stage: Stage<T>,
    first_total: Option<u64>,
    last_total: Option<u64>,
    /// Where the last unit of the concurrent part says that more rows begin.
    rest_next: Option<u64>,
    reread: bool,
}

/// All pages in order; see [`Client::pages`].
pub(super) fn walk<T: DeserializeOwned + Send + 'static>(
    client: Client,
    list: List,
) -> BoxStream<'static, Result<Vec<T>, Error>> {
    let walk = Walk {
        client,
        list: Arc::new(list),
        stage: Stage::First,
        first_total: None,
        last_total: None,
        rest_next: None,
        reread: false,
    };
    stream::try_unfold(walk, |mut walk| async move {
        Ok(walk.next().await?.map(|items| (items, walk)))
    })
    .boxed()
}

impl<T: DeserializeOwned + Send + 'static> Walk<T> {
    async fn next(&mut self) -> Result<Option<Vec<T>>, Error> {
        loop {
            match &mut self.stage {
                Stage::Done => return Ok(None),
                Stage::First => {
                    let page: ListPage<T> = self.client.page(&self.list, 0).await?;
                    self.first_total = page.total;
                    self.last_total = page.total;
                    self.stage = match (page.next_skip, page.total) {
                        (None, _) => Stage::Done,
                        (Some(next), None) => Stage::Tail(next),
                        (Some(step), Some(total)) => Stage::Rest(self.rest(step, total)?),
                    };
                    return Ok(Some(page.items));
                }
                Stage::Rest(chunks) => {
                    if let Some(chunk) = chunks.next().await {
                        let chunk = chunk?;
                        self.last_total = chunk.total.or(self.last_total);
                        self.rest_next = chunk.next;
                        return Ok(Some(chunk.items));
                    }
                    match self.rest_next.take() {
                        Some(next) => self.stage = Stage::Tail(next),
                        None => self.finish(),
                    }
                }
                Stage::Tail(skip) => {
                    let skip = *skip;
                    let page: ListPage<T> = self.client.page(&self.list, skip).await?;
                    self.last_total = page.total.or(self.last_total);
                    match page.next_skip {
                        Some(next) => self.stage = Stage::Tail(next),
                        None => self.finish(),
                    }
                    return Ok(Some(page.items));
                }
            }
        }
    }

    /// Ends the walk. Rows that were deleted meanwhile moved later ones forward, past places already read; then the
    /// listing is read once more.
    fn finish(&mut self) {
        let shrank = self
            .first_total
            .zip(self.last_total)
            .is_some_and(|(first, last)| last < first);
        self.stage = if shrank && !self.reread {
            self.reread = true;
            Stage::First
        } else {
            Stage::Done
        };
    }

    fn rest(
        &self,
        step: u64,
        total: u64,
    ) -> Result<BoxStream<'static, Result<Chunk<T>, Error>>, Error> {
        if total > MAX_ROWS {
            return Err(decode_error(
                Verb::Get.as_str(),
                self.list.template,
                Problem::new(
                    "total",
                    format!("{total} rows are more than any organisation has"),
                ),
            ));
        }
        let width = usize::try_from(step).unwrap_or(usize::MAX).max(1);
        let client = self.client.clone();
        let list = Arc::clone(&self.list);
        let ahead = self.client.shared.limiter.max();
        Ok(stream::iter((step..total).step_by(width))
            .map(move |skip| chunk(client.clone(), Arc::clone(&list), skip, step))
            .buffered(ahead)
            .boxed())
    }
}

/// Reads the rows from `start` to `start + step`, in more than one page where JumpCloud gives short ones.
async fn chunk<T: DeserializeOwned>(
    client: Client,
    list: Arc<List>,
    start: u64,
    step: u64,
) -> Result<Chunk<T>, Error> {
    let end = start.saturating_add(step);
    let mut items = Vec::new();
    let mut skip = start;
    loop {
        let page: ListPage<T> = client.page(&list, skip).await?;
        items.extend(page.items);
        match page.next_skip {
            Some(next) if next < end => skip = next,
            next => {
                return Ok(Chunk {
                    items,
                    total: page.total,
                    next,
                });
            }
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
