//! What a run has come to, for people.

use std::collections::BTreeMap;
use std::fmt;

use quoit_session::{Answer, OperationError};

use crate::invariants::Line;
use crate::plan::Schedule;

/// Counts of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations that were submitted.
    pub submitted: u64,
    /// Sessions' operations by outcome; one that reads and writes is two of them.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Starts that failed, and were tried again.
    pub failed_starts: u64,
}

impl Tally {
    pub(crate) fn on_outcome(&mut self, outcome: &Result<Answer, OperationError>) {
        let name = match outcome {
            Ok(Answer::Got(_)) => "read",
            Ok(Answer::Written(_)) => "written",
            Ok(Answer::Page(_)) => "scanned",
            Ok(Answer::Record(_) | Answer::Status(_) | Answer::Snapshots(_)) => "told",
            Err(OperationError::Unknown { .. }) => "unknown",
            Err(OperationError::Timeout { .. }) => "timed out",
            Err(OperationError::Refused { .. }) => "refused",
            Err(OperationError::Unreachable { .. }) => "unreachable",
            Err(OperationError::Damaged { .. }) => "damaged",
            Err(OperationError::Overloaded { .. }) => "overloaded",
            Err(
                OperationError::TooLarge { .. }
                | OperationError::Level(_)
                | OperationError::UnknownTable(_)
                | OperationError::UnknownNode(_),
            ) => "invalid",
        };
        *self.outcomes.entry(name).or_default() += 1;
    }
}

/// Which invariant a run has violated, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's number; 0 for an assertion of the product or of the simulator.
    pub number: u8,
    /// What was found.
    pub text: String,
}

/// A run's report.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What was played.
    pub schedule: Schedule,
    /// Counts.
    pub tally: Tally,
    /// How long it took in virtual time, in microseconds.
    pub virtual_us: u64,
    /// Messages between nodes, and events in all.
    pub messages: u64,
    /// Events of the world.
    pub events: u64,
    /// A hash of all that happened.
    pub trace_hash: u64,
    /// Each invariant's verdict.
    pub lines: Vec<Line>,
    /// Readable lines of what happened, where they were wanted.
    pub trace: Option<String>,
    /// What went wrong.
    pub violation: Option<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schedule = &self.schedule;
        writeln!(f, "seed        {}", schedule.seed)?;
        writeln!(
            f,
            "cluster     {} nodes in {} zones, {} vnodes, {} clients",
            schedule.machines.len(),
            schedule.zones,
            schedule.vnodes,
            schedule.clients
        )?;
        for table in &schedule.tables {
            write!(f, "table       {}", table.policy)?;
            write!(f, ", N={} R={} W={}", table.replication, table.read, table.write)?;
            writeln!(f, "{}", table.ttl_ms.map_or(String::new(), |ms| format!(", TTL {ms} ms")))?;
        }
        if schedule.expects_loss {
            writeln!(f, "loss        is expected in this run: what is lost is not judged")?;
        }
        write!(f, "operations  {}:", self.tally.submitted)?;
        for (outcome, count) in &self.tally.outcomes {
            write!(f, " {count} {outcome}")?;
        }
        write!(f, "\nfaults      {}:", self.tally.faults.values().sum::<u64>())?;
        for (kind, count) in &self.tally.faults {
            write!(f, " {count} {kind};")?;
        }
        writeln!(
            f,
            "\nvirtual     {:.1} s, {} messages between nodes, {} events",
            self.virtual_us as f64 / 1e6,
            self.messages,
            self.events
        )?;
        writeln!(f, "trace       {:016x}", self.trace_hash)?;
        for line in &self.lines {
            let verdict = match &line.verdict {
                Err(reason) => format!("pending: {reason}"),
                Ok(verdict) if verdict.violation.is_some() => "VIOLATED".to_owned(),
                Ok(verdict) if verdict.checks == 0 => "not met".to_owned(),
                Ok(verdict) => format!("holds ({} checks)", verdict.checks),
            };
            writeln!(f, "{:>2}  {:<66} {verdict}", line.number, line.says)?;
        }
        match &self.violation {
            None => Ok(()),
            Some(Violation { number: 0, text }) => writeln!(f, "\nASSERTION: {text}"),
            Some(Violation { number, text }) => writeln!(f, "\nINVARIANT {number}: {text}"),
        }
    }
}
