//! Invariant 8: every virtual node has N distinct owners, or as many as there are members, on
//! distinct racks where possible (FAILURES row 11). Judged of every record that a node follows.

use std::collections::BTreeSet;

use quoit_ring::{ClusterRecord, Epoch};

use super::Verdict;
use crate::plan::Schedule;

pub(crate) struct Owners {
    pub(crate) verdict: Verdict,
    owners: usize,
    racks: usize,
    judged: BTreeSet<Epoch>,
}

impl Owners {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        let owners = schedule.machines.len().min(3);
        let racks = owners.min(schedule.zones as usize);
        Self { verdict: Verdict::default(), owners, racks, judged: BTreeSet::new() }
    }

    pub(crate) fn on_record(&mut self, record: &ClusterRecord) {
        if !self.judged.insert(record.epoch) {
            return;
        }
        self.verdict.expect(record.check().is_ok(), || format!("{:?}", record.check()));
        for owners in &record.owners {
            let distinct: BTreeSet<_> = owners.iter().collect();
            let zones = owners.iter().map(|at| &record.members[usize::from(*at)].zone);
            let racks: BTreeSet<_> = zones.collect();
            let holds = distinct.len() == self.owners && racks.len() >= self.racks;
            self.verdict.expect(holds, || format!("owners {owners:?} on racks {racks:?}"));
        }
    }
}
