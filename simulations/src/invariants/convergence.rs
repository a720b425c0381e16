//! Invariant 13: after the faults stop, replicas become equal and repairs go to zero, within a
//! bound. Exchanges alone make the replicas hold the same pairs, where they are on and no file was
//! damaged. Then every key is read at `All`, twice: within a dozen tries that succeeds, the second time
//! nothing differs any more, and all stores hold the same bytes.
