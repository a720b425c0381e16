//! Sessions at level one: each process is a session of the client library, and sees what it has written
//! and no less than it has seen, whichever replica answers.
//!
//! A value tells for each process how many writes of it are in it. Who writes merges what it has read
//! last, raises its own count, and hands in the context of that reading; so a value that replaces others
//! has all that was in them. The checker compares these counts alone, and no dots.

use std::collections::BTreeMap;

use fastrand::Rng;
use quoit_client::{Context, Level, Profile, Session, Table};

use super::{End, Memory, Plan, Request, counter, encode, name};
use crate::history::Value;

/// Of 100 operations so many are reads.
const READS_PERCENT: u8 = 60;

/// What a session remembers, beside what the library remembers for it.
#[derive(Debug, Default)]
pub(super) struct Mind {
    session: Session,
    keys: BTreeMap<i64, Known>,
}

/// Of one key: what was read last, and how many writes were tried.
#[derive(Debug, Clone, Default)]
struct Known {
    context: Context,
    counts: BTreeMap<i64, i64>,
    tried: i64,
}

pub(super) fn next(plan: &Plan, memory: &Memory, random: &mut Rng) -> Request {
    let key = plan.key(random);
    // Mostly of what was read: elsewhere the values of many would stand beside each other.
    let has_read = memory.mind.keys.contains_key(&key);
    if random.u8(..100) < READS_PERCENT || !has_read {
        return Request::read(key);
    }
    let tried = memory.mind.keys.get(&key).map_or(0, |known| known.tried);
    Request { f: "write", key, value: Value::Int(tried + 1) }
}

pub(super) async fn perform(request: &Request, table: &Table, memory: &mut Memory) -> End {
    let profile = Profile::new()
        .read_level(Level::One)
        .write_level(Level::One)
        .session(memory.mind.session.clone());
    let table = table.with_profile(&profile);
    let process = memory.process;
    let known = memory.mind.keys.entry(request.key).or_default();
    let Some(count) = request.value.as_int() else {
        let reading = match table.get(name(request.key)).await {
            Ok(reading) => reading,
            Err(error) => return error.into(),
        };
        let counts = counter::parts(&reading.siblings);
        let found = counts.iter().map(|(process, count)| Value::ints([*process, *count])).collect();
        (known.context, known.counts) = (reading.context, counts);
        return End::Read(Value::List(found), None);
    };
    known.tried = count;
    let mut counts = known.counts.clone();
    counts.insert(process, count);
    let numbers: Vec<i64> = counts.iter().flat_map(|(process, count)| [*process, *count]).collect();
    let written = table.put(name(request.key), encode(&numbers), &known.context).await;
    // Where no other value stands beside it, the answer's context covers the write too.
    if let Ok(written) = &written
        && written.context != known.context
    {
        (known.context, known.counts) = (written.context.clone(), counts);
    }
    written.into()
}
