//! Writing and deleting large values.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::manifest::{Manifest, UploadId};
use super::{LargeReading, LargeValues, PART_BYTES, WINDOW};
use crate::table::BegunWrite;
use crate::{Context, IntoKey, Key, WriteError, Written};

/// A large value that was not written, or of which it is not known.
///
/// ```
/// # quoit_sandbox::with_large_values(async |films| {
/// use quoit_client::large::LargeWriteError;
///
/// // It can be opened, and not be read.
/// let directory = tokio::fs::File::open(".").await?;
/// let error = films.put("cats", directory, None).await.unwrap_err();
/// assert!(matches!(error, LargeWriteError::Input(_)));
/// # Ok(()) });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LargeWriteError {
    /// What was to be written could not be read to its end. Nothing is to be seen of it.
    #[error("not written: the input cannot be read: {0}")]
    Input(#[source] io::Error),
    /// More parts than can be counted.
    #[error("not written: the value is longer than {} bytes", u64::from(u32::MAX) * PART_BYTES as u64)]
    TooLong,
    /// A part was not written, so neither is the value. Nothing is to be seen of it.
    #[error("not written, for part {part} was not: {error}")]
    Part {
        /// Which, from 0 on.
        part: u32,
        /// Why.
        #[source]
        error: WriteError,
    },
    /// The manifest was not written, or that is not known ([`LargeWriteError::is_unknown`]).
    #[error(transparent)]
    Manifest(WriteError),
    /// The system gives no random numbers. Nothing was done.
    #[error("not written: the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl LargeWriteError {
    /// Whether the value may be there now or later.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// let directory = tokio::fs::File::open(".").await?;
    /// let error = films.put("cats", directory, None).await.unwrap_err();
    /// assert!(!error.is_unknown());
    /// # Ok(()) });
    /// ```
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Manifest(error) if error.is_unknown())
    }
}

impl LargeValues {
    /// Writes what `input` yields until its end, in parts, at most 2 MiB of it in memory at once; in the
    /// place of what `over` has read, whose parts are deleted then. Without `over` a table of siblings
    /// keeps what was there beside it, and a `latest` table forgets it and keeps its parts
    /// ([`LargeValues::sweep`]). If it fails, the parts that were written are deleted again.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// films.put("cats", &b"a short film"[..], None).await?;
    /// let reading = films.get("cats").await?;
    /// films.put("cats", tokio::io::empty(), Some(&reading)).await?;
    /// assert_eq!(films.get("cats").await?.siblings[0].length(), 0);
    /// # Ok(()) });
    /// ```
    pub async fn put(
        &self,
        key: impl IntoKey,
        mut input: impl AsyncRead + Unpin,
        over: Option<&LargeReading>,
    ) -> Result<Written, LargeWriteError> {
        let key = key.into_key();
        let first = next_part(&mut input).await.map_err(LargeWriteError::Input)?;
        let manifest = if first.len() < PART_BYTES {
            Manifest { length: first.len() as u64, upload: None, inline: first }
        } else {
            let upload = UploadId::draw().map_err(LargeWriteError::Random)?;
            let mut written = 0;
            match self.put_parts(upload, first, &mut input, &mut written).await {
                Ok(length) => Manifest { length, upload: Some(upload), inline: Bytes::new() },
                Err(error) => {
                    self.delete_parts(upload, written).await;
                    return Err(error);
                }
            }
        };
        let context = over.map_or_else(Context::none, |over| over.context.clone());
        let put = self.values.put(&key, manifest.encode(), &context).await;
        match (&put, manifest.upload) {
            (Ok(_), _) => self.delete_parts_of(over).await,
            // One that may be there must not lose its parts.
            (Err(error), Some(upload)) if !error.is_unknown() => {
                self.delete_parts(upload, manifest.parts()).await;
            }
            (Err(_), _) => {}
        }
        put.map_err(LargeWriteError::Manifest)
    }

    /// Deletes what was read, and its parts.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// films.put("cats", &b"a short film"[..], None).await?;
    /// let reading = films.get("cats").await?;
    /// films.delete("cats", &reading).await?;
    /// assert!(films.get("cats").await?.siblings.is_empty());
    /// # Ok(()) });
    /// ```
    pub async fn delete(
        &self,
        key: impl IntoKey,
        reading: &LargeReading,
    ) -> Result<Written, WriteError> {
        let deleted = self.values.delete(key, &reading.context).await?;
        self.delete_parts_of(Some(reading)).await;
        Ok(deleted)
    }

    /// Writes the parts and yields the length of all; `begun` counts the parts that may be there.
    async fn put_parts(
        &self,
        upload: UploadId,
        first: Bytes,
        input: &mut (impl AsyncRead + Unpin),
        begun: &mut u32,
    ) -> Result<u64, LargeWriteError> {
        let mut under_way: VecDeque<(u32, Result<BegunWrite, WriteError>)> = VecDeque::new();
        let (mut length, mut part) = (0, first);
        while !part.is_empty() {
            if under_way.len() == WINDOW {
                self.end_part(&mut under_way).await?;
            }
            let (number, is_last) = (*begun, part.len() < PART_BYTES);
            *begun = number.checked_add(1).ok_or(LargeWriteError::TooLong)?;
            length += part.len() as u64;
            let key: Key = upload.part(number);
            let write = self.parts.begin_write(key, Some(part), &Context::none());
            under_way.push_back((number, write));
            part = match is_last {
                true => Bytes::new(),
                false => next_part(input).await.map_err(LargeWriteError::Input)?,
            };
        }
        while !under_way.is_empty() {
            self.end_part(&mut under_way).await?;
        }
        Ok(length)
    }

    async fn end_part(
        &self,
        under_way: &mut VecDeque<(u32, Result<BegunWrite, WriteError>)>,
    ) -> Result<(), LargeWriteError> {
        let Some((part, write)) = under_way.pop_front() else { return Ok(()) };
        let written = self.parts.end_write(write).await;
        written.map(drop).map_err(|error| LargeWriteError::Part { part, error })
    }

    async fn delete_parts_of(&self, reading: Option<&LargeReading>) {
        for value in reading.iter().flat_map(|reading| &reading.siblings) {
            if let Some(upload) = value.manifest.upload {
                self.delete_parts(upload, value.manifest.parts()).await;
            }
        }
    }

    /// Deletes parts of which nothing is to be seen any more. One that cannot be deleted now is found by
    /// the next sweep.
    async fn delete_parts(&self, upload: UploadId, count: u32) {
        let mut under_way = VecDeque::new();
        let mut failed = 0_u32;
        for number in 0..count {
            if under_way.len() == WINDOW
                && let Some(first) = under_way.pop_front()
            {
                failed += u32::from(self.parts.end_write(first).await.is_err());
            }
            let delete = self.parts.begin_write(upload.part(number), None, &Context::none());
            under_way.push_back(delete);
        }
        for delete in under_way {
            failed += u32::from(self.parts.end_write(delete).await.is_err());
        }
        if failed > 0 {
            tracing::warn!(
                failed,
                "parts of a large value were not deleted: a sweep will find them"
            );
        }
    }
}

/// Up to a part's bytes; fewer only at the input's end.
async fn next_part(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut part = BytesMut::new();
    let mut limited = input.take(PART_BYTES as u64);
    while limited.read_buf(&mut part).await? > 0 {}
    Ok(part.freeze())
}
