//! The one door in and the one door out: events and effects.

use std::sync::Arc;

use quoit_protocol::snapshot::SnapshotAction;
use quoit_protocol::{AskRepair, ClientRequest, ClientResponse};
use quoit_ring::{NodeId, VnodeIndex};
use quoit_storage::layout::HintKind;

use crate::access::Rights;
use crate::peer::PeerMessage;
pub use crate::storage::{HintChanges, ReadClass, StorageAnswer, StorageRequest, TreeLevel};
use crate::time::Instant;
use crate::trace::FinishedTrace;

/// A client's connection, named by the driver; never used again in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names something that the core asked of the storage worker; comes back with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tag {
    /// An own operation's request to this replica.
    Own(u64),
    /// A peer's request to this replica.
    Peer {
        /// Who asks.
        from: NodeId,
        /// Its request id.
        request: u64,
    },
    /// Something of the core's housekeeping.
    Inner(Inner),
    /// A step of an own exchange with a peer.
    Exchange(u64),
    /// A step of a peer's exchange with this replica.
    PeerExchange {
        /// Who asks.
        from: NodeId,
        /// Its request id.
        request: u64,
    },
    /// A step of settling time, or of collecting what may go.
    Settling(u64),
}

impl Tag {
    /// Whether the request that it names saves a small document.
    pub(crate) fn is_of_document(self) -> bool {
        match self {
            Self::Own(_)
            | Self::Peer { .. }
            | Self::Exchange(_)
            | Self::PeerExchange { .. }
            | Self::Settling(_) => false,
            Self::Inner(Inner::Vote | Inner::Record | Inner::Continuity | Inner::ScrubSaved) => {
                true
            }
            Self::Inner(
                Inner::Lease
                | Inner::Figures { .. }
                | Inner::Durable
                | Inner::Era
                | Inner::Trust { .. }
                | Inner::NextHints { .. }
                | Inner::Handoff { .. }
                | Inner::ChangeHints
                | Inner::Scrub
                | Inner::ScrubRead
                | Inner::Recount
                | Inner::TakenOut,
            ) => false,
        }
    }
}

/// The core's housekeeping with storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Inner {
    /// The lease of hybrid time.
    Lease,
    /// The vote in a round on the cluster record.
    Vote,
    /// The cluster record.
    Record,
    /// What is kept of the own life and the others'.
    Continuity,
    /// How far the log is durable.
    Durable,
    /// The beginning of an era, after a loss.
    Era,
    /// The trust in a virtual node.
    Trust {
        /// The virtual node.
        vnode: VnodeIndex,
    },
    /// Hints that wait for a node.
    NextHints {
        /// Their kind and the node.
        line: (HintKind, NodeId),
    },
    /// What the keys of hints hold.
    Handoff {
        /// Their kind and the node.
        line: (HintKind, NodeId),
    },
    /// Hints that are new, and such as leave.
    ChangeHints,
    /// A step of the scrub.
    Scrub,
    /// A key that the scrub has found damaged.
    ScrubRead,
    /// A leaf of the digests that is counted anew.
    Recount,
    /// Keys of dropped tables that go.
    TakenOut,
    /// Where the scrub has come to.
    ScrubSaved,
    /// Figures for a client's status request.
    Figures {
        /// The client.
        connection: ConnectionId,
        /// Its request id.
        request: u64,
        /// What else it wants to know.
        more: More,
    },
}

/// What a client wants to know beside a node's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum More {
    /// Nothing.
    Nothing,
    /// How far replicas were compared.
    Repair(AskRepair),
    /// What the node does just now.
    Activity,
}

/// What may happen to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A client asks.
    Client {
        /// Its connection.
        connection: ConnectionId,
        /// Its request id, repeated in the answer.
        request: u64,
        /// What it asks.
        message: ClientRequest,
        /// What it may.
        rights: Arc<Rights>,
    },
    /// A peer asks or answers.
    Peer {
        /// The peer, as its certificate says.
        from: NodeId,
        /// The asker's request id.
        request: u64,
        /// The message.
        message: PeerMessage,
    },
    /// A connection to a peer was made: requests can be sent.
    PeerConnected {
        /// The peer.
        node: NodeId,
    },
    /// The connection to a peer is gone: what was asked on it may never be answered.
    PeerDisconnected {
        /// The peer.
        node: NodeId,
    },
    /// Gossip believes that a member lives.
    SeemsAlive {
        /// The member.
        node: NodeId,
    },
    /// Gossip believes that a member is dead.
    SeemsDead {
        /// The member.
        node: NodeId,
    },
    /// The storage worker answers.
    Storage {
        /// What was asked.
        tag: Tag,
        /// The answer.
        answer: StorageAnswer,
    },
    /// Time has passed: at least [`crate::NodeCore::next_deadline`].
    Tick,
}

/// What a node wants done. The order of effects carries no contract, but that messages to one
/// receiver and requests to the storage worker stay in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send to a peer. Dropped where there is no connection.
    ToPeer {
        /// The peer.
        to: NodeId,
        /// The asker's request id.
        request: u64,
        /// The message.
        message: PeerMessage,
    },
    /// Answer a client. Dropped where the connection is gone.
    ToClient {
        /// The connection.
        connection: ConnectionId,
        /// The client's request id.
        request: u64,
        /// The answer.
        message: ClientResponse,
    },
    /// Ask the storage worker.
    ToStorage {
        /// Comes back with the answer.
        tag: Tag,
        /// What is asked.
        request: StorageRequest,
        /// What was not begun by then is dropped, and answered by [`StorageAnswer::TooLate`].
        until: Option<Instant>,
    },
    /// Close the connections with a peer that said what no right node says. They are made again.
    Disconnect {
        /// The peer.
        node: NodeId,
        /// What it said, for people.
        reason: String,
    },
    /// Tell the others by gossip: nothing rests on it.
    Publish {
        /// The fact's name.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// The cluster record changed: the driver connects to the members it names.
    FollowRecord(Box<quoit_ring::ClusterRecord>),
    /// For observers: a line for the log.
    Note(String),
    /// For observers: where the time of a client's traced request went, which is answered now.
    Traced(Box<FinishedTrace>),
    /// Make, list or delete snapshots, and answer the client: they are files, of which the core knows
    /// nothing.
    Snapshots {
        /// The client's connection.
        connection: ConnectionId,
        /// Its request id.
        request: u64,
        /// What is asked.
        action: SnapshotAction,
    },
}

/// Where effects are gathered.
pub type Effects = Vec<Effect>;
