//! `quoit up`: a cluster on this host from one command, for trying and for developing.
//!
//! [`prepare`] makes a directory with an authority, certificates and a configuration a node, or
//! finds them from before. [`Cluster`] starts a `quoit serve` process for each, tells who dies, and
//! stops all. The processes have process groups of their own, so that the terminal's Ctrl-C
//! reaches them only through this one; and they watch a pipe from it, so that they stop with it
//! even if it is killed.

mod prepare;
mod process;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use quoit_ring::{NodeId, VnodeCount};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::authority::AuthorityError;
use crate::config::{self, ConfigError};
use crate::http::fetch;

pub use prepare::{Prepared, PreparedNode, prepare};

use process::{LogFile, Order, Started};

/// How many nodes there are when nobody says otherwise.
pub const NODES: u16 = 3;
/// More nodes than this are not started on one host.
pub const NODES_MAX: u16 = 64;
/// The first node's UDP port when nobody says otherwise; its HTTP port is
/// [`HTTP_PORT_OFFSET`] above.
pub const BASE_PORT: u16 = 7101;
/// From a node's UDP port to its HTTP port.
pub const HTTP_PORT_OFFSET: u16 = config::HTTP_PORT_OFFSET;
/// How long the nodes may take until all serve.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the nodes may take to stop before they are killed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(20);

const POLL_INTERVAL: Duration = Duration::from_millis(50);
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// What `quoit up` is told. What is `None` is taken from the directory, or has its default.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// Where everything lies.
    pub directory: PathBuf,
    /// How many nodes (3).
    pub nodes: Option<u16>,
    /// N, at most as many as there are nodes (3).
    pub replication: Option<u8>,
    /// The first node's UDP port (7101).
    pub base_port: Option<u16>,
    /// Q (1,024).
    pub vnodes: Option<VnodeCount>,
}

/// A cluster that could not be started. Data that was there is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// An option is out of range.
    #[error("{0}")]
    Option(String),
    /// The directory holds a cluster that was made with other options.
    #[error(
        "{} holds a cluster with {option} {found}, and {option} {asked} was asked for: leave the \
         option out to start what is there, or choose another --dir", directory.display()
    )]
    Contradiction {
        /// The directory.
        directory: PathBuf,
        /// The option.
        option: &'static str,
        /// What the directory says.
        found: u64,
        /// What was asked for.
        asked: u64,
    },
    /// Another `quoit up` uses the directory.
    #[error("another `quoit up` uses {}: stop that one first, or choose another --dir", .0.display())]
    Busy(PathBuf),
    /// The directory holds something else.
    #[error(
        "{} is not empty and was not made by `quoit up` (it holds {example}): choose another --dir",
        directory.display()
    )]
    NotOurs {
        /// The directory.
        directory: PathBuf,
        /// One of the things found there.
        example: String,
    },
    /// `up.toml` is not what this program wrote.
    #[error("{} is not understood: {message}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A port is taken. No node was started.
    #[error("{protocol} port {address} of {node} is in use: {advice}")]
    PortInUse {
        /// UDP or TCP.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// The node that needs it.
        node: NodeId,
        /// What to do.
        advice: String,
    },
    /// An address of a configuration cannot be used on this host. No node was started.
    #[error("{node} cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The node that needs it.
        node: NodeId,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("{} cannot be {action}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The authority or a certificate.
    #[error("the cluster's certificates cannot be made")]
    Authority(#[from] AuthorityError),
    /// A node's configuration, perhaps edited since.
    #[error("a node's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// A process could not be started.
    #[error("{node} cannot be started ({})", program.display())]
    Start {
        /// The node.
        node: NodeId,
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A node ended before it served.
    #[error("{node} ended before it was ready ({status}); the end of its log, {}:\n{last_lines}", log.display())]
    Died {
        /// The node.
        node: NodeId,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        last_lines: String,
    },
    /// Not all nodes served in time.
    #[error("not ready after {} s: {}", timeout.as_secs(), reasons.join("; "))]
    NotReady {
        /// How long was waited.
        timeout: Duration,
        /// For each node that is not ready: why not, and where its log is.
        reasons: Vec<String>,
    },
    /// Nobody is left.
    #[error("all nodes have died; their logs are log.txt in {}/n1 and so on", .0.display())]
    AllDied(PathBuf),
}

/// What happens to a running cluster, for people: one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A node ended by itself or was killed. The others go on.
    Died {
        /// The node.
        node: NodeId,
        /// How it ended.
        status: String,
        /// The configuration with which it can be started again.
        config: PathBuf,
    },
    /// The nodes were told to stop.
    Stopping(usize),
    /// A node has stopped; the second part says how, if it was not the right way.
    Stopped(NodeId, Option<String>),
    /// Nodes did not stop in time and were killed.
    Killed(Vec<NodeId>),
    /// No node runs any more.
    AllStopped,
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Died { node, status, config } => write!(
                f,
                "{node} died ({status}); the others go on. Start it again with: quoit serve \
                 --config {}",
                config.display()
            ),
            Self::Stopping(count) => write!(f, "stopping {count} nodes ..."),
            Self::Stopped(node, None) => write!(f, "{node} has stopped"),
            Self::Stopped(node, Some(status)) => {
                write!(f, "{node} did not stop cleanly ({status})")
            }
            Self::Killed(nodes) => {
                let names: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
                write!(
                    f,
                    "{} did not stop within {} s and will be killed; no acknowledged write is lost",
                    names.join(", "),
                    STOP_TIMEOUT.as_secs()
                )
            }
            Self::AllStopped => f.write_str("all nodes have stopped; the data is kept"),
        }
    }
}

/// The nodes' processes. If it is dropped, they stop by themselves: their input ends.
pub struct Cluster {
    prepared: Prepared,
    /// Each ends with its node's index.
    processes: JoinSet<(usize, io::Result<ExitStatus>)>,
    order: watch::Sender<Order>,
    running: BTreeMap<usize, LogFile>,
    process_ids: BTreeMap<usize, u32>,
}

impl Cluster {
    /// Starts `program serve` for each node, after a look at all their ports.
    ///
    /// # Errors
    /// See [`UpError`]; nodes that were started before one could not be are stopped again.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(prepared: Prepared, program: &Path) -> Result<Self, UpError> {
        for node in &prepared.nodes {
            check_ports(node, prepared.is_new)?;
        }
        let (order, _) = watch::channel(Order::Run);
        let mut cluster = Self {
            prepared,
            processes: JoinSet::new(),
            order,
            running: BTreeMap::new(),
            process_ids: BTreeMap::new(),
        };
        for index in 0..cluster.prepared.nodes.len() {
            if let Err(error) = cluster.spawn(index, program) {
                cluster.stop(|_| {}).await;
                return Err(error);
            }
        }
        Ok(cluster)
    }

    /// The nodes, ascending by id.
    pub fn nodes(&self) -> &[PreparedNode] {
        &self.prepared.nodes
    }

    /// The process of each node that was started, so that a person can kill one.
    pub fn process_ids(&self) -> impl Iterator<Item = (NodeId, u32)> {
        self.process_ids.iter().map(|(index, process)| (self.id(*index), *process))
    }

    /// The directory that a client of this cluster needs.
    pub fn client_directory(&self) -> &Path {
        &self.prepared.client_directory
    }

    /// Waits until all nodes say that they serve.
    ///
    /// # Errors
    /// [`UpError::Died`] as soon as one ends, [`UpError::NotReady`] after the timeout. The others
    /// go on: stop them.
    pub async fn wait_ready(&mut self, timeout: Duration) -> Result<(), UpError> {
        let deadline = Instant::now() + timeout;
        let mut waiting: BTreeMap<usize, String> =
            self.running.keys().map(|index| (*index, "not asked yet".to_owned())).collect();
        let mut polls = interval(POLL_INTERVAL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !waiting.is_empty() {
            tokio::select! {
                Some(ended) = self.processes.join_next() => {
                    if let Some(died) = self.died(ended) {
                        return Err(died);
                    }
                }
                _ = polls.tick() => self.poll(&mut waiting, deadline).await,
            }
            if Instant::now() >= deadline && !waiting.is_empty() {
                return Err(UpError::NotReady { timeout, reasons: self.reasons(&waiting) });
            }
        }
        Ok(())
    }

    /// Tells who dies; returns only when nobody is left. Cancel it by dropping.
    pub async fn watch(&mut self, mut report: impl FnMut(Notice)) -> UpError {
        while let Some(ended) = self.processes.join_next().await {
            let Ok((index, status)) = ended else {
                continue;
            };
            self.running.remove(&index);
            let node = &self.prepared.nodes[index];
            report(Notice::Died {
                node: node.config.node.id,
                status: in_words(&status),
                config: node.config_path.clone(),
            });
        }
        UpError::AllDied(self.prepared.directory.clone())
    }

    /// Tells all nodes to stop, kills those that do not within [`STOP_TIMEOUT`], and returns when
    /// none is left.
    pub async fn stop(mut self, mut report: impl FnMut(Notice)) {
        if self.running.is_empty() {
            return;
        }
        report(Notice::Stopping(self.running.len()));
        self.order.send_replace(Order::Terminate);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !self.running.is_empty() {
            let next = timeout_at(deadline, self.processes.join_next()).await;
            match next {
                Ok(Some(ended)) => self.stopped(ended, &mut report),
                Ok(None) => break,
                Err(_) => {
                    report(Notice::Killed(
                        self.running.keys().map(|index| self.id(*index)).collect(),
                    ));
                    self.order.send_replace(Order::Kill);
                    while let Some(ended) = self.processes.join_next().await {
                        self.stopped(ended, &mut report);
                    }
                    break;
                }
            }
        }
        report(Notice::AllStopped);
    }

    fn spawn(&mut self, index: usize, program: &Path) -> Result<(), UpError> {
        let node = &self.prepared.nodes[index];
        let Started { run, log, process_id } =
            process::start(node, program, self.order.subscribe())?;
        self.processes.spawn(async move { (index, run.await) });
        self.running.insert(index, log);
        self.process_ids.insert(index, process_id);
        Ok(())
    }

    fn id(&self, index: usize) -> NodeId {
        self.prepared.nodes[index].config.node.id
    }

    async fn poll(&self, waiting: &mut BTreeMap<usize, String>, deadline: Instant) {
        for index in self.running.keys() {
            let Some(reason) = waiting.get_mut(index) else {
                continue;
            };
            let address = self.prepared.nodes[*index].config.http.listen;
            let left = deadline.saturating_duration_since(Instant::now());
            match fetch(address, "/readyz", POLL_TIMEOUT.min(left)).await {
                Ok(answer) if answer.status == 200 => {
                    waiting.remove(index);
                }
                Ok(answer) => *reason = answer.body.trim().replace('\n', ", "),
                Err(error) => *reason = format!("http://{address}/readyz: {error}"),
            }
        }
    }

    fn reasons(&self, waiting: &BTreeMap<usize, String>) -> Vec<String> {
        let log = |index: &usize| self.prepared.nodes[*index].log_path.display();
        waiting
            .iter()
            .map(|(index, reason)| {
                format!("{} says \"{reason}\" (its log is {})", self.id(*index), log(index))
            })
            .collect()
    }

    /// That a node ended before it served; `None` if only its task was lost.
    fn died(
        &mut self,
        ended: Result<(usize, io::Result<ExitStatus>), tokio::task::JoinError>,
    ) -> Option<UpError> {
        let (index, status) = ended.ok()?;
        let log = self.running.remove(&index)?;
        Some(UpError::Died {
            node: self.id(index),
            status: in_words(&status),
            last_lines: log.last_lines(),
            log: log.path,
        })
    }

    fn stopped(
        &mut self,
        ended: Result<(usize, io::Result<ExitStatus>), tokio::task::JoinError>,
        report: &mut impl FnMut(Notice),
    ) {
        let Ok((index, status)) = ended else {
            return;
        };
        self.running.remove(&index);
        let clean = matches!(&status, Ok(status) if status.success());
        report(Notice::Stopped(self.id(index), (!clean).then(|| in_words(&status))));
    }
}

fn in_words(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its end was missed: {error}"),
    }
}

/// Names a port in use before any process meets it.
fn check_ports(node: &PreparedNode, is_new: bool) -> Result<(), UpError> {
    let udp = node.config.node.listen;
    let tcp = node.config.http.listen;
    check_port(node, "UDP", udp, UdpSocket::bind(udp).map(drop), is_new)?;
    check_port(node, "TCP", tcp, TcpListener::bind(tcp).map(drop), is_new)
}

fn check_port(
    node: &PreparedNode,
    protocol: &'static str,
    address: SocketAddr,
    bound: io::Result<()>,
    is_new: bool,
) -> Result<(), UpError> {
    let id = node.config.node.id;
    match bound {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let advice = if is_new {
                "stop the program that has it, or choose another --base-port (and another --dir)"
                    .to_owned()
            } else {
                format!(
                    "stop the program that has it (is {id} still running?); the port is in {}",
                    node.config_path.display()
                )
            };
            Err(UpError::PortInUse { protocol, address, node: id, advice })
        }
        Err(source) => Err(UpError::Listen { address, node: id, source }),
    }
}
