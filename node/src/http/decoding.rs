//! What holds for any request at all that may come by HTTP: for [`crate::decoding`].

use bytes::BytesMut;
use hyper::header::{
    ACCEPT, AUTHORIZATION, HOST, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH,
};
use hyper::{HeaderMap, Uri};

use super::accept;
use super::access::{Access, Peer};
use super::batch;
use super::items;
use super::lines::{Line, take_line};
use super::query::Query;
use super::route::{DataRoute, Route, decode};
use super::tag::{CONTEXT, Preconditions, context_of_headers, context_text};

/// A line of a batch in [`batches`] has at most so many bytes.
const LINE_BYTES_MAX: usize = 256;
/// The headers that this program reads, by the first sign of a line.
const HEADERS: [HeaderName; 6] = [ACCEPT, AUTHORIZATION, HOST, IF_MATCH, IF_NONE_MATCH, CONTEXT];

/// A request's target, and a header a line behind it, each after a sign that says which.
pub(crate) fn requests(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Some(Ok(uri)) = lines.next().map(Uri::try_from) else { return };
    check_path(uri.path());
    check_query(uri.query());
    let mut headers = HeaderMap::new();
    for line in lines.take(16) {
        let Some((sign, value)) = line.split_first() else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(&HEADERS[usize::from(*sign) % HEADERS.len()], value);
        }
    }
    let _ = accept::choose(&headers, &[("multipart/mixed", 'm'), ("application/json", 'j')]);
    let _ = Access::default().check(&Peer::default(), &headers, &uri);
    if let Ok(Some(context)) = context_of_headers(&headers) {
        let text = headers.get(CONTEXT).and_then(|value| value.to_str().ok());
        assert_eq!(Some(context_text(&context).as_str()), text, "base64url has one form");
    }
    if let Ok(preconditions) = Preconditions::of_headers(&headers) {
        let given = headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH);
        assert_eq!(preconditions.is_empty(), !given, "what is demanded is not passed over");
        let _ = preconditions.check(None);
    }
}

fn check_path(path: &str) {
    let Ok(route) = Route::of(path) else { return };
    assert!(!route.methods().is_empty(), "every path can be asked for");
    if let Route::Data(
        DataRoute::Key { table, partition } | DataRoute::Items { table, partition },
    ) = &route
    {
        let encode =
            |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let rest =
            if matches!(route, Route::Data(DataRoute::Items { .. })) { "/items" } else { "" };
        let (table, partition) = (encode(table.as_bytes()), encode(partition));
        let again = Route::of(&format!("/v1/tables/{table}/keys/{partition}{rest}"));
        assert!(again.is_ok_and(|again| again == route), "a key is its bytes, however written");
    }
}

fn check_query(text: Option<&str>) {
    for known in [
        &["r", "w", "timeout"][..],
        &["from", "to", "limit", "cursor", "level", "r", "timeout"],
        &["sort", "level", "w", "ttl", "timeout"],
        &[],
    ] {
        let Ok(query) = Query::parse(text, known) else { continue };
        let (_, _) = (query.level("r"), query.level("w"));
        let (_, _) = (query.timeout(), query.ttl());
        let _ = query.number("limit", 1..=100);
        if let Some(cursor) = query.bytes("cursor")
            && let Ok(from) = items::from_cursor(&cursor)
        {
            assert_eq!(items::cursor_of(&from).as_bytes(), cursor, "a cursor has one form");
        }
    }
    let _ = decode(text.unwrap_or_default(), true);
}

/// The lines of a batch, which come in pieces of as many bytes as the first one says: the same lines
/// however they come, and each of them understood or refused.
pub(crate) fn batches(bytes: &[u8]) {
    let Some((&size, text)) = bytes.split_first() else { return };
    let whole = lines(text, text.len().max(1));
    assert_eq!(lines(text, usize::from(size).max(1)), whole, "lines are the same in pieces");
    for line in whole {
        if let Line::Whole(line) = line {
            batch::understand(&line);
        }
    }
}

fn lines(text: &[u8], size: usize) -> Vec<Line> {
    let (mut rest, mut searched, mut skipping) = (BytesMut::new(), 0, false);
    let mut found = Vec::new();
    for (at, piece) in text.chunks(size).enumerate() {
        rest.extend_from_slice(piece);
        let ended = (at + 1) * size >= text.len();
        let mut next =
            |rest: &mut _| take_line(rest, &mut searched, &mut skipping, ended, LINE_BYTES_MAX);
        while let Some(line) = next(&mut rest) {
            found.push(line);
        }
        assert!(rest.len() <= LINE_BYTES_MAX + 1, "more is held than a line may have");
    }
    found
}
