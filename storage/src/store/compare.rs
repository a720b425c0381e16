//! Comparing what two replicas hold, for anti-entropy: roots of the digests' trees, then their nodes,
//! then the keys of the leaves that differ.
//!
//! The writer answers what concerns trees, since the digests are its own; they stand for what is
//! committed. Readers go through ranges of keys; each step is bounded and stands on its own, so that
//! whoever asks may stop anywhere and nobody remembers anything for it.

use bytes::Bytes;
use quoit_ring::{HybridTime, VnodeIndex};

use super::scan::after_damage;
use super::{Reader, Writer, lock};
use crate::codec;
use crate::digest::{item_digest, mark_digest};
use crate::layout::StoredKey;
use crate::stored::Stored;
use crate::trees::TreeHash;
use crate::version::ApartValue;

/// A step goes through so many entries at most.
const ENTRIES_MAX: usize = 16_384;

/// A virtual node's root, and the floor under which it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The floor.
    pub floor: HybridTime,
    /// The root.
    pub hash: TreeHash,
    /// Whether the virtual node is trusted.
    pub is_trusted: bool,
}

/// What is different in a replica from what a peer has told of some virtual nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootsCompared {
    /// Positions in the peer's list of those that differ, or cannot be compared by their roots, and
    /// the floor under which to look further: the higher one.
    pub differ: Vec<(u32, HybridTime)>,
    /// Positions of those that are distrusted here.
    pub distrusted: Vec<u32>,
}

/// A range of a virtual node's keys, of the tables of one replication factor, under a floor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The virtual node.
    pub vnode: VnodeIndex,
    /// N.
    pub replication: u8,
    /// What may be collected under it does not count.
    pub floor: HybridTime,
    /// The first key's bytes (included).
    pub from: Bytes,
    /// The end (excluded).
    pub to: Option<Bytes>,
}

/// What a replica holds of a range.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Keys that count, ascending, each with a digest of what it holds.
    pub items: Vec<(StoredKey, u64)>,
    /// Where it goes on; `None` at the range's end.
    pub until: Option<Bytes>,
    /// What this replica cannot vouch for.
    pub unknown: Unknown,
    /// The virtual node's own floor.
    pub floor: HybridTime,
    /// Whether the virtual node is trusted.
    pub is_trusted: bool,
}

/// What a replica cannot vouch for in a range, were its virtual node trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unknown {
    /// Keys that are incomplete by themselves or cannot be read.
    pub keys: Vec<StoredKey>,
    /// There is damage that hides keys.
    pub hides_keys: bool,
}

/// A key with all that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: StoredKey,
    /// The encoded set; empty where there is nothing.
    pub set: Bytes,
    /// Its values that lie apart.
    pub values: Vec<ApartValue>,
}

/// How a replica differs in a range from what a peer's survey has told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reconciliation {
    /// What it holds and the peer does not, or otherwise.
    pub rows: Vec<Row>,
    /// Positions of the peer's items that it does not hold so. Those behind `until` say nothing.
    pub unmatched: Vec<u32>,
    /// Where it goes on; `None` at the range's end.
    pub until: Option<Bytes>,
    /// What it cannot vouch for.
    pub unknown: Unknown,
    /// The virtual node's floor.
    pub floor: HybridTime,
    /// Whether the virtual node is trusted.
    pub is_trusted: bool,
}

impl Writer {
    /// The roots of virtual nodes, each under its floor, in the order asked for. One that is not
    /// there has the root of one that is empty.
    pub fn roots(&mut self, replication: u8, vnodes: &[VnodeIndex]) -> Vec<Root> {
        let root = |vnode: &VnodeIndex| {
            let floor = self.vnodes.floor(*vnode);
            let is_trusted = !self.vnodes.is_distrusted(*vnode);
            Root { floor, hash: self.root(replication, *vnode, floor), is_trusted }
        };
        vnodes.iter().map(root).collect()
    }

    /// Compares a peer's roots of virtual nodes with the own ones.
    pub fn compare_roots(
        &mut self,
        replication: u8,
        vnodes: &[VnodeIndex],
        theirs: &[Root],
    ) -> RootsCompared {
        let mut compared = RootsCompared::default();
        for (at, (vnode, theirs)) in (0..).zip(vnodes.iter().zip(theirs)) {
            let floor = self.vnodes.floor(*vnode).max(theirs.floor);
            // Under a higher floor theirs may be another.
            if floor > theirs.floor || self.root(replication, *vnode, floor) != theirs.hash {
                compared.differ.push((at, floor));
            }
            if self.vnodes.is_distrusted(*vnode) {
                compared.distrusted.push(at);
            }
        }
        compared
    }

    /// The hashes of nodes of a virtual node's tree at a depth under a floor; `None` if there are no
    /// such nodes.
    pub fn nodes(
        &mut self,
        replication: u8,
        vnode: VnodeIndex,
        floor: HybridTime,
        depth: u8,
        indices: &[u32],
    ) -> Option<Vec<TreeHash>> {
        let of = (replication, vnode);
        self.trees.hashes(&self.digests, self.options.vnodes, of, floor, depth, indices)
    }

    fn root(&mut self, replication: u8, vnode: VnodeIndex, floor: HybridTime) -> TreeHash {
        self.nodes(replication, vnode, floor, 0, &[0]).map_or(0, |hashes| hashes[0])
    }
}

impl Reader {
    /// Goes through a range from its beginning, over at most `items_max` keys that count.
    pub fn survey(&self, range: &Range, items_max: usize) -> Survey {
        let mut survey = Survey {
            floor: self.floor(range.vnode),
            is_trusted: self.is_trusted(range.vnode),
            ..Survey::default()
        };
        let (until, hides_keys) = self.go_through(range, |entry| {
            if survey.items.len() >= items_max {
                return false;
            }
            match entry.held {
                Some(held) => {
                    if !held.is_complete {
                        survey.unknown.keys.push(entry.key.clone());
                    }
                    if held.digest != 0 {
                        survey.items.push((entry.key, held.digest));
                    }
                }
                None => survey.unknown.keys.push(entry.key),
            }
            true
        });
        survey.until = until;
        survey.unknown.hides_keys = hides_keys;
        survey
    }

    /// Goes through a range and finds what differs from a peer's items: their digests, of which it
    /// has told all in the range. Ends after `rows_max` rows or about `bytes_max` bytes of them, but
    /// tells one row in any case.
    pub fn reconcile(
        &self,
        range: &Range,
        items: &[u64],
        rows_max: usize,
        bytes_max: usize,
    ) -> Reconciliation {
        let mut theirs: Vec<(u64, u32)> = items.iter().copied().zip(0..).collect();
        theirs.sort_unstable();
        let mut is_matched = vec![false; theirs.len()];
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut unknown = Unknown::default();
        let (until, hides_keys) = self.go_through(range, |entry| {
            let Some(held) = entry.held else {
                unknown.keys.push(entry.key);
                return true;
            };
            let first = theirs.partition_point(|(digest, _)| *digest < held.digest);
            let same = theirs[first..].iter().take_while(|(digest, _)| *digest == held.digest);
            let free = same.zip(first..).find(|(_, at)| !is_matched[*at]);
            if let Some((_, at)) = free {
                is_matched[at] = true;
            } else {
                let row_bytes = entry.key.bytes().len() + held.bytes;
                let is_full = rows.len() >= rows_max || bytes + row_bytes > bytes_max;
                if is_full && !rows.is_empty() {
                    return false;
                }
                bytes += row_bytes;
                rows.push((entry.key.clone(), held.set));
            }
            if !held.is_complete {
                unknown.keys.push(entry.key);
            }
            true
        });
        unknown.hides_keys = hides_keys;
        let unmatched = theirs.iter().zip(is_matched).filter(|(_, is_matched)| !is_matched);
        let mut unmatched: Vec<u32> = unmatched.map(|((_, position), _)| *position).collect();
        unmatched.sort_unstable();
        let rows = rows.into_iter().filter_map(|(key, set)| self.whole_row(key, set, &mut unknown));
        Reconciliation {
            rows: rows.collect(),
            unmatched,
            until,
            unknown,
            floor: self.floor(range.vnode),
            is_trusted: self.is_trusted(range.vnode),
        }
    }

    /// What some keys hold, with all values, up to about `bytes_max` bytes: of how many keys it tells
    /// (at least one), and those that hold something.
    pub fn gather_keys(&self, keys: &[StoredKey], bytes_max: usize) -> (usize, Vec<Row>) {
        let (mut told, mut bytes, mut rows) = (0, 0, Vec::new());
        for key in keys {
            let held = self.engine.get(key.bytes()).ok().flatten();
            let opened = held.and_then(|sealed| Stored::open(key.bytes(), &sealed).ok());
            let row = opened.and_then(|stored| {
                self.whole_row(key.clone(), stored.set, &mut Unknown::default())
            });
            bytes += row.as_ref().map_or(0, Row::bytes);
            if bytes > bytes_max && !rows.is_empty() {
                break;
            }
            told += 1;
            rows.extend(row);
        }
        (told, rows)
    }

    fn is_trusted(&self, vnode: VnodeIndex) -> bool {
        !lock(&self.shared.vnodes).is_distrusted(vnode)
    }

    /// Calls `visit` for each key of the range whose table has its N until it returns `false`.
    /// Returns where to go on, and whether there is damage that hides keys.
    fn go_through(
        &self,
        range: &Range,
        mut visit: impl FnMut(Entry) -> bool,
    ) -> (Option<Bytes>, bool) {
        let (mut until, mut failed_after, mut entries) = (None, None, 0);
        let mut last = range.from.clone();
        self.engine.scan(&range.from, range.to.as_deref(), &mut |entry| {
            let Ok((bytes, sealed)) = entry.map_err(|error| self.note_damage(&error)) else {
                failed_after = Some(last.clone());
                return false;
            };
            entries += 1;
            last.clone_from(&bytes);
            let entry = Entry::open(bytes.clone(), &sealed, range);
            if entries > ENTRIES_MAX || entry.is_some_and(|entry| !visit(entry)) {
                until = Some(bytes);
                return false;
            }
            true
        });
        if let Some(last) = failed_after {
            let next = after_damage(&last);
            until = next.filter(|next| range.to.as_ref().is_none_or(|to| next < to));
            return (until, true);
        }
        (until, false)
    }

    /// A set with its values that lie apart; `None`, and unknown, where they are not all there.
    pub(super) fn whole_row(
        &self,
        key: StoredKey,
        set: Bytes,
        unknown: &mut Unknown,
    ) -> Option<Row> {
        if let Some(values) = self.gather(&key, &set) {
            return Some(Row { key, set, values });
        }
        // A writer may have replaced it meanwhile.
        let again = self.engine.get(key.bytes()).ok().flatten();
        let stored = again.and_then(|sealed| Stored::open(key.bytes(), &sealed).ok());
        if let Some(Stored { set, .. }) = stored
            && let Some(values) = self.gather(&key, &set)
        {
            return Some(Row { key, set, values });
        }
        unknown.keys.push(key);
        None
    }
}

impl Row {
    /// About what it takes to send.
    pub fn bytes(&self) -> usize {
        let values: usize = self.values.iter().map(|value| value.bytes.len()).sum();
        self.key.bytes().len() + self.set.len() + values
    }
}

/// A key of the range.
struct Entry {
    key: StoredKey,
    /// `None` if it cannot be read.
    held: Option<HeldItem>,
}

struct HeldItem {
    set: Bytes,
    digest: u64,
    is_complete: bool,
    /// With its values.
    bytes: usize,
}

impl Entry {
    /// `None` for what does not count in the range.
    fn open(bytes: Bytes, sealed: &Bytes, range: &Range) -> Option<Self> {
        let key = StoredKey::from_bytes(bytes).ok().filter(|key| !key.is_apart())?;
        let opened = Stored::open(key.bytes(), sealed).ok();
        let opened = opened.and_then(|stored| {
            let set = codec::decode(&stored.set).ok()?;
            Some((stored, set))
        });
        let Some((Stored { standing, set: encoded }, set)) = opened else {
            return Some(Self { key, held: None });
        };
        if standing.replication != range.replication {
            return None;
        }
        let mark = if standing.incomplete { mark_digest(&key) } else { 0 };
        let held = HeldItem {
            digest: item_digest(&key, &set, range.floor) ^ mark,
            is_complete: !standing.incomplete,
            bytes: codec::whole_bytes(&set),
            set: encoded,
        };
        Some(Self { key, held: Some(held) })
    }
}
