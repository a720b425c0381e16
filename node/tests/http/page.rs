//! The page: who may see what it shows, and what a browser makes of it.

use std::path::PathBuf;

use serde_json::Value;

use super::browser::{self, Browser};
use super::*;

/// A key that would do something if it were taken for markup.
const NASTY: &str = "<script>document.title='taken'</script><img src=x onerror=alert(1)>";
const NASTY_ENCODED: &str =
    "%3Cscript%3Edocument.title=%27taken%27%3C%2Fscript%3E%3Cimg%20src=x%20onerror=alert(1)%3E";

/// So many make a key hot, whoever coordinates them.
const READS: usize = 90;

/// Makes a table, and a key in it that has several values and is hot.
async fn make_carts(nodes: &Nodes, path: &str, siblings: usize) {
    nodes.table("carts", r#"{"policy": "siblings"}"#).await;
    // Nobody has read it.
    for number in 0..siblings {
        let body = format!("value {number}");
        let answer = nodes.ask("PUT", path, &[], body.as_bytes()).await;
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
    for _ in 0..READS {
        assert_eq!(nodes.ask("GET", path, &[], b"").await.status, 300);
    }
}

#[tokio::test]
async fn what_the_page_shows_is_what_top_prints_and_not_for_everybody() {
    let nodes = Nodes::start().await;
    make_carts(&nodes, "/v1/tables/carts/keys/alice", 6).await;

    let page = nodes.ask("GET", "/", &[], b"").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(
        page.header("content-security-policy").starts_with("default-src 'none'; script-src 'self'")
    );
    let began = std::time::Instant::now();
    let document = loop {
        let shown = nodes.ask("GET", "/ui/cluster.json", &[], b"").await;
        assert_eq!((shown.status, shown.header("cache-control")), (200, "no-store"));
        let document = shown.json();
        // For a moment everybody is shown the picture that was taken before.
        if document["large_sets"][0]["siblings"] == 6 {
            break document;
        }
        assert!(began.elapsed() < LIMIT, "{document}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(document["ring"]["owners"].as_array().map(Vec::len), Some(64));
    // Whoever has the ring is not sent it again.
    let epoch = document["epoch"].as_u64().expect("a number");
    let again = nodes.ask("GET", &format!("/ui/cluster.json?ring={epoch}"), &[], b"").await;
    assert!(again.json()["ring"].is_null(), "{again:?}");
    assert_eq!(nodes.ask("GET", "/ui/cluster.json?ring=x", &[], b"").await.status, 400);
    // A page of another name that points here is another's.
    let foreign = asking::say(
        nodes.address(0),
        "GET /ui/cluster.json HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(foreign.starts_with("HTTP/1.1 421"), "{foreign}");

    let client = nodes.directory.path().join("data/client");
    let top = |argument: &str| {
        let mut command = Command::new(PROGRAM);
        let output = command.arg("--client").arg(&client).args(["top", argument]).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let printed: Value = serde_json::from_str(&top("--json")).expect("JSON");
    for document in [&document, &printed] {
        let set = &document["large_sets"][0];
        assert_eq!((&set["key"], &set["siblings"]), (&"alice".into(), &6.into()), "{document}");
        let hot = &document["hot_keys"][0];
        assert_eq!((&hot["key"], &hot["table"]), (&"alice".into(), &"carts".into()), "{document}");
        assert_eq!(document["nodes"].as_array().map(Vec::len), Some(3));
        assert!(document["nodes"][0]["operations"][0]["name"] == "get", "{document}");
    }
    let plain = top("--once");
    assert!(plain.starts_with("no problems\n") && plain.contains("alice"), "{plain}");
    nodes.stop().await;
}

#[tokio::test]
async fn a_browser_shows_the_ring_and_a_node_that_is_clicked_and_what_goes_wrong() {
    let Some(program) = browser::installed() else {
        eprintln!(
            "NOT TESTED HERE: the page in a browser, for there is no chromium (apt-get install it)"
        );
        return;
    };
    let nodes = Nodes::start().await;
    make_carts(&nodes, &format!("/v1/tables/carts/keys/{NASTY_ENCODED}"), 5).await;

    let mut page = Browser::open(program).await;
    page.resize(1280, 900).await;
    page.go(&format!("http://{}/", nodes.address(0))).await;
    page.wait_for("document.querySelectorAll('.node .state.good').length === 3").await;
    // Three owners a virtual node, three members: nine paths, none of them empty.
    page.wait_for("document.querySelectorAll('#ring path[d^=M]').length === 9").await;
    for list in ["hot-keys", "large-sets"] {
        let key = format!("[...document.querySelectorAll('#{list} .key')]");
        page.wait_for(&format!("{key}.some((key) => key.textContent === {NASTY:?})")).await;
    }
    // It is a text, and nothing else.
    assert_eq!(page.value("document.title").await, "Quoit");
    assert_eq!(page.value("document.querySelectorAll('script').length").await, 1);
    assert_eq!(page.value("document.querySelectorAll('img').length").await, 0);
    keep(page.screenshot().await, "page-1280.png");

    page.click(".node[data-node=n2]").await;
    let address = nodes.cluster.nodes()[1].config.node.advertise;
    page.wait_for(&format!("document.querySelector('#details').innerText.includes('{address}')"))
        .await;
    let lit =
        "[...document.querySelectorAll('#ring path:not(.faded)')].map((path) => path.dataset.node)";
    assert_eq!(page.value(lit).await, serde_json::json!(["n2", "n2", "n2"]));
    page.resize(390, 844).await;
    assert_eq!(page.value("document.documentElement.scrollWidth").await, 390);
    keep(page.screenshot().await, "page-390.png");
    page.click("#details .close").await;
    page.wait_for("document.querySelector('#details').hidden").await;
    assert_eq!(page.complaints, [""; 0]);

    nodes.kill(2);
    page.wait_for("document.querySelector('.node[data-node=n3].away') !== null").await;
    page.wait_for("document.querySelector('.problem')?.textContent.includes('n3')").await;
    assert!(
        page.value("document.title").await.as_str().is_some_and(|title| title.ends_with(") Quoit"))
    );
    assert_eq!(page.complaints, [""; 0]);
    nodes.stop().await;
}

/// Leaves an image where whoever wants to look at it finds it.
fn keep(png: Vec<u8>, name: &str) {
    assert!(png.starts_with(b"\x89PNG") && png.len() > 10_000, "{} bytes", png.len());
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&place, png).expect("cargo made the directory");
    eprintln!("{}", place.display());
}
