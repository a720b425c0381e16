//! Registers in which the greatest dot wins: plain writes, deletes and reads.

use fastrand::Rng;
use quoit_client::{Context, Table};

use super::{End, Plan, Request, encode, name, singles};
use crate::history::Value;

/// Of 100 operations so many are reads, and so many deletes.
const READS_PERCENT: u8 = 55;
const DELETES_PERCENT: u8 = 5;

pub(super) fn next(plan: &Plan, random: &mut Rng) -> Request {
    let key = plan.key(random);
    match random.u8(..100) {
        draw if draw < READS_PERCENT => Request::read(key),
        draw if draw < READS_PERCENT + DELETES_PERCENT => {
            Request { f: "write", key, value: Value::Nil }
        }
        _ => Request { f: "write", key, value: Value::Int(plan.unique()) },
    }
}

pub(super) async fn perform(request: &Request, table: &Table) -> End {
    let name = name(request.key);
    match (request.f, request.value.as_int()) {
        ("read", _) => match table.get(name).await {
            Ok(reading) => {
                let written = reading.siblings.first().map(|stored| stored.written.0);
                let value = singles(&reading.siblings).first().copied();
                End::Read(Value::from(value), written)
            }
            Err(error) => error.into(),
        },
        (_, Some(value)) => table.put(name, encode(&[value]), &Context::none()).await.into(),
        (_, None) => table.delete(name, &Context::none()).await.into(),
    }
}
