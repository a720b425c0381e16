//! Settled time: up to when nothing that replicas do not know of can turn up any more, so that what
//! was deleted may be forgotten.
//!
//! The first primary of a virtual node leads. It chooses a time T, some way back, and
//! 1. asks every replica of the virtual node, itself among them, to **promise**: its clock is past T
//!    for ever (the lease, which a restart goes on from, is durable and later), no write of its own
//!    under a dot at or before T is under way, and what it applied is durable. Each node promises for
//!    all that it is a replica of at once.
//!
//!    Where a table is sloppy, every member promises; and when all have, every member is asked whether
//!    all that it took in the place of others until then is **handed over**.
//! 2. waits until exchanges that began after all these promises have brought here what each of the
//!    others holds, vouched for and without anything unknown: they are **gathered**.
//! 3. waits until exchanges that began after that have brought to each of the others what is held
//!    here: it is **scattered**.
//! 4. tells all to raise their **floors** to T.
//!
//! **What fallbacks took.** A write under a dot at or before T of which a fallback was needed for the
//! acknowledgement was durable there before its coordinator promised. So it is among what the fallback
//! kept when it was asked, after all promises; and once it has handed that over, the write is durable at a
//! primary, from which it is gathered like any other. What a fallback takes later under such a dot was
//! never acknowledged.
//!
//! **Why nothing is lost by that.** Take a write under a dot at or before T that was acknowledged, or
//! will ever be. Whoever made the dot promised afterwards, when the write was not under way any more:
//! so it was acknowledged before, was durable then at W replicas, one of them at least was gathered,
//! and by the scattering every replica holds it or what covers it. A floor therefore only ever refuses
//! what is known already or was never acknowledged (a straggler: a message of a write that had ended
//! as unknown).
//!
//! **Why nothing comes back.** What covers a deleted pair at or before T, the tombstone or a claim in a
//! vector, was at every replica before the first floor was raised, and is collected only under a
//! floor. A replica whose floor is lower still has the tombstone, or takes the word of a trusted peer
//! whose floor is higher. A replica that lost its disk or was given an older one is not trusted, and
//! has promised nothing: its word counts for nothing until it has merged the others.
//!
//! **Stragglers.** A message with an unacknowledged pair at or before T may reach one replica after the
//! gathering and before its floor is raised. Then it is held there and refused elsewhere. Two trusted
//! replicas under one floor do not take each other for having deleted what they do not hold, so that
//! the next exchange brings it to all of them (see `Change::Merge`).
//!
//! **Who misses the end of a round**, because it was away or restarted, has a lower floor than the
//! others. It catches up by an exchange with a trusted peer whose floor is higher: once all that the
//! peer holds is here, and what the peer has deleted is not, the two are as equal under the peer's
//! floor as after a round, and this node can make the promise by itself.
//!
//! **Who is away** has not promised, and is not gathered from: the floor stays where it is, and what
//! was deleted stays, for as long as that takes. Time alone never deletes anything.
//!
//! T is a multiple of the width of the digests' buckets, so that replicas that collect at different
//! moments do not seem to differ.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quoit_ring::{ClusterRecord, ConflictPolicy, Epoch, HybridTime, NodeId, VnodeIndex, WallTime};
use quoit_storage::planted::{PlantedBug, is_planted};
use quoit_storage::store::{Change, Collectible, Mutation};
use quoit_storage::version::BUCKET_MS_BITS;

use super::anti_entropy::Merged;
use super::messages::{AskPromise, Promised, Settle};
use crate::event::{Effect, StorageAnswer, StorageRequest, Tag};
use crate::peer::Refusal;
use crate::random::Random;
use crate::time::Instant;
use crate::turn::Turn;

/// Who has not promised is asked again so often.
const ASK_MS: u64 = 5_000;
/// What is settled is told so often.
const TELL_MS: u64 = 1_000;
/// A round that takes longer is begun anew, with a later time.
const ROUND_MS_MAX: u64 = 3_600_000;
/// Whoever has kept a round waiting for so long is told of.
const AWAY_MS: u64 = 600_000;
/// Virtual nodes in a message.
pub(crate) const SETTLE_VNODES_MAX: usize = 4_096;
/// Keys are collected so many at a time.
const COLLECT_KEYS: usize = 256;
/// Between two such steps, while clients are there.
const COLLECT_PAUSE_MS: u64 = 50;

/// The rounds of this node, what it promised to others, and the collection of what may go.
pub(crate) struct Settling {
    round: Option<Round>,
    /// Nothing is looked at before.
    wake: Option<Instant>,
    tell_at: Instant,
    /// What this node promised to which leader in this life.
    promised: BTreeMap<NodeId, HybridTime>,
    /// Which leader asked for what time whether all is handed over, and when it first did.
    clear_since: BTreeMap<NodeId, (HybridTime, HybridTime)>,
    asked: BTreeMap<u64, Asked>,
    next: u64,
    /// The time that a round of this node last came to.
    settled: HybridTime,
    /// Virtual nodes whose floor here is lower than a peer's: the peer, its floor, and the replication
    /// factors for which all is here that the peer holds.
    catching_up: BTreeMap<VnodeIndex, (NodeId, HybridTime, BTreeSet<u8>)>,
    /// Those for which that are all.
    caught_up: BTreeMap<VnodeIndex, HybridTime>,
    collecting: Collecting,
}

/// What a question to the storage worker or a peer was about.
#[derive(Debug)]
enum Asked {
    /// A promise, for an own round or a peer's.
    Promise { until: HybridTime, to: Option<(NodeId, u64)> },
    /// A promise of a peer, or that it has handed over what it took.
    PeerPromise { until: HybridTime, node: NodeId, is_clear: bool },
    /// Floors, as an own round or a peer's settled them.
    Raise { vnodes: Vec<VnodeIndex>, floor: HybridTime },
    /// What may go.
    Collectible,
    /// It goes.
    Collect,
}

/// One time that is being settled.
struct Round {
    /// Who leads it.
    own: NodeId,
    epoch: Epoch,
    until: HybridTime,
    began: Instant,
    ask_at: Instant,
    /// When each node's promise came.
    promises: BTreeMap<NodeId, Option<Instant>>,
    /// Where a table is sloppy: when each node had handed over what it took in the place of others.
    cleared: Option<BTreeMap<NodeId, Option<Instant>>>,
    /// What is not settled yet.
    vnodes: BTreeMap<VnodeIndex, Progress>,
    /// What is, and is still to be told.
    settled: Vec<VnodeIndex>,
}

/// How far a virtual node is.
struct Progress {
    /// The other replicas, each with the replication factors that it shares with this node.
    others: BTreeMap<NodeId, BTreeSet<u8>>,
    gathered: BTreeSet<(NodeId, u8)>,
    gathered_at: Option<Instant>,
    scattered: BTreeSet<(NodeId, u8)>,
}

/// Takes out what may go, a virtual node at a time.
struct Collecting {
    queue: VecDeque<VnodeIndex>,
    /// Where it is.
    at: Option<(VnodeIndex, Bytes)>,
    next: Option<Bytes>,
    not_before: Instant,
    is_under_way: bool,
    /// All that this node holds was looked at once since its start.
    was_begun: bool,
}

impl Settling {
    /// Nothing is settled yet.
    pub(crate) fn new(mut random: Random, now: Instant) -> Self {
        Self {
            round: None,
            wake: Some(now),
            tell_at: now,
            promised: BTreeMap::new(),
            clear_since: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: random.draw(),
            settled: HybridTime::ZERO,
            catching_up: BTreeMap::new(),
            caught_up: BTreeMap::new(),
            collecting: Collecting {
                queue: VecDeque::new(),
                at: None,
                next: None,
                not_before: now,
                is_under_way: false,
                was_begun: false,
            },
        }
    }

    /// When something is due.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.wake
    }

    /// A virtual node counts again: what may go there was left alone while it did not.
    pub(crate) fn collect_there(&mut self, vnode: VnodeIndex, now: Instant) {
        self.collecting.queue.push_back(vnode);
        self.wake = self.wake.map(|wake| wake.min(now));
    }

    /// The nodes that have kept a round of this node waiting for long.
    pub(crate) fn waits_for(&self, now: Instant) -> Vec<NodeId> {
        let Some(round) = &self.round else { return Vec::new() };
        if now.ms_since(round.began) < AWAY_MS {
            return Vec::new();
        }
        round.missing().0
    }

    /// Begins rounds, asks for promises, tells what is settled, and collects.
    pub(crate) fn on_time(&mut self, oldest_dot: Option<HybridTime>, turn: &mut Turn<'_>) {
        let now = turn.instant();
        if turn.shared.config.repair_interval_ms == 0 {
            // Without exchanges nothing settles.
            self.wake = None;
            return;
        }
        self.judge_round(turn);
        self.ask_promises(oldest_dot, turn);
        self.raise_caught_up(oldest_dot, turn);
        if self.tell_at <= now {
            self.tell_at = now.plus_ms(TELL_MS);
            self.tell_settled(turn);
        }
        self.collect(turn);
        let look = now.plus_ms(TELL_MS);
        let collecting = &self.collecting;
        let collects =
            !collecting.is_under_way && (collecting.at.is_some() || !collecting.queue.is_empty());
        let collect = collects.then_some(collecting.not_before.max(now.plus_ms(1)));
        self.wake = [Some(look), collect].into_iter().flatten().min();
    }

    /// Ends a round that is through or out of date, and begins the next.
    fn judge_round(&mut self, turn: &mut Turn<'_>) {
        let now = turn.instant();
        let Some(record) = turn.shared.keeper.current() else { return };
        let behind_ms = turn.shared.config.settle_behind_ms;
        let time = turn.shared.clock.read(turn.now.wall);
        let wall_ms = time.wall().0.saturating_sub(behind_ms) >> BUCKET_MS_BITS << BUCKET_MS_BITS;
        let until = HybridTime::at(WallTime(wall_ms));
        if let Some(round) = &self.round {
            let is_through = round.vnodes.is_empty() && round.settled.is_empty();
            let is_old = now.ms_since(round.began) > ROUND_MS_MAX && until > round.until;
            if round.epoch == record.epoch && !is_through && !is_old {
                return;
            }
            if is_through {
                self.settled = self.settled.max(round.until);
            }
            self.round = None;
        }
        if until > self.settled && wall_ms > 0 {
            self.round = Round::begin(record, turn.own(), until, now);
            if self.round.is_none() {
                // Nothing is led here.
                self.settled = until;
            }
        }
    }

    /// Asks those who have not promised yet.
    fn ask_promises(&mut self, oldest_dot: Option<HybridTime>, turn: &mut Turn<'_>) {
        let now = turn.instant();
        let own = turn.own();
        let Some(round) = &mut self.round else { return };
        if round.ask_at > now {
            return;
        }
        round.ask_at = now.plus_ms(ASK_MS);
        let (epoch, until) = (round.epoch, round.until);
        if is_planted(PlantedBug::SettleWithoutPromises) {
            round.promises.values_mut().for_each(|promise| *promise = Some(Instant(0)));
            round.settled.extend(std::mem::take(&mut round.vnodes).into_keys());
            return;
        }
        let (missing, is_clear) = round.missing();
        // Whoever has not answered is asked anew.
        self.asked.retain(|_, asked| !matches!(asked, Asked::PeerPromise { .. }));
        for node in missing {
            if node == own && is_clear {
                if self.is_clear(own, until, turn) {
                    self.note_promise(own, until, is_clear, now);
                }
            } else if node == own {
                // If it cannot be promised now, it is tried again.
                let _ = self.promise(until, None, oldest_dot, turn);
            } else if turn.shared.liveness.is_up(node) {
                let request = self.number(Asked::PeerPromise { until, node, is_clear });
                let message = AskPromise { epoch, time: turn.time(), until, is_clear }.into();
                turn.effects.push(Effect::ToPeer { to: node, request, message });
            }
        }
    }

    /// Whether this node has handed over all that it had taken in the place of others when that leader
    /// first asked so for that time.
    fn is_clear(&mut self, leader: NodeId, until: HybridTime, turn: &Turn<'_>) -> bool {
        let since = self.clear_since.entry(leader).or_insert((until, turn.time()));
        if since.0 != until {
            *since = (until, turn.time());
        }
        turn.shared.hints.oldest_taken().is_none_or(|oldest| oldest > since.1)
    }

    /// A node has promised, or has handed over what it took.
    fn note_promise(&mut self, node: NodeId, until: HybridTime, is_clear: bool, now: Instant) {
        let Some(round) = self.round.as_mut().filter(|round| round.until == until) else { return };
        let promises = match is_clear {
            true => round.cleared.as_mut(),
            false => Some(&mut round.promises),
        };
        let Some(promise) = promises.and_then(|promises| promises.get_mut(&node)) else { return };
        promise.get_or_insert(now);
        if !is_clear && round.missing().1 {
            // The last one: now they are asked for the rest.
            round.ask_at = now;
            self.wake = Some(now);
        }
    }

    /// Promises to make no dot up to `until` any more, once all that was applied is durable.
    fn promise(
        &mut self,
        until: HybridTime,
        to: Option<(NodeId, u64)>,
        oldest_dot: Option<HybridTime>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        if !may_promise(until, oldest_dot, turn) {
            return Err(Refusal::Overloaded);
        }
        turn.shared.clock.observe(until);
        let number = self.number(Asked::Promise { until, to });
        turn.ask_storage_settling(number, StorageRequest::Barrier);
        Ok(())
    }

    fn number(&mut self, asked: Asked) -> u64 {
        self.next = self.next.wrapping_add(1);
        self.asked.insert(self.next, asked);
        self.next
    }

    /// What an exchange has come to.
    pub(crate) fn on_merged(
        &mut self,
        merged: Merged,
        record: Option<&ClusterRecord>,
        own: NodeId,
        now: Instant,
    ) {
        if let Some((record, floor)) = record.zip(merged.catches_up_to) {
            self.catch_up(merged, floor, record, own);
        }
        let Some(round) = &mut self.round else { return };
        let Some(progress) = round.vnodes.get_mut(&merged.vnode) else { return };
        let Some(promised_at) =
            promised_at(round.own, &progress.others, &round.promises, &round.cleared)
        else {
            return;
        };
        if merged.began <= promised_at || !progress.shares(&merged) {
            return;
        }
        let which = (merged.peer, merged.replication);
        match progress.gathered_at {
            None => {
                progress.gathered.insert(which);
                if progress.is_all(&progress.gathered) {
                    progress.gathered_at = Some(now);
                }
            }
            Some(gathered_at) if merged.began > gathered_at && merged.is_scattered => {
                progress.scattered.insert(which);
                if progress.is_all(&progress.scattered) {
                    round.vnodes.remove(&merged.vnode);
                    round.settled.push(merged.vnode);
                }
            }
            Some(_) => {}
        }
    }

    /// Notes that all is here that a peer with a higher floor holds in tables of one N.
    fn catch_up(&mut self, merged: Merged, floor: HybridTime, record: &ClusterRecord, own: NodeId) {
        if !merged.is_scattered {
            return;
        }
        let entry = self.catching_up.entry(merged.vnode);
        let (peer, until, merged_for) =
            entry.or_insert_with(|| (merged.peer, floor, BTreeSet::new()));
        if *peer != merged.peer || *until != floor {
            (*peer, *until) = (merged.peer, floor);
            merged_for.clear();
        }
        merged_for.insert(merged.replication);
        let tables = record.tables.iter().map(|table| table.options.replication);
        let mut held = tables.filter(|n| record.is_primary(own, merged.vnode, *n));
        if held.all(|n| merged_for.contains(&n)) {
            self.catching_up.remove(&merged.vnode);
            self.caught_up.insert(merged.vnode, floor);
        }
    }

    /// Raises the floors of virtual nodes that have caught up with a peer, once this node makes no
    /// older dots.
    fn raise_caught_up(&mut self, oldest_dot: Option<HybridTime>, turn: &mut Turn<'_>) {
        let mut by_floor: BTreeMap<HybridTime, Vec<VnodeIndex>> = BTreeMap::new();
        for (vnode, floor) in &self.caught_up {
            by_floor.entry(*floor).or_default().push(*vnode);
        }
        for (floor, vnodes) in by_floor {
            if may_promise(floor, oldest_dot, turn) {
                turn.shared.clock.observe(floor);
                self.caught_up.retain(|vnode, _| !vnodes.contains(vnode));
                self.raise(vnodes, floor, turn);
            }
        }
    }

    /// Tells what is settled.
    fn tell_settled(&mut self, turn: &mut Turn<'_>) {
        let Some(round) = &mut self.round else { return };
        // A virtual node that nobody else holds is settled by the own promise.
        let alone: Vec<VnodeIndex> = round
            .vnodes
            .iter()
            .filter(|(_, progress)| {
                let (own, others) = (round.own, &progress.others);
                others.is_empty()
                    && promised_at(own, others, &round.promises, &round.cleared).is_some()
            })
            .map(|(vnode, _)| *vnode)
            .collect();
        alone.iter().for_each(|vnode| drop(round.vnodes.remove(vnode)));
        round.settled.extend(alone);
        let settled = std::mem::take(&mut round.settled);
        let (epoch, until) = (round.epoch, round.until);
        let Some(record) = turn.shared.keeper.current() else { return };
        if settled.is_empty() || record.epoch != epoch {
            return;
        }
        let most = replication_max(record);
        let own = turn.own();
        let mut by_node: BTreeMap<NodeId, Vec<VnodeIndex>> = BTreeMap::new();
        for vnode in &settled {
            for node in record.primaries(*vnode, most).filter(|node| *node != own) {
                by_node.entry(node).or_default().push(*vnode);
            }
        }
        for (to, vnodes) in by_node {
            for vnodes in vnodes.chunks(SETTLE_VNODES_MAX) {
                let (time, vnodes) = (turn.time(), vnodes.to_vec());
                let message = Settle { epoch, time, until, vnodes }.into();
                turn.effects.push(Effect::ToPeer { to, request: 0, message });
            }
        }
        self.raise(settled, until, turn);
    }

    fn raise(&mut self, vnodes: Vec<VnodeIndex>, floor: HybridTime, turn: &mut Turn<'_>) {
        let number = self.number(Asked::Raise { vnodes: vnodes.clone(), floor });
        turn.ask_storage_settling(number, StorageRequest::RaiseFloors { vnodes, floor });
    }

    /// A leader asks for a promise.
    pub(crate) fn on_ask_promise(
        &mut self,
        from: NodeId,
        request: u64,
        ask: &AskPromise,
        oldest_dot: Option<HybridTime>,
        turn: &mut Turn<'_>,
    ) {
        let answer = match turn.shared.keeper.epoch() == ask.epoch {
            _ if !turn.shared.continuity.is_confirmed() => Err(Refusal::Recovering),
            true if ask.is_clear => {
                let is_clear = self.is_clear(from, ask.until, turn);
                let result = if is_clear { Ok(()) } else { Err(Refusal::Overloaded) };
                let message = Promised { time: turn.time(), result }.into();
                return turn.effects.push(Effect::ToPeer { to: from, request, message });
            }
            true => self.promise(ask.until, Some((from, request)), oldest_dot, turn),
            false => Err(Refusal::WrongConfiguration),
        };
        if let Err(refusal) = answer {
            let message = Promised { time: turn.time(), result: Err(refusal) }.into();
            turn.effects.push(Effect::ToPeer { to: from, request, message });
        }
    }

    /// A peer has promised, or not.
    pub(crate) fn on_promised(
        &mut self,
        from: NodeId,
        request: u64,
        promised: &Promised,
        now: Instant,
    ) {
        let (until, is_clear) = match self.asked.get(&request) {
            Some(Asked::PeerPromise { until, node, is_clear }) if *node == from => {
                (*until, *is_clear)
            }
            Some(_) | None => return,
        };
        self.asked.remove(&request);
        if promised.result.is_ok() {
            self.note_promise(from, until, is_clear, now);
        }
    }

    /// A peer has lost what it held, its promise among that.
    pub(crate) fn on_peer_renewed(&mut self, node: NodeId) {
        if self.round.as_ref().is_some_and(|round| round.promises.contains_key(&node)) {
            self.round = None;
        }
        self.promised.remove(&node);
    }

    /// This node has lost what it held.
    pub(crate) fn on_own_loss(&mut self) {
        self.round = None;
        self.promised.clear();
        // What was asked for a promise is not told any more.
        self.asked.retain(|_, asked| !matches!(asked, Asked::Promise { .. }));
    }

    /// A leader tells what is settled.
    pub(crate) fn on_settle(
        &mut self,
        from: NodeId,
        settle: Settle,
        turn: &mut Turn<'_>,
    ) -> Result<(), &'static str> {
        let own = turn.own();
        let Some(record) = turn.shared.keeper.current() else { return Ok(()) };
        if record.epoch != settle.epoch {
            return Ok(());
        }
        let most = replication_max(record);
        let is_right = |vnode: &VnodeIndex| {
            vnode.0 < record.vnodes.get()
                && leader(record, *vnode) == Some(from)
                && record.is_primary(own, *vnode, most)
        };
        if settle.vnodes.len() > SETTLE_VNODES_MAX || !settle.vnodes.iter().all(is_right) {
            return Err("settled time of virtual nodes that it does not lead");
        }
        // What was promised in an earlier life holds, but who asked for it is forgotten.
        if self.promised.get(&from).is_some_and(|promised| settle.until <= *promised) {
            self.raise(settle.vnodes, settle.until, turn);
        }
        Ok(())
    }

    /// The storage worker has answered.
    pub(crate) fn on_storage(&mut self, number: u64, answer: StorageAnswer, turn: &mut Turn<'_>) {
        let Some(asked) = self.asked.remove(&number) else { return };
        match (asked, answer) {
            (Asked::Promise { until, to }, StorageAnswer::Saved(Ok(()))) => {
                self.on_promise_durable(until, to, turn);
            }
            (Asked::Raise { vnodes, floor }, StorageAnswer::Saved(Ok(()))) => {
                for vnode in &vnodes {
                    let known = turn.shared.floors.entry(*vnode).or_default();
                    *known = floor.max(*known);
                }
                self.collecting.queue.extend(vnodes);
                self.wake = Some(turn.instant());
            }
            (Asked::Collectible, StorageAnswer::Collectible(Ok(found))) => {
                self.on_collectible(found, turn);
            }
            (Asked::Collect, StorageAnswer::AppliedMany(_)) => self.on_collected(turn),
            // The disk is full or failed, or the worker has other things to do: later.
            (Asked::Collectible | Asked::Collect, _) => {
                self.collecting.at = None;
                self.collecting.is_under_way = false;
            }
            (Asked::Promise { .. } | Asked::PeerPromise { .. } | Asked::Raise { .. }, _) => {}
        }
    }

    fn on_promise_durable(
        &mut self,
        until: HybridTime,
        to: Option<(NodeId, u64)>,
        turn: &mut Turn<'_>,
    ) {
        let Some((node, request)) = to else {
            let (own, now) = (turn.own(), turn.now.instant);
            return self.note_promise(own, until, false, now);
        };
        let promised = self.promised.entry(node).or_default();
        *promised = until.max(*promised);
        let message = Promised { time: turn.time(), result: Ok(()) }.into();
        turn.effects.push(Effect::ToPeer { to: node, request, message });
    }

    /// Looks for the next keys of which something may go.
    fn collect(&mut self, turn: &mut Turn<'_>) {
        let now = turn.instant();
        if !self.collecting.was_begun
            && let Some(record) = turn.shared.keeper.current()
        {
            self.collecting.was_begun = true;
            let (own, most) = (turn.own(), replication_max(record));
            let held = record.vnodes.all().filter(|vnode| record.is_primary(own, *vnode, most));
            self.collecting.queue.extend(held);
        }
        if self.collecting.is_under_way
            || self.collecting.not_before > now
            || turn.is_storage_full()
        {
            return;
        }
        let at = self.collecting.at.take();
        let at = at.or_else(|| Some((self.collecting.queue.pop_front()?, Bytes::new())));
        let Some((vnode, from)) = at else { return };
        self.collecting.at = Some((vnode, from.clone()));
        self.collecting.is_under_way = true;
        let number = self.number(Asked::Collectible);
        let request = StorageRequest::Collectible { vnode, from, keys_max: COLLECT_KEYS };
        turn.ask_storage_settling(number, request);
    }

    fn on_collectible(&mut self, found: Collectible, turn: &mut Turn<'_>) {
        let Some(record) = turn.shared.keeper.current() else { return };
        let Collectible { keys, next } = found;
        let mutation = |(key, replication): (quoit_storage::layout::StoredKey, u8)| {
            // Of a table that was dropped nothing is live, whatever its policy was.
            let table = record.table_by_id(key.table());
            let policy = table.map_or(ConflictPolicy::Latest, |table| table.options.policy);
            Mutation { key, replication, policy, change: Change::Collect, values: Vec::new() }
        };
        let mutations: Vec<Mutation> = keys.into_iter().map(mutation).collect();
        self.collecting.next = next;
        if mutations.is_empty() {
            return self.on_collected(turn);
        }
        turn.shared.counters.collected += mutations.len() as u64;
        let number = self.number(Asked::Collect);
        turn.ask_storage_settling(
            number,
            StorageRequest::ApplyMany { mutations, is_synced: false },
        );
    }

    fn on_collected(&mut self, turn: &mut Turn<'_>) {
        let now = turn.instant();
        let collecting = &mut self.collecting;
        collecting.is_under_way = false;
        collecting.at = match (collecting.at.take(), collecting.next.take()) {
            (Some((vnode, _)), Some(next)) => Some((vnode, next)),
            (_, _) => None,
        };
        let pause = if turn.shared.foreground.is_busy(now) { COLLECT_PAUSE_MS } else { 0 };
        collecting.not_before = now.plus_ms(pause);
        if pause == 0 {
            self.collect(turn);
        }
        self.wake = Some(self.wake.unwrap_or(now).min(now.plus_ms(pause.max(1))));
    }
}

impl Round {
    /// `None` if this node leads nothing.
    fn begin(record: &ClusterRecord, own: NodeId, until: HybridTime, now: Instant) -> Option<Self> {
        let replications: BTreeSet<u8> =
            record.tables.iter().map(|table| table.options.replication).collect();
        let led = record.vnodes.all().filter(|vnode| leader(record, *vnode) == Some(own));
        let mut vnodes = BTreeMap::new();
        let mut promises = BTreeMap::from([(own, None)]);
        for vnode in led {
            let mut others: BTreeMap<NodeId, BTreeSet<u8>> = BTreeMap::new();
            for replication in &replications {
                for node in record.primaries(vnode, *replication).filter(|node| *node != own) {
                    others.entry(node).or_default().insert(*replication);
                    promises.insert(node, None);
                }
            }
            vnodes.insert(
                vnode,
                Progress {
                    others,
                    gathered: BTreeSet::new(),
                    gathered_at: None,
                    scattered: BTreeSet::new(),
                },
            );
        }
        let is_any = !vnodes.is_empty() && !replications.is_empty();
        let is_sloppy = record.tables.iter().any(|table| table.options.sloppy);
        if is_sloppy {
            promises.extend(record.members.iter().map(|member| (member.id, None)));
        }
        let is_cleared = is_sloppy && !is_planted(PlantedBug::SettleOverStandIns);
        is_any.then(|| Self {
            cleared: is_cleared.then(|| promises.clone()),
            own,
            epoch: record.epoch,
            until,
            began: now,
            ask_at: now,
            promises,
            vnodes,
            settled: Vec::new(),
        })
    }
}

impl Round {
    /// Who has not promised yet; or, once all have, who has not handed over what it took.
    fn missing(&self) -> (Vec<NodeId>, bool) {
        let missing = |promises: &BTreeMap<NodeId, Option<Instant>>| -> Vec<NodeId> {
            let missing = promises.iter().filter(|(_, promise)| promise.is_none());
            missing.map(|(node, _)| *node).collect()
        };
        match (missing(&self.promises), &self.cleared) {
            (promises, Some(cleared)) if promises.is_empty() => (missing(cleared), true),
            (promises, _) => (promises, false),
        }
    }
}

/// When the last of all that matters to a virtual node was promised, if it was.
fn promised_at(
    own: NodeId,
    others: &BTreeMap<NodeId, BTreeSet<u8>>,
    promises: &BTreeMap<NodeId, Option<Instant>>,
    cleared: &Option<BTreeMap<NodeId, Option<Instant>>>,
) -> Option<Instant> {
    let mut last = Instant(0);
    for node in others.keys().chain([&own]) {
        last = last.max((*promises.get(node)?)?);
    }
    for cleared in cleared.iter().flat_map(BTreeMap::values) {
        last = last.max((*cleared)?);
    }
    Some(last)
}

impl Progress {
    fn shares(&self, merged: &Merged) -> bool {
        self.others.get(&merged.peer).is_some_and(|shared| shared.contains(&merged.replication))
    }

    fn is_all(&self, which: &BTreeSet<(NodeId, u8)>) -> bool {
        self.others.values().map(BTreeSet::len).sum::<usize>() == which.len()
    }
}

/// Whether this node can know that it makes no dot up to a time any more: it is past, no write is under
/// way with an older dot, and a restart goes on after it. (To what is in the future the clock is not
/// pushed.)
fn may_promise(until: HybridTime, oldest_dot: Option<HybridTime>, turn: &Turn<'_>) -> bool {
    let clock = &turn.shared.clock;
    until < clock.read(turn.now.wall)
        && until <= turn.shared.time_bound(turn.now)
        && oldest_dot.is_none_or(|dot| dot > until)
        && clock.lease() > until
}

/// Who leads the rounds of a virtual node.
fn leader(record: &ClusterRecord, vnode: VnodeIndex) -> Option<NodeId> {
    record.primaries(vnode, 1).next()
}

/// The greatest N in use.
fn replication_max(record: &ClusterRecord) -> u8 {
    record.tables.iter().map(|table| table.options.replication).max().unwrap_or(1)
}

impl Turn<'_> {
    fn ask_storage_settling(&mut self, number: u64, request: StorageRequest) {
        self.shared.in_storage += 1;
        self.effects.push(Effect::ToStorage { tag: Tag::Settling(number), request, until: None });
    }
}
