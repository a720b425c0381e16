//! `result.json`: settings, surroundings and results of a benchmark, for programs and for
//! `quoit bench compare`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use quoit_client::{Client, Table};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arguments::Parameters;
use super::measured::Packed;
use super::results::{Interval, KindResults, OpenResults, Results};

/// What the file says that it is.
const FORMAT: &str = "quoit-bench";
/// Raised when a field changes its meaning; files of other versions are refused.
const VERSION: u32 = 1;
/// A larger file is not a result.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The percentiles that are told.
const PERCENTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// A whole benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Document {
    format: String,
    version: u32,
    /// The program's version.
    quoit: String,
    pub(super) parameters: Parameters,
    environment: Environment,
    pub(super) runs: Vec<RunDocument>,
}

/// Where it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Environment {
    cpus: usize,
    cpu: Option<String>,
    kernel: Option<String>,
    os: String,
    arch: String,
    members: usize,
    replication: u8,
    read_level: String,
    write_level: String,
    policy: String,
}

/// One repetition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RunDocument {
    /// Since 1970.
    started_ms: u64,
    pub(super) results: ResultsDocument,
    series: Vec<IntervalDocument>,
    /// By kind: HdrHistogram's V2 encoding in base64, in microseconds.
    histograms: BTreeMap<String, Packed>,
}

/// What a repetition found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ResultsDocument {
    pub(super) seconds: f64,
    /// By kind.
    pub(super) operations: BTreeMap<String, OperationDocument>,
    /// Of all kinds, failed and unknown, by reason.
    pub(super) errors: BTreeMap<String, u64>,
    gets_absent: u64,
    items_scanned: u64,
    update_rounds_more: u64,
    open_loop: Option<OpenDocument>,
}

/// One kind of operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct OperationDocument {
    pub(super) done: u64,
    pub(super) per_second: f64,
    failed: BTreeMap<String, u64>,
    unknown: BTreeMap<String, u64>,
    pub(super) latency_us: BTreeMap<String, f64>,
}

/// What an open loop did not start, and how long the others waited for their start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OpenDocument {
    not_started_backlog_full: u64,
    not_started_at_end: u64,
    waited_us: BTreeMap<String, f64>,
}

/// An interval of the series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct IntervalDocument {
    begins_s: f64,
    seconds: f64,
    errors: u64,
    operations: BTreeMap<String, IntervalOperation>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct IntervalOperation {
    done: u64,
    mean_us: f64,
    p50_us: u64,
    p95_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

/// A file that cannot be compared. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadDocumentError {
    /// It is not there, or not to be read.
    #[error("{path} cannot be read: {source}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error(
        "{path} is not a result of `quoit bench` ({reason}); results are written with --output DIR, \
         as DIR/result.json"
    )]
    Foreign { path: String, reason: String },
    /// Another version of this program wrote it.
    #[error(
        "{path} is a result in version {found}, and this program reads version {VERSION}: measure \
         again, or compare with the program that wrote it"
    )]
    Version { path: String, found: u64 },
}

impl Document {
    pub(super) fn new(parameters: Parameters, environment: Environment) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            quoit: env!("CARGO_PKG_VERSION").to_owned(),
            parameters,
            environment,
            runs: Vec::new(),
        }
    }

    /// Reads a file that [`Document`] was written to.
    pub(super) fn read(path: &Path) -> Result<Self, ReadDocumentError> {
        let name = || path.display().to_string();
        let foreign =
            |reason: &str| ReadDocumentError::Foreign { path: name(), reason: reason.to_owned() };
        let file = |source| ReadDocumentError::File { path: name(), source };
        let metadata = std::fs::metadata(path).map_err(file)?;
        if metadata.is_dir() {
            return Err(foreign("it is a directory"));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(foreign("it is too large"));
        }
        let bytes = std::fs::read(path).map_err(file)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| foreign("it is not JSON"))?;
        if value["format"] != FORMAT {
            return Err(foreign("it does not say that it is one"));
        }
        match value["version"].as_u64() {
            Some(version) if version == u64::from(VERSION) => {}
            Some(found) => return Err(ReadDocumentError::Version { path: name(), found }),
            None => return Err(foreign("it has no version")),
        }
        let document: Self =
            serde_json::from_value(value).map_err(|error| foreign(&error.to_string()))?;
        if document.runs.is_empty() {
            return Err(foreign("it holds no run"));
        }
        Ok(document)
    }
}

impl Environment {
    /// What can be told of this machine and of the cluster.
    pub(super) fn look(client: &Client, table: &Table) -> Self {
        let options = &table.definition().options;
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: processor(),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            members: client.record().members.len(),
            replication: options.replication,
            read_level: options.read_level.to_string(),
            write_level: options.write_level.to_string(),
            policy: options.policy.to_string(),
        }
    }
}

fn first_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned())
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

impl RunDocument {
    pub(super) fn new(results: &Results, started: SystemTime) -> Self {
        let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let histograms = results.kinds.iter();
        Self {
            started_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            results: ResultsDocument::new(results),
            series: results.series.iter().map(IntervalDocument::new).collect(),
            histograms: histograms
                .map(|kind| (kind.name.to_owned(), Packed::new(&kind.latencies)))
                .collect(),
        }
    }
}

impl ResultsDocument {
    pub(super) fn new(results: &Results) -> Self {
        let operation = |kind: &KindResults| {
            (kind.name.to_owned(), OperationDocument::new(kind, results.seconds))
        };
        Self {
            seconds: results.seconds,
            operations: results.kinds.iter().map(operation).collect(),
            errors: results.errors(),
            gets_absent: results.absent,
            items_scanned: results.items,
            update_rounds_more: results.rounds_more,
            open_loop: results.open.as_ref().map(OpenDocument::new),
        }
    }
}

impl OperationDocument {
    fn new(kind: &KindResults, seconds: f64) -> Self {
        Self {
            done: kind.latencies.len(),
            per_second: kind.latencies.len() as f64 / seconds.max(1e-6),
            failed: kind.failed.clone(),
            unknown: kind.unknown.clone(),
            latency_us: latencies(&kind.latencies),
        }
    }
}

impl OpenDocument {
    fn new(open: &OpenResults) -> Self {
        Self {
            not_started_backlog_full: open.refused,
            not_started_at_end: open.left,
            waited_us: latencies(&open.waited),
        }
    }
}

impl IntervalDocument {
    fn new(interval: &Interval) -> Self {
        let operations = interval.kinds.iter().map(|kind| {
            let summary = kind.summary;
            let operation = IntervalOperation {
                done: summary.done,
                mean_us: summary.mean_us,
                p50_us: summary.p50_us,
                p95_us: summary.p95_us,
                p99_us: summary.p99_us,
                p999_us: summary.p999_us,
                max_us: summary.max_us,
            };
            (kind.name.to_owned(), operation)
        });
        Self {
            begins_s: interval.begins_s,
            seconds: interval.seconds,
            errors: interval.errors,
            operations: operations.collect(),
        }
    }
}

fn latencies(histogram: &Histogram<u64>) -> BTreeMap<String, f64> {
    let mut latencies: BTreeMap<String, f64> = PERCENTILES
        .iter()
        .map(|(name, at)| ((*name).to_owned(), histogram.value_at_quantile(*at) as f64))
        .collect();
    latencies.insert("max".to_owned(), histogram.max() as f64);
    latencies.insert("mean".to_owned(), histogram.mean());
    latencies
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::arguments::tests::parameters;
    use crate::bench::results::tests::measured;

    /// A result of so many runs, all alike.
    pub(in crate::bench) fn document(runs: usize) -> Document {
        let environment = Environment {
            cpus: 2,
            cpu: None,
            kernel: None,
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            members: 3,
            replication: 3,
            read_level: "2".to_owned(),
            write_level: "2".to_owned(),
            policy: "latest".to_owned(),
        };
        let results = Results::new(&[measured()], 1_000, true).expect("packed here");
        let mut document = Document::new(parameters(), environment);
        document.runs = vec![RunDocument::new(&results, UNIX_EPOCH); runs];
        document
    }

    #[test]
    fn results_have_percentiles_in_microseconds_and_errors_by_kind_and_reason() {
        let document = serde_json::to_value(document(1)).expect("it has a JSON form");
        let results = &document["runs"][0]["results"];
        assert_eq!(results["operations"]["get"]["latency_us"]["p99"], 990.0);
        assert_eq!(results["operations"]["all"]["done"], 1_001);
        assert_eq!(results["operations"]["put"]["unknown"]["unknown outcome"], 1);
        assert_eq!(results["errors"]["timeout"], 2);
        assert_eq!(results["gets_absent"], 3);
        assert_eq!(results["open_loop"]["not_started_at_end"], 7);
        assert_eq!(document["runs"][0]["series"][1]["operations"]["put"]["done"], 1);
        assert_eq!(document["parameters"]["workload"], "a");
    }

    #[test]
    fn a_file_reads_back_and_others_are_refused_with_what_they_are() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("result.json");
        let write = |text: &str| std::fs::write(&path, text).expect("the directory is there");
        let good = serde_json::to_string(&document(2)).expect("it has a JSON form");
        write(&good);
        assert_eq!(Document::read(&path).expect("as written"), document(2));
        for (text, reason) in [
            ("", "it is not JSON"),
            ("[1]", "does not say that it is one"),
            (r#"{"format":"quoit-bench"}"#, "it has no version"),
            (r#"{"format":"quoit-bench","version":9}"#, "a result in version 9"),
            (r#"{"format":"quoit-bench","version":1}"#, "missing field"),
            (&serde_json::to_string(&document(0)).expect("JSON"), "it holds no run"),
        ] {
            write(text);
            let error = Document::read(&path).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
        let error = Document::read(folder.path()).expect_err("a directory").to_string();
        assert!(error.contains("DIR/result.json"), "{error}");
        let missing = folder.path().join("missing.json");
        let error = Document::read(&missing).expect_err("not there").to_string();
        assert!(error.contains("missing.json cannot be read"), "{error}");
    }
}
