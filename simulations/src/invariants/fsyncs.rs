//! Invariant 16: no acknowledgement after a failed fsync, until the node was started again (Rebello
//! et al., "Can Applications Recover from fsync Failures?", 2020).

use super::Verdict;

#[derive(Default)]
pub(crate) struct Fsyncs {
    pub(crate) verdict: Verdict,
}

impl Fsyncs {
    /// A storage worker says that something is durable.
    pub(crate) fn on_acknowledged(&mut self, node: usize, is_poisoned: bool) {
        self.verdict.expect(!is_poisoned, || {
            format!("n{} acknowledges although an fsync has failed", node + 1)
        });
    }
}
