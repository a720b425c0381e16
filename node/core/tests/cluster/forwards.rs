//! Writes that reach a node which is no primary of their key.

use quoit_core::peer::{Forward, PeerMessage};
use quoit_core::{Effect, Event};
use quoit_protocol::{FailureCode, WriteId};
use quoit_ring::{ConflictPolicy, NodeId, TableId};

use crate::world::{Put, World, client_asks, options, put};

/// A world of five and a node that is no primary of "k".
fn world(seed: u64, policy: ConflictPolicy) -> (World, TableId, NodeId, Vec<NodeId>) {
    let (world, table) = World::with_table(seed, 5, options(policy));
    let primaries = world.primaries(table, "k");
    let outside = world.ids().into_iter().find(|id| !primaries.contains(id)).expect("five, N is 3");
    (world, table, outside, primaries)
}

#[test]
fn a_primary_coordinates_what_another_node_was_asked() {
    for policy in [ConflictPolicy::Latest, ConflictPolicy::Siblings] {
        let (mut world, table, outside, _) = world(1, policy);
        let written = world.put(outside, table, put("k", "v")).expect("primaries are up");
        assert_eq!(written.acknowledged, 2);
        assert_eq!(world.core(outside).counters().forwards, 1);
        assert_eq!(world.read(outside, table, "k"), ["v"]);
        assert!(world.stored(outside, table, "k").expect("readable").is_empty());
        world.end();
    }
}

#[test]
fn a_write_is_handed_on_once() {
    let (mut world, table, outside, primaries) = world(2, ConflictPolicy::Latest);
    let write = world.write(outside, table, put("k", "v"));
    world.seen = Some(Vec::new());
    let message = PeerMessage::from(Box::new(Forward { write }));
    world.tell(outside, Event::Peer { from: primaries[0], request: 9, message });
    world.run_ms(50);
    let seen = world.seen.take().expect("asked for");
    let answers: Vec<_> = seen
        .iter()
        .filter_map(|(id, effect)| match effect {
            Effect::ToPeer { message: PeerMessage::Forwarded(it), .. } => Some((*id, it.clone())),
            Effect::ToPeer { message: PeerMessage::Forward(_), .. } => panic!("handed on twice"),
            _ => None,
        })
        .collect();
    let [(id, forwarded)] = &answers[..] else { panic!("one answer, not {answers:?}") };
    let failure = forwarded.result.clone().expect_err("no primary");
    assert_eq!((*id, failure.code), (outside, FailureCode::WrongConfiguration));
    assert!(!failure.unknown);
}

#[test]
fn a_forwarded_write_whose_primary_is_lost_is_unknown() {
    let (mut world, table, outside, primaries) = world(3, ConflictPolicy::Latest);
    for id in &primaries {
        world.pause(*id, 1_000);
    }
    let request = world.send_put(outside, table, put("k", "v"));
    world.run_ms(10);
    primaries.iter().for_each(|id| world.shake(outside, *id));
    let failure = world.written(request).expect_err("its answer is lost");
    assert!(failure.unknown, "{failure:?}");
    world.end();
}

#[test]
fn a_forwarded_write_without_a_primary_in_reach_is_not_done() {
    let (mut world, table, outside, primaries) = world(4, ConflictPolicy::Latest);
    primaries.iter().for_each(|id| world.cut(outside, *id));
    world.run_ms(10);
    let failure = world.put(outside, table, put("k", "v")).expect_err("cut off");
    assert_eq!((failure.code, failure.unknown), (FailureCode::Unavailable, false));
}

#[test]
fn one_primary_in_reach_is_enough_to_hand_a_write_on() {
    let (mut world, table, outside, primaries) = world(5, ConflictPolicy::Latest);
    primaries[1..].iter().for_each(|id| world.cut(outside, *id));
    world.run_ms(10);
    world.put(outside, table, put("k", "v")).expect("that primary reaches the others");
    assert_eq!(world.read(primaries[2], table, "k"), ["v"]);
}

#[test]
fn a_repeated_forward_is_recognised_by_the_primary() {
    let (mut world, table, outside, _) = world(6, ConflictPolicy::Siblings);
    let named = Put { write_id: Some(WriteId(11, 12)), ..put("k", "v") };
    for _ in 0..3 {
        world.put(outside, table, named.clone()).expect("primaries are up");
    }
    assert_eq!(world.read(outside, table, "k"), ["v"], "one write, not three siblings");
}

#[test]
fn an_answer_from_a_node_that_was_not_asked_is_nothing() {
    let (mut world, table, outside, primaries) = world(7, ConflictPolicy::Latest);
    primaries.iter().for_each(|id| world.pause(*id, 500));
    world.seen = Some(Vec::new());
    let write = world.write(outside, table, put("k", "v"));
    let message = quoit_protocol::ClientRequest::Write(write);
    world.tell(outside, client_asks(77, message));
    world.run_ms(1);
    let seen = world.seen.take().expect("asked for");
    let (to, request) = seen
        .iter()
        .find_map(|(_, effect)| match effect {
            Effect::ToPeer { to, request, message: PeerMessage::Forward(_) } => {
                Some((*to, *request))
            }
            _ => None,
        })
        .expect("it was handed on");
    let liar = *primaries.iter().find(|id| **id != to).expect("three primaries");
    let result = Ok(quoit_protocol::Written {
        time: quoit_ring::HybridTime::ZERO,
        context: bytes::Bytes::new(),
        dot: (0, quoit_ring::HybridTime::ZERO),
        acknowledged: 3,
    });
    let message = PeerMessage::from(Box::new(quoit_core::peer::Forwarded { result }));
    world.tell(outside, Event::Peer { from: liar, request, message });
    world.run_ms(1);
    assert!(world.answer(77).is_none());
    world.end();
}
