//! Who served a request, and how.

use std::time::Duration;

use quoit_protocol::{Stage, TraceId};
use quoit_ring::{Level, NodeId};
use quoit_session::{Service as Served, Trail};

/// Who served a request, and how.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Level, NodeId};
///
/// let service = carts.get("alice").await?.service;
/// assert_eq!((service.coordinator, service.level), (NodeId(1), Level::Quorum));
/// println!("{} told after {:?}, {}", service.coordinator, service.took, service.trail);
/// # Ok(()) });
/// ```
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
    /// Where the time went between the nodes, by the stages' beginnings; empty unless the profile asks for
    /// it ([`Profile::trace`](crate::Profile::trace)).
    pub stages: Vec<Stage>,
}

/// A trace id that nobody else has.
///
/// ```
/// use quoit_client::{TraceId, new_trace_id};
///
/// let id = new_trace_id();
/// assert_ne!(id, new_trace_id());
/// assert_eq!(id.to_string().parse::<TraceId>(), Ok(id));
/// ```
pub fn new_trace_id() -> TraceId {
    let mut bytes = [0; 16];
    // Without the system's chance ids would repeat, and only traces would be hard to tell apart.
    let _ = getrandom::fill(&mut bytes);
    let number = u128::from_be_bytes(bytes).max(1);
    TraceId((number >> 64) as u64, number as u64)
}

impl Service {
    pub(crate) fn new(served: Served, level: Level, took: Duration) -> Self {
        let coordinator = served.coordinator.expect("an answer is a node's");
        Self { coordinator, level, trail: served.trail, took, stages: served.stages }
    }
}
