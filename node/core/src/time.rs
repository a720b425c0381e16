//! Time, as it is handed to the core.

use quoit_ring::WallTime;

/// A reading of a monotonic clock, in microseconds since some start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// This instant and so many milliseconds more.
    pub fn plus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds.saturating_mul(1_000)))
    }

    /// The milliseconds from `earlier` to this instant, rounded down; 0 if it is later.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }
}

/// What the clocks say when an event is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Never runs backwards.
    pub instant: Instant,
    /// May be wrong and may jump.
    pub wall: WallTime,
}

impl Now {
    /// The wall clock's reading less the monotonic one's, in milliseconds: it changes when the wall clock
    /// jumps, and hardly otherwise.
    pub fn wall_ahead_ms(self) -> i64 {
        let ahead = i128::from(self.wall.0) - i128::from(self.instant.0 / 1_000);
        i64::try_from(ahead).unwrap_or(i64::MAX)
    }
}
