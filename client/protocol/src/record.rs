//! The cluster record as messages carry it.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use quoit_ring::ClusterRecord;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::message::decode;

/// A cluster record that is encoded once, however many ask for it: of 1,024 virtual nodes that takes
/// longer than all else about the answer, and after a change all clients ask at the same time.
///
/// In a message it is a byte string that holds the record's own encoding.
#[derive(Debug, Clone)]
pub struct SharedRecord {
    record: Arc<ClusterRecord>,
    encoded: Bytes,
}

impl SharedRecord {
    /// The record, without its encoding.
    pub fn into_record(self) -> Arc<ClusterRecord> {
        self.record
    }
}

impl From<ClusterRecord> for SharedRecord {
    fn from(record: ClusterRecord) -> Self {
        let encoded = rmp_serde::to_vec(&record).expect("plain data always encodes into memory");
        Self { record: Arc::new(record), encoded: encoded.into() }
    }
}

impl Deref for SharedRecord {
    type Target = ClusterRecord;

    fn deref(&self) -> &ClusterRecord {
        &self.record
    }
}

impl PartialEq for SharedRecord {
    fn eq(&self, other: &Self) -> bool {
        self.record == other.record
    }
}

impl Eq for SharedRecord {}

impl Serialize for SharedRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encoded)
    }
}

impl<'de> Deserialize<'de> for SharedRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let encoded = Bytes::deserialize(deserializer)?;
        let record = Arc::new(decode(&encoded).map_err(D::Error::custom)?);
        Ok(Self { record, encoded })
    }
}
