//! Values that lie apart from their sets travel only to those who lack them.

use bytes::Bytes;
use quoit_core::Effect;
use quoit_core::peer::PeerMessage;
use quoit_protocol::Got;
use quoit_ring::{ConflictPolicy, Level, TableId};

use crate::world::{Put, World, node, options, put};

fn long(letter: char) -> String {
    letter.to_string().repeat(100_000)
}

/// The first letters of the values.
fn letters(got: &Got) -> String {
    let mut letters: Vec<char> =
        got.siblings.iter().map(|it| char::from(*it.value.first().expect("long"))).collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}

fn one(value: &str) -> Put {
    Put { level: Some(Level::One), ..put("k", value) }
}

/// The bytes of long values that went from node to node since the last question.
fn travelled(world: &mut World) -> usize {
    let values = |effect: &Effect| match effect {
        Effect::ToPeer { message: PeerMessage::Merge(merge), .. } => {
            merge.values.iter().map(|(_, _, bytes)| bytes.len()).sum()
        }
        Effect::ToPeer { message: PeerMessage::ReadAnswer(answer), .. } => match &answer.found {
            Ok((_, values)) => values.iter().map(|(_, _, bytes)| bytes.len()).sum(),
            Err(_) => 0,
        },
        _ => 0,
    };
    let seen = world.seen.replace(Vec::new()).unwrap_or_default();
    seen.iter().map(|(_, effect)| values(effect)).sum()
}

fn world(policy: ConflictPolicy, seed: u64) -> (World, TableId) {
    let (mut world, table) = World::with_table(seed, 3, options(policy));
    world.seen = Some(Vec::new());
    (world, table)
}

#[test]
fn a_long_value_goes_once_to_each_replica_and_a_read_here_brings_none() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table) = world(policy, 1);
        world.put(node(1), table, put("k", &long('a'))).expect("a quorum is up");
        world.run_ms(100);
        assert_eq!(travelled(&mut world), 200_000);
        let got = world.get(node(1), table, "k").expect("a quorum is up");
        assert_eq!(letters(&got), "a");
        assert_eq!(travelled(&mut world), 0, "the coordinator has it");
        let page = world.scan(node(1), table, "k", b"", 5).expect("a quorum is up");
        assert_eq!(page.items[0].siblings[0].value.len(), 100_000);
        world.end();
    }
}

#[test]
fn a_sibling_that_the_others_have_does_not_travel_again() {
    let (mut world, table) = world(ConflictPolicy::Siblings, 2);
    world.put(node(1), table, put("k", &long('a'))).expect("a quorum is up");
    world.run_ms(100);
    travelled(&mut world);
    world.put(node(2), table, put("k", "b")).expect("a quorum is up");
    world.run_ms(100);
    assert_eq!(travelled(&mut world), 0);
    assert_eq!(letters(&world.get(node(3), table, "k").expect("a quorum is up")), "ab");
    world.end();
}

#[test]
fn a_replica_that_lacks_an_earlier_value_says_so_and_is_sent_it() {
    let (mut world, table) = world(ConflictPolicy::Siblings, 3);
    world.isolate(node(1));
    world.run_ms(10);
    world.put(node(1), table, one(&long('a'))).expect("one is enough");
    world.heal();
    world.run_ms(1_000);
    travelled(&mut world);
    let all = Put { level: Some(Level::All), ..put("k", "b") };
    world.put(node(1), table, all).expect("all are up");
    assert_eq!(travelled(&mut world), 200_000);
    for id in world.ids() {
        let set = world.stored(id, table, "k").expect("readable");
        assert_eq!(set.versions().len(), 2);
    }
    world.end();
}

/// What is read here for others, to help them, must hold the write that they are to acknowledge.
#[test]
fn nobody_acknowledges_a_write_that_its_coordinator_could_not_keep() {
    let (mut world, table) = world(ConflictPolicy::Siblings, 8);
    world.isolate(node(1));
    world.run_ms(10);
    world.put(node(1), table, one(&long('a'))).expect("one is enough");
    world.heal();
    world.run_ms(1_000);
    let disk = world.machines[&node(1)].disk.clone();
    disk.limit(Some(disk.used_bytes()));
    // In one batch, for which there is no room.
    let filler = world.send_put(node(1), table, put("j", &long('x').repeat(3)));
    let request = world.send_put(node(1), table, put("k", "b"));
    let written = world.written(request);
    let _ = world.written(filler);
    disk.limit(None);
    world.run_ms(12_000);
    let request = world.send_get(node(2), table, "k", Level::All);
    let got = world.got(request).expect("all are up");
    assert!(written.is_err() || letters(&got) == "ab", "{written:?}, but {}", letters(&got));
    assert!(written.is_err(), "no replica has kept it");
    world.end();
}

#[test]
fn a_read_fetches_a_value_that_another_replica_has_and_mends_the_one_that_lacks_it() {
    // What each lacks: the first and the second the new value, and the third the old sibling.
    let cases = [(ConflictPolicy::Latest, "b", 200_000), (ConflictPolicy::Siblings, "ab", 300_000)];
    for (policy, expected, bytes) in cases {
        let (mut world, table) = world(policy, 4);
        world.put(node(2), table, put("k", &long('a'))).expect("a quorum is up");
        world.run_ms(100);
        world.isolate(node(3));
        world.run_ms(10);
        world.put(node(3), table, one(&long('b'))).expect("one is enough");
        world.heal();
        world.run_ms(1_000);
        travelled(&mut world);
        let request = world.send_get(node(1), table, "k", Level::All);
        let got = world.got(request).expect("all are up");
        assert_eq!((letters(&got).as_str(), got.repaired), (expected, true));
        world.run_ms(600);
        assert_eq!(travelled(&mut world), bytes, "to each what it lacks");
        for id in world.ids() {
            let request = world.send_get(id, table, "k", Level::One);
            assert_eq!(letters(&world.got(request).expect("it is here")), expected);
        }
        world.end();
    }
}

#[test]
fn a_page_brings_values_that_only_another_replica_has() {
    let (mut world, table) = world(ConflictPolicy::Siblings, 5);
    for (id, letter) in [(1, 'a'), (2, 'b'), (3, 'c')] {
        world.isolate(node(id));
        world.run_ms(10);
        world.put(node(id), table, one(&long(letter))).expect("one is enough");
        world.heal();
        world.run_ms(1_000);
    }
    let page = world.scan(node(1), table, "k", b"", 5).expect("a quorum is up");
    let siblings = &page.items[0].siblings;
    assert!(siblings.len() >= 2 && siblings.iter().all(|it| it.value.len() == 100_000));
    world.end();
}

#[test]
fn a_damaged_long_value_is_read_elsewhere_and_rebuilt() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table) = world(policy, 6);
        world.put(node(1), table, put("k", &long('a'))).expect("a quorum is up");
        world.run_ms(100);
        let dot = world.stored(node(1), table, "k").expect("readable").versions()[0].dot;
        world.flush(node(1));
        let at = world.stored_key(node(1), table, "k").apart(dot);
        world.machines[&node(1)].tables.damage(at.bytes());
        let got = world.get(node(1), table, "k").expect("the others answer");
        assert_eq!(letters(&got), "a");
        world.run_ms(6_000);
        let request = world.send_get(node(1), table, "k", Level::One);
        assert_eq!(letters(&world.got(request).expect("it is whole again")), "a");
        world.end();
    }
}

#[test]
fn values_that_are_replaced_while_they_are_read_do_not_fail_the_read() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table) = world(policy, 7);
        let mut context = Bytes::new();
        let mut gets = Vec::new();
        for number in 0..60 {
            let letter = char::from(b'a' + number % 26);
            let id = node(1 + u64::from(number) % 3);
            let wanted = Put { context: context.clone(), ..put("k", &long(letter)) };
            let request = world.send_put(id, table, wanted);
            gets.push(world.send_get(
                node(1 + u64::from(number / 3) % 3),
                table,
                "k",
                Level::Quorum,
            ));
            let delay = world.random.below(6_000);
            world.run_us(delay);
            context = world.written(request).expect("a quorum is up").context;
        }
        for get in gets {
            world.got(get).expect("a quorum is up");
        }
        world.end();
    }
}
