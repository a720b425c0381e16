//! The `quoit` program, and other programs of the system.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::ClusterError;

/// No command takes longer.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the `quoit` program is.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
}

impl Program {
    /// The one that was named, or the one beside this program.
    ///
    /// # Errors
    /// [`ClusterError::Program`], which says how to build it.
    pub(crate) async fn find(named: Option<&Path>) -> Result<Self, ClusterError> {
        let beside = || {
            let own = std::env::current_exe().ok()?;
            Some(own.parent()?.join("quoit"))
        };
        let path = named.map(Path::to_owned).or_else(beside).unwrap_or_else(|| "quoit".into());
        let missing = |why: String| {
            let profile = if cfg!(debug_assertions) { "" } else { " --release" };
            ClusterError::Program(format!(
                "the quoit program cannot be run as {} ({why}): build it with `cargo build{profile} -p \
                 quoit-node`, or name it with --quoit PATH",
                path.display()
            ))
        };
        let path = std::path::absolute(&path).map_err(|error| missing(error.to_string()))?;
        let program = Self { path: path.clone() };
        let version = program.run(&["--version"], COMMAND_TIMEOUT).await;
        let version = version.map_err(|error| missing(error.to_string()))?;
        if version.starts_with("quoit ") {
            Ok(program)
        } else {
            Err(missing(format!("it calls itself {:?}", version.trim())))
        }
    }

    async fn run(&self, arguments: &[&str], timeout: Duration) -> Result<String, ClusterError> {
        run(&self.path.to_string_lossy(), arguments, "", timeout).await
    }

    pub(super) async fn ca_init(&self, authority: &Path) -> Result<(), ClusterError> {
        let directory = authority.to_string_lossy();
        self.run(&["ca", "init", "--dir", &directory], COMMAND_TIMEOUT).await.map(drop)
    }

    pub(super) async fn ca_issue_node(
        &self,
        authority: &Path,
        number: u16,
        out: &Path,
    ) -> Result<(), ClusterError> {
        let (authority, out) = (authority.to_string_lossy(), out.to_string_lossy());
        let node = format!("n{number}");
        let arguments = ["ca", "issue", "--dir", &authority, "--out", &out, "--node", &node];
        self.run(&arguments, COMMAND_TIMEOUT).await.map(drop)
    }

    pub(super) async fn ca_issue_client(
        &self,
        authority: &Path,
        out: &Path,
        contact_points: &[SocketAddr],
    ) -> Result<(), ClusterError> {
        let (authority, out) = (authority.to_string_lossy(), out.to_string_lossy());
        let points: Vec<String> = contact_points.iter().map(SocketAddr::to_string).collect();
        let mut arguments = vec!["ca", "issue", "--dir", &authority, "--out", &out, "--for-client"];
        arguments.extend(["--role", "admin"]);
        for point in &points {
            arguments.extend(["--contact-point", point]);
        }
        self.run(&arguments, COMMAND_TIMEOUT).await.map(drop)
    }

    pub(super) async fn repair(
        &self,
        client: &Path,
        timeout: Duration,
    ) -> Result<(), ClusterError> {
        let client = client.to_string_lossy();
        self.run(&["--client", &client, "repair", "run", "--wait"], timeout).await.map(drop)
    }
}

/// Runs a program with a text on its standard input, and takes a failure for an error.
pub(super) async fn run_with_input(
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<(), ClusterError> {
    run(program, arguments, input, COMMAND_TIMEOUT).await.map(drop)
}

async fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    timeout: Duration,
) -> Result<String, ClusterError> {
    let failed = |message: String| ClusterError::Command {
        command: format!("{program} {}", arguments.join(" ")),
        message,
    };
    let work = async {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may end without having read all.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(timeout, work).await;
    let output = output.map_err(|_| failed(format!("it has not ended after {timeout:?}")))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("{} {}", output.status, text.trim())))
    }
}
