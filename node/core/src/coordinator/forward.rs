//! A write that is handed on: this node is no primary of its key, so a primary coordinates it. It is
//! handed on once, and never to a second node: that would be a second write.

use quoit_protocol::{Failure, FailureCode, Written};
use quoit_ring::NodeId;

use super::write::Progress;
use crate::operation::{Origin, not_done};
use crate::time::Instant;
use crate::turn::Turn;

/// A write that was handed on to a primary.
#[derive(Debug)]
pub(crate) struct ForwardOperation {
    pub(crate) origin: Origin,
    pub(crate) to: NodeId,
    pub(crate) deadline: Instant,
}

impl ForwardOperation {
    /// When [`ForwardOperation::on_wake`] is to be called.
    pub(crate) fn wake(&self) -> Instant {
        self.deadline
    }

    /// The primary has answered; what others say is nothing to this write.
    pub(crate) fn on_forwarded(
        &mut self,
        from: NodeId,
        result: Result<Written, Failure>,
        turn: &mut Turn<'_>,
    ) -> Progress {
        if from != self.to {
            return Progress::Continue;
        }
        match result {
            Ok(written) => turn.reply(self.origin, written.into()),
            Err(failure) => turn.refuse(self.origin, failure),
        }
        Progress::Done
    }

    /// The connection to a peer is gone: if it was the primary's, its answer is lost.
    pub(crate) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) -> Progress {
        if node != self.to {
            return Progress::Continue;
        }
        turn.refuse(self.origin, lost(self.to));
        Progress::Done
    }

    /// The deadline has come.
    pub(crate) fn on_wake(&mut self, turn: &mut Turn<'_>) -> Progress {
        if turn.instant() < self.deadline {
            return Progress::Continue;
        }
        turn.refuse(self.origin, lost(self.to));
        Progress::Done
    }
}

fn lost(to: NodeId) -> Failure {
    Failure {
        unknown: true,
        ..not_done(
            FailureCode::Unavailable,
            format!(
                "the write was handed on to {to}, which has not answered; the outcome is unknown: \
                 it may be there now or later"
            ),
        )
    }
}
