//! The matrix: every workload under the nemeses that tell most about it, each test in a process of its
//! own, all within a stated time.

use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cli::CommonArguments;
use crate::cluster::{Disk, DiskKind, NetworkKind};
use crate::nemesis::Nemesis;
use crate::workload::Workload;

/// The most telling first.
const MATRIX: &[(Workload, Nemesis)] = &[
    (Workload::Register, Nemesis::Partition),
    (Workload::Insert, Nemesis::PowerCut),
    (Workload::Scan, Nemesis::Kill),
    (Workload::Set, Nemesis::Mix),
    (Workload::Latest, Nemesis::Partition),
    (Workload::Delete, Nemesis::Wipe),
    (Workload::Counter, Nemesis::Pause),
    (Workload::Insert, Nemesis::Corrupt),
    (Workload::Sloppy, Nemesis::Partition),
    (Workload::Session, Nemesis::Partition),
    (Workload::Register, Nemesis::ClockJump),
    (Workload::Delete, Nemesis::Delay),
    (Workload::Latest, Nemesis::ClockStrobe),
    (Workload::Register, Nemesis::LastCopy),
    (Workload::Scan, Nemesis::FailFsync),
    (Workload::Delete, Nemesis::Partition),
    (Workload::Register, Nemesis::Clock),
    (Workload::Delete, Nemesis::Age),
    (Workload::Insert, Nemesis::Restore),
    (Workload::Sloppy, Nemesis::Hints),
    (Workload::Set, Nemesis::Kill),
    (Workload::Scan, Nemesis::DiskFull),
    (Workload::Latest, Nemesis::Mix),
    (Workload::Counter, Nemesis::Mix),
    (Workload::Sloppy, Nemesis::Mix),
    (Workload::Blind, Nemesis::PowerBlink),
    (Workload::Register, Nemesis::Loss),
    (Workload::Insert, Nemesis::LastCopyRot),
    (Workload::Insert, Nemesis::KillAll),
    (Workload::Delete, Nemesis::Mix),
    (Workload::Counter, Nemesis::SlowFsync),
    (Workload::Scan, Nemesis::DiskErrors),
    (Workload::Latest, Nemesis::Rolling),
    (Workload::Set, Nemesis::Reorder),
    (Workload::Session, Nemesis::Pause),
    (Workload::Counter, Nemesis::Duplicate),
    (Workload::Scan, Nemesis::CorruptPackets),
];
/// What a test takes beside its own time, until one has been measured.
const OVERHEAD: Duration = Duration::from_secs(20);
/// No test is shorter.
const TIME_MIN: Duration = Duration::from_secs(8);
/// Of a test that the time is too short for.
const NOT_RUN: &str = "not run: no time left";

/// Runs it; whether all were valid.
///
/// # Errors
/// Where a test could not be run.
pub(crate) fn run(
    time: Duration,
    first: Option<usize>,
    seed: u64,
    common: &CommonArguments,
) -> Result<bool, Box<dyn Error>> {
    let began = Instant::now();
    let has_root = common.network == NetworkKind::Namespaces;
    let has_volatile = Disk::check();
    if let (true, Err(error)) = (has_root, &has_volatile) {
        println!("no power is cut and no sync fails: {error}");
    }
    let is_possible = |disks: DiskKind| match disks {
        DiskKind::Plain => true,
        DiskKind::Small => has_root,
        DiskKind::Volatile => has_root && has_volatile.is_ok(),
    };
    let tests: Vec<_> = MATRIX
        .iter()
        .copied()
        .filter(|(_, nemesis)| is_possible(nemesis.disks()))
        .take(first.unwrap_or(MATRIX.len()))
        .collect();
    let mut overhead = OVERHEAD;
    let mut lines = Vec::new();
    let (mut valid, mut not_run) = (true, 0);
    for (at, (workload, nemesis)) in tests.iter().enumerate() {
        let name = format!("{} + {}", workload.name(), nemesis.name());
        let left = time.saturating_sub(began.elapsed());
        let share = left / u32::try_from(tests.len() - at).unwrap_or(1);
        let own = share.saturating_sub(overhead).max(TIME_MIN);
        if left < own {
            not_run += 1;
            lines.push(format!("{name:24} {NOT_RUN}"));
            continue;
        }
        println!(
            "== {name}, {} s ({} s since the start)",
            own.as_secs(),
            began.elapsed().as_secs()
        );
        let started = Instant::now();
        let seed = seed.wrapping_add(at as u64);
        let code = child(*workload, *nemesis, own, seed, common, &[])?;
        let took = started.elapsed();
        overhead = (overhead + took.saturating_sub(own)) / 2;
        let word = match code {
            Some(0) => "valid",
            Some(1) => "INVALID",
            _ => "could not be run",
        };
        valid &= code != Some(1);
        not_run += usize::from(!matches!(code, Some(0 | 1)));
        lines.push(format!("{name:24} seed {seed:<12} {:4} s  {word}", took.as_secs()));
    }
    println!("\n{}", lines.join("\n"));
    println!("{} tests in {} s", tests.len(), began.elapsed().as_secs());
    match not_run {
        0 => Ok(valid),
        _ if !valid => Ok(false),
        count => Err(format!("{count} of {} tests were not run", tests.len()).into()),
    }
}

/// Runs one test in a process of its own, with further arguments, and gives its exit code.
pub(crate) fn child(
    workload: Workload,
    nemesis: Nemesis,
    time: Duration,
    seed: u64,
    common: &CommonArguments,
    more: &[String],
) -> Result<Option<i32>, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    let network = clap::ValueEnum::to_possible_value(&common.network);
    command
        .args(["test", "--workload", workload.name(), "--nemesis", &nemesis.name()])
        .args(["--time", &time.as_secs().to_string(), "--seed", &seed.to_string()])
        .args(more)
        .args(["--network", network.as_ref().map_or("namespaces", |network| network.get_name())]);
    if let Some(quoit) = &common.quoit {
        command.arg("--quoit").arg(quoit);
    }
    if let Some(out) = &common.out {
        command.arg("--out").arg(out.join(format!("{}-{}", workload.name(), nemesis.name())));
    }
    if let Some(plant) = &common.plant {
        command.args(["--plant", plant]);
    }
    Ok(command.status()?.code())
}
