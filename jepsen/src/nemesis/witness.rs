//! Faults in one order: what one node missed is held by few others, and these are away when it counts.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use super::{cut, disk, kill, names, partition, shuffled};
use crate::cluster::{Cluster, ClusterError};
use crate::recorder::Recorder;

/// One is away for so long, and misses what is written.
const AWAY_MS: std::ops::Range<u64> = 3_000..6_000;

/// How a node loses what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its disk is empty.
    Wiped,
    /// Every block of its tables is damaged.
    Damaged,
}

/// One node is away and misses writes. When it is back, one of those that have them stands still or is
/// down, and a third, `loses`, has lost its disk: of some writes the last copy is where nobody can ask.
pub(super) async fn last_copy(
    cluster: &mut Cluster,
    loses: usize,
    loss: Loss,
    recorder: &Recorder,
    random: &mut Rng,
) -> Result<String, ClusterError> {
    let mut others = shuffled(cluster.nodes.len(), random);
    others.retain(|at| *at != loses);
    let [misses, holds, ..] = others[..] else { return Ok(kill(cluster, &[loses]).await) };
    recorder.nemesis("kill", &names(&[misses]), "one misses writes");
    cluster.nodes[misses].kill().await;
    sleep(Duration::from_millis(random.u64(AWAY_MS))).await;
    let is_paused = random.bool();
    if is_paused {
        cluster.nodes[holds].pause();
    } else {
        cluster.nodes[holds].kill().await;
    }
    cluster.nodes[loses].kill().await;
    let what = match loss {
        Loss::Wiped => {
            cluster.nodes[loses].wipe()?;
            "has lost its disk".to_owned()
        }
        Loss::Damaged => disk::damage_everywhere(&cluster.nodes[loses].data(), random)?,
    };
    cluster.start(loses)?;
    cluster.start(misses)?;
    let (misses, holds, loses) = (names(&[misses]), names(&[holds]), names(&[loses]));
    let is = if is_paused { "stands still" } else { "is down" };
    Ok(format!("{misses} has missed writes, {holds} {is}, {loses}: {what}"))
}

/// Two halves do not hear each other; and when they do again, one that has hints (and, in sloppy tables,
/// data) for the others stands still.
pub(super) async fn frozen_hints(
    cluster: &mut Cluster,
    recorder: &Recorder,
    random: &mut Rng,
) -> Result<String, ClusterError> {
    let order = shuffled(cluster.nodes.len(), random);
    let told = cut(cluster, partition::halves(&order)).await?;
    recorder.nemesis("cut", &told, &told);
    sleep(Duration::from_millis(random.u64(AWAY_MS))).await;
    let holder = order[random.usize(..order.len())];
    cluster.nodes[holder].pause();
    cluster.network.heal().await?;
    Ok(format!("{} stands still with its hints, after {told}", names(&[holder])))
}
