//! Sessions: each process reads its own writes, and never less than it has read before (Terry et al.,
//! "Session guarantees for weakly consistent replicated data", 1994).
//!
//! `write` gives the number of this process' write of the key, from 1 on and rising; `read` finds for each
//! process the greatest number of its writes that are in what is there, as `[[process number] ...]`. What
//! one process sees of others may be as old as it likes, until the final reads: these find all.

use std::collections::BTreeMap;

use super::{Anomaly, Keyed, Verdict};
use crate::history::{Call, HistoryError, Kind, Process};

/// A number of a process' writes, and the operation that proves it.
type Proof<'a> = (i64, Call<'a>);

/// Checks one key. Reads that began at `final_from` or later find everything.
pub(super) fn check(
    key: i64,
    calls: &[Keyed<'_>],
    final_from: usize,
    verdict: &mut Verdict,
) -> Result<(), HistoryError> {
    let mut checker = Checker { key, final_from, ..Checker::default() };
    for keyed in calls {
        if keyed.f() == "write" {
            checker.note_write(keyed)?;
        }
    }
    for keyed in calls {
        match keyed.f() {
            "read" if keyed.call.is_ok() => checker.read(keyed, verdict)?,
            "read" => {}
            "write" => checker.wrote(keyed.call),
            _ => return Err(keyed.wrong("a session has `write` and `read`")),
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Checker<'a> {
    key: i64,
    final_from: usize,
    /// Every write, by process and number.
    writes: BTreeMap<(i64, i64), Call<'a>>,
    /// The greatest number of each process that is acknowledged.
    done: BTreeMap<i64, Proof<'a>>,
    /// By session and process: the greatest number that the session has read.
    seen: BTreeMap<(i64, i64), Proof<'a>>,
    /// By session: the greatest number of its own that was acknowledged to it so far.
    own: BTreeMap<i64, Proof<'a>>,
}

fn session(call: &Call<'_>) -> Option<i64> {
    match call.invoke.process {
        Process::Client(process) => Some(process),
        Process::Nemesis => None,
    }
}

fn raise<'a, K: Ord>(greatest: &mut BTreeMap<K, Proof<'a>>, of: K, number: i64, call: Call<'a>) {
    let known = greatest.entry(of).or_insert((number, call));
    if known.0 < number {
        *known = (number, call);
    }
}

impl<'a> Checker<'a> {
    fn note_write(&mut self, keyed: &Keyed<'a>) -> Result<(), HistoryError> {
        let number = keyed.value.as_int().filter(|number| *number > 0);
        let number = number.ok_or_else(|| keyed.wrong("a write gives its number, from 1 on"))?;
        let Some(process) = session(&keyed.call) else { return Ok(()) };
        let last = self.writes.range((process, 0)..=(process, i64::MAX)).next_back();
        if last.is_some_and(|((_, last), _)| *last >= number) {
            return Err(
                keyed.wrong("a process numbers its writes of a key, each greater than the last")
            );
        }
        self.writes.insert((process, number), keyed.call);
        if keyed.call.is_ok() {
            raise(&mut self.done, process, number, keyed.call);
        }
        Ok(())
    }

    /// In the order in which operations begin, which for one process is that of their ends too.
    fn wrote(&mut self, call: Call<'a>) {
        if let (true, Some(process), Some(number)) = (call.is_ok(), session(&call), value(&call)) {
            raise(&mut self.own, process, number, call);
        }
    }

    fn read(&mut self, keyed: &Keyed<'a>, verdict: &mut Verdict) -> Result<(), HistoryError> {
        let Some(reader) = session(&keyed.call) else { return Ok(()) };
        let pairs = keyed.value.as_list().unwrap_or_default().iter().map(|pair| {
            let [process, number] = pair.as_ints()?.try_into().ok()?;
            Some((process, number))
        });
        let is_list = keyed.value.as_list().is_some();
        let found: Option<BTreeMap<i64, i64>> = pairs.collect();
        let found = found.filter(|_| is_list);
        let found = found.ok_or_else(|| keyed.wrong("a read finds `[[process number] ...]`"))?;
        self.invented(keyed.call, &found, verdict);
        let of = |process: i64| found.get(&process).copied().unwrap_or(0);
        let mut say = |name, message: String, proof: &Proof<'_>| {
            let operations = [proof.1.lines(), keyed.call.lines()].concat();
            verdict.add(Anomaly { name, is_allowed: false, key: self.key, message, operations });
        };
        if let Some(own) = self.own.get(&reader).filter(|own| of(reader) < own.0) {
            let (number, was) = (own.0, of(reader));
            let message =
                format!("process {reader} has written {number}, and reads {was} of its own writes");
            say("own write not read", message, own);
        }
        for ((_, process), seen) in self.seen.range((reader, i64::MIN)..=(reader, i64::MAX)) {
            if of(*process) < seen.0 {
                let (number, is) = (seen.0, of(*process));
                let message = format!(
                    "process {reader} has read write {number} of process {process}, and then {is}"
                );
                say("went back", message, seen);
            }
        }
        if keyed.call.began() >= self.final_from {
            for (process, done) in self.done.iter().filter(|(process, done)| of(**process) < done.0)
            {
                let (number, is) = (done.0, of(*process));
                let message = format!(
                    "write {number} of process {process} was acknowledged, and {is} is read at the end"
                );
                say("lost", message, done);
            }
        }
        for (process, number) in found {
            raise(&mut self.seen, (reader, process), number, keyed.call);
        }
        Ok(())
    }

    /// What is read and cannot have been written.
    fn invented(&self, read: Call<'a>, found: &BTreeMap<i64, i64>, verdict: &mut Verdict) {
        for (process, number) in found {
            let write = self.writes.get(&(*process, *number));
            let (name, lines) = match write {
                None => ("never written", Vec::new()),
                Some(write) if write.kind() == Kind::Fail => ("failed but there", write.lines()),
                Some(write) if write.began() > read.ended() => {
                    ("read before it was written", write.lines())
                }
                Some(_) => continue,
            };
            let message = format!("write {number} of process {process} is read");
            let operations = [lines, read.lines()].concat();
            verdict.add(Anomaly { name, is_allowed: false, key: self.key, message, operations });
        }
    }
}

/// The number of a write.
fn value(call: &Call<'_>) -> Option<i64> {
    let value = call.value();
    value.as_pair().map_or(value, |(_, value)| value).as_int()
}

#[cfg(test)]
mod tests {
    use super::super::{Model, tests::found};

    #[test]
    fn others_writes_may_be_seen_late_but_not_one_s_own() {
        let text = "
            1 invoke write [7 1]
            1 ok write [7 1]
            2 invoke read [7 nil]
            2 ok read [7 []]
            1 invoke read [7 nil]
            1 ok read [7 [[1 1]]]
            2 invoke read [7 nil]
            2 ok read [7 [[1 1]]]";
        assert_eq!(found(Model::Session, text), []);
        let stale = text.replace("1 ok read [7 [[1 1]]]", "1 ok read [7 []]");
        assert_eq!(found(Model::Session, &stale), [("own write not read", vec![0, 1, 4, 5])]);
    }

    #[test]
    fn a_session_does_not_read_less_than_before_and_another_one_may() {
        let text = "
            1 invoke write [7 1]
            1 ok write [7 1]
            1 invoke write [7 2]
            1 ok write [7 2]
            2 invoke read [7 nil]
            2 ok read [7 [[1 2]]]
            3 invoke read [7 nil]
            3 ok read [7 [[1 1]]]
            3 invoke read [7 nil]
            3 ok read [7 [[1 2]]]";
        assert_eq!(found(Model::Session, text), []);
        let back = text.replace("3 invoke", "2 invoke").replace("3 ok", "2 ok");
        assert_eq!(found(Model::Session, &back), [("went back", vec![4, 5, 6, 7])]);
    }

    #[test]
    fn unknown_writes_may_be_there_or_not_and_failed_ones_are_not() {
        let text = "
            1 invoke write [7 1]
            1 ok write [7 1]
            1 invoke write [7 2]
            1 info write [7 2]
            2 invoke read [7 nil]
            2 ok read [7 [[1 1]]]
            2 invoke read [7 nil]
            2 ok read [7 [[1 2]]]";
        assert_eq!(found(Model::Session, text), []);
        let failed = text.replace("1 info", "1 fail");
        assert_eq!(found(Model::Session, &failed), [("failed but there", vec![2, 3, 6, 7])]);
    }

    #[test]
    fn nothing_is_read_that_nobody_wrote_or_has_not_begun_to_write() {
        let text = "
            2 invoke read [7 nil]
            2 ok read [7 [[1 1]]]
            1 invoke write [7 1]
            1 ok write [7 1]
            3 invoke read [7 nil]
            3 ok read [7 [[1 1] [4 1]]]";
        let names: Vec<_> = found(Model::Session, text).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["read before it was written", "never written"]);
    }

    #[test]
    fn final_reads_find_every_acknowledged_write() {
        let text = "
            1 invoke write [7 1]
            1 ok write [7 1]
            2 invoke read [7 nil]
            2 ok read [7 []]
            n info final
            9 invoke read [7 nil]
            9 ok read [7 []]";
        assert_eq!(found(Model::Session, text), [("lost", vec![0, 1, 5, 6])]);
    }
}
