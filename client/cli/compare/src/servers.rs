//! The stores' processes: children of this one, on free ports of loopback, their data in a temporary
//! directory. They are ended by their ids.

use std::fs::File;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Setup, garage};

/// A process may take so long to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is asked whether it has.
const STOP_INTERVAL: Duration = Duration::from_millis(50);
/// A command to a store may take so long until it is done.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is tried.
const COMMAND_INTERVAL: Duration = Duration::from_millis(200);
/// How many ports are tried.
const PORT_TRIES: u32 = 500;
/// As many as may be in flight by default; more share them.
const CONNECTIONS: usize = 64;

/// A store that did not start. What was started is ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The temporary directory or a file in it cannot be made.
    #[error("its directory cannot be made: {0}")]
    Directory(#[source] io::Error),
    /// No ports are free.
    #[error("no free ports were found")]
    Ports,
    /// The program is not there.
    #[error("{program} cannot be run ({source}); {advice}")]
    Program {
        program: String,
        advice: &'static str,
        #[source]
        source: io::Error,
    },
    /// A node did not do what its command line asked it for.
    #[error("`{command}` did not succeed within a minute: {said}")]
    Command { command: String, said: String },
    /// A process is there no more.
    #[error("one of its processes ended ({status}), and said last: {said}; {advice}")]
    Ended { status: ExitStatus, said: String, advice: &'static str },
}

/// A store's processes; ended when this is dropped.
pub(crate) struct Servers {
    processes: Vec<Child>,
    /// Where clients find it, as its client wants it.
    pub(crate) addresses: Vec<String>,
    /// How many connections those stores get that are asked by many.
    pub(crate) connections: usize,
    /// Everything lies here.
    pub(crate) directory: TempDir,
}

impl Servers {
    /// Starts a store.
    pub(crate) fn start(setup: Setup, quoit: &Path) -> Result<Self, StartError> {
        let mut servers = Self {
            processes: Vec::new(),
            addresses: Vec::new(),
            connections: CONNECTIONS,
            directory: tempfile::tempdir().map_err(StartError::Directory)?,
        };
        match setup {
            Setup::Quoit | Setup::QuoitOne => servers.start_quoit(quoit, 3)?,
            Setup::QuoitAlone => servers.start_quoit(quoit, 1)?,
            Setup::Etcd => servers.start_etcd()?,
            Setup::Garage => servers.start_garage(true)?,
            Setup::GarageNoFsync => servers.start_garage(false)?,
            Setup::RedisAlways => servers.start_redis("always", None)?,
            Setup::RedisEverysec => servers.start_redis("everysec", None)?,
            Setup::RedisWait => {
                servers.start_redis("everysec", None)?;
                let primary = servers.addresses[0].clone();
                for _ in 0..2 {
                    servers.start_redis("everysec", primary.rsplit(':').next())?;
                }
            }
        }
        Ok(servers)
    }

    fn start_quoit(&mut self, program: &Path, nodes: u8) -> Result<(), StartError> {
        let mut command = Command::new(program);
        command.arg("up").arg("--dir").arg(self.directory.path().join("quoit"));
        command.args(["--base-port", &base_port()?.to_string(), "--nodes", &nodes.to_string()]);
        let advice = "build it with `cargo build --release`, or name it with --quoit";
        self.spawn("quoit", command, advice)
    }

    fn start_etcd(&mut self) -> Result<(), StartError> {
        let ports = free_ports(6)?;
        let peer = |node: usize| format!("http://127.0.0.1:{}", ports[node]);
        let all: Vec<_> = (0..3).map(|node| format!("e{node}={}", peer(node))).collect();
        for node in 0..3 {
            let client = format!("http://127.0.0.1:{}", ports[3 + node]);
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("e{node}"), "--initial-cluster-state", "new"]);
            command.arg("--data-dir").arg(self.directory.path().join(format!("etcd-{node}")));
            command.args(["--initial-cluster", &all.join(",")]);
            command.args(["--listen-peer-urls", &peer(node)]);
            command.args(["--initial-advertise-peer-urls", &peer(node)]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            self.spawn("etcd", command, "install Debian's etcd-server")?;
            self.addresses.push(client);
        }
        Ok(())
    }

    /// Starts three nodes, then makes a cluster of them, with a bucket and a key to it.
    fn start_garage(&mut self, fsync: bool) -> Result<(), StartError> {
        let ports = free_ports(6)?;
        let mut files = Vec::new();
        for node in 0..3 {
            let directory = self.directory.path().join(format!("garage-{node}"));
            std::fs::create_dir(&directory).map_err(StartError::Directory)?;
            let text = garage::configuration(&directory, fsync, ports[node], ports[3 + node]);
            let file = directory.join("garage.toml");
            std::fs::write(&file, text).map_err(StartError::Directory)?;
            let mut command = Command::new("garage");
            // It would write a line for each request.
            command.env("RUST_LOG", "warn").arg("-c").arg(&file).arg("server");
            self.spawn("garage", command, garage::ADVICE)?;
            self.addresses.push(format!("http://127.0.0.1:{}", ports[3 + node]));
            files.push(file);
        }
        let mut nodes = Vec::new();
        for file in &files {
            nodes.push(self.ask_garage(file, &["node", "id", "-q"])?);
        }
        // Each knows each: they would tell one another of the third, but later.
        for (file, other) in [(0, 1), (0, 2), (1, 2)] {
            self.ask_garage(&files[file], &["node", "connect", &nodes[other]])?;
        }
        let first = &files[0];
        let mut assign = vec!["layout", "assign", "-z", "here", "-c", "1G"];
        assign.extend(nodes.iter().filter_map(|node| node.split('@').next()));
        self.ask_garage(first, &assign)?;
        self.ask_garage(first, &["layout", "apply", "--version", "1"])?;
        self.ask_garage(first, &["bucket", "create", garage::BUCKET])?;
        self.ask_garage(first, &["key", "import", "--yes", garage::KEY_ID, garage::SECRET])?;
        let allow =
            ["bucket", "allow", "--read", "--write", "--key", garage::KEY_ID, garage::BUCKET];
        self.ask_garage(first, &allow)?;
        Ok(())
    }

    /// Has a node of Garage's do something by its command line, and gives what that printed. A node
    /// that is not there yet is asked again.
    fn ask_garage(&mut self, file: &Path, arguments: &[&str]) -> Result<String, StartError> {
        let began = Instant::now();
        loop {
            let mut command = Command::new("garage");
            command.arg("-c").arg(file).args(arguments).stdin(Stdio::null());
            let output = command.output().map_err(|source| StartError::Program {
                program: "garage".to_owned(),
                advice: garage::ADVICE,
                source,
            })?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            }
            self.find_ended("garage", garage::ADVICE)?;
            if began.elapsed() > COMMAND_TIMEOUT {
                return Err(StartError::Command {
                    command: format!("garage {}", arguments.join(" ")),
                    said: last_line(&output.stderr),
                });
            }
            std::thread::sleep(COMMAND_INTERVAL);
        }
    }

    fn start_redis(&mut self, fsync: &str, primary: Option<&str>) -> Result<(), StartError> {
        let port = free_ports(1)?[0];
        let directory = self.directory.path().join(format!("redis-{port}"));
        std::fs::create_dir(&directory).map_err(StartError::Directory)?;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", fsync]).arg("--dir").arg(directory);
        if let Some(primary) = primary {
            command.args(["--replicaof", "127.0.0.1", primary]);
        }
        self.addresses.push(format!("redis://127.0.0.1:{port}"));
        self.spawn("redis-server", command, "install Debian's redis-server")
    }

    fn spawn(
        &mut self,
        name: &str,
        mut command: Command,
        advice: &'static str,
    ) -> Result<(), StartError> {
        let log = File::create(self.log(name, self.processes.len()));
        let log = log.map_err(StartError::Directory)?;
        let error_log = log.try_clone().map_err(StartError::Directory)?;
        command.stdin(Stdio::null()).stdout(log).stderr(error_log);
        let program = command.get_program().to_string_lossy().into_owned();
        let process =
            command.spawn().map_err(|source| StartError::Program { program, advice, source })?;
        self.processes.push(process);
        Ok(())
    }

    fn log(&self, name: &str, number: usize) -> PathBuf {
        self.directory.path().join(format!("{name}-{number}.log"))
    }

    /// An error if a process has ended, with what it said last.
    fn find_ended(&mut self, name: &str, advice: &'static str) -> Result<(), StartError> {
        for number in 0..self.processes.len() {
            if let Ok(Some(status)) = self.processes[number].try_wait() {
                let log = std::fs::read(self.log(name, number)).map_err(StartError::Directory)?;
                return Err(StartError::Ended { status, said: last_line(&log), advice });
            }
        }
        Ok(())
    }

    /// Ends the processes and waits for them.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let id = process.id().to_string();
            // Where there is no `kill`, or it is gone already, the wait below decides.
            let _ = Command::new("kill").args(["-INT", &id]).status();
        }
        let began = Instant::now();
        for process in &mut self.processes {
            while let Ok(None) = process.try_wait() {
                if began.elapsed() > STOP_TIMEOUT {
                    let _ = process.kill();
                    let _ = process.wait();
                    break;
                }
                std::thread::sleep(STOP_INTERVAL);
            }
        }
    }
}

fn last_line(log: &[u8]) -> String {
    let log = String::from_utf8_lossy(log);
    log.trim().lines().next_back().unwrap_or("nothing").to_owned()
}

/// Ports that are free for TCP now; held until all are found, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>, StartError> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .map_err(|_| StartError::Ports)?;
    held.iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()
        .map_err(|_| StartError::Ports)
}

/// A port from which on the ones that `quoit up` wants are free.
fn base_port() -> Result<u16, StartError> {
    for _ in 0..PORT_TRIES {
        let base = free_ports(1)?[0] & !0xff;
        let is_free = |at: u16| {
            UdpSocket::bind(("127.0.0.1", base + at)).is_ok()
                && TcpListener::bind(("127.0.0.1", base + 100 + at)).is_ok()
        };
        if (2_000..65_000).contains(&base) && (0..3).all(is_free) {
            return Ok(base);
        }
    }
    Err(StartError::Ports)
}
