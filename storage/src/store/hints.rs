//! Hints: which node misses a write of which key. References say no more: what is delivered is what
//! the key holds then. Others are about what lies here in the target's place (see
//! [`super::stand_ins`]). They share the log, the batches and the tables with everything else, but no
//! digest, no page and no figure of a table knows of them.
//!
//! A reference whose record is damaged is lost, and nothing else is: the anti-entropy finds what it
//! stood for.

use std::collections::BTreeMap;

use bytes::Bytes;
use quoit_ring::{HybridTime, NodeId};

use super::{Reader, Writer};
use crate::engine::Pressure;
use crate::layout::{HintKind, StoredKey, after_prefix, all_hints_prefix, hints_prefix};

/// What lies under a hint: the format alone.
pub(super) const FORMAT: &[u8] = &[1];

/// A node misses a write of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// What is to be delivered.
    pub kind: HintKind,
    /// Who.
    pub target: NodeId,
    /// When that was noted.
    pub time: HybridTime,
    /// Of which key.
    pub key: StoredKey,
}

impl Hint {
    pub(super) fn at(&self) -> StoredKey {
        self.key.hint(self.kind, self.target, self.time)
    }

    /// What the hint takes in the tables, about.
    pub fn bytes(&self) -> u64 {
        let fixed = hints_prefix(self.kind, self.target).len() + 8 + FORMAT.len();
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

/// How much waits for each node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CountedHints {
    /// What could be read.
    pub waiting: BTreeMap<(HintKind, NodeId), HintFigures>,
    /// There may be more that was taken in the place of others.
    pub hides_stand_ins: bool,
}

impl HintFigures {
    /// Counts a hint, which is not older than those before.
    pub fn add(&mut self, hint: &Hint) {
        if self.number == 0 {
            self.oldest = hint.time;
        }
        self.number += 1;
        self.bytes += hint.bytes();
        self.newest = hint.time;
    }
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
    /// Adds references to the batch, and takes hints out that were in the tables; one about what lies
    /// here in its target's place takes that with it.
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
            // A hint of nothing does no harm, and what no hint leads to would never be handed over:
            // a batch that is cut off in a crash may end between the two.
            if hint.kind == HintKind::StandIn {
                self.forget_taken(&hint.key, hint.target);
            }
            self.put_value(hint.at(), 0, None);
        }
        Ok(())
    }
}

impl Reader {
    /// The oldest hints of a kind for a node, of those noted at `from` or later: at most `count_max`.
    pub fn hints(
        &self,
        kind: HintKind,
        target: NodeId,
        from: HybridTime,
        count_max: usize,
    ) -> Hints {
        let prefix = hints_prefix(kind, target);
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

    /// How much waits for each node, of each kind. Reads all of it: for a start.
    pub fn count_hints(&self) -> CountedHints {
        let mut counted = CountedHints::default();
        for kind in HintKind::ALL {
            let prefix = all_hints_prefix(kind);
            let is_whole = self.scan_hints(&prefix, after_prefix(&prefix), &mut |hint| {
                counted.waiting.entry((kind, hint.target)).or_default().add(&hint);
                true
            });
            counted.hides_stand_ins |= !is_whole && kind == HintKind::StandIn;
        }
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
                Some((kind, target, time, key)) => visit(Hint { kind, target, time, key }),
                None => {
                    whole = false;
                    false
                }
            }
        });
        whole
    }
}
