//! What a session has seen of a key, so that a later read may be asked for no less.
//!
//! It is read out of contexts, whose layout is:
//! ```text
//! u8 format: 1, or 2 with a base | u64 the base, in format 2 | u16 entries, then for each: u64 actor, u64 time | u64 hash
//! ```
//! (little endian). The hash is the cluster's, and is not looked at here: who asks for more than there
//! is gets no answer, and harms nobody else.

use bytes::{Buf, BufMut, BytesMut};
use quoit_ring::HybridTime;
use serde::{Deserialize, Serialize};

const FORMAT: u8 = 1;
const FORMAT_BASE: u8 = 2;
/// The hash at the end of a context, in bytes.
pub const CONTEXT_HASH_BYTES: usize = 8;
/// The greatest number of entries: as many as a context may have.
const ENTRIES_MAX: usize = u16::MAX as usize;

/// A version vector: for each actor the time up to which its writes were seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Every write at or before this was seen, whoever made it.
    pub base: HybridTime,
    /// Actors and times, ascending by actor, each actor once.
    pub entries: Vec<(u64, HybridTime)>,
}

impl Seen {
    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.base == HybridTime::ZERO && self.entries.is_empty()
    }

    /// What a context speaks of, the hash at its end left unread; `None` where it is none.
    pub fn of_context(context: &[u8]) -> Option<Self> {
        if context.is_empty() {
            return Some(Self::default());
        }
        let end = context.len().checked_sub(CONTEXT_HASH_BYTES)?;
        let mut input = context.get(..end)?;
        let base = match input.try_get_u8().ok()? {
            FORMAT => HybridTime::ZERO,
            FORMAT_BASE => HybridTime(input.try_get_u64_le().ok()?),
            _ => return None,
        };
        let count = usize::from(input.try_get_u16_le().ok()?);
        if input.len() != count * 16 {
            return None;
        }
        let entries = (0..count).map(|_| (input.get_u64_le(), HybridTime(input.get_u64_le())));
        Some(Self { base, entries: entries.collect() })
    }

    /// Appends it as a context has it, without the hash.
    ///
    /// # Panics
    /// With more than 65,535 entries: sets are bounded far below.
    pub fn put(
        base: HybridTime,
        entries: impl ExactSizeIterator<Item = (u64, HybridTime)>,
        out: &mut BytesMut,
    ) {
        if base > HybridTime::ZERO {
            out.put_u8(FORMAT_BASE);
            out.put_u64_le(base.0);
        } else {
            out.put_u8(FORMAT);
        }
        out.put_u16_le(u16::try_from(entries.len()).expect("sets are bounded far below"));
        for (actor, time) in entries {
            out.put_u64_le(actor);
            out.put_u64_le(time.0);
        }
    }

    /// Adds what was seen elsewhere. Beyond the greatest number of entries nothing is added.
    pub fn join(&mut self, other: &Self) {
        self.base = self.base.max(other.base);
        self.entries.retain(|(_, time)| *time > self.base);
        let news = other.entries.iter().filter(|(_, time)| *time > self.base);
        for &(actor, time) in news {
            match self.entries.binary_search_by_key(&actor, |&(actor, _)| actor) {
                Ok(at) => self.entries[at].1 = self.entries[at].1.max(time),
                Err(at) if self.entries.len() < ENTRIES_MAX => {
                    self.entries.insert(at, (actor, time));
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(base: u64, entries: &[(u64, u64)]) -> Seen {
        let entries = entries.iter().map(|&(actor, time)| (actor, HybridTime(time))).collect();
        Seen { base: HybridTime(base), entries }
    }

    fn context(seen: &Seen) -> BytesMut {
        let mut context = BytesMut::new();
        Seen::put(seen.base, seen.entries.iter().copied(), &mut context);
        context.put_u64_le(0);
        context
    }

    #[test]
    fn it_is_read_out_of_a_context_and_of_nothing_else() {
        for seen in [seen(0, &[(1, 10), (9, 4)]), seen(5, &[(1, 10)]), seen(5, &[])] {
            let context = context(&seen);
            assert_eq!(Seen::of_context(&context), Some(seen));
            for length in 1..context.len() {
                assert_eq!(Seen::of_context(&context[..length]), None, "{length}");
            }
        }
        assert_eq!(Seen::of_context(&[]), Some(Seen::default()));
        assert_eq!(Seen::of_context(&[3; 30]), None);
    }

    #[test]
    fn joined_it_is_all_that_either_was() {
        let mut both = seen(0, &[(1, 10), (9, 4)]);
        both.join(&seen(3, &[(1, 7), (5, 6), (9, 8)]));
        assert_eq!(both, seen(3, &[(1, 10), (5, 6), (9, 8)]));
        both.join(&seen(9, &[(2, 9)]));
        assert_eq!(both, seen(9, &[(1, 10)]));
    }
}
