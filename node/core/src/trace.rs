//! Traces: where the time of a request went that carries a trace id.
//!
//! The coordinator gathers the stages and tells them just before its answer ([`Traced`]); a node that
//! was asked by a coordinator tells its own just before its answer ([`PeerStages`]). How long something
//! took that is done outside the core, the driver tells: when a message came, how long a storage thread
//! worked. Requests without a trace id cost a look at two empty lists.
//!
//! [`Traced`]: quoit_protocol::Traced

use std::collections::VecDeque;

use quoit_protocol::{ClientRequest, ClientResponse, Failure, Stage, StageKind, TraceId};
use quoit_ring::{ClusterRecord, Level, NodeId};

use crate::event::Tag;
use crate::operation::{OperationId, Origin};
use crate::peer::PeerStages;
use crate::time::Instant;

/// So many requests are traced at a time; of more, the oldest are answered without.
const TRACES_MAX: usize = 64;
/// A trace has so many stages at most.
const STAGES_MAX: usize = 256;

/// What a storage thread's time for a request went into, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// On a read.
    Read {
        /// Until it began.
        waited_us: u64,
        /// From then on.
        took_us: u64,
    },
    /// On a write; what it shares with the others of its batch is each one's.
    Write {
        /// Until its batch began.
        waited_us: u64,
        /// Until the batch was merged.
        merged_us: u64,
        /// Until the batch was in the commit log, and synced where the durability asks for it.
        committed_us: u64,
    },
}

impl Spent {
    /// The stages, one after the other, the last of which ends at `end_us`.
    fn stages(self, node: NodeId, end_us: u64) -> Vec<Stage> {
        let parts = match self {
            Self::Read { waited_us, took_us } => {
                vec![(StageKind::StorageQueue, waited_us), (StageKind::Read, took_us)]
            }
            Self::Write { waited_us, merged_us, committed_us } => vec![
                (StageKind::StorageQueue, waited_us),
                (StageKind::Merge, merged_us),
                (StageKind::Commit, committed_us),
            ],
        };
        let whole: u64 = parts.iter().map(|(_, took)| took).sum();
        let mut began_us = end_us.saturating_sub(whole);
        let mut stages = Vec::with_capacity(parts.len());
        for (kind, took_us) in parts {
            stages.push(Stage { node, kind, began_us, took_us });
            began_us += took_us;
        }
        stages
    }
}

/// What a client has asked for in a traced request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracedOperation {
    /// A read of a key.
    Get,
    /// A write of a key.
    Put,
    /// A delete of a key.
    Delete,
    /// A page of a partition key's items.
    Scan,
    /// A page of a table.
    Export,
}

impl TracedOperation {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Scan => "scan",
            Self::Export => "export",
        }
    }
}

/// What a traced request asks for, without its keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedRequest {
    /// The trace that it belongs to.
    pub trace: TraceId,
    /// What is done.
    pub operation: TracedOperation,
    /// The table's name; `None` where this node knows no such table.
    pub table: Option<String>,
    /// How many replicas must answer: as the request says, or else its table.
    pub level: Option<Level>,
}

impl TracedRequest {
    /// What a request asks for, if it is to be traced.
    pub(crate) fn of(message: &ClientRequest, record: Option<&ClusterRecord>) -> Option<Self> {
        let head = message.head()?;
        let trace = head.trace?;
        let operation = match message {
            ClientRequest::Get(_) => TracedOperation::Get,
            ClientRequest::Write(write) if write.value.is_some() => TracedOperation::Put,
            ClientRequest::Write(_) => TracedOperation::Delete,
            ClientRequest::Scan(_) => TracedOperation::Scan,
            ClientRequest::Export(_) => TracedOperation::Export,
            _ => return None,
        };
        let table = record.and_then(|record| record.table_by_id(head.table));
        let usual = table.map(|table| match operation {
            TracedOperation::Put | TracedOperation::Delete => table.options.write_level,
            TracedOperation::Get | TracedOperation::Scan | TracedOperation::Export => {
                table.options.read_level
            }
        });
        let level = head.level.or(usual);
        Some(Self { trace, operation, table: table.map(|table| table.name.clone()), level })
    }
}

/// A client's traced request that this node has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedTrace {
    /// What was asked for.
    pub request: TracedRequest,
    /// Why it was not done; `None` where it was.
    pub failure: Option<Failure>,
    /// When it came.
    pub began: Instant,
    /// From then to its answer, in microseconds.
    pub took_us: u64,
    /// What the client is told: see [`Traced`](quoit_protocol::Traced).
    pub stages: Vec<Stage>,
}

/// What is told at the end of a request.
pub(crate) struct Ended {
    /// What was asked for; `None` where a peer has handed it on.
    pub(crate) request: Option<TracedRequest>,
    pub(crate) began: Instant,
    pub(crate) told: PeerStages,
}

impl Ended {
    /// What observers are told, where a client's request has ended.
    pub(crate) fn finished(&self, response: &ClientResponse) -> Option<FinishedTrace> {
        let failure = match response {
            ClientResponse::Failure(failure) => Some(failure.clone()),
            _ => None,
        };
        Some(FinishedTrace {
            request: self.request.clone()?,
            failure,
            began: self.began,
            took_us: self.told.took_us,
            stages: self.told.stages.clone(),
        })
    }
}

/// A request that this node has coordinated so far.
#[derive(Debug)]
struct Trace {
    origin: Origin,
    request: Option<TracedRequest>,
    operation: Option<OperationId>,
    began: Instant,
    stages: Vec<Stage>,
    asked: Vec<Asked>,
}

/// A request to a replica, or one that was handed on.
#[derive(Debug)]
struct Asked {
    request: u64,
    node: NodeId,
    kind: StageKind,
    at: Instant,
    told: Option<PeerStages>,
}

/// A request that this node serves for a coordinator.
#[derive(Debug)]
struct Served {
    from: NodeId,
    request: u64,
    came: Instant,
    stages: Vec<Stage>,
}

/// What is traced now.
#[derive(Debug)]
pub(crate) struct Traces {
    own: NodeId,
    /// When the message came that is handled next.
    came: Option<Instant>,
    open: VecDeque<Trace>,
    served: VecDeque<Served>,
}

impl Traces {
    pub(crate) fn new(own: NodeId) -> Self {
        Self { own, came: None, open: VecDeque::new(), served: VecDeque::new() }
    }

    /// Whether anything is traced.
    pub(crate) fn is_any(&self) -> bool {
        !(self.open.is_empty() && self.served.is_empty())
    }

    /// The message that is handled next came then.
    pub(crate) fn on_came(&mut self, at: Instant) {
        self.came = Some(at);
    }

    /// A request that is to be traced has come: a client's, or one that a peer has handed on.
    pub(crate) fn begin(&mut self, origin: Origin, request: Option<TracedRequest>, now: Instant) {
        let (began, queue) = self.queued(now);
        let (operation, asked) = (None, Vec::new());
        let stages = vec![queue];
        keep(&mut self.open, Trace { origin, request, operation, began, stages, asked });
    }

    /// A coordinator's request that is to be traced has come.
    pub(crate) fn begin_serving(&mut self, from: NodeId, request: u64, now: Instant) {
        let (came, queue) = self.queued(now);
        keep(&mut self.served, Served { from, request, came, stages: vec![queue] });
    }

    fn queued(&mut self, now: Instant) -> (Instant, Stage) {
        let came = self.came.take().unwrap_or(now).min(now);
        let (node, kind) = (self.own, StageKind::Queue);
        (came, Stage { node, kind, began_us: 0, took_us: us_between(came, now) })
    }

    /// The request that has begun is this operation.
    pub(crate) fn name(&mut self, origin: Origin, operation: OperationId) {
        if let Some(trace) = self.open.iter_mut().find(|trace| trace.origin == origin) {
            trace.operation = Some(operation);
        }
    }

    fn of_request(&mut self, request: u64) -> Option<&mut Trace> {
        let (operation, _) = OperationId::of_request(request);
        self.open.iter_mut().find(|trace| trace.operation == Some(operation))
    }

    /// An operation asks a node.
    pub(crate) fn on_asked(&mut self, request: u64, node: NodeId, kind: StageKind, at: Instant) {
        if let Some(trace) = self.of_request(request)
            && trace.asked.len() < STAGES_MAX
        {
            trace.asked.push(Asked { request, node, kind, at, told: None });
        }
    }

    /// A node tells where its time went.
    pub(crate) fn on_told(&mut self, from: NodeId, request: u64, stages: PeerStages) {
        let is_it = |asked: &&mut Asked| asked.request == request && asked.node == from;
        if let Some(trace) = self.of_request(request)
            && let Some(asked) = trace.asked.iter_mut().rfind(is_it)
        {
            asked.told = Some(stages);
        }
    }

    /// A node has answered an operation.
    pub(crate) fn on_answered(&mut self, from: NodeId, request: u64, now: Instant) {
        let Some(trace) = self.of_request(request) else { return };
        let is_it = |asked: &Asked| asked.request == request && asked.node == from;
        let Some(at) = trace.asked.iter().rposition(is_it) else { return };
        let Asked { node, kind, at, told, .. } = trace.asked.swap_remove(at);
        let (began_us, took_us) = (us_between(trace.began, at), us_between(at, now));
        trace.stages.push(Stage { node, kind, began_us, took_us });
        let Some(told) = told else { return };
        let network_us = took_us.saturating_sub(told.took_us);
        let (kind, shift_us) = (StageKind::Network, began_us + network_us / 2);
        trace.stages.push(Stage { node, kind, began_us, took_us: network_us });
        let shifted =
            |stage: Stage| Stage { began_us: stage.began_us.saturating_add(shift_us), ..stage };
        let room = STAGES_MAX.saturating_sub(trace.stages.len());
        trace.stages.extend(told.stages.into_iter().take(room).map(shifted));
    }

    /// A storage thread has spent time on a request.
    pub(crate) fn on_spent(&mut self, tag: Tag, spent: Spent, now: Instant) {
        let own = self.own;
        match tag {
            Tag::Own(request) => {
                if let Some(trace) = self.of_request(request)
                    && trace.stages.len() < STAGES_MAX
                {
                    let end_us = us_between(trace.began, now);
                    trace.stages.extend(spent.stages(own, end_us));
                }
            }
            Tag::Peer { from, request } => {
                let is_it = |served: &&mut Served| (served.from, served.request) == (from, request);
                if let Some(served) = self.served.iter_mut().find(is_it) {
                    let end_us = us_between(served.came, now);
                    served.stages.extend(spent.stages(own, end_us));
                }
            }
            Tag::Inner(_) | Tag::Exchange(_) | Tag::PeerExchange { .. } | Tag::Settling(_) => {}
        }
    }

    /// What is told before a coordinator's request is answered.
    pub(crate) fn end_serving(
        &mut self,
        from: NodeId,
        request: u64,
        now: Instant,
    ) -> Option<PeerStages> {
        let is_it = |served: &Served| (served.from, served.request) == (from, request);
        let at = self.served.iter().position(is_it)?;
        let Served { came, stages, .. } = self.served.remove(at)?;
        Some(PeerStages { took_us: us_between(came, now), stages })
    }

    /// What is told before a request is answered.
    pub(crate) fn end(&mut self, origin: Origin, now: Instant) -> Option<Ended> {
        let at = self.open.iter().position(|trace| trace.origin == origin)?;
        let Trace { request, began, mut stages, .. } = self.open.remove(at)?;
        stages.sort_by_key(|stage| stage.began_us);
        let told = PeerStages { took_us: us_between(began, now), stages };
        Some(Ended { request, began, told })
    }
}

fn us_between(earlier: Instant, later: Instant) -> u64 {
    later.0.saturating_sub(earlier.0)
}

fn keep<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == TRACES_MAX {
        list.pop_front();
    }
    list.push_back(item);
}
