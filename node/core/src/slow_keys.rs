//! The keys whose requests took the longest here in the last minute: where a client waits, and for what.
//! A request that was quick costs a comparison.

use quoit_protocol::activity::SlowKey;
use quoit_ring::VnodeCount;
use quoit_storage::layout::StoredKey;

use crate::hot_keys::shown;
use crate::time::Instant;

/// So many keys are kept, and told.
const KEPT_MAX: usize = 10;
/// What took less is not slow.
const SLOW_US_MIN: u64 = 10_000;
/// What was slow is told for so long.
const AGE_MS_MAX: u64 = 60 * 1_000;

/// The list.
#[derive(Debug, Default)]
pub(crate) struct SlowKeys {
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    key: StoredKey,
    is_write: bool,
    took_us: u64,
    ended: Instant,
}

impl SlowKeys {
    /// A request that came at `began` is answered.
    pub(crate) fn note(&mut self, key: &StoredKey, is_write: bool, began: Instant, now: Instant) {
        let took_us = now.0.saturating_sub(began.0);
        if took_us < SLOW_US_MIN {
            return;
        }
        self.kept.retain(|kept| now.ms_since(kept.ended) < AGE_MS_MAX);
        match self.kept.iter().position(|kept| kept.key == *key && kept.is_write == is_write) {
            Some(at) if self.kept[at].took_us > took_us => return,
            Some(at) => drop(self.kept.swap_remove(at)),
            None if self.kept.len() < KEPT_MAX => {}
            None => {
                let quickest = self.kept.iter().enumerate().min_by_key(|(_, kept)| kept.took_us);
                let (at, quickest) = quickest.expect("it is full");
                if quickest.took_us >= took_us {
                    return;
                }
                self.kept.swap_remove(at);
            }
        }
        self.kept.push(Kept { key: key.clone(), is_write, took_us, ended: now });
    }

    /// What took the longest, the longest first.
    pub(crate) fn told(&mut self, vnodes: VnodeCount, now: Instant) -> Vec<SlowKey> {
        self.kept.retain(|kept| now.ms_since(kept.ended) < AGE_MS_MAX);
        self.kept.sort_by_key(|kept| std::cmp::Reverse(kept.took_us));
        let told = |kept: &Kept| SlowKey {
            key: shown(&kept.key, vnodes),
            is_write: kept.is_write,
            took_us: kept.took_us,
            age_ms: now.ms_since(kept.ended),
        };
        self.kept.iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use quoit_ring::{TableId, Token};

    use super::*;

    #[test]
    fn the_slowest_are_kept_each_key_once_and_for_a_minute() {
        let key =
            |name: u64| StoredKey::new(Token(name), TableId(1), &name.to_be_bytes(), b"").unwrap();
        let (mut slow, vnodes) = (SlowKeys::default(), VnodeCount::new(4).unwrap());
        let ended = Instant(10_000_000);
        let note = |slow: &mut SlowKeys, name, took_ms: u64| {
            slow.note(&key(name), false, Instant(ended.0 - took_ms * 1_000), ended);
        };
        note(&mut slow, 0, 9);
        assert!(slow.kept.is_empty());
        for name in 0..30 {
            note(&mut slow, name, 10 + name);
            note(&mut slow, name, 10);
        }
        let told = slow.told(vnodes, ended.plus_ms(5));
        let times: Vec<_> = told.iter().map(|slow| slow.took_us / 1_000).collect();
        assert_eq!(times, (30..40).rev().collect::<Vec<_>>());
        assert_eq!(told[0].age_ms, 5);
        assert!(slow.told(vnodes, ended.plus_ms(AGE_MS_MAX)).is_empty());
    }
}
