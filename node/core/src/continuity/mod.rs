//! Whether this node is still the one that the others remember (design, section 6).
//!
//! A disk that was wiped, or replaced by an older copy of itself, does not know what it has lost: its
//! node would take for absent what it has acknowledged, and vote against its own votes. So nodes tell
//! each other with each ping how far their own lives have come ([`Life`]), and remember the latest
//! that they heard, durably. And a node that starts asks the others what they remember of it, before
//! it answers anything as a replica, votes, or tells of its new life.
//!
//! - **Who is asked.** Half of the members, rounded down, must have answered; with the node itself
//!   they are a majority. It listens a little longer for those that come up meanwhile. Answers of
//!   nodes that are being confirmed themselves count: else no cluster could start as a whole.
//! - **What is a loss.** Somebody remembers a later incarnation, or more starts or records of this
//!   one, than the disk held before this start; or anything at all, if this disk was never confirmed.
//!   What is told was durable before, so a crash or a power cut is none. What starts that were not
//!   confirmed have added to the disk does not count for it ([`ContinuityState::unconfirmed`]).
//! - **What follows.** The store begins an era: it vouches for no key until enough peers are merged
//!   in (`repair::recovery`). When that is durable the node takes an incarnation greater than any
//!   that is remembered. It does not vote until a record that was decided since names this (see
//!   [`crate::record`]).
//! - **Too late is better than never.** If a peer that was not heard at the start tells later of more
//!   than this node ever was, the node has served on a loss. It stops, and all follows as above.
//!
//! **What is not found.** What a node did in its last seconds may not have been heard: a copy that is
//! not older than [`SAVE_EVERY_MS`] before the end of the life that it is a copy of. Nor what only
//! those remember that do not answer.

mod document;

use std::collections::BTreeMap;

use bytes::Bytes;
use quoit_ring::{NodeId, WallTime};
use quoit_storage::planted::{PlantedBug, is_planted};

pub use document::{CONTINUITY_FILE, ContinuityState, Life};

use crate::time::{Instant, Now};

/// A node that has heard enough listens so long for the others.
const LISTEN_MS: u64 = 1_000;
/// What is remembered of the others is saved so often, unless one of them was started or has lost
/// something: that is saved at once.
pub const SAVE_EVERY_MS: u64 = 10_000;
/// What could not be saved is saved again after so long.
const RETRY_MS: u64 = 500;

/// How far the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It asks.
    Asking,
    /// It has lost something: the era is being made durable, under that incarnation.
    BeginningEra(u64),
    /// What it has become is being saved.
    Saving,
    /// It serves.
    Confirmed,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Save the document.
    Save(Bytes),
    /// Begin an era: so much is remembered, and so much was there.
    BeginEra { remembered: Life, held: Life },
}

/// Keeps the node's own life, and what it remembers of the others'.
#[derive(Debug)]
pub(crate) struct Continuity {
    own: NodeId,
    /// The directory's, from when it was made.
    first_incarnation: u64,
    starts: u64,
    state: ContinuityState,
    /// What the disk held before this start.
    held: Life,
    stage: Stage,
    /// The last record that the store said is durable.
    durable: u64,
    /// What each of the others said, since the start, that it remembers.
    remembered: BTreeMap<NodeId, Option<Life>>,
    /// What a record tells of this node's incarnation.
    named: Life,
    began: Instant,
    peers: BTreeMap<NodeId, Life>,
    /// When the document is to be saved, if it has changed.
    save_at: Option<Instant>,
    /// A save under way, and whether it holds what the node has become.
    saving: Option<bool>,
    /// Whether what the disk held before this start is written down.
    is_noted: bool,
    has_listened: bool,
    retry_at: Option<Instant>,
}

impl Continuity {
    /// A node that was started so often, on a directory that was made with that incarnation, and
    /// whose log was found to end at `sequence`.
    pub(crate) fn new(
        own: NodeId,
        first_incarnation: u64,
        starts: u64,
        state: Option<ContinuityState>,
        sequence: u64,
        now: Instant,
    ) -> Self {
        let mut state = state.unwrap_or_default();
        let before = starts.saturating_sub(1);
        let found = Life { incarnation: state.incarnation, starts: before, sequence };
        let held = state.unconfirmed.map_or(found, |earlier| Life {
            starts: earlier.starts.min(before),
            sequence: earlier.sequence.min(sequence),
            ..found
        });
        state.unconfirmed = Some(held);
        Self {
            own,
            first_incarnation,
            starts,
            peers: state.peers.iter().copied().collect(),
            state,
            held,
            stage: Stage::Asking,
            durable: 0,
            remembered: BTreeMap::new(),
            named: Life::default(),
            began: now,
            save_at: Some(now),
            saving: None,
            is_noted: false,
            has_listened: false,
            retry_at: None,
        }
    }

    /// Whether the node may serve as a replica, and vote.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.stage == Stage::Confirmed
    }

    /// The own incarnation; 0 until it was confirmed once.
    pub(crate) fn incarnation(&self) -> u64 {
        self.state.incarnation
    }

    /// The incarnation under which the node votes: 0 for one that never lost anything. `None` until
    /// that is known.
    pub(crate) fn votes_as(&self) -> Option<u64> {
        let incarnation = if self.state.was_renewed { self.state.incarnation } else { 0 };
        self.is_confirmed().then_some(incarnation)
    }

    /// What is told of the own life; nothing before it is confirmed: it would cover up what others
    /// remember.
    pub(crate) fn life(&self) -> Option<Life> {
        let Self { starts, durable, .. } = *self;
        let incarnation = self.state.incarnation;
        self.is_confirmed().then_some(Life { incarnation, starts, sequence: durable })
    }

    /// What is remembered of a peer.
    pub(crate) fn of(&self, peer: NodeId) -> Option<Life> {
        self.peers.get(&peer).copied()
    }

    /// A record in force names that incarnation of this node; 0 where it names none.
    pub(crate) fn on_named(&mut self, incarnation: u64) {
        self.named = Life { incarnation, starts: 0, sequence: 0 };
    }

    /// The store said that its log is durable up to there.
    pub(crate) fn on_durable(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence);
    }

    /// A peer tells of its life, and what it remembers of this node's. Whether it has lost something
    /// since it was last heard.
    pub(crate) fn on_ping(
        &mut self,
        from: NodeId,
        life: Option<Life>,
        remembered: Option<Life>,
        now: Instant,
    ) -> bool {
        let before = self.remembered.entry(from).or_default();
        *before = match (*before, remembered) {
            (Some(one), Some(other)) => Some(one.and(other)),
            (one, other) => one.or(other),
        };
        let Some(life) = life else { return false };
        let known = self.peers.get(&from).copied();
        let after = known.map_or(life, |known| known.and(life));
        if known == Some(after) {
            return false;
        }
        self.peers.insert(from, after);
        let is_other_start = known.is_none_or(|known| {
            (known.incarnation, known.starts) != (after.incarnation, after.starts)
        });
        let by = if is_other_start { now } else { now.plus_ms(SAVE_EVERY_MS) };
        self.save_at = Some(self.save_at.map_or(by, |at| at.min(by)));
        known.is_some_and(|known| known.incarnation != after.incarnation)
    }

    /// What is to be done now; to be called again until it is nothing.
    pub(crate) fn step(&mut self, members: &[NodeId], now: Now) -> Option<Step> {
        let Now { instant, wall } = now;
        if self.retry_at.is_some_and(|at| at > instant) {
            return None;
        }
        self.retry_at = None;
        self.has_listened |= instant.ms_since(self.began) >= LISTEN_MS;
        match self.stage {
            // What this start adds to the disk must not count, however it ends.
            Stage::Asking if self.is_noted && self.has_heard_enough(members) => match self.loss() {
                Some(remembered) => {
                    let step = self.lose(remembered, self.held, instant, wall);
                    if !is_planted(PlantedBug::CountAtOnce) {
                        return Some(step);
                    }
                    self.on_era_begun(&Ok(()), instant);
                }
                None => self.take_on(self.own_or_first(), self.state.was_renewed, instant),
            },
            Stage::Confirmed => {
                let Self { starts, durable, .. } = *self;
                let sequence = durable.max(self.held.sequence);
                let at_most = Life { incarnation: self.state.incarnation, starts, sequence };
                if let Some(remembered) = self.greatest()
                    && at_most.is_short_of(remembered)
                {
                    return Some(self.lose(remembered, at_most, instant, wall));
                }
            }
            Stage::Asking | Stage::BeginningEra(_) | Stage::Saving => {}
        }
        self.save(members, instant)
    }

    fn save(&mut self, members: &[NodeId], now: Instant) -> Option<Step> {
        if self.saving.is_some() || self.save_at.is_none_or(|at| at > now) {
            return None;
        }
        self.save_at = None;
        self.saving = Some(self.stage == Stage::Saving);
        self.peers.retain(|node, _| members.contains(node));
        self.state.peers = self.peers.iter().map(|(node, life)| (*node, *life)).collect();
        Some(Step::Save(self.state.write()))
    }

    fn others<'a>(&'a self, members: &'a [NodeId]) -> impl Iterator<Item = &'a NodeId> {
        members.iter().filter(|node| **node != self.own)
    }

    fn has_heard_enough(&self, members: &[NodeId]) -> bool {
        let (answered, all) = self.answered(members);
        answered == all || (answered >= members.len() / 2 && self.has_listened)
    }

    /// How many of the others have answered, and how many there are.
    pub(crate) fn answered(&self, members: &[NodeId]) -> (usize, usize) {
        let answered = self.others(members).filter(|node| self.remembered.contains_key(node));
        (answered.count(), self.others(members).count())
    }

    fn greatest(&self) -> Option<Life> {
        let named = Some(self.named).filter(|named| named.incarnation > 0);
        self.remembered.values().flatten().copied().chain(named).reduce(Life::and)
    }

    /// What others remember, and this disk has lost.
    fn loss(&self) -> Option<Life> {
        let remembered = self.greatest()?;
        let is_new = self.state.incarnation == 0;
        (is_new || self.held.is_short_of(remembered)).then_some(remembered)
    }

    fn own_or_first(&self) -> u64 {
        match self.state.incarnation {
            0 => self.first_incarnation.max(1),
            own => own,
        }
    }

    /// The wall clock keeps apart incarnations of which nobody that answered has heard.
    fn lose(&mut self, remembered: Life, held: Life, now: Instant, wall: WallTime) -> Step {
        let next = remembered.incarnation.max(self.state.incarnation).saturating_add(1);
        self.stage = Stage::BeginningEra(next.max(wall.0));
        self.state.unconfirmed = Some(held);
        self.save_at = Some(now);
        Step::BeginEra { remembered, held }
    }

    fn take_on(&mut self, incarnation: u64, was_renewed: bool, now: Instant) {
        self.state.incarnation = incarnation;
        self.state.was_renewed = was_renewed;
        self.state.unconfirmed = None;
        self.stage = Stage::Saving;
        self.save_at = Some(now);
    }

    /// The era is durable, or cannot be made so: then all is asked anew.
    pub(crate) fn on_era_begun(&mut self, result: &Result<(), String>, now: Instant) {
        let Stage::BeginningEra(incarnation) = self.stage else { return };
        if result.is_ok() {
            return self.take_on(incarnation, true, now);
        }
        self.stage = Stage::Asking;
        self.retry_at = Some(now.plus_ms(RETRY_MS));
    }

    /// The document is durable, or cannot be made so. Whether the node is confirmed by that.
    pub(crate) fn on_saved(&mut self, result: &Result<(), String>, now: Instant) -> bool {
        let is_confirming = self.saving.take() == Some(true);
        if result.is_err() {
            self.retry_at = Some(now.plus_ms(RETRY_MS));
            self.save_at = Some(now);
            return false;
        }
        self.is_noted = true;
        if is_confirming {
            self.stage = Stage::Confirmed;
        }
        is_confirming
    }

    /// When [`Continuity::step`] is to be called, but for what it waits for.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        if self.retry_at.is_some() {
            return self.retry_at;
        }
        let listens = self.stage == Stage::Asking && !self.has_listened;
        let listened = listens.then(|| self.began.plus_ms(LISTEN_MS));
        let save = self.save_at.filter(|_| self.saving.is_none());
        [listened, save].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
