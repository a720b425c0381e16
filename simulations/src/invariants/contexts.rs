//! Invariant 3: a context covers every dot that was returned with it, and is refused for any other
//! key (Preguiça et al., "Dotted Version Vectors", 2010, for what a context claims).

use bytes::Bytes;
use quoit_core::context;
use quoit_protocol::{Key, Sibling};
use quoit_ring::{ClusterId, HybridTime, RingKey, TableId};
use quoit_storage::layout::StoredKey;
use quoit_storage::version::VersionVector;

use super::Verdict;

/// What is known of the cluster.
pub(crate) struct Truth {
    pub(crate) cluster: ClusterId,
    pub(crate) ring_key: RingKey,
    pub(crate) tables: Vec<TableId>,
    /// What is at or before this may have been collected.
    pub(crate) floor: HybridTime,
}

impl Truth {
    fn stored(&self, table: u32, key: &Key) -> StoredKey {
        let token = self.ring_key.token(&key.partition);
        StoredKey::new(token, self.tables[table as usize], &key.partition, &key.sort)
            .expect("keys are short here")
    }
}

/// Opens the context that came with siblings, and checks it.
pub(crate) fn check(
    verdict: &mut Verdict,
    truth: &Truth,
    (table, key): (u32, &Key),
    siblings: &[Sibling],
    context: &Bytes,
) -> VersionVector {
    let stored = truth.stored(table, key);
    let Ok(seen) = context::open(truth.cluster, truth.ring_key, &stored, context) else {
        verdict.expect(false, || format!("a context of {key:?} is refused for its own key"));
        return VersionVector::default();
    };
    let latest = siblings.iter().map(|sibling| sibling.written).max().unwrap_or_default();
    verdict.expect(seen.greatest() >= latest, || {
        format!("the context of {key:?}, {seen:?}, does not cover what was written at {latest}")
    });
    if !context.is_empty() {
        let other = Key { partition: key.partition.clone(), sort: Bytes::from_static(b"other") };
        let opened =
            context::open(truth.cluster, truth.ring_key, &truth.stored(table, &other), context);
        verdict.expect(opened.is_err(), || format!("the context of {key:?} opens for another key"));
    }
    seen
}
