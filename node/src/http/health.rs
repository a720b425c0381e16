//! What a node says of its own health, and the pages that show it: `/healthz` and `/readyz`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;

use super::response::{self, Response};

/// The event loop is taken for stuck when it has been silent for so long.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(10);

/// What a node says of itself; shared by an `Arc`.
#[derive(Debug)]
pub struct NodeHealth {
    started: Instant,
    /// Microseconds from `started` to the last heartbeat; 0 before the first.
    heartbeat: AtomicU64,
    /// Why the node does not serve; empty where it does.
    unready: Mutex<Vec<String>>,
}

impl NodeHealth {
    /// A node that is starting: it lives and does not serve.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            heartbeat: AtomicU64::new(0),
            unready: Mutex::new(vec!["starting".to_owned()]),
        })
    }

    /// The event loop calls this in every round, at least every few seconds.
    pub fn heartbeat(&self) {
        let age = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.heartbeat.store(age.max(1), Ordering::Relaxed);
    }

    /// The node serves.
    pub fn set_ready(&self) {
        self.replace(Vec::new());
    }

    /// The node does not serve, for these reasons (at least one).
    ///
    /// # Panics
    /// Without a reason: people must be told one.
    pub fn set_unready(&self, reasons: Vec<String>) {
        assert!(!reasons.is_empty(), "a node that does not serve has a reason");
        self.replace(reasons);
    }

    /// Why the node does not serve now; empty where it does.
    pub fn unready_reasons(&self) -> Vec<String> {
        let mut reasons = self.unready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        reasons.extend(self.stuck());
        reasons
    }

    /// That the event loop is stuck, if it is. One that has not begun yet is not.
    pub fn stuck(&self) -> Option<String> {
        let heartbeat = self.heartbeat.load(Ordering::Relaxed);
        if heartbeat == 0 {
            return None;
        }
        let age = self.started.elapsed().saturating_sub(Duration::from_micros(heartbeat));
        (age > HEARTBEAT_AGE_MAX)
            .then(|| format!("the event loop has been silent for {:.1} s", age.as_secs_f64()))
    }

    fn replace(&self, reasons: Vec<String>) {
        *self.unready.lock().unwrap_or_else(PoisonError::into_inner) = reasons;
    }
}

/// `/healthz`: whether the process does anything at all.
pub(super) fn healthz(health: &NodeHealth) -> Response {
    match health.stuck() {
        None => response::text(StatusCode::OK, "alive\n"),
        Some(reason) => response::text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// `/readyz`: whether the node serves.
pub(super) fn readyz(health: &NodeHealth) -> Response {
    let reasons = health.unready_reasons();
    if reasons.is_empty() {
        return response::text(StatusCode::OK, "ready\n");
    }
    response::text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_event_loop_is_neither_alive_nor_ready() {
        let past = Instant::now().checked_sub(Duration::from_secs(60)).expect("an old clock");
        let health = NodeHealth {
            started: past,
            heartbeat: AtomicU64::new(0),
            unready: Mutex::new(Vec::new()),
        };
        // A long start is not taken for a stuck loop.
        assert_eq!(health.stuck(), None);
        health.heartbeat.store(1_000_000, Ordering::Relaxed);
        assert!(health.stuck().is_some_and(|reason| reason.contains("silent for 59")));
        assert_eq!(health.unready_reasons().len(), 1);
        health.heartbeat();
        assert_eq!(health.stuck(), None);
    }
}
