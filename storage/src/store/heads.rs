//! Heads: what keys hold, without their values. Most writes replace all that their key holds, and need
//! none of it but its dots: with those in memory the tables are not read for them.
//!
//! A head tells what the last commit left under its key; no key has one that is incomplete, was damaged,
//! holds nothing, or has values that lie apart. Who must know a value reads the tables after all, and so
//! does whoever mends or collects: what lies on the disk is what counts there.

use std::hash::BuildHasherDefault;

use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use siphasher::sip::SipHasher13;

use super::prepare::Held;
use crate::layout::StoredKey;
use crate::stored::Era;
use crate::version::{Content, SiblingSet, Version};

/// What one takes at least, with its place in the cache; for the bound.
const HEAD_BYTES: usize = 64 + 160;

/// The set of a key with the lengths in place of the values, all as if they lay apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) set: SiblingSet,
    /// As in [`crate::stored::Standing`].
    pub(super) era: Era,
}

/// Keys begin with a keyed hash, so that nobody can choose them to collide here; and a simulation evicts
/// the same ones each time.
type Hasher = BuildHasherDefault<SipHasher13>;

/// The heads of keys that were written of late, within a bound of bytes.
pub(super) struct Heads {
    cache: Cache<Box<[u8]>, Box<Head>, InBytes, Hasher>,
}

#[derive(Clone)]
struct InBytes;

impl Weighter<Box<[u8]>, Box<Head>> for InBytes {
    fn weight(&self, key: &Box<[u8]>, head: &Box<Head>) -> u64 {
        let entries = size_of_val(head.set.vector().entries());
        let versions = size_of_val(head.set.versions());
        (HEAD_BYTES + key.len() + entries + versions) as u64
    }
}

impl Heads {
    pub(super) fn new(bytes_max: u64) -> Self {
        let smallest = HEAD_BYTES + size_of::<Version>();
        let options = OptionsBuilder::new()
            .weight_capacity(bytes_max)
            .estimated_items_capacity(usize::try_from(bytes_max).unwrap_or(usize::MAX) / smallest)
            .build()
            .expect("all that is required is set");
        Self {
            cache: Cache::with_options(
                options,
                InBytes,
                Hasher::default(),
                DefaultLifecycle::default(),
            ),
        }
    }

    pub(super) fn get(&self, key: &StoredKey) -> Option<&Head> {
        self.cache.get(&key.bytes()[..]).map(Box::as_ref)
    }

    /// Notes what a commit has left under a key.
    pub(super) fn note(&mut self, key: &StoredKey, held: &Held) {
        let key = &key.bytes()[..];
        match held.head() {
            None => drop(self.cache.remove(key)),
            Some(head) => match self.cache.peek_mut(key) {
                Some(mut known) => **known = head,
                None => self.cache.insert(key.into(), Box::new(head)),
            },
        }
    }
}

/// The set with lengths in place of values; `None` where a value lies apart already.
pub(super) fn without_values(set: &SiblingSet) -> Option<SiblingSet> {
    let hollow = |version: &Version| {
        let content = match &version.content {
            Content::Value { bytes, checksum } => {
                let length = u32::try_from(bytes.len()).expect("a longer value lies apart");
                Content::Apart { length, checksum: *checksum }
            }
            Content::Apart { .. } => return None,
            Content::Tombstone => Content::Tombstone,
        };
        Some(Version { content, ..version.clone() })
    };
    let versions = set.versions().iter().map(hollow).collect::<Option<Vec<_>>>()?;
    SiblingSet::new(set.vector().clone(), versions)
}
