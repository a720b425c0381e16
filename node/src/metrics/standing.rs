//! How a node stands, as series: what its core says in a status, and what its transport counts, both
//! read once in a second. The same figures as `quoit status --json`, so that the two never differ.

use std::collections::BTreeMap;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quoit_protocol::activity::Activity;
use quoit_protocol::status::NodeStatus;
use quoit_ring::NodeId;

use crate::transport::TransportStats;

type Gauges = Family<Label, Gauge>;
type Seconds = Family<Label, Gauge<f64, std::sync::atomic::AtomicU64>>;
type Counters = Family<Label, Counter>;

/// One label and its value, or none.
type Label = Vec<(&'static str, String)>;

fn label(name: &'static str, value: impl ToString) -> Label {
    vec![(name, value.to_string())]
}

/// Where each of the core's counters is shown: its name there, the series, and the label. A counter
/// that is not in here is shown by another series already.
const COUNTERS: [(&str, Shown, &str); 24] = [
    ("background_repairs", Shown::Repairs, "background"),
    ("rebuilds", Shown::Repairs, "rebuild"),
    ("older", Shown::Detours, "greater_dot"),
    ("impatient_reads", Shown::Detours, "impatient_read"),
    ("stand_ins", Shown::Detours, "stand_in"),
    ("forwards", Shown::Detours, "forward"),
    ("repeated_writes", Shown::Detours, "repeated_write"),
    ("exchanges", Shown::Exchanges, "ended"),
    ("failed_exchanges", Shown::Exchanges, "failed"),
    ("repair_keys_in", Shown::RepairKeys, "received"),
    ("repair_keys_out", Shown::RepairKeys, "sent"),
    ("repair_bytes_in", Shown::RepairBytes, "received"),
    ("repair_bytes_out", Shown::RepairBytes, "sent"),
    ("collected", Shown::Collected, ""),
    ("malformed", Shown::Malformed, ""),
    ("hints_noted", Shown::Hints, "noted"),
    ("hints_delivered", Shown::Hints, "delivered"),
    ("hints_expired", Shown::Hints, "expired"),
    ("hints_full", Shown::Hints, "full"),
    ("hints_unreadable", Shown::Hints, "unreadable"),
    ("hints_absent", Shown::Hints, "absent"),
    ("hints_too_large", Shown::Hints, "too_large"),
    ("hints_table_dropped", Shown::Hints, "table_dropped"),
    ("hints_not_a_replica", Shown::Hints, "not_a_replica"),
];

/// A series of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    Repairs,
    Detours,
    Exchanges,
    RepairKeys,
    RepairBytes,
    Collected,
    Malformed,
    Hints,
}

impl Shown {
    /// Its name, the name of its label (empty: it has none), and what it says.
    const ALL: [(Self, &'static str, &'static str, &'static str); 8] = [
        (
            Self::Repairs,
            "repairs",
            "by",
            "Sets sent to replicas that were behind, after the answer",
        ),
        (Self::Detours, "detours", "kind", "Requests that did not go the usual way"),
        (Self::Exchanges, "exchanges", "outcome", "Comparisons with peers that this node began"),
        (Self::RepairKeys, "repair_keys", "direction", "Keys that comparisons moved"),
        (Self::RepairBytes, "repair_bytes", "direction", "Bytes that comparisons moved"),
        (Self::Collected, "collected_keys", "", "Keys of which something was collected"),
        (Self::Malformed, "malformed_messages", "", "Messages that no right node sends"),
        (Self::Hints, "hints", "outcome", "Writes that replicas missed, and what became of hints"),
    ];
}

/// The series.
#[derive(Debug)]
pub(super) struct Standing {
    counters: BTreeMap<Shown, (&'static str, Counters)>,
    serving: Gauge,
    problems: Gauge,
    epoch: Gauge,
    members: Gauges,
    recovering_vnodes: Gauge,
    clock_offset_seconds: Seconds,
    round_trip_seconds: Seconds,
    keys: Gauges,
    hints_waiting: Gauges,
    hints_waiting_bytes: Gauges,
    hints_oldest_seconds: Seconds,
    scrub_ratio: Gauge<f64, std::sync::atomic::AtomicU64>,
    scrub_damage: Gauges,
    queued_bytes: Gauge,
    exchanges_running: Gauge,
    exchange_vnodes_left: Gauge,
    largest_siblings: Gauge,
    dropped_messages: Counters,
    refused_connections: Counters,
}

impl Standing {
    /// All series, in the registry too.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let counters = Shown::ALL.map(|(shown, name, label, help)| {
            let family = Counters::default();
            registry.register(name, help, family.clone());
            (shown, (label, family))
        });
        let standing = Self {
            counters: counters.into(),
            serving: Gauge::default(),
            problems: Gauge::default(),
            epoch: Gauge::default(),
            members: Gauges::default(),
            recovering_vnodes: Gauge::default(),
            clock_offset_seconds: Seconds::default(),
            round_trip_seconds: Seconds::default(),
            keys: Gauges::default(),
            hints_waiting: Gauges::default(),
            hints_waiting_bytes: Gauges::default(),
            hints_oldest_seconds: Seconds::default(),
            scrub_ratio: Gauge::default(),
            scrub_damage: Gauges::default(),
            queued_bytes: Gauge::default(),
            exchanges_running: Gauge::default(),
            exchange_vnodes_left: Gauge::default(),
            largest_siblings: Gauge::default(),
            dropped_messages: Counters::default(),
            refused_connections: Counters::default(),
        };
        standing.register(registry);
        standing.show_counters(&[]);
        standing
    }

    fn register(&self, registry: &mut Registry) {
        let gauges: [(&str, &str, &Gauge); 8] = [
            ("serving", "Whether the node serves", &self.serving),
            ("problems", "What `quoit status` says is wrong", &self.problems),
            ("cluster_epoch", "The version of the cluster record", &self.epoch),
            (
                "recovering_vnodes",
                "Vnodes for which this replica does not count yet",
                &self.recovering_vnodes,
            ),
            ("transport_queued_bytes", "Bytes waiting to be sent", &self.queued_bytes),
            ("exchanges_running", "Comparisons with peers under way", &self.exchanges_running),
            (
                "exchange_vnodes_left",
                "Vnodes that comparisons under way have not come to",
                &self.exchange_vnodes_left,
            ),
            (
                "largest_siblings",
                "Values of the key that has the most beside each other, of those met of late",
                &self.largest_siblings,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let families: [(&str, &str, &Gauges); 5] = [
            ("members", "Members as this node sees them", &self.members),
            ("keys", "Keys that this replica holds", &self.keys),
            ("hints_waiting", "Keys that wait for a node", &self.hints_waiting),
            ("hints_waiting_bytes", "Bytes of hints for a node", &self.hints_waiting_bytes),
            ("scrub_damage", "Damage that verifying has found", &self.scrub_damage),
        ];
        for (name, help, family) in families {
            registry.register(name, help, family.clone());
        }
        let seconds: [(&str, &str, &Seconds); 3] = [
            (
                "clock_offset_seconds",
                "A member's clock against this one",
                &self.clock_offset_seconds,
            ),
            ("round_trip_seconds", "To a peer and back, in the network", &self.round_trip_seconds),
            ("hints_oldest_seconds", "Age of a node's oldest hint", &self.hints_oldest_seconds),
        ];
        for (name, help, family) in seconds {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "scrub_ratio",
            "How far the pass of verifying is",
            self.scrub_ratio.clone(),
        );
        let dropped = self.dropped_messages.clone();
        registry.register("transport_dropped_messages", "Messages to peers, dropped", dropped);
        let refused = self.refused_connections.clone();
        registry.register("transport_refused_connections", "Connections not accepted", refused);
    }

    /// Takes over what the core says of itself.
    pub(super) fn show(&self, status: &NodeStatus) {
        self.show_counters(&status.counters);
        self.serving.set(i64::from(status.state != "starting"));
        self.problems.set(count(status.problems.len() as u64));
        self.epoch.set(count(status.epoch.0));
        self.recovering_vnodes.set(i64::from(status.recovering_vnodes));
        for (state, up) in [("up", true), ("down", false)] {
            let number = status.members.iter().filter(|member| member.up == up).count();
            gauge(&self.members, label("state", state), number as u64);
        }
        self.clock_offset_seconds.clear();
        for member in status.members.iter().filter(|member| member.node != status.node) {
            let seconds = member.clock_offset_ms as f64 / 1_000.0;
            second(&self.clock_offset_seconds, label("member", member.node), seconds);
        }
        let sum = |of: fn(&quoit_protocol::status::TableStatus) -> u64| {
            status.tables.iter().map(of).sum::<u64>()
        };
        gauge(&self.keys, label("kind", "live"), sum(|table| table.live_keys));
        gauge(&self.keys, label("kind", "tombstone"), sum(|table| table.tombstones));
        self.show_hints(status);
        self.scrub_ratio.set(f64::from(status.scrub.permille) / 1_000.0);
        gauge(&self.scrub_damage, label("kind", "waiting_keys"), status.scrub.waiting);
        let hidden = u64::from(status.scrub.hidden);
        gauge(&self.scrub_damage, label("kind", "hidden_places"), hidden);
    }

    /// Takes over what the core says of what goes on.
    pub(super) fn show_activity(&self, activity: &Activity) {
        let running = || activity.exchanges.iter().filter_map(|exchange| exchange.running);
        self.exchanges_running.set(count(running().count() as u64));
        let left = running().map(|exchange| u64::from(exchange.left)).sum();
        self.exchange_vnodes_left.set(count(left));
        let largest = activity.large_sets.first().map_or(0, |set| set.siblings);
        self.largest_siblings.set(i64::from(largest));
    }

    fn show_hints(&self, status: &NodeStatus) {
        let mut waiting: BTreeMap<NodeId, (u64, u64, u64)> = BTreeMap::new();
        for hints in &status.hints {
            let (number, bytes, oldest_ms) = waiting.entry(hints.target).or_default();
            *number += hints.number;
            *bytes += hints.bytes;
            *oldest_ms = (*oldest_ms).max(hints.oldest_ms);
        }
        // A node for which nothing waits any more is left out.
        self.hints_waiting.clear();
        self.hints_waiting_bytes.clear();
        self.hints_oldest_seconds.clear();
        for (target, (number, bytes, oldest_ms)) in waiting {
            let of_target = label("target", target);
            gauge(&self.hints_waiting, of_target.clone(), number);
            gauge(&self.hints_waiting_bytes, of_target.clone(), bytes);
            second(&self.hints_oldest_seconds, of_target, oldest_ms as f64 / 1_000.0);
        }
    }

    fn show_counters(&self, counts: &[(String, u64)]) {
        for (name, shown, value) in COUNTERS {
            let total = counts.iter().find(|count| count.0 == name).map_or(0, |count| count.1);
            let (name, family) = &self.counters[&shown];
            let labels = if name.is_empty() { Label::new() } else { label(name, value) };
            counter(family, labels, total);
        }
    }

    /// Takes over what the transport counts.
    pub(super) fn show_transport(&self, stats: &TransportStats) {
        self.queued_bytes.set(count(stats.queued_bytes));
        for (reason, total) in
            [("unconnected", stats.dropped_unconnected), ("full", stats.dropped_full)]
        {
            counter(&self.dropped_messages, label("reason", reason), total);
        }
        for (reason, total) in [
            ("handshake", stats.refused),
            ("too_many", stats.turned_away),
            ("shed", stats.shed),
            ("garbage", stats.garbage),
            ("not_reading", stats.cut_off),
        ] {
            counter(&self.refused_connections, label("reason", reason), total);
        }
        self.round_trip_seconds.clear();
        for (peer, took) in &stats.round_trips {
            second(&self.round_trip_seconds, label("peer", peer), took.as_secs_f64());
        }
    }
}

fn counter(family: &Counters, labels: Label, total: u64) {
    let counter = family.get_or_create_owned(&labels);
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn gauge(family: &Gauges, labels: Label, value: u64) {
    family.get_or_create_owned(&labels).set(count(value));
}

fn second(family: &Seconds, labels: Label, value: f64) {
    family.get_or_create_owned(&labels).set(value);
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
