//! The calls of the kernel, answered from memory.

use std::ffi::OsStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::contents::Contents;
use super::tree::{Inode, ROOT};
use super::{Shared, State};

/// The kernel asks each time: what it remembered would outlive a power cut.
const NO_TIME: Duration = Duration::ZERO;
/// No more syncs wait at once: a further one does not wait.
const WAITING_MAX: usize = 64;
const BLOCK_BYTES: u32 = 4_096;
const NAME_BYTES_MAX: u32 = 255;

pub(super) struct FileSystem {
    shared: Arc<Shared>,
}

/// What a sync makes durable.
#[derive(Debug, Clone, Copy)]
enum Synced {
    File(u64),
    Directory(u64),
}

impl FileSystem {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn sync(&self, what: Synced, reply: ReplyEmpty) {
        let mut state = self.shared.lock();
        let delay = state.faults.sync_delay_max;
        let Some(delay) = delay.filter(|_| state.waiting < WAITING_MAX) else {
            return answer(state.sync(what), reply);
        };
        let until = Instant::now() + delay.mul_f64(state.random.f64());
        state.waiting += 1;
        drop(state);
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            let result = sync_late(&shared, what, until);
            answer(result, reply);
        });
    }
}

/// Waits until then, or until the disk is not slow any more, and syncs if the power did not go.
fn sync_late(shared: &Shared, what: Synced, until: Instant) -> Result<(), Errno> {
    let mut state = shared.lock();
    let cuts = state.cuts;
    while state.cuts == cuts && state.faults.sync_delay_max.is_some() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let waited = shared.changed.wait_timeout(state, left);
        state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
    }
    state.waiting -= 1;
    if state.cuts == cuts { state.sync(what) } else { Err(Errno::EIO) }
}

impl State {
    fn sync(&mut self, what: Synced) -> Result<(), Errno> {
        let fails = self.faults.syncs_to_fail > 0;
        if fails {
            self.faults.syncs_to_fail -= 1;
            self.has_failed = true;
        }
        match what {
            Synced::File(number) if fails => {
                self.tree.contents(number)?.fail_sync(&mut self.random);
            }
            Synced::File(number) => self.tree.contents(number)?.sync(),
            Synced::Directory(_) if fails => {}
            Synced::Directory(number) => self.tree.sync_directory(number),
        }
        if fails { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Whether a read or a write fails now.
    fn may_fail(&mut self) -> Result<(), Errno> {
        let per_mille = self.faults.per_mille_to_fail;
        if per_mille > 0 && self.random.u16(..1_000) < per_mille {
            self.has_failed = true;
            return Err(Errno::EIO);
        }
        Ok(())
    }

    fn attributes(&self, number: u64) -> Result<FileAttr, Errno> {
        let (kind, size, permissions) = match self.tree.inode(number)? {
            Inode::Directory => (FileType::Directory, 0, 0o755),
            Inode::File { contents, .. } => (FileType::RegularFile, contents.length(), 0o644),
        };
        let size = size as u64;
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: permissions,
            nlink: if number == ROOT { 1 } else { self.tree.links(number) },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        })
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        self.attributes(self.tree.look_up(parent.0, name)?)
    }

    fn make(&mut self, parent: INodeNo, name: &OsStr, inode: Inode) -> Result<FileAttr, Errno> {
        let number = self.tree.make(parent.0, name, inode)?;
        self.attributes(number)
    }

    fn read(&mut self, number: u64, offset: u64, size: u32) -> Result<&[u8], Errno> {
        self.may_fail()?;
        let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
        Ok(self.tree.contents(number)?.read(offset, size))
    }

    fn write(&mut self, number: u64, bytes: &[u8], offset: u64) -> Result<u32, Errno> {
        if let Err(error) = self.may_fail() {
            // A part of it is there.
            let part = self.random.usize(..=bytes.len());
            let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
            self.tree.write(number, &bytes[..part], offset)?;
            return Err(error);
        }
        let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        self.tree.write(number, bytes, offset)?;
        u32::try_from(bytes.len()).map_err(|_| Errno::EFBIG)
    }

    fn set_length(&mut self, number: u64, length: u64) -> Result<(), Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::EFBIG)?;
        self.tree.set_length(number, length)
    }
}

fn answer(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn answer_entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn answer_attributes(result: Result<FileAttr, Errno>, reply: ReplyAttr) {
    match result {
        Ok(attributes) => reply.attr(&NO_TIME, &attributes),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for FileSystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(self.shared.lock().look_up(parent, name), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(self.shared.lock().attributes(ino.0), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.shared.lock();
        let set = size.map_or(Ok(()), |size| state.set_length(ino.0, size));
        answer_attributes(set.and_then(|()| state.attributes(ino.0)), reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        answer_entry(self.shared.lock().make(parent, name, Inode::Directory), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.shared.lock().tree.remove(parent.0, name, false), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.shared.lock().tree.remove(parent.0, name, true), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.shared.lock();
        let only_new = RenameFlags::RENAME_NOREPLACE;
        let result = match flags {
            flags if !only_new.contains(flags) => Err(Errno::EINVAL),
            flags if flags == only_new && state.tree.look_up(newparent.0, newname).is_ok() => {
                Err(Errno::EEXIST)
            }
            _ => state.tree.rename((parent.0, name.to_owned()), (newparent.0, newname.to_owned())),
        };
        answer(result, reply);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let mut state = self.shared.lock();
        let linked = state.tree.link(ino.0, newparent.0, newname);
        answer_entry(linked.and_then(|()| state.attributes(ino.0)), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.shared.lock().tree.open(ino.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let file = Inode::File { contents: Contents::default(), opens: 1 };
        match self.shared.lock().make(parent, name, file) {
            Ok(attributes) => reply.created(
                &NO_TIME,
                &attributes,
                Generation(0),
                FileHandle(0),
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.shared.lock().read(ino.0, offset, size) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.shared.lock().write(ino.0, data, offset) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.lock().tree.release(ino.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(Synced::File(ino.0), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.shared.lock();
        if let Err(error) = state.tree.inode(ino.0) {
            return reply.error(error);
        }
        // What was made later has a greater number: a directory that changes while it is read shows all
        // that is there all the time, and nothing twice.
        let mut entries = state.tree.entries(ino.0);
        entries.sort_unstable_by_key(|(_, number)| *number);
        for (name, number) in entries.into_iter().filter(|(_, number)| *number > offset) {
            let kind = match state.tree.inode(number) {
                Ok(Inode::Directory) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(number), number, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(Synced::Directory(ino.0), reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = self.shared.lock();
        let blocks = |bytes: usize| bytes as u64 / u64::from(BLOCK_BYTES);
        let (all, free) = (blocks(state.tree.bytes_max()), blocks(state.tree.bytes_free()));
        reply.statfs(all, free, free, 1 << 20, 1 << 19, BLOCK_BYTES, NAME_BYTES_MAX, BLOCK_BYTES);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut state = self.shared.lock();
        let end = offset.saturating_add(length);
        let held = state.attributes(ino.0).map(|attributes| attributes.size);
        let grown = match held {
            Ok(held) if end <= held => Ok(()),
            Ok(_) => state.set_length(ino.0, end),
            Err(error) => Err(error),
        };
        answer(grown, reply);
    }
}
