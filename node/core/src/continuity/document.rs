//! What a node keeps on its disk about its own life, and about those of the others.

use bytes::Bytes;
use quoit_ring::NodeId;
use serde::{Deserialize, Serialize};

use crate::record::{StateError, read_file, write_file};

/// The small file with it.
pub const CONTINUITY_FILE: &str = "continuity";

/// A moment of a node's life. What a node tells of itself is durable there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Life {
    /// Greater after each loss.
    pub incarnation: u64,
    /// How often the node was started.
    pub starts: u64,
    /// The last durable record of its commit log.
    pub sequence: u64,
}

impl Life {
    /// The latest that is known of a node by both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self.incarnation != other.incarnation {
            return if self.incarnation > other.incarnation { self } else { other };
        }
        Self {
            starts: self.starts.max(other.starts),
            sequence: self.sequence.max(other.sequence),
            ..self
        }
    }

    /// Whether a disk that holds so much has lost something, if it once held the other.
    pub fn is_short_of(self, other: Self) -> bool {
        other.incarnation > self.incarnation
            || (other.incarnation == self.incarnation
                && (other.starts > self.starts || other.sequence > self.sequence))
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContinuityState {
    /// The node's own incarnation; 0 until it was confirmed once.
    pub incarnation: u64,
    /// Whether it was taken after a loss.
    pub was_renewed: bool,
    /// What the disk held before the first start that was not confirmed, if the last was not: what
    /// such starts add to it proves nothing.
    pub unconfirmed: Option<Life>,
    /// The latest that was heard of each of the others, ascending by id.
    pub peers: Vec<(NodeId, Life)>,
}

impl ContinuityState {
    /// Reads the small file's bytes.
    ///
    /// # Errors
    /// The file holds something else.
    pub fn read(bytes: Option<&[u8]>) -> Result<Option<Self>, StateError> {
        read_file(CONTINUITY_FILE, bytes)
    }

    pub(super) fn write(&self) -> Bytes {
        write_file(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn life(incarnation: u64, starts: u64, sequence: u64) -> Life {
        Life { incarnation, starts, sequence }
    }

    #[test]
    fn a_disk_is_short_of_what_it_held_later() {
        let disk = life(5, 3, 100);
        assert!(!disk.is_short_of(disk));
        assert!(!disk.is_short_of(life(5, 2, 90)));
        assert!(!disk.is_short_of(life(4, 9, 900)), "that was before a loss that is known");
        assert!(disk.is_short_of(life(5, 4, 100)));
        assert!(disk.is_short_of(life(5, 3, 101)));
        assert!(disk.is_short_of(life(5, 2, 101)));
        assert!(disk.is_short_of(life(6, 1, 1)));
    }

    #[test]
    fn what_was_written_is_read() {
        let state = ContinuityState {
            incarnation: 7,
            was_renewed: true,
            unconfirmed: Some(life(7, 2, 3)),
            peers: vec![(NodeId(2), life(1, 2, 3)), (NodeId(9), life(4, 5, 6))],
        };
        let bytes = state.write();
        assert_eq!(ContinuityState::read(Some(&bytes)), Ok(Some(state)));
        assert_eq!(ContinuityState::read(None), Ok(None));
        for length in 0..bytes.len() {
            assert!(ContinuityState::read(Some(&bytes[..length])).is_err());
        }
    }

    proptest! {
        #[test]
        fn memories_add_up_in_any_order(
            lives in prop::collection::vec((1u64..3, 0u64..4, 0u64..4), 3)
        ) {
            let [a, b, c] = [0, 1, 2].map(|at| life(lives[at].0, lives[at].1, lives[at].2));
            prop_assert_eq!(a.and(b), b.and(a));
            prop_assert_eq!(a.and(b).and(c), a.and(b.and(c)));
            prop_assert_eq!(a.and(a), a);
            prop_assert!(!a.and(b).is_short_of(a));
        }
    }
}
