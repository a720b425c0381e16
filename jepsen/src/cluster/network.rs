//! The network between the nodes: a bridge with a namespace for each of them, or loopback.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::ClusterError;
use super::program::run_with_input;

/// Where nodes listen inside their namespaces.
const PORT: u16 = 7101;
const HTTP_PORT: u16 = 7201;
/// On loopback the ports for HTTP lie so far above the others.
const HTTP_OFFSET: u16 = 100;
/// Tries to find free ports.
const PORT_TRIES: usize = 200;
/// The network inside the world: nothing outside knows it.
const NETWORK: [u8; 3] = [10, 77, 0];
/// The client's address.
const CONTROL: u8 = 254;
/// More loss is a partition.
pub(crate) const LOSS_PERCENT_MAX: u8 = 60;

/// How the nodes are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NetworkKind {
    /// Each node is a host of its own, in a network namespace on a bridge (needs root).
    Namespaces,
    /// All nodes on 127.0.0.1: no faults of the network.
    Loopback,
}

/// The network. In namespaces it goes with the process' own (see `world`).
#[derive(Debug)]
pub(crate) struct Network {
    kind: NetworkKind,
    nodes: u16,
    base_port: u16,
}

impl Network {
    /// Makes it.
    ///
    /// # Errors
    /// [`ClusterError::Command`] and [`ClusterError::Ports`].
    pub(super) async fn make(kind: NetworkKind, nodes: u16) -> Result<Self, ClusterError> {
        let base_port = match kind {
            NetworkKind::Namespaces => PORT,
            NetworkKind::Loopback => free_ports(nodes).ok_or(ClusterError::Ports)?,
        };
        let network = Self { kind, nodes, base_port };
        if kind == NetworkKind::Namespaces {
            network.make_namespaces().await?;
        }
        Ok(network)
    }

    async fn make_namespaces(&self) -> Result<(), ClusterError> {
        // The names of the namespaces are files under /run: of a /run of our own.
        run_with_input("mount", &["-t", "tmpfs", "jepsen", "/run"], "").await?;
        let mut lines = format!(
            "link set lo up\nlink add quoit0 type bridge\naddr add {}/24 dev quoit0\n\
             link set quoit0 up\n",
            self.host(CONTROL)
        );
        for number in 1..=self.nodes {
            let _ = write!(
                lines,
                "netns add n{number}\nlink add veth{number} type veth peer name eth0 netns \
                 n{number}\nlink set veth{number} master quoit0 up\n"
            );
        }
        run_with_input("ip", &["-batch", "-"], &lines).await?;
        for at in 0..usize::from(self.nodes) {
            let address = self.address(at).ip();
            let lines =
                format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
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

    /// Whether packets between nodes can be dropped.
    pub(crate) fn has_faults(&self) -> bool {
        self.kind == NetworkKind::Namespaces
    }

    fn host(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = NETWORK;
        Ipv4Addr::new(a, b, c, last)
    }

    pub(crate) fn address(&self, at: usize) -> SocketAddr {
        let number = u8::try_from(at + 1).unwrap_or(u8::MAX);
        match self.kind {
            NetworkKind::Namespaces => (self.host(number), PORT).into(),
            NetworkKind::Loopback => {
                (Ipv4Addr::LOCALHOST, self.base_port + u16::from(number) - 1).into()
            }
        }
    }

    pub(super) fn http_address(&self, at: usize) -> SocketAddr {
        let mut address = self.address(at);
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

    /// Drops what comes to `to` from each of `from`.
    ///
    /// # Errors
    /// [`ClusterError::Command`].
    pub(crate) async fn cut(&self, to: usize, from: &[usize]) -> Result<(), ClusterError> {
        if from.is_empty() {
            return Ok(());
        }
        let from: Vec<String> = from.iter().map(|at| self.address(*at).ip().to_string()).collect();
        let from = from.join(", ");
        self.filter(to, &format!("add rule inet jepsen input ip saddr {{ {from} }} drop\n")).await
    }

    /// Drops so many of 100 packets that come to a node from the others and from clients.
    ///
    /// # Errors
    /// [`ClusterError::Command`].
    pub(crate) async fn lose(&self, to: usize, percent: u8) -> Result<(), ClusterError> {
        let percent = percent.min(LOSS_PERCENT_MAX);
        let rule = format!("add rule inet jepsen input numgen random mod 100 < {percent} drop\n");
        self.filter(to, &rule).await
    }

    /// Lets everything pass again.
    ///
    /// # Errors
    /// [`ClusterError::Command`].
    pub(crate) async fn heal(&self) -> Result<(), ClusterError> {
        if self.has_faults() {
            for at in 0..usize::from(self.nodes) {
                self.filter(at, "flush chain inet jepsen input\n").await?;
            }
        }
        Ok(())
    }
}

/// A port from which on those that the nodes want are free.
fn free_ports(nodes: u16) -> Option<u16> {
    let is_free = |base: u16| {
        (0..nodes).all(|at| {
            UdpSocket::bind((Ipv4Addr::LOCALHOST, base + at)).is_ok()
                && TcpListener::bind((Ipv4Addr::LOCALHOST, base + HTTP_OFFSET + at)).is_ok()
        })
    };
    (0..PORT_TRIES).map(|_| fastrand::u16(10_000..60_000)).find(|base| is_free(*base))
}
