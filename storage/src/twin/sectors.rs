//! One file of the twin disk: its content by sectors, and what of it is durable.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Keep, Random};

pub(super) const SECTOR_BYTES: u64 = 512;

/// Contents that a sector has had since the last sync, kept up to this number.
const VERSIONS_MAX: usize = 6;

type Sector = [u8; SECTOR_BYTES as usize];

const ZEROS: Sector = [0; SECTOR_BYTES as usize];

#[derive(Debug, Clone)]
struct Unsynced {
    /// Earlier contents; the first is the durable one.
    versions: Vec<Sector>,
    /// A sync failed: it looks written, and no later sync will bring it to the disk.
    abandoned: bool,
}

/// A file's content; sectors that are not in the map are zeros.
#[derive(Debug, Clone, Default)]
pub(super) struct FileState {
    length: u64,
    durable_length: u64,
    sectors: BTreeMap<u64, Box<Sector>>,
    unsynced: BTreeMap<u64, Unsynced>,
    spoiled: BTreeSet<u64>,
}

impl FileState {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn grow(&mut self, length: u64) {
        self.length = self.length.max(length);
    }

    /// Reads a range that lies inside the file.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) {
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        let sectors = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        for (&index, sector) in self.sectors.range(sectors) {
            let start = index * SECTOR_BYTES;
            let from = start.max(offset);
            let to = (start + SECTOR_BYTES).min(end);
            if from < to {
                buffer[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&sector[(from - start) as usize..(to - start) as usize]);
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        if bytes.is_empty() {
            return;
        }
        self.grow(end);
        for index in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let start = index * SECTOR_BYTES;
            let from = start.max(offset);
            let to = (start + SECTOR_BYTES).min(end);
            let sector = self.sectors.entry(index).or_insert_with(|| Box::new(ZEROS));
            let unsynced = self
                .unsynced
                .entry(index)
                .or_insert_with(|| Unsynced { versions: Vec::new(), abandoned: false });
            unsynced.abandoned = false;
            unsynced.versions.push(**sector);
            if unsynced.versions.len() > VERSIONS_MAX {
                unsynced.versions.remove(1);
            }
            sector[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
            self.spoiled.remove(&index);
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable_length = self.length;
        self.unsynced.retain(|_, unsynced| unsynced.abandoned);
    }

    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        self.unsynced.retain(|_, unsynced| {
            let durable = !unsynced.abandoned && random.below(2) == 0;
            unsynced.abandoned = !durable;
            !durable
        });
    }

    pub(super) fn crash(&mut self, keep: Keep, random: &mut Random) {
        for (index, unsynced) in std::mem::take(&mut self.unsynced) {
            if !unsynced.abandoned && keep.draw(random) {
                continue;
            }
            let versions = unsynced.versions.len() as u64;
            let choice = match keep {
                Keep::Some if !unsynced.abandoned => random.below(versions),
                _ => 0,
            };
            self.sectors.insert(index, Box::new(unsynced.versions[choice as usize]));
        }
        if self.length != self.durable_length && !keep.draw(random) {
            self.set_length(self.durable_length);
        }
        self.durable_length = self.length;
    }

    /// Changes bytes on the disk itself: what is durable, and what lies in the page cache.
    pub(super) fn alter(&mut self, offset: u64, bytes: u64, change: impl Fn(&mut u8)) {
        let end = offset.saturating_add(bytes).min(self.length);
        for at in offset..end {
            let (index, inside) = (at / SECTOR_BYTES, (at % SECTOR_BYTES) as usize);
            let sector = self.sectors.entry(index).or_insert_with(|| Box::new(ZEROS));
            change(&mut sector[inside]);
            if let Some(unsynced) = self.unsynced.get_mut(&index) {
                for version in &mut unsynced.versions {
                    change(&mut version[inside]);
                }
            }
        }
    }

    pub(super) fn cut(&mut self, length: u64) {
        if length < self.length {
            self.set_length(length);
            self.durable_length = self.durable_length.min(length);
        }
    }

    pub(super) fn spoil(&mut self, sector: u64) {
        self.spoiled.insert(sector);
    }

    pub(super) fn is_spoiled(&self, offset: u64, bytes: u64) -> bool {
        let end = (offset + bytes).div_ceil(SECTOR_BYTES);
        self.spoiled.range(offset / SECTOR_BYTES..end).next().is_some()
    }

    /// Sets the length; what lies behind a shorter one reads as zeros if the file grows again.
    fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.sectors.split_off(&length.div_ceil(SECTOR_BYTES));
            self.unsynced.split_off(&length.div_ceil(SECTOR_BYTES));
            let inside = (length % SECTOR_BYTES) as usize;
            if inside > 0
                && let Some(sector) = self.sectors.get_mut(&(length / SECTOR_BYTES))
            {
                sector[inside..].fill(0);
            }
        }
        self.length = length;
    }
}
