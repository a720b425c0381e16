//! A replica that has lost writes and does not know which: each of its virtual nodes counts again once
//! enough of the others were merged in (the design's section 6).
//!
//! A write that was acknowledged is on W replicas. Whoever has merged N - W + 1 of the others has met
//! at least one of them, whichever they are, and so holds all that was acknowledged before; until then
//! it takes writes in and counts for none. Where W is so small that there are not as many others, all of
//! them have to be merged. Where there are no others (N = 1), nobody knows what was lost, and the
//! virtual node stays as it is.
//!
//! Only what a peer vouches for counts ([`Merged`]), and only exchanges that began in this life of the
//! node: after a restart the merging begins anew, and finds little left to do.

use std::collections::{BTreeMap, BTreeSet};

use quoit_ring::{ClusterRecord, NodeId, VnodeIndex};

use super::anti_entropy::Merged;

/// The virtual nodes that this replica does not vouch for.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// For each of them the others that were merged, by N.
    distrusted: BTreeMap<VnodeIndex, BTreeMap<u8, BTreeSet<NodeId>>>,
    /// The peers that follow the same version of the record, as exchanges with them have shown.
    met: BTreeSet<NodeId>,
}

impl Recovery {
    /// These were distrusted when the node started.
    pub(crate) fn new(distrusted: impl IntoIterator<Item = VnodeIndex>) -> Self {
        let nothing = |vnode| (vnode, BTreeMap::new());
        Self { distrusted: distrusted.into_iter().map(nothing).collect(), met: BTreeSet::new() }
    }

    /// Takes in that all which a peer held is here; whether that is enough for the virtual node.
    pub(crate) fn on_merged(
        &mut self,
        merged: &Merged,
        record: &ClusterRecord,
        own: NodeId,
    ) -> bool {
        if self.distrusted.is_empty() {
            return false;
        }
        self.met.insert(merged.peer);
        let Some(peers) = self.distrusted.get_mut(&merged.vnode) else { return false };
        peers.entry(merged.replication).or_default().insert(merged.peer);
        is_enough(peers, merged.vnode, record, own)
    }

    /// Those that may be trusted as they are: no table keeps anything there on this node, by a version
    /// of the record that half of the others follow too.
    pub(crate) fn unused(&self, record: &ClusterRecord, own: NodeId) -> Vec<VnodeIndex> {
        if self.met.len() < record.members.len() / 2 {
            return Vec::new();
        }
        let is_unused = |vnode: &VnodeIndex| !holds(record, *vnode, own);
        self.distrusted.keys().copied().filter(is_unused).collect()
    }

    /// The storage worker could not write down that it is trusted.
    pub(crate) fn on_still_distrusted(&mut self, vnode: VnodeIndex) {
        self.distrusted.entry(vnode).or_default();
    }

    /// It is about to be trusted.
    pub(crate) fn on_trusted(&mut self, vnode: VnodeIndex) {
        self.distrusted.remove(&vnode);
    }
}

fn holds(record: &ClusterRecord, vnode: VnodeIndex, own: NodeId) -> bool {
    record.tables.iter().any(|table| record.is_primary(own, vnode, table.options.replication))
}

/// Whether enough of the others were merged, for every table of which this node is a replica there.
fn is_enough(
    merged: &BTreeMap<u8, BTreeSet<NodeId>>,
    vnode: VnodeIndex,
    record: &ClusterRecord,
    own: NodeId,
) -> bool {
    record.tables.iter().all(|table| {
        let options = &table.options;
        if !record.is_primary(own, vnode, options.replication) {
            return true;
        }
        let others: BTreeSet<NodeId> =
            record.primaries(vnode, options.replication).filter(|node| *node != own).collect();
        // Fewer members than N are as many replicas.
        let replicas = others.len() + 1;
        let write = options.write_level.required(options.replication).unwrap_or(1);
        let needed =
            (replicas + 1).saturating_sub(usize::from(write)).clamp(1, others.len().max(1));
        let met =
            merged.get(&options.replication).map_or(0, |met| met.intersection(&others).count());
        met >= needed
    })
}
