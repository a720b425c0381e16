//! What a benchmark found, for people and for programs.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::BenchArguments;
use super::slots::Measured;
use crate::render::{Grid, count_text};

/// The percentiles that are shown.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// A benchmark's settings and results.
pub(super) struct Report<'a> {
    arguments: &'a BenchArguments,
    measured: &'a Measured,
}

impl<'a> Report<'a> {
    pub(super) fn new(arguments: &'a BenchArguments, measured: &'a Measured) -> Self {
        Self { arguments, measured }
    }

    pub(super) fn render(&self) -> String {
        render(self.measured)
    }

    pub(super) fn json(&self) -> Value {
        let arguments = self.arguments;
        let (w, r) = arguments.levels.asked();
        json!({
            "workload": arguments.workload.name(),
            "table": arguments.table,
            "keys": arguments.keys,
            "distribution": arguments.distribution.name(),
            "value_bytes": arguments.value_bytes,
            "in_flight": arguments.in_flight,
            "threads": arguments.threads,
            "seed": arguments.seed,
            "w": w.map(|level| level.to_string()),
            "r": r.map(|level| level.to_string()),
            "results": results_json(self.measured),
        })
    }
}

/// Name and latencies of each kind of operation that was done, and of both together.
fn kinds(measured: &Measured) -> Vec<(&'static str, Histogram<u64>)> {
    let mut kinds = Vec::new();
    for (name, histogram) in [("get", &measured.reads), ("put", &measured.writes)] {
        if !histogram.is_empty() {
            kinds.push((name, histogram.clone()));
        }
    }
    if kinds.len() == 2 {
        let mut all = measured.reads.clone();
        all += &measured.writes;
        kinds.push(("all", all));
    }
    kinds
}

fn render(measured: &Measured) -> String {
    let headings = ["", "DONE", "PER SECOND", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut grid = Grid::new(&headings, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for (name, histogram) in kinds(measured) {
        let mut row = vec![
            name.to_owned(),
            count_text(histogram.len()),
            count_text(per_second(histogram.len(), measured.seconds)),
        ];
        row.extend(
            PERCENTILES.iter().map(|(_, at)| latency_text(histogram.value_at_percentile(*at))),
        );
        row.push(latency_text(histogram.max()));
        grid.row(row);
    }
    let mut text = grid.render();
    let failed: u64 = measured.errors.values().sum();
    text.push_str(&format!("\n{:.1} s, {} errors\n", measured.seconds, count_text(failed)));
    for (kind, count) in &measured.errors {
        text.push_str(&format!("  {} {kind}\n", count_text(*count)));
    }
    if measured.absent > 0 {
        text.push_str(&format!("{} gets found no value\n", count_text(measured.absent)));
    }
    text
}

fn results_json(measured: &Measured) -> Value {
    let mut results = Map::new();
    for (name, histogram) in kinds(measured) {
        let mut latencies = Map::new();
        for (label, at) in PERCENTILES {
            latencies.insert(label.to_owned(), histogram.value_at_percentile(at).into());
        }
        latencies.insert("max".to_owned(), histogram.max().into());
        latencies.insert("mean".to_owned(), histogram.mean().into());
        let result = json!({
            "done": histogram.len(),
            "per_second": histogram.len() as f64 / measured.seconds.max(1e-6),
            "latency_us": latencies,
        });
        results.insert(name.to_owned(), result);
    }
    json!({
        "seconds": measured.seconds,
        "operations": results,
        "errors": measured.errors,
        "gets_absent": measured.absent,
    })
}

fn per_second(done: u64, seconds: f64) -> u64 {
    (done as f64 / seconds.max(1e-6)).round() as u64
}

/// Microseconds, or milliseconds from ten on.
fn latency_text(microseconds: u64) -> String {
    match microseconds {
        0..10_000 => format!("{microseconds} us"),
        10_000..10_000_000 => format!("{:.1} ms", microseconds as f64 / 1e3),
        _ => format!("{:.1} s", microseconds as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let mut measured = Measured::new();
        for latency_us in 1..=1_000 {
            measured.reads.record(latency_us).expect("in range");
        }
        measured.writes.record(20_000).expect("in range");
        measured.errors.insert("timeout", 2);
        measured.absent = 3;
        measured.seconds = 2.0;
        measured
    }

    #[test]
    fn the_text_is_golden() {
        assert_eq!(
            render(&measured()),
            "      DONE  PER SECOND      p50      p90      p99    p99.9   p99.99      max\n\
             get  1,000         500   500 us   900 us   990 us  1000 us  1000 us  1000 us\n\
             put      1           1  20.0 ms  20.0 ms  20.0 ms  20.0 ms  20.0 ms  20.0 ms\n\
             all  1,001         501   501 us   901 us   991 us  1000 us  20.0 ms  20.0 ms\n\
             \n\
             2.0 s, 2 errors\n  \
               2 timeout\n\
             3 gets found no value\n"
        );
    }

    #[test]
    fn the_json_has_percentiles_in_microseconds_and_errors_by_kind() {
        let json = results_json(&measured());
        assert_eq!(json["operations"]["get"]["latency_us"]["p99"], 990);
        assert_eq!(json["operations"]["all"]["done"], 1_001);
        assert_eq!(json["errors"], json!({ "timeout": 2 }));
        assert_eq!(json["gets_absent"], 3);
    }
}
