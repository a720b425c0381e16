//! Invariant 7: what was answered "certainly not done" is never seen (FAILURES row 3; Jepsen on
//! Aerospike 3.99), neither before the answer nor after it.

use super::Verdict;

/// A value was read, or the write of one that had been read was refused.
pub(crate) fn check(verdict: &mut Verdict, clean: bool, what: impl FnOnce() -> String) {
    verdict.expect(clean, || format!("refused, but seen: {}", what()));
}
