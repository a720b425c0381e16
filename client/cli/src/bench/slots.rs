//! The closed loop: one task a slot, each doing one operation after the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quoit_client::{Context, Table};

use super::keys::{Distribution, KeyChooser, key_name};
use super::random::Random;
use crate::failure::{read_kind, write_kind};
use crate::progress::Progress;

/// A slot rests so long after an error, so that a cluster that refuses everything is not flooded.
const REST_AFTER_ERROR: Duration = Duration::from_millis(5);
/// How often the progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The longest latency that is told from longer ones, in microseconds: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What a run does.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) mix: Mix,
    pub(super) keys: u64,
    pub(super) distribution: Distribution,
    pub(super) value_bytes: usize,
    pub(super) in_flight: usize,
    pub(super) limit: Limit,
    pub(super) seed: u64,
}

/// Which operations on which keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mix {
    /// Reads and writes of random keys.
    Random {
        /// How many of a hundred are reads.
        read_percent: u64,
    },
    /// A write of each key, in order.
    Load,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// After so many seconds; operations in flight then are finished and counted.
    Seconds(u64),
    /// After so many operations.
    Operations(u64),
}

/// What a run measured. Latencies are in microseconds, of operations that succeeded.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) reads: Histogram<u64>,
    pub(super) writes: Histogram<u64>,
    /// Reads that found no value; they count as done.
    pub(super) absent: u64,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) seconds: f64,
}

impl Measured {
    pub(super) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in range");
        Self {
            reads: histogram(),
            writes: histogram(),
            absent: 0,
            errors: BTreeMap::new(),
            seconds: 0.0,
        }
    }

    fn record(&mut self, latency: Duration, ended: Ended) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        match ended {
            Ended::Read { absent } => {
                self.absent += u64::from(absent);
                self.reads.saturating_record(latency_us);
            }
            Ended::Written => self.writes.saturating_record(latency_us),
            Ended::Failed(kind) => *self.errors.entry(kind).or_default() += 1,
        }
    }

    fn done(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Read { absent: bool },
    Written,
    Failed(&'static str),
}

/// What the slots share.
struct Shared {
    plan: Plan,
    table: Table,
    chooser: KeyChooser,
    begun: AtomicU64,
    ends_at: Option<Instant>,
    // Held for well under a microsecond after each operation; one histogram a slot would take
    // megabytes and miss the processor's caches.
    measured: Mutex<Measured>,
}

impl Shared {
    fn measured(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.measured.lock().expect("nobody panics while recording")
    }
}

/// Runs a plan to its end.
pub(super) async fn run(table: &Table, plan: &Plan, label: &'static str) -> Measured {
    let started = Instant::now();
    let ends_at = match plan.limit {
        Limit::Seconds(seconds) => Some(started + Duration::from_secs(seconds)),
        Limit::Operations(_) => None,
    };
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        table: table.clone(),
        chooser: KeyChooser::new(plan.distribution, plan.keys),
        begun: AtomicU64::new(0),
        ends_at,
        measured: Mutex::new(Measured::new()),
    });
    // The chooser's sums may take a moment: the clock starts behind them.
    let started = Instant::now();
    let slots: Vec<_> =
        (0..plan.in_flight).map(|slot| tokio::spawn(run_slot(Arc::clone(&shared), slot))).collect();
    let watcher = tokio::spawn(watch(Arc::clone(&shared), label));
    for slot in slots {
        slot.await.expect("a slot does not panic");
    }
    let seconds = started.elapsed().as_secs_f64();
    watcher.abort();
    // The watcher ends at its next wait; the bar is gone before results are shown.
    let _ = watcher.await;
    let mut measured = shared.measured().clone();
    measured.seconds = seconds;
    measured
}

async fn watch(shared: Arc<Shared>, label: &'static str) {
    let per_row = shared.plan.value_bytes as u64;
    let total = match shared.plan.limit {
        Limit::Operations(count) => Some(count.saturating_mul(per_row)),
        Limit::Seconds(_) => None,
    };
    let mut progress = Progress::new(label, total);
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let done = shared.measured().done();
        progress.set(done.saturating_mul(per_row), done);
    }
}

async fn run_slot(shared: Arc<Shared>, slot: usize) {
    let mut random = Random::new(shared.plan.seed, slot as u64);
    loop {
        let number = shared.begun.fetch_add(1, Ordering::Relaxed);
        let is_over = match shared.plan.limit {
            Limit::Operations(count) => number >= count,
            Limit::Seconds(_) => shared.ends_at.is_some_and(|end| Instant::now() >= end),
        };
        if is_over {
            return;
        }
        let (is_read, key) = match shared.plan.mix {
            Mix::Load => (false, number),
            Mix::Random { read_percent } => {
                (random.below(100) < read_percent, shared.chooser.choose(&mut random))
            }
        };
        let key = key_name(key);
        // A value is made before the clock starts.
        let value = if is_read { Vec::new() } else { random.bytes(shared.plan.value_bytes) };
        let begun = Instant::now();
        let ended = if is_read {
            match shared.table.get(key).await {
                Ok(reading) => Ended::Read { absent: reading.is_absent() },
                Err(error) => Ended::Failed(read_kind(&error)),
            }
        } else {
            match shared.table.put(key, value, &Context::none()).await {
                Ok(_) => Ended::Written,
                Err(error) => Ended::Failed(write_kind(&error)),
            }
        };
        shared.measured().record(begun.elapsed(), ended);
        if matches!(ended, Ended::Failed(_)) {
            tokio::time::sleep(REST_AFTER_ERROR).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_succeeded_has_a_latency() {
        let mut measured = Measured::new();
        measured.record(Duration::from_micros(250), Ended::Read { absent: true });
        measured.record(Duration::from_secs(90), Ended::Written);
        measured.record(Duration::from_secs(5), Ended::Failed("timeout"));
        measured.record(Duration::from_secs(5), Ended::Failed("timeout"));
        assert_eq!(measured.reads.max(), 250);
        assert_eq!(measured.absent, 1);
        assert!(measured.writes.max() >= LATENCY_US_MAX);
        assert_eq!(measured.errors, BTreeMap::from([("timeout", 2)]));
        assert_eq!(measured.done(), 2);
    }
}
