//! What a session is asked to do, and how that may end.

use std::sync::Arc;

use bytes::Bytes;
use quoit_protocol::{
    AskRepair, Failure, Got, Key, Page, Seen, Stage, TableChange, TraceId, Written,
    snapshot::NodeSnapshots, snapshot::SnapshotAction, status::NodeStatus,
};
use quoit_ring::{ClusterRecord, Level, LevelError, NodeId, TableId, VnodeIndex};

use crate::{Instant, Trail};

/// Names an operation between the driver and the session. The driver chooses it and never uses one
/// twice in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// One thing to be done for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What is asked.
    pub request: Request,
    /// How many replicas must answer; the table's own where `None`.
    pub level: Option<Level>,
    /// When the operation completes at the latest.
    pub deadline: Instant,
    /// How it is sent again.
    pub retry: Retry,
    /// The nodes tell where its time went, and name this trace in their logs.
    pub trace: Option<TraceId>,
}

/// How often, and how soon, an operation is sent again that may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Retry {
    /// So often it is sent at most, at least once; 6 times where `None`, and 64 times if it is a write
    /// that may be done twice.
    pub attempts_max: Option<u32>,
    /// Another node is asked too where one has not answered for so long, in microseconds; a third of
    /// the time that the operation has where `None`, and a second at most.
    pub hedge_after_us: Option<u64>,
}

/// By whom an operation was served, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// The node whose answer it is; `None` where the operation failed.
    pub coordinator: Option<NodeId>,
    /// How often it was sent, and what came of the attempts in vain.
    pub trail: Trail,
    /// Where the time went in the attempt that was answered, if it was traced.
    pub stages: Vec<Stage>,
}

/// What is asked of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Reads one key.
    Get {
        /// The table.
        table: TableId,
        /// The key.
        key: Key,
        /// What the caller has seen of it: no less is read.
        at_least: Seen,
    },
    /// Writes or deletes one key.
    Write {
        /// The table.
        table: TableId,
        /// The key.
        key: Key,
        /// The value, or `None` to delete.
        value: Option<Bytes>,
        /// What the writer read; empty where it saw nothing.
        context: Bytes,
        /// How long the value lives, in milliseconds; the table's own where `None`.
        ttl_ms: Option<u64>,
        /// Whether the write may be done twice: then it is sent again, under one write id, when
        /// its outcome is not known.
        idempotent: bool,
    },
    /// Reads a page of one partition key's items.
    Scan {
        /// The table.
        table: TableId,
        /// Whose items.
        partition: Bytes,
        /// The first sort key (included).
        from: Bytes,
        /// The end (excluded); none where `None`.
        to: Option<Bytes>,
        /// At most so many items on the page.
        limit: u32,
    },
    /// Reads a page of one virtual node's part of a table.
    Export {
        /// The table.
        table: TableId,
        /// Which part.
        vnode: VnodeIndex,
        /// The last key of the page before; the start where `None`.
        after: Option<Key>,
        /// At most so many items on the page.
        limit: u32,
    },
    /// Changes the tables.
    ChangeTables(TableChange),
    /// Asks one node, and no other, what it knows.
    Status(NodeId),
    /// Tells one node, which has lost what it held, that nobody has more: answered by its status.
    AcceptLoss {
        /// The node.
        node: NodeId,
        /// Of which virtual node; of all where `None`.
        vnode: Option<VnodeIndex>,
    },
    /// Asks one node how far its replicas were compared, or has them compared: answered by its status.
    Repair {
        /// The node.
        node: NodeId,
        /// What is asked.
        what: AskRepair,
    },
    /// Asks one node, and no other, what it does just now: answered by its status.
    Activity(NodeId),
    /// Asks any node for the cluster record.
    Record,
    /// Has one node make, list or delete snapshots.
    Snapshots {
        /// The node.
        node: NodeId,
        /// What is asked.
        action: SnapshotAction,
    },
}

impl Request {
    /// Whether the data may change by it.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::ChangeTables(_))
    }

    /// Whether doing it twice is the same as doing it once, so that it may be sent again although
    /// an earlier attempt may have been done.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::Get { .. } | Self::Scan { .. } | Self::Export { .. } => true,
            Self::Status(_) | Self::Activity(_) | Self::Repair { .. } | Self::Record => true,
            // It is of the loss that its sender knows of, and not of a later one.
            Self::AcceptLoss { .. } => false,
            // The second would find the first one's.
            Self::Snapshots { action, .. } => *action == SnapshotAction::List,
            Self::Write { idempotent, .. } => *idempotent,
            Self::ChangeTables(TableChange::Create { .. }) => true,
            Self::ChangeTables(TableChange::Drop { .. }) => false,
        }
    }

    /// Whether another node is asked while an attempt is still unanswered. A change of the tables
    /// is not: two proposers would only disturb each other.
    pub(crate) fn is_hedged(&self) -> bool {
        match self {
            Self::ChangeTables(_)
            | Self::Status(_)
            | Self::Activity(_)
            | Self::AcceptLoss { .. }
            | Self::Repair { .. }
            | Self::Snapshots { .. } => false,
            _ => self.is_repeatable(),
        }
    }

    /// The one node that is meant, and no other.
    pub(crate) fn only_node(&self) -> Option<NodeId> {
        match self {
            Self::Status(node)
            | Self::Activity(node)
            | Self::AcceptLoss { node, .. }
            | Self::Repair { node, .. }
            | Self::Snapshots { node, .. } => Some(*node),
            Self::Get { .. }
            | Self::Write { .. }
            | Self::Scan { .. }
            | Self::Export { .. }
            | Self::ChangeTables(_)
            | Self::Record => None,
        }
    }

    /// The table that is meant.
    pub(crate) fn table(&self) -> Option<TableId> {
        match self {
            Self::Get { table, .. }
            | Self::Write { table, .. }
            | Self::Scan { table, .. }
            | Self::Export { table, .. } => Some(*table),
            Self::ChangeTables(_)
            | Self::Status(_)
            | Self::Activity(_)
            | Self::AcceptLoss { .. }
            | Self::Repair { .. }
            | Self::Snapshots { .. }
            | Self::Record => None,
        }
    }
}

/// What a completed operation yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a get. Every sibling's checksum was found good.
    Got(Got),
    /// To a write: it is done.
    Written(Written),
    /// To a scan or an export. Every sibling's checksum was found good.
    Page(Page),
    /// To a change of the tables (which is done) or a question for the record.
    Record(Arc<ClusterRecord>),
    /// To a question for a node's status.
    Status(Box<NodeStatus>),
    /// To a question for a node's snapshots.
    Snapshots(Box<NodeSnapshots>),
}

/// Why an operation did not yield an answer. All but [`OperationError::Unknown`] mean that the data
/// did certainly not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// So many operations are in flight already; nothing was sent. Wait for some of them.
    #[error("{in_flight_max} operations are in flight already, which is this client's limit")]
    Overloaded {
        /// The session's bound.
        in_flight_max: usize,
    },
    /// The request breaks a limit of the nodes; nothing was sent.
    #[error("{what} has {bytes} bytes; the limit is {bytes_max}")]
    TooLarge {
        /// Which part: `the key`, `the value`, `the request`.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// The table cannot give that level; nothing was sent.
    #[error("{0}")]
    Level(LevelError),
    /// The cluster has no such table (any more); nothing was done.
    #[error("the cluster has no table number {}", .0.0)]
    UnknownTable(TableId),
    /// The cluster has no such node.
    #[error("the cluster has no node {0}")]
    UnknownNode(NodeId),
    /// Nobody answered in time, and nothing was done.
    #[error("not answered in time: {trail}")]
    Timeout {
        /// What was tried.
        trail: Trail,
    },
    /// No node can be reached (or not the one node that was asked); nothing was sent.
    #[error("no node can be reached: {trail}")]
    Unreachable {
        /// What was tried.
        trail: Trail,
    },
    /// A node said no, and nothing was done.
    #[error("refused: {} ({trail})", failure.message)]
    Refused {
        /// The node's last word.
        failure: Failure,
        /// What was tried before.
        trail: Trail,
    },
    /// The write may be done now, later or never.
    #[error(
        "it is unknown whether the write is done: {acknowledged} of {required} replicas acknowledged ({trail})"
    )]
    Unknown {
        /// How many replicas are known to have acknowledged.
        acknowledged: u8,
        /// How many were needed; 0 where it was never told.
        required: u8,
        /// What was tried.
        trail: Trail,
    },
    /// Every answer that came held a value that does not match its checksum.
    #[error("the answers were damaged: {trail}")]
    Damaged {
        /// What was tried.
        trail: Trail,
    },
}
