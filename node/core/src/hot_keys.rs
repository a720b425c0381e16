//! Which keys are asked for the most: the space-saving sketch (Metwally, Agrawal and El Abbadi,
//! "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005), over a sample.
//!
//! A key that is not counted takes the place of the one counted least, and begins with that one's
//! count as its possible error: what is told is the count less the error, so it is a lower bound. All
//! counts are halved every [`HALF_LIFE_MS`], so that what was hot goes. While much is asked, one request
//! in about [`SAMPLED_BUSY`] is looked at and stands for that many; the others cost a subtraction. A key
//! is kept by sharing the bytes that the request was laid out in: nothing is allocated or copied.

use quoit_protocol::activity::{HotKey, ShownKey};
use quoit_ring::{Token, VnodeCount};
use quoit_storage::layout::StoredKey;

use crate::time::Instant;

/// So many keys are counted.
const COUNTED_MAX: usize = 128;
/// So many are told.
const TOLD_MAX: usize = 20;
/// Counts are halved so often.
const HALF_LIFE_MS: u64 = 10_000;
/// While much is asked, about one request in so many is looked at.
const SAMPLED_BUSY: u32 = 16;
/// It is much when so many came within the last [`PACE_MS`].
const BUSY_REQUESTS: u32 = 1_000;
/// The pace is judged so often.
const PACE_MS: u64 = 1_000;
/// A key that was not met so often does not count as hot, in requests that were looked at.
const LOOKED_AT_MIN: u64 = 3;

/// The sketch.
#[derive(Debug)]
pub(crate) struct HotKeys {
    /// So many requests pass before the next is looked at.
    pass: u32,
    /// About one in so many is looked at.
    every: u32,
    /// Draws how many pass, so that a rhythm of requests does not hide a key.
    lot: u32,
    /// Requests looked at, times what each stood for, since `pace_began`.
    met: u32,
    pace_began: Instant,
    halved: Instant,
    /// The time that the counts stand for: halved with them.
    window_us: u64,
    /// Of each counted key; apart from the rest, for they are what is searched.
    tokens: Vec<Token>,
    counted: Vec<Counted>,
}

#[derive(Debug)]
struct Counted {
    key: StoredKey,
    /// Requests, and how many of them may have been for other keys.
    count: u64,
    error: u64,
    writes: u64,
}

impl Default for HotKeys {
    fn default() -> Self {
        Self {
            pass: 0,
            every: 1,
            lot: 1,
            met: 0,
            pace_began: Instant(0),
            halved: Instant(0),
            window_us: 0,
            tokens: Vec::with_capacity(COUNTED_MAX),
            counted: Vec::with_capacity(COUNTED_MAX),
        }
    }
}

impl HotKeys {
    /// A client asks for a key.
    pub(crate) fn note(&mut self, key: &StoredKey, is_write: bool, now: Instant) {
        match self.pass.checked_sub(1) {
            Some(pass) => self.pass = pass,
            None => self.look_at(key, is_write, now),
        }
    }

    fn look_at(&mut self, key: &StoredKey, is_write: bool, now: Instant) {
        let stands_for = u64::from(self.every);
        self.age(now);
        self.judge_pace(now);
        self.pass = self.draw_pass();
        let token = key.token();
        let same = |(at, known): (usize, &Token)| *known == token && self.counted[at].key == *key;
        let at = match self.tokens.iter().enumerate().position(same) {
            Some(at) => at,
            None => self.begin(token, key),
        };
        let counted = &mut self.counted[at];
        counted.count += stands_for;
        counted.writes += stands_for * u64::from(is_write);
    }

    /// Makes room for a key.
    fn begin(&mut self, token: Token, key: &StoredKey) -> usize {
        if self.counted.len() < COUNTED_MAX {
            self.tokens.push(token);
            self.counted.push(Counted { key: key.clone(), count: 0, error: 0, writes: 0 });
            return self.counted.len() - 1;
        }
        let least = self.counted.iter().enumerate().min_by_key(|(_, counted)| counted.count);
        let at = least.expect("it is full").0;
        let counted = &mut self.counted[at];
        self.tokens[at] = token;
        counted.key = key.clone();
        counted.error = counted.count;
        counted.writes = 0;
        at
    }

    /// Halves the counts as often as it is time to.
    fn age(&mut self, now: Instant) {
        let half_life_us = HALF_LIFE_MS * 1_000;
        while now.0.saturating_sub(self.halved.0) >= half_life_us {
            self.halved = self.halved.plus_ms(HALF_LIFE_MS);
            self.window_us = (self.window_us + half_life_us) / 2;
            for counted in &mut self.counted {
                counted.count /= 2;
                counted.error /= 2;
                counted.writes /= 2;
            }
            if self.counted.iter().all(|counted| counted.count == 0) {
                // Nothing was asked for long: there is nothing left to be halved.
                self.tokens.clear();
                self.counted.clear();
                self.halved = now;
            }
        }
    }

    fn judge_pace(&mut self, now: Instant) {
        self.met = self.met.saturating_add(self.every);
        if now.ms_since(self.pace_began) >= PACE_MS || self.met >= BUSY_REQUESTS {
            self.every = if self.met >= BUSY_REQUESTS { SAMPLED_BUSY } else { 1 };
        }
        if now.ms_since(self.pace_began) >= PACE_MS {
            self.met = 0;
            self.pace_began = now;
        }
    }

    /// From none to twice as many as one would be too few by, all equally likely.
    fn draw_pass(&mut self) -> u32 {
        if self.every == 1 {
            return 0;
        }
        // A linear congruence (Numerical Recipes): its high bits are random enough.
        self.lot = self.lot.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.lot >> 16) % (2 * self.every - 1)
    }

    /// The hottest keys, by what they were asked for at least.
    pub(crate) fn told(&mut self, vnodes: VnodeCount, now: Instant) -> Vec<HotKey> {
        self.age(now);
        let window_us = (self.window_us + now.0.saturating_sub(self.halved.0)).max(1_000_000);
        let least = LOOKED_AT_MIN * u64::from(self.every);
        let sure = |counted: &Counted| counted.count - counted.error;
        let mut hottest: Vec<&Counted> =
            self.counted.iter().filter(|counted| sure(counted) >= least).collect();
        hottest.sort_by_key(|counted| std::cmp::Reverse(sure(counted)));
        hottest.truncate(TOLD_MAX);
        let told = |counted: &Counted| HotKey {
            key: shown(&counted.key, vnodes),
            per_second: sure(counted).saturating_mul(1_000_000).div_ceil(window_us),
            writes_permille: u16::try_from(counted.writes * 1_000 / sure(counted).max(1))
                .unwrap_or(u16::MAX)
                .min(1_000),
        };
        hottest.into_iter().map(told).collect()
    }
}

/// A key as it is shown to people.
pub(crate) fn shown(key: &StoredKey, vnodes: VnodeCount) -> ShownKey {
    ShownKey::new(key.table(), vnodes.vnode_of(key.token()), &key.partition(), &key.sort())
}

#[cfg(test)]
mod tests {
    use quoit_ring::TableId;

    use super::*;

    fn key(number: u64) -> StoredKey {
        // Tokens as a hash would give them.
        let token = Token(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        StoredKey::new(token, TableId(1), number.to_string().as_bytes(), b"").unwrap()
    }

    fn vnodes() -> VnodeCount {
        VnodeCount::new(64).unwrap()
    }

    fn names(told: &[HotKey]) -> Vec<String> {
        let name = |hot: &HotKey| String::from_utf8(hot.key.key.partition.to_vec()).unwrap();
        told.iter().map(name).collect()
    }

    #[test]
    fn of_a_few_requests_none_is_missed() {
        let mut hot = HotKeys::default();
        for number in 0..20 {
            hot.note(&key(number % 4), number % 4 == 0, Instant(number * 1_000));
        }
        let told = hot.told(vnodes(), Instant(1_000_000));
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|hot| hot.per_second == 5), "{told:?}");
        let zero = told.iter().find(|hot| &hot.key.key.partition[..] == b"0").unwrap();
        assert_eq!(zero.writes_permille, 1_000);
    }

    #[test]
    fn hot_keys_are_found_among_a_million_and_their_rates_are_near() {
        let mut hot = HotKeys::default();
        // 100,000 a second for 20 s; keys 1, 2 and 3 get 10, 5 and 2.5 % of them.
        for number in 0..2_000_000_u64 {
            let which = match number % 40 {
                0..4 => 1,
                4 | 5 => 2,
                6 => 3,
                _ => 1_000 + number,
            };
            hot.note(&key(which), false, Instant(number * 10));
        }
        let told = hot.told(vnodes(), Instant(20_000_000));
        assert_eq!(names(&told)[..3], ["1", "2", "3"], "{told:?}");
        for (hot, true_rate) in told.iter().zip([10_000, 5_000, 2_500]) {
            let rate = hot.per_second;
            assert!((true_rate / 2..true_rate * 5 / 4).contains(&rate), "{rate} of {true_rate}");
        }
        // Nothing else was asked for twice.
        assert_eq!(told.len(), 3, "{told:?}");
    }

    #[test]
    fn what_is_asked_for_no_more_is_forgotten() {
        let mut hot = HotKeys::default();
        for number in 0..1_000 {
            hot.note(&key(7), true, Instant(number));
        }
        assert_eq!(hot.told(vnodes(), Instant(1_000_000)).len(), 1);
        assert!(hot.told(vnodes(), Instant(3_600_000_000)).is_empty());
        assert!(hot.counted.is_empty());
    }

    #[test]
    fn it_keeps_its_bound() {
        let mut hot = HotKeys::default();
        for number in 0..10_000 {
            hot.note(&key(number), false, Instant(number * 2_000));
        }
        assert_eq!((hot.counted.len(), hot.tokens.len()), (COUNTED_MAX, COUNTED_MAX));
    }
}
