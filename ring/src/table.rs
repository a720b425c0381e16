//! Tables: what the items under one name have in common.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Level, LevelError};

/// The number of a table, never used again after a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableId(pub u32);

/// What happens to writes that did not know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConflictPolicy {
    /// The value with the greatest dot stays.
    Latest,
    /// All stay, as siblings, until a writer that has read them replaces them.
    Siblings,
}

impl fmt::Display for ConflictPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latest => "latest",
            Self::Siblings => "siblings",
        })
    }
}

/// A text that is not a conflict policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a conflict policy: latest or siblings")]
pub struct ParsePolicyError(String);

impl FromStr for ConflictPolicy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Self::Latest),
            "siblings" => Ok(Self::Siblings),
            _ => Err(ParsePolicyError(text.chars().take(64).collect())),
        }
    }
}

/// What a table is asked to be; the cluster record gives it its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableOptions {
    /// N, the replicas of each key.
    pub replication: u8,
    /// R, when a request names no level.
    pub read_level: Level,
    /// W, when a request names no level.
    pub write_level: Level,
    /// What happens to concurrent writes.
    pub policy: ConflictPolicy,
    /// How long a value lives when its write does not say, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Whether other members may take a write, and answer a read, in the place of primaries that
    /// cannot be reached (Dynamo's sloppy quorums, section 4.6). R + W > N promises nothing then but
    /// that replicas become equal in the end.
    #[serde(default)]
    pub sloppy: bool,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            replication: 3,
            read_level: Level::Quorum,
            write_level: Level::Quorum,
            policy: ConflictPolicy::Latest,
            ttl_ms: None,
            sloppy: false,
        }
    }
}

/// A table that cannot be made so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableOptionsError {
    /// The name is empty, too long, or has other characters than letters, digits, `_`, `-` and `.`.
    #[error("a table's name is 1 to 64 letters, digits, '_', '-' or '.', not {0:?}")]
    Name(String),
    /// N is zero or more than there are members.
    #[error("N={replication}, but the cluster has {members} members: choose N from 1 to {members}")]
    Replication {
        /// The N asked for.
        replication: u8,
        /// The members of the cluster.
        members: usize,
    },
    /// R cannot be had with this N.
    #[error("the read level cannot be had: {0}")]
    Read(LevelError),
    /// W cannot be had with this N.
    #[error("the write level cannot be had: {0}")]
    Write(LevelError),
    /// A time to live of zero would expire at once.
    #[error("a time to live must be at least 1 ms")]
    ZeroTtl,
}

impl TableOptions {
    /// Checks the options for a cluster of `members`.
    pub fn check(&self, name: &str, members: usize) -> Result<(), TableOptionsError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            return Err(TableOptionsError::Name(name.chars().take(80).collect()));
        }
        if self.replication == 0 || usize::from(self.replication) > members {
            return Err(TableOptionsError::Replication { replication: self.replication, members });
        }
        self.read_level.required(self.replication).map_err(TableOptionsError::Read)?;
        self.write_level.required(self.replication).map_err(TableOptionsError::Write)?;
        if self.ttl_ms == Some(0) {
            return Err(TableOptionsError::ZeroTtl);
        }
        Ok(())
    }
}

/// A table of the cluster record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its number.
    pub id: TableId,
    /// Its name.
    pub name: String,
    /// What it was asked to be.
    pub options: TableOptions,
}
