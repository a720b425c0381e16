//! Every queue has a bound, every operation an end.

use quoit_core::peer::{Forward, PeerMessage};
use quoit_core::{Effect, Event};
use quoit_protocol::{AskStatus, ClientResponse, FailureCode, WriteId};
use quoit_ring::{ConflictPolicy, Level};

use crate::world::{Put, World, node, options, put};

fn small() -> (World, quoit_ring::TableId) {
    let mut world = World::with(1, 3, |config| {
        config.operations_max = 4;
        config.storage_requests_max = 8;
    });
    world.form();
    let table = world.table("t", options(ConflictPolicy::Latest));
    world.run_ms(100);
    (world, table)
}

#[test]
fn more_operations_than_may_be_are_refused_and_not_done() {
    let (mut world, table) = small();
    let requests: Vec<u64> =
        (0..10).map(|_| world.send_put(node(1), table, put("k", "v"))).collect();
    let results: Vec<_> = requests.into_iter().map(|request| world.written(request)).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 4);
    for failure in results.into_iter().filter_map(Result::err) {
        assert_eq!((failure.code, failure.unknown), (FailureCode::Overloaded, false));
        assert!(failure.retry_after_ms > 0);
    }
    assert_eq!(world.core(node(1)).counters().overloaded, 6);
    world.end();
}

#[test]
fn a_node_that_drains_finishes_what_it_began_and_begins_nothing() {
    let (mut world, table) = small();
    let begun = world.send_put(node(1), table, put("k", "v"));
    world.run_ms(3);
    assert!(world.core(node(1)).operation_count() > 0, "it is under way");
    world.core_mut(node(1)).drain();
    let late = world.send_put(node(1), table, put("k", "late"));
    let failure = world.written(late).unwrap_err();
    assert_eq!((failure.code, failure.unknown), (FailureCode::NotServing, false));
    world.written(begun).unwrap();
    // It still counts as a replica, for what the others coordinate.
    let all = Put { level: Some(Level::All), ..put("k", "all") };
    let by_another = world.send_put(node(2), table, all);
    world.written(by_another).unwrap();
    world.end();
}

#[test]
fn what_peers_hand_on_counts_too() {
    let (mut world, table) = small();
    world.seen = Some(Vec::new());
    for request in 0..10 {
        let write = world.write(node(1), table, put("k", "v"));
        let message = PeerMessage::from(Box::new(Forward { write }));
        world.tell(node(1), Event::Peer { from: node(2), request, message });
    }
    world.run_ms(200);
    let seen = world.seen.take().expect("asked for");
    let overloaded = seen.iter().filter(|(_, effect)| match effect {
        Effect::ToPeer { message: PeerMessage::Forwarded(it), .. } => {
            it.result.as_ref().is_err_and(|failure| failure.code == FailureCode::Overloaded)
        }
        _ => false,
    });
    assert_eq!(overloaded.count(), 6);
    world.end();
}

#[test]
fn a_replica_whose_storage_has_enough_to_do_refuses_peers() {
    let (mut world, table) = small();
    world.machines.get_mut(&node(2)).expect("it is there").sync_us = 200_000;
    let results: Vec<u64> = (0..20)
        .map(|number| {
            let all = Put { level: Some(Level::All), ..put("k", "v") };
            world.send_put(node(1 + 2 * (number % 2)), table, all)
        })
        .collect();
    results.into_iter().for_each(|request| drop(world.written(request)));
    world.end();
    let requests: Vec<u64> = (0..20).map(|_| world.send(node(2), AskStatus {})).collect();
    let mut refused = 0;
    for request in requests {
        match world.wait(request) {
            ClientResponse::Status(_) => {}
            ClientResponse::Failure(failure) => {
                assert_eq!(failure.code, FailureCode::Overloaded);
                refused += 1;
            }
            other => panic!("{other:?} answers no status request"),
        }
    }
    assert!(refused > 0);
}

#[test]
fn one_client_has_no_more_under_way_than_its_share() {
    let mut world = World::with(1, 3, |config| config.operations_per_client_max = 3);
    world.form();
    let table = world.table("t", options(ConflictPolicy::Latest));
    world.run_ms(100);
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let requests: Vec<u64> =
        keys.map(|key| world.send_put(node(1), table, put(key, "v"))).into_iter().collect();
    let results: Vec<_> = requests.into_iter().map(|request| world.written(request)).collect();
    let refused = results.iter().filter_map(|result| result.as_ref().err());
    assert!(refused.clone().all(|failure| failure.code == FailureCode::Overloaded));
    assert_eq!(refused.count(), 5, "three of eight are under way");
    let again = world.send_put(node(1), table, put("k", "v"));
    assert!(world.written(again).is_ok(), "and once they are answered it has its share again");
    world.end();
}

#[test]
fn every_operation_ends_at_its_deadline_though_nobody_answers() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table) = World::with_table(3, 3, options(policy));
        world.pause(node(2), 30_000);
        world.pause(node(3), 30_000);
        let write = world.send_put(node(1), table, put("k", "v"));
        let read = world.send_get(node(1), table, "k", Level::Quorum);
        let partition = bytes::Bytes::from_static(b"k");
        let head = world.head(node(1), table, b"k");
        let from = bytes::Bytes::new();
        let scan = world
            .send(node(1), quoit_protocol::Scan { head, partition, from, to: None, limit: 10 });
        world.run_ms(1_900);
        assert_eq!(world.core(node(1)).operation_count(), 3);
        world.run_ms(200);
        assert_eq!(world.core(node(1)).operation_count(), 0);
        assert!(world.written(write).expect_err("no quorum").unknown);
        assert!(!world.got(read).expect_err("no quorum").unknown);
        let ClientResponse::Failure(failure) = world.wait(scan) else { panic!("no quorum") };
        assert!(!failure.unknown);
    }
}

#[test]
fn a_write_that_is_sent_again_and_again_is_waited_for_by_a_few_only() {
    let (mut world, table) = World::with_table(4, 3, options(ConflictPolicy::Latest));
    let named = Put { write_id: Some(WriteId(1, 1)), ..put("k", "v") };
    let requests: Vec<u64> =
        (0..40).map(|_| world.send_put(node(1), table, named.clone())).collect();
    let results: Vec<_> = requests.into_iter().map(|request| world.written(request)).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 16);
    for failure in results.into_iter().filter_map(Result::err) {
        assert_eq!((failure.code, failure.unknown), (FailureCode::Overloaded, true));
    }
}
