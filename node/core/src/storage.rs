//! What the core asks of the storage worker, what that answers, and how each request is carried out
//! on a store: the node's storage threads and both simulators call the same code.

use std::ops::Range as Span;

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime, NodeId, TableId, VnodeIndex};
use quoit_storage::layout::{HintKind, StoredKey};
use quoit_storage::store::{
    Collectible, Hint, Hints, Mutation, Outcome, PageRow, Range, Reader, Reconciliation, Root,
    RootsCompared, Row, ScrubStep, Scrubbed, StandIn, StoreFigures, Survey, Whole, Writer,
};

use crate::event::Tag;

/// For whom a read is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadClass {
    /// A client waits for one key, here or at another node.
    Foreground,
    /// Pages: scans and exports.
    Bulk,
    /// What a replica missed is brought to it.
    Handoff,
    /// Replicas are compared.
    Repair,
    /// Everything is verified.
    Scrub,
}

/// What the storage worker is asked. Reads may be done at once; the others are done in order.
#[derive(Debug, Clone, PartialEq)]
pub enum StorageRequest {
    /// Read one key. Answered by [`StorageAnswer::Found`].
    Read {
        /// The key.
        key: StoredKey,
        /// With the values that lie apart.
        whole: bool,
    },
    /// Read a page of keys. Answered by [`StorageAnswer::Page`].
    Page {
        /// Whose keys.
        table: TableId,
        /// The first key's bytes (included).
        from: Bytes,
        /// The end (excluded).
        to: Option<Bytes>,
        /// At most so many rows.
        rows_max: usize,
        /// About so many bytes.
        bytes_max: usize,
        /// With the values that lie apart.
        whole: bool,
    },
    /// Merge a mutation. Answered by [`StorageAnswer::Prepared`] if `wants_prepared` and it was
    /// merged, as soon as it was; and in any case by [`StorageAnswer::Applied`], after it is
    /// durable or was refused.
    Apply {
        /// The mutation.
        mutation: Box<Mutation>,
        /// Whether the merged set is wanted before it is durable.
        wants_prepared: bool,
    },
    /// Extend the lease of hybrid time. Answered by [`StorageAnswer::Saved`].
    ExtendLease {
        /// The new lease.
        lease: HybridTime,
    },
    /// Tell how far the log is durable. Answered by [`StorageAnswer::Durable`].
    Durable,
    /// Distrust every virtual node: this replica has lost writes and nobody knows which. Answered by
    /// [`StorageAnswer::Saved`].
    BeginEra,
    /// Trust a virtual node again: enough of its peers were merged in. Answered by
    /// [`StorageAnswer::Saved`].
    Trust {
        /// The virtual node.
        vnode: VnodeIndex,
    },
    /// Make all that was asked before durable, whatever the durability. Answered by
    /// [`StorageAnswer::Saved`].
    Barrier,
    /// Raise the floor of virtual nodes: every replica has applied all dots up to it, none is made any
    /// more, and their pairs are equal everywhere. Answered by [`StorageAnswer::Saved`].
    RaiseFloors {
        /// The virtual nodes.
        vnodes: Vec<VnodeIndex>,
        /// The floor; where it was higher before nothing changes.
        floor: HybridTime,
    },
    /// List keys that hold something which may be collected under their virtual node's floor, a
    /// bounded step at a time. Answered by [`StorageAnswer::Collectible`].
    Collectible {
        /// The virtual node.
        vnode: VnodeIndex,
        /// Where the last step ended; nothing in the first.
        from: Bytes,
        /// At most so many keys.
        keys_max: usize,
    },
    /// Merge mutations that stand for themselves, in one batch. Answered by
    /// [`StorageAnswer::AppliedMany`].
    ApplyMany {
        /// The mutations.
        mutations: Vec<Mutation>,
        /// Their batch is synced, whatever the durability: the sender forgets what is in them.
        is_synced: bool,
    },
    /// Tell the roots of virtual nodes. Answered by [`StorageAnswer::Roots`].
    Roots {
        /// N.
        replication: u8,
        /// The virtual nodes.
        vnodes: Vec<VnodeIndex>,
    },
    /// Compare a peer's roots with the own ones. Answered by [`StorageAnswer::RootsCompared`].
    CompareRoots {
        /// N.
        replication: u8,
        /// The virtual nodes.
        vnodes: Vec<VnodeIndex>,
        /// The peer's roots, as many.
        theirs: Vec<Root>,
    },
    /// Tell the hashes of nodes of a tree. Answered by [`StorageAnswer::Nodes`].
    Nodes {
        /// Where in the tree.
        level: TreeLevel,
        /// The nodes.
        indices: Vec<u32>,
    },
    /// Compare a peer's hashes of nodes with the own ones. Answered by
    /// [`StorageAnswer::NodesCompared`].
    CompareNodes {
        /// Where in the tree.
        level: TreeLevel,
        /// The nodes and the peer's hashes.
        theirs: Vec<(u32, u64)>,
    },
    /// Go through a range of keys. Answered by [`StorageAnswer::Surveyed`].
    Survey {
        /// The range.
        range: Range,
        /// At most so many keys.
        items_max: usize,
    },
    /// Find what differs in a range from a peer's items. Answered by [`StorageAnswer::Reconciled`].
    Reconcile {
        /// The range.
        range: Range,
        /// The peer's items.
        items: Vec<u64>,
        /// At most so many rows.
        rows_max: usize,
        /// About so many bytes of them.
        bytes_max: usize,
    },
    /// Tell what some keys hold, with all values. Answered by [`StorageAnswer::Gathered`]; by a failed
    /// [`StorageAnswer::Saved`] where what was taken for another cannot be read now.
    Gather {
        /// Not what this node holds itself, but what it took in the place of this primary.
        taken_for: Option<NodeId>,
        /// The keys.
        keys: Vec<StoredKey>,
        /// About so many bytes.
        bytes_max: usize,
    },
    /// Durably replace a small document. Answered by [`StorageAnswer::Saved`].
    Save {
        /// Its name.
        name: &'static str,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Read what was taken for a key in the place of its primaries, with all values. Answered by
    /// [`StorageAnswer::Found`].
    ReadTaken {
        /// The key.
        key: StoredKey,
        /// The primaries.
        primaries: Vec<NodeId>,
        /// The table's.
        policy: ConflictPolicy,
    },
    /// Take something in the place of a primary. Answered by [`StorageAnswer::Prepared`] if
    /// `wants_prepared` and it was merged, as soon as it was; and in any case by
    /// [`StorageAnswer::Taken`].
    StandIn {
        /// What.
        taken: Box<StandIn>,
        /// Whether the merged set is wanted before it is durable.
        wants_prepared: bool,
    },
    /// Read hints of a kind for a node, the oldest first. Answered by [`StorageAnswer::Hints`].
    NextHints {
        /// The kind and the node.
        line: (HintKind, NodeId),
        /// Of those noted then or later.
        from: HybridTime,
        /// At most so many.
        count_max: usize,
    },
    /// Read and verify the next entries. Answered by [`StorageAnswer::Scrubbed`].
    Scrub(Box<ScrubStep>),
    /// Count leaves of the digests anew. Answered by [`StorageAnswer::Saved`].
    RecountLeaves {
        /// The leaves.
        leaves: Span<usize>,
    },
    /// Keep new hints, and forget others. Answered by [`StorageAnswer::Saved`].
    ChangeHints(HintChanges),
    /// Answered by [`StorageAnswer::Figures`].
    Figures,
}

/// What becomes of hints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HintChanges {
    /// New ones.
    pub added: Vec<Hint>,
    /// Whose target has durably what the key held.
    pub delivered: Vec<Hint>,
    /// Those that will never be delivered, each of which was counted.
    pub dropped: Vec<Hint>,
}

impl HintChanges {
    /// Those that leave.
    pub fn removed(&self) -> impl Iterator<Item = &Hint> {
        self.delivered.iter().chain(&self.dropped)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed().next().is_none()
    }
}

/// A level of a virtual node's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeLevel {
    /// N.
    pub replication: u8,
    /// The virtual node.
    pub vnode: VnodeIndex,
    /// What may be collected under it does not count.
    pub floor: HybridTime,
    /// 0 is the root's.
    pub depth: u8,
}

/// What the storage worker answers.
#[derive(Debug, Clone, PartialEq)]
pub enum StorageAnswer {
    /// What is under the key.
    Found(Whole),
    /// A page: `None` if this replica cannot vouch for it; otherwise the rows and whether there
    /// may be more.
    Page(Option<(Vec<PageRow>, bool)>),
    /// The mutation was merged: the set that the key will hold. Not durable yet.
    Prepared(Bytes),
    /// The mutation is durable (`Outcome::Merged`), or was refused and has left nothing.
    Applied(Outcome),
    /// What became of something that was to be taken in the place of a primary, as with
    /// [`StorageAnswer::Applied`]; an error where it was merged and the batch was not committed.
    Taken {
        /// The primary.
        primary: NodeId,
        /// The key.
        key: StoredKey,
        /// The hint that was noted with it, if it is the first.
        hint: Option<Hint>,
        /// What became of it.
        outcome: Result<Outcome, String>,
    },
    /// The mutation was merged, but the batch was not committed: whether it is there after a
    /// restart is unknown. The text is for people.
    NotCommitted(String),
    /// What was asked is durable (`Ok`), or why it is not.
    Saved(Result<(), String>),
    /// Keys that hold something which may be collected, or why they cannot be told.
    Collectible(Result<Collectible, String>),
    /// What became of each mutation of a batch that is durable.
    AppliedMany(Vec<Outcome>),
    /// The roots, in the order asked for.
    Roots(Vec<Root>),
    /// What differs.
    RootsCompared(RootsCompared),
    /// The hashes, in the order asked for; `None` if there are no such nodes.
    Nodes(Option<Vec<u64>>),
    /// The nodes that differ; `None` if there are no such nodes.
    NodesCompared(Option<Vec<u32>>),
    /// What is in the range.
    Surveyed(Survey),
    /// What differs in the range.
    Reconciled(Reconciliation),
    /// Of how many keys it tells, and what those hold that hold anything.
    Gathered(usize, Vec<Row>),
    /// What a step of the scrub has found.
    Scrubbed(Box<Scrubbed>),
    /// The hints.
    Hints(Hints),
    /// The last record of the log that is durable.
    Durable(u64),
    /// Nobody waits for it any more: it was not begun.
    TooLate,
    /// Figures for people.
    Figures(StoreFigures),
}

impl StorageAnswer {
    /// Takes back what was promised of a batch that was not committed: nothing of it is acknowledged.
    pub fn take_back(&mut self, tag: Tag, reason: &str) {
        match self {
            // What is older than something of the same batch is not older than what is there.
            Self::Applied(Outcome::Merged(_) | Outcome::Older(_)) | Self::AppliedMany(_) => {
                *self = Self::NotCommitted(reason.to_owned());
            }
            Self::Taken { hint, outcome, .. } => {
                if let Ok(Outcome::Merged(_) | Outcome::Older(_)) = outcome {
                    *outcome = Err(reason.to_owned());
                }
                *hint = None;
            }
            // Documents are saved on their own; all else goes with the batch.
            Self::Saved(result) if !tag.is_of_document() => *result = Err(reason.to_owned()),
            _ => {}
        }
    }
}

impl StorageRequest {
    /// For whom a read is made, which may be done beside the writer: reads wait in a queue for each class.
    /// `None` for what is the writer's.
    pub fn read_class(&self) -> Option<ReadClass> {
        match self {
            Self::Read { .. } | Self::Figures | Self::Durable => Some(ReadClass::Foreground),
            Self::Page { .. } => Some(ReadClass::Bulk),
            Self::Gather { .. } | Self::ReadTaken { .. } | Self::NextHints { .. } => {
                Some(ReadClass::Handoff)
            }
            Self::Survey { .. } | Self::Reconcile { .. } => Some(ReadClass::Repair),
            Self::Scrub(_) => Some(ReadClass::Scrub),
            Self::Apply { .. }
            | Self::StandIn { .. }
            | Self::ApplyMany { .. }
            | Self::Roots { .. }
            | Self::CompareRoots { .. }
            | Self::Nodes { .. }
            | Self::CompareNodes { .. }
            | Self::ExtendLease { .. }
            | Self::BeginEra
            | Self::Trust { .. }
            | Self::Barrier
            | Self::RaiseFloors { .. }
            | Self::Collectible { .. }
            | Self::ChangeHints(_)
            | Self::RecountLeaves { .. }
            | Self::Save { .. } => None,
        }
    }

    /// Whether the request only reads, and may be done beside the writer.
    pub fn is_read(&self) -> bool {
        self.read_class().is_some()
    }

    /// The answer where nobody waits for the request any more, and it is not carried out.
    pub fn too_late(&self) -> StorageAnswer {
        match self {
            Self::StandIn { taken, .. } => StorageAnswer::Taken {
                primary: taken.primary,
                key: taken.mutation.key.clone(),
                hint: None,
                outcome: Ok(Outcome::Refused("nobody waits for it any more")),
            },
            _ => StorageAnswer::TooLate,
        }
    }

    /// Carries out a request that only reads.
    ///
    /// # Panics
    /// If it does not: see [`StorageRequest::is_read`].
    pub fn read(self, reader: &Reader) -> StorageAnswer {
        match self {
            Self::Read { key, whole: false } => {
                StorageAnswer::Found(Whole::bare(reader.read(&key)))
            }
            Self::Read { key, whole: true } => StorageAnswer::Found(reader.read_whole(&key)),
            Self::Page { table, from, to, rows_max, bytes_max, whole } => {
                let to = to.as_deref();
                StorageAnswer::Page(reader.page(table, &from, to, rows_max, bytes_max, whole))
            }
            Self::Figures => StorageAnswer::Figures(reader.figures()),
            Self::Durable => StorageAnswer::Durable(reader.durable_sequence()),
            Self::Survey { range, items_max } => {
                StorageAnswer::Surveyed(reader.survey(&range, items_max))
            }
            Self::Reconcile { range, items, rows_max, bytes_max } => {
                StorageAnswer::Reconciled(reader.reconcile(&range, &items, rows_max, bytes_max))
            }
            Self::ReadTaken { key, primaries, policy } => {
                StorageAnswer::Found(reader.read_taken(&key, &primaries, policy))
            }
            Self::Gather { taken_for, keys, bytes_max } => {
                let gathered = match taken_for {
                    Some(primary) => reader.gather_taken(primary, &keys, bytes_max),
                    None => Ok(reader.gather_keys(&keys, bytes_max)),
                };
                match gathered {
                    Ok((told, rows)) => StorageAnswer::Gathered(told, rows),
                    Err(error) => StorageAnswer::Saved(Err(error.to_string())),
                }
            }
            Self::Scrub(step) => StorageAnswer::Scrubbed(Box::new(reader.scrub(&step))),
            Self::NextHints { line: (kind, target), from, count_max } => {
                StorageAnswer::Hints(reader.hints(kind, target, from, count_max))
            }
            other @ (Self::Apply { .. }
            | Self::StandIn { .. }
            | Self::ApplyMany { .. }
            | Self::Roots { .. }
            | Self::CompareRoots { .. }
            | Self::Nodes { .. }
            | Self::CompareNodes { .. }
            | Self::ExtendLease { .. }
            | Self::BeginEra
            | Self::Trust { .. }
            | Self::Barrier
            | Self::RaiseFloors { .. }
            | Self::Collectible { .. }
            | Self::ChangeHints(_)
            | Self::RecountLeaves { .. }
            | Self::Save { .. }) => {
                unreachable!("no read was handed to a reader: {other:?}")
            }
        }
    }

    /// Carries out a request that is no read, up to the commit of its batch: the answer may be told
    /// after that ([`StorageAnswer::take_back`] where it failed). The first value is what may be
    /// told at once, if that was wanted.
    ///
    /// # Panics
    /// If it is a read.
    pub fn write(self, writer: &mut Writer) -> (Option<StorageAnswer>, StorageAnswer) {
        match self {
            Self::Apply { mutation, wants_prepared } => {
                let outcome = writer.prepare(*mutation);
                let prepared = match &outcome {
                    Outcome::Merged(set) if wants_prepared => {
                        Some(StorageAnswer::Prepared(set.clone()))
                    }
                    _ => None,
                };
                (prepared, StorageAnswer::Applied(outcome))
            }
            Self::StandIn { taken, wants_prepared } => {
                let (primary, key) = (taken.primary, taken.mutation.key.clone());
                let (outcome, hint) = writer.stand_in(*taken);
                let prepared = match &outcome {
                    Outcome::Merged(set) if wants_prepared => {
                        Some(StorageAnswer::Prepared(set.clone()))
                    }
                    _ => None,
                };
                (prepared, StorageAnswer::Taken { primary, key, hint, outcome: Ok(outcome) })
            }
            Self::ApplyMany { mutations, is_synced } => {
                if is_synced {
                    writer.sync_next();
                }
                let outcomes = mutations.into_iter().map(|mutation| writer.prepare(mutation));
                (None, StorageAnswer::AppliedMany(outcomes.collect()))
            }
            Self::Roots { replication, vnodes } => {
                (None, StorageAnswer::Roots(writer.roots(replication, &vnodes)))
            }
            Self::CompareRoots { replication, vnodes, theirs } => {
                let compared = writer.compare_roots(replication, &vnodes, &theirs);
                (None, StorageAnswer::RootsCompared(compared))
            }
            Self::Nodes { level, indices } => {
                (None, StorageAnswer::Nodes(level.hashes(writer, &indices)))
            }
            Self::CompareNodes { level, theirs } => {
                let (indices, theirs): (Vec<_>, Vec<_>) = theirs.into_iter().unzip();
                let own = level.hashes(writer, &indices);
                let differ = own.map(|own| {
                    let pairs = indices.iter().zip(own.iter().zip(&theirs));
                    pairs.filter(|(_, (own, theirs))| own != theirs).map(|(at, _)| *at).collect()
                });
                (None, StorageAnswer::NodesCompared(differ))
            }
            Self::ExtendLease { lease } => {
                writer.extend_lease(lease);
                (None, StorageAnswer::Saved(Ok(())))
            }
            Self::BeginEra => {
                writer.begin_era();
                (None, StorageAnswer::Saved(Ok(())))
            }
            Self::Trust { vnode } => {
                writer.trust(vnode);
                (None, StorageAnswer::Saved(Ok(())))
            }
            Self::Barrier => {
                writer.sync_next();
                (None, StorageAnswer::Saved(Ok(())))
            }
            Self::RaiseFloors { vnodes, floor } => {
                vnodes.into_iter().for_each(|vnode| writer.raise_floor(vnode, floor));
                (None, StorageAnswer::Saved(Ok(())))
            }
            Self::Collectible { vnode, from, keys_max } => {
                let found = writer.collectible(vnode, &from, keys_max);
                (None, StorageAnswer::Collectible(found.map_err(|error| error.to_string())))
            }
            Self::Save { name, bytes } => {
                let saved = writer.save(name, &bytes).map_err(|error| error.to_string());
                (None, StorageAnswer::Saved(saved))
            }
            Self::RecountLeaves { leaves } => {
                writer.recount_leaves(leaves);
                (None, StorageAnswer::Saved(Ok(())))
            }
            Self::ChangeHints(changes) => {
                let changed = writer.change_hints(&changes.added, changes.removed());
                (None, StorageAnswer::Saved(changed.map_err(str::to_owned)))
            }
            other @ (Self::Read { .. }
            | Self::Page { .. }
            | Self::Survey { .. }
            | Self::Reconcile { .. }
            | Self::Gather { .. }
            | Self::ReadTaken { .. }
            | Self::NextHints { .. }
            | Self::Scrub(_)
            | Self::Figures
            | Self::Durable) => {
                unreachable!("a read was handed to the writer: {other:?}")
            }
        }
    }
}

impl TreeLevel {
    fn hashes(self, writer: &mut Writer, indices: &[u32]) -> Option<Vec<u64>> {
        writer.nodes(self.replication, self.vnode, self.floor, self.depth, indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Inner;

    #[test]
    fn a_batch_that_was_not_committed_takes_back_all_but_documents() {
        let own = Tag::Own(1);
        for (tag, is_kept) in [
            (Tag::Inner(Inner::Lease), false),
            (own, false),
            (Tag::Inner(Inner::Vote), true),
            (Tag::Inner(Inner::Record), true),
        ] {
            let mut answer = StorageAnswer::Saved(Ok(()));
            answer.take_back(tag, "full");
            assert_eq!(answer == StorageAnswer::Saved(Ok(())), is_kept, "{tag:?}");
        }
        let mut answer = StorageAnswer::Applied(Outcome::Merged(Bytes::new()));
        answer.take_back(own, "full");
        assert_eq!(answer, StorageAnswer::NotCommitted("full".to_owned()));
        let mut older = StorageAnswer::Applied(Outcome::Older(HybridTime(5)));
        older.take_back(own, "full");
        assert_eq!(older, StorageAnswer::NotCommitted("full".to_owned()));
        let mut refused = StorageAnswer::Applied(Outcome::TooLarge);
        refused.take_back(own, "full");
        assert_eq!(refused, StorageAnswer::Applied(Outcome::TooLarge));
    }
}
