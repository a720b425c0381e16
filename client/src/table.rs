//! A table's handle: reads and writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quoit_protocol::{Got, Key, Sibling};
use quoit_ring::{ConflictPolicy, HybridTime, Level};
use quoit_session::{Answer, Request};

use crate::client::{Inner, Submission};
use crate::pages::{Pages, ScanRange};
use crate::{Context, IntoKey, KeyPart, ReadError, WriteError};

/// One table, and how this handle reads and writes it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table {
    inner: Arc<Inner>,
    definition: Arc<quoit_ring::Table>,
    read_level: Option<Level>,
    write_level: Option<Level>,
    timeout: Duration,
    ttl: Option<Duration>,
    idempotent: bool,
}

/// One value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes, their checksum found good.
    pub bytes: Bytes,
    /// When it expires, as hybrid time.
    pub expires: Option<HybridTime>,
    /// When it was written.
    pub written: HybridTime,
}

impl From<Sibling> for Value {
    fn from(sibling: Sibling) -> Self {
        Self { bytes: sibling.value, expires: sibling.expires, written: sibling.written }
    }
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The live values: none where the key is absent, several where writers did not know of each
    /// other (in a `siblings` table).
    pub siblings: Vec<Value>,
    /// Covers all that was read; give it to the write that replaces it.
    pub context: Context,
    /// How many replicas answered.
    pub answered: u8,
    /// Whether replicas differed and were repaired before this answer.
    pub repaired: bool,
}

impl Reading {
    /// Whether the key has no live value.
    pub fn is_absent(&self) -> bool {
        self.siblings.is_empty()
    }

    /// The only value; `None` where there is none, or more than one.
    pub fn single(&self) -> Option<&Value> {
        match self.siblings.as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }
}

impl From<Got> for Reading {
    fn from(got: Got) -> Self {
        Self {
            siblings: got.siblings.into_iter().map(Value::from).collect(),
            context: Context(got.context),
            answered: got.answered,
            repaired: got.repaired,
        }
    }
}

/// What a write or a delete yields once it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Covers this write and what it replaced; the next write of the same writer may go on from it.
    pub context: Context,
    /// How many replicas acknowledged.
    pub acknowledged: u8,
}

impl Table {
    pub(crate) fn new(inner: Arc<Inner>, definition: quoit_ring::Table, timeout: Duration) -> Self {
        Self {
            inner,
            definition: Arc::new(definition),
            read_level: None,
            write_level: None,
            timeout,
            ttl: None,
            idempotent: false,
        }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// The table's number and options, as the record said when this handle was made.
    pub fn definition(&self) -> &quoit_ring::Table {
        &self.definition
    }

    /// Reads with another level than the table's own.
    pub fn with_read_level(mut self, level: Level) -> Self {
        self.read_level = Some(level);
        self
    }

    /// Writes with another level than the table's own.
    pub fn with_write_level(mut self, level: Level) -> Self {
        self.write_level = Some(level);
        self
    }

    /// Completes each request within `timeout`, whatever happens, rather than the client's own.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Lets written values expire after `ttl` (whole milliseconds, at least 1) rather than the
    /// table's own time to live.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Whether a write may be done twice. Then it is sent again when its outcome is not known, with
    /// one write id, by which the first coordinator recognises it.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Reads a key.
    pub async fn get(&self, key: impl IntoKey) -> Result<Reading, ReadError> {
        self.get_key(key.into_key()).await
    }

    async fn get_key(&self, key: Key) -> Result<Reading, ReadError> {
        self.end_get(self.begin_get(key)).await
    }

    pub(crate) fn begin_get(&self, key: Key) -> Result<Submission, ReadError> {
        self.read(Request::Get { table: self.definition.id, key })
    }

    pub(crate) async fn end_get(
        &self,
        begun: Result<Submission, ReadError>,
    ) -> Result<Reading, ReadError> {
        match begun?.read(self.name()).await? {
            Answer::Got(got) => Ok(got.into()),
            other => unreachable!("the session answers a get with what was got, not {other:?}"),
        }
    }

    /// Writes a value over what `context` covers. With [`Context::none`] it replaces, in a `latest`
    /// table, whatever was written before; in a `siblings` table nothing: the value stands beside
    /// the others.
    pub async fn put(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
        context: &Context,
    ) -> Result<Written, WriteError> {
        self.write(key.into_key(), Some(value.into()), context).await
    }

    /// Deletes what `context` covers (in a `latest` table: whatever was written before).
    pub async fn delete(
        &self,
        key: impl IntoKey,
        context: &Context,
    ) -> Result<Written, WriteError> {
        self.write(key.into_key(), None, context).await
    }

    /// Writes a value in the place of all that is there: in a `siblings` table it reads first and
    /// replaces what it saw (what is written meanwhile stays beside it), in a `latest` table it is
    /// a plain [`put`](Self::put).
    pub async fn replace(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
    ) -> Result<Written, WriteError> {
        let (key, value) = (key.into_key(), value.into());
        let context = match self.definition.options.policy {
            ConflictPolicy::Latest => Context::none(),
            ConflictPolicy::Siblings => {
                self.get_key(key.clone()).await.map_err(WriteError::Read)?.context
            }
        };
        self.write(key, Some(value), &context).await
    }

    /// Reads one partition key's items, ascending by sort key, page by page.
    pub fn scan(&self, partition: impl KeyPart, range: ScanRange) -> Pages {
        Pages::scan(self.clone(), partition.into_bytes(), range)
    }

    /// Reads the whole table, virtual node by virtual node, several of them at once. Each item is
    /// read at the read level; the pages are no snapshot.
    pub fn export(&self) -> Pages {
        Pages::export(self.clone(), self.inner.record().vnodes)
    }

    pub(crate) fn read(&self, request: Request) -> Result<Submission, ReadError> {
        self.inner
            .submit(request, self.read_level, self.timeout)
            .map_err(|error| ReadError::from_session(error, self.name()))
    }

    async fn write(
        &self,
        key: Key,
        value: Option<Bytes>,
        context: &Context,
    ) -> Result<Written, WriteError> {
        self.end_write(self.begin_write(key, value, context)).await
    }

    pub(crate) fn begin_write(
        &self,
        key: Key,
        value: Option<Bytes>,
        context: &Context,
    ) -> Result<Submission, WriteError> {
        let request = Request::Write {
            table: self.definition.id,
            key,
            value,
            context: context.0.clone(),
            ttl_ms: self.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            idempotent: self.idempotent,
        };
        self.inner
            .submit(request, self.write_level, self.timeout)
            .map_err(|error| WriteError::from_session(error, self.name()))
    }

    pub(crate) async fn end_write(
        &self,
        begun: Result<Submission, WriteError>,
    ) -> Result<Written, WriteError> {
        let answer = begun?
            .outcome()
            .await
            .ok_or(WriteError::Closed)?
            .map_err(|error| WriteError::from_session(error, self.name()))?;
        match answer {
            Answer::Written(written) => Ok(Written {
                context: Context(written.context),
                acknowledged: written.acknowledged,
            }),
            other => {
                unreachable!("the session answers a write with that it is done, not {other:?}")
            }
        }
    }
}
