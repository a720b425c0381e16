//! Disks that are slow or fail, and power that goes.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use super::{names, some_of};
use crate::cluster::{Cluster, ClusterError, DiskFaults, Keep};
use crate::recorder::Recorder;

/// The longest that a sync takes is one of these.
const SYNC_DELAYS_MS: [u64; 4] = [30, 200, 1_000, 3_000];
/// So much is being written when the power goes, in half of the cuts: syncs take up to so long, for so
/// long before.
const SLOW_BEFORE_CUT_MS: (u64, u64) = (400, 1_500);
/// Of 1,000 reads and writes so many fail.
const FAILING_PER_MILLE: std::ops::Range<u16> = 2..200;

/// Some nodes, or all of them.
fn some_or_all(count: usize, random: &mut Rng) -> Vec<usize> {
    if random.u8(..3) == 0 { (0..count).collect() } else { some_of(count, random) }
}

fn set_faults(cluster: &Cluster, some: &[usize], faults: &DiskFaults) {
    for disk in some.iter().filter_map(|at| cluster.nodes[*at].disk()) {
        disk.set_faults(faults.clone());
    }
}

/// Syncs take long.
pub(super) fn slow_syncs(cluster: &Cluster, random: &mut Rng) -> String {
    let some = some_or_all(cluster.nodes.len(), random);
    let delay = SYNC_DELAYS_MS[random.usize(..SYNC_DELAYS_MS.len())];
    let sync_delay_max = Some(Duration::from_millis(delay));
    set_faults(cluster, &some, &DiskFaults { sync_delay_max, ..DiskFaults::default() });
    format!("syncs of {} take up to {delay} ms", names(&some))
}

/// One sync fails, or all do for a while.
pub(super) fn fail_syncs(cluster: &Cluster, random: &mut Rng) -> String {
    let some = some_or_all(cluster.nodes.len(), random);
    let is_one = random.bool();
    let syncs_to_fail = if is_one { 1 } else { u32::MAX };
    set_faults(cluster, &some, &DiskFaults { syncs_to_fail, ..DiskFaults::default() });
    format!("{} of {} fail", if is_one { "one sync each" } else { "all syncs" }, names(&some))
}

/// Reads and writes fail now and then, on one node.
pub(super) fn fail_calls(cluster: &Cluster, one: usize, random: &mut Rng) -> String {
    let per_mille_to_fail = random.u16(FAILING_PER_MILLE);
    set_faults(cluster, &[one], &DiskFaults { per_mille_to_fail, ..DiskFaults::default() });
    format!("{per_mille_to_fail} of 1000 reads and writes of {} fail", names(&[one]))
}

/// The power goes, and what was not synced with it.
pub(super) async fn cut(
    cluster: &mut Cluster,
    some: &[usize],
    recorder: &Recorder,
    random: &mut Rng,
) -> Result<String, ClusterError> {
    if random.bool() {
        slow_down(cluster, some, recorder, random).await;
    }
    let keep = Keep::any(random);
    let told = cut_now(cluster, some, keep, random).await;
    if random.bool() {
        return Ok(told);
    }
    for at in some {
        cluster.start(*at)?;
    }
    Ok(format!("{told}, and is back at once"))
}

/// The power of one goes while it writes, and is back before the others have written much.
pub(super) async fn blink(
    cluster: &mut Cluster,
    one: usize,
    recorder: &Recorder,
    random: &mut Rng,
) -> Result<String, ClusterError> {
    slow_down(cluster, &[one], recorder, random).await;
    let keep = if random.bool() { Keep::Some } else { Keep::Nothing };
    let told = cut_now(cluster, &[one], keep, random).await;
    cluster.start(one)?;
    Ok(told)
}

async fn slow_down(cluster: &Cluster, some: &[usize], recorder: &Recorder, random: &mut Rng) {
    let (delay, before) = SLOW_BEFORE_CUT_MS;
    let sync_delay_max = Some(Duration::from_millis(delay));
    set_faults(cluster, some, &DiskFaults { sync_delay_max, ..DiskFaults::default() });
    recorder.nemesis("slow", &names(some), "slow syncs, then a power cut");
    sleep(Duration::from_millis(random.u64(delay..before))).await;
}

async fn cut_now(cluster: &mut Cluster, some: &[usize], keep: Keep, random: &mut Rng) -> String {
    let report = cluster.cut_power(some, keep, random).await;
    let kept = match keep {
        Keep::All => "all",
        Keep::Some => "some",
        Keep::Nothing => "nothing",
    };
    let (sectors, changes) = (report.sectors, report.names);
    format!(
        "power cut at {}: {kept} kept of {sectors} unsynced sectors and {changes} changes of names",
        names(some)
    )
}

/// What looked written on a disk that failed may not be there: the power of those nodes goes, so that it
/// shows.
pub(super) async fn end_failures(cluster: &mut Cluster, random: &mut Rng) -> Option<String> {
    let failed = |at: &usize| cluster.nodes[*at].disk().is_some_and(|disk| disk.take_failed());
    let failed: Vec<usize> = (0..cluster.nodes.len()).filter(failed).collect();
    if failed.is_empty() {
        return None;
    }
    let keep = Keep::any(random);
    Some(cut_now(cluster, &failed, keep, random).await)
}
