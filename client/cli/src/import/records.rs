//! Cuts a file into records, each the exact bytes between two line ends.
//!
//! A record is a line; in quoted CSV (RFC 4180) a line end inside quotes belongs to the record. The
//! bytes are kept as they are, a carriage return before the line end included, so that an export
//! gives them back. Memory is bounded by one record's limit and one piece of input.

use std::io::{self, Read};

use super::columns::{Malformed, QuoteState};

/// How much is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// What the next stretch of the file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The line on which it begins, from 1.
    pub(crate) line: u64,
    /// How many bytes of the file it takes, the line end included.
    pub(crate) file_bytes: u64,
    /// The record without its line end, or what is wrong with it.
    pub(crate) record: Result<Vec<u8>, Malformed>,
}

/// Cuts records off an input.
pub(crate) struct RecordCutter<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where the next record begins in `buffer`.
    start: usize,
    /// Up to where the record has been searched for its end.
    scanned: usize,
    state: QuoteState,
    /// The delimiter where quotes have a meaning.
    quoted_by: Option<u8>,
    record_bytes_max: usize,
    line: u64,
    at_end: bool,
    last_line_is_open: bool,
}

impl<R: Read> RecordCutter<R> {
    /// A cutter of lines, or of quoted CSV records where `quoted_by` names their delimiter. A
    /// record longer than `record_bytes_max` is malformed.
    pub(crate) fn new(input: R, quoted_by: Option<u8>, record_bytes_max: usize) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            state: QuoteState::FieldStart,
            quoted_by,
            record_bytes_max,
            line: 1,
            at_end: false,
            last_line_is_open: false,
        }
    }

    /// Whether the last record had no line end. Known once [`RecordCutter::next`] returned `None`.
    pub(crate) fn last_line_is_open(&self) -> bool {
        self.last_line_is_open
    }

    /// The next record; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Cut>> {
        loop {
            if let Some(end) = self.find_end() {
                if end - self.start > self.record_bytes_max {
                    return self.give_up(Some(end)).map(Some);
                }
                let record = Ok(self.buffer[self.start..end].to_vec());
                return Ok(Some(self.take(end + 1, 0, record)));
            }
            if self.buffer.len() - self.start > self.record_bytes_max {
                return self.give_up(None).map(Some);
            }
            if self.at_end {
                return Ok(self.finish());
            }
            self.fill()?;
        }
    }

    /// The index of the line end that ends the record, if it is in the buffer.
    fn find_end(&mut self) -> Option<usize> {
        let Some(delimiter) = self.quoted_by else {
            let at = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n');
            self.scanned = at.map_or(self.buffer.len(), |at| self.scanned + at);
            return at.map(|_| self.scanned);
        };
        while self.scanned < self.buffer.len() {
            let byte = self.buffer[self.scanned];
            if byte == b'\n' && self.state != QuoteState::Quoted {
                return Some(self.scanned);
            }
            self.state = self.state.after(byte, delimiter);
            self.scanned += 1;
        }
        None
    }

    /// Hands out what lies before `end` and begins the next record there. `dropped` bytes of it
    /// have left the buffer before.
    fn take(&mut self, end: usize, dropped: u64, record: Result<Vec<u8>, Malformed>) -> Cut {
        let taken = &self.buffer[self.start..end];
        let line_ends = taken.iter().filter(|&&byte| byte == b'\n').count();
        let file_bytes = dropped + taken.len() as u64;
        let cut = Cut { line: self.line, file_bytes, record };
        self.line += line_ends as u64;
        self.start = end;
        self.scanned = end;
        self.state = QuoteState::FieldStart;
        cut
    }

    /// The record is over its limit, and ends at `end` or out of sight: a quote that does not
    /// close in time costs its first line only, any other line is skipped to its end.
    fn give_up(&mut self, end: Option<usize>) -> io::Result<Cut> {
        let limit = self.record_bytes_max;
        let first_end = self.buffer[self.start..].iter().position(|&byte| byte == b'\n');
        if let Some(at) = first_end.map(|at| self.start + at) {
            let is_whole = end == Some(at);
            let why = if is_whole {
                Malformed::TooLong { limit }
            } else {
                Malformed::OpenQuote { limit }
            };
            return Ok(self.take(at + 1, 0, Err(why)));
        }
        let mut dropped = 0;
        loop {
            dropped += (self.buffer.len() - self.start) as u64;
            self.start = self.buffer.len();
            if self.at_end {
                break;
            }
            self.fill()?;
            let end = self.buffer[self.start..].iter().position(|&byte| byte == b'\n');
            if let Some(at) = end {
                return Ok(self.take(
                    self.start + at + 1,
                    dropped,
                    Err(Malformed::TooLong { limit }),
                ));
            }
        }
        self.last_line_is_open = true;
        Ok(self.take(self.start, dropped, Err(Malformed::TooLong { limit })))
    }

    /// What is left at the end of the file.
    fn finish(&mut self) -> Option<Cut> {
        let end = self.buffer.len();
        if self.start == end {
            return None;
        }
        if self.state == QuoteState::Quoted {
            let first_end = self.buffer[self.start..].iter().position(|&byte| byte == b'\n');
            self.last_line_is_open |= first_end.is_none();
            let end = first_end.map_or(end, |at| self.start + at + 1);
            let why = Malformed::OpenQuote { limit: self.record_bytes_max };
            return Some(self.take(end, 0, Err(why)));
        }
        self.last_line_is_open = true;
        let record = Ok(self.buffer[self.start..].to_vec());
        Some(self.take(end, 0, record))
    }

    /// Reads another piece behind what is not taken yet.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.scanned = self.scanned.saturating_sub(self.start);
        self.start = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + PIECE_BYTES, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        self.at_end = read? == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 64;

    fn cut_all(bytes: &[u8], quoted_by: Option<u8>) -> Vec<Cut> {
        let mut cutter = RecordCutter::new(bytes, quoted_by, LIMIT);
        let mut cuts = Vec::new();
        while let Some(cut) = cutter.next().expect("memory reads") {
            cuts.push(cut);
        }
        cuts
    }

    fn records(bytes: &[u8], quoted_by: Option<u8>) -> Vec<(u64, String)> {
        cut_all(bytes, quoted_by)
            .into_iter()
            .map(|cut| {
                let record = cut.record.map_or_else(
                    |why| format!("malformed: {why}"),
                    |bytes| String::from_utf8(bytes).expect("text"),
                );
                (cut.line, record)
            })
            .collect()
    }

    #[test]
    fn carriage_returns_stay_and_the_last_line_may_be_open() {
        let mut cutter = RecordCutter::new(&b"a;1\r\n\r\nb;2"[..], None, LIMIT);
        let mut taken = Vec::new();
        while let Some(cut) = cutter.next().expect("memory reads") {
            taken.push((cut.line, cut.file_bytes, cut.record.expect("whole")));
        }
        assert_eq!(
            taken,
            [(1, 5, b"a;1\r".to_vec()), (2, 2, b"\r".to_vec()), (3, 3, b"b;2".to_vec())]
        );
        assert!(cutter.last_line_is_open());
    }

    #[test]
    fn a_line_end_inside_quotes_belongs_to_the_record() {
        let file = b"1,\"a\nb\"\n2,\"say \"\"hi\"\"\n\",x\n3,pl\"ain\n";
        assert_eq!(
            records(file, Some(b',')),
            [
                (1, "1,\"a\nb\"".to_owned()),
                (3, "2,\"say \"\"hi\"\"\n\",x".to_owned()),
                (5, "3,pl\"ain".to_owned()),
            ]
        );
        assert_eq!(records(file, None).len(), 5);
    }

    #[test]
    fn a_quote_that_never_closes_costs_its_line_only() {
        let found = records(b"1,\"open\n2,b\n3,c", Some(b','));
        assert_eq!(found.len(), 3);
        assert!(found[0].1.starts_with("malformed: a quote"), "{found:?}");
        assert_eq!(found[1..], [(2, "2,b".to_owned()), (3, "3,c".to_owned())]);

        let long = format!("1,\"open\n{}", "2,b\n".repeat(40));
        let found = records(long.as_bytes(), Some(b','));
        assert_eq!(found.len(), 41);
        assert!(found[0].1.starts_with("malformed: a quote"));
        assert_eq!(found[40], (41, "2,b".to_owned()));
    }

    #[test]
    fn a_line_over_the_limit_is_skipped_whole() {
        for length in [LIMIT + 1, 3 * PIECE_BYTES] {
            for ending in ["", "\n", "\nnext\n"] {
                let file = format!("first\n{}{ending}", "x".repeat(length));
                let cuts = cut_all(file.as_bytes(), None);
                assert!(matches!(cuts[1].record, Err(Malformed::TooLong { limit: LIMIT })));
                assert_eq!(cuts.iter().map(|cut| cut.file_bytes).sum::<u64>(), file.len() as u64);
                assert_eq!(cuts.len(), if ending.len() > 1 { 3 } else { 2 });
            }
        }
        assert_eq!(records(&[b'x'; LIMIT], None).len(), 1);
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_file(file in "[ab;\"\r\n]{0,200}", quoted: bool) {
            let cuts = cut_all(file.as_bytes(), quoted.then_some(b';'));
            let bytes: u64 = cuts.iter().map(|cut| cut.file_bytes).sum();
            prop_assert_eq!(bytes, file.len() as u64);
            if cuts.iter().all(|cut| cut.record.is_ok()) {
                let whole: Vec<_> = cuts.iter().filter_map(|cut| cut.record.clone().ok()).collect();
                let mut joined = whole.join(&b'\n');
                if file.ends_with('\n') {
                    joined.push(b'\n');
                }
                prop_assert_eq!(joined, file.as_bytes());
            }
        }

        #[test]
        fn records_and_fields_are_those_of_the_csv_crate(file in "[ab;\"\n]{0,60}") {
            let cuts = cut_all(file.as_bytes(), Some(b';'));
            prop_assume!(cuts.iter().all(|cut| cut.record.is_ok()));
            let ours: Vec<Vec<Vec<u8>>> = cuts
                .iter()
                .filter_map(|cut| cut.record.as_ref().ok())
                .filter(|record| !record.is_empty())
                .map(|record| {
                    super::super::columns::fields(record, b';', true)
                        .map(|field| field.into_owned())
                        .collect()
                })
                .collect();
            let mut reader = csv::ReaderBuilder::new()
                .delimiter(b';')
                .has_headers(false)
                .flexible(true)
                .terminator(csv::Terminator::Any(b'\n'))
                .from_reader(file.as_bytes());
            let theirs: Vec<Vec<Vec<u8>>> = reader
                .byte_records()
                .map(|record| {
                    let record = record.expect("flexible");
                    record.iter().map(<[u8]>::to_vec).collect()
                })
                .collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
