//! Registers in which the greatest dot wins: regular and monotonic, not linearizable.
//!
//! A write that began after another was acknowledged replaces it for good; one whose end is not known
//! may show up at any time. Reads by a majority never go back to an earlier dot. Two reads that are
//! concurrent with one write may give the new value and then the old one: that is found by the check for
//! linearizability, and allowed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Keyed, Verdict, linearizable};
use crate::history::{Call, HistoryError, Kind, Value};

/// Checks one key.
pub(super) fn check(
    key: i64,
    calls: &[Keyed<'_>],
    verdict: &mut Verdict,
) -> Result<(), HistoryError> {
    let mut written: BTreeMap<i64, Call<'_>> = BTreeMap::new();
    let mut deletes = Vec::new();
    let mut reads = Vec::new();
    for keyed in calls {
        match (keyed.f(), keyed.value) {
            ("write", Value::Int(value)) => {
                if written.insert(*value, keyed.call).is_some() {
                    return Err(keyed.wrong("the value was written before: each is written once"));
                }
            }
            ("write", Value::Nil) => deletes.push(keyed.call),
            ("read", Value::Int(_) | Value::Nil) if keyed.call.is_ok() => reads.push(*keyed),
            ("read", _) if !keyed.call.is_ok() => {}
            _ => return Err(keyed.wrong("a register has `write` and `read` of numbers and nil")),
        }
    }
    let writes: Vec<Call<'_>> =
        written.values().chain(&deletes).filter(|call| call.is_ok()).copied().collect();
    let mut told = BTreeSet::new();
    for read in &reads {
        let fault = match read.value.as_int() {
            Some(value) => of_value(value, written.get(&value), read, &writes),
            None => of_absence(&deletes, read, &writes),
        };
        if let Some((name, message, lines)) = fault
            && told.insert((name, read.value.as_int()))
        {
            let operations = [lines, read.call.lines()].concat();
            verdict.add(Anomaly { name, is_allowed: false, key, message, operations });
        }
    }
    monotonic(key, reads, verdict);
    linearizable::check(key, calls, true, verdict)
}

type Fault = (&'static str, String, Vec<usize>);

/// The acknowledged write that had ended before the read began, and of these began last.
fn newest<'a>(writes: &[Call<'a>], read: &Keyed<'_>) -> Option<Call<'a>> {
    let before = writes.iter().filter(|write| write.ended() < read.call.began());
    before.max_by_key(|write| write.began()).copied()
}

fn of_value(
    value: i64,
    write: Option<&Call<'_>>,
    read: &Keyed<'_>,
    writes: &[Call<'_>],
) -> Option<Fault> {
    let is_read = format!("value {value} is read");
    let Some(write) = write else { return Some(("never written", is_read, Vec::new())) };
    if write.kind() == Kind::Fail {
        return Some(("failed but there", is_read, write.lines()));
    }
    if write.began() > read.call.ended() {
        return Some(("read before it was written", is_read, write.lines()));
    }
    let by = newest(writes, read).filter(|by| write.ended() < by.began())?;
    let message = format!("value {value} is read after a later write was acknowledged");
    Some(("stale", message, [write.lines(), by.lines()].concat()))
}

fn of_absence(deletes: &[Call<'_>], read: &Keyed<'_>, writes: &[Call<'_>]) -> Option<Fault> {
    let by = newest(writes, read)?;
    let may_be = |delete: &Call<'_>| {
        delete.kind() != Kind::Fail
            && delete.began() < read.call.ended()
            && delete.ended() >= by.began()
    };
    if deletes.iter().any(may_be) {
        return None;
    }
    let message = "nothing is read after a write was acknowledged".to_owned();
    Some(("lost", message, by.lines()))
}

fn monotonic(key: i64, mut reads: Vec<Keyed<'_>>, verdict: &mut Verdict) {
    reads.retain(|read| time(read).is_some());
    let mut by_end = reads.clone();
    by_end.sort_by_key(|read| read.call.ended());
    reads.sort_by_key(|read| read.call.began());
    let mut ended = by_end.iter().peekable();
    let mut greatest: Option<&Keyed<'_>> = None;
    for read in &reads {
        while let Some(earlier) = ended.next_if(|earlier| earlier.call.ended() < read.call.began())
        {
            if greatest.is_none_or(|greatest| time(earlier) > time(greatest)) {
                greatest = Some(earlier);
            }
        }
        if let Some(earlier) = greatest
            && time(earlier) > time(read)
        {
            verdict.add(Anomaly {
                name: "went back",
                is_allowed: false,
                key,
                message: "a read gives an earlier dot than a read that had ended before".to_owned(),
                operations: [earlier.call.lines(), read.call.lines()].concat(),
            });
        }
    }
}

/// When what was read was written.
fn time(read: &Keyed<'_>) -> Option<u64> {
    read.call.completion.and_then(|completion| completion.written)
}

#[cfg(test)]
mod tests {
    use super::super::{Model, tests::found};

    #[test]
    fn a_write_under_way_may_be_read_and_then_not() {
        let text = "
            0 invoke write 1
            0 ok write 1
            0 invoke write 2
            1 invoke read
            1 ok read 2
            1 invoke read
            1 ok read 1
            0 ok write 2";
        // Regular, but not linearizable: allowed.
        let verdict = super::super::check(Model::Latest, &crate::history::tests::history(text));
        let verdict = verdict.expect("a register");
        assert!(verdict.is_valid());
        assert_eq!(verdict.counts.keys().collect::<Vec<_>>(), [&("not linearizable", true)]);
    }

    #[test]
    fn a_replaced_value_is_stale() {
        let text = "
            0 invoke write 1
            0 ok write 1
            0 invoke write 2
            0 ok write 2
            1 invoke read
            1 ok read 1";
        assert_eq!(found(Model::Latest, text)[0], ("stale", vec![0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn an_unknown_write_may_show_up_late() {
        let text = "
            0 invoke write 1
            0 info write 1
            1 invoke write 2
            1 ok write 2
            1 invoke read
            1 ok read 1@5";
        assert_eq!(found(Model::Latest, text), []);
    }

    #[test]
    fn an_acknowledged_write_is_not_absent_unless_a_delete_may_be_later() {
        let text = "
            0 invoke write [3 1]
            0 ok write [3 1]
            1 invoke read [3 nil]
            1 ok read [3 nil]";
        assert_eq!(found(Model::Latest, text)[0], ("lost", vec![0, 1, 2, 3]));
        let deleted =
            text.replace("1 invoke read [3 nil]", "2 invoke write [3 nil]\n1 invoke read [3 nil]");
        assert_eq!(found(Model::Latest, &deleted), []);
    }

    #[test]
    fn reads_do_not_go_back_to_an_earlier_dot() {
        let text = "
            0 invoke write 1
            1 invoke write 2
            2 invoke read
            2 ok read 2@20
            2 invoke read
            2 ok read 1@10";
        assert_eq!(found(Model::Latest, text)[0], ("went back", vec![2, 3, 4, 5]));
    }

    #[test]
    fn a_failed_write_is_never_read() {
        let text = "
            0 invoke write 1
            0 fail write 1
            1 invoke read
            1 ok read 1";
        assert_eq!(found(Model::Latest, text)[0], ("failed but there", vec![0, 1, 2, 3]));
    }
}
