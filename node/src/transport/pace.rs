//! When the next of several may go: a few at once after a quiet time, and then one by one.

use std::time::{Duration, Instant};

/// How quickly they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// So many in a second, one at least.
    pub(super) per_second: u32,
    /// And so many at once, after as long a quiet time.
    pub(super) burst: u32,
}

/// The time of the next one.
#[derive(Debug)]
pub(super) struct Pace {
    next: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now }
    }

    /// From when on one may go.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// One goes.
    pub(super) fn take(&mut self, now: Instant, rate: Rate) {
        let each = Duration::from_secs(1) / rate.per_second.max(1);
        let earliest = now.checked_sub(each * rate.burst).unwrap_or(now);
        self.next = self.next.max(earliest) + each;
    }
}

/// Whether much was done of late, by a count that only grows.
#[derive(Debug)]
pub(super) struct Load {
    count: u64,
    since: Instant,
    is_high: bool,
}

impl Load {
    /// From so many in a second on it is much.
    const HIGH_PER_SECOND: u128 = 1_000;
    /// It is looked at no more often.
    const LOOK_EVERY: Duration = Duration::from_millis(100);

    pub(super) fn new(count: u64, now: Instant) -> Self {
        Self { count, since: now, is_high: false }
    }

    /// With the count as it is now.
    pub(super) fn is_high(&mut self, count: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if passed >= Self::LOOK_EVERY {
            let done = u128::from(count.saturating_sub(self.count));
            self.is_high = done * 1_000 >= Self::HIGH_PER_SECOND * passed.as_millis();
            (self.count, self.since) = (count, now);
        }
        self.is_high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_that_of_the_last_while() {
        let start = Instant::now();
        let mut load = Load::new(5_000_000, start);
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert!(!load.is_high(5_000_090, at(50)), "too early to tell");
        assert!(load.is_high(5_000_100, at(100)));
        assert!(load.is_high(5_000_100, at(150)));
        assert!(!load.is_high(5_000_199, at(200)));
        assert!(!load.is_high(5_001_000, at(60_000)), "many, but over a minute");
        assert!(load.is_high(5_002_000, at(61_000)));
    }

    #[test]
    fn they_go_at_the_rate_that_is_set_after_a_burst() {
        const RATE: Rate = Rate { per_second: 10, burst: 4 };
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut went = 0;
        while pace.next() <= start {
            pace.take(start, RATE);
            went += 1;
        }
        // From the start one at a time; after a minute's quiet, a burst.
        assert_eq!(went, 1);
        let later = start + Duration::from_secs(60);
        while pace.next() <= later {
            pace.take(later, RATE);
            went += 1;
        }
        assert_eq!(went, 1 + RATE.burst + 1);
    }
}
