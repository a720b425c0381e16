//! The coordinators: one operation a client's request, asking replicas (this node among them) until
//! enough have answered. Follows riak_kv's put and get coordinators in that each is a pure
//! state machine that is fed results.

pub mod forward;
pub mod read;
pub mod scan;
pub(crate) mod trailing;
pub mod write;

use bytes::Bytes;
use quoit_protocol::Sibling;
use quoit_protocol::frame::BODY_BYTES_MAX;
use quoit_ring::HybridTime;
use quoit_storage::codec;
use quoit_storage::planted::{PlantedBug, is_planted};
use quoit_storage::version::{ApartValue, Content, SiblingSet};

/// The longest encoding of a set that travels: a message must hold it, its key and a context.
pub const SET_BYTES_MAX: usize = BODY_BYTES_MAX - (512 << 10);

/// The live values of a set for a reader at that time; `values` has those that lie apart.
pub fn live_siblings(set: &SiblingSet, values: &[ApartValue], at: HybridTime) -> Vec<Sibling> {
    let apart = |dot| values.iter().find(|value| value.dot == dot);
    set.versions()
        .iter()
        .filter(|version| version.is_live(at))
        .filter_map(|version| {
            let (value, checksum) = match &version.content {
                Content::Value { bytes, checksum } => (bytes.clone(), *checksum),
                Content::Apart { checksum, .. } => {
                    let value = apart(version.dot).expect("an operation gathers what lies apart");
                    (value.bytes.clone(), *checksum)
                }
                Content::Tombstone => return None,
            };
            let (expires, written) = (version.expires, version.dot.time);
            Some(Sibling { value, checksum, expires, written })
        })
        .collect()
}

/// A set's encoding, if it can travel with its values. Merges of concurrent writes are bounded by nothing else: each
/// coordinator has kept the limit for itself only.
///
/// # Errors
/// What is wrong, for people.
pub fn encode_to_send(set: &SiblingSet) -> Result<Bytes, String> {
    let count = set.versions().len().max(set.vector().entries().len());
    if count > codec::ENTRIES_MAX || codec::whole_bytes(set) > SET_BYTES_MAX {
        return Err(format!("the key's siblings together have more than {SET_BYTES_MAX} bytes"));
    }
    Ok(codec::encode(set))
}

/// How many primaries must hold the merged set before a read may return it, so that later reads of
/// the same level see no less: every quorum that reads may meet. 0 where R is no majority: such
/// reads are not promised to be monotonic, and are repaired in the background.
pub fn write_back_count(replication: u8, required: u8) -> usize {
    let majority = replication / 2 + 1;
    if required < majority || is_planted(PlantedBug::SkipWriteBack) {
        return 0;
    }
    usize::from(majority.max(replication - required + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_majority_read_returns_is_held_where_every_majority_read_looks() {
        for replication in 1..=7 {
            for required in replication / 2 + 1..=replication {
                let holders = write_back_count(replication, required);
                assert!(holders + usize::from(required) > usize::from(replication));
                assert!(holders <= usize::from(replication));
            }
        }
        assert_eq!(write_back_count(3, 1), 0);
    }
}
