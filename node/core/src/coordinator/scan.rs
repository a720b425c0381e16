//! Coordinating a page: R primaries' pages of one range, merged key by key. What differs is written
//! back before the answer, as in a read of one key.
//!
//! A replica's page may end before the range does. Keys are complete up to the least of these ends:
//! the answer stops there, or at its limit, and the next page begins after it.

use std::collections::BTreeMap;

use bytes::Bytes;
use quoit_protocol::{Failure, FailureCode, Item, Key, Page};
use quoit_ring::{ConflictPolicy, HybridTime, NodeId};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::version::{ApartValue, SiblingSet};

use super::write::{Progress, describe};
use super::{SET_BYTES_MAX, encode_to_send, live_siblings, write_back_count};
use crate::operation::{OperationId, Origin, Place, not_done};
use crate::peer::{PeerMerge, PeerPage, Refusal, WireRow, WireSet, apart_values, wire_values};
use crate::quorum::Tally;
use crate::replica::{ReplicaAnswer, ReplicaRequest};
use crate::time::Instant;
use crate::turn::Turn;

/// Slots from here on are pages that are asked for with all values; those below are pages of which
/// only one has them.
const WHOLE_SLOT: u16 = 256;
/// Slots from here on are write-backs.
const WRITE_BACK_SLOT: u16 = 512;

/// A page on its way.
#[derive(Debug)]
pub(crate) struct ScanOperation {
    parts: ScanParts,
    patience_ends: Instant,
    order: Vec<NodeId>,
    pages: Vec<(NodeId, Vec<WireRow>, bool)>,
    /// Write-backs: which row, to which node; `None` once it is settled.
    repairs: Vec<Option<(usize, NodeId)>>,
    merged: Vec<MergedRow>,
    after: Option<Key>,
    writing_back: bool,
    /// Replicas differ about a value that lies apart: all are asked for theirs.
    whole: bool,
    trouble: Option<String>,
}

/// What a page is made of.
#[derive(Debug)]
pub(crate) struct ScanParts {
    pub(crate) id: OperationId,
    pub(crate) origin: Origin,
    pub(crate) deadline: Instant,
    pub(crate) place: Place,
    pub(crate) policy: ConflictPolicy,
    pub(crate) from: Bytes,
    pub(crate) to: Option<Bytes>,
    pub(crate) limit: u32,
    pub(crate) tally: Tally,
}

#[derive(Debug)]
struct MergedRow {
    key: StoredKey,
    set: SiblingSet,
    encoded: Bytes,
    /// Its values that lie apart.
    values: Vec<ApartValue>,
    /// So many replicas are known to hold it.
    holders: usize,
    /// Replicas that hold it or were asked to.
    tried: Vec<NodeId>,
    /// So many of them have not answered.
    open: usize,
}

/// A row, and who of the nodes is behind, with what it has.
type Compared = (MergedRow, Vec<(NodeId, SiblingSet)>);

impl ScanOperation {
    /// Begins a page that was checked already.
    pub(crate) fn begin(parts: ScanParts, turn: &mut Turn<'_>) -> (Self, Progress) {
        let order = turn.by_gladness(parts.tally.primaries(), parts.id.number());
        let patience_ends = turn.instant().plus_ms(turn.shared.config.read_patience_ms);
        let mut scan = Self {
            parts,
            patience_ends,
            order,
            pages: Vec::new(),
            repairs: Vec::new(),
            merged: Vec::new(),
            after: None,
            writing_back: false,
            whole: false,
            trouble: None,
        };
        for _ in 0..scan.parts.tally.required() {
            scan.ask_next(turn);
        }
        let progress = scan.conclude(turn);
        (scan, progress)
    }

    /// When [`ScanOperation::on_wake`] is to be called.
    pub(crate) fn wake(&self) -> Instant {
        self.patience_ends.min(self.parts.deadline)
    }

    fn ask_next(&mut self, turn: &mut Turn<'_>) -> bool {
        let tally = &self.parts.tally;
        let free = |node: &&NodeId| tally.is_unasked(**node) && turn.is_reachable(**node);
        let Some(&node) = self.order.iter().find(free) else { return false };
        let slot = tally.slot(node).expect("the order is of the list's nodes");
        let page = PeerPage {
            head: self.parts.place.head(turn.time(), turn.instant(), self.parts.deadline),
            from: self.parts.from.clone(),
            to: self.parts.to.clone(),
            rows_max: self.parts.limit,
            whole: self.whole || !tally.has_waiting(),
        };
        self.parts.tally.ask(node);
        let slot = u16::try_from(slot).expect("N has 8 bits");
        let slot = if self.whole { WHOLE_SLOT + slot } else { slot };
        turn.ask(node, self.parts.id.request(slot), ReplicaRequest::Page(page));
        true
    }

    /// A replica has answered.
    pub(crate) fn on_answer(
        &mut self,
        from: NodeId,
        slot: u16,
        answer: ReplicaAnswer,
        turn: &mut Turn<'_>,
    ) -> Progress {
        match answer {
            ReplicaAnswer::Page(page)
                if (slot >= WHOLE_SLOT) == self.whole
                    && self.parts.tally.node(usize::from(slot % WHOLE_SLOT)) == Some(from) =>
            {
                self.on_page(from, page, turn)
            }
            ReplicaAnswer::Merge(merged) if slot >= WRITE_BACK_SLOT => {
                let repair = usize::from(slot - WRITE_BACK_SLOT);
                self.on_written_back(from, repair, &merged, turn)
            }
            ReplicaAnswer::Read(_) | ReplicaAnswer::Merge(_) | ReplicaAnswer::Page(_) => {
                Progress::Continue
            }
        }
    }

    fn on_page(
        &mut self,
        node: NodeId,
        page: Result<(Vec<WireRow>, bool), Refusal>,
        turn: &mut Turn<'_>,
    ) -> Progress {
        if self.writing_back {
            return Progress::Continue;
        }
        let page = page.and_then(|(rows, more)| self.check_page(node, rows, more, turn));
        match page {
            Ok((rows, more)) => {
                if self.parts.tally.count(node) {
                    self.pages.push((node, rows, more));
                }
            }
            Err(refusal) => {
                self.trouble = Some(describe(node, &refusal));
                self.parts.tally.refuse(node);
                self.ask_next(turn);
            }
        }
        self.conclude(turn)
    }

    /// A page with a key that the replica cannot vouch for is no answer, but the key is rebuilt.
    fn check_page(
        &self,
        node: NodeId,
        rows: Vec<WireRow>,
        more: bool,
        turn: &mut Turn<'_>,
    ) -> Result<(Vec<WireRow>, bool), Refusal> {
        let mut readable = true;
        for (key, _) in rows.iter().filter(|(_, set)| set.is_none()) {
            readable = false;
            if let Ok(key) = StoredKey::from_bytes(key.clone()) {
                let key = Key { partition: key.partition(), sort: key.sort() };
                turn.heal(self.parts.place, key, node);
            }
        }
        // A page that ends with more to come must have got somewhere.
        let moves = !more || !rows.is_empty();
        let ordered = rows.is_sorted_by(|a, b| a.0 < b.0);
        if !readable {
            Err(Refusal::Unreadable)
        } else if moves && ordered {
            Ok((rows, more))
        } else {
            Err(Refusal::Invalid)
        }
    }

    fn conclude(&mut self, turn: &mut Turn<'_>) -> Progress {
        let tally = &self.parts.tally;
        if !self.writing_back {
            if tally.is_reached() {
                return self.merge(turn);
            }
            return if tally.can_be_reached() && tally.has_waiting() {
                Progress::Continue
            } else {
                self.give_up(turn)
            };
        }
        let needed = self.holders_needed();
        let mut short = self.merged.iter().filter(|row| row.holders < needed).peekable();
        if short.peek().is_none() {
            return self.answer(turn);
        }
        if short.all(|row| row.open > 0) { Progress::Continue } else { self.give_up(turn) }
    }

    fn holders_needed(&self) -> usize {
        let required = u8::try_from(self.parts.tally.required()).expect("R has 8 bits");
        write_back_count(self.parts.place.replication, required)
    }

    /// R pages are there: merge them up to where all are complete.
    fn merge(&mut self, turn: &mut Turn<'_>) -> Progress {
        self.patience_ends = turn.instant().plus_ms(turn.shared.config.read_patience_ms);
        let pages = std::mem::take(&mut self.pages);
        let ends = pages.iter().filter(|(_, _, more)| *more);
        let mut cut = ends.filter_map(|(_, rows, _)| rows.last()).map(|(key, _)| key.clone()).min();
        let nodes: Vec<NodeId> = pages.iter().map(|(node, ..)| *node).collect();
        let mut rows: BTreeMap<Bytes, Vec<(NodeId, WireSet)>> = BTreeMap::new();
        for (node, page, _) in pages {
            for (key, set) in page {
                if cut.as_ref().is_none_or(|cut| key <= *cut) {
                    let set = set.expect("checked when the page came");
                    rows.entry(key).or_default().push((node, set));
                }
            }
        }
        if let Some(first_beyond) = self.first_beyond(&rows) {
            rows.split_off(&first_beyond);
            cut = rows.keys().next_back().cloned();
        }
        let mut merged = Vec::with_capacity(rows.len());
        for (key, held) in rows {
            match self.merge_row(key, held, &nodes) {
                Ok(Some(row)) => merged.push(row),
                Ok(None) if !self.whole => return self.ask_for_all(turn),
                Ok(None) => {
                    self.trouble = Some("a value cannot be read anywhere".to_owned());
                    return self.give_up(turn);
                }
                Err(trouble) => {
                    self.trouble = Some(trouble);
                    return self.give_up(turn);
                }
            }
        }
        self.writing_back = true;
        for (row, behind) in merged {
            self.merged.push(row);
            let row = self.merged.len() - 1;
            behind.into_iter().for_each(|(node, has)| self.write_back(row, node, Some(&has), turn));
        }
        self.after = cut
            .and_then(|cut| StoredKey::from_bytes(cut).ok())
            .map(|key| Key { partition: key.partition(), sort: key.sort() });
        self.conclude(turn)
    }

    /// Asks anew, for all values: replicas differ about one that only another has.
    fn ask_for_all(&mut self, turn: &mut Turn<'_>) -> Progress {
        self.whole = true;
        self.parts.tally.restart();
        for _ in 0..self.parts.tally.required() {
            self.ask_next(turn);
        }
        self.conclude(turn)
    }

    /// Replicas that differ have more together than any page of theirs: the first key that finds no
    /// room on this one.
    fn first_beyond(&self, rows: &BTreeMap<Bytes, Vec<(NodeId, WireSet)>>) -> Option<Bytes> {
        let limit = usize::try_from(self.parts.limit).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let beyond = rows.iter().enumerate().find(|(at, (key, held))| {
            // Siblings add up in a merge.
            bytes += key.len() + held.iter().map(|(_, set)| wire_bytes(set)).sum::<usize>();
            *at >= limit || (*at > 0 && bytes > SET_BYTES_MAX)
        });
        beyond.map(|(_, (key, _))| key.clone())
    }

    /// Merges what the nodes hold under a key, and tells who of them is behind, with what it has.
    /// `None` if a value that lies apart has not come.
    fn merge_row(
        &self,
        key: Bytes,
        held: Vec<(NodeId, WireSet)>,
        nodes: &[NodeId],
    ) -> Result<Option<Compared>, String> {
        let key = StoredKey::from_bytes(key).map_err(|error| error.to_string())?;
        let (mut set, mut sets, mut values) = (SiblingSet::default(), BTreeMap::new(), Vec::new());
        for (node, (encoded, apart)) in held {
            let other = codec::decode(&encoded).map_err(|error| format!("{node}: {error}"))?;
            set = set.merge(&other, self.parts.policy);
            sets.insert(node, other);
            values.extend(apart_values(apart));
        }
        if set.apart().any(|version| values.iter().all(|value| value.dot != version.dot)) {
            return Ok(None);
        }
        let encoded = encode_to_send(&set)?;
        let (mut tried, mut behind) = (Vec::new(), Vec::new());
        for &node in nodes {
            match sets.remove(&node).unwrap_or_default() {
                other if other.has_same_pairs(&set) => tried.push(node),
                other => behind.push((node, other)),
            }
        }
        let holders = tried.len();
        let row = MergedRow { key, set, encoded, values, holders, tried, open: 0 };
        Ok(Some((row, behind)))
    }

    /// Writes a row back to a replica that has so much of it; where that is not known, with all
    /// values.
    fn write_back(
        &mut self,
        row: usize,
        node: NodeId,
        has: Option<&SiblingSet>,
        turn: &mut Turn<'_>,
    ) {
        // Beyond the slots of one operation rows stay short, and the page is given up.
        let Ok(slot) = u16::try_from(self.repairs.len() + usize::from(WRITE_BACK_SLOT)) else {
            return;
        };
        self.repairs.push(Some((row, node)));
        let held = &mut self.merged[row];
        held.tried.push(node);
        held.open += 1;
        let lacks = |value: &&ApartValue| {
            held.set.holds(value.dot) && has.is_none_or(|has| !has.holds(value.dot))
        };
        let merge = PeerMerge {
            head: self.parts.place.head(turn.time(), turn.instant(), self.parts.deadline),
            key: Key { partition: held.key.partition(), sort: held.key.sort() },
            set: held.encoded.clone(),
            rebuild: false,
            values: wire_values(held.values.iter().filter(|value| lacks(value)).cloned()),
            stands_in_for: None,
        };
        turn.ask(node, self.parts.id.request(slot), ReplicaRequest::Merge(merge));
    }

    /// Writes a row back to a replica that was not tried, in place of one that is slow, lost or
    /// full: any quorum will do.
    fn write_back_elsewhere(&mut self, row: usize, turn: &mut Turn<'_>) {
        let tried = &self.merged[row].tried;
        let free = |node: &&NodeId| !tried.contains(node) && turn.is_reachable(**node);
        if let Some(&node) = self.order.iter().find(free) {
            self.write_back(row, node, None, turn);
        }
    }

    fn on_written_back(
        &mut self,
        from: NodeId,
        repair: usize,
        merged: &Result<(), Refusal>,
        turn: &mut Turn<'_>,
    ) -> Progress {
        let Some(&Some((row, node))) = self.repairs.get(repair) else { return Progress::Continue };
        if node != from {
            return Progress::Continue;
        }
        self.repairs[repair] = None;
        self.merged[row].open -= 1;
        match merged {
            // What is later than the merged set is no less than it.
            Ok(()) | Err(Refusal::Older(_)) => self.merged[row].holders += 1,
            Err(refusal) => {
                self.trouble = Some(describe(node, refusal));
                self.write_back_elsewhere(row, turn);
            }
        }
        self.conclude(turn)
    }

    fn answer(&mut self, turn: &mut Turn<'_>) -> Progress {
        let at = turn.judging_time();
        let mut items = Vec::with_capacity(self.merged.len());
        for row in &self.merged {
            let siblings = live_siblings(&row.set, &row.values, at);
            if !siblings.is_empty() {
                items.push(Item {
                    key: Key { partition: row.key.partition(), sort: row.key.sort() },
                    siblings,
                    context: turn.seal_context(&row.key, row.set.vector()),
                });
            }
        }
        let page = Page { time: HybridTime::ZERO, items, after: self.after.take() };
        turn.reply(self.parts.origin, page.into());
        Progress::Done
    }

    /// The connection to a peer is gone.
    pub(crate) fn on_peer_lost(&mut self, node: NodeId, turn: &mut Turn<'_>) -> Progress {
        if self.writing_back {
            for repair in 0..self.repairs.len() {
                if let Some((row, to)) = self.repairs[repair]
                    && to == node
                {
                    self.trouble = Some(format!("the connection to {node} was lost"));
                    self.repairs[repair] = None;
                    self.merged[row].open -= 1;
                    self.write_back_elsewhere(row, turn);
                }
            }
        } else if self.parts.tally.is_waiting(node) {
            self.parts.tally.refuse(node);
            self.trouble = Some(format!("the connection to {node} was lost"));
            self.ask_next(turn);
        }
        self.conclude(turn)
    }

    /// Patience or time has run out.
    pub(crate) fn on_wake(&mut self, turn: &mut Turn<'_>) -> Progress {
        if turn.instant() >= self.parts.deadline {
            return self.give_up(turn);
        }
        if turn.instant() >= self.patience_ends {
            self.patience_ends = self.parts.deadline;
            turn.shared.counters.impatient_reads += 1;
            if self.writing_back {
                for row in 0..self.merged.len() {
                    if self.merged[row].open > 0 {
                        self.write_back_elsewhere(row, turn);
                    }
                }
            } else {
                while self.ask_next(turn) {}
            }
        }
        self.conclude(turn)
    }

    fn give_up(&mut self, turn: &mut Turn<'_>) -> Progress {
        let (answered, required) = (self.parts.tally.counted(), self.parts.tally.required());
        let late = turn.instant() >= self.parts.deadline;
        let default = if late { "time ran out" } else { "others cannot be reached" };
        let trouble = self.trouble.take().unwrap_or_else(|| default.to_owned());
        let failure = Failure {
            answered: u8::try_from(answered).unwrap_or(u8::MAX),
            required: u8::try_from(required).unwrap_or(u8::MAX),
            ..not_done(
                FailureCode::Unavailable,
                format!(
                    "{answered} of {required} replicas gave their page or could be repaired ({trouble}); nothing was changed"
                ),
            )
        };
        turn.refuse(self.parts.origin, failure);
        Progress::Done
    }
}

fn wire_bytes((set, values): &WireSet) -> usize {
    set.len() + values.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>()
}
