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
/// assert_ne!(fast, safe);
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
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Profile;
    ///
    /// assert_eq!(carts.with_profile(&Profile::new()).levels(), carts.levels());
    /// # Ok(()) });
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads with another level than the table's own.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Level, Profile};
    ///
    /// let fast = carts.with_profile(&Profile::new().read_level(Level::One));
    /// assert_eq!(fast.get("alice").await?.service.level, Level::One);
    /// # Ok(()) });
    /// ```
    pub fn read_level(mut self, level: Level) -> Self {
        self.read_level = Some(level);
        self
    }

    /// Writes with another level than the table's own.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Level, Profile};
    ///
    /// let safe = carts.with_profile(&Profile::new().write_level(Level::All));
    /// assert_eq!(safe.replace("alice", "3 apples").await?.service.level, Level::All);
    /// # Ok(()) });
    /// ```
    pub fn write_level(mut self, level: Level) -> Self {
        self.write_level = Some(level);
        self
    }

    /// Completes each request within `timeout`, whatever happens (5 s).
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Profile, ReadError};
    /// use std::time::Duration;
    ///
    /// let hasty = carts.with_profile(&Profile::new().timeout(Duration::from_micros(1)));
    /// assert!(matches!(hasty.get("alice").await, Err(ReadError::Timeout { .. })));
    /// # Ok(()) });
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Lets written values expire after `ttl` (whole milliseconds, at least 1) rather than the table's
    /// own time to live.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Profile;
    /// use std::time::Duration;
    ///
    /// let brief = carts.with_profile(&Profile::new().ttl(Duration::from_secs(60)));
    /// brief.replace("alice", "3 apples").await?;
    /// assert!(carts.get("alice").await?.siblings[0].expires.is_some());
    /// # Ok(()) });
    /// ```
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Whether a write may be done twice (`false`). Then it is sent again when its outcome is not
    /// known, with one write id, by which the first coordinator recognises it.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Profile;
    ///
    /// // Written once or twice, the cart is the same.
    /// let carts = carts.with_profile(&Profile::new().idempotent(true));
    /// carts.replace("alice", "3 apples").await?;
    /// assert_eq!(carts.get("alice").await?.siblings.len(), 1);
    /// # Ok(()) });
    /// ```
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// How a request is sent again.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Profile, RetryPolicy};
    ///
    /// let once = carts.with_profile(&Profile::new().retry(RetryPolicy::never()));
    /// assert_eq!(once.get("alice").await?.service.trail.attempts, 1);
    /// # Ok(()) });
    /// ```
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Reads see no less than this session's reads and writes before them; see [`Session`].
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Level, Profile, Session};
    ///
    /// let profile = Profile::new().read_level(Level::One).session(Session::new());
    /// let carts = carts.with_profile(&profile);
    /// carts.replace("alice", "3 apples").await?;
    /// assert!(!carts.get("alice").await?.is_absent());
    /// # Ok(()) });
    /// ```
    pub fn session(mut self, session: Session) -> Self {
        self.session = Some(session);
        self
    }

    /// Has the nodes tell where each request's time went ([`Service::stages`](crate::Service::stages)) and
    /// name the trace in their logs. For a request now and then: it costs a message from each node.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Profile, new_trace_id};
    ///
    /// let traced = carts.with_profile(&Profile::new().trace(new_trace_id()));
    /// let stages = traced.get("alice").await?.service.stages;
    /// for stage in &stages {
    ///     println!("{} {} {} us", stage.node, stage.kind.name(), stage.took_us);
    /// }
    /// assert!(!stages.is_empty());
    /// # Ok(()) });
    /// ```
    pub fn trace(mut self, id: TraceId) -> Self {
        self.trace = Some(id);
        self
    }

    /// This profile, and where it leaves something open, the other.
    ///
    /// ```
    /// use quoit_client::{Level, Profile};
    ///
    /// let wide = Profile::new().read_level(Level::One).write_level(Level::One);
    /// let narrow = Profile::new().write_level(Level::All);
    /// assert_eq!(narrow.or(&wide), Profile::new().read_level(Level::One).write_level(Level::All));
    /// ```
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
///
/// ```
/// use quoit_client::{Profile, RetryPolicy};
/// use std::time::Duration;
///
/// let eager = RetryPolicy::new().attempts_max(10).hedge_after(Duration::from_millis(20));
/// assert_ne!(Profile::new().retry(eager), Profile::new().retry(RetryPolicy::never()));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryPolicy {
    attempts_max: Option<u32>,
    hedge_after: Option<Duration>,
}

impl RetryPolicy {
    /// The default: up to 6 attempts with growing pauses (an idempotent write up to 64), and another
    /// node is asked beside one that has not answered for a third of the timeout, or a second. While
    /// the nodes have too much to do, a tenth of the timeout is waited (an idempotent write: all of it).
    ///
    /// ```
    /// use quoit_client::RetryPolicy;
    ///
    /// assert_eq!(RetryPolicy::new(), RetryPolicy::default());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Each request is sent once.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Profile, RetryPolicy};
    ///
    /// let once = carts.with_profile(&Profile::new().retry(RetryPolicy::never()));
    /// assert_eq!(once.replace("alice", "3 apples").await?.service.trail.attempts, 1);
    /// # Ok(()) });
    /// ```
    pub fn never() -> Self {
        Self::new().attempts_max(1)
    }

    /// At most so many attempts, the first included (at least 1).
    ///
    /// ```
    /// use quoit_client::RetryPolicy;
    ///
    /// assert_eq!(RetryPolicy::new().attempts_max(1), RetryPolicy::never());
    /// ```
    pub fn attempts_max(mut self, count: u32) -> Self {
        self.attempts_max = Some(count.max(1));
        self
    }

    /// Asks another coordinator too where one has not answered for so long. Only of use against a
    /// coordinator that is slow itself: coordinators do the same with slow replicas, sooner. (A write
    /// that is marked idempotent may then be done by both, and in a `siblings` table stand there twice.)
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Profile, RetryPolicy};
    /// use std::time::Duration;
    ///
    /// let retry = RetryPolicy::new().hedge_after(Duration::from_millis(20));
    /// let reading = carts.with_profile(&Profile::new().retry(retry)).get("alice").await?;
    /// assert!(reading.service.trail.attempts >= 1);
    /// # Ok(()) });
    /// ```
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
