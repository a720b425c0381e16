//! Which incarnations chitchat holds, bounded, shared by the socket (which lets new ones in) and the
//! observer (which sees them go).
//!
//! Chitchat puts every id that it knows into each message, subtracts that length from a message's
//! size without a check, and asserts that what remains holds one whole block of 16 KiB. The invariant
//! here is that the digest never grows to where that panics.

use std::collections::{BTreeMap, BTreeSet};

use crate::incarnation::Incarnation;

/// The most incarnations, this node's own included.
pub const NODES_MAX: usize = 1_000;
/// The most bytes that they may take in a digest. 65,506 bytes less a block of 16,384 is where
/// chitchat's assertion begins; this stays below.
pub(crate) const DIGEST_BYTES_MAX: usize = 48_000;

/// The incarnations that chitchat holds, or is about to.
#[derive(Debug)]
pub(crate) struct Known {
    /// With the refresh after which each was let in.
    incarnations: BTreeMap<Incarnation, u64>,
    digest_bytes: usize,
    refreshes: u64,
}

impl Known {
    pub(crate) fn new(me: Incarnation) -> Self {
        let mut known = Self { incarnations: BTreeMap::new(), digest_bytes: 2, refreshes: 0 };
        known.insert(me);
        known
    }

    /// Lets one in; false when there is no room for it.
    pub(crate) fn admit(&mut self, one: Incarnation) -> bool {
        if self.incarnations.contains_key(&one) {
            return true;
        }
        let fits = self.incarnations.len() < NODES_MAX
            && self.digest_bytes + one.digest_bytes() <= DIGEST_BYTES_MAX;
        if fits {
            self.insert(one);
        }
        fits
    }

    /// Takes over what chitchat holds. One that was let in a moment ago may not have reached it yet,
    /// so it is kept until the next time.
    pub(crate) fn refresh(&mut self, held: &BTreeSet<Incarnation>) {
        self.refreshes += 1;
        let now = self.refreshes;
        self.incarnations.retain(|one, admitted| held.contains(one) || *admitted + 2 > now);
        for one in held {
            self.incarnations.entry(*one).or_insert(0);
        }
        self.digest_bytes =
            2 + self.incarnations.keys().map(Incarnation::digest_bytes).sum::<usize>();
    }

    fn insert(&mut self, one: Incarnation) {
        self.digest_bytes += one.digest_bytes();
        self.incarnations.insert(one, self.refreshes);
    }
}

#[cfg(test)]
mod tests {
    use quoit_ring::NodeId;

    use super::*;

    fn one(node: u64) -> Incarnation {
        Incarnation { node: NodeId(node), generation: 1, address: ([10, 0, 0, 1], 1).into() }
    }

    #[test]
    fn no_more_are_let_in_than_fit_and_room_comes_back() {
        let mut known = Known::new(one(0));
        assert!((1..NODES_MAX as u64).all(|node| known.admit(one(node))));
        assert!(!known.admit(one(5_000)));
        assert!(known.admit(one(7)), "one that is known needs no room");
        known.refresh(&BTreeSet::from([one(0)]));
        assert!(!known.admit(one(5_000)), "they may still be on their way to chitchat");
        known.refresh(&BTreeSet::from([one(0)]));
        assert!(known.admit(one(5_000)));
    }

    #[test]
    fn long_ids_are_bounded_by_their_bytes() {
        let mut known = Known::new(one(0));
        let six = |node| Incarnation {
            node: NodeId(u64::MAX - node),
            generation: 1,
            address: "[2001:db8::1]:1".parse().unwrap(),
        };
        let count = (0..NODES_MAX as u64).take_while(|node| known.admit(six(*node))).count();
        assert_eq!(count, 648);
        assert!(known.digest_bytes <= DIGEST_BYTES_MAX);
    }
}
