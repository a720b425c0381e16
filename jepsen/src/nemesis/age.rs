//! Time leaps ahead for everybody, so that what was deleted is collected, and then an old copy comes back.
//!
//! What may go is looked at in steps of 17.5 minutes, so that it would take as long until anything is
//! collected. So all nodes are stopped, and started again with clocks that are twenty minutes ahead.

use std::time::Duration;

use fastrand::Rng;
use quoit_client::Client;
use tokio::time::sleep;

use super::{disk, names, shuffled};
use crate::cluster::{Cluster, ClusterError};
use crate::recorder::Recorder;

/// Longer than a step (2^20 ms) and what is left alone because it is too young (70 s).
const LEAP_MS: i64 = 20 * 60 * 1_000;
/// Between one part of the cycle and the next.
const STEP_MS: std::ops::Range<u64> = 2_500..4_500;
/// Time is settled, and what may go is collected, within this: a few exchanges of a second each.
const SETTLE: Duration = Duration::from_secs(12);

/// One cycle. `victim` is given its older disk at the end.
pub(super) async fn leap(
    cluster: &mut Cluster,
    client: &Client,
    victim: usize,
    recorder: &Recorder,
    random: &mut Rng,
) -> Result<String, ClusterError> {
    let pause = |random: &mut Rng| sleep(Duration::from_millis(random.u64(STEP_MS)));
    let data = cluster.nodes[victim].data();
    let copy = cluster.nodes[victim].directory.join("copy");
    recorder.nemesis("copy", &names(&[victim]), "its disk is copied");
    cluster.nodes[victim].kill().await;
    disk::wipe(&copy)?;
    disk::copy(&data, &copy)?;
    cluster.start(victim)?;
    cluster.wait_until_whole(client).await?;
    pause(random).await;

    let order = shuffled(cluster.nodes.len(), random);
    let (late, early) = order.split_at(order.len() / 2);
    recorder.nemesis("kill", &names(late), "some miss writes");
    for at in late {
        cluster.nodes[*at].kill().await;
    }
    pause(random).await;
    for at in early {
        cluster.nodes[*at].kill().await;
    }
    for node in &mut cluster.nodes {
        node.age_ms += LEAP_MS;
    }
    recorder.nemesis("leap", &format!("{LEAP_MS} ms"), "who has missed writes is there alone");
    for at in late {
        cluster.start(*at)?;
    }
    pause(random).await;
    cluster.start_all()?;
    cluster.wait_until_whole(client).await?;
    recorder.nemesis("settle", "all", "what was deleted is collected");
    sleep(SETTLE).await;

    cluster.nodes[victim].kill().await;
    disk::wipe(&data)?;
    disk::copy(&copy, &data)?;
    cluster.start(victim)?;
    Ok(format!("time has leapt ahead, and {} has its disk of before", names(&[victim])))
}
