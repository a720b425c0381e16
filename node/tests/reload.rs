//! SIGHUP has a running node read its files again; without systemd, so that it is tested everywhere.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_quoit");
/// Whatever takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A cluster of one node. Ends with its owner.
struct Up {
    process: Child,
    node: String,
    http_port: u16,
}

impl Up {
    fn start(directory: &Path) -> Self {
        let port = free_port();
        let mut process = Command::new(PROGRAM)
            .args([
                "up",
                "--nodes",
                "1",
                "--vnodes",
                "8",
                "--base-port",
                &port.to_string(),
                "--dir",
            ])
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut lines = output.lines().map_while(Result::ok);
        let node = lines.find_map(|line| Some(line.split_once(" is process ")?.1.to_owned()));
        // Its last words: it writes nothing more to a pipe that nobody reads.
        assert!(lines.any(|line| line.contains("Ctrl-C stops")), "it goes on");
        Self { process, node: node.expect("it serves"), http_port: port + 100 }
    }

    /// The answer to a question for the tables by HTTP.
    fn tables(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).expect("it listens");
        let request = "GET /v1/tables HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    fn hang_up(&self) {
        signal("-HUP", &self.node);
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Its node stops first, so that nobody writes to the directory any more.
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

fn signal(signal: &str, process: &str) {
    let status = Command::new("kill").args([signal, process]).status().expect("kill is there");
    assert!(status.success());
}

/// A port that is free for QUIC, and free for HTTP 100 above.
fn free_port() -> u16 {
    let free = || {
        let port = UdpSocket::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        TcpListener::bind(("127.0.0.1", port.checked_add(100)?)).ok()?;
        Some(port)
    };
    (0..100).find_map(|_| free()).expect("some ports are free")
}

#[track_caller]
fn wait_for(log: &Path, text: &str) {
    let began = Instant::now();
    loop {
        let lines = fs::read_to_string(log).expect("the node's log");
        if lines.contains(text) {
            return;
        }
        assert!(began.elapsed() < LIMIT, "{text:?} is not in the log:\n{lines}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn a_hangup_takes_good_files_whole_and_bad_ones_not_at_all() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("data");
    let up = Up::start(&directory);
    let (node, client) = (directory.join("n1"), directory.join("client"));
    let (config, log) = (node.join("quoit.toml"), node.join("log.txt"));

    // New certificates, another level, and a setting that only a start can take.
    let new = scratch.path().join("new");
    let issued = Command::new(PROGRAM)
        .args(["ca", "issue", "--node", "n1", "--dir"])
        .arg(&directory)
        .arg("--out")
        .arg(&new)
        .output()
        .expect("the program runs");
    assert!(issued.status.success(), "{issued:?}");
    for name in ["node.pem", "node.key"] {
        fs::rename(new.join(name), node.join(name)).expect("one file system");
    }
    let settings = fs::read_to_string(&config).expect("the configuration");
    let changed = "[log]\nlevel = \"info,quoit_node=debug\"\n[storage]\nsegment_mib = 32\n";
    fs::write(&config, format!("{settings}\n{changed}")).expect("written");
    up.hang_up();
    wait_for(&log, "reloaded: certificates, roles, tokens, log.level and [limits]");
    wait_for(&log, "settings=\"storage.segment_mib\"");
    let list = || {
        let mut command = Command::new(PROGRAM);
        command.arg("--client").arg(&client).args(["tables", "list"]).output().expect("it runs")
    };
    assert!(list().status.success(), "{:?}", list());
    assert!(up.tables().starts_with("HTTP/1.1 200"), "{}", up.tables());
    wait_for(&log, "DEBUG");

    // A client's certificate is no node's: nothing changes, and the node serves on.
    fs::copy(client.join("client.pem"), node.join("node.pem")).expect("copied");
    up.hang_up();
    wait_for(&log, "not reloaded: the node goes on with what it has");
    assert!(list().status.success(), "{:?}", list());
}
