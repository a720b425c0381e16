//! The nodes that a session talks to: the state of each connection, and what is held against it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use quoit_ring::NodeId;

use crate::window::Window;
use crate::{Instant, LinkFailure, LinkId};

/// How long a connection may take to be opened and greeted.
pub(crate) const CONNECT_TIMEOUT_US: u64 = 3_000_000;
/// The pauses between attempts to connect: doubled each time, up to a bound.
pub(crate) const RECONNECT_US_MIN: u64 = 100_000;
const RECONNECT_US_MAX: u64 = 10_000_000;
/// For how long a node that let a request time out is put last: doubled each time, up to a bound.
const AVOID_US_MIN: u64 = 1_000_000;
const AVOID_US_MAX: u64 = 30_000_000;

/// Whom a connection is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PeerId {
    /// A contact point: whoever answers there, until it says who it is.
    Contact(usize),
    /// A member of the cluster.
    Node(NodeId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    Idle,
    /// The driver is opening it.
    Opening {
        link: LinkId,
    },
    /// It is open, and a hello was sent under this number.
    Greeting {
        link: LinkId,
        request: u64,
    },
    /// It takes requests. Only members' connections come so far.
    Up {
        link: LinkId,
    },
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) state: LinkState,
    /// When a connection that is not up yet is given up; when an idle one is opened again.
    pub(crate) act_at: Instant,
    /// Failures to connect since the last success.
    pub(crate) failures: u32,
    /// What came of the last connection.
    pub(crate) problem: Option<LinkFailure>,
    /// The node is put last until then.
    pub(crate) avoid_until: Instant,
    /// Requests that timed out since the last answer.
    strikes: u32,
    pub(crate) in_flight: u32,
    pub(crate) window: Window,
    /// The number of an unanswered question for the record that the session itself has.
    pub(crate) question: Option<u64>,
    pub(crate) timer: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, act_at: Instant) -> Self {
        Self {
            address,
            state: LinkState::Idle,
            act_at,
            failures: 0,
            problem: None,
            avoid_until: Instant(0),
            strikes: 0,
            in_flight: 0,
            window: Window::default(),
            question: None,
            timer: None,
        }
    }

    pub(crate) fn link(&self) -> Option<LinkId> {
        match self.state {
            LinkState::Idle => None,
            LinkState::Opening { link }
            | LinkState::Greeting { link, .. }
            | LinkState::Up { link } => Some(link),
        }
    }

    /// The connection, if requests may be sent over it.
    pub(crate) fn up(&self) -> Option<LinkId> {
        match self.state {
            LinkState::Up { link } => Some(link),
            LinkState::Idle | LinkState::Opening { .. } | LinkState::Greeting { .. } => None,
        }
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.state, LinkState::Opening { .. } | LinkState::Greeting { .. })
    }

    /// How long to wait before the next attempt to connect, before jitter.
    pub(crate) fn reconnect_us(&self) -> u64 {
        (RECONNECT_US_MIN << self.failures.saturating_sub(1).min(16)).min(RECONNECT_US_MAX)
    }

    /// A request was not answered in time.
    pub(crate) fn strike(&mut self, now: Instant) {
        let length_us = (AVOID_US_MIN << self.strikes.min(16)).min(AVOID_US_MAX);
        self.strikes = self.strikes.saturating_add(1);
        self.avoid(now, length_us);
    }

    pub(crate) fn avoid(&mut self, now: Instant, length_us: u64) {
        self.avoid_until = self.avoid_until.max(now.plus_us(length_us.min(AVOID_US_MAX)));
    }

    /// Whether it may be sent one more request.
    pub(crate) fn has_room(&self) -> bool {
        self.window.has_room(self.in_flight)
    }

    /// It refused a request, which is not in flight any more, and wants to be asked again after `pause_us`.
    pub(crate) fn refused(&mut self, now: Instant, pause_us: u64) {
        self.window.on_refused(now, self.in_flight + 1, pause_us);
    }

    /// It answers.
    pub(crate) fn is_alive(&mut self) {
        if self.strikes > 0 {
            self.strikes = 0;
            self.avoid_until = Instant(0);
        }
    }

    /// The connection is gone.
    pub(crate) fn go_idle(&mut self, retry_at: Instant, problem: Option<LinkFailure>) {
        self.state = LinkState::Idle;
        self.act_at = retry_at;
        self.problem = problem;
        self.question = None;
        self.in_flight = 0;
        self.window.reset();
    }
}

/// All peers, and whose each connection is.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) contacts: Vec<Peer>,
    pub(crate) nodes: BTreeMap<NodeId, Peer>,
    links: BTreeMap<LinkId, PeerId>,
    link_last: u64,
}

impl Peers {
    pub(crate) fn new(contact_points: &[SocketAddr]) -> Self {
        let contacts =
            contact_points.iter().map(|&address| Peer::new(address, Instant(0))).collect();
        Self { contacts, nodes: BTreeMap::new(), links: BTreeMap::new(), link_last: 0 }
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Peer> {
        match id {
            PeerId::Contact(at) => self.contacts.get(at),
            PeerId::Node(node) => self.nodes.get(&node),
        }
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        match id {
            PeerId::Contact(at) => self.contacts.get_mut(at),
            PeerId::Node(node) => self.nodes.get_mut(&node),
        }
    }

    pub(crate) fn node_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.nodes.get_mut(&node)
    }

    pub(crate) fn of_link(&self, link: LinkId) -> Option<PeerId> {
        self.links.get(&link).copied()
    }

    pub(crate) fn next_link(&mut self, peer: PeerId) -> LinkId {
        self.link_last += 1;
        let link = LinkId(self.link_last);
        self.links.insert(link, peer);
        link
    }

    pub(crate) fn rebind(&mut self, link: LinkId, peer: PeerId) {
        self.links.insert(link, peer);
    }

    pub(crate) fn unbind(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    pub(crate) fn ids(&self) -> Vec<PeerId> {
        let contacts = (0..self.contacts.len()).map(PeerId::Contact);
        contacts.chain(self.nodes.keys().map(|&node| PeerId::Node(node))).collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Option<NodeId>, &Peer)> {
        let contacts = self.contacts.iter().map(|peer| (None, peer));
        contacts.chain(self.nodes.iter().map(|(&node, peer)| (Some(node), peer)))
    }

    pub(crate) fn any_node_is_up(&self) -> bool {
        self.nodes.values().any(|peer| peer.up().is_some())
    }

    /// Whether every peer was refused, so that waiting for one is of no use.
    pub(crate) fn are_hopeless(&self) -> bool {
        self.all().all(|(_, peer)| {
            let problem = peer.problem.as_ref();
            let is_final =
                |problem| matches!(problem, &LinkFailure::Refused(_) | &LinkFailure::Forbidden(_));
            peer.state == LinkState::Idle && problem.is_some_and(is_final)
        })
    }

    /// Whether a contact point at that address is being connected.
    pub(crate) fn is_contacting(&self, address: SocketAddr) -> bool {
        self.contacts.iter().any(|peer| peer.address == address && peer.is_connecting())
    }
}
