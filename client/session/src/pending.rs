//! An operation that is under way.

use quoit_protocol::{Failure, Stage, WriteId};
use quoit_ring::{NodeId, Token, VnodeIndex};

use crate::{Instant, LinkId, Operation, OperationId, Trail};

/// At most so often an operation is sent, unless it says otherwise.
pub(crate) const ATTEMPTS_MAX: u32 = 6;
/// A write that may be done twice is sent more often, with pauses: half a minute, if its deadline is later.
const PATIENT_ATTEMPTS_MAX: u32 = 64;
/// An attempt that is unanswered for so long is tried elsewhere, where that is allowed...
const ATTEMPT_TIMEOUT_US_MAX: u64 = 1_000_000;
/// ... or for this part of the time that the operation has in all.
const ATTEMPTS_IN_A_DEADLINE: u64 = 3;
/// While nodes have too much to do, an operation waits for its turn for this part of the time that it has.
const WAITS_IN_A_DEADLINE: u64 = 10;

/// What an operation waits for, besides its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// For the record, or for a connection to any node that could be asked.
    Waiting,
    /// For answers.
    InFlight,
    /// For a moment, before it is sent again; and not even that long once a newer record is known,
    /// where that is what it lacks.
    BackingOff { wants_record: bool },
    /// For its turn to be sent to one of the nodes in `held_by`, which have as much to answer as they take.
    Held,
}

/// One request on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) operation: OperationId,
    pub(crate) node: NodeId,
    pub(crate) link: LinkId,
    pub(crate) sent: Instant,
    /// Whether it was held against the node that it is not answered.
    pub(crate) has_struck: bool,
}

/// Where a key lies; the same for a cluster's whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// `None` for an export, which reads a whole virtual node.
    pub(crate) token: Option<Token>,
    pub(crate) vnode: VnodeIndex,
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) what: Operation,
    pub(crate) submitted: Instant,
    pub(crate) timer: Instant,
    pub(crate) phase: Phase,
    /// Its place on the ring, once that was computed.
    pub(crate) place: Option<Place>,
    /// Names a write that may be sent again; drawn with the first attempt.
    pub(crate) write_id: Option<WriteId>,
    /// The attempts that are unanswered.
    pub(crate) open: Vec<u64>,
    /// The nodes that were asked.
    pub(crate) tried: Vec<NodeId>,
    /// The nodes in whose windows it waits for its turn.
    pub(crate) held_by: Vec<NodeId>,
    /// A write goes to this coordinator again if it can: it knows the write's id.
    pub(crate) prefer: Option<NodeId>,
    /// How many attempts of a write may be done now or later.
    pub(crate) uncertain: u32,
    /// How many replicas are known to have acknowledged, and how many were needed.
    pub(crate) acknowledged: u8,
    pub(crate) required: u8,
    pub(crate) failure: Option<Box<Failure>>,
    /// Whether an answer was damaged.
    pub(crate) damaged: bool,
    /// Where the time went, as told before the answer.
    pub(crate) stages: Vec<Stage>,
    pub(crate) trail: Trail,
}

impl Pending {
    pub(crate) fn new(now: Instant, what: Operation) -> Self {
        Self {
            submitted: now,
            timer: what.deadline,
            what,
            phase: Phase::Waiting,
            place: None,
            write_id: None,
            open: Vec::new(),
            tried: Vec::new(),
            held_by: Vec::new(),
            prefer: None,
            uncertain: 0,
            acknowledged: 0,
            required: 0,
            failure: None,
            damaged: false,
            stages: Vec::new(),
            trail: Trail::default(),
        }
    }

    /// How long an attempt may be unanswered before another is made.
    pub(crate) fn attempt_timeout_us(&self) -> u64 {
        let whole = self.what.deadline.since_us(self.submitted);
        let usual = (whole / ATTEMPTS_IN_A_DEADLINE).min(ATTEMPT_TIMEOUT_US_MAX);
        self.what.retry.hedge_after_us.unwrap_or(usual).max(1)
    }

    /// Somebody wants it done, however long that takes.
    fn is_patient(&self) -> bool {
        self.what.request.is_write() && self.what.request.is_repeatable()
    }

    /// How long it waits for nodes that have too much to do.
    pub(crate) fn waits_until(&self) -> Instant {
        if self.is_patient() {
            return self.what.deadline;
        }
        let whole = self.what.deadline.since_us(self.submitted);
        self.submitted.plus_us(whole / WAITS_IN_A_DEADLINE)
    }

    pub(crate) fn may_wait_and_try_again(&self) -> bool {
        let usual = if self.is_patient() { PATIENT_ATTEMPTS_MAX } else { ATTEMPTS_MAX };
        self.trail.attempts < self.what.retry.attempts_max.unwrap_or(usual)
    }

    /// Whether another attempt may be made beside one that is still out.
    pub(crate) fn may_try_again(&self) -> bool {
        self.trail.attempts < self.what.retry.attempts_max.unwrap_or(ATTEMPTS_MAX)
    }

    /// When an attempt that is made now should be given company.
    pub(crate) fn next_timer(&self, now: Instant) -> Instant {
        if self.what.request.is_hedged() && self.may_try_again() {
            now.plus_us(self.attempt_timeout_us())
        } else {
            self.what.deadline
        }
    }
}
