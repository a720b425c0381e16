//! Invariant 15: after a crash every acknowledged (fsynced) write is there; a corrupt record is
//! never taken for absence (Ganesan et al., FAST 2017; FAILURES rows 21 and 23). At each start the
//! store is compared with what it had told its core to be durable.

use std::collections::BTreeMap;

use bytes::Bytes;
use quoit_ring::{ConflictPolicy, HybridTime, TableId};
use quoit_storage::codec;
use quoit_storage::layout::StoredKey;
use quoit_storage::store::{Found, Reader};

use super::Verdict;

#[derive(Default)]
pub(crate) struct Crashes {
    pub(crate) verdict: Verdict,
}

impl Crashes {
    pub(crate) fn on_start(
        &mut self,
        node: usize,
        reader: &Reader,
        durable: &BTreeMap<Bytes, Bytes>,
        is_damaged: bool,
        policy_of: impl Fn(TableId) -> Option<ConflictPolicy>,
        floor_of: impl Fn(&StoredKey) -> HybridTime,
    ) {
        for (key, before) in durable {
            let key = StoredKey::from_bytes(key.clone()).expect("it was stored");
            let Some(policy) = policy_of(key.table()) else { continue };
            // What went under the floor since is not missed.
            let floor = floor_of(&key);
            let before = codec::decode(before).expect("the store encoded it").without_going(floor);
            let holds = match reader.read(&key) {
                Found::Set(bytes) => codec::decode(&bytes).is_ok_and(|now| {
                    let now = now.without_going(floor);
                    let both = now.clone().with_base(floor).merge(&before, policy);
                    both.versions() == now.versions()
                }),
                Found::Unreadable => is_damaged,
            };
            self.verdict.expect(holds, || {
                format!("n{} had {before:?} of {key:?}, and has {:?}", node + 1, reader.read(&key))
            });
        }
    }
}
