//! What clients do, and what they write.
//!
//! A value begins with the number of the operation that wrote it, so that every value that is read
//! names the write that it came from; then comes what the workload needs.

pub mod counters;
pub mod deletions;
pub mod registers;
pub mod scans;
pub mod sets;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quoit_core::random::Random;
use quoit_protocol::Key;

use crate::plan::Action;

/// A table's workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// See [`registers`].
    Registers,
    /// See [`deletions`].
    Deletions,
    /// See [`sets`].
    Sets,
    /// See [`counters`].
    Counters,
    /// See [`scans`].
    Scans,
}

impl Workload {
    /// Draws one. Sets and counters need siblings: they merge what was written concurrently.
    pub fn draw(siblings: bool, random: &mut Random) -> Self {
        match random.below(if siblings { 6 } else { 4 }) {
            0 | 1 => Self::Registers,
            2 => Self::Deletions,
            3 => Self::Scans,
            4 => Self::Sets,
            _ => Self::Counters,
        }
    }

    /// Draws what is done next.
    pub fn action(self, random: &mut Random) -> Action {
        match self {
            Self::Registers => registers::action(random),
            Self::Deletions => deletions::action(random),
            Self::Sets => sets::action(random),
            Self::Counters => counters::action(random),
            Self::Scans => scans::action(random),
        }
    }
}

/// Sort keys of one partition key.
pub(crate) const SORT_KEYS: u32 = 8;

/// The key of a number: eight lie in one partition.
pub(crate) fn key(number: u32) -> Key {
    let partition = Bytes::from(format!("p{}", number / SORT_KEYS));
    Key { partition, sort: Bytes::from(format!("{}", number % SORT_KEYS)) }
}

/// The value of an operation: its number and `rest`.
pub(crate) fn value(id: u32, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + rest.len());
    out.put_u32_le(id);
    out.put_slice(rest);
    out.freeze()
}

/// The number of the operation that wrote a value, and the rest of it.
pub(crate) fn read_value(mut bytes: &[u8]) -> Option<(u32, &[u8])> {
    (bytes.len() >= 4).then(|| (bytes.get_u32_le(), bytes))
}
