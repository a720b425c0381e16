//! The command line.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | the histories are valid |
//! | 1 | anomalies were found, or the cluster was not whole again in time after its faults were healed |
//! | 2 | it could not be run: bad input, no rights, no program, a cluster that never becomes ready |

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};
use quoit_client::with_sources;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::checker::{self, Model};
use crate::cluster::{ClusterError, Disk, DiskKind, NODES_MAX, NetworkKind, Program, world};
use crate::history::{edn, json, number};
use crate::nemesis::Nemesis;
use crate::runner::{self, TestOptions, TestRun};
use crate::workload::Workload;
use crate::{matrix, planted, report};

/// A history's file is never longer, in bytes.
const HISTORY_BYTES_MAX: u64 = 2 << 30;
/// Where results go when nobody says otherwise.
const RESULTS: &str = "target/jepsen";
/// A test never does more at once.
const CONCURRENCY_MAX: u16 = 1_000;
const RATE_MAX: f64 = 100_000.0;
/// The longest test, in seconds.
const TIME_MAX: u64 = 24 * 60 * 60;

const INVALID: u8 = 1;
const NOT_RUN: u8 = 2;

/// Tests real clusters of Quoit under real faults, and checks what they answered.
#[derive(Debug, Parser)]
#[command(name = "quoit-jepsen", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Test(TestArguments),
    /// Run the matrix of workloads and nemeses within a stated time.
    All(AllArguments),
    Planted(PlantedArguments),
    /// Name the workloads, nemeses and models.
    List,
    /// Check a history from elsewhere: EDN, or JSON lines in a file that ends with .jsonl.
    Check {
        /// The history.
        history: PathBuf,
        /// What it is checked against.
        #[arg(long)]
        model: Model,
    },
}

/// Run one test.
#[derive(Debug, Args)]
struct TestArguments {
    /// What is done (see `list`).
    #[arg(long)]
    workload: Workload,
    /// What goes wrong (see `list`).
    #[arg(long, default_value = "none")]
    nemesis: Nemesis,
    /// For how many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=TIME_MAX))]
    time: u64,
    /// How many nodes.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,
    /// Operations a second, of all processes together.
    #[arg(long, value_name = "COUNT", default_value_t = 200.0, value_parser = parse_rate)]
    rate: f64,
    /// How many processes work at once.
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=i64::from(CONCURRENCY_MAX)))]
    concurrency: u16,
    /// Decides what is done and what goes wrong [default: drawn, and printed].
    #[arg(long)]
    seed: Option<u64>,
    /// End as soon as an anomaly is found.
    #[arg(long)]
    until_found: bool,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Debug, Args)]
struct AllArguments {
    /// For how many seconds in all.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=TIME_MAX))]
    time: u64,
    /// Only so many of the matrix, the most telling first.
    #[arg(long, value_name = "COUNT")]
    first: Option<usize>,
    /// The first test's seed; each further one's is one greater [default: drawn, and printed].
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    common: CommonArguments,
}

/// Plant bugs in a faulty build of the node, one at a time, and see that each is found.
#[derive(Debug, Args)]
struct PlantedArguments {
    /// For how many seconds each is looked for at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=TIME_MAX))]
    time: u64,
    /// Only this one (may be repeated).
    #[arg(long, value_name = "BUG")]
    only: Vec<String>,
    /// The seed of each test.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArguments {
    /// Each node a host of its own (root), or all on loopback with a relay between them.
    #[arg(long, value_enum, default_value_t = NetworkKind::Namespaces)]
    pub(crate) network: NetworkKind,
    /// The quoit program [default: the one beside this program].
    #[arg(long, value_name = "PATH")]
    pub(crate) quoit: Option<PathBuf>,
    /// The results' folder; it must not be there, or be empty [default: a new one in target/jepsen].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The bug to switch on in a faulty build of the program (made with `--features planted-bugs`).
    #[arg(long, value_name = "BUG")]
    pub(crate) plant: Option<String>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a number".to_owned())?;
    if rate > 0.0 && rate <= RATE_MAX {
        Ok(rate)
    } else {
        Err(format!("choose from above 0 to {RATE_MAX}"))
    }
}

/// Runs the program.
pub fn run() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Test(arguments) => test(arguments),
        Command::All(arguments) => {
            let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
            let time = Duration::from_secs(arguments.time);
            // Before the first test, so that it is said once.
            rights(&arguments.common)
                .and_then(|()| matrix::run(time, arguments.first, seed, &arguments.common))
        }
        Command::Planted(PlantedArguments { time, only, seed, common }) => rights(&common)
            .and_then(|()| planted::run(Duration::from_secs(time), &only, seed, &common)),
        Command::List => {
            list();
            Ok(true)
        }
        Command::Check { history, model } => check(&history, model),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INVALID),
        Err(error) => {
            eprintln!("quoit-jepsen: {}", with_sources(&*error));
            ExitCode::from(NOT_RUN)
        }
    }
}

fn rights(common: &CommonArguments) -> Result<(), Box<dyn Error>> {
    match common.network {
        NetworkKind::Namespaces => Ok(world::check()?),
        NetworkKind::Loopback => Ok(()),
    }
}

fn list() {
    fn names<T: ValueEnum>(title: &str) {
        println!("{title}:");
        for value in T::value_variants() {
            if let Some(value) = value.to_possible_value() {
                let help = value.get_help().map(ToString::to_string).unwrap_or_default();
                println!("  {:18} {help}", value.get_name());
            }
        }
    }
    names::<Workload>("workloads");
    names::<Nemesis>("nemeses");
    names::<Model>("models");
}

fn check(path: &Path, model: Model) -> Result<bool, Box<dyn Error>> {
    let wrong = |error: &dyn Error| format!("{}: {error}", path.display());
    let length = fs::metadata(path).map_err(|error| wrong(&error))?.len();
    if length > HISTORY_BYTES_MAX {
        return Err(format!("{} has more than {HISTORY_BYTES_MAX} bytes", path.display()).into());
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let is_json = path.extension().is_some_and(|extension| extension == "jsonl");
    let history = if is_json { json::read(&text) } else { edn::read(&text) };
    let mut history = history.map_err(|error| wrong(&error))?;
    number(&mut history);
    let verdict = checker::check(model, &history).map_err(|error| wrong(&error))?;
    report::print(&verdict, &history);
    Ok(verdict.is_valid())
}

fn test(arguments: TestArguments) -> Result<bool, Box<dyn Error>> {
    let common = &arguments.common;
    let is_outside = !world::is_inside();
    let disks = arguments.nemesis.disks();
    if disks == DiskKind::Volatile {
        Disk::check()?;
    }
    if is_outside && (common.network == NetworkKind::Namespaces || disks != DiskKind::Plain) {
        world::enter()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(test_inside(arguments))
}

async fn test_inside(arguments: TestArguments) -> Result<bool, Box<dyn Error>> {
    let interrupt = watch_signals()?;
    let common = arguments.common;
    let program = Program::find(common.quoit.as_deref()).await?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let name = format!("{}-{}", arguments.workload.name(), arguments.nemesis.name());
    let directory = match common.out {
        Some(directory) => directory,
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            Path::new(RESULTS).join(format!("{now}-{name}-{seed}"))
        }
    };
    let directory = std::path::absolute(directory)?;
    if directory.exists() && fs::read_dir(&directory)?.next().is_some() {
        return Err(format!("{} is not empty: choose another --out", directory.display()).into());
    }
    let options = TestOptions {
        workload: arguments.workload,
        nemesis: arguments.nemesis,
        time: Duration::from_secs(arguments.time),
        nodes: arguments.nodes,
        rate: arguments.rate,
        concurrency: arguments.concurrency,
        seed,
        network: common.network,
        program,
        directory: directory.clone(),
        plant: common.plant,
        until_found: arguments.until_found,
    };
    println!("{name}, seed {seed}, results in {}", directory.display());
    let run = runner::run(&options, interrupt).await?;
    finish(&options, run)
}

/// Checks what was done, and reports it.
fn finish(options: &TestOptions, run: TestRun) -> Result<bool, Box<dyn Error>> {
    let directory = &options.directory;
    let model = options.workload.model();
    let verdict = checker::check(model, &run.history)?;
    report::write(directory, options, &run, &verdict)?;
    report::print(&verdict, &run.history);
    if verdict.is_valid() && run.trouble.is_none() {
        // What a node held is of use only where something is wrong with it.
        for number in 1..=options.nodes {
            for part in ["data", "copy"] {
                let _ = fs::remove_dir_all(directory.join(format!("n{number}")).join(part));
            }
        }
    }
    println!("  report: {}", directory.join("report.html").display());
    match run.trouble {
        Some(trouble @ ClusterError::NotReady { .. }) => {
            eprintln!("quoit-jepsen: after the faults were healed {}", with_sources(&trouble));
            Ok(false)
        }
        Some(trouble) if verdict.is_valid() => Err(trouble.into()),
        Some(trouble) => {
            eprintln!("quoit-jepsen: {}", with_sources(&trouble));
            Ok(false)
        }
        None if run.interrupted && verdict.is_valid() => {
            println!("  interrupted: what was done until then is valid");
            Ok(true)
        }
        None => Ok(verdict.is_valid()),
    }
}

/// The first signal ends the work and has everything read; a second one ends the program at once.
fn watch_signals() -> Result<watch::Receiver<bool>, Box<dyn Error>> {
    let (sender, receiver) = watch::channel(false);
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
            }
            if sender.send_replace(true) {
                std::process::exit(NOT_RUN.into());
            }
            eprintln!("\ninterrupted: healing and reading everything; once more ends it at once");
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn bad_input_is_refused() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("j test --workload set --nemesis partition --time 60 --nodes 5").is_ok());
        for wrong in [
            "j test",
            "j test --workload sets",
            "j test --workload set --nemesis lightning",
            "j test --workload set --nodes 0",
            "j test --workload set --rate 0",
            "j check history.edn",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn histories_from_elsewhere_are_checked() {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let edn = "{:process 0, :type :invoke, :f :read, :value nil}\n{:process 0, :type :ok, :f :read, :value 7}";
        let invalid = write("a.edn", edn);
        assert!(!check(&invalid, Model::Register).expect("it is a history"));
        let json = "{\"process\":0,\"type\":\"invoke\",\"f\":\"read\",\"value\":null}\n\
                    {\"process\":0,\"type\":\"ok\",\"f\":\"read\",\"value\":null}";
        let valid = write("a.jsonl", json);
        assert!(check(&valid, Model::Register).expect("it is a history"));
        for (name, text) in [("b.edn", "{"), ("c.jsonl", "{"), ("d.edn", "")] {
            let path = write(name, text);
            let error = check(&path, Model::Register).expect_err("no history").to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(check(&scratch.path().join("none"), Model::Set).is_err());
    }
}
