//! What a core is told at its start.

use quoit_protocol::Limits;
use quoit_ring::NodeId;

use crate::handshake::Genesis;

/// What a core is told at its start. Only its limits change later ([`crate::NodeCore::set_limits`]).
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// This node.
    pub node: NodeId,
    /// What the cluster is made from.
    pub genesis: Genesis,
    /// How often the node was started.
    pub boot_count: u64,
    /// The incarnation that the node takes if it was never confirmed by the others: its data
    /// directory's.
    pub incarnation: u64,
    /// The program's version, for people.
    pub version: String,
    /// What is accepted from clients.
    pub limits: Limits,
    /// At most so many operations are coordinated at once; more are answered with `Overloaded`.
    pub operations_max: usize,
    /// Writes that are answered and not yet acknowledged by all replicas, whose other answers are waited
    /// for; of more, the missing replicas are noted at once.
    pub trails_max: usize,
    /// And so many for one client's connection.
    pub operations_per_client_max: usize,
    /// At most so many requests wait for the storage worker before peers are refused.
    pub storage_requests_max: usize,
    /// A request never lives longer than this, whatever its client says.
    pub deadline_ms_max: u32,
    /// Replicas that have not answered a read by then are helped out by the others; sooner, where
    /// nearly all answer sooner.
    pub read_patience_ms: u64,
    /// The length of the clock's lease.
    pub lease_ms: u64,
    /// A node whose wall clock is further from its peers' median does not coordinate writes.
    pub clock_offset_ms_max: u64,
    /// Outcomes of so many writes with ids are remembered.
    pub write_ids_max: usize,
    /// Exchanges with each peer begin about so far apart; 0: none are begun.
    pub repair_interval_ms: u64,
    /// Exchanges move at most so many bytes a second while no clients are there.
    pub repair_bytes_per_second: u64,
    /// And so many while they are.
    pub repair_busy_bytes_per_second: u64,
    /// Time is settled no later than so far back: what was begun before has ended, as a rule.
    pub settle_behind_ms: u64,
    /// Everything that is held is read and verified within this; 0: never.
    pub scrub_period_ms: u64,
    /// A hint that is older is dropped: exchanges find what it stands for.
    pub hint_age_ms_max: u64,
    /// Hints together have no more bytes than this: more are not noted.
    pub hint_bytes_max: u64,
    /// Seeds everything that is drawn: actors, the ring key, back-off.
    pub seed: u64,
}

impl CoreConfig {
    /// The defaults for a node of a cluster.
    pub fn new(node: NodeId, genesis: Genesis, seed: u64) -> Self {
        Self {
            node,
            genesis,
            boot_count: 1,
            incarnation: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: Limits::default(),
            operations_max: 16_384,
            trails_max: 16_384,
            operations_per_client_max: 16_384,
            storage_requests_max: 32_768,
            deadline_ms_max: 60_000,
            read_patience_ms: 40,
            lease_ms: 10_000,
            clock_offset_ms_max: 300_000,
            write_ids_max: 65_536,
            repair_interval_ms: 60_000,
            repair_bytes_per_second: 256 << 20,
            repair_busy_bytes_per_second: 1 << 20,
            settle_behind_ms: 70_000,
            scrub_period_ms: 7 * 86_400_000,
            hint_age_ms_max: 12 * 3_600_000,
            hint_bytes_max: 256 << 20,
            seed,
        }
    }
}
