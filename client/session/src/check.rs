//! What is checked before it is sent, and before it is believed.

use quoit_protocol::frame::BODY_BYTES_MAX;
use quoit_protocol::{
    ClientResponse, Got, Key, Limits, Page, Sibling, TableChange, value_checksum,
};
use quoit_ring::{ClusterRecord, HybridTime, Token};

use crate::pending::Place;
use crate::{OperationError, Request};

/// What surrounds keys, values and contexts in a message takes less than this.
const REQUEST_SURROUNDINGS_BYTES: usize = 4 << 10;
/// A table's name has at most so many bytes.
const TABLE_NAME_BYTES_MAX: usize = 64;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerFault {
    /// A value does not match its checksum: it was damaged somewhere.
    Damaged,
    /// The node does not follow the protocol.
    Wrong(&'static str),
}

/// A node's limits, as far as they can be: a request always fits a frame.
pub(crate) fn sane_limits(limits: Limits) -> Limits {
    let most = u32::try_from(BODY_BYTES_MAX - REQUEST_SURROUNDINGS_BYTES)
        .expect("a frame's bound fits 32 bits");
    Limits {
        key_bytes_max: limits.key_bytes_max.min(most),
        value_bytes_max: limits.value_bytes_max.min(most),
        ..limits
    }
}

/// Whether a request keeps the limits.
pub(crate) fn request_fits(request: &Request, limits: &Limits) -> Result<(), OperationError> {
    let key_bytes_max = limits.key_bytes_max as usize;
    let bounded = |what, bytes, bytes_max| {
        if bytes > bytes_max {
            Err(OperationError::TooLarge { what, bytes, bytes_max })
        } else {
            Ok(bytes)
        }
    };
    let key_bytes = |key: &Key| key.partition.len() + key.sort.len();
    let whole = match request {
        Request::Get { key, .. } => bounded("the key", key_bytes(key), key_bytes_max)?,
        Request::Write { key, value, context, .. } => {
            let value = value.as_ref().map_or(0, |value| value.len());
            bounded("the key", key_bytes(key), key_bytes_max)?
                + bounded("the value", value, limits.value_bytes_max as usize)?
                + context.len()
        }
        Request::Scan { partition, from, to, .. } => {
            let to = to.as_ref().map_or(0, |to| to.len());
            bounded("the partition key", partition.len(), key_bytes_max)? + from.len() + to
        }
        Request::Export { after, .. } => after.as_ref().map_or(0, key_bytes),
        Request::ChangeTables(change) => {
            let (TableChange::Create { name, .. } | TableChange::Drop { name }) = change;
            bounded("the table's name", name.len(), TABLE_NAME_BYTES_MAX)?
        }
        Request::Status(_)
        | Request::Activity(_)
        | Request::AcceptLoss { .. }
        | Request::Repair { .. }
        | Request::Snapshots { .. }
        | Request::Record => 0,
    };
    bounded("the request", whole, BODY_BYTES_MAX - REQUEST_SURROUNDINGS_BYTES).map(|_| ())
}

/// Whether what a get found may be handed out.
pub(crate) fn got_is_good(got: &Got, place: Place) -> Result<(), AnswerFault> {
    let token = place.token.expect("a get has a key");
    siblings_are_good(&got.siblings, token)
}

/// Whether a page may be handed out, and leads on.
pub(crate) fn page_is_good(
    page: &Page,
    request: &Request,
    place: Place,
    record: &ClusterRecord,
) -> Result<(), AnswerFault> {
    for item in &page.items {
        let token = match request {
            Request::Scan { partition, from, to, .. } => {
                let sort = &item.key.sort;
                let within = sort >= from && to.as_ref().is_none_or(|to| sort < to);
                if item.key.partition != *partition || !within {
                    return Err(AnswerFault::Wrong("a page holds an item that was not asked for"));
                }
                place.token.expect("a scan has a partition key")
            }
            _ => {
                let token = record.token(&item.key.partition);
                if record.vnodes.vnode_of(token) != place.vnode {
                    return Err(AnswerFault::Wrong("a page holds an item that was not asked for"));
                }
                token
            }
        };
        if item.siblings.is_empty() {
            return Err(AnswerFault::Wrong("a page holds an item without a value"));
        }
        siblings_are_good(&item.siblings, token)?;
    }
    if !page
        .items
        .is_sorted_by(|a, b| a.key.partition != b.key.partition || a.key.sort < b.key.sort)
    {
        return Err(AnswerFault::Wrong("a page is not in order"));
    }
    let leads_on = match (request, &page.after) {
        (_, None) => true,
        (Request::Scan { partition, from, .. }, Some(after)) => {
            after.partition == *partition && after.sort >= *from
        }
        (Request::Export { after: before, .. }, after) => before != after,
        _ => false,
    };
    if leads_on { Ok(()) } else { Err(AnswerFault::Wrong("a page leads nowhere")) }
}

fn siblings_are_good(siblings: &[Sibling], token: Token) -> Result<(), AnswerFault> {
    let good = |sibling: &Sibling| value_checksum(token, &sibling.value) == sibling.checksum;
    if siblings.iter().all(good) { Ok(()) } else { Err(AnswerFault::Damaged) }
}

/// The hybrid time that an answer carries.
pub(crate) fn time_of(response: &ClientResponse) -> HybridTime {
    match response {
        ClientResponse::Welcome(welcome) => welcome.time,
        ClientResponse::Got(got) => got.time,
        ClientResponse::Written(written) => written.time,
        ClientResponse::Page(page) => page.time,
        ClientResponse::Record(answer) => answer.time,
        ClientResponse::Failure(failure) => failure.time,
        ClientResponse::Status(_) | ClientResponse::Traced(_) | ClientResponse::Snapshots(_) => {
            HybridTime::ZERO
        }
    }
}
