//! How many durable records a second the commit log takes on this machine's disk:
//! `cargo run --release -p quoit-storage-files --example log_speed [directory]`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quoit_storage::log::{Log, LogOptions};
use quoit_storage_files::disk::FileDisk;

const RECORD_BYTES: usize = 1024;
const RUN: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    for batch in [1, 16, 64, 256] {
        let directory = tempfile::tempdir_in(&parent)?;
        let disk = Arc::new(FileDisk::open(directory.path())?);
        let (mut log, _) = Log::open(disk, LogOptions::default(), &mut |_| {})?;
        let mut keeper = log.spare_keeper();
        let done = Arc::new(AtomicBool::new(false));
        let stop = done.clone();
        let maintenance = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if !keeper.keep().unwrap_or(false) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        let records = vec![vec![0x5a; RECORD_BYTES]; batch];
        let mut waits = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < RUN {
            let at = Instant::now();
            let last = log.append(&records)?;
            log.sync()?;
            waits.push(at.elapsed());
            if log.segment_count() > 4 {
                log.truncate_before(last)?;
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        let _ = maintenance.join();
        waits.sort_unstable();
        let at = |part: usize| waits[(waits.len() - 1) * part / 1000].as_micros();
        println!(
            "batches of {batch:>3} x {RECORD_BYTES} bytes: {:>8.0} records/s; a batch takes \
             p50 {} p99 {} p99.9 {} microseconds",
            (waits.len() * batch) as f64 / seconds,
            at(500),
            at(990),
            at(999),
        );
    }
    Ok(())
}
