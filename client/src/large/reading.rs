//! Reading large values.

use std::collections::VecDeque;

use bytes::Bytes;
use quoit_ring::HybridTime;

use super::manifest::Manifest;
use super::{LargeValues, WINDOW};
use crate::table::BegunGet;
use crate::{Context, IntoKey, Key, ReadError, Table};

/// A large value that cannot be read, or not to its end.
///
/// ```
/// # quoit_sandbox::with_large_values(async |films| {
/// use quoit_client::large::LargeReadError;
///
/// let film = vec![7; 1 << 20];
/// films.put("cats", &film[..], None).await?;
/// let reading = films.get("cats").await?;
/// films.delete("cats", &reading).await?;
/// let outcome = reading.siblings[0].parts().next().await;
/// assert_eq!(outcome, Err(LargeReadError::Gone { part: 0 }));
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LargeReadError {
    /// The key, or a part, cannot be read now.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The key holds a value that was not written as a large one: read it from its table.
    #[error("the value was not written as a large one: read it from the table {table}")]
    NotLarge {
        /// The table.
        table: String,
    },
    /// A part is not there: the value was replaced or deleted while it was read. Read the key again.
    #[error("part {part} is gone: the value was replaced or deleted meanwhile; read the key again")]
    Gone {
        /// Which, from 0 on.
        part: u32,
    },
}

/// What a read found under a key; the values themselves are read part by part.
///
/// ```
/// # quoit_sandbox::with_large_values(async |films| {
/// films.put("cats", &b"a short film"[..], None).await?;
/// let reading = films.get("cats").await?;
/// assert_eq!(reading.siblings.len(), 1);
/// films.put("cats", &b"a film of dogs"[..], Some(&reading)).await?;
/// assert_eq!(films.get("cats").await?.siblings[0].length(), 14);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct LargeReading {
    /// The live values: none where the key is absent, several where writers did not know of each other.
    pub siblings: Vec<LargeValue>,
    /// Covers all that was read.
    pub context: Context,
}

/// One value, not read yet.
///
/// ```
/// # quoit_sandbox::with_large_values(async |films| {
/// films.put("cats", &b"a short film"[..], None).await?;
/// let value = films.get("cats").await?.siblings.remove(0);
/// assert_eq!(value.parts().next().await?.unwrap(), "a short film");
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct LargeValue {
    pub(super) manifest: Manifest,
    parts: Table,
    written: HybridTime,
}

/// The parts of a value, one after the other.
///
/// ```
/// # quoit_sandbox::with_large_values(async |films| {
/// let film = vec![7; 1 << 20];
/// films.put("cats", &film[..], None).await?;
/// let mut parts = films.get("cats").await?.siblings[0].parts();
/// let mut copy = Vec::new();
/// while let Some(bytes) = parts.next().await? {
///     copy.extend(bytes);
/// }
/// assert_eq!(copy, film);
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Parts {
    manifest: Manifest,
    table: Table,
    /// The next to be asked for.
    next: u32,
    under_way: VecDeque<(u32, BegunGet)>,
    /// What has no parts is handed out once.
    inline: Option<Bytes>,
}

impl LargeValues {
    /// Reads what there is under a key, but for the parts.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// films.put("cats", &b"a short film"[..], None).await?;
    /// assert_eq!(films.get("cats").await?.siblings.len(), 1);
    /// assert!(films.get("dogs").await?.siblings.is_empty());
    /// # Ok(()) });
    /// ```
    pub async fn get(&self, key: impl IntoKey) -> Result<LargeReading, LargeReadError> {
        let reading = self.values.get(key).await?;
        let siblings = reading.siblings.into_iter().map(|value| {
            let manifest = Manifest::decode(&value.bytes)
                .ok_or_else(|| LargeReadError::NotLarge { table: self.values.name().to_owned() })?;
            Ok(LargeValue { manifest, parts: self.parts.clone(), written: value.written })
        });
        Ok(LargeReading {
            siblings: siblings.collect::<Result<_, LargeReadError>>()?,
            context: reading.context,
        })
    }
}

impl LargeValue {
    /// In bytes.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// let film = vec![7; 1 << 20];
    /// films.put("cats", &film[..], None).await?;
    /// assert_eq!(films.get("cats").await?.siblings[0].length(), 1 << 20);
    /// # Ok(()) });
    /// ```
    pub fn length(&self) -> u64 {
        self.manifest.length
    }

    /// When its manifest was written.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// let written = films.put("cats", &b"a short film"[..], None).await?;
    /// let first = films.get("cats").await?.siblings[0].written();
    /// films.put("cats", &b"a film"[..], Some(&films.get("cats").await?)).await?;
    /// assert!(films.get("cats").await?.siblings[0].written() > first);
    /// # Ok(()) });
    /// ```
    pub fn written(&self) -> HybridTime {
        self.written
    }

    /// Reads it from its start on.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// let film = vec![7; 1 << 20];
    /// films.put("cats", &film[..], None).await?;
    /// let value = films.get("cats").await?.siblings.remove(0);
    /// // Each reader has its own.
    /// let (mut one, mut other) = (value.parts(), value.parts());
    /// assert_eq!(one.next().await?, other.next().await?);
    /// # Ok(()) });
    /// ```
    pub fn parts(&self) -> Parts {
        let inline = Some(self.manifest.inline.clone()).filter(|bytes| !bytes.is_empty());
        let (manifest, table) = (self.manifest.clone(), self.parts.clone());
        Parts { manifest, table, next: 0, under_way: VecDeque::new(), inline }
    }
}

impl Parts {
    /// The next bytes, at least one; `None` at the end. The next few parts are on their way meanwhile.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// use quoit_client::large::PART_BYTES;
    ///
    /// let film = vec![7; 1 << 20];
    /// films.put("cats", &film[..], None).await?;
    /// let mut parts = films.get("cats").await?.siblings[0].parts();
    /// assert_eq!(parts.next().await?.map(|part| part.len()), Some(PART_BYTES));
    /// assert_eq!(parts.next().await?.map(|part| part.len()), Some(PART_BYTES));
    /// assert_eq!(parts.next().await?, None);
    /// # Ok(()) });
    /// ```
    pub async fn next(&mut self) -> Result<Option<Bytes>, LargeReadError> {
        if let Some(inline) = self.inline.take() {
            return Ok(Some(inline));
        }
        while self.under_way.len() < WINDOW
            && self.next < self.manifest.parts()
            && let Some(upload) = self.manifest.upload
        {
            let key: Key = upload.part(self.next);
            self.under_way.push_back((self.next, self.table.begin_get(key)?));
            self.next += 1;
        }
        let Some((part, begun)) = self.under_way.pop_front() else { return Ok(None) };
        let reading = self.table.end_get(Ok(begun)).await?;
        let value = reading.single().ok_or(LargeReadError::Gone { part })?;
        if value.bytes.len() != self.manifest.part_bytes(part) {
            return Err(LargeReadError::Gone { part });
        }
        Ok(Some(value.bytes.clone()))
    }
}
