//! The second act: ConductorOne asks for changes, and each is looked up in JumpCloud afterwards.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, ensure};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Act, Daemon, LIMIT, until};
use crate::{
    proto::{baton, connector as v2, string_value},
    sim::{
        conductorone::{Finish, KeyKind, Revealed, Synced, tasks},
        jumpcloud::{Id, Tenant, Truth},
    },
};

/// Length of the passwords that are asked for.
const LENGTH: i64 = 24;
const LOGIN: &str = "nova.hire";

/// Who and what the changes are about.
struct Cast {
    group: Id,
    outsider: Id,
    ruled: Id,
    stranger: Id,
}

impl Act<'_> {
    /// A grant, a revocation, a new account, a rotation and a refusal; answers with the passwords that were made up.
    pub(super) async fn watch_changes(
        &self,
        daemon: &mut Daemon,
        file: &Path,
        truth: &Truth,
    ) -> anyhow::Result<Vec<SecretString>> {
        println!("What ConductorOne asks for next, and what JumpCloud holds afterwards:");
        println!();
        let file = file.to_owned();
        let synced = tokio::task::spawn_blocking(move || Synced::open(&file))
            .await
            .context("reading the uploaded file panicked")??;
        let cast = self.cast(truth)?;
        self.grant_and_revoke(daemon, &synced, &cast).await?;
        let (user, first) = self.create_account(daemon).await?;
        let second = self.rotate(daemon, user, &first).await?;
        self.refuse(daemon, &synced, &cast).await?;
        println!();
        Ok(vec![first, second])
    }

    fn cast(&self, truth: &Truth) -> anyhow::Result<Cast> {
        let groups = self
            .directory
            .inspect(Tenant::group_ids)
            .unwrap_or_default();
        let group = groups
            .iter()
            .copied()
            .find(|id| {
                self.directory
                    .group(*id)
                    .is_some_and(|group| text(&group, "membershipMethod") == Some("STATIC"))
            })
            .context("the tenant has no static group; use --groups 5 or more")?;
        let ruled = groups
            .iter()
            .copied()
            .find(|id| truth.groups.get(id).is_some_and(|group| group.dynamic))
            .context("the tenant has no dynamic group; use --groups 5 or more")?;
        let outside = |group: Id| {
            let members = truth.groups.get(&group).map(|group| &group.members);
            truth
                .users
                .iter()
                .filter(|(_, user)| user.status == "active" && user.admin.is_none())
                .map(|(id, _)| *id)
                .find(|id| !members.is_some_and(|members: &BTreeSet<Id>| members.contains(id)))
                .context("every user is in the group; use fewer --members-per-group")
        };
        Ok(Cast {
            group,
            outsider: outside(group)?,
            ruled,
            stranger: outside(ruled)?,
        })
    }

    async fn grant_and_revoke(
        &self,
        daemon: &mut Daemon,
        synced: &Synced,
        cast: &Cast,
    ) -> anyhow::Result<()> {
        let entitlement = synced.entitlement(&format!("group:{}", cast.group))?;
        let user = synced.resource("user", &cast.outsider.to_string())?;
        let what = format!("{} to {}", entitlement.display_name, user.display_name);
        let task = tasks::grant(entitlement, user);
        let finish = self.ask(daemon, "grant", &what, task).await?;
        let response: v2::GrantManagerServiceGrantResponse = response(&finish)?;
        ensure!(
            self.directory.is_member(cast.group, cast.outsider),
            "the grant was reported as done, but JumpCloud shows no member; this is an error of the connector: report it"
        );
        self.tell(finish.moment.at, "", "done: a member in JumpCloud");

        let grant =
            response.grants.into_iter().next().context(
                "the answer holds no grant; this is an error of the connector: report it",
            )?;
        let finish = self
            .ask(daemon, "revoke", "the same again", tasks::revoke(grant))
            .await?;
        succeeded(&finish)?;
        ensure!(
            !self.directory.is_member(cast.group, cast.outsider),
            "the revocation was reported as done, but JumpCloud shows the member; this is an error of the connector: \
             report it"
        );
        self.tell(finish.moment.at, "", "done: no member any more");
        Ok(())
    }

    async fn create_account(&self, daemon: &mut Daemon) -> anyhow::Result<(Id, SecretString)> {
        let profile = [("first_name", "Nova"), ("last_name", "Hire")];
        let account = v2::AccountInfo {
            login: LOGIN.to_owned(),
            emails: vec![v2::account_info::Email {
                address: format!("{LOGIN}@example.com"),
                is_primary: true,
            }],
            profile: Some(crate::proto::Struct {
                fields: profile
                    .map(|(name, text)| (name.to_owned(), string_value(text)))
                    .into(),
            }),
            ..Default::default()
        };
        let task = tasks::create_account(
            account,
            Some(tasks::random_password(LENGTH)),
            vec![self.cloud.encrypt_to(KeyKind::Ed25519)?],
        );
        let what = format!("account {LOGIN} with a password of {LENGTH} characters");
        let finish = self.ask(daemon, "create", &what, task).await?;
        succeeded(&finish)?;
        let user = self
            .directory
            .user_by_username(LOGIN)
            .and_then(|user| text(&user, "_id")?.parse().ok())
            .context(
                "the account was reported as made, but JumpCloud has none; this is an error of the connector: report it",
            )?;
        self.tell(
            finish.moment.at,
            "",
            &format!("done: user {user} in JumpCloud"),
        );
        let secret = self.password(&finish, user)?;
        Ok((user, secret))
    }

    async fn rotate(
        &self,
        daemon: &mut Daemon,
        user: Id,
        before: &SecretString,
    ) -> anyhow::Result<SecretString> {
        let task = tasks::rotate_credentials(
            tasks::resource_id("user", &user.to_string()),
            Some(tasks::random_password(LENGTH)),
            vec![self.cloud.encrypt_to(KeyKind::Ed25519)?],
        );
        let what = format!("another password for {LOGIN}");
        let finish = self.ask(daemon, "rotate", &what, task).await?;
        succeeded(&finish)?;
        let secret = self.password(&finish, user)?;
        ensure!(
            secret.expose_secret() != before.expose_secret(),
            "the new password is the old one; this is an error of the connector: report it"
        );
        self.tell(finish.moment.at, "", "and another one than before");
        Ok(secret)
    }

    /// Opens the one secret of an answer and compares it with what JumpCloud holds.
    fn password(&self, finish: &Finish, user: Id) -> anyhow::Result<SecretString> {
        let revealed = self.cloud.reveal(&finish.request.task_id)?;
        let [Revealed { key, secret, .. }] = revealed.as_slice() else {
            anyhow::bail!(
                "the answer holds {} secrets, must hold one; this is an error of the connector: report it",
                revealed.len()
            );
        };
        let held = self.directory.password_of(user);
        ensure!(
            held.is_some_and(|held| held.expose_secret() == secret.expose_secret()),
            "ConductorOne has another password than JumpCloud; this is an error of the connector: report it"
        );
        let shown = revealed.first().map(Revealed::masked).unwrap_or_default();
        self.tell(
            finish.moment.at,
            "secret",
            &format!(
                "opened with the {key:?} key of ConductorOne: {shown}, the one that JumpCloud holds"
            ),
        );
        Ok(secret.clone())
    }

    async fn refuse(
        &self,
        daemon: &mut Daemon,
        synced: &Synced,
        cast: &Cast,
    ) -> anyhow::Result<()> {
        let entitlement = synced.entitlement(&format!("group:{}", cast.ruled))?;
        let user = synced.resource("user", &cast.stranger.to_string())?;
        let what = format!("{} to {}", entitlement.display_name, user.display_name);
        let writes = self.directory.writes().total();
        let finish = self
            .ask(daemon, "grant", &what, tasks::grant(entitlement, user))
            .await?;
        ensure!(
            !finish.is_success() && finish.is_non_retryable(),
            "a member was put into a group whose rule decides alone; this is an error of the connector: report it"
        );
        ensure!(
            finish.message().contains("dynamic"),
            "the refusal does not say that the group is dynamic: {}; this is an error of the connector: report it",
            finish.message()
        );
        ensure!(
            self.directory.writes().total() == writes,
            "a refused change was written; this is an error of the connector: report it"
        );
        self.tell(
            finish.moment.at,
            "",
            &format!("refused: {}", finish.message()),
        );
        Ok(())
    }

    /// Hands a task out and waits for its end.
    async fn ask(
        &self,
        daemon: &mut Daemon,
        word: &str,
        what: &str,
        task: baton::Task,
    ) -> anyhow::Result<Finish> {
        let id = self.cloud.enqueue(task);
        self.tell_now(word, what);
        until(daemon, self.cloud.wait_for_finish(&id, LIMIT)).await
    }
}

fn text<'a>(object: &'a serde_json::Value, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str()
}

fn succeeded(finish: &Finish) -> anyhow::Result<()> {
    ensure!(
        finish.is_success(),
        "the task ended with code {}: {}",
        finish.code(),
        finish.message()
    );
    Ok(())
}

fn response<M: prost::Name + Default>(finish: &Finish) -> anyhow::Result<M> {
    use baton::baton_service_finish_task_request::FinalState;

    succeeded(finish)?;
    let Some(FinalState::Success(success)) = &finish.request.final_state else {
        anyhow::bail!("the task did not succeed");
    };
    let any = success.response.as_ref().context("the answer is empty")?;
    M::decode(any.value.as_slice()).context("the answer does not decode")
}
