//! The caller's link, as chitchat's transport.
//!
//! Chitchat awaits `send` inside its only loop, so a message is queued or dropped, never waited for;
//! and it takes an error of `recv` as the end, so a bad message is counted and passed over there.
//! Gossip repeats itself: a message lost costs a round, no more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use tokio::sync::mpsc;

use crate::event::Refusal;
use crate::guard::{Guard, MESSAGE_BYTES_MAX};

/// The way to the peers, which the caller supplies. It should be authenticated: gossip believes a
/// peer of its cluster. Messages have at most [`MESSAGE_BYTES_MAX`] bytes, may be lost, doubled and
/// reordered, and need no acknowledgement.
#[derive(Debug)]
pub struct Link {
    /// Takes what should go to the peer at an address. Full means that the message is dropped.
    pub outgoing: mpsc::Sender<(SocketAddr, Bytes)>,
    /// Gives what came, with the *gossip* address of the peer it came from: answers go there. When
    /// its other end is dropped, gossip stops.
    pub incoming: mpsc::Receiver<(SocketAddr, Bytes)>,
}

/// What passed over the link since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Messages queued for sending.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Messages dropped because the queue was full or gone.
    pub dropped: u64,
    /// Messages not sent because they were longer than [`MESSAGE_BYTES_MAX`]. Never, it is believed.
    pub too_long: u64,
    /// Messages taken.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Messages not taken, for whatever reason.
    pub refused: u64,
    /// Messages taken without the ids for which there was no room.
    pub cut: u64,
}

/// The counters behind [`LinkCounts`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    dropped: AtomicU64,
    too_long: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> LinkCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounts {
            sent: read(&self.sent),
            sent_bytes: read(&self.sent_bytes),
            dropped: read(&self.dropped),
            too_long: read(&self.too_long),
            received: read(&self.received),
            received_bytes: read(&self.received_bytes),
            refused: read(&self.refused),
            cut: read(&self.cut),
        }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// Hands the one socket to chitchat when it asks, once.
pub(crate) struct LinkTransport {
    socket: Mutex<Option<LinkSocket>>,
}

impl LinkTransport {
    pub(crate) fn new(socket: LinkSocket) -> Self {
        Self { socket: Mutex::new(Some(socket)) }
    }
}

#[async_trait::async_trait]
impl Transport for LinkTransport {
    async fn open(&self, _address: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Box::new(socket.ok_or_else(|| anyhow::anyhow!("the link was opened before"))?))
    }
}

/// The link, guarded and counted.
pub(crate) struct LinkSocket {
    link: Link,
    guard: Guard,
    counters: Arc<Counters>,
    refusals: mpsc::Sender<(SocketAddr, Refusal)>,
}

impl LinkSocket {
    pub(crate) fn new(
        link: Link,
        guard: Guard,
        counters: Arc<Counters>,
        refusals: mpsc::Sender<(SocketAddr, Refusal)>,
    ) -> Self {
        Self { link, guard, counters, refusals }
    }

    fn queue(&self, to: SocketAddr, message: &ChitchatMessage) {
        let bytes = message.serialize_to_vec();
        let size_bytes = bytes.len();
        if size_bytes > MESSAGE_BYTES_MAX {
            add(&self.counters.too_long, 1);
            return;
        }
        match self.link.outgoing.try_send((to, bytes.into())) {
            Ok(()) => {
                add(&self.counters.sent, 1);
                add(&self.counters.sent_bytes, size_bytes);
            }
            Err(_) => add(&self.counters.dropped, 1),
        }
    }

    fn on_bytes(&mut self, from: SocketAddr, bytes: Bytes) -> Option<ChitchatMessage> {
        let size_bytes = bytes.len();
        let decoded = self.guard.admit(bytes).and_then(|admitted| {
            let message = ChitchatMessage::deserialize(&mut &admitted.bytes[..]).map_err(|_| {
                Refusal::Malformed("the decoder refused what the guard let through")
            })?;
            Ok((message, admitted.cut))
        });
        match decoded {
            Ok((message, cut)) => {
                add(&self.counters.received, 1);
                add(&self.counters.received_bytes, size_bytes);
                if cut {
                    add(&self.counters.cut, 1);
                    self.report(from, Refusal::TooManyNodes);
                }
                Some(message)
            }
            Err(refusal) => {
                add(&self.counters.refused, 1);
                if matches!(refusal, Refusal::OtherCluster { .. }) {
                    self.queue(from, &ChitchatMessage::BadCluster);
                }
                self.report(from, refusal);
                None
            }
        }
    }

    /// Tells the observer, if it has room: what is lost here was counted.
    fn report(&self, from: SocketAddr, refusal: Refusal) {
        let _ = self.refusals.try_send((from, refusal));
    }
}

#[async_trait::async_trait]
impl Socket for LinkSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.queue(to, &message);
        Ok(())
    }

    /// Cancel-safe: the only wait is the queue's own `recv`, and nothing is held across it.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let Some((from, bytes)) = self.link.incoming.recv().await else {
                anyhow::bail!("the link was closed");
            };
            if let Some(message) = self.on_bytes(from, bytes) {
                return Ok((from, message));
            }
        }
    }
}
