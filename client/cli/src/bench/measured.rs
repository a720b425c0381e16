//! What one process measures while it runs: latencies by kind, errors, and a series of intervals.
//!
//! Histograms leave a process packed (HdrHistogram's V2 encoding, in base64), so that those of
//! several processes can be added without loss.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

use super::workload::Kind;

/// The longest latency that is told from longer ones, in microseconds: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Latencies are kept with so many digits.
const DIGITS: u8 = 3;
/// A series has at most so many intervals; the last takes in whatever comes later.
pub(super) const INTERVALS_MAX: usize = 2_000;

/// An empty histogram of microseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).expect("the bounds are in range")
}

/// A histogram in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Packed(String);

/// A histogram that came from another process is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a histogram is not what this program writes")]
pub(super) struct UnpackError;

impl Packed {
    pub(super) fn new(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(histogram, &mut bytes)
            .expect("memory takes it, and no count reaches 2^63");
        Self(STANDARD.encode(bytes))
    }

    /// Adds it to another.
    pub(super) fn add_to(&self, sum: &mut Histogram<u64>) -> Result<(), UnpackError> {
        let bytes = STANDARD.decode(&self.0).map_err(|_| UnpackError)?;
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|_| UnpackError)?;
        sum.add(&histogram).map_err(|_| UnpackError)
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was done.
    Done(Extra),
    /// It was certainly not done, or read nothing.
    Failed(&'static str),
    /// It may be done.
    Unknown(&'static str),
}

/// What is counted of an operation beside its latency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extra {
    /// Reads that found no value; they count as done.
    pub(super) absent: u64,
    /// Items that a scan brought.
    pub(super) items: u64,
    /// Rounds of an update after its first.
    pub(super) rounds_more: u64,
}

/// When an operation was meant to start, was started and ended: nanoseconds since the run's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) intended_ns: u64,
    pub(super) started_ns: u64,
    pub(super) ended_ns: u64,
}

/// What one process measured. Latencies are in microseconds, of operations that were done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// From the end of the warm-up to the end of the last operation.
    pub(super) seconds: f64,
    pub(super) kinds: BTreeMap<Kind, MeasuredKind>,
    /// In an open loop: from the intended start to the actual one.
    pub(super) waited: Packed,
    pub(super) absent: u64,
    pub(super) items: u64,
    pub(super) rounds_more: u64,
    /// In an open loop: due when too many waited.
    pub(super) refused: u64,
    /// In an open loop: due and not started when the time was over.
    pub(super) left: u64,
    /// By the time of their ends.
    pub(super) intervals: Vec<MeasuredInterval>,
}

/// One kind of operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MeasuredKind {
    pub(super) latencies: Packed,
    /// By reason.
    pub(super) failed: BTreeMap<String, u64>,
    /// By reason.
    pub(super) unknown: BTreeMap<String, u64>,
}

/// An interval of a series.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct MeasuredInterval {
    pub(super) kinds: BTreeMap<Kind, Packed>,
    /// Failed and unknown.
    pub(super) errors: u64,
}

/// Takes in operations as they end.
#[derive(Debug)]
pub(super) struct Recorder {
    measured_from_ns: u64,
    interval_ns: u64,
    kinds: BTreeMap<Kind, RecordedKind>,
    waited: Histogram<u64>,
    extra: Extra,
    intervals: Vec<MeasuredInterval>,
    /// Of the interval that is not packed yet.
    errors: u64,
}

#[derive(Debug)]
struct RecordedKind {
    total: Histogram<u64>,
    /// Of the interval that is not packed yet.
    interval: Histogram<u64>,
    failed: BTreeMap<&'static str, u64>,
    unknown: BTreeMap<&'static str, u64>,
}

impl RecordedKind {
    fn new() -> Self {
        Self {
            total: histogram(),
            interval: histogram(),
            failed: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }
}

impl Recorder {
    /// Takes in what was meant to start at `measured_from_ns` or later.
    pub(super) fn new(measured_from_ns: u64, interval_ns: u64) -> Self {
        assert!(interval_ns > 0, "time is cut into intervals");
        Self {
            measured_from_ns,
            interval_ns,
            kinds: BTreeMap::new(),
            waited: histogram(),
            extra: Extra::default(),
            intervals: Vec::new(),
            errors: 0,
        }
    }

    /// An operation ended.
    pub(super) fn record(&mut self, kind: Kind, times: Times, ended: Ended) {
        if times.intended_ns < self.measured_from_ns {
            return;
        }
        self.pack_intervals_before(times.ended_ns);
        let recorded = self.kinds.entry(kind).or_insert_with(RecordedKind::new);
        match ended {
            Ended::Done(extra) => {
                self.extra.absent += extra.absent;
                self.extra.items += extra.items;
                self.extra.rounds_more += extra.rounds_more;
                let latency_us = times.ended_ns.saturating_sub(times.intended_ns) / 1_000;
                recorded.total.saturating_record(latency_us);
                recorded.interval.saturating_record(latency_us);
            }
            Ended::Failed(reason) => {
                *recorded.failed.entry(reason).or_default() += 1;
                self.errors += 1;
            }
            Ended::Unknown(reason) => {
                *recorded.unknown.entry(reason).or_default() += 1;
                self.errors += 1;
            }
        }
        let waited_us = times.started_ns.saturating_sub(times.intended_ns) / 1_000;
        self.waited.saturating_record(waited_us);
    }

    /// How many operations are done.
    pub(super) fn done(&self) -> u64 {
        self.kinds.values().map(|kind| kind.total.len()).sum()
    }

    /// All that was recorded, once the last operation ended at `ended_ns`.
    pub(super) fn finish(mut self, ended_ns: u64, refused: u64, left: u64) -> Measured {
        self.pack_intervals_before(ended_ns);
        let last = self.pack_interval();
        if !last.kinds.is_empty() || last.errors > 0 {
            self.intervals.push(last);
        }
        let names = |counts: BTreeMap<&'static str, u64>| {
            counts.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect()
        };
        let kinds = self.kinds.into_iter().map(|(kind, recorded)| {
            let latencies = Packed::new(&recorded.total);
            let (failed, unknown) = (names(recorded.failed), names(recorded.unknown));
            (kind, MeasuredKind { latencies, failed, unknown })
        });
        Measured {
            seconds: ended_ns.saturating_sub(self.measured_from_ns) as f64 / 1e9,
            kinds: kinds.collect(),
            waited: Packed::new(&self.waited),
            absent: self.extra.absent,
            items: self.extra.items,
            rounds_more: self.extra.rounds_more,
            refused,
            left,
            intervals: self.intervals,
        }
    }

    /// Packs the current interval, and empty ones after it, until that of `now_ns` is current.
    fn pack_intervals_before(&mut self, now_ns: u64) {
        let number = now_ns.saturating_sub(self.measured_from_ns) / self.interval_ns;
        let number = usize::try_from(number).unwrap_or(usize::MAX).min(INTERVALS_MAX - 1);
        while self.intervals.len() < number {
            let packed = self.pack_interval();
            self.intervals.push(packed);
        }
    }

    fn pack_interval(&mut self) -> MeasuredInterval {
        let mut packed =
            MeasuredInterval { kinds: BTreeMap::new(), errors: std::mem::take(&mut self.errors) };
        for (kind, recorded) in &mut self.kinds {
            if !recorded.interval.is_empty() {
                packed.kinds.insert(*kind, Packed::new(&recorded.interval));
                recorded.interval.reset();
            }
        }
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn times(intended_ns: u64, started_ns: u64, ended_ns: u64) -> Times {
        Times { intended_ns, started_ns, ended_ns }
    }

    fn unpacked(packed: &Packed) -> Histogram<u64> {
        let mut sum = histogram();
        packed.add_to(&mut sum).expect("packed here");
        sum
    }

    #[test]
    fn only_what_was_done_after_the_warm_up_has_a_latency_from_its_intended_start() {
        let mut recorder = Recorder::new(SECOND, SECOND);
        let done = Ended::Done(Extra { absent: 1, ..Extra::default() });
        recorder.record(Kind::Get, times(SECOND - 1, SECOND, 2 * SECOND), done);
        recorder.record(Kind::Get, times(SECOND, SECOND + 250_000, SECOND + 750_000), done);
        recorder.record(Kind::Put, times(SECOND, SECOND, 95 * SECOND), done);
        recorder.record(Kind::Put, times(SECOND, SECOND, 2 * SECOND), Ended::Failed("timeout"));
        recorder.record(Kind::Put, times(SECOND, SECOND, 2 * SECOND), Ended::Unknown("lost"));
        assert_eq!(recorder.done(), 2);
        let measured = recorder.finish(95 * SECOND, 3, 4);
        assert_eq!(unpacked(&measured.kinds[&Kind::Get].latencies).max(), 750);
        assert!(unpacked(&measured.kinds[&Kind::Put].latencies).max() >= LATENCY_US_MAX);
        assert_eq!(unpacked(&measured.waited).max(), 250);
        assert_eq!(measured.absent, 2);
        let put = &measured.kinds[&Kind::Put];
        assert_eq!(put.failed, BTreeMap::from([("timeout".to_owned(), 1)]));
        assert_eq!(put.unknown, BTreeMap::from([("lost".to_owned(), 1)]));
        assert_eq!((measured.refused, measured.left), (3, 4));
        assert!((measured.seconds - 94.0).abs() < 1e-9);
    }

    #[test]
    fn operations_belong_to_the_interval_that_they_ended_in() {
        let mut recorder = Recorder::new(0, SECOND);
        let done = Ended::Done(Extra::default());
        recorder.record(Kind::Get, times(0, 0, SECOND / 2), done);
        recorder.record(Kind::Get, times(0, 0, 3 * SECOND), done);
        // Ended before, but recorded after another that ended later: it is not lost.
        recorder.record(Kind::Get, times(0, 0, 3 * SECOND - 1), done);
        recorder.record(Kind::Get, times(0, 0, 4 * SECOND), Ended::Failed("timeout"));
        let measured = recorder.finish(4 * SECOND + 1, 0, 0);
        let counts: Vec<u64> = measured
            .intervals
            .iter()
            .map(|interval| interval.kinds.values().map(|packed| unpacked(packed).len()).sum())
            .collect();
        assert_eq!(counts, [1, 0, 0, 2, 0]);
        assert_eq!(measured.intervals[4].errors, 1);
    }

    #[test]
    fn a_series_has_a_bound() {
        let mut recorder = Recorder::new(0, 1);
        for ended_ns in [1, SECOND, 2 * SECOND] {
            recorder.record(Kind::Get, times(0, 0, ended_ns), Ended::Done(Extra::default()));
        }
        let measured = recorder.finish(2 * SECOND, 0, 0);
        assert_eq!(measured.intervals.len(), INTERVALS_MAX);
        let last = measured.intervals.last().expect("some");
        assert_eq!(unpacked(&last.kinds[&Kind::Get]).len(), 2);
    }

    #[test]
    fn what_was_measured_survives_the_way_between_processes() {
        let mut recorder = Recorder::new(0, SECOND);
        let done = Ended::Done(Extra { rounds_more: 2, ..Extra::default() });
        recorder.record(Kind::ReadModifyWrite, times(0, 0, 5_000_000), done);
        let measured = recorder.finish(SECOND / 2, 0, 0);
        let line = serde_json::to_string(&measured).expect("it has a JSON form");
        assert!(line.contains("\"read-modify-write\""), "{line}");
        assert_eq!(serde_json::from_str::<Measured>(&line).expect("as written"), measured);
        for damaged in ["", "AAAA", "%"] {
            assert_eq!(Packed(damaged.into()).add_to(&mut histogram()), Err(UnpackError));
        }
    }
}
