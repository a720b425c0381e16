//! The connections that others open: peers, whose requests come on them and are answered on them,
//! and clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, Incoming};
use quoit_core::handshake::judge;
use quoit_core::peer::{ALPN_PEER, PeerHello, PeerMessage, PeerWelcome};
use quoit_protocol::ClientRequest;
use quoit_protocol::frame::{Frame, HEADER_BYTES};
use quoit_ring::NodeId;
use tokio::time::{sleep_until, timeout};

use super::Inbound;
use super::admission::{Turn, Waiting};
use super::closing::{Close, Fault, explain};
use super::connection::{BACKGROUND_PRIORITY, FOREGROUND_PRIORITY, Tasks, halves};
use super::dialling::{own_hello, say};
use super::figures::add;
use super::limits::{
    CONNECTIONS_SPARE, FAREWELL_TIMEOUT, HANDSHAKE_TIMEOUT, HANDSHAKES_UNVALIDATED_MAX,
    NEWCOMER_WAIT_MAX, PEER_RECEIVE_WINDOW_BYTES,
};
use super::origin::Origin;
use super::pace::{Load, Pace};
use super::shared::{Link, Shared};
use super::standing::check_new;
use crate::bearer::{Bearer, bearer_of_connection};

/// What those hear that made room.
const SHED: &str = "others wait, and no hello came";

/// A connection that was not let in yet, and since when it waits.
struct Newcomer {
    incoming: Incoming,
    since: Instant,
}

/// Why a handshake did not come to its end.
enum Late {
    /// It took too long.
    TooSlow,
    /// It made room for another.
    Shed,
}

/// Accepts connections until the endpoint closes. Whoever dials a node that has nothing to say yet,
/// because it recovers, hears nothing and can turn to another.
pub(super) async fn accept(shared: Arc<Shared>) {
    own_hello(&shared).await;
    let mut waiting = Waiting::new();
    let mut pace = Pace::new(Instant::now());
    let mut load = Load::new(0, Instant::now());
    loop {
        tokio::select! {
            incoming = shared.endpoint.accept() => match incoming {
                Some(incoming) => queue(&shared, &mut waiting, incoming),
                None => return,
            },
            () = sleep_until(pace.next().into()), if waiting.count() > 0 => {
                let messages = shared.counters.received_messages.load(Ordering::Relaxed);
                let is_busy = load.is_high(messages, Instant::now());
                begin(&shared, &mut waiting, &mut pace, is_busy);
            }
        }
    }
}

/// Has a newcomer wait for its turn, show its address first, or go.
fn queue(shared: &Shared, waiting: &mut Waiting<Newcomer>, incoming: Incoming) {
    let limits = shared.accept_limits();
    let most = limits.connections_max + limits.handshakes_max + CONNECTIONS_SPARE;
    let source = shared.source_of(incoming.remote_address());
    let pressure = waiting.count() + shared.handshakes.count();
    if pressure > HANDSHAKES_UNVALIDATED_MAX && incoming.may_retry() {
        add(&shared.counters.retried, 1);
        // Fails only where it may not be asked.
        let _ = incoming.retry();
        return;
    }
    let newcomer = Newcomer { incoming, since: Instant::now() };
    let refused = if shared.endpoint.open_connections() >= most {
        Some(newcomer)
    } else {
        waiting.push(source, newcomer, &limits.bounds())
    };
    if let Some(Newcomer { incoming, .. }) = refused {
        add(&shared.counters.turned_away, 1);
        incoming.refuse();
    }
}

/// Begins the next handshake.
fn begin(shared: &Arc<Shared>, waiting: &mut Waiting<Newcomer>, pace: &mut Pace, is_busy: bool) {
    let bounds = shared.accept_limits().bounds();
    let Some((source, Newcomer { incoming, since })) = waiting.pop() else { return };
    if since.elapsed() > NEWCOMER_WAIT_MAX {
        add(&shared.counters.turned_away, 1);
        return incoming.ignore();
    }
    pace.take(Instant::now(), bounds.rate(is_busy));
    let (turn, sheds) = shared.handshakes.begin(source, &bounds);
    add(&shared.counters.shed, usize::from(sheds));
    tokio::spawn(greet(Arc::clone(shared), incoming, turn));
}

/// TLS, and then what the protocol asked for wants.
async fn greet(shared: Arc<Shared>, incoming: Incoming, turn: Turn) {
    let address = incoming.remote_address();
    let connection = match in_time(&turn, handshake(&shared, incoming)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return refuse(&shared, address, &explain(&error)),
        Err(Late::Shed) => return,
        Err(Late::TooSlow) => {
            return refuse(&shared, address, &explain(&ConnectionError::TimedOut));
        }
    };
    let bearer = bearer_of_connection(connection.peer_identity(), shared.cluster);
    match (bearer, is_peer(&connection)) {
        (Ok(Bearer::Node(node)), true) => serve_peer(&shared, connection, node, turn).await,
        (Ok(bearer), false) => serve_client(&shared, connection, bearer, turn).await,
        (Ok(Bearer::Client(_)), true) => {
            let reason = "a client's certificate does not make a node: use the node's own";
            Close::Refused.close(&connection, reason);
            refuse(&shared, address, reason);
        }
        (Err(error), _) => {
            Close::Refused.close(&connection, &error.to_string());
            refuse(&shared, address, &error.to_string());
        }
    }
}

async fn handshake(shared: &Shared, incoming: Incoming) -> Result<Connection, ConnectionError> {
    let config = shared.tls().accept(incoming.remote_address());
    incoming.accept_with(config)?.await
}

/// A step of a handshake, which must come to its end soon, and sooner where others wait.
async fn in_time<T>(turn: &Turn, step: impl Future<Output = T>) -> Result<T, Late> {
    tokio::select! {
        () = turn.shed() => Err(Late::Shed),
        done = timeout(HANDSHAKE_TIMEOUT, step) => done.map_err(|_| Late::TooSlow),
    }
}

fn is_peer(connection: &Connection) -> bool {
    connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| data.protocol)
        .is_some_and(|protocol| protocol == ALPN_PEER)
}

fn refuse(shared: &Shared, address: SocketAddr, reason: &str) {
    if shared.note_refusal(address, reason) && !shared.is_closing() {
        tracing::warn!(%address, reason, "refused a connection");
    }
}

async fn serve_peer(shared: &Arc<Shared>, connection: Connection, node: NodeId, turn: Turn) {
    connection.set_receive_window(PEER_RECEIVE_WINDOW_BYTES.into());
    let address = connection.remote_address();
    let welcoming = welcome_peer(shared, &connection, node);
    let welcomed = in_time(&turn, welcoming).await;
    drop(turn);
    match welcomed {
        Ok(Ok((tasks, link))) => {
            tracing::info!(%node, %address, "accepted a peer's connection");
            shared.add_accepted(node, &link);
            check_new(shared, &link);
            let ending = tasks.run().await;
            shared.remove_accepted(node, &link);
            tracing::info!(%node, %address, reason = explain(&ending), "a peer's connection ended");
        }
        Ok(Err(Fault::Close(close, reason))) => {
            if close == Close::Refused {
                // The reason is in the welcome: let it arrive.
                let _ = timeout(FAREWELL_TIMEOUT, connection.closed()).await;
            } else {
                add(&shared.counters.garbage, 1);
            }
            close.close(&connection, &reason);
            refuse(shared, address, &reason);
        }
        Ok(Err(Fault::Lost)) => refuse(shared, address, &explain(&connection.closed().await)),
        Err(Late::Shed) => Close::Idle.close(&connection, SHED),
        Err(Late::TooSlow) => {
            Close::TooSlow.close(&connection, "the first frames did not come");
            refuse(shared, address, "the first frames did not come");
        }
    }
}

/// Hello in, judgement, welcome out; then the foreground stream, which the peer opens next.
async fn welcome_peer(
    shared: &Arc<Shared>,
    connection: &Connection,
    node: NodeId,
) -> Result<(Tasks, Arc<Link>), Fault> {
    let streams = connection.accept_bi().await.map_err(|_| Fault::Lost)?;
    let (mut send, mut frames) = halves(shared, streams, BACKGROUND_PRIORITY)?;
    let theirs = read_hello(&frames.first().await?)?;
    let own = own_hello(shared).await;
    let verdict = judge(&own, &theirs, node).and_then(|()| shared.check_member(&own, &theirs));
    let welcome = PeerWelcome { hello: own, refused: verdict.clone().err() };
    say(&mut send, &PeerMessage::Welcome(welcome)).await?;
    if let Err(reason) = verdict {
        // The stream must not be dropped before the welcome has left.
        let _ = send.finish();
        let _ = timeout(FAREWELL_TIMEOUT, send.stopped()).await;
        return Err(Fault::Close(Close::Refused, reason));
    }
    let streams = connection.accept_bi().await.map_err(|_| Fault::Lost)?;
    let (answers, requests) = halves(shared, streams, FOREGROUND_PRIORITY)?;
    let link = shared.peer_link(connection.clone(), theirs.address);
    let from = Origin::Peer { node, address: theirs.address, dialled: false };
    let mut tasks = Tasks::new(Arc::clone(shared), Arc::clone(&link), from);
    tasks.background(send, frames);
    tasks.foreground(answers, requests);
    Ok((tasks, link))
}

fn read_hello(frame: &Frame) -> Result<PeerHello, Fault> {
    match PeerMessage::read(frame).map_err(Fault::garbage)? {
        PeerMessage::Hello(hello) => Ok(hello),
        _ => Err(Fault::garbage("something was said before hello")),
    }
}

async fn serve_client(shared: &Arc<Shared>, connection: Connection, bearer: Bearer, turn: Turn) {
    let address = connection.remote_address();
    let link = shared.client_link(connection.clone(), bearer);
    let Some(id) = shared.add_client(&link) else {
        add(&shared.counters.turned_away, 1);
        return Close::TooMany.close(&connection, "this node has as many clients as it takes");
    };
    check_new(shared, &link);
    let from = Origin::Client { connection: id };
    let welcoming = hear_client(shared, &link, from);
    let welcomed = in_time(&turn, welcoming).await;
    drop(turn);
    match welcomed {
        Ok(Ok(tasks)) => {
            tracing::debug!(?id, %address, "a client connected");
            let ending = tasks.run().await;
            shared.remove_client(id);
            shared.inbox.tell(Inbound::ClientClosed { connection: id });
            tracing::debug!(?id, %address, reason = explain(&ending), "a client's connection ended");
            return;
        }
        Ok(Err(Fault::Close(close, reason))) => {
            add(&shared.counters.garbage, 1);
            close.close(&connection, &reason);
            tracing::warn!(%address, reason, "closing a client's connection");
        }
        Ok(Err(Fault::Lost)) => {}
        Err(Late::Shed) => Close::Idle.close(&connection, SHED),
        Err(Late::TooSlow) => Close::TooSlow.close(&connection, "no hello came"),
    }
    shared.remove_client(id);
}

/// The client's stream, and the hello on it, which is handed up like all that follows.
async fn hear_client(shared: &Arc<Shared>, link: &Arc<Link>, from: Origin) -> Result<Tasks, Fault> {
    let streams = link.connection.accept_bi().await.map_err(|_| Fault::Lost)?;
    let (answers, mut requests) = halves(shared, streams, FOREGROUND_PRIORITY)?;
    let first = requests.first().await?;
    let bytes = HEADER_BYTES + first.body.len();
    match from.inbound(shared, first)? {
        Some(hello @ Inbound::Client { message: ClientRequest::Hello(_), .. }) => {
            link.on_asked();
            shared.inbox.send(hello, bytes).await?;
        }
        _ => return Err(Fault::garbage("something was said before hello")),
    }
    let mut tasks = Tasks::new(Arc::clone(shared), Arc::clone(link), from);
    tasks.foreground(answers, requests);
    Ok(tasks)
}
