//! Sets of unique elements, stored in four ways: one value that is read, changed and written; a key
//! for each element; a sort key for each element under one partition; siblings of one key.

use std::collections::BTreeSet;

use fastrand::Rng;
use quoit_client::{Context, ScanRange, Table};

use super::{End, Plan, Request, decode, encode, name};
use crate::history::Value;

/// Of 100 operations so many are reads.
const READS_PERCENT: u8 = 20;
/// An element that is stored by itself has so many bytes: enough that nodes flush their memory to tables
/// every few seconds, so that there are tables to be damaged, copied and lost.
const PADDED_BYTES: usize = 2_048;

fn padded(element: i64) -> String {
    format!("{element:<PADDED_BYTES$}")
}

pub(super) fn next(plan: &Plan, random: &mut Rng) -> Request {
    let key = plan.key(random);
    if random.u8(..100) < READS_PERCENT {
        Request::read(key)
    } else {
        Request { f: "add", key, value: Value::Int(plan.unique()) }
    }
}

pub(super) fn next_insert(plan: &Plan, random: &mut Rng) -> Request {
    let last = plan.value_next.load(std::sync::atomic::Ordering::Relaxed) - 1;
    if last > 0 && random.u8(..100) < READS_PERCENT {
        return Request::read(random.i64(1..=last));
    }
    let element = plan.unique();
    Request { f: "add", key: element, value: Value::Int(element) }
}

/// One value holds the whole set: of siblings the union is taken.
pub(super) async fn perform_set(request: &Request, table: &Table) -> End {
    let reading = match table.get(name(request.key)).await {
        Ok(reading) => reading,
        Err(error) => return error.into(),
    };
    let mut elements: BTreeSet<i64> = reading.siblings.iter().flat_map(decode).collect();
    let Some(element) = request.value.as_int() else {
        return End::Read(Value::ints(elements), None);
    };
    elements.insert(element);
    let elements: Vec<i64> = elements.into_iter().collect();
    table.put(name(request.key), encode(&elements), &reading.context).await.into()
}

pub(super) async fn perform_insert(request: &Request, table: &Table) -> End {
    if let Some(element) = request.value.as_int() {
        return table.put(name(request.key), padded(element), &Context::none()).await.into();
    }
    match table.get(name(request.key)).await {
        Ok(reading) => End::Read(Value::ints(reading.siblings.iter().flat_map(decode)), None),
        Err(error) => error.into(),
    }
}

/// Each element is a sibling of its own.
pub(super) async fn perform_blind(request: &Request, table: &Table) -> End {
    if let Some(element) = request.value.as_int() {
        return table.put(name(request.key), encode(&[element]), &Context::none()).await.into();
    }
    match table.get(name(request.key)).await {
        Ok(reading) => End::Read(Value::ints(reading.siblings.iter().flat_map(decode)), None),
        Err(error) => error.into(),
    }
}

pub(super) async fn perform_scan(request: &Request, table: &Table) -> End {
    if let Some(element) = request.value.as_int() {
        // Wide enough that the order of the bytes is that of the numbers.
        let key = (name(request.key), format!("{element:012}"));
        return table.put(key, padded(element), &Context::none()).await.into();
    }
    match table.scan(name(request.key), ScanRange::default()).collect().await {
        Ok(items) => {
            let elements = items.iter().flat_map(|item| item.siblings.iter().flat_map(decode));
            End::Read(Value::ints(elements), None)
        }
        Err(error) => error.into(),
    }
}
