//! Counters by read-modify-write with contexts: the value has one part for each process, siblings are
//! merged part by part, and a process raises its own.

use std::collections::BTreeMap;

use fastrand::Rng;
use quoit_client::{Table, Value as Stored};

use super::{End, Memory, Plan, Request, decode, encode, name};
use crate::history::Value;

/// Of 100 operations so many are reads.
const READS_PERCENT: u8 = 25;

pub(super) fn next(plan: &Plan, random: &mut Rng) -> Request {
    let key = plan.key(random);
    if random.u8(..100) < READS_PERCENT {
        Request::read(key)
    } else {
        Request { f: "add", key, value: Value::Int(random.i64(1..=3)) }
    }
}

/// The parts of a counter, by process.
pub(super) fn parts(siblings: &[Stored]) -> BTreeMap<i64, i64> {
    let mut parts = BTreeMap::new();
    for stored in siblings {
        for pair in decode(stored).chunks_exact(2) {
            let part = parts.entry(pair[0]).or_insert(0);
            *part = (*part).max(pair[1]);
        }
    }
    parts
}

pub(super) async fn perform(request: &Request, table: &Table, memory: &Memory) -> End {
    let reading = match table.get(name(request.key)).await {
        Ok(reading) => reading,
        Err(error) => return error.into(),
    };
    let mut parts = parts(&reading.siblings);
    let Some(amount) = request.value.as_int() else {
        return End::Read(Value::Int(parts.values().sum()), None);
    };
    *parts.entry(memory.process).or_insert(0) += amount;
    let numbers: Vec<i64> = parts.into_iter().flat_map(|(process, part)| [process, part]).collect();
    table.put(name(request.key), encode(&numbers), &reading.context).await.into()
}
