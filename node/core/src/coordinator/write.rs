//! Coordinating a write: one dot, merged into W primaries (Dynamo, sections 4.4 and 4.5).
//!
//! In a `siblings` table this replica merges first, since the new set rests on what it holds; its
//! merged set goes to the other primaries at once, while its own log is still being synced. In a
//! `latest` table the set is known from the start and goes to all primaries together; one that
//! holds a greater dot answers `Older`, and the write is sent again under a dot above that.
//!
//! In a sloppy table each primary that cannot be reached, refuses, or does not answer for a while is stood
//! in for by the next fallback of the preference list, which keeps the write for it (section 4.6). Where
//! no primary can be reached at all a fallback coordinates, in the place of the first.

use bytes::Bytes;
use quoit_protocol::{Failure, FailureCode, Key, WriteId, Written};
use quoit_ring::{ConflictPolicy, HybridTime, NodeId};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::planted::{PlantedBug, is_planted};
use quoit_storage::store::{Change, Mutation, Outcome, StandIn};
use quoit_storage::version::{ApartValue, Content, Dot, SiblingSet, Version, VersionVector};

use super::SET_BYTES_MAX;
use super::trailing::Trail;
use crate::event::{StorageRequest, Tag};
use crate::operation::{OperationId, Origin, Place, not_done};
use crate::peer::{PeerMerge, PeerRead, Refusal, WireSet, WireValue, wire_values};
use crate::quorum::Tally;
use crate::replica::{self, ReplicaAnswer, ReplicaRequest};
use crate::time::Instant;
use crate::turn::Turn;

/// A write is sent under at most so many dots; concurrent writers of one key outbid each other no
/// longer than that.
const ROUNDS_MAX: u8 = 32;

/// Whether an operation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Continue,
    Done,
}

/// At most so many clients wait for one write that was sent again.
const ORIGINS_MAX: usize = 16;

/// A write on its way.
#[derive(Debug)]
pub(crate) struct WriteOperation {
    id: OperationId,
    /// Who waits: more than one where a write was sent again under its id.
    origins: Vec<Origin>,
    pub(crate) write_id: Option<WriteId>,
    began: Instant,
    deadline: Instant,
    /// When primaries that have not answered are stood in for, in a sloppy table.
    patience_ends: Instant,
    place: Place,
    policy: ConflictPolicy,
    key: Key,
    stored_key: StoredKey,
    content: Content,
    /// The value's bytes, where they lie apart.
    apart: Option<Bytes>,
    ttl_ms: Option<u64>,
    context: VersionVector,
    tally: Tally,
    round: u8,
    /// This round's.
    dot: Option<Dot>,
    /// The set that was handed out, in a sloppy table.
    sent: Option<Bytes>,
    /// Who lacks earlier values that the set speaks of: they are read here and sent, once.
    lacking: Vec<NodeId>,
    helped: Vec<NodeId>,
    /// What the writer has seen once this round's set is acknowledged; `None` until that is known.
    seen: Option<VersionVector>,
    /// The next dot cannot be made before the clock's lease is longer.
    waits_for_lease: bool,
    /// Whether anything was handed to a storage worker or a peer.
    handed: bool,
    /// What went wrong last, for people.
    trouble: Option<String>,
    /// The good end, for those who send the write again.
    pub(crate) written: Option<Written>,
}

/// What a write is made of.
pub(crate) struct WriteParts {
    pub(crate) id: OperationId,
    pub(crate) origin: Origin,
    pub(crate) write_id: Option<WriteId>,
    pub(crate) deadline: Instant,
    pub(crate) place: Place,
    pub(crate) policy: ConflictPolicy,
    pub(crate) key: Key,
    pub(crate) stored_key: StoredKey,
    pub(crate) content: Content,
    pub(crate) apart: Option<Bytes>,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) context: VersionVector,
    pub(crate) tally: Tally,
}

impl WriteOperation {
    /// Begins a write that was checked already.
    ///
    /// # Errors
    /// What the client is told; nothing was handed to anybody.
    pub(crate) fn begin(parts: WriteParts, turn: &mut Turn<'_>) -> Result<Self, Failure> {
        let mut write = Self {
            id: parts.id,
            origins: vec![parts.origin],
            write_id: parts.write_id,
            began: turn.instant(),
            deadline: parts.deadline,
            patience_ends: parts.deadline,
            place: parts.place,
            policy: parts.policy,
            key: parts.key,
            stored_key: parts.stored_key,
            content: parts.content,
            apart: parts.apart,
            ttl_ms: parts.ttl_ms,
            context: parts.context,
            tally: parts.tally,
            round: 0,
            dot: None,
            sent: None,
            lacking: Vec::new(),
            helped: Vec::new(),
            seen: None,
            waits_for_lease: false,
            handed: false,
            trouble: None,
            written: None,
        };
        if write.tally.is_sloppy() {
            write.patience_ends = turn.instant().plus_ms(turn.shared.config.read_patience_ms);
        }
        write.begin_round(turn)?;
        Ok(write)
    }

    /// The time of the dot under which the write is handed out now.
    pub(crate) fn dot_time(&self) -> Option<HybridTime> {
        self.dot.map(|dot| dot.time)
    }

    /// What is left of it now that it has ended: who has not acknowledged it. `None` where nobody was
    /// sent it, and where this node is none of the key's primaries: it has nothing to bring to them.
    pub(crate) fn trail(&self, own: NodeId) -> Option<Trail> {
        self.seen.as_ref().filter(|_| !self.tally.is_fallback(own))?;
        let is_stood_in = |node: &NodeId| self.tally.is_stood_in(*node, false);
        let others = || self.tally.primaries().filter(|node| *node != own && !is_stood_in(node));
        let waiting = |node: &NodeId| self.tally.is_waiting(*node);
        let missed = |node: &NodeId| !waiting(node) && !self.tally.has_counted(*node);
        let missed: Vec<NodeId> = others().filter(missed).collect();
        let waiting_own = [own].into_iter().filter(waiting);
        let waiting: Vec<NodeId> = waiting_own.chain(others().filter(waiting)).collect();
        let is_durable = self.tally.has_counted(own);
        let is_lost = !is_durable && !waiting.contains(&own);
        let is_all = missed.is_empty() && waiting.is_empty();
        (!is_lost && !is_all).then(|| Trail {
            id: self.id,
            round: self.round,
            deadline: self.deadline,
            key: self.stored_key.clone(),
            is_durable,
            waiting,
            missed,
        })
    }

    /// When [`WriteOperation::on_wake`] is to be called.
    pub(crate) fn wake(&self) -> Instant {
        self.patience_ends.min(self.deadline)
    }

    /// Another client, or the same again, waits for this write.
    pub(crate) fn join(&mut self, origin: Origin, turn: &mut Turn<'_>) {
        if self.origins.len() < ORIGINS_MAX {
            self.origins.push(origin);
        } else {
            // The write itself may well be done.
            let failure = Failure {
                unknown: true,
                ..not_done(FailureCode::Overloaded, "too many wait for this write already")
            };
            turn.refuse(origin, failure);
        }
    }

    /// Draws a dot and hands the write out under it.
    fn begin_round(&mut self, turn: &mut Turn<'_>) -> Result<(), Failure> {
        let own = turn.own();
        let dot = match self.tally.is_fallback(own) {
            true => turn.dot_of_stranger(self.place.vnode)?,
            false => turn.dot(self.place.vnode)?,
        };
        if self.tally.is_fallback(own) {
            let missed = self.tally.primaries().find(|node| !turn.is_reachable(*node));
            if let Some(primary) = missed.or_else(|| self.tally.primaries().next()) {
                self.tally.stand_in(own, primary);
            }
        }
        // Counted from the dot: a clock that others have pushed on must not use up the time.
        let expires = self.ttl_ms.map(|ttl_ms| dot.time.plus_ms(ttl_ms));
        let version = Version { dot, content: self.content.clone(), expires };
        self.handed = true;
        self.dot = Some(dot);
        match self.policy {
            ConflictPolicy::Latest => {
                let set = SiblingSet::of(version);
                self.seen = Some(set.vector().clone());
                let encoded = codec::encode(&set);
                self.merge_here(
                    Change::Merge { set, rebuild: false, authority: None },
                    false,
                    turn,
                );
                self.replicate(&encoded, turn);
            }
            ConflictPolicy::Siblings => {
                self.seen = None;
                let context = self.context.clone();
                self.merge_here(Change::Write { context, version }, true, turn);
            }
        }
        Ok(())
    }

    fn merge_here(&mut self, change: Change, wants_prepared: bool, turn: &mut Turn<'_>) {
        let mutation = Mutation {
            key: self.stored_key.clone(),
            replication: self.place.replication,
            policy: self.policy,
            change,
            values: self.own_value().into_iter().collect(),
        };
        let slot = self.slot(turn.own());
        self.tally.ask(turn.own());
        let request = match self.tally.stands_in_for(turn.own()) {
            Some(primary) => {
                let taken = Box::new(StandIn { primary, time: HybridTime::ZERO, mutation });
                StorageRequest::StandIn { taken, wants_prepared }
            }
            None => StorageRequest::Apply { mutation: Box::new(mutation), wants_prepared },
        };
        turn.ask_storage(Tag::Own(self.id.request(slot)), request, self.deadline);
    }

    /// The value that is written, where it lies apart.
    fn own_value(&self) -> Option<ApartValue> {
        let bytes = self.apart.clone()?;
        self.dot.map(|dot| ApartValue { dot, bytes })
    }

    fn slot(&self, node: NodeId) -> u16 {
        let place = self.tally.slot(node).expect("only nodes of the list are asked");
        u16::from(self.round) << 8 | u16::try_from(place).expect("N has 8 bits")
    }

    /// Sends the set to the other primaries; of the values that lie apart, the new one: the earlier
    /// ones are there already, mostly.
    fn replicate(&mut self, set: &Bytes, turn: &mut Turn<'_>) {
        let own = turn.own();
        let others: Vec<NodeId> = self.tally.primaries().filter(|node| *node != own).collect();
        if self.tally.is_sloppy() {
            self.sent = Some(set.clone());
        }
        for node in others {
            if !turn.is_reachable(node) {
                self.tally.refuse(node);
                continue;
            }
            self.tally.ask(node);
            let merge = self.merge_for(node, set.clone(), wire_values(self.own_value()), turn);
            turn.ask(node, self.id.request(self.slot(node)), ReplicaRequest::Merge(merge));
        }
        self.ask_stand_ins(false, turn);
    }

    fn merge_for(
        &self,
        node: NodeId,
        set: Bytes,
        values: Vec<WireValue>,
        turn: &Turn<'_>,
    ) -> PeerMerge {
        PeerMerge {
            head: self.place.head(turn.time(), turn.instant(), self.deadline),
            key: self.key.clone(),
            set,
            rebuild: false,
            values,
            stands_in_for: self.tally.stands_in_for(node),
        }
    }

    /// In a sloppy table: sends the set to a fallback for each primary that will not acknowledge it, or
    /// (with `and_slow`) has not yet, and that nobody stands in for.
    fn ask_stand_ins(&mut self, and_slow: bool, turn: &mut Turn<'_>) {
        let Some(set) = self.sent.clone() else { return };
        let primaries: Vec<NodeId> = self.tally.primaries().collect();
        for primary in primaries {
            let is_missed =
                !self.tally.has_counted(primary) && (and_slow || !self.tally.is_waiting(primary));
            if !is_missed || self.tally.is_stood_in(primary, true) {
                continue;
            }
            while let Some(fallback) = self.tally.unasked_fallback() {
                if !turn.is_reachable(fallback) {
                    self.tally.refuse(fallback);
                    continue;
                }
                self.tally.stand_in(fallback, primary);
                self.tally.ask(fallback);
                turn.shared.counters.stand_ins += 1;
                let values = wire_values(self.own_value());
                let merge = self.merge_for(fallback, set.clone(), values, turn);
                let request = self.id.request(self.slot(fallback));
                turn.ask(fallback, request, ReplicaRequest::Merge(merge));
                break;
            }
        }
    }

    /// Reads here what others lack, once this replica's own write, and so all that it rests on, is
    /// durable. What is read may be later: then it holds the write, or what has replaced it. Where
    /// the own write came to nothing nobody can be helped.
    fn help(&mut self, turn: &mut Turn<'_>) {
        if self.tally.is_waiting(turn.own()) {
            return;
        }
        let durable = self.tally.has_counted(turn.own());
        for node in std::mem::take(&mut self.lacking) {
            if !durable {
                self.tally.refuse(node);
                continue;
            }
            let head = self.place.head(turn.time(), turn.instant(), self.deadline);
            let read = PeerRead { head, key: self.key.clone(), whole: true };
            let request = self.id.request(self.slot(node));
            turn.ask(turn.own(), request, ReplicaRequest::Read(read));
        }
    }

    /// What a replica lacks has been read here.
    fn on_read(
        &mut self,
        slot: u16,
        read: Result<WireSet, Refusal>,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let Some(node) = self.tally.node(usize::from(slot & 0xff)) else {
            return Progress::Continue;
        };
        if slot >> 8 != u16::from(self.round) || !self.tally.is_waiting(node) {
            return Progress::Continue;
        }
        let has_write = |set: &Bytes| {
            let seen = |dot| codec::decode(set).is_ok_and(|set| set.vector().has_seen(dot));
            self.dot.is_some_and(seen)
        };
        match read {
            Ok((set, values)) if turn.is_current(self.place) && has_write(&set) => {
                let merge = self.merge_for(node, set, values, turn);
                turn.ask(node, self.id.request(slot), ReplicaRequest::Merge(merge));
            }
            Ok(_) => {
                self.trouble = Some("the key or its owners have changed".to_owned());
                self.tally.refuse(node);
            }
            Err(refusal) => {
                self.trouble = Some(describe(turn.own(), &refusal));
                self.tally.refuse(node);
            }
        }
        self.conclude(turn)
    }

    /// This replica has merged the write; the log is being synced.
    pub(crate) fn on_prepared(&mut self, slot: u16, set: Bytes, turn: &mut Turn<'_>) -> Progress {
        if slot >> 8 != u16::from(self.round) {
            return Progress::Continue;
        }
        if set.len() + self.apart.as_ref().map_or(0, Bytes::len) > SET_BYTES_MAX {
            self.trouble = Some("the key's siblings together are too large to be sent".to_owned());
            return self.give_up(turn);
        }
        let merged = codec::decode(&set).expect("this node's storage worker encoded it");
        // If siblings remain that the writer did not read, a context that covers its own dot would
        // claim, by the vector's nature, earlier dots of the same actor as well: so it gets back
        // what it came with, and reads before it resolves them.
        turn.shared.large_sets.note(&self.stored_key, &merged, turn.now.instant);
        let alone = merged.versions().len() == 1;
        self.seen = Some(if alone { merged.vector().clone() } else { self.context.clone() });
        if is_planted(PlantedBug::SendOnlyNew) {
            let dot = merged.versions().iter().find(|version| Some(version.dot) == self.dot);
            let alone = codec::encode(&SiblingSet::of(dot.expect("just merged").clone()));
            self.replicate(&alone, turn);
            return self.conclude(turn);
        }
        self.replicate(&set, turn);
        self.conclude(turn)
    }

    /// This replica's own write is durable, or was refused before it was merged.
    pub(crate) fn on_applied(
        &mut self,
        slot: u16,
        outcome: Outcome,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let refused = |code, message: &str| not_done(code, message);
        let failure = match outcome {
            // In a `latest` table a refusal is one replica's trouble; in a `siblings` table nothing
            // was handed to the others yet.
            outcome if self.policy == ConflictPolicy::Latest => {
                let answer = ReplicaAnswer::Merge(replica::merged(outcome));
                return self.on_answer(turn.own(), slot, answer, turn);
            }
            outcome @ (Outcome::Merged(_) | Outcome::Older(_)) => {
                let answer = ReplicaAnswer::Merge(replica::merged(outcome));
                return self.on_answer(turn.own(), slot, answer, turn);
            }
            Outcome::Incomplete => {
                turn.heal(self.place, self.key.clone(), turn.own());
                refused(
                    FailureCode::NotServing,
                    "this replica may have lost writes of the key and does not coordinate it",
                )
            }
            Outcome::TooManySiblings => refused(
                FailureCode::TooManySiblings,
                "the key has as many siblings as it may have: read it, and write with the context",
            ),
            Outcome::TooLarge => refused(
                FailureCode::Invalid,
                "the key's siblings together would be too large: read it, and write with the context",
            ),
            Outcome::Corrupt | Outcome::Lacks => refused(
                FailureCode::Invalid,
                "the value does not have the checksum that came with it: it was damaged on its way",
            ),
            Outcome::Refused(reason) => refused(FailureCode::NotServing, reason),
        };
        self.fail(failure, turn)
    }

    /// A primary has answered.
    pub(crate) fn on_answer(
        &mut self,
        from: NodeId,
        slot: u16,
        answer: ReplicaAnswer,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let merged = match answer {
            ReplicaAnswer::Merge(merged) => merged,
            ReplicaAnswer::Read(read) if from == turn.own() => {
                return self.on_read(slot, read, turn);
            }
            ReplicaAnswer::Read(_) | ReplicaAnswer::Page(_) => return Progress::Continue,
        };
        let expected = self.tally.node(usize::from(slot & 0xff)) == Some(from);
        if !expected || slot >> 8 != u16::from(self.round) {
            return Progress::Continue;
        }
        match merged {
            Ok(()) => {
                self.tally.count(from);
                self.help(turn);
            }
            Err(Refusal::Lacks) if !self.helped.contains(&from) => {
                self.helped.push(from);
                self.lacking.push(from);
                self.help(turn);
            }
            Err(Refusal::Older(time)) => {
                turn.shared.clock.observe(time);
                if self.round < ROUNDS_MAX {
                    return self.next_round(turn);
                }
                self.trouble = Some("other writers of the key were always later".to_owned());
                self.tally.refuse(from);
            }
            Err(refusal) => {
                if refusal == Refusal::Unreadable {
                    turn.heal(self.place, self.key.clone(), from);
                }
                self.trouble = Some(describe(from, &refusal));
                self.tally.refuse(from);
                self.help(turn);
            }
        }
        self.conclude(turn)
    }

    /// Sends the write again under a greater dot; answers to the dot before count no more.
    fn next_round(&mut self, turn: &mut Turn<'_>) -> Progress {
        if !turn.is_current(self.place) {
            self.trouble = Some("the owners of the key have changed".to_owned());
            return self.give_up(turn);
        }
        turn.shared.counters.older += 1;
        self.round += 1;
        self.seen = None;
        self.sent = None;
        if self.tally.is_sloppy() {
            self.patience_ends = turn.instant().plus_ms(turn.shared.config.read_patience_ms);
        }
        self.lacking.clear();
        self.helped.clear();
        self.tally.restart();
        // What was seen may lie beyond the lease: then the write goes on when that is longer.
        self.waits_for_lease = self.begin_round(turn).is_err();
        self.conclude(turn)
    }

    /// Whether [`WriteOperation::on_lease`] is to be called once the lease is longer.
    pub(crate) fn waits_for_lease(&self) -> bool {
        self.waits_for_lease
    }

    /// The clock's lease is longer.
    pub(crate) fn on_lease(&mut self, turn: &mut Turn<'_>) -> Progress {
        if !turn.is_current(self.place) {
            self.trouble = Some("the owners of the key have changed".to_owned());
            return self.give_up(turn);
        }
        self.waits_for_lease = self.begin_round(turn).is_err();
        self.conclude(turn)
    }

    /// The connection to a peer is gone: what it was asked may or may not be done.
    pub(crate) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) -> Progress {
        if self.tally.is_waiting(node) {
            self.trouble = Some(format!("the connection to {node} was lost"));
            self.tally.refuse(node);
        }
        self.conclude(turn)
    }

    /// The deadline has come.
    pub(crate) fn on_wake(&mut self, turn: &mut Turn<'_>) -> Progress {
        if turn.instant() < self.deadline {
            self.patience_ends = self.deadline;
            self.ask_stand_ins(true, turn);
            return self.conclude(turn);
        }
        self.trouble.get_or_insert_with(|| "time ran out".to_owned());
        self.give_up(turn)
    }

    fn conclude(&mut self, turn: &mut Turn<'_>) -> Progress {
        if self.waits_for_lease {
            return Progress::Continue;
        }
        self.ask_stand_ins(false, turn);
        let early = is_planted(PlantedBug::AcknowledgeEarly)
            && self.tally.counted() + 1 >= self.tally.required();
        if (self.tally.is_reached() || early)
            && let (Some(seen), Some(dot)) = (&self.seen, self.dot)
        {
            let written = Written {
                time: HybridTime::ZERO,
                context: turn.seal_context(&self.stored_key, seen),
                dot: (dot.actor.0, dot.time),
                acknowledged: u8::try_from(self.tally.counted()).unwrap_or(u8::MAX),
            };
            for origin in std::mem::take(&mut self.origins) {
                turn.reply(origin, written.clone().into());
            }
            turn.shared.slow_keys.note(&self.stored_key, true, self.began, turn.now.instant);
            self.written = Some(written);
            return Progress::Done;
        }
        // Before the set is known nobody else was asked, so all hangs on this replica.
        let hope = match self.seen {
            None => self.tally.is_waiting(turn.own()),
            Some(_) => self.tally.can_be_reached(),
        };
        if hope { Progress::Continue } else { self.give_up(turn) }
    }

    fn give_up(&mut self, turn: &mut Turn<'_>) -> Progress {
        let (counted, required) = (self.tally.counted(), self.tally.required());
        let trouble =
            self.trouble.take().unwrap_or_else(|| "replicas are not reachable".to_owned());
        let consequence = if self.handed {
            "the outcome is unknown: it may be there now or later; writing it again is safe if it \
             may be written twice"
        } else {
            "nothing was written"
        };
        let failure = Failure {
            unknown: self.handed && !is_planted(PlantedBug::UnknownIsNotDone),
            answered: u8::try_from(counted).unwrap_or(u8::MAX),
            required: u8::try_from(required).unwrap_or(u8::MAX),
            ..not_done(
                FailureCode::Unavailable,
                format!(
                    "{counted} of {required} replicas acknowledged the write ({trouble}); \
                     {consequence}"
                ),
            )
        };
        self.fail(failure, turn)
    }

    fn fail(&mut self, failure: Failure, turn: &mut Turn<'_>) -> Progress {
        for origin in std::mem::take(&mut self.origins) {
            turn.refuse(origin, failure.clone());
        }
        Progress::Done
    }
}

/// A refusal for people.
pub(crate) fn describe(node: NodeId, refusal: &Refusal) -> String {
    match refusal {
        Refusal::WrongConfiguration => format!("{node} follows another cluster record"),
        Refusal::UnknownTable => format!("{node} does not know the table"),
        Refusal::Older(_) => format!("{node} holds a later write"),
        Refusal::Unreadable => format!("{node} cannot vouch for what it holds"),
        Refusal::Lacks => format!("{node} lacks values that were not sent"),
        Refusal::Overloaded => format!("{node} is overloaded"),
        Refusal::Storage(reason) => format!("{node}: {reason}"),
        Refusal::Invalid => format!("{node} took the request for invalid"),
        Refusal::Recovering => {
            format!("{node} does not know yet whether it has lost anything")
        }
    }
}
