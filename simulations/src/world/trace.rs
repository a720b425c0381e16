//! The trace of a run: a hash of all that passed between the parts of the world, and, where it is
//! wanted, lines for people.

use std::fmt::Write as _;

/// A run's trace.
pub(crate) struct Trace {
    hash: u64,
    lines: Option<String>,
}

impl Trace {
    pub(crate) fn new(wants_lines: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: wants_lines.then(String::new) }
    }

    /// Takes numbers into the hash.
    pub(crate) fn add(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    /// Takes a frame into the hash, by its request id and its checksum.
    pub(crate) fn add_frame(&mut self, frame: &[u8]) {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        self.add(&[number(&frame[8..16]), number(&frame[16..20])]);
    }

    /// A line for people, which is only made where it is wanted.
    pub(crate) fn line(&mut self, at_us: u64, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let _ = writeln!(lines, "{:>12.6} {}", at_us as f64 / 1e6, line());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn take_lines(&mut self) -> Option<String> {
        self.lines.take()
    }
}
