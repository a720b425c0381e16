//! Checkers: what a history proves to be wrong, each time with the fewest lines that prove it.

mod convergence;
mod counter;
mod latest;
mod linearizable;
mod session;
mod set_full;
mod siblings;

use std::collections::BTreeMap;

use crate::history::{Call, HistoryError, Operation, Process, Value, calls};

/// So many anomalies of one kind are kept with their lines; more are only counted.
const EXAMPLES_MAX: usize = 20;
/// The nemesis' line after which nothing is wrong any more and everything is read.
pub(crate) const FINAL: &str = "final";
/// A read of one replica alone.
pub(crate) const REPLICA_READ: &str = "replica-read";

/// What a history is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Model {
    /// `add` of unique elements and `read` of all: nothing that was known to be there is missing.
    Set,
    /// A register whose reads give all concurrent values: `write` and `delete` say what they cover.
    Siblings,
    /// The same with sloppy quorums: until the final reads anything may be stale.
    Sloppy,
    /// A register in which the greatest dot wins: regular and monotonic; that it is not linearizable
    /// is allowed.
    Latest,
    /// `add` and `read` of a sum: within bounds, and never back.
    Counter,
    /// `write` of rising numbers and `read` of each process' greatest: each process reads its own writes,
    /// and never less than before.
    Session,
    /// A register with `read`, `write` and `cas`, linearizable.
    Register,
}

/// Something that a history shows and that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anomaly {
    /// Its kind, in few words.
    pub(crate) name: &'static str,
    /// The model promises nothing better.
    pub(crate) is_allowed: bool,
    pub(crate) key: i64,
    pub(crate) message: String,
    /// The lines that show it.
    pub(crate) operations: Vec<usize>,
}

/// What a check has come to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Some of each kind.
    pub(crate) anomalies: Vec<Anomaly>,
    /// How many there are of each kind, and whether they are allowed.
    pub(crate) counts: BTreeMap<(&'static str, bool), usize>,
    /// Acknowledged elements that no read could have shown.
    never_read: usize,
    /// What a reader should know: what was checked, and what could not be.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    /// Whether nothing was found that must not be.
    pub(crate) fn is_valid(&self) -> bool {
        self.counts.keys().all(|(_, is_allowed)| *is_allowed)
    }

    fn add(&mut self, mut anomaly: Anomaly) {
        anomaly.operations.sort_unstable();
        anomaly.operations.dedup();
        let count = self.counts.entry((anomaly.name, anomaly.is_allowed)).or_default();
        *count += 1;
        if *count <= EXAMPLES_MAX {
            self.anomalies.push(anomaly);
        }
    }
}

/// Checks a history.
///
/// # Errors
/// [`HistoryError`] where it is not in order, or not of the model.
pub(crate) fn check(model: Model, history: &[Operation]) -> Result<Verdict, HistoryError> {
    let calls = calls(history)?;
    let mut verdict = Verdict::default();
    let read = calls.iter().filter(|call| call.is_ok() && call.invoke.f == "read").count();
    verdict.notes.push(format!("{} operations, {read} reads that were answered", calls.len()));
    if read == 0 {
        verdict.notes.push("nothing was read, so nothing was checked".to_owned());
    }
    let is_final =
        |operation: &Operation| operation.process == Process::Nemesis && operation.f == FINAL;
    let final_from = history.iter().find(|operation| is_final(operation));
    let final_from = final_from.map_or(usize::MAX, |operation| operation.index);
    for (key, calls) in by_key(&calls) {
        match model {
            Model::Set => set_full::check(key, &calls, &mut verdict)?,
            Model::Siblings => siblings::check(key, &calls, 0, &mut verdict)?,
            Model::Sloppy => siblings::check(key, &calls, final_from, &mut verdict)?,
            Model::Latest => latest::check(key, &calls, &mut verdict)?,
            Model::Counter => counter::check(key, &calls, &mut verdict)?,
            Model::Session => session::check(key, &calls, final_from, &mut verdict)?,
            Model::Register => linearizable::check(key, &calls, false, &mut verdict)?,
        }
    }
    convergence::check(&calls, &mut verdict)?;
    if verdict.never_read > 0 {
        let count = verdict.never_read;
        verdict.notes.push(format!("{count} acknowledged elements were never read afterwards"));
    }
    let undecided = verdict.counts.remove(&(linearizable::UNDECIDED, true));
    if let Some(undecided) = undecided {
        verdict.notes.push(format!(
            "linearizability was not decided for {undecided} keys within {} steps each",
            linearizable::STEPS_MAX
        ));
    }
    Ok(verdict)
}

/// One operation on one key.
#[derive(Debug, Clone, Copy)]
struct Keyed<'a> {
    call: Call<'a>,
    /// What it found or was asked to do, without the key.
    value: &'a Value,
}

impl Keyed<'_> {
    fn f(&self) -> &str {
        &self.call.invoke.f
    }

    fn wrong(&self, message: &str) -> HistoryError {
        HistoryError::Operation { operation: self.call.began(), message: message.to_owned() }
    }
}

/// Parts the operations by their keys (`[key value]`); those without one are all of key 0.
fn by_key<'a>(calls: &[Call<'a>]) -> BTreeMap<i64, Vec<Keyed<'a>>> {
    let mut keys: BTreeMap<i64, Vec<Keyed<'a>>> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.invoke.f != REPLICA_READ) {
        // `cas [from to]` is no key with a value; `cas [key [from to]]` is.
        let is_keyed = call.invoke.f != "cas"
            || call.value().as_pair().is_some_and(|(_, value)| value.as_list().is_some());
        let (key, value) = match (call.invoke.value.as_pair(), call.value().as_pair()) {
            (Some((key, _)), Some((_, value))) if is_keyed => (key, value),
            _ => (0, call.value()),
        };
        keys.entry(key).or_default().push(Keyed { call: *call, value });
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::history;

    /// The anomalies of a small history: name, and the lines that show it.
    pub(super) fn found(model: Model, text: &str) -> Vec<(&'static str, Vec<usize>)> {
        let verdict = check(model, &history(text)).expect("a history of the model");
        verdict.anomalies.into_iter().map(|anomaly| (anomaly.name, anomaly.operations)).collect()
    }

    #[test]
    fn a_history_of_another_model_is_refused() {
        let refused = |model, text| check(model, &history(text)).is_err();
        assert!(refused(Model::Set, "0 invoke read\n0 ok read 7"));
        assert!(refused(Model::Siblings, "0 invoke write [1 2]\n0 ok write [1 2]"));
        assert!(refused(Model::Counter, "0 invoke read\n0 ok read [1]"));
        assert!(refused(Model::Register, "0 invoke enqueue 1\n0 ok enqueue 1"));
        assert!(refused(Model::Session, "0 invoke read\n0 ok read [1]"));
        assert!(refused(Model::Session, "0 invoke write 2\n0 ok write 2\n0 invoke write 1"));
    }

    #[test]
    fn many_anomalies_are_counted_and_some_are_shown() {
        let adds: String =
            (0..50).map(|at| format!("0 invoke add {at}\n0 ok add {at}\n")).collect();
        let history = history(&format!("{adds}1 invoke read\n1 ok read []"));
        let verdict = check(Model::Set, &history).expect("a set");
        assert_eq!(verdict.counts[&("lost", false)], 50);
        assert_eq!(verdict.anomalies.len(), EXAMPLES_MAX);
        assert!(!verdict.is_valid());
    }
}
