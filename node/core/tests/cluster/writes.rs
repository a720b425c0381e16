//! Writes: what is certainly not done, what is unknown, ids, wrong configurations, dropped tables.

use quoit_protocol::{ClientResponse, Failure, FailureCode, Get, Seen, WriteId};
use quoit_ring::{ConfigurationNumber, ConflictPolicy, Level, TableId};

use crate::world::{Put, World, key, node, options, put};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];

#[test]
fn a_write_without_a_reachable_quorum_is_certainly_not_done() {
    for policy in POLICIES {
        let (mut world, table) = World::with_table(1, 3, options(policy));
        world.isolate(node(1));
        world.run_ms(10);
        let failure = world.put(node(1), table, put("k", "v")).expect_err("nobody is reachable");
        assert_eq!((failure.code, failure.unknown), (FailureCode::Unavailable, false));
        assert_eq!((failure.answered, failure.required), (0, 2));
        world.heal();
        world.run_ms(1_000);
        assert_eq!(world.read(node(1), table, "k"), [""; 0]);
        world.end();
    }
}

#[test]
fn a_write_that_was_handed_out_is_unknown_with_the_number_that_acknowledged() {
    for policy in POLICIES {
        let (mut world, table) = World::with_table(2, 3, options(policy));
        let request = world.send_put(node(1), table, put("k", "v"));
        world.run_ms(0);
        world.pause(node(2), 20_000);
        world.pause(node(3), 20_000);
        let failure = world.written(request).expect_err("no quorum acknowledged");
        assert_eq!((failure.code, failure.unknown), (FailureCode::Unavailable, true));
        assert_eq!((failure.answered, failure.required), (1, 2));
        world.end();
    }
}

#[test]
fn a_write_whose_replicas_are_lost_ends_at_once() {
    let (mut world, table) = World::with_table(3, 3, options(ConflictPolicy::Latest));
    world.pause(node(2), 20_000);
    world.pause(node(3), 20_000);
    let began = world.time_us();
    let request = world.send_put(node(1), table, put("k", "v"));
    world.run_ms(10);
    world.crash(node(2), false);
    world.crash(node(3), false);
    let failure = world.written(request).expect_err("no quorum acknowledged");
    assert!(failure.unknown && failure.answered == 1, "{failure:?}");
    assert!(world.time_us() - began < 100_000, "not only at the deadline");
}

#[test]
fn a_repeated_write_is_one_write() {
    for policy in POLICIES {
        let (mut world, table) = World::with_table(4, 3, options(policy));
        let named = Put { write_id: Some(WriteId(1, 2)), ..put("k", "v") };
        let first = world.send_put(node(1), table, named.clone());
        let during = world.send_put(node(1), table, named.clone());
        let first = world.written(first).expect("a quorum is up");
        let during = world.written(during).expect("the same");
        world.put(node(1), table, put("k", "w")).expect("a quorum is up");
        let after = world.put(node(1), table, named.clone()).expect("the same");
        for again in [during, after] {
            assert_eq!((again.context, again.acknowledged), (first.context.clone(), 2));
        }
        let expected = match policy {
            ConflictPolicy::Latest => vec!["w"],
            ConflictPolicy::Siblings => vec!["v", "w"],
        };
        assert_eq!(world.read(node(1), table, "k"), expected);
        assert_eq!(world.core(node(1)).counters().repeated_writes, 2);
        world.end();
    }
}

#[test]
fn a_failed_write_with_an_id_is_tried_again() {
    let (mut world, table) = World::with_table(5, 3, options(ConflictPolicy::Latest));
    let named = Put { write_id: Some(WriteId(1, 2)), ..put("k", "v") };
    world.isolate(node(1));
    world.run_ms(10);
    world.put(node(1), table, named.clone()).expect_err("nobody is reachable");
    world.heal();
    world.run_ms(10);
    world.put(node(1), table, named).expect("a quorum is up");
    assert_eq!(world.read(node(2), table, "k"), ["v"]);
}

#[test]
fn what_breaks_a_rule_is_refused_and_not_done() {
    let (mut world, table) = World::with_table(6, 3, options(ConflictPolicy::Latest));
    let refused = |world: &mut World, change: &dyn Fn(&mut quoit_protocol::Write)| -> Failure {
        let mut write = world.write(node(1), table, put("k", "v"));
        change(&mut write);
        let request = world.send(node(1), write);
        let failure = world.written(request).expect_err("it breaks a rule");
        assert!(!failure.unknown);
        failure
    };
    let code = |failure: Failure| failure.code;
    let wrong = FailureCode::WrongConfiguration;
    assert_eq!(
        code(refused(&mut world, &|it| it.head.configuration = ConfigurationNumber(9))),
        wrong
    );
    assert_eq!(code(refused(&mut world, &|it| it.head.vnode.0 ^= 1)), wrong);
    assert_eq!(code(refused(&mut world, &|it| it.head.vnode.0 = 1 << 20)), wrong);
    let invalid = FailureCode::Invalid;
    assert_eq!(code(refused(&mut world, &|it| it.checksum ^= 1)), invalid);
    assert_eq!(code(refused(&mut world, &|it| it.key.partition.clear())), invalid);
    assert_eq!(code(refused(&mut world, &|it| it.key.sort = vec![0; 5_000].into())), invalid);
    assert_eq!(code(refused(&mut world, &|it| it.ttl_ms = Some(0))), invalid);
    assert_eq!(code(refused(&mut world, &|it| it.head.level = Some(Level::Exactly(4)))), invalid);
    assert_eq!(code(refused(&mut world, &|it| it.context = vec![1, 2, 3].into())), invalid);
    let far = |it: &mut quoit_protocol::Write| it.head.time = quoit_ring::HybridTime(u64::MAX);
    assert_eq!(code(refused(&mut world, &far)), FailureCode::TimeAhead);
    let other = |it: &mut quoit_protocol::Write| it.head.table = TableId(77);
    assert_eq!(
        code(refused(&mut world, &other)),
        FailureCode::NotServing,
        "maybe not heard of yet"
    );
    assert_eq!(world.read(node(1), table, "k"), [""; 0]);
    assert_eq!(world.core(node(1)).operation_count(), 0);
}

#[test]
fn a_dropped_table_serves_no_more_and_one_of_its_name_begins_empty() {
    let (mut world, table) = World::with_table(7, 3, options(ConflictPolicy::Latest));
    world.put(node(1), table, put("k", "v")).expect("a quorum is up");
    let change = quoit_protocol::TableChange::Drop { name: "t".to_owned() };
    let request = world.send(node(2), quoit_protocol::ChangeTables { change, deadline_ms: 5_000 });
    assert!(matches!(world.wait(request), ClientResponse::Record(_)));
    world.run_ms(2_000);
    for id in world.ids() {
        let failure = world.get(id, table, "k").expect_err("it was dropped");
        assert_eq!(failure.code, FailureCode::UnknownTable);
        let failure = world.put(id, table, put("k", "w")).expect_err("it was dropped");
        assert_eq!((failure.code, failure.unknown), (FailureCode::UnknownTable, false));
    }
    let again = world.table("t", options(ConflictPolicy::Latest));
    assert_eq!(world.read(node(1), again, "k"), [""; 0]);
}

#[test]
fn a_node_that_lags_behind_the_record_refuses_and_then_learns() {
    let (mut world, _) = World::with_table(8, 3, options(ConflictPolicy::Latest));
    world.isolate(node(3));
    world.run_ms(10);
    let change = quoit_protocol::TableChange::Create {
        name: "u".to_owned(),
        options: options(ConflictPolicy::Latest),
    };
    let request = world.send(node(1), quoit_protocol::ChangeTables { change, deadline_ms: 5_000 });
    assert!(matches!(world.wait(request), ClientResponse::Record(_)));
    let table = world.record(node(1)).table("u").expect("just made").id;
    world.run_ms(10);
    world.heal();
    // Node 3 has not heard of the table; the two that have are a quorum.
    let head = world.head(node(1), table, b"k");
    let early = world.send(node(3), Get { head, key: key("k"), at_least: Seen::default() });
    world.put(node(1), table, put("k", "v")).expect("two know the table");
    let ClientResponse::Failure(failure) = world.wait(early) else { panic!("not heard of yet") };
    assert_eq!(failure.code, FailureCode::NotServing);
    world.run_ms(2_000);
    assert_eq!(world.read(node(3), table, "k"), ["v"]);
}

#[test]
fn an_answer_to_the_process_before_a_restart_is_nothing_to_the_next() {
    let (mut world, table) = World::with_table(9, 3, options(ConflictPolicy::Latest));
    world.machines.get_mut(&node(2)).expect("it is there").sync_us = 1_000_000;
    world.isolate(node(3));
    world.run_ms(10);
    world.send_put(node(1), table, put("k", "v"));
    world.run_ms(20);
    world.crash(node(1), false);
    world.start(node(1));
    world.run_ms(50);
    // The same request as before the restart, but another key, while the first answer is to come.
    if let Ok(written) = world.put(node(1), table, put("j", "w")) {
        assert_eq!(written.acknowledged, 2);
        let there = world.stored(node(2), table, "j").expect("readable");
        assert!(!there.is_empty(), "acknowledged by a replica that has it");
    }
    world.end();
}

#[test]
fn clusters_of_one_two_and_four_serve() {
    for nodes in [1, 2, 4] {
        for policy in POLICIES {
            let replication = u8::try_from(nodes.min(3)).expect("small");
            let few = quoit_ring::TableOptions { replication, ..options(policy) };
            let (mut world, table) = World::with_table(10, nodes, few);
            for id in world.ids() {
                world.put(id, table, put("k", "v")).expect("all are up");
                let got = world.get(id, table, "k").expect("all are up");
                let next = Put { context: got.context, ..put("k", "w") };
                world.put(id, table, next).expect("all are up");
                assert_eq!(world.read(id, table, "k"), ["w"]);
            }
            assert_eq!(world.export(node(1), table, 5), [key("k")]);
            world.end();
        }
    }
}
