//! Drives the `quoit` program as its user would: start a cluster, import, kill a node, read
//! everything, start it again, stop.
//!
//! Everything stays on loopback and in a temporary directory; processes that are ended are those
//! that the test started, by their ids.

mod backup;
mod ports;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use quoit_client::{
    Change, ClientBuilder, ConditionError, Context, Format, Level, Profile, Session, TypedError,
    Union, UpdateError, WriteError, blocking,
};

use ports::free_base_port;

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
        Self::start_with(directory, base_port, &[])
    }

    /// Settings of the nodes come from the environment.
    fn start_with(directory: &Path, base_port: u16, settings: &[(&str, &str)]) -> Self {
        Self::start_sized(directory, base_port, 3, settings)
    }

    /// With another number of nodes.
    fn start_sized(
        directory: &Path,
        base_port: u16,
        nodes: usize,
        settings: &[(&str, &str)],
    ) -> Self {
        let mut process = Command::new(PROGRAM)
            .envs(settings.iter().copied())
            .args(["up", "--vnodes", "64", "--dir"])
            .arg(directory)
            .args(["--base-port", &base_port.to_string(), "--nodes", &nodes.to_string()])
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
        assert_eq!(up.nodes.len(), nodes, "{line}");
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
    serve_with(config, &[])
}

fn serve_with(config: &Path, settings: &[(&str, &str)]) -> Child {
    Command::new(PROGRAM)
        .envs(settings.iter().copied())
        .args(["serve", "--stop-on-stdin-close", "--config"])
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

impl Up {
    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// What the nodes that answer say, by a command that lists them.
    fn nodes_of(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        self.json(arguments)["nodes"].as_array().expect("a list of nodes").clone()
    }

    /// Keys that wait for other nodes.
    fn hints(&self) -> u64 {
        let nodes = self.nodes_of(&["hints"]);
        let hints = nodes.iter().flat_map(|node| node["hints"].as_array().expect("a list"));
        hints.map(|hints| hints["keys"].as_u64().expect("a number")).sum()
    }

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
    fn expect_whole(&self, node: Child, scratch: &Path, file: &Path) {
        self.expect_whole_with(node, &[&self.nodes[0], &self.nodes[2]], scratch, file);
    }

    /// The same, where only `others` still run.
    fn expect_whole_with(
        &self,
        mut node: Child,
        others: &[&(String, u32)],
        scratch: &Path,
        file: &Path,
    ) {
        for (id, process) in others {
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
fn a_node_that_was_away_is_brought_what_it_missed_through_kills_of_both_sides() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("data");
    // Nothing else may fill it.
    let settings = [("QUOIT_REPAIR_INTERVAL_SECONDS", "0")];
    let up = Up::start_with(&directory, free_base_port(), &settings);
    let file = unicode_data(scratch.path());
    let file_name = file.to_str().expect("text");
    up.run(&["tables", "create", "unicode", "--r", "one"]);
    let [(keeper, keeper_process), (away, away_process), _] = &up.nodes[..] else {
        panic!("three nodes");
    };
    signal("-KILL", *away_process);
    up.wait_for(&format!("{away} died"));
    up.run(&["import", "--table", "unicode", "--delimiter", ";", "--key", "1", file_name]);
    let lines = fs::read_to_string(&file).expect("text").lines().count() as u64;
    let began = Instant::now();
    while up.hints() < lines {
        assert!(began.elapsed() < LIMIT, "{} of {lines} keys are noted", up.hints());
        std::thread::sleep(Duration::from_millis(100));
    }

    // Both sides are killed while it is brought over.
    let config_of = |id: &str| directory.join(id).join("quoit.toml");
    let mut node = serve_with(&config_of(away), &settings);
    let began = Instant::now();
    while up.hints() == lines {
        assert!(began.elapsed() < LIMIT, "nothing is brought over");
    }
    signal("-KILL", node.id());
    node.wait().expect("it was started here");
    node = serve_with(&config_of(away), &settings);
    signal("-KILL", *keeper_process);
    up.wait_for(&format!("{keeper} died"));
    let mut keeping = serve_with(&config_of(keeper), &settings);
    let is_done = || {
        let nodes = up.nodes_of(&["hints"]);
        nodes.len() == 3 && up.hints() == 0
    };
    while !is_done() {
        assert!(began.elapsed() < LIMIT, "{} keys wait still", up.hints());
        std::thread::sleep(Duration::from_millis(200));
    }
    signal("-KILL", keeping.id());
    keeping.wait().expect("it was started here");
    up.expect_whole_with(node, &[&up.nodes[2]], scratch.path(), &file);
}

#[test]
fn an_old_copy_of_a_disk_is_told_from_the_disk_and_filled() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("data");
    let up = Up::start(&directory, free_base_port());
    let file = unicode_data(scratch.path());
    let text = fs::read_to_string(&file).expect("text");
    let (first, rest) = text.split_at(text.match_indices('\n').nth(9_999).expect("lines").0 + 1);
    let import = |name: &str, part: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, part).expect("written");
        let path = path.to_str().expect("text");
        up.run(&["import", "--table", "unicode", "--delimiter", ";", "--key", "1", path]);
    };
    up.run(&["tables", "create", "unicode", "--r", "one"]);
    import("first", first);
    let (aged, process) = up.nodes[1].clone();
    signal("-KILL", process);
    up.wait_for(&format!("{aged} died"));
    let (data, copy) = (directory.join(&aged).join("data"), scratch.path().join("copy"));
    copy_directory(&data, &copy);
    let config = directory.join(&aged).join("quoit.toml");
    let mut node = serve(&config);
    up.wait_for_states(&["serving"; 3]);
    import("rest", rest);
    // What others remember of a life they write down every ten seconds.
    std::thread::sleep(Duration::from_millis(12_000));
    let incarnation = |up: &Up| {
        let nodes = up.nodes_of(&["status"]);
        let node = nodes.iter().find(|node| node["node"] == aged.as_str()).expect("a member");
        (node["incarnation"].as_u64(), node["state"] == "serving")
    };
    let (before, _) = incarnation(&up);
    signal("-KILL", node.id());
    node.wait().expect("it was started here");
    fs::remove_dir_all(&data).expect("it was stopped");
    copy_directory(&copy, &data);

    let node = serve(&config);
    let began = Instant::now();
    while !matches!(incarnation(&up), (now, true) if now > before) {
        assert!(began.elapsed() < LIMIT, "it is not told, or not filled: {:?}", incarnation(&up));
        std::thread::sleep(Duration::from_millis(300));
    }
    up.expect_whole(node, scratch.path(), &file);
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("it is there").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("copied");
        }
    }
}

/// The largest file of sorted tables of a node.
fn largest_table(data: &Path) -> PathBuf {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    let mut directories = vec![data.join("tables")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("it is there").map(|it| it.expect("an entry")) {
            let metadata = entry.metadata().expect("its size");
            match metadata.is_dir() {
                true => directories.push(entry.path()),
                false => found.push((metadata.len(), entry.path())),
            }
        }
    }
    found.into_iter().max().expect("there are tables").1
}

#[test]
fn damage_in_a_nodes_files_is_found_fetched_again_and_never_read() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("data");
    let settings = [("QUOIT_STORAGE_MEMTABLE_MIB", "1"), ("QUOIT_STORAGE_BLOCK_CACHE_MIB", "1")];
    let up = Up::start_with(&directory, free_base_port(), &settings);
    let file = unicode_data(scratch.path());
    let file_name = file.to_str().expect("text");
    up.run(&["tables", "create", "unicode"]);
    up.run(&["import", "--table", "unicode", "--delimiter", ";", "--key", "1", file_name]);
    let (struck, process) = up.nodes[1].clone();
    signal("-KILL", process);
    up.wait_for(&format!("{struck} died"));
    let table = largest_table(&directory.join(&struck).join("data"));
    let mut bytes = fs::read(&table).expect("readable");
    // Not its end: what an open itself reads would have all made anew.
    let end = bytes.len().saturating_sub(bytes.len() / 4);
    (1_000..end).step_by(40_000).for_each(|at| bytes[at] ^= 0x10);
    fs::write(&table, bytes).expect("written");

    let mut node = serve_with(&directory.join(&struck).join("quoit.toml"), &settings);
    let began = Instant::now();
    let scrub = || {
        let nodes = up.nodes_of(&["scrub", "status"]);
        nodes.into_iter().find(|node| node["node"] == struck.as_str())
    };
    // All the while the whole table is read through a quorum, and is what it was.
    let export = scratch.path().join("export.txt");
    let export_name = export.to_str().expect("text");
    let (mut found, mut is_through) = (0, false);
    while !is_through {
        assert!(began.elapsed() < LIMIT, "{:?}", scrub());
        let _ = fs::remove_file(&export);
        up.run(&["export", "--table", "unicode", "--output", export_name]);
        assert!(fs::read(&export).expect("written") == fs::read(&file).expect("there"));
        let Some(scrub) = scrub() else { continue };
        let number = |name: &str| scrub[name].as_u64().expect("a number");
        found = found.max(number("damaged_keys") + number("unreadable_blocks"));
        is_through = number("ended_ms") > 0 && found > 0 && number("damaged_keys_left") == 0;
    }
    // What it could not read it has from the others: it answers for itself.
    let text = fs::read_to_string(&file).expect("text");
    let keys: Vec<&str> =
        text.lines().step_by(211).map(|line| &line[..line.find(';').expect("a key")]).collect();
    let began = Instant::now();
    let is_whole = || {
        let status = up.nodes_of(&["status"]);
        let node = status.iter().find(|node| node["node"] == struck.as_str()).expect("a member");
        let before = node["unreadable"].as_u64().expect("a number");
        keys.iter().for_each(|key| drop(up.run(&["get", "unicode", key, "--level", "all"])));
        let status = up.nodes_of(&["status"]);
        let node = status.iter().find(|node| node["node"] == struck.as_str()).expect("a member");
        node["unreadable"].as_u64() == Some(before)
    };
    while !is_whole() {
        assert!(began.elapsed() < LIMIT, "it meets keys that it cannot read");
    }
    drop(node.stdin.take());
    assert!(node.wait().expect("it was started here").success());
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

/// Eight writers change one key at once, through the library: a set that each adds to, and a text that
/// any of them replaces. Nothing of what was acknowledged is lost, and no sibling is left.
#[test]
fn writers_that_update_one_key_at_once_lose_nothing() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"), free_base_port());
    up.run(&["tables", "create", "sets", "--policy", "siblings"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let builder = ClientBuilder::from_directory(up.client()).expect("up wrote it");
        let client = builder.connect().await.expect("the cluster is up");
        let table = client.table("sets").await.expect("it was made");
        let sets = table.typed::<BTreeSet<u32>>(Format::MessagePack);
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let sets = sets.clone();
            writers.spawn(async move {
                for element in (writer * 20)..(writer * 20 + 20) {
                    let add = |set: Option<BTreeSet<u32>>| {
                        let mut set = set.unwrap_or_default();
                        set.insert(element);
                        Some(set)
                    };
                    // Where too many write at once the element is there, as a sibling of theirs.
                    match sets.update("shared", &Union, add).await {
                        Ok(_) | Err(TypedError::Update(UpdateError::Contended { .. })) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        while let Some(writer) = writers.join_next().await {
            writer.expect("it does not panic");
        }
        sets.update("shared", &Union, |set| set).await.expect("nobody else writes any more");
        let reading = sets.get("shared").await.expect("all are up");
        assert_eq!(reading.siblings.len(), 1);
        assert_eq!(reading.resolved(&Union), Some((0..160).collect()));
        let gone = table.update("shared", |_| Change::Delete).await.expect("all are up");
        assert_eq!(gone.rounds, 1);
        assert!(table.get("shared").await.expect("all are up").is_absent());
        client.close().await;
    });
    up.stop();
}

/// Forty programs want each name at once. A name is nobody's or one's, and whoever comes later sees so.
#[test]
fn of_many_that_want_a_name_at_most_one_gets_it() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"), free_base_port());
    up.run(&["tables", "create", "names", "--policy", "siblings"]);
    let builder = ClientBuilder::from_directory(up.client()).expect("up wrote it");
    let client = blocking::connect(builder).expect("the cluster is up");
    let names = client.table("names").expect("it was made").inner().clone();
    client.wait(async {
        for round in 0..20 {
            let name = format!("name {round}");
            let mut wanted = tokio::task::JoinSet::new();
            for program in 0..40 {
                let (names, name) = (names.clone(), name.clone());
                wanted.spawn(async move { names.put_if_absent(name, program.to_string()).await });
            }
            let mut got = 0;
            for outcome in wanted.join_all().await {
                match outcome {
                    Ok(_) => got += 1,
                    Err(ConditionError::NotMet(_) | ConditionError::Contended(_)) => {}
                    // As many siblings as a key may have.
                    Err(ConditionError::Write(WriteError::TooManySiblings { .. })) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(got <= 1, "{name} was given to {got}");
            let late = names.put_if_absent(&name, "late").await.expect_err("it is there");
            let ConditionError::NotMet(reading) = late else { panic!("{late}") };
            let kept = names.put_if_context(&name, "kept", &reading.context).await;
            kept.expect("nobody else writes any more");
            let again = names.put_if_context(&name, "again", &reading.context).await;
            assert!(matches!(again, Err(ConditionError::NotMet(_))), "{again:?}");
            let service = names.get(&name).await.expect("all are up").service;
            assert_eq!((service.level, service.trail.attempts), (Level::Quorum, 1));
        }
    });
    client.close();
    up.stop();
}

/// Writes at a quorum of two, read at once at level one: any of the three nodes may be asked, and each
/// third of them may not have the write yet.
#[test]
fn a_traced_request_tells_where_its_time_went_on_each_node() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"), free_base_port());
    up.run(&["tables", "create", "carts"]);
    up.run(&["put", "carts", "alice", "3 apples", "--level", "all"]);
    let id = "0af7651916cd43dd8448eb211c80319c";
    let traced = up.run(&["get", "carts", "alice", "--json", &format!("--trace={id}")]);
    let document: serde_json::Value = serde_json::from_str(&traced).expect("JSON");
    let trace = &document["trace"];
    assert_eq!(trace["id"], id, "{traced}");
    let stages = trace["stages"].as_array().expect("stages");
    let node_of = |stage: &str| {
        let is_it = |one: &&serde_json::Value| one["stage"] == stage;
        stages.iter().filter(is_it).map(|one| one["node"].as_u64().expect("a number")).collect()
    };
    // (A stage may be there more than once: a third replica is asked where one is slow.)
    let (read, network): (Vec<u64>, Vec<u64>) = (node_of("read"), node_of("network"));
    let others = |node: &u64| Some(*node) != trace["coordinator"].as_u64();
    assert!(read.len() >= 2, "two replicas read: {traced}");
    assert!(!network.is_empty() && network.iter().all(others), "{traced}");
    let log_of = |node| fs::read_to_string(up.directory.join(node).join("log.txt")).expect("a log");
    let is_named = ["n1", "n2", "n3"].into_iter().any(|node| log_of(node).contains(id));
    assert!(is_named, "the coordinator names the trace in its log");
    up.fails(&["get", "carts", "alice", "--trace=7"], 2, "32 hexadecimal digits");
    up.stop();
}

#[test]
fn a_session_reads_its_own_writes_where_another_reader_does_not_yet() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"), free_base_port());
    up.run(&["tables", "create", "carts"]);
    let builder = ClientBuilder::from_directory(up.client()).expect("up wrote it");
    let client = blocking::connect(builder).expect("the cluster is up");
    let session = Profile::new().read_level(Level::One).session(Session::new());
    let carts = client.table("carts").expect("it was made").with_profile(&session);
    for round in 0..200 {
        let value = format!("{round} apples");
        carts.put("alice", value.clone(), &Context::none()).expect("all are up");
        let reading = carts.get("alice").expect("all are up");
        assert_eq!(reading.single().expect("it is there").bytes, value);
    }
    client.close();
    up.stop();
}
