//! The sorted tables, as this crate needs them: ordered keys, point reads, ranges, and a flush
//! that tells how far the commit log may be cut.
//!
//! The commit log comes first: what is inserted here was made durable there, so an engine needs no
//! log of its own. After a crash it holds everything up to some sequence that it had flushed
//! ([`Engine::persisted_sequence`]), maybe more, and the log's later records are inserted again.
//! Insertion is idempotent: the same key and value, again.

use bytes::Bytes;

/// The number of a record in the commit log, from 1; 0 stands for "nothing yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

/// Why the sorted tables did not answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Stored bytes are damaged: what lies under the key (or in the range) cannot be known from
    /// this replica. Nothing changed; other keys may well be readable.
    #[error("the sorted tables are damaged: {0}")]
    Damaged(String),
    /// The disk failed in a way that says nothing of the stored bytes. A reader may try again; a
    /// writer must stop.
    #[error("the sorted tables cannot be reached: {0}")]
    Io(String),
}

/// One change to the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key's bytes (see [`crate::layout`]).
    pub key: Bytes,
    /// The value, or `None` to take the key out.
    pub value: Option<Bytes>,
}

/// Sorted tables. Readers and the single writer share one by reference; every method may be called
/// from any thread, but `insert` from one at a time.
pub trait Engine: Send + Sync {
    /// The value last inserted under `key` and published.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Calls `visit(key, value)` for the keys from `from` (included) up to `to` (excluded;
    /// everything after `from` where `None`) in ascending order until it returns `false`. Reads
    /// one published state throughout. An entry that cannot be read is `visit`ed as an error, after
    /// which the scan ends.
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Result<(Bytes, Bytes), EngineError>) -> bool,
    );

    /// Inserts changes, all of which are durable in the log up to `sequence`, and publishes them
    /// together: a reader sees all of them or none.
    fn insert(&self, changes: Vec<Change>, sequence: Sequence) -> Result<(), EngineError>;

    /// Bytes in the memory that inserts go to; what [`Engine::rotate`] has closed does not count.
    fn memory_bytes(&self) -> u64;

    /// Closes what is in memory for a flush: later inserts go to new memory. Call it between
    /// inserts. Returns the sequence of the last insert that it closed, or `None` if memory was empty.
    fn rotate(&self) -> Option<Sequence>;

    /// Writes what was closed by [`Engine::rotate`] to the disk and makes it durable. Slow; from a
    /// maintenance thread. Returns the new persisted sequence.
    fn flush(&self) -> Result<Sequence, EngineError>;

    /// One round of compaction, if any is due. Slow; from a maintenance thread.
    fn compact(&self) -> Result<(), EngineError>;

    /// All inserts up to this sequence are durable in the tables: the log before it can go.
    fn persisted_sequence(&self) -> Sequence;

    /// How the writer should go on, so that flushes and compactions keep up.
    fn pressure(&self) -> Pressure;

    /// Bytes on disk, and an estimate of the number of keys.
    fn size(&self) -> EngineSize;
}

/// Whether the tables keep up with the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Go on.
    None,
    /// Slow down: wait about a millisecond between batches.
    Slow,
    /// Stop until maintenance has caught up.
    Halt,
}

/// How much the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineSize {
    /// Bytes of table files.
    pub disk_bytes: u64,
    /// Entries, not exact: replaced ones may be counted until compaction.
    pub keys_estimate: u64,
}
