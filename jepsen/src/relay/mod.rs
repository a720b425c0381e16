//! A relay for UDP in this process, through which all packets between nodes pass, so that each direction
//! of each link can be cut, lossy, slow, out of order, doubled and damaged. It needs no rights.
//!
//! A node listens at one address and advertises another one, its *front*, at which the relay listens, as
//! behind a NAT. The relay tells by the sender's address from whom a packet is, and sends it on from a
//! socket that it has for this pair alone (its *back*); what the receiver answers there goes back by the
//! front that the sender knows. Who is no node is a client, and has sockets of its own.
//!
//! ```text
//! n1 --> front of n2 == n1 to n2 ==> back of n1 at n2 --> n2
//! n1 <-- front of n2 <== n2 to n1 == back of n1 at n2 <-- n2
//! ```
//!
//! Nodes take each other's word for nothing but certificates, so that the senders' addresses do not matter.

mod queue;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use queue::Queue;
pub(crate) use queue::{Conditions, Counts};

/// No UDP packet is longer.
const PACKET_BYTES_MAX: usize = 65_535;
/// Clients of one node at a time, each by its address. Further ones are not heard.
const CLIENTS_MAX: usize = 512;
/// After an error of a socket.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// A node, as the relay knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Where it listens, and whence its packets come.
    pub(crate) listen: SocketAddr,
    /// Where the relay listens for it; from other ports of this address it speaks for it.
    pub(crate) front: SocketAddr,
}

/// The relay. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    places: Vec<Place>,
    client: IpAddr,
    fronts: Vec<Arc<StdSocket>>,
    /// By the receiver, then by the sender.
    backs: Vec<Vec<Arc<StdSocket>>>,
    /// By the sender, then by the receiver. All clients together come last.
    directions: Vec<Vec<Direction>>,
}

#[derive(Debug)]
struct Direction {
    queue: Mutex<Queue<Exit>>,
    changed: Notify,
}

impl Direction {
    fn queue(&self) -> MutexGuard<'_, Queue<Exit>> {
        // Nothing panics midway through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By which socket, and whereto, a packet leaves.
#[derive(Debug, Clone)]
struct Exit {
    socket: Arc<StdSocket>,
    to: SocketAddr,
}

impl Exit {
    fn send(&self, packet: &[u8]) {
        // What a full or missing socket refuses is lost, as packets may be.
        let _ = self.socket.send_to(packet, self.to);
    }
}

impl Relay {
    /// Listens for each node. Clients are spoken for from ports of `client`.
    ///
    /// # Errors
    /// Where a front is taken or an address is not of this host.
    pub(crate) fn start(places: Vec<Place>, client: IpAddr, seed: u64) -> io::Result<Self> {
        let count = places.len();
        let mut tasks = JoinSet::new();
        let mut fronts = Vec::new();
        let mut readers = Vec::new();
        for place in &places {
            let (sender, reader) = open(place.front)?;
            fronts.push(sender);
            readers.push(reader);
        }
        let (mut backs, mut answers) = (Vec::new(), Vec::new());
        for to in 0..count {
            let mut senders = Vec::new();
            for (from, place) in places.iter().enumerate() {
                let (sender, reader) = open((place.front.ip(), 0).into())?;
                senders.push(sender);
                answers.push((to, from, reader));
            }
            backs.push(senders);
        }
        let direction = |from: usize, to: usize| Direction {
            queue: Mutex::new(Queue::new(seed ^ ((from as u64) << 40 | (to as u64) << 32))),
            changed: Notify::new(),
        };
        let directions =
            (0..=count).map(|from| (0..=count).map(|to| direction(from, to)).collect()).collect();
        let shared = Arc::new(Shared { places, client, fronts, backs, directions });
        for (at, reader) in readers.into_iter().enumerate() {
            tasks.spawn(read_front(Arc::clone(&shared), reader, at));
        }
        for (node, asker, reader) in answers.into_iter().filter(|(to, from, _)| to != from) {
            let exit =
                Exit { socket: Arc::clone(&shared.fronts[node]), to: shared.places[asker].listen };
            tasks.spawn(read_back(Arc::clone(&shared), reader, (node, asker), exit));
        }
        for from in 0..=count {
            for to in (0..=count).filter(|to| *to != from) {
                tasks.spawn(drive(Arc::clone(&shared), from, to));
            }
        }
        Ok(Self { shared, _tasks: tasks })
    }

    /// How many nodes there are; as a sender or receiver this number stands for all clients.
    pub(crate) fn clients(&self) -> usize {
        self.shared.places.len()
    }

    /// Changes what becomes of packets in one direction.
    pub(crate) fn set(&self, from: usize, to: usize, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.shared.directions[from][to].queue().conditions);
    }

    /// Lets everything pass again. What is under way still comes.
    pub(crate) fn clear(&self) {
        for direction in self.shared.directions.iter().flatten() {
            direction.queue().conditions = Conditions::default();
        }
    }

    /// What has become of all packets so far.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for direction in self.shared.directions.iter().flatten() {
            counts.add(&direction.queue().counts);
        }
        counts
    }
}

/// A socket to send by, and the same to receive from.
fn open(address: SocketAddr) -> io::Result<(Arc<StdSocket>, UdpSocket)> {
    let socket = StdSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    let reader = UdpSocket::from_std(socket.try_clone()?)?;
    Ok((Arc::new(socket), reader))
}

impl Shared {
    fn carry(&self, from: usize, to: usize, packet: &[u8], exit: &Exit) {
        let direction = &self.directions[from][to];
        if direction.queue().take(packet, exit, Instant::now()) {
            exit.send(packet);
        } else {
            direction.changed.notify_one();
        }
    }
}

/// The next packet, and from whom it is.
async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer).await {
            Ok(received) => return received,
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    }
}

/// What nodes and clients send to one node.
async fn read_front(shared: Arc<Shared>, socket: UdpSocket, at: usize) {
    let to = shared.places[at].listen;
    let mut clients: BTreeMap<SocketAddr, Exit> = BTreeMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let (length, source) = receive(&socket, &mut buffer).await;
        let packet = &buffer[..length];
        if let Some(from) = shared.places.iter().position(|place| place.listen == source) {
            let socket = Arc::clone(&shared.backs[at][from]);
            shared.carry(from, at, packet, &Exit { socket, to });
            continue;
        }
        let from = shared.places.len();
        if !clients.contains_key(&source) && clients.len() < CLIENTS_MAX {
            // Without a socket the client is not heard; it tries again.
            let Ok((socket, reader)) = open((shared.client, 0).into()) else { continue };
            clients.insert(source, Exit { socket, to });
            let exit = Exit { socket: Arc::clone(&shared.fronts[at]), to: source };
            answers.spawn(read_back(Arc::clone(&shared), reader, (at, from), exit));
        }
        if let Some(exit) = clients.get(&source) {
            shared.carry(from, at, packet, exit);
        }
    }
}

/// What a node answers to one other, or to one client.
async fn read_back(
    shared: Arc<Shared>,
    socket: UdpSocket,
    (node, asker): (usize, usize),
    exit: Exit,
) {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let (length, source) = receive(&socket, &mut buffer).await;
        // Nobody else has business here.
        if source == shared.places[node].listen {
            shared.carry(node, asker, &buffer[..length], &exit);
        }
    }
}

/// Sends what is due in one direction.
async fn drive(shared: Arc<Shared>, from: usize, to: usize) {
    let direction = &shared.directions[from][to];
    loop {
        let next = {
            let mut queue = direction.queue();
            while let Some((packet, exit)) = queue.due(Instant::now()) {
                exit.send(&packet);
            }
            queue.next_due()
        };
        match next {
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = direction.changed.notified() => {}
            },
            None => direction.changed.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::time::timeout;

    const WAIT: Duration = Duration::from_secs(10);

    async fn bound() -> UdpSocket {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port")
    }

    fn address(socket: &UdpSocket) -> SocketAddr {
        socket.local_addr().expect("it is bound")
    }

    async fn came(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 100];
        let received = timeout(WAIT, socket.recv_from(&mut buffer)).await.expect("it comes");
        let (length, from) = received.expect("it is received");
        (buffer[..length].to_vec(), from)
    }

    async fn two_nodes() -> (Relay, [UdpSocket; 2], [SocketAddr; 2]) {
        let nodes = [bound().await, bound().await];
        // Ports that were free a moment ago.
        let fronts = [address(&bound().await), address(&bound().await)];
        let places = nodes.iter().zip(fronts);
        let places = places.map(|(node, front)| Place { listen: address(node), front });
        let relay = Relay::start(places.collect(), Ipv4Addr::LOCALHOST.into(), 1);
        (relay.expect("the ports are free"), nodes, fronts)
    }

    #[tokio::test]
    async fn nodes_and_clients_reach_a_node_and_are_answered_by_its_front() {
        let (_relay, nodes, fronts) = two_nodes().await;
        let client = bound().await;
        for asker in [&nodes[0], &client] {
            asker.send_to(b"question", fronts[1]).await.expect("sent");
            let (packet, back) = came(&nodes[1]).await;
            assert_eq!(packet, b"question");
            nodes[1].send_to(b"answer", back).await.expect("sent");
            assert_eq!(came(asker).await, (b"answer".to_vec(), fronts[1]));
        }
    }

    #[tokio::test]
    async fn a_cut_is_of_one_direction_and_heals() {
        let (relay, nodes, fronts) = two_nodes().await;
        relay.set(0, 1, |conditions| conditions.is_cut = true);
        nodes[0].send_to(b"unheard", fronts[1]).await.expect("sent");
        nodes[1].send_to(b"heard", fronts[0]).await.expect("sent");
        let (packet, back) = came(&nodes[0]).await;
        assert_eq!(packet, b"heard");
        // An answer goes the way that is cut, whoever asked.
        nodes[0].send_to(b"unheard too", back).await.expect("sent");
        timeout(WAIT, async {
            while relay.counts().lost < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("both are lost");
        relay.clear();
        nodes[0].send_to(b"healed", fronts[1]).await.expect("sent");
        assert_eq!(came(&nodes[1]).await.0, b"healed");
    }

    #[tokio::test]
    async fn a_slow_link_holds_packets_back() {
        let (relay, nodes, fronts) = two_nodes().await;
        let delay = Duration::from_millis(60);
        relay.set(0, 1, |conditions| conditions.delay = delay);
        let began = Instant::now();
        nodes[0].send_to(b"slow", fronts[1]).await.expect("sent");
        assert_eq!(came(&nodes[1]).await.0, b"slow");
        assert!(began.elapsed() >= delay);
    }
}
