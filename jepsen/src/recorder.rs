//! The recorder: gives every line of the history its place and time while the test runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::history::{Dot, Kind, OPERATIONS_MAX, Operation, Process, Value};

/// The nemesis' line that says how far the nodes' clocks are off from now on, in milliseconds.
pub(crate) const CLOCKS: &str = "clocks";

/// The history that is being made. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    started: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    history: Vec<Operation>,
    counts: BTreeMap<&'static str, u64>,
    fault: String,
    clocks: Vec<i64>,
}

/// What a line says beside who, what and when.
#[derive(Debug, Clone, Default)]
pub(crate) struct Details {
    pub(crate) error: Option<String>,
    pub(crate) written: Option<u64>,
    pub(crate) dot: Option<Dot>,
    pub(crate) node: Option<i64>,
    pub(crate) actors: Vec<String>,
}

impl Details {
    /// Only why it was not done, or is not known to be.
    pub(crate) fn of(error: String) -> Self {
        Self { error: Some(error), ..Self::default() }
    }
}

impl Recorder {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), inner: Arc::default() }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds a line. One that began is recorded before its request is sent, one that ended after its
    /// answer has come, so that the order of the lines is one of real time.
    pub(crate) fn record(
        &self,
        process: Process,
        kind: Kind,
        f: &str,
        value: Value,
        details: Details,
    ) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.history.len() >= OPERATIONS_MAX {
            return;
        }
        let Details { error, written, dot, node, actors } = details;
        let (index, time) = (inner.history.len(), self.now_ns());
        if process != Process::Nemesis {
            *inner.counts.entry(kind.name()).or_default() += 1;
        }
        let f = f.to_owned();
        inner.history.push(Operation {
            index,
            time,
            process,
            kind,
            f,
            value,
            error,
            written,
            dot,
            node,
            actors,
        });
    }

    /// A line of the nemesis; `fault` is what is shown as active from now on.
    pub(crate) fn nemesis(&self, f: &str, what: &str, fault: &str) {
        self.record(Process::Nemesis, Kind::Info, f, Value::from(what), Details::default());
        fault.clone_into(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).fault);
    }

    /// How far the nodes' clocks are off from now on, in milliseconds, where that has changed.
    pub(crate) fn clocks(&self, offsets_ms: &[i64]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clocks.resize(offsets_ms.len(), 0);
        if inner.clocks == offsets_ms {
            return;
        }
        inner.clocks.copy_from_slice(offsets_ms);
        drop(inner);
        let of = |(at, offset): (usize, &i64)| (format!("n{}", at + 1), Value::Int(*offset));
        let offsets = Value::Map(offsets_ms.iter().enumerate().map(of).collect());
        self.record(Process::Nemesis, Kind::Info, CLOCKS, offsets, Details::default());
    }

    /// How many lines there are of each kind, and the fault that is active.
    pub(crate) fn progress(&self) -> (BTreeMap<&'static str, u64>, String) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.counts.clone(), inner.fault.clone())
    }

    /// The history so far.
    pub(crate) fn history(&self) -> Vec<Operation> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).history.clone()
    }
}
