//! Reading what is committed, and keeping the tables in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quoit_ring::{HybridTime, TableId, VnodeIndex};

use super::freeze::Flushed;
use super::{CHECKPOINT_FILE, Shared, lock};
use crate::codec;
use crate::digest::TableFigures;
use crate::disk::Disk;
use crate::engine::{Engine, EngineError, EngineSize};
use crate::layout::StoredKey;
use crate::log::free_retired;
use crate::planted::{PlantedBug, is_planted};
use crate::small_file::SmallFile;
use crate::stored::{Era, Stored};
use crate::version::ApartValue;

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The encoded set (see [`crate::codec`]); empty bytes where the key was never written.
    Set(Bytes),
    /// The replica cannot vouch for what it holds, if it holds anything: not the same as absent.
    Unreadable,
}

/// What a read found, with the values that lie apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// What is under the key.
    pub found: Found,
    /// The bytes of its values that lie apart, ascending by dot: all of them, or none where they
    /// were not asked for.
    pub values: Vec<ApartValue>,
}

impl Whole {
    /// What was found, without values that lie apart.
    pub fn bare(found: Found) -> Self {
        Self { found, values: Vec::new() }
    }
}

/// One row of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRow {
    /// The key.
    pub key: StoredKey,
    /// What is under it.
    pub whole: Whole,
}

/// A set is read again so often, if its values are replaced while they are gathered.
const GATHERINGS_MAX: usize = 64;

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
    /// Why the last flush failed; `None` if it did not. Nothing is lost by it, but memory and log
    /// grow until no more writes are taken.
    pub flush_failure: Option<String>,
    /// Virtual nodes that are distrusted until enough of their peers are merged in.
    pub distrusted: u32,
    /// Bytes taken in the place of other nodes.
    pub taken_bytes: u64,
}

impl Reader {
    /// Reads one key.
    pub fn read(&self, key: &StoredKey) -> Found {
        let found = match self.engine.get(key.bytes()) {
            Ok(Some(sealed)) => self.judge(key, &sealed),
            Ok(None) if self.trusted_from(key) > Era(0) => Found::Unreadable,
            Ok(None) => Found::Set(Bytes::new()),
            Err(_) if is_planted(PlantedBug::CorruptIsAbsent) => Found::Set(Bytes::new()),
            Err(error) => {
                self.note_damage(&error);
                Found::Unreadable
            }
        };
        self.count(&found);
        found
    }

    /// Reads one key with its values that lie apart.
    pub fn read_whole(&self, key: &StoredKey) -> Whole {
        let mut found = self.read(key);
        for _ in 0..GATHERINGS_MAX {
            let Found::Set(set) = &found else { return Whole::bare(found) };
            if let Some(values) = self.gather(key, set) {
                return Whole { found, values };
            }
            // Either a writer has replaced it meanwhile, or it is damaged.
            let again = self.read(key);
            if again == found {
                break;
            }
            found = again;
        }
        self.count(&Found::Unreadable);
        Whole::bare(Found::Unreadable)
    }

    /// The values of a set that lie apart; `None` if one of them is not there or not intact.
    pub(super) fn gather(&self, key: &StoredKey, set: &Bytes) -> Option<Vec<ApartValue>> {
        if !codec::has_apart(set) {
            return Some(Vec::new());
        }
        let set = codec::decode(set).ok()?;
        set.apart()
            .map(|version| {
                let bytes = match self.engine.get(key.apart(version.dot).bytes()) {
                    Ok(bytes) => bytes?,
                    Err(error) => {
                        self.note_damage(&error);
                        return None;
                    }
                };
                let is_intact = version.is_value(&bytes, key.token());
                is_intact.then_some(ApartValue { dot: version.dot, bytes })
            })
            .collect()
    }

    /// Reads keys from `from` (included) to `to` (excluded) that belong to `table`, ascending, at
    /// most `rows_max` of them and, after the first, no more than about `bytes_max` bytes; with the
    /// values that lie apart if `whole`. The second value tells whether there may be more after the
    /// last row.
    ///
    /// `None` if part of the range is unreadable in a way that hides which keys it holds, or if
    /// it touches a virtual node that is distrusted: what is absent there is unknown.
    pub fn page(
        &self,
        table: TableId,
        from: &[u8],
        to: Option<&[u8]>,
        rows_max: usize,
        bytes_max: usize,
        whole: bool,
    ) -> Option<(Vec<PageRow>, bool)> {
        if self.shared.has_distrusted() && lock(&self.shared.vnodes).distrusts_range(from, to) {
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
                    // Behind what is kept for others there is nothing, and that may be much.
                    return !key.is_for_others();
                }
                let found = self.judge(&key, &sealed);
                let row_bytes = match &found {
                    Found::Set(set) if whole => key.bytes().len() + whole_bytes(set),
                    Found::Set(_) | Found::Unreadable => key.bytes().len() + sealed.len(),
                };
                if rows.len() >= rows_max || (bytes > 0 && bytes + row_bytes > bytes_max) {
                    more = true;
                    return false;
                }
                bytes += row_bytes;
                self.count(&found);
                rows.push(PageRow { key, whole: Whole::bare(found) });
                true
            }
            Err(error) => {
                self.note_damage(&error);
                broken = true;
                false
            }
        });
        if whole {
            self.gather_rows(&mut rows);
        }
        (!broken).then_some((rows, more))
    }

    fn gather_rows(&self, rows: &mut [PageRow]) {
        for PageRow { key, whole } in rows {
            if matches!(&whole.found, Found::Set(set) if codec::has_apart(set)) {
                *whole = self.read_whole(key);
            }
        }
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
            flush_failure: lock(&self.shared.flush_failure).clone(),
            distrusted: lock(&self.shared.vnodes).distrusted_count(),
            taken_bytes: self.shared.taken_bytes.load(Ordering::Relaxed),
        }
    }

    /// The virtual nodes that are distrusted until enough of their peers are merged in, ascending.
    pub fn distrusted(&self) -> Vec<VnodeIndex> {
        lock(&self.shared.vnodes).distrusted().collect()
    }

    /// The last record of the log that is durable: whatever happens to the process or the power, no
    /// later start finds less.
    pub fn durable_sequence(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// A virtual node's floor.
    pub fn floor(&self, vnode: VnodeIndex) -> HybridTime {
        lock(&self.shared.vnodes).floor(vnode)
    }

    /// Records of the key of earlier eras are incomplete.
    fn trusted_from(&self, key: &StoredKey) -> Era {
        if self.shared.has_distrusted() {
            lock(&self.shared.vnodes).trusted_from(key.token())
        } else {
            Era(0)
        }
    }

    fn judge(&self, key: &StoredKey, sealed: &Bytes) -> Found {
        match Stored::open(key.bytes(), sealed) {
            Ok(Stored { standing, set })
                if !standing.incomplete && standing.era >= self.trusted_from(key) =>
            {
                Found::Set(set)
            }
            Err(_) if is_planted(PlantedBug::CorruptIsAbsent) => Found::Set(Bytes::new()),
            Ok(_) | Err(_) => Found::Unreadable,
        }
    }

    /// Keeps what is new of what the tables say, for people.
    pub(super) fn note_damage(&self, error: &EngineError) {
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

/// The bytes of an encoded set and of its values that lie apart.
fn whole_bytes(set: &Bytes) -> usize {
    if codec::has_apart(set) {
        codec::decode(set).map_or(0, |set| codec::whole_bytes(&set))
    } else {
        set.len()
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
        let mut keeper = lock(&self.shared.flushing);
        if self.has_work() {
            self.flush_noting()?;
            // With a reserved one the log goes on as well.
            let _ = keeper.fill_reserved();
        }
        // Without a spare the log looks for space itself.
        let _ = keeper.keep();
        Ok(())
    }

    /// Flushes, and keeps what failed for people. To be called by whoever holds `flushing`.
    pub(super) fn flush_noting(&self) -> Result<(), String> {
        let flushed = self.flush_closed();
        if flushed.is_err() {
            self.make_room();
        }
        *lock(&self.shared.flush_failure) = flushed.clone().err();
        flushed
    }

    fn flush_closed(&self) -> Result<(), String> {
        let persisted = self.engine.flush().map_err(|error| error.to_string())?;
        let due = {
            let checkpoints = lock(&self.shared.checkpoints);
            checkpoints.iter().rfind(|checkpoint| checkpoint.sequence <= persisted).cloned()
        };
        if let Some(mut checkpoint) = due {
            checkpoint.tables = persisted;
            *lock(&self.shared.flushed) =
                Some(Flushed { sequence: checkpoint.sequence, vnodes: checkpoint.vnodes.clone() });
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
        let compacted = self.engine.compact();
        if matches!(compacted, Err(EngineError::Io(_))) {
            self.make_room();
        }
        compacted
    }

    /// The disk may be full.
    fn make_room(&self) {
        free_retired(&*self.disk);
    }
}
