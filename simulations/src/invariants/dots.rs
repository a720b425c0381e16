//! Invariant 2: a dot names one event, and an actor never makes a dot for a key after it forgot one
//! (FAILURES rows 4 and 7): every version under one dot is the same, and an actor that makes dots
//! belongs to one life of one node's process.

use std::collections::BTreeMap;

use bytes::Bytes;
use quoit_storage::store::{Change, Mutation};
use quoit_storage::version::{Actor, Content, Dot};

use super::Verdict;
use crate::world::versions_of;

/// So many dots are remembered; the oldest are forgotten.
const DOTS_MAX: usize = 200_000;

#[derive(Default)]
pub(crate) struct Dots {
    pub(crate) verdict: Verdict,
    dots: BTreeMap<Dot, (Bytes, Option<u64>)>,
    actors: BTreeMap<Actor, u64>,
}

impl Dots {
    /// A mutation is handed to a node's storage worker.
    pub(crate) fn on_apply(&mut self, node: usize, life: u64, mutation: &Mutation) {
        if let Change::Write { version, .. } = &mutation.change {
            let owner = *self.actors.entry(version.dot.actor).or_insert(life);
            self.verdict.expect(owner == life, || {
                format!("n{} makes dots as {:?} of another life", node + 1, version.dot.actor)
            });
        }
        for version in versions_of(&mutation.change) {
            let checksum = match &version.content {
                Content::Value { checksum, .. } | Content::Apart { checksum, .. } => {
                    Some(*checksum)
                }
                Content::Tombstone => None,
            };
            let key = mutation.key.bytes();
            let (first_key, first) =
                self.dots.entry(version.dot).or_insert_with(|| (key.clone(), checksum));
            let same = *first_key == *key && *first == checksum;
            self.verdict.expect(same, || {
                format!(
                    "{:?} names two events: {first:?} of {first_key:?}, {version:?} of {key:?}",
                    version.dot
                )
            });
        }
        while self.dots.len() > DOTS_MAX {
            self.dots.pop_first();
        }
    }
}
