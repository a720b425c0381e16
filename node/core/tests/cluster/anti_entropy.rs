//! Anti-entropy: replicas become equal without a single read, whatever one of them has missed.

use bytes::{Bytes, BytesMut};
use quoit_core::peer::{
    CompareNodes, CompareRoots, PeerMessage, Push, Reconcile, Refusal, RepairHead, RootsCompared,
};
use quoit_core::{CoreConfig, Effect, Event};
use quoit_protocol::{AskRepair, ClientResponse};
use quoit_ring::{
    ConflictPolicy, Epoch, HybridTime, Level, NodeId, TableId, TableOptions, VnodeIndex,
};
use quoit_storage::layout::vnode_range;

use crate::world::{Put, World, delete, node, options, put};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];

fn often(config: &mut CoreConfig) {
    config.repair_interval_ms = 2_000;
}

fn world(seed: u64, policy: ConflictPolicy) -> (World, TableId) {
    let mut world = World::with(seed, 3, often);
    world.form();
    let table = world.table("t", options(policy));
    (world, table)
}

fn named(number: usize) -> &'static str {
    Box::leak(format!("key {number}").into_boxed_str())
}

fn quorum(key: &'static str, value: &str) -> Put {
    Put { level: Some(Level::Quorum), ..put(key, value) }
}

/// Whether all nodes hold the same under all keys.
fn are_equal(world: &mut World, table: TableId, keys: &[&str]) -> bool {
    keys.iter().all(|key| {
        let held = world.stored(node(1), table, key);
        [2, 3].iter().all(|other| world.stored(node(*other), table, key) == held)
    })
}

fn expect_equal(world: &mut World, table: TableId, keys: &[&str]) {
    for _ in 0..30 {
        if are_equal(world, table, keys) {
            return;
        }
        world.run_ms(1_000);
    }
    panic!("the replicas do not become equal");
}

#[test]
fn a_replica_that_was_away_is_filled_without_a_read() {
    for policy in POLICIES {
        let (mut world, table) = world(1, policy);
        let keys: Vec<_> = (0..300).map(named).collect();
        for key in &keys[..200] {
            world.put(node(1), table, quorum(key, "before")).expect("all are up");
        }
        world.crash(node(3), true);
        for key in &keys[100..] {
            world.put(node(1), table, quorum(key, "meanwhile")).expect("two are up");
        }
        world
            .put(node(2), table, Put { level: Some(Level::Quorum), ..delete(keys[5]) })
            .expect("two are up");
        world.heal();
        expect_equal(&mut world, table, &keys);
        let counters = [1, 2, 3].map(|id| world.core(node(id)).counters());
        assert_eq!(counters.iter().map(|it| it.reads).sum::<u64>(), 0);
        assert_eq!(counters.iter().map(|it| it.malformed + it.failed_exchanges).sum::<u64>(), 0);
        world.end();
    }
}

#[test]
fn each_brings_the_other_what_it_lacks() {
    for policy in POLICIES {
        let (mut world, table) = world(2, policy);
        let keys: Vec<_> = (0..60).map(named).collect();
        // Every node takes writes that no other hears of.
        for id in [1, 2, 3] {
            world.isolate(node(id));
        }
        for (at, key) in keys.iter().enumerate() {
            let one = Put { level: Some(Level::One), ..put(key, "alone") };
            world.put(node(1 + at as u64 % 3), table, one).expect("itself is up");
        }
        world.heal();
        expect_equal(&mut world, table, &keys);
        for key in &keys {
            assert!(world.stored(node(2), table, key).is_some_and(|set| !set.is_empty()), "{key}");
        }
        world.end();
    }
}

#[test]
fn long_values_travel_with_their_sets() {
    let (mut world, table) = world(3, ConflictPolicy::Siblings);
    let keys: Vec<_> = (0..5).map(named).collect();
    world.isolate(node(3));
    for key in &keys {
        world.put(node(1), table, quorum(key, &"long ".repeat(60_000))).expect("two are up");
    }
    world.heal();
    expect_equal(&mut world, table, &keys);
    for key in &keys {
        let request = world.send_get(node(3), table, key, Level::One);
        let got = world.got(request).expect("it has all");
        assert_eq!(got.siblings[0].value.len(), 300_000);
    }
    world.end();
}

#[test]
fn replicas_become_equal_through_crashes_in_the_middle_and_writes_meanwhile() {
    for seed in 10..20 {
        let (mut world, table) = world(seed, POLICIES[seed as usize % 2]);
        let keys: Vec<_> = (0..120).map(named).collect();
        world.isolate(node(3));
        for key in &keys {
            world.put(node(1), table, quorum(key, "a value")).expect("two are up");
        }
        world.heal();
        for round in 0..20 {
            world.run_ms(300);
            let key = keys[world.random.below(120) as usize];
            let at = node(1 + round % 3);
            let _ = world.put(at, table, quorum(key, "meanwhile"));
            match world.random.below(4) {
                0 => {
                    let victim = node(1 + world.random.below(3));
                    world.crash(victim, true);
                    world.heal();
                }
                1 => world.shake(node(1), node(3)),
                _ => {}
            }
        }
        expect_equal(&mut world, table, &keys);
        world.end();
    }
}

#[test]
fn a_damaged_key_that_nobody_reads_is_rebuilt() {
    let (mut world, table) = world(4, ConflictPolicy::Latest);
    let keys: Vec<_> = (0..20).map(named).collect();
    for key in &keys {
        world
            .put(node(1), table, Put { level: Some(Level::All), ..put(key, "v") })
            .expect("all are up");
    }
    // In a leaf that differs anyway: damage that no digest tells of is what scrubbing is for.
    world.damage(node(2), table, keys[7]);
    let _ = world.put(node(1), table, Put { level: Some(Level::All), ..put(keys[7], "w") });
    expect_equal(&mut world, table, &keys);
    world.end();
}

/// The bytes of all messages of exchanges since the last question.
fn exchanged(world: &mut World) -> usize {
    let bytes = |effect: &Effect| match effect {
        Effect::ToPeer { request, message, .. } if (146..=153).contains(&message.kind()) => {
            let mut frame = BytesMut::new();
            message.put(*request, &mut frame);
            frame.len()
        }
        _ => 0,
    };
    let seen = world.seen.replace(Vec::new()).unwrap_or_default();
    seen.iter().map(|(_, effect)| bytes(effect)).sum()
}

fn exchanges(world: &World) -> u64 {
    world.ids().into_iter().map(|id| world.core(id).counters().exchanges).sum()
}

/// Of two nodes with 1,024 virtual nodes, the bytes of one exchange between them.
fn bytes_of_one_exchange(world: &mut World) -> usize {
    exchanged(world);
    let before = exchanges(world);
    world.run_until("an exchange", |world| exchanges(world) > before);
    exchanged(world)
}

#[test]
fn what_an_exchange_costs_on_the_wire() {
    fn seldom(config: &mut CoreConfig) {
        config.repair_interval_ms = if config.node == NodeId(1) { 20_000 } else { 0 };
    }
    let mut world = World::sized(5, 2, 1_024, seldom);
    world.form();
    let two = TableOptions { replication: 2, ..options(ConflictPolicy::Latest) };
    let table = world.table("t", two);
    world.seen = Some(Vec::new());
    let bytes = bytes_of_one_exchange(&mut world);
    eprintln!("{bytes} bytes of equal replicas");
    assert!(bytes < 32 << 10, "of equal replicas");

    // Of ten million keys those that share one leaf of the 2^16, which are all that is looked at of
    // them; the other leaves are equal, and so not gone down to.
    let ring_key = world.record(node(1)).ring_key;
    let in_leaf = |number: &usize| ring_key.token(format!("key {number}").as_bytes()).0 >> 48 == 77;
    let keys: Vec<_> = (0..10_000_000).filter(in_leaf).map(named).collect();
    assert!(keys.len() > 100);
    for key in &keys {
        let all = Put { level: Some(Level::All), ..put(key, &"v".repeat(1_000)) };
        world.put(node(1), table, all).expect("both are up");
    }
    world.isolate(node(2));
    let one = Put { level: Some(Level::One), ..put(keys[50], &"w".repeat(1_000)) };
    world.put(node(1), table, one).expect("itself is up");
    world.heal();
    let bytes = bytes_of_one_exchange(&mut world);
    eprintln!("{bytes} bytes for one key of {} in its leaf", keys.len());
    assert!(bytes < 64 << 10, "{bytes} bytes for one key among {}", keys.len());
    assert_eq!(world.stored(node(2), table, keys[50]), world.stored(node(1), table, keys[50]));
    assert!(bytes_of_one_exchange(&mut world) < 32 << 10, "of equal replicas");
    world.disconnected.clear();
}

/// What a peer is answered, and why its connection is closed.
fn ask(world: &mut World, message: impl Into<PeerMessage>) -> (Vec<PeerMessage>, Vec<String>) {
    world.seen = Some(Vec::new());
    world.disconnected.clear();
    world.tell(node(1), Event::Peer { from: node(2), request: 99, message: message.into() });
    world.run_ms(100);
    let seen = world.seen.take().unwrap_or_default();
    let answers = seen.into_iter().filter_map(|(who, effect)| match effect {
        Effect::ToPeer { to, request: 99, message } if (who, to) == (node(1), node(2)) => {
            Some(message)
        }
        _ => None,
    });
    let closed = std::mem::take(&mut world.disconnected);
    (answers.collect(), closed.into_iter().map(|(.., reason)| reason).collect())
}

#[test]
fn what_no_right_peer_asks_is_refused_counted_and_closes_the_connection() {
    fn never(_: &mut CoreConfig) {}
    let mut world = World::with(6, 5, never);
    world.form();
    let table = world.table("t", options(ConflictPolicy::Latest));
    let record = world.record(node(1)).clone();
    let head = RepairHead {
        epoch: record.epoch,
        replication: 3,
        time: HybridTime::ZERO,
        deadline_ms: 1_000,
    };
    let is_shared = |vnode: &VnodeIndex| {
        record.is_primary(node(1), *vnode, 3) && record.is_primary(node(2), *vnode, 3)
    };
    let shared = record.vnodes.all().find(is_shared).expect("some");
    let foreign = record.vnodes.all().find(|vnode| !is_shared(vnode)).expect("some");
    let (from, to) = vnode_range(record.vnodes, shared);
    let floor = HybridTime::ZERO;
    let nodes = |vnode, depth, nodes| CompareNodes { head, vnode, floor, depth, nodes };
    let items = Vec::new();
    let reconcile = Reconcile { head, vnode: shared, floor, from, to, items, bytes_max: 1_000 };
    let row = |key: &[u8], set: &[u8]| {
        (Bytes::copy_from_slice(key), (Bytes::copy_from_slice(set), Vec::new()))
    };
    let push = |vnode, rows| Push { head, vnode, authority: None, rows };
    let key_of = |vnode: VnodeIndex| {
        let in_it = |name: &String| record.vnodes.vnode_of(record.token(name.as_bytes())) == vnode;
        let name = (0..).map(|number| format!("k{number}")).find(in_it).expect("endless");
        world.stored_key(node(1), table, &name)
    };
    let (here, there) = (key_of(shared), key_of(foreign));
    let bad: Vec<PeerMessage> = vec![
        CompareRoots { head, first: 0, roots: vec![(floor, 0); 9] }.into(),
        CompareRoots { head, first: u32::MAX, roots: vec![(floor, 0)] }.into(),
        CompareRoots { head, first: 0, roots: vec![(floor, 0); 300] }.into(),
        nodes(foreign, 0, vec![(0, 0)]).into(),
        nodes(VnodeIndex(8), 0, vec![(0, 0)]).into(),
        nodes(shared, 0, vec![(1, 0)]).into(),
        nodes(shared, 200, vec![(1, 0)]).into(),
        nodes(shared, 13, vec![(0, 0); 1_025]).into(),
        Reconcile { vnode: foreign, ..reconcile.clone() }.into(),
        Reconcile { from: Bytes::from_static(&[255; 8]), ..reconcile.clone() }.into(),
        Reconcile {
            to: Some(Bytes::from_static(&[255; 9])),
            from: Bytes::new(),
            ..reconcile.clone()
        }
        .into(),
        Reconcile { items: vec![1; 5_000], ..reconcile.clone() }.into(),
        push(foreign, Vec::new()).into(),
        push(shared, vec![row(there.bytes(), b"")]).into(),
        push(shared, vec![row(here.bytes(), b"no set")]).into(),
        push(shared, vec![row(b"no key", b"")]).into(),
        push(shared, vec![row(here.bytes(), b""); 5_000]).into(),
    ];
    let count = bad.len() as u64;
    for message in bad {
        let text = format!("{message:?}");
        let (answers, closed) = ask(&mut world, message);
        assert!(answers.is_empty(), "{text} was answered: {answers:?}");
        assert_eq!(closed.len(), 1, "{text}");
    }
    assert_eq!(world.core(node(1)).counters().malformed, count);
    assert!(world.stored(node(1), table, "somewhere").is_some_and(|set| set.is_empty()));

    // Another version of the record is no malice.
    let old = RepairHead { epoch: Epoch(0), ..head };
    let (answers, closed) = ask(&mut world, CompareRoots { head: old, first: 0, roots: vec![] });
    let [PeerMessage::RootsCompared(RootsCompared { result, .. })] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(result, &Err(Refusal::WrongConfiguration));
    assert!(closed.is_empty());
    // And what is right is served.
    let (answers, closed) = ask(&mut world, reconcile);
    assert!(
        matches!(&answers[..], [PeerMessage::Reconciled(it)] if it.result.is_ok()),
        "{answers:?}"
    );
    assert!(closed.is_empty());
}

#[test]
fn the_first_leaf_of_a_virtual_node_is_compared_like_the_others() {
    let (mut world, table) = world(7, ConflictPolicy::Latest);
    let ring_key = world.record(node(1)).ring_key;
    // Of eight virtual nodes with 2^13 leaves each.
    let is_first =
        |number: &usize| ring_key.token(format!("key {number}").as_bytes()).0 >> 48 & 0x1fff == 0;
    let key = (0..).find(is_first).map(named).expect("endless");
    world.isolate(node(3));
    world.put(node(1), table, quorum(key, "v")).expect("two are up");
    world.heal();
    expect_equal(&mut world, table, &[key]);
    world.end();
}

#[test]
fn a_round_that_is_asked_for_is_made_at_once_and_told_to_be_done() {
    // Of its own accord no node would begin one.
    let mut world = World::new(9, 3);
    world.form();
    let table = world.table("t", options(ConflictPolicy::Latest));
    world.isolate(node(3));
    let keys: Vec<_> = (0..40).map(named).collect();
    keys.iter().for_each(|key| {
        world.put(node(1), table, quorum(key, "meanwhile")).expect("two are up");
    });
    world.heal();
    world.run_ms(3_000);
    assert!(!are_equal(&mut world, table, &keys));
    let repair = |world: &mut World, run| {
        let request = world.send(node(3), AskRepair { table: Some(table), vnode: None, run });
        match world.wait(request) {
            ClientResponse::Status(status) => status.repair.expect("it was asked for"),
            other => panic!("{other:?}"),
        }
    };
    let asked = repair(&mut world, true);
    world.run_ms(2_000);
    let done = repair(&mut world, false);
    let pairs: Vec<_> = done.vnodes.iter().flat_map(|vnode| &vnode.in_sync).collect();
    assert_eq!(pairs.len(), 2 * 8);
    assert!(pairs.iter().all(|(_, since)| *since >= asked.time), "{asked:?} {done:?}");
    assert!(are_equal(&mut world, table, &keys));
    world.end();
}
