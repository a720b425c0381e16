//! Linearizability of one key's register by the search of Wing and Gong with Lowe's memory of what was
//! tried, as Porcupine does it.
//!
//! The search is exponential in the worst case: it gives up after [`STEPS_MAX`] steps, and says so. A
//! read that was not answered proves nothing and is left out, and so is a write of unknown end whose
//! value nobody read: it can always be taken for never done.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Keyed, Verdict};
use crate::history::{HistoryError, Kind, Value};

/// Steps of one key's search; beyond them it is undecided.
pub(super) const STEPS_MAX: usize = 200_000;
/// Steps of all the searches that make a proof smaller.
const SHRINK_STEPS_MAX: usize = 2_000_000;
/// The name under which undecided keys are counted.
pub(super) const UNDECIDED: &str = "undecided";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Read(Option<i64>),
    Write(Option<i64>),
    Cas(Option<i64>, Option<i64>),
}

#[derive(Debug, Clone)]
struct Entry {
    act: Act,
    began: usize,
    /// `usize::MAX` where no end is known.
    ended: usize,
    lines: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Linearizable,
    Not,
    Undecided,
}

/// Checks one key.
pub(super) fn check(
    key: i64,
    calls: &[Keyed<'_>],
    is_allowed: bool,
    verdict: &mut Verdict,
) -> Result<(), HistoryError> {
    let mut entries = Vec::new();
    for keyed in calls {
        let act = act(keyed).ok_or_else(|| {
            keyed.wrong("a register has `read`, `write` and `cas` of numbers and nil")
        })?;
        let left_out = match keyed.call.kind() {
            Kind::Fail => true,
            Kind::Info | Kind::Invoke => matches!(act, Act::Read(_)),
            Kind::Ok => false,
        };
        if !left_out {
            let (began, ended) = (keyed.call.began(), keyed.call.ended());
            entries.push(Entry { act, began, ended, lines: keyed.call.lines() });
        }
    }
    leave_out_unread(&mut entries);
    let mut steps = STEPS_MAX;
    match search(&entries, &mut steps) {
        Answer::Linearizable => {}
        Answer::Undecided => *verdict.counts.entry((UNDECIDED, true)).or_default() += 1,
        Answer::Not => {
            let entries = shrink(entries);
            verdict.add(Anomaly {
                name: "not linearizable",
                is_allowed,
                key,
                message: "no order of these operations, each between its beginning and its end, \
                          explains what was read"
                    .to_owned(),
                operations: entries.into_iter().flat_map(|entry| entry.lines).collect(),
            });
        }
    }
    Ok(())
}

fn act(keyed: &Keyed<'_>) -> Option<Act> {
    let number = |value: &Value| match value {
        Value::Int(number) => Some(Some(*number)),
        Value::Nil => Some(None),
        _ => None,
    };
    match keyed.f() {
        "read" if !keyed.call.is_ok() => Some(Act::Read(None)),
        "read" => number(keyed.value).map(Act::Read),
        "write" => number(keyed.value).map(Act::Write),
        "cas" => match keyed.value.as_list()? {
            [from, to] => Some(Act::Cas(number(from)?, number(to)?)),
            _ => None,
        },
        _ => None,
    }
}

/// Without a compare-and-set, a write of unknown end that nobody read changes nothing.
fn leave_out_unread(entries: &mut Vec<Entry>) {
    if entries.iter().any(|entry| matches!(entry.act, Act::Cas(..))) {
        return;
    }
    let read: BTreeSet<_> = entries
        .iter()
        .filter_map(|entry| match entry.act {
            Act::Read(value) => Some(value),
            Act::Write(_) | Act::Cas(..) => None,
        })
        .collect();
    entries.retain(|entry| match entry.act {
        Act::Write(value) => entry.ended != usize::MAX || read.contains(&value),
        Act::Read(_) | Act::Cas(..) => true,
    });
}

/// What the register holds afterwards, if that can happen.
fn step(state: Option<i64>, act: Act) -> Option<Option<i64>> {
    match act {
        Act::Read(value) => (value == state).then_some(state),
        Act::Write(value) => Some(value),
        Act::Cas(from, to) => (from == state).then_some(to),
    }
}

type Tried = BTreeSet<(Vec<u64>, Option<i64>)>;

/// Looks for an order. Depth first: `done` is what was put in order so far.
fn search(entries: &[Entry], steps: &mut usize) -> Answer {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|at| entries[*at].began);
    let mut done = vec![0_u64; entries.len().div_ceil(64)];
    let is_done = |done: &[u64], at: usize| done[at / 64] >> (at % 64) & 1 == 1;
    let mut tried = Tried::new();
    // What was taken, with the state before it; and the place in `order` from which to go on.
    let mut taken: Vec<(usize, Option<i64>)> = Vec::new();
    let (mut state, mut from) = (None, 0);
    loop {
        let open = || order.iter().filter(|at| !is_done(&done, **at));
        if open().all(|at| entries[*at].ended == usize::MAX) {
            return Answer::Linearizable;
        }
        // Whoever began after another had ended cannot come before it.
        let first_end = open().map(|at| entries[*at].ended).min().unwrap_or(usize::MAX);
        let mut next = None;
        for (place, at) in order.iter().enumerate().skip(from) {
            if entries[*at].began > first_end {
                break;
            }
            if is_done(&done, *at) {
                continue;
            }
            *steps = steps.saturating_sub(1);
            if *steps == 0 {
                return Answer::Undecided;
            }
            if let Some(after) = step(state, entries[*at].act) {
                done[at / 64] |= 1 << (at % 64);
                if tried.insert((done.clone(), after)) {
                    next = Some((place, after));
                    break;
                }
                done[at / 64] &= !(1 << (at % 64));
            }
        }
        match next {
            Some((place, after)) => {
                taken.push((place, state));
                (state, from) = (after, 0);
            }
            None => {
                let Some((place, before)) = taken.pop() else { return Answer::Not };
                let at = order[place];
                done[at / 64] &= !(1 << (at % 64));
                (state, from) = (before, place + 1);
            }
        }
    }
}

/// Leaves out what the proof does not need: the end of the history, then one value after another (its
/// writes with its reads), then one read after another.
fn shrink(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut steps = SHRINK_STEPS_MAX;
    let mut without = |entries: &mut Vec<Entry>, keep: &dyn Fn(&Entry) -> bool| {
        let fewer: Vec<Entry> = entries.iter().filter(|entry| keep(entry)).cloned().collect();
        let mut left = steps.min(STEPS_MAX);
        let before = left;
        if search(&fewer, &mut left) == Answer::Not {
            *entries = fewer;
        }
        steps -= before - left;
    };
    let mut ends: Vec<usize> = entries.iter().map(|entry| entry.ended).collect();
    ends.sort_unstable();
    // The shortest beginning that cannot be explained, by halves.
    let (mut low, mut high) = (0, ends.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        let bound = ends[middle];
        let fewer: Vec<Entry> = entries
            .iter()
            .filter(|entry| entry.began < bound)
            .map(|entry| {
                let ended = if entry.ended > bound { usize::MAX } else { entry.ended };
                Entry { ended, ..entry.clone() }
            })
            .filter(|entry| entry.ended != usize::MAX || !matches!(entry.act, Act::Read(_)))
            .collect();
        if search(&fewer, &mut STEPS_MAX.clone()) == Answer::Not {
            entries = fewer;
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let values: BTreeMap<Option<i64>, ()> = entries
        .iter()
        .flat_map(|entry| match entry.act {
            Act::Read(value) | Act::Write(value) => [value, value],
            Act::Cas(from, to) => [from, to],
        })
        .map(|value| (value, ()))
        .collect();
    for value in values.into_keys() {
        without(&mut entries, &|entry| match entry.act {
            Act::Read(other) | Act::Write(other) => other != value,
            Act::Cas(from, to) => from != value && to != value,
        });
    }
    for index in entries.iter().map(|entry| entry.began).collect::<Vec<_>>() {
        // A write whose value is read stays: without it the read would prove something else.
        let read: BTreeSet<_> = entries
            .iter()
            .filter_map(|entry| match entry.act {
                Act::Read(value) => Some(value),
                Act::Write(_) | Act::Cas(..) => None,
            })
            .collect();
        without(&mut entries, &|entry| {
            let is_needed = matches!(entry.act, Act::Write(value) if read.contains(&value))
                || matches!(entry.act, Act::Cas(..));
            entry.began != index || is_needed
        });
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::super::{Model, tests::found};

    #[test]
    fn concurrent_writes_may_be_read_in_one_order() {
        let text = "
            0 invoke write 1
            1 invoke write 2
            2 invoke read
            2 ok read 1
            2 invoke read
            2 ok read 2
            0 ok write 1
            1 ok write 2
            3 invoke read
            3 ok read 2";
        assert_eq!(found(Model::Register, text), []);
    }

    #[test]
    fn new_then_old_is_found_and_shown_by_few_lines() {
        let text = "
            0 invoke write 7
            0 ok write 7
            0 invoke write 1
            0 ok write 1
            1 invoke read
            1 ok read 1
            0 invoke write 2
            1 invoke read
            1 ok read 2
            1 invoke read
            1 ok read 1
            0 ok write 2
            1 invoke read
            1 ok read 2";
        let found = found(Model::Register, text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "not linearizable");
        // Write 1, write 2 (its end is not needed for the proof), and the two reads.
        let lines = &found[0].1;
        for needed in [2, 6, 7, 8, 9, 10] {
            assert!(lines.contains(&needed), "{needed} is not in {lines:?}");
        }
        assert!(!lines.contains(&0) && !lines.contains(&13), "{lines:?}");
    }

    #[test]
    fn an_unknown_write_may_happen_at_any_later_time() {
        let text = "
            0 invoke write 1
            0 info write 1
            1 invoke write 2
            1 ok write 2
            1 invoke read
            1 ok read 2
            1 invoke read
            1 ok read 1";
        assert_eq!(found(Model::Register, text), []);
        let twice = format!("{text}\n1 invoke read\n1 ok read 2");
        assert_eq!(found(Model::Register, &twice)[0].0, "not linearizable");
    }

    #[test]
    fn compare_and_set_is_one_step() {
        let valid = "
            0 invoke write 1
            0 ok write 1
            0 invoke cas [1 2]
            1 invoke cas [1 3]
            0 ok cas [1 2]
            1 fail cas [1 3]";
        assert_eq!(found(Model::Register, valid), []);
        let both = valid.replace("1 fail cas", "1 ok cas");
        assert_eq!(found(Model::Register, &both)[0].0, "not linearizable");
    }

    #[test]
    fn a_search_that_takes_too_long_says_so() {
        // Many concurrent writes, and reads that no order explains.
        let writes: String = (0..26).map(|at| format!("{at} invoke write {at}\n")).collect();
        let reads: String = (0..26).map(|at| format!("{} invoke read\n", 100 + at)).collect();
        let ends: String = (0..26).map(|at| format!("{} ok read {}\n", 100 + at, at)).collect();
        let text = format!(
            "{writes}{reads}{ends}200 invoke read\n200 ok read 3\n200 invoke read\n200 ok read 4\n\
             200 invoke read\n200 ok read 3\n"
        );
        let history = crate::history::tests::history(&text);
        let verdict = super::super::check(Model::Register, &history).expect("a register");
        assert!(verdict.is_valid());
        assert!(verdict.notes.iter().any(|note| note.contains("not decided")), "{verdict:?}");
    }
}
