//! Writes on a condition, and what of it can be promised without consensus.
//!
//! A write on a condition reads the key, writes, and reads it again. Reads and writes of strict quorums
//! meet in a replica (R + W > N), so of several writers that begin from the same state **at most one is
//! told that its condition held**: of any two, the one whose write was acknowledged last reads after
//! that, and sees that the other has written, whatever has become of the value since. It may be that none
//! is told so, and nothing is ever overwritten unseen. So the answer is as good as a lock that nobody may get; that somebody always
//! wins would take consensus (Herlihy, "Wait-free synchronization", 1991).

use std::time::{Duration, Instant};

use bytes::Bytes;
use quoit_protocol::{Key, Seen};
use quoit_ring::{ConflictPolicy, Level};

use crate::{Context, IntoKey, ReadError, Reading, Table, WriteError, Written};

/// What the three steps take together at most. What deletions leave is not collected for 17 minutes, so
/// that until then a write that is gone again is still told of.
const STEPS_TIME_MAX: Duration = Duration::from_secs(600);

/// A write on a condition that is not certain to have held.
///
/// ```
/// # quoit_sandbox::with_table(async |names| {
/// use quoit_client::ConditionError;
///
/// names.replace("alice", "account 17").await?;
/// match names.put_if_absent("alice", "account 18").await {
///     Err(ConditionError::NotMet(reading)) => assert_eq!(reading.siblings[0].bytes, "account 17"),
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// Nothing was sent: this table, at these levels, cannot promise it. The text says why, and what
    /// would.
    #[error("not written: the table {table} cannot promise a condition: {why}")]
    NotPromised {
        /// The table.
        table: String,
        /// Why, and what would.
        why: String,
    },
    /// Nothing was written: the condition does not hold. The reading is what is there.
    #[error("not written: the key is not as the condition says")]
    NotMet(Box<Reading>),
    /// The value is written, but others have written the key at the same time, or since, or it cannot
    /// be told whether they have: the reading is what is there now. Write what is to become of it, with
    /// its context.
    #[error("written, but others have, or may have, written the key at the same time or since")]
    Contended(Box<Reading>),
    /// The key could not be read before the write. Nothing was written.
    #[error("not written: {0}")]
    Read(#[source] ReadError),
    /// The write failed, or its outcome is not known ([`WriteError::is_unknown`]).
    #[error(transparent)]
    Write(WriteError),
    /// The value is written, but the key could not be read after that: another's value may stand
    /// beside it.
    #[error("written, but it is not known whether alone: {0}")]
    Unconfirmed(#[source] ReadError),
}

impl ConditionError {
    /// Whether the value is written, or may be, now or later.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |names| {
    /// let empty = names.get("alice").await?.context;
    /// names.replace("alice", "account 17").await?;
    /// let error = names.put_if_context("alice", "account 18", &empty).await.unwrap_err();
    /// assert!(!error.is_unknown());
    /// # Ok(()) });
    /// ```
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Write(error) => error.is_unknown(),
            Self::Contended(_) | Self::Unconfirmed(_) => true,
            Self::NotPromised { .. } | Self::NotMet(_) | Self::Read(_) => false,
        }
    }
}

impl Table {
    /// Writes a value where the key has none. Of several that try this at the same time at most one
    /// gets `Ok`; perhaps none does, and then each is told of the others. Costs two reads and a write.
    ///
    /// Only `siblings` tables with strict quorums (R + W > N at this handle's levels, not sloppy) can
    /// promise that.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |names| {
    /// use quoit_client::ConditionError;
    ///
    /// match names.put_if_absent("alice", "account 17").await {
    ///     Ok(_) => println!("the name is ours"),
    ///     Err(ConditionError::NotMet(_)) => println!("it is taken"),
    ///     Err(ConditionError::Contended(reading)) => println!("{} want it", reading.siblings.len()),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// assert_eq!(names.get("alice").await?.single().unwrap().bytes, "account 17");
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// See [`ConditionError`].
    pub async fn put_if_absent(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
    ) -> Result<Written, ConditionError> {
        self.put_if(key.into_key(), value.into(), Reading::is_absent).await
    }

    /// Writes a value where the key is still as it was read: `context` is of that reading. Of several
    /// that try this with one context at most one gets `Ok` (see [`Table::put_if_absent`]). It may be
    /// refused although no value has changed, where what deletions left was collected meanwhile.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::ConditionError;
    ///
    /// carts.replace("alice", "3 apples").await?;
    /// let reading = carts.get("alice").await?;
    /// carts.put_if_context("alice", "2 apples", &reading.context).await?;
    /// let late = carts.put_if_context("alice", "4 apples", &reading.context).await;
    /// assert!(matches!(late, Err(ConditionError::NotMet(_))));
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// See [`ConditionError`].
    pub async fn put_if_context(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
        context: &Context,
    ) -> Result<Written, ConditionError> {
        let is_met = |reading: &Reading| reading.context == *context;
        self.put_if(key.into_key(), value.into(), is_met).await
    }

    async fn put_if(
        &self,
        key: Key,
        value: Bytes,
        is_met: impl Fn(&Reading) -> bool,
    ) -> Result<Written, ConditionError> {
        if let Err(why) = self.promises_conditions() {
            return Err(ConditionError::NotPromised { table: self.name().to_owned(), why });
        }
        let began = Instant::now();
        let before = self.get(key.clone()).await.map_err(ConditionError::Read)?;
        if !is_met(&before) {
            return Err(ConditionError::NotMet(Box::new(before)));
        }
        let written =
            self.put(key.clone(), value, &before.context).await.map_err(ConditionError::Write)?;
        let after = self.get(key).await.map_err(ConditionError::Unconfirmed)?;
        if is_alone(&before, &written, &after) && began.elapsed() < STEPS_TIME_MAX {
            Ok(written)
        } else {
            Err(ConditionError::Contended(Box::new(after)))
        }
    }

    /// Whether a condition means anything here; if not, why.
    fn promises_conditions(&self) -> Result<(), String> {
        let options = &self.definition().options;
        if options.policy == ConflictPolicy::Latest {
            return Err(
                "it keeps only the latest write, so that one of two at the same time is lost \
                        without a sign of it; make a table with the policy `siblings`"
                    .to_owned(),
            );
        }
        if options.sloppy {
            return Err(
                "its quorums are sloppy, so that two need not meet in a replica; make a table \
                        with strict ones"
                    .to_owned(),
            );
        }
        let (read, write) = self.levels();
        let count = |level: Level| level.required(options.replication).map_err(|it| it.to_string());
        let (r, w, n) = (count(read)?, count(write)?, options.replication);
        if u32::from(r) + u32::from(w) <= u32::from(n) {
            return Err(format!(
                "a read of {r} replicas and a write of {w} need not meet in one of {n}; use levels \
                 with R + W > N"
            ));
        }
        Ok(())
    }
}

/// Whether nobody but the writer has written the key since it was read. One value alone does not say so:
/// somebody may have met two and made one of them.
fn is_alone(before: &Reading, written: &Written, after: &Reading) -> bool {
    let seen = |context: &Context| Seen::of_context(context.as_bytes());
    let (Some(mut known), Some(own), Some(found)) =
        (seen(&before.context), seen(&written.context), seen(&after.context))
    else {
        return false;
    };
    known.join(&own);
    after.siblings.len() == 1 && known.covers(&found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::{BufMut, BytesMut};
    use quoit_ring::{HybridTime, NodeId};

    use super::*;
    use crate::{Dot, Service, Trail, Value};

    fn context(entries: &[(u64, u64)]) -> Context {
        let mut context = BytesMut::new();
        let entries = entries.iter().map(|&(actor, time)| (actor, HybridTime(time)));
        Seen::put(HybridTime::ZERO, entries, &mut context);
        context.put_u64_le(7);
        Context::from_bytes(context)
    }

    fn service() -> Service {
        let (coordinator, level) = (NodeId(1), Level::Quorum);
        Service {
            coordinator,
            level,
            trail: Trail::default(),
            took: Duration::ZERO,
            stages: Vec::new(),
        }
    }

    fn reading(values: usize, entries: &[(u64, u64)]) -> Reading {
        let value = Value { bytes: Bytes::new(), expires: None, written: HybridTime(1) };
        Reading {
            siblings: vec![value; values],
            context: context(entries),
            answered: 2,
            repaired: false,
            service: service(),
        }
    }

    #[test]
    fn who_finds_that_another_has_written_was_not_alone_whatever_is_left() {
        let before = reading(0, &[(1, 5)]);
        let written = Written {
            context: context(&[(2, 9)]),
            dot: Dot { actor: 2, time: HybridTime(9) },
            acknowledged: 2,
            service: service(),
        };
        let alone = |after: Reading| is_alone(&before, &written, &after);
        assert!(alone(reading(1, &[(1, 5), (2, 9)])));
        assert!(!alone(reading(2, &[(2, 9), (3, 8)])), "two stand side by side");
        assert!(!alone(reading(1, &[(2, 9), (3, 8), (4, 10)])), "a third has made one of two");
        assert!(!alone(reading(1, &[(1, 6), (2, 9)])), "one has written again");
        assert!(!alone(reading(0, &[(2, 9), (3, 10)])), "it is deleted");
    }
}
