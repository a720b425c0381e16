//! Anti-entropy: replicas compare what they hold, all the time and slowly, and merge what differs both
//! ways (DeCandia et al., "Dynamo", section 4.7).
//!
//! A node begins an **exchange** with each of its peers every so often, one at a time with each. For
//! each replication factor in use the two compare the roots of all virtual nodes that they share. Each
//! virtual node that differs is a **job**: down the tree to the leaves that differ, then range by
//! range the peer is told a digest of every key here, tells what it holds otherwise, and is sent what
//! it lacks. Values travel with their sets.
//!
//! Nothing is remembered by whoever answers, and nothing by whoever asks that would be missed: an
//! exchange that ends halfway has made the two more equal, and the next one finds less. Sets travel
//! whole and are merged, so that writes may go on meanwhile, and a stale message does no harm.
//!
//! When a job has ended, and the peer vouches for all of its keys of the virtual node, then all that
//! the peer held when the job began is durable here ([`Merged`]).
//!
//! **Floors.** Both leave out what may be collected under the higher of their floors. A replica whose
//! floor is lower takes a trusted peer's word for what was deleted: what it holds at or before that
//! floor and the peer does not is gone.
//!
//! **Bounds.** An exchange has [`JOBS_MAX`] jobs, a step [`ITEMS_MAX`] keys and [`ROW_BYTES_MAX`] bytes
//! of rows (or one row). What is moved is paced ([`pace`]), and slower while clients are there, on
//! either side.

mod exchange;
mod job;
mod pace;
pub(crate) mod serve;

use std::collections::BTreeMap;

use quoit_protocol::Key;
use quoit_protocol::status::ExchangeStatus;
use quoit_ring::{ClusterRecord, HybridTime, NodeId, VnodeIndex};
use quoit_storage::layout::StoredKey;

pub(crate) use self::pace::Foreground;
use crate::config::CoreConfig;
use crate::event::{Effect, StorageAnswer, Tag};
use crate::operation::Place;
use crate::peer::PeerMessage;
use crate::random::Random;
use crate::time::Instant;
use crate::turn::Turn;
use exchange::{Asker, Exchange};
use job::Failure;
pub(crate) use pace::Pace;

/// Jobs of an exchange at a time.
const JOBS_MAX: usize = 4;
/// Exchanges of this node at a time.
const EXCHANGES_MAX: usize = 4;
/// Roots in a message: to compute them holds the writer up for a millisecond.
pub(crate) const ROOTS_MAX: usize = 256;
/// Nodes of a tree in a message.
pub(crate) const NODES_MAX: usize = 1_024;
/// Keys in a message.
pub(crate) const ITEMS_MAX: usize = 4_096;
/// Rows in a message.
pub(crate) const ROWS_MAX: usize = 4_096;
/// Bytes of rows in a message, but for one that is larger by itself.
pub(crate) const ROW_BYTES_MAX: usize = 1 << 20;
/// The same while clients are there: to merge them must not hold their writes up.
pub(crate) const BUSY_ROW_BYTES_MAX: usize = 16 << 10;
/// A step that has not ended within this has failed.
const STEP_MS: u64 = 10_000;
/// After an exchange that failed the next one begins about so much later.
const RETRY_MS: u64 = 5_000;
/// The first exchange begins about so long after a peer was met.
const FIRST_MS: u64 = 2_000;

/// All that a peer held of a virtual node, in tables of one replication factor, is durable here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) vnode: VnodeIndex,
    pub(crate) replication: u8,
    pub(crate) peer: NodeId,
    /// When the exchange began: what the peer was sent later may be missing.
    pub(crate) since: HybridTime,
    /// The same, by the own clock that never runs backwards.
    pub(crate) began: Instant,
    /// And all that this replica held, and vouches for, is durable there.
    pub(crate) is_scattered: bool,
    /// The peer's floor, where this replica's was lower when the two were compared.
    pub(crate) catches_up_to: Option<HybridTime>,
}

/// The exchanges of this node.
pub(crate) struct AntiEntropy {
    peers: BTreeMap<NodeId, Peer>,
    /// Whose step each number is.
    asked: BTreeMap<u64, (NodeId, Asker)>,
    next: u64,
    random: Random,
    pace: Pace,
    wake: Option<Instant>,
    /// What was merged and is still to be told on.
    merged: Vec<Merged>,
    /// When the last exchange that found or made a virtual node equal began, by peer.
    compared: BTreeMap<(VnodeIndex, u8, NodeId), HybridTime>,
}

/// A peer, as far as exchanges go.
struct Peer {
    next_at: Instant,
    exchange: Option<Exchange>,
    busy_until: Instant,
    last: Option<Last>,
    /// What somebody wants to have compared now.
    wanted: Option<Wanted>,
}

/// Which virtual nodes are compared: all, or some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    /// Tables of this N only.
    pub(crate) replication: Option<u8>,
    /// This virtual node only.
    pub(crate) vnode: Option<VnodeIndex>,
}

/// How the last exchange with a peer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) ended: HybridTime,
    /// Why it failed; `None` if it did not.
    pub(crate) failure: Option<String>,
}

/// The virtual nodes that two nodes are replicas of, ascending.
pub(crate) fn shared_vnodes(
    record: &ClusterRecord,
    replication: u8,
    one: NodeId,
    two: NodeId,
) -> Vec<VnodeIndex> {
    let is_shared = |vnode: &VnodeIndex| {
        record.is_primary(one, *vnode, replication) && record.is_primary(two, *vnode, replication)
    };
    record.vnodes.all().filter(is_shared).collect()
}

impl AntiEntropy {
    /// Nothing was compared yet. Numbers of steps differ from start to start: a peer's answer to the
    /// process before may still come.
    pub(crate) fn new(config: &CoreConfig, mut random: Random, now: Instant) -> Self {
        Self {
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: random.draw(),
            random,
            pace: Pace::new(config, now),
            wake: Some(now),
            merged: Vec::new(),
            compared: BTreeMap::new(),
        }
    }

    /// When something is due.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.wake
    }

    /// What was merged since this was asked last.
    pub(crate) fn take_merged(&mut self) -> Vec<Merged> {
        std::mem::take(&mut self.merged)
    }

    /// Remembers that all that a peer held is here.
    pub(crate) fn note_compared(&mut self, merged: Merged) {
        let Merged { vnode, replication, peer, since, .. } = merged;
        self.compared.insert((vnode, replication, peer), since);
    }

    /// For each other replica of a virtual node's tables of one N: when the last exchange began after
    /// which all that it had held was durable here.
    pub(crate) fn compared(
        &self,
        vnode: VnodeIndex,
        replication: u8,
    ) -> impl Iterator<Item = (NodeId, HybridTime)> {
        let (first, last) = (NodeId(0), NodeId(u64::MAX));
        let all = self.compared.range((vnode, replication, first)..=(vnode, replication, last));
        all.map(|((.., peer), since)| (*peer, *since))
    }

    /// Has replicas compared with every peer's as soon as can be, even where that is never done of the
    /// node's own accord.
    pub(crate) fn run(&mut self, wanted: Wanted, now: Instant) {
        for peer in self.peers.values_mut() {
            let all = Wanted::default();
            peer.wanted = Some(match peer.wanted {
                Some(before) if before != wanted => all,
                Some(_) | None => wanted,
            });
            peer.next_at = now;
        }
        self.wake = Some(now);
    }

    /// Exchanges with each peer, for people.
    pub(crate) fn statuses(&self) -> Vec<ExchangeStatus> {
        let status = |(id, peer): (&NodeId, &Peer)| ExchangeStatus {
            peer: *id,
            ended: peer.last.as_ref().map_or(HybridTime::ZERO, |last| last.ended),
            failure: peer.last.as_ref().and_then(|last| last.failure.clone()),
            running: peer.exchange.as_ref().map(Exchange::status),
        };
        self.peers.iter().map(status).collect()
    }

    /// Begins exchanges that are due, sends what had to wait, and gives up what takes too long.
    pub(crate) fn on_time(&mut self, turn: &mut Turn<'_>) {
        if self.wake.is_none_or(|wake| wake > turn.instant()) {
            return;
        }
        self.meet_members(turn);
        let now = turn.instant();
        let peers: Vec<NodeId> = self.peers.keys().copied().collect();
        for id in peers {
            let running = self.peers.values().filter(|peer| peer.exchange.is_some()).count();
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let is_due = peer.next_at <= now
                && turn.shared.liveness.is_up(id)
                && (peer.wanted.is_some() || turn.shared.config.repair_interval_ms > 0);
            let mut ended = Ok(());
            match &mut peer.exchange {
                Some(exchange) if exchange.is_late(now) => {
                    ended = Err(Failure::Refused("it did not answer in time".to_owned()));
                }
                Some(_) => {}
                None if is_due && running < EXCHANGES_MAX => {
                    let peers = turn.shared.keeper.members();
                    let rank = peers.filter(|member| *member < id).count();
                    peer.exchange = Exchange::begin(id, rank, peer.wanted.take(), turn);
                    if peer.exchange.is_none() {
                        peer.next_at = now.plus_ms(FIRST_MS);
                    }
                }
                None => continue,
            }
            if ended.is_ok() {
                ended = self.with(id, turn, Exchange::go_on);
            }
            self.settle(id, ended, turn);
        }
        self.set_wake(turn);
    }

    /// Peers come and go with the record.
    fn meet_members(&mut self, turn: &mut Turn<'_>) {
        let own = turn.own();
        let members: Vec<NodeId> =
            turn.shared.keeper.members().filter(|member| *member != own).collect();
        self.peers.retain(|id, _| members.contains(id));
        for id in members {
            let jitter = self.random.below(FIRST_MS);
            let next_at = turn.instant().plus_ms(FIRST_MS + jitter);
            self.peers.entry(id).or_insert(Peer {
                next_at,
                exchange: None,
                busy_until: Instant::default(),
                last: None,
                wanted: None,
            });
        }
    }

    fn set_wake(&mut self, turn: &Turn<'_>) {
        let running = self.peers.values().filter(|peer| peer.exchange.is_some()).count();
        let liveness = &turn.shared.liveness;
        let is_off = turn.shared.config.repair_interval_ms == 0;
        let wakes = self.peers.iter().filter_map(|(id, peer)| match &peer.exchange {
            Some(exchange) => exchange.next_wake(),
            None if is_off && peer.wanted.is_none() => None,
            None if running < EXCHANGES_MAX && liveness.is_up(*id) => Some(peer.next_at),
            None => None,
        });
        // Who comes up, and members that are new, are seen then.
        let look = turn.instant().plus_ms(FIRST_MS);
        self.wake = wakes.chain([look]).min();
        let is_wanted = |peer: &Peer| peer.wanted.is_some() || peer.exchange.is_some();
        if is_off && !self.peers.is_empty() && !self.peers.values().any(is_wanted) {
            self.wake = None;
        }
    }

    /// The storage worker has made a step.
    pub(crate) fn on_storage(&mut self, number: u64, answer: StorageAnswer, turn: &mut Turn<'_>) {
        let Some((id, asker)) = self.asked.remove(&number) else { return };
        let ended = self.with(id, turn, |exchange, steps, turn| {
            exchange.on_storage(asker, answer, steps, turn)
        });
        self.settle(id, ended, turn);
        self.set_wake(turn);
    }

    /// A peer has answered.
    pub(crate) fn on_peer(
        &mut self,
        from: NodeId,
        number: u64,
        message: PeerMessage,
        turn: &mut Turn<'_>,
    ) {
        let asker = match self.asked.get(&number) {
            Some((id, asker)) if *id == from => *asker,
            Some(_) | None => return,
        };
        self.asked.remove(&number);
        if let PeerMessage::Reconciled(crate::peer::Reconciled { is_busy: true, .. })
        | PeerMessage::Pushed(crate::peer::Pushed { is_busy: true, .. }) = &message
            && let Some(peer) = self.peers.get_mut(&from)
        {
            peer.busy_until = turn.instant().plus_ms(1_000);
        }
        let ended = self.with(from, turn, |exchange, steps, turn| {
            exchange.on_peer(asker, message, steps, turn)
        });
        self.settle(from, ended, turn);
        self.set_wake(turn);
    }

    /// The connection to a peer is gone.
    pub(crate) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) {
        if self.peers.get(&node).is_some_and(|peer| peer.exchange.is_some()) {
            let ended = Err(Failure::Refused("the connection was lost".to_owned()));
            self.settle(node, ended, turn);
            self.set_wake(turn);
        }
    }

    /// Lets an exchange make a step.
    fn with(
        &mut self,
        id: NodeId,
        turn: &mut Turn<'_>,
        step: impl FnOnce(&mut Exchange, &mut Steps<'_>, &mut Turn<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { peers, asked, next, pace, merged, .. } = self;
        let Some(peer) = peers.get_mut(&id) else { return Ok(()) };
        let now = turn.instant();
        let is_busy = peer.busy_until > now || turn.shared.foreground.is_busy(now);
        let mut steps = Steps { peer: id, asked, next, pace, merged, is_busy };
        match &mut peer.exchange {
            Some(exchange) => step(exchange, &mut steps, turn),
            None => Ok(()),
        }
    }

    /// Ends an exchange that is through or has failed.
    fn settle(&mut self, id: NodeId, ended: Result<(), Failure>, turn: &mut Turn<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(exchange) = &mut peer.exchange else { return };
        for (is_peers, key) in exchange.take_unknown() {
            heal(key, if is_peers { id } else { turn.own() }, turn);
        }
        let now = turn.instant();
        let interval = turn.shared.config.repair_interval_ms;
        let failure = match ended {
            Ok(()) if !exchange.is_over() => return,
            Ok(()) => {
                let jitter = self.random.below(interval / 2 + 1);
                peer.next_at = now.plus_ms(interval - interval / 4 + jitter);
                turn.shared.counters.exchanges += 1;
                None
            }
            Err(failure) => {
                let jitter = self.random.below(RETRY_MS);
                peer.next_at = now.plus_ms(RETRY_MS.min(interval) + jitter);
                turn.shared.counters.failed_exchanges += 1;
                Some(failure)
            }
        };
        if let Some(Failure::Malformed(what)) = failure {
            turn.refuse_malformed(id, what);
        }
        let counters = &mut turn.shared.counters;
        let moved = exchange.moved();
        counters.repair_keys_in += moved.keys_in;
        counters.repair_keys_out += moved.keys_out;
        counters.repair_bytes_in += moved.bytes_in;
        counters.repair_bytes_out += moved.bytes_out;
        if failure.is_some() {
            peer.wanted = peer.wanted.or(exchange.wanted());
        } else if peer.wanted.is_some() {
            peer.next_at = now;
        }
        peer.exchange = None;
        self.asked.retain(|_, (asker, _)| *asker != id);
        let failure = failure.map(|failure| failure.to_string());
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.last = Some(Last { ended: turn.time(), failure });
        }
    }
}

/// What an exchange makes steps with.
struct Steps<'a> {
    peer: NodeId,
    asked: &'a mut BTreeMap<u64, (NodeId, Asker)>,
    next: &'a mut u64,
    pace: &'a mut Pace,
    merged: &'a mut Vec<Merged>,
    is_busy: bool,
}

impl Steps<'_> {
    fn number(&mut self, asker: Asker) -> u64 {
        *self.next = self.next.wrapping_add(1);
        self.asked.insert(*self.next, (self.peer, asker));
        *self.next
    }

    fn bytes_max(&self) -> usize {
        if self.is_busy { BUSY_ROW_BYTES_MAX } else { ROW_BYTES_MAX }
    }
}

/// Has a key rebuilt at a node that cannot vouch for it.
fn heal(key: StoredKey, node: NodeId, turn: &mut Turn<'_>) {
    let Some(record) = turn.shared.keeper.current() else { return };
    let Some(table) = record.table_by_id(key.table()) else { return };
    let place = Place::new(record, table, record.vnodes.vnode_of(key.token()));
    turn.heal(place, Key { partition: key.partition(), sort: key.sort() }, node);
}

impl Turn<'_> {
    /// Counts what no right node says, and has the connection closed.
    pub(crate) fn refuse_malformed(&mut self, node: NodeId, what: &str) {
        self.shared.counters.malformed += 1;
        let reason = format!("it sent {what}");
        self.effects.push(Effect::Disconnect { node, reason });
    }

    /// Asks the storage worker for a step of an exchange.
    fn ask_storage_step(&mut self, number: u64, request: crate::event::StorageRequest) {
        let until = self.instant().plus_ms(STEP_MS);
        self.ask_storage(Tag::Exchange(number), request, until);
    }
}
