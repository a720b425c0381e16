//! The one door in and the one door out: events and effects.

use quoit_protocol::{ClientRequest, ClientResponse};
use quoit_ring::{HybridTime, NodeId, TableId};
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{Mutation, Outcome, PageRow, StoreFigures, Whole};

use bytes::Bytes;

use crate::peer::PeerMessage;
use crate::time::Instant;

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
    /// Figures for a client's status request.
    Figures {
        /// The client.
        connection: ConnectionId,
        /// Its request id.
        request: u64,
    },
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

/// What the storage worker is asked. Reads may be done at once; the others are done in order.
#[derive(Debug, Clone, PartialEq)]
pub enum StorageRequest {
    /// Read one key. Answered by [`StorageAnswer::Found`].
    Read {
        /// The key.
        key: StoredKey,
        /// With the values that lie apart.
        whole: bool,
    },
    /// Read a page of keys. Answered by [`StorageAnswer::Page`].
    Page {
        /// Whose keys.
        table: TableId,
        /// The first key's bytes (included).
        from: Bytes,
        /// The end (excluded).
        to: Option<Bytes>,
        /// At most so many rows.
        rows_max: usize,
        /// About so many bytes.
        bytes_max: usize,
        /// With the values that lie apart.
        whole: bool,
    },
    /// Merge a mutation. Answered by [`StorageAnswer::Prepared`] if `wants_prepared` and it was
    /// merged, as soon as it was; and in any case by [`StorageAnswer::Applied`], after it is
    /// durable or was refused.
    Apply {
        /// The mutation.
        mutation: Box<Mutation>,
        /// Whether the merged set is wanted before it is durable.
        wants_prepared: bool,
    },
    /// Extend the lease of hybrid time. Answered by [`StorageAnswer::Saved`].
    ExtendLease {
        /// The new lease.
        lease: HybridTime,
    },
    /// Durably replace a small document. Answered by [`StorageAnswer::Saved`].
    Save {
        /// Its name.
        name: &'static str,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Answered by [`StorageAnswer::Figures`].
    Figures,
}

/// What the storage worker answers.
#[derive(Debug, Clone, PartialEq)]
pub enum StorageAnswer {
    /// What is under the key.
    Found(Whole),
    /// A page: `None` if this replica cannot vouch for it; otherwise the rows and whether there
    /// may be more.
    Page(Option<(Vec<PageRow>, bool)>),
    /// The mutation was merged: the set that the key will hold. Not durable yet.
    Prepared(Bytes),
    /// The mutation is durable (`Outcome::Merged`), or was refused and has left nothing.
    Applied(Outcome),
    /// The mutation was merged, but the batch was not committed: whether it is there after a
    /// restart is unknown. The text is for people.
    NotCommitted(String),
    /// The lease or the document is durable (`Ok`), or why it is not.
    Saved(Result<(), String>),
    /// Nobody waits for it any more: it was not begun.
    TooLate,
    /// Figures for people.
    Figures(StoreFigures),
}

impl StorageAnswer {
    /// Takes back what was promised of a batch that was not committed: nothing of it is acknowledged.
    pub fn take_back(&mut self, tag: Tag, reason: &str) {
        match self {
            Self::Applied(Outcome::Merged(_)) => *self = Self::NotCommitted(reason.to_owned()),
            // Documents are saved on their own; the lease goes with the batch.
            Self::Saved(result) if tag == Tag::Inner(Inner::Lease) => {
                *result = Err(reason.to_owned());
            }
            _ => {}
        }
    }
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
}

/// Where effects are gathered.
pub type Effects = Vec<Effect>;
