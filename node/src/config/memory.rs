//! `[limits] memory_mib`: one setting from which the bounds of all that grows follow.
//!
//! The shares are of what each may hold at most, all at the same time. What is left is the program
//! itself, what the allocator keeps, and the operations under way, which `in_flight_max` bounds in number.

use quoit_protocol::frame::{BODY_BYTES_MAX, HEADER_BYTES};

/// Less is too little for the largest frames and a table's memory.
pub(super) const MIB_MIN: i64 = 64;
/// A table's memory that is being filled, and those that wait for a flush: with more, writers halt.
const TABLES_IN_MEMORY: u64 = 5;

/// The bounds of what a node holds in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBounds {
    /// All of it, where that is set.
    pub limit: Option<u64>,
    /// A table's memory, before it is flushed.
    pub memtable: u64,
    /// The cache of table blocks.
    pub block_cache: u64,
    /// The dots of what keys hold.
    pub heads: u64,
    /// What waits for one receiver.
    pub queued: usize,
    /// What waits for all of them.
    pub queued_total: usize,
    /// What came from clients and was not taken up; and again as much from peers.
    pub inbound: usize,
    /// Large frames that are half read.
    pub large: usize,
    /// What waits to be written to the log.
    pub waiting_writes: usize,
}

impl MemoryBounds {
    /// The bounds where none is set for all.
    pub(super) fn usual() -> Self {
        Self {
            limit: None,
            memtable: 32 << 20,
            block_cache: 128 << 20,
            heads: 64 << 20,
            queued: 64 << 20,
            queued_total: 1 << 30,
            inbound: 64 << 20,
            large: 256 << 20,
            waiting_writes: 128 << 20,
        }
    }

    /// The bounds that together stay within `limit`.
    pub(super) fn within(limit: u64) -> Self {
        let usual = Self::usual();
        let share = |part: u64| usize::try_from(limit / part).unwrap_or(usize::MAX);
        let frame = BODY_BYTES_MAX + HEADER_BYTES;
        Self {
            limit: Some(limit),
            memtable: whole_mib(limit / 16 / TABLES_IN_MEMORY * 4).clamp(1 << 20, usual.memtable),
            block_cache: whole_mib(limit / 8).max(1 << 20),
            heads: whole_mib(limit / 32).clamp(1 << 20, usual.heads),
            queued: share(32).min(usual.queued),
            queued_total: share(16).min(usual.queued_total),
            inbound: share(16).max(frame).min(usual.inbound),
            large: share(8).max(frame).min(usual.large),
            waiting_writes: share(8).min(usual.waiting_writes),
        }
    }

    /// Whether caches and tables' memories of these sizes leave room for all else.
    pub(super) fn has_room_for(&self, memtable: u64, caches: u64) -> bool {
        let tables = TABLES_IN_MEMORY.saturating_mul(memtable);
        self.limit.is_none_or(|limit| tables.saturating_add(caches) <= limit / 2)
    }
}

/// The settings' unit.
fn whole_mib(bytes: u64) -> u64 {
    bytes >> 20 << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bounds_together_stay_within_the_setting() {
        for mib in [160, 256, 1_024, 65_536] {
            let bounds = MemoryBounds::within(mib << 20);
            let all = TABLES_IN_MEMORY * bounds.memtable
                + bounds.block_cache
                + bounds.heads
                + (bounds.queued_total + 2 * bounds.inbound + bounds.large + bounds.waiting_writes)
                    as u64;
            assert!(all <= mib << 20, "{mib} MiB: {bounds:?} are {} MiB", all >> 20);
            let caches = bounds.block_cache + bounds.heads;
            assert!(bounds.has_room_for(bounds.memtable, caches), "{bounds:?}");
            assert!(!bounds.has_room_for(mib << 20, 0));
        }
        // Less than that holds as long as nobody sends the largest frames.
        let least = MemoryBounds::within(64 << 20);
        assert!(least.memtable >= 1 << 20 && least.block_cache == 8 << 20, "{least:?}");
        assert!(MemoryBounds::usual().has_room_for(u64::MAX, 0));
    }
}
