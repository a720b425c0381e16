//! The node's clocks: the only place that reads the system's.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use quoit_core::Now;
use quoit_ring::WallTime;

/// Reads both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    offset_ms: i64,
}

impl Clock {
    /// A clock whose wall readings are `offset_ms` off the system's (for tests of wrong clocks).
    pub fn new(offset_ms: i64) -> Self {
        Self { started: Instant::now(), offset_ms }
    }

    /// Both readings.
    pub fn now(&self) -> Now {
        Now { instant: self.instant(), wall: self.wall() }
    }

    /// The monotonic clock's reading alone.
    pub fn instant(&self) -> quoit_core::Instant {
        self.instant_of(Instant::now())
    }

    /// What the monotonic clock read at that moment.
    pub fn instant_of(&self, moment: Instant) -> quoit_core::Instant {
        let since = moment.saturating_duration_since(self.started);
        quoit_core::Instant(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// The wall clock's reading.
    pub fn wall(&self) -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        WallTime(ms.saturating_add_signed(self.offset_ms))
    }
}
