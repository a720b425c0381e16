//! Invariant 1: an acknowledged write is present, or superseded by a context that some client
//! received or, in a `latest` table, by a greater dot (Dynamo, section 4.4; FAILURES row 1). Judged
//! at the end, when all replicas are read; while the run goes on, [`super::reads`] is stricter.

use super::Verdict;

/// An acknowledged write that a reader of all replicas looks for.
pub(crate) fn check(verdict: &mut Verdict, found: bool, what: impl FnOnce() -> String) {
    verdict.expect(found, || format!("lost: {}", what()));
}
