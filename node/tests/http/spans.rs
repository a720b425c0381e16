//! Traced requests as OpenTelemetry spans, brought to a collector.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::{LIMIT, Nodes, PROGRAM};

const LINES: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];
const KEY: &str = "the-key-of-alice";
const VALUE: &str = "three-secret-apples";

/// Takes spans over HTTP, as collectors do.
struct Collector {
    address: SocketAddr,
    bodies: Receiver<Vec<u8>>,
    /// All that came, and of each trace its spans with the node that sent them.
    bytes: Vec<u8>,
    spans: BTreeMap<Vec<u8>, Vec<(String, Span)>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (sender, bodies) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                std::thread::spawn(move || answer(stream, &sender));
            }
        });
        Self { address, bodies, bytes: Vec::new(), spans: BTreeMap::new() }
    }

    /// Takes in what comes, until a trace has these spans beside others.
    #[track_caller]
    fn wait_for(&mut self, trace: &str, names: &[&str]) -> Vec<(String, Span)> {
        let trace = of_hex(trace);
        let began = Instant::now();
        loop {
            let found = self.spans.get(&trace).cloned().unwrap_or_default();
            if names.iter().all(|name| found.iter().any(|(_, span)| span.name == *name)) {
                return found;
            }
            let left = LIMIT.saturating_sub(began.elapsed());
            let Ok(body) = self.bodies.recv_timeout(left) else {
                panic!("{names:?} never came: {:?}", self.spans);
            };
            self.take(&body);
        }
    }

    fn take(&mut self, body: &[u8]) {
        self.bytes.extend(body);
        let request = ExportTraceServiceRequest::decode(body).expect("what OpenTelemetry reads");
        for resource in request.resource_spans {
            let process = resource.resource.expect("a node says who it is").attributes;
            assert_eq!(text(&process, "service.name"), "quoit");
            let node = text(&process, "service.instance.id");
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let trace = self.spans.entry(span.trace_id.clone()).or_default();
                trace.push((node.clone(), span));
            }
        }
    }
}

/// One request, taken.
fn answer(stream: TcpStream, taken: &Sender<Vec<u8>>) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut line) = (Vec::new(), String::new());
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        head.push(std::mem::take(&mut line).trim().to_ascii_lowercase());
    }
    assert_eq!(head[0], "post /v1/traces http/1.1", "{head:?}");
    assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|text| text.parse().ok()).expect("a length");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    reader.get_mut().write_all(answer).expect("the answer is taken");
    // Who does not listen any more has seen enough.
    let _ = taken.send(body);
}

fn of_hex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let one = attributes.iter().find(|one| one.key == key);
    match one.and_then(|one| one.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

/// Has a node export to there.
fn export_to(config: &Path, address: SocketAddr) {
    let mut text = std::fs::read_to_string(config).expect("it is there");
    text.push_str(&format!("\n[telemetry]\notlp_endpoint = \"http://{address}\"\n"));
    std::fs::write(config, text).expect("it can be written");
}

impl Nodes {
    /// Runs the program as a client of the cluster.
    fn run(&self, arguments: &[&str]) {
        let output = Command::new(PROGRAM)
            .arg("--client")
            .arg(self.directory.path().join("data").join("client"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the program runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// What all nodes together have counted of a series.
    async fn sum(&self, series: &str) -> u64 {
        let mut sum = 0;
        for node in 0..3 {
            let answer = self.ask_node(node, "GET", "/metrics", &[], b"").await;
            let text = String::from_utf8(answer.body.to_vec()).expect("text");
            let value = text.lines().find_map(|line| line.strip_prefix(series));
            sum += value.expect("it is there").trim().parse::<u64>().expect("a number");
        }
        sum
    }
}

/// One span of a client's request, those of its stages below it, and nothing that outlasts it.
fn check_request(spans: &[(String, Span)], operation: &str, level: &str) {
    let (node, root) = spans.iter().find(|(_, span)| span.name == operation).expect("waited for");
    assert!(root.parent_span_id.is_empty(), "{root:?}");
    let told = |key| text(&root.attributes, key);
    assert_eq!(told("db.operation.name"), operation);
    assert_eq!(told("db.collection.name"), "carts");
    assert_eq!(told("quoit.level"), level);
    assert_eq!(told("quoit.outcome"), "done");
    assert_eq!(told("quoit.coordinator"), *node);
    let stages: Vec<_> = spans.iter().filter(|(_, span)| !span.parent_span_id.is_empty()).collect();
    let ids: BTreeSet<_> = spans.iter().map(|(_, span)| &span.span_id).collect();
    assert_eq!(ids.len(), spans.len(), "each span has an id of its own: {spans:?}");
    for (_, stage) in &stages {
        assert!(ids.contains(&stage.parent_span_id), "{stage:?}");
        assert!(stage.start_time_unix_nano >= root.start_time_unix_nano, "{stage:?} {root:?}");
        assert!(stage.end_time_unix_nano <= root.end_time_unix_nano, "{stage:?} {root:?}");
    }
    let nodes: BTreeSet<_> =
        stages.iter().map(|(_, stage)| text(&stage.attributes, "quoit.node")).collect();
    assert!(nodes.len() >= 2 && nodes.contains(node), "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traced_requests_are_spans_of_every_node_and_name_no_key() {
    let mut collector = Collector::start();
    let address = collector.address;
    let nodes = Nodes::start_with(|_, config| export_to(config, address)).await;
    nodes.table("carts", "{}").await;

    let (put, get) = ("0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736");
    nodes.run(&["put", "carts", KEY, VALUE, "--level", "all", &format!("--trace={put}")]);
    nodes.run(&["get", "carts", KEY, "--level", "all", &format!("--trace={get}")]);
    nodes.run(&["get", "carts", KEY]);
    check_request(&collector.wait_for(put, &["put", "commit"]), "put", "all");
    check_request(&collector.wait_for(get, &["get", "read"]), "get", "all");

    let (trace, parent) = ("a3ce929d0e0e47364bf92f3577b34da6", "00f067aa0ba902b7");
    let path = format!("/v1/tables/carts/keys/{KEY}?level=quorum");
    let traceparent = format!("00-{trace}-{parent}-01");
    let headers = [("traceparent", traceparent.as_str())];
    let answer = nodes.ask("GET", &path, &headers, b"").await;
    assert_eq!((answer.status, &answer.body[..]), (200, VALUE.as_bytes()));
    let name = "GET /v1/tables/{table}/keys/{key}";
    let spans = collector.wait_for(trace, &[name, "get", "read"]);
    let (asked, rest): (Vec<_>, Vec<_>) =
        spans.into_iter().partition(|(_, span)| span.name == name);
    let [(node, asked)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((node.as_str(), &asked.parent_span_id), ("n1", &of_hex(parent)));
    assert_eq!(text(&asked.attributes, "http.response.status_code"), "200");
    check_request(&rest, "get", "quorum");

    for ignored in [traceparent.replace("-01", "-00"), format!("{trace}-01")] {
        let answer = nodes.ask("GET", &path, &[("traceparent", &ignored)], b"").await;
        assert_eq!(answer.status, 200, "{ignored}");
    }
    let known = collector.spans.len();
    assert_eq!(known, 3, "what carries no trace, or is not sampled, is not exported");
    let sent: usize = collector.spans.values().map(Vec::len).sum();
    let began = Instant::now();
    while nodes.sum("quoit_spans_total{outcome=\"exported\"}").await < sent as u64 {
        assert!(began.elapsed() < LIMIT, "what the collector has taken is counted");
    }
    assert_eq!(nodes.sum("quoit_spans_total{outcome=\"dropped\"}").await, 0);

    nodes.stop().await;
    while let Ok(body) = collector.bodies.try_recv() {
        collector.take(&body);
    }
    assert_eq!(collector.spans.len(), known);
    for secret in [KEY, VALUE] {
        let is_there = collector.bytes.windows(secret.len()).any(|at| at == secret.as_bytes());
        assert!(!is_there, "{secret} is exported");
    }
}

/// One node's collector takes connections and never answers, another's is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_or_is_away_changes_nothing_for_requests() {
    let hanging = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let hangs = hanging.local_addr().expect("it is bound");
    let away = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port");
    let nodes = Nodes::start_with(|_, config| {
        let is_second = config.parent().is_some_and(|directory| directory.ends_with("n2"));
        export_to(config, if is_second { away } else { hangs });
    })
    .await;
    nodes.table("carts", "{}").await;
    let headers =
        [LINES[0], ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    // More than the queues of all nodes hold, and the batches that their exports work on.
    let line = |key: usize| format!("{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\"v\"}}\n");
    let lines: String = (0..2_000).map(line).collect();
    for _ in 0..2 {
        let answers = nodes.ask("POST", "/v1/tables/carts/batch", &headers, lines.as_bytes()).await;
        let answers = answers.lines();
        assert_eq!(answers.len(), 2_000);
        for answer in answers {
            assert_eq!(answer["status"], 204, "{answer}");
        }
    }
    assert!(nodes.sum("quoit_spans_total{outcome=\"dropped\"}").await > 0, "there is a bound");
    assert_eq!(nodes.sum("quoit_spans_total{outcome=\"exported\"}").await, 0);
    nodes.stop().await;
}
