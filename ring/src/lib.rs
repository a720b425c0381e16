//! Placement and the shared words of Quoit: nothing here does I/O, reads a clock or draws a number.
//!
//! - [`Token`], [`VnodeIndex`]: where a partition key lies on the ring.
//! - [`NodeId`], [`Member`], [`Zone`]: who takes part and where it stands.
//! - [`ClusterRecord`]: one version of members, owners and tables; [`assignment`] computes owners.
//! - [`HybridTime`], [`HybridClock`]: the time that orders writes.
//! - [`Level`], [`TableOptions`]: what a request and a table promise.

pub mod assignment;
mod hybrid;
mod level;
mod node;
mod record;
mod table;
mod token;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use hybrid::{HybridClock, HybridTime, LeaseExhausted, WallTime};
pub use level::{Level, LevelError, ParseLevelError};
pub use node::{ClusterId, Member, NodeId, ParseClusterIdError, ParseNodeIdError, Zone};
pub use record::{ClusterRecord, Preference, RecordError, VOTERS_MAX};
pub use table::{
    ConflictPolicy, ParsePolicyError, Table, TableId, TableOptions, TableOptionsError,
};
pub use token::{RingKey, Token, VnodeCount, VnodeCountError, VnodeIndex};

/// The version of the cluster record; 0 is the list of initial members in the configuration, 1 the
/// first record that was decided.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Counts the changes of one virtual node's owners; every request carries it and a replica refuses
/// any other than its own.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ConfigurationNumber(pub u32);

impl fmt::Display for ConfigurationNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
