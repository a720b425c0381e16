//! Parts of which no manifest knows.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::LargeValues;
use super::manifest::{Manifest, UploadId};
use crate::{Context, ReadError, WriteError};

/// What a sweep found.
///
/// ```
/// # quoit_sandbox::with_large_values(async |films| {
/// use quoit_client::large::Swept;
/// use std::time::Duration;
///
/// assert_eq!(films.sweep(Duration::from_secs(86_400)).await?, Swept { parts: 0, deleted: 0 });
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Parts that were there.
    pub parts: u64,
    /// Parts that were deleted.
    pub deleted: u64,
}

/// A sweep that did not come to its end; it may be begun again.
///
/// ```
/// use quoit_client::ReadError;
/// use quoit_client::large::SweepError;
///
/// let error = SweepError::from(ReadError::Closed);
/// assert!(error.to_string().starts_with("the tables could not be read to their ends: "));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// A table could not be read.
    #[error("the tables could not be read to their ends: {0}")]
    Read(#[from] ReadError),
    /// A part could not be deleted.
    #[error("a part could not be deleted: {0}")]
    Write(#[from] WriteError),
}

impl LargeValues {
    /// Deletes the parts of which no manifest knows and that were written longer than `older_than` ago by
    /// this machine's clock. It must be longer than any upload takes (a day, say): the parts of one that is
    /// under way have no manifest yet. Reads both tables, and keeps 16 bytes a value in memory.
    ///
    /// ```
    /// # quoit_sandbox::with_large_values(async |films| {
    /// use quoit_client::large::Swept;
    /// use std::time::Duration;
    ///
    /// let film = vec![7; 1 << 20];
    /// films.put("cats", &film[..], None).await?;
    /// // Nothing is lost of what has a manifest, however old it is.
    /// assert_eq!(films.sweep(Duration::ZERO).await?, Swept { parts: 2, deleted: 0 });
    /// # Ok(()) });
    /// ```
    pub async fn sweep(&self, older_than: Duration) -> Result<Swept, SweepError> {
        // The age is judged by a moment before the manifests are read: what is older has its manifest by
        // then, or never.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = now.saturating_sub(older_than).as_millis();
        let mut known: BTreeSet<UploadId> = BTreeSet::new();
        let mut values = self.values.export();
        while let Some(items) = values.next().await? {
            let siblings = items.iter().flat_map(|item| &item.siblings);
            let manifests = siblings.filter_map(|value| Manifest::decode(&value.bytes));
            known.extend(manifests.filter_map(|manifest| manifest.upload));
        }
        let mut swept = Swept::default();
        let mut parts = self.parts.export();
        while let Some(items) = parts.next().await? {
            for item in items {
                let Some(upload) = UploadId::of_part(&item.key) else { continue };
                swept.parts += 1;
                let written = |at: u64| u128::from(at) < before;
                let is_old = item.siblings.iter().all(|value| written(value.written.wall().0));
                if is_old && !known.contains(&upload) {
                    self.parts.delete(&item.key, &Context::none()).await?;
                    swept.deleted += 1;
                }
            }
        }
        Ok(swept)
    }
}
