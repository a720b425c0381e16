//! A small cluster for the tests of what is shown.

use std::net::SocketAddr;

use quoit_protocol::activity::{Activity, HotKey, LargeSet, Measured, OperationActivity, ShownKey};
use quoit_protocol::status::{MemberStatus, NodeStatus, StorageStatus, TableStatus};
use quoit_ring::{
    ClusterId, ClusterRecord, ConfigurationNumber, ConflictPolicy, Epoch, Level, Member, NodeId,
    RingKey, Table, TableId, TableOptions, VnodeCount, VnodeIndex, Zone,
};

use crate::picture::Picture;
use crate::status::ClusterView;

/// Three members, four virtual nodes, two tables.
pub(crate) fn record() -> ClusterRecord {
    let member = |id: u16| Member {
        id: NodeId(u64::from(id)),
        address: SocketAddr::from(([127, 0, 0, 1], 7_400 + id)),
        zone: Zone { datacenter: "local".into(), rack: format!("rack{id}") },
        capacity: 1,
    };
    let carts = TableOptions {
        write_level: Level::All,
        policy: ConflictPolicy::Siblings,
        ttl_ms: Some(5_400_000),
        ..TableOptions::default()
    };
    ClusterRecord {
        cluster: ClusterId(42),
        epoch: Epoch(7),
        ring_key: RingKey(1, 2),
        vnodes: VnodeCount::new(4).expect("a power of two"),
        members: (1..=3).map(member).collect(),
        owners: vec![vec![0, 1], vec![1, 2], vec![2, 0], vec![0, 1]],
        configurations: [1, 1, 1, 2].map(ConfigurationNumber).to_vec(),
        tables: vec![
            Table { id: TableId(1), name: "unicode".into(), options: TableOptions::default() },
            Table { id: TableId(2), name: "carts".into(), options: carts },
        ],
        table_id_next: TableId(3),
        voters: (1..=3).map(NodeId).collect(),
        incarnations: Vec::new(),
    }
}

/// What a node without troubles says; it sees the nodes in `down` as down.
pub(crate) fn status(id: u64, down: &[u64]) -> NodeStatus {
    let member = |member: u64| MemberStatus {
        node: NodeId(member),
        up: !down.contains(&member),
        clock_offset_ms: 0,
    };
    NodeStatus {
        node: NodeId(id),
        state: "serving".into(),
        problems: Vec::new(),
        epoch: Epoch(7),
        boot_count: 1,
        incarnation: 9,
        replica_vnodes: 3,
        recovering_vnodes: 0,
        hints: Vec::new(),
        scrub: Default::default(),
        repair: None,
        activity: None,
        uptime_ms: 65_000,
        version: "0.1.0".into(),
        members: (1..=3).map(member).collect(),
        tables: vec![TableStatus {
            table: TableId(1),
            live_keys: 34_924,
            tombstones: 3,
            bytes: 1 << 21,
        }],
        storage: StorageStatus {
            disk_bytes: 3 << 20,
            memory_bytes: 512,
            log_sequence: 99,
            unreadable: 0,
        },
        counters: Vec::new(),
    }
}

/// Two nodes that work, and one that is down.
pub(crate) fn picture() -> Picture {
    let key = ShownKey::new(TableId(2), VnodeIndex(3), b"alice", b"");
    let operation = |name: &str, per_second| OperationActivity {
        name: name.into(),
        per_second,
        failed_per_second: 0,
        p50_us: 300,
        p99_us: 1_250,
        max_us: 20_000,
    };
    let activity = Activity {
        hot_keys: vec![HotKey { key: key.clone(), per_second: 900, writes_permille: 100 }],
        large_sets: vec![LargeSet { key, siblings: 5, bytes: 2_048, age_ms: 61_000 }],
        exchanges: Vec::new(),
        slow_keys: Vec::new(),
        measured: Measured {
            operations: vec![operation("get", 1_200), operation("put", 30)],
            in_flight: 3,
            resident_bytes: 80 << 20,
            busy_permille: 125,
            sync_p99_us: 90,
            ..Measured::default()
        },
    };
    let active = |id| NodeStatus { activity: Some(Box::new(activity.clone())), ..status(id, &[3]) };
    Picture::of(ClusterView {
        record: record().into(),
        answers: [1, 2].map(|id| (NodeId(id), active(id))).into(),
        silent: [(NodeId(3), "no answer within 9 ms".into())].into(),
    })
}
