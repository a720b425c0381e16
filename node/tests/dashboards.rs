//! The dashboard and the alert rules speak only of series that a node really has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use quoit_node::metrics::Metrics;
use quoit_node::transport::TransportStats;
use quoit_protocol::status::{
    HintStatus, MemberStatus, NodeStatus, ScrubStatus, StorageStatus, TableStatus,
};
use quoit_ring::{Epoch, NodeId, TableId};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a node says that has another one, and keeps hints for it: series of a peer are there while
/// the peer is.
fn status() -> NodeStatus {
    let member = |node, up| MemberStatus { node: NodeId(node), up, clock_offset_ms: -1_500 };
    NodeStatus {
        node: NodeId(1),
        state: "degraded".to_owned(),
        problems: vec!["one".to_owned()],
        epoch: Epoch(7),
        boot_count: 1,
        uptime_ms: 1,
        version: String::new(),
        members: vec![member(1, true), member(2, false)],
        tables: vec![TableStatus { table: TableId(1), live_keys: 5, tombstones: 2, bytes: 9 }],
        storage: StorageStatus::default(),
        counters: vec![("hints_delivered".to_owned(), 3), ("collected".to_owned(), 4)],
        incarnation: 1,
        replica_vnodes: 8,
        recovering_vnodes: 0,
        hints: vec![HintStatus {
            target: NodeId(2),
            is_data: false,
            number: 6,
            bytes: 60,
            oldest_ms: 2_500,
            per_second: 0,
        }],
        scrub: ScrubStatus { permille: 250, ..ScrubStatus::default() },
        repair: None,
        activity: None,
    }
}

fn text() -> String {
    let metrics = Metrics::new();
    metrics.set_status(&status());
    metrics.set_certificates(vec![("node", UNIX_EPOCH)]);
    metrics.set_transport(&TransportStats {
        round_trips: vec![(NodeId(2), Duration::from_micros(150))],
        ..TransportStats::default()
    });
    metrics.text()
}

#[test]
fn a_status_is_shown_in_base_units() {
    let text = text();
    for line in [
        "quoit_serving 1",
        "quoit_problems 1",
        "quoit_cluster_epoch 7",
        "quoit_members{state=\"down\"} 1",
        "quoit_clock_offset_seconds{member=\"n2\"} -1.5",
        "quoit_round_trip_seconds{peer=\"n2\"} 0.00015",
        "quoit_keys{kind=\"tombstone\"} 2",
        "quoit_hints_total{outcome=\"delivered\"} 3",
        "quoit_hints_waiting{target=\"n2\"} 6",
        "quoit_hints_oldest_seconds{target=\"n2\"} 2.5",
        "quoit_scrub_ratio 0.25",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn what_waits_for_nobody_is_not_shown() {
    let metrics = Metrics::new();
    metrics.set_status(&status());
    metrics.set_status(&NodeStatus { hints: Vec::new(), ..status() });
    assert!(!metrics.text().contains("target=\"n2\""), "{}", metrics.text());
}

/// Every name that a query may use, by what `/metrics` says of each series' type.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text().lines() {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let endings: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        names.extend(endings.iter().map(|ending| format!("{name}{ending}")));
    }
    names
}

/// The series that a text names.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c == '_' || c.is_ascii_alphanumeric()))
        .filter(|word| word.starts_with("quoit_"))
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn what_they_name_is_exported() {
    let exported = exported();
    assert!(exported.contains("quoit_requests_total"), "{exported:?}");
    for name in ["quoit.json", "alerts.yml"] {
        let named = named(&read(name));
        assert!(named.len() > 8, "{name} names {named:?}");
        let missing: Vec<_> = named.difference(&exported).collect();
        assert!(missing.is_empty(), "{name} names series that no node has: {missing:?}");
    }
}

#[test]
fn a_name_that_nobody_exports_is_found() {
    let planted = named("sum(rate(quoit_request_total[5m]))");
    assert_eq!(planted.difference(&exported()).count(), 1);
}

#[test]
fn names_follow_the_conventions() {
    for name in exported() {
        let units = ["_milliseconds", "_ms", "_micros", "_kib", "_mib", "_percent"];
        assert!(!units.iter().any(|unit| name.contains(unit)), "{name} has no base unit");
        assert!(name.starts_with("quoit_") && !name.contains("total_total"), "{name}");
    }
}

#[test]
fn the_dashboard_is_json_with_a_query_in_each_panel() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("quoit.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() > 20);
    for panel in panels {
        let targets = panel["targets"].as_array().expect("queries");
        assert!(targets.iter().all(|target| target["expr"].is_string()), "{}", panel["title"]);
    }
}
