//! Convergence: at the end every replica of a key, asked alone, holds the same.

use std::collections::BTreeMap;

use super::{Anomaly, REPLICA_READ, Verdict};
use crate::history::{Call, HistoryError, Value};

/// Compares the last answers of each key's replicas.
pub(super) fn check(calls: &[Call<'_>], verdict: &mut Verdict) -> Result<(), HistoryError> {
    let mut keys: BTreeMap<i64, BTreeMap<i64, (Call<'_>, &Value)>> = BTreeMap::new();
    let mut unread = 0;
    for call in calls.iter().filter(|call| call.invoke.f == REPLICA_READ) {
        let wrong = |message: &str| HistoryError::Operation {
            operation: call.began(),
            message: message.to_owned(),
        };
        if !call.is_ok() {
            unread += 1;
            continue;
        }
        let node = call.completion.and_then(|completion| completion.node);
        let node = node.ok_or_else(|| wrong("a replica-read has a :node"))?;
        let pair = call.value().as_pair();
        let (key, held) = pair.ok_or_else(|| wrong("a replica-read is of [KEY HELD]"))?;
        keys.entry(key).or_default().insert(node, (*call, held));
    }
    if unread > 0 {
        verdict.notes.push(format!("{unread} reads of one replica alone were not answered"));
    }
    let compared: usize = keys.values().map(BTreeMap::len).sum();
    if compared > 0 {
        verdict.notes.push(format!("{compared} replicas of {} keys were compared", keys.len()));
    }
    for (key, replicas) in keys {
        let mut replicas = replicas.into_iter();
        let Some((first, (read, held))) = replicas.next() else { continue };
        if let Some((other, (other_read, _))) = replicas.find(|(_, (_, other))| *other != held) {
            verdict.add(Anomaly {
                name: "replicas differ",
                is_allowed: false,
                key,
                message: format!("node {first} and node {other} hold different values at the end"),
                operations: [read.lines(), other_read.lines()].concat(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Model, tests::found};

    #[test]
    fn replicas_are_equal_at_the_end() {
        let text = "
            1 invoke replica-read [5 nil]
            1 ok replica-read [5 [1 2]]
            2 invoke replica-read [5 nil]
            2 fail replica-read [5 nil]
            3 invoke replica-read [5 nil]
            3 ok replica-read [5 [1 2]]";
        assert_eq!(found(Model::Set, text), []);
        let differ = text.replace("3 ok replica-read [5 [1 2]]", "3 ok replica-read [5 [1]]");
        assert_eq!(found(Model::Set, &differ), [("replicas differ", vec![0, 1, 4, 5])]);
    }

    #[test]
    fn only_the_last_answer_of_a_replica_counts() {
        let text = "
            1 invoke replica-read [5 nil]
            1 ok replica-read [5 [1]]
            2 invoke replica-read [5 nil]
            2 ok replica-read [5 [1 2]]
            1 invoke replica-read [5 nil]
            1 ok replica-read [5 [1 2]]";
        assert_eq!(found(Model::Set, text), []);
    }
}
