//! Measures the whole store on this machine's disk: batches of `latest` merges through the writer,
//! with flushes and compactions beside them, then reads.
//!
//! ```text
//! cargo run --release -p quoit-storage-files --example store_speed [directory]
//! ```
//!
//! `ITEMS` in the environment changes the number of items (500,000), `BATCH` the mutations of a
//! commit (64), `SYNC=0` chooses periodic durability without any sync, which leaves the processor's
//! part.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime, TableId, Token};
use quoit_storage::engine::Pressure;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{
    self, Change, Durability, Found, Maintainer, Mutation, Opened, Outcome, Reader, StoreOptions,
    Writer,
};
use quoit_storage::version::{Actor, Content, Dot, SiblingSet, Version};
use quoit_storage_files::disk::FileDisk;
use quoit_storage_files::tables::{Tables, TablesOptions};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const VALUE_BYTES: usize = 1024;
const GETS: u64 = 500_000;
const IDLE: Duration = Duration::from_millis(1);

fn main() -> Result<(), Box<dyn Error>> {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let (items, batch) = (setting("ITEMS", 500_000), setting("BATCH", 64));
    let directory = tempfile::tempdir_in(&parent)?;
    let opened = open(directory.path())?;
    let (mut writer, maintainer) = (opened.writer, opened.maintainer);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| run(&stop, || maintainer.flush().expect("the disk takes a flush")));
        scope.spawn(|| run(&stop, || maintainer.compact().expect("the tables are sound")));
        for round in ["first", "again"] {
            let time = if round == "first" { 1 } else { 2 };
            load(&mut writer, items, batch, round, time);
        }
        writer.rotate();
        stop.store(true, Ordering::Release);
    });
    settle(&maintainer)?;
    read(&opened.reader, items);
    println!("{:?}", opened.reader.figures());
    Ok(())
}

fn open(directory: &Path) -> Result<Opened, Box<dyn Error>> {
    let disk = Arc::new(FileDisk::open(directory)?);
    let (tables, _) = Tables::open(&directory.join("tables"), TablesOptions::default())?;
    let durability = if setting("SYNC", 1) == 1 { Durability::Group } else { Durability::Periodic };
    let options = StoreOptions { durability, ..StoreOptions::default() };
    Ok(store::open(disk, Arc::new(tables), options, None, 1)?)
}

fn run(stop: &AtomicBool, work: impl Fn()) {
    while !stop.load(Ordering::Acquire) {
        work();
        thread::sleep(IDLE);
    }
}

fn settle(maintainer: &Maintainer) -> Result<(), String> {
    while maintainer.has_work() {
        maintainer.flush()?;
    }
    maintainer.compact().map_err(|error| error.to_string())
}

fn load(writer: &mut Writer, items: u64, batch: u64, round: &str, time: u64) {
    let (mut preparing, mut committing) = (Duration::ZERO, Duration::ZERO);
    let (mut prepare_cpu, mut commit_cpu) = (Duration::ZERO, Duration::ZERO);
    let begun = Instant::now();
    for first in (0..items).step_by(batch as usize) {
        while writer.pressure() == Pressure::Halt {
            thread::sleep(IDLE);
        }
        if writer.pressure() == Pressure::Slow {
            thread::sleep(IDLE);
        }
        let mutations: Vec<_> = (first..first + batch).map(|item| mutation(item, time)).collect();
        let (at, cpu) = (Instant::now(), thread_cpu());
        for mutation in mutations {
            let outcome = writer.prepare(mutation);
            assert!(matches!(outcome, Outcome::Merged(_)), "{outcome:?}");
        }
        preparing += at.elapsed();
        prepare_cpu += thread_cpu() - cpu;
        let (at, cpu) = (Instant::now(), thread_cpu());
        writer.commit().expect("the disk takes it");
        committing += at.elapsed();
        commit_cpu += thread_cpu() - cpu;
    }
    let elapsed = begun.elapsed();
    let each = |total: Duration| total.as_secs_f64() * 1e6 / items as f64;
    println!(
        "load, {round}: {:.0} records/s; a record takes {:.1} us to prepare ({:.1} of the processor) \
         and {:.1} us to commit ({:.1} of the processor)",
        items as f64 / elapsed.as_secs_f64(),
        each(preparing),
        each(prepare_cpu),
        each(committing),
        each(commit_cpu),
    );
}

fn read(reader: &Reader, items: u64) {
    for round in ["first", "warm"] {
        let begun = Instant::now();
        let mut random = 1_u64;
        for _ in 0..GETS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let found = reader.read(&key((random >> 33) % items));
            assert!(matches!(found, Found::Set(set) if !set.is_empty()));
        }
        let per_second = GETS as f64 / begun.elapsed().as_secs_f64();
        println!("gets at random, {round}: {per_second:.0} a second on one thread");
    }
}

fn key(item: u64) -> StoredKey {
    let token = Token(item.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    StoredKey::new(token, TableId(1), &item.to_be_bytes(), b"").expect("it is short")
}

fn mutation(item: u64, time: u64) -> Mutation {
    let key = key(item);
    let mut random = item.wrapping_mul(time) | 1;
    let words = std::iter::repeat_with(|| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_le_bytes()
    });
    let bytes: Bytes = words.take(VALUE_BYTES / 8).flatten().collect();
    let checksum = xxh3_64_with_seed(&bytes, key.token().0);
    let dot = Dot { time: HybridTime(time), actor: Actor(1) };
    let content = Content::Value { bytes, checksum };
    let set = SiblingSet::of(Version { dot, content, expires: None });
    let change = Change::Merge { set, rebuild: false, authority: None };
    Mutation { key, replication: 3, policy: ConflictPolicy::Latest, change, values: Vec::new() }
}

/// What the processor has spent on this thread.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
