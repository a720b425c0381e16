//! The client's session: everything that a client decides, without doing any of it.
//!
//! [`Session::handle`] takes an [`Event`] (an operation is submitted, a connection opened, an
//! answer came, time passed) and appends [`Effect`]s (open a connection, send a request, complete
//! an operation). The async library and the simulator run the same session; neither decides
//! anything of its own. No clock, no randomness, no task lives here: `now` and the seed are handed
//! in.
//!
//! What it keeps (Dynamo, section 6.4, the client-driven coordination):
//! - an operation completes exactly once, at its deadline at the latest;
//! - a write that may have been done is never reported as not done, and never sent twice unless it
//!   was marked idempotent;
//! - a value is handed out only with the checksum that its writer gave it;
//! - a node that refuses is asked no more at once than it takes: the rest waits here, oldest first, for a tenth
//!   of its time at most (an idempotent write: for all of it).

mod answer;
mod check;
mod link;
mod operation;
mod peer;
mod pending;
mod random;
mod record;
mod retry;
mod routing;
mod session;
mod trail;
mod window;

pub use operation::{Answer, Operation, OperationError, OperationId, Request, Retry, Service};
pub use random::Seed;
pub use session::{Configuration, Effect, Event, LinkFailure, LinkId, Session};
pub use trail::{Trail, TrailEntry};

/// A moment on the driver's monotonic clock, in microseconds since a start of its choosing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// This moment and so many microseconds more, saturating.
    pub fn plus_us(self, microseconds: u64) -> Self {
        Self(self.0.saturating_add(microseconds))
    }

    /// The microseconds from `earlier` to this moment; 0 if it is not earlier.
    pub fn since_us(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
