//! The thread that reads a file and hands out its rows in small batches.

use std::io::{self, Read};
use std::thread;

use bytes::Bytes;
use quoit_client::Key;
use tokio::sync::mpsc;

use super::columns::{KeyFinder, Malformed};
use super::records::RecordCutter;
use crate::order::{Order, OrderWatch};

/// How many batches wait for the writer.
const BATCHES_WAITING_MAX: usize = 4;
/// How many rows a batch has at most.
const BATCH_ROWS_MAX: usize = 128;
/// A batch with so many bytes is handed over.
const BATCH_BYTES: u64 = 1 << 20;

/// What the reader hands out.
#[derive(Debug)]
pub(crate) enum FromReader {
    /// The next rows, in the file's order.
    Rows(Vec<Row>),
    /// Everything was read.
    End(FileEnd),
    /// The file cannot be read any further.
    Failed(io::Error),
}

/// A record, ready to be written or malformed.
#[derive(Debug)]
pub(crate) struct Row {
    /// The line on which it begins.
    pub(crate) line: u64,
    /// How many bytes of the file it takes.
    pub(crate) file_bytes: u64,
    /// Its key and its bytes.
    pub(crate) item: Result<(Key, Bytes), Malformed>,
}

/// What is known of a file that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileEnd {
    /// The order of an export that gives the rows back as they came.
    pub(crate) restoring: Option<Order>,
    /// Whether the last line had no line end.
    pub(crate) last_line_is_open: bool,
}

/// Reads a file.
pub(crate) struct Reader {
    cutter: RecordCutter<Box<dyn Read + Send>>,
    finder: KeyFinder,
    key_bytes_max: usize,
    watch: OrderWatch,
}

impl Reader {
    pub(crate) fn new(
        cutter: RecordCutter<Box<dyn Read + Send>>,
        finder: KeyFinder,
        key_bytes_max: usize,
    ) -> Self {
        Self { cutter, finder, key_bytes_max, watch: OrderWatch::default() }
    }

    /// Starts the thread. It ends with the file, or when nobody takes its rows any more; a thread
    /// of its own, because a read of standard input cannot be broken off.
    pub(crate) fn start(mut self) -> mpsc::Receiver<FromReader> {
        let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        thread::spawn(move || {
            let last = match self.hand_out(&sender) {
                Ok(Some(end)) => FromReader::End(end),
                Ok(None) => return,
                Err(error) => FromReader::Failed(error),
            };
            // Nobody waits for the end of an import that has stopped.
            let _ = sender.blocking_send(last);
        });
        receiver
    }

    /// Hands out all rows; `None` where nobody takes them any more.
    fn hand_out(&mut self, sender: &mpsc::Sender<FromReader>) -> io::Result<Option<FileEnd>> {
        let (mut rows, mut bytes) = (Vec::with_capacity(BATCH_ROWS_MAX), 0);
        loop {
            let row = self.next_row();
            let at_end = !matches!(row, Ok(Some(_)));
            if let Ok(Some(row)) = row {
                bytes += row.file_bytes;
                rows.push(row);
            } else if let Err(error) = row {
                // What was read before goes first.
                let _ = sender.blocking_send(FromReader::Rows(rows));
                return Err(error);
            }
            if at_end || rows.len() == BATCH_ROWS_MAX || bytes >= BATCH_BYTES {
                let full = std::mem::replace(&mut rows, Vec::with_capacity(BATCH_ROWS_MAX));
                bytes = 0;
                if sender.blocking_send(FromReader::Rows(full)).is_err() {
                    return Ok(None);
                }
            }
            if at_end {
                return Ok(Some(FileEnd {
                    restoring: self.watch.restoring(),
                    last_line_is_open: self.cutter.last_line_is_open(),
                }));
            }
        }
    }

    fn next_row(&mut self) -> io::Result<Option<Row>> {
        let Some(cut) = self.cutter.next()? else {
            return Ok(None);
        };
        let item = cut.record.and_then(|record| {
            let (partition, sort) = self.finder.keys(&record, self.key_bytes_max)?;
            self.watch.observe(&partition, &sort);
            Ok((Key { partition: partition.into(), sort: sort.into() }, Bytes::from(record)))
        });
        Ok(Some(Row { line: cut.line, file_bytes: cut.file_bytes, item }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_order_and_the_end_says_how_to_restore_them() {
        let text: String = (1..=1_000).map(|number| format!("{number};x\n")).collect();
        let length = text.len() as u64;
        let input: Box<dyn Read + Send> = Box::new(io::Cursor::new(text));
        let finder = KeyFinder::Csv { delimiter: b';', quoting: true, key: 0, sort: None };
        let mut receiver =
            Reader::new(RecordCutter::new(input, Some(b';'), 1 << 20), finder, 64).start();
        let (mut rows, mut end) = (Vec::new(), None);
        while let Some(message) = receiver.blocking_recv() {
            match message {
                FromReader::Rows(more) => rows.extend(more),
                FromReader::End(found) => end = Some(found),
                FromReader::Failed(error) => panic!("memory reads: {error}"),
            }
        }
        assert_eq!(rows.len(), 1_000);
        assert!(rows.iter().zip(1..).all(|(row, line)| row.line == line));
        assert_eq!(rows.iter().map(|row| row.file_bytes).sum::<u64>(), length);
        let (key, value) = rows[41].item.as_ref().expect("a good row");
        assert_eq!((&key.partition[..], &value[..]), (&b"42"[..], &b"42;x"[..]));
        let restoring = Some(Order::Length);
        assert_eq!(end, Some(FileEnd { restoring, last_line_is_open: false }));
    }
}
