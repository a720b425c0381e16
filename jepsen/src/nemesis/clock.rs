//! Wall clocks that are wrong: from a start on, or all at once while a node runs, or again and again.
//!
//! No clock of a host is touched: a node adds what a setting and a file say (`[clock] offset_ms` and
//! `offset_file`).

use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep};

use super::{names, some_of};
use crate::cluster::{Cluster, ClusterError};
use crate::recorder::Recorder;

/// A wall clock is off by so much at most.
const OFFSET_MS_MAX: u64 = 2 * 60 * 60 * 1_000;
/// A strobing clock is changed so often.
const STROBE: Duration = Duration::from_millis(100);

/// As many small ones as large ones.
fn offset(random: &mut Rng) -> i64 {
    let bound = OFFSET_MS_MAX >> random.u32(..16);
    let offset = i64::try_from(random.u64(1..=bound)).unwrap_or(0);
    if random.bool() { offset } else { -offset }
}

/// Starts some nodes again with clocks that are off.
pub(super) async fn set(cluster: &mut Cluster, random: &mut Rng) -> Result<String, ClusterError> {
    let mut told = Vec::new();
    for at in some_of(cluster.nodes.len(), random) {
        let offset = offset(random);
        cluster.nodes[at].kill().await;
        cluster.nodes[at].clock_offset_ms = offset;
        cluster.start(at)?;
        told.push(format!("{} {offset:+} ms", names(&[at])));
    }
    Ok(format!("clocks are off: {}", told.join(", ")))
}

/// Sets clocks of some nodes forward or back while they run.
pub(super) fn jump(cluster: &mut Cluster, random: &mut Rng) -> Result<String, ClusterError> {
    let mut told = Vec::new();
    for at in some_of(cluster.nodes.len(), random) {
        let offset = offset(random);
        cluster.nodes[at].move_clock(offset)?;
        told.push(format!("{} {offset:+} ms", names(&[at])));
    }
    Ok(format!("clocks jump: {}", told.join(", ")))
}

/// A clock that is set again and again, and how far it goes forward and back, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strobe {
    at: usize,
    reach_ms: i64,
}

/// Which clocks strobe, and that in a few words.
pub(super) fn strobes(count: usize, random: &mut Rng) -> (Vec<Strobe>, String) {
    let some = some_of(count, random);
    let strobe = |at| Strobe { at, reach_ms: offset(random).abs() };
    let strobes: Vec<Strobe> = some.into_iter().map(strobe).collect();
    let told: Vec<String> = strobes
        .iter()
        .map(|Strobe { at, reach_ms }| format!("{} {reach_ms} ms", names(&[*at])))
        .collect();
    (strobes, format!("clocks go to and fro by up to {}", told.join(", ")))
}

/// Changes clocks for so long.
pub(super) async fn strobe(
    strobes: &[Strobe],
    time: Duration,
    cluster: &mut Cluster,
    recorder: &Recorder,
    random: &mut Rng,
) -> Result<(), ClusterError> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        for Strobe { at, reach_ms } in strobes {
            cluster.nodes[*at].move_clock(random.i64(-reach_ms..=*reach_ms))?;
        }
        recorder.clocks(&cluster.clock_offsets());
        sleep(STROBE).await;
    }
    Ok(())
}
