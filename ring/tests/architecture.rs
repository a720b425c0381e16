//! The architecture, as a test: which package may know which, what the pure packages may lean on,
//! and what lies at the top of the repository. It reads manifests and sources, so it also fails on
//! what still compiles. To allow something new, change a list here and say why in the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/source.rs"]
mod source;

/// For each package its folder, and the packages of the workspace that it may depend on: an arrow
/// of any kind, for its tests too.
const ARROWS: [(&str, &str, &[&str]); 13] = [
    ("quoit-ring", "ring", &[]),
    ("quoit-gossip", "gossip", &["quoit-ring"]),
    ("quoit-storage", "storage", &["quoit-ring"]),
    ("quoit-storage-files", "storage/files", &["quoit-ring", "quoit-storage"]),
    ("quoit-protocol", "client/protocol", &["quoit-ring"]),
    ("quoit-session", "client/session", &["quoit-ring", "quoit-protocol"]),
    // Its documentation's examples run in the sandbox; nothing else of it knows the node.
    ("quoit-client", "client", &["quoit-ring", "quoit-protocol", "quoit-session", "quoit-sandbox"]),
    ("quoit-cli", "client/cli", &["quoit-ring", "quoit-protocol", "quoit-client"]),
    ("quoit-sandbox", "client/sandbox", &["quoit-ring", "quoit-client", "quoit-node"]),
    ("quoit-core", "node/core", &["quoit-ring", "quoit-storage", "quoit-protocol"]),
    (
        "quoit-node",
        "node",
        &[
            "quoit-ring",
            "quoit-gossip",
            "quoit-storage",
            "quoit-storage-files",
            "quoit-protocol",
            "quoit-session",
            "quoit-client",
            "quoit-cli",
            "quoit-core",
        ],
    ),
    ("quoit-jepsen", "jepsen", &["quoit-ring", "quoit-protocol", "quoit-client"]),
    (
        "quoit-simulations",
        "simulations",
        &[
            "quoit-ring",
            "quoit-gossip",
            "quoit-storage",
            "quoit-protocol",
            "quoit-session",
            "quoit-core",
        ],
    ),
];

/// The pure packages' folders, and the packages from elsewhere that they may depend on outside
/// their tests.
const PURE: [(&str, &[&str]); 5] = [
    ("ring", &["serde", "siphasher", "thiserror"]),
    (
        "storage",
        &[
            "bytes",
            "crc32c",
            "merkle_light",
            "rmp-serde",
            "serde",
            "serde_bytes",
            "quick_cache",
            "siphasher",
            "thiserror",
            "xxhash-rust",
        ],
    ),
    (
        "client/protocol",
        &["bytes", "crc32c", "rmp-serde", "serde", "serde_bytes", "thiserror", "xxhash-rust"],
    ),
    ("client/session", &["bytes", "thiserror"]),
    (
        "node/core",
        &["bytes", "hdrhistogram", "rmp-serde", "serde", "serde_bytes", "siphasher", "thiserror"],
    ),
];

/// What each pure package's `clippy.toml` bans at least.
const BANNED_TYPES: [&str; 7] = [
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::fs::File",
    "std::net::TcpStream",
    "std::net::UdpSocket",
];
const BANNED_METHODS: [&str; 5] = [
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::env::var",
];

/// What may lie at the top, beside licences and dotfiles; of these `target` and `quoit-data` are
/// made by programs and never committed.
const TOP_LEVEL: [&str; 12] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "node",
    "ring",
    "gossip",
    "storage",
    "client",
    "jepsen",
    "simulations",
    "target",
    "quoit-data",
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_toml(path: &Path) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One entry of a manifest's tables of dependencies.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dependency {
    /// The package's own name, whatever it is called in the manifest.
    package: String,
    for_tests_only: bool,
}

/// All dependencies of a manifest: for running, building and testing, on every platform.
fn dependencies(manifest: &toml::Table, workspace: &toml::Table) -> BTreeSet<Dependency> {
    let table = |parent: &toml::Table, name: &str| {
        parent.get(name).and_then(toml::Value::as_table).cloned().unwrap_or_default()
    };
    let shared = table(&table(workspace, "workspace"), "dependencies");
    let renamed =
        |entry: Option<&toml::Value>| entry?.get("package")?.as_str().map(ToOwned::to_owned);
    let platforms = table(manifest, "target");
    let platforms = platforms.values().filter_map(toml::Value::as_table);
    let mut found = BTreeSet::new();
    for parent in platforms.chain([manifest]) {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for (key, entry) in table(parent, kind) {
                let package = renamed(Some(&entry)).or_else(|| renamed(shared.get(&key)));
                found.insert(Dependency {
                    package: package.unwrap_or(key),
                    for_tests_only: kind == "dev-dependencies",
                });
            }
        }
    }
    found
}

/// A manifest's folder and text, read.
fn manifest(folder: &str) -> toml::Table {
    read_toml(&top().join(folder).join("Cargo.toml"))
}

/// The arrows of a package that [`ARROWS`] does not have.
fn arrows_forbidden(package: &str, dependencies: &BTreeSet<Dependency>) -> Vec<String> {
    let allowed = ARROWS.iter().find(|(name, ..)| *name == package).map_or(&[][..], |row| row.2);
    dependencies
        .iter()
        .map(|dependency| dependency.package.as_str())
        .filter(|name| name.starts_with("quoit") && !allowed.contains(name))
        .map(|name| format!("{package} -> {name}"))
        .collect()
}

#[test]
fn packages_depend_only_along_the_allowed_arrows() {
    let workspace = manifest("");
    let listed = workspace["workspace"]["members"].as_array().expect("a list of members");
    let listed: BTreeSet<_> = listed.iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(listed, ARROWS.iter().map(|row| row.1).collect(), "every package has its row here");

    let mut forbidden = Vec::new();
    for (package, folder, _) in ARROWS {
        let manifest = manifest(folder);
        assert_eq!(manifest["package"]["name"].as_str(), Some(package), "the name of {folder}");
        forbidden.extend(arrows_forbidden(package, &dependencies(&manifest, &workspace)));
    }
    assert!(forbidden.is_empty(), "arrows that the architecture does not have: {forbidden:?}");
}

#[test]
fn pure_packages_lean_on_nothing_but_what_is_listed() {
    let workspace = manifest("");
    for (folder, allowed) in PURE {
        for Dependency { package, for_tests_only } in dependencies(&manifest(folder), &workspace) {
            let known = allowed.contains(&package.as_str()) || package.starts_with("quoit-");
            assert!(
                for_tests_only || known,
                "{folder} is pure and may depend on {allowed:?} only, not on {package}",
            );
        }
    }
}

#[test]
fn a_planted_dependency_is_found_wherever_it_hides() {
    let workspace: toml::Table =
        "[workspace.dependencies]\nhidden = { package = 'quoit-core', path = 'x' }"
            .parse()
            .expect("good TOML");
    for manifest in [
        "[dependencies]\nquoit-core.workspace = true",
        "[dependencies]\nhidden.workspace = true",
        "[dev-dependencies]\nother = { package = 'quoit-core', path = '../node/core' }",
        "[build-dependencies.quoit-core]\npath = '../node/core'",
        "[target.'cfg(unix)'.dependencies]\nquoit-core.workspace = true",
    ] {
        let manifest = manifest.parse().expect("good TOML");
        let found = arrows_forbidden("quoit-ring", &dependencies(&manifest, &workspace));
        assert_eq!(found, ["quoit-ring -> quoit-core"]);
    }
}

#[test]
fn the_top_of_the_repository_holds_what_was_agreed() {
    for entry in fs::read_dir(top()).expect("the top folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        assert!(
            TOP_LEVEL.contains(&name.as_str())
                || name.starts_with('.')
                || name.starts_with("LICENSE"),
            "{name} does not belong at the top of the repository: put it into a folder",
        );
    }
}

#[test]
fn pure_packages_share_one_list_of_bans() {
    let ban_list = |folder: &str| top().join(folder).join("clippy.toml");
    let first = read(&ban_list(PURE[0].0));
    for (folder, _) in PURE {
        assert_eq!(read(&ban_list(folder)), first, "{folder}/clippy.toml is not like ring's");
    }
    let bans = read_toml(&ban_list(PURE[0].0));
    let banned = |key: &str| -> BTreeMap<String, String> {
        let entries = bans[key].as_array().expect("a list").iter();
        let text = |entry: &toml::Value, key: &str| entry[key].as_str().expect("text").to_owned();
        entries.map(|entry| (text(entry, "path"), text(entry, "reason"))).collect()
    };
    for (key, wanted) in
        [("disallowed-types", &BANNED_TYPES[..]), ("disallowed-methods", &BANNED_METHODS[..])]
    {
        let banned = banned(key);
        for path in wanted {
            assert!(banned.contains_key(*path), "clippy.toml does not ban {path}");
        }
    }
}

#[test]
fn pure_packages_touch_nothing_of_the_world() {
    let mut files = 0;
    for (folder, _) in PURE {
        for path in rust_files(&top().join(folder).join("src")) {
            files += 1;
            let found = source::impurities(&read(&path));
            let folder_name = path.strip_prefix(top()).unwrap_or(&path).display();
            assert!(
                found.is_empty(),
                "{folder_name} is of a pure package: time, configuration, bytes and seeds are \
                 handed in, and maps keep an order. It has {found:#?}",
            );
        }
    }
    assert!(files > PURE.len(), "the sources were found");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
