//! What came and waits for the node's loop: bounded by bytes, so that a slow loop holds up readers,
//! and they, by QUIC's flow control, the senders.
//!
//! Each client has a queue of its own, and the queues take turns: one that sends faster than it is
//! served waits behind itself and holds up no other. A client of which nothing waited goes before those
//! that always have something waiting, once a round (as in FQ-CoDel, RFC 8290): who asks and waits for
//! the answer does not wait for a thousand who do not. What peers say goes before what clients ask, since
//! it ends what was begun, but never alone; and it has room of its own, which clients cannot take.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use quoit_core::event::ConnectionId;
use tokio::sync::{Notify, Semaphore};

use super::Inbound;
use super::closing::Fault;
use super::limits::{CLIENT_INBOUND_BYTES_MAX, MESSAGE_COST_BYTES};

/// So many messages of peers are taken for one of a client, where both wait.
const PEERS_IN_A_ROW: usize = 4;
/// What a client's queue may hand out in its turn, in bytes; with what it owes taken off. So many small
/// requests count as much as one large one.
const TURN_BYTES: usize = 16 << 10;

/// The receiving end of [`super::Transport`]: one for a node.
#[derive(Debug)]
pub struct InboundQueue {
    waiting: Arc<Waiting>,
}

/// What waits, for both ends.
#[derive(Debug)]
struct Waiting {
    lanes: Mutex<Lanes>,
    ready: Notify,
    peers_room: Semaphore,
    clients_room: Semaphore,
}

#[derive(Debug, Default)]
struct Lanes {
    peers: VecDeque<Charged>,
    /// Messages of peers that were handed out since one of a client was.
    peers_in_a_row: usize,
    clients: BTreeMap<ConnectionId, Lane>,
    /// Clients of which something has come and nothing was waiting, in the order of that.
    fresh: VecDeque<ConnectionId>,
    /// The clients that had a turn since, in turn. Who has nothing more goes when it is its turn.
    turns: VecDeque<ConnectionId>,
    /// The other end is gone.
    closed: bool,
}

/// What waits of one client.
#[derive(Debug)]
struct Lane {
    waiting: VecDeque<Charged>,
    /// It is among the fresh, or those that take turns.
    listed: bool,
    room: Arc<Semaphore>,
    /// Bytes that may still be handed out in this turn.
    credit: usize,
}

/// Something that came, and when.
#[derive(Debug)]
pub struct Arrived {
    /// What.
    pub inbound: Inbound,
    /// When it was whole, before it waited for anything.
    pub at: Instant,
}

type Charged = (Arrived, u32);

impl InboundQueue {
    /// The next one; `None` after the transport is gone. May be cancelled.
    pub async fn recv(&mut self) -> Option<Inbound> {
        let mut one = Vec::with_capacity(1);
        self.recv_many(&mut one, 1).await;
        one.pop().map(|arrived| arrived.inbound)
    }

    /// Waits for one at least and appends up to `count_max` to `into`; returns how many. 0 after
    /// the transport is gone. May be cancelled.
    pub async fn recv_many(&mut self, into: &mut Vec<Arrived>, count_max: usize) -> usize {
        loop {
            let before = into.len();
            self.take_ready(into, count_max);
            let taken = into.len() - before;
            if taken > 0 || self.waiting.lanes().closed {
                return taken;
            }
            self.waiting.ready.notified().await;
        }
    }

    /// Appends what is there now, up to `count_max`, to `into`.
    pub fn take_ready(&mut self, into: &mut Vec<Arrived>, count_max: usize) {
        let mut lanes = self.waiting.lanes();
        let mut peers_bytes = 0;
        let mut clients_bytes = 0;
        for _ in 0..count_max {
            let Some((arrived, bytes)) = lanes.take() else { break };
            match arrived.inbound {
                Inbound::Client { .. } => clients_bytes += bytes as usize,
                _ => peers_bytes += bytes as usize,
            }
            into.push(arrived);
        }
        drop(lanes);
        self.waiting.peers_room.add_permits(peers_bytes);
        self.waiting.clients_room.add_permits(clients_bytes);
    }
}

impl Drop for InboundQueue {
    fn drop(&mut self) {
        self.waiting.peers_room.close();
        self.waiting.clients_room.close();
        let mut lanes = self.waiting.lanes();
        lanes.closed = true;
        lanes.clients.values().for_each(|lane| lane.room.close());
    }
}

impl Waiting {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Nothing panics midway through a change.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// The room of a client's queue.
    fn room(&mut self, connection: ConnectionId) -> Arc<Semaphore> {
        Arc::clone(&self.lane(connection).room)
    }

    fn lane(&mut self, connection: ConnectionId) -> &mut Lane {
        self.clients.entry(connection).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            listed: false,
            room: Arc::new(Semaphore::new(CLIENT_INBOUND_BYTES_MAX)),
            credit: TURN_BYTES,
        })
    }

    fn push(&mut self, arrived: Arrived, bytes: u32) {
        match arrived.inbound {
            Inbound::Client { connection, .. } | Inbound::ClientClosed { connection } => {
                let lane = self.lane(connection);
                lane.waiting.push_back((arrived, bytes));
                if !std::mem::replace(&mut lane.listed, true) {
                    self.fresh.push_back(connection);
                }
            }
            _ => self.peers.push_back((arrived, bytes)),
        }
    }

    fn take(&mut self) -> Option<Charged> {
        let peers_turn = self.peers_in_a_row < PEERS_IN_A_ROW
            || (self.fresh.is_empty() && self.turns.is_empty());
        if peers_turn && let Some(charged) = self.peers.pop_front() {
            self.peers_in_a_row += 1;
            return Some(charged);
        }
        self.peers_in_a_row = 0;
        self.take_of_client()
    }

    fn take_of_client(&mut self) -> Option<Charged> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let list = if is_fresh { &mut self.fresh } else { &mut self.turns };
            let connection = *list.front()?;
            let Some(lane) = self.clients.get_mut(&connection) else {
                list.pop_front();
                continue;
            };
            let Some((_, bytes)) = lane.waiting.front() else {
                list.pop_front();
                if is_fresh {
                    // It has had its turn: what comes now waits with the others for the next one.
                    self.turns.push_back(connection);
                } else {
                    self.clients.remove(&connection);
                }
                continue;
            };
            let bytes = *bytes as usize;
            if lane.credit < bytes {
                // Its turn is over; in its next ones it saves for what is large.
                lane.credit += TURN_BYTES;
                list.pop_front();
                self.turns.push_back(connection);
                continue;
            }
            lane.credit -= bytes;
            lane.room.add_permits(bytes.min(CLIENT_INBOUND_BYTES_MAX));
            return lane.waiting.pop_front();
        }
    }
}

/// The sending end, which all readers share.
#[derive(Debug)]
pub(super) struct Inbox {
    waiting: Arc<Waiting>,
}

impl Inbox {
    pub(super) fn new(bytes_max: usize) -> (Self, InboundQueue) {
        let room = || Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS));
        let waiting = Arc::new(Waiting {
            lanes: Mutex::default(),
            ready: Notify::new(),
            peers_room: room(),
            clients_room: room(),
        });
        let queue = InboundQueue { waiting: Arc::clone(&waiting) };
        (Self { waiting }, queue)
    }

    /// Hands up what came in a frame of `bytes`, once there is room.
    pub(super) async fn send(&self, inbound: Inbound, bytes: usize) -> Result<(), Fault> {
        let arrived = Arrived { inbound, at: Instant::now() };
        let bytes = u32::try_from(bytes + MESSAGE_COST_BYTES).expect("frames are bounded");
        if let Inbound::Client { connection, .. } = arrived.inbound {
            let own = bytes.min(u32::try_from(CLIENT_INBOUND_BYTES_MAX).unwrap_or(u32::MAX));
            let room = self.waiting.lanes().room(connection);
            acquire(&room, own).await?;
            acquire(&self.waiting.clients_room, bytes).await?;
        } else {
            acquire(&self.waiting.peers_room, bytes).await?;
        }
        self.put(arrived, bytes)
    }

    /// A client is gone: what it has sent is handed up all the same.
    pub(super) fn forget(&self, connection: ConnectionId) {
        let mut lanes = self.waiting.lanes();
        if lanes.clients.get(&connection).is_some_and(|lane| !lane.listed) {
            lanes.clients.remove(&connection);
        }
    }

    /// Hands up a change of a connection, which is not held up: there are few.
    pub(super) fn tell(&self, inbound: Inbound) {
        // Without a receiver, nobody wants to know.
        let _ = self.put(Arrived { inbound, at: Instant::now() }, 0);
    }

    fn put(&self, arrived: Arrived, bytes: u32) -> Result<(), Fault> {
        let mut lanes = self.waiting.lanes();
        if lanes.closed {
            return Err(Fault::Lost);
        }
        lanes.push(arrived, bytes);
        drop(lanes);
        self.waiting.ready.notify_one();
        Ok(())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.waiting.lanes().closed = true;
        self.waiting.ready.notify_one();
    }
}

async fn acquire(room: &Semaphore, bytes: u32) -> Result<(), Fault> {
    let permit = match room.try_acquire_many(bytes) {
        Ok(permit) => permit,
        Err(_) => room.acquire_many(bytes).await.map_err(|_| Fault::Lost)?,
    };
    permit.forget();
    Ok(())
}

#[cfg(test)]
mod tests {
    use quoit_protocol::AskRecord;
    use quoit_ring::NodeId;

    use super::*;

    fn asks(client: u64, request: u64) -> Inbound {
        let connection = ConnectionId(client);
        Inbound::Client { connection, request, message: AskRecord {}.into() }
    }

    fn taken(queue: &mut InboundQueue) -> Vec<(u64, u64)> {
        let mut inbound = Vec::new();
        queue.take_ready(&mut inbound, usize::MAX);
        let names = inbound.into_iter().map(|arrived: Arrived| match arrived.inbound {
            Inbound::Client { connection, request, .. } => (connection.0, request),
            _ => (0, 0),
        });
        names.collect()
    }

    #[tokio::test]
    async fn who_sends_much_waits_behind_itself_and_large_ones_count_for_more() {
        let (inbox, mut queue) = Inbox::new(64 << 20);
        for request in 0..400 {
            inbox.send(asks(1, request), 100).await.unwrap();
        }
        for request in 0..3 {
            inbox.send(asks(2, request), 100 << 10).await.unwrap();
            inbox.send(asks(3, request), 100).await.unwrap();
        }
        let order = taken(&mut queue);
        assert_eq!(order.len(), 406);
        let place = |name| order.iter().position(|taken| *taken == name).unwrap();
        assert!(place((3, 2)) < 60, "few wait for no more than a turn of each other");
        assert!(place((2, 0)) > 200, "a large one waits for as many turns as it is worth");
        for client in 1..=3 {
            let requests = order.iter().filter(|(of, _)| *of == client).map(|(_, request)| request);
            assert!(requests.is_sorted(), "of one client all come in their order");
        }
    }

    #[tokio::test]
    async fn who_waits_for_each_answer_goes_before_who_does_not_but_once_a_round() {
        let (inbox, mut queue) = Inbox::new(64 << 20);
        let mut inbound = Vec::new();
        for request in 0..400 {
            for client in 1..=3 {
                inbox.send(asks(client, request), 100).await.unwrap();
            }
        }
        queue.take_ready(&mut inbound, 200);
        inbox.send(asks(9, 0), 100).await.unwrap();
        inbox.send(asks(9, 1), 100).await.unwrap();
        inbound.clear();
        queue.take_ready(&mut inbound, 2);
        let first: Vec<&Inbound> = inbound.iter().map(|one| &one.inbound).collect();
        assert_eq!(first, [&asks(9, 0), &asks(9, 1)]);
        // What it sends at once again waits for a round of the others.
        queue.take_ready(&mut inbound, 1);
        inbox.send(asks(9, 2), 100).await.unwrap();
        inbound.clear();
        queue.take_ready(&mut inbound, 300);
        let place = inbound.iter().position(|one| one.inbound == asks(9, 2)).unwrap();
        assert!((46..200).contains(&place), "{place}");
    }

    #[tokio::test]
    async fn peers_go_first_but_never_alone_and_have_room_of_their_own() {
        let (inbox, mut queue) = Inbox::new(1 << 20);
        let from = ([127, 0, 0, 1], 1).into();
        for request in 0..2 {
            inbox.send(asks(1, request), 100).await.unwrap();
        }
        for _ in 0..6 {
            let gossip = Inbound::Gossip { from, body: bytes::Bytes::new() };
            inbox.send(gossip, 100).await.unwrap();
        }
        let expected = [(0, 0), (0, 0), (0, 0), (0, 0), (1, 0), (0, 0), (0, 0), (1, 1)];
        assert_eq!(taken(&mut queue), expected);
        // Clients that fill their room hold up themselves only.
        inbox.send(asks(1, 0), 1 << 19).await.unwrap();
        let mut full = Box::pin(inbox.send(asks(2, 0), 1 << 19));
        let waits = tokio::time::timeout(std::time::Duration::ZERO, &mut full).await;
        assert!(waits.is_err(), "there is no room for it");
        inbox.tell(Inbound::PeerConnected { node: NodeId(1) });
        inbox.send(Inbound::Gossip { from, body: bytes::Bytes::new() }, 1 << 19).await.unwrap();
        assert_eq!(taken(&mut queue).len(), 3);
        full.as_mut().await.unwrap();
        drop(full);
        assert_eq!(taken(&mut queue), [(2, 0)]);
        drop(inbox);
        assert_eq!(queue.recv().await, None);
    }
}
