//! Traces: where the time of one request went, on each node that had a part in it.

use std::fmt;
use std::str::FromStr;

use quoit_ring::NodeId;
use serde::{Deserialize, Serialize};

/// Names a trace, as W3C's Trace Context does: 128 bits, 32 hexadecimal digits as text, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TraceId(pub u64, pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

/// Text that names no trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a trace id is 32 hexadecimal digits that are not all zero, as 0af7651916cd43dd8448eb211c80319c"
)]
pub struct TraceIdError;

impl FromStr for TraceId {
    type Err = TraceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if text.len() != 32 || !is_hexadecimal {
            return Err(TraceIdError);
        }
        let half = |part| u64::from_str_radix(part, 16).map_err(|_| TraceIdError);
        match Self(half(&text[..16])?, half(&text[16..])?) {
            Self(0, 0) => Err(TraceIdError),
            id => Ok(id),
        }
    }
}

/// What a stage's time was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StageKind {
    /// A message that had come waited for the node's event loop.
    Queue,
    /// A request waited for a storage thread.
    StorageQueue,
    /// The store looked a key or a page up.
    Read,
    /// The store merged a batch of writes with what it held.
    Merge,
    /// The batch was written to the commit log, and synced where the durability asks for it.
    Commit,
    /// A request and its answer were on their way between two nodes.
    Network,
    /// The coordinator waited for another replica: all of the above.
    Replica,
    /// The coordinator waited for a node to which it had handed a write on.
    Forward,
}

impl StageKind {
    /// In one or two words, for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::StorageQueue => "storage queue",
            Self::Read => "read",
            Self::Merge => "merge",
            Self::Commit => "commit",
            Self::Network => "network",
            Self::Replica => "replica",
            Self::Forward => "forward",
        }
    }
}

/// One stage of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The node whose time it is; of [`StageKind::Network`] and [`StageKind::Replica`] the one asked.
    pub node: NodeId,
    /// What for.
    pub kind: StageKind,
    /// When it began, in microseconds since the request came to its coordinator. Other nodes' stages are
    /// laid in the middle of the time that their answer took: clocks are not compared.
    pub began_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// Comes before the answer to a request that carries a trace id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// What the coordinator knows by the time of its answer, by their beginnings: of replicas whose answers
    /// it did not wait for there is nothing.
    pub stages: Vec<Stage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written_and_nothing_else_is() {
        let id = TraceId(0x0af7_6519_16cd_43dd, 0x8448_eb21_1c80_319c);
        assert_eq!(id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(id.to_string().parse(), Ok(id));
        let zero = "0".repeat(32);
        let umlaut = format!("{}ä", "0".repeat(30));
        for wrong in ["", "1", &zero, "+af7651916cd43dd8448eb211c80319c", &umlaut] {
            assert_eq!(wrong.parse::<TraceId>(), Err(TraceIdError), "{wrong}");
        }
    }
}
