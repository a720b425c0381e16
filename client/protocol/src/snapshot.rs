//! Snapshots of what nodes hold: asked of each node on its own.

use quoit_ring::NodeId;
use serde::{Deserialize, Serialize};

/// Asks a node to make, list or delete snapshots of what it holds. Answered by [`NodeSnapshots`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskSnapshots {
    /// What is asked.
    pub action: SnapshotAction,
}

/// What is done with a node's snapshots, before they are listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotAction {
    /// Nothing.
    List,
    /// One is begun; the list tells when it is made.
    Create {
        /// Its name.
        name: String,
    },
    /// One is deleted.
    Delete {
        /// Its name.
        name: String,
    },
}

/// The snapshots that lie on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSnapshots {
    /// The node.
    pub node: NodeId,
    /// Where they lie, on its host.
    pub directory: String,
    /// Bytes that are free there.
    pub free_bytes: u64,
    /// All of them, ascending by name.
    pub snapshots: Vec<SnapshotInfo>,
}

/// One snapshot of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Whether it may be used.
    pub state: SnapshotState,
    /// When it was made, by the node's own clock, in milliseconds since 1970; 0 where that is not known.
    pub made_ms: u64,
    /// How long that took, in milliseconds, where it was made since the node's start; otherwise 0.
    pub took_ms: u64,
    /// Its files.
    pub files: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that are kept for it alone: what deleting it frees.
    pub own_bytes: u64,
}

/// How far a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotState {
    /// It is being made.
    Making,
    /// It is whole and durable.
    Whole,
    /// It could not be made; nothing is left of it. For people: why.
    Failed(String),
    /// It lies there, but cannot be read. For people: why.
    Damaged(String),
}
