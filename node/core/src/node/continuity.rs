//! Whether the node may serve, and how it comes to count again after a loss: what leads to steps of
//! [`crate::continuity`] and of [`crate::repair::recovery`], and what these lead to.

use quoit_ring::{NodeId, VnodeIndex};

use super::NodeCore;
use crate::continuity::{CONTINUITY_FILE, Life, Step};
use crate::event::{Effect, Effects, Inner, StorageRequest};
use crate::time::Now;

impl NodeCore {
    /// Goes on to find out whether the node has lost anything, and keeps what is known of the others.
    pub(super) fn find_out(&mut self, now: Now, effects: &mut Effects) {
        let members: Vec<NodeId> = self.shared.keeper.members().collect();
        while let Some(step) = self.shared.continuity.step(&members, now) {
            match step {
                Step::Save(bytes) => {
                    let request = StorageRequest::Save { name: CONTINUITY_FILE, bytes };
                    let mut turn = Self::turn(&mut self.shared, now, effects);
                    turn.ask_storage_inner(Inner::Continuity, request);
                }
                Step::BeginEra { remembered, held } => {
                    self.on_loss(remembered, held, now, effects);
                }
            }
        }
    }

    fn on_loss(&mut self, remembered: Life, held: Life, now: Now, effects: &mut Effects) {
        effects.push(Effect::Note(format!(
            "the disk of this node has lost something: others remember start {} and record {} of \
             incarnation {}, and it holds start {} and record {} of incarnation {}; it counts for \
             nothing until it is filled by the others",
            remembered.starts,
            remembered.sequence,
            remembered.incarnation,
            held.starts,
            held.sequence,
            held.incarnation,
        )));
        // Dots that were made may be forgotten.
        self.shared.actors.clear();
        self.settling.on_own_loss();
        self.tell_keeper(now, effects);
        let mut turn = Self::turn(&mut self.shared, now, effects);
        turn.ask_storage_inner(Inner::Era, StorageRequest::BeginEra);
    }

    /// Tells the record's keeper whether this node may vote, and as whom.
    fn tell_keeper(&mut self, now: Now, effects: &mut Effects) {
        let votes_as = self.shared.continuity.votes_as();
        let mut outcomes = Vec::new();
        self.shared.keeper.set_votes_as(votes_as, now.instant, effects, &mut outcomes);
        self.on_outcomes(outcomes, now, effects);
    }

    pub(super) fn on_era_begun(
        &mut self,
        result: &Result<(), String>,
        now: Now,
        effects: &mut Effects,
    ) {
        if let Err(reason) = result {
            self.shared.storage_problem = Some(reason.clone());
        } else {
            let vnodes = match self.shared.keeper.current() {
                Some(record) => record.vnodes,
                None => self.shared.config.genesis.vnodes,
            };
            self.recovery.begin(vnodes.all(), now.instant);
        }
        self.shared.continuity.on_era_begun(result, now.instant);
        self.find_out(now, effects);
    }

    pub(super) fn on_continuity_saved(
        &mut self,
        result: &Result<(), String>,
        now: Now,
        effects: &mut Effects,
    ) {
        if let Err(reason) = result {
            effects.push(Effect::Note(format!(
                "what is known of the nodes' lives cannot be saved: {reason}"
            )));
        }
        if self.shared.continuity.on_saved(result, now.instant) {
            self.tell_keeper(now, effects);
            self.recovery.judge_all();
            // Before anything else is said to the others they hear whose words these are.
            self.send_pings(now, effects);
        }
        self.find_out(now, effects);
    }

    /// A peer tells of its life, and of what it remembers of this node's.
    pub(super) fn on_life_told(
        &mut self,
        from: NodeId,
        life: Option<Life>,
        remembered: Option<Life>,
        now: Now,
        effects: &mut Effects,
    ) {
        if !self.shared.keeper.members().any(|member| member == from) {
            return;
        }
        if self.shared.continuity.on_ping(from, life, remembered, now.instant) {
            effects.push(Effect::Note(format!(
                "{from} has lost what it held, and is filled by the others"
            )));
            self.settling.on_peer_renewed(from);
        }
        self.find_out(now, effects);
    }

    pub(super) fn on_new_record(&mut self, now: Now, effects: &mut Effects) {
        let own = self.shared.config.node;
        let named = self.shared.keeper.current().map_or(0, |record| record.incarnation(own));
        self.shared.continuity.on_named(named);
        self.recovery.judge_all();
        self.find_out(now, effects);
    }

    /// Has the store trust the virtual nodes in which enough was merged.
    pub(super) fn trust_what_is_due(&mut self, now: Now, effects: &mut Effects) {
        let keeper = &self.shared.keeper;
        let own = self.shared.config.node;
        let due = self.recovery.due(keeper.current(), own, keeper.is_named());
        let mut turn = Self::turn(&mut self.shared, now, effects);
        for vnode in due {
            turn.ask_storage_inner(Inner::Trust { vnode }, StorageRequest::Trust { vnode });
        }
    }

    pub(super) fn on_trusted(
        &mut self,
        vnode: VnodeIndex,
        result: &Result<(), String>,
        now: Now,
        effects: &mut Effects,
    ) {
        match result {
            Ok(()) => self.settling.collect_there(vnode, now.instant),
            Err(reason) => self.shared.storage_problem = Some(reason.clone()),
        }
        let was_under_way = self.recovery.is_under_way();
        self.recovery.on_trusted(vnode, result.is_ok());
        if was_under_way && !self.recovery.is_under_way() {
            effects.push(Effect::Note("this node is filled again, and counts".to_owned()));
        }
    }

    /// An operator says that nobody has more than what is held here.
    pub(super) fn accept_loss(
        &mut self,
        vnode: Option<VnodeIndex>,
        now: Now,
        effects: &mut Effects,
    ) {
        let count = self.recovery.accept_loss(vnode);
        effects.push(Effect::Note(format!(
            "a client has accepted the loss of what {count} virtual nodes held: they count again as \
             they are"
        )));
        self.trust_what_is_due(now, effects);
    }

    /// Asks how far the log is durable, to tell the others.
    pub(super) fn ask_how_durable(&mut self, now: Now, effects: &mut Effects) {
        self.recovery.judge_all();
        if !std::mem::replace(&mut self.durable_asked, true) {
            let mut turn = Self::turn(&mut self.shared, now, effects);
            turn.ask_storage_inner(Inner::Durable, StorageRequest::Durable);
        }
    }

    pub(super) fn on_durable(&mut self, sequence: u64) {
        self.durable_asked = false;
        self.shared.continuity.on_durable(sequence);
    }

    /// Why the node does not count yet, for people.
    pub(super) fn unconfirmed(&self) -> Option<String> {
        if self.shared.continuity.is_confirmed() {
            return None;
        }
        let members: Vec<NodeId> = self.shared.keeper.members().collect();
        let (answered, others) = self.shared.continuity.answered(&members);
        Some(format!(
            "it is not known yet whether this node has lost anything: {answered} of the {others} \
             other members have said what they remember of it, and {} must",
            members.len() / 2
        ))
    }

    /// The node's incarnation; `None` until it knows that it has lost nothing, or what follows from
    /// that.
    pub fn incarnation(&self) -> Option<u64> {
        self.shared.continuity.life().map(|life| life.incarnation)
    }

    /// Of how many virtual nodes this node is a replica, and in how many of these it does not count
    /// yet.
    pub fn recovering(&self) -> (u32, u32) {
        let count = |vnodes: usize| u32::try_from(vnodes).unwrap_or(u32::MAX);
        let Some(record) = self.shared.keeper.current() else {
            let vnodes = self.shared.config.genesis.vnodes.get();
            return (vnodes, count(self.recovery.distrusted().count()));
        };
        let own = self.shared.config.node;
        let most = record.tables.iter().map(|table| table.options.replication).max();
        let most = most.unwrap_or(self.shared.config.genesis.replication);
        let is_held = |vnode: &VnodeIndex| record.is_primary(own, *vnode, most);
        let held = record.vnodes.all().filter(is_held).count();
        (count(held), count(self.recovery.distrusted().filter(is_held).count()))
    }
}
