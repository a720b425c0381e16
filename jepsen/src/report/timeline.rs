//! What happened when: latencies, outcomes a second, faults, and how long nothing was answered.

use std::collections::BTreeMap;

use crate::checker::{FINAL, REPLICA_READ};
use crate::history::{Kind, Operation, Process, Value};
use crate::recorder::CLOCKS;

/// One operation that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// When it began, in nanoseconds since the start.
    pub(super) at: u64,
    pub(super) latency: u64,
    pub(super) kind: Kind,
}

/// A fault.
#[derive(Debug, Clone)]
pub(super) struct Band {
    pub(super) told: String,
    pub(super) from: u64,
    pub(super) to: u64,
    /// The longest time in it, or while it was being recovered from, in which nothing was answered.
    pub(super) gap: u64,
    /// From the healing to the first answer; `None` where there was none.
    pub(super) recovery: Option<u64>,
}

/// A test's course.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) points: Vec<Point>,
    pub(super) bands: Vec<Band>,
    /// From when on each node's clock is off by how many milliseconds; only changes.
    pub(super) clocks: BTreeMap<String, Vec<(u64, i64)>>,
    /// The end of the work, before everything is read.
    pub(super) end: u64,
    pub(super) ok: usize,
    pub(super) fail: usize,
    pub(super) info: usize,
    /// Latencies of what was done, in milliseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Timeline {
    pub(super) fn of(history: &[Operation]) -> Self {
        let mut timeline = Self::default();
        let mut open: BTreeMap<i64, u64> = BTreeMap::new();
        let worked = history.iter().take_while(|operation| operation.f != FINAL);
        for operation in worked.filter(|operation| operation.f != REPLICA_READ) {
            timeline.end = operation.time;
            match operation.process {
                Process::Nemesis => timeline.on_nemesis(operation),
                Process::Client(process) if operation.kind == Kind::Invoke => {
                    open.insert(process, operation.time);
                }
                Process::Client(process) => {
                    let at = open.remove(&process).unwrap_or(operation.time);
                    let latency = operation.time - at;
                    timeline.points.push(Point { at, latency, kind: operation.kind });
                }
            }
        }
        let count = |kind| timeline.points.iter().filter(|point| point.kind == kind).count();
        (timeline.ok, timeline.fail, timeline.info) =
            (count(Kind::Ok), count(Kind::Fail), count(Kind::Info));
        timeline.measure();
        timeline
    }

    fn on_nemesis(&mut self, operation: &Operation) {
        let told = match &operation.value {
            Value::Text(text) => text.clone(),
            _ => String::new(),
        };
        match operation.f.as_str() {
            "start" => {
                let (from, to) = (operation.time, u64::MAX);
                self.bands.push(Band { told, from, to, gap: 0, recovery: None });
            }
            CLOCKS => self.on_clocks(operation),
            "stop" | "heal" => {
                if let Some(band) = self.bands.last_mut().filter(|band| band.to == u64::MAX) {
                    band.to = operation.time;
                }
            }
            _ => {}
        }
    }

    fn on_clocks(&mut self, operation: &Operation) {
        let Value::Map(offsets) = &operation.value else { return };
        for (node, offset) in offsets {
            let Some(offset) = offset.as_int() else { continue };
            let course = self.clocks.entry(node.clone()).or_default();
            if course.last().map_or(0, |(_, last)| *last) != offset {
                course.push((operation.time, offset));
            }
        }
    }

    fn measure(&mut self) {
        let is_done = |point: &&Point| point.kind == Kind::Ok;
        let mut latencies: Vec<u64> =
            self.points.iter().filter(is_done).map(|point| point.latency).collect();
        latencies.sort_unstable();
        let at = |percent: usize| {
            let index = latencies.len().saturating_sub(1) * percent / 100;
            milliseconds(latencies.get(index).copied().unwrap_or(0))
        };
        (self.p50, self.p99, self.max) = (at(50), at(99), at(100));
        let mut answers: Vec<u64> =
            self.points.iter().filter(is_done).map(|point| point.at + point.latency).collect();
        answers.sort_unstable();
        let nexts: Vec<u64> =
            self.bands.iter().skip(1).map(|band| band.from).chain([self.end]).collect();
        for (band, next) in self.bands.iter_mut().zip(nexts) {
            band.to = band.to.min(self.end);
            let inside = answers.iter().copied().filter(|at| (band.from..next).contains(at));
            let mut last = band.from;
            for at in inside.chain([next]) {
                band.gap = band.gap.max(at - last);
                last = at;
            }
            let first = answers.iter().find(|at| **at >= band.to);
            band.recovery = first.map(|at| at - band.to);
        }
    }
}

pub(super) fn milliseconds(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;

    #[test]
    fn clocks_are_followed_from_change_to_change() {
        let history = history(
            "n info clocks {:n1 0, :n2 -7}
             n info clocks {:n1 5, :n2 -7}
             n info clocks {:n1 0, :n2 0}",
        );
        let clocks = Timeline::of(&history).clocks;
        assert_eq!(clocks["n1"], [(1_000_000, 5), (2_000_000, 0)]);
        assert_eq!(clocks["n2"], [(0, -7), (2_000_000, 0)]);
    }

    #[test]
    fn gaps_and_recoveries_are_measured() {
        // A line a millisecond.
        let history = history(
            "1 invoke read
             1 ok read [1]
             n info start \"n1 killed\"
             1 invoke read
             2 invoke read
             2 fail read
             n info stop
             1 ok read [1]
             n info final
             3 invoke read
             3 ok read [1]",
        );
        let timeline = Timeline::of(&history);
        assert_eq!((timeline.ok, timeline.fail, timeline.info), (2, 1, 0));
        assert_eq!(timeline.max, 4.0);
        let [band] = timeline.bands.as_slice() else { panic!("one fault") };
        assert_eq!((band.from, band.to), (2_000_000, 6_000_000));
        assert_eq!((band.gap, band.recovery), (5_000_000, Some(1_000_000)));
    }
}
