//! The asynchronous side of the working database: one piece of work at a time, off the runtime's workers.
//!
//! Work is queued for the one thread that has the database. No future ever holds it: one that was granted a lock but is
//! not polled, because its owner waits for another one, would stop the whole sync. And no thread waits for it: each would
//! keep memory of its own. Callers wait for their own work, so at most one page per caller is held in memory. No thread is
//! kept between two pieces of work.

use std::{
    collections::VecDeque,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::{JoinError, spawn_blocking},
};
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

/// A piece of work. There is no database any more once it was sealed or discarded.
type Job = Box<dyn FnOnce(&mut Option<Store>) + Send>;

/// What is to be done with the database, and the database while nothing is done with it.
struct Desk {
    queue: VecDeque<Job>,
    store: Option<Store>,
    is_busy: bool,
}

/// Writes one file: a handle to the working database.
///
/// Dropping it drops the working database once the work in hand is done.
pub struct Writer {
    desk: Arc<Mutex<Desk>>,
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
            desk: Arc::new(Mutex::new(Desk {
                queue: VecDeque::new(),
                store: Some(store),
                is_busy: false,
            })),
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
        // No answer: work before it panicked, and took the database with it.
        let _dropped = self.queued(|store| drop(store.take())).await;
    }

    async fn on_thread<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Option<Store>) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let mut done = self.queued(work);
        tokio::select! {
            done = &mut done => return done.unwrap_or(Err(Error::Stopped)),
            () = self.cancel.cancelled() => {}
        }
        // Running work is waited for even now, so that the caller may remove the work folder afterwards. What was
        // finished in spite of the interrupt stays finished.
        loop {
            self.interrupt.interrupt();
            if let Ok(done) = tokio::time::timeout(INTERRUPT_AGAIN, &mut done).await {
                return done.unwrap_or(Err(Error::Stopped));
            }
        }
    }

    /// The end of `work`; an error, if it panicked or work before it did.
    fn queued<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Option<Store>) -> R + Send + 'static,
    ) -> oneshot::Receiver<R> {
        let (sender, done) = oneshot::channel();
        let job = move |store: &mut Option<Store>| {
            // Who is not there any more does not want to know.
            let _unsent = sender.send(work(store));
        };
        let mut desk = locked(&self.desk);
        desk.queue.push_back(Box::new(job));
        if !mem::replace(&mut desk.is_busy, true) {
            let desk = Arc::clone(&self.desk);
            drop(spawn_blocking(move || work_through(&desk)));
        }
        done
    }
}

/// Does what is queued until nothing is.
fn work_through(desk: &Mutex<Desk>) {
    let mut store = locked(desk).store.take();
    loop {
        let job = {
            let mut desk = locked(desk);
            let Some(job) = desk.queue.pop_front() else {
                desk.store = store;
                desk.is_busy = false;
                return;
            };
            job
        };
        if catch_unwind(AssertUnwindSafe(|| job(&mut store))).is_err() {
            tracing::error!("work on the file ended in a panic");
            // What is in it now is unknown.
            store = None;
        }
    }
}

/// Nothing that can panic is done with it.
fn locked(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stopped(error: &JoinError) -> Error {
    tracing::error!(error = %error, "work on the file ended in a panic");
    Error::Stopped
}
