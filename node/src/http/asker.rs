//! Who asks, once it is known: what they may is looked up here before anything is begun, and what they
//! were refused, or told the cluster to do, goes to the audit log.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Method;
use quoit_core::access::{Need, Rights};

use super::problem::{Kind, Outcome, Problem};
use super::route::DataRoute;
use crate::audit::{AuditLog, AuditOutcome, Entry, Via};

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) rights: Arc<Rights>,
    pub(super) address: Option<SocketAddr>,
    pub(super) audit: AuditLog,
}

/// What a request needs. The lines of a batch need more, each for itself.
pub(super) fn need<'a>(route: &'a DataRoute, method: &Method) -> Need<'a> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match route {
        DataRoute::Tables => Need::Connect,
        DataRoute::Table { table } if !is_read => Need::Change(table),
        DataRoute::Key { table, .. } if !is_read => Need::Write(table),
        DataRoute::Table { table }
        | DataRoute::Key { table, .. }
        | DataRoute::Items { table, .. }
        | DataRoute::Batch { table } => Need::Read(table),
    }
}

impl Asker {
    /// Whether they may.
    pub(super) fn check(&self, need: Need<'_>) -> Result<(), Problem> {
        let Some(reason) = self.rights.refuse(need) else { return Ok(()) };
        let (action, target) = match need {
            Need::Connect => ("connect", None),
            Need::Read(table) => ("get", Some(table)),
            Need::Write(table) => ("put", Some(table)),
            Need::Change(table) => ("create_table", Some(table)),
            Need::Observe | Need::Operate => ("status", None),
        };
        self.note(action, target, AuditOutcome::Forbidden, Some(&reason));
        let problem = Problem::new(Kind::Forbidden, reason).closing();
        match need {
            Need::Write(_) | Need::Change(_) => Err(problem.with_outcome(Outcome::NotDone)),
            Need::Connect | Need::Read(_) | Need::Observe | Need::Operate => Err(problem),
        }
    }

    /// A table was asked to be made, and this came of it.
    pub(super) fn note_change<T>(&self, table: &str, result: &Result<T, Problem>) {
        let (outcome, reason) = match result {
            Ok(_) => (AuditOutcome::Done, None),
            Err(problem) if problem.is_unknown() => (AuditOutcome::Unknown, Some(problem.detail())),
            Err(problem) => (AuditOutcome::NotDone, Some(problem.detail())),
        };
        self.note("create_table", Some(table), outcome, reason);
    }

    fn note(
        &self,
        action: &'static str,
        target: Option<&str>,
        outcome: AuditOutcome,
        reason: Option<&str>,
    ) {
        self.audit.note(&Entry {
            who: self.rights.name().to_owned(),
            address: self.address,
            via: Via::Http,
            action,
            target: target.map(str::to_owned),
            outcome,
            reason: reason.map(str::to_owned),
        });
    }
}
