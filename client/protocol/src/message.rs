//! What clients ask and nodes answer.
//!
//! Hot messages are MessagePack arrays of a negotiated version: fields are only ever added at the
//! tail, with a default. The kind of a message is in the frame's header, not in its body.

use bytes::{Bytes, BytesMut};
use quoit_ring::{
    ClusterId, ConfigurationNumber, HybridTime, Level, NodeId, TableId, TableOptions, VnodeIndex,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::activity::AskActivity;
use crate::frame::put_frame;
use crate::record::SharedRecord;
use crate::seen::Seen;
use crate::snapshot::{AskSnapshots, NodeSnapshots};
use crate::status::NodeStatus;
use crate::trace::{TraceId, Traced};

/// The client protocol that this program speaks; both sides name a range and take the greatest
/// common version.
///
/// A message may have one field at most that is left out when it has its default, at its tail: of two,
/// the second would be read in the place of the first.
pub const PROTOCOL_VERSION: u16 = 5;
/// The ALPN name under which clients connect.
pub const ALPN_CLIENT: &[u8] = b"quoit-client";

/// The first message of a client on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol version that the client speaks.
    pub version_min: u16,
    /// The newest.
    pub version_max: u16,
    /// The cluster that the client means, if it knows.
    pub cluster: Option<ClusterId>,
    /// The client's name, for logs (at most 64 bytes are kept).
    pub client: String,
}

/// The node's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version agreed on.
    pub version: u16,
    /// Who answers.
    pub node: NodeId,
    /// The cluster as the node knows it; `None` while it knows no record yet.
    pub record: Option<SharedRecord>,
    /// The node's hybrid time.
    pub time: HybridTime,
    /// Limits of the node.
    pub limits: Limits,
}

/// What a node accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Partition key and sort key together, in bytes.
    pub key_bytes_max: u32,
    /// A value, in bytes.
    pub value_bytes_max: u32,
    /// Siblings of a key, enforced where a write is coordinated.
    pub siblings_max: u16,
    /// A key's whole sibling set, in bytes.
    pub set_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 4 << 10,
            value_bytes_max: 4 << 20,
            siblings_max: 32,
            set_bytes_max: 16 << 20,
        }
    }
}

/// What every request about a key begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The table.
    pub table: TableId,
    /// The virtual node of the partition key, as the asker computes it.
    pub vnode: VnodeIndex,
    /// The configuration of the virtual node that the asker knows; another one is answered with
    /// [`FailureCode::WrongConfiguration`].
    pub configuration: ConfigurationNumber,
    /// The greatest hybrid time that the session has seen.
    pub time: HybridTime,
    /// How long the answer is worth anything, from now, in milliseconds.
    pub deadline_ms: u32,
    /// How many replicas must answer; the table's own where `None`.
    pub level: Option<Level>,
    /// Asks for a [`Traced`] before the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
}

/// A key: it is placed by its partition key and ordered within that by its sort key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Places the item.
    pub partition: Bytes,
    /// Orders it among the items of its partition key; often empty.
    pub sort: Bytes,
}

/// Reads one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// Common fields.
    pub head: Head,
    /// The key.
    pub key: Key,
    /// What the asker's session has seen of the key: it is answered with no less.
    #[serde(default, skip_serializing_if = "Seen::is_empty")]
    pub at_least: Seen,
}

/// Writes or deletes one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Common fields.
    pub head: Head,
    /// The key.
    pub key: Key,
    /// The value, or `None` to delete.
    pub value: Option<Bytes>,
    /// [`crate::value_checksum`] of the value; 0 for a delete.
    pub checksum: u64,
    /// What the writer read; empty for a write that saw nothing.
    pub context: Bytes,
    /// How long the value lives, in milliseconds; the table's own where `None`.
    pub ttl_ms: Option<u64>,
    /// By this the first coordinator recognises a repeated request.
    pub write_id: Option<WriteId>,
}

/// 128 random bits that name a write which may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WriteId(pub u64, pub u64);

/// Reads a page of one partition key's items, ascending by sort key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Common fields.
    pub head: Head,
    /// Whose items.
    pub partition: Bytes,
    /// The first sort key (included).
    pub from: Bytes,
    /// The end (excluded); none where `None`.
    pub to: Option<Bytes>,
    /// At most so many items on the page (at least 1; the node may answer fewer).
    pub limit: u32,
}

/// Reads a page of a whole table, virtual node by virtual node, for exports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Common fields; the virtual node says which part of the table is read.
    pub head: Head,
    /// The last key of the page before, in the order of the store; the start where `None`.
    pub after: Option<Key>,
    /// At most so many items on the page.
    pub limit: u32,
}

/// A change of the tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableChange {
    /// Make a table. A table of the same name and options is no error.
    Create {
        /// Its name.
        name: String,
        /// What it is to be.
        options: TableOptions,
    },
    /// Drop a table and all its data.
    Drop {
        /// Its name.
        name: String,
    },
}

/// Asks for a change of the tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeTables {
    /// The change.
    pub change: TableChange,
    /// How long the answer is worth anything, in milliseconds.
    pub deadline_ms: u32,
}

/// Asks what the node knows; see [`NodeStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskStatus {}

/// Tells a node that has lost what it held that nobody has more than what it holds now: it counts at
/// once. What it had acknowledged and the others have lost too is gone then. Answered by its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptLoss {
    /// Of which virtual node; of all where `None`.
    pub vnode: Option<VnodeIndex>,
}

/// Asks how far the node's replicas were compared with the others'. Answered by its status, which then
/// has a [`RepairStatus`](crate::status::RepairStatus).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct AskRepair {
    /// Only what is compared with this table.
    pub table: Option<TableId>,
    /// Only this virtual node.
    pub vnode: Option<VnodeIndex>,
    /// Has them compared now.
    pub run: bool,
}

/// Asks for the cluster record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskRecord {}

/// One value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    /// The bytes.
    pub value: Bytes,
    /// [`crate::value_checksum`] of the value, as the first coordinator stored it.
    pub checksum: u64,
    /// When the value expires, as hybrid time.
    pub expires: Option<HybridTime>,
    /// When it was written.
    pub written: HybridTime,
}

/// A key's live values and the context that covers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// The node's hybrid time.
    pub time: HybridTime,
    /// The live values; none where the key is not there.
    pub siblings: Vec<Sibling>,
    /// Covers all that was read, deletions too; empty where nothing was ever written.
    pub context: Bytes,
    /// How many replicas answered.
    pub answered: u8,
    /// Whether replicas differed and were repaired before this answer.
    pub repaired: bool,
}

/// A write is durable on as many primaries as its level asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The node's hybrid time.
    pub time: HybridTime,
    /// Covers what this write replaced and, where no other value stands beside it, the write itself.
    pub context: Bytes,
    /// The write's dot: who coordinated it, and when.
    pub dot: (u64, HybridTime),
    /// How many primaries acknowledged.
    pub acknowledged: u8,
}

/// One item of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The key.
    pub key: Key,
    /// Its live values, at least one.
    pub siblings: Vec<Sibling>,
    /// Covers them.
    pub context: Bytes,
}

/// A page of a scan or an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The node's hybrid time.
    pub time: HybridTime,
    /// The items, ascending.
    pub items: Vec<Item>,
    /// Where the next page begins: after this key; `None` at the end.
    pub after: Option<Key>,
}

/// The cluster record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAnswer {
    /// `None` while the node knows none.
    pub record: Option<SharedRecord>,
    /// The node's hybrid time.
    pub time: HybridTime,
}

/// Why a request was not answered as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureCode {
    /// The asker's record is older or newer than the node's: ask for the record and try again.
    WrongConfiguration,
    /// A queue is full: come back after `retry_after_ms`, or ask another node.
    Overloaded,
    /// No table of that id or name.
    UnknownTable,
    /// The request breaks a rule or a limit; it will be refused everywhere.
    Invalid,
    /// The node does not serve this now (starting, recovering, clock, disk): ask another node.
    NotServing,
    /// Fewer replicas than asked answered in time.
    Unavailable,
    /// The key has as many siblings as it may have: read it and write with the context.
    TooManySiblings,
    /// Another protocol version is needed; the message names the node's.
    Protocol,
    /// Another change of the cluster record won; ask again.
    Conflict,
    /// The asker's hybrid time is far ahead of this node's, as a node with a wrong clock has told it:
    /// forget it for this node's, and ask again.
    TimeAhead,
    /// The asker's role does not allow it; the message says which would. Nothing was done.
    Forbidden,
}

/// A request that failed, and what that means for the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub code: FailureCode,
    /// For a write: `false`, it is certainly not done; `true`, it may be done now or later.
    /// Always `false` for reads.
    pub unknown: bool,
    /// How many replicas had answered or acknowledged.
    pub answered: u8,
    /// How many were needed.
    pub required: u8,
    /// When to come back, in milliseconds; 0 where it does not matter.
    pub retry_after_ms: u32,
    /// For people: what happened and what to do.
    pub message: String,
    /// The node's hybrid time.
    pub time: HybridTime,
}

/// Makes a family of messages: an enum with a variant a message, whose number is the frame's kind,
/// and its way into and out of frames. Clients' and peers' messages are both made by it.
#[macro_export]
macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($variant:ident($body:ty) = $kind:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is named and documented by its body")]
        pub enum $name { $($variant($body)),+ }

        impl $name {
            /// The frame kind.
            pub fn kind(&self) -> u8 {
                match self { $(Self::$variant(_) => $kind),+ }
            }

            /// Appends the message as a frame.
            pub fn put(&self, request: u64, buffer: &mut ::bytes::BytesMut) {
                match self {
                    $(Self::$variant(body) => $crate::put_message(buffer, $kind, request, body)),+
                }
            }

            /// Reads a frame of this family.
            pub fn read(frame: &$crate::Frame) -> Result<Self, $crate::MessageError> {
                match frame.kind {
                    $($kind => $crate::decode(&frame.body).map(Self::$variant),)+
                    kind => Err($crate::MessageError::Kind(kind)),
                }
            }
        }

        $(impl From<$body> for $name {
            fn from(body: $body) -> Self { Self::$variant(body) }
        })+
    };
}

/// Appends a message's body as a frame.
pub fn put_message(buffer: &mut BytesMut, kind: u8, request: u64, body: &impl Serialize) {
    put_frame(buffer, kind, request, |writer| rmp_serde::encode::write(writer, body))
        .expect("plain data always encodes into memory");
}

messages! {
    /// What a client may send.
    ClientRequest {
        Hello(Hello) = 1,
        Get(Get) = 2,
        Write(Write) = 3,
        Scan(Scan) = 4,
        Export(Export) = 5,
        ChangeTables(ChangeTables) = 6,
        AskStatus(AskStatus) = 7,
        AskRecord(AskRecord) = 8,
        AcceptLoss(AcceptLoss) = 9,
        AskRepair(AskRepair) = 10,
        AskSnapshots(AskSnapshots) = 15,
        AskActivity(AskActivity) = 21,
    }
}

impl ClientRequest {
    /// What requests for keys begin with; `None` of any other.
    pub fn head(&self) -> Option<&Head> {
        match self {
            Self::Get(get) => Some(&get.head),
            Self::Write(write) => Some(&write.head),
            Self::Scan(scan) => Some(&scan.head),
            Self::Export(export) => Some(&export.head),
            Self::Hello(_)
            | Self::ChangeTables(_)
            | Self::AskStatus(_)
            | Self::AskRecord(_)
            | Self::AcceptLoss(_)
            | Self::AskRepair(_)
            | Self::AskSnapshots(_)
            | Self::AskActivity(_) => None,
        }
    }

    /// The trace that the request belongs to.
    pub fn trace(&self) -> Option<TraceId> {
        self.head()?.trace
    }
}

messages! {
    /// What a node may answer to a client.
    ClientResponse {
        Welcome(Box<Welcome>) = 65,
        Got(Got) = 66,
        Written(Written) = 67,
        Page(Page) = 68,
        Record(Box<RecordAnswer>) = 69,
        Status(Box<NodeStatus>) = 70,
        Failure(Failure) = 71,
        Traced(Traced) = 72,
        Snapshots(Box<NodeSnapshots>) = 79,
    }
}

/// A frame whose body is not what its kind says. Close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No message of this family has that kind.
    #[error("message kind {0} is unknown")]
    Kind(u8),
    /// The body does not decode, or has bytes left over.
    #[error("a message does not decode: {0}")]
    Body(String),
}

/// Decodes a MessagePack body to its last byte.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    let mut rest = body;
    let value =
        rmp_serde::from_read(&mut rest).map_err(|error| MessageError::Body(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(MessageError::Body("bytes are left over".into())) }
}
