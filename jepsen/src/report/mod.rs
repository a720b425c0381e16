//! The report: the folder of one test, which a sceptical reader can judge.

mod charts;
mod html;
mod timeline;

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::checker::{Anomaly, Verdict};
use crate::cluster::{ClusterError, file};
use crate::history::{Operation, edn, json};
use crate::runner::{TestOptions, TestRun};

use timeline::Timeline;

/// Writes everything.
///
/// # Errors
/// [`ClusterError::File`].
pub(crate) fn write(
    directory: &Path,
    options: &TestOptions,
    run: &TestRun,
    verdict: &Verdict,
) -> Result<(), ClusterError> {
    let lines = |name: &str, line: &dyn Fn(&Operation) -> String| {
        let path = directory.join(name);
        let work = || -> std::io::Result<()> {
            let mut out = BufWriter::new(fs::File::create(&path)?);
            for operation in &run.history {
                writeln!(out, "{}", line(operation))?;
            }
            out.flush()
        };
        work().map_err(file("written", &path))
    };
    lines("history.edn", &edn_line)?;
    lines("history.jsonl", &|operation| json::object(operation).to_string())?;
    let timeline = Timeline::of(&run.history);
    let results = results(options, run, verdict, &timeline);
    let text = serde_json::to_string_pretty(&results).unwrap_or_default();
    let path = directory.join("results.json");
    fs::write(&path, text + "\n").map_err(file("written", &path))?;
    let path = directory.join("report.html");
    let page = html::page(options, run, verdict, &timeline);
    fs::write(&path, page).map_err(file("written", &path))
}

pub(crate) fn edn_line(operation: &Operation) -> String {
    let mut text = String::new();
    edn::write(&mut text, operation);
    text
}

fn results(options: &TestOptions, run: &TestRun, verdict: &Verdict, timeline: &Timeline) -> Json {
    let counts: Vec<Json> = verdict
        .counts
        .iter()
        .map(|((name, is_allowed), count)| {
            json!({ "anomaly": name, "allowed": is_allowed, "count": count })
        })
        .collect();
    let faults: Vec<Json> = timeline
        .bands
        .iter()
        .map(|band| {
            json!({
                "fault": band.told,
                "from_s": seconds(band.from),
                "to_s": seconds(band.to),
                "longest_gap_ms": band.gap / 1_000_000,
                "answers_again_after_heal_ms": band.recovery.map(|ns| ns / 1_000_000),
            })
        })
        .collect();
    // When the first proof of something that must not be was complete.
    let shown =
        verdict.anomalies.iter().filter(|anomaly| !anomaly.is_allowed).filter_map(|anomaly| {
            let lines = anomaly.operations.iter().filter_map(|index| run.history.get(*index));
            lines.map(|line| line.time).max()
        });
    let first_shown = shown.min().map(seconds);
    json!({
        "valid": verdict.is_valid() && run.trouble.is_none(),
        "workload": options.workload.name(),
        "nemesis": options.nemesis.name(),
        "seed": options.seed,
        "nodes": options.nodes,
        "rate": options.rate,
        "concurrency": options.concurrency,
        "first_shown_s": first_shown,
        "interrupted": run.interrupted,
        "trouble": run.trouble.as_ref().map(ToString::to_string),
        "operations": { "ok": timeline.ok, "fail": timeline.fail, "info": timeline.info },
        "latency_ms": { "p50": timeline.p50, "p99": timeline.p99, "max": timeline.max },
        "counts": counts,
        "notes": verdict.notes,
        "anomalies": verdict.anomalies.iter().map(|anomaly| of_anomaly(anomaly, &run.history)).collect::<Vec<_>>(),
        "faults": faults,
    })
}

fn of_anomaly(anomaly: &Anomaly, history: &[Operation]) -> Json {
    let lines = anomaly.operations.iter().filter_map(|index| history.get(*index));
    json!({
        "anomaly": anomaly.name,
        "allowed": anomaly.is_allowed,
        "key": anomaly.key,
        "message": anomaly.message,
        "operations": lines.map(edn_line).collect::<Vec<_>>(),
    })
}

/// The verdict for people.
pub(crate) fn print(verdict: &Verdict, history: &[Operation]) {
    for note in &verdict.notes {
        println!("  {note}");
    }
    for ((name, is_allowed), count) in &verdict.counts {
        let allowed =
            if *is_allowed { " (allowed: the model promises nothing better)" } else { "" };
        println!("  {count} x {name}{allowed}");
        let example = verdict
            .anomalies
            .iter()
            .find(|other| (other.name, other.is_allowed) == (*name, *is_allowed));
        if let Some(anomaly) = example.filter(|_| !is_allowed) {
            println!("    key {}: {}", anomaly.key, anomaly.message);
            for line in anomaly.operations.iter().filter_map(|index| history.get(*index)) {
                println!("      {}", edn_line(line));
            }
        }
    }
    println!("  {}", if verdict.is_valid() { "VALID" } else { "INVALID: anomalies were found" });
}

fn seconds(ns: u64) -> f64 {
    (ns / 1_000_000) as f64 / 1_000.0
}
