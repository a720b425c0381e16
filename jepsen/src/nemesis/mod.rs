//! The nemesis: draws faults from a seed, makes them, and heals them again, until its time is over.

mod age;
mod clock;
mod disk;
mod packets;
mod partition;
mod power;
mod witness;

use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use quoit_client::Client;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::{Cluster, ClusterError, DiskFaults, DiskKind, LOSS_PERCENT_MAX};
use crate::recorder::Recorder;
use crate::relay::Counts;

use self::witness::Loss;

/// How long nothing is wrong between two faults.
const GAP_MS: std::ops::Range<u64> = 2_000..4_000;
/// How long a fault lasts.
const HOLD_MS: std::ops::Range<u64> = 4_000..9_000;
/// How long one lasts whose point comes when nodes that were started have listened to the others.
const HOLD_LONG_MS: std::ops::Range<u64> = 11_000..15_000;
/// How long one lasts that is over at once, until the next.
const HOLD_SHORT_MS: std::ops::Range<u64> = 1_000..3_000;
/// A copy of a disk is put back when it is at least so old: what a node did in the last ten seconds
/// before it was copied may not have been written down by the others, as the README says.
const COPY_AGE_MIN: Duration = Duration::from_secs(20);

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    PartitionOne,
    PartitionHalves,
    PartitionRing,
    PartitionBridge,
    PartitionOneWay,
    Loss,
    Delay,
    Reorder,
    Duplicate,
    DamagePackets,
    KillOne,
    KillSome,
    KillAll,
    Pause,
    Rolling,
    Clock,
    ClockJump,
    ClockStrobe,
    DiskFull,
    Wipe,
    Restore,
    Corrupt,
    SlowSync,
    FailSync,
    FailDisk,
    CutOne,
    CutSome,
    CutAll,
    Blink,
    LastCopyWiped,
    LastCopyDamaged,
    FrozenHints,
    Leap,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Nemesis {
    /// Nothing.
    None,
    /// Partitions of every kind: one alone, halves, majority ring, bridge, one way.
    Partition,
    /// One node is cut off from the others, both ways.
    PartitionOne,
    /// Some nodes hear others and are not heard.
    PartitionOneWay,
    /// Nodes lose a part of all packets that come to them.
    Loss,
    /// Packets between some nodes, or one way, take 5 to 600 ms, and keep their order.
    Delay,
    /// Up to 60 % of the packets between some nodes are late, so that others pass them.
    Reorder,
    /// Up to 80 % of the packets between some nodes come twice.
    Duplicate,
    /// Bits are flipped in up to 30 % of the packets between some nodes.
    CorruptPackets,
    /// SIGKILL of one, some or all nodes, and restart.
    Kill,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// SIGSTOP of one node for seconds, and SIGCONT.
    Pause,
    /// Each node in turn is killed and started again.
    Rolling,
    /// Restarts with wall clocks that are off by up to two hours.
    Clock,
    /// Wall clocks of some nodes jump while they run, by up to two hours, and back.
    ClockJump,
    /// Wall clocks of some nodes are set forward and back ten times a second, for seconds.
    ClockStrobe,
    /// The disk of one node is full, and is not any more.
    DiskFull,
    /// One node loses its data directory; the next only when it is whole again.
    Wipe,
    /// One node is given an older copy of its data directory.
    Restore,
    /// Bits are flipped and pages zeroed in files of one node.
    Corrupt,
    /// Syncs (fsync) of some or all nodes take up to seconds.
    SlowFsync,
    /// Syncs of some or all nodes fail, one each or all; then the power of those goes.
    FailFsync,
    /// Reads and writes of one node's disk fail now and then.
    DiskErrors,
    /// The power of one, some or all nodes goes, and what they had not synced with it.
    PowerCut,
    /// The power of one node goes while its syncs are slow, and is back at once.
    PowerBlink,
    /// What one node has missed is left on one that stands still: a third has lost its disk.
    LastCopy,
    /// The same, but every block of the third one's tables is damaged.
    LastCopyRot,
    /// A node stands still while it holds hints, and those for whom they are are back. Replicas are not
    /// compared: hints alone make them equal.
    Hints,
    /// Time leaps ahead for all, what was deleted is collected, and an old copy of a disk comes back.
    Age,
    /// Partitions, losses, delays, kills, power cuts, pauses, clocks and wiped disks, often two at a
    /// time.
    Mix,
}

const PARTITIONS: [Fault; 5] = [
    Fault::PartitionOne,
    Fault::PartitionHalves,
    Fault::PartitionRing,
    Fault::PartitionBridge,
    Fault::PartitionOneWay,
];
const PACKETS: [Fault; 4] = [Fault::Delay, Fault::Reorder, Fault::Duplicate, Fault::DamagePackets];
const PROCESSES: [Fault; 10] = [
    Fault::KillOne,
    Fault::KillSome,
    Fault::KillAll,
    Fault::CutSome,
    Fault::CutAll,
    Fault::Pause,
    Fault::Rolling,
    Fault::Clock,
    Fault::ClockJump,
    Fault::ClockStrobe,
];

impl Nemesis {
    pub(crate) fn name(self) -> String {
        let value = <Self as clap::ValueEnum>::to_possible_value(&self);
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it needs a relay between the nodes.
    pub(crate) fn disturbs_packets(self) -> bool {
        match self {
            Self::Delay | Self::Reorder | Self::Duplicate | Self::CorruptPackets | Self::Mix => {
                true
            }
            Self::None
            | Self::Partition
            | Self::PartitionOne
            | Self::PartitionOneWay
            | Self::Loss
            | Self::Hints
            | Self::Kill
            | Self::KillAll
            | Self::Pause
            | Self::Rolling
            | Self::Clock
            | Self::ClockJump
            | Self::ClockStrobe
            | Self::DiskFull
            | Self::Wipe
            | Self::Restore
            | Self::Corrupt
            | Self::SlowFsync
            | Self::FailFsync
            | Self::DiskErrors
            | Self::PowerCut
            | Self::PowerBlink
            | Self::LastCopy
            | Self::LastCopyRot
            | Self::Age => false,
        }
    }

    /// What the nodes must keep their data on.
    pub(crate) fn disks(self) -> DiskKind {
        match self {
            Self::DiskFull => DiskKind::Small,
            Self::SlowFsync
            | Self::FailFsync
            | Self::DiskErrors
            | Self::PowerCut
            | Self::PowerBlink
            | Self::Mix => DiskKind::Volatile,
            _ => DiskKind::Plain,
        }
    }

    /// How often replicas are compared; 0: never.
    pub(crate) fn repair_interval_seconds(self) -> u8 {
        match self {
            Self::Hints => 0,
            // What a node has lost stays lost for a while.
            Self::PowerBlink => 60,
            Self::Age => 1,
            _ => 5,
        }
    }

    /// What happens at once.
    fn draw(self, random: &mut Rng) -> Vec<Fault> {
        let luck = random.u8(..8);
        let mut one = |faults: &[Fault]| vec![faults[random.usize(..faults.len())]];
        match self {
            Self::None => Vec::new(),
            Self::Partition => one(&PARTITIONS),
            Self::PartitionOne => one(&[Fault::PartitionOne]),
            Self::PartitionOneWay => one(&[Fault::PartitionOneWay]),
            Self::Loss => one(&[Fault::Loss]),
            Self::Delay => one(&[Fault::Delay]),
            Self::Reorder => one(&[Fault::Reorder]),
            Self::Duplicate => one(&[Fault::Duplicate]),
            Self::CorruptPackets => one(&[Fault::DamagePackets]),
            Self::Kill => one(&[Fault::KillOne, Fault::KillSome, Fault::KillAll]),
            Self::KillAll => one(&[Fault::KillAll]),
            Self::Pause => one(&[Fault::Pause]),
            Self::Rolling => one(&[Fault::Rolling]),
            Self::Clock => one(&[Fault::Clock]),
            Self::ClockJump => one(&[Fault::ClockJump]),
            Self::ClockStrobe => one(&[Fault::ClockStrobe]),
            Self::DiskFull => one(&[Fault::DiskFull]),
            Self::Wipe => one(&[Fault::Wipe]),
            Self::Restore => one(&[Fault::Restore]),
            Self::Corrupt => one(&[Fault::Corrupt]),
            Self::SlowFsync => one(&[Fault::SlowSync]),
            Self::FailFsync => one(&[Fault::FailSync]),
            Self::DiskErrors => one(&[Fault::FailDisk]),
            Self::PowerCut => one(&[Fault::CutOne, Fault::CutSome, Fault::CutAll]),
            Self::PowerBlink => one(&[Fault::Blink]),
            Self::LastCopy => one(&[Fault::LastCopyWiped]),
            Self::LastCopyRot => one(&[Fault::LastCopyDamaged]),
            Self::Hints => one(&[Fault::FrozenHints]),
            Self::Age => one(&[Fault::Leap]),
            Self::Mix if luck == 0 => vec![Fault::Wipe],
            Self::Mix => {
                let network = one(&[&PARTITIONS[..], &[Fault::Loss], &PACKETS[..]].concat());
                let process = one(&PROCESSES);
                match luck {
                    1 | 2 => network,
                    3 | 4 => process,
                    _ => [network, process].concat(),
                }
            }
        }
    }
}

/// What is remembered from one fault to the next.
#[derive(Debug)]
struct State {
    /// The node whose disk is damaged or set back: always the same one, at most N - W in all.
    victim: usize,
    copy: Option<(PathBuf, Instant)>,
    /// The clocks that strobe while the fault is held.
    strobes: Vec<clock::Strobe>,
}

/// Disturbs until `until`, and is healed when it returns.
///
/// # Errors
/// [`ClusterError`] where a fault cannot be made, or the cluster does not recover from one.
pub(crate) async fn run(
    nemesis: Nemesis,
    cluster: &mut Cluster,
    client: &Client,
    until: Instant,
    recorder: &Recorder,
    random: &mut Rng,
) -> Result<(), ClusterError> {
    let mut relayed = Counts::default();
    let mut state =
        State { victim: random.usize(..cluster.nodes.len()), copy: None, strobes: Vec::new() };
    loop {
        let gap = Duration::from_millis(random.u64(GAP_MS));
        sleep_until((Instant::now() + gap).min(until)).await;
        if Instant::now() >= until {
            return Ok(());
        }
        let faults = nemesis.draw(random);
        let mut told = Vec::new();
        for fault in &faults {
            told.push(begin(*fault, cluster, client, &mut state, recorder, random).await?);
        }
        if faults.is_empty() {
            continue;
        }
        recorder.nemesis("start", &told.join(" and "), &told.join(" and "));
        recorder.clocks(&cluster.clock_offsets());
        hold(cluster, &mut state, recorder, random, &faults).await?;
        recorder.nemesis("stop", &told.join(" and "), "healed, recovering");
        if let Some(told) = power::end_failures(cluster, random).await {
            recorder.nemesis("cut", &told, "healed, recovering");
        }
        heal_all(cluster).await?;
        tell_changes(cluster, &mut relayed, recorder);
        if faults.iter().any(|fault| fault.must_be_recovered()) {
            cluster.wait_until_whole(client).await?;
        }
        recorder.nemesis("recovered", "", "");
    }
}

/// Lets a fault last.
async fn hold(
    cluster: &mut Cluster,
    state: &mut State,
    recorder: &Recorder,
    random: &mut Rng,
    faults: &[Fault],
) -> Result<(), ClusterError> {
    let hold = match faults {
        [Fault::LastCopyWiped | Fault::LastCopyDamaged] => HOLD_LONG_MS,
        [Fault::Blink] => HOLD_SHORT_MS,
        _ => HOLD_MS,
    };
    let time = Duration::from_millis(random.u64(hold));
    match std::mem::take(&mut state.strobes).as_slice() {
        [] => sleep(time).await,
        strobes => clock::strobe(strobes, time, cluster, recorder, random).await?,
    }
    Ok(())
}

/// Tells how far clocks are off, and what the relay has done to packets, where that has changed.
fn tell_changes(cluster: &Cluster, known: &mut Counts, recorder: &Recorder) {
    recorder.clocks(&cluster.clock_offsets());
    let relayed = cluster.network.relayed().unwrap_or_default();
    if known.disturbed() != relayed.disturbed() {
        recorder.nemesis("packets", &relayed.to_string(), "recovering");
    }
    *known = relayed;
}

impl Fault {
    /// Whether the next one waits until all is whole: a second loss before would be one too many.
    fn must_be_recovered(self) -> bool {
        matches!(
            self,
            Self::Wipe
                | Self::Restore
                | Self::Corrupt
                | Self::Clock
                | Self::ClockJump
                | Self::ClockStrobe
                | Self::DiskFull
                | Self::FailSync
                | Self::FailDisk
                | Self::LastCopyWiped
                | Self::LastCopyDamaged
                | Self::Leap
        )
    }
}

/// Makes a fault, and says in a few words what it is.
async fn begin(
    fault: Fault,
    cluster: &mut Cluster,
    client: &Client,
    state: &mut State,
    recorder: &Recorder,
    random: &mut Rng,
) -> Result<String, ClusterError> {
    let count = cluster.nodes.len();
    let one = random.usize(..count);
    Ok(match fault {
        Fault::PartitionOne => cut(cluster, partition::one(count, one)).await?,
        Fault::PartitionHalves => cut(cluster, partition::halves(&shuffled(count, random))).await?,
        Fault::PartitionRing => cut(cluster, partition::ring(&shuffled(count, random))).await?,
        Fault::PartitionBridge => cut(cluster, partition::bridge(&shuffled(count, random))).await?,
        Fault::PartitionOneWay => {
            cut(cluster, partition::one_way(&shuffled(count, random))).await?
        }
        Fault::Loss => {
            let percent = random.u8(5..LOSS_PERCENT_MAX);
            let some = some_of(count, random);
            for at in &some {
                cluster.network.lose(*at, percent).await?;
            }
            format!("{} lose {percent} %", names(&some))
        }
        Fault::Delay => disturb(cluster, packets::slow(count, random)),
        Fault::Reorder => disturb(cluster, packets::out_of_order(count, random)),
        Fault::Duplicate => disturb(cluster, packets::doubled(count, random)),
        Fault::DamagePackets => disturb(cluster, packets::damaged(count, random)),
        Fault::KillOne => kill(cluster, &[one]).await,
        Fault::KillSome => {
            let some = some_of(count, random);
            kill(cluster, &some).await
        }
        Fault::KillAll => kill(cluster, &(0..count).collect::<Vec<_>>()).await,
        Fault::Pause => {
            cluster.nodes[one].pause();
            format!("{} stands still", names(&[one]))
        }
        Fault::Rolling => {
            for at in 0..count {
                recorder.nemesis("restart", &names(&[at]), "rolling restart");
                cluster.nodes[at].kill().await;
                cluster.start(at)?;
                sleep(Duration::from_millis(random.u64(200..1_500))).await;
            }
            "all were restarted, one after another".to_owned()
        }
        Fault::Clock => clock::set(cluster, random).await?,
        Fault::ClockJump => clock::jump(cluster, random)?,
        Fault::ClockStrobe => {
            let (strobes, told) = clock::strobes(count, random);
            state.strobes = strobes;
            told
        }
        Fault::DiskFull => {
            let bytes = disk::fill(&cluster.nodes[one].data())?;
            format!("the disk of {} is full ({bytes} bytes)", names(&[one]))
        }
        Fault::Wipe => {
            cluster.nodes[one].kill().await;
            cluster.nodes[one].wipe()?;
            cluster.start(one)?;
            format!("{} has lost its disk", names(&[one]))
        }
        Fault::Restore => restore(cluster, client, state).await?,
        Fault::Corrupt => {
            cluster.nodes[state.victim].kill().await;
            let what = disk::damage(&cluster.nodes[state.victim].data(), random)?;
            cluster.start(state.victim)?;
            format!("{}: {what}", names(&[state.victim]))
        }
        Fault::SlowSync => power::slow_syncs(cluster, random),
        Fault::FailSync => power::fail_syncs(cluster, random),
        Fault::FailDisk => power::fail_calls(cluster, one, random),
        Fault::CutOne => power::cut(cluster, &[one], recorder, random).await?,
        Fault::CutSome => {
            let some = some_of(count, random);
            power::cut(cluster, &some, recorder, random).await?
        }
        Fault::CutAll => {
            power::cut(cluster, &(0..count).collect::<Vec<_>>(), recorder, random).await?
        }
        Fault::Blink => power::blink(cluster, one, recorder, random).await?,
        Fault::LastCopyWiped => {
            witness::last_copy(cluster, one, Loss::Wiped, recorder, random).await?
        }
        Fault::LastCopyDamaged => {
            witness::last_copy(cluster, state.victim, Loss::Damaged, recorder, random).await?
        }
        Fault::FrozenHints => witness::frozen_hints(cluster, recorder, random).await?,
        Fault::Leap => age::leap(cluster, client, state.victim, recorder, random).await?,
    })
}

/// The first time a copy is made, the next time it is put back.
async fn restore(
    cluster: &mut Cluster,
    client: &Client,
    state: &mut State,
) -> Result<String, ClusterError> {
    let at = state.victim;
    let data = cluster.nodes[at].data();
    let Some((copy, made)) = state.copy.take() else {
        let copy = cluster.nodes[at].directory.join("copy");
        cluster.nodes[at].kill().await;
        disk::wipe(&copy)?;
        disk::copy(&data, &copy)?;
        cluster.start(at)?;
        cluster.wait_until_whole(client).await?;
        state.copy = Some((copy, Instant::now()));
        return Ok(format!("{} was copied while it was stopped", names(&[at])));
    };
    sleep_until(made + COPY_AGE_MIN).await;
    cluster.nodes[at].kill().await;
    disk::wipe(&data)?;
    disk::copy(&copy, &data)?;
    cluster.start(at)?;
    let age = made.elapsed().as_secs();
    Ok(format!("{} has its disk of {age} s ago", names(&[at])))
}

/// Heals everything. What was killed runs again, and clocks are right; it is not waited for.
pub(crate) async fn heal_all(cluster: &mut Cluster) -> Result<(), ClusterError> {
    cluster.network.heal().await?;
    for at in 0..cluster.nodes.len() {
        let was_full = disk::free(&cluster.nodes[at].data())?;
        let node = &mut cluster.nodes[at];
        let has_failed = node.disk().is_some_and(|disk| {
            disk.set_faults(DiskFaults::default());
            disk.take_failed()
        });
        node.move_clock(0)?;
        // A clock is set at a start; and a node whose log could not be written says itself that it wants
        // to be started again.
        if std::mem::take(&mut node.clock_offset_ms) != 0 || was_full || has_failed {
            node.kill().await;
        }
    }
    cluster.start_all()
}

async fn kill(cluster: &mut Cluster, some: &[usize]) -> String {
    for at in some {
        cluster.nodes[*at].kill().await;
    }
    format!("{} killed", names(some))
}

fn disturb(cluster: &Cluster, weather: packets::Weather) -> String {
    for (from, to) in weather.directions {
        cluster.network.disturb(from, to, &weather.conditions);
    }
    weather.told
}

async fn cut(cluster: &Cluster, cuts: partition::Cuts) -> Result<String, ClusterError> {
    for (to, from) in cuts.cuts.iter().enumerate() {
        cluster.network.cut(to, from).await?;
    }
    Ok(cuts.told)
}

fn shuffled(count: usize, random: &mut Rng) -> Vec<usize> {
    let mut nodes: Vec<usize> = (0..count).collect();
    random.shuffle(&mut nodes);
    nodes
}

/// At least one node, and not all.
fn some_of(count: usize, random: &mut Rng) -> Vec<usize> {
    let mut some = shuffled(count, random);
    some.truncate(random.usize(1..count.max(2)));
    some.sort_unstable();
    some
}

fn names(nodes: &[usize]) -> String {
    nodes.iter().map(|at| format!("n{}", at + 1)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn one_seed_draws_one_row_of_faults() {
        let draw = |seed| {
            let mut random = Rng::with_seed(seed);
            (0..40).map(|_| Nemesis::Mix.draw(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn only_who_disturbs_packets_needs_a_relay() {
        let mut random = Rng::with_seed(1);
        for nemesis in Nemesis::value_variants() {
            let disturbs = (0..50)
                .flat_map(|_| nemesis.draw(&mut random))
                .any(|fault| PACKETS.contains(&fault));
            assert_eq!(disturbs, nemesis.disturbs_packets(), "{nemesis:?}");
        }
    }

    #[test]
    fn some_are_never_all() {
        let mut random = Rng::with_seed(1);
        for _ in 0..100 {
            let some = some_of(5, &mut random);
            assert!((1..5).contains(&some.len()), "{some:?}");
        }
        assert_eq!(some_of(1, &mut random), [0]);
    }
}
