//! The library for programs without `async`: each call waits for its answer.
//!
//! A [`Client`] here owns a small tokio runtime, on whose one thread the connections are kept. Handles
//! may be shared between threads; calls of several threads are in flight together. Not to be used
//! inside an async runtime, which it would block (it panics there, as tokio's `block_on` does).
//!
//! ```
//! use quoit_client::{ClientBuilder, Context, blocking};
//!
//! # let _cluster = quoit_sandbox::Cluster::start();
//! let client = blocking::connect(ClientBuilder::from_directory("../quoit/quoit-data/client")?)?;
//! let carts = client.table("carts")?;
//! carts.put("alice", "3 apples", &Context::none())?;
//! assert_eq!(carts.get("alice")?.single().unwrap().bytes, "3 apples");
//! # Ok::<(), Box<dyn std::error::Error>>(())
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
///
/// ```
/// use quoit_client::blocking::{self, BlockingError};
/// use quoit_client::{ClientBuilder, ConnectError};
///
/// let error = blocking::connect(ClientBuilder::new()).unwrap_err();
/// assert!(matches!(error, BlockingError::Connect(ConnectError::Missing(_))));
/// ```
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
/// ```
/// # let _cluster = quoit_sandbox::Cluster::start();
/// use quoit_client::{ClientBuilder, NodeId, blocking};
///
/// let client = blocking::connect(ClientBuilder::from_directory("../quoit/quoit-data/client")?)?;
/// assert_eq!(client.inner().record().members[0].id, NodeId(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// # quoit_sandbox::with_blocking(|client| {
/// let carts = client.table("carts")?;
/// let writers = ["alice", "bob"].map(|name| {
///     let carts = carts.clone();
///     std::thread::spawn(move || carts.replace(name, "3 apples"))
/// });
/// for writer in writers {
///     assert_eq!(writer.join().unwrap()?.acknowledged, 1);
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// A handle of a table; see [`crate::Client::table`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// assert_eq!(client.table("carts")?.inner().name(), "carts");
    /// assert!(client.table("shoes").is_err());
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn table(&self, name: &str) -> Result<Table, TableError> {
        let table = self.runtime.block_on(self.client.table(name))?;
        Ok(Table { table, runtime: Arc::clone(&self.runtime) })
    }

    /// The client of the async library; its futures can be waited for with [`Client::wait`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// assert_eq!(client.inner().limits().siblings_max, 32);
    /// # Ok(()) });
    /// ```
    pub fn inner(&self) -> &crate::Client {
        &self.client
    }

    /// Waits for anything that the async library does, where no method here does it.
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::NodeId;
    ///
    /// let status = client.wait(client.inner().status(NodeId(1)))?;
    /// assert_eq!(status.boot_count, 1);
    /// # Ok(()) });
    /// ```
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Closes the connections; see [`crate::Client::close`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::ReadError;
    ///
    /// let carts = client.table("carts")?;
    /// client.close();
    /// assert_eq!(carts.get("alice"), Err(ReadError::Closed));
    /// # Ok(()) });
    /// ```
    pub fn close(self) {
        self.runtime.block_on(self.client.close());
    }
}

/// One table; see [`crate::Table`]. Cheap to clone.
///
/// ```
/// # quoit_sandbox::with_blocking(|client| {
/// let carts = client.table("carts")?;
/// let written = carts.replace("alice", "3 apples")?;
/// carts.delete("alice", &written.context)?;
/// assert!(carts.get("alice")?.is_absent());
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Table {
    table: crate::Table,
    runtime: Arc<Runtime>,
}

impl Table {
    /// Carries requests out as the profile says; see [`crate::Table::with_profile`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::{Level, Profile};
    ///
    /// let fast = client.table("carts")?.with_profile(&Profile::new().read_level(Level::One));
    /// assert_eq!(fast.get("alice")?.service.level, Level::One);
    /// # Ok(()) });
    /// ```
    pub fn with_profile(&self, profile: &Profile) -> Self {
        Self { table: self.table.with_profile(profile), runtime: Arc::clone(&self.runtime) }
    }

    /// The table of the async library.
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::Level;
    ///
    /// let carts = client.table("carts")?;
    /// assert_eq!(carts.inner().levels(), (Level::Quorum, Level::Quorum));
    /// # Ok(()) });
    /// ```
    pub fn inner(&self) -> &crate::Table {
        &self.table
    }

    /// Reads a key; see [`crate::Table::get`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// let carts = client.table("carts")?;
    /// carts.replace("alice", "3 apples")?;
    /// assert_eq!(carts.get("alice")?.single().unwrap().bytes, "3 apples");
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn get(&self, key: impl IntoKey) -> Result<Reading, ReadError> {
        self.runtime.block_on(self.table.get(key))
    }

    /// Reads many keys at once; see [`crate::Table::get_many`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// let carts = client.table("carts")?;
    /// carts.replace("alice", "3 apples")?;
    /// let readings: Result<Vec<_>, _> = carts.get_many(["alice", "bob"]).into_iter().collect();
    /// assert_eq!(readings?.iter().map(|it| it.siblings.len()).collect::<Vec<_>>(), [1, 0]);
    /// # Ok(()) });
    /// ```
    pub fn get_many<K: IntoKey>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Reading, ReadError>> {
        self.runtime.block_on(self.table.get_many(keys))
    }

    /// Writes a value over what `context` covers; see [`crate::Table::put`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::Context;
    ///
    /// let carts = client.table("carts")?;
    /// let written = carts.put("alice", "3 apples", &Context::none())?;
    /// carts.put("alice", "2 apples", &written.context)?;
    /// assert_eq!(carts.get("alice")?.single().unwrap().bytes, "2 apples");
    /// # Ok(()) });
    /// ```
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
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::Context;
    ///
    /// let carts = client.table("carts")?;
    /// let writes = ["alice", "bob"].map(|name| (name, "3 apples", Context::none()));
    /// assert!(carts.put_many(writes).iter().all(Result::is_ok));
    /// # Ok(()) });
    /// ```
    pub fn put_many<K: IntoKey, V: Into<Bytes>>(
        &self,
        writes: impl IntoIterator<Item = (K, V, Context)>,
    ) -> Vec<Result<Written, WriteError>> {
        self.runtime.block_on(self.table.put_many(writes))
    }

    /// Deletes what `context` covers; see [`crate::Table::delete`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// let carts = client.table("carts")?;
    /// carts.replace("alice", "3 apples")?;
    /// carts.delete("alice", &carts.get("alice")?.context)?;
    /// assert!(carts.get("alice")?.is_absent());
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn delete(&self, key: impl IntoKey, context: &Context) -> Result<Written, WriteError> {
        self.runtime.block_on(self.table.delete(key, context))
    }

    /// Writes a value in the place of all that is there; see [`crate::Table::replace`].
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// let carts = client.table("carts")?;
    /// carts.replace("alice", "3 apples")?;
    /// carts.replace("alice", "2 apples")?;
    /// assert_eq!(carts.get("alice")?.single().unwrap().bytes, "2 apples");
    /// # Ok(()) });
    /// ```
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
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::ConditionError;
    ///
    /// let names = client.table("carts")?;
    /// names.put_if_absent("alice", "account 17")?;
    /// let late = names.put_if_absent("alice", "account 18");
    /// assert!(matches!(late, Err(ConditionError::NotMet(_))));
    /// # Ok(()) });
    /// ```
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
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::ConditionError;
    ///
    /// let carts = client.table("carts")?;
    /// let empty = carts.get("alice")?.context;
    /// carts.put_if_context("alice", "3 apples", &empty)?;
    /// let late = carts.put_if_context("alice", "3 pears", &empty);
    /// assert!(matches!(late, Err(ConditionError::NotMet(_))));
    /// # Ok(()) });
    /// ```
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
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// let carts = client.table("carts")?;
    /// for _ in 0..3 {
    ///     carts.update("alice", |siblings| match siblings {
    ///         [] => "1".into(),
    ///         [first, ..] => [&first.bytes[..], b"1"].concat().into(),
    ///     })?;
    /// }
    /// assert_eq!(carts.get("alice")?.single().unwrap().bytes, "111");
    /// # Ok(()) });
    /// ```
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
    ///
    /// ```
    /// # quoit_sandbox::with_blocking(|client| {
    /// use quoit_client::ScanRange;
    ///
    /// let diary = client.table("carts")?;
    /// diary.replace(("alice", "monday"), "rain")?;
    /// let page = diary.scan("alice", ScanRange::default()).next().unwrap()?;
    /// assert_eq!(page[0].key.sort, "monday");
    /// # Ok(()) });
    /// ```
    pub fn scan(&self, partition: impl KeyPart, range: ScanRange) -> Pages {
        Pages { pages: self.table.scan(partition, range), runtime: Arc::clone(&self.runtime) }
    }
}

/// The pages of a scan, as an iterator; see [`crate::Pages`]. After an error it goes on where it was.
///
/// ```
/// # quoit_sandbox::with_blocking(|client| {
/// use quoit_client::ScanRange;
///
/// let diary = client.table("carts")?;
/// for day in ["1", "2", "3"] {
///     diary.replace(("alice", day), "rain")?;
/// }
/// let mut days = Vec::new();
/// for page in diary.scan("alice", ScanRange::default()) {
///     days.extend(page?.into_iter().map(|item| item.key.sort));
/// }
/// assert_eq!(days, ["1", "2", "3"]);
/// # Ok(()) });
/// ```
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
