//! Who is at the other end of a connection, and so what its frames may be.

use std::net::SocketAddr;

use quoit_core::event::ConnectionId;
use quoit_core::peer::{KIND_GOSSIP, PeerMessage};
use quoit_protocol::frame::Frame;
use quoit_protocol::{ClientRequest, MessageError};
use quoit_ring::NodeId;

use super::Inbound;
use super::closing::Fault;
use super::shared::Shared;

/// The kind of the empty frame with which a dialler opens the foreground stream: QUIC shows a
/// stream to the other side only with its first byte, and answers may be due before it.
pub(super) const KIND_OPEN: u8 = 201;

/// Whose frames these are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    Client {
        connection: ConnectionId,
    },
    Peer {
        node: NodeId,
        /// Where it says that it listens.
        address: SocketAddr,
        /// This node opened the connection: answers come on it, and no requests.
        dialled: bool,
    },
}

impl Origin {
    /// What a frame hands up, if anything.
    pub(super) fn inbound(&self, shared: &Shared, frame: Frame) -> Result<Option<Inbound>, Fault> {
        match *self {
            Self::Client { connection } => {
                let message = ClientRequest::read(&frame).map_err(garbage)?;
                Ok(Some(Inbound::Client { connection, request: frame.request, message }))
            }
            Self::Peer { node, address, .. } if frame.kind == KIND_GOSSIP => {
                let from = shared.member_address(node).unwrap_or(address);
                Ok(Some(Inbound::Gossip { from, body: frame.body }))
            }
            Self::Peer { .. } if frame.kind == KIND_OPEN => Ok(None),
            Self::Peer { node, dialled, .. } => {
                let message = PeerMessage::read(&frame).map_err(garbage)?;
                if matches!(message, PeerMessage::Hello(_) | PeerMessage::Welcome(_)) {
                    return Err(Fault::garbage("the handshake was over already"));
                }
                if message.is_answer() != dialled {
                    return Err(Fault::garbage("a message came on the wrong connection"));
                }
                Ok(Some(Inbound::Peer { from: node, request: frame.request, message }))
            }
        }
    }
}

fn garbage(error: MessageError) -> Fault {
    Fault::garbage(error)
}
