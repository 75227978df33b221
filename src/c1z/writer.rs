//! The asynchronous side of the working database: one thread owns it, work reaches it through a bounded channel.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Counts, Error, Finish, Store, SyncStart};

/// Pages waiting for the thread; more would only hold memory.
const QUEUE: usize = 4;
/// How often a cancelled writer is told again: a statement that begins just after an interrupt does not see it.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(20);

type Work = Box<dyn FnOnce(&mut Store) + Send>;

enum Command {
    Work(Work),
    Seal(Box<SealCommand>),
}

struct SealCommand {
    finish: Finish,
    entitlements: bool,
    target: PathBuf,
    answer: oneshot::Sender<Result<Sealed, Error>>,
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its rows.
    pub counts: Counts,
    /// Its size.
    pub bytes: u64,
}

/// Writes one file: a handle to the thread that owns the working database.
///
/// Dropping it ends the thread after the work in hand, and with it the working database.
pub struct Writer {
    commands: mpsc::Sender<Command>,
    interrupt: rusqlite::InterruptHandle,
    thread: JoinHandle<()>,
    cancel: CancellationToken,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// Creates the working database in `folder` and begins a sync in it.
    ///
    /// When `cancel` fires, everything that runs or waits here ends with [`Error::Cancelled`].
    pub async fn create(
        folder: &Path,
        start: SyncStart,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        let folder = folder.to_owned();
        let (commands, mut queue) = mpsc::channel::<Command>(QUEUE);
        let (ready, is_ready) = oneshot::channel();
        let stop = cancel.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let mut store = match Store::create(&folder, &start, stop) {
                Ok(store) => store,
                Err(error) => {
                    // Nobody to tell when the creator is gone.
                    let _gone = ready.send(Err(error));
                    return;
                }
            };
            if ready.send(Ok(store.interrupt_handle())).is_err() {
                return;
            }
            while let Some(command) = queue.blocking_recv() {
                match command {
                    Command::Work(work) => work(&mut store),
                    Command::Seal(seal) => {
                        let sealed =
                            store
                                .finish(&seal.finish, seal.entitlements)
                                .and_then(|counts| {
                                    let bytes = store.seal(&seal.target)?;
                                    Ok(Sealed { counts, bytes })
                                });
                        let _gone = seal.answer.send(sealed);
                        return;
                    }
                }
            }
        });
        let interrupt = is_ready.await.map_err(|_| Error::Stopped)??;
        Ok(Self {
            commands,
            interrupt,
            thread,
            cancel,
        })
    }

    /// Runs `work` on the thread of the database and waits for its result.
    ///
    /// Not cancel-safe in the sense that dropped work may still be done; it is done whole or not at all.
    pub async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let (answer, result) = oneshot::channel();
        self.send(Command::Work(Box::new(move |store| {
            let _gone = answer.send(work(store));
        })))
        .await?;
        self.wait(result).await
    }

    /// Ends the sync, packs the database into `target` and ends the thread.
    ///
    /// `entitlements` says whether the statistics count entitlements and grants. The file appears whole or not at all.
    pub async fn seal(
        self,
        finish: Finish,
        entitlements: bool,
        target: &Path,
    ) -> Result<Sealed, Error> {
        let (answer, result) = oneshot::channel();
        let sent = self
            .send(Command::Seal(Box::new(SealCommand {
                finish,
                entitlements,
                target: target.to_owned(),
                answer,
            })))
            .await;
        let sealed = match sent {
            Ok(()) => self.wait(result).await,
            Err(error) => Err(error),
        };
        self.close().await;
        sealed
    }

    /// Drops the working database and waits until it is gone.
    pub async fn discard(self) {
        self.interrupt.interrupt();
        self.close().await;
    }

    async fn close(self) {
        drop(self.commands);
        if let Err(error) = self.thread.await {
            tracing::error!(error = %error, "the writer of the file failed");
        }
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        tokio::select! {
            sent = self.commands.send(command) => sent.map_err(|_| Error::Stopped),
            () = self.cancel.cancelled() => Err(Error::Cancelled),
        }
    }

    async fn wait<R>(&self, mut result: oneshot::Receiver<Result<R, Error>>) -> Result<R, Error> {
        tokio::select! {
            result = &mut result => return result.map_err(|_| Error::Stopped)?,
            () = self.cancel.cancelled() => {}
        }
        // The thread is waited for, so that the caller may remove the work folder afterwards. What it finished in
        // spite of the interrupt stays finished.
        loop {
            self.interrupt.interrupt();
            if let Ok(result) = tokio::time::timeout(INTERRUPT_AGAIN, &mut result).await {
                return result.map_err(|_| Error::Stopped)?;
            }
        }
    }
}
