//! The program of the consistency suite. See the library's docs.

use std::process::ExitCode;

fn main() -> ExitCode {
    quoit_jepsen::cli::run()
}
