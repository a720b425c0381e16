//! How long it takes to tell the roots of 1,024 virtual nodes, all leaves of which hold something:
//! `cargo run --release -p quoit-storage-files --example tree_speed`.

use std::time::Instant;

use bytes::Bytes;
use quoit_ring::{HybridTime, TableId, Token, VnodeCount};
use quoit_storage::digest::{Digests, delta};
use quoit_storage::layout::StoredKey;
use quoit_storage::trees::Trees;
use quoit_storage::version::{Actor, Content, Dot, SiblingSet, Version};

fn main() {
    let vnodes = VnodeCount::new(1_024).expect("a power of two");
    let (mut trees, mut digests) = (Trees::default(), Digests::default());
    for leaf in 0..1u64 << 16 {
        let key = StoredKey::new(Token(leaf << 48), TableId(1), b"p", b"").expect("short");
        let dot = Dot { time: HybridTime(1), actor: Actor(1) };
        let content = Content::Value { bytes: Bytes::new(), checksum: 0 };
        let set = SiblingSet::of(Version { dot, content, expires: None });
        digests.apply(&key, 3, &delta(&key, &SiblingSet::default(), &set));
    }
    for how in ["every tree built", "nothing changed"] {
        let began = Instant::now();
        for vnode in vnodes.all() {
            let root = trees.hashes(&digests, vnodes, (3, vnode), HybridTime::ZERO, 0, &[0]);
            assert!(root.is_some(), "every virtual node has a root");
        }
        println!("{how}: {:?}", began.elapsed());
    }
}
