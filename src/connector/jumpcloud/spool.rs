//! An unlinked temporary file of byte pages, so that a large listing costs disk instead of memory.
//!
//! The file has no name: the operating system frees it when the last handle is dropped, also when the process dies.
//! All file access runs on the blocking pool.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use crate::connector::Error;

/// A finished spool.
#[derive(Debug)]
pub(super) struct Spool {
    file: Arc<File>,
    /// Where each page ends.
    ends: Vec<u64>,
}

impl Spool {
    /// How many pages there are.
    pub(super) fn pages(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a page, counted from zero; `None` behind the last one. Cancel-safe.
    pub(super) async fn page(&self, number: usize) -> Result<Option<Vec<u8>>, Error> {
        let Some(&end) = self.ends.get(number) else {
            return Ok(None);
        };
        let start = number
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .copied()
            .unwrap_or(0);
        let file = Arc::clone(&self.file);
        let bytes = blocking("reading a temporary file in the work folder", move || {
            let length = usize::try_from(end - start).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes)
        })
        .await?;
        Ok(Some(bytes))
    }
}

/// A spool that is being filled.
#[derive(Debug)]
pub(super) struct Writer {
    spool: Spool,
}

impl Writer {
    /// An empty spool in a folder that exists.
    pub(super) async fn create(folder: &Path) -> Result<Self, Error> {
        let folder = folder.to_owned();
        let file = blocking("creating a temporary file in the work folder", move || {
            tempfile::tempfile_in(folder)
        })
        .await?;
        Ok(Self {
            spool: Spool {
                file: Arc::new(file),
                ends: Vec::new(),
            },
        })
    }

    /// Appends a page. After a failure or a dropped future the page counts as not written.
    pub(super) async fn append(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let start = self.spool.ends.last().copied().unwrap_or(0);
        let end = start + bytes.len() as u64;
        let file = Arc::clone(&self.spool.file);
        blocking("writing a temporary file in the work folder", move || {
            file.write_all_at(&bytes, start)
        })
        .await?;
        self.spool.ends.push(end);
        Ok(())
    }

    /// Ends the writing.
    pub(super) fn finish(self) -> Spool {
        self.spool
    }
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
    use super::*;

    #[tokio::test]
    async fn pages_come_back_as_written_and_the_folder_stays_empty() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(folder.path()).await.unwrap();
        for page in [b"first".to_vec(), Vec::new(), b"third".to_vec()] {
            writer.append(page).await.unwrap();
        }
        let spool = writer.finish();
        assert_eq!(spool.pages(), 3);
        assert_eq!(spool.page(2).await.unwrap().unwrap(), b"third");
        assert_eq!(spool.page(0).await.unwrap().unwrap(), b"first");
        assert_eq!(spool.page(1).await.unwrap().unwrap(), b"");
        assert!(spool.page(3).await.unwrap().is_none());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_missing_work_folder_is_named_as_such() {
        let error = Writer::create(Path::new("/nonexistent/folder"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Local { .. }));
        assert!(error.to_string().contains("work folder"));
    }
}
