//! Reading what is committed, and keeping the tables in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quoit_ring::TableId;

use super::{CHECKPOINT_FILE, Shared, lock};
use crate::digest::TableFigures;
use crate::disk::Disk;
use crate::engine::{Engine, EngineError, EngineSize};
use crate::layout::StoredKey;
use crate::small_file::SmallFile;
use crate::stored::{Era, Stored};

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The encoded set (see [`crate::codec`]); empty bytes where the key was never written.
    Set(Bytes),
    /// The replica cannot vouch for what it holds, if it holds anything: not the same as absent.
    Unreadable,
}

/// One row of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRow {
    /// The key.
    pub key: StoredKey,
    /// What is under it.
    pub found: Found,
}

/// Reads what is committed. Cheap to clone; any thread.
#[derive(Clone)]
pub struct Reader {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) shared: Arc<Shared>,
}

/// Figures for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreFigures {
    /// What each table holds.
    pub tables: Vec<(TableId, TableFigures)>,
    /// The tables' size on disk.
    pub size: EngineSize,
    /// Bytes that are only in memory (and in the log).
    pub memory_bytes: u64,
    /// The last record committed.
    pub sequence: u64,
    /// Reads since the start of keys that this replica could not vouch for.
    pub unreadable: u64,
    /// What the tables said when a read last met damage in them.
    pub damage: Option<String>,
    /// Whether every record of the store is distrusted until its peers are merged in.
    pub distrusted: bool,
}

impl Reader {
    /// Reads one key.
    pub fn read(&self, key: &StoredKey) -> Found {
        let found = match self.engine.get(key.bytes()) {
            Ok(Some(sealed)) => self.judge(key.bytes(), &sealed),
            Ok(None) => self.absent(),
            Err(error) => {
                self.note_damage(&error);
                Found::Unreadable
            }
        };
        self.count(&found);
        found
    }

    /// Reads keys from `from` (included) to `to` (excluded) that belong to `table`, ascending, at
    /// most `rows_max` of them and, after the first, no more than about `bytes_max` bytes. The
    /// second value tells whether there may be more after the last row.
    ///
    /// `None` if part of the range is unreadable in a way that hides which keys it holds, or if
    /// the store cannot vouch for keys that it does not hold.
    pub fn page(
        &self,
        table: TableId,
        from: &[u8],
        to: Option<&[u8]>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Option<(Vec<PageRow>, bool)> {
        if self.trusted_from() > Era(0) {
            return None;
        }
        let (mut rows, mut bytes, mut more, mut broken) = (Vec::new(), 0, false, false);
        self.engine.scan(from, to, &mut |entry| match entry {
            Ok((key, sealed)) => {
                let Ok(key) = StoredKey::from_bytes(key) else {
                    broken = true;
                    return false;
                };
                if key.table() != table {
                    return true;
                }
                if rows.len() >= rows_max || (bytes > 0 && bytes + sealed.len() > bytes_max) {
                    more = true;
                    return false;
                }
                bytes += key.bytes().len() + sealed.len();
                let found = self.judge(key.bytes(), &sealed);
                self.count(&found);
                rows.push(PageRow { key, found });
                true
            }
            Err(error) => {
                self.note_damage(&error);
                broken = true;
                false
            }
        });
        (!broken).then_some((rows, more))
    }

    /// Figures for people and metrics.
    pub fn figures(&self) -> StoreFigures {
        StoreFigures {
            tables: lock(&self.shared.tables).iter().map(|(id, figures)| (*id, *figures)).collect(),
            size: self.engine.size(),
            memory_bytes: self.engine.memory_bytes(),
            sequence: self.shared.committed.load(Ordering::Relaxed),
            unreadable: self.shared.unreadable.load(Ordering::Relaxed),
            damage: lock(&self.shared.damage).clone(),
            distrusted: self.trusted_from() > Era(0),
        }
    }

    fn trusted_from(&self) -> Era {
        Era(self.shared.trusted_from.load(Ordering::Relaxed))
    }

    fn judge(&self, key: &[u8], sealed: &Bytes) -> Found {
        match Stored::open(key, sealed) {
            Ok(Stored { standing, set })
                if !standing.incomplete && standing.era >= self.trusted_from() =>
            {
                Found::Set(set)
            }
            Ok(_) | Err(_) => Found::Unreadable,
        }
    }

    fn absent(&self) -> Found {
        if self.trusted_from() > Era(0) { Found::Unreadable } else { Found::Set(Bytes::new()) }
    }

    /// Keeps what is new of what the tables say, for people.
    fn note_damage(&self, error: &EngineError) {
        let said = error.to_string();
        let mut last = lock(&self.shared.damage);
        if last.as_ref() != Some(&said) {
            *last = Some(said);
        }
    }

    fn count(&self, found: &Found) {
        if *found == Found::Unreadable {
            self.shared.unreadable.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Flushes and compacts the tables and writes checkpoints.
#[derive(Clone)]
pub struct Maintainer {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) shared: Arc<Shared>,
}

impl Maintainer {
    /// Whether memory was closed and waits for its flush.
    pub fn has_work(&self) -> bool {
        !lock(&self.shared.checkpoints).is_empty()
    }

    /// Flushes what was closed, writes its checkpoint and lets the log be cut; keeps a spare segment
    /// ready, too. May run beside [`Maintainer::compact`], on a thread of its own: a flush that waits
    /// for a compaction halts the writer. Calls come one after the other.
    ///
    /// # Errors
    /// What failed, for people. Everything is as durable as before; call again later.
    pub fn flush(&self) -> Result<(), String> {
        let keeper = lock(&self.shared.flushing);
        if self.has_work() {
            self.flush_closed()?;
        }
        // Without a spare the log looks for space itself.
        let _ = keeper.keep();
        Ok(())
    }

    fn flush_closed(&self) -> Result<(), String> {
        let persisted = self.engine.flush().map_err(|error| error.to_string())?;
        let due = {
            let checkpoints = lock(&self.shared.checkpoints);
            checkpoints.iter().rfind(|checkpoint| checkpoint.sequence <= persisted).cloned()
        };
        if let Some(mut checkpoint) = due {
            checkpoint.tables = persisted;
            SmallFile::new(self.disk.clone(), CHECKPOINT_FILE)
                .save(&checkpoint.encode())
                .map_err(|error| error.to_string())?;
            lock(&self.shared.checkpoints).retain(|other| other.sequence > checkpoint.sequence);
            self.shared.cut.fetch_max(checkpoint.sequence.0 + 1, Ordering::Release);
        }
        Ok(())
    }

    /// One round of compaction, if one is due.
    ///
    /// # Errors
    /// What failed. After [`EngineError::Damaged`] the same round fails for ever: the tables must
    /// be condemned and made anew at the next start.
    pub fn compact(&self) -> Result<(), EngineError> {
        self.engine.compact()
    }
}
