//! Names and files, and which names are durable.
//!
//! A new file, a rename, a link and a removal are durable only once a directory that they changed was
//! synced; until then a power cut keeps or drops each, though none without those it builds upon, and a
//! rename wholly or not at all. That goes for directories as for files. Modes and owners do not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::iter::Sum;

use fastrand::Rng;
use fuser::Errno;

use super::Keep;
use super::contents::Contents;

/// The number of the root, as the kernel wants it.
pub(super) const ROOT: u64 = 1;
/// What a file takes beside its bytes.
const FILE_BYTES: usize = 512;

/// A directory, and a name in it.
type Name = (u64, OsString);

/// What has a number.
#[derive(Debug)]
pub(super) enum Inode {
    Directory,
    File {
        contents: Contents,
        /// How many hold it open: it lives on without a name as long.
        opens: u32,
    },
}

/// A change of names.
#[derive(Debug)]
struct Change {
    /// The name that goes.
    from: Option<Name>,
    /// The name that appears, and what it names.
    to: Option<(Name, u64)>,
}

impl Change {
    fn names(&self) -> impl Iterator<Item = &Name> {
        self.to.as_ref().map(|(name, _)| name).into_iter().chain(&self.from)
    }

    fn apply(&self, names: &mut BTreeMap<Name, u64>) {
        if let Some(from) = &self.from {
            names.remove(from);
        }
        if let Some((to, inode)) = &self.to {
            names.insert(to.clone(), *inode);
        }
    }
}

/// What a power cut has met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CutReport {
    /// So many sectors were written and not synced.
    pub(crate) sectors: usize,
    /// So many changes of names were made and not synced.
    pub(crate) names: usize,
}

impl Sum for CutReport {
    fn sum<I: Iterator<Item = Self>>(reports: I) -> Self {
        reports.fold(Self::default(), |all, one| Self {
            sectors: all.sectors + one.sectors,
            names: all.names + one.names,
        })
    }
}

/// All that is on a disk.
#[derive(Debug)]
pub(super) struct Tree {
    names: BTreeMap<Name, u64>,
    durable: BTreeMap<Name, u64>,
    pending: Vec<Change>,
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Tree {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            inodes: BTreeMap::from([(ROOT, Inode::Directory)]),
            next: ROOT + 1,
            bytes: 0,
            bytes_max,
        }
    }

    /// All is gone. Numbers are never used again.
    pub(super) fn clear(&mut self, bytes_max: usize) {
        *self = Self { next: self.next, ..Self::new(bytes_max) };
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(super) fn bytes_free(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }

    pub(super) fn inode(&self, number: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&number).ok_or(Errno::ENOENT)
    }

    /// How many names it has.
    pub(super) fn links(&self, number: u64) -> u32 {
        let links = self.names.values().filter(|inode| **inode == number).count();
        u32::try_from(links).unwrap_or(u32::MAX)
    }

    pub(super) fn look_up(&self, directory: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names.get(&(directory, name.to_owned())).copied().ok_or(Errno::ENOENT)
    }

    /// What is in a directory, in order.
    pub(super) fn entries(&self, directory: u64) -> Vec<(&OsStr, u64)> {
        let from = (directory, OsString::new());
        let to = (directory + 1, OsString::new());
        let range = self.names.range(from..to);
        range.map(|((_, name), inode)| (name.as_os_str(), *inode)).collect()
    }

    fn change(&mut self, from: Option<Name>, to: Option<(Name, u64)>) {
        let change = Change { from, to };
        change.apply(&mut self.names);
        self.pending.push(change);
        self.drop_nameless();
    }

    /// Makes a file or a directory.
    pub(super) fn make(
        &mut self,
        directory: u64,
        name: &OsStr,
        inode: Inode,
    ) -> Result<u64, Errno> {
        self.is_directory(directory)?;
        if self.look_up(directory, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.take(FILE_BYTES)?;
        let number = self.next;
        self.next += 1;
        self.inodes.insert(number, inode);
        self.change(None, Some(((directory, name.to_owned()), number)));
        Ok(number)
    }

    fn is_directory(&self, number: u64) -> Result<(), Errno> {
        match self.inode(number)? {
            Inode::Directory => Ok(()),
            Inode::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Errno> {
        if bytes > self.bytes_free() {
            return Err(Errno::ENOSPC);
        }
        self.bytes += bytes;
        Ok(())
    }

    pub(super) fn link(&mut self, number: u64, to: u64, name: &OsStr) -> Result<(), Errno> {
        self.is_directory(to)?;
        if self.look_up(to, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        if matches!(self.inode(number)?, Inode::Directory) {
            return Err(Errno::EPERM);
        }
        self.change(None, Some(((to, name.to_owned()), number)));
        Ok(())
    }

    /// Removes a file, or an empty directory.
    pub(super) fn remove(
        &mut self,
        directory: u64,
        name: &OsStr,
        wants_directory: bool,
    ) -> Result<(), Errno> {
        let number = self.look_up(directory, name)?;
        match (self.inode(number)?, wants_directory) {
            (Inode::Directory, false) => return Err(Errno::EISDIR),
            (Inode::File { .. }, true) => return Err(Errno::ENOTDIR),
            (Inode::Directory, true) if !self.entries(number).is_empty() => {
                return Err(Errno::ENOTEMPTY);
            }
            (Inode::Directory | Inode::File { .. }, _) => {}
        }
        self.change(Some((directory, name.to_owned())), None);
        Ok(())
    }

    /// Renames, over what was there.
    pub(super) fn rename(&mut self, from: Name, to: Name) -> Result<(), Errno> {
        let number = self.look_up(from.0, &from.1)?;
        self.is_directory(to.0)?;
        if from == to {
            return Ok(());
        }
        let replaced = self.look_up(to.0, &to.1).ok();
        if let Some(replaced) = replaced {
            match (self.inode(number)?, self.inode(replaced)?) {
                (Inode::File { .. }, Inode::Directory) => return Err(Errno::EISDIR),
                (Inode::Directory, Inode::File { .. }) => return Err(Errno::ENOTDIR),
                (_, Inode::Directory) if !self.entries(replaced).is_empty() => {
                    return Err(Errno::ENOTEMPTY);
                }
                (_, _) => {}
            }
            if number == replaced {
                return Ok(());
            }
        }
        self.change(Some(from), Some((to, number)));
        Ok(())
    }

    fn file(&mut self, number: u64) -> Result<(&mut Contents, &mut u32), Errno> {
        match self.inodes.get_mut(&number) {
            Some(Inode::File { contents, opens }) => Ok((contents, opens)),
            Some(Inode::Directory) => Err(Errno::EISDIR),
            None => Err(Errno::EIO),
        }
    }

    pub(super) fn open(&mut self, number: u64) -> Result<(), Errno> {
        *self.file(number)?.1 += 1;
        Ok(())
    }

    pub(super) fn release(&mut self, number: u64) {
        if let Ok((_, opens)) = self.file(number) {
            *opens = opens.saturating_sub(1);
            if *opens == 0 {
                self.drop_nameless();
            }
        }
    }

    pub(super) fn contents(&mut self, number: u64) -> Result<&mut Contents, Errno> {
        self.file(number).map(|(contents, _)| contents)
    }

    /// Writes; the file grows where that is needed.
    pub(super) fn write(&mut self, number: u64, bytes: &[u8], offset: usize) -> Result<(), Errno> {
        let length = self.contents(number)?.length();
        let end = offset.checked_add(bytes.len()).ok_or(Errno::EFBIG)?;
        self.take(end.saturating_sub(length))?;
        self.contents(number)?.write(bytes, offset);
        Ok(())
    }

    pub(super) fn set_length(&mut self, number: u64, length: usize) -> Result<(), Errno> {
        let before = self.contents(number)?.length();
        self.take(length.saturating_sub(before))?;
        self.contents(number)?.set_length(length);
        self.bytes -= before.saturating_sub(length);
        Ok(())
    }

    /// Makes the names in a directory durable, and what they build upon.
    pub(super) fn sync_directory(&mut self, directory: u64) {
        let mut needed: BTreeSet<Name> = BTreeSet::new();
        let (mut synced, mut left) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if change.names().any(|name| name.0 == directory || needed.contains(name)) {
                needed.extend(change.names().cloned());
                synced.push(change);
            } else {
                left.push(change);
            }
        }
        synced.iter().rev().for_each(|change| change.apply(&mut self.durable));
        left.reverse();
        self.pending = left;
        self.drop_nameless();
    }

    /// What can be reached by no name, now or after a power cut, and is not open, goes.
    fn drop_nameless(&mut self) {
        let pending = self.pending.iter().filter_map(|change| change.to.as_ref());
        let named = self.names.values().chain(self.durable.values());
        let mut live: BTreeSet<u64> =
            named.chain(pending.map(|(_, inode)| inode)).copied().collect();
        live.insert(ROOT);
        self.inodes.retain(|number, inode| {
            live.contains(number) || matches!(inode, Inode::File { opens: 1.., .. })
        });
        self.bytes = self.inodes.values().map(bytes_of).sum();
    }

    /// The power goes. All get other numbers, so that nothing that the kernel remembers of before, and
    /// nobody who still holds a file open, can reach them.
    pub(super) fn cut(&mut self, keep: Keep, random: &mut Rng) -> CutReport {
        let mut report = CutReport { sectors: 0, names: self.pending.len() };
        let mut dropped: BTreeSet<Name> = BTreeSet::new();
        let mut dropped_inodes: BTreeSet<u64> = BTreeSet::new();
        for change in std::mem::take(&mut self.pending) {
            let rests_on_dropped = change.names().any(|name| dropped.contains(name))
                || change.to.as_ref().is_some_and(|((to, _), _)| dropped_inodes.contains(to));
            if keep.draw(random) && !rests_on_dropped {
                change.apply(&mut self.durable);
            } else {
                dropped.extend(change.names().cloned());
                let is_new = |inode: &u64| !self.durable.values().any(|durable| durable == inode);
                dropped_inodes.extend(change.to.iter().map(|(_, inode)| *inode).filter(is_new));
            }
        }
        for inode in self.inodes.values_mut() {
            if let Inode::File { contents, opens } = inode {
                report.sectors += contents.unsynced_sectors();
                contents.cut(keep, random);
                *opens = 0;
            }
        }
        self.names = self.renumbered();
        self.durable.clone_from(&self.names);
        self.drop_nameless();
        report
    }

    /// What is reached by durable names alone, under new numbers.
    fn renumbered(&mut self) -> BTreeMap<Name, u64> {
        let mut renumbered = BTreeMap::new();
        let mut numbers: BTreeMap<u64, u64> = BTreeMap::from([(ROOT, ROOT)]);
        let mut inodes = BTreeMap::from([(ROOT, Inode::Directory)]);
        let mut left = vec![ROOT];
        while let Some(directory) = left.pop() {
            let inside = (directory, OsString::new())..(directory + 1, OsString::new());
            for ((_, name), before) in self.durable.range(inside) {
                if !numbers.contains_key(before) {
                    let Some(inode) = self.inodes.remove(before) else { continue };
                    if matches!(inode, Inode::Directory) {
                        left.push(*before);
                    }
                    numbers.insert(*before, self.next);
                    inodes.insert(self.next, inode);
                    self.next += 1;
                }
                renumbered.insert((numbers[&directory], name.clone()), numbers[before]);
            }
        }
        self.inodes = inodes;
        renumbered
    }
}

fn bytes_of(inode: &Inode) -> usize {
    match inode {
        Inode::Directory => FILE_BYTES,
        Inode::File { contents, .. } => FILE_BYTES + contents.length(),
    }
}

#[cfg(test)]
mod tests;
