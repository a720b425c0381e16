//! Jepsen's `set-full`: an element is known to be there from the moment on that its `add` was
//! acknowledged or a read that shows it has ended. Every read that begins later shows it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Keyed, Verdict};
use crate::history::{HistoryError, Kind};

struct Read<'a> {
    keyed: Keyed<'a>,
    elements: BTreeSet<i64>,
}

/// Checks one key's set.
pub(super) fn check(
    key: i64,
    calls: &[Keyed<'_>],
    verdict: &mut Verdict,
) -> Result<(), HistoryError> {
    let mut adds: BTreeMap<i64, Keyed<'_>> = BTreeMap::new();
    let mut reads = Vec::new();
    for keyed in calls {
        match keyed.f() {
            "add" => {
                let element = keyed.value.as_int();
                let element = element.ok_or_else(|| keyed.wrong("an element is a number"))?;
                if adds.insert(element, *keyed).is_some() {
                    return Err(keyed.wrong("the element was added before: each is added once"));
                }
            }
            "read" if keyed.call.is_ok() => {
                let list = keyed.value.as_ints();
                let list = list.ok_or_else(|| keyed.wrong("a set is a list of numbers"))?;
                let elements: BTreeSet<i64> = list.iter().copied().collect();
                if elements.len() < list.len() {
                    verdict.add(Anomaly {
                        name: "duplicate",
                        is_allowed: false,
                        key,
                        message: "a read shows an element twice".to_owned(),
                        operations: keyed.call.lines(),
                    });
                }
                reads.push(Read { keyed: *keyed, elements });
            }
            "read" => {}
            _ => return Err(keyed.wrong("a set has `add` and `read`")),
        }
    }
    invented(key, &adds, &reads, verdict);
    let mut never_read = 0;
    for (element, add) in adds.iter().filter(|(_, add)| add.call.kind() != Kind::Fail) {
        missing(key, *element, add, &reads, verdict);
        let after = |read: &Read<'_>| read.keyed.call.began() > add.call.ended();
        never_read += usize::from(add.call.is_ok() && !reads.iter().any(after));
    }
    verdict.never_read += never_read;
    Ok(())
}

/// Elements that are read though nobody can have added them.
fn invented(key: i64, adds: &BTreeMap<i64, Keyed<'_>>, reads: &[Read<'_>], verdict: &mut Verdict) {
    let mut told = BTreeSet::new();
    for read in reads {
        for element in &read.elements {
            if told.contains(element) {
                continue;
            }
            let (name, mut lines) = match adds.get(element) {
                None => ("never written", Vec::new()),
                Some(add) if add.call.kind() == Kind::Fail => {
                    ("failed but there", add.call.lines())
                }
                Some(add) if add.call.began() > read.keyed.call.ended() => {
                    ("read before it was written", add.call.lines())
                }
                Some(_) => continue,
            };
            // It is told once, however often it is read.
            told.insert(*element);
            lines.extend(read.keyed.call.lines());
            let message = format!("element {element} is read");
            verdict.add(Anomaly { name, is_allowed: false, key, message, operations: lines });
        }
    }
}

/// Tells of one element that is missing in a read that began after it was known to be there.
fn missing(key: i64, element: i64, add: &Keyed<'_>, reads: &[Read<'_>], verdict: &mut Verdict) {
    let shows = |read: &&Read<'_>| read.elements.contains(&element);
    let first = reads.iter().filter(shows).min_by_key(|read| read.keyed.call.ended());
    let seen = first.map_or(usize::MAX, |read| read.keyed.call.ended());
    let known = add.call.ended().min(seen);
    let later = || reads.iter().filter(|read| read.keyed.call.began() > known);
    let Some(absent) = later().find(|read| !read.elements.contains(&element)) else { return };
    let mut operations = match first {
        Some(read) if seen < add.call.ended() => {
            [vec![add.call.began()], read.keyed.call.lines()].concat()
        }
        _ => add.call.lines(),
    };
    operations.extend(absent.keyed.call.lines());
    let last_absent = later().filter(|read| !shows(read)).map(|read| read.keyed.call.began()).max();
    let back = later().find(|read| shows(read) && Some(read.keyed.call.began()) > last_absent);
    let (name, message) = match back {
        Some(read) => {
            operations.extend(read.keyed.call.lines());
            ("stale", format!("element {element} was there, is missing, and is there again"))
        }
        None => ("lost", format!("element {element} was there and is gone")),
    };
    verdict.add(Anomaly { name, is_allowed: false, key, message, operations });
}

#[cfg(test)]
mod tests {
    use super::super::{Model, tests::found};

    #[test]
    fn what_is_concurrent_or_unknown_may_be_there_or_not() {
        let valid = "
            0 invoke add 1
            1 invoke read
            1 ok read [1]
            0 ok add 1
            2 invoke add 2
            3 invoke read
            2 info add 2
            3 ok read [1]
            4 invoke read
            4 ok read [1 2]";
        assert_eq!(found(Model::Set, valid), []);
    }

    #[test]
    fn an_acknowledged_element_that_is_gone_is_lost() {
        let text = "
            0 invoke add 1
            0 ok add 1
            1 invoke read
            1 ok read [1]
            1 invoke read
            1 ok read []";
        assert_eq!(found(Model::Set, text), [("lost", vec![0, 1, 4, 5])]);
    }

    #[test]
    fn one_that_comes_back_was_stale() {
        let text = "
            0 invoke add 1
            0 ok add 1
            1 invoke read
            1 ok read []
            1 invoke read
            1 ok read [1]";
        assert_eq!(found(Model::Set, text), [("stale", vec![0, 1, 2, 3, 4, 5])]);
    }

    #[test]
    fn what_was_seen_once_stays_though_its_add_was_never_acknowledged() {
        let text = "
            0 invoke add [7 1]
            0 info add [7 1]
            1 invoke read [7 nil]
            1 ok read [7 [1]]
            1 invoke read [7 nil]
            1 ok read [7 []]
            1 invoke read [8 nil]
            1 ok read [8 []]";
        assert_eq!(found(Model::Set, text), [("lost", vec![0, 2, 3, 4, 5])]);
    }

    #[test]
    fn what_nobody_added_or_what_failed_is_never_read() {
        let text = "
            0 invoke add 1
            0 fail add 1
            1 invoke read
            1 ok read [1 2]
            0 invoke add 3
            0 ok add 3";
        assert_eq!(
            found(Model::Set, text),
            [("failed but there", vec![0, 1, 2, 3]), ("never written", vec![2, 3])]
        );
    }
}
