//! The client: one driver task and the handles that submit to it.

use std::sync::Arc;
use std::time::Duration;

use quoit_protocol::snapshot::{NodeSnapshots, SnapshotAction};
use quoit_protocol::{AskRepair, Limits, TableChange, status::NodeStatus};
use quoit_ring::{ClusterRecord, Level, NodeId, TableOptions, VnodeIndex};
use quoit_session::{Answer, Instant, Operation, OperationError, Request, Service};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    ClientBuilder, Metrics, Profile, ReadError, StatusError, Table, TableChangeError, TableError,
    Trail,
};

/// How an operation ended.
pub(crate) type Outcome = Result<Done, OperationError>;

/// An operation that was answered.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) answer: Answer,
    pub(crate) service: Service,
    pub(crate) took: Duration,
}

/// A connection to a cluster. Cheap to clone; clones share everything. When the last clone and the
/// last [`Table`] are gone, the connections are closed.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// let other = client.clone();
/// client.table("carts").await?.replace("alice", "3 apples").await?;
/// let reading = other.table("carts").await?.get("alice").await?;
/// assert_eq!(reading.single().unwrap().bytes, "3 apples");
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// What the handles share.
#[derive(Debug)]
pub(crate) struct Inner {
    commands: mpsc::Sender<Command>,
    known: watch::Receiver<Known>,
    clock: Clock,
    in_flight_max: usize,
    profile: Profile,
}

/// What the driver tells everyone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) record: Option<Arc<ClusterRecord>>,
    pub(crate) limits: Option<Limits>,
}

/// What a handle asks of the driver.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every command is the large one")]
pub(crate) enum Command {
    Submit { operation: Operation, reply: oneshot::Sender<Outcome> },
    Metrics { reply: oneshot::Sender<Metrics> },
    Close { done: oneshot::Sender<()> },
}

/// Tells the session's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant(microseconds(self.start.elapsed()))
    }

    /// The moment as the runtime's timer takes it.
    pub(crate) fn timer(&self, at: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_micros(at.0))
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The longest timeout: longer ones are cut, so that moments can be added up.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Inner {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        known: watch::Receiver<Known>,
        clock: Clock,
        in_flight_max: usize,
        profile: Profile,
    ) -> Self {
        Self { commands, known, clock, in_flight_max, profile }
    }

    pub(crate) fn record(&self) -> Arc<ClusterRecord> {
        self.known.borrow().record.clone().expect("a client is handed out once it knows a record")
    }

    /// Hands a request to the driver; it is under way when this returns.
    pub(crate) fn submit(
        &self,
        request: Request,
        level: Option<Level>,
        profile: &Profile,
    ) -> Result<Submission, OperationError> {
        let timeout = profile.timeout_or_default();
        let deadline = self.clock.now().plus_us(microseconds(timeout.min(TIMEOUT_MAX)));
        let (reply, outcome) = oneshot::channel();
        let retry = profile.retry.unwrap_or_default().into();
        let operation = Operation { request, level, deadline, retry, trace: profile.trace };
        match self.commands.try_send(Command::Submit { operation, reply }) {
            // A driver that is gone drops the reply, and the submission tells so.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(Submission { outcome }),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(OperationError::Overloaded { in_flight_max: self.in_flight_max })
            }
        }
    }
}

/// An operation that is under way.
#[derive(Debug)]
pub(crate) struct Submission {
    outcome: oneshot::Receiver<Outcome>,
}

impl Submission {
    /// How it ended; `None` where the client was closed before.
    pub(crate) async fn outcome(self) -> Option<Outcome> {
        self.outcome.await.ok()
    }

    /// As the end of a read.
    pub(crate) async fn read(mut self, table: &str) -> Result<Done, ReadError> {
        self.wait(table).await
    }

    /// As the end of a read; may be dropped midway and called again until it has yielded.
    pub(crate) async fn wait(&mut self, table: &str) -> Result<Done, ReadError> {
        match (&mut self.outcome).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(ReadError::from_session(error, table)),
            Err(_) => Err(ReadError::Closed),
        }
    }
}

impl Client {
    /// A builder with the defaults; it needs a cluster, contact points and an identity.
    ///
    /// ```
    /// # quoit_sandbox::with_cluster(async || {
    /// use quoit_client::{Client, ConnectError};
    ///
    /// let error = Client::builder().name("nightly report").connect().await.unwrap_err();
    /// assert!(matches!(error, ConnectError::Missing(_)));
    /// # Ok(()) });
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The newest cluster record that this client knows.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::NodeId;
    ///
    /// let record = client.record();
    /// assert_eq!(record.members[0].id, NodeId(1));
    /// assert!(record.table("carts").is_some());
    /// # Ok(()) });
    /// ```
    pub fn record(&self) -> Arc<ClusterRecord> {
        self.inner.record()
    }

    /// What the cluster accepts, as the node said that was connected last.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// assert_eq!(client.limits().value_bytes_max, 4 << 20);
    /// # Ok(()) });
    /// ```
    pub fn limits(&self) -> Limits {
        self.inner.known.borrow().limits.unwrap_or_default()
    }

    /// Asks a node for its record, and yields the newest one known then.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// let before = client.record().epoch;
    /// client.drop_table("carts").await?;
    /// let record = client.refresh_record().await?;
    /// assert!(record.epoch > before && record.table("carts").is_none());
    /// # Ok(()) });
    /// ```
    pub async fn refresh_record(&self) -> Result<Arc<ClusterRecord>, ReadError> {
        self.inner
            .submit(Request::Record, None, &self.inner.profile)
            .map_err(|error| ReadError::from_session(error, ""))?
            .read("")
            .await
            .map(|done| record_of(done.answer))
    }

    /// Makes a table. One of the same name and the same options that is there already is no error.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::{ConflictPolicy, TableOptions};
    ///
    /// let options = TableOptions {
    ///     replication: 1,
    ///     policy: ConflictPolicy::Siblings,
    ///     ..TableOptions::default()
    /// };
    /// let record = client.create_table("shelves", options.clone()).await?;
    /// assert!(record.table("shelves").is_some());
    /// client.create_table("shelves", options).await?;
    /// # Ok(()) });
    /// ```
    pub async fn create_table(
        &self,
        name: &str,
        options: TableOptions,
    ) -> Result<Arc<ClusterRecord>, TableChangeError> {
        let members = self.record().members.len();
        options.check(name, members).map_err(TableChangeError::Options)?;
        self.change_tables(name, TableChange::Create { name: name.to_owned(), options }).await
    }

    /// Drops a table and all its data, for good.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// let record = client.drop_table("carts").await?;
    /// assert!(record.tables.is_empty());
    /// # Ok(()) });
    /// ```
    pub async fn drop_table(&self, name: &str) -> Result<Arc<ClusterRecord>, TableChangeError> {
        self.change_tables(name, TableChange::Drop { name: name.to_owned() }).await
    }

    async fn change_tables(
        &self,
        name: &str,
        change: TableChange,
    ) -> Result<Arc<ClusterRecord>, TableChangeError> {
        self.inner
            .submit(Request::ChangeTables(change), None, &self.inner.profile)
            .map_err(|error| TableChangeError::from_session(error, name))?
            .outcome()
            .await
            .ok_or(TableChangeError::Closed)?
            .map(|done| record_of(done.answer))
            .map_err(|error| TableChangeError::from_session(error, name))
    }

    /// Asks that very node what it knows of itself and the others.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::NodeId;
    ///
    /// let status = client.status(NodeId(1)).await?;
    /// assert_eq!(status.state, "serving");
    /// # Ok(()) });
    /// ```
    pub async fn status(&self, node: NodeId) -> Result<NodeStatus, StatusError> {
        self.ask_node(Request::Status(node), node).await
    }

    /// Asks that very node what it does just now: its status, with an
    /// [`Activity`](crate::Activity) once it knows the cluster record.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::NodeId;
    ///
    /// let status = client.activity(NodeId(1)).await?;
    /// assert!(status.activity.is_some());
    /// # Ok(()) });
    /// ```
    pub async fn activity(&self, node: NodeId) -> Result<NodeStatus, StatusError> {
        self.ask_node(Request::Activity(node), node).await
    }

    /// Tells that very node, which has lost what it held, that nobody has more than what it holds of
    /// a virtual node now, or of all of them: it counts at once. What it had acknowledged and the
    /// others have lost too is gone then.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::NodeId;
    ///
    /// let status = client.accept_loss(NodeId(1), None).await?;
    /// assert_eq!(status.recovering_vnodes, 0);
    /// # Ok(()) });
    /// ```
    pub async fn accept_loss(
        &self,
        node: NodeId,
        vnode: Option<VnodeIndex>,
    ) -> Result<NodeStatus, StatusError> {
        self.ask_node(Request::AcceptLoss { node, vnode }, node).await
    }

    /// Asks that very node how far its replicas were compared with the others', or has them compared.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::{AskRepair, NodeId};
    ///
    /// let status = client.repair(NodeId(1), AskRepair { run: true, ..AskRepair::default() }).await?;
    /// assert!(status.repair.is_some());
    /// # Ok(()) });
    /// ```
    pub async fn repair(&self, node: NodeId, what: AskRepair) -> Result<NodeStatus, StatusError> {
        self.ask_node(Request::Repair { node, what }, node).await
    }

    /// Has that very node make, list or delete snapshots of what it holds.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::{NodeId, SnapshotAction};
    ///
    /// let action = SnapshotAction::Create { name: "monday".to_owned() };
    /// let listed = client.snapshots(NodeId(1), action).await?;
    /// assert_eq!(listed.snapshots[0].name, "monday");
    /// # Ok(()) });
    /// ```
    pub async fn snapshots(
        &self,
        node: NodeId,
        action: SnapshotAction,
    ) -> Result<NodeSnapshots, StatusError> {
        match self.answer_of(Request::Snapshots { node, action }, node).await? {
            Answer::Snapshots(snapshots) => Ok(*snapshots),
            other => unreachable!("the session answers with snapshots, not {other:?}"),
        }
    }

    async fn ask_node(&self, request: Request, node: NodeId) -> Result<NodeStatus, StatusError> {
        match self.answer_of(request, node).await? {
            Answer::Status(status) => Ok(*status),
            other => unreachable!("the session answers with a status, not {other:?}"),
        }
    }

    async fn answer_of(&self, request: Request, node: NodeId) -> Result<Answer, StatusError> {
        let done = self
            .inner
            .submit(request, None, &self.inner.profile)
            .map_err(|error| StatusError::from_session(error, node))?
            .outcome()
            .await
            .ok_or(StatusError::Closed)?
            .map_err(|error| StatusError::from_session(error, node))?;
        Ok(done.answer)
    }

    /// A handle of a table. Asks for the record anew if it does not know the table.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::TableError;
    ///
    /// assert_eq!(client.table("carts").await?.name(), "carts");
    /// assert!(matches!(client.table("shoes").await, Err(TableError::Unknown { .. })));
    /// # Ok(()) });
    /// ```
    pub async fn table(&self, name: &str) -> Result<Table, TableError> {
        let mut record = self.record();
        if record.table(name).is_none() {
            record = self.refresh_record().await.map_err(TableError::Record)?;
        }
        match record.table(name) {
            Some(table) => {
                Ok(Table::new(Arc::clone(&self.inner), table.clone(), self.inner.profile.clone()))
            }
            None => Err(TableError::Unknown {
                name: name.to_owned(),
                known: record.tables.iter().map(|table| table.name.clone()).collect(),
            }),
        }
    }

    /// What this client's requests took and came to since it was made; `None` once it is closed. Two
    /// of them, one taken from the other by whoever asks, tell of the time between.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::Kind;
    ///
    /// client.table("carts").await?.get("alice").await?;
    /// let metrics = client.metrics().await.expect("the client is open");
    /// assert_eq!(metrics.of_kind(Kind::Read).took_us.len(), 1);
    /// # Ok(()) });
    /// ```
    pub async fn metrics(&self) -> Option<Metrics> {
        let (reply, metrics) = oneshot::channel();
        self.inner.commands.send(Command::Metrics { reply }).await.ok()?;
        metrics.await.ok()
    }

    /// Closes the connections and waits until the nodes were told (a second at most). Requests in
    /// flight end as `Closed`, and so does every later one, on all clones.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::ReadError;
    ///
    /// let carts = client.table("carts").await?;
    /// client.close().await;
    /// assert_eq!(carts.get("alice").await, Err(ReadError::Closed));
    /// # Ok(()) });
    /// ```
    pub async fn close(self) {
        let (done, wait) = oneshot::channel();
        if self.inner.commands.send(Command::Close { done }).await.is_ok() {
            // An error says that the driver is gone: closed already.
            let _ = wait.await;
        }
    }
}

fn record_of(answer: Answer) -> Arc<ClusterRecord> {
    match answer {
        Answer::Record(record) => record,
        other => unreachable!("the session answers with a record, not {other:?}"),
    }
}

/// What was tried, where it was tried in vain.
pub(crate) fn trail_of(error: OperationError) -> Trail {
    match error {
        OperationError::Timeout { trail }
        | OperationError::Unreachable { trail }
        | OperationError::Refused { trail, .. }
        | OperationError::Unknown { trail, .. }
        | OperationError::Damaged { trail } => trail,
        OperationError::Overloaded { .. }
        | OperationError::TooLarge { .. }
        | OperationError::Level(_)
        | OperationError::UnknownTable(_)
        | OperationError::UnknownNode(_) => Trail::default(),
    }
}
