//! One node: its directory, its process, and what can be done to both.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use quoit_client::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::disk::{DISK_BYTES, Disk, DiskKind};
use super::program::run_with_input;
use super::{ClusterError, Network, Program, file};

/// How much of a log's end is shown, in bytes and in lines.
const LAST_BYTES: u64 = 8 << 10;
const LAST_LINES: usize = 6;

/// A node of the cluster.
#[derive(Debug)]
pub(crate) struct Node {
    number: u16,
    pub(crate) directory: PathBuf,
    /// What is added to its wall clock from its next start on.
    pub(crate) clock_offset_ms: i64,
    /// And so much more: time that has leapt ahead for all nodes, and never goes back.
    pub(crate) age_ms: i64,
    disk: Option<Disk>,
    /// What is added to that while it runs.
    clock_moved_ms: i64,
    plant: Option<String>,
    process: Option<Child>,
    is_paused: bool,
}

impl Node {
    pub(super) fn new(number: u16, directory: &Path, plant: Option<String>) -> Self {
        let directory = directory.join(format!("n{number}"));
        Self {
            number,
            directory,
            clock_offset_ms: 0,
            age_ms: 0,
            disk: None,
            clock_moved_ms: 0,
            plant,
            process: None,
            is_paused: false,
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        NodeId(self.number.into())
    }

    pub(super) fn configuration(&self) -> PathBuf {
        self.directory.join("quoit.toml")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log.txt")
    }

    fn clock_file(&self) -> PathBuf {
        self.directory.join("clock-offset")
    }

    /// Sets its wall clock to so much beside the host's while it runs, and at its next starts.
    pub(crate) fn move_clock(&mut self, offset_ms: i64) -> Result<(), ClusterError> {
        let path = self.clock_file();
        let next = path.with_extension("next");
        // The node never reads a half of it.
        fs::write(&next, offset_ms.to_string()).map_err(file("written", &next))?;
        fs::rename(&next, &path).map_err(file("written", &path))?;
        self.clock_moved_ms = offset_ms;
        Ok(())
    }

    /// How far its wall clock is off, in milliseconds.
    pub(super) fn clock_offset(&self) -> i64 {
        self.clock_offset_ms + self.clock_moved_ms
    }

    /// Makes the data directory a disk of its own, in memory. It goes with the world.
    pub(super) async fn mount_disk(
        &mut self,
        kind: DiskKind,
        seed: u64,
    ) -> Result<(), ClusterError> {
        if kind == DiskKind::Plain {
            return Ok(());
        }
        let data = self.data();
        fs::create_dir_all(&data).map_err(file("made", &data))?;
        if kind == DiskKind::Volatile {
            let seed = seed ^ u64::from(self.number);
            self.disk = Some(Disk::mount(&data, DISK_BYTES, seed)?);
            return Ok(());
        }
        let (size, data) = (format!("size={DISK_BYTES}"), data.to_string_lossy().into_owned());
        run_with_input("mount", &["-t", "tmpfs", "-o", &size, "jepsen", &data], "").await
    }

    /// Takes away all that it holds; it does not run.
    pub(crate) fn wipe(&mut self) -> Result<(), ClusterError> {
        if let Some(disk) = &self.disk {
            disk.replace();
            return Ok(());
        }
        let data = self.data();
        match fs::remove_dir_all(&data) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(file("removed", &data)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Its disk, where that is one whose power can be cut.
    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    pub(super) fn start(
        &mut self,
        program: &Program,
        network: &Network,
    ) -> Result<(), ClusterError> {
        let path = self.log();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(file("written", &path))?;
        let output = log.try_clone().map_err(file("written", &path))?;
        let (before, arguments) = network.command(usize::from(self.number) - 1);
        let mut command = Command::new(before);
        command
            .args(arguments)
            .arg(&program.path)
            .args(["serve", "--stop-on-stdin-close", "--config"])
            .arg(self.configuration())
            .stdin(Stdio::piped())
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(log))
            .process_group(0)
            .kill_on_drop(true);
        // Settings of whoever runs the test are not the nodes'.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUOIT_") {
                command.env_remove(name);
            }
        }
        command.env("QUOIT_CLOCK_OFFSET_MS", (self.age_ms + self.clock_offset_ms).to_string());
        command.env("QUOIT_CLOCK_OFFSET_FILE", self.clock_file());
        if let Some(bug) = &self.plant {
            command.env("PLANTED_BUG", bug);
        }
        let child = command.spawn();
        self.process = Some(child.map_err(file("started", &program.path))?);
        self.is_paused = false;
        Ok(())
    }

    /// A node with a planted bug says so at its start.
    pub(super) fn is_as_faulty_as_asked(&self) -> bool {
        let says = |text: String| text.contains("faulty on purpose");
        self.plant.is_none() || fs::read_to_string(self.log()).is_ok_and(says)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How it ended, if it has ended by itself.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        Some(status.to_string())
    }

    fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().and_then(Child::id);
        let id = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // A process that has just ended needs no signal.
            let _ = kill_process(id, signal);
        }
    }

    /// Stops it where it is (SIGSTOP).
    pub(crate) fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.is_paused = true;
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            self.signal(Signal::CONT);
        }
    }

    /// Sends SIGKILL, and does not wait.
    pub(super) fn strike(&mut self) {
        if let Some(child) = &mut self.process {
            let _ = child.start_kill();
        }
    }

    /// Ends it at once (SIGKILL), and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
        self.is_paused = false;
    }

    /// What it has written last.
    pub(super) fn last_lines(&self) -> String {
        let tail = || -> std::io::Result<String> {
            let mut log = File::open(self.log())?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
            let mut bytes = Vec::new();
            log.take(LAST_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = tail().unwrap_or_else(|error| format!("(cannot be read: {error})"));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}
