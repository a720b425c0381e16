//! One operation of a benchmark: drawn, then carried out.

use quoit_client::{Change, Key, ReadError, ScanRange, Table, UpdateError, WriteError};

use super::keys::{Insert, Keys};
use super::measured::{Ended, Extra};
use super::random::Random;
use super::workload::{Kind, Workload};
use crate::failure::{read_kind, write_kind};

/// YCSB's longest scan; lengths are uniform from 1.
const SCAN_ITEMS_MAX: u64 = 100;

/// What is to be done to which key, its value made.
#[derive(Debug)]
pub(super) struct Operation {
    key: Key,
    work: Work,
    insert: Option<Insert>,
}

#[derive(Debug)]
enum Work {
    Get,
    Write { value: Vec<u8> },
    Scan { items: u64 },
    ReadModifyWrite { value: Vec<u8> },
}

impl Operation {
    /// The next operation of a workload.
    pub(super) fn draw(
        workload: Workload,
        keys: &Keys,
        value_bytes: usize,
        random: &mut Random,
    ) -> (Kind, Self) {
        let kind = workload.draw(random);
        let insert = (kind == Kind::Insert).then(|| keys.begin_insert());
        let number = insert.map_or_else(|| keys.choose(random), |insert| insert.number);
        let work = match kind {
            Kind::Get => Work::Get,
            Kind::Put | Kind::Insert => Work::Write { value: random.bytes(value_bytes) },
            Kind::Scan => Work::Scan { items: 1 + random.below(SCAN_ITEMS_MAX) },
            Kind::ReadModifyWrite => Work::ReadModifyWrite { value: random.bytes(value_bytes) },
        };
        (kind, Self { key: keys.key(number), work, insert })
    }

    /// A write of a record that is to be loaded.
    pub(super) fn load(keys: &Keys, number: u64, value_bytes: usize, random: &mut Random) -> Self {
        let work = Work::Write { value: random.bytes(value_bytes) };
        Self { key: keys.key(number), work, insert: None }
    }

    /// Does it.
    pub(super) async fn perform(self, table: &Table, keys: &Keys) -> Ended {
        let ended = match self.work {
            Work::Get => get(table, self.key).await,
            // In a table of siblings this reads first, so that they do not pile up.
            Work::Write { value } => match table.replace(self.key, value).await {
                Ok(_) => Ended::Done(Extra::default()),
                Err(error) => write_ended(&error),
            },
            Work::Scan { items } => scan(table, self.key, items).await,
            Work::ReadModifyWrite { value } => read_modify_write(table, self.key, value).await,
        };
        if let Some(insert) = self.insert {
            keys.end_insert(insert);
        }
        ended
    }
}

async fn get(table: &Table, key: Key) -> Ended {
    match table.get(key).await {
        Ok(reading) => {
            let absent = u64::from(reading.is_absent());
            Ended::Done(Extra { absent, ..Extra::default() })
        }
        Err(error) => read_ended(&error),
    }
}

async fn scan(table: &Table, from: Key, limit: u64) -> Ended {
    let range = ScanRange { from: from.sort, to: None, limit: Some(limit) };
    match table.scan(from.partition, range).collect().await {
        Ok(items) => {
            let absent = u64::from(items.is_empty());
            Ended::Done(Extra { absent, items: items.len() as u64, ..Extra::default() })
        }
        Err(error) => read_ended(&error),
    }
}

async fn read_modify_write(table: &Table, key: Key, value: Vec<u8>) -> Ended {
    match table.update(key, |_| Change::Put(value.clone().into())).await {
        Ok(updated) => {
            let rounds_more = u64::from(updated.rounds.saturating_sub(1));
            Ended::Done(Extra { rounds_more, ..Extra::default() })
        }
        Err(error) => update_ended(&error),
    }
}

fn read_ended(error: &ReadError) -> Ended {
    Ended::Failed(read_kind(error))
}

fn write_ended(error: &WriteError) -> Ended {
    let reason = write_kind(error);
    if error.is_unknown() { Ended::Unknown(reason) } else { Ended::Failed(reason) }
}

fn update_ended(error: &UpdateError) -> Ended {
    match error {
        UpdateError::Read(error) => read_ended(error),
        UpdateError::Write(error) => write_ended(error),
        UpdateError::Latest { .. } => Ended::Failed("no siblings"),
        // The last round's write is there, beside those of others.
        UpdateError::Contended { .. } => Ended::Unknown("contended"),
        _ => Ended::Unknown("other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::keys::{Distribution, KeySpace, Layout};

    #[test]
    fn operations_are_drawn_with_keys_that_are_there_and_inserts_with_new_ones() {
        let layout = Layout::Partitions { count: 3 };
        let distribution = Distribution::Zipfian;
        let keys = Keys::new(KeySpace { loaded: 30, distribution, worker: 0, workers: 1, layout });
        let mut random = Random::new(1, 0);
        let (mut scans, mut inserts) = (0, 0);
        for _ in 0..2_000 {
            let (kind, operation) = Operation::draw(Workload::E, &keys, 10, &mut random);
            match (kind, &operation.work, operation.insert) {
                (Kind::Scan, Work::Scan { items }, None) => {
                    assert!((1..=SCAN_ITEMS_MAX).contains(items));
                    assert!(operation.key.sort.as_ref() < b"000000000010".as_slice());
                    scans += 1;
                }
                (Kind::Insert, Work::Write { value }, Some(insert)) => {
                    assert_eq!(value.len(), 10);
                    assert_eq!(insert.number, 30 + inserts);
                    inserts += 1;
                }
                other => panic!("{other:?} is not of workload e"),
            }
        }
        assert!(scans > 1_800 && inserts > 50, "{scans} {inserts}");
    }

    #[test]
    fn an_unknown_outcome_is_not_a_failure() {
        let unknown =
            WriteError::Unknown { acknowledged: 1, required: 2, trail: Default::default() };
        assert_eq!(write_ended(&unknown), Ended::Unknown("unknown outcome"));
        assert_eq!(update_ended(&UpdateError::Write(unknown)), Ended::Unknown("unknown outcome"));
        assert_eq!(write_ended(&WriteError::Read(ReadError::Closed)), Ended::Failed("closed"));
    }
}
