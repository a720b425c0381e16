//! A headless Chromium, driven over its DevTools protocol: JSON documents on two pipes, each ended by a
//! zero byte. With the pipes it needs no port and no library, and it ends when they are closed.

use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::LIMIT;

/// The names under which it is installed.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

pub(crate) struct Browser {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    calls: u64,
    session: Option<String>,
    /// What scripts and the browser complained of.
    pub(crate) complaints: Vec<String>,
    _process: Child,
    _profile: TempDir,
}

/// Where it is installed, if it is.
pub(crate) fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES.iter().flat_map(|name| places.iter().map(move |at| at.join(name))).find(|at| at.is_file())
}

impl Browser {
    pub(crate) async fn open(program: PathBuf) -> Self {
        let profile = tempfile::tempdir().expect("a temporary directory");
        // It reads from descriptor 3 and writes to 4.
        let script = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut process = Command::new("sh")
            .args(["-c", script])
            .arg(program)
            // The sandbox cannot be had as root; the only page that it opens is ours.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--remote-debugging-pipe", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a shell is there");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut browser = Self {
            input,
            output,
            calls: 0,
            session: None,
            complaints: Vec::new(),
            _process: process,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach).await;
        browser.session = session["sessionId"].as_str().map(ToOwned::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Shows pages as a screen of that size would.
    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub(crate) async fn go(&mut self, address: &str) {
        let went = self.call("Page.navigate", json!({ "url": address })).await;
        assert!(went["errorText"].is_null(), "{address}: {went}");
    }

    /// What an expression comes to.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let asked = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true,
        });
        let answer = self.call("Runtime.evaluate", asked).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression comes to something true.
    pub(crate) async fn wait_for(&mut self, expression: &str) {
        let seconds = LIMIT.as_secs() / 2;
        let until = format!(
            "new Promise((resolve) => {{ const end = Date.now() + {seconds}000; const look = () => {{ \
             if ({expression}) resolve(true); else if (Date.now() > end) resolve(false); \
             else setTimeout(look, 30); }}; look(); }})"
        );
        if self.value(&until).await != true {
            let text = self.value("document.body.innerText").await;
            panic!("{expression} never came true; {:?}; the page says:\n{text}", self.complaints);
        }
    }

    /// Presses and releases the mouse in the middle of what a selector finds.
    pub(crate) async fn click(&mut self, selector: &str) {
        let place = self
            .value(&format!(
                "(() => {{ const found = document.querySelector({selector:?}); \
                 found.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
                 const at = found.getBoundingClientRect(); \
                 return [at.x + at.width / 2, at.y + at.height / 2]; }})()"
            ))
            .await;
        for kind in ["mousePressed", "mouseReleased"] {
            let mouse = json!({
                "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", mouse).await;
        }
    }

    /// The whole page as a PNG.
    pub(crate) async fn screenshot(&mut self) -> Vec<u8> {
        let asked = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.call("Page.captureScreenshot", asked).await;
        STANDARD.decode(shot["data"].as_str().expect("an image")).expect("base64")
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await.expect("the browser runs");
        let answered = tokio::time::timeout(LIMIT, self.answer(method));
        answered.await.unwrap_or_else(|_| panic!("the browser did not answer {method}"))
    }

    /// The answer to the last call; what comes before is kept if it is a complaint.
    async fn answer(&mut self, method: &str) -> Value {
        loop {
            let mut bytes = Vec::new();
            self.output.read_until(0, &mut bytes).await.expect("a pipe");
            assert_eq!(bytes.pop(), Some(0), "the browser ended before it answered {method}");
            let mut message: Value = serde_json::from_slice(&bytes).expect("JSON");
            if message["id"] == self.calls {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            let is_complaint = message["method"] == "Runtime.exceptionThrown"
                || (message["method"] == "Log.entryAdded"
                    && message["params"]["entry"]["level"] == "error");
            if is_complaint {
                self.complaints.push(message["params"].to_string());
            }
        }
    }
}
