//! What `quoit bench` is told, and what follows from it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::arrivals::{ArrivalKind, OpenLoop};
use super::compare::CompareArguments;
use super::keys::{Distribution, KeySpace, Layout};
use super::measured::INTERVALS_MAX;
use super::slots::{Limit, Plan, Task};
use super::workload::Workload;
use crate::arguments::LevelArguments;
use crate::failure::CommandError;

/// The most bytes of values that may be in flight.
const IN_FLIGHT_BYTES_MAX: u64 = 1 << 30;
/// How long runs are where nobody says otherwise, and their warm-up.
const SECONDS_DEFAULT: u64 = 10;
const WARM_UP_DEFAULT: u64 = 2;
/// Intervals are a second, or longer where there would be more than so many.
const INTERVALS_DEFAULT_MAX: u64 = 1_000;

/// Measure reads and writes: throughput, percentiles, errors by kind.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArguments {
    #[command(subcommand)]
    pub(super) action: Option<BenchAction>,
    /// What is done; a to f are YCSB's core workloads.
    #[arg(long, required = true)]
    workload: Option<Workload>,
    /// The table; it is made if it is not there [default: bench, bench-scans for workload e,
    /// bench-siblings for f].
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// How many keys are loaded and used.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000)
    )]
    keys: u64,
    /// Which of them are chosen [default: uniform for put and get, latest for d, zipfian for others].
    #[arg(long)]
    distribution: Option<Distribution>,
    /// How many items a partition key has, in workload e.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000)
    )]
    partition_items: u64,
    /// How long a value is; its bytes are random and do not compress.
    #[arg(
        long,
        visible_alias = "value-size",
        value_name = "BYTES",
        default_value_t = 1_024,
        value_parser = clap::value_parser!(u32).range(0..=16 << 20)
    )]
    value_bytes: u32,
    /// How many operations are in flight at most, in all processes together.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 128,
        value_parser = clap::value_parser!(u16).range(1..=4_096)
    )]
    in_flight: u16,
    /// An open loop: so many operations a second are started, in all processes together, whether or
    /// not the cluster keeps up. Latencies count from the intended start.
    #[arg(
        long,
        value_name = "PER_SECOND",
        conflicts_with = "operations",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    rate: Option<u32>,
    /// How an open loop's starts are spread [default: poisson].
    #[arg(long, requires = "rate")]
    arrivals: Option<ArrivalKind>,
    /// In an open loop at most so many operations wait for one of those in flight to end; what comes
    /// due beyond is not started, and counted [default: 100000].
    #[arg(
        long,
        value_name = "COUNT",
        requires = "rate",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    backlog: Option<u32>,
    /// For how long [default: 10].
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    seconds: Option<u64>,
    /// How long it runs before it is measured [default: 2].
    #[arg(
        long,
        value_name = "SECONDS",
        conflicts_with = "operations",
        value_parser = clap::value_parser!(u64).range(0..=3_600)
    )]
    warm_up: Option<u64>,
    /// How many operations, in place of a time; there is no warm-up then.
    #[arg(
        long,
        value_name = "COUNT",
        conflicts_with = "seconds",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    operations: Option<u64>,
    /// Measure so often; `quoit bench compare` shows the spread.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=100)
    )]
    repeat: u16,
    /// Write all keys first, even if they seem to be there.
    #[arg(long)]
    load: bool,
    /// Another seed gives other values and another order of keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mark writes idempotent, so that the library repeats those whose outcome is unknown.
    #[arg(long)]
    idempotent: bool,
    /// How many threads drive each client. One is fastest where the cluster shares the machine.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    threads: u16,
    /// How many processes, each with a client of its own, share the work.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=64)
    )]
    processes: u16,
    /// How long the intervals of the series are [default: 1000, longer in runs of more than 1000 s].
    #[arg(
        long,
        value_name = "MS",
        value_parser = clap::value_parser!(u64).range(10..=3_600_000)
    )]
    interval_ms: Option<u64>,
    /// Write result.json, HdrHistogram logs and plots into this directory.
    #[arg(long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,
    #[command(flatten)]
    levels: LevelArguments,
}

/// What else `quoit bench` does.
#[derive(Debug, Subcommand)]
pub(super) enum BenchAction {
    Compare(CompareArguments),
    /// One process of several: it is told its part on standard input.
    #[command(hide = true)]
    Worker {
        #[arg(long, default_value_t = 1)]
        threads: u16,
    },
}

impl BenchArguments {
    /// How many threads the runtime should have.
    pub(crate) fn threads(&self) -> usize {
        match &self.action {
            Some(BenchAction::Worker { threads }) => usize::from(*threads).max(1),
            // Others measure.
            None if self.processes > 1 => 1,
            _ => self.threads.into(),
        }
    }

    /// Files to compare, which takes no cluster.
    pub(crate) fn comparison(&self) -> Option<&CompareArguments> {
        match &self.action {
            Some(BenchAction::Compare(arguments)) => Some(arguments),
            _ => None,
        }
    }

    /// Whether the keys are written whatever is there.
    pub(super) fn must_load(&self) -> bool {
        self.load
    }

    pub(super) fn levels(&self) -> LevelArguments {
        self.levels
    }

    /// All settings, with their defaults.
    pub(super) fn parameters(&self) -> Result<Parameters, CommandError> {
        let workload = self.workload.ok_or_else(|| {
            CommandError::BadInput("--workload says what is to be measured".to_owned())
        })?;
        let (write, read) = self.levels.asked();
        let seconds = match self.operations {
            Some(_) => None,
            None => Some(self.seconds.unwrap_or(SECONDS_DEFAULT)),
        };
        let interval_default = seconds.unwrap_or(1).div_ceil(INTERVALS_DEFAULT_MAX) * 1_000;
        let parameters = Parameters {
            workload,
            table: self.table.clone().unwrap_or_else(|| workload.default_table().to_owned()),
            keys: self.keys,
            distribution: self.distribution.unwrap_or(workload.default_distribution()),
            partition_items: workload.scans().then_some(self.partition_items),
            value_bytes: self.value_bytes,
            in_flight: self.in_flight,
            rate: self.rate,
            arrivals: self.rate.map(|_| self.arrivals.unwrap_or(ArrivalKind::Poisson)),
            backlog: self.rate.map(|_| self.backlog.unwrap_or(100_000)),
            seconds,
            warm_up: seconds.map(|_| self.warm_up.unwrap_or(WARM_UP_DEFAULT)),
            operations: self.operations,
            repeat: self.repeat,
            seed: self.seed,
            idempotent: self.idempotent,
            threads: self.threads,
            processes: self.processes,
            interval_ms: self.interval_ms.unwrap_or(interval_default),
            w: write.map(|level| level.to_string()),
            r: read.map(|level| level.to_string()),
        };
        parameters.check()?;
        Ok(parameters)
    }
}

/// All settings of a benchmark, as results tell them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Parameters {
    pub(super) workload: Workload,
    pub(super) table: String,
    pub(super) keys: u64,
    pub(super) distribution: Distribution,
    /// In workload e.
    pub(super) partition_items: Option<u64>,
    pub(super) value_bytes: u32,
    pub(super) in_flight: u16,
    /// In an open loop, as the next two.
    pub(super) rate: Option<u32>,
    pub(super) arrivals: Option<ArrivalKind>,
    pub(super) backlog: Option<u32>,
    /// Or else `operations`.
    pub(super) seconds: Option<u64>,
    pub(super) warm_up: Option<u64>,
    pub(super) operations: Option<u64>,
    pub(super) repeat: u16,
    pub(super) seed: u64,
    pub(super) idempotent: bool,
    pub(super) threads: u16,
    pub(super) processes: u16,
    pub(super) interval_ms: u64,
    pub(super) w: Option<String>,
    pub(super) r: Option<String>,
}

impl Parameters {
    fn check(&self) -> Result<(), CommandError> {
        let bad = |text: String| Err(CommandError::BadInput(text));
        if u64::from(self.value_bytes) * u64::from(self.in_flight) > IN_FLIGHT_BYTES_MAX {
            return bad(
                "--value-bytes times --in-flight is more than 1 GiB; lower one of them".to_owned()
            );
        }
        let processes = self.processes;
        if self.in_flight < processes {
            return bad(format!(
                "--in-flight {} is fewer than --processes {processes}: each needs one at least",
                self.in_flight
            ));
        }
        if self.operations.is_some_and(|operations| operations < processes.into()) {
            return bad(format!("--operations is fewer than --processes {processes}"));
        }
        let intervals = self.seconds.unwrap_or(0).saturating_mul(1_000) / self.interval_ms;
        if intervals > INTERVALS_MAX as u64 {
            return bad(format!(
                "--interval-ms {} cuts {} s into {intervals} intervals, more than {INTERVALS_MAX}; \
                 raise it",
                self.interval_ms,
                self.seconds.unwrap_or(0)
            ));
        }
        Ok(())
    }

    /// What one of the processes does, in one of the repetitions.
    pub(super) fn plan(&self, worker: u16, repetition: u16) -> Plan {
        let (worker, workers) = (u64::from(worker), u64::from(self.processes));
        let part = |whole: u64| whole / workers + u64::from(worker < whole % workers);
        let limit = match (self.operations, self.seconds) {
            (Some(operations), _) => Limit::Operations(part(operations)),
            (None, seconds) => Limit::Seconds {
                warm_up: self.warm_up.unwrap_or(0),
                measured: seconds.unwrap_or(SECONDS_DEFAULT),
            },
        };
        let open_loop = self.rate.map(|rate| OpenLoop {
            per_second: f64::from(rate) / workers as f64,
            arrivals: self.arrivals.unwrap_or(ArrivalKind::Poisson),
            phase: worker as f64 / workers as f64,
            waiting_max: part(self.backlog.unwrap_or(1).into()).max(1) as usize,
        });
        Plan {
            task: Task::Workload(self.workload),
            keys: KeySpace {
                loaded: self.keys,
                distribution: self.distribution,
                worker,
                workers,
                layout: self.layout(),
            },
            value_bytes: self.value_bytes as usize,
            in_flight: part(self.in_flight.into()) as usize,
            limit,
            open_loop,
            interval_ms: self.interval_ms,
            seed: self.seed.wrapping_add(u64::from(repetition) << 32),
        }
    }

    /// A write of each key, by this process.
    pub(super) fn load_plan(&self) -> Plan {
        let alone = Self { processes: 1, rate: None, ..self.clone() };
        Plan { task: Task::Load, limit: Limit::Operations(self.keys), ..alone.plan(0, 0) }
    }

    /// What the keys look like.
    pub(super) fn layout(&self) -> Layout {
        match self.partition_items {
            Some(items) => Layout::Partitions { count: self.keys.div_ceil(items) },
            None => Layout::Plain,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Settings of workload a, closed loop.
    pub(in crate::bench) fn parameters() -> Parameters {
        Parameters {
            workload: Workload::A,
            table: "bench".to_owned(),
            keys: 1_000,
            distribution: Distribution::Zipfian,
            partition_items: None,
            value_bytes: 100,
            in_flight: 8,
            rate: None,
            arrivals: None,
            backlog: None,
            seconds: Some(10),
            warm_up: Some(2),
            operations: None,
            repeat: 1,
            seed: 1,
            idempotent: false,
            threads: 1,
            processes: 1,
            interval_ms: 1_000,
            w: None,
            r: None,
        }
    }

    #[test]
    fn processes_share_what_is_in_flight_the_rate_and_the_count() {
        let parameters = Parameters {
            rate: Some(900),
            arrivals: Some(ArrivalKind::Uniform),
            backlog: Some(10),
            processes: 3,
            ..parameters()
        };
        let plans: Vec<_> = (0..3).map(|worker| parameters.plan(worker, 0)).collect();
        assert_eq!(plans.iter().map(|plan| plan.in_flight).collect::<Vec<_>>(), [3, 3, 2]);
        let open: Vec<_> = plans.iter().map(|plan| plan.open_loop.expect("open")).collect();
        assert_eq!(open.iter().map(|it| it.waiting_max).collect::<Vec<_>>(), [4, 3, 3]);
        assert!(open.iter().all(|it| (it.per_second - 300.0).abs() < 1e-9));
        assert!((open[2].phase - 2.0 / 3.0).abs() < 1e-9);
        let counted = Parameters { rate: None, operations: Some(10), ..parameters };
        assert_eq!(counted.plan(0, 0).limit, Limit::Operations(4));
    }

    #[test]
    fn impossible_settings_are_refused_with_what_to_do() {
        for (parameters, reason) in [
            (Parameters { value_bytes: 16 << 20, in_flight: 100, ..parameters() }, "1 GiB"),
            (Parameters { processes: 9, ..parameters() }, "fewer than --processes 9"),
            (
                Parameters { processes: 2, operations: Some(1), ..parameters() },
                "--operations is fewer",
            ),
            (Parameters { seconds: Some(86_400), ..parameters() }, "raise it"),
        ] {
            let error = parameters.check().expect_err(reason);
            assert!(matches!(error, CommandError::BadInput(_)));
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
