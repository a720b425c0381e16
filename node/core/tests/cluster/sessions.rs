//! Sessions: a read is answered with no less than its client has seen, at any level.

use quoit_protocol::{Failure, FailureCode, Got, Seen};
use quoit_ring::{ConflictPolicy, HybridTime, Level, NodeId, TableId};

use crate::world::{Put, World, delete, node, options, put, values};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];

fn seen(context: &[u8]) -> Seen {
    Seen::of_context(context).expect("nodes make whole contexts")
}

fn get_at_least(
    world: &mut World,
    id: NodeId,
    table: TableId,
    at_least: &Seen,
) -> Result<Got, Failure> {
    let request = world.send_get_at_least(id, table, "k", Level::One, at_least.clone());
    world.got(request)
}

/// A cluster whose third node has missed a write.
fn with_a_stale_replica(policy: ConflictPolicy) -> (World, TableId, Seen) {
    let (mut world, table) = World::with_table(3, 3, options(policy));
    world.put(node(1), table, put("k", "old")).expect("all replicas are up");
    world.run_ms(10);
    world.isolate(node(3));
    world.run_ms(10);
    let context = world.get(node(1), table, "k").expect("a quorum is up").context;
    let new = Put { context, ..put("k", "new") };
    let written = world.put(node(1), table, new).expect("a quorum is up");
    world.heal();
    world.run_ms(10);
    (world, table, seen(&written.context))
}

#[test]
fn a_session_reads_its_own_writes_at_level_one_from_a_stale_replica() {
    for policy in POLICIES {
        let (mut world, table, at_least) = with_a_stale_replica(policy);
        let stale = get_at_least(&mut world, node(3), table, &Seen::default()).expect("it is up");
        assert_eq!(values(&stale), ["old"], "without a session");
        let got = get_at_least(&mut world, node(3), table, &at_least).expect("others have it");
        assert_eq!(values(&got), ["new"]);
        assert_eq!(got.answered, 2, "one more than was asked for, and no others");
        world.end();
    }
}

#[test]
fn what_no_replica_in_reach_holds_is_not_made_up() {
    for policy in POLICIES {
        let (mut world, table, at_least) = with_a_stale_replica(policy);
        world.crash(node(1), true);
        world.crash(node(2), true);
        world.run_ms(10);
        let failure = get_at_least(&mut world, node(3), table, &at_least).expect_err("all away");
        assert_eq!(failure.code, FailureCode::Unavailable);
        assert!(failure.message.contains("the session has seen more"), "{}", failure.message);
        world.end();
    }
}

#[test]
fn a_blind_write_beside_others_is_seen_too() {
    let (mut world, table) = World::with_table(3, 3, options(ConflictPolicy::Siblings));
    world.put(node(1), table, put("k", "first")).expect("all replicas are up");
    world.run_ms(10);
    world.isolate(node(3));
    world.run_ms(10);
    let written = world.put(node(2), table, put("k", "second")).expect("a quorum is up");
    assert!(written.context.is_empty(), "it covers nothing, for a sibling was not seen");
    world.heal();
    world.run_ms(10);
    let at_least = Seen { base: HybridTime::ZERO, entries: vec![written.dot] };
    let got = get_at_least(&mut world, node(3), table, &at_least).expect("others have it");
    assert_eq!(values(&got), ["first", "second"]);
    world.end();
}

#[test]
fn what_was_collected_is_not_waited_for() {
    let (mut world, table) = World::with_table(3, 3, options(ConflictPolicy::Siblings));
    let written = world.put(node(1), table, put("k", "v")).expect("all replicas are up");
    let gone = Put { context: written.context, ..delete("k") };
    let gone = world.put(node(1), table, gone).expect("all replicas are up");
    // As if the key had been collected everywhere: nobody has ever seen that dot.
    let mut at_least = seen(&gone.context);
    at_least.entries[0].0 ^= 1;
    let got = get_at_least(&mut world, node(1), table, &at_least).expect("all primaries answer");
    assert_eq!((values(&got), got.answered), (Vec::<String>::new(), 3));
    world.end();
}

#[test]
fn what_no_context_could_say_is_refused() {
    let (mut world, table) = World::with_table(3, 3, options(ConflictPolicy::Siblings));
    let at_least = |actors: &mut dyn Iterator<Item = u64>| Seen {
        base: HybridTime::ZERO,
        entries: actors.map(|actor| (actor, HybridTime(1))).collect(),
    };
    for wrong in [at_least(&mut [2, 1].into_iter()), at_least(&mut (0..70_000))] {
        let failure = get_at_least(&mut world, node(1), table, &wrong).expect_err("it is wrong");
        assert_eq!(failure.code, FailureCode::Invalid);
    }
    world.end();
}
