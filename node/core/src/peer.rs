//! What nodes say to each other. Same frames as the clients' (see [`quoit_protocol::frame`]).

use bytes::Bytes;
use quoit_protocol::{Failure, Key, Stage, TraceId, Write, Written};
use quoit_ring::{
    ClusterRecord, ConfigurationNumber, Epoch, HybridTime, NodeId, TableId, VnodeIndex, WallTime,
};
use quoit_storage::version::{Actor, ApartValue, Dot};
use serde::{Deserialize, Serialize};

pub use crate::continuity::Life;
pub use crate::handshake::{PeerHello, PeerWelcome};
pub use crate::repair::messages::{
    AskPromise, CompareNodes, CompareRoots, DifferingRoots, HandOver, NodesCompared, Promised,
    Push, Pushed, Reconcile, Reconciled, RepairHead, RepairRow, RootsCompared, Settle, Told,
};

/// The ALPN name under which peers connect.
pub const ALPN_PEER: &[u8] = b"quoit-peer";

/// What every request about a key begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHead {
    /// The table.
    pub table: TableId,
    /// The virtual node.
    pub vnode: VnodeIndex,
    /// The configuration of the virtual node that the coordinator serves the request under.
    pub configuration: ConfigurationNumber,
    /// The coordinator's hybrid time.
    pub time: HybridTime,
    /// How long the answer is worth anything, in milliseconds.
    pub deadline_ms: u32,
    /// Asks for [`PeerStages`] before the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
}

/// Where the time of a traced request went at the node that was asked; comes before the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStages {
    /// From the request's coming to the answer's leaving, in microseconds.
    pub took_us: u64,
    /// Their beginnings count from the request's coming.
    pub stages: Vec<Stage>,
}

/// Reads one key of this replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRead {
    /// Common fields.
    pub head: PeerHead,
    /// The key.
    pub key: Key,
    /// With the values that lie apart.
    pub whole: bool,
}

/// Merges a set into this replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerMerge {
    /// Common fields.
    pub head: PeerHead,
    /// The key.
    pub key: Key,
    /// The encoded sibling set.
    pub set: Bytes,
    /// The set holds all that a read quorum of the other replicas knew.
    pub rebuild: bool,
    /// Values of it that lie apart: those that the replica is thought to lack.
    pub values: Vec<WireValue>,
    /// The primary in whose place the receiver, which is none, is to take it (of a sloppy table).
    #[serde(default)]
    pub stands_in_for: Option<NodeId>,
}

/// Reads a page of this replica's keys of one virtual node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPage {
    /// Common fields.
    pub head: PeerHead,
    /// The first key's stored bytes (included).
    pub from: Bytes,
    /// The end (excluded).
    pub to: Option<Bytes>,
    /// At most so many rows.
    pub rows_max: u32,
    /// With the values that lie apart.
    pub whole: bool,
}

/// What a replica found under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAnswer {
    /// The replica's hybrid time.
    pub time: HybridTime,
    /// The encoded set, empty where nothing was ever written; or why there is none.
    pub found: Result<WireSet, Refusal>,
}

/// A value that lies apart: its dot's time and actor, and its bytes.
pub type WireValue = (HybridTime, u64, Bytes);

/// An encoded set, and its values that lie apart if they were asked for.
pub type WireSet = (Bytes, Vec<WireValue>);

/// The form in which values that lie apart travel.
pub fn wire_values(values: impl IntoIterator<Item = ApartValue>) -> Vec<WireValue> {
    values.into_iter().map(|value| (value.dot.time, value.dot.actor.0, value.bytes)).collect()
}

/// Values that lie apart, as they came.
pub fn apart_values(values: impl IntoIterator<Item = WireValue>) -> Vec<ApartValue> {
    let value = |(time, actor, bytes)| ApartValue { dot: Dot { time, actor: Actor(actor) }, bytes };
    values.into_iter().map(value).collect()
}

/// What became of a merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeAnswer {
    /// The replica's hybrid time.
    pub time: HybridTime,
    /// `Ok`: the set is durable here. Otherwise nothing (more) was done.
    pub merged: Result<(), Refusal>,
}

/// One row of a page: stored key and set; `None` where the replica cannot vouch for it.
pub type WireRow = (Bytes, Option<WireSet>);

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageAnswer {
    /// The replica's hybrid time.
    pub time: HybridTime,
    /// The rows, ascending, and whether there may be more after them.
    pub page: Result<(Vec<WireRow>, bool), Refusal>,
}

/// Why a replica did not do what a coordinator asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The replica follows another configuration of the virtual node.
    WrongConfiguration,
    /// The replica does not know the table.
    UnknownTable,
    /// In a `latest` table it holds a greater dot, of this time.
    Older(HybridTime),
    /// It cannot vouch for what it holds under the key.
    Unreadable,
    /// The set speaks of a value that it neither holds nor was sent: send all of them.
    Lacks,
    /// Its queues are full.
    Overloaded,
    /// Its disk is full, failed, or does not keep up.
    Storage(String),
    /// The request made no sense to it.
    Invalid,
    /// It does not know yet whether it has lost anything.
    Recovering,
}

/// A client's write, handed on by a node that is no primary of its key. Once: the receiver does not
/// hand it on again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The write, with what is left of its deadline.
    pub write: Write,
}

/// The primary's answer to [`Forward`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarded {
    /// What the client is told.
    pub result: Result<Written, Failure>,
}

/// A proposal's number: the greater wins. No two tries have one number, not even of one node
/// before and after a restart, of which the latter does not know how far the former had counted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Ballot {
    /// Counts the tries.
    pub round: u64,
    /// The number of the node that proposes; 0 in the ballot before all.
    pub node: u64,
    /// Drawn for this try.
    pub nonce: u64,
}

/// Paxos, phase 1a: promise not to take part in older ballots on that epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The version that is to be decided.
    pub epoch: Epoch,
    /// The ballot.
    pub ballot: Ballot,
}

/// Phase 1b.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The version that is to be decided.
    pub epoch: Epoch,
    /// The ballot promised to; greater than the asked one where the promise is refused.
    pub ballot: Ballot,
    /// What this voter accepted last, if anything.
    pub accepted: Option<(Ballot, ClusterRecord)>,
}

/// Phase 2a: accept this record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// The ballot.
    pub ballot: Ballot,
    /// The record; its epoch is the one that is decided.
    pub record: ClusterRecord,
}

/// Phase 2b.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The version that is to be decided.
    pub epoch: Epoch,
    /// The ballot accepted; where it is refused, the one that was promised to.
    pub ballot: Ballot,
    /// Whether it was accepted.
    pub accepted: bool,
}

/// This record was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The record.
    pub record: ClusterRecord,
}

/// Asks for the record, if there is a newer one than this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskRecord {
    /// The version that the asker has.
    pub have: Epoch,
}

/// A node's clocks and the version that it follows, told every second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The wall clock's reading.
    pub wall: WallTime,
    /// Hybrid time.
    pub time: HybridTime,
    /// The version that the node follows; 0 where it has none.
    pub epoch: Epoch,
    /// How far the node's own life has come, once it knows that it has lost nothing.
    pub life: Option<Life>,
    /// The latest that the node remembers of the receiver's.
    pub remembered: Option<Life>,
}

quoit_protocol::messages! {
    /// A message between nodes. Its kind is in the frame's header.
    PeerMessage {
        Hello(PeerHello) = 129,
        Welcome(PeerWelcome) = 130,
        Read(PeerRead) = 131,
        ReadAnswer(ReadAnswer) = 132,
        Merge(PeerMerge) = 133,
        MergeAnswer(MergeAnswer) = 134,
        Page(PeerPage) = 135,
        PageAnswer(PageAnswer) = 136,
        Forward(Box<Forward>) = 137,
        Forwarded(Box<Forwarded>) = 138,
        Prepare(Prepare) = 139,
        Promise(Box<Promise>) = 140,
        Accept(Box<Accept>) = 141,
        Accepted(Accepted) = 142,
        Decided(Box<Decided>) = 143,
        AskRecord(AskRecord) = 144,
        Ping(Ping) = 145,
        CompareRoots(CompareRoots) = 146,
        RootsCompared(RootsCompared) = 147,
        CompareNodes(CompareNodes) = 148,
        NodesCompared(NodesCompared) = 149,
        Reconcile(Reconcile) = 150,
        Reconciled(Reconciled) = 151,
        Push(Push) = 152,
        Pushed(Pushed) = 153,
        AskPromise(AskPromise) = 154,
        Promised(Promised) = 155,
        Settle(Settle) = 156,
        HandOver(HandOver) = 157,
        Stages(PeerStages) = 158,
    }
}

/// The frame kind of a gossip message, whose body is not MessagePack but what the gossip library
/// made; the core never sees it.
pub const KIND_GOSSIP: u8 = 200;

/// Which stream a message travels on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Clients wait for it.
    Foreground,
    /// The record, pings, gossip, repair.
    Background,
}

impl PeerMessage {
    /// Which stream the message travels on.
    pub fn class(&self) -> Class {
        match self {
            Self::Read(_)
            | Self::ReadAnswer(_)
            | Self::Merge(_)
            | Self::MergeAnswer(_)
            | Self::Page(_)
            | Self::PageAnswer(_)
            | Self::Forward(_)
            | Self::Forwarded(_)
            | Self::Stages(_) => Class::Foreground,
            Self::Hello(_)
            | Self::Welcome(_)
            | Self::Prepare(_)
            | Self::Promise(_)
            | Self::Accept(_)
            | Self::Accepted(_)
            | Self::Decided(_)
            | Self::AskRecord(_)
            | Self::Ping(_)
            | Self::CompareRoots(_)
            | Self::RootsCompared(_)
            | Self::CompareNodes(_)
            | Self::NodesCompared(_)
            | Self::Reconcile(_)
            | Self::Reconciled(_)
            | Self::Push(_)
            | Self::Pushed(_)
            | Self::AskPromise(_)
            | Self::Promised(_)
            | Self::Settle(_)
            | Self::HandOver(_) => Class::Background,
        }
    }

    /// The trace that a coordinator's request belongs to.
    pub fn trace(&self) -> Option<TraceId> {
        match self {
            Self::Read(read) => read.head.trace,
            Self::Merge(merge) => merge.head.trace,
            Self::Page(page) => page.head.trace,
            Self::Forward(forward) => forward.write.head.trace,
            _ => None,
        }
    }

    /// Whether it answers a request that the receiver made on its own connection.
    pub fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::ReadAnswer(_)
                | Self::MergeAnswer(_)
                | Self::PageAnswer(_)
                | Self::Forwarded(_)
                | Self::Promise(_)
                | Self::Accepted(_)
                | Self::Welcome(_)
                | Self::RootsCompared(_)
                | Self::NodesCompared(_)
                | Self::Reconciled(_)
                | Self::Pushed(_)
                | Self::Promised(_)
                | Self::Stages(_)
        )
    }
}
