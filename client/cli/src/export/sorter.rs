//! Sorts an export's lines within a bound of memory: sorted runs go to unnamed temporary files
//! and are merged at the end.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use crate::order::Order;

/// One line and the keys that place it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The partition key.
    pub(crate) partition: Vec<u8>,
    /// The sort key.
    pub(crate) sort: Vec<u8>,
    /// What is written.
    pub(crate) text: Vec<u8>,
}

/// What a line takes in memory beside its bytes.
const LINE_OVERHEAD_BYTES: usize = 96;

impl Line {
    fn size_bytes(&self) -> usize {
        self.partition.len() + self.sort.len() + self.text.len() + LINE_OVERHEAD_BYTES
    }

    fn keys(&self) -> (&[u8], &[u8]) {
        (&self.partition, &self.sort)
    }

    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        for part in [&self.partition, &self.sort, &self.text] {
            output.write_all(&(part.len() as u64).to_le_bytes())?;
            output.write_all(part)?;
        }
        Ok(())
    }

    /// The next line of a run; `None` at its end.
    fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; 8];
        if input.read(&mut length[..1])? == 0 {
            return Ok(None);
        }
        input.read_exact(&mut length[1..])?;
        let partition = read_part(input, length)?;
        input.read_exact(&mut length)?;
        let sort = read_part(input, length)?;
        input.read_exact(&mut length)?;
        let text = read_part(input, length)?;
        Ok(Some(Self { partition, sort, text }))
    }
}

fn read_part(input: &mut impl Read, length: [u8; 8]) -> io::Result<Vec<u8>> {
    let length = u64::from_le_bytes(length);
    let mut part = Vec::new();
    let read = input.take(length).read_to_end(&mut part)?;
    if (read as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(part)
}

/// Takes lines in any order and gives them back in one. Lines with equal keys keep their order.
pub(crate) struct Sorter {
    order: Order,
    memory_bytes_max: usize,
    held_bytes: usize,
    held: Vec<Line>,
    runs: Vec<File>,
}

impl Sorter {
    /// A sorter that holds at most about `memory_bytes_max` of lines at a time.
    pub(crate) fn new(order: Order, memory_bytes_max: usize) -> Self {
        Self { order, memory_bytes_max, held_bytes: 0, held: Vec::new(), runs: Vec::new() }
    }

    /// Takes a line.
    pub(crate) fn push(&mut self, line: Line) -> io::Result<()> {
        self.held_bytes += line.size_bytes();
        self.held.push(line);
        if self.held_bytes >= self.memory_bytes_max {
            self.spill()?;
        }
        Ok(())
    }

    fn sort_held(&mut self) {
        let order = self.order;
        self.held.sort_by(|a, b| order.compare(a.keys(), b.keys()));
    }

    fn spill(&mut self) -> io::Result<()> {
        self.sort_held();
        let mut output = BufWriter::with_capacity(1 << 20, tempfile::tempfile()?);
        for line in self.held.drain(..) {
            line.write(&mut output)?;
        }
        self.held_bytes = 0;
        let mut run = output.into_inner().map_err(io::IntoInnerError::into_error)?;
        run.rewind()?;
        self.runs.push(run);
        Ok(())
    }

    /// Gives all lines to `take`, in order.
    pub(crate) fn finish(mut self, mut take: impl FnMut(Line) -> io::Result<()>) -> io::Result<()> {
        if self.runs.is_empty() {
            self.sort_held();
            return self.held.drain(..).try_for_each(take);
        }
        self.spill()?;
        let order = self.order;
        let mut inputs: Vec<_> = self.runs.drain(..).map(BufReader::new).collect();
        let mut heap = BinaryHeap::with_capacity(inputs.len());
        for (run, input) in inputs.iter_mut().enumerate() {
            heap.extend(Line::read(input)?.map(|line| Head { order, run, line }));
        }
        while let Some(Head { run, line, .. }) = heap.pop() {
            take(line)?;
            heap.extend(Line::read(&mut inputs[run])?.map(|line| Head { order, run, line }));
        }
        Ok(())
    }
}

/// The first line of a run that is not taken yet. The heap gives the greatest first, so the
/// comparison is turned round.
struct Head {
    order: Order,
    run: usize,
    line: Line,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order
            .compare(other.line.keys(), self.line.keys())
            .then_with(|| other.run.cmp(&self.run))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(order: Order, memory_bytes_max: usize, lines: &[Line]) -> Vec<Line> {
        let mut sorter = Sorter::new(order, memory_bytes_max);
        for line in lines {
            sorter.push(line.clone()).expect("temporary files work");
        }
        let mut taken = Vec::new();
        sorter
            .finish(|line| {
                taken.push(line);
                Ok(())
            })
            .expect("temporary files work");
        taken
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn runs_on_disk_sort_like_memory(
            keys in prop::collection::vec(("[ab]{1,3}", "[ab]{0,2}"), 0..60),
            by_length: bool,
        ) {
            let order = if by_length { Order::Length } else { Order::Key };
            let lines: Vec<_> = keys
                .into_iter()
                .enumerate()
                .map(|(at, (partition, sort))| Line {
                    partition: partition.into_bytes(),
                    sort: sort.into_bytes(),
                    text: at.to_string().into_bytes(),
                })
                .collect();
            let mut expected = lines.clone();
            expected.sort_by(|a, b| order.compare(a.keys(), b.keys()));
            prop_assert_eq!(&sorted(order, usize::MAX, &lines), &expected);
            prop_assert_eq!(&sorted(order, 300, &lines), &expected);
        }
    }
}
