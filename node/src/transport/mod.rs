//! The QUIC endpoint of a node, for peers and for clients: one UDP port, TLS 1.3 with certificates
//! on both sides, the two told apart by ALPN.
//!
//! **Peers.** Each node dials every other member. Requests go out on the connection that the asker
//! dialled, and their answers come back on it; so between two nodes there are two connections. Each
//! has two long-lived streams, opened by the dialler: background, which begins with hello and
//! welcome ([`quoit_core::handshake`]), and foreground, which goes first. Frames with a body over
//! [`quoit_protocol::frame::SHARED_STREAM_BODY_BYTES_MAX`] travel alone, on streams of their own:
//! among themselves the messages of a class keep their order, but such a large one may be overtaken.
//!
//! **Clients** have one stream, which begins with their hello, and streams of large frames beside
//! it. What they say is handed up and judged by the core.
//!
//! Invariants: nothing is handed up before the handshake, nor after the end of its connection was
//! told; garbage ends the connection it came on and disturbs no other; everything that waits has a
//! bound ([`Limits`]). Sending never waits: messages are appended to a buffer, and
//! [`Transport::flush`] starts the writers, so that one write carries all messages of a batch.
//!
//! Two nodes over loopback, each on one thread, on two shared and busy virtual processors (requests a
//! second; processor microseconds a request, both sides together), by
//! `cargo run --release -p quoit-node --example transport_speed 2`:
//!
//! | set in the request | 1 in flight | 16 | 128 | 1,024 |
//! |---|---|---|---|---|
//! | 100 B | 16k; 42 | 162k; 4.3 | 337k; 2.0 | 420k; 1.6 |
//! | 1 KiB | 17k; 39 | 112k; 6.0 | 201k; 3.4 | 174k; 3.7 |
//!
//! Code map: `tls` (who is who; what the names in certificates say is in [`bearer`](crate::bearer)),
//! `dialling`, `accepting` and `admission` (handshakes), `connection` (the tasks of a connection), `origin`
//! (what may be said by whom), `reading` and `inbox` (the way in), `allowance` and `pace` (how quickly),
//! `outbox` (the way out), `shared` (who is connected), `closing` (why connections end), `standing`
//! (certificates that are good no more), `limits`, `figures`. What is *not* here: any decision about requests,
//! time or membership.

mod accepting;
pub(crate) mod admission;
mod allowance;
mod closing;
mod connection;
mod dialling;
mod figures;
mod inbox;
mod limits;
mod origin;
mod outbox;
mod pace;
mod reading;
mod shared;
mod standing;
pub mod tls;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use quinn::{EndpointConfig, TokioRuntime, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use quoit_core::event::ConnectionId;
use quoit_core::peer::{KIND_GOSSIP, PeerHello, PeerMessage};
use quoit_protocol::frame::{SHARED_STREAM_BODY_BYTES_MAX, put_frame};
use quoit_protocol::{ClientRequest, ClientResponse, FailureCode};
use quoit_ring::{ClusterId, NodeId};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::timeout;

pub use crate::bearer::BearerError;
pub use figures::{Refusal, TransportStats};
pub use inbox::{Arrived, InboundQueue};
pub use limits::{AcceptLimits, Limits};
pub(crate) use tls::revocation_lists;
pub use tls::{TlsError, TlsMaterial, check_material};

use crate::bearer::Bearer;
use closing::{Close, NOT_READING};
use dialling::Dialler;
use figures::add;
use inbox::Inbox;
use outbox::Put;
use shared::Shared;
use tls::TlsConfigs;

/// What a node's endpoint is made from.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// The UDP address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// What it proves both with.
    pub tls: TlsMaterial,
    /// Bounds.
    pub limits: Limits,
}

/// The endpoint could not be made. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Somebody else has the port.
    #[error(
        "UDP address {address} is in use: stop the program that has it (see `ss -ulpn`), or give \
         this node another address"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address is not one of this machine's.
    #[error("UDP address {address} is not an address of this machine: listen on one that is")]
    AddressNotHere {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else that the system objects to.
    #[error("cannot listen on UDP address {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The certificates or the key do not serve.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What came from others.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// Requests can be sent to the peer: the connection that this node dialled was welcomed.
    PeerConnected {
        /// The peer.
        node: NodeId,
    },
    /// That connection is gone. What was asked on it will not be answered.
    PeerDisconnected {
        /// The peer.
        node: NodeId,
    },
    /// A peer asks or answers. It may ask before this node is connected to it.
    Peer {
        /// The peer, as its certificate says.
        from: NodeId,
        /// The asker's request id.
        request: u64,
        /// The message, never a hello or a welcome.
        message: PeerMessage,
    },
    /// A client asks; its first message is a hello.
    Client {
        /// Its connection.
        connection: ConnectionId,
        /// Its request id, to be repeated in the answer.
        request: u64,
        /// What it asks.
        message: ClientRequest,
    },
    /// A client that had said hello is gone.
    ClientClosed {
        /// Its connection.
        connection: ConnectionId,
    },
    /// A gossip message.
    Gossip {
        /// The sender's address: as a member, or else where it says that it listens.
        from: SocketAddr,
        /// What the gossip library made.
        body: Bytes,
    },
}

/// The endpoint of a node. Clones are handles of the same; when the last is dropped, the endpoint
/// closes at once (see [`Transport::close`] for a graceful end). Sending never waits; any thread may
/// call.
#[derive(Clone)]
pub struct Transport {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        close_endpoint(&self.shared);
    }
}

impl Transport {
    /// Listens. Members are dialled, and peers welcomed, only after [`Transport::set_hello`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn bind(config: TransportConfig) -> Result<(Self, InboundQueue), TransportError> {
        let TransportConfig { listen, node, cluster, tls, limits } = config;
        let limits = limits.sane();
        let tls = TlsConfigs::new(&tls, node, cluster, &limits)?;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => TransportError::AddressInUse { address: listen },
            io::ErrorKind::AddrNotAvailable => TransportError::AddressNotHere { address: listen },
            _ => TransportError::Listen { address: listen, source },
        };
        let endpoint = quinn::Endpoint::new(
            endpoint_config(&tls.secret),
            Some((*tls.accept(listen)).clone()),
            socket(listen).map_err(failed)?,
            Arc::new(TokioRuntime),
        )
        .map_err(failed)?;
        let (inbox, queue) = Inbox::new(limits.inbound_bytes_max);
        let shared = Arc::new(Shared::new(endpoint, (node, cluster), tls, limits, inbox));
        tokio::spawn(accepting::accept(Arc::clone(&shared)));
        Ok((Self { owner: Arc::new(Owner { shared }) }, queue))
    }

    /// Where it listens.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.shared().endpoint.local_addr()
    }

    /// Dials these members for ever (this node itself is passed over), and no others: connections to
    /// those that were dialled and are not on the list are closed. Call within the runtime.
    pub fn set_members(&self, members: &[(NodeId, SocketAddr)]) {
        for (node, address, nudge, over) in self.shared().set_members(members) {
            let dialler = Dialler::new(Arc::clone(self.shared()), node, address, nudge);
            tokio::spawn(dialler.run(over));
        }
    }

    /// What is said in handshakes from now on. Peers that are connected are not told.
    pub fn set_hello(&self, hello: PeerHello) {
        self.shared().hello.send_if_modified(|said| {
            let new = said.as_ref() != Some(&hello);
            *said = Some(hello);
            new
        });
    }

    /// Takes other certificates for handshakes from now on. Members are dialled anew with them, without
    /// a gap; other connections whose certificates would be refused now (they are revoked, or their
    /// authority is trusted no more) are closed. On an error, the old ones stay. Call within the runtime.
    pub fn set_tls(&self, material: &TlsMaterial) -> Result<(), TlsError> {
        let shared = self.shared();
        let tls = TlsConfigs::new(material, shared.node, shared.cluster, &shared.limits)?;
        let has_changed = tls.material != shared.tls().material;
        *shared.tls.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(tls.replacing());
        if has_changed {
            shared.renewals.send_replace(());
        }
        tokio::spawn(standing::check_all(Arc::clone(shared)));
        Ok(())
    }

    /// Takes other bounds of connections, for those that come from now on.
    pub fn set_accept_limits(&self, limits: AcceptLimits) {
        *self.shared().accept_limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Whose a client's connection is, and from where; `None` where it is gone.
    pub fn client(&self, connection: ConnectionId) -> Option<(Arc<Bearer>, SocketAddr)> {
        let link = self.shared().client(connection)?;
        Some((Arc::clone(link.bearer.as_ref()?), link.address))
    }

    /// Sends to a peer after the next [`Transport::flush`]: an answer on the connection that the
    /// peer dialled, anything else on the one that this node dialled. Dropped and counted where
    /// there is no such connection, or where too much waits for it.
    pub fn send_peer(&self, to: NodeId, request: u64, message: &PeerMessage) {
        let shared = self.shared();
        let link = if message.is_answer() { shared.accepted(to) } else { shared.dialled(to) };
        shared.put_peer(link, message.class(), |buffer| message.put(request, buffer));
    }

    /// Answers a client after the next [`Transport::flush`]. Dropped and counted where it is gone;
    /// one that has too much waiting is cut off.
    pub fn send_client(&self, connection: ConnectionId, request: u64, message: &ClientResponse) {
        let shared = self.shared();
        let Some(link) = shared.client(connection) else {
            return add(&shared.counters.dropped_unconnected, 1);
        };
        link.on_answered();
        if matches!(message, ClientResponse::Failure(failure) if is_refusal(failure.code)) {
            link.on_refused();
        }
        let put = shared.put(&link.foreground, |buffer| message.put(request, buffer));
        if put == Put::Full {
            add(&shared.counters.cut_off, 1);
            let address = link.address;
            let waiting = shared.limits.queued_bytes_max;
            tracing::warn!(?connection, %address, waiting, "cut off a client that does not read");
            Close::NotReading.close(&link.connection, NOT_READING);
            shared.remove_client(connection);
        }
    }

    /// Sends gossip at once to the peer at an address: a member, or one that has dialled this node
    /// and says that it listens there. Dropped and counted where none is connected, or where the
    /// body is larger than a shared stream carries.
    pub fn send_gossip(&self, to: SocketAddr, body: &[u8]) {
        let shared = self.shared();
        let Some(link) = shared.at_address(to) else {
            return add(&shared.counters.dropped_unconnected, 1);
        };
        let put = if body.len() > SHARED_STREAM_BODY_BYTES_MAX {
            Put::Full
        } else {
            link.background.put(|buffer| {
                put_frame(buffer, KIND_GOSSIP, 0, |writer| io::Write::write_all(writer, body))
                    .expect("memory takes it");
            })
        };
        match put {
            Put::First => link.background.wake(),
            // Somebody is about to flush.
            Put::Queued => {}
            Put::Full => add(&shared.counters.dropped_full, 1),
        }
    }

    /// Closes the connections with a peer that said what no right node says. This node dials again.
    pub fn refuse_peer(&self, node: NodeId, reason: &str) {
        let shared = self.shared();
        for link in [shared.accepted(node), shared.dialled(node)].into_iter().flatten() {
            Close::Garbage.close(&link.connection, reason);
        }
    }

    /// Starts the writers of all connections that got something since the last flush.
    pub fn flush(&self) {
        self.shared().flush();
    }

    /// Sends what waits, for `limit` at most; then closes all connections and the port. Nothing can
    /// be sent or received afterwards.
    pub async fn close(&self, limit: Duration) {
        let shared = self.shared();
        let links = shared.start_closing();
        shared.endpoint.set_server_config(None);
        shared.flush();
        for link in &links {
            link.finish();
        }
        let all = async {
            for link in &links {
                link.finished().await;
            }
        };
        if timeout(limit, all).await.is_err() {
            tracing::warn!("not everything was sent before closing");
        }
        close_endpoint(shared);
        // The farewell goes out even to those that do not acknowledge it.
        let _ = timeout(limits::FAREWELL_TIMEOUT, shared.endpoint.wait_idle()).await;
    }

    /// Counters and gauges.
    pub fn stats(&self) -> TransportStats {
        self.shared().stats()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }
}

/// Whether nothing was done for a request that failed so, but to look at it.
fn is_refusal(code: FailureCode) -> bool {
    match code {
        FailureCode::WrongConfiguration
        | FailureCode::Overloaded
        | FailureCode::UnknownTable
        | FailureCode::Invalid
        | FailureCode::NotServing
        | FailureCode::Protocol
        | FailureCode::TimeAhead
        | FailureCode::Forbidden => true,
        FailureCode::Unavailable | FailureCode::TooManySiblings | FailureCode::Conflict => false,
    }
}

fn close_endpoint(shared: &Shared) {
    shared.start_closing();
    let code = VarInt::from_u32(Close::Stopping as u32);
    shared.endpoint.close(code, b"the node stops");
    shared.forget_members();
}

/// A restarted node knows the connections of its former life by their ids and tells the other side
/// at once that they are gone, as both keys come from the node's private key.
fn endpoint_config(secret: &[u8; 32]) -> EndpointConfig {
    let ids = u64::from_le_bytes(secret[..8].try_into().expect("eight bytes"));
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
        .max_udp_payload_size(limits::RECEIVED_PACKET_BYTES_MAX)
        .expect("QUIC allows packets of that size");
    config
}

fn socket(listen: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    // As much as the kernel allows: packets that find no room are sent again, only later.
    let _ = socket.set_recv_buffer_size(limits::SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(limits::SOCKET_BUFFER_BYTES);
    if let Ok(granted) = socket.recv_buffer_size()
        && granted < limits::SOCKET_BUFFER_BYTES
    {
        tracing::info!(
            granted,
            wanted = limits::SOCKET_BUFFER_BYTES,
            "the kernel grants small socket buffers: raise net.core.rmem_max and wmem_max"
        );
    }
    socket.bind(&listen.into())?;
    Ok(socket.into())
}
