//! Invariant 19: the same seed gives the same trace, in another process too.

use std::process::Command;

fn hashes(seeds: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_quoit-simulations"))
        .args(["run", "--profile", "small", "--hashes", "--seeds", &seeds.to_string()])
        .output()
        .expect("the simulator runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn one_seed_gives_one_trace_in_two_processes() {
    let (one, two) = (hashes(200), hashes(200));
    assert_eq!(one.lines().count(), 200);
    assert_eq!(one, two);
    let distinct: std::collections::BTreeSet<&str> =
        one.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(distinct.len(), 200, "and another seed another one");
}
