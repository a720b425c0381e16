//! What every [`Engine`] must do, as checks that run against any of them.
//!
//! The simulator trusts the twin because the twin and the real tables pass the very same checks.
//! The checks panic where an engine breaks the contract; they are for tests, here and in the crate
//! that has the real tables.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::engine::{Change, Engine, EngineError, Pressure, Sequence};

/// Opens the same tables again as after a crash. The engine of before, if any, is handed over to
/// be dropped first.
pub type Reopen<'a> = dyn FnMut(Option<Box<dyn Engine>>) -> Box<dyn Engine> + 'a;

/// Distinct keys of a random run: few, so that steps meet on them.
const KEYS: u16 = 48;

/// One step of a random run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Inserts (key, value or removal) in one batch.
    Insert(Vec<(u16, Option<u16>)>),
    /// Closes memory.
    Rotate,
    /// Flushes closed memory.
    Flush,
    /// One round of compaction.
    Compact,
    /// Opens again after a crash and replays the log from this many records before the end of what
    /// had persisted.
    Crash(u16),
    /// Compares a range with the model.
    Scan(u16, u16),
}

impl Step {
    /// A step for any three numbers, so that a generator needs to know no more.
    pub fn from_code((kind, a, b): (u8, u16, u16)) -> Step {
        match kind % 16 {
            0..=8 => Step::Insert(
                (0..1 + b % 7)
                    .map(|n| {
                        let key = a.wrapping_add(n.wrapping_mul(b)) % KEYS;
                        let value = a.wrapping_mul(31).wrapping_add(b).wrapping_add(n);
                        (key, (value % 4 != 0).then_some(value))
                    })
                    .collect(),
            ),
            9..=10 => Step::Rotate,
            11..=12 => Step::Flush,
            13 => Step::Compact,
            14 => Step::Crash(a % 4),
            _ => Step::Scan(a % KEYS, b % KEYS),
        }
    }
}

/// A batch of the log: what [`Engine::insert`] is given.
type Batch = (Vec<Change>, Sequence);

type Model = BTreeMap<Bytes, Bytes>;

/// Runs steps against an engine and against a map, and compares after each.
pub fn run(steps: &[Step], reopen: &mut Reopen<'_>) {
    let mut engine = reopen(None);
    let mut log: Vec<Batch> = Vec::new();
    for step in steps {
        match step {
            Step::Insert(items) => {
                let changes: Vec<Change> = items
                    .iter()
                    .map(|&(key, value)| Change {
                        key: numbered_key(key),
                        value: value.map(numbered_value),
                    })
                    .collect();
                // Gaps in the numbering, as when a batch has several records.
                let last = log.last().map_or(0, |(_, sequence)| sequence.0);
                let sequence = Sequence(last + changes.len() as u64);
                insert(&*engine, &changes, sequence);
                log.push((changes, sequence));
            }
            Step::Rotate => drop(engine.rotate()),
            Step::Flush => {
                let before = engine.persisted_sequence();
                let persisted = engine.flush().expect("no fault is set");
                assert_eq!(persisted, engine.persisted_sequence());
                assert!(persisted >= before, "the persisted sequence went back");
            }
            Step::Compact => engine.compact().expect("no fault is set"),
            Step::Crash(back) => {
                let persisted = engine.persisted_sequence();
                engine = reopen(Some(engine));
                replay(&*engine, persisted, &log, *back);
            }
            Step::Scan(from, to) => {
                let (from, to) = (numbered_key(*from), numbered_key(*to));
                compare_range(&*engine, &model_at(&log, Sequence(u64::MAX)), &from, &to);
            }
        }
    }
    let persisted = engine.persisted_sequence();
    compare(&*engine, &model_at(&log, Sequence(u64::MAX)));
    let engine = reopen(Some(engine));
    replay(&*engine, persisted, &log, 2);
}

/// After a crash: the tables hold a prefix of the log that reaches at least as far as was promised;
/// with the rest replayed they hold all of it.
fn replay(engine: &dyn Engine, promised: Sequence, log: &[Batch], back: u16) {
    let persisted = engine.persisted_sequence();
    assert!(persisted >= promised, "a promise was broken by a crash");
    compare(engine, &model_at(log, persisted));
    let first_needed = log.partition_point(|(_, sequence)| *sequence <= persisted);
    for (changes, sequence) in &log[first_needed.saturating_sub(back.into())..] {
        insert(engine, changes, *sequence);
        let seen = model_at(log, (*sequence).max(persisted));
        compare(engine, &seen);
    }
}

/// The plain promises, one by one.
pub fn check(reopen: &mut Reopen<'_>) {
    let mut engine = check_reads(reopen(None));
    let persisted = engine.persisted_sequence();
    engine = reopen(Some(engine));
    assert_eq!(engine.persisted_sequence(), persisted);
    assert_eq!(engine.get(b"a").expect("readable"), Some("3".into()));
    assert_eq!(engine.get(b"b").expect("readable"), None);
    assert_eq!(engine.get(b"lost").expect("readable"), None, "what was not flushed is gone");
    check_replay(&*engine, persisted);
    check_flushes(&*engine);
    engine = reopen(Some(engine));
    check_large_values(&*engine);
    drop(reopen(Some(engine)));
}

fn check_reads(engine: Box<dyn Engine>) -> Box<dyn Engine> {
    assert_eq!(engine.persisted_sequence(), Sequence(0));
    assert_eq!(engine.get(b"a").expect("readable"), None);
    assert_eq!(engine.rotate(), None, "there is nothing to close");
    assert_eq!(engine.flush().expect("no fault is set"), Sequence(0));
    assert_eq!(engine.memory_bytes(), 0);
    assert_eq!(engine.pressure(), Pressure::None);

    let batch = [
        put("a", "1"),
        take("c"),
        put("b", "1"),
        put("a", "2"),
        put("c", "1"),
        put("never", "1"),
        take("never"),
    ];
    insert(&*engine, &batch, Sequence(7));
    assert_eq!(
        engine.get(b"a").expect("readable"),
        Some("2".into()),
        "of two changes to a key in one batch the last wins"
    );
    assert_eq!(keys(&*engine, b"", None), ["a", "b", "c"]);
    assert!(engine.memory_bytes() > 0);
    let removals = [put("a", "3"), take("b"), take("c"), take("never")];
    insert(&*engine, &removals, Sequence(9));
    assert_eq!(engine.rotate(), Some(Sequence(9)));
    assert_eq!(engine.memory_bytes(), 0, "later inserts go to memory of their own");
    assert_eq!(keys(&*engine, b"", None), ["a"]);
    insert(&*engine, &[put("lost", "1")], Sequence(10));
    assert_eq!(engine.persisted_sequence(), Sequence(0));
    assert_eq!(engine.flush().expect("no fault is set"), Sequence(9));
    assert_eq!(engine.persisted_sequence(), Sequence(9));
    assert_eq!(keys(&*engine, b"", None), ["a", "lost"]);
    engine
}

fn check_replay(engine: &dyn Engine, persisted: Sequence) {
    insert(engine, &[put("a", "old"), put("b", "old")], Sequence(persisted.0 - 1));
    assert_eq!(
        engine.get(b"a").expect("readable"),
        Some("3".into()),
        "a record of before the persisted sequence changes nothing"
    );
    insert(engine, &[], Sequence(20));
    assert_eq!(
        engine.flush().expect("no fault is set"),
        Sequence(20),
        "records that changed nothing do not hold the log back"
    );
}

fn check_flushes(engine: &dyn Engine) {
    for round in 0..5u64 {
        let key = format!("k{round}");
        insert(engine, &[put(&key, "1")], Sequence(21 + round));
        assert_eq!(engine.rotate(), Some(Sequence(21 + round)));
    }
    assert_eq!(engine.pressure(), Pressure::Halt, "five wait for a flush");
    let all = ["a", "k0", "k1", "k2", "k3", "k4"];
    assert_eq!(keys(engine, b"", None), all);
    assert_eq!(engine.flush().expect("no fault is set"), Sequence(25));
    assert_eq!(engine.pressure(), Pressure::None);
    engine.compact().expect("no fault is set");
    assert_eq!(keys(engine, b"", None), all);
    assert_eq!(keys(engine, b"k1", Some(b"k3")), ["k1", "k2"], "from is in, to is out");
    assert_eq!(keys(engine, b"k3", Some(b"k3")), [""; 0]);
    assert_eq!(keys(engine, b"k3", Some(b"k1")), [""; 0]);
    let mut visits = 0;
    engine.scan(b"", None, &mut |_| {
        visits += 1;
        visits < 2
    });
    assert_eq!(visits, 2, "a scan ends when it is told to");
    assert!(engine.size().keys_estimate >= 6);
    assert!(engine.size().disk_bytes > 0);
}

fn check_large_values(engine: &dyn Engine) {
    let next = engine.persisted_sequence().0 + 1;
    let large: Vec<Bytes> = [0, 1, 50, 4_096, 100_000, 16 << 20]
        .iter()
        .map(|&length: &usize| (0..length).map(|n| ((n * n) >> 7) as u8).collect())
        .collect();
    for flushed in [false, true] {
        for (number, value) in large.iter().enumerate() {
            let key = numbered_key(number as u16);
            if !flushed {
                let change = Change { key: key.clone(), value: Some(value.clone()) };
                insert(engine, &[change], Sequence(next + number as u64));
            }
            assert!(engine.get(&key).expect("readable").as_ref() == Some(value));
        }
        engine.rotate();
        engine.flush().expect("no fault is set");
    }
}

/// Inserts, and checks that nobody saw a part: one after the other is enough here, tests with
/// threads look at the rest.
fn insert(engine: &dyn Engine, changes: &[Change], sequence: Sequence) {
    engine.insert(changes.to_vec(), sequence).expect("no fault is set");
}

fn model_at(log: &[Batch], sequence: Sequence) -> Model {
    let mut model = Model::new();
    for (changes, _) in log.iter().take_while(|(_, number)| *number <= sequence) {
        for change in changes {
            match &change.value {
                Some(value) => model.insert(change.key.clone(), value.clone()),
                None => model.remove(&change.key),
            };
        }
    }
    model
}

fn compare(engine: &dyn Engine, model: &Model) {
    for number in 0..KEYS {
        let key = numbered_key(number);
        assert_eq!(engine.get(&key).expect("readable").as_ref(), model.get(&key));
    }
    let read = read_range(engine, b"", None).expect("readable");
    assert_eq!(read.len(), model.len());
    assert!(read.iter().map(|(key, value)| (key, value)).eq(model));
}

fn compare_range(engine: &dyn Engine, model: &Model, from: &Bytes, to: &Bytes) {
    let read = read_range(engine, from, Some(to)).expect("readable");
    let expected = model
        .iter()
        .filter(|(key, _)| *key >= from && *key < to)
        .map(|(key, value)| (key.clone(), value.clone()));
    assert!(read.into_iter().eq(expected));
}

fn read_range(
    engine: &dyn Engine,
    from: &[u8],
    to: Option<&[u8]>,
) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
    let mut read = Ok(Vec::new());
    engine.scan(from, to, &mut |item| match (&mut read, item) {
        (Ok(read), Ok(item)) => {
            read.push(item);
            true
        }
        (read, item) => {
            *read = item.map(|_| Vec::new());
            false
        }
    });
    read
}

fn keys(engine: &dyn Engine, from: &[u8], to: Option<&[u8]>) -> Vec<String> {
    let read = read_range(engine, from, to).expect("readable");
    read.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
}

fn put(key: &str, value: &str) -> Change {
    Change {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn take(key: &str) -> Change {
    Change { key: Bytes::copy_from_slice(key.as_bytes()), value: None }
}

fn numbered_key(number: u16) -> Bytes {
    Bytes::from(format!("key-{number:05}-with-a-tail-of-some-length"))
}

fn numbered_value(number: u16) -> Bytes {
    let length = usize::from(number % 900);
    Bytes::from(number.to_be_bytes().repeat(length / 2 + 1))
}
