//! The voter's side of a round: promises and votes, durable before they are told.

use quoit_ring::{ClusterRecord, Epoch, NodeId};
use serde::{Deserialize, Serialize};

use super::{Keeper, VOTE_FILE, write_file};
use quoit_storage::planted::{PlantedBug, is_planted};

use crate::event::{Effect, Effects, Inner, StorageRequest, Tag};
use crate::peer::{Accept, Accepted, Ballot, PeerMessage, Prepare, Promise};

/// What a voter must never forget.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Vote {
    /// The version that is being decided.
    pub epoch: Epoch,
    /// Older ballots are refused.
    pub promised: Ballot,
    /// What was accepted last.
    pub accepted: Option<(Ballot, ClusterRecord)>,
}

impl<O: Clone> Keeper<O> {
    /// Whether this node may vote on that version now; if it is behind or ahead, it says so to the
    /// proposer.
    fn may_vote(&mut self, from: NodeId, epoch: Epoch, effects: &mut Effects) -> bool {
        if epoch <= self.epoch() {
            self.tell_record(from, effects);
            return false;
        }
        // Who is behind does not know who votes, nor what was decided before; and who has lost its
        // votes must not contradict them.
        let next = epoch.0 == self.epoch().0 + 1;
        if next && self.is_named() && self.voters().contains(&self.node) {
            if self.vote.epoch < epoch {
                self.vote = Vote { epoch, ..Vote::default() };
            }
            return true;
        }
        false
    }

    pub(super) fn on_prepare(
        &mut self,
        from: NodeId,
        request: u64,
        prepare: Prepare,
        effects: &mut Effects,
    ) {
        if !self.may_vote(from, prepare.epoch, effects) {
            return;
        }
        if prepare.ballot > self.vote.promised {
            self.vote.promised = prepare.ballot;
            self.vote_unsaved = true;
        }
        self.save_vote(effects);
        let promise = Promise {
            epoch: prepare.epoch,
            ballot: self.vote.promised,
            accepted: self.vote.accepted.clone(),
        };
        self.answer_when_saved(from, request, Box::new(promise).into(), effects);
    }

    pub(super) fn on_accept(
        &mut self,
        from: NodeId,
        request: u64,
        accept: Accept,
        effects: &mut Effects,
    ) {
        let epoch = accept.record.epoch;
        if accept.record.check().is_err()
            || accept.record.cluster != self.genesis.cluster
            || !self.may_vote(from, epoch, effects)
        {
            return;
        }
        let accepted =
            accept.ballot >= self.vote.promised || is_planted(PlantedBug::AcceptAnyBallot);
        if accepted {
            self.vote.promised = accept.ballot;
            self.vote.accepted = Some((accept.ballot, accept.record));
            self.vote_unsaved = true;
        }
        self.save_vote(effects);
        let answer = Accepted { epoch, ballot: self.vote.promised, accepted };
        self.answer_when_saved(from, request, answer.into(), effects);
    }

    /// Asks for the vote to be saved, where it is not being saved as it is.
    fn save_vote(&mut self, effects: &mut Effects) {
        if !std::mem::take(&mut self.vote_unsaved) {
            return;
        }
        self.saves_asked += 1;
        let request = StorageRequest::Save { name: VOTE_FILE, bytes: write_file(&self.vote) };
        effects.push(Effect::ToStorage { tag: Tag::Inner(Inner::Vote), request, until: None });
    }

    /// An answer rests on all that was asked to be saved before it.
    fn answer_when_saved(
        &mut self,
        to: NodeId,
        request: u64,
        message: PeerMessage,
        effects: &mut Effects,
    ) {
        if self.saves_done == self.saves_asked {
            self.send(to, request, message, effects);
        } else {
            self.answers.push_back((self.saves_asked, to, request, message));
        }
    }

    /// The vote is durable as it was when it was handed over; or it is not, and what rests on it is
    /// never told. Who asks again has it saved again.
    pub fn on_vote_saved(
        &mut self,
        result: Result<(), String>,
        now: crate::time::Instant,
        effects: &mut Effects,
        outcomes: &mut Vec<super::Outcome<O>>,
    ) {
        self.saves_done += 1;
        if let Err(reason) = &result {
            self.vote_unsaved = true;
            effects.push(Effect::Note(format!("the vote cannot be saved: {reason}")));
        }
        while let Some((save, ..)) = self.answers.front()
            && *save <= self.saves_done
        {
            let (_, to, request, message) = self.answers.pop_front().expect("just seen");
            if result.is_ok() {
                self.send(to, request, message, effects);
            }
        }
        self.drain_loopback(now, effects);
        self.work_on_changes(now, effects, outcomes);
    }
}
