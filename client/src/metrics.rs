//! What a client's requests took, and what became of them.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use quoit_ring::NodeId;
use quoit_session::{Answer, OperationError, Request, Service};

/// Latencies are kept to two digits: within one part in a hundred.
const DIGITS: u8 = 2;

/// Kinds of requests.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::Kind;
///
/// client.table("carts").await?.replace("alice", "3 apples").await?;
/// let metrics = client.metrics().await.expect("the client is open");
/// // In a table of siblings a replacement reads first.
/// let counts = [Kind::Read, Kind::Write].map(|kind| metrics.of_kind(kind).took_us.len());
/// assert_eq!(counts, [1, 1]);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Reads of one key.
    Read,
    /// Writes and deletions.
    Write,
    /// Pages of scans and exports.
    Page,
    /// Everything else: the record, tables, status.
    Other,
}

impl Kind {
    pub(crate) fn of(request: &Request) -> Self {
        match request {
            Request::Get { .. } => Self::Read,
            Request::Write { .. } => Self::Write,
            Request::Scan { .. } | Request::Export { .. } => Self::Page,
            Request::ChangeTables(_)
            | Request::Status(_)
            | Request::Activity(_)
            | Request::AcceptLoss { .. }
            | Request::Repair { .. }
            | Request::Snapshots { .. }
            | Request::Record => Self::Other,
        }
    }
}

/// Requests of one kind, or of one coordinator.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::Kind;
///
/// client.table("carts").await?.get("alice").await?;
/// let reads = client.metrics().await.expect("the client is open").of_kind(Kind::Read);
/// assert!(reads.took_us.value_at_quantile(0.5) > 0);
/// assert_eq!((reads.failed, reads.unknown), (0, 0));
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Series {
    /// From the call to the answer, in microseconds, of those that were answered.
    pub took_us: Histogram<u64>,
    /// How many attempts there were beyond the first ones.
    pub retries: u64,
    /// How many ended without an answer, and with nothing done.
    pub failed: u64,
    /// How many writes may be done or not.
    pub unknown: u64,
}

impl Default for Series {
    fn default() -> Self {
        let took_us = Histogram::new(DIGITS).expect("so many digits can be kept");
        Self { took_us, retries: 0, failed: 0, unknown: 0 }
    }
}

impl Series {
    fn count(&mut self, outcome: &Result<Answer, OperationError>, service: &Service, took_us: u64) {
        match outcome {
            Ok(_) => self.took_us.saturating_record(took_us),
            Err(OperationError::Unknown { .. }) => self.unknown += 1,
            Err(_) => self.failed += 1,
        }
        self.retries += u64::from(service.trail.attempts.saturating_sub(1));
    }
}

/// What a client's requests took and came to since it was made.
///
/// ```
/// # quoit_sandbox::with_client(async |client| {
/// use quoit_client::Kind;
///
/// client.table("carts").await?.get("alice").await?;
/// if let Some(metrics) = client.metrics().await {
///     let reads = metrics.of_kind(Kind::Read);
///     println!("p99 of {} reads: {} us", reads.took_us.len(), reads.took_us.value_at_quantile(0.99));
///     assert_eq!(reads.took_us.len(), 1);
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    kinds: BTreeMap<Kind, Series>,
    coordinators: BTreeMap<NodeId, Series>,
}

impl Metrics {
    /// Requests of a kind.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::Kind;
    ///
    /// let metrics = client.metrics().await.expect("the client is open");
    /// assert!(metrics.of_kind(Kind::Write).took_us.is_empty());
    /// # Ok(()) });
    /// ```
    pub fn of_kind(&self, kind: Kind) -> Series {
        self.kinds.get(&kind).cloned().unwrap_or_default()
    }

    /// Reads and writes by the node that answered them. What failed is nobody's.
    ///
    /// ```
    /// # quoit_sandbox::with_client(async |client| {
    /// use quoit_client::NodeId;
    ///
    /// client.table("carts").await?.get("alice").await?;
    /// let metrics = client.metrics().await.expect("the client is open");
    /// assert_eq!(metrics.by_coordinator()[&NodeId(1)].took_us.len(), 1);
    /// # Ok(()) });
    /// ```
    pub fn by_coordinator(&self) -> &BTreeMap<NodeId, Series> {
        &self.coordinators
    }

    pub(crate) fn count(
        &mut self,
        kind: Kind,
        outcome: &Result<Answer, OperationError>,
        service: &Service,
        took_us: u64,
    ) {
        self.kinds.entry(kind).or_default().count(outcome, service, took_us);
        if let (Kind::Read | Kind::Write, Some(node)) = (kind, service.coordinator) {
            self.coordinators.entry(node).or_default().count(outcome, service, took_us);
        }
    }
}
