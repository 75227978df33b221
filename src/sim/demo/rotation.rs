//! A new client secret under the running daemon, and the death of the old one.

use anyhow::ensure;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Act, LIMIT,
    conductorone::{Rpc, full_sync, write_file},
    daemon::Daemon,
    until,
};
use crate::proto::baton::task::SyncFullTask;

impl Act<'_> {
    /// Rotates the client secret and wants the next sync to succeed with it; answers with the new one.
    pub(super) async fn watch_rotation(&self, daemon: &mut Daemon) -> anyhow::Result<SecretString> {
        let cloud = self.cloud;
        let tokens = cloud.calls(Rpc::Token);
        let secret = cloud.rotate_secret()?;
        let fresh = self.folder.join("client-secret.new");
        write_file(&fresh, secret.expose_secret(), 0o600).await?;
        tokio::fs::rename(&fresh, self.folder.join("client-secret")).await?;
        self.tell_now("rotate", "a new client secret is in the file");
        until(daemon, cloud.wait_for_calls(Rpc::Token, tokens + 1, LIMIT)).await?;
        cloud.retire_secrets();
        self.tell_now(
            "rotate",
            "the daemon has tried it and uses it, without a restart; the old one is refused from now on",
        );
        let id = cloud.enqueue(full_sync(SyncFullTask::default()));
        let finish = until(daemon, cloud.wait_for_finish(&id, LIMIT)).await?;
        ensure!(
            finish.is_success(),
            "the sync after the rotation ended with code {}: {}",
            finish.code(),
            finish.message()
        );
        self.tell(
            finish.moment.at,
            "finish",
            "a full sync with the new client secret",
        );
        Ok(secret)
    }
}
