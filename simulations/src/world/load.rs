//! The operations: submitted as planned, completed by the sessions, judged by the ledger.

use quoit_protocol::{Got, Seen, TableChange};
use quoit_ring::{Level, TableOptions};
use quoit_session::{
    Answer, Event as SessionEvent, Instant, Operation, OperationError, OperationId, Request, Retry,
};

use super::{Event, World};
use crate::plan::{self, Action, stream};
use crate::workloads;

/// How long a client waits.
const PATIENCE_US: u64 = 4_000_000;
/// A cluster is formed, and its tables are made, within this.
const FORMING_US: u64 = 90_000_000;
/// Numbers of operations that are not the schedule's.
const TABLES_FROM: u64 = 1 << 40;
const RECORDS_FROM: u64 = 1 << 41;
pub(super) const FINAL_FROM: u64 = 1 << 42;

/// The stages of an operation that reads and then writes.
const READ: u64 = 0;
const WRITE: u64 = 1;

impl World {
    /// Starts the machines: at once, or one by one and far from each other.
    pub(super) fn begin_forming(&mut self) {
        let count = self.machines.len();
        let mut random = stream(self.schedule.seed, "forming", 0);
        for node in 0..count {
            if !self.schedule.forms_slowly {
                self.start(node);
                continue;
            }
            self.queue.push(random.below(3_000_000), Event::Start { node: node as u16 });
            for other in 0..node {
                self.network.slow(node, other, random.below(400_000));
            }
        }
    }

    fn end_forming(&mut self) {
        for node in 0..self.machines.len() {
            (0..node).for_each(|other| self.network.slow(node, other, 0));
        }
    }

    /// Forms the cluster and makes the tables. Says whether that came about.
    pub(crate) fn form(&mut self) -> bool {
        let recordless = |world: &Self| {
            world
                .machines
                .iter()
                .any(|it| it.process.as_ref().is_none_or(|process| process.core.record().is_none()))
        };
        if !self.run_while(FORMING_US, recordless) {
            return false;
        }
        self.end_forming();
        for at in 0..self.schedule.tables.len() {
            let table = self.schedule.tables[at].clone();
            let options = TableOptions {
                replication: table.replication,
                read_level: Level::Exactly(table.read),
                write_level: Level::Exactly(table.write),
                policy: table.policy,
                ttl_ms: table.ttl_ms,
                sloppy: table.sloppy,
            };
            let change = TableChange::Create { name: format!("t{at}"), options };
            let id = TABLES_FROM + at as u64;
            self.ask(0, id, Request::ChangeTables(change), None, FORMING_US);
            let unmade = |world: &Self| world.tables.len() <= at;
            if !self.run_while(FORMING_US, unmade) {
                return false;
            }
        }
        self.tell_record();
        self.begun_us = self.time_us + 200_000;
        for at in 0..self.schedule.operations.len() {
            let at_us = self.begun_us + self.schedule.operations[at].at_ms * 1_000;
            self.queue.push(at_us, Event::Submit(at));
        }
        for at in 0..self.schedule.faults.len() {
            let at_us = self.begun_us + self.schedule.faults[at].at_ms * 1_000;
            self.queue.push(at_us, Event::FaultBegins(at));
        }
        true
    }

    /// Has every client hear of the tables, as one does that looks a table up by its name.
    fn tell_record(&mut self) {
        self.run_until(self.time_us + 3_000_000);
        for client in 0..self.clients.len() {
            self.ask(client, RECORDS_FROM + client as u64, Request::Record, None, FORMING_US);
        }
        let busy = |world: &Self| world.clients.iter().any(|it| it.session.in_flight() > 0);
        self.run_while(FORMING_US, busy);
    }

    /// Until when operations and faults begin.
    pub(crate) fn load_ends_us(&self) -> u64 {
        let operations = self.schedule.operations.last().map_or(0, |it| it.at_ms);
        let faults = self.schedule.faults.last().map_or(0, |it| it.at_ms);
        self.begun_us + operations.max(faults) * 1_000 + 1_000
    }

    pub(super) fn ask(
        &mut self,
        client: usize,
        id: u64,
        request: Request,
        level: Option<Level>,
        for_us: u64,
    ) {
        let deadline = Instant(self.time_us + for_us);
        let retry = Retry::default();
        let what = Operation { request, level, deadline, retry, trace: None };
        self.client(client, SessionEvent::Submitted { operation: OperationId(id), what });
    }

    pub(super) fn submit(&mut self, at: usize) {
        let operation = self.schedule.operations[at].clone();
        let (Some(&table), client) = (
            self.tables.get(operation.table as usize),
            operation.client as usize % self.clients.len(),
        ) else {
            return;
        };
        let key = workloads::key(operation.key);
        let id = u64::from(operation.id) << 1;
        self.tally.submitted += 1;
        self.ledger.on_begun(&operation, self.time_us);
        let request = match operation.action {
            Action::Get | Action::Add | Action::Increment => {
                let at_least = Seen::default();
                let get = Request::Get { table, key, at_least };
                return self.ask(client, id | READ, get, None, PATIENCE_US);
            }
            Action::SessionGet => {
                let at_least = self.ledger.session(&operation);
                let get = Request::Get { table, key, at_least };
                return self.ask(client, id | READ, get, Some(Level::One), PATIENCE_US);
            }
            Action::Scan => {
                let (from, to) = (bytes::Bytes::new(), None);
                Request::Scan { table, partition: key.partition, from, to, limit: 100 }
            }
            _ => return self.submit_write(&operation, &[]),
        };
        self.ask(client, id | READ, request, None, PATIENCE_US);
    }

    /// Sends a write; `rest` is what its workload puts behind its number.
    fn submit_write(&mut self, operation: &plan::Operation, rest: &[u8]) {
        let client = operation.client as usize % self.clients.len();
        let value = match operation.action {
            Action::Delete | Action::DeleteBlind => None,
            Action::PutLarge(bytes) => {
                Some(workloads::value(operation.id, &vec![7; bytes as usize]))
            }
            _ => Some(workloads::value(operation.id, rest)),
        };
        let context = self.ledger.on_write(operation, self.time_us);
        let request = Request::Write {
            table: self.tables[operation.table as usize],
            key: workloads::key(operation.key),
            value,
            context,
            ttl_ms: None,
            idempotent: operation.action == Action::PutIdempotent,
        };
        self.ask(client, u64::from(operation.id) << 1 | WRITE, request, None, PATIENCE_US);
    }

    pub(super) fn on_completed(
        &mut self,
        client: usize,
        id: OperationId,
        outcome: Result<Answer, OperationError>,
    ) {
        let now = self.time_us;
        self.trace.add(&[now, id.0, u64::from(outcome.is_ok())]);
        self.trace.line(now, || format!("client {client}: {} ends: {outcome:?}", id.0));
        if id.0 >= FINAL_FROM {
            return self.on_final_read(id.0, outcome);
        }
        if id.0 >= RECORDS_FROM {
            return;
        }
        if id.0 >= TABLES_FROM {
            match outcome {
                Ok(Answer::Record(record)) => {
                    let name = format!("t{}", id.0 - TABLES_FROM);
                    self.tables.push(record.table(&name).expect("it was made").id);
                }
                other => panic!("a table cannot be made without any fault: {other:?}"),
            }
            return;
        }
        let number = (id.0 >> 1) as u32;
        let operation = self.ledger.operation(number).clone();
        self.tally.on_outcome(&outcome);
        match outcome {
            Ok(Answer::Got(got)) => self.on_got(&operation, &got),
            Ok(Answer::Page(page)) => {
                let truth = self.truth();
                self.ledger.on_page(&operation, &page, now, &mut self.checks, &truth);
            }
            Ok(Answer::Written(written)) => self.ledger.on_written(&operation, &written, now),
            Ok(other) => panic!("{operation:?} is answered by {other:?}"),
            Err(error) => {
                let unknown = matches!(error, OperationError::Unknown { .. });
                if id.0 & 1 == WRITE {
                    self.ledger.on_failed(&operation, unknown, &mut self.checks);
                }
            }
        }
    }

    fn on_got(&mut self, operation: &plan::Operation, got: &Got) {
        let truth = self.truth();
        let now = self.time_us;
        if operation.action == Action::SessionGet {
            return self.ledger.on_session_got(operation, got, &mut self.checks, &truth);
        }
        self.ledger.on_got(operation, got, now, &mut self.checks, &truth);
        match operation.action {
            Action::Add => {
                let rest = self.ledger.with_element(operation, got);
                self.submit_write(operation, &rest);
            }
            Action::Increment => {
                let rest = self.ledger.with_increment(operation, got);
                self.submit_write(operation, &rest);
            }
            _ => {}
        }
    }

    /// What the checks of contexts need to know of the cluster.
    pub(super) fn truth(&self) -> crate::invariants::contexts::Truth {
        let record = self.record.as_ref().expect("operations come after it");
        crate::invariants::contexts::Truth {
            cluster: record.cluster,
            ring_key: record.ring_key,
            tables: self.tables.clone(),
            floor: self.floor_max,
        }
    }
}
