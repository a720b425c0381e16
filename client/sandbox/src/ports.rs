//! Ports of a cluster, claimed for as long as it runs: many processes look for some at the same time.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use quoit_node::up::HTTP_PORT_OFFSET;

/// Below the ports that systems give to clients (32,768 and more on Linux): one of those may be taken by
/// any connection between the look at it and its use.
const FIRST: u16 = 10_240 + 64;
/// From one cluster's ports to the next one's.
const BLOCK: u16 = 256;
const BLOCKS: u32 = 80;
/// From the node's port to the one whose holder may use the block.
const CLAIM_OFFSET: u16 = 2 * HTTP_PORT_OFFSET - 64;

/// The ports of a cluster of one node. No other process that asks here is given them meanwhile.
#[derive(Debug)]
pub(crate) struct Ports {
    base: u16,
    _claim: UdpSocket,
}

impl Ports {
    /// Finds free ones.
    ///
    /// # Panics
    /// Where there are none.
    pub(crate) fn claim() -> Self {
        (0..BLOCKS)
            .map(|attempt| std::process::id().wrapping_add(attempt) % BLOCKS)
            .map(|number| FIRST + BLOCK * u16::try_from(number).expect("there are fewer"))
            .find_map(|base| {
                let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, base + CLAIM_OFFSET)).ok()?;
                UdpSocket::bind((Ipv4Addr::LOCALHOST, base)).ok()?;
                TcpListener::bind((Ipv4Addr::LOCALHOST, base + HTTP_PORT_OFFSET)).ok()?;
                Some(Self { base, _claim: claim })
            })
            .expect("some ports are free")
    }

    /// The node's; it serves HTTP at [`HTTP_PORT_OFFSET`] above.
    pub(crate) fn base(&self) -> u16 {
        self.base
    }
}
