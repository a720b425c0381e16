use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use quoit_ring::{
    ClusterId, ConfigurationNumber, ConflictPolicy, Epoch, Member, RingKey, Table, VnodeCount,
    WallTime, Zone,
};
use quoit_storage::store::{self, Change, Mutation, Opened, Outcome, StandIn, StoreOptions};
use quoit_storage::twin::disk::TwinDisk;
use quoit_storage::twin::engine::TwinTables;
use quoit_storage::version::{Actor, Dot, VersionVector};

use super::*;

/// Two members, both primaries of everything, and one table of siblings.
fn record() -> ClusterRecord {
    let member = |id: u16| Member {
        id: NodeId(u64::from(id)),
        address: SocketAddr::from(([127, 0, 0, 1], 7_400 + id)),
        zone: Zone { datacenter: "d".into(), rack: format!("r{id}") },
        capacity: 1,
    };
    let options = TableOptions {
        replication: 2,
        policy: ConflictPolicy::Siblings,
        sloppy: true,
        ..TableOptions::default()
    };
    ClusterRecord {
        cluster: ClusterId(1),
        epoch: Epoch(1),
        ring_key: RingKey(1, 2),
        vnodes: VnodeCount::new(4).unwrap(),
        members: vec![member(1), member(2)],
        owners: vec![vec![0, 1]; 4],
        configurations: vec![ConfigurationNumber(1); 4],
        tables: vec![Table { id: TableId(1), name: "t".into(), options }],
        table_id_next: TableId(2),
        voters: vec![NodeId(1), NodeId(2)],
        incarnations: Vec::new(),
    }
}

struct Node {
    id: NodeId,
    tables: TwinTables,
    opened: Opened,
}

impl Node {
    fn new(id: u64) -> Self {
        let tables = TwinTables::new();
        let (disk, engine) = (Arc::new(TwinDisk::new(id)), Arc::new(tables.open()));
        let options = StoreOptions { vnodes: record().vnodes, ..StoreOptions::default() };
        let opened = store::open(disk, engine, options, None, id).unwrap();
        Self { id: NodeId(id), tables, opened }
    }

    fn write(&mut self, mutation: Mutation) {
        let outcome = self.opened.writer.prepare(mutation);
        assert!(matches!(outcome, Outcome::Merged(_)), "{outcome:?}");
        self.opened.writer.commit().unwrap();
    }

    fn take(&mut self, primary: u64, mutation: Mutation) {
        let (primary, time) = (NodeId(primary), HybridTime(1));
        let (outcome, _) = self.opened.writer.stand_in(StandIn { primary, time, mutation });
        assert!(matches!(outcome, Outcome::Merged(_)), "{outcome:?}");
        self.opened.writer.commit().unwrap();
    }

    fn freeze(mut self) -> Source {
        let from = self.opened.writer.begin_freeze().unwrap();
        let hold = || Ok(self.tables.copy());
        let (flushed, tables) = self.opened.maintainer.freeze(from, hold).unwrap().unwrap();
        Source { node: self.id, frozen: Frozen::open(Arc::new(tables.open()), &flushed).unwrap() }
    }
}

fn stored(key: &str) -> StoredKey {
    StoredKey::new(record().token(key.as_bytes()), TableId(1), key.as_bytes(), b"").unwrap()
}

/// A write at a time by an actor, under a context.
fn write(key: &str, time: u64, value: Option<&str>, seen: &[(u64, u64)], expires: u64) -> Mutation {
    let key = stored(key);
    let dot = Dot { time: HybridTime(time), actor: Actor(time) };
    let content = value.map_or(Content::Tombstone, |value| {
        let bytes = Bytes::copy_from_slice(value.as_bytes());
        let checksum = quoit_protocol::value_checksum(key.token(), &bytes);
        Content::Value { bytes, checksum }
    });
    let expires = (expires > 0).then(|| HybridTime::at(WallTime(expires)));
    let context =
        VersionVector::new(seen.iter().map(|(actor, time)| (Actor(*actor), HybridTime(*time))));
    let change = Change::Write { context, version: Version { dot, content, expires } };
    let (policy, values) = (ConflictPolicy::Siblings, Vec::new());
    Mutation { key, replication: 2, policy, change, values }
}

fn merged(sources: &[Source], now_ms: u64) -> (BTreeMap<String, Vec<String>>, Passed) {
    let record = record();
    let mut merge = Merge::new(sources, &record);
    let mut found = BTreeMap::new();
    while let Some(row) = merge.next(HybridTime::at(WallTime(now_ms)), &|_| true).unwrap() {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let mut values: Vec<_> = row.values.iter().map(|value| text(&value.bytes)).collect();
        values.sort();
        assert_eq!(found.insert(text(&row.key.partition), values), None, "each key comes once");
    }
    (found, merge.passed)
}

#[test]
fn what_the_nodes_hold_is_merged_by_what_each_has_seen() {
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    // Concurrent on both; replaced on one; deleted on one; expiring; taken in another's place.
    one.write(write("both", 1, Some("a"), &[], 0));
    two.write(write("both", 2, Some("b"), &[], 0));
    one.write(write("replaced", 3, Some("old"), &[], 0));
    two.write(write("replaced", 4, Some("new"), &[(3, 3)], 0));
    two.write(write("deleted", 5, Some("old"), &[], 0));
    one.write(write("deleted", 6, None, &[(5, 5)], 0));
    one.write(write("expiring", 7, Some("soon"), &[], 1_000));
    one.take(2, write("taken", 8, Some("for another"), &[], 0));
    one.take(2, write("both", 9, Some("c"), &[(2, 2)], 0));
    let sources = [one.freeze(), two.freeze()];
    let (found, passed) = merged(&sources, 999);
    let expected = [
        ("both", &["a", "c"][..]),
        ("replaced", &["new"]),
        ("expiring", &["soon"]),
        ("taken", &["for another"]),
    ];
    let expected = expected
        .map(|(key, values)| (key.to_owned(), values.iter().map(ToString::to_string).collect()));
    assert_eq!(found, expected.into());
    assert_eq!(passed, Passed { gone: 1, ..Passed::default() });
    let (found, passed) = merged(&sources, 1_001);
    assert!(!found.contains_key("expiring") && passed.gone == 2);
    let record = record();
    let live = |key: &'static str| {
        let key = Key { partition: Bytes::from_static(key.as_bytes()), sort: Bytes::new() };
        is_live(&sources, &record, &record.tables[0], &key, HybridTime::at(WallTime(999))).unwrap()
    };
    assert!(live("both") && live("taken") && !live("deleted") && !live("never written"));
}
