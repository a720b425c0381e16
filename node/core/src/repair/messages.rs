//! What two replicas say to each other in an exchange (see [`super::anti_entropy`]). Whoever answers
//! remembers nothing: each request says all that it needs.

use bytes::Bytes;
use quoit_ring::{Epoch, HybridTime, VnodeIndex};
use serde::{Deserialize, Serialize};

use crate::peer::{Refusal, WireSet};

/// What every request of an exchange begins with. Both must follow one version of the record: which
/// virtual nodes they share follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairHead {
    /// The version.
    pub epoch: Epoch,
    /// N: tables of one replication factor are compared at a time.
    pub replication: u8,
    /// The asker's hybrid time.
    pub time: HybridTime,
    /// How long the answer is worth anything, in milliseconds.
    pub deadline_ms: u32,
}

/// Compares the roots of virtual nodes that both are replicas of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareRoots {
    /// Common fields.
    pub head: RepairHead,
    /// Where in the list of shared virtual nodes, ascending, the first of these lies.
    pub first: u32,
    /// Floors and roots, one for each virtual node.
    pub roots: Vec<(HybridTime, u64)>,
}

/// The answer: which of them differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootsCompared {
    /// The replica's hybrid time.
    pub time: HybridTime,
    /// How they compare.
    pub result: Result<DifferingRoots, Refusal>,
}

/// How roots compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferingRoots {
    /// Positions of those that differ, each with the floor under which to look further.
    pub differ: Vec<(u32, HybridTime)>,
    /// Positions of those that the replica does not vouch for.
    pub distrusted: Vec<u32>,
}

/// Compares nodes of a virtual node's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareNodes {
    /// Common fields.
    pub head: RepairHead,
    /// The virtual node.
    pub vnode: VnodeIndex,
    /// What may be collected under it does not count.
    pub floor: HybridTime,
    /// 0 is the root's.
    pub depth: u8,
    /// The nodes and their hashes.
    pub nodes: Vec<(u32, u64)>,
}

/// The answer: which of them differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesCompared {
    /// The replica's hybrid time.
    pub time: HybridTime,
    /// The nodes.
    pub result: Result<Vec<u32>, Refusal>,
}

/// Compares the keys of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconcile {
    /// Common fields.
    pub head: RepairHead,
    /// The virtual node.
    pub vnode: VnodeIndex,
    /// What may be collected under it does not count.
    pub floor: HybridTime,
    /// The first key's stored bytes (included).
    pub from: Bytes,
    /// The end (excluded); the virtual node's end where there is none.
    pub to: Option<Bytes>,
    /// A digest of each key in the range that the asker holds something of.
    pub items: Vec<u64>,
    /// About so many bytes of rows are wanted.
    pub bytes_max: u32,
}

/// A key's stored bytes and what is under it, with all values.
pub type RepairRow = (Bytes, WireSet);

/// What differs in a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What the replica holds and the asker does not, or otherwise.
    pub rows: Vec<RepairRow>,
    /// Positions of items that the replica does not hold so; behind `until` they say nothing.
    pub unmatched: Vec<u32>,
    /// Where to go on; `None` at the range's end.
    pub until: Option<Bytes>,
    /// Keys that the replica cannot vouch for.
    pub unknown: Vec<Bytes>,
    /// There may be more of those, that it cannot name.
    pub hides_keys: bool,
    /// The replica's floor for the virtual node.
    pub floor: HybridTime,
    /// Whether the replica vouches for the virtual node.
    pub is_trusted: bool,
}

/// The answer to [`Reconcile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// The replica's hybrid time.
    pub time: HybridTime,
    /// Clients keep the replica busy: go slowly.
    pub is_busy: bool,
    /// What differs.
    pub result: Result<Told, Refusal>,
}

/// Merges rows into the replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Common fields.
    pub head: RepairHead,
    /// The virtual node.
    pub vnode: VnodeIndex,
    /// The sender's floor, if it vouches for the virtual node.
    pub authority: Option<HybridTime>,
    /// The rows.
    pub rows: Vec<RepairRow>,
}

/// Merges what keys hold into a replica that missed writes of them (hinted handoff).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// Common fields.
    pub head: RepairHead,
    /// The rows, of any virtual nodes that both are replicas of.
    pub rows: Vec<RepairRow>,
}

/// The answer to [`Push`] and to [`HandOver`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The replica's hybrid time.
    pub time: HybridTime,
    /// Clients keep the replica busy: go slowly.
    pub is_busy: bool,
    /// For each row whether it is durable there, or a later state of its key is.
    pub result: Result<Vec<bool>, Refusal>,
}

/// Asks a node to make no dot up to a time any more, or whether it keeps anything for others still
/// (see `repair::settle`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskPromise {
    /// The version of the record that the asker follows.
    pub epoch: Epoch,
    /// The asker's hybrid time.
    pub time: HybridTime,
    /// The time.
    pub until: HybridTime,
    /// All have promised already: has what the node took in the place of others, up to now, been handed
    /// over? The first time that this is asked for a time is what "now" means from then on.
    #[serde(default)]
    pub is_clear: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// The replica's hybrid time.
    pub time: HybridTime,
    /// `Ok`: it is promised, and what the node applied is durable; or it keeps nothing that old.
    pub result: Result<(), Refusal>,
}

/// Tells a replica that all replicas of virtual nodes hold the same up to a time, for which it has
/// promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// The version of the record that the leader follows.
    pub epoch: Epoch,
    /// The leader's hybrid time.
    pub time: HybridTime,
    /// The time.
    pub until: HybridTime,
    /// The virtual nodes.
    pub vnodes: Vec<VnodeIndex>,
}
