//! What is left of writes that have ended: primaries that have not acknowledged them yet. Whoever does
//! not is noted as missing the write, once it is durable here (see [`crate::repair::hints`]).

use std::collections::{BTreeMap, BTreeSet};

use quoit_ring::NodeId;
use quoit_storage::layout::StoredKey;

use crate::operation::OperationId;
use crate::peer::Refusal;
use crate::replica::ReplicaAnswer;
use crate::time::Instant;
use crate::turn::Turn;

/// A write that has ended for its client.
#[derive(Debug)]
pub(crate) struct Trail {
    pub(crate) id: OperationId,
    /// Answers to the rounds before say nothing of this one's dot.
    pub(crate) round: u8,
    pub(crate) deadline: Instant,
    pub(crate) key: StoredKey,
    /// Whether the write is durable here; until then nobody is noted.
    pub(crate) is_durable: bool,
    /// Who may acknowledge it still, this node among them.
    pub(crate) waiting: Vec<NodeId>,
    /// Who will not.
    pub(crate) missed: Vec<NodeId>,
}

/// The writes that have ended and are not acknowledged by all.
pub(crate) struct Trailing {
    trails: BTreeMap<OperationId, Trail>,
    wakes: BTreeSet<(Instant, OperationId)>,
    count_max: usize,
}

impl Trail {
    fn note_missed(&mut self, turn: &mut Turn<'_>) {
        if self.is_durable {
            for node in self.missed.drain(..) {
                turn.note_hint(node, &self.key);
            }
        }
    }

    /// Nobody is waited for any more.
    fn give_up(mut self, turn: &mut Turn<'_>) {
        let own = turn.own();
        self.missed.extend(self.waiting.drain(..).filter(|node| *node != own));
        self.note_missed(turn);
    }
}

impl Trailing {
    /// At most `count_max` writes are kept: of more, whoever has not acknowledged them has missed them.
    pub(crate) fn new(count_max: usize) -> Self {
        Self { trails: BTreeMap::new(), wakes: BTreeSet::new(), count_max }
    }

    /// When [`Trailing::on_time`] is to be called.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Keeps what is left of a write.
    pub(crate) fn keep(&mut self, mut trail: Trail, turn: &mut Turn<'_>) {
        trail.note_missed(turn);
        if trail.waiting.is_empty() {
            return;
        }
        if self.trails.len() >= self.count_max || trail.deadline <= turn.instant() {
            return trail.give_up(turn);
        }
        self.wakes.insert((trail.deadline, trail.id));
        self.trails.insert(trail.id, trail);
    }

    /// A replica, this node's own among them, has answered a write that has ended.
    pub(crate) fn on_answer(
        &mut self,
        (id, slot): (OperationId, u16),
        from: NodeId,
        answer: &ReplicaAnswer,
        turn: &mut Turn<'_>,
    ) {
        let Some(trail) = self.trails.get_mut(&id) else { return };
        let ReplicaAnswer::Merge(merged) = answer else { return };
        let Some(at) = trail.waiting.iter().position(|node| *node == from) else { return };
        if slot >> 8 != u16::from(trail.round) {
            return;
        }
        trail.waiting.swap_remove(at);
        // One that holds a later dot of a `latest` table needs no earlier one.
        let is_there = matches!(merged, Ok(()) | Err(Refusal::Older(_)));
        if from == turn.own() {
            trail.is_durable = is_there;
            if !is_there {
                self.forget(id);
                return;
            }
        } else if !is_there {
            trail.missed.push(from);
        }
        trail.note_missed(turn);
        if trail.waiting.is_empty() {
            self.forget(id);
        }
    }

    /// The connection to a peer is gone: what it was sent may or may not be done.
    pub(crate) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) {
        let mut ended = Vec::new();
        for trail in self.trails.values_mut() {
            if let Some(at) = trail.waiting.iter().position(|waiting| *waiting == node) {
                trail.waiting.swap_remove(at);
                trail.missed.push(node);
                trail.note_missed(turn);
                if trail.waiting.is_empty() {
                    ended.push(trail.id);
                }
            }
        }
        for id in ended {
            self.forget(id);
        }
    }

    /// Whoever has not answered by now has missed the write.
    pub(crate) fn on_time(&mut self, turn: &mut Turn<'_>) {
        while let Some((at, id)) = self.wakes.first().copied()
            && at <= turn.instant()
        {
            if let Some(trail) = self.forget(id) {
                trail.give_up(turn);
            }
        }
    }

    fn forget(&mut self, id: OperationId) -> Option<Trail> {
        let trail = self.trails.remove(&id)?;
        self.wakes.remove(&(trail.deadline, id));
        Some(trail)
    }
}
