//! Values of any length, streamed in parts.
//!
//! A value over the cluster's limit (4 MiB) does not travel in one piece, and one of hundreds of
//! megabytes should not lie in one program's memory. [`LargeValues`] cuts what a reader yields into parts
//! of 512 KiB, writes each under a key of its own (so that they spread over the ring), and then writes
//! under the value's key a short manifest that names them. The manifest is an ordinary value: it has
//! siblings and contexts, and is there with all its parts or not at all. GridFS and Astyanax's chunked
//! storage do the same on MongoDB and Cassandra.
//!
//! # What is promised
//! - A value is seen once its manifest is written, which is after all its parts were acknowledged at the
//!   parts table's write level. Each part's checksum is judged when it is read.
//! - What is replaced or deleted through here loses its parts right after. A reader that is at it then is
//!   told ([`LargeReadError::Gone`]) and reads the key again; so is one at a low level that still found
//!   the old manifest.
//! - Parts of which no manifest knows, because a writer died, or because somebody wrote over a manifest
//!   without having read it, cost space until [`LargeValues::sweep`] finds them.

mod manifest;
mod reading;
mod sweep;
mod writing;

pub use reading::{LargeReadError, LargeReading, LargeValue, Parts};
pub use sweep::{SweepError, Swept};
pub use writing::LargeWriteError;

use quoit_ring::ConflictPolicy;

use crate::Table;

/// How long a part is, but for the last.
///
/// ```
/// assert_eq!(quoit_client::large::PART_BYTES, 512 * 1024);
/// ```
pub const PART_BYTES: usize = 512 << 10;
/// So many parts are on their way at once, each way.
const WINDOW: usize = 4;

/// A table of values of any length, and the table of their parts.
///
/// ```
/// # quoit_sandbox::with_large_values(async |films| {
/// # std::fs::write("cats.mp4", vec![7; 1 << 20])?;
/// let file = tokio::fs::File::open("cats.mp4").await?;
/// films.put("cats", file, None).await?;
/// for value in films.get("cats").await?.siblings {
///     let (mut parts, mut length) = (value.parts(), 0);
///     while let Some(bytes) = parts.next().await? {
///         length += bytes.len() as u64;
///     }
///     assert_eq!(length, value.length());
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct LargeValues {
    values: Table,
    parts: Table,
}

/// Tables that cannot hold large values together.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::large::{LargeTablesError, LargeValues};
///
/// let error = LargeValues::new(carts.clone(), carts).unwrap_err();
/// assert!(matches!(error, LargeTablesError::Same { .. }));
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LargeTablesError {
    /// Sweeping would take one's values for the other's parts.
    #[error(
        "{table} cannot be the table of the values and of their parts: make a table for the parts"
    )]
    Same {
        /// The table.
        table: String,
    },
    /// A part is written once and never changed, so siblings of it would only be a burden.
    #[error("{table} keeps siblings: make the table of the parts with the policy `latest`")]
    Siblings {
        /// The table.
        table: String,
    },
}

impl LargeValues {
    /// Values under the keys of `values` (of either policy), their parts in `parts`, a table of the policy
    /// `latest` in which nothing else is.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::TableOptions;
    /// use quoit_client::large::LargeValues;
    ///
    /// let options = TableOptions { replication: 1, ..TableOptions::default() };
    /// client.create_table("parts", options).await?;
    /// let films = LargeValues::new(client.table("carts").await?, client.table("parts").await?)?;
    /// assert!(films.get("cats").await?.siblings.is_empty());
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// If the tables are one, or `parts` keeps siblings.
    pub fn new(values: Table, parts: Table) -> Result<Self, LargeTablesError> {
        let table = parts.name().to_owned();
        if parts.definition().id == values.definition().id {
            return Err(LargeTablesError::Same { table });
        }
        match parts.definition().options.policy {
            ConflictPolicy::Siblings => Err(LargeTablesError::Siblings { table }),
            // A part that is written twice is the same part.
            ConflictPolicy::Latest => Ok(Self { values, parts: parts.idempotent(true) }),
        }
    }
}
