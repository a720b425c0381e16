//! The library for programs without `async`: each call waits for its answer.
//!
//! A [`Client`] here owns a small tokio runtime, on whose one thread the connections are kept. Handles
//! may be shared between threads; calls of several threads are in flight together. Not to be used
//! inside an async runtime, which it would block (it panics there, as tokio's `block_on` does).
//!
//! ```no_run
//! use quoit_client::{ClientBuilder, Context, blocking};
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = blocking::connect(ClientBuilder::from_directory("/etc/quoit/client")?)?;
//! let carts = client.table("carts")?;
//! carts.put("alice", "3 apples", &Context::none())?;
//! println!("{:?}", carts.get("alice")?.single());
//! # Ok(())
//! # }
//! ```

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::{
    Change, ClientBuilder, ConditionError, ConnectError, Context, IntoKey, Item, KeyPart, Profile,
    ReadError, Reading, ScanRange, TableError, UpdateError, Updated, Value, WriteError, Written,
};

/// A blocking client that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockingError {
    /// The thread that keeps the connections could not be started.
    #[error("the thread that keeps the connections cannot be started")]
    Thread(#[source] io::Error),
    /// The cluster could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Connects, and waits until the cluster record is known.
///
/// # Errors
/// See [`BlockingError`] and [`ClientBuilder::connect`].
pub fn connect(builder: ClientBuilder) -> Result<Client, BlockingError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("quoit-client")
        .enable_all()
        .build()
        .map_err(BlockingError::Thread)?;
    let client = runtime.block_on(builder.connect())?;
    Ok(Client { client, runtime: Arc::new(runtime) })
}

/// A connection to a cluster; see [`crate::Client`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// A handle of a table; see [`crate::Client::table`].
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn table(&self, name: &str) -> Result<Table, TableError> {
        let table = self.runtime.block_on(self.client.table(name))?;
        Ok(Table { table, runtime: Arc::clone(&self.runtime) })
    }

    /// The client of the async library; its futures can be waited for with [`Client::wait`].
    pub fn inner(&self) -> &crate::Client {
        &self.client
    }

    /// Waits for anything that the async library does, where no method here does it.
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Closes the connections; see [`crate::Client::close`].
    pub fn close(self) {
        self.runtime.block_on(self.client.close());
    }
}

/// One table; see [`crate::Table`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table {
    table: crate::Table,
    runtime: Arc<Runtime>,
}

impl Table {
    /// Carries requests out as the profile says; see [`crate::Table::with_profile`].
    pub fn with_profile(&self, profile: &Profile) -> Self {
        Self { table: self.table.with_profile(profile), runtime: Arc::clone(&self.runtime) }
    }

    /// The table of the async library.
    pub fn inner(&self) -> &crate::Table {
        &self.table
    }

    /// Reads a key; see [`crate::Table::get`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn get(&self, key: impl IntoKey) -> Result<Reading, ReadError> {
        self.runtime.block_on(self.table.get(key))
    }

    /// Reads many keys at once; see [`crate::Table::get_many`].
    pub fn get_many<K: IntoKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Reading, ReadError>> {
        self.runtime.block_on(self.table.get_many(keys))
    }

    /// Writes a value over what `context` covers; see [`crate::Table::put`].
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn put(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
        context: &Context,
    ) -> Result<Written, WriteError> {
        self.runtime.block_on(self.table.put(key, value, context))
    }

    /// Writes many keys at once; see [`crate::Table::put_many`].
    pub fn put_many<K: IntoKey, V: Into<Bytes>>(
        &self,
        writes: impl IntoIterator<Item = (K, V, Context)>,
    ) -> Vec<Result<Written, WriteError>> {
        self.runtime.block_on(self.table.put_many(writes))
    }

    /// Deletes what `context` covers; see [`crate::Table::delete`].
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn delete(&self, key: impl IntoKey, context: &Context) -> Result<Written, WriteError> {
        self.runtime.block_on(self.table.delete(key, context))
    }

    /// Writes a value in the place of all that is there; see [`crate::Table::replace`].
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn replace(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
    ) -> Result<Written, WriteError> {
        self.runtime.block_on(self.table.replace(key, value))
    }

    /// Writes a value where the key has none; see [`crate::Table::put_if_absent`].
    ///
    /// # Errors
    /// See [`ConditionError`].
    pub fn put_if_absent(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
    ) -> Result<Written, ConditionError> {
        self.runtime.block_on(self.table.put_if_absent(key, value))
    }

    /// Writes a value where the key is as it was read; see [`crate::Table::put_if_context`].
    ///
    /// # Errors
    /// See [`ConditionError`].
    pub fn put_if_context(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
        context: &Context,
    ) -> Result<Written, ConditionError> {
        self.runtime.block_on(self.table.put_if_context(key, value, context))
    }

    /// Reads, changes and writes a key; see [`crate::Table::update`].
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn update(
        &self,
        key: impl IntoKey,
        change: impl FnMut(&[Value]) -> Change,
    ) -> Result<Updated, UpdateError> {
        self.runtime.block_on(self.table.update(key, change))
    }

    /// One partition key's items, ascending by sort key, page by page; see [`crate::Table::scan`].
    pub fn scan(&self, partition: impl KeyPart, range: ScanRange) -> Pages {
        Pages { pages: self.table.scan(partition, range), runtime: Arc::clone(&self.runtime) }
    }
}

/// The pages of a scan, as an iterator; see [`crate::Pages`]. After an error it goes on where it was.
#[derive(Debug)]
pub struct Pages {
    pages: crate::Pages,
    runtime: Arc<Runtime>,
}

impl Iterator for Pages {
    type Item = Result<Vec<Item>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.pages.next()).transpose()
    }
}
