//! What was asked of the simulator. No value of a header and no body is kept, only whether the caller was
//! authenticated, and the names of headers, form parameters and fields.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};

/// How many of the last requests are kept one by one.
const RECENT: usize = 4096;
/// How many requests to unknown paths are kept.
const UNEXPECTED: usize = 256;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Query, still encoded.
    pub query: String,
    /// Status of the answer; 0 when the connection was closed instead.
    pub status: u16,
    /// Whether the credentials were accepted.
    pub authenticated: bool,
    /// Names of the headers, sorted, each once; never their values.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Names of the parameters of a form in the body, in the order sent; never their values.
    #[serde(default)]
    pub form: Vec<String>,
    /// Names of the fields of a JSON body, sorted, each once, such as `attributes[].name`; never their values.
    #[serde(default)]
    pub fields: Vec<String>,
}

/// The counters of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Requests.
    pub total: u64,
    /// Answers by status; 0 for closed connections.
    pub by_status: BTreeMap<u16, u64>,
}

/// Everything that is known about the requests since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Requests, those to the simulator's own admin paths not counted.
    pub total: u64,
    /// By method and path template, such as `GET /api/systemusers/{id}`; what is not served counts as `unexpected`.
    pub by_endpoint: BTreeMap<String, Counter>,
    /// The most requests that were in work at one time.
    pub max_concurrency: usize,
    /// Requests that were not authenticated.
    pub unauthenticated: u64,
    /// Method and path of requests to what the simulator does not serve; the first 256.
    pub unexpected: Vec<String>,
    /// The last 4,096 requests, oldest first.
    pub recent: VecDeque<Entry>,
}

impl Requests {
    /// How often an endpoint was asked, such as `GET /api/systemusers`.
    pub fn count(&self, endpoint: &str) -> u64 {
        self.by_endpoint.get(endpoint).map_or(0, |c| c.total)
    }

    /// How many answers had this status.
    pub fn with_status(&self, status: u16) -> u64 {
        self.by_endpoint
            .values()
            .filter_map(|counter| counter.by_status.get(&status))
            .sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct RequestLog {
    requests: Mutex<Requests>,
    in_work: AtomicUsize,
}

impl RequestLog {
    /// Counts a request as being in work until the guard is dropped.
    pub(super) fn enter(&self) -> InWork<'_> {
        let now = self.in_work.fetch_add(1, Ordering::Relaxed) + 1;
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.max_concurrency = requests.max_concurrency.max(now);
        InWork(self)
    }

    /// Records a finished request; `template` is `None` for what is not served.
    pub(super) fn record(&self, template: Option<&str>, entry: Entry) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.total += 1;
        if !entry.authenticated {
            requests.unauthenticated += 1;
        }
        let endpoint = if let Some(template) = template {
            format!("{} {template}", entry.method)
        } else {
            if requests.unexpected.len() < UNEXPECTED {
                let line = format!("{} {}", entry.method, entry.path);
                requests.unexpected.push(line);
            }
            "unexpected".to_owned()
        };
        let counter = requests.by_endpoint.entry(endpoint).or_default();
        counter.total += 1;
        *counter.by_status.entry(entry.status).or_default() += 1;
        if requests.recent.len() == RECENT {
            requests.recent.pop_front();
        }
        requests.recent.push_back(entry);
    }

    pub(super) fn snapshot(&self) -> Requests {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn total(&self) -> u64 {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .total
    }

    pub(super) fn reset(&self) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner) = Requests::default();
    }
}

#[derive(Debug)]
pub(super) struct InWork<'a>(&'a RequestLog);

impl Drop for InWork<'_> {
    fn drop(&mut self) {
        self.0.in_work.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_endpoint_and_status() {
        let log = RequestLog::default();
        let entry = |status| Entry {
            method: "GET".to_owned(),
            path: "/api/systemusers".to_owned(),
            query: String::new(),
            status,
            authenticated: status != 401,
            headers: vec!["accept".to_owned()],
            form: Vec::new(),
            fields: Vec::new(),
        };
        log.record(Some("/api/systemusers"), entry(200));
        log.record(Some("/api/systemusers"), entry(401));
        log.record(None, entry(404));
        let requests = log.snapshot();
        assert_eq!(requests.total, 3);
        assert_eq!(requests.count("GET /api/systemusers"), 2);
        assert_eq!(requests.with_status(401), 1);
        assert_eq!(requests.unauthenticated, 1);
        assert_eq!(requests.unexpected, ["GET /api/systemusers"]);
        log.reset();
        assert_eq!(log.snapshot(), Requests::default());
    }

    #[test]
    fn the_most_requests_at_one_time_are_remembered() {
        let log = RequestLog::default();
        {
            let _one = log.enter();
            let _two = log.enter();
        }
        let _three = log.enter();
        assert_eq!(log.snapshot().max_concurrency, 2);
    }
}
