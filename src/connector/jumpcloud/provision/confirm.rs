//! Reading a change back: JumpCloud does not always show a write in the next read.
//!
//! Owns how long and how often that is tried. A look that fails is no answer: only the last one counts. Nothing is written
//! in here.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    connector::Error,
    error::{Class, Classify},
};

/// The waits between looks.
const WAITS: [Duration; 7] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(2),
    Duration::from_secs(2),
    Duration::from_secs(2),
];
/// All waits and looks together.
const PATIENCE: Duration = Duration::from_secs(15);

/// Looks until there is something to see; `None` when there is nothing in time.
///
/// At most eight looks and 15 seconds. A look that fails for a passing reason is repeated like one that sees nothing; its
/// error is given back only when it was the last.
pub(super) async fn settle<V, F, Fut>(mut look: F) -> Result<Option<V>, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<V>, Error>>,
{
    let deadline = Instant::now() + PATIENCE;
    let mut waits = WAITS.into_iter();
    let mut last = Ok(None);
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(Some(seen))) => return Ok(Some(seen)),
            Ok(Err(error)) if !passes(&error) => return Err(error),
            Ok(other) => last = other,
            // What the look before this one saw is all there is to tell.
            Err(_elapsed) => return last,
        }
        match waits.next() {
            Some(wait) if Instant::now() + wait < deadline => sleep(wait).await,
            _ => return last,
        }
    }
}

fn passes(error: &Error) -> bool {
    matches!(error.class(), Class::Retryable | Class::Throttled(_))
}

/// Waits for the effect of a write: what was seen, and the request id that the write was answered with.
///
/// `what` begins a sentence, such as `adding user u to group g`. A write that was refused stays refused. One whose answer
/// was lost is judged by its effect alone. [`Error::Unconfirmed`] when JumpCloud took the write but does not show it.
pub(super) async fn confirm<V, F, Fut>(
    what: &str,
    written: Result<Option<String>, Error>,
    look: F,
) -> Result<(V, Option<String>), Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<V>, Error>>,
{
    match written {
        Ok(request_id) => match settle(look).await {
            Ok(Some(seen)) => Ok((seen, request_id)),
            Ok(None) => Err(Error::Unconfirmed {
                what: format!(
                    "{what} was accepted by JumpCloud{}, but {} seconds later it still shows the state before; the \
                     change may yet appear",
                    named(request_id.as_deref()),
                    PATIENCE.as_secs()
                ),
            }),
            Err(error) => Err(Error::Unconfirmed {
                what: format!(
                    "{what} was accepted by JumpCloud{}, but could not be read back: {error}",
                    named(request_id.as_deref())
                ),
            }),
        },
        Err(error) if error.may_have_been_applied() => match settle(look).await {
            Ok(Some(seen)) => Ok((seen, None)),
            // The first failure says more than a later look that found nothing.
            Ok(None) | Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn named(request_id: Option<&str>) -> String {
    request_id.map_or_else(String::new, |id| format!(" (request {id})"))
}

/// As [`confirm`], for an edge of the graph, where a refusal may be mistaken.
///
/// "Exists" (409) when adding and "not found" (404) when removing can be the echo of the same write, repeated; a 404 can
/// also mean another object than the one in question. So both are judged by what JumpCloud shows.
pub(super) async fn confirm_edge<F, Fut>(
    what: &str,
    written: Result<Option<String>, Error>,
    mut look: F,
) -> Result<Option<String>, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool, Error>>,
{
    let seen = || {
        let looked = look();
        async move { Ok(looked.await?.then_some(())) }
    };
    match written {
        Err(Error::Http {
            status: status @ (404 | 409),
            ..
        }) => match settle(seen).await? {
            Some(()) => Ok(None),
            None => Err(Error::Unconfirmed {
                what: format!(
                    "{what} was answered {status} by JumpCloud, although it shows that the change is still to be made; \
                     it is to be tried again"
                ),
            }),
        },
        written => confirm(what, written, seen)
            .await
            .map(|((), request_id)| request_id),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn http(status: u16) -> Error {
        Error::Http {
            method: "POST",
            endpoint: "/x",
            status,
            advice: String::new(),
            words: None,
            retry_after: None,
        }
    }

    /// Sees something from a look on, and counts the looks.
    async fn looks(from: usize, written: Result<Option<String>, Error>) -> (usize, String) {
        let count = Cell::new(0);
        let result = confirm_edge("adding", written, || {
            count.set(count.get() + 1);
            let seen = count.get() >= from;
            async move { Ok(seen) }
        })
        .await;
        let words = match result {
            Ok(id) => format!("ok {}", id.unwrap_or_default()),
            Err(error) => format!("{:?}", error.code()),
        };
        (count.get(), words)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_seen_decides_wherever_the_answer_leaves_it_open() {
        let accepted = || Ok(Some("r1".to_owned()));
        let cases = [
            (1, accepted(), 1, "ok r1"),
            (3, accepted(), 3, "ok r1"),
            (8, accepted(), 8, "ok r1"),
            (9, accepted(), 8, "Unavailable"),
            (2, Err(http(500)), 2, "ok "),
            (9, Err(http(500)), 8, "Unavailable"),
            (2, Err(http(409)), 2, "ok "),
            (9, Err(http(409)), 8, "Unavailable"),
            (2, Err(http(404)), 2, "ok "),
            (9, Err(http(404)), 8, "Unavailable"),
            (1, Err(http(403)), 0, "PermissionDenied"),
            (1, Err(http(400)), 0, "InvalidArgument"),
        ];
        for (index, (from, written, looked, words)) in cases.into_iter().enumerate() {
            let started = Instant::now();
            assert_eq!(
                looks(from, written).await,
                (looked, words.to_owned()),
                "case {index}"
            );
            assert!(started.elapsed() <= PATIENCE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_or_fails_ends_in_time_and_says_so() {
        let hanging = confirm(
            "adding",
            Ok(None),
            std::future::pending::<Result<Option<()>, Error>>,
        );
        let started = Instant::now();
        let error = hanging.await.unwrap_err();
        assert_eq!(started.elapsed(), PATIENCE);
        assert!(matches!(error, Error::Unconfirmed { .. }), "{error:?}");

        let count = Cell::new(0);
        let failing = || {
            count.set(count.get() + 1);
            async { Err::<Option<()>, _>(http(503)) }
        };
        let error = confirm("adding", Ok(None), failing).await.unwrap_err();
        assert!(error.to_string().contains("answered 503"), "{error}");
        assert_eq!(count.get(), 8);

        let refused = || async { Err::<Option<()>, _>(http(403)) };
        let started = Instant::now();
        let error = confirm("adding", Ok(None), refused).await.unwrap_err();
        assert!(matches!(error, Error::Unconfirmed { .. }), "{error:?}");
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
