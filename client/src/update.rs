//! Reading, changing and writing a key until no other writer's value stands beside the own one.

use std::time::Duration;

use bytes::Bytes;
use quoit_ring::ConflictPolicy;

use crate::{IntoKey, ReadError, Reading, Table, Value, WriteError, Written};

/// An update is tried so often.
const ROUNDS_MAX: u32 = 16;
/// The pauses between the rounds are drawn from 0 to a bound, which is this at first and doubles with each
/// round up to the greatest: so that writers who met once do not meet again.
const PAUSE_MS_FIRST: u64 = 1;
const PAUSE_MS_MAX: u64 = 64;

/// What an update makes of a key.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::Change;
///
/// carts.update("alice", |_| Change::Put("3 apples".into())).await?;
/// carts.update("alice", |siblings| if siblings.len() > 1 { Change::Delete } else { Change::Keep }).await?;
/// assert!(!carts.get("alice").await?.is_absent());
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This is written in the place of all that was read.
    Put(Bytes),
    /// All that was read is deleted.
    Delete,
    /// It stays as it is.
    Keep,
}

impl<T: Into<Bytes>> From<T> for Change {
    fn from(value: T) -> Self {
        Self::Put(value.into())
    }
}

/// How an update ended.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::Change;
///
/// let updated = carts.update("alice", |_| Change::Keep).await?;
/// assert_eq!((updated.written, updated.rounds), (None, 1));
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// The write that was made last; `None` where the key was left as it was.
    pub written: Option<Written>,
    /// How often the key was read.
    pub rounds: u32,
}

/// An update that did not come to its end.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{TableOptions, UpdateError};
///
/// let options = TableOptions { replication: 1, ..TableOptions::default() };
/// client.create_table("prices", options).await?;
/// let outcome = client.table("prices").await?.update("apples", |_| "2".into()).await;
/// assert!(matches!(outcome, Err(UpdateError::Latest { .. })));
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Nothing was done: in a `latest` table two updates at a time would see the same value, and one
    /// would be lost without a sign of it. Make the table with the policy `siblings`.
    #[error(
        "not updated: the table {table} keeps only the latest write, so that one of two updates at a time \
         would be lost; updates need a table of siblings"
    )]
    Latest {
        /// The table.
        table: String,
    },
    /// The key could not be read. Nothing of this round was done.
    #[error("not updated: {0}")]
    Read(#[source] ReadError),
    /// The write failed, or its outcome is not known ([`WriteError::is_unknown`]).
    #[error(transparent)]
    Write(WriteError),
    /// Others wrote the key each time between the reading and the writing. The changes are there, as
    /// siblings of theirs: update again, more seldom.
    #[error(
        "written, but beside the values of others, {rounds} times in a row: too many write the key"
    )]
    Contended {
        /// How often it was tried.
        rounds: u32,
    },
}

impl UpdateError {
    /// Whether the change may be done nonetheless, now or later.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// let carts = client.table("carts").await?;
    /// client.close().await;
    /// let error = carts.update("alice", |_| "3 apples".into()).await.unwrap_err();
    /// // It came no further than to the read.
    /// assert!(!error.is_unknown());
    /// # Ok(()) });
    /// ```
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Write(error) if error.is_unknown())
    }
}

/// How long to wait after so many rounds.
fn pause(rounds: u32) -> Duration {
    let most_ms = (PAUSE_MS_FIRST << (rounds - 1).min(16)).min(PAUSE_MS_MAX);
    // Without randomness they may meet again, and that is all.
    let lot = getrandom::u64().unwrap_or(0);
    Duration::from_micros(lot % (most_ms * 1_000 + 1))
}

impl Table {
    /// Reads a key, lets `change` make of its siblings what they shall become, and writes that in
    /// their place. If somebody else wrote the key meanwhile, so that two values stand side by side
    /// now, it begins again, and `change` sees both: so it must be able to merge them, and to be
    /// called more than once.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// // A counter: each writer's part may be lost to nobody.
    /// for _ in 0..3 {
    ///     carts
    ///         .update("visits", |siblings| {
    ///             let read = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    ///             let most = siblings.iter().filter_map(|it| read(&it.bytes)).max().unwrap_or(0);
    ///             (most + 1).to_string().into()
    ///         })
    ///         .await?;
    /// }
    /// assert_eq!(carts.get("visits").await?.single().unwrap().bytes, "3");
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// See [`UpdateError`]. Nothing is lost by any of them.
    pub async fn update(
        &self,
        key: impl IntoKey,
        mut change: impl FnMut(&[Value]) -> Change,
    ) -> Result<Updated, UpdateError> {
        let key = key.into_key();
        if self.definition().options.policy == ConflictPolicy::Latest {
            return Err(UpdateError::Latest { table: self.name().to_owned() });
        }
        for rounds in 1..=ROUNDS_MAX {
            let Reading { mut siblings, context, .. } =
                self.get(key.clone()).await.map_err(UpdateError::Read)?;
            siblings.sort_by_key(|value| value.written);
            let value = match change(&siblings) {
                Change::Put(value) => Some(value),
                Change::Delete => None,
                Change::Keep => return Ok(Updated { written: None, rounds }),
            };
            let written = match value {
                Some(value) => self.put(key.clone(), value, &context).await,
                None => self.delete(key.clone(), &context).await,
            };
            let written = written.map_err(UpdateError::Write)?;
            // A write that stands alone gives a context that covers it.
            if written.context != context {
                return Ok(Updated { written: Some(written), rounds });
            }
            tokio::time::sleep(pause(rounds)).await;
        }
        Err(UpdateError::Contended { rounds: ROUNDS_MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        for rounds in 1..=ROUNDS_MAX {
            let most_ms = PAUSE_MS_MAX.min(1 << (rounds - 1));
            for _ in 0..50 {
                assert!(pause(rounds) <= Duration::from_millis(most_ms), "{rounds}");
            }
        }
    }
}
