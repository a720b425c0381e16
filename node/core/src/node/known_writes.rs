//! Writes that came with an id: a client that sends one again to its first coordinator gets the
//! first one's outcome. Bounded: the oldest are forgotten.

use std::collections::BTreeMap;

use quoit_protocol::{WriteId, Written};

use crate::operation::OperationId;

/// What is known of a write with an id.
#[derive(Debug, Clone)]
pub(super) enum KnownWrite {
    /// It is on its way.
    Running(OperationId),
    /// It was acknowledged. A write that ended otherwise is forgotten: sent again, it is tried
    /// again.
    Done(Written),
}

/// The writes that are remembered.
pub(super) struct KnownWrites {
    writes: BTreeMap<WriteId, (u64, KnownWrite)>,
    /// By age.
    order: BTreeMap<u64, WriteId>,
    next_age: u64,
    writes_max: usize,
}

impl KnownWrites {
    /// Remembers at most `writes_max`.
    pub(super) fn new(writes_max: usize) -> Self {
        Self { writes: BTreeMap::new(), order: BTreeMap::new(), next_age: 0, writes_max }
    }

    /// What is known of a write.
    pub(super) fn get(&self, id: WriteId) -> Option<&KnownWrite> {
        self.writes.get(&id).map(|(_, known)| known)
    }

    /// Remembers a write, in place of what was known of it.
    pub(super) fn remember(&mut self, id: WriteId, known: KnownWrite) {
        self.forget(id);
        self.writes.insert(id, (self.next_age, known));
        self.order.insert(self.next_age, id);
        self.next_age += 1;
        while self.order.len() > self.writes_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.writes.remove(&oldest);
        }
    }

    /// Forgets a write.
    pub(super) fn forget(&mut self, id: WriteId) {
        if let Some((age, _)) = self.writes.remove(&id) {
            self.order.remove(&age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_first() {
        let mut known = KnownWrites::new(2);
        for number in 1..=3 {
            known.remember(WriteId(0, number), KnownWrite::Running(OperationId::new(number)));
        }
        assert!(known.get(WriteId(0, 1)).is_none());
        assert!(known.get(WriteId(0, 2)).is_some());
        known.remember(WriteId(0, 2), KnownWrite::Running(OperationId::new(9)));
        known.remember(WriteId(0, 4), KnownWrite::Running(OperationId::new(4)));
        assert!(known.get(WriteId(0, 3)).is_none(), "the second was remembered anew");
        assert!(matches!(
            known.get(WriteId(0, 2)),
            Some(KnownWrite::Running(id)) if *id == OperationId::new(9)
        ));
        known.forget(WriteId(0, 2));
        assert!(known.get(WriteId(0, 2)).is_none());
    }
}
