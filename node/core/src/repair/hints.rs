//! What replicas missed: noted by the coordinator of each write that a primary of its key did not
//! acknowledge (Dynamo, section 4.6; but with strict quorums a hint is a reference, and what is
//! delivered is what the key holds then).
//!
//! One hint waits for a node and a key, however many writes it misses: its delivery brings them all.
//! That rests on two rules. A write is noted only once it is durable here, so that whoever reads the
//! key later reads the write. And a key is forgotten here before it is read for a delivery
//! ([`Hints::begin`]), so that a write that comes after the reading is noted anew.
//!
//! What this node took in the place of a primary of a sloppy table is noted by the storage worker,
//! together with the data ([`quoit_storage::store::StandIn`]): here is only counted what waits, and
//! known what is being taken, so that nothing is forgotten which came after its key was read for a
//! delivery.
//!
//! New hints, and those that leave, are written down together, one change at a time; what comes
//! meanwhile goes with the next one. A node that ends before that has lost those hints: the
//! anti-entropy finds what they stood for, as it does for those that are dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use quoit_ring::{HybridTime, NodeId};
use quoit_storage::layout::{HintKind, StoredKey};
use quoit_storage::store::{CountedHints, Hint, HintFigures, StandIn};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::counters::HintCounters;
use crate::event::{HintChanges, Inner, StorageRequest};
use crate::time::Instant;
use crate::turn::Turn;

/// Bytes of new hints that wait to be written down: an import notes them faster than a disk syncs.
const NOTED_BYTES_MAX: u64 = 16 << 20;
/// The last so many keys, at least, are known to be hinted already; twice as many at most.
const KNOWN_MAX: usize = 65_536;
/// What could not be written down is tried again after so long.
const RETRY_MS: u64 = 500;

/// Why a hint is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Expired,
    Full,
    Unreadable,
    Absent,
    TooLarge,
    TableDropped,
    NotAReplica,
}

impl HintCounters {
    pub(crate) fn drop_for(&mut self, reason: Reason, number: u64) {
        let counter = match reason {
            Reason::Expired => &mut self.expired,
            Reason::Full => &mut self.full,
            Reason::Unreadable => &mut self.unreadable,
            Reason::Absent => &mut self.absent,
            Reason::TooLarge => &mut self.too_large,
            Reason::TableDropped => &mut self.table_dropped,
            Reason::NotAReplica => &mut self.not_a_replica,
        };
        *counter += number;
    }
}

/// The hints of one kind for one node.
pub(crate) type Line = (HintKind, NodeId);

/// What goes on with something that is taken in a primary's place.
#[derive(Debug, Default)]
struct Taking {
    /// So many times it is with the storage worker.
    under_way: u32,
    /// A delivery goes on, or its hint is leaving.
    is_watched: bool,
    /// More came since its key was read.
    is_touched: bool,
}

/// The hints of this node.
pub(crate) struct Hints {
    /// Those that are written down. Nodes for which nothing waits are left out.
    waiting: BTreeMap<Line, HintFigures>,
    /// Of all references, noted or written down.
    bytes: u64,
    known: Known,
    taking: BTreeMap<(NodeId, StoredKey), Taking>,
    /// Why hints about what was taken are dropped, until they have left.
    reasons: BTreeMap<Hint, Reason>,
    /// Hints that were to leave and stay, for more has come.
    kept: Vec<Hint>,
    /// There may be more that was taken in the place of others than could be counted.
    hides_stand_ins: bool,
    /// Of those that are not written down yet.
    noted_bytes: u64,
    /// Not written down yet.
    changes: HintChanges,
    /// What is being written down.
    saving: Option<HintChanges>,
    not_before: Instant,
    /// The last hint's: they ascend, whatever the clock does.
    last_time: HybridTime,
}

impl Hints {
    pub(crate) fn new(counted: CountedHints, seed: u64) -> Self {
        let CountedHints { waiting, hides_stand_ins } = counted;
        let references = waiting.iter().filter(|((kind, _), _)| *kind == HintKind::Reference);
        Self {
            bytes: references.map(|(_, figures)| figures.bytes).sum(),
            last_time: waiting.values().map(|it| it.newest).max().unwrap_or_default(),
            waiting,
            known: Known::new(seed),
            taking: BTreeMap::new(),
            reasons: BTreeMap::new(),
            kept: Vec::new(),
            hides_stand_ins,
            noted_bytes: 0,
            changes: HintChanges::default(),
            saving: None,
            not_before: Instant(0),
        }
    }

    /// Whether something is to be written down, and can be.
    pub(crate) fn has_news(&self) -> bool {
        self.saving.is_none() && !self.changes.is_empty()
    }

    /// When that is to be done.
    pub(crate) fn save_at(&self) -> Option<Instant> {
        self.has_news().then_some(self.not_before)
    }

    /// Of which kind hints wait for which nodes.
    pub(super) fn lines(&self) -> Vec<Line> {
        self.waiting.keys().copied().collect()
    }

    /// What waits for a node, written down or not.
    pub(crate) fn figures(&self, line: Line) -> HintFigures {
        let mut figures = self.waiting.get(&line).copied().unwrap_or_default();
        self.noted().filter(|hint| line_of(hint) == line).for_each(|hint| figures.add(hint));
        figures
    }

    /// What is written down for a node.
    pub(super) fn written(&self, line: Line) -> HintFigures {
        self.waiting.get(&line).copied().unwrap_or_default()
    }

    /// Every node for which hints wait, written down or not.
    pub(crate) fn all_lines(&self) -> BTreeSet<Line> {
        self.waiting.keys().copied().chain(self.noted().map(line_of)).collect()
    }

    /// Those that are not written down yet.
    fn noted(&self) -> impl Iterator<Item = &Hint> {
        let saving = self.saving.iter().flat_map(|saving| &saving.added);
        self.changes.added.iter().chain(saving)
    }

    /// When the oldest was taken of what lies here in the place of others; `None` if nothing does.
    pub(super) fn oldest_taken(&self) -> Option<HybridTime> {
        if self.hides_stand_ins {
            return Some(HybridTime::ZERO);
        }
        let taken = self.waiting.iter().filter(|((kind, _), _)| *kind == HintKind::StandIn);
        taken.map(|(_, figures)| figures.oldest).min()
    }

    /// The time of the next hint.
    fn next_time(&mut self, now: HybridTime) -> HybridTime {
        self.last_time = self.last_time.next().unwrap_or(self.last_time).max(now);
        self.last_time
    }

    /// The storage worker is about to take something in a primary's place.
    pub(crate) fn on_taking(&mut self, taken: &mut StandIn, now: HybridTime) {
        taken.time = self.next_time(now);
        let taking = self.taking.entry((taken.primary, taken.mutation.key.clone())).or_default();
        taking.under_way += 1;
        taking.is_touched = true;
    }

    /// It has, or has not. With the hint, if that is new.
    pub(crate) fn on_taken(&mut self, primary: NodeId, key: StoredKey, hint: Option<&Hint>) {
        if let Some(hint) = hint {
            self.waiting.entry(line_of(hint)).or_default().add(hint);
        }
        self.change_taking(primary, key, |taking| taking.under_way -= 1);
    }

    fn change_taking(&mut self, primary: NodeId, key: StoredKey, change: impl FnOnce(&mut Taking)) {
        let at = (primary, key);
        let taking = self.taking.entry(at.clone()).or_default();
        change(taking);
        if taking.under_way == 0 && !taking.is_watched {
            self.taking.remove(&at);
        }
    }

    /// Whether what the hint is about may be read for a delivery.
    pub(super) fn is_at_rest(&self, hint: &Hint) -> bool {
        hint.kind == HintKind::Reference
            || !self.taking.contains_key(&(hint.target, hint.key.clone()))
    }

    /// Whether more came since the key of a hint was read.
    fn is_touched(&self, hint: &Hint) -> bool {
        let taking = self.taking.get(&(hint.target, hint.key.clone()));
        hint.kind == HintKind::StandIn && taking.is_some_and(|taking| taking.is_touched)
    }

    fn unwatch(&mut self, hint: &Hint) {
        if hint.kind == HintKind::StandIn {
            let unwatch = |taking: &mut Taking| taking.is_watched = false;
            self.change_taking(hint.target, hint.key.clone(), unwatch);
        }
    }

    /// Why a hint about what was taken is dropped, once it has left.
    pub(super) fn note_reason(&mut self, hint: &Hint, reason: Reason) {
        self.reasons.insert(hint.clone(), reason);
    }

    /// What is to be written down now. What was taken in the place of others stays where more has come
    /// since it was read: from now on what comes is behind this at the storage worker.
    fn take_changes(&mut self) -> HintChanges {
        let mut changes = std::mem::take(&mut self.changes);
        for leaving in [&mut changes.delivered, &mut changes.dropped] {
            let (kept, left): (Vec<Hint>, Vec<Hint>) =
                std::mem::take(leaving).into_iter().partition(|hint| self.is_touched(hint));
            *leaving = left;
            for hint in kept {
                self.unwatch(&hint);
                self.reasons.remove(&hint);
                self.kept.push(hint);
            }
        }
        changes
    }

    /// Hints that were to leave and stay.
    pub(super) fn take_kept(&mut self) -> Vec<Hint> {
        std::mem::take(&mut self.kept)
    }

    /// Whether hints for a node are to leave still.
    pub(super) fn is_leaving(&self, line: Line) -> bool {
        let saving = self.saving.iter().flat_map(HintChanges::removed);
        self.changes.removed().chain(saving).any(|hint| line_of(hint) == line)
    }

    /// Notes that a node misses a write, unless that would come to nothing new.
    fn note(&mut self, target: NodeId, key: &StoredKey, now: HybridTime, bytes_max: u64) -> Noted {
        if self.known.has(target, key) {
            return Noted::Before;
        }
        let (kind, time) = (HintKind::Reference, self.next_time(now));
        let hint = Hint { kind, target, time, key: key.clone() };
        let bytes = hint.bytes();
        if self.noted_bytes + bytes > NOTED_BYTES_MAX || self.bytes + bytes > bytes_max {
            return Noted::Full;
        }
        self.bytes += bytes;
        self.noted_bytes += bytes;
        self.known.add(target, key);
        self.changes.added.push(hint);
        Noted::New
    }

    /// The key of a hint is about to be read, to be delivered, or the hint is dropped: writes from now
    /// on are noted anew.
    pub(super) fn begin(&mut self, hint: &Hint) {
        match hint.kind {
            HintKind::Reference => self.known.remove(hint.target, &hint.key),
            HintKind::StandIn => {
                self.change_taking(hint.target, hint.key.clone(), |taking| {
                    (taking.is_watched, taking.is_touched) = (true, false);
                });
            }
        }
    }

    /// The hint stays.
    pub(super) fn put_back(&mut self, hint: &Hint) {
        match hint.kind {
            HintKind::Reference => self.known.add(hint.target, &hint.key),
            HintKind::StandIn => self.unwatch(hint),
        }
    }

    /// These leave.
    pub(super) fn leave(&mut self, delivered: Vec<Hint>, dropped: Vec<Hint>) {
        self.changes.delivered.extend(delivered);
        self.changes.dropped.extend(dropped);
    }

    /// No hint for the node is older than this.
    pub(super) fn set_oldest(&mut self, line: Line, oldest: HybridTime) {
        if let Some(figures) = self.waiting.get_mut(&line) {
            figures.oldest = oldest;
        }
    }

    /// Nothing waits for the node (any more that could be read). How much was thought to.
    pub(super) fn forget(&mut self, line: Line) -> u64 {
        let Some(figures) = self.waiting.remove(&line) else { return 0 };
        if line.0 == HintKind::Reference {
            // Which keys those were nobody knows.
            self.known.clear();
            self.bytes = self.bytes.saturating_sub(figures.bytes);
        }
        figures.number
    }

    /// A time after all hints so far.
    pub(super) fn after_all(&self) -> HybridTime {
        self.last_time.next().unwrap_or(self.last_time)
    }

    /// What was to be written down is, or is not. How many stand-ins have left as delivered, and why
    /// others have left.
    pub(crate) fn on_saved(
        &mut self,
        result: Result<(), String>,
        now: Instant,
    ) -> (u64, Vec<Reason>) {
        let saved = self.saving.take().expect("hints are saved one change at a time");
        if result.is_err() {
            // It may be there all the same: the same records are written again.
            let later = std::mem::replace(&mut self.changes, saved);
            self.changes.added.extend(later.added);
            self.changes.delivered.extend(later.delivered);
            self.changes.dropped.extend(later.dropped);
            self.not_before = now.plus_ms(RETRY_MS);
            return (0, Vec::new());
        }
        for hint in &saved.added {
            self.waiting.entry(line_of(hint)).or_default().add(hint);
        }
        let is_stand_in = |hint: &&Hint| hint.kind == HintKind::StandIn;
        let delivered = saved.delivered.iter().filter(is_stand_in).count() as u64;
        let stand_ins = saved.dropped.iter().filter(is_stand_in);
        let dropped = stand_ins.filter_map(|hint| self.reasons.remove(hint)).collect();
        for hint in saved.removed() {
            self.unwatch(hint);
            if hint.kind == HintKind::Reference {
                self.bytes = self.bytes.saturating_sub(hint.bytes());
            }
            if let Some(figures) = self.waiting.get_mut(&line_of(hint)) {
                figures.number = figures.number.saturating_sub(1);
                figures.bytes = figures.bytes.saturating_sub(hint.bytes());
            }
        }
        self.waiting.retain(|_, figures| figures.number > 0);
        (delivered, dropped)
    }
}

fn line_of(hint: &Hint) -> Line {
    (hint.kind, hint.target)
}

enum Noted {
    New,
    Before,
    Full,
}

impl Turn<'_> {
    /// Notes that a primary misses a write of a key, which is durable here.
    pub(crate) fn note_hint(&mut self, target: NodeId, key: &StoredKey) {
        let (time, bytes_max) = (self.time(), self.shared.config.hint_bytes_max);
        let noted = self.shared.hints.note(target, key, time, bytes_max);
        let counters = &mut self.shared.counters.hints;
        match noted {
            Noted::New => counters.noted += 1,
            Noted::Before => {}
            Noted::Full => {
                counters.noted += 1;
                counters.drop_for(Reason::Full, 1);
            }
        }
    }

    /// Writes down what has become of hints.
    pub(super) fn save_hints(&mut self) {
        let hints = &mut self.shared.hints;
        if hints.has_news() && hints.not_before <= self.now.instant {
            let changes = hints.take_changes();
            hints.noted_bytes = 0;
            if changes.is_empty() {
                return;
            }
            hints.saving = Some(changes.clone());
            self.ask_storage_inner(Inner::ChangeHints, StorageRequest::ChangeHints(changes));
        }
    }
}

/// The last keys that were hinted: a young half and an old one, which is forgotten at once when the
/// young one is full.
struct Known {
    young: BTreeSet<u128>,
    old: BTreeSet<u128>,
    hash_keys: (u64, u64),
}

impl Known {
    fn new(seed: u64) -> Self {
        Self { young: BTreeSet::new(), old: BTreeSet::new(), hash_keys: (seed, !seed) }
    }

    fn hash(&self, target: NodeId, key: &StoredKey) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.hash_keys.0, self.hash_keys.1);
        hasher.write_u64(target.0);
        hasher.write(key.bytes());
        hasher.finish128().as_u128()
    }

    fn has(&self, target: NodeId, key: &StoredKey) -> bool {
        let hash = self.hash(target, key);
        self.young.contains(&hash) || self.old.contains(&hash)
    }

    fn add(&mut self, target: NodeId, key: &StoredKey) {
        if self.young.len() >= KNOWN_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(self.hash(target, key));
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    fn remove(&mut self, target: NodeId, key: &StoredKey) {
        let hash = self.hash(target, key);
        self.young.remove(&hash);
        self.old.remove(&hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoit_ring::{ConflictPolicy, TableId, Token};
    use quoit_storage::store::{Change, Mutation};

    const TARGET: NodeId = NodeId(2);
    const LINE: Line = (HintKind::Reference, TARGET);

    fn key(number: u64) -> StoredKey {
        StoredKey::new(Token(number), TableId(1), b"k", b"").expect("short")
    }

    fn note(hints: &mut Hints, number: u64) -> Noted {
        hints.note(TARGET, &key(number), HybridTime(5), 1_000)
    }

    fn save(hints: &mut Hints) -> HintChanges {
        let changes = std::mem::take(&mut hints.changes);
        hints.saving = Some(changes.clone());
        changes
    }

    #[test]
    fn one_hint_waits_for_a_key_until_it_is_read_and_again_if_its_delivery_failed() {
        let mut hints = Hints::new(CountedHints::default(), 1);
        assert!(matches!(note(&mut hints, 1), Noted::New));
        assert!(matches!(note(&mut hints, 1), Noted::Before));
        assert!(matches!(note(&mut hints, 2), Noted::New));
        let first = save(&mut hints).added[0].clone();
        hints.on_saved(Ok(()), Instant(0));
        hints.begin(&first);
        assert!(matches!(note(&mut hints, 1), Noted::New));
        assert_eq!(hints.figures(LINE).number, 3);
        let again = save(&mut hints).added[0].clone();
        assert!(again.time > first.time, "they ascend");
        hints.begin(&again);
        hints.put_back(&again);
        assert!(matches!(note(&mut hints, 1), Noted::Before));
    }

    #[test]
    fn their_bytes_have_a_bound_and_leave_with_them() {
        let mut hints = Hints::new(CountedHints::default(), 1);
        let noted = (0..100).take_while(|number| matches!(note(&mut hints, *number), Noted::New));
        let noted = noted.count();
        assert!(noted > 2 && noted < 100);
        assert!(matches!(note(&mut hints, 200), Noted::Full));
        let added = save(&mut hints).added;
        hints.on_saved(Ok(()), Instant(0));
        assert_eq!(hints.figures(LINE).number, noted as u64);
        hints.leave(added[..1].to_vec(), added[1..].to_vec());
        save(&mut hints);
        assert!(hints.is_leaving(LINE));
        hints.on_saved(Ok(()), Instant(0));
        assert!(!hints.is_leaving(LINE));
        assert!(hints.waiting.is_empty() && hints.changes.is_empty() && hints.saving.is_none());
        assert!(matches!(note(&mut hints, 200), Noted::New));
    }

    fn take(hints: &mut Hints, hint: Option<&Hint>) {
        let mutation = Mutation {
            key: key(1),
            replication: 3,
            policy: ConflictPolicy::Latest,
            change: Change::Drop,
            values: Vec::new(),
        };
        let mut taken = StandIn { primary: TARGET, time: HybridTime::ZERO, mutation };
        hints.on_taking(&mut taken, HybridTime(5));
        assert!(taken.time >= HybridTime(5));
        hints.on_taken(TARGET, key(1), hint);
    }

    #[test]
    fn what_was_taken_stays_if_more_comes_before_its_hint_has_left() {
        let hint =
            Hint { kind: HintKind::StandIn, target: TARGET, time: HybridTime(5), key: key(1) };
        let line = (HintKind::StandIn, TARGET);
        let mut hints = Hints::new(CountedHints::default(), 1);
        take(&mut hints, Some(&hint));
        assert_eq!(hints.oldest_taken(), Some(HybridTime(5)));
        // Once after the target has answered, once after the change was refused by a full disk.
        for fails in [false, true] {
            assert!(hints.is_at_rest(&hint));
            hints.begin(&hint);
            hints.leave(vec![hint.clone()], Vec::new());
            assert!(!hints.is_at_rest(&hint) && hints.is_leaving(line));
            if fails {
                hints.saving = Some(hints.take_changes());
                take(&mut hints, None);
                hints.on_saved(Err("full".to_owned()), Instant(0));
            } else {
                take(&mut hints, None);
            }
            assert!(hints.take_changes().is_empty());
            assert_eq!(hints.take_kept(), std::slice::from_ref(&hint));
        }
        hints.begin(&hint);
        hints.leave(vec![hint.clone()], Vec::new());
        hints.saving = Some(hints.take_changes());
        assert_eq!(hints.on_saved(Ok(()), Instant(0)), (1, Vec::new()));
        assert!(hints.is_at_rest(&hint) && hints.taking.is_empty());
        assert_eq!(hints.oldest_taken(), None);
    }

    #[test]
    fn what_could_not_be_written_down_is_tried_again_later() {
        let mut hints = Hints::new(CountedHints::default(), 1);
        note(&mut hints, 1);
        save(&mut hints);
        note(&mut hints, 2);
        hints.on_saved(Err("full".to_owned()), Instant(0));
        assert_eq!(hints.save_at(), Some(Instant(0).plus_ms(RETRY_MS)));
        assert_eq!(save(&mut hints).added.len(), 2);
    }

    #[test]
    fn the_keys_that_are_known_are_bounded_and_the_oldest_are_forgotten_first() {
        let mut known = Known::new(1);
        let count = 3 * KNOWN_MAX as u64;
        (0..count).for_each(|number| known.add(TARGET, &key(number)));
        assert!(known.young.len() + known.old.len() <= 2 * KNOWN_MAX);
        assert!(known.has(TARGET, &key(count - KNOWN_MAX as u64)));
        assert!(!known.has(TARGET, &key(0)));
        assert!(!known.has(NodeId(3), &key(count - 1)));
    }
}
