//! What clients ask, and what is begun for them.

use quoit_protocol::{ChangeTables, ClientRequest, Failure, FailureCode, Get, StageKind, Write};
use quoit_storage::planted::{PlantedBug, is_planted};

use super::{KnownWrite, NodeCore, Operation, known_writes};
use crate::client::Placed;
use crate::coordinator::forward::ForwardOperation;
use crate::coordinator::read::{ReadOperation, ReadParts};
use crate::coordinator::scan::{ScanOperation, ScanParts};
use crate::coordinator::write::{Progress, WriteOperation};
use crate::event::{ConnectionId, Effect, Effects, Inner, More, StorageRequest};
use crate::operation::{OperationId, Origin, not_done};
use crate::peer::Forward;
use crate::record::{ChangeResult, Outcome};
use crate::time::Now;
use crate::trace::TracedRequest;
use crate::turn::ChangeOrigin;

impl NodeCore {
    pub(super) fn on_client(
        &mut self,
        connection: ConnectionId,
        request: u64,
        message: ClientRequest,
        now: Now,
        effects: &mut Effects,
    ) {
        let origin = Origin::Client { connection, request };
        if let Some(traced) = TracedRequest::of(&message, self.record()) {
            self.shared.traces.begin(origin, Some(traced), now.instant);
        }
        // An operation: it must wait for the record, and is one of those that are bounded.
        if message.head().is_some() {
            self.shared.foreground.note(now.instant);
            let refused = self.turned_away(now).or_else(|| self.has_too_many(connection));
            if let Some(failure) = refused {
                return Self::turn(&mut self.shared, now, effects).refuse(origin, failure);
            }
            self.shared.in_flight.begin(connection, request);
        }
        match message {
            ClientRequest::Hello(hello) => {
                let turn = Self::turn(&mut self.shared, now, effects);
                let message = turn.welcome(&hello);
                turn.effects.push(Effect::ToClient { connection, request, message });
            }
            ClientRequest::AskRecord(_) => {
                let turn = Self::turn(&mut self.shared, now, effects);
                let message = turn.tell_record();
                turn.effects.push(Effect::ToClient { connection, request, message });
            }
            ClientRequest::AskStatus(_) => {
                self.on_ask_status((connection, request), More::Nothing, now, effects);
            }
            ClientRequest::AskRepair(what) => {
                self.on_ask_status((connection, request), More::Repair(what), now, effects);
            }
            ClientRequest::AskActivity(_) => {
                self.on_ask_status((connection, request), More::Activity, now, effects);
            }
            ClientRequest::AcceptLoss(accept) => {
                self.accept_loss(accept.vnode, now, effects);
                self.on_ask_status((connection, request), More::Nothing, now, effects);
            }
            ClientRequest::AskSnapshots(asked) => {
                let action = asked.action;
                effects.push(Effect::Snapshots { connection, request, action });
            }
            ClientRequest::ChangeTables(change) => {
                self.on_change_tables((connection, request), change, now, effects);
            }
            ClientRequest::Get(get) => self.on_get(origin, get, now, effects),
            ClientRequest::Write(write) => self.begin_write(origin, write, now, effects),
            ClientRequest::Scan(scan) => {
                let id = self.new_id(origin);
                let mut turn = Self::turn(&mut self.shared, now, effects);
                let parts = turn.admit_scan(id, origin, scan);
                self.begin_scan(origin, parts, now, effects);
            }
            ClientRequest::Export(export) => {
                let id = self.new_id(origin);
                let mut turn = Self::turn(&mut self.shared, now, effects);
                let parts = turn.admit_export(id, origin, export);
                self.begin_scan(origin, parts, now, effects);
            }
        }
    }

    fn on_ask_status(&mut self, from: ChangeOrigin, more: More, now: Now, effects: &mut Effects) {
        let (connection, request) = from;
        let mut turn = Self::turn(&mut self.shared, now, effects);
        if turn.is_storage_full() {
            return turn.refuse(Origin::Client { connection, request }, overloaded());
        }
        let inner = Inner::Figures { connection, request, more };
        turn.ask_storage_inner(inner, StorageRequest::Figures);
    }

    /// An id for what is begun for `origin`.
    fn new_id(&mut self, origin: Origin) -> OperationId {
        let id = self.operations.new_id();
        self.shared.traces.name(origin, id);
        id
    }

    /// Whether no more operations may begin.
    pub(super) fn is_full(&self) -> bool {
        self.operations.len() >= self.shared.config.operations_max
            && !is_planted(PlantedBug::UnboundedQueue)
    }

    /// Why no operation may begin, if none may.
    pub(super) fn turned_away(&mut self, now: Now) -> Option<Failure> {
        if self.draining {
            let reason = "this node is stopping: ask another";
            return Some(not_done(FailureCode::NotServing, reason));
        }
        self.is_full().then(|| {
            let retry_after_ms = self.shared.comebacks.on_refused(now.instant);
            Failure { retry_after_ms, ..overloaded() }
        })
    }

    /// Why no operation may begin for this client: it leaves places to others.
    fn has_too_many(&self, connection: ConnectionId) -> Option<Failure> {
        let most = self.shared.config.operations_per_client_max;
        (self.shared.in_flight.count(connection) >= most).then(|| {
            not_done(
                FailureCode::Overloaded,
                "this node works on as many requests of this client as of one it may: come back later",
            )
        })
    }

    fn on_get(&mut self, origin: Origin, get: Get, now: Now, effects: &mut Effects) {
        let id = self.new_id(origin);
        let mut turn = Self::turn(&mut self.shared, now, effects);
        match turn.admit_get(id, origin, get) {
            Ok(parts) => {
                turn.shared.hot_keys.note(&parts.stored_key, false, now.instant);
                self.begin_read(parts, now, effects);
            }
            Err(failure) => turn.refuse(origin, failure),
        }
    }

    pub(super) fn begin_read(&mut self, parts: ReadParts, now: Now, effects: &mut Effects) {
        let id = parts.id;
        let mut turn = Self::turn(&mut self.shared, now, effects);
        let (read, progress) = ReadOperation::begin(parts, &mut turn);
        let operation = Operation::Read(Box::new(read));
        match progress {
            Progress::Continue => self.operations.keep(id, operation),
            Progress::Done => self.on_ended(&operation),
        }
    }

    fn begin_scan(
        &mut self,
        origin: Origin,
        parts: Result<ScanParts, Failure>,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        match parts {
            Ok(parts) => {
                let id = parts.id;
                let (scan, progress) = ScanOperation::begin(parts, &mut turn);
                if progress == Progress::Continue {
                    self.operations.keep(id, Operation::Scan(Box::new(scan)));
                }
            }
            Err(failure) => turn.refuse(origin, failure),
        }
    }

    /// Begins a client's write, or one that a peer has handed on.
    pub(super) fn begin_write(
        &mut self,
        origin: Origin,
        mut write: Write,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        let write_id = known_writes::id_of(&write);
        if let Some(known) = write_id.and_then(|id| self.known_writes.get(id)) {
            turn.shared.counters.repeated_writes += 1;
            match known {
                KnownWrite::Done(written) => return turn.reply(origin, written.clone().into()),
                KnownWrite::Running(id) => {
                    let Some(Operation::Write(running)) = self.operations.get_mut(*id) else {
                        unreachable!("a write that has ended is done or forgotten");
                    };
                    return running.join(origin, &mut turn);
                }
            }
        }
        let id = self.operations.new_id();
        turn.shared.traces.name(origin, id);
        let placed = match turn.place_write(&write) {
            Ok(placed) => placed,
            Err(failure) => return turn.refuse(origin, failure),
        };
        if let Origin::Client { .. } = origin {
            turn.shared.hot_keys.note(&placed.stored_key, true, now.instant);
        }
        let is_primary = placed.tally.primaries().any(|node| node == turn.own());
        // In a sloppy table a fallback coordinates where no primary can be reached.
        let stands_in = placed.tally.is_fallback(turn.own())
            && placed.tally.is_sloppy()
            && (matches!(origin, Origin::Peer { .. })
                || !placed.tally.primaries().any(|node| turn.is_reachable(node)));
        if !is_primary && !stands_in {
            return self.forward(id, origin, write, &placed, now, effects);
        }
        if !turn.shared.continuity.is_confirmed() {
            let failure = not_done(
                FailureCode::NotServing,
                "this replica does not know yet whether it has lost anything",
            );
            return turn.refuse(origin, failure);
        }
        let problem = turn.shared.clock_problem.as_ref().or(turn.shared.storage_problem.as_ref());
        if let Some(problem) = problem {
            let failure = not_done(FailureCode::NotServing, problem.clone());
            return turn.refuse(origin, failure);
        }
        write.write_id = write_id;
        let begun = turn
            .admit_write(id, origin, write, placed)
            .and_then(|parts| WriteOperation::begin(parts, &mut turn));
        match begun {
            Ok(write) => {
                if let Some(write_id) = write_id {
                    self.known_writes.remember(write_id, KnownWrite::Running(id));
                }
                self.operations.keep(id, Operation::Write(Box::new(write)));
            }
            Err(failure) => turn.refuse(origin, failure),
        }
    }

    /// Hands a write on to a primary, once: it is never sent to a second one.
    fn forward(
        &mut self,
        id: OperationId,
        origin: Origin,
        mut write: Write,
        placed: &Placed,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        if let Origin::Peer { .. } = origin {
            let failure = not_done(
                FailureCode::WrongConfiguration,
                "the node that the write was handed on to is no primary of its key",
            );
            return turn.refuse(origin, failure);
        }
        // One that is sent again goes where it went before, if it can: it is recognised there.
        let shift = write.write_id.map_or(id.number(), |write_id| write_id.0);
        let mut glad = turn.by_gladness(placed.tally.primaries(), shift);
        if placed.tally.is_sloppy() {
            glad.extend(placed.tally.nodes().filter(|node| placed.tally.is_fallback(*node)));
        }
        let Some(to) = glad.into_iter().find(|node| turn.is_reachable(*node)) else {
            let failure =
                not_done(FailureCode::Unavailable, "no primary of the key can be reached");
            return turn.refuse(origin, failure);
        };
        let left_ms = placed.deadline.ms_since(turn.instant());
        write.head.deadline_ms = u32::try_from(left_ms).unwrap_or(u32::MAX);
        write.head.time = turn.time();
        turn.shared.counters.forwards += 1;
        turn.shared.liveness.on_asked(to, now.instant);
        let traces = &mut turn.shared.traces;
        traces.on_asked(id.request(0), to, StageKind::Forward, now.instant);
        let message = Box::new(Forward { write }).into();
        turn.effects.push(Effect::ToPeer { to, request: id.request(0), message });
        let forward = ForwardOperation { origin, to, deadline: placed.deadline };
        self.operations.keep(id, Operation::Forward(forward));
    }

    fn on_change_tables(
        &mut self,
        origin: ChangeOrigin,
        change: ChangeTables,
        now: Now,
        effects: &mut Effects,
    ) {
        let deadline_ms = change.deadline_ms.clamp(1, self.shared.config.deadline_ms_max);
        let deadline = now.instant.plus_ms(u64::from(deadline_ms));
        let mut outcomes = Vec::new();
        self.shared.keeper.on_change(
            origin,
            change.change,
            deadline,
            now.instant,
            effects,
            &mut outcomes,
        );
        self.on_outcomes(outcomes, now, effects);
    }

    /// Answers the clients whose changes of the tables have ended.
    pub(super) fn on_outcomes(
        &mut self,
        outcomes: Vec<Outcome<ChangeOrigin>>,
        now: Now,
        effects: &mut Effects,
    ) {
        if outcomes.contains(&Outcome::NewRecord) {
            self.on_new_record(now, effects);
            self.look_at_tables(now.instant);
        }
        let mut turn = Self::turn(&mut self.shared, now, effects);
        for outcome in outcomes {
            let Outcome::Change((connection, request), result) = outcome else { continue };
            let failure = match result {
                ChangeResult::Done => {
                    let message = turn.tell_record();
                    turn.effects.push(Effect::ToClient { connection, request, message });
                    continue;
                }
                ChangeResult::Invalid(reason) => not_done(FailureCode::Invalid, reason),
                ChangeResult::UnknownTable => {
                    not_done(FailureCode::UnknownTable, "there is no table of that name")
                }
                ChangeResult::Overloaded => {
                    not_done(FailureCode::Overloaded, "too many changes of the tables wait already")
                }
                ChangeResult::Unknown => Failure {
                    unknown: true,
                    ..not_done(
                        FailureCode::Unavailable,
                        "no majority of the voters has agreed in time; the change may be made \
                         later all the same: list the tables to see",
                    )
                },
            };
            turn.refuse(Origin::Client { connection, request }, failure);
        }
    }
}

pub(super) fn overloaded() -> Failure {
    not_done(
        FailureCode::Overloaded,
        "this node works on as many requests as it may: come back later",
    )
}
