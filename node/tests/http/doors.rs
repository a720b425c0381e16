//! Who gets in, and who is cut off.

use std::fs;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

const TOKEN: &str = "a-token-that-nobody-guesses";

/// Adds lines to `[http]`.
fn add(config: &Path, lines: &str) {
    let text = fs::read_to_string(config).expect("it was made");
    fs::write(config, text.replace("data = true\n", &format!("data = true\n{lines}")))
        .expect("ours");
}

/// What a client speaks HTTPS with: whom it trusts, and the directory of its own certificate.
fn connector(authority_pem: &str, own: Option<&Path>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).expect("PEM"))
        .expect("good");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(directory) => {
            let read = |name: &str| fs::read(directory.join(name)).expect("up made it");
            let chain = vec![CertificateDer::from_pem_slice(&read("client.pem")).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(&read("client.key")).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("they go together")
        }
    };
    TlsConnector::from(Arc::new(config))
}

async fn connect(
    connector: &TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    connector.connect(name, stream).await
}

async fn ask_encrypted(
    connector: &TlsConnector,
    address: SocketAddr,
    headers: &[(&str, &str)],
) -> Answer {
    let stream = connect(connector, address).await.expect("the certificate is good");
    let request = asking::request("GET", "/v1/tables");
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    asking::ask_on(stream, address, request, "").await
}

#[tokio::test]
async fn tokens_and_certificates_open_an_encrypted_door_and_nothing_else_does() {
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("made");
    let certificate = issued.cert.pem();
    let nodes = Nodes::start_with(|directory, config| {
        let path = |name: &str| directory.join(name).display().to_string();
        fs::write(path("http.pem"), &certificate).expect("ours");
        fs::write(path("http.key"), issued.signing_key.serialize_pem()).expect("ours");
        fs::write(path("tokens"), format!("# ours\n{TOKEN}\n")).expect("ours");
        let files = format!(
            "certificate = {:?}\nkey = {:?}\ntoken_file = {:?}\nclient_authority = {:?}\n",
            path("http.pem"),
            path("http.key"),
            path("tokens"),
            path("data/authority.pem"),
        );
        add(config, &files);
    })
    .await;
    let address = nodes.address(0);
    // In plain there are health (`up` has waited for it) and metrics, and no data.
    assert_eq!(nodes.ask("GET", "/metrics", &[], b"").await.status, 200);
    let bearer = format!("Bearer {TOKEN}");
    let shown = [("authorization", bearer.as_str())];
    let plain = nodes.ask("GET", "/v1/tables", &shown, b"").await;
    assert_eq!(plain.problem(), (403, "https-required".into()));
    // The page has nothing to hide, what it shows has.
    assert_eq!(nodes.ask("GET", "/", &[], b"").await.status, 200);
    let plain = nodes.ask("GET", "/ui/cluster.json", &shown, b"").await;
    assert_eq!(plain.problem(), (403, "https-required".into()));

    let anybody = connector(&certificate, None);
    let nobody = ask_encrypted(&anybody, address, &[]).await;
    assert_eq!(nobody.problem(), (401, "unauthorized".into()));
    assert!(nobody.header("www-authenticate").starts_with("Bearer"));
    let wrong =
        ask_encrypted(&anybody, address, &[("authorization", "Bearer a-token-that-nobody")]).await;
    assert_eq!(wrong.status, 401);
    assert_eq!(ask_encrypted(&anybody, address, &shown).await.status, 200);
    let client = nodes.directory.path().join("data/client");
    let certified = connector(&certificate, Some(&client));
    assert_eq!(ask_encrypted(&certified, address, &[]).await.status, 200);

    // Another certificate and another token, while the node runs.
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("made");
    let put = |name: &str, text: &str| fs::write(nodes.directory.path().join(name), text);
    put("http.pem", &issued.cert.pem()).expect("ours");
    put("http.key", &issued.signing_key.serialize_pem()).expect("ours");
    put("tokens", "another-token-that-nobody-guesses\n").expect("ours");
    nodes.signal(0, "-HUP");
    let renewed = connector(&issued.cert.pem(), None);
    let began = std::time::Instant::now();
    while connect(&renewed, address).await.is_err() {
        assert!(began.elapsed() < LIMIT, "the certificate stays what it was");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(connect(&anybody, address).await.is_err(), "the former one is still shown");
    assert_eq!(ask_encrypted(&renewed, address, &shown).await.status, 401);
    let bearer = [("authorization", "Bearer another-token-that-nobody-guesses")];
    assert_eq!(ask_encrypted(&renewed, address, &bearer).await.status, 200);
    nodes.stop().await;
}

#[tokio::test]
async fn whoever_sends_slowly_holds_up_nobody_and_is_cut_off() {
    let nodes = Nodes::start_with(|_, config| add(config, "connections_max = 8\n")).await;
    nodes.table("plain", "").await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(nodes.address(0)).await.expect("it listens");
        stream.write_all(b"GET /v1/tables HTTP/1.1\r\nhost: ").await.expect("it is taken");
        slow.push(stream);
    }
    // More than may be open: whoever asks is answered nonetheless.
    assert_eq!(nodes.ask("GET", "/v1/tables", &[], b"").await.status, 200);
    let mut byte = [0];
    let first = tokio::time::timeout(LIMIT, slow[0].read(&mut byte)).await.expect("it is cut off");
    assert!(!matches!(first, Ok(1..)), "{first:?}");
    // The last is cut off when its time for the head is over.
    let last = slow.last_mut().expect("there are many");
    let ended = tokio::time::timeout(LIMIT, last.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "it is still open");
    nodes.stop().await;
}

#[tokio::test]
async fn a_node_that_would_give_its_data_to_everybody_does_not_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = UpOptions {
        directory: directory.path().join("data"),
        nodes: Some(1),
        replication: None,
        base_port: Some(free_base_port()),
        vnodes: None,
    };
    let config = prepare(&options).expect("it is new").nodes[0].config_path.clone();
    let check = || {
        let check =
            Command::new(PROGRAM).args(["serve", "--check", "--config"]).arg(&config).output();
        let output = check.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(check().0, Some(0));
    add(&config, "token_file = \"nowhere\"\n");
    let (code, text) = check();
    assert!(code == Some(2) && text.contains("http.token_file"), "{text}");
    let text = fs::read_to_string(&config).expect("it was made");
    let port = text.find("[http]\nlisten = \"127.0.0.1").expect("as it is made");
    let (before, after) = text.split_at(port);
    fs::write(&config, format!("{before}{}", after.replacen("127.0.0.1", "0.0.0.0", 1)))
        .expect("ours");
    let (code, text) = check();
    assert!(code == Some(2) && text.contains("is reached from other hosts"), "{text}");
}
