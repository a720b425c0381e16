//! What the transport counts, and whom it refused.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quoit_ring::NodeId;

/// Refusals kept to be shown.
const REFUSALS_KEPT_MAX: usize = 16;
/// Addresses whose last refusal is remembered, so that the log says it once.
const REFUSED_ADDRESSES_MAX: usize = 256;

/// A connection that was refused, by this node or by the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The other side.
    pub address: SocketAddr,
    /// Why, for people.
    pub reason: String,
    /// How often in a row.
    pub times: u64,
}

/// What passed since the start, and what is there now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Peers to which requests can be sent now.
    pub peers_connected: usize,
    /// Peers that can send requests now.
    pub peers_accepted: usize,
    /// Clients connected now.
    pub clients: usize,
    /// Bytes now waiting to be sent.
    pub queued_bytes: u64,
    /// Bytes of frames handed to QUIC.
    pub sent_bytes: u64,
    /// Bytes of frames that came.
    pub received_bytes: u64,
    /// Messages sent, or queued to be.
    pub sent_messages: u64,
    /// Messages that came whole and sound.
    pub received_messages: u64,
    /// Messages dropped because no connection was there.
    pub dropped_unconnected: u64,
    /// Messages dropped because too much waited for a peer.
    pub dropped_full: u64,
    /// Connections refused in the handshake, by either side.
    pub refused: u64,
    /// Connections turned away because there were too many.
    pub turned_away: u64,
    /// Handshakes and idle clients that made room for others.
    pub shed: u64,
    /// Newcomers that were asked to show first that their address is their own.
    pub retried: u64,
    /// Connections closed because of garbage.
    pub garbage: u64,
    /// Clients cut off because they did not read.
    pub cut_off: u64,
    /// The last refusals, the newest last.
    pub refusals: Vec<Refusal>,
    /// How long a packet takes to each connected peer and back, as QUIC estimates it.
    pub round_trips: Vec<(NodeId, Duration)>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) queued_bytes: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    pub(super) sent_messages: AtomicU64,
    pub(super) received_messages: AtomicU64,
    pub(super) dropped_unconnected: AtomicU64,
    pub(super) dropped_full: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) turned_away: AtomicU64,
    pub(super) shed: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) garbage: AtomicU64,
    pub(super) cut_off: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> TransportStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportStats {
            queued_bytes: read(&self.queued_bytes),
            sent_bytes: read(&self.sent_bytes),
            received_bytes: read(&self.received_bytes),
            sent_messages: read(&self.sent_messages),
            received_messages: read(&self.received_messages),
            dropped_unconnected: read(&self.dropped_unconnected),
            dropped_full: read(&self.dropped_full),
            refused: read(&self.refused),
            turned_away: read(&self.turned_away),
            shed: read(&self.shed),
            retried: read(&self.retried),
            garbage: read(&self.garbage),
            cut_off: read(&self.cut_off),
            ..TransportStats::default()
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}

/// Takes from a gauge.
pub(super) fn sub(counter: &AtomicU64, amount: usize) {
    counter.fetch_sub(amount as u64, Ordering::Relaxed);
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    recent: VecDeque<Refusal>,
    last: BTreeMap<IpAddr, String>,
}

impl Refusals {
    /// Notes a refusal; `true` where the log has not said the same of that machine just before.
    pub(super) fn note(&mut self, address: SocketAddr, reason: &str) -> bool {
        let same = |refusal: &&mut Refusal| {
            refusal.address.ip() == address.ip() && refusal.reason == reason
        };
        if let Some(refusal) = self.recent.iter_mut().find(same) {
            refusal.times += 1;
            refusal.address = address;
        } else {
            if self.recent.len() == REFUSALS_KEPT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back(Refusal { address, reason: reason.into(), times: 1 });
        }
        if self.last.get(&address.ip()).is_some_and(|last| last == reason) {
            return false;
        }
        if self.last.len() == REFUSED_ADDRESSES_MAX {
            self.last.clear();
        }
        self.last.insert(address.ip(), reason.into());
        true
    }

    pub(super) fn recent(&self) -> Vec<Refusal> {
        self.recent.iter().cloned().collect()
    }
}
