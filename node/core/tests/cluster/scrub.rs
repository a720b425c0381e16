//! Scrub: damage is found before anybody asks for what it struck, and what is struck is fetched again.

use quoit_core::CoreConfig;
use quoit_protocol::{
    AskStatus, ChangeTables, ClientResponse, TableChange, status::NodeStatus, status::ScrubStatus,
};
use quoit_ring::{ConflictPolicy, Level, NodeId, TableId};

use crate::world::{Put, World, node, options, put};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];

fn often(config: &mut CoreConfig) {
    config.scrub_period_ms = 5_000;
    // Only hidden keys need it, and those ask for it themselves.
    config.repair_interval_ms = 0;
}

fn world(seed: u64, policy: ConflictPolicy) -> (World, TableId, Vec<&'static str>) {
    let mut world = World::with(seed, 3, often);
    world.form();
    let table = world.table("t", options(policy));
    let keys: Vec<_> = (0..60).map(named).collect();
    for (at, key) in keys.iter().enumerate() {
        let value = if at % 9 == 0 { "long ".repeat(20_000) } else { "value".to_owned() };
        let all = Put { level: Some(Level::All), ..put(key, &value) };
        world.put(node(1 + at as u64 % 3), table, all).expect("all are up");
    }
    (world, table, keys)
}

fn named(number: usize) -> &'static str {
    Box::leak(format!("key {number}").into_boxed_str())
}

fn status(world: &mut World, id: NodeId) -> NodeStatus {
    let request = world.send(id, AskStatus {});
    match world.wait(request) {
        ClientResponse::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn scrub(world: &mut World, id: NodeId) -> ScrubStatus {
    status(world, id).scrub
}

fn is_whole(world: &mut World, table: TableId, keys: &[&str]) -> bool {
    keys.iter().all(|key| {
        let held = world.stored(node(1), table, key);
        held.is_some() && world.stored(node(3), table, key) == held
    })
}

fn expect_whole(world: &mut World, table: TableId, keys: &[&str]) {
    for _ in 0..40 {
        if is_whole(world, table, keys) {
            return;
        }
        world.run_ms(1_000);
    }
    let mut differ = Vec::new();
    for key in keys {
        let held = [1, 3].map(|id| world.stored(node(id), table, key));
        if held[0] != held[1] {
            differ.push((*key, held));
        }
    }
    panic!("{differ:?} {:?} {:?}", scrub(world, node(3)), world.core(node(3)).counters());
}

#[test]
fn keys_that_damage_hides_come_back_from_the_others_without_a_read() {
    for policy in POLICIES {
        let (mut world, table, keys) = world(1, policy);
        for key in keys.iter().step_by(7) {
            world.damage(node(3), table, key);
        }
        assert!(!is_whole(&mut world, table, &keys));
        expect_whole(&mut world, table, &keys);
        let counters = world.core(node(1)).counters();
        assert_eq!(counters.reads + world.core(node(2)).counters().reads, 0);
        world.end();
    }
}

#[test]
fn a_record_that_is_another_keys_is_told_and_rebuilt() {
    for policy in POLICIES {
        let (mut world, table, keys) = world(2, policy);
        for pair in [[1, 2], [10, 11], [30, 31]] {
            world.misplace(node(3), table, keys[pair[0]], keys[pair[1]]);
        }
        assert!(!is_whole(&mut world, table, &keys));
        world.run_ms(7_000);
        let found = scrub(&mut world, node(3));
        assert_eq!((found.damaged, found.hidden), (3, 0), "{found:?}");
        expect_whole(&mut world, table, &keys);
        world.run_ms(3_000);
        let found = scrub(&mut world, node(3));
        assert_eq!((found.mended, found.waiting), (3, 0), "{found:?}");
        assert_eq!(status(&mut world, node(3)).problems, Vec::<String>::new());
        world.end();
    }
}

#[test]
fn a_lost_long_value_is_found_and_fetched() {
    let (mut world, table, keys) = world(3, ConflictPolicy::Siblings);
    world.damage_value(node(3), table, keys[9]);
    world.run_ms(7_000);
    expect_whole(&mut world, table, &keys);
    let found = scrub(&mut world, node(3));
    assert!(found.damaged + u64::from(found.hidden) > 0, "{found:?}");
    let request = world.send_get(node(3), table, keys[9], Level::One);
    assert_eq!(world.got(request).expect("it has it").siblings[0].value.len(), 100_000);
    world.end();
}

#[test]
fn what_a_dropped_table_held_goes_soon_and_for_good() {
    let (mut world, _, _) = world(4, ConflictPolicy::Latest);
    let other = world.table("u", options(ConflictPolicy::Siblings));
    let all = Put { level: Some(Level::All), ..put("kept", "value") };
    world.put(node(1), other, all).expect("all are up");
    // One node hears of it only later.
    world.crash(node(2), false);
    let change = TableChange::Drop { name: "t".to_owned() };
    let request = world.send(node(1), ChangeTables { change, deadline_ms: 20_000 });
    world.wait(request);
    world.run_ms(3_000);
    world.heal();
    world.run_ms(5_000);
    for id in 1..=3 {
        let status = status(&mut world, node(id));
        assert_eq!(status.scrub.dropped, 60, "n{id}");
        let held: u64 = status.tables.iter().map(|it| it.live_keys + it.tombstones).sum();
        assert_eq!(held, 1, "n{id} {:?}", status.tables);
        world.crash(node(id), true);
        world.heal();
        world.run_ms(2_000);
    }
    world.end();
}

#[test]
fn a_pass_goes_on_where_the_process_before_had_come_to() {
    let (mut world, ..) = world(5, ConflictPolicy::Latest);
    world.run_ms(11_000);
    let ended_ms = scrub(&mut world, node(1)).ended_ms;
    assert!(ended_ms > 0);
    world.crash(node(1), false);
    world.heal();
    world.run_ms(100);
    assert!(scrub(&mut world, node(1)).ended_ms >= ended_ms);
    world.end();
}
