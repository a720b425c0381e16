//! Consistency levels: how many replicas must answer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How many of a key's N primaries a request waits for.
///
/// On the wire it is one number: 0 to 7 in the order below, 256 and more for [`Level::Exactly`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub enum Level {
    /// One replica.
    One,
    /// Two replicas.
    Two,
    /// Three replicas.
    Three,
    /// More than half of N.
    Quorum,
    /// All N.
    All,
    /// One replica of the coordinator's datacenter.
    LocalOne,
    /// More than half of the replicas in the coordinator's datacenter.
    LocalQuorum,
    /// More than half of the replicas in each datacenter.
    EachQuorum,
    /// So many replicas.
    Exactly(u8),
}

/// A level that a table cannot give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// More replicas were asked for than the table has.
    #[error(
        "{asked} replicas were asked for, but the table has only N={replication}; lower the level or make a table with a greater N"
    )]
    MoreThanReplicas {
        /// The replicas asked for.
        asked: u8,
        /// The table's N.
        replication: u8,
    },
    /// Zero replicas were asked for.
    #[error("a level of 0 promises nothing; ask for at least 1 replica")]
    Zero,
}

impl Level {
    /// The number of replicas to wait for, of `replication` in all. With one datacenter the local
    /// levels equal the plain ones.
    pub fn required(self, replication: u8) -> Result<u8, LevelError> {
        let majority = replication / 2 + 1;
        let asked = match self {
            Self::One | Self::LocalOne => 1,
            Self::Two => 2,
            Self::Three => 3,
            Self::Quorum | Self::LocalQuorum | Self::EachQuorum => majority,
            Self::All => replication,
            Self::Exactly(count) => count,
        };
        if asked == 0 {
            return Err(LevelError::Zero);
        }
        if asked > replication {
            return Err(LevelError::MoreThanReplicas { asked, replication });
        }
        Ok(asked)
    }
}

impl From<Level> for u16 {
    fn from(level: Level) -> Self {
        match level {
            Level::One => 0,
            Level::Two => 1,
            Level::Three => 2,
            Level::Quorum => 3,
            Level::All => 4,
            Level::LocalOne => 5,
            Level::LocalQuorum => 6,
            Level::EachQuorum => 7,
            Level::Exactly(count) => 256 + Self::from(count),
        }
    }
}

impl TryFrom<u16> for Level {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, Self::Error> {
        Ok(match number {
            0 => Self::One,
            1 => Self::Two,
            2 => Self::Three,
            3 => Self::Quorum,
            4 => Self::All,
            5 => Self::LocalOne,
            6 => Self::LocalQuorum,
            7 => Self::EachQuorum,
            256..=511 => Self::Exactly(number.to_le_bytes()[0]),
            _ => return Err(format!("{number} is no level")),
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Two => f.write_str("two"),
            Self::Three => f.write_str("three"),
            Self::Quorum => f.write_str("quorum"),
            Self::All => f.write_str("all"),
            Self::LocalOne => f.write_str("local-one"),
            Self::LocalQuorum => f.write_str("local-quorum"),
            Self::EachQuorum => f.write_str("each-quorum"),
            Self::Exactly(count) => write!(f, "{count}"),
        }
    }
}

/// A text that is not a level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a level: one, two, three, quorum, all, local-one, local-quorum, each-quorum, or a number from 1 to 255"
)]
pub struct ParseLevelError(String);

impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "one" => Self::One,
            "two" => Self::Two,
            "three" => Self::Three,
            "quorum" => Self::Quorum,
            "all" => Self::All,
            "local-one" => Self::LocalOne,
            "local-quorum" => Self::LocalQuorum,
            "each-quorum" => Self::EachQuorum,
            number => match number.parse() {
                Ok(count) if count > 0 => Self::Exactly(count),
                _ => return Err(ParseLevelError(text.chars().take(64).collect())),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_reads_back_as_it_was_written() {
        for level in [
            Level::One,
            Level::Two,
            Level::Three,
            Level::Quorum,
            Level::All,
            Level::LocalOne,
            Level::LocalQuorum,
            Level::EachQuorum,
            Level::Exactly(7),
        ] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("0".parse::<Level>().is_err());
        assert!("most".parse::<Level>().is_err());
    }

    #[test]
    fn a_level_beyond_n_is_refused() {
        assert_eq!(Level::Quorum.required(3), Ok(2));
        assert_eq!(Level::Quorum.required(4), Ok(3));
        assert_eq!(
            Level::Three.required(2),
            Err(LevelError::MoreThanReplicas { asked: 3, replication: 2 })
        );
        assert_eq!(Level::Exactly(0).required(3), Err(LevelError::Zero));
    }
}
