//! `quoit bench compare`: later results against a first one, as ratios with their spread.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::document::{Document, RunDocument};
use super::report::latency_text;
use crate::failure::CommandError;
use crate::output::Output;
use crate::render::{Grid, count_text};

/// Compare results: ratios of throughput and percentiles, and their spread.
///
/// A ratio is that of the medians of the repetitions; its range is that of all pairs of one
/// repetition here and one there. A range that includes 1 says that nothing was shown.
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// The result.json that others are compared with.
    #[arg(value_name = "BASE.json")]
    base: PathBuf,
    /// The others.
    #[arg(value_name = "OTHER.json", required = true)]
    others: Vec<PathBuf>,
}

/// What is compared of each kind of operation.
const METRICS: [&str; 7] = ["per second", "mean", "p50", "p95", "p99", "p99.9", "max"];

/// A metric of a kind, there and here.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    kind: String,
    metric: &'static str,
    base: f64,
    other: f64,
    ratio: f64,
    least: f64,
    greatest: f64,
}

pub(crate) fn run(arguments: &CompareArguments, output: Output) -> Result<(), CommandError> {
    let read = |path: &PathBuf| {
        Document::read(path).map_err(|error| CommandError::BadInput(error.to_string()))
    };
    let base = read(&arguments.base)?;
    for path in &arguments.others {
        let other = read(path)?;
        check(&arguments.base, &base, path, &other)?;
        let rows = compare(&base, &other);
        let differences = differences(&base, &other);
        if output.is_json() {
            let names = [arguments.base.display().to_string(), path.display().to_string()];
            output.json(&to_json(&names, &differences, &rows))?;
        } else {
            let heading = format!(
                "workload {}: {} ({} runs) against {} ({} runs)\n",
                base.parameters.workload.name(),
                path.display(),
                other.runs.len(),
                arguments.base.display(),
                base.runs.len()
            );
            output.text(&format!(
                "{heading}{}{}\n",
                render_differences(&differences),
                render(&rows)
            ))?;
        }
    }
    Ok(())
}

/// What was measured must be the same; how may differ.
fn check(
    base_path: &std::path::Path,
    base: &Document,
    other_path: &std::path::Path,
    other: &Document,
) -> Result<(), CommandError> {
    let [a, b] = [base, other].map(|document| document.parameters.workload.name());
    if a != b {
        return Err(CommandError::BadInput(format!(
            "{} is of workload {a}, {} of workload {b}: nothing can be said of one by the other",
            base_path.display(),
            other_path.display()
        )));
    }
    let [a, b] = [base, other].map(|document| document.parameters.rate.is_some());
    if a != b {
        return Err(CommandError::BadInput(format!(
            "of {} and {} one is an open loop (--rate) and one a closed loop: their latencies do not \
             compare",
            base_path.display(),
            other_path.display()
        )));
    }
    Ok(())
}

/// Settings that are not the same: name, there, here.
fn differences(base: &Document, other: &Document) -> Vec<(String, String, String)> {
    let [base, other] = [base, other].map(|document| json!(document.parameters));
    let (Value::Object(base), Value::Object(other)) = (base, other) else { return Vec::new() };
    base.iter()
        .filter_map(|(name, there)| {
            let here = other.get(name)?;
            (there != here).then(|| (name.clone(), there.to_string(), here.to_string()))
        })
        .collect()
}

fn render_differences(differences: &[(String, String, String)]) -> String {
    let line = |(name, there, here): &(String, String, String)| {
        format!("NOT THE SAME: {name} is {here}, was {there}\n")
    };
    differences.iter().map(line).collect()
}

/// Each metric of each kind that came in all runs of both.
fn compare(base: &Document, other: &Document) -> Vec<Row> {
    let [base, other] = [base, other].map(|document| metrics(&document.runs));
    let mut rows = Vec::new();
    for ((kind, place), there) in &base {
        let Some(here) = other.get(&(kind.clone(), *place)) else { continue };
        let pairs = there.iter().flat_map(|a| here.iter().map(move |b| ratio(*b, *a)));
        let (least, greatest) =
            pairs.fold((f64::INFINITY, 0.0_f64), |(least, most), it| (least.min(it), most.max(it)));
        let (base, other) = (median(there), median(here));
        rows.push(Row {
            kind: kind.clone(),
            metric: METRICS[*place],
            base,
            other,
            ratio: ratio(other, base),
            least,
            greatest,
        });
    }
    rows
}

/// By kind and place in [`METRICS`]: a value for each run.
fn metrics(runs: &[RunDocument]) -> BTreeMap<(String, usize), Vec<f64>> {
    let mut metrics: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for run in runs {
        for (kind, operation) in &run.results.operations {
            for (place, metric) in METRICS.iter().enumerate() {
                let value = match place {
                    0 => Some(operation.per_second),
                    _ => operation.latency_us.get(*metric).copied(),
                };
                if let Some(value) = value {
                    metrics.entry((kind.clone(), place)).or_default().push(value);
                }
            }
        }
    }
    metrics.retain(|_, values| values.len() == runs.len());
    metrics
}

/// A latency under a microsecond counts as one: nothing is divided by zero.
fn ratio(here: f64, there: f64) -> f64 {
    let floor = 1.0;
    if here < floor && there < floor { 1.0 } else { here / there.max(floor) }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        sorted[middle]
    }
}

fn render(rows: &[Row]) -> String {
    let mut grid = Grid::new(&["", "", "BASE", "OTHER", "RATIO", "RANGE"], &[2, 3, 4, 5]);
    for row in rows {
        let shown = |value: f64| match row.metric {
            "per second" => count_text(value.round() as u64),
            _ => latency_text(value.round() as u64),
        };
        grid.row([
            row.kind.clone(),
            row.metric.to_owned(),
            shown(row.base),
            shown(row.other),
            format!("{:.2}", row.ratio),
            format!("{:.2}..{:.2}", row.least, row.greatest),
        ]);
    }
    grid.render()
}

fn to_json(names: &[String; 2], differences: &[(String, String, String)], rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "operation": row.kind,
            "metric": row.metric,
            "base": row.base,
            "other": row.other,
            "ratio": row.ratio,
            "least": row.least,
            "greatest": row.greatest,
        })
    });
    json!({
        "base": names[0],
        "other": names[1],
        "not_the_same": differences.iter().map(|(name, ..)| name).collect::<Vec<_>>(),
        "ratios": rows.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bench::document::tests::document;
    use crate::bench::workload::Workload;

    /// Runs whose gets had these throughputs.
    fn with_throughputs(throughputs: &[f64]) -> Document {
        let mut document = document(throughputs.len());
        for (run, throughput) in document.runs.iter_mut().zip(throughputs) {
            run.results.operations.retain(|kind, _| kind == "get");
            let get = run.results.operations.get_mut("get").expect("it has gets");
            get.per_second = *throughput;
        }
        document
    }

    #[test]
    fn the_ratio_is_of_medians_and_its_range_of_all_pairs() {
        let base = with_throughputs(&[100.0, 80.0, 120.0]);
        let other = with_throughputs(&[150.0, 130.0]);
        let rows = compare(&base, &other);
        assert_eq!(
            render(&rows[..2]),
            "                   BASE   OTHER  RATIO       RANGE\n\
             get  per second     100     140   1.40  1.08..1.88\n\
             get  mean        501 us  501 us   1.00  1.00..1.00\n"
        );
        assert_eq!(rows.len(), METRICS.len());
    }

    #[test]
    fn other_workloads_and_loops_are_refused_and_other_settings_are_told() {
        let base = with_throughputs(&[1.0]);
        let paths = [Path::new("a.json"), Path::new("b.json")];
        let mut other = base.clone();
        other.parameters.workload = Workload::B;
        let error = check(paths[0], &base, paths[1], &other).expect_err("another workload");
        assert!(error.to_string().contains("a.json is of workload a, b.json of workload b"));
        let mut other = base.clone();
        other.parameters.rate = Some(5);
        let error = check(paths[0], &base, paths[1], &other).expect_err("an open loop");
        assert!(error.to_string().contains("--rate"));
        let mut other = base.clone();
        other.parameters.in_flight = 9;
        check(paths[0], &base, paths[1], &other).expect("how may differ");
        let text = render_differences(&differences(&base, &other));
        assert_eq!(text, "NOT THE SAME: in_flight is 9, was 8\n");
    }

    #[test]
    fn nothing_divides_by_zero() {
        assert_eq!(ratio(0.0, 0.0), 1.0);
        assert_eq!(ratio(10.0, 0.0), 10.0);
        assert_eq!(ratio(0.0, 10.0), 0.0);
    }
}
