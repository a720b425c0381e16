//! A world of its own for the whole test: the program starts itself again in new network, mount and
//! process namespaces.
//!
//! Inside it is process 1. However it ends, even by SIGKILL, the kernel then ends every process that it
//! started, and with the last of them go the networks and the mounts. Nothing has a name outside, so two
//! tests never meet.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::ClusterError;

/// Set inside the world. (Not `QUOIT_...`: a node refuses settings that it does not know.)
const INSIDE: &str = "JEPSEN_INSIDE";
/// What must be there.
const TOOLS: [&str; 5] = ["unshare", "nsenter", "ip", "nft", "mount"];

/// Whether this process is in its own world already.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// What is missing for a world, if anything is.
pub(crate) fn check() -> Result<(), ClusterError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ClusterError::Rights("this is not root".to_owned()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |tool: &str| {
        let found = std::env::split_paths(&path).any(|directory| directory.join(tool).exists());
        found || std::path::Path::new("/usr/sbin").join(tool).exists()
    };
    match TOOLS.into_iter().find(|tool| !is_there(tool)) {
        Some(tool) => Err(ClusterError::Rights(format!("`{tool}` is not installed"))),
        None => Ok(()),
    }
}

/// Starts this program again inside. Returns only where that fails.
///
/// # Errors
/// [`ClusterError::Rights`].
pub(crate) fn enter() -> Result<Infallible, ClusterError> {
    check()?;
    let program = std::env::current_exe();
    let program = program.map_err(|error| ClusterError::Rights(error.to_string()))?;
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(ClusterError::Rights(format!("`unshare` cannot be run: {error}")))
}
