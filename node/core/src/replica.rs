//! The replica's side of every request about a key: check, ask the storage worker, answer. It keeps
//! no state between the two: the tag brings back who asked.

use quoit_protocol::Key;
use quoit_ring::{ClusterRecord, HybridTime, NodeId, Table};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{Change, Found, Mutation, Outcome, PageRow, StandIn, Whole};

use crate::coordinator::SET_BYTES_MAX;
use crate::event::{StorageAnswer, StorageRequest};
use crate::peer::{
    MergeAnswer, PageAnswer, PeerHead, PeerMerge, PeerMessage, PeerPage, PeerRead, ReadAnswer,
    Refusal, WireRow, WireSet, apart_values, wire_values,
};

/// A page never has more rows than this.
pub const PAGE_ROWS_MAX: usize = 1_000;
/// A page is closed after about so many bytes.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// What a coordinator asks of a replica.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplicaRequest {
    /// Read one key.
    Read(PeerRead),
    /// Merge a set.
    Merge(PeerMerge),
    /// Read a page.
    Page(PeerPage),
}

/// What a replica answers.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplicaAnswer {
    /// To a read.
    Read(Result<WireSet, Refusal>),
    /// To a merge.
    Merge(Result<(), Refusal>),
    /// To a page.
    Page(Result<(Vec<WireRow>, bool), Refusal>),
}

impl ReplicaRequest {
    /// The request's common fields.
    pub fn head(&self) -> &PeerHead {
        match self {
            Self::Read(read) => &read.head,
            Self::Merge(merge) => &merge.head,
            Self::Page(page) => &page.head,
        }
    }

    /// The answer that refuses this request.
    pub fn refused(&self, refusal: Refusal) -> ReplicaAnswer {
        match self {
            Self::Read(_) => ReplicaAnswer::Read(Err(refusal)),
            Self::Merge(_) => ReplicaAnswer::Merge(Err(refusal)),
            Self::Page(_) => ReplicaAnswer::Page(Err(refusal)),
        }
    }

    /// The message that carries the request to a peer.
    pub fn into_message(self) -> PeerMessage {
        match self {
            Self::Read(read) => read.into(),
            Self::Merge(merge) => merge.into(),
            Self::Page(page) => page.into(),
        }
    }
}

impl ReplicaAnswer {
    /// Why the replica did not do what it was asked, if it did not.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Read(found) => found.as_ref().err(),
            Self::Merge(merged) => merged.as_ref().err(),
            Self::Page(page) => page.as_ref().err(),
        }
    }

    /// The message that carries the answer to a peer.
    pub fn into_message(self, time: HybridTime) -> PeerMessage {
        match self {
            Self::Read(found) => ReadAnswer { time, found }.into(),
            Self::Merge(merged) => MergeAnswer { time, merged }.into(),
            Self::Page(page) => PageAnswer { time, page }.into(),
        }
    }
}

/// Checks a request to this node against the record in force and turns it into a question to the
/// storage worker. Of a sloppy table any member serves any key.
pub fn admit(
    record: &ClusterRecord,
    own: NodeId,
    request: &ReplicaRequest,
) -> Result<StorageRequest, Refusal> {
    let head = request.head();
    if head.vnode.0 >= record.vnodes.get() || head.configuration != record.configuration(head.vnode)
    {
        return Err(Refusal::WrongConfiguration);
    }
    let table = record.table_by_id(head.table).ok_or(Refusal::UnknownTable)?;
    let replication = table.options.replication;
    let stands_in = table.options.sloppy && !record.is_primary(own, head.vnode, replication);
    match request {
        ReplicaRequest::Read(read) if stands_in => Ok(StorageRequest::ReadTaken {
            key: stored_key(record, head, &read.key)?,
            primaries: record.primaries(head.vnode, replication).collect(),
            policy: table.options.policy,
        }),
        ReplicaRequest::Read(read) => Ok(StorageRequest::Read {
            key: stored_key(record, head, &read.key)?,
            whole: read.whole,
        }),
        ReplicaRequest::Merge(merge) => match merge.stands_in_for {
            Some(primary) if stands_in && record.is_primary(primary, head.vnode, replication) => {
                let mutation = mutation_of(record, table, merge)?;
                let taken = Box::new(StandIn { primary, time: HybridTime::ZERO, mutation });
                Ok(StorageRequest::StandIn { taken, wants_prepared: false })
            }
            None if !stands_in => {
                let mutation = Box::new(mutation_of(record, table, merge)?);
                Ok(StorageRequest::Apply { mutation, wants_prepared: false })
            }
            Some(_) | None => Err(Refusal::Invalid),
        },
        ReplicaRequest::Page(page) => {
            let (first, end) = quoit_storage::layout::vnode_range(record.vnodes, head.vnode);
            let inside = page.from >= first
                && end.as_ref().is_none_or(|end| page.to.as_ref().is_some_and(|to| to <= end));
            let forwards = page.to.as_ref().is_none_or(|to| page.from <= *to);
            if !inside || !forwards {
                return Err(Refusal::Invalid);
            }
            Ok(StorageRequest::Page {
                table: head.table,
                from: page.from.clone(),
                to: page.to.clone(),
                rows_max: (page.rows_max as usize).clamp(1, PAGE_ROWS_MAX),
                bytes_max: PAGE_BYTES_MAX,
                whole: page.whole,
            })
        }
    }
}

fn mutation_of(
    record: &ClusterRecord,
    table: &Table,
    merge: &PeerMerge,
) -> Result<Mutation, Refusal> {
    Ok(Mutation {
        key: stored_key(record, &merge.head, &merge.key)?,
        replication: table.options.replication,
        policy: table.options.policy,
        change: Change::Merge {
            set: codec::decode(&merge.set).map_err(|_| Refusal::Invalid)?,
            rebuild: merge.rebuild,
            authority: None,
        },
        values: apart_values(merge.values.iter().cloned()),
    })
}

fn stored_key(record: &ClusterRecord, head: &PeerHead, key: &Key) -> Result<StoredKey, Refusal> {
    let token = record.token(&key.partition);
    if record.vnodes.vnode_of(token) != head.vnode {
        return Err(Refusal::Invalid);
    }
    StoredKey::new(token, head.table, &key.partition, &key.sort).map_err(|_| Refusal::Invalid)
}

/// Turns the storage worker's answer into the replica's. `None` for an answer that no replica's
/// request leads to.
pub fn answer(answer: StorageAnswer) -> Option<ReplicaAnswer> {
    Some(match answer {
        StorageAnswer::Found(whole) if is_too_large(&whole) => {
            let reason = "the key's siblings together are too large to be sent".to_owned();
            ReplicaAnswer::Read(Err(Refusal::Storage(reason)))
        }
        StorageAnswer::Found(whole) => {
            ReplicaAnswer::Read(wire_set(whole).ok_or(Refusal::Unreadable))
        }
        StorageAnswer::Page(None) => ReplicaAnswer::Page(Err(Refusal::Unreadable)),
        StorageAnswer::Page(Some((rows, _))) if rows.iter().any(|row| is_too_large(&row.whole)) => {
            let reason = "a key's siblings together are too large to be sent".to_owned();
            ReplicaAnswer::Page(Err(Refusal::Storage(reason)))
        }
        StorageAnswer::Page(Some((rows, more))) => {
            ReplicaAnswer::Page(Ok((rows.into_iter().map(wire_row).collect(), more)))
        }
        StorageAnswer::Applied(outcome) => ReplicaAnswer::Merge(merged(outcome)),
        StorageAnswer::NotCommitted(reason) => ReplicaAnswer::Merge(Err(Refusal::Storage(reason))),
        StorageAnswer::Prepared(_)
        | StorageAnswer::Taken { .. }
        | StorageAnswer::AppliedMany(_)
        | StorageAnswer::Roots(_)
        | StorageAnswer::RootsCompared(_)
        | StorageAnswer::Nodes(_)
        | StorageAnswer::NodesCompared(_)
        | StorageAnswer::Surveyed(_)
        | StorageAnswer::Reconciled(_)
        | StorageAnswer::Gathered(..)
        | StorageAnswer::Hints(_)
        | StorageAnswer::Scrubbed(_)
        | StorageAnswer::Saved(_)
        | StorageAnswer::Collectible(_)
        | StorageAnswer::Durable(_)
        | StorageAnswer::TooLate
        | StorageAnswer::Figures(_) => {
            return None;
        }
    })
}

fn is_too_large(whole: &Whole) -> bool {
    let values: usize = whole.values.iter().map(|value| value.bytes.len()).sum();
    matches!(&whole.found, Found::Set(set) if set.len() + values > SET_BYTES_MAX)
}

fn wire_set(whole: Whole) -> Option<WireSet> {
    match whole.found {
        Found::Set(set) => Some((set, wire_values(whole.values))),
        Found::Unreadable => None,
    }
}

fn wire_row(row: PageRow) -> WireRow {
    (row.key.bytes().clone(), wire_set(row.whole))
}

/// A replica's answer to a merge that ended so.
pub(crate) fn merged(outcome: Outcome) -> Result<(), Refusal> {
    match outcome {
        Outcome::Merged(_) => Ok(()),
        Outcome::Older(time) => Err(Refusal::Older(time)),
        Outcome::Incomplete => Err(Refusal::Unreadable),
        Outcome::Lacks => Err(Refusal::Lacks),
        Outcome::TooManySiblings | Outcome::TooLarge | Outcome::Corrupt => Err(Refusal::Invalid),
        Outcome::Refused(reason) => Err(Refusal::Storage(reason.to_owned())),
    }
}
