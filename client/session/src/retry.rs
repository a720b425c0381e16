//! What did not go well: which attempts are made again, and how an operation fails.
//!
//! The rule for writes: each attempt that was handed to a connection is uncertain until a node says
//! that it is certainly not done. While one is uncertain, only a write that may be done twice is
//! sent again, and no end but success or "unknown" is reported.

use quoit_protocol::{Failure, FailureCode};
use quoit_ring::{HybridTime, NodeId};

use crate::pending::{Attempt, Phase};
use crate::{Effect, Instant, LinkFailure, LinkId, OperationError, OperationId, Request, Session};

/// The pauses before an operation is sent again: doubled each time, up to a bound.
const PAUSE_US_MIN: u64 = 4_000;
const PAUSE_US_MAX: u64 = 500_000;
/// A node that refuses for now is put last for at least this long.
const REFUSAL_US_MIN: u64 = 10_000;
const NOT_SERVING_US: u64 = 250_000;
/// An unanswered attempt counts against its node once it is this old.
const STRIKE_AGE_US_MIN: u64 = 250_000;

impl Session {
    /// A node answered with a failure; the attempt is closed.
    pub(crate) fn on_failure(
        &mut self,
        now: Instant,
        id: OperationId,
        node: NodeId,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let is_write = pending.what.request.is_write();
        pending
            .trail
            .note(Some(node), format!("refused ({:?}): {}", failure.code, failure.message));
        if failure.code == FailureCode::TimeAhead {
            // A node with a wrong clock has told it. Writes of strict quorums stay in their order without.
            self.time = failure.time;
        }
        let in_doubt = is_write && failure.unknown;
        if is_write && !failure.unknown {
            pending.uncertain -= 1;
        }
        if in_doubt {
            pending.acknowledged = pending.acknowledged.max(failure.answered);
            pending.required = pending.required.max(failure.required);
            pending.prefer = Some(node);
        }
        let again = if in_doubt {
            pending.what.request.is_repeatable()
        } else {
            is_passing(failure.code, &pending.what.request)
        };
        let (code, retry_after_us) = (failure.code, u64::from(failure.retry_after_ms) * 1_000);
        pending.failure = Some(Box::new(failure));
        let wants_record =
            matches!(code, FailureCode::WrongConfiguration | FailureCode::UnknownTable);
        if wants_record {
            self.ask_record(node, effects);
        }
        let is_of_keys = self.operations[&id].place.is_some();
        self.hold_against(now, node, code, retry_after_us, is_of_keys);
        if again {
            self.back_off(now, id, retry_after_us, wants_record, effects);
        } else {
            self.end(id, effects);
        }
    }

    /// Puts a node last for a while that says it cannot serve now; and asks one for less at once that says
    /// it has too much to do.
    fn hold_against(
        &mut self,
        now: Instant,
        node: NodeId,
        code: FailureCode,
        retry_us: u64,
        is_of_keys: bool,
    ) {
        let Some(peer) = self.peers.node_mut(node) else {
            return;
        };
        match code {
            FailureCode::Overloaded if is_of_keys => {
                peer.refused(now, retry_us.max(REFUSAL_US_MIN));
            }
            FailureCode::Overloaded => peer.avoid(now, retry_us.max(REFUSAL_US_MIN)),
            FailureCode::NotServing => peer.avoid(now, retry_us.max(NOT_SERVING_US)),
            _ => {}
        }
    }

    /// A node answered with a value that does not match its checksum; the attempt is closed.
    pub(crate) fn on_damaged(
        &mut self,
        now: Instant,
        id: OperationId,
        node: NodeId,
        effects: &mut Vec<Effect>,
    ) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        pending.damaged = true;
        self.on_useless(now, id, node, "answered with a damaged value", effects);
    }

    /// A node's answer was of no use, but another's may be; the attempt is closed.
    pub(crate) fn on_useless(
        &mut self,
        now: Instant,
        id: OperationId,
        node: NodeId,
        what: &str,
        effects: &mut Vec<Effect>,
    ) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        pending.trail.note(Some(node), what);
        self.back_off(now, id, 0, false, effects);
    }

    /// Sends an operation again after a pause, if it has attempts and time left.
    fn back_off(
        &mut self,
        now: Instant,
        id: OperationId,
        retry_after_us: u64,
        wants_record: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.release(id);
        let pending = &self.operations[&id];
        let doublings = pending.trail.attempts.saturating_sub(1).min(16);
        let mut pause_us = self.random.jitter_us((PAUSE_US_MIN << doublings).min(PAUSE_US_MAX));
        let mut up = self.peers.nodes.values().filter(|peer| peer.up().is_some());
        if up.all(|peer| now < peer.avoid_until.max(peer.window.refused_until)) {
            // There is no other node that would be glad of it. Not all come back at once.
            let spread_us = self.random.below(retry_after_us / 2 + 1);
            pause_us = pause_us.max(retry_after_us + spread_us);
        }
        let until = now.plus_us(pause_us);
        let may_wait_until = match &pending.failure {
            Some(failure) if failure.code == FailureCode::Overloaded => pending.waits_until(),
            _ => pending.what.deadline,
        };
        if !pending.may_wait_and_try_again() || until >= may_wait_until {
            self.end(id, effects);
            return;
        }
        let pending = self.operations.get_mut(&id).expect("it was looked up above");
        pending.phase = Phase::BackingOff { wants_record };
        self.set_operation_timer(id, until);
    }

    /// Ends an operation that has waited for its turn for as long as it may.
    pub(crate) fn refuse(&mut self, now: Instant, id: OperationId, effects: &mut Vec<Effect>) {
        self.note_overload(now, id);
        self.end(id, effects);
    }

    /// An operation has not had its turn. One of which an attempt is out may be answered all the same.
    fn note_overload(&mut self, now: Instant, id: OperationId) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let waited_ms = now.since_us(pending.submitted) / 1_000;
        pending.trail.note(None, format!("waited {waited_ms} ms for its turn"));
        if !pending.open.is_empty() {
            return;
        }
        let overloaded = "the nodes have more to do than they take: come back later";
        pending.failure = Some(Box::new(not_asked(FailureCode::Overloaded, overloaded.to_owned())));
    }

    /// Ends an operation that is not sent again; but while an attempt is out, it may still answer.
    fn end(&mut self, id: OperationId, effects: &mut Vec<Effect>) {
        self.release(id);
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        // A read that breaks a rule breaks it everywhere.
        let is_invalid = !pending.what.request.is_write()
            && pending.failure.as_ref().is_some_and(|failure| failure.code == FailureCode::Invalid);
        if !pending.open.is_empty() && !is_invalid {
            let deadline = pending.what.deadline;
            pending.phase = Phase::InFlight;
            self.set_operation_timer(id, deadline);
            return;
        }
        let error = if let Some(failure) = pending.failure.take() {
            OperationError::Refused { failure: *failure, trail: pending.trail.clone() }
        } else if pending.damaged {
            OperationError::Damaged { trail: pending.trail.clone() }
        } else if pending.what.request.only_node().is_some() {
            OperationError::Unreachable { trail: pending.trail.clone() }
        } else {
            OperationError::Timeout { trail: pending.trail.clone() }
        };
        self.fail(id, error, effects);
    }

    /// Fails an operation, or reports it as unknown if it may be done nonetheless.
    pub(crate) fn fail(
        &mut self,
        id: OperationId,
        error: OperationError,
        effects: &mut Vec<Effect>,
    ) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let error = if pending.uncertain > 0 {
            let trail = std::mem::take(&mut pending.trail);
            let (acknowledged, required) = (pending.acknowledged, pending.required);
            OperationError::Unknown { acknowledged, required, trail }
        } else {
            error
        };
        self.complete(id, None, Err(error), effects);
    }

    /// The deadline: whatever is known now is the end.
    pub(crate) fn on_deadline(&mut self, now: Instant, id: OperationId, effects: &mut Vec<Effect>) {
        for request in self.operations[&id].open.clone() {
            self.note_unanswered(now, request);
        }
        if self.operations[&id].phase == Phase::Held {
            self.note_overload(now, id);
        }
        let pending = &self.operations[&id];
        if pending.trail.attempts == 0 && !self.peers.any_node_is_up() {
            self.fail_unreachable(id, effects);
            return;
        }
        let pending = self.operations.get_mut(&id).expect("it was looked up above");
        let trail = pending.trail.clone();
        let error = match pending.failure.take() {
            // It tells more than that time ran out.
            Some(failure)
                if matches!(failure.code, FailureCode::Unavailable | FailureCode::Overloaded) =>
            {
                OperationError::Refused { failure: *failure, trail }
            }
            _ if pending.damaged => OperationError::Damaged { trail },
            _ => OperationError::Timeout { trail },
        };
        self.fail(id, error, effects);
    }

    /// An attempt has been out for long: another node is asked, and the first may still answer.
    pub(crate) fn on_attempt_timeout(
        &mut self,
        now: Instant,
        id: OperationId,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(&request) = self.operations[&id].open.last() {
            self.note_unanswered(now, request);
        }
        let open = self.operations[&id].open.len();
        self.dispatch(now, id, effects);
        // Where nobody else can be asked it goes on waiting for the answers that are due.
        if let Some(pending) = self.operations.get_mut(&id)
            && pending.open.len() == open
            && open > 0
        {
            pending.phase = Phase::InFlight;
            let timer = pending.next_timer(now);
            self.set_operation_timer(id, timer);
        }
    }

    fn note_unanswered(&mut self, now: Instant, request: u64) {
        let attempt = self.attempts[&request];
        let age_us = now.since_us(attempt.sent);
        let pending =
            self.operations.get_mut(&attempt.operation).expect("attempts end with theirs");
        pending
            .trail
            .note(Some(attempt.node), format!("did not answer within {} ms", age_us / 1_000));
        if age_us >= STRIKE_AGE_US_MIN
            && !attempt.has_struck
            && let Some(peer) = self.peers.node_mut(attempt.node)
        {
            peer.strike(now);
            self.attempts.get_mut(&request).expect("it was looked up above").has_struck = true;
        }
    }

    /// A connection is gone: what was sent over it will not be answered.
    pub(crate) fn fail_attempts(
        &mut self,
        now: Instant,
        link: LinkId,
        what: &str,
        effects: &mut Vec<Effect>,
    ) {
        let lost: Vec<(u64, Attempt)> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.link == link)
            .map(|(&request, &attempt)| (request, attempt))
            .collect();
        for (request, attempt) in lost {
            // Ending one operation ends all of its attempts.
            if !self.attempts.contains_key(&request) {
                continue;
            }
            self.close_attempt(request);
            let id = attempt.operation;
            let pending = self.operations.get_mut(&id).expect("attempts end with theirs");
            pending.trail.note(Some(attempt.node), format!("was lost: {what}"));
            let elsewhere =
                pending.what.request.is_repeatable() && pending.what.request.only_node().is_none();
            if !elsewhere || !pending.may_try_again() {
                self.end(id, effects);
            } else if pending.phase == Phase::InFlight && pending.open.is_empty() {
                self.dispatch(now, id, effects);
            }
        }
    }

    /// A request was certainly not handed to its connection, whose queue is full.
    pub(crate) fn on_not_sent(
        &mut self,
        now: Instant,
        link: LinkId,
        request: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(attempt) = self.attempts.get(&request).copied() else {
            return; // Over in the meantime.
        };
        assert_eq!(attempt.link, link, "a request belongs to one connection");
        self.close_attempt(request);
        if let Some(peer) = self.peers.node_mut(attempt.node) {
            peer.refused(now, REFUSAL_US_MIN);
        }
        let id = attempt.operation;
        let pending = self.operations.get_mut(&id).expect("attempts end with theirs");
        if pending.what.request.is_write() {
            pending.uncertain -= 1;
        }
        let what = "was not asked: the queue of its connection is full";
        self.on_useless(now, id, attempt.node, what, effects);
    }

    /// Ends all that waits for a node, once no node will ever have us; and a question for one
    /// node's status once that one cannot be reached.
    pub(crate) fn fail_hopeless(&mut self, effects: &mut Vec<Effect>) {
        let hopeless = self.peers.are_hopeless();
        for id in self.waiting() {
            let only = self.operations[&id].what.request.only_node();
            let peer = only.and_then(|node| self.peers.nodes.get(&node));
            let alone = peer.is_some_and(|peer| peer.link().is_none());
            if hopeless || alone {
                self.fail_unreachable(id, effects);
            }
        }
    }

    /// Fails an operation for want of a node, naming what came of each connection.
    pub(crate) fn fail_unreachable(&mut self, id: OperationId, effects: &mut Vec<Effect>) {
        let pending = self.operations.get_mut(&id).expect("the operation is under way");
        let only = pending.what.request.only_node();
        let mut forbidden = None;
        for (node, peer) in self.peers.all() {
            if only.is_some() && node != only {
                continue;
            }
            if let Some(problem) = &peer.problem {
                pending.trail.note(node, format!("at {}: {problem}", peer.address));
            }
            if let Some(LinkFailure::Forbidden(text)) = &peer.problem {
                forbidden = Some(text.clone());
            }
        }
        let trail = pending.trail.clone();
        let error = match forbidden {
            Some(message) => {
                let failure = not_asked(FailureCode::Forbidden, message);
                OperationError::Refused { failure, trail }
            }
            None => OperationError::Unreachable { trail },
        };
        self.fail(id, error, effects);
    }
}

/// What a node would have said of a request, as it has said it before.
fn not_asked(code: FailureCode, message: String) -> Failure {
    Failure {
        code,
        unknown: false,
        answered: 0,
        required: 0,
        retry_after_ms: 0,
        message,
        time: HybridTime::ZERO,
    }
}

/// Whether a request that was certainly not done may be better off elsewhere, or a little later.
fn is_passing(code: FailureCode, request: &Request) -> bool {
    if request.only_node().is_some() {
        return false;
    }
    match code {
        FailureCode::WrongConfiguration
        | FailureCode::Overloaded
        | FailureCode::NotServing
        | FailureCode::TimeAhead
        | FailureCode::Conflict => true,
        // The node's record may be behind ours: if ours has the table, another is asked.
        FailureCode::UnknownTable => request.table().is_some(),
        // A write that may be done twice is one that somebody wants done: replicas come back.
        FailureCode::Unavailable => request.is_repeatable(),
        FailureCode::Invalid
        | FailureCode::TooManySiblings
        | FailureCode::Protocol
        | FailureCode::Forbidden => false,
    }
}
