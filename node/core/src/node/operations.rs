//! The operations under way, and when each wants to be woken.

use std::collections::{BTreeMap, BTreeSet};

use quoit_ring::{HybridTime, NodeId};

use crate::coordinator::forward::ForwardOperation;
use crate::coordinator::read::ReadOperation;
use crate::coordinator::scan::ScanOperation;
use crate::coordinator::write::{Progress, WriteOperation};
use crate::operation::OperationId;
use crate::replica::ReplicaAnswer;
use crate::time::Instant;
use crate::turn::Turn;

/// An operation on its way.
pub(super) enum Operation {
    Write(Box<WriteOperation>),
    Read(Box<ReadOperation>),
    Scan(Box<ScanOperation>),
    Forward(ForwardOperation),
}

impl Operation {
    fn wake(&self) -> Instant {
        match self {
            Self::Write(write) => write.wake(),
            Self::Read(read) => read.wake(),
            Self::Scan(scan) => scan.wake(),
            Self::Forward(forward) => forward.wake(),
        }
    }

    pub(super) fn on_answer(
        &mut self,
        from: NodeId,
        slot: u16,
        answer: ReplicaAnswer,
        turn: &mut Turn<'_>,
    ) -> Progress {
        match self {
            Self::Write(write) => write.on_answer(from, slot, answer, turn),
            Self::Read(read) => read.on_answer(from, slot, answer, turn),
            Self::Scan(scan) => scan.on_answer(from, slot, answer, turn),
            Self::Forward(_) => Progress::Continue,
        }
    }

    pub(super) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) -> Progress {
        match self {
            Self::Write(write) => write.on_peer_lost(node, turn),
            Self::Read(read) => read.on_peer_lost(node, turn),
            Self::Scan(scan) => scan.on_peer_lost(node, turn),
            Self::Forward(forward) => forward.on_peer_lost(node, turn),
        }
    }

    pub(super) fn on_wake(&mut self, turn: &mut Turn<'_>) -> Progress {
        match self {
            Self::Write(write) => write.on_wake(turn),
            Self::Read(read) => read.on_wake(turn),
            Self::Scan(scan) => scan.on_wake(turn),
            Self::Forward(forward) => forward.on_wake(turn),
        }
    }
}

/// The operations under way.
pub(super) struct Operations {
    running: BTreeMap<OperationId, (Operation, Instant)>,
    wakes: BTreeSet<(Instant, OperationId)>,
    next: u64,
}

impl Operations {
    /// None yet. Ids begin at `first`, which must differ from start to start: a peer's answer to a
    /// request of the process before may still come.
    pub(super) fn new(first: u64) -> Self {
        Self { running: BTreeMap::new(), wakes: BTreeSet::new(), next: first }
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn new_id(&mut self) -> OperationId {
        let id = OperationId::new(self.next);
        self.next += 1;
        id
    }

    /// Those under way, in the order in which they began.
    pub(super) fn ids(&self) -> Vec<OperationId> {
        self.running.keys().copied().collect()
    }

    pub(super) fn get_mut(&mut self, id: OperationId) -> Option<&mut Operation> {
        self.running.get_mut(&id).map(|(operation, _)| operation)
    }

    pub(super) fn keep(&mut self, id: OperationId, operation: Operation) {
        let wake = operation.wake();
        self.wakes.insert((wake, id));
        self.running.insert(id, (operation, wake));
    }

    /// Lets an operation make a step. If it has ended by that, it is given back.
    pub(super) fn step(
        &mut self,
        id: OperationId,
        turn: &mut Turn<'_>,
        step: impl FnOnce(&mut Operation, &mut Turn<'_>) -> Progress,
    ) -> Option<Operation> {
        let (operation, wake) = self.running.get_mut(&id)?;
        let progress = step(operation, turn);
        let (before, after) = (*wake, operation.wake());
        if progress == Progress::Continue && before == after {
            return None;
        }
        assert!(self.wakes.remove(&(before, id)), "every operation is woken at its time");
        match progress {
            Progress::Continue => {
                *wake = after;
                self.wakes.insert((after, id));
                None
            }
            Progress::Done => self.running.remove(&id).map(|(operation, _)| operation),
        }
    }

    /// The oldest dot of this node that a write is under way with.
    pub(super) fn oldest_dot(&self) -> Option<HybridTime> {
        let dots = self.running.values().filter_map(|(operation, _)| match operation {
            Operation::Write(write) => write.dot_time(),
            Operation::Read(_) | Operation::Scan(_) | Operation::Forward(_) => None,
        });
        dots.min()
    }

    /// When the next one wants to be woken.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// One that wants to be woken by `now`.
    pub(super) fn due(&self, now: Instant) -> Option<OperationId> {
        self.wakes.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }
}
