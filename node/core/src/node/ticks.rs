//! What time leads to, and what every turn ends with.

use quoit_ring::NodeId;

use super::NodeCore;
use crate::event::{Effects, Inner, StorageRequest};
use crate::time::Now;

/// Clocks are told to the peers so often.
const PING_EVERY_MS: u64 = 1_000;

impl NodeCore {
    pub(super) fn on_tick(&mut self, now: Now, effects: &mut Effects) {
        while let Some(id) = self.operations.due(now.instant) {
            self.with_operation(id, now, effects, |operation, turn| operation.on_wake(turn));
        }
        let mut turn = Self::turn(&mut self.shared, now, effects);
        self.trailing.on_time(&mut turn);
        let mut outcomes = Vec::new();
        self.shared.keeper.on_tick(now.instant, effects, &mut outcomes);
        self.on_outcomes(outcomes, now, effects);
        self.find_out(now, effects);
        if self.shared.continuity.is_confirmed() {
            self.repair(now, effects);
        }
        if self.next_ping <= now.instant {
            self.next_ping = now.instant.plus_ms(PING_EVERY_MS);
            self.judge_clock(now);
            self.ask_how_durable(now, effects);
            self.send_pings(now, effects);
        }
    }

    fn repair(&mut self, now: Now, effects: &mut Effects) {
        let mut turn = Self::turn(&mut self.shared, now, effects);
        self.anti_entropy.on_time(&mut turn);
        if self.scrub.next_wake().is_some_and(|wake| wake <= now.instant) {
            self.scrub.on_time(&mut turn);
        }
        if self.handoff.next_wake().is_some_and(|wake| wake <= now.instant) {
            self.handoff.on_time(&mut turn);
        }
        if self.settling.next_wake().is_some_and(|wake| wake <= now.instant) {
            let oldest_dot = self.operations.oldest_dot();
            self.settling.on_time(oldest_dot, &mut turn);
        }
    }

    /// Pings all that can be reached.
    pub(super) fn send_pings(&mut self, now: Now, effects: &mut Effects) {
        let own = self.shared.config.node;
        let shared = &self.shared;
        let peers = shared.keeper.members().filter(|id| *id != own);
        let peers: Vec<NodeId> = peers.filter(|id| shared.liveness.is_connected(*id)).collect();
        for peer in peers {
            self.send_ping(peer, now, effects);
        }
    }

    /// A node whose wall clock is far from its peers' makes no dots: they would order its writes
    /// before or after all others.
    pub(super) fn judge_clock(&mut self, now: Now) {
        let offset = self.shared.liveness.median_offset_ms(now);
        let is_wrong = offset.unsigned_abs() > self.shared.config.clock_offset_ms_max;
        self.judged_ahead_ms = now.wall_ahead_ms();
        self.shared.clock_correction_ms = if is_wrong { offset } else { 0 };
        self.shared.clock_problem = is_wrong.then(|| {
            format!(
                "this node's clock is {} s {} its peers': it coordinates no writes until it is \
                 set right",
                offset.unsigned_abs() / 1_000,
                if offset > 0 { "behind" } else { "ahead of" }
            )
        });
    }

    /// What every turn ends with: this replica's immediate answers, keys to heal, the lease.
    pub(super) fn settle(&mut self, now: Now, effects: &mut Effects) {
        if let Some(at) = self.shared.hints.save_at() {
            self.handoff.wake_at(at);
        }
        // A heal never leads to another, so this ends.
        loop {
            if let Some((request, answer)) = self.shared.immediate.pop_front() {
                self.on_answer(self.shared.config.node, request, answer, now, effects);
            } else if let Some(heal) = self.shared.to_heal.pop_front() {
                self.begin_heal(&heal, now, effects);
            } else {
                break;
            }
        }
        // A lease is for good, over restarts too: what a wrong clock says must not get into it.
        let may_be_lent = self.shared.clock_problem.is_none();
        let wanted = self.shared.clock.wanted_lease(now.wall, self.shared.config.lease_ms);
        if let Some(lease) = wanted
            && may_be_lent
            && !self.lease_asked
            && self.lease_not_before <= now.instant
        {
            self.lease_asked = true;
            self.shared.lease_wanted = lease;
            let mut turn = Self::turn(&mut self.shared, now, effects);
            turn.ask_storage_inner(Inner::Lease, StorageRequest::ExtendLease { lease });
        }
    }

    /// Reads a key of the node's own accord, to rebuild a replica of it. Where that cannot be done
    /// now, the key is met again.
    fn begin_heal(&mut self, heal: &crate::turn::Heal, now: Now, effects: &mut Effects) {
        if self.is_full() {
            return;
        }
        let id = self.operations.new_id();
        let mut turn = Self::turn(&mut self.shared, now, effects);
        if let Ok(parts) = turn.admit_heal(id, heal) {
            self.shared.healing += 1;
            self.begin_read(parts, now, effects);
        }
    }
}
