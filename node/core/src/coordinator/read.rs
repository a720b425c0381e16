//! Coordinating a read: R primaries' sets, merged; what differs is written back before the answer
//! (Dynamo, section 4.4; Attiya, Bar-Noy and Dolev, 1995, for why the write-back comes first).
//!
//! R primaries are asked; where one is slow, lost, or cannot vouch for the key, the next ones are
//! asked too. A replica that could not vouch for the key is rebuilt from what the others said.

use bytes::Bytes;
use quoit_protocol::{Failure, FailureCode, Got, Key};
use quoit_ring::{ConflictPolicy, HybridTime, NodeId};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::version::SiblingSet;

use super::write::{Progress, describe};
use super::{live_siblings, write_back_count};
use crate::operation::{OperationId, Origin, Place, not_done};
use crate::peer::{PeerMerge, PeerRead, Refusal};
use crate::quorum::Tally;
use crate::replica::{ReplicaAnswer, ReplicaRequest};
use crate::time::Instant;
use crate::turn::Turn;

/// Slots from here on are write-backs; those below are reads.
const WRITE_BACK_SLOT: u16 = 256;
/// After its answer a read waits so long for stragglers, to mend what they are behind.
const LINGER_MS: u64 = 500;

/// A read on its way.
#[derive(Debug)]
pub(crate) struct ReadOperation {
    id: OperationId,
    origin: Origin,
    deadline: Instant,
    /// When more replicas are asked, if those asked are slow.
    patience_ends: Instant,
    place: Place,
    policy: ConflictPolicy,
    key: Key,
    stored_key: StoredKey,
    /// W of the table: says how many other replicas a rebuild must have merged.
    write_required: u8,
    /// In the order in which replicas are asked.
    order: Vec<NodeId>,
    tally: Tally,
    answers: Vec<(NodeId, Bytes)>,
    unreadable: Vec<NodeId>,
    trouble: Option<String>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for R answers.
    Collecting,
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
    pub(crate) write_required: u8,
    pub(crate) tally: Tally,
}

impl ReadOperation {
    /// Begins a read that was checked already.
    pub(crate) fn begin(parts: ReadParts, turn: &mut Turn<'_>) -> (Self, Progress) {
        let order = turn.by_gladness(parts.tally.primaries(), parts.id.0);
        let patience_ends = turn.instant().plus_ms(turn.shared.config.read_patience_ms);
        let mut read = Self {
            id: parts.id,
            origin: parts.origin,
            deadline: parts.deadline,
            patience_ends,
            place: parts.place,
            policy: parts.policy,
            key: parts.key,
            stored_key: parts.stored_key,
            write_required: parts.write_required,
            order,
            tally: parts.tally,
            answers: Vec::with_capacity(2),
            unreadable: Vec::new(),
            trouble: None,
            phase: Phase::Collecting,
        };
        for _ in 0..read.tally.required() {
            read.ask_next(turn);
        }
        let progress = read.conclude(turn);
        (read, progress)
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
        let head = self.place.head(turn.time(), turn.instant(), self.deadline);
        let read = PeerRead { head, key: self.key.clone() };
        self.tally.ask(node);
        let slot = u16::try_from(slot).expect("N has 8 bits");
        turn.ask(node, self.id.request(slot), ReplicaRequest::Read(read));
        true
    }

    /// A replica has answered.
    pub(crate) fn on_answer(
        &mut self,
        slot: u16,
        answer: ReplicaAnswer,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let Some(node) = self.tally.node(usize::from(slot % WRITE_BACK_SLOT)) else {
            return Progress::Continue;
        };
        match answer {
            ReplicaAnswer::Read(found) if slot < WRITE_BACK_SLOT => {
                self.on_found(node, found, turn)
            }
            ReplicaAnswer::Merge(merged) if slot >= WRITE_BACK_SLOT => {
                self.on_written_back(node, merged, turn)
            }
            ReplicaAnswer::Read(_) | ReplicaAnswer::Merge(_) | ReplicaAnswer::Page(_) => {
                Progress::Continue
            }
        }
    }

    fn on_found(
        &mut self,
        node: NodeId,
        found: Result<Bytes, Refusal>,
        turn: &mut Turn<'_>,
    ) -> Progress {
        match found {
            Ok(set) => {
                if !self.tally.count(node) {
                    return Progress::Continue;
                }
                if let Phase::Lingering { merged } = &self.phase {
                    if *merged != set {
                        let merged = merged.clone();
                        turn.shared.counters.background_repairs += 1;
                        self.send_merge(node, merged, false, turn);
                    }
                    return self.linger_on(turn);
                }
                self.answers.push((node, set));
            }
            Err(refusal) => {
                if refusal == Refusal::Unreadable {
                    self.unreadable.push(node);
                }
                self.trouble = Some(describe(node, &refusal));
                self.tally.refuse(node);
                if matches!(self.phase, Phase::Collecting) {
                    self.ask_next(turn);
                }
            }
        }
        self.conclude(turn)
    }

    fn conclude(&mut self, turn: &mut Turn<'_>) -> Progress {
        match &self.phase {
            Phase::Collecting if self.tally.is_reached() => self.evaluate(turn),
            Phase::Collecting if self.tally.can_be_reached() && self.tally.has_waiting() => {
                Progress::Continue
            }
            Phase::Collecting => self.give_up(turn),
            Phase::WritingBack { holders, needed, .. } if holders.len() >= *needed => {
                self.answer(true, turn)
            }
            Phase::WritingBack { asked, .. } if asked.is_empty() => self.give_up(turn),
            Phase::WritingBack { .. } => Progress::Continue,
            Phase::Lingering { .. } => self.linger_on(turn),
        }
    }

    /// R answers are there: merge them, and write back what differs.
    fn evaluate(&mut self, turn: &mut Turn<'_>) -> Progress {
        let first = self.answers[0].1.clone();
        if self.answers.iter().all(|(_, set)| *set == first) {
            self.phase = Phase::WritingBack {
                merged: first,
                holders: Vec::new(),
                asked: Vec::new(),
                needed: 0,
            };
            return self.answer(false, turn);
        }
        let mut merged = SiblingSet::default();
        for (node, set) in &self.answers {
            match codec::decode(set) {
                Ok(set) => merged = merged.merge(&set, self.policy),
                Err(error) => {
                    // The replica's checksum held, so this is a newer program's format or a bug.
                    self.trouble = Some(format!("{node}: {error}"));
                    return self.give_up(turn);
                }
            }
        }
        let merged = codec::encode(&merged);
        let (holders, behind): (Vec<_>, Vec<_>) =
            self.answers.iter().partition(|(_, set)| *set == merged);
        let holders: Vec<NodeId> = holders.into_iter().map(|(node, _)| *node).collect();
        let asked: Vec<NodeId> = behind.into_iter().map(|(node, _)| *node).collect();
        let required = u8::try_from(self.tally.required()).expect("R has 8 bits");
        let needed = write_back_count(self.place.replication, required);
        for &node in &asked {
            self.send_merge(node, merged.clone(), false, turn);
        }
        self.phase = Phase::WritingBack { merged, holders, asked, needed };
        self.ask_more_holders(0, turn);
        self.conclude(turn)
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
            self.send_merge(node, merged, false, turn);
            if let Phase::WritingBack { asked, .. } = &mut self.phase {
                asked.push(node);
            }
        }
    }

    fn send_merge(&self, node: NodeId, set: Bytes, rebuild: bool, turn: &mut Turn<'_>) {
        let slot = u16::try_from(self.tally.slot(node).expect("a node of the list"))
            .expect("N has 8 bits");
        let head = self.place.head(turn.time(), turn.instant(), self.deadline);
        let merge = PeerMerge { head, key: self.key.clone(), set, rebuild };
        turn.ask(node, self.id.request(WRITE_BACK_SLOT + slot), ReplicaRequest::Merge(merge));
    }

    fn on_written_back(
        &mut self,
        node: NodeId,
        merged: Result<(), Refusal>,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let Phase::WritingBack { holders, asked, .. } = &mut self.phase else {
            return Progress::Continue;
        };
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

    /// The merged set is held by enough: answer, and mend who could not vouch for the key.
    fn answer(&mut self, repaired: bool, turn: &mut Turn<'_>) -> Progress {
        let Phase::WritingBack { merged, .. } =
            std::mem::replace(&mut self.phase, Phase::Collecting)
        else {
            unreachable!("only a merged read is answered");
        };
        let set = match codec::decode(&merged) {
            Ok(set) => set,
            Err(error) => {
                self.trouble = Some(error.to_string());
                return self.give_up(turn);
            }
        };
        self.rebuild_unreadable(&set, turn);
        let got = Got {
            time: HybridTime::ZERO,
            siblings: live_siblings(&set, turn.time()),
            context: turn.seal_context(&self.stored_key, set.vector()),
            answered: u8::try_from(self.answers.len()).unwrap_or(u8::MAX),
            repaired,
        };
        turn.reply(self.origin, got.into());
        self.phase = Phase::Lingering { merged };
        self.deadline = self.deadline.min(turn.instant().plus_ms(LINGER_MS));
        self.patience_ends = self.deadline;
        self.linger_on(turn)
    }

    fn linger_on(&self, turn: &Turn<'_>) -> Progress {
        let late = turn.instant() >= self.deadline;
        if !late && self.tally.has_waiting() { Progress::Continue } else { Progress::Done }
    }

    /// What the answers say of a key is all that was acknowledged, if they take in every write
    /// quorum of the other replicas: N - W + 1 of them.
    fn rebuild_unreadable(&self, merged: &SiblingSet, turn: &mut Turn<'_>) {
        let enough = usize::from(self.place.replication - self.write_required + 1);
        if self.unreadable.is_empty() || self.answers.len() < enough {
            return;
        }
        for &node in &self.unreadable {
            turn.shared.counters.rebuilds += 1;
            self.send_merge(node, codec::encode(merged), true, turn);
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
                Phase::Lingering { .. } => Progress::Done,
                Phase::Collecting | Phase::WritingBack { .. } => self.give_up(turn),
            };
        }
        if turn.instant() >= self.patience_ends {
            self.patience_ends = self.deadline;
            turn.shared.counters.impatient_reads += 1;
            match &mut self.phase {
                Phase::Collecting => while self.ask_next(turn) {},
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
        let trouble = self.trouble.take().unwrap_or_else(|| "time ran out".to_owned());
        let what = match self.phase {
            Phase::Collecting => "answered the read",
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
        Progress::Done
    }
}
