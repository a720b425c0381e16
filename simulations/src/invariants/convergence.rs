//! Invariant 13: after the faults stop, replicas become equal and repairs go to zero, within a
//! bound. There is no anti-entropy yet: what must converge is what is read. So every key is read at
//! `All`, twice: within a dozen tries that succeeds, the second time nothing differs
//! any more, and all stores hold the same bytes.
