//! Writes that came with an id: a client that sends one again to its first coordinator gets the
//! first one's outcome. Bounded: the oldest are forgotten.

use std::collections::BTreeMap;
use std::hash::Hasher;

use quoit_protocol::{Write, WriteId, Written};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::operation::OperationId;

/// The id under which a write is remembered: the client's, bound to what is written. Another write
/// under the same id (from a session that draws the same numbers) is not taken for this one.
pub(super) fn id_of(write: &Write) -> Option<WriteId> {
    let id = write.write_id?;
    let mut hasher = SipHasher13::new_with_keys(id.0, id.1);
    let mut add = |bytes: &[u8]| {
        hasher.write_u64(bytes.len() as u64);
        hasher.write(bytes);
    };
    add(&write.head.table.0.to_le_bytes());
    add(&write.key.partition);
    add(&write.key.sort);
    add(&write.context);
    add(&write.ttl_ms.unwrap_or_default().to_le_bytes());
    add(&[u8::from(write.value.is_some())]);
    add(&write.checksum.to_le_bytes());
    let hash = hasher.finish128();
    Some(WriteId(hash.h1, hash.h2))
}

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

    #[test]
    fn another_write_under_the_same_id_is_not_the_same_write() {
        let write = |partition: &'static [u8], checksum| Write {
            head: quoit_protocol::Head {
                table: quoit_ring::TableId(1),
                vnode: quoit_ring::VnodeIndex(0),
                configuration: quoit_ring::ConfigurationNumber(1),
                time: quoit_ring::HybridTime::ZERO,
                deadline_ms: 1_000,
                level: None,
                trace: None,
            },
            key: quoit_protocol::Key { partition: partition.into(), sort: Default::default() },
            value: Some(b"value"[..].into()),
            checksum,
            context: Default::default(),
            ttl_ms: None,
            write_id: Some(WriteId(1, 2)),
        };
        assert_eq!(id_of(&write(b"k", 7)), id_of(&write(b"k", 7)));
        assert_ne!(id_of(&write(b"k", 7)), id_of(&write(b"l", 7)));
        assert_ne!(id_of(&write(b"k", 7)), id_of(&write(b"k", 8)));
    }
}
