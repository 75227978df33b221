//! Suspending, activating, unlocking.

use serde_json::{Value as Json, json};

use super::{
    super::{
        super::{
            JumpCloud,
            client::{Method, Repeat},
            wire,
        },
        accounts::{is_active, is_staged, is_suspended},
        already,
        confirm::confirm,
    },
    Mail, Outcome, plan,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done, Effect, Permit},
    },
    proto::Struct,
};

const STATE: &str = "user.state.set";

impl JumpCloud {
    pub(super) async fn suspend_user(
        &self,
        user: &str,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let row = self.changeable_user(user).await?;
        let outcome = |effect| Outcome::new(user, effect).text("state", Some("SUSPENDED"));
        if is_suspended(&row) {
            return Ok(outcome(already(change)).done());
        }
        self.spare_owner(&row).await?;
        let plan = plan(
            STATE,
            user,
            json!({"state": row.state}),
            json!({"state": "SUSPENDED"}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(outcome(Effect::Planned).done());
        }
        let written = self.put_state(user, "SUSPENDED").await;
        let what = format!("suspending user {user}");
        let (_, request_id) =
            confirm(&what, written, || self.user_that(user, is_suspended)).await?;
        Ok(outcome(Effect::Changed).request(request_id).done())
    }

    pub(super) async fn activate_user(
        &self,
        user: &str,
        mail: &Mail,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let row = self.changeable_user(user).await?;
        let outcome = |effect| Outcome::new(user, effect).text("state", Some("ACTIVATED"));
        if is_active(&row) {
            return Ok(outcome(already(change)).done());
        }
        let staged = is_staged(&row);
        let after = if staged {
            json!({"state": "ACTIVATED", "mail": mail.send != Some(false)})
        } else {
            json!({"state": "ACTIVATED"})
        };
        let plan = plan(STATE, user, json!({"state": row.state}), after);
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(outcome(Effect::Planned).done());
        }
        let (_, request_id) = if staged {
            self.activate_staged(user, mail.body()).await?
        } else {
            // JumpCloud sends no mail to somebody who was active before.
            let written = self.put_state(user, "ACTIVATED").await;
            let what = format!("activating user {user}");
            confirm(&what, written, || self.user_that(user, is_active)).await?
        };
        Ok(outcome(Effect::Changed).request(request_id).done())
    }

    pub(super) async fn unlock_user(
        &self,
        user: &str,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let row = self.changeable_user(user).await?;
        let locked = |row: &wire::SystemUser| row.account_locked == Some(true);
        if !locked(&row) {
            return Ok(Outcome::new(user, already(change)).done());
        }
        let plan = plan(
            "user.unlock",
            user,
            json!({"locked": true}),
            json!({"locked": false}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(Outcome::new(user, Effect::Planned).done());
        }
        let written = self
            .order(
                Method::Post,
                "/api/systemusers/{id}/unlock",
                &[user],
                "unlock users",
            )
            .await;
        let what = format!("unlocking user {user}");
        let (_, request_id) =
            confirm(&what, written, || self.user_that(user, |row| !locked(row))).await?;
        Ok(Outcome::new(user, Effect::Changed)
            .request(request_id)
            .done())
    }

    async fn put_state(&self, user: &str, state: &str) -> Result<Option<String>, Error> {
        self.put_user(user, &json!({"state": state})).await
    }

    /// Changes fields of a user; those that are not in the body stay as they are.
    pub(super) async fn put_user(&self, user: &str, body: &Json) -> Result<Option<String>, Error> {
        self.send(
            Method::Put,
            "/api/systemusers/{id}",
            &[user],
            Some(body),
            Repeat::Always,
            "change users",
        )
        .await
    }

    /// The record of a user, once it fits.
    pub(super) async fn user_that(
        &self,
        user: &str,
        fits: impl Fn(&wire::SystemUser) -> bool,
    ) -> Result<Option<wire::SystemUser>, Error> {
        Ok(self.read_directory_user(user).await?.filter(fits))
    }
}
