//! What was measured in the last seconds, for those who look on: how much is asked, how long it takes.
//! Prometheus works that out of the series; a person with `quoit top` or the page has no Prometheus.
//!
//! Rates are of the last whole second; times are of the last five to ten, from two histograms of which
//! the older is emptied every five seconds. To note something allocates nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quoit_protocol::activity::{Measured, OperationActivity};

use super::{Indexed, Operation, Outcome};
use crate::transport::TransportStats;

/// What is shown: the other kinds are no work with data.
const SHOWN: [Operation; 4] = [Operation::Get, Operation::Put, Operation::Delete, Operation::Scan];
/// The older histogram is emptied after so long.
const WINDOW: Duration = Duration::from_secs(5);
/// What takes longer is as long as this here.
const LONGEST_US: u64 = 100_000_000;

/// What was measured. Any thread may add to it.
#[derive(Debug)]
pub(super) struct Recent {
    /// By place in [`SHOWN`].
    kinds: Vec<Mutex<Kind>>,
    syncs: Mutex<Times>,
    /// Of the second that runs.
    busy: Mutex<(Duration, Instant)>,
    measured: Mutex<Measured>,
}

/// Requests of one kind.
#[derive(Debug)]
struct Kind {
    done: u64,
    failed: u64,
    times: Times,
}

/// How long something took.
#[derive(Debug)]
struct Times {
    newer: Histogram<u32>,
    older: Histogram<u32>,
    began: Instant,
}

impl Recent {
    pub(super) fn new() -> Self {
        let kind = |_| Mutex::new(Kind { done: 0, failed: 0, times: Times::new() });
        Self {
            kinds: SHOWN.iter().map(kind).collect(),
            syncs: Mutex::new(Times::new()),
            busy: Mutex::new((Duration::ZERO, Instant::now())),
            measured: Mutex::default(),
        }
    }

    pub(super) fn request(&self, operation: Operation, outcome: Outcome, took: Duration) {
        let at = SHOWN.iter().position(|shown| *shown == operation);
        let Some(kind) = at.map(|at| &self.kinds[at]) else { return };
        let mut kind = lock(kind);
        match outcome {
            Outcome::Done => kind.done += 1,
            Outcome::Refused | Outcome::Overloaded | Outcome::Unavailable | Outcome::Unknown => {
                kind.failed += 1
            }
        }
        kind.times.note(took);
    }

    pub(super) fn sync(&self, took: Duration) {
        lock(&self.syncs).note(took);
    }

    pub(super) fn busy(&self, took: Duration) {
        lock(&self.busy).0 += took;
    }

    pub(super) fn transport(&self, stats: &TransportStats) {
        let micros = |took: &Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut measured = lock(&self.measured);
        measured.clients = u32::try_from(stats.clients).unwrap_or(u32::MAX);
        measured.queued_bytes = stats.queued_bytes;
        measured.round_trips_us =
            stats.round_trips.iter().map(|(peer, took)| (*peer, micros(took))).collect();
    }

    /// Takes what the second that runs has come to, and begins the next.
    pub(super) fn second_is_over(&self) {
        let now = Instant::now();
        let passed = {
            let mut busy = lock(&self.busy);
            let passed = now.saturating_duration_since(busy.1).max(Duration::from_millis(1));
            let permille = busy.0.as_micros() * 1_000 / passed.as_micros();
            *busy = (Duration::ZERO, now);
            lock(&self.measured).busy_permille =
                u32::try_from(permille).unwrap_or(1_000).min(1_000);
            passed
        };
        let a_second = |count: u64| (count as f64 / passed.as_secs_f64()).round() as u64;
        let operations = SHOWN.iter().zip(&self.kinds).map(|(operation, kind)| {
            let mut kind = lock(kind);
            let (done, failed) = (std::mem::take(&mut kind.done), std::mem::take(&mut kind.failed));
            let [p50_us, p99_us, max_us] = kind.times.told(now);
            OperationActivity {
                name: operation.name().to_owned(),
                per_second: a_second(done),
                failed_per_second: a_second(failed),
                p50_us,
                p99_us,
                max_us,
            }
        });
        let operations = operations.collect();
        let [sync_p50_us, sync_p99_us, _] = lock(&self.syncs).told(now);
        let mut measured = lock(&self.measured);
        *measured =
            Measured { operations, sync_p50_us, sync_p99_us, ..std::mem::take(&mut *measured) };
    }

    /// What the last second came to.
    pub(super) fn measured(&self) -> Measured {
        lock(&self.measured).clone()
    }
}

impl Times {
    fn new() -> Self {
        let empty = || Histogram::new_with_bounds(1, LONGEST_US, 2).expect("the bounds are right");
        Self { newer: empty(), older: empty(), began: Instant::now() }
    }

    fn note(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.newer.saturating_record(micros.clamp(1, LONGEST_US));
    }

    /// The time that half of all took no longer than, 99 of 100, and all; zeros where there were none.
    fn told(&mut self, now: Instant) -> [u64; 3] {
        let mut all = self.older.clone();
        // Both have the same bounds.
        let _ = all.add(&self.newer);
        if now.saturating_duration_since(self.began) >= WINDOW {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.reset();
            self.began = now;
        }
        [all.value_at_quantile(0.5), all.value_at_quantile(0.99), all.max()]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics midway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_told_when_it_is_over() {
        let recent = Recent::new();
        assert!(recent.measured().operations.is_empty());
        for took_ms in 1..=100 {
            recent.request(Operation::Put, Outcome::Done, Duration::from_millis(took_ms));
        }
        recent.request(Operation::Get, Outcome::Unavailable, Duration::from_millis(1));
        recent.request(Operation::Status, Outcome::Done, Duration::from_millis(1));
        recent.sync(Duration::from_micros(70));
        recent.second_is_over();
        let measured = recent.measured();
        let [get, put, ..] = measured.operations.as_slice() else { panic!("{measured:?}") };
        assert_eq!((get.name.as_str(), put.name.as_str()), ("get", "put"));
        assert!(get.failed_per_second > 0 && put.per_second > 0 && put.failed_per_second == 0);
        assert!((50_000..51_000).contains(&put.p50_us), "{put:?}");
        assert!((99_000..101_000).contains(&put.p99_us) && put.max_us >= 100_000, "{put:?}");
        assert_eq!(measured.sync_p50_us, 70);
        recent.second_is_over();
        let later = recent.measured();
        // Nothing more came; the times are still those of the last seconds.
        assert_eq!((later.operations[1].per_second, later.operations[1].p50_us), (0, put.p50_us));
    }

    #[test]
    fn times_of_long_ago_are_forgotten() {
        let mut times = Times::new();
        times.note(Duration::from_millis(9));
        let late = times.began + WINDOW;
        assert!(times.told(late)[0] > 8_000);
        assert!(times.told(late + WINDOW)[0] > 8_000);
        assert_eq!(times.told(late + 2 * WINDOW), [0; 3]);
    }
}
