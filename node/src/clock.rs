//! The node's clocks: the only place that reads the system's.
//!
//! For tests of wrong clocks the wall's readings can be off: by a setting from the start on, and by a file
//! that is read again and again, so that a clock jumps while the node runs and the host's stays right.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quoit_core::Now;
use quoit_ring::WallTime;

/// A year: no clock is meant to be further off.
pub(crate) const OFFSET_MS_LIMIT: i64 = 365 * 24 * 3_600 * 1_000;
/// The file with an offset is read so often.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(5);
/// And no more of it, in bytes.
const FILE_BYTES_MAX: u64 = 32;

/// Reads both clocks. Cheap to clone; clones are one clock.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// A clock whose wall readings are `offset_ms` off the system's (for tests of wrong clocks).
    pub fn new(offset_ms: i64) -> Self {
        Self { started: Instant::now(), offset_ms: Arc::new(AtomicI64::new(offset_ms)) }
    }

    /// Adds what a file says, in milliseconds, from now on and until the last clone is dropped, a few
    /// milliseconds after it has changed. What is no number any more changes nothing.
    ///
    /// # Errors
    /// Where the file cannot be read or holds no number within a year, or the system gives no thread.
    pub fn follow(&self, path: PathBuf) -> io::Result<()> {
        let own = self.offset_ms.load(Ordering::Relaxed);
        self.offset_ms.store(own + read_offset(&path)?, Ordering::Relaxed);
        let offset = Arc::downgrade(&self.offset_ms);
        let thread = thread::Builder::new().name("clock".to_owned());
        thread.spawn(move || follow(&offset, own, &path)).map(drop)
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
        WallTime(ms.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)))
    }
}

fn follow(offset_ms: &Weak<AtomicI64>, own: i64, path: &Path) {
    while let Some(offset_ms) = offset_ms.upgrade() {
        if let Ok(offset) = read_offset(path) {
            offset_ms.store(own + offset, Ordering::Relaxed);
        }
        drop(offset_ms);
        thread::sleep(FOLLOW_INTERVAL);
    }
}

fn read_offset(path: &Path) -> io::Result<i64> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let offset = text.trim().parse().ok();
    offset.filter(|offset: &i64| offset.abs() <= OFFSET_MS_LIMIT).ok_or_else(|| {
        let message = format!("it holds no number of milliseconds up to {OFFSET_MS_LIMIT}");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Farther than the test may take.
    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn a_clock_goes_where_its_file_says_while_it_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("offset");
        std::fs::write(&path, "0\n").unwrap();
        let (right, clock) = (Clock::new(0), Clock::new(-5 * HOUR_MS));
        let hours =
            || (clock.wall().0 as i64 - right.wall().0 as i64 + HOUR_MS / 2).div_euclid(HOUR_MS);
        clock.follow(path.clone()).unwrap();
        assert_eq!(hours(), -5);
        for moved in [3, -2] {
            std::fs::write(&path, (moved * HOUR_MS).to_string()).unwrap();
            while hours() != moved - 5 {
                thread::yield_now();
            }
        }
        std::fs::write(&path, "soon").unwrap();
        assert_eq!(hours(), -7, "what is no number changes nothing");
    }

    #[test]
    fn a_file_that_is_no_offset_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("offset");
        for wrong in ["", "noon", "99999999999999"] {
            std::fs::write(&path, wrong).unwrap();
            let error = Clock::new(0).follow(path.clone()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{wrong:?}");
        }
        let missing = Clock::new(0).follow(directory.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
