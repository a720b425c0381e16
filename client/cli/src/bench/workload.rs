//! What a benchmark does: the core workloads of YCSB (Cooper et al., "Benchmarking Cloud Serving
//! Systems with YCSB", 2010; the parameters are those of its repository), and two of one kind each.
//!
//! YCSB's values are ten fields of 100 bytes; here a value is one string of bytes, always read and
//! written whole.

use serde::{Deserialize, Serialize};

use super::keys::Distribution;
use super::random::Random;

/// What a benchmark does; a to f are YCSB's core workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Writes only.
    Put,
    /// Reads only.
    Get,
    /// Half reads, half writes.
    A,
    /// 95 % reads, 5 % writes.
    B,
    /// Reads only, as `get`, but of zipfian keys.
    C,
    /// 95 % reads, the latest keys most often; 5 % inserts of new keys.
    D,
    /// 95 % scans of 1 to 100 items within a partition key, 5 % inserts of new items.
    E,
    /// Half reads, half read-modify-writes with the context of what was read.
    F,
}

/// A kind of operation, told apart in results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A read of a key.
    Get,
    /// A write of a key that is there.
    Put,
    /// A write of a key that is not there.
    Insert,
    /// A read of consecutive items of a partition key.
    Scan,
    /// A read and a write in the place of what was read, as one.
    ReadModifyWrite,
}

impl Kind {
    /// All of them, in the order of reports.
    pub(super) const ALL: [Self; 5] =
        [Self::Get, Self::Put, Self::Insert, Self::Scan, Self::ReadModifyWrite];

    /// The word for reports and file names.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Insert => "insert",
            Self::Scan => "scan",
            Self::ReadModifyWrite => "read-modify-write",
        }
    }
}

impl Workload {
    /// The word for the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::D => "d",
            Self::E => "e",
            Self::F => "f",
        }
    }

    /// How many of a hundred operations are of which kind.
    fn shares(self) -> &'static [(Kind, u64)] {
        match self {
            Self::Put => &[(Kind::Put, 100)],
            Self::Get | Self::C => &[(Kind::Get, 100)],
            Self::A => &[(Kind::Get, 50), (Kind::Put, 50)],
            Self::B => &[(Kind::Get, 95), (Kind::Put, 5)],
            Self::D => &[(Kind::Get, 95), (Kind::Insert, 5)],
            Self::E => &[(Kind::Scan, 95), (Kind::Insert, 5)],
            Self::F => &[(Kind::Get, 50), (Kind::ReadModifyWrite, 50)],
        }
    }

    /// The kind of the next operation.
    pub(super) fn draw(self, random: &mut Random) -> Kind {
        let mut place = random.below(100);
        for (kind, share) in self.shares() {
            if place < *share {
                return *kind;
            }
            place -= share;
        }
        unreachable!("the shares of {self:?} add up to a hundred")
    }

    /// How keys are chosen where nobody says otherwise.
    pub(super) fn default_distribution(self) -> Distribution {
        match self {
            Self::Put | Self::Get => Distribution::Uniform,
            Self::A | Self::B | Self::C | Self::E | Self::F => Distribution::Zipfian,
            Self::D => Distribution::Latest,
        }
    }

    /// The table where nobody says otherwise. One of its own for each shape of keys and policy.
    pub(super) fn default_table(self) -> &'static str {
        match self {
            Self::E => "bench-scans",
            Self::F => "bench-siblings",
            Self::Put | Self::Get | Self::A | Self::B | Self::C | Self::D => "bench",
        }
    }

    /// Whether the keys must be there before.
    pub(super) fn needs_keys(self) -> bool {
        self != Self::Put
    }

    /// Whether items lie in partitions, ordered by sort keys.
    pub(super) fn scans(self) -> bool {
        self == Self::E
    }

    /// Whether it needs a table that keeps siblings: an update loses nothing only there.
    pub(super) fn needs_siblings(self) -> bool {
        self == Self::F
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_as_often_as_their_shares_say() {
        for workload in [Workload::A, Workload::B, Workload::D, Workload::E, Workload::F] {
            let mut random = Random::new(5, 0);
            let draws = 20_000;
            let mut seen = std::collections::BTreeMap::<Kind, u32>::new();
            for _ in 0..draws {
                *seen.entry(workload.draw(&mut random)).or_default() += 1;
            }
            assert_eq!(seen.len(), workload.shares().len(), "{workload:?}");
            assert_eq!(workload.shares().iter().map(|(_, share)| share).sum::<u64>(), 100);
            for (kind, share) in workload.shares() {
                let percent = f64::from(seen[kind]) * 100.0 / f64::from(draws);
                assert!((percent - *share as f64).abs() < 1.5, "{workload:?}: {percent} {kind:?}");
            }
        }
    }
}
