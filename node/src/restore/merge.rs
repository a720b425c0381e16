//! What all nodes knew together, key by key.
//!
//! In each folder the keys ascend, and so they do in what a node had taken in the place of others; all
//! these streams are read side by side, and the sets found under one key are merged as replicas merge
//! them: values that another replica has seen replaced or deleted go, concurrent ones stay. A primary
//! that has no row of a key counts as well: of all writes up to its floor it knows that they are gone.

use std::collections::VecDeque;

use bytes::Bytes;
use quoit_client::{Key, NodeId};
use quoit_ring::{ClusterRecord, HybridTime, TableId, TableOptions};
use quoit_storage::engine::EngineError;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{Frozen, FrozenRow, Known, Stream};
use quoit_storage::version::{ApartValue, Content, Version};

/// So many rows of a stream are read at once.
const ROWS_MAX: usize = 256;
/// And about so many bytes.
const BYTES_MAX: usize = 1 << 20;

/// One node's folder, opened.
pub(super) struct Source {
    pub(super) node: NodeId,
    pub(super) frozen: Frozen,
}

/// One value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Restorable {
    pub(super) bytes: Bytes,
    pub(super) expires: Option<HybridTime>,
}

/// A key that is to be restored, with at least one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) table: TableId,
    pub(super) key: Key,
    pub(super) values: Vec<Restorable>,
}

/// What the merge has come to so far, beside the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Passed {
    /// Keys without a live value: deleted or expired.
    pub(super) gone: u64,
    /// Keys with a value that no folder has any more: that value is not restored.
    pub(super) lost: u64,
    /// Rows that were damaged in a node's tables before the snapshot; others' stand for them.
    pub(super) damaged: u64,
}

/// The tables of the folders cannot be read, although their files are whole.
#[derive(Debug, thiserror::Error)]
#[error("the folder of {node} cannot be read")]
pub(super) struct MergeError {
    node: NodeId,
    source: EngineError,
}

/// A stream of a source, read ahead.
struct Cursor {
    source: usize,
    stream: Stream,
    rows: VecDeque<FrozenRow>,
    last: Option<StoredKey>,
    ended: bool,
}

/// All streams, merged.
pub(super) struct Merge<'a> {
    sources: &'a [Source],
    record: &'a ClusterRecord,
    cursors: Vec<Cursor>,
    pub(super) passed: Passed,
}

/// What is known of one key.
struct Gathered {
    key: StoredKey,
    rows: Vec<(usize, FrozenRow)>,
}

impl<'a> Merge<'a> {
    pub(super) fn new(sources: &'a [Source], record: &'a ClusterRecord) -> Self {
        let cursors = (0..sources.len()).flat_map(|source| {
            streams(record).map(move |stream| Cursor {
                source,
                stream,
                rows: VecDeque::new(),
                last: None,
                ended: false,
            })
        });
        Self { sources, record, cursors: cursors.collect(), passed: Passed::default() }
    }

    /// The next key of a table that `wants`, with the values that live at `now`.
    pub(super) fn next(
        &mut self,
        now: HybridTime,
        wants: &dyn Fn(TableId) -> bool,
    ) -> Result<Option<Row>, MergeError> {
        while let Some(gathered) = self.gather()? {
            let table = self.record.table_by_id(gathered.key.table());
            let Some(table) = table.filter(|table| wants(table.id)) else { continue };
            let damaged = gathered.rows.iter().filter(|(_, row)| row.is_damaged).count();
            self.passed.damaged += damaged as u64;
            let known = known(self.sources, self.record, table, &gathered);
            let live: Vec<&Version> =
                known.set.versions().iter().filter(|version| version.is_live(now)).collect();
            if live.is_empty() {
                self.passed.gone += 1;
                continue;
            }
            let mut values = Vec::with_capacity(live.len());
            for version in &live {
                let bytes = bytes_of(self.sources, &gathered, version)?;
                values.extend(bytes.map(|bytes| Restorable { bytes, expires: version.expires }));
            }
            self.passed.lost += u64::from(values.len() < live.len());
            if values.is_empty() {
                continue;
            }
            let (partition, sort) = (gathered.key.partition(), gathered.key.sort());
            return Ok(Some(Row { table: table.id, key: Key { partition, sort }, values }));
        }
        Ok(None)
    }

    /// All rows of the least key that was not gathered yet.
    fn gather(&mut self) -> Result<Option<Gathered>, MergeError> {
        for cursor in &mut self.cursors {
            cursor.fill(self.sources)?;
        }
        let first = self.cursors.iter().filter_map(|cursor| cursor.rows.front());
        let Some(key) = first.map(|row| &row.key).min().cloned() else { return Ok(None) };
        let mut rows = Vec::new();
        for cursor in &mut self.cursors {
            if cursor.rows.front().is_some_and(|row| row.key == key)
                && let Some(row) = cursor.rows.pop_front()
            {
                rows.push((cursor.source, row));
            }
        }
        Ok(Some(Gathered { key, rows }))
    }
}

impl Cursor {
    fn fill(&mut self, sources: &[Source]) -> Result<(), MergeError> {
        if self.ended || !self.rows.is_empty() {
            return Ok(());
        }
        let Source { node, frozen } = &sources[self.source];
        let rows = frozen
            .rows(self.stream, self.last.as_ref(), ROWS_MAX, BYTES_MAX)
            .map_err(|source| MergeError { node: *node, source })?;
        match rows.last() {
            Some(last) => self.last = Some(last.key.clone()),
            None => self.ended = true,
        }
        self.rows = rows.into();
        Ok(())
    }
}

/// What a node may have rows of: its own, and those of others.
fn streams(record: &ClusterRecord) -> impl Iterator<Item = Stream> {
    let others = record.members.iter().map(|member| Stream::TakenFor(member.id));
    std::iter::once(Stream::Own).chain(others)
}

/// What all knew of a key together.
fn known(
    sources: &[Source],
    record: &ClusterRecord,
    table: &quoit_ring::Table,
    gathered: &Gathered,
) -> Known {
    let TableOptions { policy, replication, .. } = table.options;
    let token = gathered.key.token();
    let vnode = record.vnodes.vnode_of(token);
    let mut all = Known::default();
    for (index, source) in sources.iter().enumerate() {
        let is_primary = record.is_primary(source.node, vnode, replication);
        let mut own = false;
        for (_, row) in gathered.rows.iter().filter(|(of, _)| *of == index) {
            let mut known = row.known.clone();
            // The floor is of the virtual node's replicas alone.
            if !is_primary {
                known.until = HybridTime::ZERO;
            }
            own |= row.is_own;
            all = all.merge(&known, policy);
        }
        if is_primary && !own {
            all = all.merge(&source.frozen.absent(token), policy);
        }
    }
    all
}

/// The bytes of a value, from whichever folder has them intact.
fn bytes_of(
    sources: &[Source],
    gathered: &Gathered,
    version: &Version,
) -> Result<Option<Bytes>, MergeError> {
    let key = &gathered.key;
    if let Content::Value { bytes, .. } = &version.content {
        return Ok(version.is_intact(key.token()).then(|| bytes.clone()));
    }
    for (of, row) in &gathered.rows {
        let is_it = |value: &&ApartValue| {
            value.dot == version.dot && version.is_value(&value.bytes, key.token())
        };
        if let Some(value) = row.values.iter().find(is_it) {
            return Ok(Some(value.bytes.clone()));
        }
        let Source { node, frozen } = &sources[*of];
        let found =
            frozen.value(key, version).map_err(|source| MergeError { node: *node, source })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Whether a key has a live value in the snapshot.
pub(super) fn is_live(
    sources: &[Source],
    record: &ClusterRecord,
    table: &quoit_ring::Table,
    key: &Key,
    now: HybridTime,
) -> Result<bool, MergeError> {
    let token = record.token(&key.partition);
    let Ok(key) = StoredKey::new(token, table.id, &key.partition, &key.sort) else {
        // Longer than any key that could be stored there.
        return Ok(false);
    };
    let mut rows = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        for stream in streams(record) {
            let row = source.frozen.row(stream, &key);
            let row = row.map_err(|error| MergeError { node: source.node, source: error })?;
            rows.extend(row.map(|row| (index, row)));
        }
    }
    let gathered = Gathered { key, rows };
    Ok(known(sources, record, table, &gathered).set.is_live(now))
}

#[cfg(test)]
mod tests;
