//! Roles, revocation, and the exchange of all that proves who is who, in a cluster of processes that
//! clients use meanwhile.

mod ports;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quoit_client::{ClientBuilder, ReadError, WriteError, blocking, with_sources};

use ports::free_base_port;

const PROGRAM: &str = env!("CARGO_BIN_EXE_quoit");
/// Whatever takes longer has failed.
const LIMIT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A cluster of three nodes. Ends with its owner.
struct Cluster {
    scratch: tempfile::TempDir,
    process: Child,
    nodes: Vec<String>,
    base_port: u16,
    reloads: usize,
}

impl Cluster {
    fn start() -> Self {
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let base_port = free_base_port();
        let mut process = Command::new(PROGRAM)
            .args(["up", "--vnodes", "16", "--base-port", &base_port.to_string(), "--dir"])
            .arg(scratch.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut lines = output.lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains(" is process ")).expect("it serves");
        let nodes = line
            .split(", ")
            .map(|part| part.split_once(" is process ").expect("as printed").1.trim().to_owned());
        let nodes: Vec<_> = nodes.collect();
        assert!(lines.any(|line| line.contains("Ctrl-C stops")), "it goes on");
        Self { scratch, process, nodes, base_port, reloads: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn node(&self, number: usize) -> PathBuf {
        self.path(&format!("data/n{number}"))
    }

    /// Adds lines to every node's configuration.
    fn configure(&self, lines: &str) {
        for number in 1..=3 {
            let path = self.node(number).join("quoit.toml");
            let text = fs::read_to_string(&path).expect("up made it");
            fs::write(&path, format!("{text}\n{lines}")).expect("ours");
        }
    }

    /// Has all nodes read their files again, one after the other.
    fn reload(&mut self) {
        self.reloads += 1;
        for (number, process) in (1..).zip(&self.nodes) {
            let status = Command::new("kill").args(["-HUP", process]).status();
            assert!(status.expect("kill is there").success());
            let log = self.node(number).join("log.txt");
            let text = || fs::read_to_string(&log).expect("the node's log");
            until(
                || text().matches("INFO quoit_node::reload: reloaded").count() == self.reloads,
                &text,
            );
        }
    }

    /// Runs a command, as the client of that directory.
    fn quoit(&self, client: &str, words: &str) -> Output {
        Command::new(PROGRAM)
            .arg("--client")
            .arg(self.path(client))
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .expect("the program runs")
    }

    #[track_caller]
    fn does(&self, client: &str, words: &str) -> String {
        let output = self.quoit(client, words);
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn fails(&self, client: &str, words: &str, code: i32, because: &str) {
        let output = self.quoit(client, words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words}: {text}");
        assert!(text.contains(because), "{words} should say {because:?}: {text}");
    }

    /// Makes a client's directory.
    fn issue(&self, authority: &str, words: &str, out: &str) {
        let points: String = (0..3)
            .map(|at| format!(" --contact-point 127.0.0.1:{}", self.base_port + at))
            .collect();
        let (authority, out) = (self.path(authority), self.path(out));
        let (authority, out) = (authority.display(), out.display());
        let words = format!("ca issue --dir {authority} --out {out} --for-client {words}{points}");
        self.does("data/client", &words);
    }

    /// The status and the body that a node's HTTP answers.
    fn http(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
        let mut stream =
            TcpStream::connect(("127.0.0.1", self.base_port + 100)).expect("it listens");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status = answer.split(' ').nth(1).expect("a status").parse().expect("a number");
        (status, answer)
    }

    fn audit(&self, node: usize) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.node(node).join("data/audit.jsonl")).expect("the log");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

#[track_caller]
fn until(holds: impl Fn() -> bool, tell: &dyn Fn() -> String) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "never: {}", tell());
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn roles_are_kept_changed_and_revoked_while_the_cluster_serves() {
    let mut cluster = Cluster::start();
    for words in ["tables create carts", "tables create salaries", "put carts one apple"] {
        cluster.does("data/client", words);
    }
    cluster.issue("data", "shop --role read-only --table carts", "shop");
    cluster.issue("data", "audit --role read-only", "reader");
    cluster.issue("data", "billing", "billing");
    let shown =
        cluster.does("shop", &format!("ca show {}/client.pem", cluster.path("shop").display()));
    assert!(shown.contains("read-only in carts"), "{shown}");

    // What the certificates give.
    assert_eq!(cluster.does("shop", "get carts one"), "apple");
    cluster.does("shop", "scan carts one");
    cluster.fails("shop", "put carts one pear", 5, "shop may not write to table carts");
    cluster.fails("shop", "delete carts one", 5, "read-write is needed");
    cluster.fails("shop", "get salaries one", 5, "shop may not read table salaries");
    cluster.fails("shop", "tables create more", 5, "make or drop table more");
    cluster.fails("shop", "tables drop carts --yes", 5, "make or drop table carts");
    cluster.fails("shop", "status", 5, "shop may not see how nodes are");
    cluster.fails("shop", "repair run", 5, "shop may not tell nodes what to do");
    cluster.does("reader", "status");
    cluster.does("reader", "hints");
    cluster.does("reader", "scrub status");
    cluster.does("reader", "export --table carts");
    cluster.fails("reader", "repair accept-loss --node n1 --all", 5, "tell nodes what to do");
    // Only this host reaches the cluster: who is not spoken of may everything.
    cluster.does("billing", "put salaries one 1000");
    assert_eq!(cluster.http("GET", "/v1/tables/salaries/keys/one", "", "").0, 200);

    // What the configuration gives instead, from the next request on a connection that stands.
    let shop = ClientBuilder::from_directory(cluster.path("shop")).expect("it is ours");
    let shop = blocking::connect(shop).expect("it may connect");
    let carts = shop.table("carts").expect("it may read");
    let put = || carts.put("two", "fig", &Default::default());
    assert!(matches!(put(), Err(WriteError::Forbidden { .. })), "{:?}", put());
    fs::write(
        cluster.path("tokens"),
        "a-token-for-the-shop shop\na-token-for-reports reports role=read-only table=carts\n",
    )
    .expect("ours");
    let tokens = cluster.path("tokens");
    for number in 1..=3 {
        let path = cluster.node(number).join("quoit.toml");
        let text = fs::read_to_string(&path).expect("up made it");
        let line = format!("data = true\ntoken_file = {tokens:?}\n");
        fs::write(&path, text.replace("data = true\n", &line)).expect("ours");
    }
    cluster.configure(
        "[access]\ndefault_role = \"none\"\n\
         [[access.clients]]\nname = \"shop\"\nrole = \"read-write\"\ntables = [\"carts\"]\n",
    );
    cluster.reload();
    put().expect("it may now");
    cluster.fails("billing", "get salaries one", 5, "billing may not use this cluster");
    // And by HTTP, where tokens count from now on.
    let key = "/v1/tables/carts/keys/three";
    assert_eq!(cluster.http("GET", key, "", "").0, 401);
    assert_eq!(cluster.http("PUT", key, "a-token-for-the-shop", "kiwi").0, 204);
    assert_eq!(cluster.http("GET", key, "a-token-for-reports", "").0, 200);
    let (status, answer) = cluster.http("PUT", key, "a-token-for-reports", "plum");
    assert!(status == 403 && answer.contains("urn:quoit:problem:forbidden"), "{answer}");
    assert_eq!(
        cluster.http("GET", "/v1/tables/salaries/keys/one", "a-token-for-reports", "").0,
        403
    );

    // Revoked: the connection that stands ends, and no other is made.
    let certificate = cluster.path("shop/client.pem");
    let words =
        format!("ca revoke --dir {} {}", cluster.path("data").display(), certificate.display());
    cluster.does("data/client", &words);
    let list = cluster.path("data/revoked.pem");
    for number in 1..=3 {
        let path = cluster.node(number).join("quoit.toml");
        let text = fs::read_to_string(&path).expect("up made it");
        fs::write(&path, text.replace("[tls]\n", &format!("[tls]\nrevoked = {list:?}\n")))
            .expect("ours");
    }
    cluster.reload();
    let last = std::cell::RefCell::new(None);
    until(
        || {
            let answer = carts.get("two");
            let is_over =
                matches!(answer, Err(ReadError::Unreachable { .. } | ReadError::Timeout { .. }));
            last.replace(Some(answer));
            is_over
        },
        &|| format!("{:?}", last.borrow()),
    );
    cluster.fails("shop", "get carts one", 3, "certificate: Revoked");
    cluster.does("data/client", "get carts one");

    // What was written down.
    let lines: Vec<_> = (1..=3).flat_map(|node| cluster.audit(node)).collect();
    let has = |who: &str, action: &str, outcome: &str| {
        lines.iter().any(|line| {
            line["who"] == who && line["action"] == action && line["outcome"] == outcome
        })
    };
    for (who, action, outcome) in [
        ("admin", "create_table", "done"),
        ("shop", "create_table", "forbidden"),
        ("shop", "drop_table", "forbidden"),
        ("shop", "put", "forbidden"),
        ("audit", "accept_loss", "forbidden"),
        ("reports", "put", "forbidden"),
        ("billing", "connect", "forbidden"),
        ("the operator of this host", "reload", "done"),
    ] {
        assert!(has(who, action, outcome), "{who} {action} {outcome}: {lines:#?}");
    }
    let text = lines.iter().map(|line| line.to_string()).collect::<String>();
    for secret in ["a-token-for", "apple", "kiwi", "plum", "1000"] {
        assert!(!text.contains(secret), "{secret}");
    }

    // A node's certificate that is revoked is believed by no client that has the list.
    cluster.issue("data", "careful --role read-only", "careful");
    let path = cluster.path("careful/client.toml");
    let text = fs::read_to_string(&path).expect("issued");
    let only_second = format!("contact_points = [\"127.0.0.1:{}\"]", cluster.base_port + 1);
    let lines = text.lines().map(|line| match line.starts_with("contact_points") {
        true => only_second.as_str(),
        false => line,
    });
    let lines: Vec<_> = lines.collect();
    fs::write(&path, format!("{}\nrevoked = {list:?}\n", lines.join("\n"))).expect("ours");
    cluster.does("careful", "get carts one");
    let certificate = cluster.node(2).join("node.pem");
    let words =
        format!("ca revoke --dir {} {}", cluster.path("data").display(), certificate.display());
    cluster.does("data/client", &words);
    cluster.fails("careful", "get carts one", 3, "Revoked");
    cluster.does("data/client", "get carts one");
}

/// Puts and gets by clients that come and go, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(directory: PathBuf) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let run = move || {
            let mut failures = Vec::new();
            while !stopping.load(Ordering::Relaxed) {
                if let Err(failure) = round(&directory) {
                    failures.push(failure);
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            failures
        };
        Self { stop, rounds, thread: Some(std::thread::spawn(run)) }
    }

    /// Waits until clients have come that saw what is there now.
    fn go_on(&self) {
        let goal = self.rounds.load(Ordering::Relaxed) + 2;
        until(|| self.rounds.load(Ordering::Relaxed) >= goal, &|| "the load stands still".into());
    }

    fn end(mut self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.take().expect("it runs").join().expect("it ends well");
        (self.rounds.load(Ordering::Relaxed), failures)
    }
}

fn round(directory: &Path) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| with_sources(error);
    let builder = ClientBuilder::from_directory(directory).map_err(|error| text(&error))?;
    let client = blocking::connect(builder).map_err(|error| text(&error))?;
    let table = client.table("carts").map_err(|error| text(&error))?;
    for number in 0..30 {
        let key = format!("key{number}");
        table.put(key.clone(), "value", &Default::default()).map_err(|error| text(&error))?;
        table.get(key).map_err(|error| text(&error))?;
    }
    Ok(())
}

#[test]
fn an_authority_takes_the_place_of_another_and_no_request_fails() {
    let mut cluster = Cluster::start();
    cluster.does("data/client", "tables create carts");
    // A client whose certificate is left as it is.
    fs::create_dir(cluster.path("left")).expect("ours");
    for name in ["client.toml", "client.pem", "client.key", "authority.pem"] {
        fs::copy(cluster.path("data/client").join(name), cluster.path("left").join(name))
            .expect("up made it");
    }
    let load = Load::start(cluster.path("data/client"));
    load.go_on();

    // 1. Another authority, trusted beside the first.
    let record = fs::read_to_string(cluster.path("data/client/client.toml")).expect("up made it");
    let id = record.split('"').nth(1).expect("its id").to_owned();
    let (former, new) = (cluster.path("data"), cluster.path("new"));
    cluster.does("data/client", &format!("ca init --cluster {id} --dir {}", new.display()));
    let read = |directory: &Path| {
        fs::read_to_string(directory.join("authority.pem")).expect("an authority")
    };
    let mut places: Vec<PathBuf> = (1..=3).map(|number| cluster.node(number)).collect();
    places.push(cluster.path("data/client"));
    let trust = |text: &str| {
        for place in &places {
            let temporary = place.join("authority.new");
            fs::write(&temporary, text).expect("ours");
            fs::rename(&temporary, place.join("authority.pem")).expect("one file system");
        }
    };
    let both = read(&former) + &read(&new);
    trust(&both);
    fs::write(cluster.path("left/authority.pem"), &both).expect("ours");
    cluster.reload();
    load.go_on();

    // 2. It signs every certificate again.
    let files =
        ["data/n1/node.pem", "data/n2/node.pem", "data/n3/node.pem", "data/client/client.pem"];
    let files: String =
        files.iter().map(|file| format!(" {}", cluster.path(file).display())).collect();
    let (former, new) = (former.display(), new.display());
    let words = format!("ca renew --dir {new} --former {former}{files}");
    assert_eq!(cluster.does("data/client", &words).lines().count(), 4);
    cluster.reload();
    load.go_on();

    // 3. The first is trusted no more.
    trust(&read(&cluster.path("new")));
    cluster.reload();
    load.go_on();
    cluster.fails("left", "get carts key1", 3, "the node does not accept this client");
    let (rounds, failures) = load.end();
    assert!(failures.is_empty(), "{} of {rounds} rounds failed: {failures:#?}", failures.len());
    let status = cluster.does("data/client", "status");
    assert!(status.starts_with("no problems"), "{status}");
    let (_, metrics) = cluster.http("GET", "/metrics", "", "");
    let line = metrics.lines().find(|line| line.starts_with("quoit_certificate_expiry_seconds"));
    assert!(line.is_some_and(|line| line.contains("certificate=\"")), "{metrics}");
}
