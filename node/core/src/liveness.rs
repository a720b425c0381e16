//! What a node believes of its peers. Inputs only: nothing that must be safe rests on it.

use std::collections::BTreeMap;

use quoit_ring::{NodeId, WallTime};

use crate::time::{Instant, Now};

/// A peer that owes an answer for so long is asked last.
const SLOW_AFTER_MS: u64 = 40;
/// A reading of a peer's wall clock counts for so long.
const OFFSET_VALID_MS: u64 = 10_000;

/// The beliefs.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Debug, Clone, Default)]
struct Peer {
    connected: bool,
    seems_dead: bool,
    /// Since when it owes an answer, with nothing heard in between.
    owes_since: Option<Instant>,
    /// Its wall clock less our monotonic one, in milliseconds, and when that was read. Whatever our own
    /// wall clock does, this stays true.
    ahead: Option<(i64, Instant)>,
}

impl Liveness {
    /// Notes that requests can be sent.
    pub fn on_connected(&mut self, node: NodeId) {
        let peer = self.peers.entry(node).or_default();
        peer.connected = true;
        peer.owes_since = None;
    }

    /// Notes that the connection is gone.
    pub fn on_disconnected(&mut self, node: NodeId) {
        let peer = self.peers.entry(node).or_default();
        peer.connected = false;
        peer.owes_since = None;
    }

    /// Notes gossip's belief.
    pub fn on_belief(&mut self, node: NodeId, alive: bool) {
        self.peers.entry(node).or_default().seems_dead = !alive;
    }

    /// Notes that something was heard.
    pub fn on_heard(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.owes_since = None;
        }
    }

    /// Notes that a request was sent.
    pub fn on_asked(&mut self, node: NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.owes_since.get_or_insert(now);
        }
    }

    /// Notes a reading of the peer's wall clock.
    pub fn on_clock(&mut self, node: NodeId, theirs: WallTime, now: Instant) {
        let ahead = Now { instant: now, wall: theirs }.wall_ahead_ms();
        self.peers.entry(node).or_default().ahead = Some((ahead, now));
    }

    /// Whether requests can be sent.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.connected)
    }

    /// Whether a peer seems up, for people.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.connected && !peer.seems_dead)
    }

    /// How gladly a peer is asked: less is better.
    pub fn reluctance(&self, node: NodeId, now: Instant) -> u8 {
        match self.peers.get(&node) {
            Some(peer) if peer.connected => {
                let slow =
                    peer.owes_since.is_some_and(|since| now.ms_since(since) >= SLOW_AFTER_MS);
                u8::from(slow) + u8::from(peer.seems_dead)
            }
            Some(_) | None => 3,
        }
    }

    /// The last reading of a peer's clock against ours, in milliseconds.
    pub fn offset_ms(&self, node: NodeId, now: Now) -> i64 {
        let ahead = self.peers.get(&node).and_then(|peer| peer.ahead);
        ahead.map_or(0, |(ahead, _)| ahead.saturating_sub(now.wall_ahead_ms()))
    }

    /// How far the median of all wall clocks (ours among them) is from ours, in milliseconds. Of
    /// two middle ones the nearer to ours.
    pub fn median_offset_ms(&self, now: Now) -> i64 {
        let fresh = self.peers.values().filter(|peer| peer.connected).filter_map(|peer| {
            let (ahead, read) = peer.ahead?;
            let offset = ahead.saturating_sub(now.wall_ahead_ms());
            (now.instant.ms_since(read) <= OFFSET_VALID_MS).then_some(offset)
        });
        let mut offsets: Vec<i64> = fresh.chain([0]).collect();
        offsets.sort_unstable();
        let (low, high) = (offsets[(offsets.len() - 1) / 2], offsets[offsets.len() / 2]);
        if low.unsigned_abs() <= high.unsigned_abs() { low } else { high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn liveness(offsets: &[i64]) -> Liveness {
        let mut liveness = Liveness::default();
        for (node, offset) in (1..).map(NodeId).zip(offsets) {
            liveness.on_connected(node);
            let theirs = WallTime(1_000_000_u64.saturating_add_signed(*offset));
            liveness.on_clock(node, theirs, Instant(0));
        }
        liveness
    }

    /// So long after the readings, by a wall clock that has jumped by so much since.
    fn later(milliseconds: u64, jump_ms: i64) -> Now {
        let wall = (1_000_000 + milliseconds).saturating_add_signed(jump_ms);
        Now { instant: Instant(0).plus_ms(milliseconds), wall: WallTime(wall) }
    }

    #[test]
    fn one_wrong_clock_among_three_is_told_by_its_owner_only() {
        assert_eq!(liveness(&[0, 900_000]).median_offset_ms(later(0, 0)), 0);
        assert_eq!(liveness(&[-900_000, -900_000]).median_offset_ms(later(0, 0)), -900_000);
    }

    #[test]
    fn a_jump_of_the_own_clock_is_seen_before_peers_are_heard_again() {
        let liveness = liveness(&[0, 5]);
        for jump in [7_200_000, -800_000] {
            assert_eq!(
                liveness.median_offset_ms(later(700, jump)),
                -jump + if jump > 0 { 5 } else { 0 }
            );
            assert_eq!(liveness.offset_ms(NodeId(1), later(700, jump)), -jump);
        }
        assert_eq!(liveness.median_offset_ms(later(700, 0)), 0);
    }

    #[test]
    fn old_readings_do_not_count() {
        let liveness = liveness(&[900_000, 900_000]);
        assert_eq!(liveness.median_offset_ms(later(20_000, 0)), 0);
    }

    #[test]
    fn a_silent_peer_is_asked_last_until_it_is_heard() {
        let mut liveness = liveness(&[0, 0]);
        liveness.on_asked(NodeId(1), Instant(0));
        let later = Instant(0).plus_ms(100);
        assert!(liveness.reluctance(NodeId(1), later) > liveness.reluctance(NodeId(2), later));
        liveness.on_heard(NodeId(1));
        assert_eq!(liveness.reluctance(NodeId(1), later), 0);
    }
}
