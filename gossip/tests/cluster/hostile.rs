//! Bytes that no sound peer sends, and peers of another cluster.

use bytes::Bytes;
use quoit_gossip::{GossipEvent, MESSAGE_BYTES_MAX, Refusal};
use quoit_ring::ClusterId;

use crate::network::{Network, Node, Random, address, config, rounds, within};

/// Whether a node still gossips: it meets one that it did not know.
async fn thrives(network: &Network, node: &Node, id: u64) {
    let mut newcomer = config(id);
    newcomer.seeds = vec![node.address];
    let newcomer = Node::start(network, newcomer).await;
    within(10.0, "it still meets others", || node.sees(id) && !newcomer.live().is_empty()).await;
    newcomer.kill(network);
}

async fn three_and_their_messages(network: &Network) -> (Vec<Node>, Vec<Bytes>) {
    network.capture(40);
    let nodes = Node::start_many(network, 3).await;
    nodes[1].gossip.publish("load", "12").await.expect("a small fact");
    within(6.0, "all meet", || nodes.iter().all(|node| node.live().len() == 2)).await;
    rounds(10).await;
    (nodes, network.captured())
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_never_appears() {
    let network = Network::new(1);
    let mut nodes = Node::start_many(&network, 2).await;
    let mut other = config(3);
    other.cluster = ClusterId(0xbad);
    let mut third = Node::start(&network, other).await;
    rounds(40).await;
    assert_eq!((nodes[0].live(), nodes[1].live()), (vec![2], vec![1]));
    assert_eq!(third.gossip.view(), []);
    let cluster = ClusterId(0xbad).to_string();
    let reason = Refusal::OtherCluster { cluster };
    let told = nodes[0].drain();
    let refused = GossipEvent::Refused { address: third.address, reason };
    assert_eq!(told.iter().filter(|event| **event == refused).count(), 1, "told, once");
    let reason = Refusal::RefusedByPeer;
    assert_eq!(third.drain(), [GossipEvent::Refused { address: address(1), reason }]);
}

#[tokio::test(start_paused = true)]
async fn truncated_messages_and_noise_do_no_harm() {
    let network = Network::new(2);
    let (mut nodes, messages) = three_and_their_messages(&network).await;
    let target = nodes[0].address;
    for node in &mut nodes {
        node.drain();
    }
    let before = nodes[0].gossip.counts().refused;
    let mut injected = 0;
    for message in &messages {
        for length in 0..message.len() {
            network.inject(address(2), target, message.slice(..length)).await;
            injected += 1;
        }
    }
    let mut random = Random(7);
    for _ in 0..20_000 {
        let length = random.below(300);
        let mut noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        // Half of it gets past the magic number and the version.
        if length > 4 && random.below(2) == 0 {
            noise[..4].copy_from_slice(&[0x53, 0xb0, 0, random.below(3) as u8]);
        }
        network.inject(address(2), target, noise.into()).await;
        injected += 1;
    }
    network.inject(address(2), target, vec![0; MESSAGE_BYTES_MAX + 1].into()).await;
    rounds(10).await;
    assert_eq!(nodes[0].gossip.counts().refused - before, injected + 1, "each was refused");
    for node in &mut nodes {
        assert_eq!(node.live().len(), 2);
        let deaths = node.drain().into_iter().filter(|e| matches!(e, GossipEvent::Dead { .. }));
        assert_eq!(deaths.count(), 0);
    }
    thrives(&network, &nodes[0], 9).await;
}

#[tokio::test(start_paused = true)]
async fn corrupted_messages_do_not_stop_gossip() {
    // A flipped bit may make a sound lie (the link's encryption is there against that), but it must
    // not stop the machine.
    let network = Network::new(3);
    let (nodes, messages) = three_and_their_messages(&network).await;
    let mut random = Random(8);
    for round in 0..20_000 {
        let mut message = messages[round % messages.len()].to_vec();
        for _ in 0..=random.below(3) {
            let position = random.below(message.len() as u64) as usize;
            message[position] ^= 1 << random.below(8);
        }
        network.inject(address(3), nodes[0].address, message.into()).await;
    }
    rounds(2).await;
    thrives(&network, &nodes[0], 9).await;
}

#[tokio::test(start_paused = true)]
async fn more_nodes_than_can_be_held_are_cut_away_and_the_real_ones_stay() {
    let network = Network::new(4);
    let mut nodes = Node::start_many(&network, 3).await;
    within(6.0, "all meet", || nodes.iter().all(|node| node.live().len() == 2)).await;
    for crowd in 0..10 {
        let syn = syn_of_a_crowd(10_000 + crowd * 1_000, 1_000);
        network.inject(address(2), nodes[0].address, syn).await;
    }
    rounds(10).await;
    assert!(nodes[0].gossip.counts().cut > 0);
    let told = nodes[0].drain();
    assert!(
        told.iter().any(|event| matches!(
            event,
            GossipEvent::Refused { reason: Refusal::TooManyNodes, .. }
        ))
    );
    for node in &nodes {
        assert_eq!(node.live().len(), 2, "the real ones are alive, the crowd was hearsay");
    }
    // A newcomer finds no room until the crowd is forgotten.
    rounds(400).await;
    thrives(&network, &nodes[0], 9).await;
}

/// A SYN that names `count` nodes from `first` on.
fn syn_of_a_crowd(first: u64, count: u16) -> Bytes {
    let mut bytes = vec![0x53, 0xb0, 0, 0];
    bytes.extend(count.to_le_bytes());
    for node in first..first + u64::from(count) {
        let name = format!("n{node}");
        bytes.extend(u16::try_from(name.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend([4, 10, 9, 9, 9]);
        bytes.extend(7_000_u16.to_le_bytes());
        bytes.extend(5_u64.to_le_bytes());
        bytes.extend([0; 16]);
    }
    let cluster = crate::network::CLUSTER.to_string();
    bytes.extend(32_u16.to_le_bytes());
    bytes.extend(cluster.as_bytes());
    bytes.into()
}
