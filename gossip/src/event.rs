//! What gossip tells its caller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use quoit_ring::NodeId;

/// What changed in the picture that gossip has of the others. It is news, not truth: late, out of
/// step with what other nodes see, and at times wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GossipEvent {
    /// A node is there: for the first time, again, in a new life, or at a new address.
    Alive {
        /// Which.
        node: NodeId,
        /// Its boot count: the greatest that is alive.
        generation: u64,
        /// Where its gossip is reached.
        address: SocketAddr,
        /// All that it says of itself.
        facts: BTreeMap<String, String>,
    },
    /// A live node says something new of itself.
    Facts {
        /// Which.
        node: NodeId,
        /// Its boot count.
        generation: u64,
        /// All that it says of itself, not the difference.
        facts: BTreeMap<String, String>,
    },
    /// A node that was alive is silent, or said goodbye.
    Dead {
        /// Which.
        node: NodeId,
    },
    /// Two addresses have claimed one node id for longer than a restart explains. Told once for as
    /// long as it lasts; of this node too. An operator must end it: nothing here decides who is right.
    Conflict {
        /// The id.
        node: NodeId,
        /// Who claims it.
        addresses: BTreeSet<SocketAddr>,
    },
    /// A peer's messages are not taken. Told at most once in half a minute for a peer and a reason.
    Refused {
        /// Whose, as the link names it.
        address: SocketAddr,
        /// Why.
        reason: Refusal,
    },
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// The sender is of another cluster; it was told so.
    #[error("it belongs to cluster {cluster}")]
    OtherCluster {
        /// What it calls its cluster, cut to a readable length.
        cluster: String,
    },
    /// The peer told us that we are of another cluster than it.
    #[error("it says that we belong to another cluster")]
    RefusedByPeer,
    /// The bytes are not a message, or not one that a sound peer sends.
    #[error("its message is malformed: {0}")]
    Malformed(&'static str),
    /// Longer than [`crate::MESSAGE_BYTES_MAX`].
    #[error("its message of {size_bytes} bytes is too long")]
    TooLong {
        /// How long.
        size_bytes: usize,
    },
    /// The rest of the message was taken, but it names more nodes than we can remember.
    #[error("it names more nodes than can be remembered")]
    TooManyNodes,
    /// The peer holds facts of us, in this very life, that we did not say: our boot count was used
    /// before. Start again with a greater one.
    #[error("it holds facts of this node's present life that the node did not say")]
    SpeaksForUs,
}

/// One node as gossip sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Which.
    pub node: NodeId,
    /// Its boot count.
    pub generation: u64,
    /// Where its gossip is reached.
    pub address: SocketAddr,
    /// Whether it counts as alive.
    pub alive: bool,
    /// How long since its heart was last heard to beat, directly or by others: how suspect it is.
    /// Chitchat keeps its own measure (phi) to itself; this is phi's numerator.
    pub silence: Duration,
    /// All that it says of itself.
    pub facts: BTreeMap<String, String>,
}
