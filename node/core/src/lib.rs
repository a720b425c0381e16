//! Everything that a node decides, as one deterministic state machine without I/O.
//!
//! [`NodeCore::handle`] takes one event and the clocks' readings and appends effects. The node's
//! driver carries effects out on QUIC and the disk, the simulator on a virtual network and virtual
//! disks; neither decides anything.
//!
//! What is where, along the way of a write:
//! - [`access`]: may this client do that?
//! - `client`: the request is checked (limits, table, configuration, context);
//! - [`coordinator`]: a write operation draws a dot and asks the primaries; [`quorum`] counts;
//! - [`replica`]: this node's and the peers' requests become questions to the storage worker;
//! - [`event`]: the storage worker's answers come back under their tags.
//!
//! Beside it: [`continuity`] (is this still the node that the others remember?), `repair` (replicas
//! become equal again), [`record`] (the cluster record and its Paxos round), [`handshake`] (may two nodes
//! speak?), [`liveness`] (what is believed of peers), [`context`] (what clients carry).
//!
//! **Absent by design:** clocks, randomness but for the seed in [`CoreConfig`], threads, files,
//! sockets, `async`, and gossip's machinery: liveness comes in as events, and nothing that must be
//! safe rests on it.

pub mod access;
mod client;
mod comebacks;
mod config;
pub mod context;
pub mod continuity;
pub mod coordinator;
mod counters;
pub mod decoding;
pub mod event;
pub mod handshake;
mod hot_keys;
mod in_flight;
mod large_sets;
pub mod liveness;
mod node;
pub mod operation;
mod patience;
pub mod peer;
pub mod quorum;
pub mod random;
pub mod record;
mod repair;
pub mod replica;
mod slow_keys;
mod status;
mod storage;
pub mod time;
mod trace;
mod turn;

pub use config::CoreConfig;
pub use counters::{Counters, HintCounters};
pub use event::{
    ConnectionId, Effect, Effects, Event, HintChanges, StorageAnswer, StorageRequest, Tag,
};
pub use node::{NodeCore, Recovered};
pub use repair::scrub::{SCRUB_FILE, ScrubState};
pub use time::{Instant, Now};
pub use trace::{FinishedTrace, Spent, TracedOperation, TracedRequest};
