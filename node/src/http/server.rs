//! The listening socket and its connections: accepted, decrypted, kept to their time.
//!
//! HTTP runs on a thread of its own. What keeps a connection from holding anything for long: a TLS
//! handshake, a request's head and each pause between requests end after [`HEAD_TIMEOUT`], an answer
//! that is not taken after [`WRITE_TIMEOUT`], and a waiting connection makes room for a new one.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use quoit_client::ClientBuilder;
use quoit_core::access::Rights;
use quoit_ring::{ClusterId, NodeId};
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio_io_timeout::TimeoutStream;

use super::access::{Access, Peer, TokenError};
use super::connections::{Connections, Place};
use super::front::{Data, Front};
use super::gateway::{self, Gateway};
use super::health::NodeHealth;
use super::page::Cluster;
use super::problem::{Kind, Problem};
use super::response;
use super::tls::{self, Accepting, HttpsError};
use crate::audit::AuditLog;
use crate::config::{AccessRules, Config, HttpSettings};
use crate::metrics::Metrics;
use crate::telemetry::Telemetry;
use crate::transport::admission::Source;
use crate::transport::{TlsError, TlsMaterial, revocation_lists};

/// A request's head is there within this, and so is a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer of which nothing is taken for so long is not sent any more.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// A request's head, and what is read of a connection at once, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Lines of a request's head.
const HEADERS_MAX: usize = 64;
/// How long requests have to end when the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// After the system refused a connection (it has no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server that could not be started. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Another program has the port. Stop it, or choose another one.
    #[error("TCP port {0} is in use by another program: stop that one, or change http.listen")]
    InUse(SocketAddr),
    /// The address is not this host's, or the port is not for this user.
    #[error("cannot listen on {address} (http.listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Tokens or certificates cannot be used.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// The system gives no thread.
    #[error("the thread for HTTP cannot be started")]
    Thread(#[source] io::Error),
}

/// Tokens or certificates that cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The certificates.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// The lists of revoked ones.
    #[error(transparent)]
    Revoked(#[from] TlsError),
}

/// By what those who ask are told apart: what the files of `[http]` say.
#[derive(Default)]
pub struct Doors {
    access: Access,
    tls: Option<Accepting>,
    number: u64,
}

/// Who is at the other end of a connection, as the doors found that it came in by.
pub(super) struct Caller {
    pub(super) peer: Peer,
    door: u64,
}

/// Counts the doors of this process.
static DOORS: AtomicU64 = AtomicU64::new(1);

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doors").finish_non_exhaustive()
    }
}

impl Doors {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`DoorError`], which names the file and the setting.
    pub fn open(
        settings: &HttpSettings,
        rules: &AccessRules,
        cluster: ClusterId,
        own: &TlsMaterial,
    ) -> Result<Self, DoorError> {
        let revoked = revocation_lists(&own.revoked_pem, &own.authority_pem)?;
        let tls = settings.tls.as_ref().map(|tls| tls::accepting(tls, &revoked)).transpose()?;
        let by_certificate =
            settings.tls.as_ref().is_some_and(|tls| tls.client_authority.is_some());
        let access = Access::new(settings.token_file.as_deref(), by_certificate, tls.is_some())?;
        let access = access.with_rules(rules.clone(), cluster);
        Ok(Self { access, tls, number: DOORS.fetch_add(1, Ordering::Relaxed) })
    }

    /// Whether who asks is known, and what they may. A connection that came in by other doors shows its
    /// certificate again.
    pub(super) fn check(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<Rights, Problem> {
        if caller.door != self.number
            && let Some(certificate) = &caller.peer.certificate
        {
            let verifier = self.tls.as_ref().and_then(|tls| tls.verifier.as_ref());
            let is_good = verifier.is_some_and(|verifier| {
                verifier.verify_client_cert(certificate, &[], UnixTime::now()).is_ok()
            });
            if !is_good {
                let detail = "the connection's certificate is not good any more";
                return Err(Problem::new(Kind::Unauthorized, detail).closing());
            }
        }
        self.access.check(&caller.peer, headers, uri)
    }
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    connections_max: usize,
    connections_per_source_max: usize,
    doors: watch::Sender<Arc<Doors>>,
    audit: AuditLog,
    telemetry: Telemetry,
    gateway: Option<GatewayOptions>,
    identity: GatewayIdentity,
}

/// What the gateway is for, and how it is made.
#[derive(Debug)]
struct GatewayOptions {
    builder: watch::Receiver<ClientBuilder>,
    in_flight_max: usize,
    data: bool,
    page: bool,
    node: NodeId,
}

/// By what the gateway is known to its cluster. Where no data is served, nobody is asked for it.
#[derive(Debug, Clone, Default)]
pub struct GatewayIdentity(Option<Arc<watch::Sender<ClientBuilder>>>);

impl GatewayIdentity {
    /// Connects anew with other certificates. What is being answered is answered.
    pub fn set(&self, config: &Config, own: &TlsMaterial) {
        if let Some(builder) = &self.0 {
            builder.send_replace(gateway::builder(config, own));
        }
    }
}

/// The server's thread; it stops when this is dropped.
#[derive(Debug)]
pub struct HttpThread {
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
}

impl HttpServer {
    /// Takes the port (any free one, if it is 0), for health and metrics.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => HttpError::InUse(address),
            _ => HttpError::Listen { address, source },
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            connections_max: crate::config::HTTP_CONNECTIONS_MAX,
            connections_per_source_max: crate::config::HTTP_CONNECTIONS_MAX,
            doors: watch::Sender::new(Arc::default()),
            audit: AuditLog::default(),
            telemetry: Telemetry::default(),
            gateway: None,
            identity: GatewayIdentity::default(),
        })
    }

    /// Takes the port of `[http]`, with all that the configuration says.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn open(config: &Config, own: &TlsMaterial, audit: AuditLog) -> Result<Self, HttpError> {
        let HttpSettings { listen, data, page, connections_max, in_flight_max, .. } = config.http;
        let connections_per_source_max = config.http.connections_per_source_max;
        let rules = config.access.rules(config.is_local());
        let doors = Doors::open(&config.http, &rules, config.cluster.id, own)?;
        let doors = watch::Sender::new(Arc::new(doors));
        let identity = GatewayIdentity((data || page).then(|| {
            let (builder, _) = watch::channel(gateway::builder(config, own));
            Arc::new(builder)
        }));
        let gateway = identity.0.as_ref().map(|builder| GatewayOptions {
            builder: builder.subscribe(),
            in_flight_max,
            data,
            page,
            node: config.node.id,
        });
        let server = Self::bind(listen)?;
        let bounded = Self { connections_max, connections_per_source_max, ..server };
        Ok(Self { doors, audit, gateway, identity, ..bounded })
    }

    /// Has requests for data traced that say so, and told there.
    pub fn with_telemetry(self, telemetry: Telemetry) -> Self {
        Self { telemetry, ..self }
    }

    /// By what the gateway is known to its cluster, to be exchanged while it runs.
    pub fn identity(&self) -> GatewayIdentity {
        self.identity.clone()
    }

    /// By what those who ask are told apart, to be exchanged while it runs.
    pub fn doors(&self) -> watch::Sender<Arc<Doors>> {
        self.doors.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers on a thread of its own until it is told to stop.
    ///
    /// # Errors
    /// [`HttpError::Thread`].
    pub fn start(
        self,
        health: Arc<NodeHealth>,
        metrics: Arc<Metrics>,
    ) -> Result<HttpThread, HttpError> {
        let (stop, stopping) = watch::channel(false);
        let (end, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HttpError::Thread)?;
        let run = move || {
            if let Err(error) = runtime.block_on(self.serve(health, metrics, stopping)) {
                tracing::error!(%error, "HTTP is not served any more");
            }
            drop(end);
        };
        std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(run)
            .map_err(HttpError::Thread)?;
        Ok(HttpThread { stop, ended })
    }

    /// Answers until `stop` turns true, or its sender is gone.
    ///
    /// # Errors
    /// Where the system gives no socket.
    pub async fn serve(
        self,
        health: Arc<NodeHealth>,
        metrics: Arc<Metrics>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let doors = self.doors.subscribe();
        let (mut data, mut cluster) = (None, None);
        if let Some(options) = self.gateway {
            let GatewayOptions { builder, in_flight_max, .. } = options;
            // Nobody may ever look at the page: for that alone the cluster is not connected to.
            let gateway = Gateway::start(builder, in_flight_max, options.data, stop.clone());
            let (doors, audit) = (self.doors.subscribe(), self.audit);
            let telemetry = self.telemetry;
            cluster = options
                .page
                .then(|| Cluster::new(options.node, gateway.clone(), doors.clone(), audit.clone()));
            data = options.data.then_some(Data { gateway, doors, audit, telemetry });
        }
        let front = Arc::new(Front { health, metrics, data, cluster });
        let connections = Connections::new(self.connections_max, self.connections_per_source_max);
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stopping| *stopping) => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    // Where every other is being answered, this one is turned away.
                    let Some(place) = connections.admit(Source::of(address.ip())) else { continue };
                    let (front, watcher) = (front.clone(), graceful.watcher());
                    let doors = Arc::clone(&doors.borrow());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = place.sent_away() => {}
                            () = converse((stream, address), doors, front, &place, watcher) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        // Whoever has not ended by then is cut off.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
        Ok(())
    }
}

impl HttpThread {
    /// Ends what is being answered, for at most 2 s, and accepts nothing more.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // An error says that the thread has ended, which is what is waited for.
        let _ = self.ended.await;
    }
}

/// One connection, until it ends.
async fn converse(
    (stream, address): (TcpStream, SocketAddr),
    doors: Arc<Doors>,
    front: Arc<Front>,
    place: &Arc<Place>,
    watcher: Watcher,
) {
    // Without it, answers wait for acknowledgements.
    let _ = stream.set_nodelay(true);
    let door = doors.number;
    let acceptor = doors.tls.as_ref().map(|tls| tls.acceptor.clone());
    drop(doors);
    let is_tls = match &acceptor {
        None => false,
        Some(_) => match tokio::time::timeout(HEAD_TIMEOUT, begins_tls(&stream)).await {
            Ok(Ok(is_tls)) => is_tls,
            Ok(Err(_)) | Err(_) => return,
        },
    };
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let stream = Box::pin(stream);
    match acceptor {
        Some(acceptor) if is_tls => {
            let handshake = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await;
            let Ok(Ok(stream)) = handshake else { return };
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = shown.map(|certificate| Arc::new(certificate.clone()));
            let peer = Peer { address: Some(address), encrypted: true, certificate };
            exchange(stream, Caller { peer, door }, front, place, watcher).await;
        }
        _ => {
            let peer = Peer { address: Some(address), ..Peer::default() };
            exchange(stream, Caller { peer, door }, front, place, watcher).await;
        }
    }
}

/// Health and metrics are served in plain beside HTTPS, to those who look after the node.
async fn begins_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == tls::FIRST_BYTE),
    }
}

/// Requests and their answers, one after the other.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    caller: Caller,
    front: Arc<Front>,
    place: &Arc<Place>,
    watcher: Watcher,
) {
    let caller = Arc::new(caller);
    let service = service_fn(|request| {
        let (front, caller, busy) = (Arc::clone(&front), Arc::clone(&caller), place.begin());
        async move {
            let answer = front.answer(&caller, request).await;
            Ok::<_, Infallible>(response::holding(answer, busy))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // Connections end in many ways, and none of them concerns anybody else.
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fetch;

    const TIMEOUT: Duration = Duration::from_secs(5);

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let fetched = fetch(address, path, TIMEOUT).await.unwrap();
        (fetched.status, fetched.body)
    }

    #[tokio::test]
    async fn a_node_is_ready_when_it_says_so_and_says_why_when_not() {
        let server = HttpServer::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = server.address();
        let health = NodeHealth::new();
        let http = server.start(health.clone(), Metrics::new()).unwrap();

        assert_eq!(get(address, "/healthz").await, (200, "alive\n".into()));
        assert_eq!(get(address, "/readyz").await, (503, "starting\n".into()));
        health.set_ready();
        assert_eq!(get(address, "/readyz").await, (200, "ready\n".into()));
        health.set_unready(vec!["disk full".into(), "no record".into()]);
        assert_eq!(get(address, "/readyz").await, (503, "disk full\nno record\n".into()));
        assert_eq!(get(address, "/elsewhere").await.0, 404);
        let (status, text) = get(address, "/v1/tables").await;
        assert!(status == 404 && text.contains("http.data = true"), "{text}");
        let (status, text) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("quoit_requests_total"), "{text}");
        http.stop().await;
        assert!(fetch(address, "/healthz", TIMEOUT).await.is_err());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = HttpServer::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let error = HttpServer::bind(first.address()).unwrap_err();
        assert!(matches!(error, HttpError::InUse(address) if address == first.address()));
        assert!(error.to_string().contains("http.listen"), "{error}");
    }
}
