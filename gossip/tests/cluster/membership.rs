//! Who is there, what they say, who is gone.

use std::collections::BTreeMap;

use quoit_gossip::{FACTS_MAX, FactError, GossipEvent, KEY_BYTES_MAX, LEAVING_KEY};
use quoit_ring::NodeId;

use crate::network::{Network, Node, config, interval, rounds, within};

/// Within how many rounds three nodes know each other, and give up one that died.
const FOUND_ROUNDS: f64 = 6.0;
const DEAD_ROUNDS: f64 = 10.0;

#[tokio::test(start_paused = true)]
async fn three_nodes_find_each_other_from_one_seed_and_report_a_death() {
    let (mut found_most, mut dead_most) = (0.0, 0.0);
    for seed in 0..40 {
        let network = Network::new(seed);
        let mut nodes = Node::start_many(&network, 3).await;
        let found = within(FOUND_ROUNDS, "three nodes find each other", || {
            nodes.iter().all(|node| node.live().len() == 2)
        });
        found_most = f64::max(found_most, found.await);
        assert_eq!(nodes[1].live(), [1, 3]);
        // From fresh windows, and from full ones.
        rounds(if seed % 2 == 0 { 1 } else { 60 }).await;
        for node in &mut nodes {
            node.drain();
        }
        nodes.remove(0).kill(&network);
        let dead =
            within(DEAD_ROUNDS, "a death is seen", || nodes.iter().all(|node| !node.sees(1)));
        dead_most = f64::max(dead_most, dead.await);
        rounds(1).await;
        for node in &mut nodes {
            assert_eq!(node.drain(), [GossipEvent::Dead { node: NodeId(1) }]);
        }
    }
    println!("three nodes: found in {found_most:.1} rounds, dead in {dead_most:.1} (worst of 40)");
}

#[tokio::test(start_paused = true)]
async fn facts_come_with_a_node_and_spread_when_they_change() {
    let network = Network::new(2);
    let mut one = Node::start(&network, config(1)).await;
    let mut second = config(2);
    second.facts.insert("zone".into(), "a/r1".into());
    let two = Node::start(&network, second).await;
    let three = Node::start(&network, config(3)).await;
    within(6.0, "all meet", || one.live().len() == 2 && three.live().len() == 2).await;
    rounds(1).await;
    let zone = BTreeMap::from([("zone".to_owned(), "a/r1".to_owned())]);
    let alive = one.drain().into_iter().find_map(|event| match event {
        GossipEvent::Alive { node: NodeId(2), generation: 1, address, facts } => {
            Some((address, facts))
        }
        _ => None,
    });
    assert_eq!(alive, Some((two.address, zone.clone())));

    two.gossip.publish("epoch", "7").await.unwrap();
    let mut all = zone;
    all.insert("epoch".into(), "7".into());
    let heard = |node: &Node| {
        node.gossip.view().iter().any(|peer| peer.node == NodeId(2) && peer.facts == all)
    };
    within(3.0, "a fact spreads", || heard(&one) && heard(&three)).await;
    rounds(1).await;
    assert_eq!(
        one.drain(),
        [GossipEvent::Facts { node: NodeId(2), generation: 1, facts: all.clone() }]
    );
}

#[tokio::test(start_paused = true)]
async fn a_fact_out_of_bounds_is_refused_and_changes_nothing() {
    let network = Network::new(3);
    let one = Node::start(&network, config(1)).await;
    let publish =
        async |key: &str, size_bytes: usize| one.gossip.publish(key, &"v".repeat(size_bytes)).await;
    assert_eq!(publish(&"k".repeat(KEY_BYTES_MAX), 256).await, Ok(()));
    assert!(matches!(publish(&"k".repeat(65), 1).await, Err(FactError::Key { .. })));
    assert!(matches!(publish("", 1).await, Err(FactError::Key { .. })));
    assert!(matches!(publish(LEAVING_KEY, 1).await, Err(FactError::Key { .. })));
    assert_eq!(publish("k", 257).await, Err(FactError::Value { size_bytes: 257 }));
    for number in 1..FACTS_MAX {
        assert_eq!(publish(&number.to_string(), 256).await, Ok(()));
    }
    assert_eq!(publish("one more", 1).await, Err(FactError::TooMany));
    assert_eq!(publish("1", 0).await, Ok(()), "a key that is there may be said again");
    // All of it reaches another node.
    let two = Node::start(&network, config(2)).await;
    within(6.0, "full facts arrive", || {
        two.gossip.view().first().is_some_and(|peer| peer.facts.len() == FACTS_MAX)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_replaces_its_former_life() {
    let network = Network::new(4);
    let mut nodes = Node::start_many(&network, 3).await;
    nodes[2].gossip.publish("old", "yes").await.unwrap();
    rounds(6).await;
    nodes[0].drain();
    nodes.remove(2).kill(&network);
    let mut again = config(3);
    again.generation = 2;
    let _third = Node::start(&network, again).await;
    within(8.0, "the new life is seen", || {
        nodes[0].gossip.view().iter().any(|peer| peer.generation == 2 && peer.alive)
    })
    .await;
    rounds(30).await;
    let events = nodes[0].drain();
    // Perhaps a short death between the two lives; the new one last, and nothing of the old.
    let last = events.last().unwrap();
    assert!(
        matches!(last, GossipEvent::Alive { node: NodeId(3), generation: 2, facts, .. } if facts.is_empty()),
        "{events:?}"
    );
    assert!(events.len() <= 2, "{events:?}");
    let view = nodes[0].gossip.view();
    assert_eq!(view.iter().map(|peer| peer.node.0).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_heard_sooner_than_a_silence() {
    let network = Network::new(5);
    let mut nodes = Node::start_many(&network, 3).await;
    within(6.0, "all meet", || nodes.iter().all(|node| node.live().len() == 2)).await;
    rounds(1).await;
    let leaver = nodes.remove(2);
    let stopped = leaver.gossip.stopped();
    let (goodbye, heard) = tokio::join!(
        leaver.gossip.shutdown(),
        within(1.5, "a goodbye is heard", || nodes.iter().all(|node| !node.sees(3)))
    );
    goodbye.unwrap();
    stopped.await.unwrap();
    println!("goodbye: heard in {heard:.1} rounds");
}

#[tokio::test(start_paused = true)]
async fn a_slow_listener_is_told_the_last_word() {
    let network = Network::new(6);
    let mut slow = config(1);
    slow.events_max = 1;
    let mut one = Node::start(&network, slow).await;
    let two = Node::start(&network, config(2)).await;
    let three = Node::start(&network, config(3)).await;
    within(6.0, "all meet", || one.live().len() == 2).await;
    for count in 0..50 {
        two.gossip.publish("count", &count.to_string()).await.unwrap();
        tokio::time::sleep(interval()).await;
    }
    three.kill(&network);
    rounds(10).await;
    let mut told = Vec::new();
    for _ in 0..6 {
        told.extend(one.drain());
        rounds(1).await;
    }
    // One event waited; of the fifty counts only the last was told after it, and of node 3, that
    // came and went unheard, nothing or all.
    let mut counts = told.iter().filter_map(|event| match event {
        GossipEvent::Alive { facts, .. } | GossipEvent::Facts { facts, .. } => facts.get("count"),
        _ => None,
    });
    assert_eq!(counts.next_back().map(String::as_str), Some("49"), "{told:?}");
    assert!(told.len() <= 4, "{told:?}");
}
