//! Registers whose concurrent values all stay. Each write says which values its context covers.

use fastrand::Rng;
use quoit_client::{Context, Table};

use super::{End, Memory, Plan, Request, Seen, encode, name, singles};
use crate::history::Value;

/// Of 100 operations so many are reads.
const READS_PERCENT: u8 = 45;
/// Of 100 writes so many are made without having read.
const BLIND_PERCENT: u8 = 12;

pub(super) fn next(plan: &Plan, memory: &Memory, deletes_percent: u8, random: &mut Rng) -> Request {
    let key = plan.key(random);
    let seen = memory.contexts.get(&key);
    let draw = random.u8(..100);
    // A writer that has read nothing reads first, mostly.
    let is_blind = random.u8(..100) < BLIND_PERCENT;
    if draw < READS_PERCENT || (seen.is_none() && !is_blind) {
        return Request::read(key);
    }
    let values = seen.filter(|_| !is_blind).map(|seen| seen.values.clone()).unwrap_or_default();
    let f = if draw < READS_PERCENT + deletes_percent && !is_blind { "delete" } else { "write" };
    let value = Value::Map(vec![
        ("value".to_owned(), Value::Int(plan.unique())),
        ("covers".to_owned(), Value::ints(values)),
        ("blind".to_owned(), Value::Bool(is_blind)),
    ]);
    Request { f, key, value }
}

pub(super) async fn perform(request: &Request, table: &Table, memory: &mut Memory) -> End {
    let value = request.value.field("value").and_then(Value::as_int);
    let Some(value) = value else { return read(request.key, table, memory).await };
    let is_blind = request.value.field("blind") == Some(&Value::Bool(true));
    let seen = memory.contexts.get(&request.key).cloned().filter(|_| !is_blind);
    let seen = seen.unwrap_or(Seen { context: Context::none(), values: Vec::new() });
    let written = if request.f == "delete" {
        table.delete(name(request.key), &seen.context).await
    } else {
        table.put(name(request.key), encode(&[value]), &seen.context).await
    };
    if let Ok(written) = &written {
        // The context of the answer covers the write too, where no other value stands beside it;
        // elsewhere it is the one that was handed in.
        let own = (written.context != seen.context).then_some(value);
        let values = seen.values.into_iter().chain(own).collect();
        memory.contexts.insert(request.key, Seen { context: written.context.clone(), values });
    }
    written.into()
}

async fn read(key: i64, table: &Table, memory: &mut Memory) -> End {
    match table.get(name(key)).await {
        Ok(reading) => {
            let values = singles(&reading.siblings);
            let seen = Seen { context: reading.context, values: values.clone() };
            memory.contexts.insert(key, seen);
            End::Read(Value::ints(values), None)
        }
        Err(error) => error.into(),
    }
}
