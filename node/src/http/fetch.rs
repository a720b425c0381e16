//! One GET request, for `quoit up`, which asks its nodes whether they are ready.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// More of an answer is not read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The HTTP status, such as 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Asks for a path and waits for the whole answer.
///
/// # Errors
/// Where nobody answers, not in time, or not in HTTP.
pub async fn fetch(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<Fetched> {
    tokio::time::timeout(timeout, exchange(address, path))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))?
}

async fn exchange(address: SocketAddr, path: &str) -> io::Result<Fetched> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP 1.0: the answer is not chunked, and ends with the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no HTTP"))
}

fn parse(answer: &[u8]) -> Option<Fetched> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Fetched { status, body: body.to_owned() })
}
