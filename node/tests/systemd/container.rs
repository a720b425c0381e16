//! A machine with a systemd of its own, booted in about a second: systemd-nspawn over a volatile
//! overlay of this host's files. What is written in there is gone with it.
//!
//! Everything runs in a mount and a process namespace whose first process is a child of the test:
//! with it all of the machine ends, and `timeout` ends it where even the test was killed.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A machine lives no longer, in seconds, whoever forgets it.
const LIFE_SECONDS: &str = "240";
/// A command in it takes no longer, in seconds.
const COMMAND_SECONDS: &str = "60";
/// Booting takes no longer.
const BOOT_LIMIT: Duration = Duration::from_secs(40);
/// Its processes are waited for no longer when it ends.
const END_LIMIT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Joins cgroups of its own, where there is such a hierarchy, and becomes the machine.
const BOOT: &str = r#"
set -eu
mount --bind / "$ROOT"
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    if [ -w "$hierarchy/cgroup.procs" ]; then
        mkdir -p "$hierarchy/$NAME"
        echo 0 > "$hierarchy/$NAME/cgroup.procs"
    fi
done
exec systemd-nspawn --quiet --directory="$ROOT" --volatile=overlay --machine="$NAME" --boot \
    --register=no --keep-unit --private-network --console=pipe --link-journal=no \
    --resolv-conf=off --timezone=off "$@" systemd.unit=basic.target
"#;

/// Why there can be no machine here, for people.
pub(super) fn missing() -> Option<String> {
    let succeeds = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let id = Command::new("id").arg("-u").output().ok()?;
    if id.stdout != b"0\n" {
        return Some("it needs root".to_owned());
    }
    if !succeeds("systemd-nspawn", &["--version"]) {
        return Some("systemd-nspawn is not installed (package systemd-container)".to_owned());
    }
    let namespaces = ["--mount", "--propagation", "private", "--pid", "--fork", "true"];
    if !succeeds("unshare", &namespaces) {
        return Some("this host allows no new namespaces".to_owned());
    }
    None
}

/// A booted machine. Ends when it is dropped.
pub(super) struct Container {
    name: String,
    /// `timeout`, whose descendants are all of the machine.
    process: Child,
    /// Its systemd, as this host counts processes.
    init: u32,
    /// Where its root is mounted, and its state lies on a real disk.
    _scratch: tempfile::TempDir,
}

impl Container {
    /// Boots with these files and directories of the host, read-only, at these places.
    ///
    /// # Errors
    /// Why it did not boot, with what it wrote.
    pub(super) fn boot(binds: &[(&Path, &str)]) -> Result<Self, String> {
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let name = format!("quoit-test-{}", std::process::id());
        let console = scratch.path().join("console.txt");
        let process = start(&name, scratch.path(), &console, binds)
            .map_err(|error| format!("unshare: {error}"))?;
        let mut container = Self { name, process, init: 0, _scratch: scratch };
        let began = Instant::now();
        while began.elapsed() < BOOT_LIMIT {
            if let Ok(Some(status)) = container.process.try_wait() {
                return Err(format!("it ended ({status}):\n{}", read(&console)));
            }
            container.init = find_init(container.process.id()).unwrap_or(0);
            if container.init != 0 && container.is_running() {
                return Ok(container);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(format!("it was not up after {BOOT_LIMIT:?}:\n{}", read(&console)))
    }

    /// A signal that comes before systemd is up is lost: nothing is begun earlier.
    fn is_running(&self) -> bool {
        let output = self.command("systemctl is-system-running").output();
        output.is_ok_and(|output| matches!(output.stdout.trim_ascii(), b"running" | b"degraded"))
    }

    /// A shell command in the machine.
    pub(super) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args([COMMAND_SECONDS, "nsenter", "--target", &self.init.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"])
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"])
            .args(["QUOIT_CLIENT=/etc/quoit/client", "sh", "-euc", script])
            .stdin(Stdio::null());
        command
    }

    /// What a command writes; it must succeed.
    #[track_caller]
    pub(super) fn run(&self, script: &str) -> String {
        let output = self.command(script).output().expect("nsenter is there");
        assert!(output.status.success(), "{script}: {}\n{}", describe(&output), self.journal());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a command writes; it must fail.
    #[track_caller]
    pub(super) fn fails(&self, script: &str) -> String {
        let output = self.command(script).output().expect("nsenter is there");
        assert!(!output.status.success(), "{script}: {}", describe(&output));
        describe(&output)
    }

    /// Waits until a command's output satisfies `is_right`.
    #[track_caller]
    pub(super) fn wait(&self, limit: Duration, script: &str, is_right: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let output = self.run(script);
            if is_right(&output) {
                return;
            }
            let journal = || self.journal();
            assert!(began.elapsed() < limit, "{script}: still {output}\n{}", journal());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// The nodes' lines, and what systemd says of them.
    pub(super) fn journal(&self) -> String {
        let all = "journalctl --no-pager --output=short-precise --unit='quoit*' --lines=200";
        let output = self.command(all).output().expect("nsenter is there");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The namespace's first process goes with this one, and takes all others with it.
        for child in children(self.process.id()) {
            let _ = Command::new("kill").args(["-KILL", &child.to_string()]).status();
        }
        let _ = self.process.wait();
        let began = Instant::now();
        while self.init != 0 && is_there(self.init) && began.elapsed() < END_LIMIT {
            std::thread::sleep(POLL_INTERVAL);
        }
        for hierarchy in ["systemd", "unified", ""] {
            let directory = Path::new("/sys/fs/cgroup").join(hierarchy).join(&self.name);
            remove_groups(&directory);
        }
    }
}

fn start(
    name: &str,
    scratch: &Path,
    console: &Path,
    binds: &[(&Path, &str)],
) -> std::io::Result<Child> {
    let root = scratch.join("root");
    let state = scratch.join("state");
    fs::create_dir(&root)?;
    fs::create_dir(&state)?;
    let console = File::create(console)?;
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", LIFE_SECONDS, "unshare", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", BOOT, "sh"])
        .arg(format!("--bind={}:/var/lib/quoit", state.display()))
        .env("ROOT", &root)
        .env("NAME", name)
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console);
    for (from, to) in binds {
        command.arg(format!("--bind-ro={}:{to}", from.display()));
    }
    command.spawn()
}

/// The machine's systemd among the descendants of a process.
fn find_init(process: u32) -> Option<u32> {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    if name.trim() == "systemd" {
        return Some(process);
    }
    children(process).into_iter().find_map(find_init)
}

fn children(process: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn is_there(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

/// Removes a group and those in it, which are empty: their processes have ended.
fn remove_groups(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

fn read(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(64 << 10).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn describe(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}
