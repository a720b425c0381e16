//! Execution profiles: how requests are carried out.

use std::time::Duration;

use quoit_protocol::TraceId;
use quoit_ring::Level;
use quoit_session::Retry;

use crate::Session;

/// How long a request may take when nobody says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How requests are carried out: levels, time, tries. What a profile leaves open is taken from the next
/// wider one: a call's handle ([`Table::with_profile`](crate::Table::with_profile)), the client's
/// ([`ClientBuilder::profile`](crate::ClientBuilder::profile)), the table's own options, the defaults.
///
/// ```
/// use std::time::Duration;
/// use quoit_client::{Level, Profile, RetryPolicy};
///
/// // For a page that must come fast, and may be a little old.
/// let fast = Profile::new()
///     .read_level(Level::One)
///     .timeout(Duration::from_millis(200))
///     .retry(RetryPolicy::new().hedge_after(Duration::from_millis(20)));
/// // For money.
/// let safe = Profile::new().write_level(Level::All).retry(RetryPolicy::never());
/// # let _ = (fast, safe);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    pub(crate) read_level: Option<Level>,
    pub(crate) write_level: Option<Level>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) idempotent: Option<bool>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) session: Option<Session>,
    pub(crate) trace: Option<TraceId>,
}

impl Profile {
    /// A profile that leaves everything open.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads with another level than the table's own.
    pub fn read_level(mut self, level: Level) -> Self {
        self.read_level = Some(level);
        self
    }

    /// Writes with another level than the table's own.
    pub fn write_level(mut self, level: Level) -> Self {
        self.write_level = Some(level);
        self
    }

    /// Completes each request within `timeout`, whatever happens (5 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Lets written values expire after `ttl` (whole milliseconds, at least 1) rather than the table's
    /// own time to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Whether a write may be done twice (`false`). Then it is sent again when its outcome is not
    /// known, with one write id, by which the first coordinator recognises it.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// How a request is sent again.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Reads see no less than this session's reads and writes before them; see [`Session`].
    pub fn session(mut self, session: Session) -> Self {
        self.session = Some(session);
        self
    }

    /// Has the nodes tell where each request's time went ([`Service::stages`](crate::Service::stages)) and
    /// name the trace in their logs. For a request now and then: it costs a message from each node.
    ///
    /// ```no_run
    /// # use quoit_client::{Profile, ReadError, Table, TraceId, new_trace_id};
    /// # async fn example(carts: Table) -> Result<(), ReadError> {
    /// let traced = carts.with_profile(&Profile::new().trace(new_trace_id()));
    /// for stage in traced.get("alice").await?.service.stages {
    ///     println!("{} {} {} us", stage.node, stage.kind.name(), stage.took_us);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn trace(mut self, id: TraceId) -> Self {
        self.trace = Some(id);
        self
    }

    /// This profile, and where it leaves something open, the other.
    pub fn or(self, wider: &Self) -> Self {
        Self {
            read_level: self.read_level.or(wider.read_level),
            write_level: self.write_level.or(wider.write_level),
            timeout: self.timeout.or(wider.timeout),
            ttl: self.ttl.or(wider.ttl),
            idempotent: self.idempotent.or(wider.idempotent),
            retry: self.retry.or(wider.retry),
            session: self.session.or_else(|| wider.session.clone()),
            trace: self.trace.or(wider.trace),
        }
    }

    pub(crate) fn timeout_or_default(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    pub(crate) fn ttl_ms(&self) -> Option<u64> {
        self.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
    }
}

/// How often and how soon a request is sent again. Whatever it says, a write is never sent twice
/// unless it is marked idempotent or was certainly not done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    attempts_max: Option<u32>,
    hedge_after: Option<Duration>,
}

impl RetryPolicy {
    /// The default: up to 6 attempts with growing pauses (an idempotent write up to 64), and another
    /// node is asked beside one that has not answered for a third of the timeout, or a second.
    pub fn new() -> Self {
        Self::default()
    }

    /// Each request is sent once.
    pub fn never() -> Self {
        Self::new().attempts_max(1)
    }

    /// At most so many attempts, the first included (at least 1).
    pub fn attempts_max(mut self, count: u32) -> Self {
        self.attempts_max = Some(count.max(1));
        self
    }

    /// Asks another coordinator too where one has not answered for so long. Only of use against a
    /// coordinator that is slow itself: coordinators do the same with slow replicas, sooner. (A write
    /// that is marked idempotent may then be done by both, and in a `siblings` table stand there twice.)
    pub fn hedge_after(mut self, after: Duration) -> Self {
        self.hedge_after = Some(after);
        self
    }
}

impl From<RetryPolicy> for Retry {
    fn from(policy: RetryPolicy) -> Self {
        let microseconds = |after: Duration| u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        Self {
            attempts_max: policy.attempts_max,
            hedge_after_us: policy.hedge_after.map(microseconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_profile_leaves_open_is_the_wider_ones() {
        let wide = Profile::new().read_level(Level::One).timeout(Duration::from_secs(1));
        let narrow = Profile::new().read_level(Level::All).idempotent(true);
        let both = narrow.or(&wide);
        assert_eq!(both.read_level, Some(Level::All));
        assert_eq!(both.write_level, None);
        assert_eq!(both.timeout_or_default(), Duration::from_secs(1));
        assert_eq!(both.idempotent, Some(true));
        assert_eq!(Profile::new().timeout_or_default(), TIMEOUT);
    }
}
