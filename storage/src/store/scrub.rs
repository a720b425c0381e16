//! Reading everything, a bounded step at a time, to find what is damaged before anybody asks for it;
//! and what belongs to tables that are no more.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use quoit_ring::TableId;

use super::scan::scan_range;
use super::vnodes::token_of;
use super::{Reader, Writer, compare::Unknown};
use crate::codec;
use crate::digest::{LEAVES, first_token, leaf_of};
use crate::layout::{StoredKey, leaf_range};
use crate::stored::Stored;

/// How far a step goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubStep {
    /// Where it begins; nothing: at the first key.
    pub from: Bytes,
    /// At most so many entries.
    pub entries_max: usize,
    /// About so many bytes.
    pub bytes_max: usize,
    /// The tables that there are.
    pub tables: BTreeSet<TableId>,
    /// Of those with lower ids, all others were dropped.
    pub table_id_next: TableId,
}

/// What a step has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Where the next one begins; `None` at the end.
    pub until: Option<Bytes>,
    /// Entries read.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Keys whose set, or a value of it, is damaged, or that are marked as incomplete.
    pub damaged: Vec<StoredKey>,
    /// Leaves of the digests in which there is damage that hides keys.
    pub hidden: Option<Range<usize>>,
    /// Keys of dropped tables, each with the replication factor it was kept with.
    pub dropped: Vec<(StoredKey, u8)>,
    /// About how many bytes the whole store has.
    pub total_bytes: u64,
}

impl Reader {
    /// Reads and verifies the next entries.
    pub fn scrub(&self, step: &ScrubStep) -> Scrubbed {
        let size = self.engine.size();
        let total_bytes = size.disk_bytes + self.engine.memory_bytes();
        let mut found = Scrubbed { total_bytes, ..Scrubbed::default() };
        let (mut last, mut failed) = (step.from.clone(), false);
        let mut apart = Vec::new();
        self.engine.scan(&step.from, None, &mut |entry| {
            let Ok((bytes, sealed)) = entry.map_err(|error| self.note_damage(&error)) else {
                failed = true;
                return false;
            };
            if found.entries as usize >= step.entries_max || found.bytes as usize >= step.bytes_max
            {
                found.until = Some(bytes);
                return false;
            }
            found.entries += 1;
            found.bytes += (bytes.len() + sealed.len()) as u64;
            last.clone_from(&bytes);
            let Some(key) = StoredKey::from_bytes(bytes).ok().filter(|key| !key.is_apart()) else {
                return true;
            };
            let is_dropped =
                key.table() < step.table_id_next && !step.tables.contains(&key.table());
            match Stored::open(key.bytes(), &sealed) {
                Ok(stored) if is_dropped => found.dropped.push((key, stored.standing.replication)),
                Ok(stored) if stored.standing.incomplete => found.damaged.push(key),
                Ok(stored) if codec::has_apart(&stored.set) => apart.push((key, stored.set)),
                Ok(_) => {}
                Err(_) => found.damaged.push(key),
            }
            true
        });
        for (key, set) in apart {
            let mut unknown = Unknown::default();
            match self.whole_row(key, set, &mut unknown) {
                Some(row) => found.bytes += row.bytes() as u64,
                None => found.damaged.append(&mut unknown.keys),
            }
        }
        if failed {
            // It begins at the next key, whichever that is.
            let first = leaf_of(token_of(&last));
            let end = self.first_leaf_after_damage(first + 1);
            found.hidden = Some(first..end);
            found.until = (end < LEAVES).then(|| leaf_range(end).0);
        }
        found
    }

    /// The first leaf, from one on whose keys cannot be read or that follows such a one, from whose
    /// beginning the tables can be read. In a store of few keys a block covers many leaves, so it is
    /// looked for in ever larger steps, and then between the last two.
    fn first_leaf_after_damage(&self, first: usize) -> usize {
        let is_readable = |leaf: usize| {
            let mut is_readable = true;
            if leaf < LEAVES {
                self.engine.scan(&leaf_range(leaf).0, None, &mut |entry| {
                    is_readable = entry.is_ok();
                    false
                });
            }
            is_readable
        };
        let (mut step, mut end) = (1, first);
        while !is_readable(end) {
            end = (end + step).min(LEAVES);
            step *= 2;
        }
        let mut bad = first.max(end.saturating_sub(step / 2));
        while bad < end {
            let middle = bad + (end - bad) / 2;
            if is_readable(middle) { end = middle } else { bad = middle + 1 }
        }
        end
    }
}

impl Writer {
    /// Makes leaves of the digests anew from what can be read: what damage hides is not counted any
    /// more, so that exchanges with other replicas bring it here.
    pub fn recount_leaves(&mut self, leaves: Range<usize>) {
        let leaves = leaves.start.min(LEAVES)..leaves.end.min(LEAVES);
        if leaves.is_empty() {
            return;
        }
        let (from, to) = (leaf_range(leaves.start).0, leaf_range(leaves.end - 1).1);
        let scanned = scan_range(&*self.engine, &from, to.as_deref());
        let replications: Vec<u8> = self.digests.replications().collect();
        for leaf in leaves {
            self.digests.replace_leaf(leaf, &scanned.digests);
            let vnode = self.options.vnodes.vnode_of(first_token(leaf));
            replications.iter().for_each(|it| self.trees.on_changed(*it, vnode));
        }
        // The log does not tell of it.
        self.recount_due = true;
    }
}
