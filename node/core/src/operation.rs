//! What the coordinators of all kinds share: who waits for an answer, and the ids by which answers
//! find their operation.

use quoit_protocol::{Failure, FailureCode, TraceId};
use quoit_ring::{
    ClusterRecord, ConfigurationNumber, HybridTime, NodeId, Table, TableId, VnodeIndex,
};

use crate::event::ConnectionId;
use crate::peer::PeerHead;
use crate::time::Instant;

/// Who waits for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client.
    Client {
        /// Its connection.
        connection: ConnectionId,
        /// Its request id.
        request: u64,
    },
    /// A peer that handed its client's write on.
    Peer {
        /// The peer.
        node: NodeId,
        /// Its request id.
        request: u64,
    },
    /// Nobody: the node mends a key of its own accord.
    Nobody,
}

/// Names an operation of this core; never used again. 48 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(u64);

const SLOT_BITS: u32 = 16;

impl OperationId {
    /// The operation of that number, of which 48 bits count.
    pub fn new(number: u64) -> Self {
        Self(number & (u64::MAX >> SLOT_BITS))
    }

    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The id of a request that this operation makes: answers bring it back.
    pub fn request(self, slot: u16) -> u64 {
        (self.0 << SLOT_BITS) | u64::from(slot)
    }

    /// The operation and the slot of a request id.
    pub fn of_request(request: u64) -> (Self, u16) {
        let slot = u16::try_from(request & 0xffff).expect("16 bits");
        (Self(request >> SLOT_BITS), slot)
    }
}

/// What an operation must know of its table and its virtual node, as they were when it began: all
/// its requests carry the same configuration number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The table.
    pub table: TableId,
    /// N.
    pub replication: u8,
    /// The virtual node.
    pub vnode: VnodeIndex,
    /// Its configuration.
    pub configuration: ConfigurationNumber,
    /// The trace that the operation's requests carry on.
    pub trace: Option<TraceId>,
}

impl Place {
    /// The place of a virtual node's keys of a table.
    pub fn new(record: &ClusterRecord, table: &Table, vnode: VnodeIndex) -> Self {
        Self {
            table: table.id,
            replication: table.options.replication,
            vnode,
            configuration: record.configuration(vnode),
            trace: None,
        }
    }

    /// The common fields of a request to a replica.
    pub fn head(&self, time: HybridTime, now: Instant, deadline: Instant) -> PeerHead {
        PeerHead {
            table: self.table,
            vnode: self.vnode,
            configuration: self.configuration,
            time,
            deadline_ms: u32::try_from(deadline.ms_since(now)).unwrap_or(u32::MAX),
            trace: self.trace,
        }
    }
}

/// A failure of which nothing has been done.
pub fn not_done(code: FailureCode, message: impl Into<String>) -> Failure {
    Failure {
        code,
        unknown: false,
        answered: 0,
        required: 0,
        retry_after_ms: match code {
            FailureCode::Overloaded | FailureCode::NotServing | FailureCode::Conflict => 50,
            _ => 0,
        },
        message: message.into(),
        time: HybridTime::ZERO,
    }
}
