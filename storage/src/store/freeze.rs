//! Holding the store at one moment, for a snapshot.
//!
//! A snapshot is the tables' files and what holds for whole virtual nodes, both of the same moment: a
//! floor that is newer than the tables would take for deleted what they have not heard of yet, and one
//! that is older would let another replica's old pairs come back. So the writer closes its memory and
//! notes the state of the virtual nodes with it ([`Writer::begin_freeze`]), and the maintainer flushes
//! what was closed and lets the caller take hold of the files before the next flush
//! ([`Maintainer::freeze`]). Compactions may go on: they change files, and not what these say.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::vnodes::Vnodes;
use super::{CommitError, Maintainer, Writer, lock};
use crate::engine::Sequence;

const FORMAT: u8 = 1;

/// What holds for whole virtual nodes in tables that were flushed up to a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flushed {
    pub(super) sequence: Sequence,
    pub(super) vnodes: Vnodes,
}

/// Bytes that do not say how whole virtual nodes stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlushedError {
    /// The bytes are not what was written.
    #[error("what held for whole virtual nodes is damaged")]
    Damaged,
    /// A newer program wrote them. Use that one.
    #[error("what held for whole virtual nodes has format {0}, and this program knows {FORMAT}")]
    Format(u8),
}

impl Flushed {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u64_le(self.sequence.0);
        self.vnodes.encode_into(&mut out);
        out.freeze()
    }

    pub(super) fn decode(mut input: &[u8]) -> Result<Self, FlushedError> {
        match input.try_get_u8().map_err(|_| FlushedError::Damaged)? {
            FORMAT => {}
            format => return Err(FlushedError::Format(format)),
        }
        let sequence = Sequence(input.try_get_u64_le().map_err(|_| FlushedError::Damaged)?);
        let vnodes = Vnodes::decode(&mut input).ok_or(FlushedError::Damaged)?;
        if input.is_empty() { Ok(Self { sequence, vnodes }) } else { Err(FlushedError::Damaged) }
    }
}

impl Writer {
    /// Closes the tables' memory after all that is committed; [`Maintainer::freeze`] goes on from the
    /// sequence that is returned. To be called between batches.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn begin_freeze(&mut self) -> Result<Sequence, CommitError> {
        // A record that changes nothing: the tables then know the log's last sequence, and all before
        // it is synced.
        self.extend_lease(self.lease);
        self.commit()?;
        let last = self.log.last_sequence();
        let shared = self.shared.clone();
        let mut checkpoints = lock(&shared.checkpoints);
        self.engine.rotate();
        checkpoints.push(self.checkpoint(last));
        Ok(last)
    }
}

impl Maintainer {
    /// Flushes, and calls `hold` before anything else is flushed; it is to take hold of the tables'
    /// files, and to be quick about it. Yields how whole virtual nodes stand in them (for
    /// [`super::Frozen::open`]) and what `hold` gave; `None` if the memory that was closed with `from`
    /// could not be flushed alone: begin again.
    ///
    /// # Errors
    /// What failed, for people. Everything is as durable as before.
    pub fn freeze<T>(
        &self,
        from: Sequence,
        hold: impl FnOnce() -> Result<T, String>,
    ) -> Result<Option<(Bytes, T)>, String> {
        let _keeper = lock(&self.shared.flushing);
        if self.has_work() {
            self.flush_noting()?;
        }
        let flushed = lock(&self.shared.flushed).clone();
        match flushed.filter(|flushed| flushed.sequence >= from) {
            Some(flushed) => Ok(Some((flushed.encode(), hold()?))),
            None => Ok(None),
        }
    }
}
