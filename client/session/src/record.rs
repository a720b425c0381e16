//! The cluster record: checked, adopted, and what follows for the connections.

use std::sync::Arc;

use quoit_ring::{ClusterRecord, NodeId};

use crate::peer::{CONNECT_TIMEOUT_US, Peer, PeerId};
use crate::pending::Phase;
use crate::{Effect, Instant, OperationId, Session};

/// At most so many members are connected to; in a greater cluster the nodes forward.
const CONNECTIONS_MAX: usize = 256;

impl Session {
    /// Whether a record from the wire may be used at all. An error says why not, for people.
    pub(crate) fn check_record(&self, record: &ClusterRecord) -> Result<(), String> {
        record.check().map_err(|error| error.to_string())?;
        let cluster = self.configuration.cluster;
        if record.cluster != cluster {
            return Err(format!(
                "the node belongs to cluster {}, not to {cluster}",
                record.cluster
            ));
        }
        match &self.record {
            Some(own) if own.ring_key != record.ring_key || own.vnodes != record.vnodes => {
                Err("the node's ring is another than that of this cluster".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Takes a checked record over if it is newer than the one that is known.
    pub(crate) fn adopt(
        &mut self,
        now: Instant,
        record: Arc<ClusterRecord>,
        effects: &mut Vec<Effect>,
    ) {
        if self.record.as_ref().is_some_and(|own| own.epoch >= record.epoch) {
            return;
        }
        self.record = Some(Arc::clone(&record));
        effects.push(Effect::RecordChanged(Arc::clone(&record)));
        self.drop_strangers(now, &record, effects);
        self.add_members(now, &record);
        self.arm_peers();
        let lacked: Vec<OperationId> = self
            .operations
            .iter()
            .filter(|(_, pending)| pending.phase == Phase::BackingOff { wants_record: true })
            .map(|(&id, _)| id)
            .collect();
        for id in lacked {
            self.dispatch(now, id, effects);
        }
    }

    /// Forgets the nodes that are no members any more.
    fn drop_strangers(&mut self, now: Instant, record: &ClusterRecord, effects: &mut Vec<Effect>) {
        let strangers: Vec<NodeId> =
            self.peers.nodes.keys().copied().filter(|&id| record.member(id).is_none()).collect();
        let mut waiting = Vec::new();
        for node in strangers {
            self.set_peer_timer(PeerId::Node(node), None);
            let peer = self.peers.nodes.remove(&node).expect("it was just listed");
            if let Some(link) = peer.link() {
                let reason = format!("{node} is no member any more");
                self.peers.unbind(link);
                effects.push(Effect::Close { link, reason: reason.clone() });
                self.fail_attempts(now, link, &reason, effects);
            }
            waiting.extend(peer.window.held);
        }
        for id in waiting {
            // What became of the others may have ended it.
            if self.operations.get(&id).is_some_and(|pending| pending.phase == Phase::Held) {
                self.dispatch(now, id, effects);
            }
        }
    }

    /// Gets to know new members, beginning anywhere, so that the clients of a great cluster spread
    /// over it. Where a contact point is being connected, its connection may well be the member's.
    fn add_members(&mut self, now: Instant, record: &ClusterRecord) {
        let count = record.members.len();
        let start = if count > CONNECTIONS_MAX {
            usize::try_from(self.random.below(count as u64)).expect("it is below a usize")
        } else {
            0
        };
        for member in record.members.iter().cycle().skip(start).take(count) {
            let contacting = self.peers.is_contacting(member.address);
            if let Some(peer) = self.peers.node_mut(member.id) {
                peer.address = member.address;
            } else if self.peers.nodes.len() < CONNECTIONS_MAX {
                let pause_us = if contacting { CONNECT_TIMEOUT_US } else { 0 };
                let peer = Peer::new(member.address, now.plus_us(pause_us));
                self.peers.nodes.insert(member.id, peer);
            }
        }
    }
}
