//! The clients whose requests come: who each is, what it may, and what it has under way, for the metrics
//! and the audit log.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use quoit_core::access::Rights;
use quoit_core::event::ConnectionId;
use quoit_protocol::{ClientRequest, ClientResponse, Failure, FailureCode, TraceId};
use tokio::sync::watch;

use crate::audit::{AuditLog, AuditOutcome, Entry, Via, administrative};
use crate::bearer::Bearer;
use crate::config::AccessRules;
use crate::metrics::{Indexed as _, Metrics, Operation, Outcome};

/// A client that is connected.
struct Caller {
    bearer: Arc<Bearer>,
    address: SocketAddr,
    rights: Arc<Rights>,
}

/// A request that is not answered yet.
struct UnderWay {
    operation: Operation,
    began: Instant,
    trace: Option<TraceId>,
    /// What is written down of it in the end, where it tells nodes or the cluster what to do.
    action: Option<Box<Entry>>,
}

/// All of them. Every request is answered once, so what is under way is bounded by what the core works
/// on; and every connection's end is told, so the callers are bounded by the connections.
pub(crate) struct Callers {
    rules: watch::Receiver<AccessRules>,
    audit: AuditLog,
    connected: HashMap<ConnectionId, Caller>,
    under_way: HashMap<(ConnectionId, u64), UnderWay>,
}

impl Callers {
    pub(crate) fn new(rules: watch::Receiver<AccessRules>, audit: AuditLog) -> Self {
        Self { rules, audit, connected: HashMap::new(), under_way: HashMap::new() }
    }

    /// What a client may, whose first request this may be; `None` where it is gone.
    pub(crate) fn rights(
        &mut self,
        connection: ConnectionId,
        find: impl FnOnce() -> Option<(Arc<Bearer>, SocketAddr)>,
    ) -> Option<Arc<Rights>> {
        if self.rules.has_changed().unwrap_or(false) {
            let rules = self.rules.borrow_and_update();
            for caller in self.connected.values_mut() {
                caller.rights = Arc::new(rules.rights_of(&caller.bearer));
            }
        }
        if let Some(caller) = self.connected.get(&connection) {
            return Some(Arc::clone(&caller.rights));
        }
        let (bearer, address) = find()?;
        let rights = Arc::new(self.rules.borrow().rights_of(&bearer));
        let caller = Caller { bearer, address, rights: Arc::clone(&rights) };
        self.connected.insert(connection, caller);
        Some(rights)
    }

    pub(crate) fn closed(&mut self, connection: ConnectionId) {
        self.connected.remove(&connection);
    }

    pub(crate) fn begin(
        &mut self,
        connection: ConnectionId,
        request: u64,
        message: &ClientRequest,
        began: Instant,
    ) {
        let operation = match message {
            ClientRequest::Get(_) => Operation::Get,
            ClientRequest::Write(write) if write.value.is_some() => Operation::Put,
            ClientRequest::Write(_) => Operation::Delete,
            ClientRequest::Scan(_) | ClientRequest::Export(_) => Operation::Scan,
            ClientRequest::ChangeTables(_) => Operation::Table,
            ClientRequest::AskStatus(_)
            | ClientRequest::AcceptLoss(_)
            | ClientRequest::AskRepair(_)
            | ClientRequest::AskActivity(_)
            | ClientRequest::AskSnapshots(_) => Operation::Status,
            ClientRequest::Hello(_) | ClientRequest::AskRecord(_) => return,
        };
        let action = administrative(message)
            .map(|(action, target)| Box::new(self.entry(connection, action, target)));
        let under_way = UnderWay { operation, began, trace: message.trace(), action };
        self.under_way.insert((connection, request), under_way);
    }

    pub(crate) fn end(
        &mut self,
        connection: ConnectionId,
        request: u64,
        message: &ClientResponse,
        metrics: &Metrics,
    ) {
        let failure = match message {
            ClientResponse::Traced(_) => return, // The answer follows.
            ClientResponse::Failure(failure) => Some(failure),
            _ => None,
        };
        let Some(UnderWay { operation, began, trace, action }) =
            self.under_way.remove(&(connection, request))
        else {
            // A hello, or a question for the record: who may have neither may have nothing.
            return self.note_forbidden(connection, "connect", failure);
        };
        match action {
            Some(mut entry) => {
                entry.outcome = failure.map_or(AuditOutcome::Done, audit_outcome);
                entry.reason = failure.map(|failure| failure.message.clone());
                self.audit.note(&entry);
            }
            None => self.note_forbidden(connection, operation.name(), failure),
        }
        if let ClientResponse::Got(got) = message {
            metrics.read(got.siblings.len());
            if got.repaired {
                metrics.read_repair();
            }
        }
        let (outcome, took) = (failure.map_or(Outcome::Done, outcome), began.elapsed());
        if let Some(trace) = trace {
            tracing::info!(%trace, ?operation, ?outcome, took_us = took.as_micros(), "traced");
        }
        metrics.request(operation, outcome, took);
    }

    fn note_forbidden(
        &self,
        connection: ConnectionId,
        action: &'static str,
        failure: Option<&Failure>,
    ) {
        if let Some(failure) = failure.filter(|failure| failure.code == FailureCode::Forbidden) {
            let entry = self.entry(connection, action, None);
            let reason = Some(failure.message.clone());
            self.audit.note(&Entry { outcome: AuditOutcome::Forbidden, reason, ..entry });
        }
    }

    fn entry(
        &self,
        connection: ConnectionId,
        action: &'static str,
        target: Option<String>,
    ) -> Entry {
        let caller = self.connected.get(&connection);
        Entry {
            who: caller.map_or("somebody who is gone", |caller| caller.rights.name()).to_owned(),
            address: caller.map(|caller| caller.address),
            via: Via::Quic,
            action,
            target,
            outcome: AuditOutcome::Done,
            reason: None,
        }
    }
}

fn audit_outcome(failure: &Failure) -> AuditOutcome {
    match failure.code {
        FailureCode::Forbidden => AuditOutcome::Forbidden,
        _ if failure.unknown => AuditOutcome::Unknown,
        _ => AuditOutcome::NotDone,
    }
}

/// What became of a request that has failed.
pub(crate) fn outcome(failure: &Failure) -> Outcome {
    match failure.code {
        _ if failure.unknown => Outcome::Unknown,
        FailureCode::Overloaded => Outcome::Overloaded,
        FailureCode::Unavailable | FailureCode::NotServing => Outcome::Unavailable,
        _ => Outcome::Refused,
    }
}
