//! What all processes measured together, summed up.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::measured::{Measured, Packed, UnpackError, histogram};
use super::workload::Kind;

/// Operations of all kinds together.
pub(super) const ALL: &str = "all";

/// What a run found. Latencies are in microseconds.
#[derive(Debug)]
pub(super) struct Results {
    /// From the end of the warm-up to the end of the last operation.
    pub(super) seconds: f64,
    /// Kinds that came, in their order; then all together, where there are several.
    pub(super) kinds: Vec<KindResults>,
    pub(super) absent: u64,
    pub(super) items: u64,
    pub(super) rounds_more: u64,
    pub(super) open: Option<OpenResults>,
    pub(super) interval_ms: u64,
    pub(super) series: Vec<Interval>,
}

/// One kind of operation.
#[derive(Debug)]
pub(super) struct KindResults {
    pub(super) name: &'static str,
    pub(super) latencies: Histogram<u64>,
    /// Certainly not done, by reason.
    pub(super) failed: BTreeMap<String, u64>,
    /// Perhaps done, by reason.
    pub(super) unknown: BTreeMap<String, u64>,
}

/// What an open loop tells beside latencies.
#[derive(Debug)]
pub(super) struct OpenResults {
    /// From the intended start to the actual one.
    pub(super) waited: Histogram<u64>,
    /// Not started, because too many waited.
    pub(super) refused: u64,
    /// Not started, because the time was over.
    pub(super) left: u64,
}

/// An interval of the series.
#[derive(Debug)]
pub(super) struct Interval {
    /// Since the end of the warm-up.
    pub(super) begins_s: f64,
    /// How long it was: the last one is cut off by the end.
    pub(super) seconds: f64,
    /// As in [`Results::kinds`], those that came in it.
    pub(super) kinds: Vec<IntervalKind>,
    pub(super) errors: u64,
}

/// One kind of operation in an interval.
#[derive(Debug)]
pub(super) struct IntervalKind {
    pub(super) name: &'static str,
    pub(super) summary: Summary,
    /// Kept packed: a series of open ones would fill the memory.
    pub(super) latencies: Packed,
}

/// How many, and how long they took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) done: u64,
    pub(super) mean_us: f64,
    pub(super) p50_us: u64,
    pub(super) p95_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
}

impl Summary {
    pub(super) fn new(latencies: &Histogram<u64>) -> Self {
        Self {
            done: latencies.len(),
            mean_us: latencies.mean(),
            p50_us: latencies.value_at_quantile(0.5),
            p95_us: latencies.value_at_quantile(0.95),
            p99_us: latencies.value_at_quantile(0.99),
            p999_us: latencies.value_at_quantile(0.999),
            max_us: latencies.max(),
        }
    }
}

impl Results {
    /// Adds up what the processes measured.
    pub(super) fn new(
        parts: &[Measured],
        interval_ms: u64,
        is_open: bool,
    ) -> Result<Self, UnpackError> {
        let seconds = parts.iter().map(|part| part.seconds).fold(0.0, f64::max);
        let sum = |count: fn(&Measured) -> u64| parts.iter().map(count).sum();
        let open = if is_open {
            let mut waited = histogram();
            parts.iter().try_for_each(|part| part.waited.add_to(&mut waited))?;
            Some(OpenResults {
                waited,
                refused: sum(|part| part.refused),
                left: sum(|part| part.left),
            })
        } else {
            None
        };
        Ok(Self {
            seconds,
            kinds: kinds(parts)?,
            absent: sum(|part| part.absent),
            items: sum(|part| part.items),
            rounds_more: sum(|part| part.rounds_more),
            open,
            interval_ms,
            series: series(parts, interval_ms, seconds)?,
        })
    }

    /// Failed and unknown, of all kinds, by reason.
    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for kind in self.kinds.iter().filter(|kind| kind.name != ALL) {
            for (reason, count) in kind.failed.iter().chain(&kind.unknown) {
                *errors.entry(reason.clone()).or_default() += count;
            }
        }
        errors
    }
}

fn kinds(parts: &[Measured]) -> Result<Vec<KindResults>, UnpackError> {
    let mut kinds = Vec::new();
    let mut all = KindResults::new(ALL);
    for kind in Kind::ALL {
        let mut results = KindResults::new(kind.name());
        let measured: Vec<_> = parts.iter().filter_map(|part| part.kinds.get(&kind)).collect();
        for part in &measured {
            part.latencies.add_to(&mut results.latencies)?;
            add_counts(&mut results.failed, &part.failed);
            add_counts(&mut results.unknown, &part.unknown);
        }
        if !measured.is_empty() {
            all.latencies.add(&results.latencies).expect("they have the same bounds");
            add_counts(&mut all.failed, &results.failed);
            add_counts(&mut all.unknown, &results.unknown);
            kinds.push(results);
        }
    }
    if kinds.len() > 1 {
        kinds.push(all);
    }
    Ok(kinds)
}

impl KindResults {
    fn new(name: &'static str) -> Self {
        Self { name, latencies: histogram(), failed: BTreeMap::new(), unknown: BTreeMap::new() }
    }
}

fn add_counts(sum: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (reason, count) in counts {
        *sum.entry(reason.clone()).or_default() += count;
    }
}

fn series(
    parts: &[Measured],
    interval_ms: u64,
    seconds: f64,
) -> Result<Vec<Interval>, UnpackError> {
    let length = parts.iter().map(|part| part.intervals.len()).max().unwrap_or(0);
    let interval_s = interval_ms as f64 / 1e3;
    let mut series = Vec::with_capacity(length);
    for number in 0..length {
        let begins_s = number as f64 * interval_s;
        let is_last = number + 1 == length;
        let measured: Vec<_> = parts.iter().filter_map(|part| part.intervals.get(number)).collect();
        let mut interval = Interval {
            begins_s,
            seconds: if is_last { (seconds - begins_s).max(0.0) } else { interval_s },
            kinds: Vec::new(),
            errors: measured.iter().map(|part| part.errors).sum(),
        };
        let mut all = histogram();
        for kind in Kind::ALL {
            let mut latencies = histogram();
            for packed in measured.iter().filter_map(|part| part.kinds.get(&kind)) {
                packed.add_to(&mut latencies)?;
            }
            if !latencies.is_empty() {
                all.add(&latencies).expect("they have the same bounds");
                interval.kinds.push(IntervalKind::new(kind.name(), &latencies));
            }
        }
        if interval.kinds.len() > 1 {
            interval.kinds.push(IntervalKind::new(ALL, &all));
        }
        series.push(interval);
    }
    Ok(series)
}

impl IntervalKind {
    fn new(name: &'static str, latencies: &Histogram<u64>) -> Self {
        Self { name, summary: Summary::new(latencies), latencies: Packed::new(latencies) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::measured::{Ended, Extra, Recorder, Times};

    const MS: u64 = 1_000_000;

    /// A thousand gets of 1 to 1,000 us, a put of 20 ms, errors; 2 s.
    pub(in crate::bench) fn measured() -> Measured {
        let mut recorder = Recorder::new(0, 1_000 * MS);
        let absent = |absent| Ended::Done(Extra { absent, ..Extra::default() });
        let times =
            |intended_ns, ended_ns| Times { intended_ns, started_ns: intended_ns, ended_ns };
        for latency_us in 1..=1_000 {
            let ended_ns = 500 * MS + latency_us * 1_000;
            let ended = absent(u64::from(latency_us <= 3));
            recorder.record(Kind::Get, times(500 * MS, ended_ns), ended);
        }
        recorder.record(Kind::Put, times(1_300 * MS, 1_320 * MS), absent(0));
        recorder.record(Kind::Put, times(0, 1_400 * MS), Ended::Failed("timeout"));
        recorder.record(Kind::Put, times(0, 1_400 * MS), Ended::Failed("timeout"));
        recorder.record(Kind::Put, times(0, 1_400 * MS), Ended::Unknown("unknown outcome"));
        recorder.finish(2_000 * MS, 5, 7)
    }

    #[test]
    fn processes_add_up() {
        let results = Results::new(&[measured(), measured()], 1_000, true).expect("packed here");
        let names: Vec<_> = results.kinds.iter().map(|kind| kind.name).collect();
        assert_eq!(names, ["get", "put", "all"]);
        let all = &results.kinds[2];
        assert_eq!(all.latencies.len(), 2_002);
        assert_eq!(all.unknown["unknown outcome"], 2);
        assert_eq!(results.errors()["timeout"], 4);
        assert_eq!(results.absent, 6);
        let open = results.open.as_ref().expect("asked for");
        assert_eq!((open.refused, open.left), (10, 14));
        assert_eq!(results.series.len(), 2);
        assert_eq!(results.series[0].kinds[0].summary.done, 2_000);
        assert_eq!(results.series[0].kinds[0].summary.p99_us, 990);
        assert_eq!(results.series[1].errors, 6);
    }
}
