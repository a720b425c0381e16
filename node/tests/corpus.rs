//! The inputs that the fuzz targets of `node/fuzz` have kept, each under its target: what once broke a
//! decoder, and what reaches all of its code, is tried with every change.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quoit_node::decoding::TARGETS;

/// All inputs together have no more bytes: a corpus that grows is minimised first.
const CORPUS_BYTES_MAX: u64 = 256 << 10;

#[test]
fn every_kept_input_of_every_fuzz_target_passes() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut bytes_in_all = 0;
    for (name, target) in TARGETS {
        let folder = fuzz.join("corpus").join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            bytes_in_all += bytes.len() as u64;
            // A panic must tell which one it was.
            eprintln!("{}", path.display());
            target(&bytes);
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has kept nothing");
    }
    assert!(bytes_in_all <= CORPUS_BYTES_MAX, "{bytes_in_all} bytes: run cargo fuzz cmin");
    let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| format!("{name}.rs")).collect();
    let files = fs::read_dir(fuzz.join("fuzz_targets")).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<_>>(), known, "each target is fuzzed and tested");
}
