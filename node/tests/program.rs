//! Drives the `quoit` program as its user would: start a cluster, import, kill a node, read
//! everything, start it again, stop.
//!
//! Everything stays on loopback and in a temporary directory; processes that are ended are those
//! that the test started, by their ids.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_quoit");
const UNICODE_DATA: &str = "/usr/share/unicode/UnicodeData.txt";
/// Whatever takes longer has failed.
const LIMIT: Duration = Duration::from_secs(120);

/// A `quoit up` with its directory. Ends its processes when it is dropped.
struct Up {
    directory: PathBuf,
    process: Child,
    lines: Receiver<String>,
    /// Node ids and their processes, as `up` prints them.
    nodes: Vec<(String, u32)>,
}

impl Up {
    fn start(directory: &Path, base_port: u16) -> Self {
        let mut process = Command::new(PROGRAM)
            .args(["up", "--vnodes", "64", "--dir"])
            .arg(directory)
            .args(["--base-port", &base_port.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, lines) = channel();
        follow(process.stdout.take().expect("piped"), sender.clone());
        follow(process.stderr.take().expect("piped"), sender);
        let mut up = Self { directory: directory.to_owned(), process, lines, nodes: Vec::new() };
        let line = up.wait_for("is process");
        up.nodes = line
            .split(", ")
            .map(|part| {
                let (id, process) = part.split_once(" is process ").expect("as printed");
                (id.to_owned(), process.trim().parse().expect("a number"))
            })
            .collect();
        assert_eq!(up.nodes.len(), 3, "{line}");
        up.wait_for("Ctrl-C stops");
        up
    }

    /// The next line that has `text` in it.
    fn wait_for(&self, text: &str) -> String {
        let began = Instant::now();
        let mut seen = Vec::new();
        loop {
            let left = LIMIT.saturating_sub(began.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("{text:?} was never printed:\n{}", seen.join("\n")),
            }
        }
    }

    fn client(&self) -> PathBuf {
        self.directory.join("client")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--client").arg(self.client()).args(arguments).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the program runs");
        assert!(output.status.success(), "{arguments:?}: {}", describe(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32, because: &str) {
        let output = self.command(arguments).output().expect("the program runs");
        let text = describe(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(because), "{arguments:?} should say {because:?}: {text}");
    }

    /// Waits until the nodes' states, ascending by id, are these.
    fn wait_for_states(&self, expected: &[&str]) {
        let began = Instant::now();
        loop {
            let status = self.run(&["status", "--json"]);
            let document: serde_json::Value = serde_json::from_str(&status).expect("JSON");
            let nodes = document["nodes"].as_array().expect("a list of nodes");
            let states: Vec<&str> =
                nodes.iter().map(|node| node["state"].as_str().expect("a state")).collect();
            if states == expected {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{states:?} is not {expected:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn stop(mut self) {
        signal("-INT", self.process.id());
        self.wait_for("all nodes have stopped");
        let status = self.process.wait().expect("it was started here");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Its children stop by themselves when their input ends.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn follow(from: impl Read + Send + 'static, to: std::sync::mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
}

fn signal(signal: &str, process: u32) {
    let status =
        Command::new("kill").args([signal, &process.to_string()]).status().expect("kill is there");
    assert!(status.success());
}

fn describe(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A port from which on the ones that `up` wants are free.
fn free_base_port() -> u16 {
    (0..200)
        .map(|_| {
            let probe = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
            probe.local_addr().expect("bound").port() & !0xff
        })
        .find(|base| {
            *base > 2_000
                && *base < 65_000
                && (0..3).all(|at| {
                    UdpSocket::bind(("127.0.0.1", base + at)).is_ok()
                        && TcpListener::bind(("127.0.0.1", base + 100 + at)).is_ok()
                })
        })
        .expect("some ports are free")
}

/// Debian's UnicodeData.txt where it is installed; elsewhere a file like it.
fn unicode_data(directory: &Path) -> PathBuf {
    if Path::new(UNICODE_DATA).exists() {
        return UNICODE_DATA.into();
    }
    let path = directory.join("UnicodeData.txt");
    let line = |code: u32| {
        format!(
            "{code:04X};NAME OF CHARACTER {};Lo;0;L;;;;;N;;;;;\n",
            code.wrapping_mul(2_654_435_761)
        )
    };
    let text: String = (0..34_000).map(|number| line(number * 5)).collect();
    fs::write(&path, text).expect("the directory is there");
    path
}

#[test]
fn a_cluster_keeps_everything_when_a_node_is_killed_during_an_import() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("data");
    let base_port = free_base_port();
    let up = Up::start(&directory, base_port);
    let file = unicode_data(scratch.path());
    let file_name = file.to_str().expect("text");

    // Kill one node in the middle of the import.
    let import = [
        "import",
        "--table",
        "unicode",
        "--create",
        "--format",
        "csv",
        "--delimiter",
        ";",
        "--key",
        "1",
    ];
    let import = up
        .command(&[&import[..], &["--in-flight", "16", file_name]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let began = Instant::now();
    let table_made = || {
        let tables = up.command(&["tables", "list"]).output().expect("the program runs");
        String::from_utf8_lossy(&tables.stdout).contains("unicode")
    };
    while !table_made() {
        assert!(began.elapsed() < LIMIT, "the import never began");
    }
    let (killed, process) = up.nodes[1].clone();
    signal("-KILL", process);
    let output = import.wait_with_output().expect("it was started here");
    assert!(output.status.success(), "{}", describe(&output));
    up.wait_for(&format!("{killed} died"));

    // Everything is there, byte for byte, with one node down; and the others say that it is.
    let export = scratch.path().join("export.txt");
    let export_name = export.to_str().expect("text");
    up.run(&["export", "--table", "unicode", "--output", export_name]);
    assert!(
        fs::read(&export).expect("written") == fs::read(&file).expect("there"),
        "the export differs"
    );
    up.wait_for_states(&["serving", "down", "serving"]);
    assert!(up.run(&["get", "unicode", "0041"]).starts_with("0041;"));
    up.fails(&["put", "unicode", "0041", "x", "--level", "all"], 3, "2 of");

    // It comes back, and answers at the level of all replicas.
    let config = directory.join(&killed).join("quoit.toml");
    let mut node = serve(&config);
    up.wait_for_states(&["serving", "serving", "serving"]);
    let before = up.run(&["get", "unicode", "0041", "--level", "all"]);
    assert!(before.starts_with("0041;"), "{before}");
    // To import again does no harm.
    let again = ["import", "--table", "unicode", "--delimiter", ";", "--key", "1", file_name];
    up.run(&again);
    up.run(&["export", "--table", "unicode", "--output", export_name]);
    assert!(
        fs::read(&export).expect("written") == fs::read(&file).expect("there"),
        "the export differs"
    );
    drop(node.stdin.take());
    assert!(node.wait().expect("it was started here").success());
    up.stop();

    // A second `up` finds the data again.
    let up = Up::start(&directory, base_port);
    assert_eq!(up.run(&["get", "unicode", "0041", "--level", "all"]), before);
    up.stop();
}

/// Starts a node that was killed.
fn serve(config: &Path) -> Child {
    Command::new(PROGRAM)
        .args(["serve", "--stop-on-stdin-close", "--config"])
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

impl Up {
    /// How many exchanges a node has made since its start.
    fn exchanges(&self, id: &str) -> u64 {
        let status = self.run(&["status", "--json"]);
        let document: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let nodes = document["nodes"].as_array().expect("a list of nodes");
        let node = nodes.iter().find(|node| node["node"] == id).expect("a member");
        node["counters"]["exchanges"].as_u64().unwrap_or(0)
    }

    /// The second node, which was started again, has all that was imported: the others are killed, and
    /// the table is read from its disk alone.
    fn expect_whole(&self, mut node: Child, scratch: &Path, file: &Path) {
        for (id, process) in [&self.nodes[0], &self.nodes[2]] {
            signal("-KILL", *process);
            self.wait_for(&format!("{id} died"));
        }
        let export = scratch.join("export.txt");
        self.run(&["export", "--table", "unicode", "--output", export.to_str().expect("text")]);
        assert!(
            fs::read(&export).expect("written") == fs::read(file).expect("there"),
            "the export differs"
        );
        drop(node.stdin.take());
        assert!(node.wait().expect("it was started here").success());
    }
}

#[test]
fn a_node_that_was_away_is_filled_without_a_read() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("data");
    let up = Up::start(&directory, free_base_port());
    let file = unicode_data(scratch.path());
    let file_name = file.to_str().expect("text");
    up.run(&["tables", "create", "unicode", "--r", "one"]);
    let (away, process) = up.nodes[1].clone();
    signal("-KILL", process);
    up.wait_for(&format!("{away} died"));
    let import = ["import", "--table", "unicode", "--delimiter", ";", "--key", "1", file_name];
    up.run(&import);

    // It comes back, and is killed again while it is being filled.
    let config = directory.join(&away).join("quoit.toml");
    let mut node = serve(&config);
    std::thread::sleep(Duration::from_millis(3_000));
    signal("-KILL", node.id());
    node.wait().expect("it was started here");
    let node = serve(&config);
    let began = Instant::now();
    while up.exchanges(&away) < 2 {
        assert!(began.elapsed() < LIMIT, "it makes no exchanges");
        std::thread::sleep(Duration::from_millis(200));
    }

    up.expect_whole(node, scratch.path(), &file);
}

#[test]
fn a_node_whose_disk_was_wiped_finds_out_and_is_filled() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("data");
    let up = Up::start(&directory, free_base_port());
    let file = unicode_data(scratch.path());
    let file_name = file.to_str().expect("text");
    up.run(&["tables", "create", "unicode", "--r", "one"]);
    let import = ["import", "--table", "unicode", "--delimiter", ";", "--key", "1", file_name];
    up.run(&import);
    // The others have heard how far it had come.
    std::thread::sleep(Duration::from_millis(2_500));
    let (wiped, process) = up.nodes[1].clone();
    signal("-KILL", process);
    up.wait_for(&format!("{wiped} died"));
    fs::remove_dir_all(directory.join(&wiped).join("data")).expect("it was stopped");

    let node = serve(&directory.join(&wiped).join("quoit.toml"));
    // It answers through the others, and for itself only once it is whole.
    let began = Instant::now();
    let is_whole = || {
        let status = up.run(&["status", "--json"]);
        let document: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let nodes = document["nodes"].as_array().expect("a list of nodes");
        let node = nodes.iter().find(|node| node["node"] == wiped.as_str()).expect("a member");
        node["state"] == "serving"
    };
    assert!(up.run(&["get", "unicode", "0041", "--level", "quorum"]).starts_with("0041;"));
    while !is_whole() {
        assert!(began.elapsed() < LIMIT, "it is not filled");
        std::thread::sleep(Duration::from_millis(300));
    }
    up.expect_whole(node, scratch.path(), &file);
}

#[test]
fn a_user_meets_clear_errors_and_resolves_siblings() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"), free_base_port());

    up.fails(&["get", "nowhere", "key"], 2, "nowhere");
    up.fails(&["tables", "create", "wide", "--n", "3", "--w", "4"], 2, "N=3");
    up.run(&["tables", "create", "plain"]);
    up.run(&["tables", "create", "carts", "--policy", "siblings"]);

    up.run(&["put", "plain", "hello", "world"]);
    assert_eq!(up.run(&["get", "plain", "hello"]).trim_end(), "world");
    up.run(&["delete", "plain", "hello"]);
    up.fails(&["get", "plain", "hello"], 1, "");
    up.run(&["put", "plain", "brief", "x", "--ttl", "1ms"]);
    std::thread::sleep(Duration::from_millis(20));
    up.fails(&["get", "plain", "brief"], 1, "");
    up.fails(&["put", "plain", &"k".repeat(5_000), "x"], 2, "4096");
    up.fails(&["put", "plain", "hello", "x", "--level", "4"], 2, "N=3");

    up.run(&["put", "carts", "mine", "apples", "--blind"]);
    up.run(&["put", "carts", "mine", "pears", "--blind"]);
    let both = up.run(&["get", "carts", "mine"]);
    assert!(both.contains("apples") && both.contains("pears"), "{both}");
    up.run(&["put", "carts", "mine", "both"]);
    assert_eq!(up.run(&["get", "carts", "mine"]).trim_end(), "both");

    for sort in ["a", "b", "c", "d"] {
        up.run(&["put", "plain", "list", sort, "--sort", sort]);
    }
    let page = up.run(&["scan", "plain", "list", "--from", "b", "--to", "d", "--json"]);
    assert_eq!(page.lines().count(), 2, "{page}");

    let ring = up.run(&["ring", "--json"]);
    assert!(serde_json::from_str::<serde_json::Value>(&ring).is_ok(), "{ring}");
    let bench = up.run(&[
        "bench",
        "--workload",
        "a",
        "--keys",
        "200",
        "--operations",
        "500",
        "--in-flight",
        "8",
        "--json",
    ]);
    assert!(serde_json::from_str::<serde_json::Value>(&bench).is_ok(), "{bench}");
    up.stop();
}
