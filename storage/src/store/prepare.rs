//! Merging a mutation with what its key holds.

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime};

use super::heads::{Head, without_values};
use super::mutation::{Counted, KeyRecord, value_record};
use super::vnodes::Vnodes;
use super::writer::{Outcome, Prepared, Writer};
use super::{Change, Mutation};
use crate::codec;
use crate::digest;
use crate::engine::{EngineError, Pressure};
use crate::layout::StoredKey;
use crate::planted::{PlantedBug, is_planted};
use crate::stored::{Era, Standing, Stored};
use crate::version::{ApartValue, Dot, Older, SiblingSet, Version, VersionVector};

/// No set is ever longer, not even by a merge: a record of the log must hold it.
const MERGED_BYTES_MAX: usize = 512 << 20;

/// What a mutation comes to.
struct Merged {
    set: SiblingSet,
    /// The key holds all that it ever did, or (with `false`) as little of it as before.
    completes: bool,
    /// Nobody may count on it: see [`Incoming::is_late_for`].
    is_late: bool,
    /// Values that lie apart, and are not here yet.
    new_values: Vec<ApartValue>,
}

impl Merged {
    /// A set that holds all, and brings no value that lies apart.
    fn of(set: SiblingSet) -> Self {
        Self { set, completes: true, is_late: false, new_values: Vec::new() }
    }
}

/// What a key holds, as the writer sees it.
#[derive(Clone)]
pub(super) struct Held {
    set: SiblingSet,
    encoded: Bytes,
    /// Writes may have been lost under the key itself.
    is_marked: bool,
    /// The key is as complete as its virtual node was then.
    era: Era,
    /// One or the other makes it incomplete.
    incomplete: bool,
    /// There may be something that cannot be read.
    is_damaged: bool,
    /// The digests count a mark.
    counts_mark: bool,
    /// Its values are not here: see [`Head`].
    is_head: bool,
}

impl Held {
    /// Under a mark of the key's own, if `is_marked`.
    fn nothing(is_marked: bool, era: Era) -> Self {
        let (set, encoded) = (SiblingSet::default(), Bytes::new());
        Self {
            set,
            encoded,
            is_marked,
            era,
            incomplete: is_marked,
            is_damaged: false,
            counts_mark: false,
            is_head: false,
        }
    }

    fn of_head(head: &Head) -> Self {
        Self { set: head.set.clone(), is_head: true, ..Self::nothing(false, head.era) }
    }

    /// What is remembered of it, if it is fit for that.
    pub(super) fn head(&self) -> Option<Head> {
        let is_fit = !(self.is_marked || self.is_damaged || self.counts_mark || self.is_head);
        let set = (is_fit && !self.set.is_empty()).then(|| without_values(&self.set))?;
        set.map(|set| Head { set, era: self.era })
    }

    /// What is known of a key under that floor.
    fn knows(&self, floor: HybridTime) -> VersionVector {
        let mut known = self.set.vector().clone();
        if !self.incomplete {
            known.raise_base(floor);
        }
        known
    }

    fn damaged(era: Era) -> Self {
        Self { is_damaged: true, ..Self::nothing(true, era) }
    }
}

impl Writer {
    /// Merges one mutation with what its key holds, after all mutations before it. Nothing may be
    /// acknowledged before [`Writer::commit`] has returned, not even what changed nothing: it may
    /// rest on what the same batch changed.
    pub fn prepare(&mut self, mutation: Mutation) -> Outcome {
        if self.poisoned.is_some() {
            return Outcome::Refused("the disk failed: nothing is acknowledged before a restart");
        }
        if self.engine.pressure() == Pressure::Halt {
            return Outcome::Refused("the tables do not keep up with the writes");
        }
        if let Some(outcome) = self.prepare_by_head(&mutation) {
            return outcome;
        }
        let Ok(held) = self.held(&mutation.key) else {
            return Outcome::Refused("the tables cannot be read");
        };
        match self.merged(&mutation, &held) {
            Ok(merged) => self.settle(&mutation, &held, merged),
            Err(outcome) => outcome,
        }
    }

    /// The same, where the dots of what the key holds are known, and nothing but them is needed.
    fn prepare_by_head(&mut self, mutation: &Mutation) -> Option<Outcome> {
        match mutation.change {
            Change::Write { .. } | Change::Merge { rebuild: false, .. } => {}
            Change::Merge { rebuild: true, .. } | Change::Collect | Change::Drop => return None,
        }
        if self.batch.overlay.contains_key(&mutation.key) {
            return None;
        }
        let held = Held::of_head(self.heads.get(&mutation.key)?);
        let held = self.standing_of(&mutation.key, held);
        if held.incomplete {
            return None;
        }
        match self.merged(mutation, &held) {
            Ok(merged)
                if !merged.set.versions().is_empty()
                    && !merged.set.versions().iter().any(|stays| held.set.holds(stays.dot)) =>
            {
                Some(self.settle(mutation, &held, merged))
            }
            Err(older @ Outcome::Older(_)) => Some(older),
            Ok(_) | Err(_) => None,
        }
    }

    /// What a mutation comes to over what its key holds, or why it comes to nothing.
    fn merged(&mut self, mutation: &Mutation, held: &Held) -> Result<Merged, Outcome> {
        let Mutation { key, policy, change, values, .. } = mutation;
        let floor = self.pending_vnodes().floor_of(key.token());
        match change {
            Change::Write { .. } | Change::Collect if held.incomplete => Err(Outcome::Incomplete),
            Change::Write { context, version } => {
                let dot = version.dot;
                let set = self.write(key, *policy, held, context, version.clone(), floor)?;
                let new_values = new_values(key, held, &set, &[dot], values, false)?;
                Ok(Merged { set, completes: true, is_late: false, new_values })
            }
            Change::Merge { set, rebuild, authority } => {
                let (rebuild, authority) = (*rebuild, authority.unwrap_or_default());
                let incoming = Incoming { set, policy: *policy, rebuild, authority, floor };
                self.merge(key, held, &incoming, values)
            }
            Change::Drop => Ok(Merged::of(SiblingSet::default())),
            Change::Collect => Ok(Merged::of(held.set.clone().without_going(floor).packed(floor))),
        }
    }

    /// Adds what a mutation comes to to the batch, if it changes anything.
    fn settle(&mut self, mutation: &Mutation, held: &Held, merged: Merged) -> Outcome {
        let Mutation { key, replication, policy, .. } = mutation;
        let floor = self.pending_vnodes().floor_of(key.token());
        // Nobody knows whether what an incomplete key holds is the greatest. And a replica that lost
        // a virtual node counts for nothing there, in tables of siblings either.
        let is_distrusted = held.era < self.pending_vnodes().trusted_from(key.token());
        let may_count = *policy != ConflictPolicy::Latest && !is_distrusted;
        let counts = (may_count || !held.incomplete || merged.completes) && !merged.is_late;
        // An empty set under a mark still says that nothing is known, and one without it that
        // nothing is there, where absent keys are distrusted: both are written down.
        let changes = held.incomplete && merged.completes
            || !held.set.has_same_pairs(&merged.set)
            || !held.knows(floor).covers(merged.set.vector())
            || !merged.new_values.is_empty();
        let encoded = if changes {
            self.put(key.clone(), *replication, held, merged)
        } else {
            held.encoded.clone()
        };
        if counts { Outcome::Merged(encoded) } else { Outcome::Incomplete }
    }

    /// What a merge comes to, or why it comes to nothing.
    fn merge(
        &self,
        key: &StoredKey,
        held: &Held,
        incoming: &Incoming<'_>,
        values: &[ApartValue],
    ) -> Result<Merged, Outcome> {
        let (rebuild, is_late) = (incoming.rebuild, incoming.is_late_for(held));
        let brings = |merged: &SiblingSet| -> Vec<Dot> {
            let apart = incoming.set.apart().map(|version| version.dot);
            apart.filter(|dot| merged.holds(*dot)).collect()
        };
        let merged = merge(key, held, incoming)?;
        let brought = brings(&merged);
        if rebuild && !self.has_values(key, &merged, |dot| !brought.contains(&dot)) {
            // A value was lost that nobody else has: all is forgotten, as where a set is damaged.
            // To drop its dot alone would claim it, and so erase it where it may be under way to.
            let nothing = Held::nothing(true, held.era);
            let merged = merge(key, &nothing, incoming)?;
            let new_values = new_values(key, &nothing, &merged, &brings(&merged), values, true)?;
            return Ok(Merged { set: merged, completes: true, is_late, new_values });
        }
        let new_values = new_values(key, held, &merged, &brought, values, rebuild)?;
        let completes = !held.incomplete || rebuild;
        Ok(Merged { set: merged, completes, is_late, new_values })
    }

    /// Whether the values that lie apart, of those dots, are here and intact.
    fn has_values(&self, key: &StoredKey, set: &SiblingSet, of: impl Fn(Dot) -> bool) -> bool {
        set.apart().filter(|version| of(version.dot)).all(|version| {
            let found = self.engine.get(key.apart(version.dot).bytes());
            matches!(found, Ok(Some(bytes)) if version.is_value(&bytes, key.token()))
        })
    }

    /// The set after a coordinator's write, or why there is none.
    fn write(
        &mut self,
        key: &StoredKey,
        policy: ConflictPolicy,
        held: &Held,
        context: &VersionVector,
        version: Version,
        floor: HybridTime,
    ) -> Result<SiblingSet, Outcome> {
        if !version.is_intact(key.token()) {
            return Err(Outcome::Corrupt);
        }
        let actor = version.dot.actor;
        // In a `latest` table a dot claims no other.
        let claims = policy == ConflictPolicy::Siblings;
        if claims && self.lost_actors.contains(&actor) {
            return Err(Outcome::Refused("an earlier write was not committed: try again"));
        }
        if version.dot.time <= floor {
            return Err(Outcome::Older(floor));
        }
        let written = held.set.write(policy, context, version);
        let set = written.map_err(|Older(time)| Outcome::Older(time))?;
        let set = set.without_going(floor).packed(floor);
        let set = self.check_limits(held, set)?;
        if claims {
            self.batch.actors.insert(actor);
        }
        Ok(set)
    }

    /// What holds for virtual nodes after all that was prepared.
    fn pending_vnodes(&self) -> &Vnodes {
        self.batch.vnodes.as_ref().unwrap_or(&self.vnodes)
    }

    /// What a key holds after all that was prepared. What cannot be read is held as an incomplete
    /// set of which nothing is known; an error says nothing of what is held.
    fn held(&self, key: &StoredKey) -> Result<Held, EngineError> {
        let vnodes = self.pending_vnodes();
        let held = match self.batch.overlay.get(key) {
            Some(held) => Ok(held.clone()),
            None => match self.engine.get(key.bytes()) {
                Ok(None) => Ok(Held::nothing(false, vnodes.absent_era(key.token()))),
                Ok(Some(sealed)) => {
                    Ok(open_held(key, &sealed).unwrap_or_else(|| Held::damaged(vnodes.era())))
                }
                Err(EngineError::Damaged(_)) => Ok(Held::damaged(vnodes.era())),
                Err(error @ EngineError::Io(_)) => Err(error),
            },
        };
        held.map(|held| self.standing_of(key, held))
    }

    /// What is held, as complete as its virtual node makes it after all that was prepared.
    fn standing_of(&self, key: &StoredKey, held: Held) -> Held {
        let trusted_from = self.pending_vnodes().trusted_from(key.token());
        Held { incomplete: held.is_marked || held.era < trusted_from, ..held }
    }

    fn check_limits(&self, before: &Held, after: SiblingSet) -> Result<SiblingSet, Outcome> {
        let (count, before_count) = (after.versions().len(), before.set.versions().len());
        if count > self.options.siblings_max && count > before_count {
            return Err(Outcome::TooManySiblings);
        }
        if after.vector().entries().len() > codec::ENTRIES_MAX {
            return Err(Outcome::TooLarge);
        }
        let bytes = codec::whole_bytes(&after);
        if bytes > self.options.set_bytes_max && bytes > codec::whole_bytes(&before.set) {
            return Err(Outcome::TooLarge);
        }
        Ok(after)
    }

    /// Adds the key's new state to the batch; returns the encoded set.
    fn put(&mut self, key: StoredKey, replication: u8, before: &Held, merged: Merged) -> Bytes {
        let Merged { set, completes, new_values, .. } = merged;
        for ApartValue { dot, bytes } in new_values {
            self.put_value(key.apart(dot), replication, Some(bytes));
        }
        let is_marked = before.is_marked && !completes;
        let mut delta = digest::delta(&key, &before.set, &set);
        if is_marked != before.counts_mark {
            delta.stays ^= digest::mark_digest(&key);
        }
        let change = Counted { delta, over_damage: before.is_damaged };
        // What is not complete stays as far behind as it was: it counts when its virtual node does.
        let (current, token) = (self.pending_vnodes().era(), key.token());
        let era = if completes { current } else { before.era };
        // It says no more than that there is nothing: absent keys say the same.
        let is_gone = set.is_empty()
            && !is_marked
            && (!completes || self.pending_vnodes().trusted_from(token) == Era(0));
        let standing = Standing { incomplete: is_marked, replication, era };
        let record = KeyRecord::new(&key, &change, standing, &set, is_gone);
        let encoded = record.set();
        self.batch.prepared.push(Prepared {
            key: key.clone(),
            value: record.sealed(),
            record: record.bytes,
            counted: Some((replication, change)),
        });
        let was_apart = before.set.apart().filter(|_| !before.is_head);
        for version in was_apart.filter(|version| !set.holds(version.dot)) {
            self.put_value(key.apart(version.dot), replication, None);
        }
        let (encoded_set, incomplete) = (encoded.clone(), !completes);
        let held = Held {
            set,
            encoded: encoded_set,
            is_marked,
            era,
            incomplete,
            is_damaged: false,
            counts_mark: is_marked,
            is_head: false,
        };
        self.batch.overlay.insert(key, held);
        encoded
    }

    pub(super) fn put_value(&mut self, at: StoredKey, replication: u8, value: Option<Bytes>) {
        let record = value_record(&at, replication, value.as_ref());
        // The tables share the record's memory.
        let value = value.map(|value| record.slice(record.len() - value.len()..));
        self.batch.prepared.push(Prepared { key: at, record, value, counted: None });
    }

    /// Marks a key as incomplete: writes under it may have been lost.
    pub(super) fn mark_incomplete(
        &mut self,
        key: StoredKey,
        replication: u8,
    ) -> Result<(), EngineError> {
        let held = Held { is_marked: true, incomplete: true, ..self.held(&key)? };
        // Whatever the mark was: a key that was never heard of differs from one that was lost.
        let merged = Merged { completes: false, ..Merged::of(held.set.clone()) };
        self.put(key, replication, &held, merged);
        Ok(())
    }
}

fn open_held(key: &StoredKey, sealed: &Bytes) -> Option<Held> {
    let Stored { standing, set: encoded } = Stored::open(key.bytes(), sealed).ok()?;
    let set = codec::decode(&encoded).ok()?;
    let Standing { incomplete: is_marked, era, .. } = standing;
    let (incomplete, counts_mark) = (is_marked, is_marked);
    let (is_damaged, is_head) = (false, false);
    Some(Held { set, encoded, is_marked, era, incomplete, is_damaged, counts_mark, is_head })
}

/// Those of the values that lie apart, of the dots that a mutation has brought into the set, which
/// are to be written down: what is held already is not written again, but in a rebuild.
fn new_values(
    key: &StoredKey,
    held: &Held,
    set: &SiblingSet,
    brought: &[Dot],
    values: &[ApartValue],
    rebuild: bool,
) -> Result<Vec<ApartValue>, Outcome> {
    let is_held = |dot: Dot| !held.incomplete && held.set.holds(dot);
    let mut new = Vec::new();
    for version in set.apart().filter(|version| brought.contains(&version.dot)) {
        match values.iter().find(|value| value.dot == version.dot) {
            Some(_) if is_held(version.dot) && !rebuild => {}
            Some(value) if version.is_value(&value.bytes, key.token()) => {
                new.push(value.clone());
            }
            Some(_) => return Err(Outcome::Corrupt),
            None if is_held(version.dot) => {}
            None => return Err(Outcome::Lacks),
        }
    }
    Ok(new)
}

/// What a merge brings.
struct Incoming<'a> {
    set: &'a SiblingSet,
    policy: ConflictPolicy,
    rebuild: bool,
    /// The floor of the whole peer that it comes from; or zero.
    authority: HybridTime,
    /// The floor here.
    floor: HybridTime,
}

impl Incoming<'_> {
    /// Up to where every dot that is not in the set is known to be covered: a whole peer says so of
    /// its floor, if that is higher, and so do those who together rebuild the key, of the floor that
    /// they share. Of two whole ones with one floor either may have met a straggler before it was
    /// raised, an unacknowledged write that the other has not heard of; but a key that is incomplete
    /// takes in whatever comes, and goes by the whole one.
    fn known_there(&self, held: &Held) -> HybridTime {
        let shared = if self.rebuild { self.floor } else { HybridTime::ZERO };
        let knows_more =
            self.authority > self.floor || (held.incomplete && self.authority == self.floor);
        if knows_more { self.authority } else { shared }
    }

    /// The same, of what is held. An incomplete key may lack anything, and nothing is held against a
    /// peer that knows more.
    fn known_to(&self, held: &Held) -> HybridTime {
        let is_behind = self.authority >= self.floor || is_planted(PlantedBug::TakeUnderFloor);
        if held.incomplete || is_behind { HybridTime::ZERO } else { self.floor }
    }

    /// Whether the newest pair is at or before `time` and was never seen.
    fn is_unseen_until(&self, time: HybridTime, held: &Held) -> bool {
        self.set.greatest_dot().is_some_and(|new| {
            new.time <= time && !held.set.holds(new) && !held.set.vector().has_entry_for(new)
        })
    }

    /// Whether an incomplete key takes in what a complete one would refuse under the floor. Nobody
    /// may count on that.
    fn is_late_for(&self, held: &Held) -> bool {
        let is_of_a_whole_one = self.rebuild || self.authority >= self.floor;
        held.incomplete && !is_of_a_whole_one && self.is_unseen_until(self.floor, held)
    }
}

/// The set after a merge, or why there is none.
fn merge(key: &StoredKey, held: &Held, incoming: &Incoming<'_>) -> Result<SiblingSet, Outcome> {
    let Incoming { set, policy, floor, .. } = incoming;
    if !set.versions().iter().all(|version| version.is_intact(key.token())) {
        return Err(Outcome::Corrupt);
    }
    let (known_here, known_there) = (incoming.known_to(held), incoming.known_there(held));
    if *policy == ConflictPolicy::Latest
        && let (Some(greatest), Some(new)) = (held.set.greatest_dot(), set.greatest_dot())
        && greatest > new
        && greatest.time > known_there
        && !held.incomplete
        && !is_planted(PlantedBug::SkipOlder)
    {
        return Err(Outcome::Older(greatest.time.max(known_here)));
    }
    let known = known_here.max(held.set.vector().base());
    if incoming.is_unseen_until(known, held) {
        return Err(Outcome::Older(known));
    }
    let merged = held.set.merge_knowing(known_here, set, known_there, *policy);
    let completes = !held.incomplete || incoming.rebuild;
    let floor = if completes { *floor } else { HybridTime::ZERO };
    let merged = merged.without_going(floor).packed(floor.max(incoming.authority));
    let counts = merged.vector().entries().len().max(merged.versions().len());
    if counts > codec::ENTRIES_MAX || codec::encoded_bytes(&merged) > MERGED_BYTES_MAX {
        return Err(Outcome::TooLarge);
    }
    Ok(merged)
}
