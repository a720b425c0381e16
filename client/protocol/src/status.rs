//! What a node tells about itself and about what it sees.

use quoit_ring::{Epoch, NodeId, TableId};
use serde::{Deserialize, Serialize};

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
