//! What may go wrong.

use serde::{Deserialize, Serialize};

/// A fault and its moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedFault {
    /// When, in milliseconds after the cluster was formed.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// A fault. Nodes are counted from 0 here; what lasts ends after `for_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are said in the variants' sentences")]
pub enum Fault {
    /// A process ends; with `power` what was not synced may be lost. It starts again later.
    Crash { node: u32, power: bool, for_ms: u64 },
    /// The power goes in the middle of the next commit, after so many calls of the disk.
    Tear { node: u32, operations: u64, for_ms: u64 },
    /// A process stands still; its connections stay.
    Pause { node: u32, for_ms: u64 },
    /// A node is cut off from the others.
    Isolate { node: u32, for_ms: u64 },
    /// The nodes are split into these and the others.
    Split { side: Vec<u32>, for_ms: u64 },
    /// The zones do not reach each other.
    SplitZones { for_ms: u64 },
    /// Each node reaches only its two neighbours.
    Ring { for_ms: u64 },
    /// Two halves reach only one node in common.
    Bridge { node: u32, for_ms: u64 },
    /// What one says does not reach the other.
    OneWay { from: u32, to: u32, for_ms: u64 },
    /// The connections between two nodes break, and are made again.
    Break { one: u32, two: u32 },
    /// Nothing passes between two nodes for a while; then all of it comes.
    Clog { one: u32, two: u32, for_ms: u64 },
    /// Merges that one had sent to the other, and the other had taken in, come once more: write-backs
    /// of a coordinator that stood still.
    Echo { from: u32, to: u32 },
    /// Messages between two nodes take so much longer.
    Slow { one: u32, two: u32, more_us: u64, for_ms: u64 },
    /// Clients lose a node and do not reach it.
    CutClients { node: u32, for_ms: u64 },
    /// A wall clock jumps.
    JumpClock { node: u32, by_ms: i64 },
    /// A wall clock jumps to and fro.
    StrobeClock { node: u32, by_ms: i64, for_ms: u64 },
    /// A disk has no room left.
    FillDisk { node: u32, for_ms: u64 },
    /// Fsyncs take so much longer.
    SlowDisk { node: u32, more_us: u64, for_ms: u64 },
    /// The next writes to a disk fail; its node is started again after that.
    FailWrites { node: u32, count: u64, for_ms: u64 },
    /// The next fsyncs fail; its node is started again after that.
    FailSyncs { node: u32, count: u64, for_ms: u64 },
    /// The next reads of a disk fail.
    FailReads { node: u32, count: u64 },
    /// The next flushes of the tables fail.
    FailFlushes { node: u32, count: u32 },
    /// The tables' memory is flushed.
    Flush { node: u32 },
    /// What the tables hold of a key becomes unreadable.
    RotTable { node: u32, table: u32, key: u32 },
    /// The tables give one key's bytes for another's.
    Misplace { node: u32, table: u32, key: u32 },
    /// A bit of the log flips: how far into it, by thousandths.
    RotLog { node: u32, permille: u64, bit: u8 },
    /// A copy of the disk is put aside.
    Copy { node: u32 },
    /// The copy is put back.
    Restore { node: u32, for_ms: u64 },
    /// The disk is wiped.
    Wipe { node: u32, for_ms: u64 },
    /// A node hears from gossip that another is alive or dead, rightly or not.
    Rumour { node: u32, about: u32, alive: bool },
}

impl Fault {
    /// Its kind, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash { power: false, .. } => "crash",
            Self::Crash { power: true, .. } => "power cut",
            Self::Tear { .. } => "power cut in a commit",
            Self::Pause { .. } => "pause",
            Self::Isolate { .. } => "isolation",
            Self::Split { .. } => "split",
            Self::SplitZones { .. } => "split of zones",
            Self::Ring { .. } => "ring partition",
            Self::Bridge { .. } => "bridge partition",
            Self::OneWay { .. } => "one-way block",
            Self::Break { .. } => "broken connection",
            Self::Clog { .. } => "clogged link",
            Self::Echo { .. } => "late merges",
            Self::Slow { .. } => "slow link",
            Self::CutClients { .. } => "clients cut off",
            Self::JumpClock { .. } => "clock jump",
            Self::StrobeClock { .. } => "clock strobe",
            Self::FillDisk { .. } => "full disk",
            Self::SlowDisk { .. } => "slow disk",
            Self::FailWrites { .. } => "write errors",
            Self::FailSyncs { .. } => "fsync errors",
            Self::FailReads { .. } => "read errors",
            Self::FailFlushes { .. } => "failed flush",
            Self::Flush { .. } => "flush",
            Self::RotTable { .. } => "rot in a table",
            Self::Misplace { .. } => "misplaced read",
            Self::RotLog { .. } => "rot in the log",
            Self::Copy { .. } => "copy of a disk",
            Self::Restore { .. } => "old copy restored",
            Self::Wipe { .. } => "wiped disk",
            Self::Rumour { .. } => "rumour",
        }
    }

    /// How long it lasts; 0 where it is over at once.
    pub fn for_ms(&self) -> u64 {
        match *self {
            Self::Crash { for_ms, .. }
            | Self::Tear { for_ms, .. }
            | Self::Pause { for_ms, .. }
            | Self::Isolate { for_ms, .. }
            | Self::Split { for_ms, .. }
            | Self::SplitZones { for_ms }
            | Self::Ring { for_ms }
            | Self::Bridge { for_ms, .. }
            | Self::OneWay { for_ms, .. }
            | Self::Clog { for_ms, .. }
            | Self::Slow { for_ms, .. }
            | Self::CutClients { for_ms, .. }
            | Self::StrobeClock { for_ms, .. }
            | Self::FillDisk { for_ms, .. }
            | Self::SlowDisk { for_ms, .. }
            | Self::FailWrites { for_ms, .. }
            | Self::FailSyncs { for_ms, .. }
            | Self::Restore { for_ms, .. }
            | Self::Wipe { for_ms, .. } => for_ms,
            Self::Break { .. }
            | Self::Echo { .. }
            | Self::JumpClock { .. }
            | Self::FailReads { .. }
            | Self::FailFlushes { .. }
            | Self::Flush { .. }
            | Self::RotTable { .. }
            | Self::Misplace { .. }
            | Self::RotLog { .. }
            | Self::Copy { .. }
            | Self::Rumour { .. } => 0,
        }
    }

    /// Whether a disk holds less, or other, than it was given, for ever.
    pub fn lasts_on_disk(&self) -> bool {
        matches!(
            self,
            Self::FailWrites { .. }
                | Self::RotTable { .. }
                | Self::Misplace { .. }
                | Self::RotLog { .. }
                | Self::Copy { .. }
                | Self::Restore { .. }
                | Self::Wipe { .. }
        )
    }

    /// Whether every node goes on and hears of all others all the time, and every disk keeps what it
    /// was given.
    pub fn leaves_others_alone(&self) -> bool {
        matches!(
            self,
            Self::Slow { .. }
                | Self::Echo { .. }
                | Self::CutClients { .. }
                | Self::SlowDisk { .. }
                | Self::FailReads { .. }
                | Self::FailFlushes { .. }
                | Self::Flush { .. }
                | Self::Rumour { .. }
        )
    }

    /// The greatest number of a node that it names, for who takes nodes away.
    pub fn greatest_node(&self) -> u32 {
        match self {
            Self::Split { side, .. } => side.iter().copied().max().unwrap_or(0),
            Self::SplitZones { .. } | Self::Ring { .. } => 0,
            Self::OneWay { from: one, to: two, .. }
            | Self::Echo { from: one, to: two }
            | Self::Break { one, two }
            | Self::Clog { one, two, .. }
            | Self::Slow { one, two, .. }
            | Self::Rumour { node: one, about: two, .. } => *one.max(two),
            Self::Crash { node, .. }
            | Self::Tear { node, .. }
            | Self::Pause { node, .. }
            | Self::Isolate { node, .. }
            | Self::Bridge { node, .. }
            | Self::CutClients { node, .. }
            | Self::JumpClock { node, .. }
            | Self::StrobeClock { node, .. }
            | Self::FillDisk { node, .. }
            | Self::SlowDisk { node, .. }
            | Self::FailWrites { node, .. }
            | Self::FailSyncs { node, .. }
            | Self::FailReads { node, .. }
            | Self::FailFlushes { node, .. }
            | Self::Flush { node }
            | Self::RotTable { node, .. }
            | Self::Misplace { node, .. }
            | Self::RotLog { node, .. }
            | Self::Copy { node }
            | Self::Restore { node, .. }
            | Self::Wipe { node, .. } => *node,
        }
    }
}
