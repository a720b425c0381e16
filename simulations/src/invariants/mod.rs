//! What must always hold (the design's section 12), one file each, checked while a run goes on or
//! at its end. Those that the code of the day cannot have yet are pending, and are said to be.

pub(crate) mod acknowledged;
pub(crate) mod bounds;
pub(crate) mod contexts;
pub(crate) mod convergence;
pub(crate) mod crashes;
pub(crate) mod digests;
pub(crate) mod dots;
pub(crate) mod floors;
pub(crate) mod fsyncs;
pub(crate) mod hints;
pub(crate) mod losses;
pub(crate) mod merges;
pub(crate) mod monotonic;
pub(crate) mod owners;
pub(crate) mod reads;
pub(crate) mod records;
pub(crate) mod refused;

use crate::plan::Schedule;

/// What became of one invariant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How often it was checked.
    pub checks: u64,
    /// How it was first found not to hold.
    pub violation: Option<String>,
}

impl Verdict {
    /// Counts a check, and keeps the first that failed.
    pub(crate) fn expect(&mut self, holds: bool, text: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds && self.violation.is_none() {
            self.violation = Some(text());
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The invariant's number in the design's section 12.
    pub number: u8,
    /// What it says, in short.
    pub says: &'static str,
    /// What became of it; why it is pending where it is not checked.
    pub verdict: Result<Verdict, &'static str>,
}

/// All checks of a run.
pub(crate) struct Checks {
    pub(crate) acknowledged: Verdict,
    pub(crate) dots: dots::Dots,
    pub(crate) contexts: Verdict,
    pub(crate) merges: merges::Merges,
    pub(crate) reads: Verdict,
    pub(crate) monotonic: Verdict,
    pub(crate) refused: Verdict,
    pub(crate) owners: owners::Owners,
    pub(crate) records: records::Records,
    pub(crate) digests: digests::DigestCheck,
    pub(crate) convergence: Verdict,
    pub(crate) crashes: crashes::Crashes,
    pub(crate) floors: floors::Floors,
    pub(crate) hints: Verdict,
    pub(crate) losses: losses::Losses,
    pub(crate) fsyncs: fsyncs::Fsyncs,
    pub(crate) bounds: bounds::Bounds,
}

impl Checks {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        Self {
            acknowledged: Verdict::default(),
            dots: dots::Dots::default(),
            contexts: Verdict::default(),
            merges: merges::Merges::default(),
            reads: Verdict::default(),
            monotonic: Verdict::default(),
            refused: Verdict::default(),
            owners: owners::Owners::new(schedule),
            records: records::Records::default(),
            digests: digests::DigestCheck::default(),
            convergence: Verdict::default(),
            crashes: crashes::Crashes::default(),
            floors: floors::Floors::default(),
            hints: Verdict::default(),
            losses: losses::Losses::default(),
            fsyncs: fsyncs::Fsyncs::default(),
            bounds: bounds::Bounds::default(),
        }
    }

    fn checked(&self) -> [(u8, &'static str, &Verdict); 17] {
        [
            (1, "an acknowledged write is present or superseded", &self.acknowledged),
            (2, "a dot names one event, an actor one life", &self.dots.verdict),
            (3, "a context covers what was returned, for its key only", &self.contexts),
            (4, "merge is commutative, associative, idempotent", &self.merges.verdict),
            (5, "a strict read takes in every earlier write, nothing invented", &self.reads),
            (6, "reads with a majority R never go backwards", &self.monotonic),
            (7, "what was certainly not done is never seen", &self.refused),
            (8, "every vnode has N distinct owners, on distinct racks", &self.owners.verdict),
            (9, "one version of the record, one content", &self.records.verdict),
            (11, "every hint is delivered or counted", &self.hints),
            (12, "a digest equals the fold of its store", &self.digests.verdict),
            (13, "after the faults: progress, and replicas become equal", &self.convergence),
            (14, "under a floor nothing comes back", &self.floors.verdict),
            (15, "after a crash what was fsynced is there", &self.crashes.verdict),
            (16, "no acknowledgement after a failed fsync", &self.fsyncs.verdict),
            (17, "every queue keeps its bound", &self.bounds.verdict),
            (18, "a replica that lost state counts for nothing", &self.losses.verdict),
        ]
    }

    /// Whether any invariant was found not to hold.
    pub(crate) fn is_violated(&self) -> bool {
        self.checked().iter().any(|(_, _, verdict)| verdict.violation.is_some())
    }

    /// The report's lines, by number.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let checked = self.checked().into_iter().map(|(number, says, verdict)| Line {
            number,
            says,
            verdict: Ok(verdict.clone()),
        });
        let pending = |(number, says, reason)| Line { number, says, verdict: Err(reason) };
        let mut lines: Vec<Line> = checked.chain(PENDING.into_iter().map(pending)).collect();
        lines.sort_by_key(|line| line.number);
        lines
    }
}

/// Invariants that later work brings within reach.
const PENDING: [(u8, &str, &str); 2] = [
    (10, "a change of owners is durable in both sets", "owners do not change yet"),
    (19, "the same seed gives the same trace", "the crate's tests run seeds twice and compare"),
];
