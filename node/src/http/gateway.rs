//! The node as a client of its own cluster: through the client library it has routing, retries and
//! deadlines as every client has them, so that any node's HTTP answers for the whole cluster.
//!
//! It goes through QUIC even to the own node. A path straight into the event loop would save that for
//! the keys that this node coordinates, and would be a second client beside the library's for all
//! others; and HTTP has a thread of its own, so that neither TLS nor JSON holds up replication.
//!
//! The client door takes a node's certificate as well as a client's, so the node's own is enough.

use std::sync::Arc;
use std::time::Duration;

use quoit_client::{Client, ClientBuilder, Identity, Limits, Profile, Table, TraceId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::body::Room;
use super::problem::{Kind, Problem};
use crate::config::Config;
use crate::transport::TlsMaterial;

/// How long to wait until the cluster is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(300);

/// How the data is reached, and how much at once.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    client: watch::Receiver<Option<Client>>,
    /// Told when somebody asks for the client.
    wanted: Arc<Notify>,
    in_flight: Arc<Semaphore>,
    pub(super) room: Room,
    /// The trace that requests for keys belong to.
    trace: Option<TraceId>,
}

/// A table, and until when its answer is worth anything.
pub(super) struct Target {
    pub(super) table: Table,
    pub(super) limits: Limits,
    deadline: Instant,
}

impl Gateway {
    /// Begins to connect, at once or when it is first asked for; a task of the current runtime goes on with it until it has succeeded, connects
    /// anew when it is to connect otherwise, and closes the client when `stop` completes.
    pub(super) fn start(
        mut builder: watch::Receiver<ClientBuilder>,
        in_flight_max: usize,
        at_once: bool,
        mut stop: watch::Receiver<bool>,
    ) -> Self {
        let (found, client) = watch::channel(None);
        let wanted = Arc::new(Notify::new());
        if at_once {
            wanted.notify_one();
        }
        let asked = Arc::clone(&wanted);
        tokio::spawn(async move {
            tokio::select! {
                () = asked.notified() => {}
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
            loop {
                let newest = builder.borrow_and_update().clone();
                let connected = tokio::select! {
                    client = connect(newest) => client,
                    Ok(()) = builder.changed() => continue,
                    _ = stop.wait_for(|stopping| *stopping) => break,
                };
                // Who still asks through the former one has its answer: its connections end with
                // their last request.
                found.send_replace(Some(connected));
                tokio::select! {
                    Ok(()) = builder.changed() => {}
                    _ = stop.wait_for(|stopping| *stopping) => break,
                }
            }
            if let Some(client) = found.send_replace(None) {
                client.close().await;
            }
        });
        let in_flight = Arc::new(Semaphore::new(in_flight_max));
        Self { client, wanted, in_flight, room: Room::new(), trace: None }
    }

    /// The same, for a request that belongs to this trace.
    pub(super) fn traced(&self, trace: TraceId) -> Self {
        Self { trace: Some(trace), ..self.clone() }
    }

    /// The right to be worked on, held until the answer is sent.
    pub(super) fn admit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.in_flight).try_acquire_owned().map_err(|_| {
            let detail = "this node answers as many requests as it may: come back, or ask another";
            Problem::new(Kind::Overloaded, detail).closing()
        })
    }

    /// The client; waits for it where the node has just been started.
    pub(super) async fn client(&self, deadline: Instant) -> Result<Client, Problem> {
        self.wanted.notify_one();
        let mut client = self.client.clone();
        let found = tokio::time::timeout_at(deadline, client.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(client)) => Ok(client.clone().expect("it was waited for")),
            Ok(Err(_)) | Err(_) => {
                let detail = "this node does not reach its cluster (see its log): nothing was done";
                Err(Problem::new(Kind::Unavailable, detail))
            }
        }
    }

    /// A table, for a request that may take so long from now on.
    pub(super) async fn table(&self, name: &str, timeout: Duration) -> Result<Target, Problem> {
        let deadline = Instant::now() + timeout;
        let client = self.client(deadline).await?;
        let table =
            tokio::time::timeout_at(deadline, client.table(name)).await.map_err(|_| {
                Problem::new(
                    Kind::TimedOut,
                    "the list of tables was not had in time; nothing was done",
                )
            })??;
        let table = match self.trace {
            Some(trace) => table.with_profile(&Profile::new().trace(trace)),
            None => table,
        };
        Ok(Target { table, limits: client.limits(), deadline })
    }
}

impl Target {
    /// The same, for what may take so long from now on.
    pub(super) fn begun_now(self, timeout: Duration) -> Self {
        Self { deadline: Instant::now() + timeout, ..self }
    }

    /// The table, with what is left of the time.
    pub(super) fn in_time(&self) -> Table {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.table.clone().with_timeout(left)
    }
}

/// What the node connects with to its cluster.
pub(super) fn builder(config: &Config, tls: &TlsMaterial) -> ClientBuilder {
    let own = config.node.advertise;
    let others = config.cluster.members.iter().map(|member| member.address);
    ClientBuilder::new()
        .cluster(config.cluster.id)
        .contact_points(std::iter::once(own).chain(others.filter(|address| *address != own)))
        .identity(Identity {
            authority_pem: tls.authority_pem.clone(),
            certificate_pem: tls.certificate_pem.clone(),
            key_pem: tls.key_pem.clone(),
        })
        .name(format!("http of {}", config.node.id))
}

async fn connect(builder: ClientBuilder) -> Client {
    loop {
        match builder.clone().connect().await {
            Ok(client) => return client,
            Err(error) => tracing::info!(%error, "HTTP does not reach the cluster yet"),
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}
