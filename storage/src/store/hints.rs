//! Hints: which node misses a write of which key. References, no copies: what is delivered is what
//! the key holds then. They share the log, the batches and the tables with everything else, but no
//! digest, no page and no figure of a table knows of them.
//!
//! A hint whose record is damaged is lost, and nothing else is: the anti-entropy finds what it stood
//! for.

use std::collections::BTreeMap;

use bytes::Bytes;
use quoit_ring::{HybridTime, NodeId};

use super::{Reader, Writer};
use crate::engine::Pressure;
use crate::layout::{StoredKey, after_prefix, all_hints_prefix, hints_prefix};

/// What lies under a hint: the format alone.
const FORMAT: &[u8] = &[1];

/// A node misses a write of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// Who.
    pub target: NodeId,
    /// When that was noted.
    pub time: HybridTime,
    /// Of which key.
    pub key: StoredKey,
}

impl Hint {
    fn at(&self) -> StoredKey {
        self.key.hint(self.target, self.time)
    }

    /// What the hint takes in the tables, about.
    pub fn bytes(&self) -> u64 {
        let fixed = all_hints_prefix().len() + 16 + FORMAT.len();
        (fixed + self.key.bytes().len()) as u64
    }
}

/// How much waits for one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HintFigures {
    /// Hints.
    pub number: u64,
    /// Their bytes.
    pub bytes: u64,
    /// No hint is older.
    pub oldest: HybridTime,
    /// No hint is younger.
    pub newest: HybridTime,
}

/// Hints for one node, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hints {
    /// The hints.
    pub hints: Vec<Hint>,
    /// The tables are damaged behind them: what else waits cannot be known.
    pub broken: bool,
}

impl Writer {
    /// Adds hints to the batch, and takes others out that were in the tables.
    ///
    /// # Errors
    /// Why not, for people. Nothing was added to the batch.
    pub fn change_hints<'a>(
        &mut self,
        added: impl IntoIterator<Item = &'a Hint>,
        removed: impl IntoIterator<Item = &'a Hint>,
    ) -> Result<(), &'static str> {
        if self.engine.pressure() == Pressure::Halt {
            return Err("the tables do not keep up with the writes");
        }
        for hint in added {
            self.put_value(hint.at(), 0, Some(Bytes::from_static(FORMAT)));
        }
        for hint in removed {
            self.put_value(hint.at(), 0, None);
        }
        Ok(())
    }
}

impl Reader {
    /// The oldest hints for a node, of those noted at `from` or later: at most `count_max`.
    pub fn hints(&self, target: NodeId, from: HybridTime, count_max: usize) -> Hints {
        let prefix = hints_prefix(target);
        let from = [&prefix[..], &from.0.to_be_bytes()].concat();
        let mut found = Hints { hints: Vec::new(), broken: false };
        if count_max > 0 {
            found.broken = !self.scan_hints(&from, after_prefix(&prefix), &mut |hint| {
                found.hints.push(hint);
                found.hints.len() < count_max
            });
        }
        found
    }

    /// How much waits for each node. Reads all of it: for a start.
    pub fn count_hints(&self) -> BTreeMap<NodeId, HintFigures> {
        let mut counted: BTreeMap<NodeId, HintFigures> = BTreeMap::new();
        self.scan_hints(&all_hints_prefix(), None, &mut |hint| {
            let figures = counted.entry(hint.target).or_default();
            if figures.number == 0 {
                figures.oldest = hint.time;
            }
            figures.newest = hint.time;
            figures.number += 1;
            figures.bytes += hint.bytes();
            true
        });
        counted
    }

    /// Whether everything could be read.
    fn scan_hints(
        &self,
        from: &[u8],
        to: Option<Bytes>,
        visit: &mut dyn FnMut(Hint) -> bool,
    ) -> bool {
        let mut whole = true;
        self.engine.scan(from, to.as_deref(), &mut |entry| {
            let hint = entry.ok().and_then(|(key, _)| StoredKey::from_bytes(key).ok()?.hinted());
            match hint {
                Some((target, time, key)) => visit(Hint { target, time, key }),
                None => {
                    whole = false;
                    false
                }
            }
        });
        whole
    }
}
