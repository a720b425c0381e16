//! The proposer's side of a round.

use std::collections::{BTreeMap, BTreeSet};

use quoit_ring::{ClusterRecord, Epoch, NodeId, RingKey, assignment};

use super::Keeper;
use crate::event::{Effect, Effects};
use crate::peer::{Accept, Accepted, Ballot, Decided, Prepare, Promise};
use crate::time::Instant;

/// A try that has not ended by then is begun anew.
const TRY_MS: u64 = 1_000;
/// After a refused try a node waits up to so long.
const BACK_OFF_MS: u64 = 200;
/// Both double with each try in a row that came to nothing, so often at most: where the way is long or
/// many try at once, one of them gets through.
const DOUBLED_MAX: u32 = 4;

/// A try to decide the next version.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) epoch: Epoch,
    pub(super) deadline: Instant,
    ballot: Ballot,
    voters: Vec<NodeId>,
    /// What this node would like; what a voter has accepted before comes first.
    record: ClusterRecord,
    promises: BTreeMap<NodeId, Option<(Ballot, ClusterRecord)>>,
    accepting: bool,
    accepted: BTreeSet<NodeId>,
}

impl Proposal {
    fn is_majority(&self, count: usize) -> bool {
        count > self.voters.len() / 2
    }
}

impl<O: Clone> Keeper<O> {
    /// Proposes the first record: it draws the ring key.
    pub(super) fn propose_first(&mut self, now: Instant, effects: &mut Effects) {
        let ring_key = RingKey(self.random.draw(), self.random.draw());
        let genesis = &self.genesis;
        let record = assignment::initial_record(
            genesis.cluster,
            ring_key,
            genesis.vnodes,
            genesis.replication,
            genesis.members.clone(),
        );
        match record {
            Ok(record) => self.propose(record, now, effects),
            Err(error) => effects.push(Effect::Note(format!(
                "no first record can be made from the initial members: {error}"
            ))),
        }
    }

    /// Begins a round for `record`, the version after the one in force.
    pub(super) fn propose(&mut self, record: ClusterRecord, now: Instant, effects: &mut Effects) {
        self.round_seen += 1;
        let proposal = Proposal {
            epoch: record.epoch,
            deadline: now.plus_ms(TRY_MS << self.failed_tries.min(DOUBLED_MAX)),
            ballot: Ballot { round: self.round_seen, node: self.node.0, nonce: self.random.draw() },
            voters: self.voters(),
            record,
            promises: BTreeMap::new(),
            accepting: false,
            accepted: BTreeSet::new(),
        };
        let prepare = Prepare { epoch: proposal.epoch, ballot: proposal.ballot };
        for voter in proposal.voters.clone() {
            self.send(voter, 0, prepare.clone().into(), effects);
        }
        self.proposal = Some(proposal);
    }

    pub(super) fn on_promise(
        &mut self,
        from: NodeId,
        promise: Promise,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.round_seen = self.round_seen.max(promise.ballot.round);
        let Some(proposal) = &mut self.proposal else { return };
        if proposal.accepting || promise.epoch != proposal.epoch || !proposal.voters.contains(&from)
        {
            return;
        }
        if promise.ballot > proposal.ballot {
            self.back_off(now);
            return;
        }
        if promise.ballot < proposal.ballot {
            return;
        }
        proposal.promises.insert(from, promise.accepted);
        if !proposal.is_majority(proposal.promises.len()) {
            return;
        }
        proposal.accepting = true;
        let before = proposal.promises.values().flatten().max_by_key(|(ballot, _)| *ballot);
        if let Some((_, record)) = before {
            proposal.record = record.clone();
        }
        let accept = Accept { ballot: proposal.ballot, record: proposal.record.clone() };
        for voter in proposal.voters.clone() {
            self.send(voter, 0, Box::new(accept.clone()).into(), effects);
        }
    }

    pub(super) fn on_accepted(
        &mut self,
        from: NodeId,
        accepted: Accepted,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.round_seen = self.round_seen.max(accepted.ballot.round);
        let Some(proposal) = &mut self.proposal else { return };
        if !proposal.accepting
            || accepted.epoch != proposal.epoch
            || !proposal.voters.contains(&from)
        {
            return;
        }
        if accepted.ballot > proposal.ballot {
            self.back_off(now);
            return;
        }
        // A refusal of an earlier try may name this try's ballot, to which the voter has promised.
        if accepted.ballot < proposal.ballot || !accepted.accepted {
            return;
        }
        proposal.accepted.insert(from);
        if !proposal.is_majority(proposal.accepted.len()) {
            return;
        }
        let record = proposal.record.clone();
        self.proposal = None;
        let members: Vec<NodeId> = record.members.iter().map(|member| member.id).collect();
        for member in members {
            let decided = Box::new(Decided { record: record.clone() });
            self.send(member, 0, decided.into(), effects);
        }
    }

    /// Gives the try up; another follows after a while.
    pub(super) fn back_off(&mut self, now: Instant) {
        self.proposal = None;
        let wait = 20 + self.random.below(BACK_OFF_MS << self.failed_tries.min(DOUBLED_MAX));
        self.failed_tries = self.failed_tries.saturating_add(1);
        self.propose_at = Some(now.plus_ms(wait));
    }
}
