//! The network between the nodes: a bridge with a namespace for each of them, or loopback.
//!
//! In namespaces packets are cut and lost by nftables at the receiver; on loopback, where all nodes are one
//! host, by a relay that every packet passes. The same relay makes packets slow, out of order, doubled and
//! damaged in both, and is there in namespaces only for those who want that.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::program::run_with_input;
use super::{ClusterError, world};
use crate::relay::{Conditions, Counts, Place, Relay};

/// Where nodes listen inside their namespaces.
const PORT: u16 = 7101;
const HTTP_PORT: u16 = 7201;
/// On loopback the relay's ports lie so far above the nodes', and those for HTTP.
const FRONT_OFFSET: u16 = 50;
const HTTP_OFFSET: u16 = 100;
/// Tries to find free ports.
const PORT_TRIES: usize = 200;
/// The networks inside the world, of the nodes and of the relay: nothing outside knows them.
const NETWORK: [u8; 3] = [10, 77, 0];
const FRONTS: [u8; 3] = [10, 77, 1];
/// The client's address.
const CONTROL: u8 = 254;
/// More loss is a partition.
pub(crate) const LOSS_PERCENT_MAX: u8 = 60;

/// How the nodes are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NetworkKind {
    /// Each node is a host of its own, in a network namespace on a bridge (needs root).
    Namespaces,
    /// All nodes on 127.0.0.1, with a relay between them (needs no rights).
    Loopback,
}

/// The network. In namespaces it goes with the process' own (see `world`).
#[derive(Debug)]
pub(crate) struct Network {
    kind: NetworkKind,
    nodes: u16,
    base_port: u16,
    relay: Option<Relay>,
}

impl Network {
    /// Makes it. `is_disturbed`: packets are not only to be cut and lost.
    ///
    /// # Errors
    /// [`ClusterError::Command`], [`ClusterError::Ports`] and [`ClusterError::Relay`].
    pub(super) async fn make(
        kind: NetworkKind,
        nodes: u16,
        is_disturbed: bool,
        seed: u64,
    ) -> Result<Self, ClusterError> {
        let base_port = match kind {
            NetworkKind::Namespaces => PORT,
            NetworkKind::Loopback => free_ports(nodes).ok_or(ClusterError::Ports)?,
        };
        let mut network = Self { kind, nodes, base_port, relay: None };
        match kind {
            NetworkKind::Namespaces => network.make_namespaces().await?,
            // There for the sake of mounted disks: a new network namespace has its loopback down.
            NetworkKind::Loopback if world::is_inside() => {
                run_with_input("ip", &["link", "set", "lo", "up"], "").await?;
            }
            NetworkKind::Loopback => {}
        }
        if is_disturbed || kind == NetworkKind::Loopback {
            network.relay = Some(network.start_relay(seed)?);
        }
        Ok(network)
    }

    fn start_relay(&self, seed: u64) -> Result<Relay, ClusterError> {
        let place = |at| Place { listen: self.listen(at), front: self.front(at) };
        let places = (0..usize::from(self.nodes)).map(place).collect();
        let client = match self.kind {
            NetworkKind::Namespaces => host(NETWORK, CONTROL),
            NetworkKind::Loopback => Ipv4Addr::LOCALHOST,
        };
        Relay::start(places, client.into(), seed).map_err(ClusterError::Relay)
    }

    async fn make_namespaces(&self) -> Result<(), ClusterError> {
        // The names of the namespaces are files under /run: of a /run of our own.
        run_with_input("mount", &["-t", "tmpfs", "jepsen", "/run"], "").await?;
        let mut lines = format!(
            "link set lo up\nlink add quoit0 type bridge\naddr add {}/16 dev quoit0\n\
             link set quoit0 up\n",
            host(NETWORK, CONTROL)
        );
        for number in 1..=self.nodes {
            let front = self.front(usize::from(number) - 1).ip();
            let _ = write!(
                lines,
                "addr add {front}/16 dev quoit0\n\
                 netns add n{number}\nlink add veth{number} type veth peer name eth0 netns \
                 n{number}\nlink set veth{number} master quoit0 up\n"
            );
        }
        run_with_input("ip", &["-batch", "-"], &lines).await?;
        for at in 0..usize::from(self.nodes) {
            let address = self.listen(at).ip();
            let lines =
                format!("link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\n");
            let name = format!("n{}", at + 1);
            run_with_input("ip", &["-n", &name, "-batch", "-"], &lines).await?;
            self.filter(
                at,
                "add table inet jepsen\n\
                 add chain inet jepsen input { type filter hook input priority 0 ; policy accept ; }\n",
            )
            .await?;
        }
        Ok(())
    }

    /// Where a node listens.
    pub(super) fn listen(&self, at: usize) -> SocketAddr {
        self.place(at, NETWORK, 0)
    }

    /// Where the relay listens for a node.
    fn front(&self, at: usize) -> SocketAddr {
        self.place(at, FRONTS, FRONT_OFFSET)
    }

    fn place(&self, at: usize, network: [u8; 3], offset: u16) -> SocketAddr {
        let number = u8::try_from(at + 1).unwrap_or(u8::MAX);
        match self.kind {
            NetworkKind::Namespaces => (host(network, number), PORT).into(),
            NetworkKind::Loopback => {
                (Ipv4Addr::LOCALHOST, self.base_port + offset + u16::from(number) - 1).into()
            }
        }
    }

    /// Under which address others and clients reach a node.
    pub(crate) fn address(&self, at: usize) -> SocketAddr {
        if self.relay.is_some() { self.front(at) } else { self.listen(at) }
    }

    pub(super) fn http_address(&self, at: usize) -> SocketAddr {
        let mut address = self.listen(at);
        address.set_port(match self.kind {
            NetworkKind::Namespaces => HTTP_PORT,
            NetworkKind::Loopback => address.port() + HTTP_OFFSET,
        });
        address
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        (0..usize::from(self.nodes)).map(|at| self.address(at)).collect()
    }

    /// The command that starts something on a node's host; it goes on as the same process.
    pub(super) fn command(&self, at: usize) -> (&'static str, Vec<String>) {
        match self.kind {
            NetworkKind::Namespaces => ("nsenter", vec![format!("--net=/run/netns/n{}", at + 1)]),
            // Nothing else ends it when this process is killed.
            NetworkKind::Loopback => ("setpriv", vec!["--pdeathsig".to_owned(), "KILL".to_owned()]),
        }
    }

    async fn filter(&self, at: usize, lines: &str) -> Result<(), ClusterError> {
        let namespace = format!("--net=/run/netns/n{}", at + 1);
        run_with_input("nsenter", &[&namespace, "nft", "-f", "-"], lines).await
    }

    /// The relay where it drops packets too: a loopback has no filters of its own.
    fn dropping_relay(&self) -> Option<&Relay> {
        self.relay.as_ref().filter(|_| self.kind == NetworkKind::Loopback)
    }

    /// Drops what comes to `to` from each of `from`.
    ///
    /// # Errors
    /// [`ClusterError::Command`].
    pub(crate) async fn cut(&self, to: usize, from: &[usize]) -> Result<(), ClusterError> {
        if let Some(relay) = self.dropping_relay() {
            for from in from {
                relay.set(*from, to, |conditions| conditions.is_cut = true);
            }
            return Ok(());
        }
        if from.is_empty() {
            return Ok(());
        }
        // From whom a packet is that has passed the relay, its address there tells.
        let both =
            |at: &usize| [self.listen(*at).ip().to_string(), self.front(*at).ip().to_string()];
        let from = from.iter().flat_map(both).collect::<Vec<_>>().join(", ");
        self.filter(to, &format!("add rule inet jepsen input ip saddr {{ {from} }} drop\n")).await
    }

    /// Drops so many of 100 packets that come to a node from the others and from clients.
    ///
    /// # Errors
    /// [`ClusterError::Command`].
    pub(crate) async fn lose(&self, to: usize, percent: u8) -> Result<(), ClusterError> {
        let percent = percent.min(LOSS_PERCENT_MAX);
        if let Some(relay) = self.dropping_relay() {
            for from in (0..=relay.clients()).filter(|from| *from != to) {
                relay.set(from, to, |conditions| conditions.lost_percent = percent);
            }
            return Ok(());
        }
        let rule = format!("add rule inet jepsen input numgen random mod 100 < {percent} drop\n");
        self.filter(to, &rule).await
    }

    /// Has packets from one node to another be slow, out of order, doubled or damaged.
    pub(crate) fn disturb(&self, from: usize, to: usize, disturbed: &Conditions) {
        let relay = self.relay.as_ref().expect("who disturbs packets has asked for a relay");
        relay.set(from, to, |conditions| {
            let Conditions { is_cut, lost_percent, .. } = *conditions;
            *conditions = Conditions { is_cut, lost_percent, ..*disturbed };
        });
    }

    /// Lets everything pass again.
    ///
    /// # Errors
    /// [`ClusterError::Command`].
    pub(crate) async fn heal(&self) -> Result<(), ClusterError> {
        if let Some(relay) = &self.relay {
            relay.clear();
        }
        if self.kind == NetworkKind::Namespaces {
            for at in 0..usize::from(self.nodes) {
                self.filter(at, "flush chain inet jepsen input\n").await?;
            }
        }
        Ok(())
    }

    /// What the relay has done so far, where there is one.
    pub(crate) fn relayed(&self) -> Option<Counts> {
        self.relay.as_ref().map(Relay::counts)
    }
}

fn host([a, b, c]: [u8; 3], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, last)
}

/// A port from which on those that the nodes want are free.
fn free_ports(nodes: u16) -> Option<u16> {
    let is_free = |base: u16| {
        (0..nodes).all(|at| {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, base + at)).is_ok()
                && UdpSocket::bind((Ipv4Addr::LOCALHOST, base + FRONT_OFFSET + at)).is_ok()
                && TcpListener::bind((Ipv4Addr::LOCALHOST, base + HTTP_OFFSET + at)).is_ok()
        })
    };
    (0..PORT_TRIES).map(|_| fastrand::u16(10_000..60_000)).find(|base| is_free(*base))
}
