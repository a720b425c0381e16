//! Hybrid logical time (Kulkarni et al., "Logical Physical Clocks", 2014): it follows the wall
//! clock, never runs backwards, and is greater than every time that was seen before.
//!
//! 48 bits of milliseconds since 1970 and a counter of 16 bits. Across restarts it keeps from
//! running backwards by a lease: no time at or above the lease is made, the lease is durable before
//! it is used, and a restarted node begins above the last one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970 as a node's own wall clock says; it may be wrong and may jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub u64);

/// A hybrid timestamp. Ordered; unique only together with the actor that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HybridTime(pub u64);

impl HybridTime {
    /// Before everything.
    pub const ZERO: Self = Self(0);
    const COUNTER_BITS: u32 = 16;

    /// The first hybrid time of a wall clock's millisecond (saturating in the year 10889).
    pub fn at(wall: WallTime) -> Self {
        Self(wall.0.min(u64::MAX >> Self::COUNTER_BITS) << Self::COUNTER_BITS)
    }

    /// The wall-clock part, in milliseconds since 1970.
    pub fn wall(self) -> WallTime {
        WallTime(self.0 >> Self::COUNTER_BITS)
    }

    /// The next hybrid time, or `None` at the end of time.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// This time and `milliseconds` more, saturating.
    pub fn plus_ms(self, milliseconds: u64) -> Self {
        let step = milliseconds.min(u64::MAX >> Self::COUNTER_BITS) << Self::COUNTER_BITS;
        Self(self.0.saturating_add(step))
    }
}

impl fmt::Display for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.wall().0, self.0 & 0xffff)
    }
}

impl fmt::Debug for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes hybrid times for one node. Holds no clock: the wall's reading is handed in.
#[derive(Debug, Clone)]
pub struct HybridClock {
    last: HybridTime,
    lease: HybridTime,
}

/// No time can be made before a longer lease is durable. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the clock's lease is used up; it is being renewed")]
pub struct LeaseExhausted;

impl HybridClock {
    /// A clock that goes on after `recovered`, the lease found on the disk (zero on a new one): all
    /// that was ever made lies below it. No time is made before [`HybridClock::extend`].
    pub fn recover(recovered: HybridTime) -> Self {
        Self { last: recovered, lease: recovered }
    }

    /// The greatest time made or seen.
    pub fn last(&self) -> HybridTime {
        self.last
    }

    /// The durable bound: every time made lies below it.
    pub fn lease(&self) -> HybridTime {
        self.lease
    }

    /// A time greater than all that were made or seen, and no less than the wall clock's.
    pub fn issue(&mut self, wall: WallTime) -> Result<HybridTime, LeaseExhausted> {
        let time = self.last.next().ok_or(LeaseExhausted)?.max(HybridTime::at(wall));
        if time >= self.lease {
            return Err(LeaseExhausted);
        }
        self.last = time;
        Ok(time)
    }

    /// What the clock would say now, for reads and message headers: nothing is made, so no lease is
    /// needed.
    pub fn read(&self, wall: WallTime) -> HybridTime {
        self.last.max(HybridTime::at(wall))
    }

    /// Takes in a time that was seen in a message, a context or a record.
    pub fn observe(&mut self, seen: HybridTime) {
        self.last = self.last.max(seen);
    }

    /// The lease that should be made durable next, or `None` while at least half of it is left:
    /// `length_ms` beyond the wall clock, or a fiftieth of that beyond the greatest time seen, if this
    /// is ahead. Ahead of the wall only the making of times uses the lease up. And a start goes on
    /// from the whole lease: were it long then, a node that starts over and over would run away from
    /// the wall clock.
    pub fn wanted_lease(&self, wall: WallTime, length_ms: u64) -> Option<HybridTime> {
        let ahead_ms = (length_ms / 50).max(2);
        let (wall, seen) = (HybridTime::at(wall), self.last);
        let least = wall.plus_ms(length_ms / 2).max(seen.plus_ms(ahead_ms / 2));
        (least >= self.lease).then(|| wall.plus_ms(length_ms).max(seen.plus_ms(ahead_ms)))
    }

    /// Takes a lease that is durable now. A shorter one than before changes nothing.
    pub fn extend(&mut self, lease: HybridTime) {
        self.lease = self.lease.max(lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_recovered_clock_makes_nothing_before_its_lease_is_extended() {
        let mut clock = HybridClock::recover(HybridTime::at(WallTime(1_000)));
        assert_eq!(clock.issue(WallTime(5_000)), Err(LeaseExhausted));
        clock.extend(HybridTime::at(WallTime(6_000)));
        assert_eq!(clock.issue(WallTime(5_000)), Ok(HybridTime::at(WallTime(5_000))));
        assert_eq!(clock.issue(WallTime(6_000)), Err(LeaseExhausted));
    }

    #[test]
    fn a_wall_clock_that_jumps_back_does_not_take_hybrid_time_along() {
        let mut clock = HybridClock::recover(HybridTime::ZERO);
        clock.extend(HybridTime::at(WallTime(100_000)));
        let before = clock.issue(WallTime(50_000)).expect("within the lease");
        let after = clock.issue(WallTime(10)).expect("within the lease");
        assert!(after > before);
    }

    #[test]
    fn a_node_that_starts_over_and_over_does_not_run_away_from_the_wall_clock() {
        let (mut lease, mut wall) = (HybridTime::ZERO, 0);
        for _ in 0..10_000 {
            wall += 500;
            let mut clock = HybridClock::recover(lease);
            let wanted = clock.wanted_lease(WallTime(wall), 10_000).expect("none is left");
            clock.extend(wanted);
            let made = clock.issue(WallTime(wall)).expect("the lease was extended");
            assert!(made >= lease && made < wanted);
            lease = wanted;
        }
        assert!(lease <= HybridTime::at(WallTime(wall + 10_500)), "{lease} at {wall}");
    }

    proptest! {
        #[test]
        fn every_time_is_greater_than_all_made_or_seen(
            steps in prop::collection::vec((0u64..1_000_000, prop::option::of(0u64..1_000_000)), 1..200)
        ) {
            let mut clock = HybridClock::recover(HybridTime::ZERO);
            let mut greatest = HybridTime::ZERO;
            for (wall, seen) in steps {
                if let Some(seen) = seen {
                    clock.observe(HybridTime(seen << 8));
                    greatest = greatest.max(HybridTime(seen << 8));
                }
                if let Some(lease) = clock.wanted_lease(WallTime(wall), 1_000) {
                    clock.extend(lease);
                }
                let made = clock.issue(WallTime(wall)).expect("the lease was extended");
                prop_assert!(made > greatest);
                prop_assert!(made < clock.lease());
                greatest = made;
            }
        }
    }
}
