//! What a node counts and measures, for Prometheus.
//!
//! Every series is made when the node starts and is reached through an index: no request looks up
//! a label. A counter costs one atomic addition, a histogram one short lock. What only changes slowly
//! is in `standing`.

mod certificates;
mod recent;
mod spans;
mod standing;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use quoit_protocol::activity::{Activity, Measured};
use quoit_protocol::status::NodeStatus;

use crate::transport::TransportStats;
use certificates::Certificates;
use recent::Recent;
use spans::Spans;
use standing::Standing;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operation {
    Get,
    Put,
    Delete,
    Scan,
    /// Creating or dropping a table.
    Table,
    /// The record or a node's status.
    Status,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was certainly not done, for what it asked.
    Refused,
    /// It was certainly not done, since a queue was full.
    Overloaded,
    /// Too few replicas could be had; a read failed or a write was certainly not done.
    Unavailable,
    /// A write may have been done.
    Unknown,
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From this node.
    Sent,
    /// To this node.
    Received,
}

/// With whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Party {
    /// Another node.
    Peer,
    /// A client.
    Client,
}

/// Which part of the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoragePart {
    /// The sorted tables' files.
    Tables,
    /// What the tables hold in memory.
    Memory,
}

/// An enum whose variants are a label's values and an array's indexes.
pub(crate) trait Indexed: Copy + 'static {
    const ALL: &'static [Self];
    fn name(self) -> &'static str;
    fn index(self) -> usize;
}

macro_rules! indexed {
    ($kind:ident: $($variant:ident = $name:literal),+) => {
        impl Indexed for $kind {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
            fn index(self) -> usize {
                self as usize
            }
        }
        impl EncodeLabelValue for $kind {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
                encoder.write_str(self.name())
            }
        }
    };
}

indexed!(Operation: Get = "get", Put = "put", Delete = "delete", Scan = "scan", Table = "table",
    Status = "status");
indexed!(Outcome: Done = "done", Refused = "refused", Overloaded = "overloaded",
    Unavailable = "unavailable", Unknown = "unknown");
indexed!(Direction: Sent = "sent", Received = "received");
indexed!(Party: Peer = "peer", Client = "client");
indexed!(StoragePart: Tables = "tables", Memory = "memory");

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: Operation,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: Operation,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    direction: Direction,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartyLabels {
    party: Party,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: StoragePart,
}

/// All series of a node. Shared by an `Arc`; every method may be called from any thread.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By operation, then outcome.
    requests: Vec<Vec<Counter>>,
    /// By operation.
    request_seconds: Vec<Histogram>,
    /// By party, then direction.
    transport_bytes: Vec<Counter>,
    /// By party.
    connections: Vec<Gauge>,
    /// By part.
    storage_bytes: Vec<Gauge>,
    batch_events: Histogram,
    batch_mutations: Histogram,
    fsync_seconds: Histogram,
    event_loop_busy_seconds: Counter<f64, AtomicU64>,
    in_flight: Gauge,
    read_repairs: Counter,
    unreadable: Counter,
    certificates: Certificates,
    read_siblings: Histogram,
    resident_bytes: Gauge,
    storage_queued_bytes: Gauge,
    standing: Standing,
    spans: Spans,
    recent: Recent,
}

impl Metrics {
    /// All series, at zero.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("quoit");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", version);
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests of clients", requests.clone());
        let request_seconds =
            Family::<OperationLabels, Histogram>::new_with_constructor(latency_histogram);
        registry.register(
            "request_seconds",
            "From a request's arrival to its answer",
            request_seconds.clone(),
        );
        let transport_bytes = Family::<TransportLabels, Counter>::default();
        registry.register("transport_bytes", "Bytes of messages", transport_bytes.clone());
        let connections = Family::<PartyLabels, Gauge>::default();
        registry.register("connections", "Open connections", connections.clone());
        let storage_bytes = Family::<PartLabels, Gauge>::default();
        registry.register("storage_bytes", "Bytes that the store holds", storage_bytes.clone());
        let metrics = Self {
            requests: each(|&operation| {
                each(|&outcome| requests.get_or_create_owned(&RequestLabels { operation, outcome }))
            }),
            request_seconds: each(|&operation| {
                request_seconds.get_or_create_owned(&OperationLabels { operation })
            }),
            transport_bytes: each(|&direction| {
                transport_bytes.get_or_create_owned(&TransportLabels { direction })
            }),
            connections: each(|&party| connections.get_or_create_owned(&PartyLabels { party })),
            storage_bytes: each(|&part| storage_bytes.get_or_create_owned(&PartLabels { part })),
            batch_events: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            batch_mutations: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            fsync_seconds: Histogram::new(exponential_buckets(0.000_02, 2.0, 17)),
            event_loop_busy_seconds: Counter::default(),
            in_flight: Gauge::default(),
            read_repairs: Counter::default(),
            unreadable: Counter::default(),
            certificates: Certificates::new(&mut registry),
            read_siblings: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            resident_bytes: Gauge::default(),
            storage_queued_bytes: Gauge::default(),
            recent: Recent::new(),
            standing: Standing::new(&mut registry),
            spans: Spans::new(&mut registry),
            registry,
        };
        metrics.register_rest()
    }

    fn register_rest(mut self) -> Arc<Self> {
        let registry = &mut self.registry;
        registry.register(
            "batch_events",
            "Events that the event loop handled at once",
            self.batch_events.clone(),
        );
        registry.register(
            "batch_mutations",
            "Mutations that shared one write to the log",
            self.batch_mutations.clone(),
        );
        registry.register("fsync_seconds", "Syncs of the log", self.fsync_seconds.clone());
        registry.register(
            "event_loop_busy_seconds",
            "Time that the event loop did not wait",
            self.event_loop_busy_seconds.clone(),
        );
        registry.register("in_flight", "Requests being worked on", self.in_flight.clone());
        registry.register("read_repairs", "Sets written back by reads", self.read_repairs.clone());
        registry.register("unreadable", "Reads that met damage", self.unreadable.clone());
        registry.register(
            "read_siblings",
            "Values beside each other that reads of a key found",
            self.read_siblings.clone(),
        );
        registry.register(
            "process_resident_memory_bytes",
            "Memory of the process",
            self.resident_bytes.clone(),
        );
        registry.register(
            "storage_queued_bytes",
            "Writes that wait for the disk",
            self.storage_queued_bytes.clone(),
        );
        Arc::new(self)
    }

    /// Counts a request that was answered, and how long it took.
    pub fn request(&self, operation: Operation, outcome: Outcome, took: Duration) {
        self.requests[operation.index()][outcome.index()].inc();
        self.request_seconds[operation.index()].observe(took.as_secs_f64());
        self.recent.request(operation, outcome, took);
    }

    /// Notes how many values a read of a key has found beside each other.
    pub fn read(&self, siblings: usize) {
        self.read_siblings.observe(siblings as f64);
    }

    /// How many requests ended so, since the start.
    pub fn requests(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.requests[operation.index()][outcome.index()].get()
    }

    /// Says how many bytes of messages have passed since the start.
    pub fn set_transport_bytes(&self, direction: Direction, total: u64) {
        let counter = &self.transport_bytes[direction.index()];
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    /// Says how many connections are open.
    pub fn set_connections(&self, party: Party, count: usize) {
        self.connections[party.index()].set(gauge_value(count as u64));
    }

    /// Says how many bytes a part of the storage holds.
    pub fn set_storage_bytes(&self, part: StoragePart, bytes: u64) {
        self.storage_bytes[part.index()].set(gauge_value(bytes));
    }

    /// Says how many requests are being worked on.
    pub fn set_in_flight(&self, count: usize) {
        self.in_flight.set(gauge_value(count as u64));
    }

    /// A second is over: what was counted in it is what [`Metrics::measured`] tells until the next is.
    pub fn second_is_over(&self, resident_bytes: Option<u64>) {
        if let Some(bytes) = resident_bytes {
            self.resident_bytes.set(gauge_value(bytes));
        }
        self.recent.second_is_over();
    }

    /// What was measured of late.
    pub fn measured(&self) -> Measured {
        let shown = |gauge: &Gauge| u64::try_from(gauge.get()).unwrap_or(0);
        Measured {
            in_flight: shown(&self.in_flight),
            resident_bytes: shown(&self.resident_bytes),
            ..self.recent.measured()
        }
    }

    /// Notes one round of the event loop: how many events it handled and how long it worked.
    pub fn event_loop_round(&self, events: usize, busy: Duration) {
        self.batch_events.observe(events as f64);
        self.event_loop_busy_seconds.inc_by(busy.as_secs_f64());
        self.recent.busy(busy);
    }

    /// Notes a commit: how many mutations it held and how long its sync took.
    pub fn commit(&self, mutations: usize, sync: Duration) {
        self.batch_mutations.observe(mutations as f64);
        self.fsync_seconds.observe(sync.as_secs_f64());
        self.recent.sync(sync);
    }

    /// Counts sets that reads wrote back.
    pub fn read_repair(&self) {
        self.read_repairs.inc();
    }

    /// Says how many reads have met keys that the replica cannot vouch for, since the start.
    pub fn set_unreadable(&self, total: u64) {
        self.unreadable.inc_by(total.saturating_sub(self.unreadable.get()));
    }

    /// Shows what the core says of itself.
    pub fn set_status(&self, status: &NodeStatus) {
        self.standing.show(status);
    }

    /// Shows what the core says of what goes on.
    pub fn set_activity(&self, activity: &Activity) {
        self.standing.show_activity(activity);
    }

    /// Says how many bytes of writes wait for the disk.
    pub fn set_storage_queued_bytes(&self, bytes: u64) {
        self.storage_queued_bytes.set(gauge_value(bytes));
    }

    /// Shows what the transport has counted.
    pub fn set_transport(&self, stats: &TransportStats) {
        self.set_connections(Party::Peer, stats.peers_connected);
        self.set_connections(Party::Client, stats.clients);
        self.set_transport_bytes(Direction::Sent, stats.sent_bytes);
        self.set_transport_bytes(Direction::Received, stats.received_bytes);
        self.standing.show_transport(stats);
        self.recent.transport(stats);
    }

    /// Counts spans that a collector has taken.
    pub fn spans_exported(&self, count: u64) {
        self.spans.exported.inc_by(count);
    }

    /// Counts spans that no collector will have.
    pub fn spans_dropped(&self, count: u64) {
        self.spans.dropped.inc_by(count);
    }

    /// Says which certificates are in use, and when each expires.
    pub fn set_certificates(&self, expiring: Vec<(&'static str, SystemTime)>) {
        self.certificates.set(expiring);
    }

    /// All series in the OpenMetrics text format, which Prometheus reads.
    pub fn text(&self) -> String {
        self.certificates.show(SystemTime::now());
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
            let _ = writeln!(text, "# EOF");
        }
        text
    }
}

/// From 25 microseconds to 13 seconds.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_025, 2.0, 20))
}

fn each<K: Indexed, T>(make: impl FnMut(&K) -> T) -> Vec<T> {
    K::ALL.iter().map(make).collect()
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_from_the_start_and_counts() {
        let metrics = Metrics::new();
        let zero = metrics.text();
        assert!(zero.contains("quoit_requests_total{operation=\"scan\",outcome=\"unknown\"} 0"));
        assert!(zero.ends_with("# EOF\n"));

        metrics.request(Operation::Put, Outcome::Done, Duration::from_millis(2));
        metrics.set_transport_bytes(Direction::Received, 1_024);
        metrics.set_connections(Party::Peer, 2);
        metrics.set_storage_bytes(StoragePart::Memory, 64);
        metrics.commit(17, Duration::from_micros(70));
        metrics.event_loop_round(30, Duration::from_micros(40));
        metrics.read(3);
        metrics.second_is_over(Some(4_096));
        let text = metrics.text();
        for line in [
            "quoit_requests_total{operation=\"put\",outcome=\"done\"} 1",
            "quoit_request_seconds_count{operation=\"put\"} 1",
            "quoit_transport_bytes_total{direction=\"received\"} 1024",
            "quoit_connections{party=\"peer\"} 2",
            "quoit_storage_bytes{part=\"memory\"} 64",
            "quoit_batch_mutations_sum 17.0",
            "quoit_fsync_seconds_count 1",
            "quoit_event_loop_busy_seconds_total 0.00004",
            "quoit_read_siblings_bucket{le=\"4.0\"} 1",
            "quoit_process_resident_memory_bytes 4096",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn an_index_is_a_place_in_the_list_of_all() {
        fn check<K: Indexed + PartialEq + std::fmt::Debug>() {
            for (at, kind) in K::ALL.iter().enumerate() {
                assert_eq!(kind.index(), at, "{kind:?}");
            }
        }
        check::<Operation>();
        check::<Outcome>();
        check::<Direction>();
        check::<Party>();
        check::<StoragePart>();
    }
}
