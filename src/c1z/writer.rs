//! The asynchronous side of the working database: one piece of work at a time, off the runtime's workers.
//!
//! The lock of the database is taken on the blocking thread, never by a future: a future that was granted a lock but
//! is not polled, because its owner waits for another one, would stop the whole sync. Callers wait for their own
//! work, so at most one page per caller is held in memory. No thread is kept between two pieces of work.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{Counts, Error, Finish, Store, SyncStart, Unfinished};

/// How often a cancelled writer is told again: a statement that begins just after an interrupt does not see it.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(20);

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its rows.
    pub counts: Counts,
    /// Its size.
    pub bytes: u64,
}

/// Writes one file: a handle to the working database.
///
/// Dropping it drops the working database once the work in hand is done.
pub struct Writer {
    /// `None` once sealed or discarded.
    store: Arc<Mutex<Option<Store>>>,
    interrupt: rusqlite::InterruptHandle,
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
        Self::created(folder, start, cancel, Store::create).await
    }

    /// As [`Writer::create`], but the database keeps its name in `folder`, in place of one that is there.
    pub async fn create_kept(
        folder: &Path,
        start: SyncStart,
        cancel: CancellationToken,
    ) -> Result<Self, Error> {
        Self::created(folder, start, cancel, Store::create_kept).await
    }

    async fn created(
        folder: &Path,
        start: SyncStart,
        cancel: CancellationToken,
        create: fn(&Path, &SyncStart, CancellationToken) -> Result<Store, Error>,
    ) -> Result<Self, Error> {
        let folder = folder.to_owned();
        let stop = cancel.clone();
        let store = spawn_blocking(move || create(&folder, &start, stop))
            .await
            .map_err(|error| stopped(&error))??;
        Ok(Self::over(store, cancel))
    }

    fn over(store: Store, cancel: CancellationToken) -> Self {
        Self {
            interrupt: store.interrupt_handle(),
            store: Arc::new(Mutex::new(Some(store))),
            cancel,
        }
    }

    /// Opens the database that is kept in `folder`; `None` where there is none. See [`Store::reopen`].
    pub async fn reopen(
        folder: &Path,
        cancel: CancellationToken,
    ) -> Result<Option<(Self, Unfinished)>, Error> {
        let folder = folder.to_owned();
        let stop = cancel.clone();
        let found = spawn_blocking(move || Store::reopen(&folder, stop))
            .await
            .map_err(|error| stopped(&error))??;
        Ok(found.map(|(store, unfinished)| (Self::over(store, cancel), unfinished)))
    }

    /// Runs `work` on the database and waits for its result.
    ///
    /// When the future is dropped, work that has begun is still done whole.
    pub async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        self.on_thread(move |store| store.as_mut().ok_or(Error::Stopped).and_then(work))
            .await
    }

    /// Ends the sync and packs the database into `target`, which appears whole or not at all.
    ///
    /// Without `finish` the sync must have ended already. `entitlements` says whether the statistics count entitlements
    /// and grants. The working database is gone afterwards; one that is kept stays where the packing failed.
    pub async fn seal(
        self,
        finish: Option<Finish>,
        entitlements: bool,
        target: &Path,
    ) -> Result<Sealed, Error> {
        let target = target.to_owned();
        self.on_thread(move |store| {
            let mut store = store.take().ok_or(Error::Stopped)?;
            let counts = match &finish {
                Some(finish) => store.finish(finish, entitlements)?,
                None => store.counts()?,
            };
            let bytes = store.seal(&target)?;
            Ok(Sealed { counts, bytes })
        })
        .await
    }

    /// Closes the working database and waits until it is gone, or free to be opened again where it is kept.
    pub async fn discard(self) {
        self.interrupt.interrupt();
        let store = Arc::clone(&self.store);
        let dropped = spawn_blocking(move || {
            if let Ok(mut store) = store.lock() {
                drop(store.take());
            }
        });
        if let Err(error) = dropped.await {
            tracing::error!(error = %error, "the working database could not be dropped");
        }
    }

    async fn on_thread<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Option<Store>) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let store = Arc::clone(&self.store);
        self.wait(spawn_blocking(move || {
            // Poisoned by a panic in earlier work: what is in the database is unknown.
            let mut store = store.lock().map_err(|_poisoned| Error::Stopped)?;
            work(&mut store)
        }))
        .await
    }

    /// Waits for running work even after cancellation, so that the caller may remove the work folder afterwards.
    ///
    /// What was finished in spite of the interrupt stays finished.
    async fn wait<R>(&self, mut work: JoinHandle<Result<R, Error>>) -> Result<R, Error> {
        tokio::select! {
            done = &mut work => return done.map_err(|error| stopped(&error))?,
            () = self.cancel.cancelled() => {}
        }
        loop {
            self.interrupt.interrupt();
            if let Ok(done) = tokio::time::timeout(INTERRUPT_AGAIN, &mut work).await {
                return done.map_err(|error| stopped(&error))?;
            }
        }
    }
}

fn stopped(error: &tokio::task::JoinError) -> Error {
    tracing::error!(error = %error, "work on the file ended in a panic");
    Error::Stopped
}
