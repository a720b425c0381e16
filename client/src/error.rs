//! How reads, writes and questions may end without an answer: one enum an operation, each variant
//! saying what it means for the data.

use std::error::Error;

use quoit_protocol::FailureCode;
use quoit_ring::{LevelError, NodeId, TableOptionsError};
use quoit_session::{OperationError, Trail};

/// An error and its sources, one after the other, for people. (By itself an error here leaves its source
/// out.)
///
/// ```
/// let error = quoit_client::ClientBuilder::from_directory("/none").unwrap_err();
/// let text = quoit_client::with_sources(&error);
/// assert!(text.starts_with("/none/client.toml cannot be read: "));
/// ```
pub fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A read that yielded nothing. Reads never change what is stored; every one may be asked again.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::ReadError;
///
/// match carts.get("k".repeat(5_000)).await {
///     Err(ReadError::TooLarge { bytes_max, .. }) => assert_eq!(bytes_max, 4_096),
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing was sent, for this client has as many requests in flight as it may. Wait for some.
    #[error(
        "{in_flight_max} requests are in flight already; wait for some of them, or raise the client's limit"
    )]
    Overloaded {
        /// The client's bound.
        in_flight_max: usize,
    },
    /// A key is over the cluster's limit; nothing was sent. It will be refused always.
    #[error("{what} has {bytes} bytes, but the cluster takes at most {bytes_max}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// The table cannot give the level that was asked for; nothing was sent.
    #[error("the read level cannot be had: {0}")]
    Level(LevelError),
    /// The table was dropped since its handle was made.
    #[error("the cluster has no table {table:?} any more")]
    UnknownTable {
        /// Its name.
        table: String,
    },
    /// No answer came before the deadline. Ask again, with a longer timeout if need be.
    #[error("the read was not answered in time ({trail})")]
    Timeout {
        /// What was tried.
        trail: Trail,
    },
    /// No node of the cluster can be reached. Check the network, the nodes and the addresses.
    #[error("no node of the cluster can be reached ({trail})")]
    Unreachable {
        /// What was tried.
        trail: Trail,
    },
    /// Fewer replicas answered than the level asks. Wait until more are back, or lower the level.
    #[error(
        "only {answered} of the {required} replicas that the read level asks for answered ({trail})"
    )]
    Unavailable {
        /// How many answered.
        answered: u8,
        /// How many were needed.
        required: u8,
        /// What was tried.
        trail: Trail,
    },
    /// Nothing was read: this client's role does not allow it. Ask whoever runs the cluster for another.
    #[error("{message}")]
    Forbidden {
        /// What would be needed, and who may give it, for people.
        message: String,
    },
    /// A node refused for another reason, which its message tells.
    #[error("the read was refused: {message} ({trail})")]
    Refused {
        /// Why.
        code: FailureCode,
        /// The node's message, for people.
        message: String,
        /// What was tried before.
        trail: Trail,
    },
    /// Every answer held a value that does not match its checksum, so none is shown. The replicas
    /// or what lies between are at fault.
    #[error("the value is damaged: its checksum is wrong in every answer ({trail})")]
    Damaged {
        /// What was tried.
        trail: Trail,
    },
    /// The client was closed.
    #[error("the client was closed before the read was answered")]
    Closed,
}

impl ReadError {
    /// Always `false`: a read leaves nothing in doubt.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// let error = carts.get("k".repeat(5_000)).await.unwrap_err();
    /// assert!(!error.is_unknown());
    /// # Ok(()) });
    /// ```
    pub fn is_unknown(&self) -> bool {
        false
    }

    /// How many replicas answered, where a node told.
    ///
    /// ```
    /// use quoit_client::{ReadError, Trail};
    ///
    /// let error = ReadError::Unavailable { answered: 1, required: 2, trail: Trail::default() };
    /// assert_eq!(error.answered(), Some(1));
    /// assert_eq!(ReadError::Closed.answered(), None);
    /// ```
    pub fn answered(&self) -> Option<u8> {
        match self {
            Self::Unavailable { answered, .. } => Some(*answered),
            _ => None,
        }
    }

    /// How many replicas were needed, where a node told.
    ///
    /// ```
    /// use quoit_client::{ReadError, Trail};
    ///
    /// let error = ReadError::Unavailable { answered: 1, required: 2, trail: Trail::default() };
    /// assert_eq!(error.required(), Some(2));
    /// ```
    pub fn required(&self) -> Option<u8> {
        match self {
            Self::Unavailable { required, .. } => Some(*required),
            _ => None,
        }
    }

    pub(crate) fn from_session(error: OperationError, table: &str) -> Self {
        match error {
            OperationError::Overloaded { in_flight_max } => Self::Overloaded { in_flight_max },
            OperationError::TooLarge { what, bytes, bytes_max } => {
                Self::TooLarge { what, bytes, bytes_max }
            }
            OperationError::Level(error) => Self::Level(error),
            OperationError::UnknownTable(_) => Self::UnknownTable { table: table.to_owned() },
            OperationError::Timeout { trail } | OperationError::Unknown { trail, .. } => {
                Self::Timeout { trail }
            }
            OperationError::Unreachable { trail } => Self::Unreachable { trail },
            OperationError::UnknownNode(_) => Self::Unreachable { trail: Trail::default() },
            OperationError::Refused { failure, trail } => match failure.code {
                FailureCode::UnknownTable => Self::UnknownTable { table: table.to_owned() },
                FailureCode::Unavailable => Self::Unavailable {
                    answered: failure.answered,
                    required: failure.required,
                    trail,
                },
                FailureCode::Forbidden => Self::Forbidden { message: failure.message },
                code => Self::Refused { code, message: failure.message, trail },
            },
            OperationError::Damaged { trail } => Self::Damaged { trail },
        }
    }
}

/// A write or a delete that was not confirmed. Only [`WriteError::Unknown`] and
/// [`WriteError::Closed`] leave open whether it is done; after any other it is certainly not done.
///
/// ```
/// # quoit_sandbox::with_table(async |carts| {
/// use quoit_client::{Context, WriteError};
///
/// match carts.put("alice", vec![0; 5 << 20], &Context::none()).await {
///     Err(WriteError::TooLarge { bytes_max, .. }) => assert_eq!(bytes_max, 4 << 20),
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Not done: this client has as many requests in flight as it may. Wait for some of them.
    #[error(
        "not written: {in_flight_max} requests are in flight already; wait for some of them, or raise the client's limit"
    )]
    Overloaded {
        /// The client's bound.
        in_flight_max: usize,
    },
    /// Not done: a part is over the cluster's limit. It will be refused always.
    #[error("not written: {what} has {bytes} bytes, but the cluster takes at most {bytes_max}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// Not done: the table cannot give the level that was asked for.
    #[error("not written: the write level cannot be had: {0}")]
    Level(LevelError),
    /// Not done: the table was dropped since its handle was made.
    #[error("not written: the cluster has no table {table:?} any more")]
    UnknownTable {
        /// Its name.
        table: String,
    },
    /// Not done: no node took the write before the deadline. It may be sent again.
    #[error("not written: no node took the write in time ({trail})")]
    Timeout {
        /// What was tried.
        trail: Trail,
    },
    /// Not done: no node of the cluster can be reached.
    #[error("not written: no node of the cluster can be reached ({trail})")]
    Unreachable {
        /// What was tried.
        trail: Trail,
    },
    /// Not done: too few replicas can be reached for the level. Wait until more are back, or lower
    /// the level.
    #[error(
        "not written: the {required} replicas that the write level asks for cannot be had ({trail})"
    )]
    Unavailable {
        /// How many acknowledged: none, since nothing was handed out.
        acknowledged: u8,
        /// How many were needed.
        required: u8,
        /// What was tried.
        trail: Trail,
    },
    /// Not done: the key has as many siblings as it may have. Read it and write with the context.
    #[error("not written: {message}")]
    TooManySiblings {
        /// The node's message.
        message: String,
    },
    /// Not done: this client's role does not allow it. Ask whoever runs the cluster for another.
    #[error("not written: {message}")]
    Forbidden {
        /// What would be needed, and who may give it, for people.
        message: String,
    },
    /// Not done: a node refused for another reason, which its message tells.
    #[error("not written: {message} ({trail})")]
    Refused {
        /// Why.
        code: FailureCode,
        /// The node's message, for people.
        message: String,
        /// What was tried before.
        trail: Trail,
    },
    /// It may be done now, later or never. Read the key to see; write again if that does no harm
    /// (the library does so itself for a write that is marked idempotent).
    #[error(
        "it is not known whether the write is done: {acknowledged} of {required} replicas are known to have it ({trail}); read the key before you write again"
    )]
    Unknown {
        /// How many replicas are known to have acknowledged.
        acknowledged: u8,
        /// How many were needed; 0 where no node told.
        required: u8,
        /// What was tried.
        trail: Trail,
    },
    /// The client was closed; the write may be done, now or later.
    #[error(
        "the client was closed before the write was answered; it is not known whether it is done"
    )]
    Closed,
    /// Not done: [`replace`](crate::Table::replace) could not read what it was to replace.
    #[error("not written: what is to be replaced could not be read")]
    Read(#[source] ReadError),
}

impl WriteError {
    /// Whether the write may be done nonetheless, now or later.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// use quoit_client::Context;
    /// use std::time::Duration;
    ///
    /// // It may have come to the node, or not: whoever needs to know reads the key.
    /// let hasty = carts.clone().with_timeout(Duration::from_millis(1));
    /// if let Err(error) = hasty.put("alice", vec![0; 1 << 20], &Context::none()).await {
    ///     let is_there = !carts.get("alice").await?.is_absent();
    ///     assert!(error.is_unknown() || !is_there);
    /// }
    /// # Ok(()) });
    /// ```
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Closed)
    }

    /// How many replicas are known to have acknowledged, where a node told.
    ///
    /// ```
    /// use quoit_client::{Trail, WriteError};
    ///
    /// let error = WriteError::Unknown { acknowledged: 1, required: 2, trail: Trail::default() };
    /// assert_eq!(error.acknowledged(), Some(1));
    /// ```
    pub fn acknowledged(&self) -> Option<u8> {
        match self {
            Self::Unknown { acknowledged, .. } | Self::Unavailable { acknowledged, .. } => {
                Some(*acknowledged)
            }
            _ => None,
        }
    }

    /// How many replicas were needed, where a node told.
    ///
    /// ```
    /// use quoit_client::{Trail, WriteError};
    ///
    /// let error = WriteError::Unknown { acknowledged: 1, required: 2, trail: Trail::default() };
    /// assert_eq!(error.required(), Some(2));
    /// ```
    pub fn required(&self) -> Option<u8> {
        match self {
            Self::Unknown { required, .. } | Self::Unavailable { required, .. } => Some(*required),
            _ => None,
        }
    }

    pub(crate) fn from_session(error: OperationError, table: &str) -> Self {
        match error {
            OperationError::Overloaded { in_flight_max } => Self::Overloaded { in_flight_max },
            OperationError::TooLarge { what, bytes, bytes_max } => {
                Self::TooLarge { what, bytes, bytes_max }
            }
            OperationError::Level(error) => Self::Level(error),
            OperationError::UnknownTable(_) => Self::UnknownTable { table: table.to_owned() },
            OperationError::Timeout { trail } | OperationError::Damaged { trail } => {
                Self::Timeout { trail }
            }
            OperationError::Unreachable { trail } => Self::Unreachable { trail },
            OperationError::UnknownNode(_) => Self::Unreachable { trail: Trail::default() },
            OperationError::Refused { failure, trail } => match failure.code {
                FailureCode::UnknownTable => Self::UnknownTable { table: table.to_owned() },
                FailureCode::TooManySiblings => Self::TooManySiblings { message: failure.message },
                FailureCode::Unavailable => Self::Unavailable {
                    acknowledged: failure.answered,
                    required: failure.required,
                    trail,
                },
                FailureCode::Forbidden => Self::Forbidden { message: failure.message },
                code => Self::Refused { code, message: failure.message, trail },
            },
            OperationError::Unknown { acknowledged, required, trail } => {
                Self::Unknown { acknowledged, required, trail }
            }
        }
    }
}

/// A table that cannot be opened. Nothing changed.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::TableError;
///
/// match client.table("shoes").await {
///     Err(TableError::Unknown { known, .. }) => assert_eq!(known, ["carts"]),
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The cluster has no table of that name, as its newest record says. Create it first.
    #[error("the cluster has no table {name:?}; it has {}", names(.known))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The tables that are there.
        known: Vec<String>,
    },
    /// The record with the list of tables could not be had.
    #[error("the list of tables could not be had")]
    Record(#[source] ReadError),
}

fn names(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

/// A change of the tables that was not confirmed.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{TableChangeError, TableOptions};
///
/// // Three replicas of each key, on one node.
/// let outcome = client.create_table("shelves", TableOptions::default()).await;
/// assert!(matches!(outcome, Err(TableChangeError::Options(_))));
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableChangeError {
    /// The options are out of range for this cluster; nothing was sent.
    #[error("the table cannot be made: {0}")]
    Options(TableOptionsError),
    /// Nothing changed: this client's role does not allow it. Ask whoever runs the cluster for another.
    #[error("the tables were not changed: {message}")]
    Forbidden {
        /// What would be needed, and who may give it, for people.
        message: String,
    },
    /// Nothing changed: a node refused (a table of that name with other options exists, say).
    #[error("the tables were not changed: {message} ({trail})")]
    Refused {
        /// Why.
        code: FailureCode,
        /// The node's message, for people.
        message: String,
        /// What was tried before.
        trail: Trail,
    },
    /// Nothing changed: the cluster has no table of that name.
    #[error("the cluster has no table {table:?}")]
    UnknownTable {
        /// Its name.
        table: String,
    },
    /// Nothing changed: the request could not be sent in time, or at all.
    #[error("the tables were not changed: {0}")]
    NotSent(OperationError),
    /// It may be done, now or later. Look at the record before you ask again.
    #[error(
        "it is not known whether the tables were changed ({trail}); list the tables before you try again"
    )]
    Unknown {
        /// What was tried.
        trail: Trail,
    },
    /// The client was closed; the change may be done, now or later.
    #[error(
        "the client was closed before the change was answered; it is not known whether it is done"
    )]
    Closed,
}

impl TableChangeError {
    /// Whether the change may be done nonetheless, now or later.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// let error = client.drop_table("shoes").await.unwrap_err();
    /// assert!(!error.is_unknown());
    /// # Ok(()) });
    /// ```
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Closed)
    }

    pub(crate) fn from_session(error: OperationError, table: &str) -> Self {
        match error {
            OperationError::Unknown { trail, .. } => Self::Unknown { trail },
            OperationError::Refused { failure, trail } => match failure.code {
                FailureCode::UnknownTable => Self::UnknownTable { table: table.to_owned() },
                FailureCode::Forbidden => Self::Forbidden { message: failure.message },
                code => Self::Refused { code, message: failure.message, trail },
            },
            other => Self::NotSent(other),
        }
    }
}

/// A node whose status could not be had. Nothing changed.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::{NodeId, StatusError};
///
/// let outcome = client.status(NodeId(9)).await;
/// assert!(matches!(outcome, Err(StatusError::UnknownNode(NodeId(9)))));
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// The cluster has no such node.
    #[error("the cluster has no node {0}")]
    UnknownNode(NodeId),
    /// It cannot be reached, or does not answer in time.
    #[error("{node} does not answer ({trail})")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// What was tried.
        trail: Trail,
    },
    /// This client's role does not allow it. Ask whoever runs the cluster for another.
    #[error("{message}")]
    Forbidden {
        /// What would be needed, and who may give it, for people.
        message: String,
    },
    /// It refused, or the question could not be sent.
    #[error("{node} was not asked or refused: {error}")]
    Refused {
        /// The node.
        node: NodeId,
        /// Why.
        error: OperationError,
    },
    /// The client was closed.
    #[error("the client was closed before the node answered")]
    Closed,
}

impl StatusError {
    /// Why the node refused, where it did.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::{FailureCode, NodeId, SnapshotAction};
    ///
    /// let action = SnapshotAction::Delete { name: "monday".to_owned() };
    /// let error = client.snapshots(NodeId(1), action).await.unwrap_err();
    /// let (code, _message) = error.refusal().expect("there is no such snapshot");
    /// assert_eq!(code, FailureCode::Invalid);
    /// # Ok(()) });
    /// ```
    pub fn refusal(&self) -> Option<(FailureCode, &str)> {
        match self {
            Self::Refused { error: OperationError::Refused { failure, .. }, .. } => {
                Some((failure.code, &failure.message))
            }
            _ => None,
        }
    }

    pub(crate) fn from_session(error: OperationError, node: NodeId) -> Self {
        match error {
            OperationError::UnknownNode(node) => Self::UnknownNode(node),
            OperationError::Timeout { trail } | OperationError::Unreachable { trail } => {
                Self::Unreachable { node, trail }
            }
            OperationError::Refused { failure, .. } if failure.code == FailureCode::Forbidden => {
                Self::Forbidden { message: failure.message }
            }
            error => Self::Refused { node, error },
        }
    }
}
