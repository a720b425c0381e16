//! Partitions, loss, stalls, two of one name.

use std::time::Duration;

use quoit_gossip::{GossipError, GossipEvent};
use quoit_ring::NodeId;

use crate::network::{Network, Node, address, config, rounds, within};

fn deaths(node: &mut Node) -> Vec<GossipEvent> {
    node.drain().into_iter().filter(|event| matches!(event, GossipEvent::Dead { .. })).collect()
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_seen_by_both_sides_and_heals() {
    for (seed, rounds_parted) in [(1, 20), (2, 400)] {
        // 400 rounds are 200 s: each side has forgotten the other, and the seed brings them together.
        let network = Network::new(seed);
        let nodes = Node::start_many(&network, 5).await;
        within(8.0, "all meet", || nodes.iter().all(|node| node.live().len() == 4)).await;
        rounds(10).await;
        network.separate(&[address(1), address(2)]);
        within(10.0, "both sides see it", || {
            let sees = |node: usize| nodes[node].live();
            [sees(0), sees(1)] == [vec![2], vec![1]]
                && [sees(2), sees(3), sees(4)] == [vec![4, 5], vec![3, 5], vec![3, 4]]
        })
        .await;
        rounds(rounds_parted).await;
        assert_eq!(nodes[0].gossip.view().len(), if rounds_parted > 120 { 1 } else { 4 });
        network.heal();
        let healed = within(16.0, "it heals", || nodes.iter().all(|node| node.live().len() == 4));
        println!("a partition of {rounds_parted} rounds: healed in {:.1}", healed.await);
    }
}

#[tokio::test(start_paused = true)]
async fn loss_of_a_tenth_kills_nobody() {
    let network = Network::new(3);
    let mut nodes = Node::start_many(&network, 5).await;
    within(8.0, "all meet", || nodes.iter().all(|node| node.live().len() == 4)).await;
    rounds(20).await;
    for node in &mut nodes {
        node.drain();
    }
    network.lose(1_000);
    rounds(1_200).await;
    for node in &mut nodes {
        assert_eq!(node.drain(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_declares_nobody_dead() {
    let network = Network::new(4);
    let mut nodes = Node::start_many(&network, 3).await;
    within(8.0, "all meet", || nodes.iter().all(|node| node.live().len() == 2)).await;
    rounds(20).await;
    for node in &mut nodes {
        node.drain();
    }
    // The clock jumps while no task runs, as when the process is stopped and continued.
    tokio::time::advance(Duration::from_secs(20)).await;
    rounds(30).await;
    for node in &mut nodes {
        assert_eq!(deaths(node), []);
        assert_eq!(node.live().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn two_addresses_with_one_name_are_a_conflict_and_a_move_is_not() {
    let network = Network::new(5);
    let mut nodes = Node::start_many(&network, 3).await;
    within(8.0, "all meet", || nodes.iter().all(|node| node.live().len() == 2)).await;
    rounds(2).await;
    // Node 3 moves: dies, and starts elsewhere in its next life.
    nodes.remove(2).kill(&network);
    let mut moved = config(3);
    (moved.generation, moved.address) = (2, address(33));
    let mut third = Node::start(&network, moved.clone()).await;
    rounds(60).await;
    let conflict = |event: &GossipEvent| matches!(event, GossipEvent::Conflict { .. });
    assert!(!nodes[0].drain().iter().any(conflict));
    assert!(nodes[0].gossip.view().iter().any(|peer| peer.address == address(33) && peer.alive));
    // Now a second machine starts as node 3 while the first still runs.
    (moved.generation, moved.address) = (3, address(34));
    let _impostor = Node::start(&network, moved).await;
    rounds(60).await;
    let expected = GossipEvent::Conflict {
        node: NodeId(3),
        addresses: [address(33), address(34)].into_iter().collect(),
    };
    for node in nodes.iter_mut().chain([&mut third]) {
        let events = node.drain();
        let told: Vec<_> = events.iter().filter(|event| conflict(event)).collect();
        assert_eq!(told, [&expected], "once, and to the one whom it is about too");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_record_names_can_be_called_on() {
    let network = Network::new(6);
    let mut alone = config(2);
    alone.seeds.clear();
    let two = Node::start(&network, alone).await;
    let mut other = config(3);
    other.seeds.clear();
    let three = Node::start(&network, other).await;
    rounds(20).await;
    assert_eq!(two.live(), [0; 0]);
    two.gossip.contact(three.address);
    within(6.0, "they meet", || two.sees(3) && three.sees(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_gossip_whose_link_is_closed_says_that_it_stopped() {
    let network = Network::new(7);
    let one = Node::start(&network, config(1)).await;
    rounds(2).await;
    let stopped = one.gossip.stopped();
    network.unplug(one.address);
    assert!(matches!(stopped.await, Err(GossipError::Stopped { .. })));
    assert!(one.gossip.shutdown().await.is_err());
}
