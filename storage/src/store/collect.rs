//! Finding what may be collected under a floor: the digests know which leaves hold such pairs, and
//! how many, so that no other leaf is looked at. Each step is bounded; the writer goes through them
//! between its batches. What is found is taken out by [`Change::Collect`](super::Change::Collect), one
//! key at a time and in order with all other mutations.

use bytes::Bytes;
use quoit_ring::{HybridTime, VnodeIndex};

use super::Writer;
use crate::codec;
use crate::digest::{leaf_of, leaves_of};
use crate::engine::EngineError;
use crate::layout::{StoredKey, leaf_range};
use crate::stored::Stored;

/// A step looks at so many entries at most.
const ENTRIES_MAX: usize = 512;
/// And once it has looked at so many bytes, at no more.
const BYTES_MAX: usize = 1 << 20;

/// Keys that hold something which may be collected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collectible {
    /// The keys, ascending, each with its table's replication factor.
    pub keys: Vec<(StoredKey, u8)>,
    /// Where the next step goes on; `None` at the virtual node's end.
    pub next: Option<Bytes>,
}

/// One step's bounds and what it has found.
struct Step {
    floor: HybridTime,
    keys_max: usize,
    entries: usize,
    bytes: usize,
    found: Collectible,
}

impl Writer {
    /// Lists keys of a virtual node that hold something which may be collected under its floor, from
    /// `from` on (nothing: from the beginning), at most `keys_max` (and at least one) of them. What
    /// was prepared and not committed does not count.
    ///
    /// Keys that are incomplete are left out, and nothing is listed of a virtual node that is
    /// distrusted: nobody knows what their tombstones cover. What cannot be read is left out as well.
    ///
    /// # Errors
    /// The tables cannot be read for now.
    pub fn collectible(
        &self,
        vnode: VnodeIndex,
        from: &[u8],
        keys_max: usize,
    ) -> Result<Collectible, EngineError> {
        let floor = self.vnodes.floor(vnode);
        let nothing = Collectible::default();
        let vnodes = self.options.vnodes;
        if vnode.0 >= vnodes.get() || floor == HybridTime::ZERO || self.vnodes.is_distrusted(vnode)
        {
            return Ok(nothing);
        }
        let (entries, bytes) = (0, 0);
        let mut step = Step { floor, keys_max: keys_max.max(1), entries, bytes, found: nothing };
        for (leaf, pairs) in self.digests.going(leaves_of(vnodes, vnode), floor) {
            let (first, end) = leaf_range(leaf);
            if end.as_ref().is_some_and(|end| from >= &end[..]) {
                continue;
            }
            let first = first.max(Bytes::copy_from_slice(from));
            self.look_through(leaf, first, end, pairs, &mut step)?;
            if step.found.next.is_some() {
                break;
            }
        }
        Ok(step.found)
    }

    /// Looks through a leaf until all its pairs that go are found or the step ends.
    fn look_through(
        &self,
        leaf: usize,
        first: Bytes,
        end: Option<Bytes>,
        pairs: u64,
        step: &mut Step,
    ) -> Result<(), EngineError> {
        let (mut left, mut failed) = (pairs, None);
        self.engine.scan(&first, end.as_deref(), &mut |entry| {
            let (key, sealed) = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            if left == 0 {
                return false;
            }
            if step.is_over() {
                step.found.next = Some(key);
                return false;
            }
            step.entries += 1;
            step.bytes += sealed.len();
            if let Some((key, replication, going)) = step.going(key, &sealed) {
                assert_eq!(leaf_of(key.token()), leaf, "a leaf is one range of keys");
                left = left.saturating_sub(going);
                step.found.keys.push((key, replication));
            }
            true
        });
        match failed {
            // The leaf's other keys are found when this one is mended.
            None | Some(EngineError::Damaged(_)) => Ok(()),
            Some(error @ EngineError::Io(_)) => Err(error),
        }
    }
}

impl Step {
    fn is_over(&self) -> bool {
        self.found.keys.len() >= self.keys_max
            || self.entries >= ENTRIES_MAX
            || self.bytes >= BYTES_MAX
    }

    /// How many pairs of an entry go, if any does and the key is complete.
    fn going(&self, key: Bytes, sealed: &Bytes) -> Option<(StoredKey, u8, u64)> {
        let key = StoredKey::from_bytes(key).ok().filter(|key| !key.is_apart())?;
        let Stored { standing, set } = Stored::open(key.bytes(), sealed).ok()?;
        let set = codec::decode(&set).ok().filter(|_| !standing.incomplete)?;
        let going = set.count_going(self.floor);
        (going > 0).then_some((key, standing.replication, going))
    }
}
