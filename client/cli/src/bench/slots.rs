//! Runs a plan in one process: one task a slot, each doing one operation after the other. In a
//! closed loop a slot begins the next operation when the one before has ended; in an open loop it
//! takes the next that is due.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use quoit_client::Table;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::arrivals::{Backlog, OpenLoop};
use super::keys::{KeySpace, Keys};
use super::measured::{Ended, Measured, Recorder, Times};
use super::operation::Operation;
use super::random::Random;
use super::workload::{Kind, Workload};

/// A slot of a closed loop rests so long after an error, so that a cluster that refuses everything
/// is not flooded.
const REST_AFTER_ERROR: Duration = Duration::from_millis(5);
/// How often the progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The pacer looks so often whether it should stop.
const PACER_REST_MAX: Duration = Duration::from_millis(50);
/// While operations wait for a slot, more that come due wait behind them: the pacer need not be there in time,
/// and leaves the processor to what is measured.
/// What comes due in a moment in which all slots are busy may so be put down as late as this.
const PACER_REST_BEHIND: Duration = Duration::from_micros(500);

/// What a run does, in one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) task: Task,
    pub(super) keys: KeySpace,
    pub(super) value_bytes: usize,
    pub(super) in_flight: usize,
    pub(super) limit: Limit,
    /// Closed where there is none.
    pub(super) open_loop: Option<OpenLoop>,
    pub(super) interval_ms: u64,
    pub(super) seed: u64,
}

/// Which operations on which keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// A workload's operations.
    Workload(Workload),
    /// A write of each key, in order.
    Load,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Limit {
    /// After a warm-up that is not measured, and so many seconds; operations in flight then are
    /// finished and counted.
    Seconds { warm_up: u64, measured: u64 },
    /// After so many operations.
    Operations(u64),
}

impl Limit {
    /// When the measuring begins and ends, since the start.
    fn bounds_ns(self) -> (u64, Option<u64>) {
        const SECOND: u64 = 1_000_000_000;
        match self {
            Self::Seconds { warm_up, measured } => {
                (warm_up * SECOND, Some((warm_up + measured) * SECOND))
            }
            Self::Operations(_) => (0, None),
        }
    }
}

/// A run that is ready to start.
pub(super) struct Run {
    shared: Shared,
}

/// What the slots share.
struct Shared {
    plan: Plan,
    table: Table,
    keys: Keys,
    begun: AtomicU64,
    // Held for well under a microsecond after each operation; one histogram a slot would take
    // megabytes and miss the processor's caches.
    recorder: Mutex<Recorder>,
    open: Option<Open>,
}

/// What the pacer and the slots of an open loop share.
struct Open {
    backlog: Mutex<Backlog>,
    /// A permit for each that waits. Closed at the end.
    waiting: Semaphore,
    stopped: AtomicBool,
}

impl Shared {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().expect("nobody panics while recording")
    }
}

impl Open {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().expect("nobody panics while pacing")
    }
}

impl Run {
    /// Prepares everything that takes time.
    pub(super) fn new(table: &Table, plan: Plan) -> Self {
        let (measured_from_ns, ends_at_ns) = plan.limit.bounds_ns();
        let open = plan.open_loop.map(|open_loop| {
            let ends_at_ns = ends_at_ns.expect("an open loop ends by time");
            // Processes of one run draw schedules of their own.
            let seed = plan.seed ^ plan.keys.worker.rotate_right(8);
            let backlog = Backlog::new(&open_loop, seed, measured_from_ns, ends_at_ns);
            let waiting = Semaphore::new(0);
            Open { backlog: Mutex::new(backlog), waiting, stopped: AtomicBool::new(false) }
        });
        let recorder = Recorder::new(measured_from_ns, plan.interval_ms * 1_000_000);
        let shared = Shared {
            keys: Keys::new(plan.keys),
            plan,
            table: table.clone(),
            begun: AtomicU64::new(0),
            recorder: Mutex::new(recorder),
            open,
        };
        Self { shared }
    }

    /// Runs to the end, telling now and then how many operations are done.
    pub(super) async fn measure(self, progress: impl FnMut(u64) + Send + 'static) -> Measured {
        let shared = Arc::new(self.shared);
        let clock = Clock { started: Instant::now() };
        // Blocking: a timer of the runtime has milliseconds, too coarse for a schedule.
        let pacer = shared.open.is_some().then(|| {
            let shared = Arc::clone(&shared);
            tokio::task::spawn_blocking(move || pace(&shared, clock))
        });
        let stop_pacer = StopPacer(Arc::clone(&shared));
        let slots: Vec<_> = (0..shared.plan.in_flight)
            .map(|slot| tokio::spawn(run_slot(Arc::clone(&shared), clock, slot)))
            .collect();
        let watcher = tokio::spawn(watch(Arc::clone(&shared), progress));
        for slot in slots {
            slot.await.expect("a slot does not panic");
        }
        let ended_ns = clock.now_ns();
        drop(stop_pacer);
        if let Some(pacer) = pacer {
            pacer.await.expect("the pacer does not panic");
        }
        watcher.abort();
        // The watcher ends at its next wait; the bar is gone before results are shown.
        let _ = watcher.await;
        let (refused, left) = shared.open.as_ref().map_or((0, 0), |open| {
            let backlog = open.backlog();
            (backlog.refused(), backlog.left())
        });
        let recorder = std::mem::replace(&mut *shared.recorder(), Recorder::new(0, 1));
        recorder.finish(ended_ns, refused, left)
    }
}

/// Nanoseconds since a run's start.
#[derive(Debug, Clone, Copy)]
struct Clock {
    started: Instant,
}

impl Clock {
    fn now_ns(self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Ends the pacer's thread even where the run is given up midway.
struct StopPacer(Arc<Shared>);

impl Drop for StopPacer {
    fn drop(&mut self) {
        if let Some(open) = &self.0.open {
            open.stopped.store(true, Ordering::Relaxed);
        }
    }
}

/// Lets operations come due at their times, until the schedule is over.
fn pace(shared: &Shared, clock: Clock) {
    let Some(open) = &shared.open else { return };
    while !open.stopped.load(Ordering::Relaxed) {
        let due = open.backlog().advance(clock.now_ns());
        if due.added > 0 {
            open.waiting.add_permits(due.added);
        }
        let Some(next_ns) = due.next_ns else { break };
        let mut rest = Duration::from_nanos(next_ns.saturating_sub(clock.now_ns()));
        if open.waiting.available_permits() > 0 {
            rest = rest.max(PACER_REST_BEHIND);
        }
        if !rest.is_zero() {
            std::thread::sleep(rest.min(PACER_REST_MAX));
        }
    }
    open.waiting.close();
}

async fn watch(shared: Arc<Shared>, mut progress: impl FnMut(u64)) {
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let done = shared.recorder().done();
        progress(done);
    }
}

async fn run_slot(shared: Arc<Shared>, clock: Clock, slot: usize) {
    let mut random = Random::new(shared.plan.seed, slot_stream(&shared.plan, slot));
    while let Some(begun) = begin(&shared, clock).await {
        let (kind, operation) = match shared.plan.task {
            Task::Load => {
                let bytes = shared.plan.value_bytes;
                let operation = Operation::load(&shared.keys, begun.number, bytes, &mut random);
                (Kind::Insert, operation)
            }
            Task::Workload(workload) => {
                Operation::draw(workload, &shared.keys, shared.plan.value_bytes, &mut random)
            }
        };
        // In a closed loop the value is made before the clock starts.
        let started_ns = clock.now_ns();
        let intended_ns = begun.intended_ns.unwrap_or(started_ns);
        let ended = operation.perform(&shared.table, &shared.keys).await;
        let times = Times { intended_ns, started_ns, ended_ns: clock.now_ns() };
        shared.recorder().record(kind, times, ended);
        if begun.intended_ns.is_none() && !matches!(ended, Ended::Done(_)) {
            tokio::time::sleep(REST_AFTER_ERROR).await;
        }
    }
}

/// Each slot of each process has random numbers of its own.
fn slot_stream(plan: &Plan, slot: usize) -> u64 {
    (plan.keys.worker << 32) | slot as u64
}

/// An operation that may begin.
struct Begun {
    number: u64,
    /// In an open loop.
    intended_ns: Option<u64>,
}

/// Waits until the next operation may begin; `None` when the run is over.
async fn begin(shared: &Shared, clock: Clock) -> Option<Begun> {
    let intended_ns = match &shared.open {
        Some(open) => {
            open.waiting.acquire().await.ok()?.forget();
            Some(open.backlog().take().expect("there is a permit for each that waits"))
        }
        None => None,
    };
    let number = shared.begun.fetch_add(1, Ordering::Relaxed);
    let is_over = match shared.plan.limit {
        Limit::Operations(count) => number >= count,
        Limit::Seconds { .. } => {
            let ends_at_ns = shared.plan.limit.bounds_ns().1;
            intended_ns.is_none() && ends_at_ns.is_some_and(|end_ns| clock.now_ns() >= end_ns)
        }
    };
    (!is_over).then_some(Begun { number, intended_ns })
}
