//! Whom a node welcomes: clients that speak its protocol and mean its cluster.

use quoit_protocol::{ClientResponse, FailureCode, Hello, PROTOCOL_VERSION};
use quoit_ring::{ClusterId, ConflictPolicy};

use crate::world::{World, node, options};

fn hello(version_min: u16, version_max: u16, cluster: Option<ClusterId>) -> Hello {
    Hello { version_min, version_max, cluster, client: "test".to_owned() }
}

#[test]
fn a_client_of_another_protocol_or_cluster_is_refused_with_the_reason() {
    let (mut world, _) = World::with_table(1, 3, options(ConflictPolicy::Latest));
    let (own, next) = (PROTOCOL_VERSION, PROTOCOL_VERSION + 1);
    let mut ask = |hello| {
        let request = world.send(node(1), hello);
        world.wait(request)
    };
    let ClientResponse::Welcome(welcome) = ask(hello(own, next, None)) else {
        panic!("no welcome")
    };
    assert_eq!(welcome.version, own, "the greatest that both speak");

    for (version_min, version_max) in [(next, next), (next, u16::MAX), (0, own - 1)] {
        let ClientResponse::Failure(failure) = ask(hello(version_min, version_max, None)) else {
            panic!("{version_min} to {version_max} is not spoken here");
        };
        assert_eq!((failure.code, failure.unknown), (FailureCode::Protocol, false));
        let versions = format!("protocol {own}, the client {version_min} to {version_max}");
        assert!(failure.message.contains(&versions), "{}", failure.message);
    }

    let ClientResponse::Failure(failure) = ask(hello(own, own, Some(ClusterId(u128::MAX)))) else {
        panic!("it means another cluster");
    };
    assert_eq!((failure.code, failure.unknown), (FailureCode::Invalid, false));
    assert!(failure.message.contains("check the contact points"), "{}", failure.message);
}
