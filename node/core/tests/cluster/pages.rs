//! Scans and exports: pages merged from replicas that differ.

use bytes::Bytes;
use quoit_protocol::{ClientResponse, FailureCode, Key, Scan};
use quoit_ring::{ConflictPolicy, Level, TableId};

use crate::world::{Put, World, node, options, put};

fn put_item(world: &mut World, table: TableId, sort: u8, bytes: usize, one: u64) {
    let mut write = world.write(node(one), table, put("p", &"x".repeat(bytes)));
    write.key.sort = Bytes::copy_from_slice(&[sort]);
    write.head.level = Some(Level::One);
    let request = world.send(node(one), write);
    world.written(request).expect("one is enough");
}

fn scan_all(world: &mut World, table: TableId, limit: u32) -> Vec<u8> {
    let (mut sorts, mut from) = (Vec::new(), Vec::new());
    loop {
        let page = world.scan(node(1), table, "p", &from, limit).expect("a quorum is up");
        assert!(page.items.len() <= limit as usize, "no more than was asked for");
        sorts.extend(page.items.iter().map(|item| item.key.sort[0]));
        let Some(after) = page.after else { return sorts };
        from = [&after.sort[..], &[0]].concat();
    }
}

#[test]
fn pages_of_replicas_that_differ_are_merged_and_complete() {
    // Pages end at their limit, or where they have bytes enough.
    for (policy, bytes, limit) in [
        (ConflictPolicy::Latest, 1, 7),
        (ConflictPolicy::Siblings, 1, 7),
        (ConflictPolicy::Latest, 300_000, 100),
    ] {
        let (mut world, table) = World::with_table(1, 3, options(policy));
        for id in [1, 2, 3].map(node) {
            world.isolate(id);
        }
        world.run_ms(10);
        for sort in 0..30 {
            put_item(&mut world, table, sort, bytes, 1 + u64::from(sort) % 3);
        }
        world.heal();
        world.run_ms(1_000);
        // Only all together have all keys: no two pages of theirs end at the same one.
        let (mut sorts, mut from) = (Vec::new(), Bytes::new());
        loop {
            let all = Some(Level::All);
            let head = quoit_protocol::Head { level: all, ..world.head(node(1), table, b"p") };
            let partition = Bytes::from_static(b"p");
            let request = world.send(node(1), Scan { head, partition, from, to: None, limit });
            let ClientResponse::Page(page) = world.wait(request) else { panic!("all are up") };
            assert!(page.items.len() <= limit as usize, "no more than was asked for");
            sorts.extend(page.items.iter().map(|item| item.key.sort[0]));
            let Some(after) = page.after else { break };
            from = [&after.sort[..], &[0]].concat().into();
        }
        assert_eq!(sorts, (0..30).collect::<Vec<u8>>());
        world.end();
    }
}

#[test]
fn a_scan_goes_over_all_items_once_whatever_the_page() {
    let (mut world, table) = World::with_table(2, 3, options(ConflictPolicy::Latest));
    world.isolate(node(3));
    world.run_ms(10);
    for sort in 0..25 {
        let mut write = world.write(node(1), table, put("p", "v"));
        write.key.sort = Bytes::copy_from_slice(&[sort]);
        let request = world.send(node(1), write);
        world.written(request).expect("a quorum is up");
    }
    world.heal();
    world.run_ms(100);
    for limit in [1, 4, 10, 25, 100] {
        assert_eq!(scan_all(&mut world, table, limit), (0..25).collect::<Vec<u8>>());
    }
    world.end();
}

#[test]
fn an_export_gives_every_key_once() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"];
    let (mut world, table) = World::with_table(3, 5, options(ConflictPolicy::Latest));
    let other = world.table("other", options(ConflictPolicy::Latest));
    for name in names {
        world.put(node(1), table, put(name, "v")).expect("a quorum is up");
        world.put(node(1), other, put(name, "v")).expect("a quorum is up");
    }
    let gone = world.get(node(1), table, "c").expect("read").context;
    let gone = Put { context: gone, ..crate::world::delete("c") };
    world.put(node(1), table, gone).expect("a quorum is up");
    for limit in [1, 3, 100] {
        let mut keys: Vec<Key> = world.export(node(2), table, limit);
        keys.sort();
        let expected: Vec<Key> =
            names.iter().filter(|name| **name != "c").map(|name| crate::world::key(name)).collect();
        assert_eq!(keys, expected);
    }
    world.end();
}

#[test]
fn a_range_that_ends_before_it_begins_is_refused() {
    let (mut world, table) = World::with_table(4, 3, options(ConflictPolicy::Latest));
    let scan = |world: &mut World, from: &'static [u8], to: &'static [u8]| {
        let head = world.head(node(1), table, b"p");
        let (partition, from) = (Bytes::from_static(b"p"), Bytes::from_static(from));
        let to = Some(Bytes::from_static(to));
        let request = world.send(node(1), Scan { head, partition, from, to, limit: 5 });
        world.wait(request)
    };
    let ClientResponse::Failure(failure) = scan(&mut world, b"b", b"a") else {
        panic!("backwards")
    };
    assert_eq!(failure.code, FailureCode::Invalid);
    let ClientResponse::Page(page) = scan(&mut world, b"a", b"a") else { panic!("an empty range") };
    assert_eq!((page.items.len(), page.after), (0, None));
}

#[test]
fn a_full_or_lost_replica_does_not_make_scans_fail() {
    for seed in 0..20 {
        let (mut world, table) = World::with_table(seed, 3, options(ConflictPolicy::Latest));
        world.isolate(node(3));
        world.run_ms(10);
        let big = "x".repeat(300_000);
        world.put(node(1), table, put("p", &big)).expect("a quorum is up");
        let disk = world.machines[&node(3)].disk.clone();
        disk.limit(Some(disk.used_bytes()));
        world.heal();
        world.run_ms(1_000);
        // Of the two that are read one is full: the third takes the row.
        for id in world.ids() {
            let page = world.scan(id, table, "p", b"", 5).expect("two replicas can hold it");
            assert_eq!(page.items.len(), 1);
        }
        world.end();
    }
}
