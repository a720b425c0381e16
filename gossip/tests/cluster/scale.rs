//! A hundred nodes.

use std::time::Instant;

use crate::network::{Network, Node, config, interval, rounds, within};

const NODES: u64 = 100;
/// Within how many rounds all of a hundred learn of a new node, of a fact, and of a death.
const BORN_ROUNDS: f64 = 10.0;
const FACT_ROUNDS: f64 = 6.0;
const DEAD_ROUNDS: f64 = 15.0;

#[tokio::test(start_paused = true)]
async fn a_hundred_nodes_learn_of_a_birth_a_fact_and_a_death() {
    let real = Instant::now();
    let network = Network::new(100);
    network.lose(100);
    let mut nodes = Node::start_many(&network, NODES).await;
    let all = NODES as usize;
    let booted =
        within(20.0, "a hundred meet", || nodes.iter().all(|node| node.live().len() == all - 1))
            .await;
    rounds(40).await;
    let calm = nodes.iter().all(|node| node.live().len() == all - 1);
    assert!(calm, "nobody is given up while a message in a hundred is lost");

    let before: u64 = nodes.iter().map(|node| node.gossip.counts().sent_bytes).sum();
    rounds(20).await;
    let after: u64 = nodes.iter().map(|node| node.gossip.counts().sent_bytes).sum();
    let rate = (after - before) as f64 / 20.0 / interval().as_secs_f64() / NODES as f64;

    let newcomer = Node::start(&network, config(NODES + 1)).await;
    let born = within(BORN_ROUNDS, "a birth is known", || {
        nodes.iter().all(|node| node.sees(NODES + 1)) && newcomer.live().len() == all
    })
    .await;
    newcomer.gossip.publish("epoch", "9").await.unwrap();
    let fact = within(FACT_ROUNDS, "a fact is known", || {
        nodes.iter().all(|node| {
            let view = node.gossip.view();
            view.last().is_some_and(|peer| peer.facts.contains_key("epoch"))
        })
    })
    .await;
    rounds(40).await;
    newcomer.kill(&network);
    let dead =
        within(DEAD_ROUNDS, "a death is known", || nodes.iter().all(|node| !node.sees(NODES + 1)))
            .await;
    for node in &mut nodes {
        let refused = node.gossip.counts().refused;
        assert_eq!(refused, 0, "sound peers are not refused");
    }
    println!(
        "100 nodes, 1 % lost: all met in {booted:.1} rounds, birth {born:.1}, fact {fact:.1}, \
         death {dead:.1}; each sends {rate:.0} B/s; {:.1} s of real time",
        real.elapsed().as_secs_f64()
    );
}
