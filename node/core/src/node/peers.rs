//! What peers say, and what their coming and going leads to.

use quoit_ring::NodeId;

use super::{NodeCore, Operation};
use crate::coordinator::write::Progress;
use crate::event::{Effect, Effects, Tag};
use crate::operation::{OperationId, Origin};
use crate::peer::{Forward, Forwarded, PeerMessage, Ping, Refusal};
use crate::repair::anti_entropy::serve::{ExchangeRequest, NotServed};
use crate::replica::{self, ReplicaAnswer, ReplicaRequest};
use crate::time::Now;

impl NodeCore {
    pub(super) fn on_peer(
        &mut self,
        from: NodeId,
        request: u64,
        message: PeerMessage,
        now: Now,
        effects: &mut Effects,
    ) {
        self.shared.liveness.on_heard(from);
        match message {
            PeerMessage::Read(read) => {
                self.serve_peer(from, request, &ReplicaRequest::Read(read), now, effects);
            }
            PeerMessage::Merge(merge) => {
                self.serve_peer(from, request, &ReplicaRequest::Merge(merge), now, effects);
            }
            PeerMessage::Page(page) => {
                self.serve_peer(from, request, &ReplicaRequest::Page(page), now, effects);
            }
            PeerMessage::ReadAnswer(answer) => {
                self.shared.observe_peer(answer.time, now);
                self.on_answer(from, request, ReplicaAnswer::Read(answer.found), now, effects);
            }
            PeerMessage::MergeAnswer(answer) => {
                self.shared.observe_peer(answer.time, now);
                self.on_answer(from, request, ReplicaAnswer::Merge(answer.merged), now, effects);
            }
            PeerMessage::PageAnswer(answer) => {
                self.shared.observe_peer(answer.time, now);
                self.on_answer(from, request, ReplicaAnswer::Page(answer.page), now, effects);
            }
            PeerMessage::Forward(forward) => {
                self.on_forward(from, request, *forward, now, effects);
            }
            PeerMessage::Stages(stages) => self.shared.traces.on_told(from, request, stages),
            PeerMessage::Forwarded(forwarded) => {
                self.on_forwarded(from, request, *forwarded, now, effects);
            }
            PeerMessage::CompareRoots(it) => {
                self.serve_exchange(from, request, ExchangeRequest::Roots(it), now, effects);
            }
            PeerMessage::CompareNodes(it) => {
                self.serve_exchange(from, request, ExchangeRequest::Nodes(it), now, effects);
            }
            PeerMessage::Reconcile(it) => {
                self.serve_exchange(from, request, ExchangeRequest::Reconcile(it), now, effects);
            }
            PeerMessage::Push(it) => {
                self.serve_exchange(from, request, ExchangeRequest::Push(it), now, effects);
            }
            PeerMessage::HandOver(it) => {
                self.serve_exchange(from, request, ExchangeRequest::HandOver(it), now, effects);
            }
            PeerMessage::Pushed(pushed) if self.handoff.awaits(from, request) => {
                self.shared.observe_peer(pushed.time, now);
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.handoff.on_answer(from, request, pushed, &mut turn);
            }
            answer @ (PeerMessage::RootsCompared(_)
            | PeerMessage::NodesCompared(_)
            | PeerMessage::Reconciled(_)
            | PeerMessage::Pushed(_)) => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.anti_entropy.on_peer(from, request, answer, &mut turn);
            }
            PeerMessage::AskPromise(ask) => {
                self.shared.observe_peer(ask.time, now);
                let oldest_dot = self.operations.oldest_dot();
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.settling.on_ask_promise(from, request, &ask, oldest_dot, &mut turn);
            }
            PeerMessage::Promised(promised) => {
                self.shared.observe_peer(promised.time, now);
                self.settling.on_promised(from, request, &promised, now.instant);
            }
            PeerMessage::Settle(settle) => {
                self.shared.observe_peer(settle.time, now);
                let mut turn = Self::turn(&mut self.shared, now, effects);
                if let Err(what) = self.settling.on_settle(from, settle, &mut turn) {
                    turn.refuse_malformed(from, what);
                }
            }
            PeerMessage::Ping(ping) => self.on_ping(from, &ping, now, effects),
            PeerMessage::Hello(_) | PeerMessage::Welcome(_) => {}
            record @ (PeerMessage::Prepare(_)
            | PeerMessage::Promise(_)
            | PeerMessage::Accept(_)
            | PeerMessage::Accepted(_)
            | PeerMessage::Decided(_)
            | PeerMessage::AskRecord(_)) => {
                let mut outcomes = Vec::new();
                let keeper = &mut self.shared.keeper;
                keeper.on_message(from, request, record, now.instant, effects, &mut outcomes);
                self.on_outcomes(outcomes, now, effects);
            }
        }
    }

    fn serve_peer(
        &mut self,
        from: NodeId,
        request: u64,
        message: &ReplicaRequest,
        now: Now,
        effects: &mut Effects,
    ) {
        self.shared.observe_peer(message.head().time, now);
        self.shared.foreground.note(now.instant);
        if message.head().deadline_ms == 0 {
            // Its coordinator has given up.
            self.shared.counters.too_late += 1;
            return;
        }
        if message.head().trace.is_some() {
            self.shared.traces.begin_serving(from, request, now.instant);
        }
        let mut turn = Self::turn(&mut self.shared, now, effects);
        let admitted = match turn.record() {
            _ if turn.is_storage_full() => Err(Refusal::Overloaded),
            _ if !turn.shared.continuity.is_confirmed() => Err(Refusal::Recovering),
            Err(_) => Err(Refusal::WrongConfiguration),
            Ok(record) => replica::admit(record, turn.own(), message),
        };
        match admitted {
            Ok(storage) => {
                turn.before_merge(message);
                let until = now.instant.plus_ms(u64::from(message.head().deadline_ms));
                turn.ask_storage(Tag::Peer { from, request }, storage, until);
            }
            Err(refusal) => {
                let answer = message.refused(refusal);
                turn.answer_peer(from, request, answer);
            }
        }
    }

    /// Serves a step of a peer's exchange.
    fn serve_exchange(
        &mut self,
        from: NodeId,
        request: u64,
        message: ExchangeRequest,
        now: Now,
        effects: &mut Effects,
    ) {
        let head = *message.head();
        self.shared.observe_peer(head.time, now);
        let mut turn = Self::turn(&mut self.shared, now, effects);
        let kind = message.kind();
        let refusal = match turn.record() {
            _ if turn.is_storage_full() => Refusal::Overloaded,
            _ if !turn.shared.continuity.is_confirmed() => Refusal::Recovering,
            Err(_) => Refusal::WrongConfiguration,
            Ok(record) => match message.admit(record, turn.own(), from) {
                Ok(storage) => {
                    let until = now.instant.plus_ms(u64::from(head.deadline_ms));
                    return turn.ask_storage(Tag::PeerExchange { from, request }, storage, until);
                }
                Err(NotServed::Malformed(what)) => return turn.refuse_malformed(from, what),
                Err(NotServed::OtherRecord) => Refusal::WrongConfiguration,
            },
        };
        let message = kind.refused(refusal, turn.time());
        turn.effects.push(Effect::ToPeer { to: from, request, message });
    }

    fn on_forward(
        &mut self,
        from: NodeId,
        request: u64,
        forward: Forward,
        now: Now,
        effects: &mut Effects,
    ) {
        let origin = Origin::Peer { node: from, request };
        if forward.write.head.trace.is_some() {
            self.shared.traces.begin(origin, None, now.instant);
        }
        if let Some(failure) = self.turned_away(now) {
            return Self::turn(&mut self.shared, now, effects).refuse(origin, failure);
        }
        self.begin_write(origin, forward.write, now, effects);
    }

    fn on_forwarded(
        &mut self,
        from: NodeId,
        request: u64,
        forwarded: Forwarded,
        now: Now,
        effects: &mut Effects,
    ) {
        self.shared.traces.on_answered(from, request, now.instant);
        let (id, _) = OperationId::of_request(request);
        self.with_operation(id, now, effects, |operation, turn| match operation {
            Operation::Forward(forward) => forward.on_forwarded(from, forwarded.result, turn),
            Operation::Write(_) | Operation::Read(_) | Operation::Scan(_) => Progress::Continue,
        });
    }

    /// A replica, this node's own among them, has answered an operation.
    pub(super) fn on_answer(
        &mut self,
        from: NodeId,
        request: u64,
        answer: ReplicaAnswer,
        now: Now,
        effects: &mut Effects,
    ) {
        if from != self.shared.config.node
            && let Some(Refusal::WrongConfiguration | Refusal::UnknownTable) = answer.refusal()
        {
            // One of the two is behind: each tells the other what it follows.
            self.send_ping(from, now, effects);
        }
        self.shared.traces.on_answered(from, request, now.instant);
        let (id, slot) = OperationId::of_request(request);
        if self.operations.get_mut(id).is_none() {
            let mut turn = Self::turn(&mut self.shared, now, effects);
            return self.trailing.on_answer((id, slot), from, &answer, &mut turn);
        }
        self.with_operation(id, now, effects, |operation, turn| {
            operation.on_answer(from, slot, answer, turn)
        });
    }

    pub(super) fn on_peer_lost(&mut self, node: NodeId, now: Now, effects: &mut Effects) {
        self.shared.liveness.on_disconnected(node);
        for id in self.operations.ids() {
            self.with_operation(id, now, effects, |operation, turn| {
                operation.on_peer_lost(node, turn)
            });
        }
        let mut turn = Self::turn(&mut self.shared, now, effects);
        self.anti_entropy.on_peer_lost(node, &mut turn);
        self.handoff.on_peer_lost(node, &mut turn);
        self.trailing.on_peer_lost(node, &mut turn);
    }

    fn on_ping(&mut self, from: NodeId, ping: &Ping, now: Now, effects: &mut Effects) {
        self.shared.observe_peer(ping.time, now);
        self.shared.liveness.on_clock(from, ping.wall, now.instant);
        self.shared.keeper.on_epoch_seen(from, ping.epoch, now.instant, effects);
        self.judge_clock(now);
        self.on_life_told(from, ping.life, ping.remembered, now, effects);
    }

    pub(super) fn send_ping(&mut self, to: NodeId, now: Now, effects: &mut Effects) {
        let message = Ping {
            wall: now.wall,
            time: self.shared.clock.read(now.wall),
            epoch: self.shared.keeper.epoch(),
            life: self.shared.continuity.life(),
            remembered: self.shared.continuity.of(to),
        };
        effects.push(Effect::ToPeer { to, request: 0, message: message.into() });
    }
}
