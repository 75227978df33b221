//! Expiring passwords, resetting second factors, removing SSH keys.

use serde_json::{Value as Json, json};

use super::{
    super::{
        super::{
            JumpCloud,
            client::{Method, Repeat},
            profile::filled,
            wire,
        },
        accounts::gone_is_done,
        already,
        confirm::{confirm, settle},
        passwords::own_password,
        rows,
    },
    Arguments, EXCLUSION_DAYS, EXCLUSION_UNTIL, KEY_ID, KEY_NAME, Outcome, invalid, plan, written,
};
use crate::{
    connector::{
        Error,
        provision::{Change, Done, Effect, Permit},
    },
    proto::{Struct, bool_value},
};

/// Longer than a year is no exemption but a switch, which is for an administrator to set.
pub(super) const MAX_EXCLUSION_DAYS: i64 = 365;

impl JumpCloud {
    pub(super) async fn expire_password(
        &self,
        user: &str,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let row = self.changeable_user(user).await?;
        let outcome = |effect, shown: bool| {
            Outcome::new(user, effect).value("password_expired", bool_value(shown))
        };
        let expired = |row: &wire::SystemUser| row.password_expired == Some(true);
        if expired(&row) {
            return Ok(outcome(already(change), true).done());
        }
        own_password(&row)?;
        if row.activated == Some(false) {
            return Err(Error::Refused {
                what: format!(
                    "user {user} has no password yet, so there is none to expire; the first one is chosen by the person"
                ),
            });
        }
        let plan = plan(
            "user.password.expire",
            user,
            json!({"expired": false}),
            json!({"expired": true}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(outcome(Effect::Planned, false).done());
        }
        let look = || self.user_that(user, expired);
        match self.expire(user).await {
            Ok(request_id) => {
                // What is promised is the expiry, not the day from which the record shows it.
                let shown = settle(look).await?.is_some();
                Ok(outcome(Effect::Changed, shown).request(request_id).done())
            }
            Err(error) => {
                let (_, request_id) = confirm("expiring the password", Err(error), look).await?;
                Ok(outcome(Effect::Changed, true).request(request_id).done())
            }
        }
    }

    pub(super) async fn reset_mfa(
        &self,
        user: &str,
        arguments: &Arguments<'_>,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let days = arguments.count(EXCLUSION_DAYS, MAX_EXCLUSION_DAYS)?;
        let until = arguments.maybe_instant(EXCLUSION_UNTIL)?.map(written);
        let body: Json = match (days, &until) {
            (Some(_), Some(_)) => {
                return Err(invalid(format!(
                    "{EXCLUSION_DAYS} and {EXCLUSION_UNTIL} are given together; give one of them"
                )));
            }
            (Some(days), None) => json!({"exclusion": true, "exclusionDays": days}),
            (None, Some(until)) => json!({"exclusion": true, "exclusionUntil": until}),
            (None, None) => json!({}),
        };
        let exempt = days.is_some() || until.is_some();
        let row = self.changeable_user(user).await?;
        let outcome = |effect, row: &wire::SystemUser| {
            let end = row
                .mfa
                .as_ref()
                .and_then(|mfa| mfa.exclusion_until.as_deref());
            Outcome::new(user, effect).text(EXCLUSION_UNTIL, end)
        };
        if !exempt && !has_factor(&row) {
            return Ok(outcome(already(change), &row).done());
        }
        let plan = plan(
            "user.mfa.reset",
            user,
            json!({"enrolled": has_factor(&row)}),
            json!({"enrolled": false, "exempt_days": days, "exempt_until": until}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(outcome(Effect::Planned, &row).done());
        }
        let answer = self
            .send(
                Method::Post,
                "/api/systemusers/{id}/resetmfa",
                &[user],
                Some(&body),
                Repeat::Always,
                "reset the second factor of users",
            )
            .await;
        let reset = |row: &wire::SystemUser| {
            let excluded = row.mfa.as_ref().and_then(|mfa| mfa.exclusion) == Some(true);
            row.totp_enabled != Some(true) && (!exempt || excluded)
        };
        let what = format!("resetting the second factor of user {user}");
        let (row, request_id) = confirm(&what, answer, || self.user_that(user, reset)).await?;
        Ok(outcome(Effect::Changed, &row).request(request_id).done())
    }

    pub(super) async fn remove_ssh_key(
        &self,
        user: &str,
        arguments: &Arguments<'_>,
        change: Change<'_>,
    ) -> Result<Done<Struct>, Error> {
        let named = match (arguments.text(KEY_ID)?, arguments.text(KEY_NAME)?) {
            (Some(id), None) => (id, true),
            (None, Some(name)) => (name, false),
            _ => {
                return Err(invalid(format!(
                    "give one of the arguments {KEY_ID} and {KEY_NAME}"
                )));
            }
        };
        self.changeable_user(user).await?;
        let keys = self.ssh_keys(user).await?;
        let fits = |key: &&rows::SshKey| match named {
            (id, true) => key.id.as_deref() == Some(id),
            (name, false) => key.name.as_deref().map(str::trim) == Some(name),
        };
        let ids: Vec<&str> = keys
            .iter()
            .filter(fits)
            .filter_map(|key| wire::usable(key.id.as_deref()))
            .collect();
        let key = match ids.as_slice() {
            [] => {
                let id = named.1.then_some(named.0);
                return Ok(Outcome::new(user, already(change)).text(KEY_ID, id).done());
            }
            [id] => *id,
            several => {
                return Err(Error::Refused {
                    what: format!(
                        "{} keys of user {user} have this name; give {KEY_ID}, which is one of {}",
                        several.len(),
                        several.join(", ")
                    ),
                });
            }
        };
        let plan = plan(
            "user.ssh_key.remove",
            user,
            json!({"key": key, "keys": keys.len()}),
            json!({"keys": keys.len() - 1}),
        );
        if change.intend(&plan).await? == Permit::Pretend {
            return Ok(Outcome::new(user, Effect::Planned)
                .text(KEY_ID, Some(key))
                .done());
        }
        let answer = self
            .order(
                Method::Delete,
                "/api/systemusers/{id}/sshkeys/{key}",
                &[user, key],
                "remove SSH keys of users",
            )
            .await;
        let what = format!("removing SSH key {key} of user {user}");
        let ((), request_id) = confirm(&what, gone_is_done(answer), || async {
            let keys = self.ssh_keys(user).await?;
            let there = keys.iter().any(|row| row.id.as_deref() == Some(key));
            Ok((!there).then_some(()))
        })
        .await?;
        Ok(Outcome::new(user, Effect::Changed)
            .text(KEY_ID, Some(key))
            .request(request_id)
            .done())
    }

    async fn ssh_keys(&self, user: &str) -> Result<Vec<rows::SshKey>, Error> {
        self.client
            .get("/api/systemusers/{id}/sshkeys", &[user], &[])
            .await
    }
}

fn has_factor(row: &wire::SystemUser) -> bool {
    let enrolled = row.mfa_enrollment.as_ref().and_then(|enrollment| {
        filled(enrollment.overall_status.as_deref())
            .map(|status| status.eq_ignore_ascii_case("ENROLLED"))
    });
    row.totp_enabled == Some(true)
        || row.mfa.as_ref().and_then(|mfa| mfa.configured) == Some(true)
        || enrolled == Some(true)
}
