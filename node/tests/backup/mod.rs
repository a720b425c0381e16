//! Backup, as an operator does it: a snapshot under load, then everything changed, then restored; into
//! the same cluster, into a smaller one, and not at all where a byte was flipped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quoit_client::Key;

use super::*;

const KEYS: u64 = 300;

type Held = BTreeMap<(Vec<u8>, Vec<u8>), Vec<Vec<u8>>>;

fn client(up: &Up) -> blocking::Client {
    let builder = ClientBuilder::from_directory(up.client()).expect("its directory");
    blocking::connect(builder).expect("the cluster is up")
}

/// What a table holds: by key its values, in order.
fn held(client: &blocking::Client, table: &str) -> Held {
    let table = client.wait(client.inner().table(table)).expect("it is there");
    let items = client.wait(table.export().collect()).expect("it is read");
    let values = |item: &quoit_client::Item| {
        let mut values: Vec<_> = item.siblings.iter().map(|value| value.bytes.to_vec()).collect();
        values.sort();
        values
    };
    items
        .iter()
        .map(|item| ((item.key.partition.to_vec(), item.key.sort.to_vec()), values(item)))
        .collect()
}

/// Fills two tables: values short and long, sort keys, siblings, a deletion, a time to live.
fn fill(up: &Up, client: &blocking::Client) {
    up.run(&["tables", "create", "names"]);
    up.run(&["tables", "create", "carts", "--policy", "siblings"]);
    let (names, carts) =
        (client.table("names").expect("made"), client.table("carts").expect("made"));
    let none = Context::none();
    for number in 0..KEYS {
        let key = Key { partition: format!("key {number}").into(), sort: "s".into() };
        names.put(&key, format!("value {number}"), &none).expect("written");
    }
    names.put("long", vec![7; 200_000], &none).expect("written");
    names.put("deleted before", "x", &none).expect("written");
    names.delete("deleted before", &none).expect("deleted");
    carts.put("cart", "apples", &none).expect("written");
    carts.put("cart", vec![8; 100_000], &none).expect("written");
    up.run(&["put", "names", "short-lived", "x", "--ttl", "1h"]);
}

/// Deletes, overwrites and adds.
fn change_all(client: &blocking::Client) {
    let (names, carts) =
        (client.table("names").expect("there"), client.table("carts").expect("there"));
    let none = Context::none();
    for number in 0..KEYS {
        let key = Key { partition: format!("key {number}").into(), sort: "s".into() };
        match number % 3 {
            0 => drop(names.delete(&key, &none).expect("deleted")),
            1 => drop(names.put(&key, "changed", &none).expect("written")),
            _ => {}
        }
    }
    names.delete("long", &none).expect("deleted");
    names.put("after", "new", &none).expect("written");
    let context = carts.get("cart").expect("read").context;
    carts.put("cart", "checked out", &context).expect("written");
}

/// The snapshot's folders, copied: a node's own are links to its live files.
fn carry(up: &Up, name: &str, to: &Path) -> Vec<String> {
    let folders = up.nodes.iter().map(|(id, _)| {
        let (from, to) = (up.directory.join(id).join("data/snapshots").join(name), to.join(id));
        fs::create_dir_all(to.join("tables")).expect("made");
        for folder in [Path::new(""), Path::new("tables")] {
            for entry in fs::read_dir(from.join(folder)).expect("there") {
                let entry = entry.expect("there");
                if entry.file_type().expect("told").is_file() {
                    fs::copy(entry.path(), to.join(folder).join(entry.file_name()))
                        .expect("copied");
                }
            }
        }
        to.to_str().expect("text").to_owned()
    });
    folders.collect()
}

fn args<'a>(first: &[&'a str], folders: &'a [String]) -> Vec<&'a str> {
    first.iter().copied().chain(folders.iter().map(String::as_str)).collect()
}

/// Writes a counter until it is told to stop; tells the last number that was acknowledged.
fn count_up(client: &blocking::Client, stop: &AtomicBool, acknowledged: &AtomicU64) {
    let names = client.table("names").expect("there");
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        names.put("counter", number.to_string(), &Context::none()).expect("written");
        acknowledged.store(number, Ordering::Relaxed);
    }
}

#[test]
fn a_snapshot_that_was_made_under_load_comes_back_here_and_elsewhere() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&scratch.path().join("data"), free_base_port());
    let client = client(&up);
    fill(&up, &client);
    up.fails(&["snapshot", "create", "no/name"], 2, "a snapshot's name is 1 to 64");
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = std::thread::scope(|scope| {
        scope.spawn(|| count_up(&client, &stop, &acknowledged));
        while acknowledged.load(Ordering::Relaxed) < 20 {
            std::thread::yield_now();
        }
        let before = acknowledged.load(Ordering::Relaxed);
        let made = up.run(&["snapshot", "create", "nightly"]);
        assert!(made.starts_with("snapshot nightly made on n1, n2 and n3: "), "{made}");
        stop.store(true, Ordering::Relaxed);
        before
    });
    let after = acknowledged.load(Ordering::Relaxed);
    let (mut names, carts) = (held(&client, "names"), held(&client, "carts"));
    up.fails(
        &["snapshot", "create", "nightly"],
        2,
        "n1, n2 and n3 have a snapshot nightly already",
    );
    let folders = carry(&up, "nightly", &scratch.path().join("backup"));

    // The same cluster: all goes back to what it was, and what came later stays.
    change_all(&client);
    up.run(&args(&["restore"], &folders));
    let counter = (b"counter".to_vec(), Vec::new());
    let mut restored = held(&client, "names");
    let counted = String::from_utf8(restored.remove(&counter).expect("there")[0].clone());
    let counted: u64 = counted.expect("text").parse().expect("a number");
    assert!((before..=after).contains(&counted), "{before} <= {counted} <= {after}");
    names.remove(&counter);
    assert_eq!(restored.remove(&(b"after".to_vec(), Vec::new())), Some(vec![b"new".to_vec()]));
    assert!(restored == names, "the keys are as they were");
    assert_eq!(held(&client, "carts"), carts, "siblings come back as siblings");
    let lived = client.table("names").expect("there").get("short-lived").expect("read");
    assert!(lived.siblings[0].expires.is_some(), "it lives no longer than it would have");

    // Again it finds all as it was; what came later goes if that is asked for.
    let again = up.json(&args(&["restore", "--exact"], &folders));
    assert_eq!(again["keys_deleted"], 1, "{again}");
    assert!(
        again["tables"].as_array().expect("a list").iter().all(|it| it["keys"] == it["unchanged"])
    );
    up.run(&args(&["restore", "--table", "names", "--into", "beside"], &folders));
    assert!(held(&client, "beside") == held(&client, "names"), "beside the table that is there");

    // A byte that was flipped is told by its file, and nothing is written; the others are enough.
    let flipped = fs::read_dir(Path::new(&folders[1]).join("tables")).expect("there").next();
    let flipped = flipped.expect("a table").expect("there").path();
    let mut bytes = fs::read(&flipped).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&flipped, bytes).expect("written");
    up.fails(&args(&["restore"], &folders), 2, flipped.to_str().expect("text"));
    let others = [folders[0].clone(), folders[2].clone()];
    let dry = up.json(&args(&["restore", "--dry-run"], &others));
    assert_eq!(dry["tables"][0]["keys"].as_u64(), Some(names.len() as u64 + 1), "{dry}");
    up.fails(&args(&["restore"], &others[..1]), 2, "may lack what was acknowledged");
    up.fails(&["restore", scratch.path().to_str().expect("text")], 2, "is no snapshot's folder");

    // Another cluster, and a smaller one.
    let smaller = Up::start_sized(&scratch.path().join("smaller"), free_base_port(), 2, &[]);
    smaller.run(&args(&["restore"], &others));
    let elsewhere = self::client(&smaller);
    let mut restored = held(&elsewhere, "names");
    restored.remove(&counter);
    assert!(restored == names, "the keys are as they were, elsewhere");
    assert_eq!(held(&elsewhere, "carts"), carts);
    smaller.stop();

    // With a node down the others have theirs, and the exit code tells.
    let (id, process) = up.nodes[2].clone();
    signal("-KILL", process);
    up.wait_for(&format!("{id} died"));
    up.fails(
        &["snapshot", "create", "partly"],
        3,
        "the snapshot partly lacks n3; the others have all",
    );
    let deleted = up.command(&["snapshot", "delete", "nightly"]).output().expect("it runs");
    assert!(describe(&deleted).contains("may be left on n3"), "{}", describe(&deleted));
    let listed = up.run(&["snapshot", "list"]);
    assert!(listed.contains("partly") && !listed.contains("nightly"), "{listed}");
}
