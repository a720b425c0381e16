//! Reading everything, to know again what only damaged files told.

use bytes::Bytes;
use quoit_ring::HybridTime;

use crate::codec;
use crate::digest::{self, Digests};
use crate::engine::Engine;
use crate::layout::{StoredKey, leaf_range};
use crate::stored::{Era, Stored};
use crate::version::SiblingSet;

/// What cannot be read may be of a later era than all that can, but hardly by so many.
pub(super) const ERAS_BEHIND_DAMAGE: u32 = 1 << 16;

/// What all that can be read comes to.
pub(super) struct Scanned {
    pub(super) digests: Digests,
    pub(super) greatest_time: HybridTime,
    /// No record is of a later era.
    pub(super) greatest_era: Era,
}

/// Reads all that the tables hold. What cannot be read is left out.
pub(super) fn scan(engine: &dyn Engine) -> Scanned {
    scan_range(engine, &[], None)
}

/// Reads what the tables hold from `from` (included) up to `to` (excluded).
pub(super) fn scan_range(engine: &dyn Engine, from: &[u8], to: Option<&[u8]>) -> Scanned {
    let mut scanned = Scanned {
        digests: Digests::default(),
        greatest_time: HybridTime::ZERO,
        greatest_era: Era(0),
    };
    let mut unreadable = false;
    let mut from = Bytes::copy_from_slice(from);
    loop {
        let mut failed = false;
        engine.scan(&from.clone(), to, &mut |entry| {
            let Ok((bytes, sealed)) = entry else {
                failed = true;
                return false;
            };
            from = [&bytes[..], &[0]].concat().into();
            unreadable |= scanned.add(bytes, &sealed).is_none();
            true
        });
        unreadable |= failed;
        let next = failed.then(|| after_damage(&from)).flatten();
        match next.filter(|next| to.is_none_or(|to| next[..] < *to)) {
            Some(next) => from = next,
            None => break,
        }
    }
    if unreadable {
        scanned.greatest_era.0 += ERAS_BEHIND_DAMAGE;
    }
    scanned
}

impl Scanned {
    fn add(&mut self, bytes: Bytes, sealed: &Bytes) -> Option<()> {
        let key = StoredKey::from_bytes(bytes).ok()?;
        if key.is_apart() {
            // Its set tells of it.
            return Some(());
        }
        let Stored { standing, set } = Stored::open(key.bytes(), sealed).ok()?;
        let set = codec::decode(&set).ok()?;
        self.greatest_era = self.greatest_era.max(standing.era);
        self.greatest_time = self.greatest_time.max(set.vector().greatest());
        let mut delta = digest::delta(&key, &SiblingSet::default(), &set);
        if standing.incomplete {
            delta.stays ^= digest::mark_digest(&key);
        }
        self.digests.apply(&key, standing.replication, &delta);
        Some(())
    }
}

/// Where to go on after damage at or after `from`: the next digest leaf's first key.
pub(super) fn after_damage(from: &[u8]) -> Option<Bytes> {
    let mut leaf = [0; 2];
    let known = from.len().min(2);
    leaf[..known].copy_from_slice(&from[..known]);
    leaf_range(usize::from(u16::from_be_bytes(leaf))).1
}
