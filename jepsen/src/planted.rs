//! The suite's own test: bugs that are planted in a faulty build of the node, one at a time, must be
//! found.
//!
//! The names are those of `PlantedBug` in `quoit-storage`. The others of its bugs this suite does not find:
//! what is not synced survives SIGKILL in the page cache, nothing here expires, no client hands in the
//! context of another key, and some need two rare faults in one order. The simulator finds all of them.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::CommonArguments;
use crate::matrix;
use crate::nemesis::Nemesis;
use crate::workload::Workload;

/// A bug, and the test that finds it.
const BUGS: [(&str, Workload, Nemesis); 8] = [
    ("DropSibling", Workload::Register, Nemesis::None),
    ("ForgetContext", Workload::Register, Nemesis::Partition),
    ("AcknowledgeEarly", Workload::Register, Nemesis::Partition),
    ("UnknownIsNotDone", Workload::Register, Nemesis::Partition),
    ("SendOnlyNew", Workload::Register, Nemesis::Partition),
    ("CountFallback", Workload::Register, Nemesis::Partition),
    ("SkipWriteBack", Workload::Latest, Nemesis::Loss),
    ("SkipOlder", Workload::Latest, Nemesis::Clock),
];

/// Plants each bug that is named, or all; whether all were found. Their results go to the folder that
/// was named, or beside the others.
///
/// # Errors
/// Where a test could not be run.
pub(crate) fn run(
    time: Duration,
    only: &[String],
    seed: u64,
    common: &CommonArguments,
) -> Result<bool, Box<dyn Error>> {
    if let Some(unknown) = only.iter().find(|name| !BUGS.iter().any(|(bug, ..)| bug == *name)) {
        let known: Vec<&str> = BUGS.iter().map(|(bug, ..)| *bug).collect();
        return Err(format!("no test finds {unknown:?}: choose from {}", known.join(", ")).into());
    }
    let mut lines = Vec::new();
    let mut missed = 0;
    let wanted =
        BUGS.iter().filter(|(bug, ..)| only.is_empty() || only.iter().any(|name| name == bug));
    for (bug, workload, nemesis) in wanted {
        println!("== {bug}");
        let out = folder(common, bug);
        let own = CommonArguments {
            plant: Some((*bug).to_owned()),
            out: Some(out.clone()),
            ..common.clone()
        };
        let code = matrix::child(*workload, *nemesis, time, seed, &own)?;
        let test = format!("{} + {}", workload.name(), nemesis.name());
        let folder_of_test = format!("{}-{}", workload.name(), nemesis.name());
        let line = match code {
            Some(1) => format!("{bug:18} {test:22} {}", found(&out.join(&folder_of_test))),
            Some(0) => {
                missed += 1;
                format!("{bug:18} {test:22} NOT FOUND in {} s", time.as_secs())
            }
            code => return Err(format!("the test for {bug} could not be run ({code:?})").into()),
        };
        lines.push(line);
    }
    println!("\n{}", lines.join("\n"));
    Ok(missed == 0)
}

fn folder(common: &CommonArguments, bug: &str) -> PathBuf {
    let id = std::process::id();
    let beside = || Path::new("target/jepsen").join(format!("planted-{id}"));
    common.out.clone().unwrap_or_else(beside).join(bug)
}

/// What was found, and how soon.
fn found(out: &Path) -> String {
    let text = fs::read_to_string(out.join("results.json")).unwrap_or_default();
    let results: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let counts = results["counts"].as_array().into_iter().flatten();
    let names: Vec<String> = counts
        .filter(|count| count["allowed"] == false)
        .map(|count| format!("{} x {}", count["count"], count["anomaly"].as_str().unwrap_or("?")))
        .collect();
    format!("after {} s: {}", results["first_shown_s"], names.join(", "))
}
