use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::UNIX_EPOCH;

use super::*;
use crate::authority::check_credentials;
use crate::http::{HttpServer, NodeHealth};
use crate::metrics::Metrics;

fn options(directory: &Path) -> UpOptions {
    UpOptions {
        directory: directory.join("cluster"),
        nodes: None,
        replication: None,
        base_port: None,
        vnodes: None,
    }
}

/// Held by each test: a child that another one forks has, until it executes its program, this one's
/// open files too. A lock would seem taken and a program being written "busy". Ports would clash.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A pair of free ports, the second at its offset from the first, for `count` nodes in a row.
fn free_ports(count: u16) -> u16 {
    let free = |port: u16| {
        UdpSocket::bind(("127.0.0.1", port)).is_ok()
            && TcpListener::bind(("127.0.0.1", port + HTTP_PORT_OFFSET)).is_ok()
    };
    let first = 20_000 + u16::try_from(std::process::id() % 20_000).unwrap();
    (first..).step_by(8).find(|&port| (port..port + count).all(free)).unwrap()
}

/// A program that stands in for `quoit`.
fn program(directory: &Path, script: &str) -> PathBuf {
    let path = directory.join("program");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Every file below a directory with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn the_first_time_all_is_made_and_the_second_time_found() {
    let _alone = ALONE.blocking_lock();
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let first = prepare(&options).unwrap();
    assert!(first.is_new);
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for (index, node) in first.nodes.iter().enumerate() {
        let config = &node.config;
        assert_eq!(config.node.id, NodeId(index as u64 + 1));
        assert_eq!(config.cluster.id, first.cluster);
        assert_eq!(config.genesis(), first.nodes[0].config.genesis());
        check_credentials(&config.tls, first.cluster, config.node.id, now).unwrap();
    }
    let genesis = first.nodes[0].config.genesis();
    let racks: Vec<_> = genesis.members.iter().map(|member| member.zone.to_string()).collect();
    assert_eq!(racks, ["local/r1", "local/r2", "local/r3"]);
    assert_eq!(first.nodes[2].config.http.listen.port(), 7203);
    let made = files(&options.directory);
    assert!(made.contains_key(&first.client_directory.join("client.toml")));
    drop(first);

    let second = prepare(&options).unwrap();
    assert!(!second.is_new);
    assert_eq!(files(&options.directory), made);
}

#[test]
fn a_preparation_that_was_cut_short_is_continued() {
    let _alone = ALONE.blocking_lock();
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let cluster = prepare(&options).unwrap().cluster;
    for lost in ["n2/node.pem", "n3/quoit.toml", "client/client.toml", "client/client.pem"] {
        fs::remove_file(options.directory.join(lost)).unwrap();
    }
    let again = prepare(&options).unwrap();
    assert_eq!(again.cluster, cluster);
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let config = &again.nodes[1].config;
    check_credentials(&config.tls, cluster, config.node.id, now).unwrap();
}

#[test]
fn options_that_contradict_what_is_there_are_refused() {
    let _alone = ALONE.blocking_lock();
    let directory = tempfile::tempdir().unwrap();
    let first = UpOptions { nodes: Some(2), ..options(directory.path()) };
    assert_eq!(prepare(&first).unwrap().nodes[0].config.cluster.replication, 2);
    prepare(&first).unwrap();
    let other = UpOptions { nodes: Some(3), ..first.clone() };
    let error = prepare(&other).unwrap_err().to_string();
    assert!(error.contains("a cluster with --nodes 2, and --nodes 3 was asked for"), "{error}");
    let other = UpOptions { replication: Some(1), ..first };
    assert!(matches!(prepare(&other), Err(UpError::Contradiction { option: "--rf", .. })));
}

#[test]
fn impossible_options_are_refused_before_anything_is_made() {
    let _alone = ALONE.blocking_lock();
    let directory = tempfile::tempdir().unwrap();
    let base = options(directory.path());
    for options in [
        UpOptions { nodes: Some(0), ..base.clone() },
        UpOptions { nodes: Some(2), replication: Some(3), ..base.clone() },
        UpOptions { base_port: Some(65_500), ..base.clone() },
    ] {
        assert!(matches!(prepare(&options), Err(UpError::Option(_))));
    }
    prepare(&base).unwrap();
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let _alone = ALONE.blocking_lock();
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    fs::create_dir(&options.directory).unwrap();
    fs::write(options.directory.join("thesis.txt"), "mine").unwrap();
    let error = prepare(&options).unwrap_err().to_string();
    assert!(error.contains("thesis.txt"), "{error}");
}

#[test]
fn two_at_once_are_told() {
    let _alone = ALONE.blocking_lock();
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let _first = prepare(&options).unwrap();
    assert!(matches!(prepare(&options), Err(UpError::Busy(_))));
}

#[tokio::test]
async fn a_port_in_use_is_named_before_anything_starts() {
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let base_port = free_ports(1);
    let options =
        UpOptions { nodes: Some(1), base_port: Some(base_port), ..options(directory.path()) };
    let program = program(directory.path(), "touch \"$0.started\"");
    let _taken = UdpSocket::bind(("127.0.0.1", base_port)).unwrap();
    let error = Cluster::start(prepare(&options).unwrap(), &program).await.err().unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("UDP port 127.0.0.1:{base_port} of n1")), "{text}");
    assert!(!directory.path().join("program.started").exists());
}

#[tokio::test]
async fn a_node_that_dies_at_once_is_told_with_its_last_words() {
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let options =
        UpOptions { nodes: Some(1), base_port: Some(free_ports(1)), ..options(directory.path()) };
    let program = program(directory.path(), "echo no such luck >&2; exit 3");
    let mut cluster = Cluster::start(prepare(&options).unwrap(), &program).await.unwrap();
    let error = cluster.wait_ready(READY_TIMEOUT).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3"), "{error}");
    assert!(error.contains("  no such luck"), "{error}");
    cluster.stop(|notice| panic!("nobody was left: {notice}")).await;
}

#[tokio::test]
async fn nodes_become_ready_die_and_stop() {
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let base_port = free_ports(2);
    let options =
        UpOptions { nodes: Some(2), base_port: Some(base_port), ..options(directory.path()) };
    // It lives as long as its input, as a node does.
    let program = program(directory.path(), "exec cat");
    let mut cluster = Cluster::start(prepare(&options).unwrap(), &program).await.unwrap();
    assert!(matches!(
        cluster.wait_ready(Duration::from_millis(100)).await,
        Err(UpError::NotReady { reasons, .. }) if reasons.len() == 2
    ));
    let mut servers = Vec::new();
    for node in cluster.nodes() {
        let server = HttpServer::bind(node.config.http.listen).unwrap();
        let health = NodeHealth::new();
        health.set_ready();
        servers.push(server.start(health, Metrics::new()).unwrap());
    }
    cluster.wait_ready(READY_TIMEOUT).await.unwrap();

    let mut told = Vec::new();
    cluster.stop(|notice| told.push(notice)).await;
    assert_eq!(told.len(), 4);
    assert_eq!(told[0], Notice::Stopping(2));
    assert!(told.iter().any(|notice| matches!(notice, Notice::Stopped(NodeId(2), _))));
    assert_eq!(told[3], Notice::AllStopped);
}

#[tokio::test]
async fn a_node_that_dies_later_is_told_and_the_others_go_on() {
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir().unwrap();
    let options =
        UpOptions { nodes: Some(2), base_port: Some(free_ports(2)), ..options(directory.path()) };
    // The second node dies when a file appears; the first one lives.
    let script = "case \"$4\" in */n2/*) while [ ! -e \"$0.die\" ]; do sleep 0.02; done; exit 7;; \
        esac; exec cat";
    let program = program(directory.path(), script);
    let mut cluster = Cluster::start(prepare(&options).unwrap(), &program).await.unwrap();
    fs::write(directory.path().join("program.die"), "").unwrap();
    let (first, mut notices) = tokio::sync::mpsc::unbounded_channel();
    tokio::select! {
        _ = cluster.watch(|notice| first.send(notice).unwrap()) => panic!("n1 lives"),
        notice = notices.recv() => {
            let notice = notice.unwrap();
            assert!(matches!(notice, Notice::Died { node: NodeId(2), .. }), "{notice}");
            assert!(notice.to_string().contains("exit status: 7"), "{notice}");
            assert!(notice.to_string().contains("n2/quoit.toml"), "{notice}");
        }
    }
    let mut told = Vec::new();
    cluster.stop(|notice| told.push(notice)).await;
    assert!(told.iter().any(|notice| matches!(notice, Notice::Stopped(NodeId(1), _))));
}
