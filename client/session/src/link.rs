//! Connections: opened, greeted, lost, opened again.

use quoit_protocol::{
    AskRecord, ClientRequest, ClientResponse, FailureCode, Hello, PROTOCOL_VERSION, Welcome,
};
use quoit_ring::NodeId;

use crate::peer::{CONNECT_TIMEOUT_US, LinkState, PeerId};
use crate::{Effect, Instant, LinkFailure, LinkId, Session};

impl Session {
    /// The driver has opened a connection: introduce ourselves.
    pub(crate) fn on_opened(&mut self, link: LinkId, effects: &mut Vec<Effect>) {
        let Some(id) = self.peers.of_link(link) else {
            return; // Closed in the meantime.
        };
        let request = self.next_request();
        let peer = self.peers.get_mut(id).expect("a link's peer is known");
        assert_eq!(peer.state, LinkState::Opening { link }, "a connection opens once");
        peer.state = LinkState::Greeting { link, request };
        let hello = Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            cluster: Some(self.configuration.cluster),
            client: self.configuration.client.clone(),
        };
        effects.push(Effect::Send { link, request, message: hello.into() });
    }

    /// The first answer on a connection.
    pub(crate) fn on_greeting(
        &mut self,
        now: Instant,
        link: LinkId,
        response: ClientResponse,
        effects: &mut Vec<Effect>,
    ) {
        let failure = match response {
            ClientResponse::Welcome(welcome) => {
                match self.on_welcome(now, link, *welcome, effects) {
                    Ok(()) => return,
                    Err(failure) => failure,
                }
            }
            ClientResponse::Failure(failure) if failure.code == FailureCode::Forbidden => {
                LinkFailure::Forbidden(failure.message)
            }
            ClientResponse::Failure(failure) if failure.code == FailureCode::Protocol => {
                LinkFailure::Refused(format!("the node refuses this client: {}", failure.message))
            }
            ClientResponse::Failure(failure) => LinkFailure::Unreachable(failure.message),
            _ => LinkFailure::Unreachable("the node answered a hello with something else".into()),
        };
        self.close(now, link, failure, effects);
    }

    fn on_welcome(
        &mut self,
        now: Instant,
        link: LinkId,
        welcome: Welcome,
        effects: &mut Vec<Effect>,
    ) -> Result<(), LinkFailure> {
        if welcome.version != PROTOCOL_VERSION {
            return Err(LinkFailure::Refused(format!(
                "{} speaks protocol version {}, this client version {PROTOCOL_VERSION}",
                welcome.node, welcome.version
            )));
        }
        let Some(record) = welcome.record else {
            let text = format!("{} knows no cluster record yet", welcome.node);
            return Err(LinkFailure::Unreachable(text));
        };
        self.check_record(&record).map_err(LinkFailure::Refused)?;
        let id = self.peers.of_link(link).expect("a greeted link is known");
        let node = welcome.node;
        if let PeerId::Node(expected) = id
            && expected != node
        {
            return Err(LinkFailure::Refused(format!("{node} answers in the place of {expected}")));
        }
        self.adopt(now, record.into_record(), effects);
        // By the newer record the node may be no member any more.
        if self.peers.of_link(link).is_none() {
            return Ok(());
        }
        let Some(peer) = self.peers.nodes.get(&node) else {
            return Err(LinkFailure::Unreachable(format!("{node} is no member of the cluster")));
        };
        if matches!(id, PeerId::Contact(_)) {
            if peer.up().is_some() {
                self.release_contact(now, id, effects);
                return Ok(());
            }
            self.hand_over(now, id, node, effects);
        }
        self.limits = Some(crate::check::sane_limits(welcome.limits));
        let peer = self.peers.node_mut(node).expect("it was looked up above");
        peer.state = LinkState::Up { link };
        peer.failures = 0;
        peer.problem = None;
        peer.avoid_until = Instant(0);
        self.arm_peers();
        self.dispatch_waiting(now, effects);
        Ok(())
    }

    /// A contact point led to a node that is connected already.
    fn release_contact(&mut self, now: Instant, id: PeerId, effects: &mut Vec<Effect>) {
        let contact = self.peers.get_mut(id).expect("the contact point is known");
        let link = contact.link().expect("it was just greeted");
        contact.go_idle(now, None);
        self.peers.unbind(link);
        effects.push(Effect::Close { link, reason: "connected already".into() });
        self.arm_peers();
    }

    /// A contact point's connection becomes that of the node which answered.
    fn hand_over(&mut self, now: Instant, id: PeerId, node: NodeId, effects: &mut Vec<Effect>) {
        let contact = self.peers.get_mut(id).expect("the contact point is known");
        let link = contact.link().expect("it was just greeted");
        contact.failures = 0;
        contact.go_idle(now, None);
        let peer = self.peers.node_mut(node).expect("the caller looked it up");
        if let Some(spare) = peer.link() {
            peer.go_idle(now, None);
            self.peers.unbind(spare);
            effects.push(Effect::Close { link: spare, reason: "connected already".into() });
        }
        self.peers.rebind(link, PeerId::Node(node));
    }

    /// The session itself ends a connection.
    pub(crate) fn close(
        &mut self,
        now: Instant,
        link: LinkId,
        failure: LinkFailure,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Close { link, reason: failure.to_string() });
        self.on_lost(now, link, failure, effects);
    }

    /// A connection ended, or was never opened.
    pub(crate) fn on_lost(
        &mut self,
        now: Instant,
        link: LinkId,
        failure: LinkFailure,
        effects: &mut Vec<Effect>,
    ) {
        let Some(id) = self.peers.of_link(link) else {
            return; // Closed in the meantime.
        };
        self.peers.unbind(link);
        let peer = self.peers.get_mut(id).expect("a link's peer is known");
        peer.failures = peer.failures.saturating_add(1);
        let pause_us = peer.reconnect_us();
        let retry_at = now.plus_us(self.random.jitter_us(pause_us));
        let text = failure.to_string();
        let peer = self.peers.get_mut(id).expect("a link's peer is known");
        peer.go_idle(retry_at, Some(failure));
        self.arm_peers();
        self.fail_attempts(now, link, &text, effects);
        if let PeerId::Node(node) = id {
            self.let_go(now, node, effects);
        }
        self.fail_hopeless(effects);
    }

    pub(crate) fn on_peer_timer(&mut self, now: Instant, id: PeerId, effects: &mut Vec<Effect>) {
        let peer = self.peers.get(id).expect("a peer's timer ends with it");
        match peer.state {
            LinkState::Idle => self.connect(now, id, effects),
            LinkState::Opening { link } | LinkState::Greeting { link, .. } => {
                let text = format!("{} did not answer in time", peer.address);
                self.close(now, link, LinkFailure::Unreachable(text), effects);
            }
            LinkState::Up { .. } => unreachable!("a connection that is up has no timer"),
        }
    }

    /// Opens a connection now, whatever the back-off says. No-op for one that is not idle.
    pub(crate) fn connect(&mut self, now: Instant, id: PeerId, effects: &mut Vec<Effect>) {
        let peer = self.peers.get(id).expect("the peer is known");
        if peer.state != LinkState::Idle {
            return;
        }
        let address = peer.address;
        let node = match id {
            PeerId::Contact(_) => None,
            PeerId::Node(node) => Some(node),
        };
        let link = self.peers.next_link(id);
        let peer = self.peers.get_mut(id).expect("the peer is known");
        peer.state = LinkState::Opening { link };
        peer.act_at = now.plus_us(CONNECT_TIMEOUT_US);
        effects.push(Effect::Connect { link, address, node });
        self.arm_peers();
    }

    /// Sets every peer's timer by its state: connections that are being opened time out, members
    /// are always connected again, contact points only while no member is.
    pub(crate) fn arm_peers(&mut self) {
        let cut_off = !self.peers.any_node_is_up();
        for id in self.peers.ids() {
            let peer = self.peers.get(id).expect("its id was just listed");
            let wanted = cut_off || matches!(id, PeerId::Node(_));
            let timer = match peer.state {
                LinkState::Up { .. } => None,
                LinkState::Idle if !wanted => None,
                LinkState::Idle | LinkState::Opening { .. } | LinkState::Greeting { .. } => {
                    Some(peer.act_at)
                }
            };
            self.set_peer_timer(id, timer);
        }
    }

    /// Asks a node for its record, for the session's own sake; once at a time.
    pub(crate) fn ask_record(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let request = self.next_request();
        let Some(peer) = self.peers.node_mut(node) else {
            return;
        };
        if let (Some(link), None) = (peer.up(), peer.question) {
            peer.question = Some(request);
            let message = ClientRequest::AskRecord(AskRecord {});
            effects.push(Effect::Send { link, request, message });
        }
    }
}
