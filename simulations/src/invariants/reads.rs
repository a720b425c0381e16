//! Invariant 5: with R + W > N a read takes in every acknowledged, not superseded write that
//! finished before it began, and nothing invented (Gifford, 1979; Dynamo, section 4.5), nor what such
//! a write replaced. Reads that run beside a write may see it or not: regular, not atomic.

use super::Verdict;

/// Whether a read that had to take something in did.
pub(crate) fn check(verdict: &mut Verdict, taken_in: bool, what: impl FnOnce() -> String) {
    verdict.expect(taken_in, || format!("a read missed what came before it: {}", what()));
}

/// Whether a value that was read was ever written there.
pub(crate) fn check_origin(verdict: &mut Verdict, known: bool, what: impl FnOnce() -> String) {
    verdict.expect(known, || format!("invented: {}", what()));
}

/// Whether nothing was read that an earlier write had replaced.
pub(crate) fn check_replaced(verdict: &mut Verdict, ok: bool, what: impl FnOnce() -> String) {
    verdict.expect(ok, || format!("a value came back that was replaced: {}", what()));
}
