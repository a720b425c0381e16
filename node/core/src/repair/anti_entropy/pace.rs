//! How fast replicas are compared and filled: a bucket of bytes that runs full quickly while no
//! clients are there, and slowly while they are.

use crate::config::CoreConfig;
use crate::time::Instant;

/// Operations are counted over so long.
const WINDOW_MS: u64 = 100;
/// So many of them mean that clients are there.
const BUSY_OPERATIONS: u32 = 8;
/// And they are taken to be there for so long after.
const BUSY_FOR_MS: u64 = 1_000;
/// What the bucket holds when it is full, in milliseconds of its rate.
const BURST_MS: u64 = 50;

/// Whether clients keep this node busy.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Foreground {
    window: Instant,
    operations: u32,
    busy_until: Instant,
}

impl Foreground {
    /// Notes an operation that somebody waits for.
    pub(crate) fn note(&mut self, now: Instant) {
        if now.ms_since(self.window) >= WINDOW_MS {
            self.window = now;
            self.operations = 0;
        }
        self.operations += 1;
        if self.operations >= BUSY_OPERATIONS {
            self.busy_until = now.plus_ms(BUSY_FOR_MS);
        }
    }

    /// Whether clients are there.
    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        now < self.busy_until
    }
}

/// The bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    idle_rate: u64,
    busy_rate: u64,
    /// In bytes; below zero after what was larger than the bucket.
    level: i64,
    at: Instant,
}

impl Pace {
    pub(crate) fn new(config: &CoreConfig, now: Instant) -> Self {
        let idle_rate = config.repair_bytes_per_second.max(1);
        let busy_rate = config.repair_busy_bytes_per_second.clamp(1, idle_rate);
        Self { idle_rate, busy_rate, level: 0, at: now }
    }

    fn rate(&self, is_busy: bool) -> u64 {
        if is_busy { self.busy_rate } else { self.idle_rate }
    }

    /// When the next step may be made: now, or later.
    pub(crate) fn ready_at(&mut self, is_busy: bool, now: Instant) -> Instant {
        let rate = self.rate(is_busy);
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let gained = whole(rate.saturating_mul(now.ms_since(self.at)) / 1_000);
        if gained > 0 {
            self.at = now;
            self.level = self.level.saturating_add(gained).min(whole(rate * BURST_MS / 1_000));
        }
        let lacking = u64::try_from(-self.level).unwrap_or(0);
        now.plus_ms(lacking.saturating_mul(1_000).div_ceil(rate))
    }

    /// Takes out what a step has moved.
    pub(crate) fn charge(&mut self, bytes: usize) {
        self.level = self.level.saturating_sub_unsigned(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::Genesis;
    use quoit_ring::{ClusterId, NodeId, VnodeCount};

    fn at(milliseconds: u64) -> Instant {
        Instant(0).plus_ms(milliseconds)
    }

    fn pace() -> Pace {
        let genesis = Genesis {
            cluster: ClusterId(1),
            vnodes: VnodeCount::DEFAULT,
            replication: 1,
            members: Vec::new(),
        };
        let mut config = CoreConfig::new(NodeId(1), genesis, 1);
        config.repair_bytes_per_second = 1_000_000;
        config.repair_busy_bytes_per_second = 10_000;
        Pace::new(&config, at(0))
    }

    #[test]
    fn what_was_moved_is_waited_for_at_the_rate_of_the_moment() {
        let mut pace = pace();
        assert_eq!(pace.ready_at(false, at(0)), at(0));
        pace.charge(100_000);
        assert_eq!(pace.ready_at(false, at(0)), at(100));
        assert_eq!(pace.ready_at(true, at(0)), at(10_000));
        assert_eq!(pace.ready_at(false, at(100)), at(100));
    }

    #[test]
    fn rest_saves_no_more_than_a_burst() {
        let mut pace = pace();
        pace.ready_at(false, at(60_000));
        pace.charge(50_000);
        assert_eq!(pace.ready_at(false, at(60_000)), at(60_000));
        pace.charge(1_000);
        assert_eq!(pace.ready_at(false, at(60_000)), at(60_001));
    }

    #[test]
    fn a_few_operations_are_no_crowd_and_a_crowd_is_gone_a_second_later() {
        let mut foreground = Foreground::default();
        (0..20).for_each(|number| foreground.note(at(number * 50)));
        assert!(!foreground.is_busy(at(1_000)));
        (0..20).for_each(|number| foreground.note(at(2_000 + number)));
        assert!(foreground.is_busy(at(2_500)));
        assert!(!foreground.is_busy(at(3_100)));
    }
}
