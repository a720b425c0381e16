//! The suite's own test: bugs that are planted in a faulty build of the node, one at a time, must be
//! found.
//!
//! The names are those of `PlantedBug` in `quoit-storage`. The others of its bugs this suite does not look
//! for: nothing here expires, no client hands in the context of another key or asks for more than a node
//! takes, nobody changes the cluster's record, and two need a message that is late by a whole collection.
//! The simulator finds all of them.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::CommonArguments;
use crate::matrix;
use crate::nemesis::Nemesis;
use crate::workload::Workload;

/// A bug, and the test that finds it.
#[derive(Debug)]
struct Case {
    bug: &'static str,
    workload: Workload,
    nemesis: Nemesis,
    /// With three nodes each is a replica of every key.
    nodes: u16,
}

const fn case(bug: &'static str, workload: Workload, nemesis: Nemesis, nodes: u16) -> Case {
    Case { bug, workload, nemesis, nodes }
}

const CASES: [Case; 18] = [
    case("DropSibling", Workload::Register, Nemesis::None, 5),
    case("ForgetContext", Workload::Register, Nemesis::Partition, 5),
    case("AcknowledgeEarly", Workload::Register, Nemesis::Partition, 5),
    case("UnknownIsNotDone", Workload::Register, Nemesis::Partition, 5),
    case("SendOnlyNew", Workload::Register, Nemesis::Partition, 5),
    case("CountFallback", Workload::Register, Nemesis::Partition, 5),
    case("SkipWriteBack", Workload::Latest, Nemesis::SlowFsync, 3),
    case("ForgetSession", Workload::Session, Nemesis::Partition, 5),
    case("SkipOlder", Workload::Latest, Nemesis::Clock, 5),
    case("SkipSync", Workload::Register, Nemesis::PowerCut, 5),
    case("IgnoreFailedSync", Workload::Scan, Nemesis::FailFsync, 3),
    case("KeepActor", Workload::Blind, Nemesis::PowerBlink, 3),
    case("CountAtOnce", Workload::Register, Nemesis::LastCopy, 3),
    case("RefillFromOne", Workload::Insert, Nemesis::LastCopy, 5),
    case("CorruptIsAbsent", Workload::Insert, Nemesis::LastCopyRot, 3),
    case("SkipDigest", Workload::Insert, Nemesis::LastCopy, 3),
    case("DropHint", Workload::Sloppy, Nemesis::Hints, 5),
    case("SettleWithoutPromises", Workload::Insert, Nemesis::Age, 5),
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
    if let Some(unknown) = only.iter().find(|name| !CASES.iter().any(|case| case.bug == **name)) {
        let known: Vec<&str> = CASES.iter().map(|case| case.bug).collect();
        return Err(format!("no test finds {unknown:?}: choose from {}", known.join(", ")).into());
    }
    let mut lines = Vec::new();
    let mut missed = 0;
    let is_wanted = |case: &&Case| only.is_empty() || only.iter().any(|name| name == case.bug);
    for Case { bug, workload, nemesis, nodes } in CASES.iter().filter(is_wanted) {
        println!("== {bug}");
        let out = folder(common, bug);
        let own = CommonArguments {
            plant: Some((*bug).to_owned()),
            out: Some(out.clone()),
            ..common.clone()
        };
        let more = ["--nodes".to_owned(), nodes.to_string(), "--until-found".to_owned()];
        let code = matrix::child(*workload, *nemesis, time, seed, &own, &more)?;
        let test = format!("{} + {}, {nodes} nodes", workload.name(), nemesis.name());
        let folder_of_test = format!("{}-{}", workload.name(), nemesis.name());
        let said = match code {
            Some(0) => None,
            Some(1) => found(&out.join(&folder_of_test)),
            code => return Err(format!("the test for {bug} could not be run ({code:?})").into()),
        };
        missed += usize::from(said.is_none());
        let said = said.unwrap_or_else(|| format!("NOT FOUND in {} s", time.as_secs()));
        println!("{bug}: {said}");
        lines.push(format!("{bug:22} {test:34} {said}"));
    }
    println!("\n{}", lines.join("\n"));
    Ok(missed == 0)
}

fn folder(common: &CommonArguments, bug: &str) -> PathBuf {
    let id = std::process::id();
    let beside = || Path::new("target/jepsen").join(format!("planted-{id}"));
    common.out.clone().unwrap_or_else(beside).join(bug)
}

/// What was found, and how soon. That the cluster was not whole again shows no bug by itself.
fn found(out: &Path) -> Option<String> {
    let text = fs::read_to_string(out.join("results.json")).unwrap_or_default();
    let results: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let counts = results["counts"].as_array().into_iter().flatten();
    let names: Vec<String> = counts
        .filter(|count| count["allowed"] == false)
        .map(|count| format!("{} x {}", count["count"], count["anomaly"].as_str().unwrap_or("?")))
        .collect();
    let is_found = !names.is_empty();
    is_found.then(|| format!("after {} s: {}", results["first_shown_s"], names.join(", ")))
}
