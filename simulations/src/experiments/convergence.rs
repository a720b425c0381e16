//! How long gossip takes to tell everyone: chitchat itself, as the node runs it, on a network in memory
//! that delays messages by 1 to 20 ms, under tokio's paused clock. Chitchat draws who it speaks to from
//! the system's randomness, so the figures differ a little from run to run: the worst of three is told, and of one where there are many members.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quoit_core::random::Random;
use quoit_gossip::{Gossip, GossipConfig, GossipEvent, Link};
use quoit_ring::{ClusterId, NodeId};
use tokio::sync::mpsc;

use super::table::{Cell, Table};

const RUNS: u64 = 3;
/// From so many members on it is one run.
const MANY: usize = 200;
/// Between what is measured, everyone comes to rest.
const REST_ROUNDS: u32 = 20;
/// How many messages a link's queue holds.
const QUEUE_MAX: usize = 2_048;
/// Nothing takes more rounds.
const ROUNDS_MAX: u32 = 200;

/// One row for each number of members.
pub(super) fn make(sizes: &[usize], seed: u64) -> Table {
    Table {
        title: "Rounds of gossip (400 ms each) until all know".to_owned(),
        columns: vec![
            "members",
            "all meet",
            "a fact",
            "a newcomer",
            "a death",
            "log2 n + ln n",
            "KB/s of each",
        ],
        plotted: vec![1, 2, 3, 4, 5],
        axis: "rounds",
        rows: sizes.iter().map(|size| row(*size, seed)).collect(),
        notes: vec![
            "Push-pull rumours reach all of n in about log2 n + ln n rounds where each speaks to one \
             other a round (Pittel, 1987; Demers et al., 1987); chitchat speaks to three. A death is \
             known when its silence has become suspect to all (phi accrual: about 8 rounds), on top of \
             how late its last heartbeats came."
                .to_owned(),
            "All meet: everyone knows one seed at first. Bytes grow with n, for every message carries \
             the whole digest."
                .to_owned(),
        ],
    }
}

/// What one run took, in rounds.
#[derive(Clone, Copy, Default)]
struct Took {
    meet: f64,
    fact: f64,
    newcomer: f64,
    death: f64,
    bytes_per_second: f64,
}

fn row(size: usize, seed: u64) -> Vec<Cell> {
    let mut worst = Took::default();
    for run in 0..if size < MANY { RUNS } else { 1 } {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can be had");
        let took = runtime.block_on(play(size as u64, seed.wrapping_add(run)));
        worst = Took {
            meet: worst.meet.max(took.meet),
            fact: worst.fact.max(took.fact),
            newcomer: worst.newcomer.max(took.newcomer),
            death: worst.death.max(took.death),
            bytes_per_second: worst.bytes_per_second.max(took.bytes_per_second),
        };
    }
    let n = size as f64;
    vec![
        Cell::Count(size as u64),
        Cell::Number(worst.meet, 1),
        Cell::Number(worst.fact, 1),
        Cell::Number(worst.newcomer, 1),
        Cell::Number(worst.death, 1),
        Cell::Number(n.log2() + n.ln(), 1),
        Cell::Number(worst.bytes_per_second / 1_000.0, 1),
    ]
}

type Inboxes = Arc<Mutex<BTreeMap<SocketAddr, mpsc::Sender<(SocketAddr, Bytes)>>>>;

/// The network: every message comes, a little later.
#[derive(Clone)]
struct Network {
    inboxes: Inboxes,
    random: Arc<Mutex<Random>>,
}

struct Node {
    gossip: Gossip,
    /// Held so that the gossip can tell; nobody listens.
    _events: mpsc::Receiver<GossipEvent>,
}

fn address(id: u64) -> SocketAddr {
    let id = u16::try_from(id).expect("at most 301 nodes");
    let [high, low] = id.to_be_bytes();
    ([10, 0, high, low], 7_000).into()
}

impl Network {
    fn new(seed: u64) -> Self {
        let random = Arc::new(Mutex::new(Random::new(seed)));
        Self { inboxes: Inboxes::default(), random }
    }

    fn plug(&self, address: SocketAddr) -> Link {
        let (outgoing, mut leaving) = mpsc::channel::<(SocketAddr, Bytes)>(QUEUE_MAX);
        let (inbox, incoming) = mpsc::channel(QUEUE_MAX);
        lock(&self.inboxes).insert(address, inbox);
        let network = self.clone();
        tokio::spawn(async move {
            while let Some((to, bytes)) = leaving.recv().await {
                let delay_ms = 1 + lock(&network.random).below(20);
                let inboxes = network.inboxes.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                    let inbox = lock(&inboxes).get(&to).cloned();
                    // A full queue loses it, as the real transport does.
                    inbox.map(|inbox| inbox.try_send((address, bytes)));
                });
            }
        });
        Link { outgoing, incoming }
    }

    async fn start(&self, id: u64) -> Node {
        let mut config = GossipConfig::new(ClusterId(1), NodeId(id), 1, address(id));
        config.seeds = vec![address(1)];
        let link = self.plug(address(id));
        let (gossip, events) = Gossip::start(config, link).await.expect("a sound configuration");
        Node { gossip, _events: events }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    fn live(&self) -> usize {
        self.gossip.view().iter().filter(|peer| peer.alive).count()
    }

    fn sees(&self, id: u64) -> bool {
        self.gossip.view().iter().any(|peer| peer.alive && peer.node == NodeId(id))
    }
}

async fn play(size: u64, seed: u64) -> Took {
    let network = Network::new(seed);
    let interval = GossipConfig::new(ClusterId(1), NodeId(1), 1, address(1)).interval;
    let mut nodes = Vec::new();
    for id in 1..=size {
        nodes.push(network.start(id).await);
    }
    let others = size as usize - 1;
    let meet = rounds_until(interval, || nodes.iter().all(|node| node.live() == others)).await;
    tokio::time::sleep(interval * REST_ROUNDS).await;

    let sent =
        |nodes: &[Node]| -> u64 { nodes.iter().map(|node| node.gossip.counts().sent_bytes).sum() };
    let before = sent(&nodes);
    tokio::time::sleep(interval * REST_ROUNDS).await;
    let bytes = (sent(&nodes) - before) as f64;
    let bytes_per_second = bytes / (f64::from(REST_ROUNDS) * interval.as_secs_f64()) / size as f64;

    let last = nodes.last().expect("two at least");
    last.gossip.publish("fact", "1").await.expect("it is short");
    let knows = |node: &Node| {
        let view = node.gossip.view();
        view.iter().any(|peer| peer.node == NodeId(size) && peer.facts.contains_key("fact"))
    };
    let hearers = &nodes[..nodes.len() - 1];
    let fact = rounds_until(interval, || hearers.iter().all(knows)).await;

    let newcomer = network.start(size + 1).await;
    let all_see = || nodes.iter().all(|node| node.sees(size + 1));
    let born = rounds_until(interval, || all_see() && newcomer.live() == size as usize).await;
    tokio::time::sleep(interval * REST_ROUNDS).await;
    lock(&network.inboxes).remove(&address(size + 1));
    drop(newcomer);
    let death = rounds_until(interval, || !nodes.iter().any(|node| node.sees(size + 1))).await;
    Took { meet, fact, newcomer: born, death, bytes_per_second }
}

/// The rounds until something holds; the most there are if it never does.
async fn rounds_until(interval: Duration, holds: impl Fn() -> bool) -> f64 {
    let steps = 2;
    for step in 0..ROUNDS_MAX * steps {
        if holds() {
            return f64::from(step) / f64::from(steps);
        }
        tokio::time::sleep(interval / steps).await;
    }
    f64::from(ROUNDS_MAX)
}
