//! What this node took in the place of a primary of the key that could not be reached (Dynamo, section
//! 4.6: hinted replicas). It lies apart from all that the node holds as a primary: no digest, floor, page
//! or figure of a table knows of it, and to forget it leaves no trace. With it lies one hint, of the time
//! at which the first of it was taken; both are written and taken out in one batch.
//!
//! What was taken is data that was acknowledged, so it has a bound at which no more is taken, and nothing
//! expires. All values lie in the record itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_ring::{ConflictPolicy, HybridTime, NodeId};

use super::compare::Row;
use super::hints::{FORMAT, Hint};
use super::{Change, Found, Mutation, Outcome, Reader, Whole, Writer};
use crate::codec;
use crate::engine::{EngineError, Pressure};
use crate::layout::{HintKind, StoredKey, after_prefix, all_hints_prefix, all_taken_prefix};
use crate::version::{Actor, ApartValue, Dot, Older, SiblingSet};

/// Of a record's value.
const RECORD_FORMAT: u8 = 1;

/// What a node is asked to take in the place of a primary.
#[derive(Debug, Clone, PartialEq)]
pub struct StandIn {
    /// The primary.
    pub primary: NodeId,
    /// When: the time of the hint, if there is none yet.
    pub time: HybridTime,
    /// What is merged with what was taken before; [`Change::Merge`] or [`Change::Write`].
    pub mutation: Mutation,
}

/// What lies under a key in a primary's place.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken {
    set: SiblingSet,
    values: Vec<ApartValue>,
}

/// Changes of a batch.
#[derive(Default)]
pub(super) struct TakenChanges {
    /// What lies there after it; `None`: nothing.
    overlay: BTreeMap<StoredKey, Option<Taken>>,
    /// How many bytes more lie there.
    pub(super) grown: i64,
}

impl Taken {
    fn encode(&self) -> Bytes {
        let set = codec::encode(&self.set);
        let values: usize = self.values.iter().map(|value| 20 + value.bytes.len()).sum();
        let mut out = BytesMut::with_capacity(5 + set.len() + values);
        out.put_u8(RECORD_FORMAT);
        out.put_u32_le(u32::try_from(set.len()).expect("sets are bounded"));
        out.put_slice(&set);
        for ApartValue { dot, bytes } in &self.values {
            out.put_u64_le(dot.time.0);
            out.put_u64_le(dot.actor.0);
            out.put_u32_le(u32::try_from(bytes.len()).expect("values are bounded"));
            out.put_slice(bytes);
        }
        out.freeze()
    }

    pub(super) fn decode(mut input: Bytes) -> Option<Self> {
        if input.try_get_u8().ok()? != RECORD_FORMAT {
            return None;
        }
        let length = input.try_get_u32_le().ok()? as usize;
        let set = (length <= input.len()).then(|| input.split_to(length))?;
        let set = codec::decode(&set).ok()?;
        let mut values = Vec::new();
        while !input.is_empty() {
            let time = HybridTime(input.try_get_u64_le().ok()?);
            let dot = Dot { time, actor: Actor(input.try_get_u64_le().ok()?) };
            let length = input.try_get_u32_le().ok()? as usize;
            let bytes = (length <= input.len()).then(|| input.split_to(length))?;
            values.push(ApartValue { dot, bytes });
        }
        Some(Self { set, values })
    }

    /// What both know; `None` if a value of it that lies apart is with neither.
    fn merge(self, other: Self, policy: ConflictPolicy) -> Option<Self> {
        let set = self.set.merge(&other.set, policy);
        let mut came = other.values;
        came.extend(self.values);
        let value = |dot| {
            let at = came.iter().position(|value: &ApartValue| value.dot == dot)?;
            Some(came[at].clone())
        };
        let values: Option<Vec<_>> = set.apart().map(|version| value(version.dot)).collect();
        Some(Self { values: values?, set })
    }

    /// The set, and its values that lie apart.
    pub(super) fn into_parts(self) -> (SiblingSet, Vec<ApartValue>) {
        (self.set, self.values)
    }

    /// A row to be handed over.
    fn row(self, key: StoredKey) -> Row {
        Row { key, set: codec::encode(&self.set), values: self.values }
    }
}

fn bytes_of(at: &StoredKey, record: &Bytes) -> i64 {
    i64::try_from(at.bytes().len() + record.len()).expect("bounded")
}

impl Writer {
    /// Takes something in the place of a primary: durable once the next [`Writer::commit`] returns.
    /// With it comes the hint, if it is the first.
    pub fn stand_in(&mut self, taken: StandIn) -> (Outcome, Option<Hint>) {
        match self.try_stand_in(taken) {
            Ok((set, hint)) => (Outcome::Merged(set), hint),
            Err(outcome) => (outcome, None),
        }
    }

    fn try_stand_in(&mut self, taken: StandIn) -> Result<(Bytes, Option<Hint>), Outcome> {
        let StandIn { primary, time, mutation } = taken;
        let Mutation { key, policy, change, values, .. } = mutation;
        if self.poisoned.is_some() {
            return Err(Outcome::Refused("the disk failed: nothing is taken before a restart"));
        }
        if self.engine.pressure() == Pressure::Halt {
            return Err(Outcome::Refused("the tables do not keep up with the writes"));
        }
        let at = key.taken_for(primary);
        let Ok(held) = self.taken(&at) else {
            return Err(Outcome::Refused("the tables cannot be read"));
        };
        let is_new = held.is_none();
        let (held, before) = held.unwrap_or_default();
        let incoming = match change {
            Change::Write { context, version } => {
                let written = held.set.write(policy, &context, version);
                written.map_err(|Older(time)| Outcome::Older(time))?
            }
            Change::Merge { set, .. } => set,
            Change::Collect | Change::Drop => return Err(Outcome::Refused("nothing is taken")),
        };
        let right = |version: &crate::version::Version| version.is_intact(key.token());
        let is_whole = |value: &ApartValue| {
            let mut apart = incoming.apart().filter(|version| version.dot == value.dot);
            apart.all(|version| version.is_value(&value.bytes, key.token()))
        };
        if !incoming.versions().iter().all(right) || !values.iter().all(is_whole) {
            return Err(Outcome::Corrupt);
        }
        if policy == ConflictPolicy::Latest
            && let (Some(greatest), Some(new)) = (held.set.greatest_dot(), incoming.greatest_dot())
            && greatest > new
        {
            return Err(Outcome::Older(greatest.time));
        }
        let siblings_before = held.set.versions().len();
        let merged = held.merge(Taken { set: incoming, values }, policy).ok_or(Outcome::Lacks)?;
        let siblings = merged.set.versions().len();
        if siblings > self.options.siblings_max && siblings > siblings_before {
            return Err(Outcome::TooManySiblings);
        }
        let bytes = codec::whole_bytes(&merged.set);
        if merged.set.vector().entries().len() > codec::ENTRIES_MAX
            || bytes > self.options.set_bytes_max
        {
            return Err(Outcome::TooLarge);
        }
        let record = merged.encode();
        let grown = bytes_of(&at, &record) - before;
        if grown > 0 && self.taken_bytes + self.batch.taken.grown + grown > self.taken_bytes_max() {
            return Err(Outcome::Refused(
                "it holds as many bytes in the place of other nodes as it may",
            ));
        }
        self.batch.taken.grown += grown;
        let hint = is_new.then(|| Hint { kind: HintKind::StandIn, target: primary, time, key });
        if let Some(hint) = &hint {
            self.put_value(hint.at(), 0, Some(Bytes::from_static(FORMAT)));
        }
        self.put_value(at.clone(), 0, Some(record));
        let set = codec::encode(&merged.set);
        self.batch.taken.overlay.insert(at, Some(merged));
        Ok((set, hint))
    }

    /// What was taken is with the primary, or nobody wants it any more.
    pub(super) fn forget_taken(&mut self, key: &StoredKey, primary: NodeId) {
        let at = key.taken_for(primary);
        if let Ok(Some((_, bytes))) = self.taken(&at) {
            self.batch.taken.grown -= bytes;
        }
        self.put_value(at.clone(), 0, None);
        self.batch.taken.overlay.insert(at, None);
    }

    fn taken_bytes_max(&self) -> i64 {
        i64::try_from(self.options.taken_bytes_max).unwrap_or(i64::MAX)
    }

    /// What lies there after all that was prepared, and its bytes. What is damaged is nothing.
    fn taken(&self, at: &StoredKey) -> Result<Option<(Taken, i64)>, EngineError> {
        if let Some(taken) = self.batch.taken.overlay.get(at) {
            let bytes = |taken: Taken| {
                let bytes = bytes_of(at, &taken.encode());
                (taken, bytes)
            };
            return Ok(taken.clone().map(bytes));
        }
        match self.engine.get(at.bytes()) {
            Ok(record) => Ok(record.and_then(|record| {
                let bytes = bytes_of(at, &record);
                Some((Taken::decode(record)?, bytes))
            })),
            Err(EngineError::Damaged(_)) => Ok(None),
            Err(error @ EngineError::Io(_)) => Err(error),
        }
    }
}

impl Reader {
    /// What this node took for a key in the place of its primaries, with all values.
    pub fn read_taken(
        &self,
        key: &StoredKey,
        primaries: &[NodeId],
        policy: ConflictPolicy,
    ) -> Whole {
        let mut all = Taken::default();
        for primary in primaries {
            let Ok(record) = self.engine.get(key.taken_for(*primary).bytes()) else {
                return Whole::bare(Found::Unreadable);
            };
            let Some(record) = record else { continue };
            let taken = Taken::decode(record).and_then(|taken| all.merge(taken, policy));
            let Some(taken) = taken else { return Whole::bare(Found::Unreadable) };
            all = taken;
        }
        if all.set.is_empty() {
            return Whole::bare(Found::Set(Bytes::new()));
        }
        Whole { found: Found::Set(codec::encode(&all.set)), values: all.values }
    }

    /// What was taken for keys in the place of one primary: of how many this tells, and those rows
    /// that hold anything that is not damaged.
    ///
    /// # Errors
    /// If the tables cannot be read now: that says nothing of what they hold.
    pub fn gather_taken(
        &self,
        primary: NodeId,
        keys: &[StoredKey],
        bytes_max: usize,
    ) -> Result<(usize, Vec<Row>), EngineError> {
        let (mut told, mut bytes, mut rows) = (0, 0, Vec::new());
        for key in keys {
            let record = match self.engine.get(key.taken_for(primary).bytes()) {
                Ok(record) => record,
                Err(EngineError::Damaged(_)) => None,
                Err(error @ EngineError::Io(_)) => return Err(error),
            };
            let row = record.and_then(Taken::decode).map(|taken| taken.row(key.clone()));
            bytes += row.as_ref().map_or(0, Row::bytes);
            if bytes > bytes_max && !rows.is_empty() {
                break;
            }
            told += 1;
            rows.extend(row);
        }
        Ok((told, rows))
    }
}

impl Writer {
    /// Counts what lies in the place of others, and notes a hint anew for what has lost its own.
    /// Reads all of it: for a start.
    pub(super) fn count_taken(&mut self) {
        let hinted = |prefix: &[u8], found: &mut dyn FnMut(StoredKey, Bytes)| {
            self.engine.scan(prefix, after_prefix(prefix).as_deref(), &mut |entry| {
                let Ok((key, record)) = entry else { return false };
                if let Ok(key) = StoredKey::from_bytes(key) {
                    found(key, record);
                }
                true
            });
        };
        let (mut bytes, mut unhinted) = (0, BTreeMap::new());
        hinted(&all_taken_prefix(), &mut |at, record| {
            bytes += bytes_of(&at, &record);
            if let (Some(of), Some(taken)) = (at.taken(), Taken::decode(record)) {
                unhinted.insert(of, taken.set.vector().greatest());
            }
        });
        if !unhinted.is_empty() {
            hinted(&all_hints_prefix(HintKind::StandIn), &mut |at, _| {
                if let Some((_, target, _, key)) = at.hinted() {
                    unhinted.remove(&(target, key));
                }
            });
        }
        self.taken_bytes = bytes;
        self.shared.taken_bytes.store(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
        for ((target, key), time) in unhinted {
            let hint = Hint { kind: HintKind::StandIn, target, time, key };
            self.put_value(hint.at(), 0, Some(Bytes::from_static(FORMAT)));
        }
    }
}
