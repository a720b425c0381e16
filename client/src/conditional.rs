//! Writes on a condition, and what of it can be promised without consensus.
//!
//! A write on a condition reads the key, writes, and reads it again. Reads and writes of strict quorums
//! meet in a replica (R + W > N), so of several writers that begin from the same state **at most one is
//! told that its condition held**: of any two, the one whose write was acknowledged last reads after
//! that, and sees the other's value beside its own. It may be that none is told so, and nothing is ever
//! overwritten unseen. So the answer is as good as a lock that nobody may get; that somebody always
//! wins would take consensus (Herlihy, "Wait-free synchronization", 1991).

use bytes::Bytes;
use quoit_protocol::Key;
use quoit_ring::{ConflictPolicy, Level};

use crate::{Context, IntoKey, ReadError, Reading, Table, WriteError, Written};

/// A write on a condition that is not certain to have held.
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
    /// The value is written, and stands beside others that were written at the same time: the reading
    /// is all of them. Write what is to become of them, with its context.
    #[error("written, but beside a value that another has written at the same time")]
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
    /// ```no_run
    /// # async fn example(names: quoit_client::Table) -> Result<(), quoit_client::ConditionError> {
    /// use quoit_client::ConditionError;
    ///
    /// match names.put_if_absent("alice", "account 17").await {
    ///     Ok(_) => println!("the name is ours"),
    ///     Err(ConditionError::NotMet(_)) => println!("it is taken"),
    ///     Err(ConditionError::Contended(reading)) => println!("{} want it", reading.siblings.len()),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
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
        let before = self.get(key.clone()).await.map_err(ConditionError::Read)?;
        if !is_met(&before) {
            return Err(ConditionError::NotMet(Box::new(before)));
        }
        let written =
            self.put(key.clone(), value, &before.context).await.map_err(ConditionError::Write)?;
        let after = self.get(key).await.map_err(ConditionError::Unconfirmed)?;
        if after.siblings.len() > 1 {
            return Err(ConditionError::Contended(Box::new(after)));
        }
        Ok(written)
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
