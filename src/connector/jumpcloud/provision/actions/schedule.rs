//! Changes of state that JumpCloud makes by itself at a given time.

use serde_json::json;

use super::{
    super::{
        super::{
            JumpCloud,
            client::{Convention, List, Method, Repeat},
        },
        already,
        confirm::{confirm, settle},
        rows::Scheduled,
    },
    Mail, Outcome, START_DATE, plan, written,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done, Effect, Permit},
    },
    proto::Struct,
};

const SCHEDULE: &str = "user.state.schedule";

impl JumpCloud {
    /// Schedules a change of state; one that is scheduled for that very time already is enough.
    pub(super) async fn schedule(
        &self,
        user: &str,
        state: &'static str,
        at: jiff::Timestamp,
        mail: &Mail,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let row = self.changeable_user(user).await?;
        let start = written(at);
        let outcome = |effect, job: Option<&str>| {
            Outcome::new(user, effect)
                .text("scheduled_job_id", job)
                .text(START_DATE, Some(&start))
        };
        let look = || self.scheduled(user, state, at);
        let ours = change
            .earlier
            .is_some_and(|plan| plan.operation == SCHEDULE);
        let there = if ours {
            // The job of an attempt that was cut off a moment ago may not show yet.
            settle(look).await?
        } else {
            look().await?
        };
        if let Some(job) = there {
            return Ok(outcome(already(change), Some(&job)).done());
        }
        if state == "SUSPENDED" {
            self.spare_owner(&row).await?;
        }
        let plan = plan(
            SCHEDULE,
            user,
            json!({"state": row.state}),
            json!({"state": state, "at": start}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(outcome(Effect::Planned, None).done());
        }
        let mut body = json!({"user_ids": [user], "state": state, "start_date": start});
        if let Some(body) = body.as_object_mut() {
            if let Some(send) = mail.send {
                body.insert("send_activation_emails".to_owned(), send.into());
            }
            if let Some(to) = &mail.to {
                body.insert("activation_email_override".to_owned(), to.as_str().into());
            }
        }
        let answer = self
            .send(
                Method::Post,
                "/api/v2/bulk/userstates",
                &[],
                Some(&body),
                Repeat::UnlessSent,
                "schedule changes of users",
            )
            .await;
        let what = format!("scheduling a change of user {user}");
        let (job, request_id) = confirm(&what, answer, look).await?;
        Ok(outcome(Effect::Changed, Some(&job))
            .request(request_id)
            .done())
    }

    /// The job that changes the state of a user at this time.
    async fn scheduled(
        &self,
        user: &str,
        state: &str,
        at: jiff::Timestamp,
    ) -> Result<Option<String>, Error> {
        let list = List {
            template: "/api/v2/bulk/userstates",
            ids: Vec::new(),
            query: vec![("userid", user.to_owned())],
            convention: Convention::Array,
        };
        let mut skip = Some(0);
        while let Some(from) = skip {
            let page = self.client.page::<Scheduled>(&list, from).await?;
            let same = page.items.into_iter().find(|row| {
                let when = row
                    .date
                    .as_deref()
                    .and_then(|date| date.trim().parse::<jiff::Timestamp>().ok());
                row.system_user_id.as_deref().is_none_or(|id| id == user)
                    && row.state.as_deref() == Some(state)
                    && when.is_some_and(|when| when.as_second() == at.as_second())
            });
            if let Some(row) = same {
                return Ok(Some(row.job_id.unwrap_or_default()));
            }
            skip = page.next_skip;
        }
        Ok(None)
    }
}
