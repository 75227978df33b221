//! Sending a file: chunks, checksum, and the watch over progress of one attempt.
//!
//! Owns the order of messages that the SDK sends: metadata, data of 512 KiB each, eof with the SHA-256 of the bytes that
//! were sent. It reads the file on the blocking pool, one chunk ahead of the network, and never holds more than three.
//! A file that changes length under it is an error, and then no eof is sent and the stream is reset.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt as _, future, stream};
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::Error;
use crate::{
    crypto::Sha256,
    proto::baton::{
        BatonServiceUploadAssetRequest as Message,
        baton_service_upload_asset_request::{Msg, UploadData, UploadEof, UploadMetadata},
    },
    telemetry::metrics::Metrics,
};

/// Bytes of file in one data message.
pub(crate) const CHUNK: usize = 512 * 1024;

/// What goes to the network task: a message, or the word that there are no more.
///
/// A sender that is merely gone does not end the stream, so that a failure on our side never looks like a complete one.
enum Item {
    Message(Message),
    End,
}

/// Our end of one attempt.
pub(crate) struct Feed {
    sender: mpsc::Sender<Item>,
    complete: AtomicBool,
    metrics: Metrics,
}

/// A feed, and the stream of what it sends. The bytes of files are counted there.
pub(crate) fn feed(metrics: Metrics) -> (Feed, impl Stream<Item = Message> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(1);
    let messages = ReceiverStream::new(receiver)
        .map(Some)
        .chain(stream::pending())
        .take_while(|item| future::ready(!matches!(item, Some(Item::End))))
        .filter_map(|item| {
            future::ready(match item {
                Some(Item::Message(message)) => Some(message),
                Some(Item::End) | None => None,
            })
        });
    let feed = Feed {
        sender,
        complete: AtomicBool::new(false),
        metrics,
    };
    (feed, messages)
}

impl Feed {
    /// Sends the whole file. Ends early without an error when nobody listens any more: the call then has its answer.
    ///
    /// `idle` limits the time in which the network takes no message.
    pub(crate) async fn send(
        &self,
        host_id: &str,
        task_id: &str,
        path: &Path,
        idle: Duration,
    ) -> Result<(), Error> {
        let mut source = Source::open(path).await?;
        let metadata = Msg::Metadata(UploadMetadata {
            host_id: host_id.to_owned(),
            task_id: task_id.to_owned(),
            annotations: Vec::new(),
        });
        let mut open = self.push(metadata, &source, idle).await?;
        while open {
            let (next, chunk) = source.next(path).await?;
            source = next;
            match chunk {
                Some(data) => {
                    let bytes = data.len();
                    let data = Msg::Data(UploadData { data });
                    open = self.push(data, &source, idle).await?;
                    self.metrics.uploaded(bytes);
                }
                None => break,
            }
        }
        if open {
            let eof = Msg::Eof(UploadEof {
                sha256_checksum: source.digest.clone().finish(),
                annotations: Vec::new(),
            });
            self.complete.store(true, Ordering::Relaxed);
            open = self.push(eof, &source, idle).await?;
        }
        if open {
            // The channel has room for one; the end follows as soon as the eof is taken.
            self.give(Item::End, &source, idle).await?;
        }
        Ok(())
    }

    /// Whether all of the file went out, so that an answer can be about all of it.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    async fn push(&self, msg: Msg, source: &Source, idle: Duration) -> Result<bool, Error> {
        self.give(Item::Message(Message { msg: Some(msg) }), source, idle)
            .await
    }

    /// Whether somebody still listens.
    async fn give(&self, item: Item, source: &Source, idle: Duration) -> Result<bool, Error> {
        match timeout(idle, self.sender.send(item)).await {
            Ok(outcome) => Ok(outcome.is_ok()),
            Err(_elapsed) => Err(Error::Stalled {
                sent: source.read,
                size: source.size,
                after: idle,
            }),
        }
    }
}

/// The file, with the digest of what was read of it.
struct Source {
    file: File,
    modified: Option<SystemTime>,
    size: u64,
    read: u64,
    digest: Sha256,
}

impl Source {
    async fn open(path: &Path) -> Result<Self, Error> {
        let owned = path.to_owned();
        blocking(path, move || {
            let file = File::open(owned)?;
            let metadata = file.metadata()?;
            Ok(Self {
                file,
                modified: metadata.modified().ok(),
                size: metadata.len(),
                read: 0,
                digest: Sha256::new(),
            })
        })
        .await
    }

    /// The next full chunk, the rest, or nothing at the end. A file that is shorter or longer than at first is an error.
    async fn next(mut self, path: &Path) -> Result<(Self, Option<Vec<u8>>), Error> {
        let (this, chunk, touched) = blocking(path, move || {
            let chunk = self.read_chunk()?;
            let touched =
                chunk.is_empty() && self.file.metadata()?.modified().ok() != self.modified;
            Ok((self, chunk, touched))
        })
        .await?;
        let complete = chunk.len() == CHUNK || this.read == this.size;
        if !complete || touched || this.read > this.size {
            return Err(Error::FileChanged {
                expected: this.size,
                found: this.read,
            });
        }
        let chunk = Some(chunk).filter(|chunk| !chunk.is_empty());
        Ok((this, chunk))
    }

    fn read_chunk(&mut self) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.size.saturating_sub(self.read)).unwrap_or(usize::MAX);
        // One byte more than is left, so that growth is noticed.
        let want = CHUNK.min(left.saturating_add(1));
        let mut chunk = Vec::with_capacity(want);
        let mut limited = (&mut self.file).take(u64::try_from(want).unwrap_or(u64::MAX));
        limited.read_to_end(&mut chunk)?;
        self.digest.update(&chunk);
        self.read += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        Ok(chunk)
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })
}
