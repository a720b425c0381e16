//! Session guarantees: a program that writes and reads sees its own writes, and time does not run
//! backwards for it (Terry et al., "Session guarantees for weakly consistent replicated data", 1994).

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use quoit_protocol::{Key, Seen};
use quoit_ring::TableId;

/// A session remembers so many keys unless it is told otherwise.
const KEYS_MAX: usize = 65_536;

/// What one user of the store has written and read. Reads that belong to it see, at any level,
///
/// - every acknowledged write of the session, or what replaced it (read your writes);
/// - of each key no less than earlier reads of the session did (monotonic reads).
///
/// Reads and writes at strict quorums (R + W > N) do so by themselves for what was acknowledged; a
/// session is for those at lower levels, or in sloppy tables. A read takes its key's versions along, some
/// 30 bytes; where the replicas that answer first hold less than the session has seen, the coordinator
/// asks another one, and one more, so that a read costs more only when it would have been stale. Where all
/// that hold enough are away it fails as `Unavailable` rather than show less, and so it does, for a while,
/// where what was seen is deleted and collected and the coordinator has not heard of that. What is lost
/// with the only disks that it was on is not seen again. Scans and exports are not of any session.
///
/// A session is kept in memory, for the keys that it met last (65,536); for others it promises nothing.
/// Cheap to clone: clones are one session.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Context, Level, Profile, Session};
///
/// let profile = Profile::new().read_level(Level::One).session(Session::new());
/// let carts = carts.with_profile(&profile);
/// carts.put("alice", "3 apples", &Context::none()).await?;
/// // One replica is asked, and others only if it does not have the apples yet.
/// assert!(!carts.get("alice").await?.is_absent());
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Session {
    memory: Arc<Mutex<Memory>>,
}

type Memory = LruCache<(TableId, Key), Seen>;

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("keys", &self.memory().len()).finish()
    }
}

/// Two are equal if they are one.
impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }
}

impl Eq for Session {}

impl Session {
    /// A session that has seen nothing.
    ///
    /// ```
    /// use quoit_client::Session;
    ///
    /// let session = Session::new();
    /// assert_eq!(session, session.clone());
    /// assert_ne!(session, Session::new());
    /// ```
    pub fn new() -> Self {
        Self::of_keys(KEYS_MAX)
    }

    /// A session that remembers at most so many keys (at least 1).
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Profile, Session};
    ///
    /// let session = Session::of_keys(1);
    /// let carts = carts.with_profile(&Profile::new().session(session.clone()));
    /// carts.get_many(["alice", "bob"]).await;
    /// assert_eq!(format!("{session:?}"), "Session { keys: 1 }");
    /// # Ok(()) });
    /// ```
    pub fn of_keys(keys_max: usize) -> Self {
        let keys_max = NonZeroUsize::new(keys_max).unwrap_or(NonZeroUsize::MIN);
        // It grows as it is filled.
        let mut memory = LruCache::unbounded();
        memory.resize(keys_max);
        Self { memory: Arc::new(Mutex::new(memory)) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing panics midway through a change.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen of a key.
    pub(crate) fn seen(&self, table: TableId, key: &Key) -> Seen {
        self.memory().get(&(table, key.clone())).cloned().unwrap_or_default()
    }

    /// A write of the key was acknowledged.
    pub(crate) fn on_written(
        &self,
        table: TableId,
        key: Key,
        context: &[u8],
        dot: (u64, quoit_ring::HybridTime),
    ) {
        let mut seen = Seen::of_context(context).unwrap_or_default();
        // Where other values stand beside it the context does not cover it.
        seen.join(&Seen { entries: vec![dot], ..Seen::default() });
        self.memory().get_or_insert_mut((table, key), Seen::default).join(&seen);
    }

    /// The key was read by one who asked for no less than `asked`. What that read did not see of it
    /// any more was collected; what was written meanwhile stays.
    pub(crate) fn on_read(&self, table: TableId, key: Key, asked: &Seen, context: &[u8]) {
        let seen = Seen::of_context(context).unwrap_or_default();
        let mut memory = self.memory();
        let known = memory.get_or_insert_mut((table, key), Seen::default);
        if known == asked {
            *known = seen;
        } else {
            known.join(&seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, Bytes, BytesMut};
    use quoit_ring::HybridTime;

    const TABLE: TableId = TableId(1);

    fn key(number: u8) -> Key {
        Key { partition: Bytes::from(vec![number]), sort: Bytes::new() }
    }

    fn seen(entries: &[(u64, u64)]) -> Seen {
        let entries = entries.iter().map(|&(actor, time)| (actor, HybridTime(time))).collect();
        Seen { entries, ..Seen::default() }
    }

    fn context(entries: &[(u64, u64)]) -> BytesMut {
        let mut context = BytesMut::new();
        let entries = entries.iter().map(|&(actor, time)| (actor, HybridTime(time)));
        Seen::put(HybridTime::ZERO, entries, &mut context);
        context.put_u64_le(7);
        context
    }

    #[test]
    fn writes_add_up_and_a_read_tells_what_there_is() {
        let session = Session::new();
        session.on_written(TABLE, key(1), &context(&[(1, 5)]), (1, HybridTime(5)));
        session.on_written(TABLE, key(1), &[], (2, HybridTime(6)));
        let asked = session.seen(TABLE, &key(1));
        assert_eq!(asked, seen(&[(1, 5), (2, 6)]));
        assert!(session.seen(TABLE, &key(2)).is_empty());
        session.on_read(TABLE, key(1), &asked, &context(&[(3, 9)]));
        assert_eq!(session.seen(TABLE, &key(1)), seen(&[(3, 9)]));
    }

    #[test]
    fn a_write_during_a_read_is_not_forgotten() {
        let session = Session::new();
        let asked = session.seen(TABLE, &key(1));
        session.on_written(TABLE, key(1), &context(&[(1, 5)]), (1, HybridTime(5)));
        session.on_read(TABLE, key(1), &asked, &context(&[(2, 4)]));
        assert_eq!(session.seen(TABLE, &key(1)), seen(&[(1, 5), (2, 4)]));
    }

    #[test]
    fn of_too_many_keys_the_one_not_met_for_longest_is_forgotten() {
        let session = Session::of_keys(2);
        for number in [1, 2, 1, 3] {
            session.on_written(TABLE, key(number), &context(&[(1, 5)]), (1, HybridTime(5)));
        }
        let known = [1, 2, 3].map(|number| !session.seen(TABLE, &key(number)).is_empty());
        assert_eq!(known, [true, false, true]);
    }
}
