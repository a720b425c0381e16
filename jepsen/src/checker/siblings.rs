//! Registers whose concurrent values all stay: what each quorum read must and may give.
//!
//! A write says which values its context covers. A value is *known* once its write was acknowledged or
//! a read has shown it. A read that begins later *must* give it, unless a write that covers it may have
//! been done before the read ended; and *may not* give it any more once a write that covers it is known.
//! This is the model of the simulator's ledger (section 4.4 of the Dynamo paper).

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Keyed, Verdict};
use crate::history::{Call, HistoryError, Kind};

struct Write<'a> {
    call: Call<'a>,
    deletes: bool,
    /// From here on it is known to be done, and by which read, if it was not acknowledged before.
    known: usize,
    shown_by: Option<Call<'a>>,
    /// The writes that cover it.
    covered_by: Vec<i64>,
}

impl Write<'_> {
    /// The lines that prove that it was done.
    fn proof(&self) -> Vec<usize> {
        match self.shown_by {
            Some(read) => [vec![self.call.began()], read.lines()].concat(),
            None => self.call.lines(),
        }
    }
}

struct Read<'a> {
    call: Call<'a>,
    values: BTreeSet<i64>,
}

/// Checks one key; what reads before `strict_from` give is allowed to be stale.
pub(super) fn check(
    key: i64,
    calls: &[Keyed<'_>],
    strict_from: usize,
    verdict: &mut Verdict,
) -> Result<(), HistoryError> {
    let (writes, reads) = parse(key, calls, verdict)?;
    let mut told = BTreeSet::new();
    for read in &reads {
        let mut tell = |name, is_allowed: bool, value: i64, message, lines: Vec<usize>| {
            // One value is told once a kind, however often it is read.
            if told.insert((name, value, is_allowed)) {
                let operations = [lines, read.call.lines()].concat();
                verdict.add(Anomaly { name, is_allowed, key, message, operations });
            }
        };
        let is_early = read.call.began() < strict_from;
        for value in &read.values {
            if let Some((name, lines)) = invented(*value, &writes, read) {
                tell(name, false, *value, format!("value {value} is read"), lines);
            } else if let Some((name, by, lines)) = superseded(*value, &writes, read) {
                let message = format!("value {value} is read after {by} had replaced it");
                tell(name, is_early, *value, message, lines);
            }
        }
        for (value, write) in writes.iter().filter(|(value, _)| !read.values.contains(value)) {
            if write.deletes || write.known > read.call.began() || may_be_gone(write, &writes, read)
            {
                continue;
            }
            let again = reads.iter().find(|later| {
                later.call.began() > read.call.began() && later.values.contains(value)
            });
            let (name, mut lines) = (if again.is_some() { "stale" } else { "lost" }, write.proof());
            lines.extend(again.iter().flat_map(|later| later.call.lines()));
            let message =
                format!("value {value} is missing, and no write that covers it had begun");
            tell(name, is_early, *value, message, lines);
        }
    }
    Ok(())
}

type Parsed<'a> = (BTreeMap<i64, Write<'a>>, Vec<Read<'a>>);

fn parse<'a>(
    key: i64,
    calls: &[Keyed<'a>],
    verdict: &mut Verdict,
) -> Result<Parsed<'a>, HistoryError> {
    let mut writes: BTreeMap<i64, Write<'a>> = BTreeMap::new();
    let mut reads = Vec::new();
    let mut covers = Vec::new();
    for keyed in calls {
        match keyed.f() {
            "write" | "delete" => {
                let value = keyed.value.field("value").and_then(|value| value.as_int());
                let covered = keyed.value.field("covers").and_then(|covers| covers.as_ints());
                let (Some(value), Some(covered)) = (value, covered) else {
                    return Err(keyed.wrong("a write is {:value NUMBER, :covers [NUMBER ...]}"));
                };
                covers.extend(covered.into_iter().map(|covered| (value, covered)));
                let write = Write {
                    call: keyed.call,
                    deletes: keyed.f() == "delete",
                    known: keyed.call.ended(),
                    shown_by: None,
                    covered_by: Vec::new(),
                };
                if writes.insert(value, write).is_some() {
                    return Err(keyed.wrong("the value was written before: each is written once"));
                }
            }
            "read" if keyed.call.is_ok() => {
                let values = keyed.value.as_ints();
                let values = values.ok_or_else(|| keyed.wrong("a read gives a list of numbers"))?;
                let distinct: BTreeSet<i64> = values.iter().copied().collect();
                if distinct.len() < values.len() {
                    verdict.add(Anomaly {
                        name: "duplicate",
                        is_allowed: false,
                        key,
                        message: "a read gives a value twice".to_owned(),
                        operations: keyed.call.lines(),
                    });
                }
                reads.push(Read { call: keyed.call, values: distinct });
            }
            "read" => {}
            _ => return Err(keyed.wrong("a register has `write`, `delete` and `read`")),
        }
    }
    for (by, covered) in covers {
        if let Some(write) = writes.get_mut(&covered) {
            write.covered_by.push(by);
        }
    }
    for read in &reads {
        for value in &read.values {
            if let Some(write) = writes.get_mut(value)
                && read.call.ended() < write.known
            {
                (write.known, write.shown_by) = (read.call.ended(), Some(read.call));
            }
        }
    }
    Ok((writes, reads))
}

/// Why nobody can have written what is read.
fn invented(
    value: i64,
    writes: &BTreeMap<i64, Write<'_>>,
    read: &Read<'_>,
) -> Option<(&'static str, Vec<usize>)> {
    match writes.get(&value) {
        None => Some(("never written", Vec::new())),
        Some(write) if write.call.kind() == Kind::Fail => {
            Some(("failed but there", write.call.lines()))
        }
        Some(write) if write.call.began() > read.call.ended() => {
            Some(("read before it was written", write.call.lines()))
        }
        Some(_) => None,
    }
}

/// The write that covers what is read and was known before the read began.
fn superseded(
    value: i64,
    writes: &BTreeMap<i64, Write<'_>>,
    read: &Read<'_>,
) -> Option<(&'static str, i64, Vec<usize>)> {
    let write = &writes[&value];
    let known = |by: &&i64| writes[*by].known < read.call.began();
    let by = *write.covered_by.iter().find(known)?;
    let covering = &writes[&by];
    let name = if covering.deletes { "resurrected" } else { "superseded but there" };
    Some((name, by, [vec![write.call.began()], covering.proof()].concat()))
}

/// Whether a write that covers this one may have been done when the read ended.
fn may_be_gone(write: &Write<'_>, writes: &BTreeMap<i64, Write<'_>>, read: &Read<'_>) -> bool {
    write.covered_by.iter().map(|by| &writes[by]).any(|covering| {
        covering.call.kind() != Kind::Fail && covering.call.began() < read.call.ended()
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Model, tests::found};

    /// Two concurrent values, both acknowledged; a third covers the first.
    const WRITTEN: &str = "
        0 invoke write {:value 1 :covers []}
        0 ok write {:value 1 :covers []}
        1 invoke write {:value 2 :covers []}
        1 ok write {:value 2 :covers []}
        2 invoke write {:value 3 :covers [1]}
        2 ok write {:value 3 :covers [1]}\n";

    fn after(text: &str) -> Vec<(&'static str, Vec<usize>)> {
        found(Model::Siblings, &format!("{WRITTEN}{text}"))
    }

    #[test]
    fn all_that_nothing_covers_is_read() {
        assert_eq!(after("0 invoke read\n0 ok read [2 3]"), []);
        // A write under way may have covered it, and so may one whose end is not known.
        assert_eq!(
            after(
                "1 invoke write {:value 4 :covers [2 3]}
                 0 invoke read
                 0 ok read [4]
                 1 info write {:value 4 :covers [2 3]}
                 0 invoke read
                 0 ok read [4]"
            ),
            []
        );
    }

    #[test]
    fn an_acknowledged_value_that_nothing_covers_is_never_missing() {
        assert_eq!(after("0 invoke read\n0 ok read [3]"), [("lost", vec![2, 3, 6, 7])]);
        assert_eq!(
            after("0 invoke read\n0 ok read [3]\n0 invoke read\n0 ok read [2 3]"),
            [("stale", vec![2, 3, 6, 7, 8, 9])]
        );
    }

    #[test]
    fn a_covered_value_is_not_read_again() {
        assert_eq!(
            after("0 invoke read\n0 ok read [1 2 3]"),
            [("superseded but there", vec![0, 4, 5, 6, 7])]
        );
    }

    #[test]
    fn a_deleted_value_does_not_come_back() {
        assert_eq!(
            after(
                "0 invoke delete {:value 4 :covers [2 3]}
                 0 ok delete {:value 4 :covers [2 3]}
                 0 invoke read
                 0 ok read []
                 0 invoke read
                 0 ok read [3]"
            ),
            [("resurrected", vec![4, 6, 7, 10, 11])]
        );
    }

    #[test]
    fn what_failed_or_was_never_written_is_not_read() {
        assert_eq!(
            after(
                "0 invoke write {:value 4 :covers []}
                 0 fail write {:value 4 :covers []}
                 0 invoke read
                 0 ok read [2 3 4 5]"
            ),
            [("failed but there", vec![6, 7, 8, 9]), ("never written", vec![8, 9])]
        );
    }

    #[test]
    fn what_was_read_once_is_read_again() {
        assert_eq!(
            after(
                "0 invoke write {:value 4 :covers []}
                 0 info write {:value 4 :covers []}
                 1 invoke read
                 1 ok read [2 3 4]
                 1 invoke read
                 1 ok read [2 3]"
            ),
            [("lost", vec![6, 8, 9, 10, 11])]
        );
    }

    #[test]
    fn a_sloppy_register_may_be_stale_until_the_final_reads() {
        let early = format!("{WRITTEN}0 invoke read\n0 ok read [3]\nn info final\n");
        let stale = |end: &str| {
            let text = format!("{early}0 invoke read\n0 ok read {end}");
            let verdict =
                super::super::check(Model::Sloppy, &crate::history::tests::history(&text));
            let verdict = verdict.expect("a register");
            (verdict.is_valid(), verdict.anomalies.len())
        };
        assert_eq!(stale("[2 3]"), (true, 1));
        assert_eq!(stale("[3]"), (false, 2));
    }
}
