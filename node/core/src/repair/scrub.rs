//! Scrub: everything that this replica holds is read and verified in a bounded time, before somebody
//! asks for it, and what is damaged is fetched again from the other replicas.
//!
//! - A key whose set or value is damaged is read from a quorum of the others and written anew here, as
//!   after any read that meets such a key.
//! - Damage that hides keys, a block that cannot be read, costs a leaf of the digests: it is counted
//!   anew from what can be read, so that exchanges bring what is missing, and each of these keys is
//!   rebuilt from a quorum as well.
//!
//! Until that is done nothing of it counts: a damaged key is not coordinated here and not answered
//! from here, a leaf with hidden keys vouches for nothing towards peers.
//!
//! The same pass takes out what belongs to tables that were dropped; a pass in a hurry begins when one
//! is. Where a pass has come to is written down now and then: a node that is restarted every day comes
//! to the end all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range as Span;

use bytes::Bytes;
use quoit_protocol::Key;
use quoit_protocol::status::ScrubStatus;
use quoit_ring::TableId;
use quoit_storage::digest::first_token;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{Change, Found, Mutation, ScrubStep, Scrubbed};
use serde::{Deserialize, Serialize};

use super::anti_entropy::Wanted;
use crate::event::{Inner, StorageRequest};
use crate::operation::Place;
use crate::time::Instant;
use crate::turn::Turn;

/// The small document with where the pass has come to.
pub const SCRUB_FILE: &str = "scrub";

/// A step reads so many bytes, or entries; fewer while clients are there.
const STEP_BYTES: usize = 1 << 20;
const BUSY_STEP_BYTES: usize = 128 << 10;
const STEP_ENTRIES: usize = 4_096;
/// No pass is slower than this, in bytes a second: a small store is through soon, and then waits.
/// One in a hurry is as fast as that.
const RATE_MIN: u64 = 512 << 10;
const HURRY_RATE: u64 = 16 << 20;
const BUSY_HURRY_RATE: u64 = 2 << 20;
/// Two steps are at least so far apart, and an empty store is looked at so often.
const PAUSE_MS: (u64, u64) = (5, 60_000);
/// A step that came to nothing is made again after so long.
const RETRY_MS: u64 = 1_000;
/// Where the pass has come to is written down so often.
const SAVE_MS: u64 = 600_000;
/// Damaged keys are remembered up to so many, and each is looked at again so often.
const BROKEN_MAX: usize = 4_096;
const HEAL_MS: u64 = 1_000;

/// Where a pass has come to, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubState {
    /// Where it goes on.
    pub from: Vec<u8>,
    /// When it began, in milliseconds.
    pub began_ms: u64,
    /// When the one before ended; 0: none has.
    pub ended_ms: u64,
    /// The tables that there were then.
    pub tables: BTreeSet<TableId>,
}

impl ScrubState {
    /// Reads the document; what cannot be read begins anew, which does no harm.
    pub fn read(bytes: Option<&[u8]>) -> Self {
        bytes.and_then(|bytes| rmp_serde::from_slice(bytes).ok()).unwrap_or_default()
    }
}

/// The scrub of this node.
pub(crate) struct Scrub {
    state: ScrubState,
    /// A step is under way.
    is_asked: bool,
    next_at: Instant,
    save_at: Instant,
    is_in_hurry: bool,
    bytes: u64,
    total_bytes: u64,
    /// Damaged keys, and when each is looked at again.
    broken: BTreeMap<StoredKey, Instant>,
    heal_at: Option<Instant>,
    /// The one that is being looked at.
    looked_at: Option<StoredKey>,
    /// Where this pass has found hidden keys: the first leaf of the digests of each stretch.
    hidden: BTreeSet<usize>,
    found: u64,
    mended: u64,
    dropped: u64,
}

impl Scrub {
    pub(crate) fn new(state: ScrubState, now: Instant) -> Self {
        Self {
            state,
            is_asked: false,
            next_at: now.plus_ms(PAUSE_MS.0),
            save_at: now.plus_ms(SAVE_MS),
            is_in_hurry: false,
            bytes: 0,
            total_bytes: 0,
            broken: BTreeMap::new(),
            heal_at: None,
            looked_at: None,
            hidden: BTreeSet::new(),
            found: 0,
            mended: 0,
            dropped: 0,
        }
    }

    /// When [`Scrub::on_time`] is to be called.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        [(!self.is_asked).then_some(self.next_at), self.heal_at].into_iter().flatten().min()
    }

    /// What is told to people.
    pub(crate) fn status(&self) -> ScrubStatus {
        ScrubStatus {
            began_ms: self.state.began_ms,
            ended_ms: self.state.ended_ms,
            permille: permille(&self.state.from),
            bytes: self.bytes,
            total_bytes: self.total_bytes,
            damaged: self.found,
            mended: self.mended,
            waiting: self.broken.len() as u64,
            hidden: u32::try_from(self.hidden.len()).unwrap_or(u32::MAX),
            dropped: self.dropped,
        }
    }

    /// Looks at the tables: what was of one that is no more is taken out soon.
    pub(crate) fn on_record(&mut self, tables: BTreeSet<TableId>, now: Instant) {
        if !self.state.tables.is_subset(&tables) {
            self.is_in_hurry = true;
            // What lies before where the pass has come to is looked at by the next one.
            self.state.from.clear();
            self.next_at = now;
        }
        self.state.tables = tables;
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, turn: &mut Turn<'_>) {
        let now = turn.instant();
        if self.heal_at.is_some_and(|at| at <= now) {
            self.look_at_broken(turn);
        }
        let is_off = turn.shared.config.scrub_period_ms == 0 && !self.is_in_hurry;
        if self.is_asked || self.next_at > now {
            return;
        }
        let Some(record) = turn.shared.keeper.current().filter(|_| !is_off) else {
            self.next_at = now.plus_ms(if is_off { PAUSE_MS.1 } else { RETRY_MS });
            return;
        };
        if turn.is_storage_full() {
            self.next_at = now.plus_ms(RETRY_MS);
            return;
        }
        if self.state.from.is_empty() {
            self.state.began_ms = turn.now.wall.0;
            self.bytes = 0;
        }
        let is_busy = turn.shared.foreground.is_busy(now);
        let step = ScrubStep {
            from: Bytes::copy_from_slice(&self.state.from),
            entries_max: STEP_ENTRIES,
            bytes_max: if is_busy { BUSY_STEP_BYTES } else { STEP_BYTES },
            tables: self.state.tables.clone(),
            table_id_next: record.table_id_next,
        };
        self.is_asked = true;
        turn.ask_storage_inner(Inner::Scrub, StorageRequest::Scrub(Box::new(step)));
    }

    /// A step was made. Gives what is to be compared with the other replicas soon.
    pub(crate) fn on_scrubbed(&mut self, found: Scrubbed, turn: &mut Turn<'_>) -> Option<Wanted> {
        let now = turn.instant();
        self.is_asked = false;
        self.bytes += found.bytes;
        self.total_bytes = found.total_bytes;
        for key in found.damaged {
            if self.broken.len() < BROKEN_MAX && !self.broken.contains_key(&key) {
                self.found += 1;
                self.broken.insert(key, now);
                self.heal_at = Some(now);
            }
        }
        self.take_out(found.dropped, turn);
        let wanted = found.hidden.and_then(|leaves| self.recount(leaves, turn));
        self.next_at = now.plus_ms(self.pause_ms(found.bytes, turn));
        match found.until {
            Some(until) => self.state.from = until.to_vec(),
            None => self.end_pass(turn),
        }
        if self.save_at <= now {
            self.save(turn);
        }
        wanted
    }

    /// How long what was read is to last.
    fn pause_ms(&self, bytes: u64, turn: &Turn<'_>) -> u64 {
        let period_ms = turn.shared.config.scrub_period_ms.max(1);
        let usual = (self.total_bytes.saturating_mul(1_000) / period_ms).max(RATE_MIN);
        let rate = match (self.is_in_hurry, turn.shared.foreground.is_busy(turn.instant())) {
            (true, false) => usual.max(HURRY_RATE),
            (true, true) => usual.max(BUSY_HURRY_RATE),
            (false, _) => usual,
        };
        (bytes.saturating_mul(1_000) / rate).clamp(PAUSE_MS.0, PAUSE_MS.1)
    }

    fn end_pass(&mut self, turn: &mut Turn<'_>) {
        let now = turn.instant();
        self.state.from.clear();
        self.state.ended_ms = turn.now.wall.0;
        self.is_in_hurry = false;
        // A small store is through long before its time.
        let period_ms = turn.shared.config.scrub_period_ms;
        let took_ms = turn.now.wall.0.saturating_sub(self.state.began_ms);
        let left_ms = period_ms.saturating_sub(took_ms).max(PAUSE_MS.0);
        self.next_at = now.plus_ms(left_ms);
        self.hidden.clear();
        self.save(turn);
    }

    fn save(&mut self, turn: &mut Turn<'_>) {
        self.save_at = turn.instant().plus_ms(SAVE_MS);
        let bytes = rmp_serde::to_vec(&self.state).expect("plain data always encodes").into();
        let request = StorageRequest::Save { name: SCRUB_FILE, bytes };
        turn.ask_storage_inner(Inner::ScrubSaved, request);
    }

    /// Takes out keys of tables that are no more.
    fn take_out(&mut self, keys: Vec<(StoredKey, u8)>, turn: &mut Turn<'_>) {
        if keys.is_empty() {
            return;
        }
        self.dropped += keys.len() as u64;
        let mutation = |(key, replication)| Mutation {
            key,
            replication,
            policy: quoit_ring::ConflictPolicy::Latest,
            change: Change::Drop,
            values: Vec::new(),
        };
        let mutations = keys.into_iter().map(mutation).collect();
        turn.ask_storage_inner(
            Inner::TakenOut,
            StorageRequest::ApplyMany { mutations, is_synced: false },
        );
    }

    /// Has leaves counted anew in which keys are hidden.
    fn recount(&mut self, leaves: Span<usize>, turn: &mut Turn<'_>) -> Option<Wanted> {
        let record = turn.shared.keeper.current()?;
        let vnode_of = |leaf| record.vnodes.vnode_of(first_token(leaf));
        let (first, last) = (vnode_of(leaves.start), vnode_of(leaves.end.max(1) - 1));
        self.hidden.insert(leaves.start);
        turn.ask_storage_inner(Inner::Recount, StorageRequest::RecountLeaves { leaves });
        Some(Wanted { replication: None, vnode: (first == last).then_some(first) })
    }

    /// A damaged key that is due is looked at: if it still is damaged, it is healed.
    fn look_at_broken(&mut self, turn: &mut Turn<'_>) {
        let now = turn.instant();
        self.heal_at = None;
        let Some((key, at)) = self.broken.iter_mut().min_by_key(|(_, at)| **at) else { return };
        if *at > now {
            self.heal_at = Some(*at);
            return;
        }
        *at = now.plus_ms(HEAL_MS);
        self.looked_at = Some(key.clone());
        let request = StorageRequest::Read { key: key.clone(), whole: true };
        turn.ask_storage_inner(Inner::ScrubRead, request);
    }

    /// A key that was damaged was looked at again.
    pub(crate) fn on_looked_at(&mut self, found: &Found, turn: &mut Turn<'_>) {
        let Some(key) = self.looked_at.take() else { return };
        self.heal_at = Some(turn.instant());
        if let Found::Set(_) = found {
            self.mended += u64::from(self.broken.remove(&key).is_some());
            return;
        }
        let own = turn.own();
        let Some(record) = turn.shared.keeper.current() else { return };
        let vnode = record.vnodes.vnode_of(key.token());
        let table = record.table_by_id(key.table());
        let table = table.filter(|table| record.is_primary(own, vnode, table.options.replication));
        let Some(table) = table else {
            // Nobody asks this node for it.
            self.broken.remove(&key);
            return;
        };
        let place = Place::new(record, table, vnode);
        turn.heal(place, Key { partition: key.partition(), sort: key.sort() }, own);
    }

    /// What was asked came to nothing.
    pub(crate) fn on_failed(&mut self, now: Instant) {
        self.is_asked = false;
        self.next_at = now.plus_ms(RETRY_MS);
    }
}

/// How far through the keys, which begin with their tokens, a place is.
fn permille(from: &[u8]) -> u32 {
    let mut first = [0; 4];
    let known = from.len().min(4);
    first[..known].copy_from_slice(&from[..known]);
    u32::try_from((u64::from(u32::from_be_bytes(first)) * 1_000) >> 32).expect("at most 1000")
}
