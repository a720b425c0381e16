//! The cluster record: how a node keeps it, and how the next version is decided.
//!
//! Version e + 1 is decided once, by a single-decree Paxos round (Lamport, "Paxos Made Simple",
//! 2001) among the voters of version e; version 1 among those of the list of initial members. Any
//! member may propose. A vote and a record are durable before anybody hears of them. Gossip and
//! pings spread the news of a version; the record itself is asked of whoever has it.
//!
//! **Who lost its votes.** A node that lost what it held does not know what it promised, and to vote
//! again could undo it. It may have voted only on what came after a record that it followed. So it
//! proposes, as any member may, a record that names its new incarnation; the other voters decide it,
//! or any that comes before it. No record that the node had followed before the loss names that, so on what comes after
//! one that does it has never voted: from there on it votes.

mod acceptor;
mod proposer;

use std::collections::VecDeque;

use bytes::Bytes;
use quoit_protocol::{SharedRecord, TableChange};
use quoit_ring::{ClusterRecord, Epoch, NodeId, Table, VOTERS_MAX};
use serde::Serialize;

pub use acceptor::Vote;

use crate::event::{Effect, Effects, Inner, StorageRequest, Tag};
use crate::handshake::{Genesis, record_hash};
use crate::peer::{AskRecord, Decided, PeerMessage};
use crate::random::Random;
use crate::time::Instant;
use proposer::Proposal;

/// The small file with the record.
pub const RECORD_FILE: &str = "record";
/// The small file with the vote.
pub const VOTE_FILE: &str = "vote";
/// At most so many changes of the tables wait at a node.
const CHANGES_MAX: usize = 64;
/// At most so many tables.
const TABLES_MAX: usize = 1_024;
/// A newer record is asked for at most so often.
const ASK_EVERY_MS: u64 = 200;

/// What a client or the node itself waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingChange<O> {
    /// Who asked.
    pub origin: O,
    /// For what.
    pub change: TableChange,
    /// Until when.
    pub deadline: Instant,
    /// Whether this node has put it into a proposal.
    proposed: bool,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeResult {
    /// The record says so now.
    Done,
    /// It can never be done.
    Invalid(String),
    /// No table of that name.
    UnknownTable,
    /// Time ran out: it may be done later all the same.
    Unknown,
    /// Too many changes wait.
    Overloaded,
}

/// Keeps the record. `O` names who asked for a change.
#[derive(Debug)]
pub struct Keeper<O> {
    node: NodeId,
    genesis: Genesis,
    current: Option<SharedRecord>,
    current_hash: u64,
    /// Decided, and being made durable; in the order of their saves.
    adopting: VecDeque<ClusterRecord>,
    vote: Vote,
    /// Answers that wait for the vote's durability, oldest first, with the save each waits for.
    answers: VecDeque<(u64, NodeId, u64, PeerMessage)>,
    saves_asked: u64,
    saves_done: u64,
    proposal: Option<Proposal>,
    /// The greatest round that was seen refused: the next try goes beyond it.
    round_seen: u64,
    propose_at: Option<Instant>,
    /// Tries in a row that came to nothing.
    failed_tries: u32,
    changes: VecDeque<PendingChange<O>>,
    asked_at: Option<Instant>,
    random: Random,
    /// Messages to this very node.
    loopback: VecDeque<PeerMessage>,
    /// The vote differs from what the disk is known to hold or being given.
    vote_unsaved: bool,
    /// The incarnation under which this node votes, 0 for one that never lost anything; `None` until
    /// it knows.
    votes_as: Option<u64>,
}

/// What must be kept beside the record for a restart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RecordState {
    /// The record, if one was ever decided.
    pub record: Option<ClusterRecord>,
    /// The last vote.
    pub vote: Vote,
}

/// A small file that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the file {file} in the data directory does not hold what it should ({reason}): put back the file as it was when the node last ran; without it the node must stay off, as it may have promised or voted for what it would contradict"
)]
pub struct StateError {
    file: &'static str,
    reason: String,
}

impl RecordState {
    /// Reads the two small files' bytes.
    pub fn read(record: Option<&[u8]>, vote: Option<&[u8]>) -> Result<Self, StateError> {
        let record: Option<ClusterRecord> = read_file(RECORD_FILE, record)?;
        if let Some(record) = &record {
            record
                .check()
                .map_err(|error| StateError { file: RECORD_FILE, reason: error.to_string() })?;
        }
        let vote: Option<Vote> = read_file(VOTE_FILE, vote)?;
        Ok(Self { record, vote: vote.unwrap_or_default() })
    }
}

pub(crate) fn read_file<T: serde::de::DeserializeOwned>(
    file: &'static str,
    bytes: Option<&[u8]>,
) -> Result<Option<T>, StateError> {
    bytes
        .map(|bytes| {
            quoit_protocol::decode(bytes)
                .map_err(|error| StateError { file, reason: error.to_string() })
        })
        .transpose()
}

pub(crate) fn write_file(value: &impl Serialize) -> Bytes {
    rmp_serde::to_vec(value).expect("plain data always encodes").into()
}

/// What a message or a deadline led to, for the node to act on.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<O> {
    /// A newer record is in force.
    NewRecord,
    /// A change ended.
    Change(O, ChangeResult),
}

impl<O: Clone> Keeper<O> {
    /// A keeper that goes on from what the disk holds.
    pub fn new(
        node: NodeId,
        genesis: Genesis,
        state: RecordState,
        mut random: Random,
        now: Instant,
    ) -> Self {
        // Lower ids try first, so that a new cluster's members seldom get in each other's way.
        let rank = genesis.members.iter().take_while(|member| member.id < node).count() as u64;
        let first_try = now.plus_ms(100 + 400 * rank + random.below(100));
        let current_hash = state.record.as_ref().map_or(0, record_hash);
        Self {
            node,
            propose_at: state.record.is_none().then_some(first_try),
            failed_tries: 0,
            genesis,
            current: state.record.map(SharedRecord::from),
            current_hash,
            adopting: VecDeque::new(),
            vote: state.vote,
            answers: VecDeque::new(),
            saves_asked: 0,
            saves_done: 0,
            proposal: None,
            round_seen: 0,
            changes: VecDeque::new(),
            asked_at: None,
            random,
            loopback: VecDeque::new(),
            vote_unsaved: false,
            votes_as: None,
        }
    }

    /// The record in force.
    pub fn current(&self) -> Option<&ClusterRecord> {
        self.current.as_deref()
    }

    /// The same, as clients are told it.
    pub fn told(&self) -> Option<&SharedRecord> {
        self.current.as_ref()
    }

    /// The version in force, 0 where there is none.
    pub fn epoch(&self) -> Epoch {
        self.current.as_ref().map_or(Epoch(0), |record| record.epoch)
    }

    /// The hash of the record in force, 0 where there is none.
    pub fn hash(&self) -> u64 {
        self.current_hash
    }

    /// Tells under which incarnation this node votes: 0 for one that never lost anything, `None`
    /// where that is not known (any more).
    pub fn set_votes_as(
        &mut self,
        votes_as: Option<u64>,
        now: Instant,
        effects: &mut Effects,
        outcomes: &mut Vec<Outcome<O>>,
    ) {
        self.votes_as = votes_as;
        self.work_on_changes(now, effects, outcomes);
    }

    /// Whether the record in force was decided after all that this node has lost.
    pub fn is_named(&self) -> bool {
        let named = self.current.as_ref().map_or(0, |record| record.incarnation(self.node));
        self.votes_as == Some(named)
    }

    /// What the cluster was made from.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The nodes to speak with: the record's members, or the initial ones.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        let members = self.current.as_ref().map_or(&self.genesis.members, |record| &record.members);
        members.iter().map(|member| member.id)
    }

    /// Who votes on the next version.
    fn voters(&self) -> Vec<NodeId> {
        match &self.current {
            Some(record) => record.voters.clone(),
            None => {
                let count = self.genesis.members.len().min(VOTERS_MAX);
                let odd = if count.is_multiple_of(2) { count.saturating_sub(1) } else { count };
                self.genesis.members.iter().take(odd).map(|member| member.id).collect()
            }
        }
    }

    /// When [`Keeper::on_tick`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let proposal = self.proposal.as_ref().map(|proposal| proposal.deadline);
        let changes = self.changes.iter().map(|change| change.deadline).min();
        [proposal, changes, self.propose_at].into_iter().flatten().min()
    }

    /// Takes in a change that is wanted.
    pub fn on_change(
        &mut self,
        origin: O,
        change: TableChange,
        deadline: Instant,
        now: Instant,
        effects: &mut Effects,
        outcomes: &mut Vec<Outcome<O>>,
    ) {
        if self.changes.len() >= CHANGES_MAX {
            outcomes.push(Outcome::Change(origin, ChangeResult::Overloaded));
            return;
        }
        self.changes.push_back(PendingChange { origin, change, deadline, proposed: false });
        self.work_on_changes(now, effects, outcomes);
    }

    /// Somebody follows that version: a newer one is asked for.
    pub fn on_epoch_seen(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        now: Instant,
        effects: &mut Effects,
    ) {
        let recently = self.asked_at.is_some_and(|at| now.ms_since(at) < ASK_EVERY_MS);
        if epoch > self.epoch() && !recently {
            self.asked_at = Some(now);
            let message = AskRecord { have: self.epoch() }.into();
            effects.push(Effect::ToPeer { to: from, request: 0, message });
        }
    }

    /// Takes in one of the record's messages; others are left alone.
    pub fn on_message(
        &mut self,
        from: NodeId,
        request: u64,
        message: PeerMessage,
        now: Instant,
        effects: &mut Effects,
        outcomes: &mut Vec<Outcome<O>>,
    ) {
        self.dispatch(from, request, message, now, effects);
        self.drain_loopback(now, effects);
        self.work_on_changes(now, effects, outcomes);
    }

    fn dispatch(
        &mut self,
        from: NodeId,
        request: u64,
        message: PeerMessage,
        now: Instant,
        effects: &mut Effects,
    ) {
        match message {
            PeerMessage::Prepare(prepare) => self.on_prepare(from, request, prepare, effects),
            PeerMessage::Accept(accept) => self.on_accept(from, request, *accept, effects),
            PeerMessage::Promise(promise) => self.on_promise(from, *promise, now, effects),
            PeerMessage::Accepted(accepted) => self.on_accepted(from, accepted, now, effects),
            PeerMessage::Decided(decided) => self.adopt(decided.record, effects),
            PeerMessage::AskRecord(ask) if self.epoch() > ask.have => {
                self.tell_record(from, effects);
            }
            _ => {}
        }
    }

    fn drain_loopback(&mut self, now: Instant, effects: &mut Effects) {
        while let Some(message) = self.loopback.pop_front() {
            self.dispatch(self.node, 0, message, now, effects);
        }
    }

    fn tell_record(&mut self, to: NodeId, effects: &mut Effects) {
        if let Some(record) = self.current().cloned() {
            self.send(to, 0, Box::new(Decided { record }).into(), effects);
        }
    }

    fn send(&mut self, to: NodeId, request: u64, message: PeerMessage, effects: &mut Effects) {
        if to == self.node {
            self.loopback.push_back(message);
        } else {
            effects.push(Effect::ToPeer { to, request, message });
        }
    }

    /// A decided record is made durable before it is in force.
    fn adopt(&mut self, record: ClusterRecord, effects: &mut Effects) {
        let newest = self.adopting.back().map_or(self.epoch(), |adopting| adopting.epoch);
        if record.epoch <= newest || record.cluster != self.genesis.cluster {
            if record.epoch == self.epoch() && record_hash(&record) != self.current_hash {
                effects.push(Effect::Note(format!(
                    "another record of version {} was told: it is not taken",
                    record.epoch
                )));
            }
            return;
        }
        if let Err(error) = record.check() {
            effects.push(Effect::Note(error.to_string()));
            return;
        }
        let request = StorageRequest::Save { name: RECORD_FILE, bytes: write_file(&record) };
        effects.push(Effect::ToStorage { tag: Tag::Inner(Inner::Record), request, until: None });
        self.adopting.push_back(record);
    }

    /// The record is durable, or cannot be made so.
    pub fn on_record_saved(
        &mut self,
        result: Result<(), String>,
        now: Instant,
        effects: &mut Effects,
        outcomes: &mut Vec<Outcome<O>>,
    ) {
        let Some(record) = self.adopting.pop_front() else { return };
        if let Err(reason) = result {
            effects.push(Effect::Note(format!("the cluster record cannot be saved: {reason}")));
            return;
        }
        self.current_hash = record_hash(&record);
        effects.push(Effect::Publish { key: "epoch", value: record.epoch.to_string() });
        effects.push(Effect::FollowRecord(Box::new(record.clone())));
        if self.proposal.as_ref().is_some_and(|proposal| proposal.epoch <= record.epoch) {
            self.proposal = None;
        }
        self.propose_at = None;
        self.failed_tries = 0;
        self.current = Some(record.into());
        outcomes.push(Outcome::NewRecord);
        self.work_on_changes(now, effects, outcomes);
    }

    /// Time has passed.
    pub fn on_tick(&mut self, now: Instant, effects: &mut Effects, outcomes: &mut Vec<Outcome<O>>) {
        while let Some(at) = self.changes.iter().position(|change| change.deadline <= now) {
            let change = self.changes.remove(at).expect("just found");
            outcomes.push(Outcome::Change(change.origin, ChangeResult::Unknown));
        }
        if self.proposal.as_ref().is_some_and(|proposal| proposal.deadline <= now) {
            self.back_off(now);
        }
        if self.propose_at.is_some_and(|at| at <= now) {
            self.propose_at = None;
            if self.current.is_none() {
                self.propose_first(now, effects);
            }
        }
        self.drain_loopback(now, effects);
        self.work_on_changes(now, effects, outcomes);
    }

    /// Ends the changes that the record already shows, and proposes the next one.
    fn work_on_changes(
        &mut self,
        now: Instant,
        effects: &mut Effects,
        outcomes: &mut Vec<Outcome<O>>,
    ) {
        if let Some(record) = self.record_with_own_incarnation()
            && self.may_propose(now)
        {
            self.propose(record, now, effects);
            self.drain_loopback(now, effects);
        }
        while let Some(change) = self.changes.front()
            && let Some(record) = &self.current
        {
            match next_record(record, change) {
                Err(result) => {
                    let change = self.changes.pop_front().expect("just seen");
                    outcomes.push(Outcome::Change(change.origin, result));
                }
                Ok(next) => {
                    if self.may_propose(now) {
                        if let Some(change) = self.changes.front_mut() {
                            change.proposed = true;
                        }
                        self.propose(next, now, effects);
                        self.drain_loopback(now, effects);
                    }
                    return;
                }
            }
        }
    }
}

impl<O> Keeper<O> {
    fn may_propose(&self, now: Instant) -> bool {
        self.proposal.is_none()
            && self.adopting.is_empty()
            && self.propose_at.is_none_or(|at| at <= now)
    }

    /// The record that names what this node has become, if the one in force does not.
    fn record_with_own_incarnation(&self) -> Option<ClusterRecord> {
        let record = self.current.as_deref()?;
        let incarnation = self.votes_as.filter(|own| *own > record.incarnation(self.node))?;
        record.member(self.node)?;
        let mut next = record.clone();
        next.epoch = Epoch(record.epoch.0 + 1);
        next.set_incarnation(self.node, incarnation);
        Some(next)
    }
}

/// The record after a change, or how the change ends without one.
fn next_record<O>(
    record: &ClusterRecord,
    pending: &PendingChange<O>,
) -> Result<ClusterRecord, ChangeResult> {
    let mut next = record.clone();
    next.epoch = Epoch(record.epoch.0 + 1);
    match &pending.change {
        TableChange::Create { name, options } => {
            if let Some(table) = record.table(name) {
                return Err(if table.options == *options {
                    ChangeResult::Done
                } else {
                    ChangeResult::Invalid(format!(
                        "a table {name:?} exists with other options: drop it first, or choose \
                         another name"
                    ))
                });
            }
            if let Err(error) = options.check(name, record.members.len()) {
                return Err(ChangeResult::Invalid(error.to_string()));
            }
            if record.tables.len() >= TABLES_MAX {
                return Err(ChangeResult::Invalid(format!(
                    "the cluster has {TABLES_MAX} tables, which is the limit: drop one first"
                )));
            }
            let id = record.table_id_next;
            next.table_id_next.0 += 1;
            next.tables.push(Table { id, name: name.clone(), options: options.clone() });
        }
        TableChange::Drop { name } => {
            if record.table(name).is_none() {
                return Err(if pending.proposed {
                    ChangeResult::Done
                } else {
                    ChangeResult::UnknownTable
                });
            }
            next.tables.retain(|table| table.name != *name);
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests;
