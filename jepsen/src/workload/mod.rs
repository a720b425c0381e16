//! Workloads: what the processes do, through the client library, and what it is checked against.

mod counter;
mod elements;
mod latest;
mod register;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use fastrand::Rng;
use quoit_client::{
    ConflictPolicy, Context, ReadError, ScanRange, Table, TableOptions, Value as Stored,
    WriteError, Written,
};

use crate::checker::Model;
use crate::history::{Dot, Value};

/// So many keys are in use at a time, of most workloads.
const KEYS_ACTIVE: i64 = 5;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Grow-only sets, each a value of a siblings table: read, add, write with the context.
    Set,
    /// Unique blind inserts, each a key of a latest table, and reads of single ones.
    Insert,
    /// Unique blind inserts under sort keys, and scans of their partitions.
    Scan,
    /// Unique blind writes to keys of a siblings table: all of them stay, side by side.
    Blind,
    /// Registers in a siblings table: writes with contexts and without, and reads of all siblings.
    Register,
    /// The same with many deletes: what was deleted does not come back, what was created again stays.
    Delete,
    /// Registers in a latest table, with deletes: regular and monotonic; not linearizable.
    Latest,
    /// Counters by read-modify-write with contexts.
    Counter,
    /// Registers in a sloppy siblings table: stale in a partition, equal and whole afterwards.
    Sloppy,
    /// Reads and writes at level one, each process a session: own writes are read, and never less than
    /// before.
    Session,
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Insert => "insert",
            Self::Scan => "scan",
            Self::Blind => "blind",
            Self::Register => "register",
            Self::Delete => "delete",
            Self::Latest => "latest",
            Self::Counter => "counter",
            Self::Sloppy => "sloppy",
            Self::Session => "session",
        }
    }

    pub(crate) fn model(self) -> Model {
        match self {
            Self::Set | Self::Insert | Self::Scan | Self::Blind => Model::Set,
            Self::Register | Self::Delete => Model::Siblings,
            Self::Latest => Model::Latest,
            Self::Counter => Model::Counter,
            Self::Sloppy => Model::Sloppy,
            Self::Session => Model::Session,
        }
    }

    pub(crate) fn table(self) -> TableOptions {
        let policy = match self {
            Self::Insert | Self::Scan | Self::Latest => ConflictPolicy::Latest,
            Self::Set
            | Self::Blind
            | Self::Register
            | Self::Delete
            | Self::Counter
            | Self::Sloppy
            | Self::Session => ConflictPolicy::Siblings,
        };
        TableOptions { policy, sloppy: self == Self::Sloppy, ..TableOptions::default() }
    }

    /// So many keys are in use at a time.
    fn keys_active(self) -> i64 {
        match self {
            // So many that a while passes between two writes of one key.
            Self::Blind => 300,
            _ => KEYS_ACTIVE,
        }
    }

    /// Operations on a key until another takes its place: histories of single keys stay short.
    fn operations_per_key(self) -> i64 {
        match self {
            // Each add is a key of its own.
            Self::Insert => i64::MAX,
            Self::Latest | Self::Set | Self::Register | Self::Sloppy => 150,
            // A key may have 32 siblings.
            Self::Blind => 30,
            Self::Delete | Self::Counter | Self::Session => 300,
            Self::Scan => 400,
        }
    }
}

/// What all processes share: which keys are in use, and which values were given out.
#[derive(Debug)]
pub(crate) struct Plan {
    workload: Workload,
    value_next: AtomicI64,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    /// A key, and the operations on it.
    active: Vec<(i64, i64)>,
    next: i64,
}

/// An operation before it is done.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) f: &'static str,
    pub(crate) key: i64,
    /// As it is recorded, without the key.
    pub(crate) value: Value,
}

impl Request {
    pub(crate) fn recorded(&self) -> Value {
        Value::pair(self.key, self.value.clone())
    }

    pub(crate) fn read(key: i64) -> Self {
        Self { f: "read", key, value: Value::Nil }
    }
}

/// How an operation ended.
#[derive(Debug)]
pub(crate) enum End {
    /// What a read found (without the key), and when that was written.
    Read(Value, Option<u64>),
    /// A write is done, under this dot.
    Written(Dot),
    /// It is certainly not done.
    Fail(String),
    /// It is not known.
    Info(String),
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        // A read changes nothing, so that it is certainly not done.
        Self::Fail(error.to_string())
    }
}

impl From<Result<Written, WriteError>> for End {
    fn from(written: Result<Written, WriteError>) -> Self {
        match written {
            Ok(Written { dot: quoit_client::Dot { actor, time }, .. }) => {
                // The times of the next four thousand years.
                let time = i64::try_from(time.0).unwrap_or(i64::MAX);
                Self::Written(Dot { actor: actor_name(actor), time })
            }
            Err(error) if error.is_unknown() => Self::Info(error.to_string()),
            Err(error) => Self::Fail(error.to_string()),
        }
    }
}

/// An actor as histories have it.
fn actor_name(actor: u64) -> String {
    format!("{actor:016x}")
}

/// What one replica holds of a key, or of a partition's keys.
#[derive(Debug)]
pub(crate) struct Held {
    /// Each sibling as `[TEXT WRITTEN]`, in order.
    pub(crate) siblings: Value,
    /// The actors of whose writes it speaks, ascending.
    pub(crate) actors: Vec<String>,
}

impl Held {
    fn new<'a>(parts: impl Iterator<Item = (&'a [Stored], &'a Context)>) -> Self {
        let (mut siblings, mut actors) = (Vec::new(), BTreeSet::new());
        for (stored, context) in parts {
            siblings.extend(stored.iter().map(|stored| {
                let text = String::from_utf8_lossy(&stored.bytes).trim_end().to_owned();
                let written = i64::try_from(stored.written.0).unwrap_or(i64::MAX);
                Value::List(vec![Value::Text(text), Value::Int(written)])
            }));
            match quoit_protocol::Seen::of_context(context.as_bytes()) {
                Some(seen) => {
                    actors.extend(seen.entries.iter().map(|(actor, _)| actor_name(*actor)));
                }
                None => drop(actors.insert("a context that cannot be read".to_owned())),
            }
        }
        siblings.sort_unstable();
        Self { siblings: Value::List(siblings), actors: actors.into_iter().collect() }
    }
}

/// What one process remembers: what it has read of each key, to write over it.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) process: i64,
    contexts: BTreeMap<i64, Seen>,
    mind: session::Mind,
}

impl Memory {
    pub(crate) fn new(process: i64) -> Self {
        Self { process, ..Self::default() }
    }
}

/// A context, and the values that it covers as far as this process knows.
#[derive(Debug, Clone, Default)]
struct Seen {
    context: Context,
    values: Vec<i64>,
}

impl Plan {
    pub(crate) fn new(workload: Workload) -> Self {
        let count = workload.keys_active();
        let keys = Keys { active: (0..count).map(|key| (key, 0)).collect(), next: count };
        Self { workload, value_next: AtomicI64::new(1), keys: Mutex::new(keys) }
    }

    /// A number that was never given out before.
    fn unique(&self) -> i64 {
        self.value_next.fetch_add(1, Ordering::Relaxed)
    }

    fn key(&self, random: &mut Rng) -> i64 {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let at = random.usize(..keys.active.len());
        let (key, count) = keys.active[at];
        if count + 1 < self.workload.operations_per_key() {
            keys.active[at].1 += 1;
        } else {
            keys.active[at] = (keys.next, 0);
            keys.next += 1;
        }
        key
    }

    /// All keys that were used.
    pub(crate) fn keys_used(&self) -> Vec<i64> {
        match self.workload {
            Workload::Insert => (1..self.value_next.load(Ordering::Relaxed)).collect(),
            _ => {
                let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
                (0..keys.next).collect()
            }
        }
    }

    /// What a process does next.
    pub(crate) fn next(&self, memory: &Memory, random: &mut Rng) -> Request {
        match self.workload {
            Workload::Set | Workload::Scan | Workload::Blind => elements::next(self, random),
            Workload::Insert => elements::next_insert(self, random),
            Workload::Register | Workload::Sloppy => register::next(self, memory, 10, random),
            Workload::Delete => register::next(self, memory, 35, random),
            Workload::Latest => latest::next(self, random),
            Workload::Counter => counter::next(self, random),
            Workload::Session => session::next(self, memory, random),
        }
    }

    /// Does it.
    pub(crate) async fn perform(
        &self,
        request: &Request,
        table: &Table,
        memory: &mut Memory,
    ) -> End {
        match self.workload {
            Workload::Set => elements::perform_set(request, table).await,
            Workload::Insert => elements::perform_insert(request, table).await,
            Workload::Scan => elements::perform_scan(request, table).await,
            Workload::Blind => elements::perform_blind(request, table).await,
            Workload::Register | Workload::Delete | Workload::Sloppy => {
                register::perform(request, table, memory).await
            }
            Workload::Latest => latest::perform(request, table).await,
            Workload::Counter => counter::perform(request, table, memory).await,
            Workload::Session => session::perform(request, table, memory).await,
        }
    }

    /// What a table's handle (of one replica) gives for a key, as it is.
    pub(crate) async fn held(&self, key: i64, table: &Table) -> Result<Held, ReadError> {
        if self.workload == Workload::Scan {
            let items = table.scan(name(key), ScanRange::default()).collect().await?;
            return Ok(Held::new(items.iter().map(|item| (&item.siblings[..], &item.context))));
        }
        let reading = table.get(name(key)).await?;
        Ok(Held::new([(&reading.siblings[..], &reading.context)].into_iter()))
    }
}

/// The name under which a key is stored: its partition, where it has many items.
pub(crate) fn name(key: i64) -> String {
    format!("k{key}")
}

/// Numbers as they are stored: in decimal, with spaces between.
fn encode(numbers: &[i64]) -> Bytes {
    let texts: Vec<String> = numbers.iter().map(i64::to_string).collect();
    texts.join(" ").into()
}

/// The numbers of a stored value; -1 stands for what nobody can have written.
fn decode(stored: &Stored) -> Vec<i64> {
    let text = String::from_utf8_lossy(&stored.bytes);
    text.split_ascii_whitespace().map(|word| word.parse().unwrap_or(-1)).collect()
}

/// The one number of each value, ascending.
fn singles(siblings: &[Stored]) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        siblings.iter().map(|stored| *decode(stored).first().unwrap_or(&-1)).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_give_way_to_others_and_all_are_known() {
        let plan = Plan::new(Workload::Latest);
        let mut random = Rng::with_seed(1);
        let keys: Vec<i64> = (0..2_000).map(|_| plan.key(&mut random)).collect();
        let used = plan.keys_used();
        assert!(keys.iter().all(|key| used.contains(key)));
        assert!(used.len() > 10, "{}", used.len());
        for key in used {
            let count = keys.iter().filter(|other| **other == key).count();
            assert!(count <= 150, "{key}: {count}");
        }
    }

    #[test]
    fn one_seed_gives_one_plan() {
        let draw = |seed| {
            let plan = Plan::new(Workload::Register);
            let mut random = Rng::with_seed(seed);
            let memory = Memory::new(0);
            let drawn: Vec<_> = (0..50)
                .map(|_| plan.next(&memory, &mut random))
                .map(|request| (request.f, request.key, request.value))
                .collect();
            drawn
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
