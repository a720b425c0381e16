//! What the service manager hears of the node: systemd's notifications (sd_notify(3)). Where there
//! is none, all of it goes nowhere.
//!
//! The watchdog is fed by the event loop itself, once in a turn: a loop that is stuck is restarted,
//! one that is busy is not, as it makes turns all the time. Before the node serves, the same call
//! asks for more time to start: to recover takes as long as it takes, and the first node of a new
//! cluster waits for others, but a loop that is stuck by then is restarted too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// A node that does not serve yet asks for so much time...
const START_EXTENSION: Duration = Duration::from_secs(60);
/// ...so often.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
/// The watchdog is fed so many times in its interval.
const FEEDINGS: u32 = 4;
/// A status is never longer, in characters.
const STATUS_LENGTH_MAX: usize = 400;

/// The way to the service manager. Any thread may call; nothing waits.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    /// How often the watchdog is fed; `None` without one.
    feed_every: Option<Duration>,
    told: Mutex<Told>,
}

/// What was said last.
#[derive(Debug, Default)]
struct Told {
    status: String,
    ready: bool,
    fed: Option<Instant>,
    extended: Option<Instant>,
}

impl ServiceManager {
    /// Whatever the environment says is there.
    pub(crate) fn new() -> Arc<Self> {
        let feed_every = sd_notify::watchdog_enabled().map(|interval| interval / FEEDINGS);
        Arc::new(Self { feed_every, told: Mutex::default() })
    }

    /// Says what the node does, if it was not said last.
    pub(crate) fn status(&self, status: &str) {
        let status = one_line(status);
        let mut told = self.told();
        if told.status != status {
            notify(&[NotifyState::Status(&status)]);
            told.status = status;
        }
    }

    /// The event loop has made a turn, or the node recovers.
    pub(crate) fn alive(&self) {
        let now = Instant::now();
        let due = |last: Option<Instant>, every| last.is_none_or(|last| now - last >= every);
        let mut told = self.told();
        if let Some(every) = self.feed_every
            && due(told.fed, every)
        {
            told.fed = Some(now);
            notify(&[NotifyState::Watchdog]);
        }
        if !told.ready && due(told.extended, EXTEND_EVERY) {
            told.extended = Some(now);
            let microseconds = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
            notify(&[NotifyState::ExtendTimeoutUsec(microseconds)]);
        }
    }

    /// The node serves.
    pub(crate) fn ready(&self) {
        let mut told = self.told();
        told.ready = true;
        "serving".clone_into(&mut told.status);
        notify(&[NotifyState::Ready, NotifyState::Status(&told.status)]);
    }

    /// The files are being read again. A node that does not serve yet says nothing: what ends a
    /// reload is also what says that a node serves.
    pub(crate) fn reloading(&self) {
        let mut told = self.told();
        if told.ready
            && let Ok(when) = NotifyState::monotonic_usec_now()
        {
            "reloading".clone_into(&mut told.status);
            notify(&[NotifyState::Reloading, when, NotifyState::Status(&told.status)]);
        }
    }

    /// The files were read, or refused.
    pub(crate) fn reloaded(&self) {
        if self.told().ready {
            self.ready();
        }
    }

    /// The node finishes what is under way, and takes nothing new.
    pub(crate) fn stopping(&self) {
        let mut told = self.told();
        told.ready = true;
        "draining: finishing what is in flight".clone_into(&mut told.status);
        notify(&[NotifyState::Stopping, NotifyState::Status(&told.status)]);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A status is one line: what came after a line's end would be another notification.
fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(STATUS_LENGTH_MAX).collect()
}

/// A manager that cannot be told restarts the node, which is what it is for.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_say_anything_else() {
        assert_eq!(one_line("joining: a\nREADY=1"), "joining: a READY=1");
        assert_eq!(one_line(&"ä".repeat(1_000)).chars().count(), STATUS_LENGTH_MAX);
    }

    #[test]
    fn only_a_node_that_serves_ends_a_reload() {
        let manager = ServiceManager::new();
        manager.status("joining");
        manager.reloading();
        manager.reloaded();
        assert_eq!(manager.told().status, "joining");
        manager.ready();
        manager.reloading();
        assert_eq!(manager.told().status, "reloading");
        manager.reloaded();
        assert_eq!(manager.told().status, "serving");
    }
}
