//! Reading a store that is held at one moment, as a snapshot is: which sets its keys have, and what it
//! knew beyond them. Nothing is ever written here.
//!
//! Several replicas' snapshots are merged key by key: what one holds and another has seen go is gone.
//! A replica knows that of more than its sets say: of all dots up to its floor for a virtual node (see
//! `version::floor`), unless it was not whole there. So each row comes with that time, and an absent
//! key has one too.

use std::sync::Arc;

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime, NodeId, Token, VnodeIndex};

use super::freeze::{Flushed, FlushedError};
use super::stand_ins::Taken;
use super::vnodes::Vnodes;
use crate::codec;
use crate::engine::{Engine, EngineError};
use crate::layout::{StoredKey, after_prefix, taken_prefix};
use crate::stored::Stored;
use crate::version::{ApartValue, SiblingSet, Version};

/// Whose rows are read; in each the keys ascend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What the node held itself.
    Own,
    /// What it had taken in the place of a primary.
    TakenFor(NodeId),
}

/// What a replica knew of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Its set.
    pub set: SiblingSet,
    /// Of all dots up to here it knew that they were made; those that are not in the set were covered.
    pub until: HybridTime,
}

impl Known {
    /// What both knew together.
    pub fn merge(&self, other: &Self, policy: ConflictPolicy) -> Self {
        let set = self.set.merge_knowing(self.until, &other.set, other.until, policy);
        Self { set, until: self.until.max(other.until) }
    }
}

/// A key that a replica had something of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenRow {
    /// The key.
    pub key: StoredKey,
    /// What was known of it.
    pub known: Known,
    /// Whether what lay there was damaged: then nothing was known.
    pub is_damaged: bool,
    /// Whether the node held it itself, and did not take it in another's place.
    pub is_own: bool,
    /// The values of the set that lie apart, where they lie in the row itself.
    pub values: Vec<ApartValue>,
}

impl FrozenRow {
    fn bytes(&self) -> usize {
        self.key.bytes().len() + codec::whole_bytes(&self.known.set)
    }
}

/// A store held at one moment.
#[derive(Clone)]
pub struct Frozen {
    engine: Arc<dyn Engine>,
    vnodes: Vnodes,
}

impl Frozen {
    /// A store of its tables and what [`super::Maintainer::freeze`] gave with them.
    ///
    /// # Errors
    /// [`FlushedError`].
    pub fn open(engine: Arc<dyn Engine>, flushed: &[u8]) -> Result<Self, FlushedError> {
        Ok(Self { engine, vnodes: Flushed::decode(flushed)?.vnodes })
    }

    /// Whether the node could vouch for a virtual node's keys as a whole.
    pub fn is_whole(&self, vnode: VnodeIndex) -> bool {
        !self.vnodes.is_distrusted(vnode)
    }

    /// What was known of a key that has no row here, if the node was one of its primaries.
    pub fn absent(&self, token: Token) -> Known {
        let vnode = self.vnodes.vnode_of(token);
        let is_whole = self.is_whole(vnode);
        let until = if is_whole { self.vnodes.floor(vnode) } else { HybridTime::ZERO };
        Known { set: SiblingSet::default(), until }
    }

    /// The rows of a stream after a key, at most `rows_max` and, after the first, no more than about
    /// `bytes_max` bytes; none at the end.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn rows(
        &self,
        stream: Stream,
        after: Option<&StoredKey>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<FrozenRow>, EngineError> {
        let (prefix, end) = match stream {
            Stream::Own => (Bytes::new(), None),
            Stream::TakenFor(node) => (taken_prefix(node), after_prefix(&taken_prefix(node))),
        };
        let from = match (stream, after) {
            (_, None) => prefix,
            (Stream::Own, Some(key)) => next_after(key),
            (Stream::TakenFor(node), Some(key)) => next_after(&key.taken_for(node)),
        };
        let (mut rows, mut bytes, mut failed) = (Vec::new(), 0, None);
        self.engine.scan(&from, end.as_deref(), &mut |entry| {
            let (at, value) = match entry {
                Ok((key, value)) => (StoredKey::from_bytes(key), value),
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            let Ok(at) = at else {
                failed = Some(EngineError::Damaged("a key is not laid out as keys are".to_owned()));
                return false;
            };
            let row = match (stream, at.taken()) {
                (Stream::Own, _) if at.is_for_others() => return false,
                (Stream::Own, _) if at.is_apart() => return true,
                (Stream::Own, _) => self.own(at, &value),
                (Stream::TakenFor(_), Some((_, key))) => taken(key, value),
                (Stream::TakenFor(_), None) => return false,
            };
            bytes += row.bytes();
            rows.push(row);
            rows.len() < rows_max && bytes < bytes_max
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(rows),
        }
    }

    /// One key's row of a stream.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn row(&self, stream: Stream, key: &StoredKey) -> Result<Option<FrozenRow>, EngineError> {
        Ok(match stream {
            Stream::Own => {
                self.engine.get(key.bytes())?.map(|sealed| self.own(key.clone(), &sealed))
            }
            Stream::TakenFor(node) => {
                let record = self.engine.get(key.taken_for(node).bytes())?;
                record.map(|record| taken(key.clone(), record))
            }
        })
    }

    /// The value of a pair that lies apart from its set, if it is here and intact.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn value(&self, key: &StoredKey, version: &Version) -> Result<Option<Bytes>, EngineError> {
        let found = self.engine.get(key.apart(version.dot).bytes())?;
        Ok(found.filter(|bytes| version.is_value(bytes, key.token())))
    }

    fn own(&self, key: StoredKey, sealed: &Bytes) -> FrozenRow {
        let opened = Stored::open(key.bytes(), sealed).ok();
        let opened = opened.and_then(|it| Some((it.standing, codec::decode(&it.set).ok()?)));
        let Some((standing, set)) = opened else { return damaged(key, true) };
        let is_whole =
            !standing.incomplete && standing.era >= self.vnodes.trusted_from(key.token());
        let until = if is_whole { self.vnodes.floor_of(key.token()) } else { HybridTime::ZERO };
        let known = Known { set, until };
        FrozenRow { key, known, is_damaged: false, is_own: true, values: Vec::new() }
    }
}

fn taken(key: StoredKey, record: Bytes) -> FrozenRow {
    let Some((set, values)) = Taken::decode(record).map(Taken::into_parts) else {
        return damaged(key, false);
    };
    let known = Known { set, until: HybridTime::ZERO };
    FrozenRow { key, known, is_damaged: false, is_own: false, values }
}

fn damaged(key: StoredKey, is_own: bool) -> FrozenRow {
    let known = Known::default();
    FrozenRow { key, known, is_damaged: true, is_own, values: Vec::new() }
}

/// The first bytes after a key's.
fn next_after(key: &StoredKey) -> Bytes {
    [&key.bytes()[..], &[0]].concat().into()
}
