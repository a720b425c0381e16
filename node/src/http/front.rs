//! What becomes of a request: found by its path, let in or turned away, answered.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::sync::watch;

use super::asker::{self, Asker};
use super::gateway::Gateway;
use super::health::{self, NodeHealth};
use super::page::Cluster;
use super::problem::{Kind, Outcome, Problem};
use super::response::{self, JSON, Response};
use super::route::{DataRoute, Route};
use super::server::{Caller, Doors};
use super::traceparent::TraceParent;
use super::{batch, items, keys, tables};
use crate::audit::AuditLog;
use crate::metrics::Metrics;
use crate::telemetry::{Served, Telemetry, Told};

/// Whatever a request asks for, it is answered, or an answer is begun, within this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(100);

/// What requests are answered from; shared by all connections.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) health: Arc<NodeHealth>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) data: Option<Data>,
    pub(super) cluster: Option<Cluster>,
}

/// The data, and who may have it.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) gateway: Gateway,
    pub(super) doors: watch::Receiver<Arc<Doors>>,
    pub(super) audit: AuditLog,
    pub(super) telemetry: Telemetry,
}

impl Front {
    /// Answers a request.
    pub(super) async fn answer(&self, caller: &Caller, request: Request<Incoming>) -> Response {
        let is_write = !matches!(*request.method(), Method::GET | Method::HEAD);
        let answering = self.route(caller, request);
        let mut response = match tokio::time::timeout(ANSWER_TIMEOUT, answering).await {
            Ok(Ok(response)) => response,
            Ok(Err(problem)) => problem.into_response(),
            Err(_) if is_write => {
                let detail = "the request was not answered in time; it may be done, now or later";
                Problem::new(Kind::UnknownOutcome, detail)
                    .with_outcome(Outcome::Unknown)
                    .closing()
                    .into_response()
            }
            Err(_) => Problem::new(Kind::TimedOut, "the request was not answered in time")
                .closing()
                .into_response(),
        };
        // What is stored must not be taken by a browser for a page of this host.
        response.headers_mut().insert(
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        );
        response
    }

    async fn route(
        &self,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<Response, Problem> {
        let route = Route::of(request.uri().path())?;
        if !route.methods().contains(request.method()) {
            return Err(method_not_allowed(&route));
        }
        match route {
            Route::Healthz => Ok(health::healthz(&self.health)),
            Route::Readyz => Ok(health::readyz(&self.health)),
            Route::Metrics => Ok(metrics_text(&self.metrics)),
            Route::OpenApi => Ok(openapi()),
            Route::Page(asset) => {
                // It says nothing of the cluster: what it shows it asks for.
                self.cluster.as_ref().ok_or_else(no_page)?;
                Ok(asset.response())
            }
            Route::Cluster => {
                self.cluster.as_ref().ok_or_else(no_page)?.answer(caller, &request).await
            }
            Route::Data(route) => {
                let Some(data) = &self.data else {
                    let detail = "this node serves no data by HTTP: set http.data = true";
                    return Err(Problem::new(Kind::NoSuchPath, detail).closing());
                };
                data.answer(caller, route, request).await
            }
        }
    }
}

impl Data {
    async fn answer(
        &self,
        caller: &Caller,
        route: DataRoute,
        request: Request<Incoming>,
    ) -> Result<Response, Problem> {
        let doors = Arc::clone(&self.doors.borrow());
        let rights = doors.check(caller, request.headers(), request.uri())?;
        let (rights, audit) = (Arc::new(rights), self.audit.clone());
        let asker = Asker { rights, address: caller.peer.address, audit };
        asker.check(asker::need(&route, request.method()))?;
        let parent = self.telemetry.is_on().then(|| TraceParent::sampled(request.headers()));
        let Some(parent) = parent.flatten() else {
            return self.dispatch(&self.gateway, route, asker, request).await;
        };
        let (began, clock) = (SystemTime::now(), Instant::now());
        let (template, table) = (route.template(), route.table().map(ToOwned::to_owned));
        let method = request.method().to_string();
        let gateway = self.gateway.traced(parent.trace);
        let answered = self.dispatch(&gateway, route, asker, request).await;
        self.telemetry.tell(|| {
            let status = match &answered {
                Ok(response) => response.status(),
                Err(problem) => problem.status(),
            };
            // A name that is no table's may be anything.
            let table = table.filter(|_| status != StatusCode::NOT_FOUND);
            Told::Served(Served {
                trace: parent.trace,
                parent: parent.span,
                method,
                route: template,
                table,
                status: status.as_u16(),
                began,
                took: clock.elapsed(),
            })
        });
        answered
    }

    async fn dispatch(
        &self,
        gateway: &Gateway,
        route: DataRoute,
        asker: Asker,
        request: Request<Incoming>,
    ) -> Result<Response, Problem> {
        let turn = gateway.admit()?;
        let response = match route {
            DataRoute::Tables => tables::list(gateway, request).await?,
            DataRoute::Table { table } if *request.method() == Method::PUT => {
                let made = tables::serve(gateway, &table, request).await;
                asker.note_change(&table, &made);
                made?
            }
            DataRoute::Table { table } => tables::serve(gateway, &table, request).await?,
            DataRoute::Key { table, partition } => {
                keys::serve(gateway, &table, partition, request).await?
            }
            DataRoute::Items { table, partition } => {
                items::serve(gateway, &table, partition, request).await?
            }
            DataRoute::Batch { table } => batch::serve(gateway, &table, asker, request).await?,
        };
        Ok(response::holding(response, turn))
    }
}

fn no_page() -> Problem {
    let detail = "this node serves no page: set http.page = true";
    Problem::new(Kind::NoSuchPath, detail).closing()
}

fn method_not_allowed(route: &Route) -> Problem {
    let methods: Vec<_> = route.methods().iter().map(Method::as_str).collect();
    let methods = methods.join(", ");
    let allow = HeaderValue::from_str(&methods).expect("methods are plain text");
    let detail = format!("the path knows {methods}");
    Problem::new(Kind::MethodNotAllowed, detail).with_header(ALLOW, allow).closing()
}

fn metrics_text(metrics: &Metrics) -> Response {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response::with_body(StatusCode::OK, HeaderValue::from_static(format), metrics.text())
}

fn openapi() -> Response {
    response::with_body(StatusCode::OK, JSON, include_str!("openapi.json"))
}
