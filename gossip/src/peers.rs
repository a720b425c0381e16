//! The picture of the others, and how it differs from what the caller was told. Pure: `now` and what
//! chitchat holds come in, events go out.
//!
//! The caller is told *states*, never a log of changes: what it has no room for waits here, merged
//! with what comes after, so nothing queues without bound and the last word always arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use quoit_ring::NodeId;
use tokio::time::Instant;

use crate::config::LEAVING_KEY;
use crate::event::{GossipEvent, PeerView, Refusal};
use crate::incarnation::Incarnation;

/// Two addresses may both look alive for this many rounds before it is a conflict: longer than a
/// dead incarnation takes to be given up, which by default is 17.5 rounds at the most.
pub(crate) const CONFLICT_ROUNDS: u32 = 24;
/// A life that has been silent for this many rounds gives way to an earlier one that is alive: a node
/// that was given back an older disk counts its starts from there.
pub(crate) const YIELD_ROUNDS: u32 = CONFLICT_ROUNDS;
/// When we ourselves did not run for so many rounds, the silence was ours...
const STALL_ROUNDS: u32 = 3;
/// ... and for so many after it nobody is declared dead.
const HOLD_ROUNDS: u32 = 4;
/// A refusal is told again after this long.
const REFUSAL_QUIET: Duration = Duration::from_secs(30);
/// How many refusals are remembered for that, and how many notices wait.
const REFUSALS_MAX: usize = 256;
const NOTICES_MAX: usize = 64;

/// What chitchat holds of one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) incarnation: Incarnation,
    pub(crate) alive: bool,
    pub(crate) heartbeat: u64,
    pub(crate) version: u64,
}

/// The facts of a node.
pub(crate) type Facts = BTreeMap<String, String>;

/// Everyone else.
#[derive(Debug)]
pub(crate) struct Peers {
    me: Incarnation,
    interval: Duration,
    peers: BTreeMap<NodeId, Peer>,
    /// Whom the caller believes alive, and what it was last told of each.
    told: BTreeMap<NodeId, (Incarnation, u64)>,
    rivalries: BTreeMap<NodeId, Rivalry>,
    refusals: BTreeMap<(SocketAddr, Refusal), Instant>,
    notices: VecDeque<GossipEvent>,
    observed: Instant,
    hold_until: Instant,
}

#[derive(Debug)]
struct Peer {
    incarnation: Incarnation,
    alive: bool,
    version: u64,
    facts: Facts,
    heartbeat: u64,
    heard: Instant,
}

#[derive(Debug)]
struct Rivalry {
    since: Instant,
    told: bool,
}

impl Peers {
    pub(crate) fn new(me: Incarnation, interval: Duration, now: Instant) -> Self {
        Self {
            me,
            interval,
            peers: BTreeMap::new(),
            told: BTreeMap::new(),
            rivalries: BTreeMap::new(),
            refusals: BTreeMap::new(),
            notices: VecDeque::new(),
            observed: now,
            hold_until: now,
        }
    }

    /// Takes in what chitchat holds now. `facts_of` is asked only where there is something new.
    pub(crate) fn observe(
        &mut self,
        now: Instant,
        sightings: &[Sighting],
        mut facts_of: impl FnMut(&Incarnation) -> Facts,
    ) {
        if now - self.observed > self.interval * STALL_ROUNDS {
            self.hold_until = now + self.interval * HOLD_ROUNDS;
        }
        self.observed = now;
        let hold = now < self.hold_until;
        let mut by_node: BTreeMap<NodeId, Vec<&Sighting>> = BTreeMap::new();
        for sighting in sightings {
            by_node.entry(sighting.incarnation.node).or_default().push(sighting);
        }
        for (node, claims) in &by_node {
            self.judge_rivals(now, *node, claims);
            if *node != self.me.node {
                self.observe_one(now, hold, *node, claims, &mut facts_of);
            }
        }
        self.rivalries.retain(|node, _| by_node.contains_key(node));
        let told = &self.told;
        self.peers.retain(|node, peer| {
            if by_node.contains_key(node) {
                return true;
            }
            peer.alive = false;
            told.contains_key(node)
        });
    }

    fn observe_one(
        &mut self,
        now: Instant,
        hold: bool,
        node: NodeId,
        claims: &[&Sighting],
        facts_of: &mut impl FnMut(&Incarnation) -> Facts,
    ) {
        let believed = self.peers.get(&node);
        let current = believed.map(|peer| peer.incarnation);
        let heard_lately = |peer: &&Peer| now - peer.heard < self.interval * YIELD_ROUNDS;
        let floor = believed.filter(heard_lately).map_or(0, |peer| peer.incarnation.generation);
        let Some(best) = choose(claims, current, floor) else {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.alive &= hold;
            }
            return;
        };
        if current != Some(best.incarnation) {
            // Nobody is spoken of before it was alive: the dead are hearsay.
            if !best.alive {
                return;
            }
            self.peers.insert(
                node,
                Peer {
                    incarnation: best.incarnation,
                    alive: false,
                    version: 0,
                    facts: Facts::new(),
                    heartbeat: best.heartbeat,
                    heard: now,
                },
            );
        }
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if best.heartbeat > peer.heartbeat {
            peer.heartbeat = best.heartbeat;
            peer.heard = now;
        }
        if best.version != peer.version {
            peer.version = best.version;
            peer.facts = facts_of(&best.incarnation);
        }
        let leaving = peer.facts.contains_key(LEAVING_KEY);
        peer.alive = !leaving && (best.alive || (hold && peer.alive));
    }

    /// Notes when an id has been claimed from two places for too long.
    fn judge_rivals(&mut self, now: Instant, node: NodeId, claims: &[&Sighting]) {
        let addresses: BTreeSet<SocketAddr> = claims
            .iter()
            .filter(|claim| claim.alive)
            .map(|claim| claim.incarnation.address)
            .collect();
        if addresses.len() < 2 {
            self.rivalries.remove(&node);
            return;
        }
        let rivalry = self.rivalries.entry(node).or_insert(Rivalry { since: now, told: false });
        if !rivalry.told && now - rivalry.since >= self.interval * CONFLICT_ROUNDS {
            rivalry.told = notice(&mut self.notices, GossipEvent::Conflict { node, addresses });
        }
    }

    /// Notes that a peer's message was refused, unless that was told a moment ago.
    pub(crate) fn on_refusal(&mut self, now: Instant, address: SocketAddr, reason: Refusal) {
        self.refusals.retain(|_, told| now - *told < REFUSAL_QUIET);
        let key = (address, reason.clone());
        if self.refusals.len() >= REFUSALS_MAX || self.refusals.contains_key(&key) {
            return;
        }
        if notice(&mut self.notices, GossipEvent::Refused { address, reason }) {
            self.refusals.insert(key, now);
        }
    }

    /// At most `room` events that bring the caller nearer to the present picture.
    pub(crate) fn tell(&mut self, room: usize) -> Vec<GossipEvent> {
        let mut events = Vec::new();
        for (node, peer) in &self.peers {
            if events.len() >= room {
                return events;
            }
            let state = (peer.incarnation, peer.version);
            match (peer.alive, self.told.get(node)) {
                (true, Some(told)) if *told == state => {}
                (true, Some((incarnation, _))) if *incarnation == peer.incarnation => {
                    self.told.insert(*node, state);
                    events.push(GossipEvent::Facts {
                        node: *node,
                        generation: peer.incarnation.generation,
                        facts: peer.facts.clone(),
                    });
                }
                (true, _) => {
                    self.told.insert(*node, state);
                    events.push(GossipEvent::Alive {
                        node: *node,
                        generation: peer.incarnation.generation,
                        address: peer.incarnation.address,
                        facts: peer.facts.clone(),
                    });
                }
                (false, Some(_)) => {
                    self.told.remove(node);
                    events.push(GossipEvent::Dead { node: *node });
                }
                (false, None) => {}
            }
        }
        let left = room - events.len();
        events.extend(self.notices.drain(..left.min(self.notices.len())));
        events
    }

    /// Everyone, as seen now.
    pub(crate) fn view(&self, now: Instant) -> Vec<PeerView> {
        let view = |(node, peer): (&NodeId, &Peer)| PeerView {
            node: *node,
            generation: peer.incarnation.generation,
            address: peer.incarnation.address,
            alive: peer.alive,
            silence: now - peer.heard,
            facts: peer.facts.clone(),
        };
        self.peers.iter().map(view).collect()
    }

    /// Where the live are, at most `count` of them.
    pub(crate) fn live_addresses(&self, count: usize) -> Vec<SocketAddr> {
        let live = self.peers.values().filter(|peer| peer.alive);
        live.take(count).map(|peer| peer.incarnation.address).collect()
    }
}

/// Which of the claims to a node id to believe: a live one before a dead one, the greatest
/// generation, none below `floor`, and the present one where all else is equal.
fn choose<'a>(
    claims: &[&'a Sighting],
    current: Option<Incarnation>,
    floor: u64,
) -> Option<&'a Sighting> {
    let candidates = claims.iter().filter(|claim| claim.incarnation.generation >= floor);
    let rank = |claim: &&&Sighting| {
        let one = claim.incarnation;
        (claim.alive, one.generation, Some(one) == current, std::cmp::Reverse(one.address))
    };
    candidates.max_by_key(rank).copied()
}

fn notice(notices: &mut VecDeque<GossipEvent>, event: GossipEvent) -> bool {
    let room = notices.len() < NOTICES_MAX;
    if room {
        notices.push_back(event);
    }
    room
}

#[cfg(test)]
mod tests;
