//! What the core asks of the storage worker, what that answers, and how each request is carried out
//! on a store: the node's storage threads and both simulators call the same code.

use bytes::Bytes;
use quoit_ring::{HybridTime, TableId, VnodeIndex};
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{
    Collectible, Mutation, Outcome, PageRow, Reader, StoreFigures, Whole, Writer,
};

use crate::event::Tag;

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
    /// Distrust every virtual node: this replica has lost writes and nobody knows which. Answered by
    /// [`StorageAnswer::Saved`].
    BeginEra,
    /// Trust a virtual node again: enough of its peers were merged in. Answered by
    /// [`StorageAnswer::Saved`].
    Trust {
        /// The virtual node.
        vnode: VnodeIndex,
    },
    /// Raise a virtual node's floor: every replica has applied all dots up to it, none is made any
    /// more, and their pairs are equal everywhere. Answered by [`StorageAnswer::Saved`].
    RaiseFloor {
        /// The virtual node.
        vnode: VnodeIndex,
        /// The floor; a lower one than before changes nothing.
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
    /// Durably replace a small document. Answered by [`StorageAnswer::Saved`].
    Save {
        /// Its name.
        name: &'static str,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Answered by [`StorageAnswer::Figures`].
    Figures,
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
    /// The mutation was merged, but the batch was not committed: whether it is there after a
    /// restart is unknown. The text is for people.
    NotCommitted(String),
    /// What was asked is durable (`Ok`), or why it is not.
    Saved(Result<(), String>),
    /// Keys that hold something which may be collected, or why they cannot be told.
    Collectible(Result<Collectible, String>),
    /// Nobody waits for it any more: it was not begun.
    TooLate,
    /// Figures for people.
    Figures(StoreFigures),
}

impl StorageAnswer {
    /// Takes back what was promised of a batch that was not committed: nothing of it is acknowledged.
    pub fn take_back(&mut self, tag: Tag, reason: &str) {
        match self {
            Self::Applied(Outcome::Merged(_)) => *self = Self::NotCommitted(reason.to_owned()),
            // Documents are saved on their own; all else goes with the batch.
            Self::Saved(result) if !tag.is_of_document() => *result = Err(reason.to_owned()),
            _ => {}
        }
    }
}

impl StorageRequest {
    /// Whether the request only reads, and may be done beside the writer.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Page { .. } | Self::Figures => true,
            Self::Apply { .. }
            | Self::ExtendLease { .. }
            | Self::BeginEra
            | Self::Trust { .. }
            | Self::RaiseFloor { .. }
            | Self::Collectible { .. }
            | Self::Save { .. } => false,
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
            other @ (Self::Apply { .. }
            | Self::ExtendLease { .. }
            | Self::BeginEra
            | Self::Trust { .. }
            | Self::RaiseFloor { .. }
            | Self::Collectible { .. }
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
            Self::RaiseFloor { vnode, floor } => {
                writer.raise_floor(vnode, floor);
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
            other @ (Self::Read { .. } | Self::Page { .. } | Self::Figures) => {
                unreachable!("a read was handed to the writer: {other:?}")
            }
        }
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
        let mut refused = StorageAnswer::Applied(Outcome::TooLarge);
        refused.take_back(own, "full");
        assert_eq!(refused, StorageAnswer::Applied(Outcome::TooLarge));
    }
}
