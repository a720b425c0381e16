//! Batches: each line for itself.

use super::*;

const LINES: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

#[tokio::test]
async fn a_bad_line_keeps_no_other_from_being_done() {
    let nodes = Nodes::start().await;
    nodes.table("plain", "").await;
    let mut batch = Vec::new();
    for number in 0..500 {
        batch.extend(
            format!("{{\"op\":\"put\",\"key\":\"{number}\",\"value\":\"v{number}\"}}\n").bytes(),
        );
    }
    batch.extend(b"\nnonsense\n");
    batch.extend(
        format!("{{\"op\":\"put\",\"key\":\"{}\",\"value\":\"\"}}\n", "k".repeat(5_000)).bytes(),
    );
    batch
        .extend(b"{\"op\":\"put\",\"key_base64\":\"/w==\",\"value_base64\":\"AP8=\",\"ttl\":3600}");
    let answer = nodes.ask("POST", "/v1/tables/plain/batch?w=3", &LINES, &batch).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    let lines = answer.lines();
    assert_eq!(lines.len(), 503);
    for (index, line) in lines[..500].iter().enumerate() {
        let expected = (&(index + 1).into(), &204.into(), &3.into());
        assert_eq!((&line["line"], &line["status"], &line["acknowledged"]), expected);
    }
    assert_eq!((&lines[500]["line"], &lines[500]["status"]), (&502.into(), &400.into()));
    assert_eq!(lines[500]["problem"]["outcome"], "not_done");
    assert_eq!(lines[501]["status"], 413);
    assert_eq!(lines[502]["status"], 204);

    let batch = "{\"op\":\"get\",\"key\":\"7\"}\n{\"op\":\"get\",\"key_base64\":\"/w==\"}\n\
                 {\"op\":\"delete\",\"key\":\"8\"}\n{\"op\":\"get\",\"key\":\"nobody\"}\n";
    let lines = nodes.ask("POST", "/v1/tables/plain/batch", &LINES, batch.as_bytes()).await.lines();
    assert_eq!(lines[0]["siblings"][0]["value"], "v7");
    assert_eq!(lines[1]["siblings"][0]["value_base64"], "AP8=");
    assert!(lines[1]["siblings"][0]["expires_ms"].is_u64());
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(200), Some(200), Some(204), Some(404)]);
    assert_eq!(nodes.ask("GET", "/v1/tables/plain/keys/8", &[], b"").await.status, 404);

    let form = nodes.ask("POST", "/v1/tables/plain/batch", &[], b"").await;
    assert_eq!(form.problem(), (415, "unsupported-media-type".into()));
    let nowhere = nodes.ask("POST", "/v1/tables/nowhere/batch", &LINES, b"").await;
    assert_eq!(nowhere.problem(), (404, "unknown-table".into()));
    let empty = nodes.ask("POST", "/v1/tables/plain/batch", &LINES, b"").await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    nodes.stop().await;
}
