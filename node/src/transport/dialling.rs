//! The connections that this node opens: one to each other member, made again when it is lost.
//! Requests go out on it, and their answers come back on it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn::{Connection, ConnectionError, SendStream};
use quoit_core::handshake::judge;
use quoit_core::peer::{PeerHello, PeerMessage};
use quoit_protocol::frame::put_frame;
use quoit_ring::NodeId;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use super::Inbound;
use super::closing::{Close, Fault, explain};
use super::connection::{BACKGROUND_PRIORITY, FOREGROUND_PRIORITY, Tasks, halves};
use super::limits::{HANDSHAKE_TIMEOUT, LINGER_TIMEOUT};
use super::origin::{KIND_OPEN, Origin};
use super::reading::FrameReader;
use super::shared::{Link, Shared};
use super::standing::check_new;
use crate::bearer::node_name;

/// So many characters of a peer's reason are kept.
const THEIR_REASON_LENGTH_MAX: usize = 500;

/// Why a dialled connection was not made.
enum DialError {
    /// The peer may not be there yet: dial again soon.
    Unreachable(String),
    /// People must mend something first.
    Refused(String),
}

/// A peer that has welcomed us.
struct Welcomed {
    link: Arc<Link>,
    background: (SendStream, FrameReader),
    foreground: (SendStream, FrameReader),
}

/// A connection's tasks, until it ends.
type Running = Pin<Box<dyn Future<Output = ConnectionError> + Send>>;

/// Dials a member for ever, until `over`.
pub(super) struct Dialler {
    pub(super) shared: Arc<Shared>,
    pub(super) node: NodeId,
    pub(super) address: SocketAddr,
    pub(super) nudge: Arc<Notify>,
    /// Failures since a connection last held.
    failures: u32,
    /// What the log said last of this peer.
    said: Option<String>,
}

impl Dialler {
    pub(super) fn new(
        shared: Arc<Shared>,
        node: NodeId,
        address: SocketAddr,
        nudge: Arc<Notify>,
    ) -> Self {
        Self { shared, node, address, nudge, failures: 0, said: None }
    }

    pub(super) async fn run(mut self, mut over: oneshot::Receiver<()>) {
        loop {
            let dialled = tokio::select! {
                _ = &mut over => return,
                dialled = dial(&self.shared, self.node, self.address) => dialled,
            };
            let refused = matches!(dialled, Err(DialError::Refused(_)));
            match dialled {
                Ok(welcomed) => {
                    if self.serve(welcomed, &mut over).await.is_break() {
                        return;
                    }
                }
                Err(DialError::Unreachable(reason)) => self.say(reason),
                Err(DialError::Refused(reason)) => {
                    self.shared.note_refusal(self.address, &reason);
                    self.say(reason);
                }
            }
            tokio::select! {
                _ = &mut over => return,
                () = self.pause(refused) => {}
            }
        }
    }

    /// Serves the connection until it ends (and is to be made again), or until it is not wanted any
    /// more. Where certificates change meanwhile, another takes its place.
    async fn serve(
        &mut self,
        welcomed: Welcomed,
        over: &mut oneshot::Receiver<()>,
    ) -> ControlFlow<()> {
        let (node, address) = (self.node, self.address);
        tracing::info!(%node, %address, "connected");
        self.said = None;
        let start = Instant::now();
        let mut renewals = self.shared.renewals.subscribe();
        let (mut link, mut running) = self.begin(welcomed);
        self.shared.inbox.tell(Inbound::PeerConnected { node });
        let ending = loop {
            tokio::select! {
                ending = &mut running => break ControlFlow::Continue(ending),
                _ = &mut *over => {
                    Close::NotMember.close(&link.connection, "no longer a member at this address");
                    break ControlFlow::Break(running.await);
                }
                Ok(()) = renewals.changed() => {}
            }
            let again = tokio::select! {
                ending = &mut running => break ControlFlow::Continue(ending),
                again = dial(&self.shared, node, address) => again,
            };
            match again {
                Ok(welcomed) => {
                    let (newer, newer_running) = self.begin(welcomed);
                    let older = std::mem::replace(&mut link, newer);
                    let older_running = std::mem::replace(&mut running, newer_running);
                    tokio::spawn(linger(older, older_running));
                }
                Err(DialError::Unreachable(reason) | DialError::Refused(reason)) => {
                    self.say(format!("the new certificates are not used yet: {reason}"));
                }
            }
        };
        self.shared.remove_dialled(node, &link);
        self.shared.inbox.tell(Inbound::PeerDisconnected { node });
        let ControlFlow::Continue(ending) = ending else { return ControlFlow::Break(()) };
        if !self.shared.is_closing() {
            let reason = explain(&ending);
            tracing::warn!(%node, %address, reason, "connection lost");
        }
        // A peer that welcomes and then hangs up is no better than one that is not there.
        if start.elapsed() >= Duration::from_millis(self.shared.limits.redial_ms_max) {
            self.failures = 0;
        }
        ControlFlow::Continue(())
    }

    /// Requests go out on a connection from now on.
    fn begin(&self, welcomed: Welcomed) -> (Arc<Link>, Running) {
        let Welcomed { link, background, foreground } = welcomed;
        let from = Origin::Peer { node: self.node, address: link.address, dialled: true };
        let mut tasks = Tasks::new(Arc::clone(&self.shared), Arc::clone(&link), from);
        tasks.background(background.0, background.1);
        tasks.foreground(foreground.0, foreground.1);
        self.shared.add_dialled(self.node, &link);
        check_new(&self.shared, &link);
        (link, Box::pin(tasks.run()))
    }

    /// Says once why there is no connection.
    fn say(&mut self, reason: String) {
        if self.said.as_ref() != Some(&reason) {
            tracing::warn!(node = %self.node, address = %self.address, reason, "not connected");
            self.said = Some(reason);
        }
    }

    /// Waits before the next try: longer each time, unless there is reason to hope.
    async fn pause(&mut self, refused: bool) {
        let limits = &self.shared.limits;
        let doubled = limits.redial_ms_min.saturating_mul(1 << self.failures.min(16));
        let most =
            if refused { limits.redial_refused_ms } else { doubled.min(limits.redial_ms_max) };
        self.failures = self.failures.saturating_add(1);
        let wait = Duration::from_millis(jittered(most));
        let mut hello = self.shared.hello.subscribe();
        tokio::select! {
            () = sleep(wait) => {}
            // A connection from there does not mend what it refused.
            () = self.nudge.notified(), if !refused => {}
            _ = hello.changed() => {}
        }
    }
}

/// A connection that another has taken the place of: what was asked on it is still answered.
async fn linger(link: Arc<Link>, running: Running) {
    if timeout(LINGER_TIMEOUT, running).await.is_err() {
        Close::Replaced.close(&link.connection, "another connection took its place");
    }
}

/// Between half of `most` and `most`, so that nodes that lost each other do not march in step.
fn jittered(most: u64) -> u64 {
    // The hasher's keys are random: enough for this, and no dependency.
    let random = RandomState::new().build_hasher().finish();
    most / 2 + random % (most / 2 + 1)
}

async fn dial(
    shared: &Arc<Shared>,
    node: NodeId,
    address: SocketAddr,
) -> Result<Welcomed, DialError> {
    let own = own_hello(shared).await;
    let name = node_name(node, shared.cluster);
    let connecting = shared
        .endpoint
        .connect_with(shared.tls().dial(address), address, &name)
        .map_err(|error| DialError::Unreachable(format!("cannot dial: {error}")))?;
    let slow = |_| DialError::Unreachable("no answer".into());
    let connection = timeout(HANDSHAKE_TIMEOUT, connecting)
        .await
        .map_err(slow)?
        .map_err(|error| failure(&error))?;
    let exchange = exchange_hellos(shared, &connection, own, node);
    match timeout(HANDSHAKE_TIMEOUT, exchange).await {
        Err(_) => {
            Close::TooSlow.close(&connection, "no welcome came");
            Err(DialError::Unreachable("it accepts the connection but says no welcome".into()))
        }
        Ok(Err(Fault::Close(close, reason))) => {
            close.close(&connection, &reason);
            Err(DialError::Refused(reason))
        }
        Ok(Err(Fault::Lost)) => Err(failure(&connection.closed().await)),
        Ok(Ok(welcomed)) => Ok(welcomed),
    }
}

/// The words of this node, once they are known.
pub(super) async fn own_hello(shared: &Shared) -> PeerHello {
    let mut hello = shared.hello.subscribe();
    let hello = hello.wait_for(Option::is_some).await.expect("the transport holds the sender");
    hello.clone().expect("it was waited for")
}

/// Hello out, welcome in, and judgement on both sides.
async fn exchange_hellos(
    shared: &Arc<Shared>,
    connection: &Connection,
    own: PeerHello,
    node: NodeId,
) -> Result<Welcomed, Fault> {
    let opened = connection.open_bi().await.map_err(|_| Fault::Lost)?;
    let (mut send, mut frames) = halves(shared, opened, BACKGROUND_PRIORITY)?;
    say(&mut send, &PeerMessage::Hello(own.clone())).await?;
    let first = frames.first().await?;
    let PeerMessage::Welcome(welcome) = PeerMessage::read(&first).map_err(Fault::garbage)? else {
        return Err(Fault::garbage("the first answer is no welcome"));
    };
    let verdict = judge(&own, &welcome.hello, node);
    if let Some(theirs) = welcome.refused {
        let theirs: String = theirs.chars().take(THEIR_REASON_LENGTH_MAX).collect();
        let ours = verdict.err().unwrap_or_else(|| "we have no objection".into());
        return Err(Fault::Close(Close::Refused, format!("{node} says: {theirs}; here: {ours}")));
    }
    verdict.map_err(|reason| Fault::Close(Close::Refused, reason))?;
    let opened = connection.open_bi().await.map_err(|_| Fault::Lost)?;
    let (mut open, answers) = halves(shared, opened, FOREGROUND_PRIORITY)?;
    let mut frame = BytesMut::new();
    put_frame(&mut frame, KIND_OPEN, 0, |_| Ok::<(), ()>(())).expect("nothing is written");
    open.write_chunk(frame.freeze()).await.map_err(|_| Fault::Lost)?;
    let link = shared.peer_link(connection.clone(), welcome.hello.address);
    Ok(Welcomed { link, background: (send, frames), foreground: (open, answers) })
}

/// Sends one message at once, for the handshake.
pub(super) async fn say(send: &mut SendStream, message: &PeerMessage) -> Result<(), Fault> {
    let mut frame = BytesMut::new();
    message.put(0, &mut frame);
    send.write_chunk(frame.freeze()).await.map_err(|_| Fault::Lost)
}

fn failure(error: &quinn::ConnectionError) -> DialError {
    use quinn::ConnectionError as E;
    let reason = explain(error);
    let refused =
        matches!(error, E::TransportError(_) | E::ConnectionClosed(_)) || Close::Refused.is(error);
    if refused { DialError::Refused(reason) } else { DialError::Unreachable(reason) }
}
