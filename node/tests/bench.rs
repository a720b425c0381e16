//! `quoit bench` as its user meets it: every workload against a real cluster, several processes, an
//! open loop, files that are compared, and what happens when it is killed.
//!
//! Everything stays on loopback and in a temporary directory; processes that are ended are those
//! that the test started, by their ids.

mod ports;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use ports::free_base_port;

const PROGRAM: &str = env!("CARGO_BIN_EXE_quoit");
/// Whatever takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// A `quoit up`. Its nodes stop by themselves when it is killed.
struct Up {
    process: Child,
    /// The nodes' processes.
    nodes: Vec<u32>,
    client: PathBuf,
}

impl Up {
    fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    /// Settings of the nodes come from the environment.
    fn start_with(directory: &Path, settings: &[(&str, &str)]) -> Self {
        let mut process = Command::new(PROGRAM)
            .envs(settings.iter().copied())
            .args(["up", "--vnodes", "64", "--dir"])
            .arg(directory)
            .args(["--base-port", &free_base_port().to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let stdout = process.stdout.take().expect("piped");
        let mut up = Self { process, nodes: Vec::new(), client: directory.join("client") };
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let is_up = lines.by_ref().any(|line| {
            let processes = line.split(", ").filter_map(|part| part.split_once(" is process "));
            up.nodes.extend(processes.filter_map(|(_, id)| id.trim().parse::<u32>().ok()));
            line.contains("Ctrl-C stops")
        });
        assert!(is_up, "the cluster is up");
        // What it says later is read too, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        up
    }

    fn bench(&self, arguments: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--client").arg(&self.client).arg("bench").args(arguments.split_whitespace());
        command.stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, arguments: &str) -> String {
        let output = self.bench(arguments).output().expect("the program runs");
        assert!(output.status.success(), "{arguments}: {}", describe(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn fails(&self, arguments: &str, code: i32, because: &str) {
        let output = self.bench(arguments).output().expect("the program runs");
        let text = describe(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {text}");
        assert!(text.contains(because), "{arguments} should say {because:?}: {text}");
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn describe(output: &Output) -> String {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n{stdout}{stderr}", output.status)
}

fn done(results: &Value, kind: &str) -> u64 {
    results["operations"][kind]["done"].as_u64().unwrap_or(0)
}

#[test]
fn every_workload_measures_its_kinds_of_operations() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"));
    // Idempotent: a cluster that has just started leaves the outcome of some writes open.
    let few = "--keys 300 --value-bytes 64 --in-flight 8 --operations 600 --partition-items 50 \
               --idempotent";
    for (workload, kinds) in [
        ("put", &["put"][..]),
        ("get", &["get"]),
        ("a", &["get", "put"]),
        ("b", &["get", "put"]),
        ("c", &["get"]),
        ("d", &["get", "insert"]),
        ("e", &["scan", "insert"]),
        ("f", &["get", "read-modify-write"]),
    ] {
        let text = up.run(&format!("--workload {workload} {few} --json"));
        let report: Value = serde_json::from_str(&text).expect("JSON");
        let results = &report["results"];
        let counts: Vec<u64> = kinds.iter().map(|kind| done(results, kind)).collect();
        assert!(counts.iter().all(|count| *count > 0), "{workload}: {report}");
        let errors = results["errors"].as_object().expect("an object");
        let errors: u64 = errors.values().filter_map(Value::as_u64).sum();
        assert_eq!(counts.iter().sum::<u64>() + errors, 600, "{workload}: {report}");
        // Of f's updates those may have errors that met too many others at a popular key.
        assert!(errors == 0 || workload == "f", "{workload}: {report}");
        assert_eq!(results["gets_absent"], 0, "{workload}: {report}");
        let scanned = results["items_scanned"].as_u64().expect("a number");
        assert_eq!(scanned > 500, workload == "e", "{workload}: {report}");
    }
    up.fails("--workload f --table bench", 2, "--policy siblings");
    up.fails("--workload a --in-flight 1 --processes 2", 2, "--processes 2");
    up.fails("--workload a --output /proc/nowhere", 3, "/proc/nowhere cannot be written");
}

#[test]
fn an_open_loop_of_two_processes_leaves_files_that_are_compared() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"));
    let directory = |name: &str| scratch.path().join(name).display().to_string();
    let b = directory("b");
    let common = "--keys 300 --value-bytes 64 --in-flight 8 --warm-up 1 --seconds 1";
    let open = "--rate 400 --arrivals uniform --processes 2 --interval-ms 250 --repeat 2";
    let text = up.run(&format!("--workload b {common} {open} --output {b}"));
    assert_eq!(text.matches("from the intended to the actual start").count(), 2, "{text}");

    let result: Value = serde_json::from_slice(
        &fs::read(scratch.path().join("b/result.json")).expect("it was written"),
    )
    .expect("JSON");
    let runs = result["runs"].as_array().expect("a list");
    assert_eq!(runs.len(), 2);
    for run in runs {
        let results = &run["results"];
        let open = &results["open_loop"];
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let started = done(results, "all")
            + number(&open["not_started_backlog_full"])
            + number(&open["not_started_at_end"]);
        // Every start of the schedule is accounted for: a second of 400, the warm-up's left out.
        assert_eq!(started, 400, "{results}");
        assert!(run["series"].as_array().expect("a list").len() >= 4, "{run}");
    }
    for name in ["get.hgrm", "put.hgrm", "all.hgrm", "intervals.hlog", "latency.svg"] {
        let path = scratch.path().join("b/run-2").join(name);
        assert!(fs::metadata(&path).is_ok_and(|it| it.len() > 100), "{}", path.display());
    }

    let c = directory("c");
    up.run(&format!("--workload c {common} --output {c}"));
    let compared = up.run(&format!("compare {b}/result.json {b}/result.json"));
    assert!(compared.contains("per second") && compared.contains("1.00"), "{compared}");
    up.fails(&format!("compare {b}/result.json {c}/result.json"), 2, "of workload c");
    up.fails(&format!("compare {b}/result.json {b}/run-1/all.hgrm"), 2, "it is not JSON");
    up.fails(&format!("--workload c {common} --output {c}"), 2, "choose another --output");
}

/// `QUOIT_MEMORY_KEYS=1000000 QUOIT_MEMORY_MIB=256 cargo test --release -p quoit-node --test bench memory`
/// is the same at full size.
#[test]
fn a_node_keeps_within_the_memory_that_it_is_set_to() {
    let setting = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
    };
    let (keys, mib) = (setting("QUOIT_MEMORY_KEYS", 20_000), setting("QUOIT_MEMORY_MIB", 256));
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let limit = mib.to_string();
    let up = Up::start_with(&scratch.path().join("data"), &[("QUOIT_LIMITS_MEMORY_MIB", &limit)]);
    assert_eq!(up.nodes.len(), 3, "each says which process it is");
    let common = format!("--keys {keys} --value-bytes 1024 --idempotent --in-flight 64");
    up.run(&format!("--workload a --distribution uniform --operations {keys} {common}"));
    for id in &up.nodes {
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok());
        let peak_mib: u64 = peak.unwrap_or(u64::MAX) >> 10;
        println!("{peak_mib} MiB at most with {keys} keys of 1 KiB");
        assert!(peak_mib <= mib, "{peak_mib} MiB, and {mib} are set");
    }
}

#[test]
fn the_processes_of_a_benchmark_that_is_killed_end_too() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"));
    let mut bench = up
        .bench("--workload put --processes 2 --keys 100 --in-flight 4 --seconds 600")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let children = format!("/proc/{0}/task/{0}/children", bench.id());
    let began = Instant::now();
    let workers: Vec<u32> = loop {
        assert!(began.elapsed() < LIMIT, "two workers were never there");
        let text = fs::read_to_string(&children).unwrap_or_default();
        let ids: Vec<u32> = text.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        if ids.len() == 2 {
            break ids;
        }
        std::thread::yield_now();
    };
    bench.kill().expect("it runs");
    bench.wait().expect("it was started here");
    let began = Instant::now();
    // A worker that is a zombie of whoever adopted it has ended, too.
    let runs = |id: &u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        state.is_some_and(|state| state != 'Z')
    };
    while workers.iter().any(runs) {
        assert!(began.elapsed() < LIMIT, "{workers:?} go on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
