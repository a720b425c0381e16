//! Invariant 9: the record's versions are totally ordered, one version has one content, and no node
//! goes back (FAILURES rows 16 and 24; Lamport, "Paxos Made Simple", 2001, for why one is chosen).

use std::collections::BTreeMap;

use quoit_core::handshake::record_hash;
use quoit_ring::{ClusterRecord, Epoch};

use super::Verdict;

#[derive(Default)]
pub(crate) struct Records {
    pub(crate) verdict: Verdict,
    contents: BTreeMap<Epoch, u64>,
    followed: BTreeMap<usize, Epoch>,
}

impl Records {
    pub(crate) fn on_followed(&mut self, node: usize, record: &ClusterRecord) {
        let hash = record_hash(record);
        let first = *self.contents.entry(record.epoch).or_insert(hash);
        self.verdict.expect(first == hash, || {
            format!("n{} follows another version {:?} than others", node + 1, record.epoch)
        });
        let last = self.followed.insert(node, record.epoch).unwrap_or_default();
        self.verdict.expect(last <= record.epoch, || {
            format!("n{} goes from version {last:?} back to {:?}", node + 1, record.epoch)
        });
    }

    /// A node starts with what its disk holds: no less than it followed, unless the disk was lost.
    pub(crate) fn on_start(&mut self, node: usize, epoch: Epoch, expects_loss: bool) {
        let last = self.followed.insert(node, epoch).unwrap_or_default();
        self.verdict.expect(last <= epoch || expects_loss, || {
            format!("n{} followed version {last:?} and starts with {epoch:?}", node + 1)
        });
    }
}
