//! The bounds of the transport, each with its name, and the settings of QUIC that follow from them.

use std::net::IpAddr;
use std::time::Duration;

use quinn::{MtuDiscoveryConfig, VarInt};
use quoit_protocol::frame::{BODY_BYTES_MAX, HEADER_BYTES};

use super::admission::Bounds;

/// What an answer or a request costs in memory beside its bytes, about.
pub(super) const MESSAGE_COST_BYTES: usize = 256;
/// A bidirectional stream a class; a client uses one.
const BIDIRECTIONAL_STREAMS_MAX: u32 = 2;
/// Large frames under way at once, each on a stream of its own.
const LARGE_STREAMS_MAX: u32 = 16;
/// Bytes of large frames that one connection may have half read here.
pub(super) const LARGE_BYTES_PER_CONNECTION_MAX: usize = 2 * (BODY_BYTES_MAX + HEADER_BYTES);
/// A large frame that takes longer to come ends its connection: it holds memory.
pub(super) const LARGE_FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// TLS, and then again the first frame and its answer, take no longer.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A newcomer that has waited longer for its turn has given up, or soon will: it gets none.
pub(super) const NEWCOMER_WAIT_MAX: Duration = Duration::from_secs(2);
/// While more handshakes than this are under way or wait, the asker must first show that its address
/// is its own.
pub(super) const HANDSHAKES_UNVALIDATED_MAX: usize = 32;
/// Connections that may exist beyond [`AcceptLimits::connections_max`] and the handshakes, so that peers
/// get in when clients have taken all of those, and those that have just ended are not in the way.
pub(super) const CONNECTIONS_SPARE: usize = 256;
/// Newcomers that QUIC keeps for us. All of them go into [`super::admission::Waiting`] at once, which
/// bounds them by the settings.
const INCOMING_MAX: usize = 1 << 16;
/// What QUIC keeps of what one of them sends before it is let in, and of what all send, in bytes.
const INCOMING_BYTES: u64 = 16 << 10;
const INCOMING_BYTES_TOTAL: u64 = 4 << 20;
/// A client's connection holds so many unread bytes before its first operation.
const HELLO_RECEIVE_WINDOW_BYTES: u32 = 64 << 10;
/// A client for which nothing is done, and which has said nothing for so long, makes room for another.
pub(super) const CLIENT_SPARED: Duration = Duration::from_secs(5);
/// Bytes that were read of one client and wait for the loop; one message may be longer.
pub(super) const CLIENT_INBOUND_BYTES_MAX: usize = 1 << 20;
/// A client of whose answers a sixteenth of [`Limits::queued_bytes_max`] waits to be sent is read no
/// further: it is to read first.
pub(super) const UNREAD_SHARE: usize = 16;
/// And one that then takes nothing for so long is cut off: it holds memory.
pub(super) const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the other side may take to read why it is refused.
pub(super) const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection whose place was taken by a newer one of the same two nodes ends after this: until then
/// what was asked on it is answered.
pub(super) const LINGER_TIMEOUT: Duration = Duration::from_secs(15);

/// A client's connection holds at most so many unread bytes in QUIC, from its first operation on.
const CLIENT_RECEIVE_WINDOW_BYTES: usize = 1 << 20;
/// And those of all clients about so many, where each has no less than before its hello: what they may
/// send at once comes in at one socket, where it pushes out what peers send.
const CLIENTS_RECEIVE_WINDOWS_BYTES: usize = 64 << 20;
/// A peer's connection holds at most so many unread bytes in QUIC.
pub(super) const PEER_RECEIVE_WINDOW_BYTES: u32 = 16 << 20;
/// One stream holds at most so many unread bytes, within the connection's window.
const STREAM_RECEIVE_WINDOW_BYTES: u32 = 8 << 20;
/// Bytes sent and not yet acknowledged.
const SEND_WINDOW_BYTES: u64 = 8 << 20;
/// Loopback takes large packets; past 6,500 bytes segmentation offload collapses.
const LOOPBACK_PACKET_BYTES_MAX: u16 = 6_400;
/// Elsewhere packets grow up to what Ethernet carries.
const PACKET_BYTES_MAX: u16 = 1_452;
/// What a socket must be ready to receive.
pub(super) const RECEIVED_PACKET_BYTES_MAX: u16 = 6_500;
/// Nodes are near each other: a first packet that got lost (the peer was just starting) is sent
/// again after three times this.
const PEER_ROUND_TRIP_GUESS: Duration = Duration::from_millis(100);
/// The socket buffers asked of the kernel, which gives what it allows.
pub(super) const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// How many connections a node accepts, and how quickly. A running node takes other ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptLimits {
    /// Clients connected at once. Where there are as many, the one that has been idle longest makes room
    /// for another; where none is idle, the other is turned away.
    pub connections_max: usize,
    /// And so many of them of one address (in IPv6: of one network of 64 bits).
    pub connections_per_source_max: usize,
    /// Handshakes under way at once, TLS and the first frame; where there are more, the oldest goes.
    pub handshakes_max: usize,
    /// And so many of them of one address; as many again wait.
    pub handshakes_per_source_max: usize,
    /// Handshakes begun in a second, but for a few at once; a tenth of it while the node works.
    pub handshakes_per_second: u32,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            connections_per_source_max: 4_096,
            handshakes_max: 256,
            handshakes_per_source_max: 64,
            handshakes_per_second: 1_000,
        }
    }
}

impl AcceptLimits {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            under_way_max: self.handshakes_max.max(1),
            of_source_max: self.handshakes_per_source_max.max(1),
            per_second: self.handshakes_per_second,
        }
    }
}

/// What a node accepts from others, and holds for them. Bytes and milliseconds as named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub accept: AcceptLimits,
    /// Bytes waiting for one receiver (for a peer: for each class). A client that has more is cut
    /// off, because it does not read; a message for such a peer is dropped, as on a lost
    /// connection. One message more than this may wait.
    pub queued_bytes_max: usize,
    /// Bytes waiting for all receivers; past this, each may have only a hundredth of it waiting.
    pub queued_bytes_total_max: usize,
    /// Bytes of messages of clients read but not yet taken from [`super::InboundQueue`], and again as
    /// many of peers; past this, nothing more is read, and the senders are held up. At least the largest
    /// frame.
    pub inbound_bytes_max: usize,
    /// Bytes of large frames that are half read, over all connections. At least the largest frame.
    pub large_bytes_max: usize,
    /// A client's connection on which nothing comes for so long is closed.
    pub client_idle_ms_max: u64,
    /// A peer that is silent for so long is taken for gone.
    pub peer_idle_ms_max: u64,
    /// A peer's connection on which nothing goes is kept alive by a packet this often.
    pub peer_keep_alive_ms: u64,
    /// The least wait before a peer is dialled again.
    pub redial_ms_min: u64,
    /// The greatest.
    pub redial_ms_max: u64,
    /// The wait after a refusal, whose cause people must mend.
    pub redial_refused_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            accept: AcceptLimits::default(),
            queued_bytes_max: 64 << 20,
            queued_bytes_total_max: 1 << 30,
            inbound_bytes_max: 64 << 20,
            large_bytes_max: 256 << 20,
            client_idle_ms_max: 30_000,
            peer_idle_ms_max: 2_500,
            peer_keep_alive_ms: 500,
            redial_ms_min: 50,
            redial_ms_max: 2_000,
            redial_refused_ms: 5_000,
        }
    }
}

impl Limits {
    /// Raises what is too small to pass the largest frame.
    pub(super) fn sane(mut self) -> Self {
        let frame = BODY_BYTES_MAX + HEADER_BYTES + MESSAGE_COST_BYTES;
        self.inbound_bytes_max = self.inbound_bytes_max.max(frame);
        self.large_bytes_max = self.large_bytes_max.max(frame);
        self
    }

    /// What QUIC keeps of those that are not let in yet.
    pub(super) fn set_incoming(config: &mut quinn::ServerConfig) {
        config.max_incoming(INCOMING_MAX);
        config.incoming_buffer_size(INCOMING_BYTES);
        config.incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    }

    /// How connections that others open behave.
    pub(super) fn accepted(&self, remote: IpAddr) -> quinn::TransportConfig {
        let mut transport = common(remote);
        transport.max_concurrent_bidi_streams(BIDIRECTIONAL_STREAMS_MAX.into());
        transport.receive_window(HELLO_RECEIVE_WINDOW_BYTES.into());
        transport.max_idle_timeout(idle(self.client_idle_ms_max));
        transport
    }

    /// How connections that this node opens behave. The smaller of both sides' idle times counts.
    pub(super) fn dialled(&self, remote: IpAddr) -> quinn::TransportConfig {
        let mut transport = common(remote);
        transport.max_concurrent_bidi_streams(0_u32.into());
        transport.receive_window(PEER_RECEIVE_WINDOW_BYTES.into());
        transport.max_idle_timeout(idle(self.peer_idle_ms_max));
        transport.keep_alive_interval(Some(Duration::from_millis(self.peer_keep_alive_ms)));
        transport.initial_rtt(PEER_ROUND_TRIP_GUESS);
        transport
    }
}

/// The receive window of a client that works, where so many are connected.
pub(super) fn client_receive_window(clients: usize) -> VarInt {
    let own = CLIENTS_RECEIVE_WINDOWS_BYTES / clients.max(1);
    let bytes = own.min(CLIENT_RECEIVE_WINDOW_BYTES);
    u32::try_from(bytes).unwrap_or(u32::MAX).max(HELLO_RECEIVE_WINDOW_BYTES).into()
}

fn common(remote: IpAddr) -> quinn::TransportConfig {
    let mut packets = MtuDiscoveryConfig::default();
    packets.upper_bound(if remote.is_loopback() {
        LOOPBACK_PACKET_BYTES_MAX
    } else {
        PACKET_BYTES_MAX
    });
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_uni_streams(LARGE_STREAMS_MAX.into());
    transport.stream_receive_window(STREAM_RECEIVE_WINDOW_BYTES.into());
    transport.send_window(SEND_WINDOW_BYTES);
    transport.datagram_receive_buffer_size(None);
    transport.mtu_discovery_config(Some(packets));
    transport
}

fn idle(milliseconds: u64) -> Option<quinn::IdleTimeout> {
    let milliseconds = VarInt::from_u64(milliseconds).unwrap_or(VarInt::MAX);
    Some(quinn::IdleTimeout::from(milliseconds))
}
