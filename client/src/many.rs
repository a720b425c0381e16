//! Many keys at a time.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::table::{BegunGet, BegunWrite};
use crate::{Context, IntoKey, ReadError, Reading, Table, WriteError, Written};

/// So many of one call are under way at once.
const WINDOW: usize = 256;

impl Table {
    /// Reads many keys at once, each by its own coordinator, and yields an outcome for each, in their
    /// order. One that fails keeps no other from being read; they are no snapshot.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// carts.replace("alice", "3 apples").await?;
    /// let mut counts = Vec::new();
    /// for reading in carts.get_many(["alice", "bob"]).await {
    ///     counts.push(reading?.siblings.len());
    /// }
    /// assert_eq!(counts, [1, 0]);
    /// # Ok(()) });
    /// ```
    pub async fn get_many<K: IntoKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Reading, ReadError>> {
        let mut outcomes = Vec::new();
        let mut under_way: VecDeque<Result<BegunGet, ReadError>> = VecDeque::new();
        for key in keys {
            if under_way.len() >= WINDOW
                && let Some(first) = under_way.pop_front()
            {
                outcomes.push(self.end_get(first).await);
            }
            under_way.push_back(self.begin_get(key.into_key()));
        }
        for begun in under_way {
            outcomes.push(self.end_get(begun).await);
        }
        outcomes
    }

    /// Writes many keys at once, each by its own coordinator, each over what its context covers (see
    /// [`Table::put`]), and yields an outcome for each, in their order. One that fails keeps no other
    /// from being written: together they are no transaction. Two writes of one key in one call are
    /// in no order.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Context;
    ///
    /// let writes = (0..100).map(|n| (format!("key {n}"), "value", Context::none()));
    /// let failed = carts.put_many(writes).await.into_iter().filter(Result::is_err).count();
    /// assert_eq!(failed, 0);
    /// # Ok(()) });
    /// ```
    pub async fn put_many<K: IntoKey, V: Into<Bytes>>(
        &self,
        writes: impl IntoIterator<Item = (K, V, Context)>,
    ) -> Vec<Result<Written, WriteError>> {
        let mut outcomes = Vec::new();
        let mut under_way: VecDeque<Result<BegunWrite, WriteError>> = VecDeque::new();
        for (key, value, context) in writes {
            if under_way.len() >= WINDOW
                && let Some(first) = under_way.pop_front()
            {
                outcomes.push(self.end_write(first).await);
            }
            under_way.push_back(self.begin_write(key.into_key(), Some(value.into()), &context));
        }
        for begun in under_way {
            outcomes.push(self.end_write(begun).await);
        }
        outcomes
    }
}
