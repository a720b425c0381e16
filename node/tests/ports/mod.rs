//! Ports for clusters that tests start: three in a row for QUIC, and three a hundred above for HTTP.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that systems give to clients (32,768 and more on Linux): one of those may be taken by
/// any connection between the look at it and its use.
const FIRST: u16 = 10_240;
/// Ports of a cluster, with what lies between.
const BLOCK: u16 = 256;
const BLOCKS: u32 = 80;

/// A port from which on the ones that `up` wants are free. No other cluster of this process is given it
/// soon again.
pub(crate) fn free_base_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    (0..BLOCKS)
        .map(|_| {
            let number = std::process::id() + TAKEN.fetch_add(1, Ordering::Relaxed);
            FIRST + BLOCK * u16::try_from(number % BLOCKS).expect("there are fewer")
        })
        .find(|base| {
            (0..3).all(|at| {
                UdpSocket::bind(("127.0.0.1", base + at)).is_ok()
                    && TcpListener::bind(("127.0.0.1", base + 100 + at)).is_ok()
            })
        })
        .expect("some ports are free")
}
