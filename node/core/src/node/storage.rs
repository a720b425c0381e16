//! What the storage worker answers.

use quoit_storage::store::Outcome as Applied;

use super::{NodeCore, Operation};
use crate::coordinator::write::Progress;
use crate::event::{Effect, Effects, Inner, More, StorageAnswer, Tag};
use crate::operation::OperationId;
use crate::repair::anti_entropy::serve;
use crate::replica;
use crate::time::Now;

/// A lease that could not be saved is asked for again after so long.
const LEASE_RETRY_MS: u64 = 500;

impl NodeCore {
    pub(super) fn on_storage(
        &mut self,
        tag: Tag,
        answer: StorageAnswer,
        now: Now,
        effects: &mut Effects,
    ) {
        self.shared.on_storage_answered(tag, &answer);
        let answer = self.take_stand_in(answer, now);
        self.judge_storage(&answer);
        if answer == StorageAnswer::TooLate {
            // Whoever asked has given up, or does so now.
            self.shared.counters.too_late += 1;
            if let Tag::Settling(_) = tag {
                unreachable!("what settles time is always of use");
            }
            if let Tag::Exchange(number) = tag {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.anti_entropy.on_storage(number, answer, &mut turn);
            }
            return;
        }
        match tag {
            Tag::Own(request) => self.on_own_storage(request, answer, now, effects),
            Tag::Peer { from, request } => {
                if let Some(answer) = replica::answer(answer) {
                    Self::turn(&mut self.shared, now, effects).answer_peer(from, request, answer);
                }
            }
            Tag::Exchange(number) => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.anti_entropy.on_storage(number, answer, &mut turn);
            }
            Tag::PeerExchange { from, request } => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                let (time, is_busy) = (turn.time(), turn.shared.foreground.is_busy(now.instant));
                match serve::answer(answer, time, is_busy) {
                    Ok(Some(message)) => {
                        turn.effects.push(Effect::ToPeer { to: from, request, message });
                    }
                    Ok(None) => {}
                    Err(what) => turn.refuse_malformed(from, what),
                }
            }
            Tag::Settling(number) => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.settling.on_storage(number, answer, &mut turn);
            }
            Tag::Inner(inner) => self.on_inner_storage(inner, answer, now, effects),
        }
    }

    /// Notes what has become of something that was to be taken in a primary's place; to whoever asked it
    /// is as any other merge.
    fn take_stand_in(&mut self, answer: StorageAnswer, now: Now) -> StorageAnswer {
        let StorageAnswer::Taken { primary, key, hint, outcome } = answer else { return answer };
        if hint.is_some() {
            self.shared.counters.hints.noted += 1;
            self.handoff.wake_at(now.instant);
        }
        self.shared.hints.on_taken(primary, key, hint.as_ref());
        match outcome {
            Ok(outcome) => StorageAnswer::Applied(outcome),
            Err(reason) => StorageAnswer::NotCommitted(reason),
        }
    }

    /// A batch that was not committed has taken dots with it that this core made: from now on it
    /// makes them as another actor. (Writes that were handed over before it knew are refused by the
    /// storage worker.)
    fn judge_storage(&mut self, answer: &StorageAnswer) {
        match answer {
            StorageAnswer::NotCommitted(reason) => {
                self.shared.actors.clear();
                self.shared.storage_problem = Some(reason.clone());
            }
            StorageAnswer::Applied(Applied::Merged(_)) => self.shared.storage_problem = None,
            StorageAnswer::Applied(_)
            | StorageAnswer::AppliedMany(_)
            | StorageAnswer::Taken { .. }
            | StorageAnswer::Roots(_)
            | StorageAnswer::RootsCompared(_)
            | StorageAnswer::Nodes(_)
            | StorageAnswer::NodesCompared(_)
            | StorageAnswer::Surveyed(_)
            | StorageAnswer::Reconciled(_)
            | StorageAnswer::Gathered(..)
            | StorageAnswer::Hints(_)
            | StorageAnswer::Scrubbed(_)
            | StorageAnswer::Found(_)
            | StorageAnswer::Page(_)
            | StorageAnswer::Prepared(_)
            | StorageAnswer::Saved(_)
            | StorageAnswer::Collectible(_)
            | StorageAnswer::Durable(_)
            | StorageAnswer::TooLate
            | StorageAnswer::Figures(_) => {}
        }
    }

    fn on_own_storage(
        &mut self,
        request: u64,
        answer: StorageAnswer,
        now: Now,
        effects: &mut Effects,
    ) {
        let (id, slot) = OperationId::of_request(request);
        let is_write = matches!(self.operations.get_mut(id), Some(Operation::Write(_)));
        match answer {
            StorageAnswer::Prepared(set) => {
                self.with_operation(id, now, effects, |operation, turn| match operation {
                    Operation::Write(write) => write.on_prepared(slot, set, turn),
                    _ => Progress::Continue,
                });
            }
            StorageAnswer::Applied(outcome) if is_write => {
                self.with_operation(id, now, effects, |operation, turn| match operation {
                    Operation::Write(write) => write.on_applied(slot, outcome, turn),
                    _ => Progress::Continue,
                });
            }
            other => {
                if let Some(answer) = replica::answer(other) {
                    self.on_answer(self.shared.config.node, request, answer, now, effects);
                }
            }
        }
    }

    fn on_inner_storage(
        &mut self,
        inner: Inner,
        answer: StorageAnswer,
        now: Now,
        effects: &mut Effects,
    ) {
        let mut outcomes = Vec::new();
        match (inner, answer) {
            (Inner::Lease, StorageAnswer::Saved(result)) => {
                self.on_lease_saved(result, now, effects);
            }
            (Inner::Vote, StorageAnswer::Saved(result)) => {
                self.shared.keeper.on_vote_saved(result, now.instant, effects, &mut outcomes);
            }
            (Inner::Record, StorageAnswer::Saved(result)) => {
                self.shared.keeper.on_record_saved(result, now.instant, effects, &mut outcomes);
            }
            (Inner::Continuity, StorageAnswer::Saved(result)) => {
                self.on_continuity_saved(&result, now, effects);
            }
            (Inner::Era, StorageAnswer::Saved(result)) => self.on_era_begun(&result, now, effects),
            (Inner::Trust { vnode }, StorageAnswer::Saved(result)) => {
                self.on_trusted(vnode, &result, now, effects);
            }
            (Inner::NextHints { line }, StorageAnswer::Hints(hints)) => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.handoff.on_hints(line, hints, &mut turn);
            }
            (Inner::Handoff { line }, answer) => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.handoff.on_gathered(line, answer, &mut turn);
            }
            (Inner::ChangeHints, StorageAnswer::Saved(result)) => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.handoff.on_saved(result, &mut turn);
            }
            (Inner::Scrub, StorageAnswer::Scrubbed(found)) => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                if let Some(wanted) = self.scrub.on_scrubbed(*found, &mut turn) {
                    self.anti_entropy.run(wanted, now.instant);
                }
            }
            (Inner::Scrub, _) => self.scrub.on_failed(now.instant),
            (Inner::ScrubRead, StorageAnswer::Found(whole)) => {
                let mut turn = Self::turn(&mut self.shared, now, effects);
                self.scrub.on_looked_at(&whole.found, &mut turn);
            }
            // What was not done is met again by the next pass.
            (Inner::ScrubRead | Inner::Recount | Inner::TakenOut | Inner::ScrubSaved, _) => {}
            (Inner::Durable, StorageAnswer::Durable(sequence)) => self.on_durable(sequence),
            (Inner::Figures { connection, request, more }, StorageAnswer::Figures(figures)) => {
                let mut status = self.status(figures, now);
                match more {
                    More::Nothing => {}
                    More::Repair(what) => {
                        status.repair = self.repair_status(what, now);
                        // Not before: what begins now begins after the time that was told.
                        self.run_exchanges(what, now);
                    }
                    More::Activity => status.activity = self.activity(now).map(Box::new),
                }
                let message = Box::new(status).into();
                effects.push(Effect::ToClient { connection, request, message });
            }
            (inner, answer) => unreachable!("storage answered {inner:?} with {answer:?}"),
        }
        self.on_outcomes(outcomes, now, effects);
    }

    /// The lease is durable: writes that wait for a later dot go on. Or it is not: it is tried
    /// again, but not at once.
    fn on_lease_saved(&mut self, result: Result<(), String>, now: Now, effects: &mut Effects) {
        self.lease_asked = false;
        if let Err(reason) = result {
            self.shared.storage_problem = Some(reason);
            self.lease_not_before = now.instant.plus_ms(LEASE_RETRY_MS);
            return;
        }
        self.shared.clock.extend(self.shared.lease_wanted);
        self.shared.storage_problem = None;
        for id in self.operations.ids() {
            if let Some(Operation::Write(write)) = self.operations.get_mut(id)
                && write.waits_for_lease()
            {
                self.with_operation(id, now, effects, |operation, turn| match operation {
                    Operation::Write(write) => write.on_lease(turn),
                    _ => Progress::Continue,
                });
            }
        }
    }
}
