//! Invariant 12: a digest equals the fold of the store that it stands for (Dynamo, section 4.7).
//! Judged at the end, of nodes whose disks were not damaged: damage is recounted when it is met.

use std::collections::BTreeMap;

use quoit_ring::HybridTime;
use quoit_storage::codec;
use quoit_storage::digest::{LEAVES, item_digest, leaf_of};
use quoit_storage::store::Found;

use super::Verdict;
use crate::world::Worker;

#[derive(Default)]
pub(crate) struct DigestCheck {
    pub(crate) verdict: Verdict,
}

impl DigestCheck {
    pub(crate) fn on_end(&mut self, node: usize, worker: &Worker) {
        let digests = worker.writer.digests();
        for table in digests.tables().keys() {
            let page = worker.reader.page(*table, b"", None, usize::MAX, usize::MAX, false);
            let Some((rows, _)) = page else { return };
            let figures = digests.tables()[table];
            let mut live = 0;
            for row in &rows {
                let Found::Set(bytes) = &row.whole.found else { return };
                let set = codec::decode(bytes).expect("the store checked it");
                live += u64::from(set.is_live(HybridTime::ZERO));
            }
            self.verdict.expect(live == figures.live, || {
                format!("n{} counts {} live keys, and holds {live}", node + 1, figures.live)
            });
        }
        // A leaf is the fold over the tables of one N: all leaves together are the fold of all.
        let mut folded: BTreeMap<usize, u64> = BTreeMap::new();
        for table in digests.tables().keys() {
            let page = worker.reader.page(*table, b"", None, usize::MAX, usize::MAX, false);
            for row in page.map(|(rows, _)| rows).unwrap_or_default() {
                let Found::Set(bytes) = &row.whole.found else { return };
                let set = codec::decode(bytes).expect("the store checked it");
                *folded.entry(leaf_of(row.key.token())).or_default() ^=
                    item_digest(&row.key, &set, HybridTime::ZERO);
            }
        }
        let mut held: BTreeMap<usize, u64> = BTreeMap::new();
        for replication in digests.replications() {
            let leaves = digests.leaves(replication, 0..LEAVES, HybridTime::ZERO);
            for (at, leaf) in leaves.iter().enumerate().filter(|(_, leaf)| **leaf != 0) {
                *held.entry(at).or_default() ^= leaf;
            }
        }
        folded.retain(|_, leaf| *leaf != 0);
        held.retain(|_, leaf| *leaf != 0);
        self.verdict.expect(folded == held, || {
            format!("n{}: the leaves are {held:x?}, the fold is {folded:x?}", node + 1)
        });
    }
}
