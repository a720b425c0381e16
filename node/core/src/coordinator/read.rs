//! Coordinating a read: R primaries' sets, merged; what differs is written back before the answer
//! (Dynamo, section 4.4; Attiya, Bar-Noy and Dolev, 1995, for why the write-back comes first).
//!
//! R primaries are asked; where one is slow, lost, or cannot vouch for the key, the next ones are
//! asked too. A replica that could not vouch for the key is rebuilt from what the others said.
//!
//! In a sloppy table fallbacks are asked in the place of primaries that cannot be reached or are slow; one
//! that was given nothing for the key counts only when no primary may still answer. Nothing is written back
//! before the answer, since such quorums do not promise to intersect.
//!
//! A client that says what its session has seen of the key (Terry et al., "Session guarantees for weakly
//! consistent replicated data", 1994) is answered with no less: where R sets together hold less, another
//! replica is read, and one more, until they do, or all are read.
//!
//! The first replica is asked for the values that lie apart from their set, too; if another's set
//! speaks of one that has not come, its holder is read once more.

use bytes::Bytes;
use quoit_protocol::{Failure, FailureCode, Got, Key};
use quoit_ring::{ConflictPolicy, HybridTime, NodeId};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::planted::{PlantedBug, is_planted};
use quoit_storage::version::{ApartValue, Dot, SiblingSet, VersionVector};

use super::write::{Progress, describe};
use super::{encode_to_send, live_siblings, write_back_count};
use crate::operation::{OperationId, Origin, Place, not_done};
use crate::peer::{PeerMerge, PeerRead, Refusal, WireSet, apart_values, wire_values};
use crate::quorum::Tally;
use crate::replica::{ReplicaAnswer, ReplicaRequest};
use crate::time::Instant;
use crate::turn::Turn;

/// Slots from here on are write-backs; those below are reads.
const WRITE_BACK_SLOT: u16 = 256;
/// Slots from here on are reads of values that have not come.
const FETCH_SLOT: u16 = 512;
/// Values that are replaced while they are fetched are fetched again, so often.
const FETCHES_MAX: u8 = 8;
/// After its answer a read waits so long for stragglers, to mend what they are behind.
const LINGER_MS: u64 = 500;
/// What mends a replica is worth doing for so long, though no client waits: if it were dropped as
/// soon as the read has ended, a replica with a slow disk would never be whole again.
const REPAIR_WORTH_MS: u64 = 60_000;

/// A read on its way.
#[derive(Debug)]
pub(crate) struct ReadOperation {
    id: OperationId,
    origin: Origin,
    deadline: Instant,
    began: Instant,
    /// Who was asked then.
    asked_first: Vec<NodeId>,
    /// When more replicas are asked, if those asked are slow.
    patience_ends: Instant,
    place: Place,
    policy: ConflictPolicy,
    key: Key,
    stored_key: StoredKey,
    /// What the client has seen of the key: it is answered with no less.
    at_least: VersionVector,
    /// R, as it was asked for.
    required: u8,
    /// So many other replicas together know what a replica must be told that lost the key.
    rebuild_required: u8,
    /// In the order in which replicas are asked.
    order: Vec<NodeId>,
    tally: Tally,
    /// Until enough have come these are merged together; what comes later is merged one by one.
    answers: Vec<(NodeId, Bytes)>,
    /// Values that lie apart, of any of the sets that came.
    values: Vec<ApartValue>,
    fetches: u8,
    /// Who could not give a value that its set speaks of.
    fetched_in_vain: Vec<NodeId>,
    /// Who was sent all values, having said that it lacks some.
    helped: Vec<NodeId>,
    /// Fallbacks that were given nothing for the key: that says something only where no primary may
    /// still answer.
    without: Vec<NodeId>,
    /// Whose answers the merged set takes in.
    sources: Vec<NodeId>,
    unreadable: Vec<NodeId>,
    trouble: Option<String>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for R answers.
    Collecting,
    /// Waiting for values that lie apart.
    Fetching { from: Option<NodeId> },
    /// Waiting for enough replicas to hold the merged set.
    WritingBack { merged: Bytes, holders: Vec<NodeId>, asked: Vec<NodeId>, needed: usize },
    /// Answered; stragglers are mended.
    Lingering { merged: Bytes },
}

/// What a read is made of.
pub(crate) struct ReadParts {
    pub(crate) id: OperationId,
    pub(crate) origin: Origin,
    pub(crate) deadline: Instant,
    pub(crate) place: Place,
    pub(crate) policy: ConflictPolicy,
    pub(crate) key: Key,
    pub(crate) stored_key: StoredKey,
    /// What the client has seen of the key: it is answered with no less.
    pub(crate) at_least: VersionVector,
    pub(crate) rebuild_required: u8,
    /// Replicas that are known not to vouch for the key.
    pub(crate) unreadable: Vec<NodeId>,
    pub(crate) tally: Tally,
}

impl ReadOperation {
    /// Begins a read that was checked already.
    pub(crate) fn begin(parts: ReadParts, turn: &mut Turn<'_>) -> (Self, Progress) {
        let mut order = turn.by_gladness(parts.tally.primaries(), parts.id.number());
        order.extend(parts.tally.nodes().filter(|node| parts.tally.is_fallback(*node)));
        let began = turn.instant();
        let patience_ends = turn.shared.patience.ends(began);
        let mut read = Self {
            id: parts.id,
            origin: parts.origin,
            deadline: parts.deadline,
            began,
            asked_first: Vec::with_capacity(parts.tally.required()),
            patience_ends,
            place: parts.place,
            policy: parts.policy,
            key: parts.key,
            stored_key: parts.stored_key,
            at_least: parts.at_least,
            required: u8::try_from(parts.tally.required()).expect("R has 8 bits"),
            rebuild_required: parts.rebuild_required,
            order,
            answers: Vec::with_capacity(parts.tally.required()),
            tally: parts.tally,
            values: Vec::new(),
            fetches: 0,
            fetched_in_vain: Vec::new(),
            helped: Vec::new(),
            without: Vec::new(),
            sources: Vec::new(),
            unreadable: parts.unreadable,
            trouble: None,
            phase: Phase::Collecting,
        };
        for _ in 0..read.tally.required() {
            read.ask_next(turn);
        }
        let progress = read.conclude(turn);
        (read, progress)
    }

    /// Whether this is a read of the node's own accord, to rebuild the key at a replica.
    pub(crate) fn heals(&self) -> bool {
        self.origin == Origin::Nobody
    }

    /// When [`ReadOperation::on_wake`] is to be called.
    pub(crate) fn wake(&self) -> Instant {
        self.patience_ends.min(self.deadline)
    }

    /// Asks the next replica, in order. Whether there was one.
    fn ask_next(&mut self, turn: &mut Turn<'_>) -> bool {
        let tally = &self.tally;
        let unasked = |node: &&NodeId| tally.is_unasked(**node) && turn.is_reachable(**node);
        let Some(&node) = self.order.iter().find(unasked) else { return false };
        let slot = self.tally.slot(node).expect("the order is of the list's nodes");
        // The first one is asked for the values, and others where that was not enough.
        let whole = !self.tally.has_waiting() || !matches!(self.phase, Phase::Collecting);
        self.tally.ask(node);
        if turn.instant() == self.began {
            self.asked_first.push(node);
        }
        let slot = u16::try_from(slot).expect("N has 8 bits");
        self.send_read(node, slot, whole, turn);
        true
    }

    fn send_read(&self, node: NodeId, slot: u16, whole: bool, turn: &mut Turn<'_>) {
        let head = self.place.head(turn.time(), turn.instant(), self.deadline);
        let read = PeerRead { head, key: self.key.clone(), whole };
        turn.ask(node, self.id.request(slot), ReplicaRequest::Read(read));
    }

    /// A replica has answered.
    pub(crate) fn on_answer(
        &mut self,
        from: NodeId,
        slot: u16,
        answer: ReplicaAnswer,
        turn: &mut Turn<'_>,
    ) -> Progress {
        if self.tally.node(usize::from(slot % WRITE_BACK_SLOT)) != Some(from) {
            return Progress::Continue;
        }
        match answer {
            ReplicaAnswer::Read(Ok(set)) if slot < WRITE_BACK_SLOT => self.on_set(from, set, turn),
            ReplicaAnswer::Read(Err(refusal)) if slot < WRITE_BACK_SLOT => {
                self.on_refused(from, &refusal, turn)
            }
            ReplicaAnswer::Read(read) if slot >= FETCH_SLOT => self.on_fetched(from, read, turn),
            ReplicaAnswer::Merge(merged) if slot >= WRITE_BACK_SLOT => {
                self.on_written_back(from, merged, turn)
            }
            ReplicaAnswer::Read(_) | ReplicaAnswer::Merge(_) | ReplicaAnswer::Page(_) => {
                Progress::Continue
            }
        }
    }

    fn on_set(&mut self, node: NodeId, set: WireSet, turn: &mut Turn<'_>) -> Progress {
        // The late ones count too: a read lingers for them.
        if self.asked_first.contains(&node) {
            turn.shared.patience.on_answer(self.began, turn.instant());
        }
        if set.0.is_empty() && self.tally.is_fallback(node) && self.tally.is_waiting(node) {
            self.without.push(node);
            return self.conclude(turn);
        }
        if self.tally.count(node) {
            let set = self.take_values(set);
            match self.phase {
                Phase::Collecting | Phase::WritingBack { .. } => self.answers.push((node, set)),
                Phase::Fetching { .. } => {
                    self.answers.push((node, set));
                    return self.evaluate(turn);
                }
                Phase::Lingering { .. } => self.take_straggler(node, set, turn),
            }
        }
        self.conclude(turn)
    }

    /// Keeps the values of an answer; its set is left.
    fn take_values(&mut self, (set, values): WireSet) -> Bytes {
        for value in apart_values(values) {
            if !self.has_value(value.dot) {
                self.values.push(value);
            }
        }
        set
    }

    fn has_value(&self, dot: Dot) -> bool {
        self.values.iter().any(|value| value.dot == dot)
    }

    /// Reads a value that has not come from one whose set speaks of it, or from who was not asked.
    fn fetch(&mut self, missing: Dot, turn: &mut Turn<'_>) -> Progress {
        self.fetches += 1;
        let has = |set: &Bytes| codec::decode(set).is_ok_and(|set| set.holds(missing));
        let holder = self.answers.iter().find(|(node, set)| {
            !self.fetched_in_vain.contains(node) && turn.is_reachable(*node) && has(set)
        });
        let from = holder.map(|(node, _)| *node).filter(|_| self.fetches <= FETCHES_MAX);
        self.phase = Phase::Fetching { from };
        if let Some(node) = from {
            let slot = self.tally.slot(node).expect("a node of the list");
            let slot = u16::try_from(slot).expect("N has 8 bits");
            self.send_read(node, FETCH_SLOT + slot, true, turn);
        } else if !self.ask_next(turn) {
            self.trouble.get_or_insert_with(|| "a value cannot be read anywhere".to_owned());
        }
        self.conclude(turn)
    }

    fn on_fetched(
        &mut self,
        node: NodeId,
        read: Result<WireSet, Refusal>,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let Phase::Fetching { from } = &mut self.phase else { return Progress::Continue };
        if *from != Some(node) {
            return Progress::Continue;
        }
        match read {
            Ok(set) => {
                let set = self.take_values(set);
                self.answers.retain(|(other, _)| *other != node);
                self.answers.push((node, set));
            }
            Err(refusal) => {
                self.fetched_in_vain.push(node);
                return self.on_refused(node, &refusal, turn);
            }
        }
        self.evaluate(turn)
    }

    fn on_refused(&mut self, node: NodeId, refusal: &Refusal, turn: &mut Turn<'_>) -> Progress {
        if *refusal == Refusal::Unreadable && !self.unreadable.contains(&node) {
            self.unreadable.push(node);
        }
        self.trouble = Some(describe(node, refusal));
        self.tally.refuse(node);
        match self.phase {
            Phase::Collecting => {
                self.ask_next(turn);
            }
            Phase::Fetching { from } if from == Some(node) => return self.evaluate(turn),
            Phase::Fetching { .. } | Phase::WritingBack { .. } | Phase::Lingering { .. } => {}
        }
        self.conclude(turn)
    }

    fn conclude(&mut self, turn: &mut Turn<'_>) -> Progress {
        if matches!(self.phase, Phase::Collecting) && !self.tally.has_waiting_primary() {
            for node in std::mem::take(&mut self.without) {
                if self.tally.count(node) {
                    self.answers.push((node, Bytes::new()));
                }
            }
        }
        match &self.phase {
            Phase::Collecting if self.tally.is_reached() => self.evaluate(turn),
            Phase::Collecting if self.tally.can_be_reached() && self.tally.has_waiting() => {
                Progress::Continue
            }
            Phase::Collecting => self.give_up(turn),
            Phase::Fetching { from } if from.is_some() || self.tally.has_waiting() => {
                Progress::Continue
            }
            Phase::Fetching { .. } => self.give_up(turn),
            Phase::WritingBack { merged, holders, needed, .. } if holders.len() >= *needed => {
                self.answer(merged.clone(), true, turn)
            }
            Phase::WritingBack { asked, .. } if asked.is_empty() => self.give_up(turn),
            Phase::WritingBack { .. } => Progress::Continue,
            Phase::Lingering { .. } => self.linger_on(turn),
        }
    }

    /// R answers are there: merge them, and write back what differs.
    fn evaluate(&mut self, turn: &mut Turn<'_>) -> Progress {
        let Some(((_, first), others)) = self.answers.split_first() else {
            unreachable!("no level asks for nothing");
        };
        // Vectors may differ by what was collected: only pairs matter.
        let differ = others.iter().any(|(_, set)| !codec::has_same_pairs(set, first));
        // To a session they do.
        let counts = differ || !self.at_least.is_empty();
        let merged = if counts { self.merge(&self.answers) } else { Ok(first.clone()) };
        let merged = match merged {
            Ok(merged) => merged,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return self.give_up(turn);
            }
        };
        if !self.is_enough(&merged, turn) {
            return self.read_more(turn);
        }
        if let Some(missing) = self.missing(&merged) {
            return self.fetch(missing, turn);
        }
        let answers = std::mem::take(&mut self.answers);
        self.sources = answers.iter().map(|(node, _)| *node).collect();
        if !differ {
            return self.answer(merged, false, turn);
        }
        let (holders, behind): (Vec<_>, Vec<_>) =
            answers.iter().partition(|(_, set)| codec::has_same_pairs(set, &merged));
        let holders: Vec<NodeId> = holders.into_iter().map(|(node, _)| *node).collect();
        // A fallback holds what it was given, and is behind nobody.
        let is_primary = |answer: &&(NodeId, Bytes)| !self.tally.is_fallback(answer.0);
        let behind: Vec<_> = behind.into_iter().filter(is_primary).collect();
        if behind.is_empty() {
            return self.answer(merged, false, turn);
        }
        let asked: Vec<NodeId> = behind.iter().map(|(node, _)| *node).collect();
        let needed = match self.tally.is_sloppy() {
            true => 0,
            false => write_back_count(self.place.replication, self.required),
        };
        for (node, set) in behind {
            let values = self.lacked(&merged, set);
            self.send_merge(*node, merged.clone(), values, false, turn);
        }
        self.phase = Phase::WritingBack { merged, holders, asked, needed };
        let patience_ms = turn.shared.config.read_patience_ms;
        self.patience_ends = turn.instant().plus_ms(patience_ms);
        self.ask_more_holders(0, turn);
        self.conclude(turn)
    }

    /// Whether a set is no less than what the client has seen. What was seen and collected since is in
    /// none: up to the virtual node's floor everything was taken in by whoever vouches for it. A floor
    /// that is higher elsewhere is not known here yet; then what all replicas together hold is enough.
    /// (Not in a sloppy table, where a fallback may hand a write over and forget it between two answers.)
    fn is_enough(&self, merged: &Bytes, turn: &Turn<'_>) -> bool {
        if self.at_least.is_empty() || is_planted(PlantedBug::ForgetSession) {
            return true;
        }
        let floor = turn.shared.floors.get(&self.place.vnode).copied().unwrap_or_default();
        let covers = codec::decode(merged).is_ok_and(|set| match self.policy {
            ConflictPolicy::Siblings => {
                let mut vector = set.vector().clone();
                vector.raise_base(floor);
                vector.covers(&self.at_least)
            }
            // Its vector is of the greatest dot alone.
            ConflictPolicy::Latest => self
                .at_least
                .greatest_dot()
                .is_none_or(|seen| seen.time <= floor || set.vector().greatest_dot() >= Some(seen)),
        });
        let have_all_answered = || self.tally.nodes().all(|node| self.tally.has_counted(node));
        covers || (!self.tally.is_sloppy() && have_all_answered())
    }

    /// Reads one replica more than before, for a client that has seen more than these hold.
    fn read_more(&mut self, turn: &mut Turn<'_>) -> Progress {
        self.phase = Phase::Collecting;
        if !self.ask_next(turn) && !self.tally.has_waiting() {
            self.trouble = Some("the session has seen more of the key than they hold".to_owned());
            return self.give_up(turn);
        }
        self.tally.require_more();
        self.conclude(turn)
    }

    /// A value that lies apart and has not come, of those that a set speaks of.
    fn missing(&self, set: &Bytes) -> Option<Dot> {
        if !codec::has_apart(set) {
            return None;
        }
        let set = codec::decode(set).ok()?;
        set.apart().map(|version| version.dot).find(|dot| !self.has_value(*dot))
    }

    /// The values of a set that lie apart, but for those that a replica with the other set holds.
    fn lacked(&self, set: &Bytes, other: &Bytes) -> Vec<ApartValue> {
        if !codec::has_apart(set) {
            return Vec::new();
        }
        let (Ok(set), Ok(other)) = (codec::decode(set), codec::decode(other)) else {
            return Vec::new();
        };
        let lacked = |dot| set.holds(dot) && !other.holds(dot);
        self.values.iter().filter(|value| lacked(value.dot)).cloned().collect()
    }

    /// Merges encoded sets. A replica's checksum has held, so what does not decode is a newer
    /// program's or a bug's.
    fn merge(&self, sets: &[(NodeId, Bytes)]) -> Result<Bytes, String> {
        let mut merged = SiblingSet::default();
        for (node, set) in sets {
            let set = codec::decode(set).map_err(|error| format!("{node}: {error}"))?;
            merged = merged.merge(&set, self.policy);
        }
        encode_to_send(&merged)
    }

    /// Writes back to replicas that were not read, if those that were do not suffice, or `slow` of
    /// them are slow.
    fn ask_more_holders(&mut self, slow: usize, turn: &mut Turn<'_>) {
        loop {
            let Phase::WritingBack { merged, holders, asked, needed } = &self.phase else { return };
            if holders.len() + asked.len() >= *needed + slow {
                return;
            }
            let free = |node: &&NodeId| {
                !holders.contains(node) && !asked.contains(node) && turn.is_reachable(**node)
            };
            let Some(&node) = self.order.iter().find(free) else { return };
            let merged = merged.clone();
            // It may well have the values, and says if not.
            self.send_merge(node, merged, Vec::new(), false, turn);
            if let Phase::WritingBack { asked, .. } = &mut self.phase {
                asked.push(node);
            }
        }
    }

    fn send_merge(
        &self,
        node: NodeId,
        set: Bytes,
        values: Vec<ApartValue>,
        rebuild: bool,
        turn: &mut Turn<'_>,
    ) {
        if self.tally.is_fallback(node) {
            // It holds what it was given for another node, and hands that over.
            return;
        }
        let slot = u16::try_from(self.tally.slot(node).expect("a node of the list"))
            .expect("N has 8 bits");
        let deadline = match self.phase {
            Phase::Lingering { .. } => turn.instant().plus_ms(REPAIR_WORTH_MS),
            _ => self.deadline,
        };
        let head = self.place.head(turn.time(), turn.instant(), deadline);
        let values = wire_values(values);
        let merge =
            PeerMerge { head, key: self.key.clone(), set, rebuild, values, stands_in_for: None };
        turn.ask(node, self.id.request(WRITE_BACK_SLOT + slot), ReplicaRequest::Merge(merge));
    }

    fn on_written_back(
        &mut self,
        node: NodeId,
        merged: Result<(), Refusal>,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let Phase::WritingBack { merged: set, holders, asked, .. } = &mut self.phase else {
            return Progress::Continue;
        };
        if merged == Err(Refusal::Lacks) && !self.helped.contains(&node) {
            let set = set.clone();
            self.helped.push(node);
            let values = self.lacked(&set, &Bytes::new());
            self.send_merge(node, set, values, false, turn);
            return Progress::Continue;
        }
        asked.retain(|other| *other != node);
        match merged {
            // What is later than the merged set is no less than it.
            Ok(()) | Err(Refusal::Older(_)) => {
                if !holders.contains(&node) {
                    holders.push(node);
                }
            }
            Err(refusal) => {
                self.trouble = Some(describe(node, &refusal));
                self.order.retain(|other| *other != node);
                self.ask_more_holders(0, turn);
            }
        }
        self.conclude(turn)
    }

    /// The merged set is held by enough: answer, and mend who is behind or could not vouch.
    fn answer(&mut self, merged: Bytes, repaired: bool, turn: &mut Turn<'_>) -> Progress {
        let set = match codec::decode(&merged) {
            Ok(set) => set,
            Err(error) => {
                self.trouble = Some(error.to_string());
                return self.give_up(turn);
            }
        };
        let now = turn.now.instant;
        turn.shared.large_sets.note(&self.stored_key, &set, now);
        if let Origin::Client { .. } = self.origin {
            turn.shared.slow_keys.note(&self.stored_key, false, self.began, now);
        }
        let got = Got {
            time: HybridTime::ZERO,
            siblings: live_siblings(&set, &self.values, turn.judging_time()),
            context: turn.seal_context(&self.stored_key, set.vector()),
            answered: u8::try_from(self.sources.len()).unwrap_or(u8::MAX),
            repaired,
        };
        turn.reply(self.origin, got.into());
        self.phase = Phase::Lingering { merged };
        self.deadline = self.deadline.min(turn.instant().plus_ms(LINGER_MS));
        self.patience_ends = self.deadline;
        for (node, set) in std::mem::take(&mut self.answers) {
            self.take_straggler(node, set, turn);
        }
        self.linger_on(turn)
    }

    /// An answer came too late to be waited for: whoever is behind is mended.
    fn take_straggler(&mut self, node: NodeId, set: Bytes, turn: &mut Turn<'_>) {
        let Phase::Lingering { merged } = &self.phase else {
            unreachable!("before the answer nobody is late");
        };
        if !codec::has_same_pairs(merged, &set) {
            let before = merged.clone();
            let Ok(both) = self.merge(&[(node, before.clone()), (node, set.clone())]) else {
                return;
            };
            if self.missing(&both).is_some() {
                // A value that only the late one has is not read again for this.
                return;
            }
            let behind = if codec::has_same_pairs(&both, &before) {
                Vec::new()
            } else {
                self.sources.clone()
            };
            let late = (!codec::has_same_pairs(&both, &set)).then_some(node);
            for (behind, has) in
                behind.into_iter().map(|node| (node, &before)).chain(late.map(|node| (node, &set)))
            {
                turn.shared.counters.background_repairs += 1;
                let values = self.lacked(&both, has);
                self.send_merge(behind, both.clone(), values, false, turn);
            }
            self.phase = Phase::Lingering { merged: both };
        }
        self.sources.push(node);
    }

    fn linger_on(&mut self, turn: &mut Turn<'_>) -> Progress {
        self.rebuild_unreadable(turn);
        if turn.instant() < self.deadline && self.tally.has_waiting() {
            return Progress::Continue;
        }
        self.heal_later(turn);
        Progress::Done
    }

    /// What enough answers together say of a key is all that was acknowledged: those that could not
    /// vouch for it can again.
    fn rebuild_unreadable(&mut self, turn: &mut Turn<'_>) {
        let Phase::Lingering { merged } = &self.phase else { return };
        let primaries = self.sources.iter().filter(|node| !self.tally.is_fallback(**node));
        if primaries.count() < usize::from(self.rebuild_required) {
            return;
        }
        let merged = merged.clone();
        for node in std::mem::take(&mut self.unreadable) {
            if turn.is_reachable(node) {
                turn.shared.counters.rebuilds += 1;
                let values = self.lacked(&merged, &Bytes::new());
                self.send_merge(node, merged.clone(), values, true, turn);
            }
        }
    }

    /// Too few were read to rebuild the key at a replica: the node reads more of its own accord.
    fn heal_later(&mut self, turn: &mut Turn<'_>) {
        if !self.heals() {
            for node in std::mem::take(&mut self.unreadable) {
                turn.heal(self.place, self.key.clone(), node);
            }
        }
    }

    /// The connection to a peer is gone.
    pub(crate) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) -> Progress {
        if self.tally.is_waiting(node) {
            self.trouble = Some(format!("the connection to {node} was lost"));
            self.tally.refuse(node);
            if matches!(self.phase, Phase::Collecting) {
                self.ask_next(turn);
            }
        }
        if let Phase::Fetching { from } = self.phase
            && from == Some(node)
        {
            self.fetched_in_vain.push(node);
            return self.evaluate(turn);
        }
        if let Phase::WritingBack { asked, .. } = &mut self.phase
            && asked.contains(&node)
        {
            asked.retain(|other| *other != node);
            self.order.retain(|other| *other != node);
            self.ask_more_holders(0, turn);
        }
        self.conclude(turn)
    }

    /// Patience or time has run out.
    pub(crate) fn on_wake(&mut self, turn: &mut Turn<'_>) -> Progress {
        if turn.instant() >= self.deadline {
            return match self.phase {
                Phase::Lingering { .. } => self.linger_on(turn),
                Phase::Collecting | Phase::Fetching { .. } | Phase::WritingBack { .. } => {
                    self.give_up(turn)
                }
            };
        }
        if turn.instant() >= self.patience_ends {
            self.patience_ends = self.deadline;
            turn.shared.counters.impatient_reads += 1;
            let most = self.began.plus_ms(turn.shared.config.read_patience_ms);
            match &mut self.phase {
                // One is slow more often than several are.
                Phase::Collecting | Phase::Fetching { .. } if turn.instant() < most => {
                    self.ask_next(turn);
                    self.patience_ends = most;
                }
                Phase::Collecting | Phase::Fetching { .. } => while self.ask_next(turn) {},
                Phase::WritingBack { asked, .. } => {
                    let slow = asked.len();
                    self.ask_more_holders(slow, turn);
                }
                Phase::Lingering { .. } => {}
            }
        }
        self.conclude(turn)
    }

    fn give_up(&mut self, turn: &mut Turn<'_>) -> Progress {
        let (answered, required) = (self.tally.counted(), self.tally.required());
        let late = turn.instant() >= self.deadline;
        let default = if late { "time ran out" } else { "others cannot be reached" };
        let trouble = self.trouble.take().unwrap_or_else(|| default.to_owned());
        let what = match self.phase {
            Phase::Collecting => "answered the read",
            Phase::Fetching { .. } => "answered the read, but a value did not come",
            Phase::WritingBack { .. } | Phase::Lingering { .. } => {
                "answered the read, but differed, and too few could be repaired"
            }
        };
        let failure = Failure {
            answered: u8::try_from(answered).unwrap_or(u8::MAX),
            required: u8::try_from(required).unwrap_or(u8::MAX),
            ..not_done(
                FailureCode::Unavailable,
                format!(
                    "{answered} of {required} replicas {what} ({trouble}); nothing was changed"
                ),
            )
        };
        turn.refuse(self.origin, failure);
        self.heal_later(turn);
        Progress::Done
    }
}
