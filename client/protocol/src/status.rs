//! What a node tells about itself and about what it sees.

use quoit_ring::{Epoch, HybridTime, NodeId, TableId, VnodeIndex};
use serde::{Deserialize, Serialize};

use crate::activity::Activity;

/// One node's own state, and its view of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Who answers.
    pub node: NodeId,
    /// What it does: `starting`, `serving`, `degraded`, `stopping`.
    pub state: String,
    /// What is wrong, for people; empty where all is well.
    pub problems: Vec<String>,
    /// The version of the cluster record that it follows.
    pub epoch: Epoch,
    /// How often this node was started.
    pub boot_count: u64,
    /// For how long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// The program's version.
    pub version: String,
    /// Its view of every member, itself included, ascending by id.
    pub members: Vec<MemberStatus>,
    /// What each table holds on this node.
    pub tables: Vec<TableStatus>,
    /// Storage figures.
    pub storage: StorageStatus,
    /// Requests since the start, by name.
    pub counters: Vec<(String, u64)>,
    /// Greater after each loss of what the node held; 0 before it has met the others.
    #[serde(default)]
    pub incarnation: u64,
    /// Of so many virtual nodes it is a replica.
    #[serde(default)]
    pub replica_vnodes: u32,
    /// In so many of these it does not count until it has been filled by the others.
    #[serde(default)]
    pub recovering_vnodes: u32,
    /// What other nodes missed and this one keeps for them.
    #[serde(default)]
    pub hints: Vec<HintStatus>,
    /// What verifying all that is held has come to.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// How far replicas were compared, where that was asked.
    #[serde(default)]
    pub repair: Option<RepairStatus>,
    /// What the node does just now, where that was asked.
    #[serde(default)]
    pub activity: Option<Box<Activity>>,
}

/// What verifying all that is held has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// When the pass began, in milliseconds since 1970; 0: none has.
    pub began_ms: u64,
    /// When the last one ended; 0: none has.
    pub ended_ms: u64,
    /// How far the pass is, of 1,000.
    pub permille: u32,
    /// Bytes that it has read, since the node was started.
    pub bytes: u64,
    /// About how many bytes there are.
    pub total_bytes: u64,
    /// Damaged keys found since the node was started.
    pub damaged: u64,
    /// Those that are whole again.
    pub mended: u64,
    /// Those that are not.
    pub waiting: u64,
    /// Where this pass has found damage that hides keys: so many stretches of the key space.
    pub hidden: u32,
    /// Keys of dropped tables that were taken out since the node was started.
    pub dropped: u64,
}

/// What waits for a node that missed writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintStatus {
    /// The node.
    pub target: NodeId,
    /// Whether the keeper, being no replica of the keys, holds the writes themselves in the node's
    /// place (of sloppy tables); otherwise it notes only which keys it is to bring.
    pub is_data: bool,
    /// Keys of which it missed writes; one that is written again while it is brought over counts twice.
    pub number: u64,
    /// Bytes of the hints (not of the keys' values).
    pub bytes: u64,
    /// The age of the oldest, in milliseconds.
    pub oldest_ms: u64,
    /// Delivered a second, of late.
    pub per_second: u64,
}

/// How far a node's replicas were compared with the others'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// The node's hybrid time: what is asked for now is done where all is in sync as of this.
    pub time: HybridTime,
    /// Exchanges with each of the others.
    pub peers: Vec<ExchangeStatus>,
    /// Each of its virtual nodes, by replication factor.
    pub vnodes: Vec<VnodeRepair>,
}

/// Exchanges with one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeStatus {
    /// The peer.
    pub peer: NodeId,
    /// When the last one ended; zero if none has.
    pub ended: HybridTime,
    /// Why the last one failed.
    pub failure: Option<String>,
    /// The one under way.
    pub running: Option<RunningExchange>,
}

/// An exchange under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningExchange {
    /// When it began.
    pub began: HybridTime,
    /// Virtual nodes (of each replication factor) that it has to compare.
    pub vnodes: u32,
    /// Of which so many are left.
    pub left: u32,
    /// Keys that it has moved, both ways.
    pub keys: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far one virtual node was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VnodeRepair {
    /// The virtual node.
    pub vnode: VnodeIndex,
    /// N of the tables that this is about.
    pub replication: u8,
    /// Each of the other replicas, and since when all that it had held is durable here; zero: it is not
    /// known to be since this node was started.
    pub in_sync: Vec<(NodeId, HybridTime)>,
    /// Whether this replica counts.
    pub is_trusted: bool,
}

/// How one node sees a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The member.
    pub node: NodeId,
    /// Whether it seems to be up.
    pub up: bool,
    /// Its wall clock's distance from the observer's, in milliseconds.
    pub clock_offset_ms: i64,
}

/// What one node holds of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// The table.
    pub table: TableId,
    /// Keys with at least one live value.
    pub live_keys: u64,
    /// Keys with nothing but tombstones.
    pub tombstones: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Figures of the storage layer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StorageStatus {
    /// Bytes of table files.
    pub disk_bytes: u64,
    /// Bytes in memory, not flushed yet.
    pub memory_bytes: u64,
    /// The last record of the commit log.
    pub log_sequence: u64,
    /// Records that could not be read since the start.
    pub unreadable: u64,
}
