//! A counter's bounds: a read gives at least what was acknowledged before it began and at most what
//! had begun when it ended; and where nothing is subtracted, never less than an earlier read.

use super::{Anomaly, Keyed, Verdict};
use crate::history::{Call, HistoryError, Kind};

/// Checks one key's counter.
pub(super) fn check(
    key: i64,
    calls: &[Keyed<'_>],
    verdict: &mut Verdict,
) -> Result<(), HistoryError> {
    let mut adds: Vec<(Call<'_>, i64)> = Vec::new();
    let mut reads: Vec<(Call<'_>, i64)> = Vec::new();
    for keyed in calls {
        let number = || keyed.value.as_int().ok_or_else(|| keyed.wrong("a count is a number"));
        match keyed.f() {
            "add" if keyed.call.kind() == Kind::Fail => {}
            "add" => adds.push((keyed.call, number()?)),
            "read" if keyed.call.is_ok() => reads.push((keyed.call, number()?)),
            "read" => {}
            _ => return Err(keyed.wrong("a counter has `add` and `read`")),
        }
    }
    for (read, count) in &reads {
        bounds(key, read, *count, &adds, verdict);
    }
    if adds.iter().all(|(_, amount)| *amount >= 0) {
        monotonic(key, &mut reads, verdict);
    }
    Ok(())
}

fn bounds(key: i64, read: &Call<'_>, count: i64, adds: &[(Call<'_>, i64)], verdict: &mut Verdict) {
    let is_done = |add: &Call<'_>| add.ended() < read.began();
    let (mut least, mut most) = (0, 0);
    for (add, amount) in adds.iter().filter(|(add, _)| add.began() < read.ended()) {
        least += if is_done(add) { *amount } else { (*amount).min(0) };
        most += if is_done(add) { *amount } else { (*amount).max(0) };
    }
    let message = format!("a read gives {count}, which must be from {least} to {most}");
    let anomaly = |name, operations| Anomaly { name, is_allowed: false, key, message, operations };
    if count < least {
        // As many of the acknowledged ones as prove it.
        let mut operations = read.lines();
        let mut sum = adds.iter().map(|(_, amount)| (*amount).min(0)).sum::<i64>();
        for (add, amount) in adds.iter().filter(|(add, amount)| is_done(add) && *amount > 0) {
            if sum > count {
                break;
            }
            sum += amount;
            operations.extend(add.lines());
        }
        verdict.add(anomaly("too low", operations));
    } else if count > most {
        verdict.add(anomaly("too high", read.lines()));
    }
}

fn monotonic(key: i64, reads: &mut [(Call<'_>, i64)], verdict: &mut Verdict) {
    let mut by_end = reads.to_vec();
    by_end.sort_by_key(|(read, _)| read.ended());
    reads.sort_by_key(|(read, _)| read.began());
    let mut ended = by_end.iter().peekable();
    let mut greatest: Option<&(Call<'_>, i64)> = None;
    for (read, count) in reads.iter() {
        while let Some(earlier) = ended.next_if(|(earlier, _)| earlier.ended() < read.began()) {
            if greatest.is_none_or(|(_, count)| earlier.1 > *count) {
                greatest = Some(earlier);
            }
        }
        if let Some((earlier, before)) = greatest
            && before > count
        {
            verdict.add(Anomaly {
                name: "went back",
                is_allowed: false,
                key,
                message: format!("a read gives {count} after one that gave {before}"),
                operations: [earlier.lines(), read.lines()].concat(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Model, tests::found};

    #[test]
    fn unknown_and_concurrent_additions_may_count_or_not() {
        let text = "
            0 invoke add 1
            0 ok add 1
            0 invoke add 2
            1 invoke read
            0 info add 2
            1 ok read 3
            2 invoke add 5
            2 fail add 5
            1 invoke read
            1 ok read 3";
        assert_eq!(found(Model::Counter, text), []);
    }

    #[test]
    fn a_lost_update_makes_it_too_low() {
        let text = "
            0 invoke add 1
            0 ok add 1
            0 invoke add 1
            0 ok add 1
            0 invoke add 1
            0 ok add 1
            1 invoke read
            1 ok read 1";
        assert_eq!(found(Model::Counter, text), [("too low", vec![0, 1, 2, 3, 6, 7])]);
    }

    #[test]
    fn what_was_not_added_makes_it_too_high() {
        let text = "
            0 invoke add [1 1]
            0 fail add [1 1]
            1 invoke read [1 nil]
            1 ok read [1 1]
            1 invoke read [2 nil]
            1 ok read [2 0]";
        assert_eq!(found(Model::Counter, text), [("too high", vec![2, 3])]);
    }

    #[test]
    fn it_never_goes_back() {
        let text = "
            0 invoke add 1
            0 info add 1
            1 invoke read
            1 ok read 1
            1 invoke read
            1 ok read 0";
        assert_eq!(found(Model::Counter, text), [("went back", vec![2, 3, 4, 5])]);
    }
}
