//! Convergence: at the end every replica of a key, asked alone, holds the same, under the same dots; no two
//! writes have one dot; and nothing is held under a dot, and no actor is spoken of, that no write can have
//! brought.
//!
//! Of a write that is not known to be done, neither the dot nor the actor is known: each may account for one
//! of each that nobody else accounts for.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Keyed, REPLICA_READ, Verdict, by_key};
use crate::history::{Call, Dot, HistoryError, Kind, Value};

/// What one replica holds of a key at the end.
struct Replica<'a> {
    node: i64,
    read: Call<'a>,
    /// The values, and the times of their dots.
    held: Vec<(&'a Value, i64)>,
    actors: &'a [String],
}

/// Compares the last answers of each key's replicas with each other, and with the writes.
pub(super) fn check(calls: &[Call<'_>], verdict: &mut Verdict) -> Result<(), HistoryError> {
    let replicas = replicas(calls, verdict)?;
    for (key, keyed) in &by_key(calls) {
        check_dots(*key, keyed, replicas.get(key).map_or(&[], Vec::as_slice), verdict);
    }
    for (key, replicas) in &replicas {
        let [first, others @ ..] = replicas.as_slice() else { continue };
        if let Some(other) = others.iter().find(|other| other.held != first.held) {
            verdict.add(Anomaly {
                name: "replicas differ",
                is_allowed: false,
                key: *key,
                message: format!(
                    "node {} and node {} hold different values at the end",
                    first.node, other.node
                ),
                operations: [first.read.lines(), other.read.lines()].concat(),
            });
        }
    }
    Ok(())
}

/// The last answer of each replica, by key.
fn replicas<'a>(
    calls: &[Call<'a>],
    verdict: &mut Verdict,
) -> Result<BTreeMap<i64, Vec<Replica<'a>>>, HistoryError> {
    let mut keys: BTreeMap<i64, BTreeMap<i64, Replica<'a>>> = BTreeMap::new();
    let mut unread = 0;
    for call in calls.iter().filter(|call| call.invoke.f == REPLICA_READ) {
        let wrong = |message: &str| HistoryError::Operation {
            operation: call.began(),
            message: message.to_owned(),
        };
        let Some(completion) = call.completion.filter(|_| call.is_ok()) else {
            unread += 1;
            continue;
        };
        let node = completion.node.ok_or_else(|| wrong("a replica-read has a :node"))?;
        let pair = completion.value.as_pair();
        let (key, held) = pair.ok_or_else(|| wrong("a replica-read is of [KEY HELD]"))?;
        let held = held.as_list().and_then(|held| held.iter().map(with_time).collect());
        let held = held.ok_or_else(|| wrong("what a replica holds is a list of [VALUE TIME]"))?;
        let replica = Replica { node, read: *call, held, actors: &completion.actors };
        keys.entry(key).or_default().insert(node, replica);
    }
    if unread > 0 {
        verdict.notes.push(format!("{unread} reads of one replica alone were not answered"));
    }
    let compared: usize = keys.values().map(BTreeMap::len).sum();
    if compared > 0 {
        verdict.notes.push(format!("{compared} replicas of {} keys were compared", keys.len()));
    }
    Ok(keys.into_iter().map(|(key, nodes)| (key, nodes.into_values().collect())).collect())
}

/// What is held, and the time of its dot.
fn with_time(held: &Value) -> Option<(&Value, i64)> {
    match held.as_list()? {
        [value, time] => Some((value, time.as_int()?)),
        _ => None,
    }
}

/// The number that a write is of; that what is held is of, where it is of one.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Text(text) => text.parse().ok(),
        Value::Map(_) => value.field("value")?.as_int(),
        other => other.as_int(),
    }
}

/// Checks the dots of a key, or of the keys of a partition.
fn check_dots(key: i64, keyed: &[Keyed<'_>], replicas: &[Replica<'_>], verdict: &mut Verdict) {
    let mut dots: BTreeMap<&Dot, Call<'_>> = BTreeMap::new();
    // The dots' times by the numbers that were written, where that is told.
    let mut of_number: BTreeMap<i64, (i64, Call<'_>)> = BTreeMap::new();
    // So many writes are not known to be done, or their dots are not.
    let mut unknown = 0;
    for Keyed { call, value } in keyed.iter().filter(|keyed| keyed.f() != "read") {
        let dot = call.completion.filter(|_| call.is_ok()).and_then(|done| done.dot.as_ref());
        let Some(dot) = dot else {
            unknown += usize::from(call.kind() != Kind::Fail);
            continue;
        };
        if let Some(number) = number(value) {
            of_number.insert(number, (dot.time, *call));
        }
        if let Some(other) = dots.insert(dot, *call) {
            verdict.add(Anomaly {
                name: "two writes under one dot",
                is_allowed: false,
                key,
                message: format!("the dot {} of actor {} names both", dot.time, dot.actor),
                operations: [other.lines(), call.lines()].concat(),
            });
        }
    }
    let times: BTreeSet<i64> = dots.keys().map(|dot| dot.time).collect();
    let actors: BTreeSet<&str> = dots.keys().map(|dot| dot.actor.as_str()).collect();
    let mut strange_times = BTreeMap::new();
    let mut strange_actors = BTreeMap::new();
    for replica in replicas {
        for &(value, time) in &replica.held {
            if !times.contains(&time) {
                strange_times.entry(time).or_insert(replica.read);
            }
            if let Some((written, call)) = number(value).and_then(|it| of_number.get(&it))
                && *written != time
            {
                verdict.add(Anomaly {
                    name: "held under another dot",
                    is_allowed: false,
                    key,
                    message: format!("{value:?} was written at {written} and is held as of {time}"),
                    operations: [call.lines(), replica.read.lines()].concat(),
                });
            }
        }
        let spoken_of = replica.actors.iter().map(String::as_str);
        for actor in spoken_of.filter(|actor| !actors.contains(actor)) {
            strange_actors.entry(actor).or_insert(replica.read);
        }
    }
    let mut tell = |name, what: &str, of: Vec<(String, Call<'_>)>| {
        if of.len() > unknown {
            let (names, reads): (Vec<String>, Vec<_>) = of.into_iter().unzip();
            verdict.add(Anomaly {
                name,
                is_allowed: false,
                key,
                message: format!(
                    "{what} {}: {} more than the {unknown} writes whose outcome is unknown can account for",
                    names.join(", "),
                    names.len() - unknown,
                ),
                operations: reads.iter().flat_map(Call::lines).collect(),
            });
        }
    };
    let of_times = strange_times.into_iter().map(|(time, read)| (time.to_string(), read));
    tell("held under an unknown dot", "no acknowledged write has the time", of_times.collect());
    let of_actors = strange_actors.into_iter().map(|(actor, read)| (actor.to_owned(), read));
    tell("unknown actor", "no acknowledged write is of the actor", of_actors.collect());
}

#[cfg(test)]
mod tests {
    use super::super::{Model, check, tests::found};
    use crate::history::tests::history;

    #[test]
    fn replicas_are_equal_at_the_end() {
        let text = "
            0 invoke add [5 1]
            0 ok add [5 1]@a7
            0 invoke add [5 2]
            0 ok add [5 2]@b8
            1 invoke replica-read [5 nil]
            1 ok replica-read [5 [[1 7] [2 8]]]@ab
            2 invoke replica-read [5 nil]
            2 fail replica-read [5 nil]
            3 invoke replica-read [5 nil]
            3 ok replica-read [5 [[1 7] [2 8]]]@ab";
        assert_eq!(found(Model::Set, text), []);
        let with = |other: &str| {
            let (own, other) =
                ("3 ok replica-read [5 [[1 7] [2 8]]]", format!("3 ok replica-read [5 {other}]"));
            found(Model::Set, &text.replace(own, &other))
        };
        let differ = ("replicas differ", vec![4, 5, 8, 9]);
        assert_eq!(with("[[1 7]]"), std::slice::from_ref(&differ));
        let first = ("held under another dot", vec![0, 1, 8, 9]);
        let second = ("held under another dot", vec![2, 3, 8, 9]);
        assert_eq!(with("[[1 8] [2 7]]"), [first, second, differ]);
    }

    #[test]
    fn only_the_last_answer_of_a_replica_counts() {
        let text = "
            0 invoke add [5 1]
            0 ok add [5 1]@a7
            1 invoke replica-read [5 nil]
            1 ok replica-read [5 []]@a
            2 invoke replica-read [5 nil]
            2 ok replica-read [5 [[1 7]]]@a
            1 invoke replica-read [5 nil]
            1 ok replica-read [5 [[1 7]]]@a";
        assert_eq!(found(Model::Set, text), []);
    }

    #[test]
    fn no_two_writes_have_one_dot() {
        let text = "
            0 invoke add [5 1]
            0 ok add [5 1]@a7
            1 invoke add [6 2]
            1 ok add [6 2]@a7
            1 invoke add [5 3]
            1 ok add [5 3]@b7
            0 invoke add [5 4]
            0 ok add [5 4]@a8";
        assert_eq!(found(Model::Set, text), []);
        let twice = text.replace("@a8", "@b7");
        assert_eq!(found(Model::Set, &twice), [("two writes under one dot", vec![4, 5, 6, 7])]);
    }

    /// An acknowledged write, and one whose outcome is not known.
    const WRITTEN: &str = "
        0 invoke add [5 1]
        0 ok add [5 1]@a7
        1 invoke add [5 2]
        1 info add [5 2]
        2 invoke add [5 3]
        2 fail add [5 3]\n";

    /// What is found where a replica ends so.
    fn at_the_end(written: &str, held: &str, actors: &str) -> Vec<(&'static str, Vec<usize>)> {
        let read = format!("1 invoke replica-read [5 nil]\n1 ok replica-read [5 {held}]@{actors}");
        found(Model::Set, &format!("{written}{read}"))
    }

    #[test]
    fn what_is_held_was_written_under_its_dot() {
        let held = |held| at_the_end(WRITTEN, held, "a");
        assert_eq!(held("[[1 7]]"), []);
        // The one that is not known to be done.
        assert_eq!(held("[[1 7] [2 9]]"), []);
        let (another, unknown) = ("held under another dot", "held under an unknown dot");
        assert_eq!(held("[[1 8] [2 9]]"), [(another, vec![0, 1, 6, 7]), (unknown, vec![6, 7])]);
        assert_eq!(held("[[1 7] [2 9] [3 10]]"), [(unknown, vec![6, 7])]);
    }

    #[test]
    fn only_actors_that_wrote_are_spoken_of() {
        let spoken_of = |actors| at_the_end(WRITTEN, "[]", actors);
        assert_eq!(spoken_of("a"), []);
        assert_eq!(spoken_of("ab"), []);
        assert_eq!(spoken_of("abc"), [("unknown actor", vec![6, 7])]);
        let other_key = WRITTEN
            .replace("info add [5 2]", "info add [6 2]")
            .replace("invoke add [5 2]", "invoke add [6 2]");
        assert_eq!(at_the_end(&other_key, "[]", "ab"), [("unknown actor", vec![6, 7])]);
    }

    #[test]
    fn a_replica_without_times_is_refused() {
        let text = "1 invoke replica-read [5 nil]\n1 ok replica-read [5 [1 2]]";
        let error = check(Model::Set, &history(text)).expect_err("refused").to_string();
        assert!(error.contains("a list of [VALUE TIME]"), "{error}");
    }
}
