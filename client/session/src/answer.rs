//! Answers: which request they belong to, whether they may be believed, how they end an operation.

use quoit_protocol::{ClientResponse, RecordAnswer};
use quoit_ring::{Epoch, NodeId};

use crate::check::{self, AnswerFault};
use crate::peer::{LinkState, PeerId};
use crate::pending::Attempt;
use crate::{Answer, Effect, Instant, LinkFailure, LinkId, OperationId, Request, Session};

impl Session {
    pub(crate) fn on_received(
        &mut self,
        now: Instant,
        link: LinkId,
        request: u64,
        response: ClientResponse,
        effects: &mut Vec<Effect>,
    ) {
        let Some(id) = self.peers.of_link(link) else {
            return; // Closed in the meantime.
        };
        self.time = self.time.max(check::time_of(&response));
        let peer = self.peers.get_mut(id).expect("a link's peer is known");
        peer.is_alive();
        match (peer.state, id) {
            (LinkState::Greeting { request: hello, .. }, _) if hello == request => {
                self.on_greeting(now, link, response, effects);
            }
            (LinkState::Up { .. }, PeerId::Node(node)) if peer.question == Some(request) => {
                peer.question = None;
                self.on_own_record(now, link, node, response, effects);
            }
            (LinkState::Up { .. }, PeerId::Node(_)) => {
                // An answer to what nobody waits for any more is dropped.
                if self.attempts.get(&request).is_some_and(|attempt| attempt.link == link) {
                    self.on_answer(now, request, response, effects);
                }
            }
            _ => self.break_off(now, link, "it answered what was not asked", effects),
        }
    }

    /// A node that does not follow the protocol: its connection is of no use.
    fn break_off(
        &mut self,
        now: Instant,
        link: LinkId,
        what: &'static str,
        effects: &mut Vec<Effect>,
    ) {
        let text = format!("the node does not follow the protocol: {what}");
        self.close(now, link, LinkFailure::Unreachable(text), effects);
    }

    /// The record that the session itself asked for. One that asks for a record where the node
    /// knows none is left as it is.
    fn on_own_record(
        &mut self,
        now: Instant,
        link: LinkId,
        node: NodeId,
        response: ClientResponse,
        effects: &mut Vec<Effect>,
    ) {
        match response {
            ClientResponse::Record(answer) => {
                // A wrong record closes the connection; whoever asked is tried elsewhere then.
                let _ = self.take_record(now, link, *answer, effects);
            }
            ClientResponse::Failure(_) => {
                let peer = self.peers.node_mut(node).expect("a link's peer is known");
                peer.avoid(now, RECORDLESS_US);
            }
            _ => self.break_off(now, link, "it answered a question with something else", effects),
        }
    }

    fn take_record(
        &mut self,
        now: Instant,
        link: LinkId,
        answer: RecordAnswer,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordUnusable> {
        let Some(record) = answer.record else {
            return Err(RecordUnusable::Absent);
        };
        if let Err(text) = self.check_record(&record) {
            self.close(now, link, LinkFailure::Refused(text), effects);
            return Err(RecordUnusable::Wrong);
        }
        self.adopt(now, record.into_record(), effects);
        Ok(())
    }

    /// The answer to an attempt that is open.
    fn on_answer(
        &mut self,
        now: Instant,
        request: u64,
        response: ClientResponse,
        effects: &mut Vec<Effect>,
    ) {
        let Attempt { operation: id, node, link, .. } = self.attempts[&request];
        let pending = self.operations.get_mut(&id).expect("attempts end with their operation");
        let is_of_keys = pending.place.is_some();
        let asked = &pending.what.request;
        let answer = match (asked, response) {
            (_, ClientResponse::Traced(traced)) if pending.what.trace.is_some() => {
                // The answer follows.
                pending.stages = traced.stages;
                return;
            }
            (_, ClientResponse::Failure(failure)) => {
                self.close_attempt(request);
                self.on_failure(now, id, node, failure, effects);
                return;
            }
            (Request::Record | Request::ChangeTables(_), ClientResponse::Record(answer)) => {
                self.on_record(now, id, request, *answer, effects);
                return;
            }
            (Request::Get { .. }, ClientResponse::Got(got)) => {
                let place = pending.place.expect("it was sent");
                check::got_is_good(&got, place).map(|()| Answer::Got(got))
            }
            (Request::Write { .. }, ClientResponse::Written(written)) => {
                Ok(Answer::Written(written))
            }
            (Request::Scan { .. } | Request::Export { .. }, ClientResponse::Page(page)) => {
                let place = pending.place.expect("it was sent");
                let record = self.record.as_ref().expect("it was sent");
                check::page_is_good(&page, asked, place, record).map(|()| Answer::Page(page))
            }
            (request, ClientResponse::Status(status))
                if request.only_node() == Some(status.node) =>
            {
                self.on_epoch(node, status.epoch, effects);
                Ok(Answer::Status(status))
            }
            (Request::Snapshots { node: asked, .. }, ClientResponse::Snapshots(snapshots))
                if *asked == snapshots.node =>
            {
                Ok(Answer::Snapshots(snapshots))
            }
            _ => Err(AnswerFault::Wrong("it answered with something else than was asked")),
        };
        match answer {
            Ok(answer) => {
                if let Some(peer) = self.peers.node_mut(node).filter(|_| is_of_keys) {
                    peer.window.on_served(peer.in_flight);
                }
                self.complete(id, Some(node), Ok(answer), effects);
            }
            Err(AnswerFault::Damaged) => {
                self.close_attempt(request);
                self.on_damaged(now, id, node, effects);
            }
            Err(AnswerFault::Wrong(what)) => self.break_off(now, link, what, effects),
        }
    }

    /// A record in answer to an operation: as asked, or as it is after a change of the tables.
    fn on_record(
        &mut self,
        now: Instant,
        id: OperationId,
        request: u64,
        answer: RecordAnswer,
        effects: &mut Vec<Effect>,
    ) {
        let Attempt { node, link, .. } = self.attempts[&request];
        match self.take_record(now, link, answer, effects) {
            Ok(()) => {
                let record = self.record.clone().expect("one was just taken over");
                // Taking it over may have closed connections, and with them this operation.
                if self.operations.contains_key(&id) {
                    self.complete(id, Some(node), Ok(Answer::Record(record)), effects);
                }
            }
            Err(RecordUnusable::Absent) => {
                self.close_attempt(request);
                self.on_useless(now, id, node, "knows no cluster record yet", effects);
            }
            Err(RecordUnusable::Wrong) => {} // Its connection was closed, and the attempt with it.
        }
    }

    /// A node speaks of a version of the record that is newer than ours.
    fn on_epoch(&mut self, node: NodeId, epoch: Epoch, effects: &mut Vec<Effect>) {
        if self.record.as_ref().is_some_and(|own| own.epoch < epoch) {
            self.ask_record(node, effects);
        }
    }

    /// An attempt is answered, and the operation goes on.
    pub(crate) fn close_attempt(&mut self, request: u64) {
        let attempt = self.forget_attempt(request).expect("the attempt is open");
        let pending =
            self.operations.get_mut(&attempt.operation).expect("attempts end with theirs");
        pending.open.retain(|&open| open != request);
    }
}

/// For how long a node that answers without a record is put last.
const RECORDLESS_US: u64 = 250_000;

enum RecordUnusable {
    /// The node knows none.
    Absent,
    /// It is not consistent, or another cluster's.
    Wrong,
}
