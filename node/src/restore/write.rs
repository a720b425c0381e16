//! Writes rows into a cluster, a bounded number at once.
//!
//! Each is a new write over what the key holds now, so that it is seen whatever was written since. A key
//! that holds the same values already is left as it is: so a restore that was killed goes on, in effect,
//! where it was, and one that is repeated changes nothing.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quoit_cli::{CommandError, Progress};
use quoit_client::{Client, ConflictPolicy, Context, HybridTime, Reading, Table, Value};
use quoit_ring::{TableId, WallTime};
use tokio::sync::mpsc;

use super::merge::{Restorable, Row};

/// How many bytes of values are in flight at most (but always one row).
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Siblings are written again so often, if a write of them was sent twice and may stand there twice.
const ROUNDS_MAX: u32 = 4;
/// Two times of expiry that are so near are the same: a restored value's is counted anew.
const EXPIRY_MS_NEAR: u64 = 60_000;

/// Where a table's rows go.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) table: Table,
    /// The restore has just made it: nothing is under its keys.
    pub(super) is_new: bool,
}

/// What became of a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) bytes: u64,
    /// Keys that held the same values already.
    pub(super) same: u64,
}

impl Tally {
    pub(super) fn take(&mut self, row: &Row) {
        self.keys += 1;
        self.values += row.values.len() as u64;
        self.bytes += row.bytes() as u64;
    }
}

impl Row {
    pub(super) fn bytes(&self) -> usize {
        let key = self.key.partition.len() + self.key.sort.len();
        key + self.values.iter().map(|value| value.bytes.len()).sum::<usize>()
    }
}

struct Done {
    row: Row,
    /// Whether anything was written.
    result: Result<bool, CommandError>,
}

type Write = Pin<Box<dyn Future<Output = Done> + Send>>;

/// Writes the rows of a restore.
pub(super) struct Writer<'a> {
    targets: &'a BTreeMap<TableId, Target>,
    in_flight_max: usize,
    in_flight: FuturesUnordered<Write>,
    bytes_in_flight: usize,
    pub(super) tallies: BTreeMap<TableId, Tally>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(targets: &'a BTreeMap<TableId, Target>, in_flight_max: usize) -> Self {
        let (in_flight, tallies) = (FuturesUnordered::new(), BTreeMap::new());
        Self { targets, in_flight_max, in_flight, bytes_in_flight: 0, tallies }
    }

    /// Writes all rows that come. After an error nothing is in flight any more.
    pub(super) async fn run(
        &mut self,
        rows: &mut mpsc::Receiver<Vec<Row>>,
        progress: &mut Progress,
    ) -> Result<(), CommandError> {
        let mut result = Ok(());
        'rows: while let Some(batch) = rows.recv().await {
            for row in batch {
                result = self.take(row, progress).await;
                if result.is_err() {
                    break 'rows;
                }
            }
        }
        while !self.in_flight.is_empty() {
            let reaped = self.reap(progress).await;
            result = result.and(reaped);
        }
        result
    }

    async fn take(&mut self, row: Row, progress: &mut Progress) -> Result<(), CommandError> {
        let Some(target) = self.targets.get(&row.table).cloned() else { return Ok(()) };
        let bytes = row.bytes();
        while !self.in_flight.is_empty()
            && (self.in_flight.len() >= self.in_flight_max
                || self.bytes_in_flight + bytes > IN_FLIGHT_BYTES_MAX)
        {
            self.reap(progress).await?;
        }
        self.bytes_in_flight += bytes;
        self.in_flight.push(Box::pin(async move {
            let result = restore(&target, &row).await;
            Done { row, result }
        }));
        Ok(())
    }

    async fn reap(&mut self, progress: &mut Progress) -> Result<(), CommandError> {
        let Some(Done { row, result }) = self.in_flight.next().await else { return Ok(()) };
        self.bytes_in_flight -= row.bytes();
        let is_written = result.map_err(|error| {
            let key = String::from_utf8_lossy(&row.key.partition);
            error.prefixed(&format!("key {:?}", key.chars().take(80).collect::<String>()))
        })?;
        let tally = self.tallies.entry(row.table).or_default();
        tally.take(&row);
        tally.same += u64::from(!is_written);
        let (bytes, keys) = self
            .tallies
            .values()
            .fold((0, 0), |(bytes, keys), tally| (bytes + tally.bytes, keys + tally.keys));
        progress.set(bytes, keys);
        Ok(())
    }
}

/// Brings a key to what it was; tells whether anything was written.
async fn restore(target: &Target, row: &Row) -> Result<bool, CommandError> {
    let Target { table, is_new } = target;
    let keeps_siblings = table.definition().options.policy == ConflictPolicy::Siblings;
    let mut is_known_empty = *is_new;
    for round in 0..ROUNDS_MAX {
        let context = if is_known_empty {
            Context::none()
        } else {
            let Reading { siblings, context, .. } = table.get(&row.key).await?;
            if are_same(&siblings, &row.values) {
                return Ok(round > 0);
            }
            context
        };
        let mut was_sent_twice = false;
        for Restorable { bytes, expires } in &row.values {
            // Each replaces what was read, and none of the others.
            let handle = match expires.map(left_ms) {
                Some(0) => continue,
                Some(left_ms) => table.clone().with_ttl(Duration::from_millis(left_ms)),
                None => table.clone(),
            };
            let written = handle.put(&row.key, bytes.clone(), &context).await?;
            was_sent_twice |= written.service.trail.attempts > 1;
        }
        if !(keeps_siblings && was_sent_twice) {
            return Ok(true);
        }
        is_known_empty = false;
    }
    Ok(true)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// This host's clock, as hybrid time.
pub(super) fn now() -> HybridTime {
    HybridTime::at(WallTime(now_ms()))
}

/// What is left of a value's life, in milliseconds.
fn left_ms(expires: HybridTime) -> u64 {
    expires.wall().0.saturating_sub(now_ms())
}

/// Whether a key holds just these values.
fn are_same(held: &[Value], wanted: &[Restorable]) -> bool {
    let mut left: Vec<&Value> = held.iter().collect();
    wanted.iter().all(|wanted| {
        let is_it =
            |held: &&Value| held.bytes == wanted.bytes && is_near(held.expires, wanted.expires);
        left.iter().position(is_it).map(|at| left.swap_remove(at)).is_some()
    }) && left.is_empty()
}

fn is_near(a: Option<HybridTime>, b: Option<HybridTime>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.wall().0.abs_diff(b.wall().0) <= EXPIRY_MS_NEAR,
        _ => false,
    }
}

/// Deletes what a table holds and `is_wanted` does not want, if it was written before `began`. Yields how
/// many keys were deleted.
pub(super) async fn delete_others(
    client: &Client,
    table: &Table,
    began: HybridTime,
    is_wanted: &mut dyn FnMut(&quoit_client::Key) -> Result<bool, CommandError>,
) -> Result<u64, CommandError> {
    // The table may have been made after this handle's record.
    let _ = client.refresh_record().await;
    let (mut pages, mut deleted) = (table.export(), 0);
    let incomplete = |error: CommandError| {
        error
            .prefixed(table.name())
            .advised("not all keys that the snapshot does not hold are deleted")
    };
    while let Some(items) = pages.next().await.map_err(|error| incomplete(error.into()))? {
        for item in items {
            let is_newer = item.siblings.iter().any(|value| value.written >= began);
            if is_newer || is_wanted(&item.key)? {
                continue;
            }
            let gone = table.delete(&item.key, &item.context).await;
            gone.map_err(|error| incomplete(error.into()))?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_same_values_in_any_order_are_the_same_and_twice_is_not_once() {
        let held = |text: &'static str, expires_ms: u64| Value {
            bytes: Bytes::from_static(text.as_bytes()),
            expires: (expires_ms > 0).then(|| HybridTime::at(WallTime(expires_ms))),
            written: HybridTime::ZERO,
        };
        let wanted = |text: &'static str, expires_ms: u64| Restorable {
            bytes: Bytes::from_static(text.as_bytes()),
            expires: (expires_ms > 0).then(|| HybridTime::at(WallTime(expires_ms))),
        };
        assert!(are_same(&[held("a", 0), held("b", 0)], &[wanted("b", 0), wanted("a", 0)]));
        assert!(!are_same(&[held("a", 0), held("a", 0)], &[wanted("a", 0)]));
        assert!(!are_same(&[held("a", 0)], &[wanted("a", 0), wanted("a", 0)]));
        assert!(!are_same(&[held("a", 0)], &[wanted("a", 1_000)]));
        assert!(are_same(&[held("a", 1_000)], &[wanted("a", 61_000)]));
        assert!(!are_same(&[held("a", 1_000)], &[wanted("a", 61_001)]));
    }
}
