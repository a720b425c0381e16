//! Keys: written, read, superseded, deleted, expired, scanned.

use std::time::Instant;

use super::*;

const EVERY_BYTE: &str = "/v1/tables/plain/keys/%00%ff%2F%25?sort=%0a%fe";

#[tokio::test]
async fn keys_and_values_are_bytes_and_contexts_supersede_what_they_cover() {
    let nodes = Nodes::start().await;
    nodes.table("plain", "").await;

    // Absent, written, read from another node, the same still, another one, deleted.
    assert_eq!(nodes.ask("GET", EVERY_BYTE, &[], b"").await.problem(), (404, "absent".into()));
    let put = nodes.ask("PUT", EVERY_BYTE, &[], b"\0\xff\r\n").await;
    assert_eq!((put.status, put.body.len()), (204, 0), "{put:?}");
    let got = nodes.ask_node(1, "GET", EVERY_BYTE, &[], b"").await;
    assert_eq!((got.status, &got.body[..]), (200, &b"\0\xff\r\n"[..]));
    assert_eq!(got.header("content-type"), "application/octet-stream");
    assert_eq!(got.header("etag"), put.header("etag"));
    assert_eq!(got.header("quoit-context"), put.header("quoit-context"));
    let head = nodes.ask("HEAD", EVERY_BYTE, &[], b"").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "4", 0));
    let tag = got.header("etag");
    let same = nodes.ask("GET", EVERY_BYTE, &[("if-none-match", tag)], b"").await;
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, tag));
    let next = nodes.ask_node(2, "PUT", EVERY_BYTE, &[("if-match", tag)], b"next").await;
    assert_eq!(next.status, 204);
    let changed = nodes.ask("GET", EVERY_BYTE, &[("if-none-match", tag)], b"").await;
    assert_eq!((changed.status, &changed.body[..]), (200, &b"next"[..]));
    for (method, headers) in
        [("PUT", ("if-match", tag)), ("DELETE", ("if-match", tag)), ("PUT", ("if-none-match", "*"))]
    {
        let refused = nodes.ask(method, EVERY_BYTE, &[headers], b"late").await;
        assert_eq!(refused.problem(), (412, "precondition-failed".into()));
        assert_eq!(refused.json()["outcome"], "not_done");
        assert_eq!(refused.header("etag"), next.header("etag"));
    }
    let deleted = nodes.ask("DELETE", EVERY_BYTE, &[("if-match", next.header("etag"))], b"").await;
    assert_eq!(deleted.status, 204);
    let absent = nodes.ask("GET", EVERY_BYTE, &[], b"").await;
    assert_eq!(absent.problem(), (404, "absent".into()));
    // The deletion has a context too, and a write over it is a first one again.
    assert_eq!(absent.header("quoit-context"), deleted.header("quoit-context"));
    let any = nodes.ask("PUT", EVERY_BYTE, &[("if-match", "*")], b"x").await;
    assert_eq!(any.problem().0, 412);
    let first = nodes.ask("PUT", EVERY_BYTE, &[("if-none-match", "*")], b"again").await;
    assert_eq!(first.status, 204, "{first:?}");

    // A value that lives for a while.
    let brief = "/v1/tables/plain/keys/brief";
    assert_eq!(nodes.ask("PUT", &format!("{brief}?ttl=0.4"), &[], b"x").await.status, 204);
    let began = Instant::now();
    let got = nodes.ask("GET", brief, &[], b"").await;
    assert!(got.status == 404 || !got.header("quoit-expires-ms").is_empty());
    while nodes.ask("GET", brief, &[], b"").await.status != 404 {
        assert!(began.elapsed() < LIMIT, "it does not expire");
    }
    nodes.stop().await;
}

#[tokio::test]
async fn siblings_have_two_forms_and_go_where_a_context_covers_them() {
    let nodes = Nodes::start().await;
    nodes.table("carts", r#"{"policy": "siblings"}"#).await;
    let key = "/v1/tables/carts/keys/mine";
    let alone = nodes.ask("PUT", key, &[], b"apples").await;
    assert!(alone.headers.contains_key("etag"), "{alone:?}");
    let beside = nodes.ask_node(1, "PUT", key, &[], b"\xffpears").await;
    assert_eq!(beside.status, 204, "{beside:?}");

    let parts = nodes.ask("GET", key, &[], b"").await;
    assert_eq!(parts.status, 300);
    let boundary = parts.header("content-type").strip_prefix("multipart/mixed; boundary=");
    let text = String::from_utf8_lossy(&parts.body);
    assert_eq!(text.matches(&format!("--{}", boundary.expect("multipart"))).count(), 3, "{text}");
    let documents = nodes.ask("GET", key, &[("accept", "application/json")], b"").await;
    let document = documents.json();
    assert_eq!(documents.status, 300);
    assert_eq!(document["context"], parts.header("quoit-context"));
    let mut values: Vec<_> = document["siblings"].as_array().expect("a list").iter().collect();
    values.sort_by_key(|value| value["written_ms"].as_u64());
    let values = values.iter().map(|value| (&value["value"], &value["value_base64"]));
    let values: Vec<_> = values.map(|(text, bytes)| text.as_str().or(bytes.as_str())).collect();
    assert!(values.contains(&Some("apples")) && values.contains(&Some("/3BlYXJz")), "{values:?}");
    let page = nodes.ask("GET", key, &[("accept", "text/html")], b"").await;
    assert_eq!(page.problem(), (406, "not-acceptable".into()));
    // The tags of both forms differ, and either stands for the same values.
    let (in_parts, in_json) = (parts.header("etag"), documents.header("etag"));
    assert_ne!(in_parts, in_json);
    for tag in [in_parts, in_json] {
        assert_eq!(nodes.ask("GET", key, &[("if-none-match", tag)], b"").await.status, 304);
    }

    let nothing: &[(&str, &str)] = &[];
    for headers in [nothing, &[("quoit-context", "")]] {
        let blind = nodes.ask("DELETE", key, headers, b"").await;
        assert_eq!(blind.problem(), (428, "context-required".into()));
    }
    let context = parts.header("quoit-context");
    let both = nodes.ask("PUT", key, &[("quoit-context", context)], b"both").await;
    assert_eq!(both.status, 204);
    // The old context covers nothing that is there now: this value stands beside.
    assert_eq!(nodes.ask("PUT", key, &[("quoit-context", context)], b"late").await.status, 204);
    assert_eq!(nodes.ask("GET", key, &[], b"").await.status, 300);
    assert_eq!(nodes.ask("DELETE", key, &[("if-match", "*")], b"").await.status, 204);
    assert_eq!(nodes.ask("GET", key, &[], b"").await.status, 404);
    let foreign =
        nodes.ask("PUT", "/v1/tables/carts/keys/other", &[("quoit-context", context)], b"").await;
    assert_eq!(foreign.problem(), (400, "invalid".into()));
    nodes.stop().await;
}

#[tokio::test]
async fn a_scan_goes_on_where_its_cursor_says() {
    let nodes = Nodes::start().await;
    nodes.table("plain", "").await;
    for sort in 0..7_u8 {
        let path = format!("/v1/tables/plain/keys/list?sort=%{sort:02x}");
        assert_eq!(nodes.ask("PUT", &path, &[], &[b'a' + sort]).await.status, 204);
    }
    let items = "/v1/tables/plain/keys/list/items";
    let (mut seen, mut more) = (Vec::new(), String::new());
    loop {
        let page = nodes.ask_node(1, "GET", &format!("{items}?limit=3{more}"), &[], b"").await;
        assert_eq!((page.status, page.header("content-type")), (200, "application/x-ndjson"));
        let mut lines = page.lines();
        let cursor = lines.pop_if(|line| line.get("cursor").is_some());
        assert!(lines.len() <= 3);
        seen.extend(lines.iter().map(|line| line["siblings"][0]["value"].to_string()));
        let Some(cursor) = cursor else { break };
        more = format!("&cursor={}", cursor["cursor"].as_str().expect("text"));
    }
    assert_eq!(seen.join(""), r#""a""b""c""d""e""f""g""#);
    let part = nodes.ask("GET", &format!("{items}?from=%02&to=%04"), &[], b"").await;
    assert_eq!(part.lines().len(), 2);
    let none = nodes.ask("GET", "/v1/tables/plain/keys/nobody/items", &[], b"").await;
    assert_eq!((none.status, none.body.len()), (200, 0));
    for wrong in ["?limit=0", "?cursor=%2B", "?reverse=true"] {
        let answer = nodes.ask("GET", &format!("{items}{wrong}"), &[], b"").await;
        assert_eq!(answer.problem(), (400, "invalid".into()), "{wrong}");
    }
    for wrong in ["?from=b&to=a", "?from=a&cursor=YQ"] {
        let answer = nodes.ask("GET", &format!("{items}{wrong}"), &[], b"").await;
        assert_eq!(answer.problem(), (422, "cannot-be-had".into()), "{wrong}");
    }
    nodes.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_says_why() {
    let nodes = Nodes::start().await;
    nodes.table("plain", "").await;
    let key = "/v1/tables/plain/keys/k";
    for (method, path, headers, status, kind) in [
        ("GET", "/v1/tables/nowhere/keys/k", None, 404, "unknown-table"),
        ("GET", "/v1/tables/nowhere", None, 404, "unknown-table"),
        ("GET", "/v1/elsewhere", None, 404, "no-such-path"),
        ("POST", key, None, 405, "method-not-allowed"),
        ("GET", "/v1/tables/plain/keys/%f", None, 400, "invalid"),
        ("GET", &format!("{key}?level=most"), None, 400, "invalid"),
        ("GET", &format!("{key}?level=4"), None, 422, "cannot-be-had"),
        ("PUT", &format!("{key}?w=4"), None, 422, "cannot-be-had"),
        ("GET", &format!("{key}?w=1"), None, 400, "invalid"),
        ("GET", &format!("{key}?r=1&level=one"), None, 422, "cannot-be-had"),
        ("PUT", &format!("{key}?ttl=0"), None, 400, "invalid"),
        ("GET", &format!("{key}?timeout=61"), None, 400, "invalid"),
        ("PUT", key, Some(("quoit-context", "AP8Q")), 400, "invalid"),
        ("PUT", key, Some(("if-match", "x")), 400, "invalid"),
        ("PUT", key, Some(("content-encoding", "gzip")), 415, "unsupported-media-type"),
        ("GET", &format!("{key}?sort={}", "s".repeat(4_097)), None, 414, "key-too-long"),
        ("GET", key, Some(("host", "evil.example")), 421, "foreign-host"),
    ] {
        let headers: Vec<_> = headers.into_iter().collect();
        let answer = nodes.ask(method, path, &headers, b"").await;
        assert_eq!(answer.problem(), (status, kind.to_owned()), "{method} {path}");
    }
    // Before anything of it is taken in, and so before anything of it is sent.
    let head = format!("PUT {key} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4194305\r\n\r\n");
    let large = asking::say(nodes.address(0), &head).await;
    assert!(large.starts_with("HTTP/1.1 413 ") && large.contains("too-large"), "{large}");
    let fits = nodes.ask("PUT", key, &[], &vec![7; 4 << 20]).await;
    assert_eq!(fits.status, 204, "{fits:?}");
    assert_eq!(nodes.ask_node(1, "GET", key, &[], b"").await.body.len(), 4 << 20);

    // The table is there: the same options are no error, others are.
    let json = [("content-type", "application/json")];
    let same = nodes.ask("PUT", "/v1/tables/plain", &json, b"{}").await;
    assert_eq!((same.status, &same.json()["n"]), (200, &3.into()));
    for (options, status, kind) in [
        (r#"{"policy": "siblings"}"#, 409, "table-differs"),
        (r#"{"policy": "first"}"#, 400, "invalid"),
        (r#"{"replicas": 3}"#, 400, "invalid"),
        (r#"{"n": 4}"#, 422, "cannot-be-had"),
        ("nonsense", 400, "invalid"),
    ] {
        let answer = nodes.ask("PUT", "/v1/tables/plain", &json, options.as_bytes()).await;
        assert_eq!(answer.problem(), (status, kind.to_owned()), "{options}");
    }
    let tables = nodes.ask("GET", "/v1/tables", &[], b"").await.json();
    assert_eq!(tables["tables"][0]["name"], "plain");
    let document = nodes.ask("GET", "/v1/openapi.json", &[], b"").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    nodes.stop().await;
}

#[tokio::test]
async fn requests_go_on_when_another_node_is_killed() {
    let nodes = Nodes::start().await;
    nodes.table("plain", "").await;
    let began = Instant::now();
    let mut written = Vec::new();
    for number in 0..400 {
        if number == 100 {
            nodes.kill(2);
        }
        assert!(began.elapsed() < LIMIT, "it takes too long: {number}");
        let path = format!("/v1/tables/plain/keys/{number}");
        let answer = nodes.ask("PUT", &path, &[], path.as_bytes()).await;
        match answer.status {
            204 => written.push(path),
            // Those that were with the node that died.
            503 | 504 => assert!(answer.json()["outcome"].is_string(), "{answer:?}"),
            status => panic!("{status}: {answer:?}"),
        }
    }
    assert!(written.len() > 300, "{} of 400 were written", written.len());
    for path in written {
        let got = nodes.ask_node(1, "GET", &path, &[], b"").await;
        assert_eq!((got.status, &got.body[..]), (200, path.as_bytes()));
    }
    // Until the others believe that it is dead, they try.
    loop {
        let path = "/v1/tables/plain/keys/0?level=all&timeout=1";
        let all = nodes.ask("PUT", path, &[], b"x").await;
        let outcome = all.json()["outcome"].as_str().map(str::to_owned);
        match all.status {
            503 => {
                assert_eq!(
                    (outcome.as_deref(), all.header("retry-after")),
                    (Some("not_done"), "1")
                );
                break;
            }
            504 => assert_eq!(outcome.as_deref(), Some("unknown")),
            status => panic!("{status}: {all:?}"),
        }
        assert!(began.elapsed() < LIMIT, "its death is not noticed");
    }
    nodes.stop().await;
}
