//! What a benchmark found, for people and on standard output for programs.

use serde_json::{Value, json};

use super::arguments::Parameters;
use super::document::ResultsDocument;
use super::results::{OpenResults, Results, Summary};
use crate::render::{Grid, count_text};

/// Settings and results in one JSON object.
pub(super) fn json(parameters: &Parameters, results: &Results) -> Value {
    let mut report = json!(parameters);
    report["results"] = json!(ResultsDocument::new(results));
    report
}

/// A table of kinds, and what went wrong.
pub(super) fn render(results: &Results) -> String {
    let headings = ["", "DONE", "PER SECOND", "mean", "p50", "p95", "p99", "p99.9", "max"];
    let mut grid = Grid::new(&headings, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for kind in &results.kinds {
        let summary = Summary::new(&kind.latencies);
        let latencies = [
            summary.mean_us.round() as u64,
            summary.p50_us,
            summary.p95_us,
            summary.p99_us,
            summary.p999_us,
            summary.max_us,
        ];
        let mut row = vec![
            kind.name.to_owned(),
            count_text(summary.done),
            count_text(per_second(summary.done, results.seconds)),
        ];
        row.extend(latencies.map(latency_text));
        grid.row(row);
    }
    let mut text = grid.render();
    let errors: u64 = results.errors().values().sum();
    text.push_str(&format!("\n{:.1} s, {} errors\n", results.seconds, count_text(errors)));
    for kind in results.kinds.iter().filter(|kind| kind.name != super::results::ALL) {
        for (outcome, counts) in [("failed", &kind.failed), ("unknown", &kind.unknown)] {
            for (reason, count) in counts {
                let count = count_text(*count);
                text.push_str(&format!("  {count} {} {outcome}: {reason}\n", kind.name));
            }
        }
    }
    for (count, what) in [
        (results.absent, "reads found nothing"),
        (results.items, "items were scanned"),
        (results.rounds_more, "updates began again beside another writer"),
    ] {
        if count > 0 {
            text.push_str(&format!("{} {what}\n", count_text(count)));
        }
    }
    if let Some(open) = &results.open {
        text.push_str(&render_open(open));
    }
    text
}

fn render_open(open: &OpenResults) -> String {
    let waited = Summary::new(&open.waited);
    let mut text = format!(
        "from the intended to the actual start: p50 {}, p99 {}, max {}\n",
        latency_text(waited.p50_us),
        latency_text(waited.p99_us),
        latency_text(waited.max_us)
    );
    let not_started = open.refused + open.left;
    if not_started > 0 {
        text.push_str(&format!(
            "{} were NOT STARTED, and are in no percentile: {} found the backlog full, {} waited \
             when the time was over\n",
            count_text(not_started),
            count_text(open.refused),
            count_text(open.left)
        ));
    }
    text
}

fn per_second(done: u64, seconds: f64) -> u64 {
    (done as f64 / seconds.max(1e-6)).round() as u64
}

/// Microseconds, milliseconds from ten on, or seconds from ten on.
pub(super) fn latency_text(microseconds: u64) -> String {
    match microseconds {
        0..10_000 => format!("{microseconds} us"),
        10_000..10_000_000 => format!("{:.1} ms", microseconds as f64 / 1e3),
        _ => format!("{:.1} s", microseconds as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::arguments::tests::parameters;
    use crate::bench::results::tests::measured;

    #[test]
    fn the_text_is_golden() {
        let closed = Results::new(&[measured()], 1_000, false).expect("packed here");
        let text = "      DONE  PER SECOND     mean      p50      p95      p99    p99.9      max\n\
             get  1,000         500   501 us   500 us   950 us   990 us   999 us  1000 us\n\
             put      1           1  20.0 ms  20.0 ms  20.0 ms  20.0 ms  20.0 ms  20.0 ms\n\
             all  1,001         501   520 us   501 us   951 us   991 us  1000 us  20.0 ms\n\
             \n\
             2.0 s, 3 errors\n  \
               2 put failed: timeout\n  \
               1 put unknown: unknown outcome\n\
             3 reads found nothing\n";
        assert_eq!(render(&closed), text);
        let open = Results::new(&[measured()], 1_000, true).expect("packed here");
        let more = "from the intended to the actual start: p50 0 us, p99 0 us, max 0 us\n\
             12 were NOT STARTED, and are in no percentile: 5 found the backlog full, 7 waited when \
             the time was over\n";
        assert_eq!(render(&open), format!("{text}{more}"));
    }

    #[test]
    fn the_json_has_settings_and_results() {
        let results = Results::new(&[measured()], 1_000, false).expect("packed here");
        let json = json(&parameters(), &results);
        assert_eq!(json["keys"], 1_000);
        assert_eq!(json["distribution"], "zipfian");
        assert_eq!(json["results"]["operations"]["get"]["latency_us"]["p99"], 990.0);
        assert_eq!(json["results"]["open_loop"], Value::Null);
    }
}
