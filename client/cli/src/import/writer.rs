//! Writes rows, a bounded number at once, and keeps the tally.
//!
//! Rows of one key are written one after the other, so that the last line of a key stays, as it
//! would in a loop over the file. Each is marked idempotent: the library sends a write again whose
//! outcome it does not know.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quoit_client::{Key, Table, WriteError};
use tokio::sync::mpsc;

use super::OnError;
use super::columns::Malformed;
use super::reader::{FileEnd, FromReader, Row};
use crate::failure::{CommandError, is_permanent};
use crate::progress::Progress;

/// How many bytes of values are in flight at most (but always one row).
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// How many malformed lines are shown.
const EXAMPLES_MAX: usize = 20;

/// What became of the rows.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Records that were read.
    pub(crate) lines: u64,
    /// Those that are stored.
    pub(crate) written: u64,
    /// Those that cannot be stored.
    pub(crate) malformed: u64,
    /// How much of the file is done.
    pub(crate) bytes: u64,
    /// The malformed lines that were met first, and why.
    pub(crate) examples: Vec<(u64, String)>,
    /// The malformed line at which the import stopped; its error tells why.
    pub(crate) stopped_at: Option<u64>,
}

impl Tally {
    /// Counts a malformed line.
    fn malformed(&mut self, line: u64, why: &Malformed) {
        self.malformed += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push((line, why.to_string()));
        }
    }
}

/// A row that was written, or was not.
struct Done {
    line: u64,
    file_bytes: u64,
    key: Key,
    value_bytes: usize,
    result: Result<(), WriteError>,
}

/// Why no more rows are taken.
enum Halt {
    /// A line is malformed, and the import was to stop then. The tally has it.
    Malformed,
    Failed(CommandError),
}

type Write = Pin<Box<dyn Future<Output = Done> + Send>>;

/// Where rows are written to. The import's loop holds it against a cluster, tests against memory.
pub(crate) trait Destination {
    /// Writes one value in the place of all that is under the key.
    fn write(
        &self,
        key: Key,
        value: Bytes,
    ) -> impl Future<Output = Result<(), WriteError>> + Send + 'static;
}

impl Destination for Table {
    fn write(
        &self,
        key: Key,
        value: Bytes,
    ) -> impl Future<Output = Result<(), WriteError>> + Send + 'static {
        let table = self.clone();
        async move { table.replace(key, value).await.map(drop) }
    }
}

/// Writes an import's rows.
pub(crate) struct Writer<D> {
    destination: D,
    in_flight_max: usize,
    on_error: OnError,
    in_flight: FuturesUnordered<Write>,
    keys_in_flight: HashSet<Key>,
    bytes_in_flight: usize,
    /// What became of the rows so far.
    pub(crate) tally: Tally,
}

impl<D: Destination> Writer<D> {
    pub(crate) fn new(destination: D, in_flight_max: usize, on_error: OnError) -> Self {
        Self {
            destination,
            in_flight_max,
            on_error,
            in_flight: FuturesUnordered::new(),
            keys_in_flight: HashSet::new(),
            bytes_in_flight: 0,
            tally: Tally::default(),
        }
    }

    /// Writes all rows. After an error nothing is in flight any more: every row before the one
    /// that failed was written, and perhaps some after it.
    pub(crate) async fn run(
        &mut self,
        mut rows: mpsc::Receiver<FromReader>,
        progress: &mut Progress,
    ) -> Result<FileEnd, CommandError> {
        let result = self.write_all(&mut rows, progress).await;
        let drained = self.drain(progress).await;
        // Rows overtake each other: the first of the malformed lines may have been met last.
        self.tally.examples.sort();
        match result.and_then(|end| drained.map(|()| end)) {
            Ok(end) => Ok(end),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Malformed) => {
                let (line, why) = &self.tally.examples[0];
                self.tally.stopped_at = Some(*line);
                Err(CommandError::BadInput(format!(
                    "line {line}: {why}; the import stopped there, and the good lines before it \
                     are stored; correct the line, or count such lines with --on-error count"
                )))
            }
        }
    }

    async fn write_all(
        &mut self,
        rows: &mut mpsc::Receiver<FromReader>,
        progress: &mut Progress,
    ) -> Result<FileEnd, Halt> {
        loop {
            match rows.recv().await {
                Some(FromReader::Rows(rows)) => {
                    for row in rows {
                        self.take(row, progress).await?;
                    }
                }
                Some(FromReader::End(end)) => return Ok(end),
                Some(FromReader::Failed(error)) => {
                    return Err(Halt::Failed(CommandError::NotDone(format!(
                        "the file cannot be read beyond line {}: {error}",
                        self.tally.lines
                    ))));
                }
                None => {
                    let why = "the file's reader has died".to_owned();
                    return Err(Halt::Failed(CommandError::NotDone(why)));
                }
            }
        }
    }

    /// Begins to write a row, as soon as there is room for it.
    async fn take(&mut self, row: Row, progress: &mut Progress) -> Result<(), Halt> {
        self.tally.lines += 1;
        let (key, value) = match row.item {
            Ok(item) => item,
            Err(why) => {
                self.tally.bytes += row.file_bytes;
                return self.malformed(row.line, &why);
            }
        };
        while !self.in_flight.is_empty() && self.must_wait(&key, value.len()) {
            self.reap(progress).await?;
        }
        let value_bytes = value.len();
        self.bytes_in_flight += value_bytes;
        self.keys_in_flight.insert(key.clone());
        let write = self.destination.write(key.clone(), value);
        let Row { line, file_bytes, .. } = row;
        self.in_flight.push(Box::pin(async move {
            Done { line, file_bytes, key, value_bytes, result: write.await }
        }));
        Ok(())
    }

    fn must_wait(&self, key: &Key, value_bytes: usize) -> bool {
        self.in_flight.len() >= self.in_flight_max
            || self.bytes_in_flight + value_bytes > IN_FLIGHT_BYTES_MAX
            || self.keys_in_flight.contains(key)
    }

    /// Waits for one row.
    async fn reap(&mut self, progress: &mut Progress) -> Result<(), Halt> {
        let Some(done) = self.in_flight.next().await else {
            return Ok(());
        };
        self.keys_in_flight.remove(&done.key);
        self.bytes_in_flight -= done.value_bytes;
        let result = match done.result {
            Ok(()) => {
                self.tally.written += 1;
                Ok(())
            }
            Err(error) if is_refused(&error) => {
                self.malformed(done.line, &Malformed::Refused(error.to_string()))
            }
            Err(error) => {
                let line = format!("line {}", done.line);
                Err(Halt::Failed(CommandError::from(error).prefixed(&line)))
            }
        };
        if result.is_ok() {
            self.tally.bytes += done.file_bytes;
            progress.set(self.tally.bytes, self.tally.written);
        }
        result
    }

    /// Waits for all rows in flight, and yields the first error.
    async fn drain(&mut self, progress: &mut Progress) -> Result<(), Halt> {
        let mut result = Ok(());
        while !self.in_flight.is_empty() {
            let reaped = self.reap(progress).await;
            result = result.and(reaped);
        }
        result
    }

    fn malformed(&mut self, line: u64, why: &Malformed) -> Result<(), Halt> {
        self.tally.malformed(line, why);
        match self.on_error {
            OnError::Stop => Err(Halt::Malformed),
            OnError::Count => Ok(()),
        }
    }
}

/// Whether the cluster will refuse this row always, and perhaps not the others.
fn is_refused(error: &WriteError) -> bool {
    match error {
        WriteError::TooLarge { .. } | WriteError::TooManySiblings { .. } => true,
        WriteError::Refused { code, .. } => is_permanent(*code),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use quoit_client::FailureCode;

    /// A table in memory that takes its time and refuses some keys.
    #[derive(Clone, Default)]
    struct Memory {
        stored: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
        in_flight: Arc<Mutex<(usize, usize)>>,
    }

    impl Destination for Memory {
        fn write(
            &self,
            key: Key,
            value: Bytes,
        ) -> impl Future<Output = Result<(), WriteError>> + Send + 'static {
            let memory = self.clone();
            async move {
                {
                    let mut in_flight = memory.in_flight.lock().unwrap();
                    in_flight.0 += 1;
                    in_flight.1 = in_flight.1.max(in_flight.0);
                }
                // Later rows overtake earlier ones.
                for _ in 0..(value.len() % 7) {
                    tokio::task::yield_now().await;
                }
                memory.in_flight.lock().unwrap().0 -= 1;
                match &key.partition[..] {
                    b"refused" => Err(WriteError::Refused {
                        code: FailureCode::Invalid,
                        message: "no".into(),
                        trail: Default::default(),
                    }),
                    b"lost" => Err(WriteError::Unknown {
                        acknowledged: 1,
                        required: 2,
                        trail: Default::default(),
                    }),
                    _ => {
                        memory.stored.lock().unwrap().insert(key.partition, value);
                        Ok(())
                    }
                }
            }
        }
    }

    fn good(line: u64, key: &str, value: &str) -> Row {
        let key = Key { partition: Bytes::from(key.to_owned()), sort: Bytes::new() };
        Row { line, file_bytes: 10, item: Ok((key, Bytes::from(value.to_owned()))) }
    }

    fn bad(line: u64) -> Row {
        Row { line, file_bytes: 10, item: Err(Malformed::EmptyKey) }
    }

    fn import(rows: Vec<Row>, on_error: OnError) -> (Result<FileEnd, CommandError>, Tally, Memory) {
        let memory = Memory::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let end = FileEnd { restoring: None, last_line_is_open: false };
        let mut writer = Writer::new(memory.clone(), 4, on_error);
        let result = runtime.block_on(async {
            let (sender, receiver) = mpsc::channel(2);
            sender.send(FromReader::Rows(rows)).await.expect("there is room");
            sender.send(FromReader::End(end)).await.expect("there is room");
            writer.run(receiver, &mut Progress::new("test", None)).await
        });
        (result, writer.tally, memory)
    }

    #[test]
    fn the_last_line_of_a_key_stays_and_the_bound_is_kept() {
        let rows = (1..=200)
            .map(|line| good(line, &(line % 5).to_string(), &"x".repeat(300 - line as usize)))
            .collect();
        let (result, tally, memory) = import(rows, OnError::Stop);
        assert!(result.is_ok());
        assert_eq!((tally.lines, tally.written, tally.bytes), (200, 200, 2_000));
        let stored = memory.stored.lock().unwrap();
        let lengths: Vec<_> = stored.values().map(Bytes::len).collect();
        assert_eq!(lengths, [100, 104, 103, 102, 101]);
        let (left, most) = *memory.in_flight.lock().unwrap();
        assert_eq!(left, 0);
        assert!((2..=4).contains(&most), "{most}");
    }

    #[test]
    fn a_malformed_line_stops_the_import_once_those_before_it_are_stored() {
        let rows = vec![good(1, "a", "123456"), good(2, "b", "12345"), bad(3), good(4, "c", "1")];
        let (result, tally, memory) = import(rows, OnError::Stop);
        let error = result.expect_err("line 3 is malformed");
        assert!(error.to_string().starts_with("line 3: its key is empty; the import stopped"));
        assert!(matches!(error, CommandError::BadInput(_)));
        assert_eq!((tally.lines, tally.written, tally.malformed), (3, 2, 1));
        assert_eq!(memory.stored.lock().unwrap().len(), 2);
    }

    #[test]
    fn an_import_stops_at_the_first_of_several_malformed_lines() {
        let rows = vec![good(1, "a", "1"), good(2, "refused", "123456"), bad(3), bad(4)];
        let (result, tally, memory) = import(rows, OnError::Stop);
        let error = result.expect_err("line 2 is refused").to_string();
        assert!(error.starts_with("line 2: the cluster refuses it"), "{error}");
        let lines: Vec<_> = tally.examples.iter().map(|(line, _)| *line).collect();
        assert_eq!((lines, tally.malformed, tally.stopped_at), (vec![2, 3], 2, Some(2)));
        assert_eq!(memory.stored.lock().unwrap().len(), 1);
    }

    #[test]
    fn malformed_and_refused_lines_may_be_counted() {
        let mut rows = vec![good(1, "a", "1"), good(2, "refused", "1")];
        rows.extend((3..=40).map(bad));
        let (result, tally, _) = import(rows, OnError::Count);
        assert!(result.is_ok());
        assert_eq!((tally.lines, tally.written, tally.malformed), (40, 1, 39));
        assert_eq!(tally.examples.len(), EXAMPLES_MAX);
        assert_eq!(tally.bytes, 400);
    }

    #[test]
    fn an_unknown_outcome_is_never_counted_away() {
        let rows = vec![good(1, "a", "1"), good(2, "lost", "1"), good(3, "b", "1")];
        let (result, tally, _) = import(rows, OnError::Count);
        let error = result.expect_err("line 2 is in doubt");
        assert!(matches!(error, CommandError::Unknown(_)));
        assert!(error.to_string().starts_with("line 2: "), "{error}");
        assert_eq!((tally.written, tally.malformed), (2, 0));
    }
}
