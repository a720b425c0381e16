//! The whole cluster as it is just now, out of what each member says of itself: what `quoit top` shows
//! and what a node's page draws.
//!
//! Rates are added up over the nodes. Times are not: of two nodes' medians there is none of both, so the
//! cluster's are those of the slowest node, which is what somebody who waits wants to know.

use std::collections::BTreeMap;
use std::time::Duration;

use quoit_client::Client;
use quoit_protocol::activity::{Activity, OperationActivity, ShownKey, SlowKey};
use quoit_protocol::status::NodeStatus;
use quoit_ring::{ClusterRecord, NodeId};
use serde_json::{Map, Value, json};

use crate::hints;
use crate::output::put_bytes;
use crate::ring::{Share, share_json, shares};
use crate::status::ClusterView;

/// So many hot keys, and as many large sets, are shown of the whole cluster.
const KEYS_MAX: usize = 20;

/// The whole cluster as it is just now.
pub struct Picture {
    pub(crate) view: ClusterView,
    pub(crate) operations: Vec<OperationActivity>,
    pub(crate) hot_keys: Vec<HotKeyRow>,
    pub(crate) large_sets: Vec<LargeSetRow>,
    pub(crate) slow_keys: Vec<SlowKeyRow>,
}

/// A key that is asked for often, over all nodes.
pub(crate) struct HotKeyRow {
    pub(crate) key: ShownKey,
    pub(crate) per_second: u64,
    pub(crate) writes_per_second: u64,
    /// Who coordinates them.
    pub(crate) nodes: Vec<NodeId>,
}

/// A key with many siblings.
pub(crate) struct LargeSetRow {
    pub(crate) key: ShownKey,
    pub(crate) siblings: u32,
    pub(crate) bytes: u64,
    pub(crate) age_ms: u64,
}

/// A key of which a request took long.
pub(crate) struct SlowKeyRow {
    pub(crate) slow: SlowKey,
    /// Who coordinated it.
    pub(crate) node: NodeId,
}

impl Picture {
    /// Asks every member at once; one that does not answer within `patience` is shown as silent.
    pub async fn take(client: &Client, patience: Duration) -> Self {
        let (view, _) = ClusterView::ask_activity(client, patience).await;
        Self::of(view)
    }

    pub(crate) fn of(view: ClusterView) -> Self {
        let activities = || {
            let of = |(id, status): (&NodeId, &NodeStatus)| {
                Some((*id, (**status.activity.as_ref()?).clone()))
            };
            view.answers.iter().filter_map(of).collect::<Vec<(NodeId, Activity)>>()
        };
        let activities = activities();
        let (operations, hot_keys, large_sets) =
            (operations(&activities), hot_keys(&activities), large_sets(&activities));
        let slow_keys = slow_keys(&activities);
        Self { view, operations, hot_keys, large_sets, slow_keys }
    }

    /// The record that it is about.
    pub fn record(&self) -> &ClusterRecord {
        &self.view.record
    }

    /// All of it, for programs and for the page.
    pub fn json(&self) -> Value {
        let record = self.record();
        let nodes = record.members.iter().zip(shares(record));
        let nodes: Vec<Value> =
            nodes.map(|(member, share)| self.node_json(member, &share)).collect();
        let hot_keys = self.hot_keys.iter().map(|hot| {
            let mut row = self.key_json(&hot.key);
            row.insert("per_second".into(), hot.per_second.into());
            row.insert("writes_per_second".into(), hot.writes_per_second.into());
            row.insert("nodes".into(), names(&hot.nodes));
            Value::Object(row)
        });
        let large_sets = self.large_sets.iter().map(|set| {
            let mut row = self.key_json(&set.key);
            row.insert("siblings".into(), set.siblings.into());
            row.insert("bytes".into(), set.bytes.into());
            row.insert("age_ms".into(), set.age_ms.into());
            Value::Object(row)
        });
        let slow_keys = self.slow_keys.iter().map(|row| {
            let mut shown = self.key_json(&row.slow.key);
            shown.insert("operation".into(), row.operation().into());
            shown.insert("took_us".into(), row.slow.took_us.into());
            shown.insert("age_ms".into(), row.slow.age_ms.into());
            shown.insert("node".into(), row.node.to_string().into());
            Value::Object(shown)
        });
        let problems: Vec<Value> =
            self.view.problems().iter().map(crate::problem::Problem::json).collect();
        json!({
            "cluster": record.cluster.to_string(),
            "epoch": record.epoch.0,
            "vnode_count": record.vnodes.get(),
            "problems": problems,
            "operations": operations_json(&self.operations),
            "nodes": nodes,
            "hot_keys": hot_keys.collect::<Vec<_>>(),
            "large_sets": large_sets.collect::<Vec<_>>(),
            "slow_keys": slow_keys.collect::<Vec<_>>(),
            "hints": self.hints_json(),
            "exchanges": self.exchanges_json(),
        })
    }

    fn node_json(&self, member: &quoit_ring::Member, share: &Share) -> Value {
        let status = self.view.answers.get(&member.id);
        let measured = self.measured(member.id);
        let table_sum = |of: fn(&quoit_protocol::status::TableStatus) -> u64| {
            status.map(|status| status.tables.iter().map(of).sum::<u64>())
        };
        let mut node = share_json(member, share);
        let now = json!({
            "state": self.view.state(member.id),
            "up": status.is_some(),
            "silence": self.view.silent.get(&member.id),
            "version": status.map(|status| &status.version),
            "uptime_ms": status.map(|status| status.uptime_ms),
            "epoch": status.map(|status| status.epoch.0),
            "recovering_vnodes": status.map(|status| status.recovering_vnodes),
            "scrub_permille": status.map(|status| status.scrub.permille),
            "live_keys": table_sum(|table| table.live_keys),
            "tombstones": table_sum(|table| table.tombstones),
            "data_bytes": table_sum(|table| table.bytes),
            "disk_bytes": status.map(|status| status.storage.disk_bytes),
            "memory_bytes": status.map(|status| status.storage.memory_bytes),
            "resident_bytes": measured.map(|measured| measured.resident_bytes),
            "clients": measured.map(|measured| measured.clients),
            "in_flight": measured.map(|measured| measured.in_flight),
            "queued_bytes": measured.map(|measured| measured.queued_bytes),
            "busy_permille": measured.map(|measured| measured.busy_permille),
            "sync_p50_us": measured.map(|measured| measured.sync_p50_us),
            "sync_p99_us": measured.map(|measured| measured.sync_p99_us),
            "operations": measured.map(|measured| operations_json(&measured.operations)),
            "round_trips_us": measured.map(|measured| measured.round_trips_us.iter()
                .map(|(peer, took)| (peer.to_string(), *took))
                .collect::<BTreeMap<_, _>>()),
            "clock_offsets_ms": status.map(|status| status.members.iter()
                .map(|member| (member.node.to_string(), member.clock_offset_ms))
                .collect::<BTreeMap<_, _>>()),
        });
        if let (Value::Object(node), Value::Object(now)) = (&mut node, now) {
            node.extend(now);
        }
        node
    }

    /// What the program around a node's core measures.
    pub(crate) fn measured(&self, node: NodeId) -> Option<&quoit_protocol::activity::Measured> {
        Some(&self.view.answers.get(&node)?.activity.as_ref()?.measured)
    }

    /// A table's name, or its number where the record does not know it.
    pub(crate) fn table_name(&self, key: &ShownKey) -> String {
        let table = self.record().table_by_id(key.table);
        table.map_or_else(|| format!("table {}", key.table.0), |table| table.name.clone())
    }

    fn key_json(&self, shown: &ShownKey) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("table".into(), self.table_name(shown).into());
        put_bytes(&mut row, "key", &shown.key.partition);
        if !shown.key.sort.is_empty() {
            put_bytes(&mut row, "sort", &shown.key.sort);
        }
        row.insert("is_cut".into(), shown.is_cut.into());
        row.insert("vnode".into(), shown.vnode.0.into());
        row
    }

    fn hints_json(&self) -> Vec<Value> {
        let of_node = |(keeper, status): (&NodeId, &NodeStatus)| {
            let keeper = keeper.to_string();
            let row = move |hint| {
                let mut row = hints::hint_json(hint);
                row["kept_by"] = keeper.clone().into();
                row
            };
            status.hints.iter().map(row).collect::<Vec<_>>()
        };
        self.view.answers.iter().flat_map(of_node).collect()
    }

    /// Exchanges that are under way, or whose last one failed.
    fn exchanges_json(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        for (node, status) in &self.view.answers {
            let Some(activity) = &status.activity else { continue };
            for exchange in &activity.exchanges {
                if exchange.running.is_none() && exchange.failure.is_none() {
                    continue;
                }
                rows.push(json!({
                    "node": node.to_string(),
                    "peer": exchange.peer.to_string(),
                    "failure": exchange.failure,
                    "vnodes": exchange.running.map(|running| running.vnodes),
                    "left": exchange.running.map(|running| running.left),
                    "keys": exchange.running.map(|running| running.keys),
                    "bytes": exchange.running.map(|running| running.bytes),
                }));
            }
        }
        rows
    }
}

impl SlowKeyRow {
    /// `read` or `write`.
    pub(crate) fn operation(&self) -> &'static str {
        if self.slow.is_write { "write" } else { "read" }
    }
}

fn names(nodes: &[NodeId]) -> Value {
    nodes.iter().map(NodeId::to_string).collect()
}

fn operations_json(operations: &[OperationActivity]) -> Value {
    let row = |operation: &OperationActivity| {
        json!({
            "name": operation.name,
            "per_second": operation.per_second,
            "failed_per_second": operation.failed_per_second,
            "p50_us": operation.p50_us,
            "p99_us": operation.p99_us,
            "max_us": operation.max_us,
        })
    };
    operations.iter().map(row).collect()
}

/// Rates added up; times of the slowest node.
fn operations(activities: &[(NodeId, Activity)]) -> Vec<OperationActivity> {
    let mut all: Vec<OperationActivity> = Vec::new();
    for operation in activities.iter().flat_map(|(_, activity)| &activity.measured.operations) {
        match all.iter_mut().find(|known| known.name == operation.name) {
            None => all.push(operation.clone()),
            Some(known) => {
                known.per_second += operation.per_second;
                known.failed_per_second += operation.failed_per_second;
                known.p50_us = known.p50_us.max(operation.p50_us);
                known.p99_us = known.p99_us.max(operation.p99_us);
                known.max_us = known.max_us.max(operation.max_us);
            }
        }
    }
    all
}

fn hot_keys(activities: &[(NodeId, Activity)]) -> Vec<HotKeyRow> {
    let mut rows: BTreeMap<&ShownKey, HotKeyRow> = BTreeMap::new();
    for (node, activity) in activities {
        for hot in &activity.hot_keys {
            let row = rows.entry(&hot.key).or_insert_with(|| HotKeyRow {
                key: hot.key.clone(),
                per_second: 0,
                writes_per_second: 0,
                nodes: Vec::new(),
            });
            row.per_second += hot.per_second;
            // Thousandths yet: a node's own may be less than one.
            row.writes_per_second += hot.per_second * u64::from(hot.writes_permille);
            row.nodes.push(*node);
        }
    }
    let mut rows: Vec<HotKeyRow> = rows.into_values().collect();
    for row in &mut rows {
        row.writes_per_second /= 1_000;
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.per_second));
    rows.truncate(KEYS_MAX);
    rows
}

/// Of nodes that met the same key, what was met last.
fn large_sets(activities: &[(NodeId, Activity)]) -> Vec<LargeSetRow> {
    let mut rows: BTreeMap<&ShownKey, LargeSetRow> = BTreeMap::new();
    for set in activities.iter().flat_map(|(_, activity)| &activity.large_sets) {
        let row = LargeSetRow {
            key: set.key.clone(),
            siblings: set.siblings,
            bytes: set.bytes,
            age_ms: set.age_ms,
        };
        match rows.get(&set.key) {
            Some(known) if known.age_ms <= row.age_ms => {}
            Some(_) | None => drop(rows.insert(&set.key, row)),
        }
    }
    let mut rows: Vec<LargeSetRow> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.siblings, row.bytes)));
    rows.truncate(KEYS_MAX);
    rows
}

fn slow_keys(activities: &[(NodeId, Activity)]) -> Vec<SlowKeyRow> {
    let of_node = |(node, activity): &(NodeId, Activity)| {
        let node = *node;
        activity
            .slow_keys
            .iter()
            .cloned()
            .map(move |slow| SlowKeyRow { slow, node })
            .collect::<Vec<_>>()
    };
    let mut rows: Vec<SlowKeyRow> = activities.iter().flat_map(of_node).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.slow.took_us));
    rows.truncate(KEYS_MAX);
    rows
}

#[cfg(test)]
mod tests {
    use quoit_protocol::activity::{HotKey, LargeSet, Measured};
    use quoit_ring::{TableId, VnodeIndex};

    use super::*;
    use crate::sample;

    fn key(name: &[u8]) -> ShownKey {
        ShownKey::new(TableId(2), VnodeIndex(3), name, b"")
    }

    fn status(id: u64, per_second: u64, p99_us: u64, age_ms: u64) -> NodeStatus {
        let operation = OperationActivity {
            name: "get".into(),
            per_second,
            p99_us,
            ..OperationActivity::default()
        };
        let hot =
            |name: &[u8], per_second| HotKey { key: key(name), per_second, writes_permille: 500 };
        let activity = Activity {
            hot_keys: vec![hot(b"a", per_second), hot(b"\xff", 1)],
            large_sets: vec![LargeSet { key: key(b"a"), siblings: id as u32, bytes: 9, age_ms }],
            exchanges: Vec::new(),
            slow_keys: vec![SlowKey {
                key: key(b"a"),
                is_write: true,
                took_us: 10_000 * id,
                age_ms,
            }],
            measured: Measured { operations: vec![operation], ..Measured::default() },
        };
        NodeStatus { activity: Some(Box::new(activity)), ..sample::status(id, &[]) }
    }

    fn picture() -> Picture {
        let answers = [status(1, 100, 900, 5), status(2, 50, 2_000, 3)];
        Picture::of(ClusterView {
            record: sample::record().into(),
            answers: answers.map(|status| (status.node, status)).into(),
            silent: [(NodeId(3), "no answer".to_owned())].into(),
        })
    }

    #[test]
    fn rates_are_added_and_times_are_the_slowest() {
        let json = picture().json();
        assert_eq!(json["operations"][0]["per_second"], 150);
        assert_eq!(json["operations"][0]["p99_us"], 2_000);
        assert_eq!(json["hot_keys"][0]["per_second"], 150);
        assert_eq!(json["hot_keys"][0]["writes_per_second"], 75);
        assert_eq!(json["hot_keys"][0]["nodes"], json!(["n1", "n2"]));
        assert_eq!(json["hot_keys"][0]["table"], "carts");
        assert_eq!(json["hot_keys"][1]["key_base64"], "/w==");
        assert_eq!(json["nodes"][2]["state"], "no answer");
        assert_eq!(json["nodes"][0]["vnodes_first"], 2);
    }

    #[test]
    fn of_a_set_that_several_have_met_the_latest_word_counts() {
        let json = picture().json();
        assert_eq!(json["large_sets"].as_array().unwrap().len(), 1);
        assert_eq!(json["large_sets"][0]["siblings"], 2);
        // Of requests each is one.
        assert_eq!(json["slow_keys"].as_array().unwrap().len(), 2);
        assert_eq!(json["slow_keys"][0]["node"], "n2");
    }
}
