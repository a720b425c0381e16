//! A node whose disk was wiped or replaced by an older copy finds that out, and counts for nothing
//! until it is filled; one that merely crashed does not.

use std::collections::BTreeMap;

use quoit_core::CoreConfig;
use quoit_protocol::{AcceptLoss, AskStatus, ClientResponse, FailureCode, status::NodeStatus};
use quoit_ring::{ConflictPolicy, Level, NodeId, TableId, TableOptions};

use crate::record::{Decided, create, drop_table};
use crate::world::{Put, World, node, options, put, values};

const POLICIES: [ConflictPolicy; 2] = [ConflictPolicy::Latest, ConflictPolicy::Siblings];
const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn often(config: &mut CoreConfig) {
    config.repair_interval_ms = 2_000;
}

fn world(seed: u64, nodes: u64, policy: ConflictPolicy) -> (World, TableId) {
    let mut world = World::with(seed, nodes, often);
    world.form();
    let table = world.table("t", options(policy));
    (world, table)
}

/// Writes all keys at a node.
fn write(world: &mut World, at: NodeId, table: TableId, value: &str) {
    for key in KEYS {
        world.put(at, table, put(key, value)).expect("a quorum is up");
    }
}

fn incarnations(world: &World) -> BTreeMap<NodeId, Option<u64>> {
    world.ids().into_iter().map(|id| (id, world.core(id).incarnation())).collect()
}

fn is_filled(world: &World, id: NodeId) -> bool {
    world.core(id).incarnation().is_some() && world.core(id).recovering().1 == 0
}

fn status(world: &mut World, id: NodeId) -> NodeStatus {
    let request = world.send(id, AskStatus {});
    let ClientResponse::Status(status) = world.wait(request) else { panic!("no status") };
    *status
}

#[test]
fn crashes_and_power_cuts_are_no_losses() {
    for seed in 0..30 {
        let nodes = if seed % 3 == 0 { 5 } else { 3 };
        let (mut world, table) = world(seed, nodes, POLICIES[seed as usize % 2]);
        let before = incarnations(&world);
        assert!(before.values().all(Option::is_some));
        for round in 0..30 {
            for key in KEYS {
                let at = node(1 + world.random.below(nodes));
                if world.is_running(at) {
                    world.send_put(at, table, put(key, &format!("{round}")));
                }
            }
            let wait_us = world.random.below(1_500_000);
            world.run_us(wait_us);
            let all = world.random.below(5) == 0;
            let one = node(1 + world.random.below(nodes));
            let power = world.random.below(2) == 0;
            for id in world.ids().into_iter().filter(|id| all || *id == one) {
                if world.is_running(id) {
                    world.crash(id, power);
                }
            }
            if world.random.below(3) > 0 {
                world.heal();
            }
        }
        world.heal();
        world.run_ms(5_000);
        assert_eq!(incarnations(&world), before, "seed {seed}");
        for id in world.ids() {
            assert!(is_filled(&world, id), "seed {seed}: {id}");
        }
    }
}

#[test]
fn a_wiped_node_counts_for_nothing_until_it_is_filled() {
    for policy in POLICIES {
        // Without repair.
        let mut world = World::new(1, 3);
        world.form();
        let table = world.table("t", options(policy));
        world.isolate(node(3));
        write(&mut world, node(1), table, "kept");
        let before = world.core(node(1)).incarnation();
        world.wipe(node(1));
        world.isolate(node(2));
        world.heal();
        world.isolate(node(2));
        world.run_ms(3_000);
        // Only node 2 has what was acknowledged, and it is away.
        assert!(!is_filled(&world, node(1)), "node 3 remembers it as well");
        for at in [1, 3] {
            for key in KEYS {
                let failure = world.get(node(at), table, key).expect_err("one of three counts");
                assert_eq!(failure.code, FailureCode::Unavailable);
            }
            let failure = world.scan(node(at), table, "a", b"", 5).expect_err("one counts");
            assert_eq!(failure.code, FailureCode::Unavailable);
            let failure = world.put(node(at), table, put("g", "new")).map(|_| ()).expect_err("so");
            assert_ne!((failure.answered, failure.code), (2, FailureCode::Overloaded));
        }
        world.heal();
        world.run_ms(500);
        for key in KEYS {
            assert_eq!(values(&world.get(node(3), table, key).expect("two count")), ["kept"]);
        }
        let after = world.core(node(1)).incarnation();
        assert!(after > before, "{after:?}");
        let status = status(&mut world, node(1));
        assert_eq!((status.replica_vnodes, status.recovering_vnodes), (8, 8));
        assert_eq!(Some(status.incarnation), after);
        assert!(status.problems.iter().any(|it| it.starts_with("recovering 8/8 vnodes")));
    }
}

#[test]
fn a_wiped_node_is_filled_and_counts_again() {
    for policy in POLICIES {
        let (mut world, table) = world(2, 3, policy);
        write(&mut world, node(1), table, "kept");
        world.wipe(node(1));
        world.start(node(1));
        world.run_until("it is filled", |world| is_filled(world, node(1)));
        for key in KEYS {
            let one = world.send_get(node(1), table, key, Level::One);
            let ClientResponse::Got(got) = world.wait(one) else { panic!("it counts") };
            assert_eq!(values(&got), ["kept"], "from its own disk");
        }
        assert_eq!(
            world.record(node(2)).incarnation(node(1)),
            world.core(node(1)).incarnation().expect("known")
        );
        // That is no loss at the next start.
        let before = incarnations(&world);
        world.crash(node(1), true);
        world.start(node(1));
        world.run_ms(5_000);
        assert_eq!(incarnations(&world), before);
        assert!(is_filled(&world, node(1)));
        world.end();
    }
}

#[test]
fn a_wiped_node_that_crashes_while_it_is_filled_goes_on() {
    for seed in 0..20 {
        let (mut world, table) = world(seed, 3, POLICIES[seed as usize % 2]);
        write(&mut world, node(1), table, "kept");
        world.wipe(node(1));
        world.start(node(1));
        for _ in 0..6 {
            let wait_us = world.random.below(400_000);
            world.run_us(wait_us);
            let power = world.random.below(2) == 0;
            world.crash(node(1), power);
            world.start(node(1));
        }
        world.run_until("it is filled", |world| is_filled(world, node(1)));
        for key in KEYS {
            let one = world.send_get(node(1), table, key, Level::One);
            let ClientResponse::Got(got) = world.wait(one) else { panic!("it counts") };
            assert_eq!(values(&got), ["kept"], "seed {seed}");
        }
    }
}

#[test]
fn an_older_copy_is_told_and_filled() {
    for (policy, restarts) in POLICIES.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let (mut world, table) = world(3, 3, policy);
        write(&mut world, node(1), table, "old");
        let copy = world.copy(node(1));
        if restarts {
            world.crash(node(1), true);
            world.start(node(1));
            world.run_ms(1_500);
        }
        world.isolate(node(3));
        for key in KEYS {
            let context = world.get(node(2), table, key).expect("two are up").context;
            world.put(node(2), table, Put { context, ..put(key, "new") }).expect("two are up");
        }
        // Pings tell of it.
        world.run_ms(3_000);
        let before = world.core(node(1)).incarnation();
        world.restore(node(1), &copy);
        world.isolate(node(2));
        world.heal();
        world.cut(node(1), node(3));
        world.run_ms(100);
        world.run_until("it has found out", |world| world.core(node(1)).incarnation() > before);
        world.heal();
        world.run_until("it is filled", |world| is_filled(world, node(1)));
        for key in KEYS {
            let one = world.send_get(node(1), table, key, Level::One);
            let ClientResponse::Got(got) = world.wait(one) else { panic!("it counts") };
            assert_eq!(values(&got), ["new"]);
        }
    }
}

#[test]
fn a_copy_that_starts_over_and_over_alone_is_told_once_it_hears_the_others() {
    let (mut world, table) = world(4, 3, ConflictPolicy::Latest);
    let copy = world.copy(node(1));
    write(&mut world, node(1), table, "new");
    world.run_ms(3_000);
    let before = world.core(node(1)).incarnation();
    world.restore(node(1), &copy);
    world.isolate(node(1));
    for _ in 0..5 {
        world.start(node(1));
        world.run_ms(20_000);
        assert_eq!(world.core(node(1)).incarnation(), None);
        world.crash(node(1), true);
    }
    world.heal();
    world.run_until("it has found out", |world| world.core(node(1)).incarnation() > before);
    world.run_until("it is filled", |world| is_filled(world, node(1)));
}

#[test]
fn peers_that_restart_remember() {
    let (mut world, table) = world(5, 3, ConflictPolicy::Latest);
    write(&mut world, node(1), table, "kept");
    let before = world.core(node(1)).incarnation();
    world.run_ms(1_000);
    for id in world.ids() {
        world.crash(id, true);
    }
    world.wipe(node(1));
    world.heal();
    world.run_until("it has found out", |world| world.core(node(1)).incarnation() > before);
    world.run_until("it is filled", |world| is_filled(world, node(1)));
    assert_eq!(world.read(node(1), table, "a"), ["kept"]);
}

#[test]
fn where_all_others_are_lost_too_an_operator_must_say_so() {
    let (mut world, table) = world(6, 3, ConflictPolicy::Latest);
    write(&mut world, node(1), table, "kept");
    for id in [1, 2].map(node) {
        world.wipe(id);
        world.start(id);
        world.run_ms(100);
    }
    world.run_ms(20_000);
    for id in [1, 2].map(node) {
        assert_eq!(world.core(id).recovering(), (8, 8), "each needs the other");
    }
    let request = world.send(node(1), AcceptLoss { vnode: None });
    assert!(matches!(world.wait(request), ClientResponse::Status(_)));
    world.run_until("the second is filled by the first", |world| {
        [1, 2].into_iter().all(|id| is_filled(world, node(id)))
    });
    assert_eq!(world.read(node(1), table, "a"), ["kept"], "it was filled by the third meanwhile");
}

#[test]
fn what_only_a_lost_replica_had_is_unknown_until_it_is_given_up() {
    let mut world = World::with(7, 3, often);
    world.form();
    let one = TableOptions { replication: 1, ..options(ConflictPolicy::Latest) };
    let (one, three) =
        (world.table("one", one), world.table("three", options(ConflictPolicy::Latest)));
    for table in [one, three] {
        write(&mut world, node(1), table, "acknowledged");
    }
    world.wipe(node(1));
    world.start(node(1));
    let record = world.record(node(2)).clone();
    let own = record.vnodes.all().filter(|vnode| record.is_primary(node(1), *vnode, 1)).count();
    let is_left = |world: &World| world.core(node(1)).recovering().1 == u32::try_from(own).unwrap();
    world.run_until("the others are filled", is_left);
    world.run_ms(10_000);
    assert!(own > 0 && is_left(&world));
    let lost: Vec<&str> = KEYS
        .into_iter()
        .filter(|key| record.is_primary(node(1), world.head(node(2), one, key.as_bytes()).vnode, 1))
        .collect();
    assert!(!lost.is_empty());
    for key in &lost {
        let failure = world.get(node(2), one, key).expect_err("that it is absent nobody knows");
        assert_eq!(failure.code, FailureCode::Unavailable);
    }
    let request = world.send(node(1), AcceptLoss { vnode: None });
    assert!(matches!(world.wait(request), ClientResponse::Status(_)));
    world.run_until("it counts", |world| is_filled(world, node(1)));
    for key in KEYS {
        let expected: &[&str] = if lost.contains(&key) { &[] } else { &["acknowledged"] };
        assert_eq!(world.read(node(2), one, key), expected);
        assert_eq!(world.read(node(2), three, key), ["acknowledged"]);
    }
}

/// Crashes, cuts, and one voter that is wiped or goes back to a copy, while records are decided.
#[test]
fn a_voter_that_lost_its_votes_does_not_split_the_record() {
    let mut losses = 0;
    for seed in 0..300 {
        let nodes = if seed % 3 == 0 { 5 } else { 3 };
        let mut world = World::new(seed, nodes);
        world.delay_us = if seed % 2 == 0 { 2_000 } else { 60_000 };
        world.form();
        world.run_ms(2_000);
        world.seen = Some(Vec::new());
        let mut decided = Decided::default();
        // One voter loses its disk; of the others none does.
        let loser = node(1 + world.random.below(nodes.min(3)));
        let copy = world.copy(loser);
        for round in 0..30 {
            let step_ms = world.random.below(300);
            world.run_ms(step_ms);
            match world.random.below(8) {
                0 => world.wipe(loser),
                1 if seed % 4 == 0 => world.restore(loser, &copy),
                2 => world.heal(),
                3 => world.isolate(loser),
                4 => {
                    let one = node(1 + world.random.below(nodes));
                    world.cut(one, loser);
                }
                5 => {
                    let one = node(1 + world.random.below(nodes));
                    let power = world.random.below(2) == 0;
                    if world.is_running(one) && one != loser {
                        world.crash(one, power);
                    }
                }
                _ => {}
            }
            if !world.is_running(loser) {
                world.start(loser);
            }
            for id in world.ids() {
                if world.is_running(id) && world.random.below(4) == 0 {
                    world.send(id, create(&format!("t{}", round % 3)));
                    world.send(id, drop_table(&format!("t{}", round % 2)));
                }
            }
            decided.look(&mut world);
        }
        world.heal();
        world.run_ms(25_000);
        decided.look(&mut world);
        let records: Vec<_> = world.ids().iter().map(|id| world.record(*id).clone()).collect();
        assert!(records.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: all agree");
        losses += usize::from(records[0].incarnation(loser) > 0);
    }
    assert!(losses > 150, "{losses} losses were found out");
}

#[test]
fn a_node_says_what_it_waits_for() {
    let (mut world, _) = world(8, 3, ConflictPolicy::Latest);
    world.crash(node(1), false);
    world.isolate(node(1));
    world.start(node(1));
    world.run_ms(2_000);
    let status = status(&mut world, node(1));
    assert_eq!(status.state, "starting");
    let problem = "0 of the 2 other members have said what they remember of it, and 1 must";
    assert!(status.problems.iter().any(|it| it.ends_with(problem)), "{:?}", status.problems);
}
