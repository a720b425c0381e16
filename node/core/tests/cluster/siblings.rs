//! Tables that keep concurrent writes until a writer that has read them replaces them.

use quoit_protocol::FailureCode;
use quoit_ring::{ConflictPolicy, Level};

use crate::world::{Put, World, node, options, put, values};

fn world(seed: u64) -> (World, quoit_ring::TableId) {
    World::with_table(seed, 3, options(ConflictPolicy::Siblings))
}

#[test]
fn concurrent_writes_are_kept_and_a_context_replaces_what_it_covers() {
    let (mut world, table) = world(1);
    for (id, value) in [(1, "a"), (2, "b"), (3, "c")] {
        world.put(node(id), table, put("k", value)).expect("a quorum is up");
    }
    let got = world.get(node(1), table, "k").expect("read");
    assert_eq!(values(&got), ["a", "b", "c"]);
    world.put(node(2), table, put("k", "d")).expect("unseen by the reader");
    let resolved = Put { context: got.context, ..put("k", "abc") };
    world.put(node(3), table, resolved).expect("a quorum is up");
    assert_eq!(world.read(node(1), table, "k"), ["abc", "d"]);
    world.end();
}

#[test]
fn a_context_is_refused_for_another_key_and_another_table() {
    let (mut world, table) = world(2);
    let other = world.table("other", options(ConflictPolicy::Siblings));
    world.put(node(1), table, put("k", "a")).expect("a quorum is up");
    let context = world.get(node(1), table, "k").expect("read").context;
    for (table, key) in [(table, "j"), (other, "k")] {
        let foreign = Put { context: context.clone(), ..put(key, "b") };
        let failure = world.put(node(1), table, foreign).expect_err("not its own");
        assert_eq!((failure.code, failure.unknown), (FailureCode::Invalid, false));
    }
    assert_eq!(world.read(node(1), table, "k"), ["a"]);
}

#[test]
fn the_context_of_a_blind_write_never_erases_siblings_that_its_writer_has_not_seen() {
    for seed in 0..20 {
        let (mut world, table) = world(seed);
        let first = world.send_put(node(1), table, put("k", "a"));
        let second = world.send_put(node(1), table, put("k", "b"));
        let third = world.send_put(node(2), table, put("k", "c"));
        world.written(first).expect("a quorum is up");
        let written = world.written(second).expect("a quorum is up");
        world.written(third).expect("a quorum is up");
        let after = Put { context: written.context, ..put("k", "b2") };
        let written = world.put(node(1), table, after).expect("a quorum is up");
        let read = world.read(node(3), table, "k");
        for kept in ["a", "b2", "c"] {
            assert!(read.contains(&kept.to_owned()), "seed {seed}: {kept} of {read:?}");
        }
        let after = Put { context: written.context, ..put("k", "b3") };
        world.put(node(1), table, after).expect("a quorum is up");
        let read = world.read(node(3), table, "k");
        assert!(read.contains(&"a".to_owned()) && read.contains(&"c".to_owned()), "{read:?}");
    }
}

#[test]
fn a_writer_that_was_alone_goes_on_from_its_own_context() {
    let (mut world, table) = world(4);
    let mut context = bytes::Bytes::new();
    for number in 0..5 {
        let next = Put { context, ..put("k", &number.to_string()) };
        context = world.put(node(1), table, next).expect("a quorum is up").context;
    }
    assert_eq!(world.read(node(2), table, "k"), ["4"]);
}

#[test]
fn a_key_has_no_more_siblings_than_it_may_until_they_are_resolved() {
    let (mut world, table) = world(5);
    for number in 0..32 {
        world.put(node(1), table, put("k", &number.to_string())).expect("there is room");
    }
    let failure = world.put(node(1), table, put("k", "one more")).expect_err("no room");
    assert_eq!((failure.code, failure.unknown), (FailureCode::TooManySiblings, false));
    let got = world.get(node(1), table, "k").expect("read");
    assert_eq!(got.siblings.len(), 32);
    let resolved = Put { context: got.context, ..put("k", "all") };
    world.put(node(1), table, resolved).expect("it replaces them");
    assert_eq!(world.read(node(2), table, "k"), ["all"]);
    world.end();
}

#[test]
fn a_deletion_and_a_concurrent_write_are_both_kept() {
    let (mut world, table) = world(6);
    world.put(node(1), table, put("k", "a")).expect("a quorum is up");
    let context = world.get(node(1), table, "k").expect("read").context;
    let gone = Put { context, ..crate::world::delete("k") };
    world.put(node(2), table, put("k", "b")).expect("a quorum is up");
    world.put(node(1), table, gone).expect("a quorum is up");
    assert_eq!(world.read(node(3), table, "k"), ["b"]);
    let stored = world.stored(node(1), table, "k").expect("readable");
    assert_eq!(stored.versions().len(), 2, "the tombstone is a sibling");
}

/// Each coordinator keeps the limit for itself; together they may go beyond what a message holds.
#[test]
fn siblings_that_together_are_too_large_to_be_sent_fail_their_readers_and_nobody_else() {
    let (mut world, table) = world(7);
    for id in [1, 2, 3].map(node) {
        world.isolate(id);
    }
    world.run_ms(10);
    for number in 0..9 {
        let value = number.to_string().repeat(4 << 20);
        let one = Put { level: Some(Level::One), ..put("k", &value) };
        world.put(node(1 + number % 3), table, one).expect("one is enough");
    }
    world.heal();
    world.run_ms(100);
    for id in world.ids() {
        let failure = world.get(id, table, "k").expect_err("24 MiB are too many");
        assert_eq!(failure.code, FailureCode::Unavailable);
        assert!(world.scan(id, table, "k", b"", 5).is_err());
    }
    // The others lack the earlier values, say so, and are sent them.
    let all = Put { level: Some(Level::All), ..put("k", "v") };
    let failure = world.put(node(1), table, all).map(|_| ()).err();
    assert_eq!(failure, None, "what one holds can be sent");
    world.run_ms(500);
    let failure = world.put(node(2), table, put("k", "v")).expect_err("it grows no further");
    assert_eq!((failure.code, failure.unknown), (FailureCode::Invalid, false));
    world.put(node(1), table, put("j", "v")).expect("other keys are served");
    assert_eq!(world.read(node(2), table, "j"), ["v"]);
    world.end();
}
