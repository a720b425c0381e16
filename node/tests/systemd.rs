//! The units under a real systemd: three instances on a machine of their own, which are killed,
//! stopped dead, reloaded under load and stopped in order.
//!
//! It needs root, systemd-nspawn and namespaces. Where they are missing it says so and passes, unless
//! `QUOIT_SYSTEMD_TEST=required`.

#[path = "systemd/container.rs"]
mod container;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use container::Container;

const PROGRAM: &str = env!("CARGO_BIN_EXE_quoit");
/// What is waited for takes no longer.
const LIMIT: Duration = Duration::from_secs(30);
/// `systemd-analyze security` counts in tenths: 2.0.
const EXPOSURE_MAX: &str = "--threshold=20";

/// What the package's installation does, and a watchdog that need not be waited for long.
const INSTALL: &str = "
install -m 644 /mnt/units/*.service /etc/systemd/system/
install -D -m 644 /mnt/units/quoit.sysusers /usr/lib/sysusers.d/quoit.conf
systemd-sysusers quoit.conf
install -d -m 2750 -o root -g quoit /etc/quoit
install -m 640 -g quoit /mnt/units/quoit.toml /etc/quoit/quoit.toml
mkdir -p /run/systemd/system/quoit@.service.d
printf '[Service]\\nWatchdogSec=8s\\n' > /run/systemd/system/quoit@.service.d/watchdog.conf
systemctl daemon-reload
";

/// New certificates of the same authority in the place of the old ones.
const RENEW: &str = "
for node in n1 n2 n3; do
    quoit ca issue --dir /etc/quoit/authority --node $node --out /tmp/new/$node
    chgrp quoit /tmp/new/$node/node.key
    chmod 640 /tmp/new/$node/node.key
    mv /tmp/new/$node/node.key /tmp/new/$node/node.pem /etc/quoit/$node/
done
systemctl reload quoit@1 quoit@2 quoit@3
";

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// Says why a test does not run; the test then passes, unless it is required.
fn skip(reason: &str) {
    // Written past the test's capture: a test that passes shows nothing else.
    let _ = writeln!(io::stderr(), "SKIPPED, nothing was tested under systemd: {reason}");
    assert!(std::env::var("QUOIT_SYSTEMD_TEST").as_deref() != Ok("required"), "{reason}");
}

/// A booted machine with the program and the units in place.
fn installed() -> Option<Container> {
    if let Some(reason) = container::missing() {
        skip(&reason);
        return None;
    }
    let units = units();
    let binds = [(Path::new(PROGRAM), "/usr/bin/quoit"), (units.as_path(), "/mnt/units")];
    match Container::boot(&binds) {
        Ok(container) => {
            container.run(INSTALL);
            Some(container)
        }
        Err(reason) => {
            skip(&reason);
            None
        }
    }
}

impl Container {
    /// A property of an instance.
    fn property(&self, instance: u8, property: &str) -> String {
        let value = self.run(&format!("systemctl show --value -p {property} quoit@{instance}"));
        value.trim().to_owned()
    }

    /// Waits until an instance serves after so many restarts.
    #[track_caller]
    fn wait_restarted(&self, instance: u8, restarts: u32) {
        let show = format!("systemctl show -p ActiveState,NRestarts,StatusText quoit@{instance}");
        self.wait(LIMIT, &show, |shown| {
            shown.contains("ActiveState=active\n")
                && shown.contains(&format!("NRestarts={restarts}\n"))
                && shown.contains("StatusText=serving; connected to 2 of 2 other members")
        });
    }

    /// The lines of an instance itself.
    fn log(&self, instance: u8) -> String {
        self.run(&format!("journalctl --sync; journalctl --output=cat --unit=quoit@{instance}"))
    }
}

#[test]
fn three_instances_are_restarted_reloaded_under_load_and_stopped_in_order() {
    let Some(host) = installed() else { return };

    // They start together, and each is active when it serves; the certificates come by themselves.
    host.run("systemctl start quoit@1 quoit@2 quoit@3");
    for instance in 1..=3 {
        host.wait_restarted(instance, 0);
    }
    host.run("quoit tables create greetings; quoit put greetings hello world --level all");

    // The first of them is killed.
    host.run("systemctl kill --signal=KILL quoit@1");
    host.run("quoit put greetings hello again");
    host.wait_restarted(1, 1);
    // The second is stopped dead, which only its silence shows.
    host.run("systemctl kill --signal=STOP quoit@2");
    host.wait_restarted(2, 1);
    assert!(host.journal().contains("Watchdog timeout"), "{}", host.journal());
    assert_eq!(host.run("quoit get greetings hello --level all"), "again");

    reload_under_load(&host);
    refuse_what_is_wrong(&host);
    assert_eq!(host.property(3, "NRestarts"), "0", "{}", host.journal());
    stop_in_order(&host);
}

/// Certificates, a limit and the log's level change while requests and new connections go on.
fn reload_under_load(host: &Container) {
    host.run("quoit bench --workload a --keys 500 --operations 500 --in-flight 8 --load");
    let load = host
        .command("quoit bench --workload a --keys 500 --in-flight 8 --seconds 8 --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsenter is there");
    // Each of these is a new connection.
    let arrivals = host
        .command("for n in $(seq 60); do quoit get greetings hello; done")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsenter is there");
    host.run(
        "sed -i -e 's/^#level = .*/level = \"info,quoit_node=debug\"/' \
         -e 's/^#segment_mib = .*/segment_mib = 32/' /etc/quoit/quoit.toml",
    );
    host.run(RENEW);
    for instance in 1..=3 {
        host.wait(LIMIT, &format!("journalctl --output=cat --unit=quoit@{instance}"), |log| {
            log.contains("reloaded: certificates")
                && log.contains("settings=\"storage.segment_mib\"")
        });
    }
    let arrivals = arrivals.wait_with_output().expect("it was started here");
    assert!(arrivals.status.success(), "{arrivals:?}\n{}", host.journal());
    assert_eq!(String::from_utf8_lossy(&arrivals.stdout), "again".repeat(60));
    let load = load.wait_with_output().expect("it was started here");
    let report: serde_json::Value = serde_json::from_slice(&load.stdout).expect("JSON");
    assert_eq!(report["results"]["errors"], serde_json::json!({}), "{report}\n{}", host.journal());
    // New connections since then are made with the new certificates, and logged at the new level.
    host.run("quoit get greetings hello");
    assert!(host.run("journalctl --output=cat --unit='quoit@*'").contains("DEBUG"));
}

/// A reload with files that a start would refuse fails, and changes nothing.
fn refuse_what_is_wrong(host: &Container) {
    host.run(
        "cp -p /etc/quoit/n3/node.pem /tmp/node.pem; cp /etc/quoit/n2/node.pem /etc/quoit/n3/",
    );
    host.fails("systemctl reload quoit@3");
    host.run("systemctl kill --signal=HUP quoit@3");
    host.wait(LIMIT, "journalctl --output=cat --unit=quoit@3", |log| {
        log.contains("not reloaded: the node goes on with what it has")
    });
    host.run("quoit get greetings hello --level all");
    assert_eq!(host.property(3, "ActiveState"), "active");
    host.run("mv /tmp/node.pem /etc/quoit/n3/; systemctl reload quoit@3");
}

/// The first stops while requests go on: what it has begun it finishes, and whoever asks it for more
/// turns to another node.
fn stop_in_order(host: &Container) {
    let load = host
        .command("quoit bench --workload a --keys 500 --in-flight 8 --seconds 4 --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("nsenter is there");
    host.run("systemctl stop quoit@1");
    let load = load.wait_with_output().expect("it was started here");
    let report: serde_json::Value = serde_json::from_slice(&load.stdout).expect("JSON");
    assert_eq!(report["results"]["errors"], serde_json::json!({}), "{report}\n{}", host.journal());
    for instance in 1..=3 {
        host.run(&format!("systemctl stop quoit@{instance}"));
        assert_eq!(host.property(instance, "ActiveState"), "inactive", "{}", host.journal());
        assert_eq!(host.property(instance, "Result"), "success", "{}", host.journal());
        let log = host.log(instance);
        for line in ["the store is open", "ready", "told to stop", "drained", "stopped"] {
            assert!(log.contains(line), "{line} is not in the log of {instance}:\n{log}");
        }
        assert!(!log.contains("panicked"), "{log}");
    }
    let others = host.log(3);
    assert!(others.contains("gossip: seems dead"), "the others hear a goodbye: {others}");
}

#[test]
fn the_units_are_hardened_and_differ_only_where_they_must() {
    let text = |name: &str| fs::read_to_string(units().join(name)).expect("a unit");
    let settings = |name: &str| {
        let text = text(name);
        let kept = text.lines().filter(|line| {
            let differs =
                ["#", "Description=", "Environment=", "StateDirectory=", "Wants=", "After="];
            !differs.iter().any(|start| line.starts_with(start))
        });
        kept.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(settings("quoit.service"), settings("quoit@.service"));

    let version = Command::new("systemd-analyze").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        return skip("systemd-analyze is not installed");
    }
    for unit in ["quoit.service", "quoit@.service"] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", EXPOSURE_MAX])
            .arg(units().join(unit))
            .output()
            .expect("it was there");
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{}", text.lines().last().unwrap_or_default());
        assert!(output.status.success(), "{text}");
    }
}
