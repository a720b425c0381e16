//! Invariant 6: quorum reads of a key with a majority R are monotonic: what one read saw, every
//! read that began after it ended sees too, unless it was deleted and collected since (Attiya, Bar-Noy and Dolev, 1995: the write-back).

use quoit_ring::{ConflictPolicy, HybridTime};
use quoit_storage::version::VersionVector;

use super::Verdict;

/// What reads of one key have seen, by the time they ended.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When a read ended, and all that was seen by then.
    ended: Vec<(u64, VersionVector, HybridTime)>,
}

/// More are not kept: reads do not overlap that far.
const KEPT: usize = 256;

impl Seen {
    /// A read has ended.
    pub(crate) fn on_read(
        &mut self,
        verdict: &mut Verdict,
        policy: ConflictPolicy,
        (began, now): (u64, u64),
        floor: HybridTime,
        vector: &VersionVector,
        what: impl FnOnce() -> String,
    ) {
        let before = self.ended.partition_point(|(ended, ..)| *ended < began);
        if let Some((_, seen, greatest)) = before.checked_sub(1).map(|at| &self.ended[at]) {
            let holds = match policy {
                ConflictPolicy::Latest => vector.greatest().max(floor) >= *greatest,
                ConflictPolicy::Siblings => {
                    let mut known = vector.clone();
                    known.raise_base(floor);
                    known.covers(seen)
                }
            };
            verdict.expect(holds, || {
                format!("{}: {seen:?} was seen before, {vector:?} after", what())
            });
        }
        let (mut all, mut greatest) = match self.ended.last() {
            Some((_, all, greatest)) => (all.clone(), *greatest),
            None => Default::default(),
        };
        if policy == ConflictPolicy::Siblings {
            all.join(vector);
        }
        greatest = greatest.max(vector.greatest());
        if self.ended.len() == KEPT {
            self.ended.drain(..KEPT / 2);
        }
        self.ended.push((now, all, greatest));
    }
}
