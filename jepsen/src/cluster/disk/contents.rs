//! One file's bytes, and what of them is durable.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::Keep;

/// A disk writes a sector whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Contents that a sector has had since the last sync, kept up to this number.
const VERSIONS_MAX: usize = 6;

type Sector = [u8; SECTOR_BYTES];

/// What a sector was before it was written.
#[derive(Debug)]
struct Unsynced {
    /// Earlier contents; the first is the durable one.
    versions: Vec<Sector>,
    /// A sync failed: it looks written, and no later sync will bring it to the disk.
    is_abandoned: bool,
}

/// A file's bytes.
#[derive(Debug, Default)]
pub(super) struct Contents {
    bytes: Vec<u8>,
    durable_length: usize,
    /// By the sector's index.
    unsynced: BTreeMap<usize, Unsynced>,
}

impl Contents {
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// As much of a range as there is.
    pub(super) fn read(&self, offset: usize, length: usize) -> &[u8] {
        let from = offset.min(self.bytes.len());
        let to = offset.saturating_add(length).min(self.bytes.len());
        &self.bytes[from..to]
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        self.remember(offset, end);
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    /// Cuts the file, or lets it grow by zeros.
    pub(super) fn set_length(&mut self, length: usize) {
        self.remember(length, self.bytes.len());
        self.bytes.resize(length, 0);
    }

    /// Keeps what the sectors of a range hold now.
    fn remember(&mut self, from: usize, to: usize) {
        for index in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            let before = self.sector(index);
            let fresh = || Unsynced { versions: Vec::new(), is_abandoned: false };
            let unsynced = self.unsynced.entry(index).or_insert_with(fresh);
            unsynced.is_abandoned = false;
            unsynced.versions.push(before);
            if unsynced.versions.len() > VERSIONS_MAX {
                unsynced.versions.remove(1);
            }
        }
    }

    fn sector(&self, index: usize) -> Sector {
        let mut sector = [0; SECTOR_BYTES];
        let held = self.read(index * SECTOR_BYTES, SECTOR_BYTES);
        sector[..held.len()].copy_from_slice(held);
        sector
    }

    pub(super) fn unsynced_sectors(&self) -> usize {
        self.unsynced.len()
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&mut self) {
        self.durable_length = self.bytes.len();
        self.unsynced.retain(|_, unsynced| unsynced.is_abandoned);
    }

    /// A sync that fails: of each sector it is drawn whether it became durable.
    pub(super) fn fail_sync(&mut self, random: &mut Rng) {
        self.unsynced.retain(|_, unsynced| {
            unsynced.is_abandoned |= random.bool();
            unsynced.is_abandoned
        });
    }

    /// The power goes.
    pub(super) fn cut(&mut self, keep: Keep, random: &mut Rng) {
        let written = self.bytes.len();
        if written != self.durable_length && !keep.draw(random) {
            self.bytes.resize(self.durable_length, 0);
        }
        for (index, unsynced) in std::mem::take(&mut self.unsynced) {
            let was_cut_off = index * SECTOR_BYTES >= written;
            if !unsynced.is_abandoned && !was_cut_off && keep.draw(random) {
                continue;
            }
            let at = match keep {
                Keep::Some if !unsynced.is_abandoned && !was_cut_off => {
                    random.usize(..unsynced.versions.len())
                }
                Keep::All | Keep::Some | Keep::Nothing => 0,
            };
            let from = (index * SECTOR_BYTES).min(self.bytes.len());
            let to = (from + SECTOR_BYTES).min(self.bytes.len());
            self.bytes[from..to].copy_from_slice(&unsynced.versions[at][..to - from]);
        }
        self.durable_length = self.bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(synced: &[u8]) -> Contents {
        let mut file = Contents::default();
        file.write(synced, 0);
        file.sync();
        file
    }

    fn bytes(file: &Contents) -> &[u8] {
        file.read(0, usize::MAX)
    }

    #[test]
    fn what_was_synced_outlives_a_power_cut_and_nothing_else_must() {
        let mut random = Rng::with_seed(1);
        let mut cut = file(b"one");
        cut.write(b"two and more", 0);
        cut.cut(Keep::Nothing, &mut random);
        assert_eq!(bytes(&cut), b"one");
        cut.write(b"two and more", 0);
        cut.cut(Keep::All, &mut random);
        assert_eq!(bytes(&cut), b"two and more");
        // What was kept is durable from then on.
        cut.cut(Keep::Nothing, &mut random);
        assert_eq!(bytes(&cut), b"two and more");
    }

    #[test]
    fn a_cut_tears_at_sectors() {
        let mut torn = 0;
        for seed in 0..40 {
            let mut cut = file(&[1; 4 * SECTOR_BYTES]);
            cut.write(&[2; 4 * SECTOR_BYTES], 0);
            cut.cut(Keep::Some, &mut Rng::with_seed(seed));
            let sectors: Vec<&[u8]> = bytes(&cut).chunks(SECTOR_BYTES).collect();
            assert!(sectors.iter().all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            torn += usize::from(sectors.iter().any(|sector| sector[0] != sectors[0][0]));
        }
        assert!((10..40).contains(&torn), "{torn}");
    }

    #[test]
    fn after_a_failed_sync_no_later_one_brings_back_what_it_lost() {
        let mut lost = 0;
        for seed in 0..20 {
            let mut random = Rng::with_seed(seed);
            let mut cut = file(&[1; SECTOR_BYTES]);
            cut.write(&[2; SECTOR_BYTES], 0);
            cut.fail_sync(&mut random);
            assert_eq!(bytes(&cut)[0], 2, "it looks written");
            cut.sync();
            cut.cut(Keep::All, &mut random);
            lost += usize::from(bytes(&cut)[0] == 1);
        }
        assert!((1..20).contains(&lost), "{lost}");
    }

    #[test]
    fn a_length_is_as_durable_as_bytes() {
        let mut random = Rng::with_seed(1);
        let mut cut = file(&[1; 2_000]);
        cut.set_length(100);
        cut.cut(Keep::Nothing, &mut random);
        assert_eq!(bytes(&cut), [1; 2_000]);
        cut.set_length(100);
        cut.sync();
        cut.set_length(4_000);
        cut.cut(Keep::Nothing, &mut random);
        assert_eq!(bytes(&cut), [1; 100]);
        cut.set_length(600);
        cut.sync();
        assert_eq!(cut.unsynced_sectors(), 0);
        cut.cut(Keep::Some, &mut random);
        assert_eq!(&bytes(&cut)[100..], [0; 500]);
    }
}
