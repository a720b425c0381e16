//! Measures the sorted tables: a load in batches with a thread for flushes and one for compactions
//! beside it, then, in a second run so that memory tells its own story, an open, reads, a scan.
//!
//! ```text
//! cargo run --release -p quoit-storage-files --example tables_speed -- load DIRECTORY
//! cargo run --release -p quoit-storage-files --example tables_speed -- read DIRECTORY
//! ```
//!
//! `ITEMS` in the environment changes the number of items (a million), `VALUE_BYTES` their size
//! (1,024), `LZ4=0` turns compression off, `THREADS=1` lets one thread flush and compact in turn.
//! Values are random and do not compress.

use std::{
    error::Error,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quoit_storage::engine::{Change, Engine, EngineError, Pressure, Sequence};
use quoit_storage_files::tables::{Compression, Tables, TablesOptions};

const BATCH: u64 = 64;
const MEMORY_BYTES_MAX: u64 = 32 << 20;
const IDLE: Duration = Duration::from_millis(1);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(phase), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("say load or read, and a directory".into());
    };
    let items = setting("ITEMS", 1_000_000);
    let compression = if setting("LZ4", 1) == 0 { Compression::None } else { Compression::Lz4 };
    println!("resident at the start: {} MiB", resident_mib());
    let start = Instant::now();
    let options = TablesOptions { compression, ..TablesOptions::default() };
    let (tables, report) = Tables::open(&Path::new(&directory).join("tables"), options)?;
    println!("open: {report:?} in {:.2?}, resident {} MiB", start.elapsed(), resident_mib());
    match phase.as_str() {
        "load" => load(&tables, items)?,
        "read" => read(&tables, items)?,
        _ => return Err("the phases are load and read".into()),
    }
    Ok(())
}

fn load(tables: &Tables, items: u64) -> Result<(), EngineError> {
    let value_bytes = setting("VALUE_BYTES", 1_024) as usize;
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (mut slowest, mut resident_max) = (Duration::ZERO, 0);
    thread::scope(|scope| {
        let tasks: &[&[Task]] = match setting("THREADS", 2) {
            1 => &[&[Task::Flush, Task::Compact]],
            _ => &[&[Task::Flush], &[Task::Compact]],
        };
        let done = &done;
        let maintenance: Vec<_> =
            tasks.iter().map(|tasks| scope.spawn(move || maintain(tables, tasks, done))).collect();
        let mut random = start_of_random();
        for batch in 0..items / BATCH {
            let changes = (0..BATCH)
                .map(|n| Change {
                    key: key(batch * BATCH + n),
                    value: Some(random_bytes(&mut random, value_bytes)),
                })
                .collect();
            let began = Instant::now();
            pace(tables.pressure(), tables);
            tables.insert(changes, Sequence((batch + 1) * BATCH))?;
            if tables.memory_bytes() > MEMORY_BYTES_MAX {
                tables.rotate();
            }
            slowest = slowest.max(began.elapsed());
            if batch % 16 == 0 {
                resident_max = resident_max.max(resident_mib());
            }
        }
        tables.rotate();
        done.store(true, Ordering::Release);
        maintenance.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    let elapsed = start.elapsed();
    println!(
        "load: {items} of {value_bytes} B in {elapsed:.1?}, {} a second, slowest batch {slowest:.1?}",
        per_second(items, elapsed)
    );
    println!("resident: {resident_max} MiB at most, {} MiB at the end", resident_mib());
    println!("size: {:?}", tables.size());
    Ok(())
}

#[derive(Clone, Copy)]
enum Task {
    Flush,
    Compact,
}

fn maintain(tables: &Tables, tasks: &[Task], done: &AtomicBool) -> Result<(), EngineError> {
    loop {
        let last = done.load(Ordering::Acquire);
        for task in tasks {
            match task {
                Task::Flush => drop(tables.flush()?),
                Task::Compact => tables.compact()?,
            }
        }
        if last {
            return Ok(());
        }
        thread::sleep(IDLE);
    }
}

fn pace(pressure: Pressure, tables: &Tables) {
    match pressure {
        Pressure::None => {}
        Pressure::Slow => thread::sleep(IDLE),
        Pressure::Halt => {
            while tables.pressure() == Pressure::Halt {
                thread::sleep(IDLE);
            }
        }
    }
}

fn read(tables: &Tables, items: u64) -> Result<(), EngineError> {
    println!("size: {:?}", tables.size());
    let gets = items.min(500_000);
    for (name, offset) in [("first gets", 0), ("warm gets", 0), ("absent keys", items)] {
        let mut random = start_of_random();
        let start = Instant::now();
        for _ in 0..gets {
            let found = tables.get(&key(next(&mut random) % items + offset))?;
            assert_eq!(found.is_some(), offset == 0);
        }
        println!("{name}: {} a second", per_second(gets, start.elapsed()));
    }
    let (start, mut seen) = (Instant::now(), 0);
    let mut failed = None;
    tables.scan(b"", None, &mut |item| {
        seen += 1;
        failed = item.err();
        failed.is_none()
    });
    failed.map_or(Ok(()), Err)?;
    println!("scan: {seen} keys, {} a second", per_second(seen, start.elapsed()));
    println!("resident after reads: {} MiB", resident_mib());
    Ok(())
}

/// Keys in random order, as tokens put them, 32 bytes long.
fn key(number: u64) -> Bytes {
    let token = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Bytes::from(format!("{token:016x}{number:016}"))
}

fn start_of_random() -> u64 {
    0x2545_F491_4F6C_DD1D
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn random_bytes(state: &mut u64, length: usize) -> Bytes {
    let words = (0..length.div_ceil(8)).flat_map(|_| next(state).to_le_bytes());
    words.take(length).collect()
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    (count as f64 / elapsed.as_secs_f64()) as u64
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4 / 1_024
}
