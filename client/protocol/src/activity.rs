//! What a node does just now: rates, times, hot keys, large sibling sets, repair under way.
//!
//! Asked for by [`AskActivity`], answered by the node's status, which then has an [`Activity`]. It names
//! keys, so whoever may not read the data should not be shown it.

use bytes::Bytes;
use quoit_ring::{NodeId, TableId, VnodeIndex};
use serde::{Deserialize, Serialize};

use crate::Key;
use crate::status::ExchangeStatus;

/// Asks what the node does just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskActivity {}

/// Of a key's partition key and of its sort key no more than so many bytes are told.
pub const SHOWN_KEY_BYTES_MAX: usize = 128;

/// What a node does just now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Activity {
    /// Keys that were asked for the most of late, the hottest first.
    pub hot_keys: Vec<HotKey>,
    /// The keys with the most siblings that were met of late, the largest first.
    pub large_sets: Vec<LargeSet>,
    /// Exchanges with each peer.
    pub exchanges: Vec<ExchangeStatus>,
    /// What the program around the core measures.
    pub measured: Measured,
    /// The keys of requests that took the longest in the last minute, the longest first.
    #[serde(default)]
    pub slow_keys: Vec<SlowKey>,
}

/// A key that is asked for often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKey {
    /// Which.
    pub key: ShownKey,
    /// Requests a second that this node coordinates, at least: an estimate from a sample.
    pub per_second: u64,
    /// So many of 1,000 of these are writes.
    pub writes_permille: u16,
}

/// A key with several values beside each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeSet {
    /// Which.
    pub key: ShownKey,
    /// Its values.
    pub siblings: u32,
    /// Their bytes.
    pub bytes: u64,
    /// How long ago it was met, in milliseconds.
    pub age_ms: u64,
}

/// A key of which a request took long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowKey {
    /// Which.
    pub key: ShownKey,
    /// Whether it was a write.
    pub is_write: bool,
    /// From its begin at the coordinator to its answer, in microseconds.
    pub took_us: u64,
    /// How long ago it ended, in milliseconds.
    pub age_ms: u64,
}

/// A key as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShownKey {
    /// Its table.
    pub table: TableId,
    /// Where it lies on the ring.
    pub vnode: VnodeIndex,
    /// The key, or what it begins with: at most [`SHOWN_KEY_BYTES_MAX`] of either part.
    pub key: Key,
    /// Whether that is not all of it.
    pub is_cut: bool,
}

impl ShownKey {
    /// What is shown of a key.
    pub fn new(table: TableId, vnode: VnodeIndex, partition: &[u8], sort: &[u8]) -> Self {
        let shown =
            |part: &[u8]| Bytes::copy_from_slice(part.get(..SHOWN_KEY_BYTES_MAX).unwrap_or(part));
        Self {
            table,
            vnode,
            key: Key { partition: shown(partition), sort: shown(sort) },
            is_cut: partition.len().max(sort.len()) > SHOWN_KEY_BYTES_MAX,
        }
    }
}

/// What the program around a node's core measures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// What clients ask, by kind.
    pub operations: Vec<OperationActivity>,
    /// Requests being worked on.
    pub in_flight: u64,
    /// Connected clients.
    pub clients: u32,
    /// Bytes that wait to be sent.
    pub queued_bytes: u64,
    /// The process's memory in bytes; 0: not known.
    pub resident_bytes: u64,
    /// So many of 1,000 parts of the last second the event loop did not wait.
    pub busy_permille: u32,
    /// How long half of the log's syncs took of late, in microseconds.
    pub sync_p50_us: u64,
    /// And 99 of 100.
    pub sync_p99_us: u64,
    /// To each peer and back, in the network, in microseconds.
    pub round_trips_us: Vec<(NodeId, u64)>,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OperationActivity {
    /// `get`, `put`, `delete`, `scan`.
    pub name: String,
    /// Done a second, in the last second.
    pub per_second: u64,
    /// Not done, or not known to be done, in the last second.
    pub failed_per_second: u64,
    /// From the request to the answer, of those of the last five to ten seconds, in microseconds:
    /// half of them took no longer.
    pub p50_us: u64,
    /// And 99 of 100.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_key_is_cut_and_says_so() {
        let long = [b'x'; SHOWN_KEY_BYTES_MAX + 1];
        let shown = ShownKey::new(TableId(1), VnodeIndex(2), &long, b"s");
        assert!(shown.is_cut && shown.key.partition.len() == SHOWN_KEY_BYTES_MAX);
        assert!(!ShownKey::new(TableId(1), VnodeIndex(2), &long[1..], b"s").is_cut);
    }
}
