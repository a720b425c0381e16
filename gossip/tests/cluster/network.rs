//! A network in memory: links with delay, loss, and partitions, all from one seed. Time is tokio's
//! paused clock. (Chitchat draws its own randomness from the system, so a seed fixes the network's
//! faults and not the whole run: the tests assert bounds, with room.)

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use quoit_gossip::{Gossip, GossipConfig, GossipEvent, Link};
use quoit_ring::{ClusterId, NodeId};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The cluster of the tests.
pub(crate) const CLUSTER: ClusterId = ClusterId(0xc0ffee);
/// How many messages a link's queue holds.
const QUEUE_MAX: usize = 1_024;

type Parcel = (SocketAddr, SocketAddr, Bytes);

/// The network and its faults.
#[derive(Clone)]
pub(crate) struct Network {
    state: Arc<Mutex<State>>,
    parcels: mpsc::UnboundedSender<Parcel>,
}

struct State {
    random: Random,
    /// Of ten thousand messages, how many are lost.
    loss: u64,
    delay_ms: (u64, u64),
    inboxes: BTreeMap<SocketAddr, mpsc::Sender<(SocketAddr, Bytes)>>,
    /// Messages pass only within one island; nobody named is on island 0.
    islands: BTreeMap<SocketAddr, u32>,
    captured: Vec<Bytes>,
    capture_max: usize,
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let state = Arc::new(Mutex::new(State {
            random: Random(seed),
            loss: 0,
            delay_ms: (1, 20),
            inboxes: BTreeMap::new(),
            islands: BTreeMap::new(),
            captured: Vec::new(),
            capture_max: 0,
        }));
        let (parcels, arriving) = mpsc::unbounded_channel();
        tokio::spawn(carry(Arc::clone(&state), arriving));
        Self { state, parcels }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    pub(crate) fn lose(&self, of_ten_thousand: u64) {
        self.state().loss = of_ten_thousand;
    }

    pub(crate) fn separate(&self, island: &[SocketAddr]) {
        self.state().islands = island.iter().map(|address| (*address, 1)).collect();
    }

    pub(crate) fn heal(&self) {
        self.state().islands.clear();
    }

    /// Keeps copies of the next messages, up to `count`.
    pub(crate) fn capture(&self, count: usize) {
        self.state().capture_max = count;
    }

    pub(crate) fn captured(&self) -> Vec<Bytes> {
        self.state().captured.clone()
    }

    /// Hands bytes to a node as if `from` had sent them.
    pub(crate) async fn inject(&self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let inbox = self.state().inboxes.get(&to).cloned().expect("the node is plugged in");
        inbox.send((from, bytes)).await.expect("the node takes its messages");
    }

    /// Plugs a node in; whoever held the address before is cut off.
    pub(crate) fn plug(&self, address: SocketAddr) -> Link {
        let (outgoing, mut leaving) = mpsc::channel::<(SocketAddr, Bytes)>(QUEUE_MAX);
        let (inbox, incoming) = mpsc::channel(QUEUE_MAX);
        self.state().inboxes.insert(address, inbox);
        let parcels = self.parcels.clone();
        tokio::spawn(async move {
            while let Some((to, bytes)) = leaving.recv().await {
                if parcels.send((address, to, bytes)).is_err() {
                    return;
                }
            }
        });
        Link { outgoing, incoming }
    }

    /// Nothing reaches the address any more.
    pub(crate) fn unplug(&self, address: SocketAddr) {
        self.state().inboxes.remove(&address);
    }
}

async fn carry(state: Arc<Mutex<State>>, mut arriving: mpsc::UnboundedReceiver<Parcel>) {
    let mut way: BTreeMap<(Instant, u64), Parcel> = BTreeMap::new();
    let mut count = 0;
    loop {
        let next = way.keys().next().map_or_else(far, |(at, _)| *at);
        tokio::select! {
            parcel = arriving.recv() => {
                let Some(parcel) = parcel else { return };
                let Some(delay) = post(&state, &parcel) else { continue };
                count += 1;
                way.insert((Instant::now() + delay, count), parcel);
            }
            () = tokio::time::sleep_until(next) => {
                let Some((_, (from, to, bytes))) = way.pop_first() else { continue };
                let state = state.lock().expect("no test panics while it holds this");
                if let Some(inbox) = state.inboxes.get(&to) {
                    let _ = inbox.try_send((from, bytes));
                }
            }
        }
    }
}

/// Draws a message's fate: its delay, or nothing where it is lost.
fn post(state: &Mutex<State>, (from, to, bytes): &Parcel) -> Option<Duration> {
    let mut state = state.lock().expect("no test panics while it holds this");
    if state.captured.len() < state.capture_max {
        state.captured.push(bytes.clone());
    }
    let island = |address| state.islands.get(address).copied().unwrap_or(0);
    let parted = island(from) != island(to);
    let loss = state.loss;
    let lost = state.random.below(10_000) < loss;
    let (least, most) = state.delay_ms;
    let delay = least + state.random.below(most - least + 1);
    (!parted && !lost).then(|| Duration::from_millis(delay))
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

/// A node under test.
pub(crate) struct Node {
    pub(crate) gossip: Gossip,
    pub(crate) events: mpsc::Receiver<GossipEvent>,
    pub(crate) address: SocketAddr,
}

/// Node `id`'s address.
pub(crate) fn address(id: u64) -> SocketAddr {
    let id = u16::try_from(id).expect("test nodes have small ids");
    let [high, low] = id.to_be_bytes();
    ([10, 0, high, low], 7_000).into()
}

/// Node `id`'s configuration in its first life, calling on node 1.
pub(crate) fn config(id: u64) -> GossipConfig {
    let mut config = GossipConfig::new(CLUSTER, NodeId(id), 1, address(id));
    config.seeds = vec![address(1)];
    config
}

impl Node {
    pub(crate) async fn start(network: &Network, config: GossipConfig) -> Self {
        let address = config.address;
        let link = network.plug(address);
        let (gossip, events) = Gossip::start(config, link).await.expect("a sound configuration");
        Self { gossip, events, address }
    }

    /// Nodes 1 to `count`, with node 1 as their seed.
    pub(crate) async fn start_many(network: &Network, count: u64) -> Vec<Self> {
        let mut nodes = Vec::new();
        for id in 1..=count {
            nodes.push(Self::start(network, config(id)).await);
        }
        nodes
    }

    /// As kill -9 does it: not a word more, in or out.
    pub(crate) fn kill(self, network: &Network) {
        network.unplug(self.address);
    }

    pub(crate) fn live(&self) -> Vec<u64> {
        let view = self.gossip.view();
        view.iter().filter(|peer| peer.alive).map(|peer| peer.node.0).collect()
    }

    pub(crate) fn sees(&self, id: u64) -> bool {
        self.gossip.view().iter().any(|peer| peer.alive && peer.node == NodeId(id))
    }

    /// The events that wait.
    pub(crate) fn drain(&mut self) -> Vec<GossipEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

/// The default interval.
pub(crate) fn interval() -> Duration {
    config(1).interval
}

/// Lets so many rounds pass.
pub(crate) async fn rounds(count: u32) {
    tokio::time::sleep(interval() * count).await;
}

/// Waits until `holds`; gives the rounds that it took, and fails after `most`.
pub(crate) async fn within(most: f64, what: &str, mut holds: impl FnMut() -> bool) -> f64 {
    let start = Instant::now();
    loop {
        let passed = start.elapsed().as_secs_f64() / interval().as_secs_f64();
        if holds() {
            return passed;
        }
        assert!(passed <= most, "{what}: not within {most} rounds");
        tokio::time::sleep(interval() / 5).await;
    }
}
