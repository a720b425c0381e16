//! Bugs that are planted on purpose, so that the simulator can show that it catches them.
//!
//! A program without the feature `planted-bugs` knows of none of this: [`is_planted`] is `false`
//! then, and nothing is left of it after compilation. With the feature a test plants one bug at a
//! time in one of its threads, or a faulty program in all of its own.

#[cfg(feature = "planted-bugs")]
use std::cell::Cell;
#[cfg(feature = "planted-bugs")]
use std::sync::atomic::{AtomicU8, Ordering};

/// A bug, each of a kind that has cost a store of this family data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// A batch is acknowledged without its fsync.
    SkipSync = 1,
    /// A batch whose fsync failed is acknowledged.
    IgnoreFailedSync,
    /// A write is acknowledged by one replica less than was asked for.
    AcknowledgeEarly,
    /// A write does not claim what its context covers.
    ForgetContext,
    /// A node draws the same actor after each start, whatever it has lost.
    KeepActor,
    /// A merge of three siblings or more drops one.
    DropSibling,
    /// A coordinator sends the new value alone to the others, not the whole set.
    SendOnlyNew,
    /// A fallback counts as a primary in a strict quorum.
    CountFallback,
    /// A damaged record is taken for a key that was never written.
    CorruptIsAbsent,
    /// A `latest` table takes an older dot for merged.
    SkipOlder,
    /// A quorum read answers without writing back what differs.
    SkipWriteBack,
    /// A write whose outcome is unknown is said to be certainly not done.
    UnknownIsNotDone,
    /// A context is taken for any key.
    ContextForAnyKey,
    /// A node begins as many operations as come.
    UnboundedQueue,
    /// Time is settled without asking anybody.
    SettleWithoutPromises,
    /// A pair under the floor that is not held is taken in from anybody.
    TakeUnderFloor,
    /// A merge does not change the digests.
    SkipDigest,
    /// A voter accepts a record under any ballot, whatever it has promised.
    AcceptAnyBallot,
    /// A coordinator judges by its own wall clock what has expired.
    ExpireByWall,
    /// A hint is taken for delivered though nothing was sent.
    DropHint,
    /// A wiped or restored replica counts at once.
    CountAtOnce,
    /// Time is settled though fallbacks keep acknowledged writes that old.
    SettleOverStandIns,
    /// A read gives less than its client's session has seen.
    ForgetSession,
    /// One that lost what it held counts once a single peer was merged in, whole or not.
    RefillFromOne,
}

impl PlantedBug {
    /// All that the swarm must catch.
    pub const ALL: [Self; 24] = [
        Self::SkipSync,
        Self::IgnoreFailedSync,
        Self::AcknowledgeEarly,
        Self::ForgetContext,
        Self::KeepActor,
        Self::DropSibling,
        Self::SendOnlyNew,
        Self::CountFallback,
        Self::CorruptIsAbsent,
        Self::SkipOlder,
        Self::SkipWriteBack,
        Self::UnknownIsNotDone,
        Self::ContextForAnyKey,
        Self::UnboundedQueue,
        Self::SettleWithoutPromises,
        Self::TakeUnderFloor,
        Self::SkipDigest,
        Self::DropHint,
        Self::CountAtOnce,
        Self::SettleOverStandIns,
        Self::ForgetSession,
        Self::RefillFromOne,
        Self::AcceptAnyBallot,
        Self::ExpireByWall,
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: Cell<u8> = const { Cell::new(0) };
}

/// Planted in every thread of the process.
#[cfg(feature = "planted-bugs")]
static PLANTED_EVERYWHERE: AtomicU8 = AtomicU8::new(0);

/// Plants a bug in every thread, for good: for a whole program that is to be found faulty.
#[cfg(feature = "planted-bugs")]
pub fn plant_everywhere(bug: PlantedBug) {
    PLANTED_EVERYWHERE.store(bug as u8, Ordering::Relaxed);
}

/// Plants a bug in this thread, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<PlantedBug>) {
    PLANTED.set(bug.map_or(0, |bug| bug as u8));
}

/// Whether this bug is planted.
#[inline]
pub fn is_planted(bug: PlantedBug) -> bool {
    #[cfg(feature = "planted-bugs")]
    {
        PLANTED.get() == bug as u8 || PLANTED_EVERYWHERE.load(Ordering::Relaxed) == bug as u8
    }
    #[cfg(not(feature = "planted-bugs"))]
    {
        let _ = bug;
        false
    }
}
