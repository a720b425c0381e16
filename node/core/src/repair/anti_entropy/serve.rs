//! The side of an exchange that is asked: checks, a question to the storage worker, an answer.

use std::ops::Range as Span;

use bytes::Bytes;
use quoit_ring::{ClusterRecord, HybridTime, NodeId, VnodeIndex};
use quoit_storage::codec;
use quoit_storage::layout::{StoredKey, vnode_range};
use quoit_storage::store::{self, Change, Mutation, Outcome, Range, Reconciliation, Root, Row};

use super::{ITEMS_MAX, NODES_MAX, ROOTS_MAX, ROW_BYTES_MAX, ROWS_MAX, shared_vnodes};
use crate::coordinator::SET_BYTES_MAX;
use crate::event::{StorageAnswer, StorageRequest, TreeLevel};
use crate::peer::{
    DifferingRoots, NodesCompared, PeerMessage, Pushed, Reconciled, Refusal, RepairHead,
    RootsCompared, Told, apart_values, wire_values,
};
use crate::repair::messages::RepairRow;

/// So many keys that cannot be vouched for are named.
const UNKNOWN_MAX: usize = 256;

/// A request of a peer's exchange.
pub(crate) enum ExchangeRequest {
    Roots(crate::peer::CompareRoots),
    Nodes(crate::peer::CompareNodes),
    Reconcile(crate::peer::Reconcile),
    Push(crate::peer::Push),
    HandOver(crate::peer::HandOver),
}

/// What kind of request it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Roots,
    Nodes,
    Reconcile,
    Push,
}

/// Why a request is not served.
pub(crate) enum NotServed {
    /// The two follow different versions of the record.
    OtherRecord,
    /// No right node says that.
    Malformed(&'static str),
}

impl Kind {
    /// The answer that refuses it.
    pub(crate) fn refused(self, refusal: Refusal, time: HybridTime) -> PeerMessage {
        match self {
            Self::Roots => RootsCompared { time, result: Err(refusal) }.into(),
            Self::Nodes => NodesCompared { time, result: Err(refusal) }.into(),
            Self::Reconcile => Reconciled { time, is_busy: true, result: Err(refusal) }.into(),
            Self::Push => Pushed { time, is_busy: true, result: Err(refusal) }.into(),
        }
    }
}

impl ExchangeRequest {
    pub(crate) fn head(&self) -> &RepairHead {
        match self {
            Self::Roots(message) => &message.head,
            Self::Nodes(message) => &message.head,
            Self::Reconcile(message) => &message.head,
            Self::Push(message) => &message.head,
            Self::HandOver(message) => &message.head,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Roots(_) => Kind::Roots,
            Self::Nodes(_) => Kind::Nodes,
            Self::Reconcile(_) => Kind::Reconcile,
            Self::Push(_) | Self::HandOver(_) => Kind::Push,
        }
    }

    /// Checks the request of a peer and turns it into a question to the storage worker.
    pub(crate) fn admit(
        self,
        record: &ClusterRecord,
        own: NodeId,
        from: NodeId,
    ) -> Result<StorageRequest, NotServed> {
        let head = *self.head();
        if head.epoch != record.epoch {
            return Err(NotServed::OtherRecord);
        }
        let is_shared = |vnode: VnodeIndex| {
            vnode.0 < record.vnodes.get()
                && record.is_primary(own, vnode, head.replication)
                && record.is_primary(from, vnode, head.replication)
        };
        let check_vnode = |vnode| match is_shared(vnode) {
            true => Ok(()),
            false => Err(NotServed::Malformed("a virtual node that the two do not share")),
        };
        match self {
            Self::Roots(message) => {
                let shared = shared_vnodes(record, head.replication, own, from);
                let span = span_of(message.first, message.roots.len(), ROOTS_MAX);
                let vnodes = span.and_then(|span| shared.get(span));
                let vnodes = vnodes.ok_or(NotServed::Malformed("more roots than are shared"))?;
                let root = |(floor, hash)| Root { floor, hash, is_trusted: true };
                Ok(StorageRequest::CompareRoots {
                    replication: head.replication,
                    vnodes: vnodes.to_vec(),
                    theirs: message.roots.into_iter().map(root).collect(),
                })
            }
            Self::Nodes(message) => {
                check_vnode(message.vnode)?;
                if message.nodes.len() > NODES_MAX {
                    return Err(NotServed::Malformed("too many nodes of a tree"));
                }
                let level = TreeLevel {
                    replication: head.replication,
                    vnode: message.vnode,
                    floor: message.floor,
                    depth: message.depth,
                };
                Ok(StorageRequest::CompareNodes { level, theirs: message.nodes })
            }
            Self::Reconcile(message) => {
                check_vnode(message.vnode)?;
                if message.items.len() > ITEMS_MAX {
                    return Err(NotServed::Malformed("too many items"));
                }
                let (first, end) = vnode_range(record.vnodes, message.vnode);
                let to = message.to.or_else(|| end.clone());
                let is_inside = message.from >= first
                    && to.as_ref().is_none_or(|to| message.from < *to)
                    && end.is_none_or(|end| to.as_ref().is_some_and(|to| *to <= end));
                if !is_inside {
                    return Err(NotServed::Malformed("a range outside its virtual node"));
                }
                Ok(StorageRequest::Reconcile {
                    range: Range {
                        vnode: message.vnode,
                        replication: head.replication,
                        floor: message.floor,
                        from: message.from,
                        to,
                    },
                    items: message.items,
                    rows_max: ROWS_MAX,
                    bytes_max: (message.bytes_max as usize).min(ROW_BYTES_MAX),
                })
            }
            Self::Push(message) => {
                check_vnode(message.vnode)?;
                if message.rows.len() > ROWS_MAX {
                    return Err(NotServed::Malformed("too many rows"));
                }
                let (vnode, authority) = (message.vnode, message.authority);
                let read = |row| mutation_of(record, vnode, head.replication, row, authority);
                let mutations: Option<Vec<Mutation>> = message.rows.into_iter().map(read).collect();
                let mutations = mutations.ok_or(NotServed::Malformed("a row that is none"))?;
                Ok(StorageRequest::ApplyMany { mutations, is_synced: false })
            }
            Self::HandOver(message) => {
                if message.rows.len() > ROWS_MAX {
                    return Err(NotServed::Malformed("too many rows"));
                }
                let mut mutations = Vec::with_capacity(message.rows.len());
                // Who took it in this node's place forgets it then.
                let mut is_synced = false;
                for row in message.rows {
                    let key = StoredKey::from_bytes(row.0.clone());
                    let vnode = key.map(|key| record.vnodes.vnode_of(key.token()));
                    let vnode = vnode.map_err(|_| NotServed::Malformed("a row that is none"))?;
                    let mutation = mutation_of(record, vnode, head.replication, row, None);
                    let mutation = mutation.ok_or(NotServed::Malformed("a row that is none"))?;
                    // Of a sloppy table anybody may have taken it in this node's place.
                    let table = record.table_by_id(mutation.key.table());
                    is_synced |= !record.is_primary(from, vnode, head.replication);
                    let is_sloppy = table.is_some_and(|table| table.options.sloppy)
                        && record.is_primary(own, vnode, head.replication);
                    if !is_sloppy {
                        check_vnode(vnode)?;
                    }
                    mutations.push(mutation);
                }
                Ok(StorageRequest::ApplyMany { mutations, is_synced })
            }
        }
    }
}

fn span_of(first: u32, count: usize, most: usize) -> Option<Span<usize>> {
    let first = first as usize;
    (count <= most).then(|| first..first + count)
}

/// The merge of a row that a peer sent, under its floor if that is to be believed; `None` for a row
/// that does not belong there. One of a table that was dropped belongs nowhere.
pub(super) fn mutation_of(
    record: &ClusterRecord,
    vnode: VnodeIndex,
    replication: u8,
    (key, (set, values)): RepairRow,
    authority: Option<HybridTime>,
) -> Option<Mutation> {
    let key = StoredKey::from_bytes(key).ok().filter(|key| !key.is_apart())?;
    let table = record.table_by_id(key.table())?;
    let is_right = table.options.replication == replication
        && record.vnodes.vnode_of(key.token()) == vnode
        && record.token(&key.partition()) == key.token();
    if !is_right {
        return None;
    }
    Some(Mutation {
        key,
        replication,
        policy: table.options.policy,
        change: Change::Merge { set: codec::decode(&set).ok()?, rebuild: false, authority },
        values: apart_values(values),
    })
}

/// A row as it travels.
pub(crate) fn wire_row(row: Row) -> RepairRow {
    (row.key.bytes().clone(), (row.set, wire_values(row.values)))
}

/// What the peer is told once the storage worker has answered. `None` where it is not worth an answer
/// any more, or where the peer asked for what there is not.
pub(crate) fn answer(
    answer: StorageAnswer,
    time: HybridTime,
    is_busy: bool,
) -> Result<Option<PeerMessage>, &'static str> {
    let message = match answer {
        StorageAnswer::RootsCompared(compared) => {
            let store::RootsCompared { differ, distrusted } = compared;
            RootsCompared { time, result: Ok(DifferingRoots { differ, distrusted }) }.into()
        }
        StorageAnswer::NodesCompared(Some(differ)) => {
            NodesCompared { time, result: Ok(differ) }.into()
        }
        StorageAnswer::NodesCompared(None) => return Err("nodes that its tree does not have"),
        StorageAnswer::Reconciled(found) => {
            Reconciled { time, is_busy, result: Ok(told(found)) }.into()
        }
        StorageAnswer::AppliedMany(outcomes) => {
            let result = Ok(outcomes.iter().map(is_taken_in).collect());
            Pushed { time, is_busy, result }.into()
        }
        StorageAnswer::NotCommitted(reason) => {
            Pushed { time, is_busy, result: Err(Refusal::Storage(reason)) }.into()
        }
        _ => return Ok(None),
    };
    Ok(Some(message))
}

/// Whether what was merged is there, or something later is.
pub(super) fn is_taken_in(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Merged(_) | Outcome::Older(_) | Outcome::Incomplete => true,
        Outcome::TooManySiblings
        | Outcome::TooLarge
        | Outcome::Corrupt
        | Outcome::Lacks
        | Outcome::Refused(_) => false,
    }
}

fn told(found: Reconciliation) -> Told {
    let (rows, too_large): (Vec<Row>, Vec<Row>) =
        found.rows.into_iter().partition(|row| row.bytes() <= SET_BYTES_MAX);
    let too_large = too_large.into_iter().map(|row| row.key);
    let mut unknown: Vec<Bytes> =
        found.unknown.keys.into_iter().chain(too_large).map(|key| key.bytes().clone()).collect();
    let is_cut = unknown.len() > UNKNOWN_MAX;
    unknown.truncate(UNKNOWN_MAX);
    Told {
        rows: rows.into_iter().map(wire_row).collect(),
        unmatched: found.unmatched,
        until: found.until,
        unknown,
        hides_keys: found.unknown.hides_keys || is_cut,
        floor: found.floor,
        is_trusted: found.is_trusted,
    }
}
