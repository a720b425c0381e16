//! A table's handle: reads and writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quoit_protocol::{Got, Key, Seen, Sibling};
use quoit_ring::{ConflictPolicy, HybridTime, Level};
use quoit_session::{Answer, Request};

use crate::client::{Inner, Submission};
use crate::pages::{Pages, ScanRange};
use crate::{Context, IntoKey, KeyPart, Profile, ReadError, Service, WriteError};

/// One table, and how this handle reads and writes it. Cheap to clone.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::Level;
///
/// let fast = carts.clone().with_read_level(Level::One);
/// carts.replace("alice", "3 apples").await?;
/// assert_eq!(fast.get("alice").await?.answered, 1);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Table {
    inner: Arc<Inner>,
    definition: Arc<quoit_ring::Table>,
    profile: Profile,
}

/// One value of a key.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// carts.replace("alice", "3 apples").await?;
/// let reading = carts.get("alice").await?;
/// let value = &reading.siblings[0];
/// assert_eq!((&value.bytes[..], value.expires), (&b"3 apples"[..], None));
/// # Ok(()) });
/// ```
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
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::Context;
///
/// carts.put("alice", "3 apples", &Context::none()).await?;
/// carts.put("alice", "3 pears", &Context::none()).await?;
/// let reading = carts.get("alice").await?;
/// assert_eq!(reading.siblings.len(), 2);
/// // The shop decides what is to become of both.
/// carts.put("alice", "3 apples, 3 pears", &reading.context).await?;
/// assert_eq!(carts.get("alice").await?.siblings.len(), 1);
/// # Ok(()) });
/// ```
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
    /// Who served the read, and how.
    pub service: Service,
}

impl Reading {
    /// Whether the key has no live value.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// assert!(carts.get("alice").await?.is_absent());
    /// carts.replace("alice", "3 apples").await?;
    /// assert!(!carts.get("alice").await?.is_absent());
    /// # Ok(()) });
    /// ```
    pub fn is_absent(&self) -> bool {
        self.siblings.is_empty()
    }

    /// The only value; `None` where there is none, or more than one.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Context;
    ///
    /// carts.put("alice", "3 apples", &Context::none()).await?;
    /// assert_eq!(carts.get("alice").await?.single().unwrap().bytes, "3 apples");
    /// carts.put("alice", "3 pears", &Context::none()).await?;
    /// assert_eq!(carts.get("alice").await?.single(), None);
    /// # Ok(()) });
    /// ```
    pub fn single(&self) -> Option<&Value> {
        match self.siblings.as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }
}

impl Reading {
    fn new(got: Got, service: Service) -> Self {
        Self {
            siblings: got.siblings.into_iter().map(Value::from).collect(),
            context: Context(got.context),
            answered: got.answered,
            repaired: got.repaired,
            service,
        }
    }
}

/// The name of a write, which no other write has (*dotted version vectors*, Preguiça et al. 2012). A write
/// that is marked idempotent and was sent again may be stored under another one too.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// let first = carts.replace("alice", "3 apples").await?;
/// let second = carts.replace("alice", "2 apples").await?;
/// assert_ne!(first.dot, second.dot);
/// // Whose value is read, if only one write can have been at that time.
/// let reading = carts.get("alice").await?;
/// assert_eq!(reading.single().unwrap().written, second.dot.time);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who coordinated it: a node, in one of its lives, for one part of the ring. What a node coordinates
    /// that is no replica of the key has an actor of its own each time.
    pub actor: u64,
    /// When, as hybrid time: later than all that its writer and its coordinator had seen.
    pub time: HybridTime,
}

/// What a write or a delete yields once it is done.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::Context;
///
/// let written = carts.put("alice", "3 apples", &Context::none()).await?;
/// assert_eq!(written.acknowledged, 1);
/// // The writer goes on without a read.
/// carts.put("alice", "2 apples", &written.context).await?;
/// assert_eq!(carts.get("alice").await?.siblings.len(), 1);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Covers what this write replaced and, where no other value stands beside it, the write itself:
    /// then the next write of the same writer may go on from it. In a `siblings` table with values
    /// that the writer has not seen it is the context that was handed in: read before the next write.
    pub context: Context,
    /// The name of this write.
    pub dot: Dot,
    /// How many replicas acknowledged.
    pub acknowledged: u8,
    /// Who served the write, and how.
    pub service: Service,
}

/// A read that is under way; with a session, of what key it is and what was asked for.
#[derive(Debug)]
pub(crate) struct BegunGet {
    submission: Submission,
    of_session: Option<(Key, Seen)>,
}

/// A write that is under way; with a session, of what key it is.
#[derive(Debug)]
pub(crate) struct BegunWrite {
    submission: Submission,
    of_session: Option<Key>,
}

impl Table {
    pub(crate) fn new(inner: Arc<Inner>, definition: quoit_ring::Table, profile: Profile) -> Self {
        Self { inner, definition: Arc::new(definition), profile }
    }

    /// The table's name.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// assert_eq!(carts.name(), "carts");
    /// # Ok(()) });
    /// ```
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// The table's number and options, as the record said when this handle was made.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::ConflictPolicy;
    ///
    /// let options = &carts.definition().options;
    /// assert_eq!((options.policy, options.replication), (ConflictPolicy::Siblings, 1));
    /// # Ok(()) });
    /// ```
    pub fn definition(&self) -> &quoit_ring::Table {
        &self.definition
    }

    /// Carries requests out as the profile says; what it leaves open stays as it was. A handle costs
    /// little, so that one may be made for a single call:
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::{Level, Profile};
    ///
    /// let fast = Profile::new().read_level(Level::One);
    /// let reading = carts.with_profile(&fast).get("alice").await?;
    /// assert_eq!(reading.service.level, Level::One);
    /// # Ok(()) });
    /// ```
    pub fn with_profile(&self, profile: &Profile) -> Self {
        Self { profile: profile.clone().or(&self.profile), ..self.clone() }
    }

    /// Reads with another level than the table's own.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Level;
    ///
    /// let fast = carts.with_read_level(Level::One);
    /// assert_eq!(fast.levels(), (Level::One, Level::Quorum));
    /// # Ok(()) });
    /// ```
    pub fn with_read_level(mut self, level: Level) -> Self {
        self.profile.read_level = Some(level);
        self
    }

    /// Writes with another level than the table's own.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Level;
    ///
    /// let safe = carts.with_write_level(Level::All);
    /// assert_eq!(safe.levels(), (Level::Quorum, Level::All));
    /// # Ok(()) });
    /// ```
    pub fn with_write_level(mut self, level: Level) -> Self {
        self.profile.write_level = Some(level);
        self
    }

    /// Completes each request within `timeout`, whatever happens, rather than the client's own.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::ReadError;
    /// use std::time::Duration;
    ///
    /// let hasty = carts.with_timeout(Duration::from_micros(1));
    /// assert!(matches!(hasty.get("alice").await, Err(ReadError::Timeout { .. })));
    /// # Ok(()) });
    /// ```
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.profile.timeout = Some(timeout);
        self
    }

    /// Lets written values expire after `ttl` (whole milliseconds, at least 1) rather than the
    /// table's own time to live.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use std::time::Duration;
    ///
    /// let brief = carts.with_ttl(Duration::from_secs(60));
    /// brief.replace("alice", "3 apples").await?;
    /// let value = &brief.get("alice").await?.siblings[0];
    /// assert!(value.expires > Some(value.written));
    /// # Ok(()) });
    /// ```
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.profile.ttl = Some(ttl);
        self
    }

    /// Whether a write may be done twice. Then it is sent again when its outcome is not known, with
    /// one write id, by which the first coordinator recognises it.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// let carts = carts.idempotent(true);
    /// carts.replace("alice", "3 apples").await?;
    /// assert_eq!(carts.get("alice").await?.siblings.len(), 1);
    /// # Ok(()) });
    /// ```
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.profile.idempotent = Some(idempotent);
        self
    }

    /// The levels of reads and writes through this handle.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Level;
    ///
    /// assert_eq!(carts.levels(), (Level::Quorum, Level::Quorum));
    /// # Ok(()) });
    /// ```
    pub fn levels(&self) -> (Level, Level) {
        let options = &self.definition.options;
        let read = self.profile.read_level.unwrap_or(options.read_level);
        (read, self.profile.write_level.unwrap_or(options.write_level))
    }

    /// Reads a key.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// carts.replace("alice", "3 apples").await?;
    /// let reading = carts.get("alice").await?;
    /// assert_eq!(reading.single().unwrap().bytes, "3 apples");
    /// # Ok(()) });
    /// ```
    pub async fn get(&self, key: impl IntoKey) -> Result<Reading, ReadError> {
        self.get_key(key.into_key()).await
    }

    async fn get_key(&self, key: Key) -> Result<Reading, ReadError> {
        self.end_get(self.begin_get(key)).await
    }

    pub(crate) fn begin_get(&self, key: Key) -> Result<BegunGet, ReadError> {
        let table = self.definition.id;
        let (at_least, of_session) = match &self.profile.session {
            Some(session) => {
                let seen = session.seen(table, &key);
                (seen.clone(), Some((key.clone(), seen)))
            }
            None => (Seen::default(), None),
        };
        let submission = self.read(Request::Get { table, key, at_least })?;
        Ok(BegunGet { submission, of_session })
    }

    pub(crate) async fn end_get(
        &self,
        begun: Result<BegunGet, ReadError>,
    ) -> Result<Reading, ReadError> {
        let BegunGet { submission, of_session } = begun?;
        let done = submission.read(self.name()).await?;
        let (level, _) = self.levels();
        match done.answer {
            Answer::Got(got) => {
                if let (Some(session), Some((key, asked))) = (&self.profile.session, of_session) {
                    session.on_read(self.definition.id, key, &asked, &got.context);
                }
                Ok(Reading::new(got, Service::new(done.service, level, done.took)))
            }
            other => unreachable!("the session answers a get with what was got, not {other:?}"),
        }
    }

    /// Writes a value over what `context` covers. With [`Context::none`] it replaces, in a `latest`
    /// table, whatever was written before; in a `siblings` table nothing: the value stands beside
    /// the others.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Context;
    ///
    /// carts.put("alice", "3 apples", &Context::none()).await?;
    /// let reading = carts.get("alice").await?;
    /// carts.put("alice", "2 apples", &reading.context).await?;
    /// assert_eq!(carts.get("alice").await?.single().unwrap().bytes, "2 apples");
    /// # Ok(()) });
    /// ```
    pub async fn put(
        &self,
        key: impl IntoKey,
        value: impl Into<Bytes>,
        context: &Context,
    ) -> Result<Written, WriteError> {
        self.write(key.into_key(), Some(value.into()), context).await
    }

    /// Deletes what `context` covers (in a `latest` table: whatever was written before).
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// carts.replace("alice", "3 apples").await?;
    /// let reading = carts.get("alice").await?;
    /// carts.delete("alice", &reading.context).await?;
    /// assert!(carts.get("alice").await?.is_absent());
    /// # Ok(()) });
    /// ```
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
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// carts.replace("alice", "3 apples").await?;
    /// carts.replace("alice", "2 apples").await?;
    /// assert_eq!(carts.get("alice").await?.single().unwrap().bytes, "2 apples");
    /// # Ok(()) });
    /// ```
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
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |diary| {
    /// use quoit_client::ScanRange;
    ///
    /// for day in ["1", "2", "3"] {
    ///     diary.replace(("alice", day), "rain").await?;
    /// }
    /// let range = ScanRange { from: "2".into(), to: Some("3".into()), limit: None };
    /// let items = diary.scan("alice", range).collect().await?;
    /// assert_eq!((items.len(), &items[0].key.sort[..]), (1, &b"2"[..]));
    /// # Ok(()) });
    /// ```
    pub fn scan(&self, partition: impl KeyPart, range: ScanRange) -> Pages {
        Pages::scan(self.clone(), partition.into_bytes(), range)
    }

    /// Reads the whole table, virtual node by virtual node, several of them at once. Each item is
    /// read at the read level; the pages are no snapshot.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// for name in ["alice", "bob", "carol"] {
    ///     carts.replace(name, "3 apples").await?;
    /// }
    /// assert_eq!(carts.export().collect().await?.len(), 3);
    /// # Ok(()) });
    /// ```
    pub fn export(&self) -> Pages {
        Pages::export(self.clone(), self.inner.record().vnodes)
    }

    pub(crate) fn read(&self, request: Request) -> Result<Submission, ReadError> {
        self.inner
            .submit(request, self.profile.read_level, &self.profile)
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
    ) -> Result<BegunWrite, WriteError> {
        let of_session = self.profile.session.is_some().then(|| key.clone());
        let request = Request::Write {
            table: self.definition.id,
            key,
            value,
            context: context.0.clone(),
            ttl_ms: self.profile.ttl_ms(),
            idempotent: self.profile.idempotent.unwrap_or(false),
        };
        let submission = self
            .inner
            .submit(request, self.profile.write_level, &self.profile)
            .map_err(|error| WriteError::from_session(error, self.name()))?;
        Ok(BegunWrite { submission, of_session })
    }

    pub(crate) async fn end_write(
        &self,
        begun: Result<BegunWrite, WriteError>,
    ) -> Result<Written, WriteError> {
        let BegunWrite { submission, of_session } = begun?;
        let done = submission
            .outcome()
            .await
            .ok_or(WriteError::Closed)?
            .map_err(|error| WriteError::from_session(error, self.name()))?;
        let (_, level) = self.levels();
        match done.answer {
            Answer::Written(written) => {
                if let (Some(session), Some(key)) = (&self.profile.session, of_session) {
                    let table = self.definition.id;
                    session.on_written(table, key, &written.context, written.dot);
                }
                let (actor, time) = written.dot;
                Ok(Written {
                    context: Context(written.context),
                    dot: Dot { actor, time },
                    acknowledged: written.acknowledged,
                    service: Service::new(done.service, level, done.took),
                })
            }
            other => {
                unreachable!("the session answers a write with that it is done, not {other:?}")
            }
        }
    }
}
