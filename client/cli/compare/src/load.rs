//! The same closed loop for every store: so many slots, each doing one operation after the other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use crate::store::{Store, StoreError};

/// The longest latency that is told from longer ones: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Half reads, half writes.
    Half,
    /// Reads only.
    Reads,
}

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    pub(crate) in_flight: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    /// p50 and p99.
    pub(crate) read_us: [u64; 2],
    /// p50 and p99.
    pub(crate) write_us: [u64; 2],
    pub(crate) errors: u64,
}

/// What the slots share.
struct Shared {
    reads: RefCell<Histogram<u64>>,
    writes: RefCell<Histogram<u64>>,
    errors: Cell<u64>,
}

impl Load {
    /// Writes every key once.
    pub(crate) async fn fill(&self, store: &Store) -> Result<(), StoreError> {
        let next = Rc::new(Cell::new(0));
        let slots = LocalSet::new();
        let mut tasks = Vec::new();
        for slot in 0..self.in_flight {
            let (load, next) = (*self, Rc::clone(&next));
            let mut store = store.clone();
            tasks.push(slots.spawn_local(async move {
                let mut random = Random(slot as u64);
                while next.get() < load.keys {
                    let number = next.replace(next.get() + 1);
                    store.put(slot, &key(number), random.bytes(load.value_bytes)).await?;
                }
                Ok(())
            }));
        }
        slots.await;
        for task in tasks {
            task.await.expect("a slot does not panic")?;
        }
        Ok(())
    }

    /// Warms up, then measures.
    pub(crate) async fn run(&self, store: &Store, mix: Mix) -> Result<Figures, StoreError> {
        let histogram = || {
            let empty = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
            RefCell::new(empty.expect("the bounds are in range"))
        };
        let shared =
            Rc::new(Shared { reads: histogram(), writes: histogram(), errors: Cell::new(0) });
        let measured_from = Instant::now() + self.warm_up;
        let ends_at = measured_from + self.measured;
        let slots = LocalSet::new();
        for slot in 0..self.in_flight {
            let (load, shared) = (*self, Rc::clone(&shared));
            let store = store.clone();
            slots.spawn_local(run_slot(load, store, mix, slot, shared, measured_from, ends_at));
        }
        slots.await;
        let seconds = measured_from.elapsed().as_secs_f64();
        let (reads, writes) = (shared.reads.borrow(), shared.writes.borrow());
        let percentiles = |it: &Histogram<u64>| [0.5, 0.99].map(|at| it.value_at_quantile(at));
        Ok(Figures {
            per_second: (reads.len() + writes.len()) as f64 / seconds,
            read_us: percentiles(&reads),
            write_us: percentiles(&writes),
            errors: shared.errors.get(),
        })
    }
}

async fn run_slot(
    load: Load,
    mut store: Store,
    mix: Mix,
    slot: usize,
    shared: Rc<Shared>,
    measured_from: Instant,
    ends_at: Instant,
) {
    let mut random = Random(1_000 + slot as u64);
    loop {
        let key = key(random.next() % load.keys);
        let is_read = mix == Mix::Reads || random.next().is_multiple_of(2);
        let value = if is_read { Vec::new() } else { random.bytes(load.value_bytes) };
        let begun = Instant::now();
        if begun >= ends_at {
            return;
        }
        let ended = match is_read {
            true => store.get(slot, &key).await,
            false => store.put(slot, &key, value).await,
        };
        if begun < measured_from {
            continue;
        }
        let latency_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match (ended, is_read) {
            (Ok(()), true) => shared.reads.borrow_mut().saturating_record(latency_us),
            (Ok(()), false) => shared.writes.borrow_mut().saturating_record(latency_us),
            (Err(_), _) => shared.errors.set(shared.errors.get() + 1),
        }
    }
}

fn key(number: u64) -> String {
    format!("key{number:012}")
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
