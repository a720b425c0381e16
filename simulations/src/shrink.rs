//! Cutting a failing schedule down to a small one that violates the same invariant: delta debugging
//! (Zeller and Hildebrandt, 2002) over faults, clients, tables, keys, operations and machines.

use std::collections::BTreeSet;

use crate::plan::Schedule;
use crate::report::Report;
use crate::run::run;

/// What a shrinking has come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The report of the shortest schedule that was found.
    pub report: Report,
    /// How many runs that took.
    pub runs: u32,
}

struct Shrinker {
    number: u8,
    best: Report,
    runs: u32,
    runs_max: u32,
}

/// Shrinks a schedule by at most `runs_max` runs; `None` where it does not fail.
pub fn shrink(schedule: &Schedule, runs_max: u32) -> Option<Shrunk> {
    let best = run(schedule, false);
    let number = best.violation.as_ref()?.number;
    let mut shrinker = Shrinker { number, best, runs: 1, runs_max };
    loop {
        let before = shrinker.size();
        shrinker.cut_tail();
        shrinker.cut_faults();
        shrinker.cut_tables();
        shrinker.cut_keys();
        shrinker.cut_operations();
        shrinker.cut_machines();
        if shrinker.size() == before || shrinker.runs >= runs_max {
            return Some(Shrunk { report: shrinker.best, runs: shrinker.runs });
        }
    }
}

impl Shrinker {
    fn schedule(&self) -> &Schedule {
        &self.best.schedule
    }

    fn size(&self) -> usize {
        let schedule = self.schedule();
        schedule.operations.len() + schedule.faults.len() + schedule.machines.len()
    }

    /// Whether a schedule fails in the same way; it is the best one then.
    fn fails(&mut self, schedule: &Schedule) -> bool {
        if self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        let report = run(schedule, false);
        let same = report.violation.as_ref().is_some_and(|it| it.number == self.number);
        if same {
            self.best = report;
        }
        same
    }

    /// What comes after the violation is of no use.
    fn cut_tail(&mut self) {
        let mut schedule = self.schedule().clone();
        let half = schedule.operations.len() / 2;
        schedule.operations.truncate(half);
        let until = schedule.operations.last().map_or(0, |it| it.at_ms);
        schedule.faults.retain(|fault| fault.at_ms <= until);
        if half > 0 && self.fails(&schedule) {
            self.cut_tail();
        }
    }

    /// Takes out ever smaller parts of a list, as long as that leaves the failure.
    fn cut<T: Clone>(
        &mut self,
        get: impl Fn(&Schedule) -> Vec<T>,
        set: impl Fn(&mut Schedule, Vec<T>),
    ) {
        let mut part = get(self.schedule()).len().div_ceil(2);
        while part > 0 {
            let mut at = 0;
            while at < get(self.schedule()).len() {
                let mut list = get(self.schedule());
                list.drain(at..(at + part).min(list.len()));
                let mut schedule = self.schedule().clone();
                set(&mut schedule, list);
                if !self.fails(&schedule) {
                    at += part;
                }
            }
            part = if part == 1 { 0 } else { part.div_ceil(2) };
        }
    }

    fn cut_faults(&mut self) {
        self.cut(|it| it.faults.clone(), |it, faults| it.faults = faults);
    }

    fn cut_operations(&mut self) {
        self.cut(|it| it.operations.clone(), |it, operations| it.operations = operations);
    }

    fn cut_tables(&mut self) {
        let used = |it: &Schedule| {
            let tables: BTreeSet<u32> = it.operations.iter().map(|it| it.table).collect();
            tables.into_iter().collect::<Vec<u32>>()
        };
        self.cut(used, |it, tables| it.operations.retain(|it| tables.contains(&it.table)));
    }

    fn cut_keys(&mut self) {
        let used = |it: &Schedule| {
            let keys: BTreeSet<u32> = it.operations.iter().map(|it| it.key).collect();
            keys.into_iter().collect::<Vec<u32>>()
        };
        self.cut(used, |it, keys| it.operations.retain(|it| keys.contains(&it.key)));
    }

    /// The last machine goes, and with it the faults that name it.
    fn cut_machines(&mut self) {
        let mut schedule = self.schedule().clone();
        schedule.machines.pop();
        let left = schedule.machines.len();
        schedule.faults.retain(|it| (it.fault.greatest_node() as usize) < left);
        let fits = schedule.tables.iter().all(|table| usize::from(table.replication) <= left);
        if left > 0 && fits && self.fails(&schedule) {
            self.cut_machines();
        }
    }
}
