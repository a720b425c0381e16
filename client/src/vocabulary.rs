//! The words of the packages below that a user of this library meets, each with an example of its use here.

/// What a node does just now.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{Activity, NodeId};
///
/// let activity: Box<Activity> = client.activity(NodeId(1)).await?.activity.unwrap();
/// assert!(activity.hot_keys.is_empty());
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::activity::Activity;

/// What [`Client::repair`](crate::Client::repair) asks of a node.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{AskRepair, NodeId, VnodeIndex};
///
/// let of_one = AskRepair { vnode: Some(VnodeIndex(0)), ..AskRepair::default() };
/// assert!(client.repair(NodeId(1), of_one).await?.repair.is_some());
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::AskRepair;

/// Why a node refused.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{FailureCode, NodeId, SnapshotAction};
///
/// let action = SnapshotAction::Delete { name: "monday".to_owned() };
/// let error = client.snapshots(NodeId(1), action).await.unwrap_err();
/// assert_eq!(error.refusal().map(|(code, _)| code), Some(FailureCode::Invalid));
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::FailureCode;

/// What an item is found by; [`IntoKey`](crate::IntoKey) makes it of texts and pairs.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::Key;
///
/// let key = Key { partition: "alice".into(), sort: "monday".into() };
/// carts.replace(&key, "3 apples").await?;
/// assert!(!carts.get(("alice", "monday")).await?.is_absent());
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::Key;

/// How large and how many the cluster lets things be.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::Limits;
///
/// // Nothing else is configured.
/// assert_eq!(client.limits(), Limits::default());
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::Limits;

/// A part of the time that a traced request took.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{NodeId, Profile, Stage, new_trace_id};
///
/// let traced = carts.with_profile(&Profile::new().trace(new_trace_id()));
/// let stages: Vec<Stage> = traced.get("alice").await?.service.stages;
/// assert!(stages.iter().all(|stage| stage.node == NodeId(1)));
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::Stage;

/// What a part of the time went into.
///
/// ```
/// use quoit_client::StageKind;
///
/// assert_eq!(StageKind::StorageQueue.name(), "storage queue");
/// ```
#[doc(inline)]
pub use quoit_protocol::StageKind;

/// The name of a trace, as other programs know it too.
///
/// ```
/// use quoit_client::TraceId;
///
/// // As OpenTelemetry writes it.
/// let id: TraceId = "0af7651916cd43dd8448eb211c80319c".parse()?;
/// assert_eq!(id.to_string(), "0af7651916cd43dd8448eb211c80319c");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use quoit_protocol::TraceId;

/// A text that names no trace.
///
/// ```
/// use quoit_client::{TraceId, TraceIdError};
///
/// assert_eq!("my trace".parse::<TraceId>(), Err(TraceIdError));
/// ```
#[doc(inline)]
pub use quoit_protocol::TraceIdError;

/// The snapshots of a node, as [`Client::snapshots`](crate::Client::snapshots) tells of them.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{NodeId, NodeSnapshots, SnapshotAction};
///
/// let listed: NodeSnapshots = client.snapshots(NodeId(1), SnapshotAction::List).await?;
/// assert_eq!((listed.node, listed.snapshots.len()), (NodeId(1), 0));
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::snapshot::NodeSnapshots;

/// What [`Client::snapshots`](crate::Client::snapshots) has a node do.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{NodeId, SnapshotAction};
///
/// let action = SnapshotAction::Create { name: "monday".to_owned() };
/// assert_eq!(client.snapshots(NodeId(1), action).await?.snapshots.len(), 1);
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::snapshot::SnapshotAction;

/// How a node is, and what it knows of the others.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{NodeId, NodeStatus};
///
/// let status: NodeStatus = client.status(NodeId(1)).await?;
/// assert_eq!((status.node, status.members.len()), (NodeId(1), 1));
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_protocol::status::NodeStatus;

/// The name of a cluster.
///
/// ```
/// use quoit_client::ClusterId;
///
/// let id: ClusterId = "00112233445566778899aabbccddeeff".parse()?;
/// assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use quoit_ring::ClusterId;

/// What the cluster is: its members, who owns which keys, and its tables.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::ClusterRecord;
///
/// let record: &ClusterRecord = &client.record();
/// let names: Vec<_> = record.tables.iter().map(|table| table.name.as_str()).collect();
/// assert_eq!((record.members.len(), names), (1, vec!["carts"]));
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_ring::ClusterRecord;

/// Whether a table keeps siblings.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{ConflictPolicy, Context};
///
/// assert_eq!(carts.definition().options.policy, ConflictPolicy::Siblings);
/// carts.put("alice", "3 apples", &Context::none()).await?;
/// carts.put("alice", "3 pears", &Context::none()).await?;
/// assert_eq!(carts.get("alice").await?.siblings.len(), 2);
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_ring::ConflictPolicy;

/// When something was written: a wall clock's time with a counter, so that it never runs backwards.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use std::time::{Duration, SystemTime};
///
/// carts.replace("alice", "3 apples").await?;
/// let written = carts.get("alice").await?.siblings[0].written;
/// let at = SystemTime::UNIX_EPOCH + Duration::from_millis(written.wall().0);
/// assert!(at <= SystemTime::now() + Duration::from_secs(1));
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_ring::HybridTime;

/// The consistency level of a read or a write.
///
/// ```
/// use quoit_client::Level;
///
/// // Two of three: a read and a write meet in one replica at least.
/// assert_eq!(Level::Quorum.required(3)?, 2);
/// assert!(Level::Exactly(4).required(3).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use quoit_ring::Level;

/// The name of a node.
///
/// ```
/// use quoit_client::NodeId;
///
/// assert_eq!("n7".parse::<NodeId>()?, NodeId(7));
/// assert_eq!(NodeId(7).to_string(), "n7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(inline)]
pub use quoit_ring::NodeId;

/// What [`Client::create_table`](crate::Client::create_table) is told.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::TableOptions;
///
/// let options = TableOptions { replication: 1, ttl_ms: Some(60_000), ..TableOptions::default() };
/// client.create_table("visits", options).await?;
/// let visits = client.table("visits").await?;
/// visits.replace("alice", "1").await?;
/// assert!(visits.get("alice").await?.siblings[0].expires.is_some());
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_ring::TableOptions;

/// The number of a virtual node.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{NodeId, VnodeIndex};
///
/// let status = client.accept_loss(NodeId(1), Some(VnodeIndex(0))).await?;
/// assert_eq!(status.recovering_vnodes, 0);
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_ring::VnodeIndex;

/// What became of the attempts of a request.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::Trail;
///
/// let trail: Trail = carts.get("alice").await?.service.trail;
/// assert!(trail.attempts >= 1);
/// assert_eq!(Trail::default().to_string(), "nothing was sent");
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_session::Trail;

/// What became of one attempt.
///
/// ```
/// use quoit_client::{NodeId, Trail, TrailEntry};
///
/// let entry = TrailEntry { node: Some(NodeId(2)), what: "hung up".to_owned() };
/// let trail = Trail { attempts: 1, entries: vec![entry] };
/// assert_eq!(trail.to_string(), "1 attempt: n2 hung up");
/// ```
#[doc(inline)]
pub use quoit_session::TrailEntry;

/// Why a level cannot be had.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Level, LevelError, ReadError};
///
/// // The table has one replica of each key.
/// let outcome = carts.with_read_level(Level::Two).get("alice").await;
/// let error = LevelError::MoreThanReplicas { asked: 2, replication: 1 };
/// assert_eq!(outcome, Err(ReadError::Level(error)));
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_ring::LevelError;

/// Why a table cannot be made so.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{TableChangeError, TableOptions, TableOptionsError};
///
/// let outcome = client.create_table("my carts", TableOptions::default()).await;
/// let error = TableOptionsError::Name("my carts".to_owned());
/// assert_eq!(outcome, Err(TableChangeError::Options(error)));
/// # Ok(()) });
/// ```
#[doc(inline)]
pub use quoit_ring::TableOptionsError;

/// Why a request ended without what it asked for, where no error of its own says it.
///
/// ```
/// use quoit_client::{OperationError, TableChangeError};
///
/// let error = TableChangeError::NotSent(OperationError::Overloaded { in_flight_max: 1 });
/// assert!(error.to_string().starts_with("the tables were not changed"));
/// ```
#[doc(inline)]
pub use quoit_session::OperationError;
