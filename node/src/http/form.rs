//! A key's values as an answer: the value itself, or several as multipart or JSON.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, VARY};
use hyper::{HeaderMap, StatusCode};
use quoit_cli::{put_bytes, siblings_json};
use quoit_client::{Item, Reading, Value};
use serde_json::{Map, Value as Json, json};

use super::accept;
use super::problem::Problem;
use super::response::{self, JSON, OCTETS, Response};
use super::tag::{Tag, context_text, put_context, put_tag};

/// When the value was written, in milliseconds since 1970.
const WRITTEN: HeaderName = HeaderName::from_static("quoit-written-ms");
/// When it expires.
const EXPIRES: HeaderName = HeaderName::from_static("quoit-expires-ms");
/// How many replicas answered.
const ANSWERED: HeaderName = HeaderName::from_static("quoit-answered");
/// Whoever keeps an answer asks each time whether it still holds.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The bytes of the one value.
    Plain,
    /// Each value as a part.
    Multipart,
    /// All values in a document.
    Json,
}

impl Form {
    /// What tells the tags of the forms apart.
    pub(super) fn letter(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Multipart => "m",
            Self::Json => "j",
        }
    }

    /// The form that the reader takes.
    pub(super) fn choose(headers: &HeaderMap, reading: &Reading) -> Result<Self, Problem> {
        let first = match reading.siblings.len() {
            0 | 1 => ("application/octet-stream", Self::Plain),
            _ => ("multipart/mixed", Self::Multipart),
        };
        accept::choose(headers, &[first, ("application/json", Self::Json)])
    }
}

/// What was read, in that form; it is not absent.
pub(super) fn render(reading: &Reading, form: Form) -> Response {
    let several = reading.siblings.len() > 1;
    let status = if several { StatusCode::MULTIPLE_CHOICES } else { StatusCode::OK };
    let mut response = match form {
        Form::Plain => {
            let bytes = reading.single().map(|value| value.bytes.clone());
            response::with_body(status, OCTETS, bytes.unwrap_or_default())
        }
        Form::Multipart => multipart(status, reading),
        Form::Json => response::with_body(status, JSON, reading_json(reading).to_string()),
    };
    let headers = response.headers_mut();
    if let Some(value) = reading.single() {
        put_times(headers, value);
    }
    put_validators(headers, reading, form);
    response
}

/// What lets a reader tell later whether it still holds.
pub(super) fn put_validators(headers: &mut HeaderMap, reading: &Reading, form: Form) {
    put_context(headers, &reading.context);
    if let Some(tag) = Tag::of(reading) {
        put_tag(headers, &tag, form.letter());
    }
    headers.insert(CACHE_CONTROL, ASK_AGAIN);
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.insert(ANSWERED, u16::from(reading.answered).into());
}

fn put_times(headers: &mut HeaderMap, value: &Value) {
    headers.insert(WRITTEN, value.written.wall().0.into());
    if let Some(expires) = value.expires {
        headers.insert(EXPIRES, expires.wall().0.into());
    }
}

fn multipart(status: StatusCode, reading: &Reading) -> Response {
    let boundary = boundary(reading);
    let size: usize = reading.siblings.iter().map(|value| value.bytes.len() + 256).sum();
    let mut body = BytesMut::with_capacity(size);
    for value in &reading.siblings {
        body.put_slice(
            format!("--{boundary}\r\ncontent-type: application/octet-stream\r\n").as_bytes(),
        );
        let mut headers = HeaderMap::new();
        put_times(&mut headers, value);
        for (name, value) in &headers {
            body.put_slice(name.as_str().as_bytes());
            body.put_slice(b": ");
            body.put_slice(value.as_bytes());
            body.put_slice(b"\r\n");
        }
        body.put_slice(b"\r\n");
        body.put_slice(&value.bytes);
        body.put_slice(b"\r\n");
    }
    body.put_slice(format!("--{boundary}--\r\n").as_bytes());
    let content_type = format!("multipart/mixed; boundary={boundary}");
    let content_type = HeaderValue::from_str(&content_type).expect("the boundary is a token");
    response::with_body(status, content_type, body.freeze())
}

/// What separates the parts, and is in none of them. The same values give the same one, so that equal
/// tags mean equal bodies.
fn boundary(reading: &Reading) -> String {
    let mut attempt = 0_u32;
    loop {
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(&attempt.to_le_bytes());
        digest.update(reading.context.as_bytes());
        let name = format!("quoit-{}", URL_SAFE_NO_PAD.encode(&digest.finish().as_ref()[..15]));
        let within = |value: &Value| contains(&value.bytes, name.as_bytes());
        if !reading.siblings.iter().any(within) {
            return name;
        }
        attempt += 1;
    }
}

fn contains(bytes: &Bytes, part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What was read, as a document.
pub(super) fn reading_json(reading: &Reading) -> Json {
    json!({
        "context": context_text(&reading.context),
        "siblings": siblings_json(&reading.siblings),
    })
}

/// One item of a scan, as a document.
pub(super) fn item_json(item: &Item) -> Json {
    let mut object = Map::new();
    put_bytes(&mut object, "sort", &item.key.sort);
    object.insert("context".into(), context_text(&item.context).into());
    object.insert("siblings".into(), siblings_json(&item.siblings));
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use quoit_client::{Context, HybridTime, Level, NodeId, Service, Trail};
    use quoit_ring::WallTime;
    use std::time::Duration;

    fn reading(values: &[&'static [u8]]) -> Reading {
        let value = |bytes: &&'static [u8]| Value {
            bytes: Bytes::from_static(bytes),
            expires: None,
            written: HybridTime::at(WallTime(1_000)),
        };
        Reading {
            siblings: values.iter().map(value).collect(),
            context: Context::from_bytes(vec![1, 2, 3]),
            answered: 2,
            repaired: false,
            service: Service {
                coordinator: NodeId(1),
                level: Level::Quorum,
                trail: Trail::default(),
                took: Duration::ZERO,
                stages: Vec::new(),
            },
        }
    }

    async fn body(response: Response) -> Vec<u8> {
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn one_value_goes_as_it_is() {
        let response = render(&reading(&[b"\0\xff"]), Form::Plain);
        assert_eq!(response.status(), 200);
        let headers = response.headers();
        assert_eq!(headers["etag"], "\"1.AQID\"");
        assert_eq!(headers["quoit-context"], "AQID");
        assert_eq!(headers["quoit-written-ms"], "1000");
        assert_eq!(body(response).await, b"\0\xff");
    }

    #[tokio::test]
    async fn several_go_as_parts_with_a_boundary_that_none_of_them_has() {
        let first = boundary(&reading(&[b"a", b"b"]));
        let hostile: &'static [u8] = format!("\r\n--{first}--").leak().as_bytes();
        let siblings = reading(&[b"a", hostile]);
        let other = boundary(&siblings);
        assert_ne!(first, other);
        let response = render(&siblings, Form::Multipart);
        assert_eq!(response.status(), 300);
        assert_eq!(response.headers()["etag"], "\"2m.AQID\"");
        let text = String::from_utf8(body(response).await).unwrap();
        let parts: Vec<_> = text.split(&format!("--{other}")).collect();
        assert_eq!(parts.len(), 4, "{text}");
        assert!(parts[1].ends_with("quoit-written-ms: 1000\r\n\r\na\r\n"), "{text}");
        assert!(parts[2].ends_with(&format!("\r\n\r\n\r\n--{first}--\r\n")), "{text}");
        assert_eq!(parts[3], "--\r\n");
    }

    #[tokio::test]
    async fn several_go_as_json() {
        let response = render(&reading(&["é".as_bytes(), b"\xff"]), Form::Json);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["etag"]),
            (300, &HeaderValue::from_static("\"2j.AQID\""))
        );
        let document: Json = serde_json::from_slice(&body(response).await).unwrap();
        let expected = json!({"context": "AQID", "siblings": [
            {"value": "é", "written_ms": 1_000}, {"value_base64": "/w==", "written_ms": 1_000},
        ]});
        assert_eq!(document, expected);
    }
}
