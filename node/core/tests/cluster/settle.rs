//! Settled time: what was deleted goes when every replica has seen it, and not before.

use quoit_core::event::Event;
use quoit_core::peer::{MergeAnswer, PeerHead, PeerMerge, PeerMessage, Refusal, Settle};
use quoit_core::{CoreConfig, Effect};
use quoit_ring::{ConflictPolicy, HybridTime, Level, TableId, VnodeIndex};
use quoit_storage::codec;
use quoit_storage::version::SiblingSet;

use crate::world::{Put, World, delete, key, node, options, put};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];
const MINUTE_MS: u64 = 60_000;
/// What was deleted has been settled and collected after this: two buckets, and two rounds.
const COLLECTED_MS: u64 = 40 * MINUTE_MS;

fn often(config: &mut CoreConfig) {
    config.repair_interval_ms = 20_000;
}

fn world(seed: u64, policy: ConflictPolicy) -> (World, TableId) {
    let mut world = World::with(seed, 3, often);
    world.form();
    let table = world.table("t", options(policy));
    (world, table)
}

fn held(world: &mut World, id: u64, table: TableId, name: &str) -> SiblingSet {
    world.stored(node(id), table, name).expect("it vouches for it")
}

/// Writes a key everywhere, and deletes it where the deletion arrives. Returns the set that was
/// written.
fn write_and_delete(world: &mut World, table: TableId, name: &'static str) -> SiblingSet {
    world
        .put(node(1), table, Put { level: Some(Level::All), ..put(name, "v") })
        .expect("all are up");
    world.run_ms(1_000);
    let before = held(world, 1, table, name);
    let context = world.get(node(1), table, name).expect("a quorum is up").context;
    let delete = Put { level: Some(Level::Quorum), context, ..delete(name) };
    world.put(node(1), table, delete).expect("a quorum is up");
    before
}

fn collected(world: &World) -> u64 {
    let running = world.ids().into_iter().filter(|id| world.is_running(*id));
    running.map(|id| world.core(id).counters().collected).sum()
}

/// A write-back that comes late: what a reader had seen before the deletion.
fn write_back(world: &mut World, table: TableId, name: &str, set: &SiblingSet) -> MergeAnswer {
    let record = world.record(node(1)).clone();
    let vnode = record.vnodes.vnode_of(record.token(name.as_bytes()));
    let head = PeerHead {
        table,
        vnode,
        configuration: record.configuration(vnode),
        time: HybridTime::ZERO,
        deadline_ms: 10_000,
        trace: None,
    };
    let (set, values) = (codec::encode(set), Vec::new());
    let merge =
        PeerMerge { head, key: key(name), set, rebuild: false, values, stands_in_for: None };
    world.seen = Some(Vec::new());
    world.tell(node(1), Event::Peer { from: node(2), request: 99, message: merge.into() });
    world.run_ms(100);
    let answer =
        world.seen.take().unwrap_or_default().into_iter().find_map(|(_, effect)| match effect {
            Effect::ToPeer { request: 99, message: PeerMessage::MergeAnswer(it), .. } => Some(it),
            _ => None,
        });
    answer.expect("it is answered")
}

#[test]
fn what_was_deleted_goes_and_stays_away() {
    for policy in POLICIES {
        let (mut world, table) = world(1, policy);
        let before = write_and_delete(&mut world, table, "k");
        world
            .put(node(1), table, Put { level: Some(Level::All), ..put("kept", "v") })
            .expect("all are up");
        world.run_ms(COLLECTED_MS);
        for id in 1..=3 {
            assert_eq!(
                held(&mut world, id, table, "k"),
                SiblingSet::default(),
                "{policy} at n{id}"
            );
            assert_eq!(held(&mut world, id, table, "kept").versions().len(), 1);
        }
        let answer = write_back(&mut world, table, "k", &before);
        assert!(matches!(answer.merged, Err(Refusal::Older(_))), "{answer:?}");
        assert_eq!(world.read(node(2), table, "k"), Vec::<String>::new());
        // A restart forgets nothing of it.
        for id in [1, 2, 3].map(node) {
            world.crash(id, true);
        }
        world.heal();
        world.run_ms(5_000);
        let answer = write_back(&mut world, table, "k", &before);
        assert!(matches!(answer.merged, Err(Refusal::Older(_))), "{answer:?}");
        world.put(node(1), table, put("k", "new")).expect("all are up");
        assert_eq!(world.read(node(2), table, "k"), ["new"]);
        world.end();
    }
}

#[test]
fn a_replica_that_is_away_keeps_what_it_has_not_seen_from_going() {
    for policy in POLICIES {
        let (mut world, table) = world(2, policy);
        world
            .put(node(1), table, Put { level: Some(Level::All), ..put("k", "v") })
            .expect("all are up");
        world.crash(node(3), true);
        world.run_ms(100);
        let context = world.get(node(1), table, "k").expect("a quorum is up").context;
        world.put(node(1), table, Put { context, ..delete("k") }).expect("two are up");
        world.run_ms(2 * COLLECTED_MS);
        assert_eq!(collected(&world), 0);
        assert!(!held(&mut world, 1, table, "k").versions().is_empty(), "the tombstone is there");
        world.heal();
        world.run_ms(COLLECTED_MS);
        for id in 1..=3 {
            assert_eq!(
                held(&mut world, id, table, "k"),
                SiblingSet::default(),
                "{policy} at n{id}"
            );
        }
        assert_eq!(world.read(node(3), table, "k"), Vec::<String>::new());
        world.end();
    }
}

#[test]
fn what_has_expired_goes_too() {
    let (mut world, table) = world(3, ConflictPolicy::Latest);
    let short = Put { level: Some(Level::All), ttl_ms: Some(5_000), ..put("short", "v") };
    world.put(node(1), table, short).expect("all are up");
    let day = Put { level: Some(Level::All), ttl_ms: Some(86_400_000), ..put("day", "v") };
    world.put(node(1), table, day).expect("all are up");
    world.run_ms(COLLECTED_MS);
    for id in 1..=3 {
        assert_eq!(held(&mut world, id, table, "short"), SiblingSet::default(), "n{id}");
        assert_eq!(held(&mut world, id, table, "day").versions().len(), 1, "n{id}");
    }
    world.end();
}

#[test]
fn a_restart_in_the_middle_of_a_round_leads_to_the_next_one() {
    let (mut world, table) = world(4, ConflictPolicy::Siblings);
    write_and_delete(&mut world, table, "k");
    for round in 0..60 {
        world.run_ms(MINUTE_MS);
        if round < 20 {
            let victim = node(1 + world.random.below(3));
            world.crash(victim, true);
            world.heal();
        }
    }
    for id in 1..=3 {
        assert_eq!(held(&mut world, id, table, "k"), SiblingSet::default(), "n{id}");
    }
    world.end();
}

#[test]
fn settled_time_from_one_who_does_not_lead_closes_the_connection() {
    let (mut world, _) = world(5, ConflictPolicy::Latest);
    let record = world.record(node(1)).clone();
    let led_by_2 = |vnode: &VnodeIndex| record.primaries(*vnode, 1).next() == Some(node(2));
    let (led, others): (Vec<_>, Vec<_>) = record.vnodes.all().partition(led_by_2);
    let until = HybridTime(u64::MAX / 2);
    let settle = |vnodes| Settle { epoch: record.epoch, time: HybridTime::ZERO, until, vnodes };
    for bad in [settle(others), settle(vec![VnodeIndex(8)]), settle(vec![led[0]; 5_000])] {
        world.tell(node(1), Event::Peer { from: node(2), request: 0, message: bad.into() });
        world.run_ms(10);
        assert_eq!(std::mem::take(&mut world.disconnected).len(), 1);
    }
    // What was not promised is not taken for settled.
    world.tell(node(1), Event::Peer { from: node(2), request: 0, message: settle(led).into() });
    world.run_ms(100);
    world.put(node(1), TableId(1), put("k", "v")).expect("all are up");
    assert_eq!(world.read(node(1), TableId(1), "k"), ["v"]);
    world.end();
}
