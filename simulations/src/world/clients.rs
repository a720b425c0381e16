//! Clients: real sessions over virtual connections, which open, carry and break.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use quoit_core::{ConnectionId, Event as CoreEvent};
use quoit_protocol::frame::{BODY_BYTES_MAX, take_frame};
use quoit_protocol::{ClientRequest, ClientResponse};
use quoit_ring::ClusterId;
use quoit_session::{
    Configuration, Effect, Event as SessionEvent, Instant, LinkFailure, LinkId, Seed, Session,
};

use super::{Event, World};
use crate::plan::stream;
use quoit_core::random::Random;

/// Operations of a client at once.
const IN_FLIGHT_MAX: usize = 256;

struct Link {
    node: usize,
    connection: ConnectionId,
    open: bool,
    /// To the node, and back.
    arrived_us: [u64; 2],
}

pub(crate) struct Client {
    pub(crate) session: Session,
    links: BTreeMap<LinkId, Link>,
    tick_at: Option<u64>,
    random: Random,
}

impl Client {
    pub(crate) fn new(seed: u64, number: u64, cluster: ClusterId, nodes: usize) -> Self {
        let mut random = stream(seed, "client", number);
        let configuration = Configuration {
            cluster,
            contact_points: (0..nodes).map(super::address_of).collect(),
            client: format!("client {number}"),
            in_flight_max: IN_FLIGHT_MAX,
            zone: None,
        };
        let session = Session::new(configuration, Seed(random.draw(), random.draw()));
        Self { session, links: BTreeMap::new(), tick_at: None, random }
    }
}

impl World {
    /// Hands a client's session an event, and carries out what it wants.
    pub(super) fn client(&mut self, client: usize, event: SessionEvent) {
        let now = Instant(self.time_us);
        let mut effects = std::mem::take(&mut self.session_effects);
        self.clients[client].session.handle(now, event, &mut effects);
        let mut completed = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                Effect::Connect { link, address, .. } => {
                    let node = super::node_at(address);
                    self.connect(client, link, node);
                }
                Effect::Close { link, .. } => {
                    if let Some(link) = self.clients[client].links.remove(&link) {
                        self.connections.remove(&link.connection);
                    }
                }
                Effect::Send { link, request, message } => {
                    self.send_request(client, link, request, &message);
                }
                Effect::Complete { operation, outcome, .. } => completed.push((operation, outcome)),
                Effect::RecordChanged(_) => {}
            }
        }
        self.session_effects = effects;
        if let Some(deadline) = self.clients[client].session.next_deadline()
            && self.clients[client].tick_at.is_none_or(|at| deadline.0 < at)
        {
            let at_us = deadline.0.max(self.time_us);
            self.clients[client].tick_at = Some(at_us);
            self.queue.push(at_us, Event::ClientTick { client: client as u16 });
        }
        for (operation, outcome) in completed {
            self.on_completed(client, operation, outcome);
        }
    }

    pub(super) fn on_client_tick(&mut self, client: usize) {
        if self.clients[client].tick_at == Some(self.time_us) {
            self.clients[client].tick_at = None;
            self.client(client, SessionEvent::Tick);
        }
    }

    fn hop_us(&mut self, client: usize) -> u64 {
        let plan = &self.schedule.network;
        plan.delay_us_min + self.clients[client].random.below(2 * plan.delay_us_mean + 1)
    }

    fn connect(&mut self, client: usize, link: LinkId, node: usize) {
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        let entry = Link { node, connection, open: false, arrived_us: [0; 2] };
        self.clients[client].links.insert(link, entry);
        let at_us = self.time_us + 2 * self.hop_us(client);
        self.queue.push(at_us, Event::ClientOpened { client: client as u16, link });
    }

    pub(super) fn on_client_opened(&mut self, client: usize, link: LinkId) {
        let Some(entry) = self.clients[client].links.get_mut(&link) else { return };
        let node = entry.node;
        let runs = self.machines[node].process.is_some() && self.cut_clients[node] == 0;
        if runs {
            entry.open = true;
            self.connections.insert(entry.connection, (client, link));
            self.client(client, SessionEvent::Opened { link });
        } else if self.clients[client].random.below(2) == 0 {
            self.clients[client].links.remove(&link);
            let failure = LinkFailure::Unreachable("nobody answers".to_owned());
            self.client(client, SessionEvent::Lost { link, failure });
        } // Otherwise nothing is heard, until the session gives up.
    }

    fn send_request(&mut self, client: usize, link: LinkId, request: u64, message: &ClientRequest) {
        let mut at_us = self.time_us + self.hop_us(client);
        let Some(entry) = self.clients[client].links.get_mut(&link) else { return };
        if !entry.open {
            return;
        }
        at_us = at_us.max(entry.arrived_us[0]);
        entry.arrived_us[0] = at_us;
        let mut frame = BytesMut::new();
        message.put(request, &mut frame);
        let connection = entry.connection;
        self.queue.push(at_us, Event::ToNode { connection, frame });
    }

    pub(super) fn on_request(&mut self, connection: ConnectionId, mut frame: BytesMut) {
        let Some(&(client, link)) = self.connections.get(&connection) else { return };
        let node = self.clients[client].links[&link].node;
        self.trace.add(&[self.time_us, connection.0]);
        self.trace.add_frame(&frame);
        let taken = take_frame(&mut frame, BODY_BYTES_MAX);
        let frame = taken.expect("it is intact").expect("it is whole");
        let message = ClientRequest::read(&frame).expect("what a client sends can be read");
        let time_us = self.time_us;
        self.trace.line(time_us, || {
            format!("client {client} -> n{} #{} {message:?}", node + 1, frame.request)
        });
        let (request, rights) = (frame.request, Arc::clone(&self.rights));
        self.handle(node, CoreEvent::Client { connection, request, message, rights });
    }

    pub(super) fn send_response(
        &mut self,
        connection: ConnectionId,
        request: u64,
        message: &ClientResponse,
    ) {
        let Some(&(client, link)) = self.connections.get(&connection) else { return };
        let mut at_us = self.time_us + self.hop_us(client);
        let entry = self.clients[client].links.get_mut(&link).expect("a connection has its link");
        at_us = at_us.max(entry.arrived_us[1]);
        entry.arrived_us[1] = at_us;
        let mut frame = BytesMut::new();
        message.put(request, &mut frame);
        self.queue.push(at_us, Event::ToClient { connection, frame });
    }

    pub(super) fn on_response(&mut self, connection: ConnectionId, mut frame: BytesMut) {
        let Some(&(client, link)) = self.connections.get(&connection) else { return };
        self.trace.add(&[self.time_us, client as u64]);
        self.trace.add_frame(&frame);
        let taken = take_frame(&mut frame, BODY_BYTES_MAX);
        let frame = taken.expect("it is intact").expect("it is whole");
        let response = ClientResponse::read(&frame).expect("what a node answers can be read");
        let time_us = self.time_us;
        self.trace.line(time_us, || format!("client {client} <- #{} {response:?}", frame.request));
        let request = frame.request;
        self.client(client, SessionEvent::Received { link, request, response });
    }

    /// All clients' connections to a node break; each client notices after a while.
    pub(super) fn break_clients(&mut self, node: usize) {
        let gone: Vec<(ConnectionId, usize, LinkId)> = self
            .connections
            .iter()
            .filter(|(_, (client, link))| self.clients[*client].links[link].node == node)
            .map(|(connection, (client, link))| (*connection, *client, *link))
            .collect();
        for (connection, client, link) in gone {
            self.connections.remove(&connection);
            self.clients[client].links.remove(&link);
            let at_us = self.time_us + self.clients[client].random.below(300_000);
            self.queue.push(at_us, Event::ClientLost { client: client as u16, link });
        }
    }

    pub(super) fn on_client_lost(&mut self, client: usize, link: LinkId) {
        let failure = LinkFailure::Unreachable("the connection broke".to_owned());
        self.client(client, SessionEvent::Lost { link, failure });
    }
}

impl Client {
    /// Where a connection leads.
    pub(crate) fn node_of(&self, link: LinkId) -> usize {
        self.links[&link].node
    }
}
