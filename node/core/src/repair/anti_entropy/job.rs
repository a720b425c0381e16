//! One virtual node in an exchange: down the tree to the leaves that differ, then range by range what
//! the peer holds and this replica does not, and the other way round.
//!
//! A job does one thing after the other; an exchange has several under way. It asks for a step and is
//! told how that ended; whose numbers and deadlines those steps have is not its business.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use quoit_ring::{ClusterRecord, HybridTime, VnodeIndex};
use quoit_storage::codec;
use quoit_storage::digest::leaves_of;
use quoit_storage::layout::{StoredKey, leaf_range};
use quoit_storage::store::{Outcome, Range, Survey};
use quoit_storage::trees::depth_of_leaves;

use super::serve::{is_taken_in, mutation_of, wire_row};
use super::{ITEMS_MAX, NODES_MAX, ROWS_MAX};
use crate::coordinator::SET_BYTES_MAX;
use crate::event::{StorageAnswer, StorageRequest, TreeLevel};
use crate::peer::{CompareNodes, PeerMessage, Push, Reconcile, Refusal, RepairHead, Told};
use crate::repair::messages::RepairRow;

/// The tree is walked down so many levels at a time.
const STRIDE: u8 = 6;

/// One virtual node's comparison.
pub(super) struct Job {
    pub(super) vnode: VnodeIndex,
    replication: u8,
    /// What both leave out.
    floor: HybridTime,
    /// Nodes of the tree that are to be compared, by their depth.
    to_walk: VecDeque<(u8, Vec<u32>)>,
    /// Leaves that differ.
    leaves: BTreeSet<u32>,
    /// What is left of the ranges that differ, ascending.
    ranges: VecDeque<(Bytes, Option<Bytes>)>,
    state: State,
    end: End,
    /// The own floor, if this replica vouches for the virtual node.
    authority: Option<HybridTime>,
    /// Keys that one of the two cannot vouch for: whether it is the peer, and which.
    pub(super) unknown: Vec<(bool, StoredKey)>,
    pub(super) moved: Moved,
}

/// What an exchange has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moved {
    /// Keys that came.
    pub(crate) keys_in: u64,
    /// Keys that went.
    pub(crate) keys_out: u64,
    /// Bytes of keys and values that came.
    pub(crate) bytes_in: u64,
    /// And that went.
    pub(crate) bytes_out: u64,
}

impl Moved {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            keys_in: self.keys_in + other.keys_in,
            keys_out: self.keys_out + other.keys_out,
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
        }
    }
}

enum State {
    /// Own hashes are being told.
    Hashing(u8, Vec<u32>),
    /// They are being compared.
    Walking(u8),
    /// A range is being gone through here.
    Surveying,
    /// And there.
    Reconciling(Surveyed),
    /// What came is being merged.
    Merging(Merging),
    /// What the peer lacks is being read.
    Gathering(VecDeque<StoredKey>),
    /// And sent.
    Pushing { left: VecDeque<StoredKey>, sent: usize },
}

/// What is here of a range.
struct Surveyed {
    items: Vec<(StoredKey, u64)>,
    floor: HybridTime,
    /// The part that was gone through.
    from: Bytes,
    to: Option<Bytes>,
}

/// What is being merged.
struct Merging {
    /// Each key, what the peer holds under it, and whether there was something here.
    merged: Vec<(StoredKey, Bytes, bool)>,
    to_push: VecDeque<StoredKey>,
}

/// How a job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The peer vouches for all that it holds of the virtual node, and all of that is here.
    pub(super) is_gathered: bool,
    /// This replica vouches for all that it holds, and all of that is there.
    pub(super) is_scattered: bool,
    /// The peer's floor, if it is higher than the own one.
    pub(super) catches_up_to: Option<HybridTime>,
}

/// What a step is made with.
pub(super) struct Around<'a> {
    pub(super) record: &'a ClusterRecord,
    pub(super) head: RepairHead,
    /// About so many bytes are moved at a time.
    pub(super) bytes_max: usize,
}

/// What a job wants done next.
pub(super) enum Step {
    Storage(StorageRequest),
    /// A question to the peer, and whether it moves data and has to wait for its turn.
    Peer(PeerMessage, bool),
    /// It has ended.
    Done(End),
}

/// Why a job, and its exchange, ends before its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The peer refuses, or the storage worker does.
    #[error("{0}")]
    Refused(String),
    /// The peer follows another version of the record.
    #[error("the two follow different versions of the cluster record")]
    OtherRecord,
    /// No right node says that.
    #[error("it sent {0}")]
    Malformed(&'static str),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::WrongConfiguration => Self::OtherRecord,
            other => Self::Refused(format!("{other:?}")),
        }
    }
}

impl Job {
    /// A job for a virtual node that seems to differ.
    pub(super) fn new(vnode: VnodeIndex, replication: u8, floor: HybridTime, end: End) -> Self {
        Self {
            vnode,
            replication,
            floor,
            to_walk: VecDeque::new(),
            leaves: BTreeSet::new(),
            ranges: VecDeque::new(),
            state: State::Surveying,
            end,
            authority: None,
            unknown: Vec::new(),
            moved: Moved::default(),
        }
    }

    /// The first step.
    pub(super) fn begin(&mut self, record: &ClusterRecord) -> Step {
        let depth = depth_of_leaves(record.vnodes).min(STRIDE);
        self.to_walk.push_back((depth, (0..1 << depth).collect()));
        self.walk(record)
    }

    /// Compares the next nodes, or begins with the ranges that differ.
    fn walk(&mut self, record: &ClusterRecord) -> Step {
        if let Some((depth, indices)) = self.to_walk.pop_front() {
            self.state = State::Hashing(depth, indices.clone());
            return Step::Storage(StorageRequest::Nodes { level: self.level(depth), indices });
        }
        let first = leaves_of(record.vnodes, self.vnode).start;
        for leaf in std::mem::take(&mut self.leaves) {
            let (from, to) = leaf_range(first + leaf as usize);
            match self.ranges.back_mut() {
                Some((_, end)) if end.as_ref() == Some(&from) => *end = to,
                _ => self.ranges.push_back((from, to)),
            }
        }
        self.survey()
    }

    fn level(&self, depth: u8) -> TreeLevel {
        TreeLevel { replication: self.replication, vnode: self.vnode, floor: self.floor, depth }
    }

    fn range(&self, from: Bytes, to: Option<Bytes>) -> Range {
        Range { vnode: self.vnode, replication: self.replication, floor: self.floor, from, to }
    }

    /// Goes through what is left of the ranges.
    fn survey(&mut self) -> Step {
        let Some((from, to)) = self.ranges.front().cloned() else {
            return Step::Done(self.end);
        };
        self.state = State::Surveying;
        Step::Storage(StorageRequest::Survey { range: self.range(from, to), items_max: ITEMS_MAX })
    }

    /// The storage worker has made a step.
    pub(super) fn on_storage(
        &mut self,
        answer: StorageAnswer,
        around: &Around<'_>,
    ) -> Result<Step, Failure> {
        let state = std::mem::replace(&mut self.state, State::Surveying);
        match (state, answer) {
            (State::Hashing(depth, indices), StorageAnswer::Nodes(Some(hashes))) => {
                self.state = State::Walking(depth);
                let message = CompareNodes {
                    head: around.head,
                    vnode: self.vnode,
                    floor: self.floor,
                    depth,
                    nodes: indices.into_iter().zip(hashes).collect(),
                };
                Ok(Step::Peer(message.into(), false))
            }
            (State::Surveying, StorageAnswer::Surveyed(survey)) => {
                Ok(self.on_surveyed(survey, around))
            }
            (State::Merging(merging), StorageAnswer::AppliedMany(outcomes)) => {
                self.on_merged(merging, &outcomes, around)
            }
            (State::Gathering(mut left), StorageAnswer::Gathered(told, rows)) => {
                let (rows, too_large): (Vec<_>, Vec<_>) =
                    rows.into_iter().partition(|row| row.bytes() <= SET_BYTES_MAX);
                self.end.is_scattered &= too_large.is_empty();
                if rows.is_empty() {
                    left.drain(..told.min(left.len()));
                    return Ok(self.gather(left, around));
                }
                self.moved.keys_out += rows.len() as u64;
                self.moved.bytes_out += rows.iter().map(|row| row.bytes() as u64).sum::<u64>();
                self.state = State::Pushing { left, sent: told };
                let rows = rows.into_iter().map(wire_row).collect();
                Ok(Step::Peer(
                    Push { head: around.head, vnode: self.vnode, authority: self.authority, rows }
                        .into(),
                    true,
                ))
            }
            (_, StorageAnswer::NotCommitted(reason)) => Err(Failure::Refused(reason)),
            (_, StorageAnswer::TooLate) => {
                Err(Failure::Refused("the storage worker has other things to do".to_owned()))
            }
            (_, answer) => unreachable!("a step of an exchange ended with {answer:?}"),
        }
    }

    fn on_surveyed(&mut self, survey: Survey, around: &Around<'_>) -> Step {
        let Some((from, end)) = self.ranges.front().cloned() else {
            unreachable!("a range is being gone through");
        };
        let to = survey.until.or(end);
        self.end.is_scattered &=
            survey.is_trusted && survey.unknown.keys.is_empty() && !survey.unknown.hides_keys;
        self.authority = survey.is_trusted.then_some(survey.floor);
        self.unknown.extend(survey.unknown.keys.into_iter().map(|key| (false, key)));
        let message = Reconcile {
            head: around.head,
            vnode: self.vnode,
            floor: self.floor,
            from: from.clone(),
            to: to.clone(),
            items: survey.items.iter().map(|(_, digest)| *digest).collect(),
            bytes_max: u32::try_from(around.bytes_max).unwrap_or(u32::MAX),
        };
        let (items, floor) = (survey.items, survey.floor);
        self.state = State::Reconciling(Surveyed { items, floor, from, to });
        Step::Peer(message.into(), true)
    }

    /// The peer has told which nodes differ.
    pub(super) fn on_nodes_compared(
        &mut self,
        differ: Vec<u32>,
        around: &Around<'_>,
    ) -> Result<Step, Failure> {
        let State::Walking(depth) = self.state else {
            return Err(Failure::Malformed("an answer that was not asked for"));
        };
        if differ.iter().any(|index| *index >= 1 << depth) || differ.len() > NODES_MAX {
            return Err(Failure::Malformed("nodes that its tree does not have"));
        }
        let deepest = depth_of_leaves(around.record.vnodes);
        if depth == deepest {
            self.leaves.extend(differ);
        } else {
            let next = (depth + STRIDE).min(deepest);
            let below = |index: u32| {
                let first = index << (next - depth);
                first..first + (1 << (next - depth))
            };
            let nodes: Vec<u32> = differ.into_iter().flat_map(below).collect();
            self.to_walk.extend(nodes.chunks(NODES_MAX).map(|chunk| (next, chunk.to_vec())));
        }
        Ok(self.walk(around.record))
    }

    /// The peer has told what differs in a range.
    pub(super) fn on_told(&mut self, told: Told, around: &Around<'_>) -> Result<Step, Failure> {
        let record = around.record;
        let state = std::mem::replace(&mut self.state, State::Surveying);
        let State::Reconciling(surveyed) = state else {
            return Err(Failure::Malformed("an answer that was not asked for"));
        };
        let Surveyed { items, floor: own_floor, from, to } = surveyed;
        let until = told.until;
        let gets_on = until
            .as_ref()
            .is_none_or(|until| *until > from && to.as_ref().is_none_or(|to| until < to));
        let end = until.as_ref().or(to.as_ref()).cloned();
        let is_inside = |key: &Bytes| *key >= from && end.as_ref().is_none_or(|end| key < end);
        let has_items = told.unmatched.iter().all(|at| (*at as usize) < items.len());
        if !gets_on || !has_items || told.rows.len() > ROWS_MAX {
            return Err(Failure::Malformed("a comparison that gets nowhere"));
        }
        if !told.rows.iter().all(|(key, _)| is_inside(key)) {
            return Err(Failure::Malformed("keys outside the range that was asked for"));
        }
        self.end.is_gathered &= told.is_trusted && told.unknown.is_empty() && !told.hides_keys;
        let unknown: BTreeSet<Bytes> = told.unknown.into_iter().collect();
        let unknown_keys = unknown.iter().filter_map(|key| StoredKey::from_bytes(key.clone()).ok());
        self.unknown.extend(unknown_keys.map(|key| (true, key)));
        // What a peer has collected under its higher floor was deleted, whatever is here.
        let authority =
            (told.is_trusted && !told.hides_keys && told.floor >= own_floor).then_some(told.floor);
        // And what this replica holds and does not vouch for, it may have taken from anybody.
        let knows_more = told.floor > own_floor || self.authority.is_none();
        let mut unmatched: BTreeSet<StoredKey> = told
            .unmatched
            .iter()
            .map(|at| items[*at as usize].0.clone())
            .filter(|key| is_inside(key.bytes()))
            .collect();
        let (mut mutations, mut merged) = (Vec::new(), Vec::new());
        for row in told.rows {
            let (key, set) = (row.0.clone(), row.1.0.clone());
            let authority = authority.filter(|_| !unknown.contains(&key));
            self.moved.keys_in += 1;
            self.moved.bytes_in += bytes_of_row(&row) as u64;
            match mutation_of(record, self.vnode, self.replication, row, authority) {
                Some(mutation) => {
                    let was_here = unmatched.remove(&mutation.key);
                    merged.push((mutation.key.clone(), set, was_here));
                    mutations.push(mutation);
                }
                None if is_of_dropped_table(record, &key) => {}
                None => return Err(Failure::Malformed("a row that is none")),
            }
        }
        let mut to_push = VecDeque::new();
        for key in unmatched {
            let authority = authority.filter(|_| !unknown.contains(key.bytes()));
            let nothing = (key.bytes().clone(), (Bytes::new(), Vec::new()));
            match mutation_of(record, self.vnode, self.replication, nothing, authority) {
                Some(mutation) if authority.is_some() && knows_more => {
                    merged.push((key, Bytes::new(), true));
                    mutations.push(mutation);
                }
                Some(_) if !told.hides_keys => to_push.push_back(key),
                Some(_) | None => {}
            }
        }
        self.get_on(end);
        if mutations.is_empty() {
            return Ok(self.gather(to_push, around));
        }
        self.state = State::Merging(Merging { merged, to_push });
        Ok(Step::Storage(StorageRequest::ApplyMany { mutations, is_synced: false }))
    }

    /// Leaves out what was compared up to `end`.
    fn get_on(&mut self, end: Option<Bytes>) {
        let Some((from, to)) = self.ranges.front_mut() else {
            unreachable!("a range is being gone through");
        };
        match end {
            Some(end) if to.as_ref().is_none_or(|to| end < *to) => *from = end,
            Some(_) | None => {
                self.ranges.pop_front();
            }
        }
    }

    fn on_merged(
        &mut self,
        merging: Merging,
        outcomes: &[Outcome],
        around: &Around<'_>,
    ) -> Result<Step, Failure> {
        let Merging { merged, mut to_push } = merging;
        for ((key, theirs, was_here), outcome) in merged.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Merged(set) => {
                    if !codec::has_same_pairs(set, &theirs) {
                        to_push.push_back(key);
                    }
                }
                Outcome::Older(_) => to_push.push_back(key),
                Outcome::Incomplete => {
                    self.end.is_scattered = false;
                    if was_here {
                        to_push.push_back(key);
                    }
                }
                Outcome::Refused(reason) => return Err(Failure::Refused((*reason).to_owned())),
                other => self.end.is_gathered &= is_taken_in(other),
            }
        }
        Ok(self.gather(to_push, around))
    }

    /// Reads what the peer lacks, or goes on with the next range.
    fn gather(&mut self, left: VecDeque<StoredKey>, around: &Around<'_>) -> Step {
        let is_known = |key: &StoredKey| around.record.table_by_id(key.table()).is_some();
        let left: VecDeque<StoredKey> = left.into_iter().filter(is_known).collect();
        if left.is_empty() {
            return self.survey();
        }
        let keys = left.iter().take(ROWS_MAX).cloned().collect();
        self.state = State::Gathering(left);
        Step::Storage(StorageRequest::Gather { taken_for: None, keys, bytes_max: around.bytes_max })
    }

    /// The peer has taken in what it lacked.
    pub(super) fn on_pushed(
        &mut self,
        taken_in: &[bool],
        around: &Around<'_>,
    ) -> Result<Step, Failure> {
        self.end.is_scattered &= taken_in.iter().all(|is_taken_in| *is_taken_in);
        let state = std::mem::replace(&mut self.state, State::Surveying);
        let State::Pushing { mut left, sent } = state else {
            return Err(Failure::Malformed("an answer that was not asked for"));
        };
        left.drain(..sent.min(left.len()));
        Ok(self.gather(left, around))
    }
}

/// About what a row takes on the wire.
pub(super) fn bytes_of_row((key, (set, values)): &RepairRow) -> usize {
    key.len() + set.len() + values.iter().map(|(.., bytes)| bytes.len()).sum::<usize>()
}

fn is_of_dropped_table(record: &ClusterRecord, key: &Bytes) -> bool {
    StoredKey::from_bytes(key.clone()).is_ok_and(|key| {
        key.table() < record.table_id_next && record.table_by_id(key.table()).is_none()
    })
}
