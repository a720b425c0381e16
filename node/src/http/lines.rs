//! Lines of a body that is still coming: each bounded, and each told apart even where one is not.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::body::{PART_TIMEOUT, broken, too_slow};
use super::problem::Problem;

/// The lines of a body.
pub(super) struct Lines {
    body: Incoming,
    /// What has come and is no whole line yet.
    rest: BytesMut,
    /// What of `rest` has no line end in it.
    searched: usize,
    line_bytes_max: usize,
    /// A line that is too long is being passed over.
    skipping: bool,
    ended: bool,
}

/// A line of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its bytes, without the line's end.
    Whole(Bytes),
    /// It was longer than lines may be, and is passed over.
    TooLong,
}

impl Lines {
    pub(super) fn new(body: Incoming, line_bytes_max: usize) -> Self {
        let rest = BytesMut::new();
        Self { body, rest, searched: 0, line_bytes_max, skipping: false, ended: false }
    }

    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, Problem> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            let frame = tokio::time::timeout(PART_TIMEOUT, self.body.frame()).await;
            match frame.map_err(|_| too_slow())? {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                None => self.ended = true,
            }
        }
    }

    /// A line out of what has come.
    fn take(&mut self) -> Option<Line> {
        take_line(
            &mut self.rest,
            &mut self.searched,
            &mut self.skipping,
            self.ended,
            self.line_bytes_max,
        )
    }
}

/// The next line out of what has come, of which `searched` bytes are known to hold no end.
pub(super) fn take_line(
    rest: &mut BytesMut,
    searched: &mut usize,
    skipping: &mut bool,
    ended: bool,
    line_bytes_max: usize,
) -> Option<Line> {
    loop {
        let end = rest[*searched..].iter().position(|byte| *byte == b'\n');
        let end = end.map(|at| *searched + at);
        let was_skipping = *skipping;
        match end {
            Some(end) => {
                let line = rest.split_to(end).freeze();
                rest.advance(1);
                (*searched, *skipping) = (0, false);
                if was_skipping {
                    continue; // It was told when it became too long.
                }
                return Some(whole(line, line_bytes_max));
            }
            None if was_skipping => {
                rest.clear();
                *searched = 0;
                return None;
            }
            // One more than the line may have, for the '\r' that may end it.
            None if rest.len() > line_bytes_max + 1 => {
                rest.clear();
                (*searched, *skipping) = (0, true);
                return Some(Line::TooLong);
            }
            None if ended && !rest.is_empty() => {
                *searched = 0;
                return Some(whole(rest.split().freeze(), line_bytes_max));
            }
            None => {
                *searched = rest.len();
                return None;
            }
        }
    }
}

fn whole(mut line: Bytes, line_bytes_max: usize) -> Line {
    if line.ends_with(b"\r") {
        line.truncate(line.len() - 1);
    }
    if line.len() > line_bytes_max { Line::TooLong } else { Line::Whole(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a text that comes in pieces of `size`, where a line has at most 4 bytes.
    fn lines(text: &str, size: usize) -> Vec<Line> {
        let (mut rest, mut searched, mut skipping) = (BytesMut::new(), 0, false);
        let mut found = Vec::new();
        let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
        for index in 0..=pieces.len() {
            let ended = index == pieces.len();
            rest.extend_from_slice(pieces.get(index).copied().unwrap_or_default());
            while let Some(line) = take_line(&mut rest, &mut searched, &mut skipping, ended, 4) {
                found.push(line);
            }
            assert!(rest.len() <= 5, "more is held than a line may have");
        }
        found
    }

    #[test]
    fn lines_are_told_apart_however_they_come() {
        let whole = |text: &'static str| Line::Whole(text.into());
        for size in 1..20 {
            assert_eq!(lines("", size), []);
            assert_eq!(
                lines("a\nbb\r\n\ncccc\r\nd", size),
                [whole("a"), whole("bb"), whole(""), whole("cccc"), whole("d"),]
            );
            assert_eq!(
                lines("a\n01234567890123\nb\n", size),
                [whole("a"), Line::TooLong, whole("b")]
            );
            assert_eq!(
                lines("01234\nb\n0123456789", size),
                [Line::TooLong, whole("b"), Line::TooLong]
            );
        }
    }
}
