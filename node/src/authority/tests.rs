use std::fs;
use std::os::unix::fs::PermissionsExt;

use quoit_core::access::{Grant, Role};
use quoit_ring::NodeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::config::TlsSettings;

const DAY: Duration = Duration::from_secs(SECONDS_PER_DAY);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap()
}

fn authority() -> (tempfile::TempDir, Authority) {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::create(directory.path(), AUTHORITY_DAYS, now()).unwrap();
    (directory, authority)
}

/// Writes a node's files as `quoit ca issue` and a person would.
fn credentials(directory: &Path, authority: &Authority, subject: &Subject) -> TlsSettings {
    authority.issue(subject, LEAF_DAYS, now()).unwrap().write(directory, "leaf").unwrap();
    TlsSettings {
        authority: directory.join(AUTHORITY_CERTIFICATE),
        certificate: directory.join("leaf.pem"),
        key: directory.join("leaf.key"),
        revoked: None,
    }
}

#[test]
fn a_node_proves_its_own_name_and_that_it_is_a_node_and_no_more() {
    let (_directory, authority) = authority();
    let cluster = authority.cluster();
    let issued = authority.issue(&Subject::Node(NodeId(7)), LEAF_DAYS, now()).unwrap();
    let prove = |name: String| {
        let (ca, leaf) = (authority.certificate_pem(), &issued.certificate_pem);
        check::prove(ca, leaf, &[name], since_1970(now()))
    };
    assert_eq!(prove(format!("n7.{cluster}.quoit")), Ok(()));
    assert_eq!(prove(format!("node.{cluster}.quoit")), Ok(()));
    assert!(prove(format!("n8.{cluster}.quoit")).is_err());
    assert!(prove(format!("client.{cluster}.quoit")).is_err());
    let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&der).unwrap();
    let names: Vec<_> = leaf.valid_dns_names().map(str::to_owned).collect();
    assert_eq!(names, Subject::Node(NodeId(7)).names(cluster));
}

#[test]
fn a_nodes_files_are_checked_before_it_starts() {
    let (directory, authority) = authority();
    let cluster = authority.cluster();
    let tls = credentials(directory.path(), &authority, &Subject::Node(NodeId(7)));
    let at = since_1970(now());
    check_credentials(&tls, cluster, NodeId(7), at).unwrap();

    let refused = |tls: &TlsSettings, cluster, node, at, because: &str| {
        let error = check_credentials(tls, cluster, node, at).unwrap_err().to_string();
        assert!(error.contains(because), "{error}");
    };
    refused(&tls, cluster, NodeId(8), at, "not the certificate of n8.");
    refused(&tls, ClusterId(5), NodeId(7), at, "it is the authority of cluster");
    refused(&tls, cluster, NodeId(7), at + 366 * DAY, "expired");
    refused(&tls, cluster, NodeId(7), at - DAY, "not valid yet");
    let swapped = TlsSettings { key: directory.path().join(AUTHORITY_KEY), ..tls.clone() };
    refused(&swapped, cluster, NodeId(7), at, "not the key of the certificate");
    let absent = TlsSettings { key: directory.path().join("none"), ..tls };
    refused(&absent, cluster, NodeId(7), at, "does not exist");
}

#[test]
fn a_client_cannot_pose_as_a_node_nor_a_foreign_node_as_ours() {
    let (directory, authority) = authority();
    let at = since_1970(now());
    let tls = credentials(directory.path(), &authority, &Subject::admin());
    let error = check_credentials(&tls, authority.cluster(), NodeId(1), at).unwrap_err();
    assert!(error.to_string().contains("a client's certificate"), "{error}");

    let (elsewhere, other) = self::authority();
    let foreign = credentials(elsewhere.path(), &other, &Subject::Node(NodeId(1)));
    let mixed = TlsSettings { authority: directory.path().join(AUTHORITY_CERTIFICATE), ..foreign };
    let error = check_credentials(&mixed, authority.cluster(), NodeId(1), at).unwrap_err();
    assert!(error.to_string().contains("another authority"), "{error}");
}

#[test]
fn rustls_takes_both_sides_of_a_connection() {
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use std::sync::Arc;

    // The handshake uses the real clock.
    let real = SystemTime::now();
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::create(directory.path(), AUTHORITY_DAYS, real).unwrap();
    let parts = |subject: &Subject| {
        let issued = authority.issue(subject, LEAF_DAYS, real).unwrap();
        let certificate =
            CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        (vec![certificate], key)
    };
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap())
        .unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .unwrap();
    let (chain, key) = parts(&Subject::Node(NodeId(1)));
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let (chain, key) = parts(&Subject::admin());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let name = node_name(authority.cluster()).try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
}

#[test]
fn an_authority_is_found_again_and_never_overwritten() {
    let (directory, authority) = authority();
    let again = Authority::open(directory.path()).unwrap();
    assert_eq!(again.cluster(), authority.cluster());
    // What the reopened one signs is as good.
    let tls = credentials(directory.path(), &again, &Subject::Node(NodeId(3)));
    check_credentials(&tls, authority.cluster(), NodeId(3), since_1970(now())).unwrap();

    let twice = Authority::create(directory.path(), AUTHORITY_DAYS, now());
    assert!(matches!(twice, Err(AuthorityError::Exists(_))));
    let issued = authority.issue(&Subject::admin(), LEAF_DAYS, now()).unwrap();
    assert!(matches!(issued.write(directory.path(), "leaf"), Err(AuthorityError::Exists(_))));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Authority::open(empty.path()), Err(AuthorityError::Missing(_))));
}

#[test]
fn keys_are_for_their_owner_only() {
    let (directory, authority) = authority();
    let tls = credentials(directory.path(), &authority, &Subject::admin());
    for path in [directory.path().join(AUTHORITY_KEY), tls.key] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "no temporary file is left");
}

#[test]
fn a_damaged_authority_is_refused_with_its_file() {
    let (directory, _authority) = authority();
    let path = directory.path().join(AUTHORITY_CERTIFICATE);
    std::fs::write(&path, "nothing").unwrap();
    let error = Authority::open(directory.path()).err().unwrap().to_string();
    assert!(error.contains(AUTHORITY_CERTIFICATE), "{error}");
    let days = Authority::create(&directory.path().join("new"), 0, now());
    assert!(matches!(days, Err(AuthorityError::Validity(0))));
}

fn member(number: u64, address: &str) -> quoit_ring::Member {
    quoit_ring::Member {
        id: NodeId(number),
        address: address.parse().unwrap(),
        zone: quoit_ring::Zone { datacenter: "local".into(), rack: "r1".into() },
        capacity: 1,
    }
}

#[test]
fn the_members_certificates_are_made_once_and_continued() {
    let directory = tempfile::tempdir().unwrap();
    let members = [member(1, "127.0.0.1:7101"), member(2, "127.0.0.1:7102")];
    let first = prepare_members(directory.path(), &members, true, now()).unwrap();
    assert_eq!(first.made.len(), 3);
    let key = directory.path().join("n2/node.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777 & !0o640, 0);
    let private = directory.path().join("authority");
    assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o077, 0);
    for id in [1, 2] {
        let place = directory.path().join(format!("n{id}"));
        let tls = TlsSettings {
            authority: place.join(AUTHORITY_CERTIFICATE),
            certificate: place.join("node.pem"),
            key: place.join("node.key"),
            revoked: None,
        };
        check_credentials(&tls, first.cluster, NodeId(id), since_1970(now())).unwrap();
    }

    fs::remove_file(directory.path().join("n2/node.pem")).unwrap();
    let again = prepare_members(directory.path(), &members, true, now()).unwrap();
    assert_eq!(again.cluster, first.cluster);
    assert_eq!(again.made, [directory.path().join("n2")]);
    assert!(prepare_members(directory.path(), &members, true, now()).unwrap().made.is_empty());
}

#[test]
fn several_hosts_make_no_authority_each_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let members = [member(1, "127.0.0.1:7101"), member(2, "192.0.2.2:7101")];
    let error = prepare_members(directory.path(), &members, true, now()).unwrap_err();
    assert!(error.to_string().contains("share one authority"), "{error}");
    assert!(!directory.path().join("authority").exists());
    prepare_members(directory.path(), &members, false, now()).unwrap();
}

#[test]
fn a_renewed_certificate_says_the_same_with_the_same_key_for_longer() {
    let (directory, authority) = authority();
    let grant = Grant { role: Role::ReadOnly, tables: vec!["carts".into()] };
    let subject = Subject::client("shop", Some(grant)).unwrap();
    authority.issue(&subject, 1, now()).unwrap().write(directory.path(), "shop").unwrap();
    let path = directory.path().join("shop.pem");
    let former = parsed(&path);
    // It may have expired.
    let renewed = authority.renew(&path, directory.path(), LEAF_DAYS, now() + 2 * DAY).unwrap();
    assert_eq!(renewed.subject, subject);
    put_renewed(&path, &renewed).unwrap();
    let new = parsed(&path);
    check::keys_match(&renewed.certificate_pem, &read(&directory.path().join("shop.key")).unwrap())
        .unwrap();
    assert_eq!(hex(&new.serial), renewed.serial);
    assert!(new.serial != former.serial && new.not_after > former.not_after + 300 * DAY);
    let at = since_1970(now() + 2 * DAY);
    check::is_issued(authority.certificate_pem(), &renewed.certificate_pem, at).unwrap();
    let text = show(&path, None, now()).unwrap()[0].text();
    for part in ["shop", "read-only in carts", &renewed.serial, "367", "quoit authority"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn another_authority_of_the_cluster_renews_what_the_former_issued_and_no_other() {
    let (directory, former) = authority();
    let new = directory.path().join("new");
    let authority = Authority::create_for(former.cluster(), &new, 9, now()).unwrap();
    let tls = credentials(directory.path(), &former, &Subject::Node(NodeId(7)));
    let error = authority.renew(&tls.certificate, &new, 9, now()).unwrap_err();
    assert!(error.to_string().contains("another authority"), "{error}");
    let renewed = authority.renew(&tls.certificate, directory.path(), 9, now()).unwrap();
    put_renewed(&tls.certificate, &renewed).unwrap();

    // Both in one file: either's certificates are good, and the cluster is found.
    let both = directory.path().join("both.pem");
    let text = format!("{}{}", former.certificate_pem(), authority.certificate_pem());
    fs::write(&both, text).unwrap();
    let trusting = |authority: &Path| TlsSettings { authority: authority.into(), ..tls.clone() };
    let check =
        |tls: &TlsSettings| check_credentials(tls, former.cluster(), NodeId(7), since_1970(now()));
    check(&trusting(&both)).unwrap();
    check(&trusting(&new.join(AUTHORITY_CERTIFICATE))).unwrap();
    assert!(check(&tls).unwrap_err().to_string().contains("another authority"));
    let shown = show(&tls.certificate, Some(&both), now()).unwrap()[0].json();
    assert_eq!(shown["signed_by"], parsed(&new.join(AUTHORITY_CERTIFICATE)).fingerprint());
    let (_elsewhere, foreign) = self::authority();
    fs::write(&both, format!("{}{}", former.certificate_pem(), foreign.certificate_pem())).unwrap();
    assert!(check(&trusting(&both)).unwrap_err().to_string().contains("two clusters"));
}

#[test]
fn what_is_revoked_is_listed_once_and_not_renewed() {
    let (directory, authority) = authority();
    let tls = credentials(directory.path(), &authority, &Subject::admin());
    let (subject, serial) = authority.serial_of(&tls.certificate).unwrap();
    assert_eq!(subject, Subject::admin());
    let lost = parse_serial("0a:FF").unwrap();
    assert_eq!(lost, [10, 255]);
    for expected in [1, 2, 2] {
        let serials =
            if expected == 1 { vec![serial.clone()] } else { vec![lost.clone(), serial.clone()] };
        assert_eq!(authority.revoke(directory.path(), &serials, now()).unwrap(), expected);
    }
    let list = &show(&directory.path().join(REVOKED), None, now()).unwrap()[0];
    assert_eq!(list.json()["revoked"][0]["serial"], hex(&serial));
    assert!(list.text().contains("0aff at 2026-"), "{}", list.text());
    let error = authority.renew(&tls.certificate, directory.path(), 9, now()).unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
    for wrong in ["", "0", "xy", &"00".repeat(21)] {
        assert!(matches!(parse_serial(wrong), Err(AuthorityError::Serial(_))), "{wrong}");
    }
    let (elsewhere, other) = self::authority();
    let foreign = credentials(elsewhere.path(), &other, &Subject::admin());
    assert!(authority.serial_of(&foreign.certificate).is_err());
}

#[test]
fn names_and_tables_that_cannot_be_are_refused() {
    for name in ["", "Shop", "a b", "-a", "a-", "a.b", &"x".repeat(64)] {
        assert!(matches!(Subject::client(name, None), Err(AuthorityError::Name(_))), "{name}");
    }
    for table in ["", "a b", "a&role=admin"] {
        let grant = Grant { role: Role::ReadOnly, tables: vec![table.to_owned()] };
        let refused = Subject::client("shop", Some(grant));
        assert!(matches!(refused, Err(AuthorityError::Grant(_))), "{table}");
    }
}

fn parsed(path: &Path) -> Parsed {
    Parsed::read_pem(read(path).unwrap().as_bytes()).unwrap().swap_remove(0)
}
