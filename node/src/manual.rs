//! What a package installs beside the program and takes from its command line: man pages and shell
//! completions, so that they say what the program says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

/// The shells that get completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Files that could not all be written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written", path.display())]
pub struct ManualError {
    /// The directory.
    path: PathBuf,
    /// What the system said.
    source: io::Error,
}

/// Writes `man/*.1` and `completions/*` to a directory, which is made where it is missing.
///
/// # Errors
/// See [`ManualError`].
pub fn write(command: Command, directory: &Path) -> Result<(), ManualError> {
    let name = command.get_name().to_owned();
    let make = |part: &str| {
        let path = directory.join(part);
        let failed = |source| ManualError { path: path.clone(), source };
        fs::create_dir_all(&path).map_err(failed).map(|()| path)
    };
    let completions = make("completions")?;
    for shell in SHELLS {
        // A command gets its `help` subcommands with this; they have no pages.
        let mut command = command.clone();
        clap_complete::generate_to(shell, &mut command, &name, &completions)
            .map_err(|source| ManualError { path: completions.clone(), source })?;
    }
    let man = make("man")?;
    clap_mangen::generate_to(command, &man).map_err(|source| ManualError { path: man, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_that_is_shown_has_its_page() {
        let directory = tempfile::tempdir().unwrap();
        let command = Command::new("tool")
            .subcommand(Command::new("open").about("Opens it"))
            .subcommand(Command::new("secret").hide(true));
        write(command, directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name));
        assert!(read("man/tool-open.1").unwrap().contains("Opens it"));
        assert!(read("man/tool-secret.1").is_err() && read("man/tool-help.1").is_err());
        assert!(read("completions/tool.bash").unwrap().contains("open"));
    }
}
