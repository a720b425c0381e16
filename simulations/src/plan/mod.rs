//! What a run does, as a plain value: drawn from a seed by [`swarm`], or written down by hand.
//!
//! A [`Schedule`] holds every operation and every fault; what else is random in a run (delays,
//! losses, which unsynced bytes survive) comes from streams that hang on the seed and on whom they
//! serve, so that a run from which something is taken away stays much the same elsewhere.

pub mod faults;
mod swarm;

use quoit_core::random::Random;
use quoit_ring::ConflictPolicy;
use serde::{Deserialize, Serialize};

pub use faults::{Fault, PlannedFault};
pub use swarm::{Profile, draw};

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// What all streams hang on.
    pub seed: u64,
    /// How many virtual nodes.
    pub vnodes: u32,
    /// How many zones (racks) the machines stand in, in turns.
    pub zones: u32,
    /// The machines; the first is node 1.
    pub machines: Vec<Machine>,
    /// The network.
    pub network: Network,
    /// The tables.
    pub tables: Vec<Table>,
    /// How many clients there are.
    pub clients: u32,
    /// Which rare branches are taken.
    pub rarities: Rarities,
    /// What clients do, ascending by time.
    pub operations: Vec<Operation>,
    /// What goes wrong, ascending by time.
    pub faults: Vec<PlannedFault>,
    /// Whether machines start one by one, and what they say to each other takes long, until the cluster
    /// is formed.
    #[serde(default)]
    pub forms_slowly: bool,
    /// Whether faults may go beyond what replication bears: then what is lost is not judged.
    pub expects_loss: bool,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// What its wall clock is off by, in milliseconds.
    pub offset_ms: i64,
    /// How much faster its clocks run, in millionths.
    pub drift_ppm: i64,
    /// How long an fsync takes, in microseconds.
    pub sync_us: u64,
    /// How long a read takes, in microseconds; 0: it is done at once.
    pub read_us: u64,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The least delay of a message, in microseconds.
    pub delay_us_min: u64,
    /// What comes to it on average.
    pub delay_us_mean: u64,
    /// Of a million messages so many are lost and sent again, which holds up those behind them.
    pub loss_ppm: u64,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its conflict policy.
    pub policy: ConflictPolicy,
    /// N.
    pub replication: u8,
    /// R.
    pub read: u8,
    /// W.
    pub write: u8,
    /// How long its values live.
    pub ttl_ms: Option<u64>,
    /// Whether fallbacks stand in for primaries.
    #[serde(default)]
    pub sloppy: bool,
}

impl Table {
    /// Whether a read takes in every write that was acknowledged before.
    pub fn intersects(&self) -> bool {
        self.read + self.write > self.replication && !self.sloppy
    }

    /// Whether reads of it never go backwards.
    pub fn is_monotonic(&self) -> bool {
        self.read > self.replication / 2 && !self.sloppy
    }

    /// Whether of two writes, one after the other, the later wins.
    pub fn orders_writes(&self) -> bool {
        let meets_the_one_before = self.write > self.replication / 2 && !self.sloppy;
        self.policy == ConflictPolicy::Siblings || meets_the_one_before
    }
}

/// Bounds so small that what is rare in practice is common: FoundationDB's "buggify".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rarities {
    /// Operations that a node coordinates at once.
    pub operations_max: u32,
    /// Requests that wait for the storage worker.
    pub storage_requests_max: u32,
    /// When a read asks further replicas.
    pub read_patience_ms: u64,
    /// The length of the clock's lease.
    pub lease_ms: u64,
    /// How many write ids are remembered.
    pub write_ids_max: u32,
    /// The tables' memory is closed for a flush at so many bytes.
    pub memory_bytes_max: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Siblings of a key.
    pub siblings_max: u16,
    /// The storage worker takes at most so many requests at once.
    pub batch_requests_max: u32,
    /// Replicas are compared so often; 0: never.
    #[serde(default)]
    pub repair_interval_ms: u64,
    /// Time is settled no later than so far back.
    #[serde(default)]
    pub settle_behind_ms: u64,
    /// All that is held is verified within this; 0: never.
    #[serde(default)]
    pub scrub_period_ms: u64,
    /// Bytes of hints; 0: none are kept.
    #[serde(default)]
    pub hint_bytes_max: u64,
    /// The age at which hints are dropped.
    #[serde(default)]
    pub hint_age_ms_max: u64,
}

impl Default for Rarities {
    fn default() -> Self {
        Self {
            operations_max: 16_384,
            storage_requests_max: 32_768,
            read_patience_ms: 40,
            lease_ms: 10_000,
            write_ids_max: 65_536,
            memory_bytes_max: 4 << 20,
            segment_bytes: 1 << 20,
            siblings_max: 32,
            batch_requests_max: 4_096,
            repair_interval_ms: 10_000,
            settle_behind_ms: 70_000,
            scrub_period_ms: 7 * 86_400_000,
            hint_bytes_max: 1 << 20,
            hint_age_ms_max: 12 * 3_600_000,
        }
    }
}

/// Something that a client does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// When, in milliseconds after the cluster was formed.
    pub at_ms: u64,
    /// Its number: the value that it writes bears it.
    pub id: u32,
    /// Who.
    pub client: u32,
    /// In which table.
    pub table: u32,
    /// On which key.
    pub key: u32,
    /// What.
    pub action: Action,
}

/// What a client does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Reads it.
    Get,
    /// Reads it at one replica, for this client's session: no less than it has written and read so.
    SessionGet,
    /// Writes it without having read it.
    Put,
    /// Writes it with the context that this client was given last.
    Replace,
    /// Writes it, to be sent again if it is not answered.
    PutIdempotent,
    /// Writes so many bytes.
    PutLarge(u32),
    /// Deletes it with the context that this client was given last.
    Delete,
    /// Deletes it without having read it.
    DeleteBlind,
    /// Reads the set under it and writes it back with one element more.
    Add,
    /// Reads the counter under it and writes it back with this client's part increased.
    Increment,
    /// Scans its partition.
    Scan,
}

/// The stream of random numbers of one subsystem for one of those that it serves.
pub fn stream(seed: u64, subsystem: &str, of: u64) -> Random {
    let mut mixed = Random::new(seed).draw();
    for byte in subsystem.bytes() {
        mixed = Random::new(mixed ^ u64::from(byte)).draw();
    }
    Random::new(mixed ^ of.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Schedule {
    /// The schedule as Rust that can be pasted into `tests/scenarios.rs`, which imports the names.
    pub fn to_rust(&self) -> String {
        format!("{self:#?}").replace('[', "vec![")
    }
}
