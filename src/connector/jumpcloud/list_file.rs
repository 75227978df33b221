//! A list on disk: pages in frames with a checksum each, appended one by one.
//!
//! With a folder that outlives the process the file has a name, and whoever opens it again finds the pages that are whole;
//! without one it has none, and the operating system frees it with the last handle. It makes no other difference.
//!
//! A frame is its length and a CRC-32 of length and content, four bytes each with the lowest first, and the content, a
//! [`Frame`]. The first frame says what the list is, the last one that it is complete. Invariants: a page counts as
//! written when it is in [`ListFile::pages`]; nothing behind the first frame that is not whole is believed; a file that
//! begins otherwise than expected is none. Node loss may cost pages, since the disk is told to keep them only now and
//! then, but never passes for a whole list. All file access runs on the blocking pool; a file that is being written is
//! locked, so that the write of a dropped future cannot meet that of the next attempt.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use prost::Message;

use super::client::{Doubt, Mark};
use crate::connector::Error;

/// Changes whenever the content of the frames does.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8;
/// No page of 100 rows comes near this.
const MAX_FRAME_BYTES: u32 = 64 << 20;
/// How many pages may be lost with a node.
const PAGES_PER_FLUSH: usize = 100;

/// One page of a list.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Page {
    /// Where the walk was behind it.
    #[prost(message, optional, tag = "1")]
    pub(super) mark: Option<Mark>,
    /// What is kept of its rows.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) records: Vec<Vec<u8>>,
    /// Rows without a usable id.
    #[prost(uint64, tag = "3")]
    pub(super) nameless: u64,
    /// The kinds of rows that mean nothing here.
    #[prost(string, repeated, tag = "4")]
    pub(super) strange: Vec<String>,
    /// Whether rows of other organisations may be among them.
    #[prost(bool, tag = "5")]
    pub(super) unscoped: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Frame {
    #[prost(message, optional, tag = "1")]
    head: Option<Head>,
    #[prost(message, optional, tag = "2")]
    page: Option<Page>,
    #[prost(message, optional, tag = "3")]
    end: Option<End>,
}

#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// What was asked for.
    #[prost(string, tag = "2")]
    list: String,
}

/// The list is complete, as far as it can be.
#[derive(Clone, PartialEq, Message)]
struct End {
    #[prost(bool, tag = "1")]
    doubtful: bool,
    #[prost(uint64, optional, tag = "2")]
    promised: Option<u64>,
    #[prost(uint64, tag = "3")]
    read: u64,
    #[prost(uint32, tag = "4")]
    readings: u32,
}

/// Where a list is kept.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// Under this name in a folder that outlives the process.
    Named(&'a Path, &'a str),
    /// Without a name in a folder for temporary files.
    Nameless(&'a Path),
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    length: usize,
}

/// A list that is being written, or complete.
#[derive(Debug)]
pub(super) struct ListFile {
    file: Arc<File>,
    is_named: bool,
    pages: Vec<Span>,
    end: u64,
    unflushed: usize,
    is_complete: bool,
    doubt: Option<Doubt>,
    /// Set where whoever asks for pages may know other ones, of a file that was not complete when it was opened, and has
    /// not begun anew.
    is_new: AtomicBool,
}

impl ListFile {
    /// Opens a list; `replay` gets its pages in order, and refuses those that it cannot understand.
    pub(super) async fn open(
        place: Place<'_>,
        list: String,
        mut replay: impl FnMut(&Page) -> bool + Send,
    ) -> Result<Self, Error> {
        let head = Head {
            version: VERSION,
            list,
        };
        let (file, length) = open(place).await?;
        let mut this = Self {
            file,
            is_named: matches!(place, Place::Named(..)),
            pages: Vec::new(),
            end: 0,
            unflushed: 0,
            is_complete: false,
            doubt: None,
            is_new: AtomicBool::new(true),
        };
        if length > 0 {
            this.recover(length, &head, &mut replay).await?;
        }
        if this.end == 0 {
            this.write(Frame {
                head: Some(head),
                ..Frame::default()
            })
            .await?;
        }
        if this.is_complete {
            this.is_new = AtomicBool::new(false);
            this.unlock().await?;
        }
        Ok(this)
    }

    /// Takes over what is whole, and cuts off the rest.
    async fn recover(
        &mut self,
        length: u64,
        head: &Head,
        replay: &mut (impl FnMut(&Page) -> bool + Send),
    ) -> Result<(), Error> {
        let reason = loop {
            if self.end >= length {
                break None;
            }
            let (frame, span) = match self.frame_at(self.end, length).await? {
                Ok(found) => found,
                Err(reason) => break Some(reason),
            };
            match frame {
                Frame {
                    head: Some(found), ..
                } if self.end == 0 => {
                    if found != *head {
                        break Some("it is another list or of another version");
                    }
                }
                _ if self.end == 0 => break Some("it does not begin as a list does"),
                Frame {
                    page: Some(page), ..
                } => {
                    if !replay(&page) {
                        break Some("a page cannot be understood");
                    }
                    self.pages.push(span);
                }
                Frame { end: Some(end), .. } => {
                    self.is_complete = true;
                    self.doubt = end.doubtful.then_some(Doubt {
                        promised: end.promised,
                        read: end.read,
                        readings: end.readings,
                    });
                    self.end = span.start + span.length as u64;
                    break None;
                }
                _ => break Some("a frame is of no known kind"),
            }
            self.end = span.start + span.length as u64;
        };
        match reason {
            Some(reason) if self.end == 0 => tracing::warn!(
                list = head.list,
                reason,
                "a list that was kept is discarded and read again"
            ),
            Some(reason) => tracing::debug!(
                list = head.list,
                pages = self.pages.len(),
                lost_bytes = length - self.end,
                reason,
                "a list that was kept is damaged and read on from its last whole page"
            ),
            None => tracing::debug!(
                list = head.list,
                pages = self.pages.len(),
                complete = self.is_complete,
                "a list that was kept is taken over"
            ),
        }
        if self.end < length {
            let (file, end) = (Arc::clone(&self.file), self.end);
            blocking("cutting a list in the work folder", move || {
                file.set_len(end)
            })
            .await?;
        }
        Ok(())
    }

    async fn frame_at(
        &self,
        start: u64,
        length: u64,
    ) -> Result<Result<(Frame, Span), &'static str>, Error> {
        let file = Arc::clone(&self.file);
        blocking("reading a list in the work folder", move || {
            let number = |at| {
                let mut bytes = [0; 4];
                file.read_exact_at(&mut bytes, at)?;
                io::Result::Ok(u32::from_le_bytes(bytes))
            };
            let behind = start.saturating_add(HEADER_BYTES as u64);
            if behind > length {
                return Ok(Err("the last frame is cut off"));
            }
            let size = number(start)?;
            if size > MAX_FRAME_BYTES {
                return Ok(Err("a frame is larger than any page"));
            }
            if behind.saturating_add(u64::from(size)) > length {
                return Ok(Err("the last frame is cut off"));
            }
            let mut content = vec![0; size as usize];
            file.read_exact_at(&mut content, behind)?;
            if checksum(size, &content) != number(start + 4)? {
                return Ok(Err("the checksum of a frame is wrong"));
            }
            let span = Span {
                start,
                length: HEADER_BYTES + content.len(),
            };
            Ok(Frame::decode(content.as_slice())
                .map(|frame| (frame, span))
                .map_err(|_with_details| "a frame cannot be understood"))
        })
        .await
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Whether the list was read to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What remained doubtful when it was read to its end.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// Which pages to serve to somebody who asks for those from `first` to `first + count`.
    ///
    /// Somebody who asks for later pages first knows the earlier ones of another file, whose list had to be read again;
    /// their rows need not be the same, so the serving begins anew. Rows that were stored before are stored once more.
    pub(super) fn served(&self, first: usize, count: usize) -> std::ops::Range<usize> {
        let end = first.saturating_add(count);
        let begins_anew = self.is_new.swap(false, Ordering::Relaxed) && first > 0;
        if !begins_anew {
            first..end
        } else if first <= count {
            // The next token would be the one that was asked for.
            0..end
        } else {
            0..count
        }
    }

    /// A page, counted from zero; `None` behind the last one. Cancel-safe.
    pub(super) async fn page(&self, number: usize) -> Result<Option<Page>, Error> {
        let Some(span) = self.pages.get(number) else {
            return Ok(None);
        };
        match self.frame_at(span.start, self.end).await? {
            Ok((frame, _)) => Ok(frame.page),
            Err(reason) => Err(damaged(reason)),
        }
    }

    /// Appends a page. After a failure or a dropped future the list must be opened again.
    pub(super) async fn append(&mut self, page: Page) -> Result<(), Error> {
        let span = self
            .write(Frame {
                page: Some(page),
                ..Frame::default()
            })
            .await?;
        self.pages.push(span);
        self.unflushed += 1;
        if self.unflushed >= PAGES_PER_FLUSH {
            self.flush().await?;
        }
        Ok(())
    }

    /// Ends the writing.
    pub(super) async fn finish(&mut self, doubt: Option<Doubt>) -> Result<(), Error> {
        let end = doubt.map_or_else(End::default, |doubt| End {
            doubtful: true,
            promised: doubt.promised,
            read: doubt.read,
            readings: doubt.readings,
        });
        self.write(Frame {
            end: Some(end),
            ..Frame::default()
        })
        .await?;
        self.flush().await?;
        self.is_complete = true;
        self.doubt = doubt;
        self.unlock().await
    }

    async fn write(&mut self, frame: Frame) -> Result<Span, Error> {
        let (file, start) = (Arc::clone(&self.file), self.end);
        let span = blocking("writing a list in the work folder", move || {
            let content = frame.encode_to_vec();
            let size = u32::try_from(content.len())
                .ok()
                .filter(|size| *size <= MAX_FRAME_BYTES)
                .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
            let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
            bytes.extend_from_slice(&size.to_le_bytes());
            bytes.extend_from_slice(&checksum(size, &content).to_le_bytes());
            bytes.extend_from_slice(&content);
            file.write_all_at(&bytes, start)?;
            Ok(Span {
                start,
                length: bytes.len(),
            })
        })
        .await?;
        self.end = span.start + span.length as u64;
        Ok(span)
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.is_named {
            let file = Arc::clone(&self.file);
            blocking("writing a list in the work folder", move || {
                file.sync_data()
            })
            .await?;
        }
        self.unflushed = 0;
        Ok(())
    }

    async fn unlock(&self) -> Result<(), Error> {
        let file = Arc::clone(&self.file);
        blocking("unlocking a list in the work folder", move || file.unlock()).await
    }
}

/// The error of a list whose content is not what was written.
pub(super) fn damaged(reason: &str) -> Error {
    Error::Local {
        what: "understanding a list in the work folder".to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, reason.to_owned()),
    }
}

fn checksum(size: u32, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&size.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

async fn open(place: Place<'_>) -> Result<(Arc<File>, u64), Error> {
    let (folder, name) = match place {
        Place::Named(folder, name) => (folder.to_owned(), Some(folder.join(name))),
        Place::Nameless(folder) => (folder.to_owned(), None),
    };
    blocking("creating a list in the work folder", move || {
        let file = match name {
            Some(path) => File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?,
            None => tempfile::tempfile_in(folder)?,
        };
        file.lock()?;
        let length = file.metadata()?.len();
        Ok((Arc::new(file), length))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .and_then(|result| result)
        .map_err(|source| Error::Local {
            what: what.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use proptest::prelude::*;

    use super::*;

    fn page(text: &str) -> Page {
        Page {
            records: vec![text.as_bytes().to_vec()],
            ..Page::default()
        }
    }

    fn text(page: &Page) -> String {
        page.records
            .iter()
            .map(|record| String::from_utf8(record.clone()).unwrap())
            .collect()
    }

    async fn opened(folder: &Path) -> (ListFile, Vec<String>) {
        opened_as(folder, "users").await
    }

    async fn opened_as(folder: &Path, list: &str) -> (ListFile, Vec<String>) {
        let mut seen = Vec::new();
        let file = ListFile::open(Place::Named(folder, "a.list"), list.to_owned(), |page| {
            seen.push(text(page));
            true
        })
        .await
        .unwrap();
        (file, seen)
    }

    async fn written(folder: &Path, pages: &[&str], complete: bool) {
        let (mut file, seen) = opened(folder).await;
        assert!(seen.is_empty());
        for text in pages {
            file.append(page(text)).await.unwrap();
        }
        if complete {
            file.finish(None).await.unwrap();
        }
    }

    #[tokio::test]
    async fn pages_come_back_as_written_and_a_nameless_list_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = ListFile::open(Place::Nameless(folder.path()), String::new(), |_| {
            panic!("there is nothing to read back")
        })
        .await
        .unwrap();
        for text in ["first", "", "third"] {
            file.append(page(text)).await.unwrap();
        }
        file.finish(None).await.unwrap();
        assert_eq!(file.pages(), 3);
        for (number, expected) in [(2, "third"), (0, "first"), (1, "")] {
            assert_eq!(text(&file.page(number).await.unwrap().unwrap()), expected);
        }
        assert!(file.page(3).await.unwrap().is_none());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_missing_work_folder_is_named_as_such() {
        let place = Place::Nameless(Path::new("/nonexistent/folder"));
        let error = ListFile::open(place, String::new(), |_| true)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Local { .. }));
        assert!(error.to_string().contains("work folder"));
    }

    #[tokio::test]
    async fn a_complete_list_is_found_again_with_what_was_doubtful() {
        let folder = tempfile::tempdir().unwrap();
        let doubt = Doubt {
            promised: Some(7),
            read: 6,
            readings: 3,
        };
        let (mut file, _) = opened(folder.path()).await;
        file.append(page("a")).await.unwrap();
        file.finish(Some(doubt)).await.unwrap();
        drop(file);
        let (file, seen) = opened(folder.path()).await;
        assert!(file.is_complete());
        assert_eq!((file.doubt(), seen), (Some(doubt), vec!["a".to_owned()]));
        let mode = fs::metadata(folder.path().join("a.list"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_damaged_list_is_never_taken_for_more_than_its_whole_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.list");
        written(folder.path(), &["one", "two", "three"], true).await;
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (file, seen) = opened(folder.path()).await;
            assert!(!file.is_complete(), "cut at {cut}");
            assert_eq!(seen, ["one", "two", "three"][..seen.len()], "cut at {cut}");
        }
        for place in 0..whole.len() {
            for flip in [0x01, 0x80] {
                let mut bytes = whole.clone();
                bytes[place] ^= flip;
                fs::write(&path, &bytes).unwrap();
                let (file, seen) = opened(folder.path()).await;
                assert!(!file.is_complete(), "flipped at {place}");
                assert_eq!(seen, ["one", "two", "three"][..seen.len()]);
            }
        }
    }

    #[tokio::test]
    async fn a_torn_list_goes_on_behind_its_last_whole_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.list");
        written(folder.path(), &["one", "two"], false).await;
        let length = fs::metadata(&path).unwrap().len();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length - 3)
            .unwrap();
        let (mut file, seen) = opened(folder.path()).await;
        assert_eq!(seen, ["one"]);
        file.append(page("again")).await.unwrap();
        file.finish(None).await.unwrap();
        assert_eq!(text(&file.page(1).await.unwrap().unwrap()), "again");
        drop(file);
        let (file, seen) = opened(folder.path()).await;
        assert!(file.is_complete());
        assert_eq!(seen, ["one", "again"]);
    }

    #[tokio::test]
    async fn another_list_or_a_page_that_is_not_understood_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), &["one", "two"], true).await;
        let refused = ListFile::open(
            Place::Named(folder.path(), "a.list"),
            "users".to_owned(),
            |page| text(page) != "two",
        )
        .await
        .unwrap();
        assert_eq!((refused.pages(), refused.is_complete()), (1, false));
        drop(refused);
        let (other, seen) = opened_as(folder.path(), "groups").await;
        assert_eq!(
            (other.pages(), other.is_complete(), seen.len()),
            (0, false, 0)
        );
    }

    #[tokio::test]
    async fn whoever_knows_pages_of_a_list_that_was_read_again_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), &["one", "two", "three", "four"], true).await;
        let (file, _) = opened(folder.path()).await;
        assert_eq!(file.served(3, 1), 3..4);

        let other = tempfile::tempdir().unwrap();
        for (first, count, expected) in [(3, 1, 0..1), (1, 1, 0..2), (0, 1, 0..1), (20, 10, 0..10)]
        {
            let (file, _) = opened(other.path()).await;
            assert_eq!(file.served(first, count), expected, "{first}");
            assert_eq!(file.served(first, count), first..first + count);
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a.list"), &bytes).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (file, seen) = runtime.block_on(opened(folder.path()));
            prop_assert!(!file.is_complete() && seen.is_empty());
        }
    }
}
