//! What all tasks of the transport share: who is connected, and the way to each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn::{Connection, Endpoint};
use quoit_core::event::ConnectionId;
use quoit_core::peer::{Class, PeerHello};
use quoit_ring::{ClusterId, Epoch, NodeId};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::admission::{Source, UnderWay};
use super::allowance::{Allowance, QUESTION, QUESTIONS, REFUSAL};
use super::closing::{Close, Fault};
use super::figures::{Counters, Refusals, TransportStats, add};
use super::inbox::Inbox;
use super::limits::{AcceptLimits, CLIENT_SPARED, LINGER_TIMEOUT, Limits, client_receive_window};
use super::outbox::{Outbox, Put};
use super::pace::Pace;
use super::tls::TlsConfigs;
use crate::bearer::Bearer;

/// A connection, and what waits to be sent on it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    /// Where the other side can be reached: for a peer, where it listens.
    pub(super) address: SocketAddr,
    /// Who a client is.
    pub(super) bearer: Option<Arc<Bearer>>,
    pub(super) foreground: Arc<Outbox>,
    pub(super) background: Arc<Outbox>,
    since: Instant,
    /// When something was last heard, in milliseconds since then.
    heard_ms: AtomicU64,
    /// Requests that were heard and not answered.
    unanswered: AtomicUsize,
    allowance: Allowance,
    /// A client has asked for an operation.
    works: AtomicBool,
}

impl Link {
    fn new(
        (connection, address): (Connection, SocketAddr),
        bearer: Option<Arc<Bearer>>,
        foreground: Arc<Outbox>,
        background: Arc<Outbox>,
    ) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            connection,
            address,
            bearer,
            foreground,
            background,
            since: now,
            heard_ms: AtomicU64::new(0),
            unanswered: AtomicUsize::new(0),
            allowance: Allowance::new(now),
            works: AtomicBool::new(false),
        })
    }

    /// A request of a client has come.
    pub(super) fn on_asked(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now, Ordering::Relaxed);
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    fn is_client(&self) -> bool {
        self.bearer.is_some()
    }

    /// Waits until a client may ask more: it has read most of what it was answered, and its allowance is not
    /// used up. Peers always may.
    pub(super) async fn may_ask(&self) -> Result<(), Fault> {
        if !self.is_client() {
            return Ok(());
        }
        loop {
            let wait = self.allowance.wait(Instant::now());
            if wait.is_zero() {
                break;
            }
            sleep(wait).await;
        }
        self.foreground.read_enough().await
    }

    /// An operation comes: with the first, a client may send more at once.
    pub(super) fn on_operation(&self, shared: &Shared) {
        let is_known = !self.is_client() || self.works.load(Ordering::Relaxed);
        if !is_known && !self.works.swap(true, Ordering::Relaxed) {
            let clients = shared.state().clients.len();
            self.connection.set_receive_window(client_receive_window(clients));
        }
    }

    /// A question is taken up, which is none of the operations that are bounded.
    pub(super) fn on_question(&self) {
        self.allowance.take(QUESTION, Instant::now());
    }

    /// A client is refused.
    pub(super) fn on_refused(&self) {
        self.allowance.take(REFUSAL, Instant::now());
    }

    /// It is answered.
    pub(super) fn on_answered(&self) {
        // More answers than requests are nobody's.
        let one_less = |count: usize| count.checked_sub(1);
        let _ = self.unanswered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    /// For how long nothing was heard, where nothing is to be answered.
    fn idle(&self) -> Option<Duration> {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        let is_idle = self.unanswered.load(Ordering::Relaxed) == 0;
        is_idle.then(|| self.since.elapsed().saturating_sub(heard))
    }

    fn source(&self) -> Source {
        Source::of(self.address.ip())
    }

    fn outbox(&self, class: Class) -> &Arc<Outbox> {
        match class {
            Class::Foreground => &self.foreground,
            Class::Background => &self.background,
        }
    }

    /// Begins to finish all that waits.
    pub(super) fn finish(&self) {
        self.foreground.finish();
        self.background.finish();
    }

    /// Waits until the other side has all that was sent, or is gone.
    pub(super) async fn finished(&self) {
        let written = async {
            self.foreground.finished().await;
            if !Arc::ptr_eq(&self.foreground, &self.background) {
                self.background.finished().await;
            }
        };
        tokio::select! {
            () = written => {}
            _ = self.connection.closed() => {}
        }
    }
}

/// A member that is being dialled, for ever.
pub(super) struct Member {
    address: SocketAddr,
    /// Rung when it is known to be there.
    pub(super) nudge: Arc<Notify>,
    /// Dropped when it is to be dialled no more.
    _dialling: oneshot::Sender<()>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<NodeId, Member>,
    dialled: BTreeMap<NodeId, Arc<Link>>,
    accepted: BTreeMap<NodeId, Arc<Link>>,
    clients: BTreeMap<ConnectionId, Arc<Link>>,
    connections_made: u64,
    closing: bool,
}

pub(super) struct Shared {
    pub(super) endpoint: Endpoint,
    pub(super) node: NodeId,
    pub(super) cluster: ClusterId,
    pub(super) limits: Limits,
    /// [`Limits::accept`] as it is now.
    pub(super) accept_limits: Mutex<AcceptLimits>,
    pub(super) tls: Mutex<Arc<TlsConfigs>>,
    pub(super) inbox: Inbox,
    pub(super) hello: watch::Sender<Option<PeerHello>>,
    /// Told when certificates have changed: peers are dialled anew.
    pub(super) renewals: watch::Sender<()>,
    pub(super) counters: Arc<Counters>,
    pub(super) handshakes: Arc<UnderWay>,
    /// Who has it locked asks the next question.
    questions: tokio::sync::Mutex<Pace>,
    pub(super) large_room: Semaphore,
    state: Mutex<State>,
    refusals: Mutex<Refusals>,
    /// Outboxes that got something since the last flush.
    unflushed: Mutex<Vec<Arc<Outbox>>>,
}

/// A member that is new, or has a new address: dial it until the receiver says that this is over.
pub(super) type ToDial = (NodeId, SocketAddr, Arc<Notify>, oneshot::Receiver<()>);

impl Shared {
    pub(super) fn new(
        endpoint: Endpoint,
        (node, cluster): (NodeId, ClusterId),
        tls: TlsConfigs,
        limits: Limits,
        inbox: Inbox,
    ) -> Self {
        Self {
            endpoint,
            node,
            cluster,
            tls: Mutex::new(Arc::new(tls)),
            inbox,
            hello: watch::Sender::new(None),
            renewals: watch::Sender::new(()),
            counters: Arc::default(),
            handshakes: Arc::default(),
            questions: tokio::sync::Mutex::new(Pace::new(Instant::now())),
            accept_limits: Mutex::new(limits.accept),
            large_room: Semaphore::new(limits.large_bytes_max.min(Semaphore::MAX_PERMITS)),
            limits,
            state: Mutex::default(),
            refusals: Mutex::default(),
            unflushed: Mutex::default(),
        }
    }

    /// A link over a new connection of a peer.
    pub(super) fn peer_link(&self, connection: Connection, address: SocketAddr) -> Arc<Link> {
        let (foreground, background) = (self.outbox(), self.outbox());
        Link::new((connection, address), None, foreground, background)
    }

    /// A link over a new connection of a client, which has but one stream.
    pub(super) fn client_link(&self, connection: Connection, bearer: Bearer) -> Arc<Link> {
        let address = connection.remote_address();
        let (outbox, bearer) = (self.outbox(), Some(Arc::new(bearer)));
        Link::new((connection, address), bearer, Arc::clone(&outbox), outbox)
    }

    fn outbox(&self) -> Arc<Outbox> {
        let Limits { queued_bytes_max, queued_bytes_total_max, .. } = self.limits;
        Outbox::new(Arc::clone(&self.counters), queued_bytes_max, queued_bytes_total_max)
    }

    /// Takes over the list of members; whoever is not dialled yet comes back.
    pub(super) fn set_members(&self, wanted: &[(NodeId, SocketAddr)]) -> Vec<ToDial> {
        let mut state = self.state();
        if state.closing {
            return Vec::new();
        }
        state.members.retain(|node, member| wanted.contains(&(*node, member.address)));
        if self.hello.borrow().as_ref().is_some_and(|hello| hello.epoch > Epoch(0)) {
            let gone = state
                .accepted
                .iter()
                .filter(|(peer, _)| wanted.iter().all(|(node, _)| node != *peer));
            gone.for_each(|(_, link)| {
                Close::NotMember.close(&link.connection, "no member of the cluster any more");
            });
        }
        let mut to_dial = Vec::new();
        for &(node, address) in wanted {
            if node == self.node || state.members.contains_key(&node) {
                continue;
            }
            let (dialling, over) = oneshot::channel();
            let nudge = Arc::new(Notify::new());
            let member = Member { address, nudge: Arc::clone(&nudge), _dialling: dialling };
            state.members.insert(node, member);
            to_dial.push((node, address, nudge, over));
        }
        to_dial
    }

    /// Whether a peer may ask that has opened a connection: only a member, once a record says who is one.
    /// A peer that knows a later record may be a member by that.
    pub(super) fn check_member(&self, own: &PeerHello, theirs: &PeerHello) -> Result<(), String> {
        let is_judged = own.epoch > Epoch(0) && theirs.epoch <= own.epoch;
        if is_judged && !self.state().members.contains_key(&theirs.node) {
            return Err(format!(
                "{} is no member of the cluster, as version {} of its record says",
                theirs.node, own.epoch
            ));
        }
        Ok(())
    }

    pub(super) fn member_address(&self, node: NodeId) -> Option<SocketAddr> {
        self.state().members.get(&node).map(|member| member.address)
    }

    pub(super) fn dialled(&self, node: NodeId) -> Option<Arc<Link>> {
        self.state().dialled.get(&node).cloned()
    }

    pub(super) fn accepted(&self, node: NodeId) -> Option<Arc<Link>> {
        self.state().accepted.get(&node).cloned()
    }

    pub(super) fn client(&self, connection: ConnectionId) -> Option<Arc<Link>> {
        self.state().clients.get(&connection).cloned()
    }

    /// The link to the peer at an address: that which was dialled, or else that which it made.
    pub(super) fn at_address(&self, address: SocketAddr) -> Option<Arc<Link>> {
        let state = self.state();
        let member = state.members.iter().find(|(_, member)| member.address == address);
        if let Some(link) = member.and_then(|(node, _)| state.dialled.get(node)) {
            return Some(Arc::clone(link));
        }
        let by_name = member.and_then(|(node, _)| state.accepted.get(node));
        by_name.or_else(|| state.accepted.values().find(|link| link.address == address)).cloned()
    }

    pub(super) fn add_dialled(&self, node: NodeId, link: &Arc<Link>) {
        self.state().dialled.insert(node, Arc::clone(link));
    }

    /// Whether this node opened the connection, and still asks on it.
    pub(super) fn is_dialled(&self, link: &Arc<Link>) -> bool {
        self.state().dialled.values().any(|there| Arc::ptr_eq(there, link))
    }

    pub(super) fn remove_dialled(&self, node: NodeId, link: &Arc<Link>) {
        remove(&mut self.state().dialled, node, link);
    }

    /// Registers what a peer opened; it takes the place of an older connection.
    pub(super) fn add_accepted(&self, node: NodeId, link: &Arc<Link>) {
        let mut state = self.state();
        let older = state.accepted.insert(node, Arc::clone(link));
        let nudge = state.members.get(&node).map(|member| Arc::clone(&member.nudge));
        drop(state);
        if let Some(older) = older {
            tokio::spawn(async move {
                // The peer ends it, once what it has asked on it is answered, or is gone already.
                if timeout(LINGER_TIMEOUT, older.connection.closed()).await.is_err() {
                    Close::Replaced.close(&older.connection, "a newer connection took its place");
                }
            });
        }
        // Whoever can reach us can be reached: no need to wait before dialling again.
        if let Some(nudge) = nudge {
            nudge.notify_waiters();
        }
    }

    pub(super) fn remove_accepted(&self, node: NodeId, link: &Arc<Link>) {
        remove(&mut self.state().accepted, node, link);
    }

    /// Waits for a question's turn among those of all clients.
    pub(super) async fn question_turn(&self) {
        let mut pace = self.questions.lock().await;
        sleep_until(pace.next().into()).await;
        pace.take(Instant::now(), QUESTIONS);
    }

    /// Registers a client, if there is room for one, or another has been idle and makes room.
    pub(super) fn add_client(&self, link: &Arc<Link>) -> Option<ConnectionId> {
        let limits = self.accept_limits();
        let mut state = self.state();
        let source = link.source();
        let of_source = state.clients.values().filter(|other| other.source() == source).count();
        let is_crowd = of_source >= limits.connections_per_source_max;
        if is_crowd || state.clients.len() >= limits.connections_max {
            let idle = |(id, other): (&ConnectionId, &Arc<Link>)| {
                let idle = other.idle().filter(|idle| *idle >= CLIENT_SPARED)?;
                (!is_crowd || other.source() == source).then_some((idle, *id))
            };
            let (_, longest) = state.clients.iter().filter_map(idle).max()?;
            if let Some(other) = state.clients.remove(&longest) {
                add(&self.counters.shed, 1);
                Close::Idle.close(&other.connection, "others wait for the place of an idle client");
            }
        }
        state.connections_made += 1;
        let connection = ConnectionId(state.connections_made);
        state.clients.insert(connection, Arc::clone(link));
        Some(connection)
    }

    pub(super) fn remove_client(&self, connection: ConnectionId) {
        self.state().clients.remove(&connection);
        self.inbox.forget(connection);
    }

    /// Whom a newcomer counts with.
    pub(super) fn source_of(&self, address: SocketAddr) -> Source {
        let state = self.state();
        let is_member = state.members.values().any(|member| member.address == address);
        if is_member { Source::Member } else { Source::of(address.ip()) }
    }

    /// Appends a frame to an outbox, which is woken by the next flush.
    pub(super) fn put(&self, outbox: &Arc<Outbox>, write: impl FnOnce(&mut BytesMut)) -> Put {
        let put = outbox.put(write);
        if put == Put::First {
            self.unflushed().push(Arc::clone(outbox));
        }
        put
    }

    /// Appends a frame for a peer; drops and counts it where that cannot be.
    pub(super) fn put_peer(
        &self,
        link: Option<Arc<Link>>,
        class: Class,
        write: impl FnOnce(&mut BytesMut),
    ) {
        let Some(link) = link else { return add(&self.counters.dropped_unconnected, 1) };
        if self.put(link.outbox(class), write) == Put::Full {
            add(&self.counters.dropped_full, 1);
        }
    }

    pub(super) fn flush(&self) {
        for outbox in std::mem::take(&mut *self.unflushed()) {
            outbox.wake();
        }
    }

    /// Notes a refusal of either side; `true` where the log should say it.
    pub(super) fn note_refusal(&self, address: SocketAddr, reason: &str) -> bool {
        add(&self.counters.refused, 1);
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).note(address, reason)
    }

    /// Dials nobody any more, and gives all links.
    pub(super) fn start_closing(&self) -> Vec<Arc<Link>> {
        self.state().closing = true;
        self.links()
    }

    /// All links.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let state = self.state();
        let links = state.dialled.values().chain(state.accepted.values());
        links.chain(state.clients.values()).cloned().collect()
    }

    /// Ends the dialling tasks.
    pub(super) fn forget_members(&self) {
        self.state().members.clear();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state().closing
    }

    pub(super) fn stats(&self) -> TransportStats {
        let mut stats = self.counters.read();
        let state = self.state();
        stats.peers_connected = state.dialled.len();
        stats.peers_accepted = state.accepted.len();
        stats.clients = state.clients.len();
        let dialled = state.dialled.iter();
        stats.round_trips = dialled.map(|(node, link)| (*node, link.connection.rtt())).collect();
        drop(state);
        stats.refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).recent();
        stats
    }

    pub(super) fn accept_limits(&self) -> AcceptLimits {
        *self.accept_limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tls(&self) -> Arc<TlsConfigs> {
        Arc::clone(&self.tls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unflushed(&self) -> MutexGuard<'_, Vec<Arc<Outbox>>> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(links: &mut BTreeMap<NodeId, Arc<Link>>, node: NodeId, link: &Arc<Link>) {
    if links.get(&node).is_some_and(|there| Arc::ptr_eq(there, link)) {
        links.remove(&node);
    }
}
