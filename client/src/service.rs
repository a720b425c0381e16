//! Who served a request, and how.

use std::time::Duration;

use quoit_ring::{Level, NodeId};
use quoit_session::{Service as Served, Trail};

/// Who served a request, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The node that coordinated the request: its answer was the first.
    pub coordinator: NodeId,
    /// The level that was asked for.
    pub level: Level,
    /// How often the request was sent, and what came of the attempts in vain.
    pub trail: Trail,
    /// From the call to the answer.
    pub took: Duration,
}

impl Service {
    pub(crate) fn new(served: Served, level: Level, took: Duration) -> Self {
        let coordinator = served.coordinator.expect("an answer is a node's");
        Self { coordinator, level, trail: served.trail, took }
    }
}
