//! The simulator's program: see the library's documentation.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use quoit_simulations::experiments::{Experiment, Setting};
use quoit_simulations::plan::{self, Profile};
use quoit_simulations::report::Report;
use quoit_simulations::run::run;
use quoit_simulations::shrink::shrink;
use quoit_storage::planted::{PlantedBug, plant};

/// The node's own core, store and client in a virtual world, from one seed.
#[derive(Debug, Parser)]
#[command(name = "quoit-simulations", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays one run, or a batch of them.
    Run(RunOptions),
    /// Cuts a failing run down to a small one, and prints its schedule.
    Shrink(ShrinkOptions),
    /// Measures the ring at sizes that no single machine could run.
    Experiment(ExperimentOptions),
}

#[derive(Debug, Args)]
struct RunOptions {
    /// The run's seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Writes a readable log of all events.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Plays so many seeds instead, and stops at the first failure.
    #[arg(long)]
    seeds: Option<u64>,
    /// The batch's first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// From one seed of the batch to the next: some kinds of runs are seeds of one residue by 16.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    step: u64,
    /// Seeds that are played at once.
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Prints the trace hash of each seed of the batch, in order, and nothing else.
    #[arg(long, requires = "seeds")]
    hashes: bool,
    #[command(flatten)]
    kind: Kind,
}

#[derive(Debug, Args)]
struct ShrinkOptions {
    /// The failing run's seed.
    #[arg(long)]
    seed: u64,
    /// At most so many runs are tried.
    #[arg(long, default_value_t = 2_000)]
    runs: u32,
    #[command(flatten)]
    kind: Kind,
}

#[derive(Debug, Args)]
struct ExperimentOptions {
    /// What is measured.
    #[arg(value_enum)]
    name: ExperimentName,
    /// How many members: one row each, such as 10,100,1000.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// What is drawn hangs on it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes the table as CSV, too.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Draws the plot into an SVG file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExperimentName {
    /// How evenly members share the ring.
    Balance,
    /// How much moves when members come and go.
    Movement,
    /// How long gossip takes to tell everyone.
    Convergence,
    /// How long it takes to mend after a member is lost.
    Scale,
    /// What is lost to requests while members are down.
    Availability,
}

#[derive(Debug, Args)]
struct Kind {
    /// What kind of runs are drawn.
    #[arg(long, value_enum, default_value_t = ProfileName::Swarm)]
    profile: ProfileName,
    /// How long an endurance run is, in virtual minutes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Plants a bug on purpose, such as skip-sync, to see that it is caught.
    #[arg(long, value_parser = bug_of)]
    plant: Option<PlantedBug>,
}

/// The bug of a name, and what names there are.
fn bug_of(name: &str) -> Result<PlantedBug, String> {
    let plain = |name: &str| name.replace('-', "").to_lowercase();
    let named = |bug: &PlantedBug| plain(&format!("{bug:?}")) == plain(name);
    let known = || format!("the bugs are {:?}", PlantedBug::ALL);
    PlantedBug::ALL.into_iter().find(named).ok_or_else(known)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProfileName {
    Swarm,
    Small,
    Calm,
    Endurance,
}

impl Kind {
    fn profile(&self) -> Profile {
        match self.profile {
            ProfileName::Swarm => Profile::Swarm,
            ProfileName::Small => Profile::Small,
            ProfileName::Calm => Profile::Calm,
            ProfileName::Endurance => Profile::Endurance { minutes: self.minutes },
        }
    }

    /// What must be added to a command to play the same kind of run.
    fn arguments(&self) -> String {
        let profile = match self.profile {
            ProfileName::Swarm => String::new(),
            ProfileName::Small => " --profile small".to_owned(),
            ProfileName::Calm => " --profile calm".to_owned(),
            ProfileName::Endurance => format!(" --profile endurance --minutes {}", self.minutes),
        };
        let bug = self.plant.map_or(String::new(), |bug| format!(" --plant {bug:?}"));
        profile + &bug
    }

    /// Plays the run of a seed, in this thread.
    fn play(&self, seed: u64, wants_trace: bool) -> Report {
        plant(self.plant);
        run(&plan::draw(seed, self.profile()), wants_trace)
    }
}

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Run(options) => match options.seeds {
            Some(seeds) if options.hashes => print_hashes(&options, seeds),
            Some(seeds) => play_batch(&options, seeds),
            None => play_one(&options),
        },
        Command::Shrink(options) => play_shrink(&options),
        Command::Experiment(options) => match make_experiment(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn make_experiment(options: &ExperimentOptions) -> Result<(), String> {
    let experiment = match options.name {
        ExperimentName::Balance => Experiment::Balance,
        ExperimentName::Movement => Experiment::Movement,
        ExperimentName::Convergence => Experiment::Convergence,
        ExperimentName::Scale => Experiment::Scale,
        ExperimentName::Availability => Experiment::Availability,
    };
    let (sizes, seed) = (options.sizes.clone(), options.seed);
    let setting = Setting { sizes, seed, seconds: &processor_seconds };
    let table = experiment.make(&setting).map_err(|error| error.to_string())?;
    print!("{table}");
    let write = |path: &PathBuf, text: String| {
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    if let Some(path) = &options.csv {
        write(path, table.csv())?;
    }
    if let Some(path) = &options.svg {
        write(path, table.svg().map_err(|error| error.to_string())?)?;
    }
    Ok(())
}

/// The processor time of this thread so far, in seconds, as the system counts it.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|it| it.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}

fn play_one(options: &RunOptions) -> ExitCode {
    let before = processor_seconds();
    let report = options.kind.play(options.seed, options.trace.is_some());
    let took = processor_seconds() - before;
    print!("{report}");
    if took > 0.0 {
        println!(
            "\nprocessor   {took:.2} s: {:.0} client operations a second, {:.0} virtual hours an hour",
            report.tally.submitted as f64 / took,
            report.virtual_us as f64 / 1e6 / took
        );
    }
    if let (Some(path), Some(trace)) = (&options.trace, &report.trace)
        && let Err(error) = std::fs::write(path, trace)
    {
        eprintln!("the trace cannot be written to {}: {error}", path.display());
        return ExitCode::from(2);
    }
    if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print_hashes(options: &RunOptions, seeds: u64) -> ExitCode {
    for seed in (options.from..).step_by(options.step as usize).take(seeds as usize) {
        let report = options.kind.play(seed, false);
        println!("{seed} {:016x}", report.trace_hash);
    }
    ExitCode::SUCCESS
}

fn play_batch(options: &RunOptions, seeds: u64) -> ExitCode {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left {msg}")
        .expect("the template is good");
    let bar = ProgressBar::new(seeds).with_style(style);
    let next = AtomicU64::new(options.from);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Option<Report>> = Mutex::new(None);
    let operations = AtomicU64::new(0);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(options.step, Ordering::Relaxed);
            if seed >= options.from + seeds * options.step {
                return;
            }
            let report = options.kind.play(seed, false);
            operations.fetch_add(report.tally.submitted, Ordering::Relaxed);
            bar.inc(1);
            if report.violation.is_some() {
                stop.store(true, Ordering::Relaxed);
                let mut failed = failed.lock().expect("no one panics with it");
                if failed.as_ref().is_none_or(|other| other.schedule.seed > seed) {
                    *failed = Some(report);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    let Some(report) = failed.into_inner().expect("no one panics with it") else {
        println!(
            "{seeds} seeds from {} on: every invariant held over {} operations",
            options.from,
            operations.into_inner()
        );
        return ExitCode::SUCCESS;
    };
    print!("{report}");
    println!(
        "\nreplay it:  cargo run --release -p quoit-simulations -- run --seed {}{}",
        report.schedule.seed,
        options.kind.arguments()
    );
    ExitCode::FAILURE
}

fn play_shrink(options: &ShrinkOptions) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    plant(options.kind.plant);
    let schedule = plan::draw(options.seed, options.kind.profile());
    let Some(shrunk) = shrink(&schedule, options.runs) else {
        println!("seed {} does not fail", options.seed);
        return ExitCode::SUCCESS;
    };
    println!("{}", shrunk.report.schedule.to_rust());
    println!("{}after {} runs", shrunk.report, shrunk.runs);
    ExitCode::FAILURE
}
