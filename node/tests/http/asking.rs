//! A request and its answer.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::http::request::Builder;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::LIMIT;

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}"));
        value.to_str().expect("text")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The documents of JSON lines.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        let text = std::str::from_utf8(&self.body).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The status and the type of a problem.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let kind = self.json()["type"].as_str().expect("a type").to_owned();
        (self.status, kind.trim_start_matches("urn:quoit:problem:").to_owned())
    }
}

pub(crate) fn request(method: &str, path: &str) -> Builder {
    Request::builder().method(method).uri(path)
}

/// Sends a request on a connection of its own.
pub(crate) async fn ask(address: SocketAddr, request: Builder, body: impl Into<Bytes>) -> Answer {
    let stream = TcpStream::connect(address).await.expect("it listens");
    ask_on(stream, address, request, body).await
}

pub(crate) async fn ask_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    request: Builder,
    body: impl Into<Bytes>,
) -> Answer {
    let asking = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let request = request.header("host", address.to_string());
        let request = request.body(Full::new(body.into())).expect("a request");
        let response: Response<Incoming> = sender.send_request(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    };
    tokio::time::timeout(LIMIT, asking).await.expect("it is answered in time")
}

/// Sends a text as it is, and reads until the other side closes.
pub(crate) async fn say(address: SocketAddr, text: &str) -> String {
    let saying = async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(text.as_bytes()).await.expect("it is taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("it is closed");
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(LIMIT, saying).await.expect("it is answered in time")
}
