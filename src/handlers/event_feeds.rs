//! The event feeds of this connector: there are none.
//!
//! The list is truthfully empty, and events of any feed are `NotFound`. A connector without feeds does not report the
//! capability, so a server that obeys it never asks.

use async_trait::async_trait;

use super::{Context, Error, Outcome, TaskHandler};
use crate::error::quoted;
use crate::proto::{
    baton::{self, task::TaskType},
    connector as v2, pack,
};

/// The feed that an empty feed id stands for.
const LEGACY_FEED: &str = "baton_feed_event";

/// Answers `list_event_feeds` and `list_events`.
#[derive(Debug, Clone, Copy)]
pub struct EventFeeds;

#[async_trait]
impl TaskHandler for EventFeeds {
    async fn handle(&self, task: &baton::Task, context: Context<'_>) -> Result<Outcome, Error> {
        match &task.task_type {
            Some(TaskType::ListEventFeeds(_)) => Ok(Outcome::response(pack(
                &v2::ListEventFeedsResponse::default(),
            ))),
            Some(TaskType::ListEvents(asked)) => {
                let feed = if asked.event_feed_id.is_empty() {
                    LEGACY_FEED
                } else {
                    &asked.event_feed_id
                };
                Err(Error::NotFound {
                    what: format!("event feed {}", quoted(feed)),
                })
            }
            _ => Err(Error::Unsupported { kind: context.kind }),
        }
    }
}
