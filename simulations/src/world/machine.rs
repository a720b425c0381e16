//! A machine: clocks, disk, tables, and the process that runs on it, or not.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quoit_core::{Instant, NodeCore, Now};
use quoit_ring::{HybridTime, VnodeIndex, WallTime};
use quoit_storage::twin::disk::TwinDisk;
use quoit_storage::twin::engine::TwinTables;
use quoit_storage::version::BUCKET_MS_BITS;

use super::Event;
use super::storage::Worker;
use crate::plan;

/// When the world begins, by a clock that is right: a bucket of the digests ends soon after, so that
/// time is settled and what was deleted is collected in a run of half a minute.
const BORN_MS: u64 = (1_621_247 << BUCKET_MS_BITS) - 5_000;
const MILLION: i128 = 1_000_000;

/// A copy of a disk that was put aside.
pub(crate) struct Copy {
    pub(crate) disk: TwinDisk,
    pub(crate) tables: TwinTables,
}

pub(crate) struct Machine {
    pub(crate) plan: plan::Machine,
    pub(crate) disk: TwinDisk,
    pub(crate) tables: TwinTables,
    pub(crate) copy: Option<Copy>,
    /// What jumps have come to.
    pub(crate) jumped_ms: i64,
    /// While it strobes: by how much.
    pub(crate) strobe_ms: i64,
    pub(crate) more_sync_us: u64,
    pub(crate) paused_until_us: u64,
    /// What came meanwhile, in its order.
    pub(crate) held: VecDeque<Event>,
    pub(crate) starts: u64,
    /// Reasons to be down: it starts when there are none.
    pub(crate) down: u32,
    /// The power goes within the next commit.
    pub(crate) tears: bool,
    /// Whether parts of what it had were damaged, or taken away behind its back.
    pub(crate) is_damaged: bool,
    pub(crate) is_robbed: bool,
    /// When that was last done.
    pub(crate) robbed_us: Option<u64>,
    /// What its store said is durable, by key: the set's bytes.
    pub(crate) durable: BTreeMap<Bytes, Bytes>,
    /// The floors that it had raised.
    pub(crate) floors: BTreeMap<VnodeIndex, HybridTime>,
    pub(crate) process: Option<Process>,
}

pub(crate) struct Process {
    pub(crate) core: NodeCore,
    pub(crate) worker: Worker,
    pub(crate) life: u64,
    pub(crate) tick_at: Option<u64>,
    /// So many hints were there at the start.
    pub(crate) hints_recovered: u64,
}

impl Machine {
    pub(crate) fn new(plan: plan::Machine, disk_seed: u64) -> Self {
        Self {
            plan,
            disk: TwinDisk::new(disk_seed),
            tables: TwinTables::new(),
            copy: None,
            jumped_ms: 0,
            strobe_ms: 0,
            more_sync_us: 0,
            paused_until_us: 0,
            held: VecDeque::new(),
            starts: 0,
            down: 0,
            tears: false,
            is_damaged: false,
            is_robbed: false,
            robbed_us: None,
            durable: BTreeMap::new(),
            floors: BTreeMap::new(),
            process: None,
        }
    }

    /// Whether requests to its storage wait.
    pub(crate) fn is_behind(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.worker.is_behind())
    }

    /// What the clocks say at a moment of the world's time. The monotonic one drifts, but never
    /// runs backwards; the wall clock jumps as well.
    pub(crate) fn now(&self, at_us: u64) -> Now {
        let drifted = at_us as i128 * (MILLION + self.plan.drift_ppm as i128) / MILLION;
        let local_us = u64::try_from(drifted).expect("time is positive");
        let strobe_ms = if (at_us / 10_000).is_multiple_of(2) { 0 } else { self.strobe_ms };
        let off_ms = self.plan.offset_ms + self.jumped_ms + strobe_ms;
        let wall = (BORN_MS + local_us / 1_000).saturating_add_signed(off_ms);
        Now { instant: Instant(local_us), wall: WallTime(wall) }
    }

    /// The world's moment at which the monotonic clock says so.
    pub(crate) fn when(&self, instant: Instant) -> u64 {
        let rate = MILLION + self.plan.drift_ppm as i128;
        let at_us = (instant.0 as i128 * MILLION + rate - 1) / rate;
        u64::try_from(at_us).unwrap_or(u64::MAX)
    }
}
