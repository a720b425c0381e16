//! The page that shows what the cluster does, to whoever opens `/` in a browser.
//!
//! The page itself is the same everywhere and says nothing of the cluster: markup, a style and three
//! scripts, which are in the program. What it shows is one document a second, `/ui/cluster.json`, the one
//! of `quoit top --json`, asked of all members through the gateway; for that whoever looks must be let in
//! as for data (see `access`). However many look, the members are asked once in [`FRESH`].
//!
//! Keys and errors are shown as they are, so nothing that is shown may become markup: the scripts make
//! texts only, and the policy that goes with every answer lets no other script or style do anything, and
//! no script turn a text into markup.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY,
};
use hyper::{Request, StatusCode};
use quoit_cli::Picture;
use quoit_core::access::Need;
use quoit_ring::{ClusterRecord, NodeId};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::asker::Asker;
use super::gateway::Gateway;
use super::problem::Problem;
use super::query::Query;
use super::response::{self, Response};
use super::server::{Caller, Doors};
use crate::audit::AuditLog;

/// A picture is not taken anew for so long.
const FRESH: Duration = Duration::from_millis(900);
/// How long each member may take to answer.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long a node that has just been started is waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// What the page may do: run its own scripts and ask this node.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
     trusted-types 'none'",
);

/// A part of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asset {
    /// The markup.
    Page,
    /// `page.css`
    Style,
    /// `page.js`: asks, and shows.
    Script,
    /// `ring.js`: draws the ring.
    Ring,
    /// `words.js`: figures and elements.
    Words,
    /// `icon.svg`
    Icon,
}

impl Asset {
    /// What lies under a name in `/ui`.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "page.css" => Some(Self::Style),
            "page.js" => Some(Self::Script),
            "ring.js" => Some(Self::Ring),
            "words.js" => Some(Self::Words),
            "icon.svg" => Some(Self::Icon),
            _ => None,
        }
    }

    pub(super) fn response(self) -> Response {
        let (content_type, text) = match self {
            Self::Page => ("text/html; charset=utf-8", include_str!("page/page.html")),
            Self::Style => ("text/css; charset=utf-8", include_str!("page/page.css")),
            Self::Script => ("text/javascript; charset=utf-8", include_str!("page/page.js")),
            Self::Ring => ("text/javascript; charset=utf-8", include_str!("page/ring.js")),
            Self::Words => ("text/javascript; charset=utf-8", include_str!("page/words.js")),
            Self::Icon => ("image/svg+xml", include_str!("page/icon.svg")),
        };
        let content_type = HeaderValue::from_static(content_type);
        // Another version of the program has others.
        guarded(response::with_body(StatusCode::OK, content_type, text), "no-cache")
    }
}

/// With what keeps a browser from doing anything else with it.
fn guarded(mut response: Response, cache: &'static str) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin);
    response
}

/// What the page shows.
#[derive(Debug)]
pub(super) struct Cluster {
    node: NodeId,
    gateway: Gateway,
    doors: watch::Receiver<Arc<Doors>>,
    audit: AuditLog,
    last: Mutex<Option<Taken>>,
}

/// A picture, and when it was taken.
#[derive(Debug, Clone)]
struct Taken {
    at: Instant,
    picture: Arc<Value>,
    record: Arc<ClusterRecord>,
}

impl Cluster {
    /// As this node sees it.
    pub(super) fn new(
        node: NodeId,
        gateway: Gateway,
        doors: watch::Receiver<Arc<Doors>>,
        audit: AuditLog,
    ) -> Self {
        Self { node, gateway, doors, audit, last: Mutex::default() }
    }

    /// `/ui/cluster.json`, with the ring where the asker does not say that it knows this version of it.
    pub(super) async fn answer(
        &self,
        caller: &Caller,
        request: &Request<Incoming>,
    ) -> Result<Response, Problem> {
        let doors = Arc::clone(&self.doors.borrow());
        let rights = Arc::new(doors.check(caller, request.headers(), request.uri())?);
        let asker = Asker { rights, address: caller.peer.address, audit: self.audit.clone() };
        asker.check(Need::Observe)?;
        let query = Query::parse(request.uri().query(), &["ring"])?;
        let known = query.number("ring", 0..=u64::MAX)?;
        let turn = self.gateway.admit()?;
        let taken = self.taken().await?;
        let mut document = Value::clone(&taken.picture);
        document["asked"] = self.node.to_string().into();
        if known != Some(taken.record.epoch.0) {
            document["ring"] = ring(&taken.record);
        }
        let answer = guarded(response::json(StatusCode::OK, &document), "no-store");
        Ok(response::holding(answer, turn))
    }

    /// The last picture, or a new one; those who come while it is taken wait for it.
    async fn taken(&self) -> Result<Taken, Problem> {
        let mut last = self.last.lock().await;
        if let Some(taken) = last.as_ref().filter(|taken| taken.at.elapsed() < FRESH) {
            return Ok(taken.clone());
        }
        let client = self.gateway.client(Instant::now() + CONNECT_TIMEOUT).await?;
        let at = Instant::now();
        let picture = Picture::take(&client, PATIENCE).await;
        let record = Arc::new(picture.record().clone());
        let taken = Taken { at, picture: Arc::new(picture.json()), record };
        *last = Some(taken.clone());
        Ok(taken)
    }
}

/// Who owns what: members, and for each virtual node the places of its owners among them.
fn ring(record: &ClusterRecord) -> Value {
    let members: Vec<_> = record.members.iter().map(|member| member.id.to_string()).collect();
    json!({ "epoch": record.epoch.0, "members": members, "owners": record.owners })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_brings_all_that_it_names_and_nothing_from_elsewhere() {
        let page = include_str!("page/page.html");
        for name in ["page.css", "page.js", "icon.svg"] {
            assert!(
                page.contains(&format!("\"ui/{name}\"")) && Asset::of(name).is_some(),
                "{name}"
            );
        }
        let script = include_str!("page/page.js");
        for name in ["ring.js", "words.js"] {
            assert!(
                script.contains(&format!("\"./{name}\"")) && Asset::of(name).is_some(),
                "{name}"
            );
        }
        let all = [
            page,
            script,
            include_str!("page/ring.js"),
            include_str!("page/words.js"),
            include_str!("page/page.css"),
        ];
        for text in all {
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("://"), "it fetches something");
            for markup in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", " style=\""]
            {
                assert!(!text.contains(markup), "{markup}");
            }
        }
    }

    #[test]
    fn every_part_says_what_it_may_do() {
        for asset in
            [Asset::Page, Asset::Style, Asset::Script, Asset::Ring, Asset::Words, Asset::Icon]
        {
            let response = asset.response();
            let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
        }
    }
}
