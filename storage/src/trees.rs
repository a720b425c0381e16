//! Merkle trees over the leaf digests of virtual nodes: two replicas compare roots, then walk down to
//! the leaves that differ (DeCandia et al., "Dynamo", section 4.7).
//!
//! The leaves change with each mutation (see [`crate::digest`]), a tree is built over them when a
//! comparison asks for it and kept until they have changed. It leaves out what may be collected under
//! a floor, on which both sides agree for each comparison.
//!
//! Roots of all 1,024 virtual nodes of 64 leaves: 4 ms where every tree must be built, 0.1 ms where
//! nothing changed (`cargo run --release -p quoit-storage-files --example tree_speed`).

use std::collections::BTreeMap;
use std::hash::Hasher;

use merkle_light::hash::Algorithm;
use merkle_light::merkle::MerkleTree;
use quoit_ring::{HybridTime, VnodeCount, VnodeIndex};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::digest::{Digests, LEAVES, leaves_of};

/// A node's hash: the first half of SipHash-1-3-128 over its children's.
pub type TreeHash = u64;

/// One virtual node's tree, and what it was built over.
struct Tree {
    /// The floor, and the step to which the ends of what goes under one are rounded up.
    under: (HybridTime, u64),
    leaves: Vec<u64>,
    /// A leaf may have changed since.
    is_stale: bool,
    nodes: MerkleTree<[u8; 8], TreeHasher>,
}

/// The trees of a store that were asked for.
#[derive(Default)]
pub struct Trees {
    trees: BTreeMap<(u8, VnodeIndex), Tree>,
}

/// How many levels lie below a virtual node's root: its leaves are at this depth.
pub fn depth_of_leaves(vnodes: VnodeCount) -> u8 {
    let leaves = LEAVES / vnodes.get() as usize;
    u8::try_from(leaves.trailing_zeros()).expect("there are 2^16 leaves")
}

impl Trees {
    /// Notes that a leaf of the virtual node may have changed.
    pub fn on_changed(&mut self, replication: u8, vnode: VnodeIndex) {
        if let Some(tree) = self.trees.get_mut(&(replication, vnode)) {
            tree.is_stale = true;
        }
    }

    /// The hashes of some nodes of a virtual node's tree, at a depth (0: the root), under a floor.
    /// `None` if there are no such nodes.
    pub fn hashes(
        &mut self,
        digests: &Digests,
        vnodes: VnodeCount,
        of: (u8, VnodeIndex),
        floor: HybridTime,
        depth: u8,
        indices: &[u32],
    ) -> Option<Vec<TreeHash>> {
        let (replication, vnode) = of;
        let width = 1u32.checked_shl(depth.into())?;
        if vnode.0 >= vnodes.get()
            || depth > depth_of_leaves(vnodes)
            || indices.iter().any(|index| *index >= width)
        {
            return None;
        }
        if depth_of_leaves(vnodes) == 0 {
            // The library has no tree of one leaf.
            let only = digests.leaf(replication, leaves_of(vnodes, vnode).start, floor);
            return Some(vec![only; indices.len()]);
        }
        let under = (floor, digests.floor_step_ms());
        let is_right = |tree: &Tree| !tree.is_stale && tree.under == under;
        if !self.trees.get(&of).is_some_and(is_right) {
            let leaves = digests.leaves(replication, leaves_of(vnodes, vnode), floor);
            match self.trees.get_mut(&of) {
                Some(tree) if tree.leaves == leaves => {
                    (tree.is_stale, tree.under) = (false, under);
                }
                Some(_) | None => drop(self.trees.insert(of, Tree::build(under, leaves))),
            }
        }
        let tree = self.trees.get(&of)?;
        // Leaves come first, then level by level, the root last.
        let first = tree.nodes.len() + 1 - (2 << depth);
        let hash = |index: &u32| u64::from_le_bytes(tree.nodes[first + *index as usize]);
        Some(indices.iter().map(hash).collect())
    }
}

impl Tree {
    fn build(under: (HybridTime, u64), leaves: Vec<u64>) -> Self {
        let nodes = leaves.iter().map(|leaf| leaf.to_le_bytes()).collect();
        Self { under, leaves, is_stale: false, nodes }
    }
}

/// SipHash-1-3-128 as the tree's library asks for it. Not keyed: who can make pairs collide gains
/// nothing but replicas that differ until the pairs are read.
#[derive(Clone, Copy)]
struct TreeHasher(SipHasher13);

impl Default for TreeHasher {
    fn default() -> Self {
        Self(SipHasher13::new())
    }
}

impl Hasher for TreeHasher {
    fn finish(&self) -> u64 {
        self.0.finish128().h1
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
}

impl Algorithm<[u8; 8]> for TreeHasher {
    fn hash(&mut self) -> [u8; 8] {
        self.finish().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::delta;
    use crate::layout::StoredKey;
    use crate::version::{Actor, Content, Dot, SiblingSet, Version};
    use quoit_ring::{TableId, Token};

    const ALL: HybridTime = HybridTime::ZERO;

    fn add(digests: &mut Digests, token: u64) {
        let key = StoredKey::new(Token(token), TableId(1), b"p", b"").expect("short");
        let dot = Dot { time: HybridTime(1), actor: Actor(1) };
        let content = Content::Value { bytes: bytes::Bytes::new(), checksum: 0 };
        let set = SiblingSet::of(Version { dot, content, expires: None });
        digests.apply(&key, 3, &delta(&key, &SiblingSet::default(), &set));
    }

    #[test]
    fn only_the_nodes_above_a_changed_leaf_differ() {
        let vnodes = VnodeCount::new(16).expect("a power of two");
        let (mut before, mut after) = (Trees::default(), Trees::default());
        let (same, mut changed) = (Digests::default(), Digests::default());
        // The last leaf but one of the second virtual node.
        add(&mut changed, (2 << 60) - (2 << 48));
        let deepest = depth_of_leaves(vnodes);
        assert_eq!(deepest, 12);
        for depth in 0..=deepest {
            let all: Vec<u32> = (0..1 << depth).collect();
            for vnode in vnodes.all() {
                let hashes = |trees: &mut Trees, digests| {
                    trees
                        .hashes(digests, vnodes, (3, vnode), ALL, depth, &all)
                        .expect("they are there")
                };
                let (a, b) = (hashes(&mut before, &same), hashes(&mut after, &changed));
                let differ: Vec<u32> =
                    all.iter().copied().filter(|at| a[*at as usize] != b[*at as usize]).collect();
                let expected = ((1u32 << deepest) - 2) >> (deepest - depth);
                let expected = if vnode == VnodeIndex(1) { vec![expected] } else { Vec::new() };
                assert_eq!(differ, expected, "virtual node {} depth {depth}", vnode.0);
            }
        }
    }

    #[test]
    fn a_kept_tree_is_made_anew_when_its_leaves_have_changed() {
        let vnodes = VnodeCount::new(1024).expect("a power of two");
        let (mut trees, mut digests) = (Trees::default(), Digests::default());
        let root = |trees: &mut Trees, digests: &Digests| {
            trees.hashes(digests, vnodes, (3, VnodeIndex(0)), ALL, 0, &[0]).expect("it has a root")
                [0]
        };
        let empty = root(&mut trees, &digests);
        add(&mut digests, 5);
        trees.on_changed(3, VnodeIndex(0));
        assert_ne!(root(&mut trees, &digests), empty);
        add(&mut digests, 5);
        trees.on_changed(3, VnodeIndex(0));
        assert_eq!(root(&mut trees, &digests), empty, "the same pair twice is none");
    }

    #[test]
    fn a_virtual_node_of_one_leaf_has_it_as_its_root() {
        let vnodes = VnodeCount::new(1 << 16).expect("a power of two");
        let (mut trees, mut digests) = (Trees::default(), Digests::default());
        add(&mut digests, 7 << 48);
        let mut root = |vnode| trees.hashes(&digests, vnodes, (3, VnodeIndex(vnode)), ALL, 0, &[0]);
        assert_eq!(root(7), Some(vec![digests.leaf(3, 7, ALL)]));
        assert_eq!(root(8), Some(vec![0]));
    }

    #[test]
    fn nodes_that_are_not_there_are_told() {
        let vnodes = VnodeCount::new(1024).expect("a power of two");
        let (mut trees, digests) = (Trees::default(), Digests::default());
        for (vnode, depth, index) in [(1024, 0, 0), (0, 7, 0), (0, 40, 0), (0, 2, 4)] {
            let of = (3, VnodeIndex(vnode));
            assert_eq!(trees.hashes(&digests, vnodes, of, ALL, depth, &[index]), None);
        }
    }
}
