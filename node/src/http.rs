//! A small HTTP server, on loopback unless told otherwise: whether the node lives, whether it
//! serves, and its metrics. It decides nothing: it shows what the node last said of itself.

mod fetch;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

pub use fetch::{Fetched, fetch};

/// The event loop is taken for stuck when it has been silent for so long.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(10);

/// What a node says of itself; shared by an `Arc`.
#[derive(Debug)]
pub struct NodeHealth {
    started: Instant,
    /// Microseconds from `started` to the last heartbeat; 0 before the first.
    heartbeat: AtomicU64,
    /// Why the node does not serve; empty where it does.
    unready: Mutex<Vec<String>>,
}

impl NodeHealth {
    /// A node that is starting: it lives and does not serve.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            heartbeat: AtomicU64::new(0),
            unready: Mutex::new(vec!["starting".to_owned()]),
        })
    }

    /// The event loop calls this in every round, at least every few seconds.
    pub fn heartbeat(&self) {
        let age = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.heartbeat.store(age.max(1), Ordering::Relaxed);
    }

    /// The node serves.
    pub fn set_ready(&self) {
        self.replace(Vec::new());
    }

    /// The node does not serve, for these reasons (at least one).
    ///
    /// # Panics
    /// Without a reason: people must be told one.
    pub fn set_unready(&self, reasons: Vec<String>) {
        assert!(!reasons.is_empty(), "a node that does not serve has a reason");
        self.replace(reasons);
    }

    /// Why the node does not serve now; empty where it does.
    pub fn unready_reasons(&self) -> Vec<String> {
        let mut reasons = self.unready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        reasons.extend(self.stuck());
        reasons
    }

    /// That the event loop is stuck, if it is. One that has not begun yet is not.
    pub fn stuck(&self) -> Option<String> {
        let heartbeat = self.heartbeat.load(Ordering::Relaxed);
        if heartbeat == 0 {
            return None;
        }
        let age = self.started.elapsed().saturating_sub(Duration::from_micros(heartbeat));
        (age > HEARTBEAT_AGE_MAX)
            .then(|| format!("the event loop has been silent for {:.1} s", age.as_secs_f64()))
    }

    fn replace(&self, reasons: Vec<String>) {
        *self.unready.lock().unwrap_or_else(PoisonError::into_inner) = reasons;
    }
}

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
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpServer {
    /// Takes the port (any free one, if it is 0).
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => HttpError::InUse(address),
            _ => HttpError::Listen { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` completes.
    ///
    /// # Errors
    /// Where the system closes the socket.
    pub async fn serve(
        self,
        health: Arc<NodeHealth>,
        metrics: Arc<Metrics>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let shown = Shown { health, metrics };
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_text))
            .fallback(|| async { (StatusCode::NOT_FOUND, "/healthz, /readyz or /metrics\n") })
            .with_state(shown);
        axum::serve(self.listener, router).with_graceful_shutdown(stop).await
    }
}

#[derive(Clone)]
struct Shown {
    health: Arc<NodeHealth>,
    metrics: Arc<Metrics>,
}

async fn healthz(State(shown): State<Shown>) -> Response {
    match shown.health.stuck() {
        None => "alive\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let reasons = shown.health.unready_reasons();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
}

async fn metrics_text(State(shown): State<Shown>) -> Response {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], shown.metrics.text()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let fetched = fetch(address, path, TIMEOUT).await.unwrap();
        (fetched.status, fetched.body)
    }

    #[tokio::test]
    async fn a_node_is_ready_when_it_says_so_and_says_why_when_not() {
        let server = HttpServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = server.address();
        let health = NodeHealth::new();
        let metrics = Metrics::new();
        tokio::spawn(server.serve(health.clone(), metrics, std::future::pending()));

        assert_eq!(get(address, "/healthz").await, (200, "alive\n".into()));
        assert_eq!(get(address, "/readyz").await, (503, "starting\n".into()));
        health.set_ready();
        assert_eq!(get(address, "/readyz").await, (200, "ready\n".into()));
        health.set_unready(vec!["disk full".into(), "no record".into()]);
        assert_eq!(get(address, "/readyz").await, (503, "disk full\nno record\n".into()));
        assert_eq!(get(address, "/elsewhere").await.0, 404);
        let (status, text) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("quoit_requests_total"), "{text}");
    }

    #[test]
    fn a_silent_event_loop_is_neither_alive_nor_ready() {
        let past = Instant::now().checked_sub(Duration::from_secs(60)).expect("an old clock");
        let health = NodeHealth {
            started: past,
            heartbeat: AtomicU64::new(0),
            unready: Mutex::new(Vec::new()),
        };
        // A long start is not taken for a stuck loop.
        assert_eq!(health.stuck(), None);
        health.heartbeat.store(1_000_000, Ordering::Relaxed);
        assert!(health.stuck().is_some_and(|reason| reason.contains("silent for 59")));
        assert_eq!(health.unready_reasons().len(), 1);
        health.heartbeat();
        assert_eq!(health.stuck(), None);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = HttpServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let error = HttpServer::bind(first.address()).await.unwrap_err();
        assert!(matches!(error, HttpError::InUse(address) if address == first.address()));
        assert!(error.to_string().contains("http.listen"), "{error}");
    }
}
