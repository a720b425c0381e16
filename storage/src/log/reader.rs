//! Reads a segment in chunks, whatever its state.

use std::io;

use super::record::{RECORD_HEADER_BYTES, RecordHeader, may_begin_header};
use crate::disk::DiskFile;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;

const CHUNK_BYTES: u64 = 1 << 20;
const PIECE_BYTES: usize = 4096;

/// Stands for bytes that the disk cannot read: no zeros, as those would pass for a torn write.
const UNREADABLE: u8 = 0xbd;

/// A window over a segment's file. Memory is bounded by a chunk, or by one record where that is
/// longer, which is never longer than the file.
pub(super) struct Reader {
    file: Box<dyn DiskFile>,
    length: u64,
    window: Vec<u8>,
    window_offset: u64,
    met_unreadable: bool,
}

impl Reader {
    pub(super) fn new(file: Box<dyn DiskFile>) -> io::Result<Reader> {
        Ok(Reader {
            length: file.len()?,
            file,
            window: Vec::new(),
            window_offset: 0,
            met_unreadable: false,
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether the disk failed to read some bytes so far; they stand as [`UNREADABLE`].
    pub(super) fn met_unreadable(&self) -> bool {
        self.met_unreadable
    }

    /// The bytes from `offset`, `size` of them, which must lie inside the file.
    pub(super) fn bytes(&mut self, offset: u64, size: u64) -> io::Result<&[u8]> {
        assert!(
            offset.checked_add(size).is_some_and(|end| end <= self.length),
            "the caller compares with the file's length"
        );
        let window_end = self.window_offset + self.window.len() as u64;
        if offset < self.window_offset || offset + size > window_end {
            let wanted = size.max(CHUNK_BYTES).min(self.length - offset);
            self.window.clear();
            self.window.resize(wanted as usize, 0);
            self.window_offset = offset;
            if self.file.read_exact_at(&mut self.window, offset).is_err() {
                self.read_in_pieces()?;
            }
        }
        let from = (offset - self.window_offset) as usize;
        Ok(&self.window[from..from + size as usize])
    }

    /// Bytes from `offset` on, as many as are at hand, but at least `least` where the file goes
    /// that far.
    fn some_bytes(&mut self, offset: u64, least: u64) -> io::Result<&[u8]> {
        let window_end = self.window_offset + self.window.len() as u64;
        let at_hand =
            if offset < self.window_offset { 0 } else { window_end.saturating_sub(offset) };
        let size = if at_hand >= least { at_hand } else { CHUNK_BYTES.min(self.length - offset) };
        self.bytes(offset, size)
    }

    /// After a failed read: finds out which parts cannot be read. A few are a bad place on the
    /// disk, which is damage like any other; if nothing can be read, it is the disk that fails,
    /// unless so little was asked for that a bad place may be all of it.
    fn read_in_pieces(&mut self) -> io::Result<()> {
        let mut failed = None;
        let mut good_pieces = 0;
        for (index, piece) in self.window.chunks_mut(PIECE_BYTES).enumerate() {
            let offset = self.window_offset + (index * PIECE_BYTES) as u64;
            match self.file.read_exact_at(piece, offset) {
                Ok(()) => good_pieces += 1,
                Err(error) => {
                    piece.fill(UNREADABLE);
                    self.met_unreadable = true;
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if good_pieces == 0 && self.window.len() > PIECE_BYTES => {
                self.window.clear();
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// The header that begins at `offset`, if there is one of this log.
    pub(super) fn header(&mut self, offset: u64, seed: u32) -> io::Result<Option<RecordHeader>> {
        let size = RECORD_HEADER_BYTES as u64;
        if self.length.saturating_sub(offset) < size {
            return Ok(None);
        }
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes.copy_from_slice(self.bytes(offset, size)?);
        Ok(RecordHeader::decode(&bytes, seed))
    }

    /// Walks over all whole headers from `from` on, at any byte, until `visit` returns `false`.
    pub(super) fn headers_from(
        &mut self,
        from: u64,
        seed: u32,
        visit: &mut dyn FnMut(&mut Reader, u64, RecordHeader) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut at = from;
        while self.length.saturating_sub(at) >= RECORD_HEADER_BYTES as u64 {
            let chunk = self.some_bytes(at, RECORD_HEADER_BYTES as u64)?;
            let last_start = chunk.len() - RECORD_HEADER_BYTES;
            let found = (0..=last_start).find(|&start| may_begin_header(&chunk[start..]));
            let Some(start) = found else {
                at += last_start as u64 + 1;
                continue;
            };
            at += start as u64;
            if let Some(header) = self.header(at, seed)?
                && !visit(self, at, header)?
            {
                return Ok(());
            }
            at += 1;
        }
        Ok(())
    }

    /// Where the last byte that is not zero ends, from `from` on; `None` if all are zeros.
    pub(super) fn content_end(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        let mut end = None;
        while at < self.length {
            let chunk = self.some_bytes(at, 1)?;
            let size = chunk.len() as u64;
            if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
                end = Some(at + last as u64 + 1);
            }
            at += size;
        }
        Ok(end)
    }

    /// Whether everything from `from` on is zeros.
    pub(super) fn is_zero_from(&mut self, from: u64) -> io::Result<bool> {
        let mut at = from;
        while at < self.length {
            let chunk = self.some_bytes(at, 1)?;
            if chunk.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            at += chunk.len() as u64;
        }
        Ok(true)
    }

    /// Whether a sector that the range touches looks as if it had never been written: zeros from
    /// its start, or from `from` in the first one, up to its end.
    pub(super) fn has_unwritten_sector(&mut self, from: u64, to: u64) -> io::Result<bool> {
        let mut at = from;
        while at < to && at < self.length {
            let end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let end = end.min(self.length);
            if self.bytes(at, end - at)?.iter().all(|&byte| byte == 0) {
                return Ok(true);
            }
            at = end;
        }
        Ok(false)
    }
}
