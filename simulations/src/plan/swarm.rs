//! The swarm: each seed draws its own sizes, tables, load and mix of faults (Groce et al., "Swarm
//! Testing", 2012: runs that leave most kinds of faults out find more than runs that mix them all).

use quoit_core::random::Random;
use quoit_ring::ConflictPolicy;

use super::{
    Action, Fault, Machine, Network, Operation, PlannedFault, Rarities, Schedule, Table, stream,
};
use crate::workloads::Workload;

/// What kind of runs are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Everything.
    Swarm,
    /// The same, but short.
    Small,
    /// Five nodes, N=3, no fault, much load: to measure.
    Calm,
    /// Five nodes, N=3, faults, 50 operations a second for so many minutes: to measure.
    Endurance {
        /// How long.
        minutes: u64,
    },
}

/// Draws a schedule.
pub fn draw(seed: u64, profile: Profile) -> Schedule {
    let mut random = stream(seed, "swarm", 0);
    let nodes = match profile {
        Profile::Calm | Profile::Endurance { .. } => 5,
        Profile::Small => 1 + random.below(5),
        Profile::Swarm if random.below(60) == 0 => 10 + random.below(41),
        Profile::Swarm => 1 + random.below(9),
    };
    let calm = profile == Profile::Calm;
    let measured = calm || matches!(profile, Profile::Endurance { .. });
    let tables = if measured { measured_tables() } else { draw_tables(nodes, &mut random) };
    let clients = if calm { 8 } else { 1 + random.below(8) as u32 };
    let mut schedule = Schedule {
        seed,
        vnodes: 8 << random.below(6),
        zones: 1 + random.below(nodes.min(4)) as u32,
        machines: (0..nodes).map(|_| draw_machine(measured, &mut random)).collect(),
        network: draw_network(measured, &mut random),
        tables,
        clients,
        rarities: if measured { Rarities::default() } else { draw_rarities(&mut random) },
        operations: Vec::new(),
        faults: Vec::new(),
        forms_slowly: !measured && seed % 16 == 11,
        expects_loss: !measured && random.below(20) == 0,
    };
    let (length_ms, every_us) = match profile {
        Profile::Calm => (8_000, 200),
        Profile::Endurance { minutes } => (minutes * 60_000, 20_000),
        Profile::Small => (2_000 + random.below(4_000), 8_000 + random.below(20_000)),
        Profile::Swarm => (3_000 + random.below(25_000), 4_000 + random.below(50_000)),
    };
    draw_operations(&mut schedule, length_ms, every_us, profile);
    if !measured && (10..=13).contains(&(seed % 16)) {
        lengthen(&mut schedule);
    }
    if !calm && random.below(10) > 0 {
        draw_faults(&mut schedule, length_ms);
    }
    if !measured {
        draw_hints(&mut schedule.rarities, seed);
        let mut random = stream(seed, "scrub", 0);
        if random.below(3) == 0 {
            schedule.rarities.scrub_period_ms = 500 + random.below(10_000);
        }
    }
    if !measured && seed % 16 == 7 && nodes > 2 && !schedule.expects_loss {
        rob(&mut schedule, length_ms);
    }
    if !measured && seed % 16 == 9 {
        hunt_zombies(&mut schedule, length_ms);
    }
    if !measured && seed % 16 == 5 && nodes > 1 && !schedule.expects_loss {
        let rounds = if random.below(2) == 0 { 0 } else { 1 + random.below(4) };
        stand_in(&mut schedule, length_ms, rounds);
    }
    if !measured && (seed % 16 == 13 || seed % 64 == 37) && !schedule.expects_loss {
        let mut random = stream(seed, "sessions", 0);
        for operation in &mut schedule.operations {
            if operation.action == Action::Get && random.below(4) > 0 {
                operation.action = Action::SessionGet;
            }
        }
    }
    schedule
}

fn measured_tables() -> Vec<Table> {
    let table =
        |policy| Table { policy, replication: 3, read: 2, write: 2, ttl_ms: None, sloppy: false };
    vec![table(ConflictPolicy::Latest), table(ConflictPolicy::Siblings)]
}

fn draw_tables(nodes: u64, random: &mut Random) -> Vec<Table> {
    let count = 1 + random.below(3);
    (0..count)
        .map(|_| {
            let policy = match random.below(2) {
                0 => ConflictPolicy::Latest,
                _ => ConflictPolicy::Siblings,
            };
            let replication = match random.below(3) {
                0 => 1 + random.below(nodes.min(5)),
                _ => nodes.min(3),
            };
            let majority = replication / 2 + 1;
            let (read, write) = match random.below(6) {
                0 => (1 + random.below(replication), 1 + random.below(replication)),
                1 => (replication, 1),
                2 => (1, replication),
                _ => (majority, majority),
            };
            let ttl_ms = (random.below(8) == 0).then(|| 1_000 + random.below(20_000));
            let byte = |number: u64| u8::try_from(number).expect("at most five");
            let (replication, read, write) = (byte(replication), byte(read), byte(write));
            Table { policy, replication, read, write, ttl_ms, sloppy: false }
        })
        .collect()
}

fn draw_machine(measured: bool, random: &mut Random) -> Machine {
    let signed = |random: &mut Random, bound: u64| {
        i64::try_from(random.below(2 * bound + 1)).expect("small") - bound as i64
    };
    let offset_ms = match random.below(4) {
        _ if measured => 0,
        0 => signed(random, 100_000),
        1 => signed(random, 2_000),
        _ => signed(random, 20),
    };
    let drift_ppm = if random.below(4) == 0 { signed(random, 50_000) } else { signed(random, 50) };
    let sync_us = if random.below(6) == 0 { 20_000 } else { 200 + random.below(3_000) };
    let read_us = if random.below(3) == 0 { 50 + random.below(1_000) } else { 0 };
    if measured {
        return Machine { offset_ms, drift_ppm: signed(random, 50), sync_us: 500, read_us: 0 };
    }
    Machine { offset_ms, drift_ppm, sync_us, read_us }
}

fn draw_network(measured: bool, random: &mut Random) -> Network {
    if measured {
        return Network { delay_us_min: 50, delay_us_mean: 100, loss_ppm: 0 };
    }
    let delay_us_mean = match random.below(5) {
        0 => 20_000,
        1 => 3_000,
        _ => 100 + random.below(400),
    };
    let loss_ppm = if random.below(3) == 0 { random.below(20_000) } else { 0 };
    Network { delay_us_min: 20 + random.below(200), delay_us_mean, loss_ppm }
}

fn draw_rarities(random: &mut Random) -> Rarities {
    let usual = Rarities::default();
    let mut rare = |usual: u64, least: u64, spread: u64| {
        if random.below(4) == 0 { least + random.below(spread) } else { usual }
    };
    let narrow = |number: u64| u32::try_from(number).expect("small");
    Rarities {
        operations_max: narrow(rare(usual.operations_max.into(), 2, 30)),
        storage_requests_max: narrow(rare(usual.storage_requests_max.into(), 4, 30)),
        read_patience_ms: rare(usual.read_patience_ms, 1, 10),
        lease_ms: rare(usual.lease_ms, 50, 1_000),
        write_ids_max: narrow(rare(usual.write_ids_max.into(), 1, 20)),
        memory_bytes_max: rare(usual.memory_bytes_max, 2_000, 30_000),
        segment_bytes: rare(usual.segment_bytes, 32 << 10, 64 << 10),
        siblings_max: u16::try_from(rare(usual.siblings_max.into(), 2, 6)).expect("small"),
        batch_requests_max: narrow(rare(usual.batch_requests_max.into(), 3, 6)),
        // What differs must also be found where nothing but reads mends it.
        repair_interval_ms: match random.below(4) {
            0 => 0,
            1 => 200 + random.below(2_000),
            _ => usual.repair_interval_ms,
        },
        // The bucket of digests in which the world begins ends soon: see `machine`.
        settle_behind_ms: [usual.settle_behind_ms, 0, 500, 2_000][random.below(4) as usize],
        ..usual
    }
}

fn draw_operations(schedule: &mut Schedule, length_ms: u64, every_us: u64, profile: Profile) {
    let calm = profile == Profile::Calm;
    // Sets that grow for hours would measure nothing but their size.
    let measured = calm || matches!(profile, Profile::Endurance { .. });
    let mut random = stream(schedule.seed, "operations", 0);
    let keys = match random.below(3) {
        _ if calm => 5_000,
        0 => 1 + random.below(3),
        1 => 10 + random.below(20),
        _ => 100 + random.below(400),
    };
    let tables = schedule.tables.len() as u64;
    let workloads: Vec<Workload> = (0..tables)
        .map(|table| {
            let siblings = schedule.tables[table as usize].policy == ConflictPolicy::Siblings;
            if measured { Workload::Registers } else { Workload::draw(siblings, &mut random) }
        })
        .collect();
    let count = length_ms * 1_000 / every_us;
    let mut at_us = 0;
    for id in 0..count {
        at_us += random.below(2 * every_us);
        let table = random.below(tables);
        let mut key = random.below(keys);
        if random.below(4) == 0 && !calm {
            key = 0;
        }
        let narrow = |number: u64| u32::try_from(number).expect("small");
        let action = if calm {
            if random.below(2) == 0 { Action::Get } else { Action::Put }
        } else {
            workloads[table as usize].action(&mut random)
        };
        // Blind writes to one key for ever would only meet the bound on siblings.
        let siblings = schedule.tables[table as usize].policy == ConflictPolicy::Siblings;
        let action = match action {
            Action::Put if calm && siblings => Action::Replace,
            other => other,
        };
        schedule.operations.push(Operation {
            at_ms: at_us / 1_000,
            id: narrow(id),
            client: narrow(random.below(schedule.clients.into())),
            table: narrow(table),
            key: narrow(key),
            action,
        });
    }
}

/// Makes some values so long that they lie apart from their sets.
fn lengthen(schedule: &mut Schedule) {
    let mut random = stream(schedule.seed, "long values", 0);
    for operation in &mut schedule.operations {
        if operation.action == Action::Put && random.below(2) == 0 {
            operation.action = Action::PutLarge(65_000 + random.below(10_000) as u32);
        }
    }
}

/// Takes their disks from machines, one after the other, or gives one an older disk: no write that was
/// acknowledged by two replicas may be lost by that, and what lost its disk counts for nothing until it
/// is filled.
fn rob(schedule: &mut Schedule, length_ms: u64) {
    const COPY_AGE_MS: u64 = 13_000;
    let mut random = stream(schedule.seed, "rob", 0);
    let narrow = |number: u64| u32::try_from(number).expect("small");
    let node = narrow(random.below(schedule.machines.len() as u64));
    for table in &mut schedule.tables {
        table.replication = table.replication.max(2);
        table.write = table.write.max(2);
        table.read = table.read.max(table.replication - table.write + 1);
    }
    schedule.rarities.repair_interval_ms = 300 + random.below(3_000);
    let mut robberies = Vec::new();
    if length_ms > COPY_AGE_MS + 2_000 && random.below(2) == 0 {
        // What the others remember of a life they may have heard some seconds ago: an older copy than
        // that is told from the disk that was there. Who is cut off or crashes remembers less.
        schedule.faults.retain(|planned| planned.fault.leaves_others_alone());
        let at_ms = random.below(length_ms - COPY_AGE_MS);
        robberies.push((at_ms, Fault::Copy { node }));
        let at_ms = at_ms + COPY_AGE_MS + random.below(length_ms - COPY_AGE_MS - at_ms);
        robberies.push((at_ms, Fault::Restore { node, for_ms: 20 + random.below(1_500) }));
    } else {
        schedule.faults.retain(|planned| !planned.fault.lasts_on_disk());
        for number in 0..=random.below(3) {
            // Another one each time: where not all others count at that moment, it only crashes.
            let count = schedule.machines.len() as u64;
            let node = narrow((u64::from(node) + number) % count);
            let (at_ms, for_ms) = (1_000 + random.below(length_ms), 20 + random.below(3_000));
            robberies.push((at_ms, Fault::Wipe { node, for_ms }));
            if random.below(2) == 0 {
                // What it was filled from first may lack what only it and a third have.
                let [stale, fresh] = [1, 2].map(|by| narrow((u64::from(node) + by) % count));
                let before_ms = 100 + random.below(at_ms.min(3_000));
                let isolate = Fault::Isolate { node: stale, for_ms: before_ms + for_ms };
                robberies.push((at_ms.saturating_sub(before_ms), isolate));
                let clog = Fault::Clog { one: node, two: fresh, for_ms: 500 + random.below(3_000) };
                robberies.push((at_ms + for_ms, clog));
            }
        }
    }
    let planned = robberies.into_iter().map(|(at_ms, fault)| PlannedFault { at_ms, fault });
    schedule.faults.extend(planned);
    schedule.faults.sort_by_key(|planned| planned.at_ms);
}

/// Makes tables sloppy, and has fewer replicas than nodes. In some runs so many at a time crash that
/// often no primary of a key is left, and then what was taken in their place is held up.
fn stand_in(schedule: &mut Schedule, length_ms: u64, rounds: u64) {
    let mut random = stream(schedule.seed, "stand in", 0);
    let narrow = |number: u64| u32::try_from(number).expect("small");
    let count = schedule.machines.len() as u64;
    for table in &mut schedule.tables {
        let most = u8::try_from(count - 1).expect("few").min(3);
        table.replication = table.replication.min(most).min(1 + random.below(3) as u8);
        table.sloppy = rounds > 0 || random.below(4) > 0;
        table.write = match random.below(4) {
            0 => 1,
            _ if rounds > 0 => 1,
            _ => table.write.min(table.replication),
        };
        table.read = table.read.min(table.replication);
    }
    // What one node took alone must not rot.
    schedule.faults.retain(|planned| !planned.fault.lasts_on_disk());
    if rounds > 0 {
        schedule.rarities.repair_interval_ms = 200 + random.below(1_000);
        schedule.rarities.settle_behind_ms = random.below(1_000);
    }
    for round in 0..rounds {
        // The first time that is settled is soon after the beginning.
        let within_ms = if round == 0 { 2_000 } else { length_ms };
        let (at_ms, for_ms) = (random.below(within_ms), 1_000 + random.below(3_000));
        let mut plan = |at_ms, fault| schedule.faults.push(PlannedFault { at_ms, fault });
        for node in 0..narrow(count) {
            if random.below(2) == 0 {
                continue;
            }
            plan(at_ms, Fault::Crash { node, power: false, for_ms });
            // Where it can take nothing in, what is kept for it waits.
            let for_ms = for_ms + random.below(12_000);
            plan(at_ms + 100, Fault::FillDisk { node, for_ms });
        }
        let one = narrow(random.below(count));
        let two = narrow((u64::from(one) + 1 + random.below(count.max(2) - 1)) % count);
        plan(at_ms, Fault::Clog { one, two, for_ms: for_ms + random.below(8_000) });
    }
    schedule.faults.sort_by_key(|planned| planned.at_ms);
}

fn draw_hints(rarities: &mut Rarities, seed: u64) {
    let mut random = stream(seed, "hints", 0);
    match random.below(8) {
        // What differs must also be found where nobody has noted it.
        0..=2 => rarities.hint_bytes_max = 0,
        3 => rarities.hint_bytes_max = 200 + random.below(2_000),
        4 => rarities.hint_age_ms_max = 200 + random.below(5_000),
        _ => {}
    }
}

/// Makes a run one of keys that are deleted, fall silent and are collected soon, while merges of long
/// ago come once more.
fn hunt_zombies(schedule: &mut Schedule, length_ms: u64) {
    const SILENT_AFTER_MS: u64 = 2_000;
    let mut random = stream(schedule.seed, "zombies", 0);
    let narrow = |number: u64| u32::try_from(number).expect("small");
    let keys = 1 + random.below(6);
    for operation in &mut schedule.operations {
        let mut round = operation.at_ms / SILENT_AFTER_MS;
        operation.action = Workload::Deletions.action(&mut random);
        if operation.action == Action::Get {
            round = random.below(round + 1);
        }
        operation.key = narrow(round * keys + random.below(keys));
    }
    schedule.rarities.repair_interval_ms = 200 + random.below(1_000);
    schedule.rarities.settle_behind_ms = random.below(1_000);
    let count = schedule.machines.len() as u64;
    for at in 1..length_ms / 1_000 {
        let (from, by) = (random.below(count), 1 + random.below(count.max(2) - 1));
        if count > 1 {
            let fault = Fault::Echo { from: narrow(from), to: narrow((from + by) % count) };
            schedule.faults.push(PlannedFault { at_ms: at * 1_000, fault });
        }
    }
    schedule.faults.sort_by_key(|planned| planned.at_ms);
}

fn draw_faults(schedule: &mut Schedule, length_ms: u64) {
    let mut random = stream(schedule.seed, "faults", 0);
    let kinds: Vec<u64> = (0..KINDS).filter(|_| random.below(3) == 0).collect();
    if kinds.is_empty() {
        return;
    }
    let every_ms = 200 + random.below(4_000);
    let sick = random.below(schedule.machines.len() as u64);
    let mut at_ms = 0;
    loop {
        at_ms += random.below(2 * every_ms) + 1;
        if at_ms >= length_ms {
            return;
        }
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        if let Some(fault) = draw_fault(kind, sick, schedule, &mut random) {
            schedule.faults.push(PlannedFault { at_ms, fault });
        }
    }
}

const KINDS: u64 = 30;

/// A fault of a kind; `None` where this cluster has none. Damage that lasts strikes one machine
/// only, the `sick` one, and where W is at least 2: what a write was acknowledged on must not be
/// lost everywhere. Loss that the node cannot know of needs continuity (issue to come): until then
/// it strikes only in runs that expect loss.
fn draw_fault(kind: u64, sick: u64, schedule: &Schedule, random: &mut Random) -> Option<Fault> {
    let count = schedule.machines.len() as u64;
    let narrow = |number: u64| u32::try_from(number).expect("small");
    let node = narrow(random.below(count));
    let two = narrow((u64::from(node) + 1 + random.below(count.max(2) - 1)) % count);
    let for_ms =
        if random.below(4) == 0 { 1 + random.below(10_000) } else { 20 + random.below(1_500) };
    let signed = |random: &mut Random, bound: u64| random.below(2 * bound) as i64 - bound as i64;
    // With fewer machines the voters' majority could be lost, and with it the cluster.
    let may_lose = schedule.expects_loss && count > 2;
    let may_rot = schedule.tables.iter().all(|table| table.write >= 2);
    let (table, key) =
        (narrow(random.below(schedule.tables.len() as u64)), narrow(random.below(3)));
    let sick = narrow(sick);
    let pair = count > 1;
    let fault = match kind {
        0 => Fault::Crash { node, power: false, for_ms },
        1 => Fault::Crash { node, power: true, for_ms },
        2 => Fault::Tear { node, operations: random.below(6), for_ms },
        3 => Fault::Pause { node, for_ms },
        4 if pair => Fault::Isolate { node, for_ms },
        5 if pair => {
            let side = (0..narrow(count)).filter(|_| random.below(2) == 0).collect();
            Fault::Split { side, for_ms }
        }
        6 if schedule.zones > 1 => Fault::SplitZones { for_ms },
        7 if count > 3 => Fault::Ring { for_ms },
        8 if count > 2 => Fault::Bridge { node, for_ms },
        9 if pair => Fault::OneWay { from: node, to: two, for_ms },
        10 if pair => Fault::Break { one: node, two },
        11 if pair => Fault::Clog { one: node, two, for_ms },
        12 if pair => Fault::Slow { one: node, two, more_us: random.below(300_000), for_ms },
        13 => Fault::CutClients { node, for_ms },
        14 => Fault::JumpClock { node, by_ms: signed(random, 120_000) },
        15 => Fault::StrobeClock { node, by_ms: signed(random, 60_000), for_ms },
        16 => Fault::FillDisk { node, for_ms },
        17 => Fault::SlowDisk { node, more_us: random.below(200_000), for_ms },
        18 if may_rot => Fault::FailWrites { node: sick, count: 1 + random.below(2), for_ms },
        19 => Fault::FailSyncs { node, count: 1, for_ms },
        20 => Fault::FailReads { node, count: 1 + random.below(3) },
        21 => Fault::FailFlushes { node, count: 1 + narrow(random.below(3)) },
        22 => Fault::Flush { node },
        23 if may_rot => Fault::RotTable { node: sick, table, key },
        24 if may_rot => {
            Fault::RotLog { node: sick, permille: random.below(1_000), bit: random.below(8) as u8 }
        }
        25 if may_rot => Fault::Misplace { node: sick, table, key },
        26 if pair => Fault::Rumour { node, about: two, alive: random.below(3) == 0 },
        27 if may_lose => Fault::Wipe { node: sick, for_ms },
        28 if may_lose && random.below(2) == 0 => Fault::Copy { node: sick },
        28 if may_lose => Fault::Restore { node: sick, for_ms },
        29 if pair => Fault::Echo { from: node, to: two },
        _ => return None,
    };
    Some(fault)
}
