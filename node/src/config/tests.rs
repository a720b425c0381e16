use quoit_core::access::{Grant, Role};
use quoit_ring::Zone;

use super::*;

const CLUSTER: &str = "00112233445566778899aabbccddeeff";

/// The least that a node of three needs.
fn minimal() -> String {
    let mut text = format!(
        r#"[node]
id = "n2"
data_directory = "data"
listen = "127.0.0.1:7102"

[tls]
authority = "authority.pem"
certificate = "/etc/quoit/node.pem"
key = "node.key"

[cluster]
id = "{CLUSTER}"
"#
    );
    for (id, rack) in [(2, "r2"), (1, "r1"), (3, "r3")] {
        let _ = write!(
            text,
            "\n[[cluster.members]]\nid = \"n{id}\"\naddress = \"127.0.0.1:710{id}\"\nrack = \"{rack}\"\n"
        );
    }
    text
}

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::parse(text, Path::new("/srv/n2"), &BTreeMap::new())
}

fn with(environment: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::parse(&minimal(), Path::new("/srv/n2"), &environment)
}

/// The only problem of the minimal configuration with `from` replaced by `to`.
#[track_caller]
fn wrong(from: &str, to: &str, expected: &str) {
    let text = minimal();
    assert!(text.contains(from), "{from}");
    let problems = parse(&text.replacen(from, to, 1)).expect_err("must be refused");
    let told: Vec<_> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(told, [expected]);
}

/// The only problem when `lines` are added to the minimal configuration's end.
#[track_caller]
fn added(lines: &str, expected: &str) {
    let problems = parse(&format!("{}\n{lines}", minimal())).expect_err("must be refused");
    let told: Vec<_> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(told, [expected]);
}

#[test]
fn what_is_not_written_has_its_default() {
    let config = parse(&minimal()).unwrap();
    assert_eq!(config.node.id, NodeId(2));
    assert_eq!(config.node.advertise, config.node.listen);
    assert_eq!(config.node.data_directory, Path::new("/srv/n2/data"));
    assert_eq!(config.tls.certificate, Path::new("/etc/quoit/node.pem"));
    assert_eq!(config.http.listen, "127.0.0.1:7202".parse().unwrap());
    assert!(!config.http.data && config.http.tls.is_none());
    assert_eq!(config.cluster.vnodes, VnodeCount::DEFAULT);
    assert_eq!(config.cluster.replication, 3);
    assert_eq!(config.storage.durability, Durability::Group);
    assert_eq!(config.storage.memtable_bytes, 32 << 20);
    assert_eq!(config.limits.data, Limits::default());
    assert_eq!(
        config.clock,
        ClockSettings { offset_bound_ms: 300_000, offset_ms: 0, offset_file: None }
    );
    assert_eq!(config.log.level, "info");
    assert_eq!(config.telemetry.otlp_endpoint, None);
    let genesis = config.genesis();
    let ids: Vec<_> = genesis.members.iter().map(|member| member.id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(genesis.members[0].zone, Zone { datacenter: "local".into(), rack: "r1".into() });
    assert_eq!(genesis.cluster.to_string(), CLUSTER);
}

#[test]
fn what_is_printed_is_what_was_read() {
    let extra = "[storage]\ndurability = \"periodic\"\nmemtable_mib = 0x40\n\
        [limits]\nconnections_max = 99\n[log]\nlevel = \"warn,quoit_node=debug\"\nformat = \"json\"\n\
        [clock]\noffset_ms = -1_500\noffset_file = \"offset\"\n[http]\ndata = true\ncertificate = \"http.pem\"\n\
        key = \"http.key\"\nclient_authority = \"clients.pem\"\ntoken_file = \"tokens\"\n\
        [telemetry]\notlp_endpoint = \"http://[::1]:4318/otlp/\"\n";
    let config = parse(&format!("{}{extra}", minimal())).unwrap();
    assert_eq!(config.clock.offset_ms, -1_500);
    assert_eq!(config.storage.memtable_bytes, 64 << 20);
    assert_eq!(config.http.token_file.as_deref(), Some(Path::new("/srv/n2/tokens")));
    assert_eq!(parse(&config.to_toml()).unwrap(), config);
}

#[test]
fn a_collector_is_named_by_a_plain_http_url() {
    let none = parse(&format!("{}\n[telemetry]\notlp_endpoint = \"\"\n", minimal())).unwrap();
    assert_eq!(none.telemetry, TelemetrySettings::default());
    assert!(none.to_toml().contains("\n[telemetry]\notlp_endpoint = \"\"\n"));
    let told = parse(&format!("{}\n[telemetry]\notlp_endpoint = \"localhost:4318\"\n", minimal()));
    let told = told.unwrap_err()[0].to_string();
    let expected = "telemetry.otlp_endpoint: \"localhost:4318\" is not understood: write the URL of a \
         collector of OTLP over HTTP, such as \"http://127.0.0.1:4318\"";
    assert!(told.ends_with(expected), "{told}");
    let told = parse(&format!("{}\n[telemetry]\notlp_endpoint = \"https://c:4318\"\n", minimal()));
    let told = told.unwrap_err()[0].to_string();
    assert!(told.contains("plain http:// only"), "{told}");
}

#[test]
fn the_environment_overrides_the_file() {
    let config = with(&[
        ("QUOIT_NODE_DATA_DIRECTORY", "/elsewhere"),
        ("QUOIT_STORAGE_SEGMENT_MIB", "16"),
        ("QUOIT_LOG_FORMAT", "json"),
        ("QUOIT_CLIENT", "not ours"),
        ("PATH", "not ours"),
    ])
    .unwrap();
    assert_eq!(config.node.data_directory, Path::new("/elsewhere"));
    assert_eq!(config.storage.segment_bytes, 16 << 20);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.overrides.len(), 3);
    let printed = config.to_toml();
    assert!(printed.starts_with("# overridden by the environment: QUOIT_NODE_DATA_DIRECTORY"));
}

#[test]
fn mistakes_in_the_environment_are_told_with_the_variable() {
    #[track_caller]
    fn wrong(name: &str, value: &str, expected: &str) {
        let problems = with(&[(name, value)]).expect_err("must be refused");
        let told: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(told, [format!("environment {name}: {expected}")]);
    }
    wrong(
        "QUOIT_STORAGE_SEGMENT_MIB",
        "64MiB",
        "storage.segment_mib: write a whole number of MiB from 1 to 1024, not the text \"64MiB\"",
    );
    wrong("QUOIT_HTTP_LISTN", "x", "unknown setting http.listn; did you mean listen?");
    wrong(
        "QUOIT_CLUSTER_MEMBERS",
        "x",
        "unknown setting cluster.members; only the file can set it",
    );
}

#[test]
fn an_unknown_key_is_told_with_its_line_and_what_was_meant() {
    wrong(
        "listen = \"127.0.0.1:7102\"",
        "listen = \"127.0.0.1:7102\"\nadvertize = \"127.0.0.1:7102\"",
        "line 5: unknown setting node.advertize; did you mean advertise?",
    );
    wrong(
        "[tls]",
        "vnodes = 8\n[tls]",
        "line 6: unknown setting node.vnodes; it belongs in [cluster]",
    );
    wrong(
        "rack = \"r2\"",
        "rak = \"r2\"",
        "line 17: unknown setting cluster.members.rak; did you mean rack?",
    );
    added("[storag]\n", "line 29: unknown section [storag]; did you mean [storage]?");
    wrong("[node]", "x = 1\n[node]", "line 1: unknown setting x; each setting stands in a section");
}

#[test]
fn a_wrong_unit_is_told_with_the_right_one() {
    added(
        "[storage]\nmemtable_mb = 32",
        "line 30: unknown setting storage.memtable_mb; did you mean memtable_mib, in MiB?",
    );
    added(
        "[storage]\nperiodic_interval_s = 1",
        "line 30: unknown setting storage.periodic_interval_s; did you mean periodic_interval_ms, \
         in milliseconds?",
    );
    added(
        "[clock]\noffset_bound_ms = \"5min\"",
        "line 30: clock.offset_bound_ms: write a whole number of milliseconds from 1 to 86400000, \
         not the text \"5min\"",
    );
}

#[test]
fn a_wrong_type_or_range_is_told_with_the_right_one() {
    wrong("id = \"n2\"", "id = 2", "line 2: node.id: write a text in quotes, not the number 2");
    wrong(
        "id = \"n2\"",
        "id = \"two\"",
        "line 2: node.id: \"two\" is not understood: \"two\" is not a node id: write n and a \
         number, such as n1",
    );
    added(
        "[limits]\nsiblings_max = 0",
        "line 30: limits.siblings_max: 0 is out of range: write a whole number from 1 to 1024",
    );
    added(
        "[limits]\nin_flight_max = 1.5",
        "line 30: limits.in_flight_max: write a whole number from 1 to 1000000, not the number 1.5",
    );
    added(
        "[limits]\nset_bytes_max = 1000",
        "line 30: limits.set_bytes_max: 1000 is less than value_bytes_max, 4194304",
    );
    added(
        "[storage]\ndurability = \"always\"",
        "line 30: storage.durability: \"always\" is none of \"group\", \"periodic\"",
    );
    added(
        "[log]\nlevel = \"inof\"",
        "line 30: log.level: \"inof\" is none of \"off\", \"error\", \"warn\", \"info\", \"debug\", \
         \"trace\"",
    );
    added(
        "[http]\nlisten = \"localhost:80\"",
        "line 30: http.listen: \"localhost:80\" is not an IP \
         address and a port, such as \"127.0.0.1:7101\"",
    );
    let section = minimal().replacen("[node]", "http = 3\n[node]", 1);
    assert_eq!(
        parse(&section).unwrap_err()[0].to_string(),
        "line 1: http is a section: write [http] on a line of its own"
    );
    wrong(
        "id = \"00",
        "vnodes = 1000\nid = \"00",
        "line 12: cluster.vnodes: 1000 virtual nodes: \
         choose a power of two from 1 to 65536",
    );
}

#[test]
fn what_is_missing_is_told_with_an_example() {
    wrong(
        "data_directory = \"data\"\n",
        "",
        "line 1: node.data_directory: is missing; write for example data_directory = \"data\"",
    );
    let problems = parse("").unwrap_err();
    assert!(problems.len() >= 6);
    let told = parse(&minimal().replace(&format!("id = \"{CLUSTER}\"\n"), "")).unwrap_err();
    assert_eq!(told.len(), 1);
    let told = told[0].to_string();
    assert!(told.contains("cluster.id: is not written, and the authority's certificate"), "{told}");
    assert!(told.contains("/srv/n2/authority.pem does not exist"), "{told}");
    assert!(problems.iter().all(|problem| problem.place == Place::Whole));
}

#[test]
fn a_node_listens_where_the_list_of_members_has_it() {
    let text = minimal().replacen("listen = \"127.0.0.1:7102\"\n", "", 1);
    let config = parse(&text).unwrap();
    assert_eq!(config.node.listen, "127.0.0.1:7102".parse().unwrap());
    assert_eq!(config.node.advertise, config.node.listen);
    assert_eq!(config.http.listen, "127.0.0.1:7202".parse().unwrap());
}

#[test]
fn the_authority_says_which_cluster_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let now = std::time::SystemTime::now();
    let authority = crate::authority::Authority::create(directory.path(), 1, now).unwrap();
    let path = directory.path().join("quoit.toml");
    std::fs::write(&path, minimal().replace(&format!("id = \"{CLUSTER}\"\n"), "")).unwrap();
    let config = Config::load(&path, &BTreeMap::new()).unwrap();
    assert_eq!(config.cluster.id, authority.cluster());
}

#[test]
fn the_members_are_read_alone_where_nothing_else_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("quoit.toml");
    std::fs::write(&path, "[[cluster.members]]\nid = \"n1\"\naddress = \"127.0.0.1:1\"").unwrap();
    let members = Config::load_members(&path).unwrap();
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [NodeId(1)]);
    std::fs::write(&path, "[[cluster.members]]\nid = \"n1\"\nadress = \"127.0.0.1:1\"").unwrap();
    let error = Config::load_members(&path).unwrap_err().to_string();
    assert!(error.contains("did you mean address?"), "{error}");
}

#[test]
fn addresses_that_others_cannot_reach_are_refused() {
    let text = minimal().replacen("listen = \"127.0.0.1:7102\"", "listen = \"0.0.0.0:7102\"", 1);
    let told = parse(&text).unwrap_err();
    assert!(told[0].to_string().contains("node.advertise: others cannot reach"), "{}", told[0]);
    let reachable = text.replacen("[tls]", "advertise = \"127.0.0.1:7102\"\n[tls]", 1);
    parse(&reachable).unwrap();
    wrong(
        "7102\"\n\n[tls]",
        "0\"\n\n[tls]",
        "line 4: node.listen: \"127.0.0.1:0\" has port 0, \
         which others cannot know",
    );
}

#[test]
fn data_is_not_given_to_whoever_comes() {
    let guarded = "certificate = \"a\"\nkey = \"b\"\n";
    added(
        "[http]\nlisten = \"192.0.2.1:80\"\ndata = true\ntoken_file = \"tokens\"",
        "line 30: http.listen: 192.0.2.1:80 is reached from other hosts, and with http.data = true \
         whoever reaches it has the data: set http.certificate and http.key, and \
         http.client_authority or http.token_file, or listen on 127.0.0.1",
    );
    for who in ["token_file", "client_authority"] {
        let http =
            format!("[http]\nlisten = \"0.0.0.0:80\"\ndata = true\n{guarded}{who} = \"c\"\n");
        parse(&format!("{}{http}", minimal())).unwrap();
    }
    for listen in ["127.0.0.1:80", "[::1]:80"] {
        let http = format!("[http]\nlisten = \"{listen}\"\ndata = true\n");
        parse(&format!("{}{http}", minimal())).unwrap();
    }
    let open = parse(&format!("{}[http]\nlisten = \"0.0.0.0:80\"\n", minimal())).unwrap();
    assert!(!open.http.page && parse(&minimal()).unwrap().http.page);
    added(
        "[http]\nlisten = \"192.0.2.1:80\"\npage = true",
        "line 30: http.listen: 192.0.2.1:80 is reached from other hosts, and with http.page = true \
         whoever reaches it sees the cluster, and some of its keys: set http.certificate and http.key, \
         and http.client_authority or http.token_file, or listen on 127.0.0.1",
    );
}

#[test]
fn what_does_not_go_together_for_http_is_told() {
    added("[http]\nkey = \"b\"", "line 30: http.key: needs http.certificate beside it");
    added(
        "[http]\ndata = true\nclient_authority = \"a\"",
        "line 31: http.client_authority: clients show certificates by HTTPS only: set \
         http.certificate and http.key too",
    );
    added(
        "[http]\npage = false\ntoken_file = \"a\"",
        "line 31: http.token_file: protects only data and the page, which are not served: set \
         http.data or http.page = true too",
    );
    added(
        "[http]\ndata = \"yes\"",
        "line 30: http.data: write true or false, not the text \"yes\"",
    );
    assert!(with(&[("QUOIT_HTTP_DATA", "true")]).unwrap().http.data);
    assert!(with(&[("QUOIT_HTTP_DATA", "on")]).is_err());
}

#[test]
fn the_members_are_checked_together() {
    wrong("id = \"n3\"", "id = \"n1\"", "line 14: cluster.members: n1 is listed twice");
    wrong("7103", "7101", "line 14: cluster.members: two members have the address 127.0.0.1:7101");
    wrong(
        "id = \"n2\"",
        "id = \"n9\"",
        "line 14: cluster.members: this node, n9, is not among them: add it, on all members alike",
    );
    wrong(
        "listen = \"127.0.0.1:7102\"",
        "listen = \"127.0.0.1:7109\"",
        "line 14: cluster.members: n2 has the address 127.0.0.1:7102 there, but node.advertise (or \
         node.listen) says 127.0.0.1:7109",
    );
    wrong(
        "id = \"00",
        "replication = 4\nid = \"00",
        "line 12: cluster.replication: 4 replicas need \
         as many members, and the list has 3",
    );
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    let problems = parse("[node]\nid = \n").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].place, Place::Line(2));
}

#[test]
fn a_file_is_read_and_named_in_its_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("quoit.toml");
    let error = Config::load(&path, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("quoit.toml cannot be read"), "{error}");
    std::fs::write(&path, "[node]\nid = 3\nport = 1\n").unwrap();
    let error = Config::load(&path, &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("quoit.toml is wrong:\n  line 1: "), "{error}");
    assert!(error.contains("\n  line 2: node.id"), "{error}");
    std::fs::write(&path, minimal()).unwrap();
    let config = Config::load(&path, &BTreeMap::new()).unwrap();
    assert_eq!(config.node.data_directory, directory.path().join("data"));
}

/// The file that the package installs.
const PACKAGED: &str = include_str!("../../systemd/quoit.toml");

#[test]
fn the_packaged_file_shows_every_setting_with_its_default() {
    let set_by_unit = [
        ("QUOIT_NODE_ID", "n1"),
        ("QUOIT_NODE_DATA_DIRECTORY", "/var/lib/quoit/node"),
        ("QUOIT_TLS_AUTHORITY", "n1/authority.pem"),
        ("QUOIT_TLS_CERTIFICATE", "n1/node.pem"),
        ("QUOIT_TLS_KEY", "n1/node.key"),
        ("QUOIT_CLUSTER_ID", CLUSTER),
    ];
    let environment = set_by_unit.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let directory = Path::new("/etc/quoit");
    let usual = Config::parse(PACKAGED, directory, &environment).unwrap();

    let is_setting = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| key.chars().all(|c| c == '_' || c.is_ascii_lowercase()))
    };
    let mut shown = String::new();
    for line in PACKAGED.lines() {
        let setting = line.strip_prefix('#').filter(|rest| is_setting(rest));
        let _ = writeln!(shown, "{}", setting.unwrap_or(line));
    }
    let mut written = Config::parse(&shown, directory, &BTreeMap::new()).unwrap();
    written.overrides.clone_from(&usual.overrides);
    assert_eq!(written, usual, "a value that is shown is not the default");

    // For tests only.
    let unlisted = ["offset_ms"];
    for line in usual.to_toml().lines().filter(|line| is_setting(line)) {
        let key = line.split(" = ").next().unwrap();
        let is_shown = shown.lines().any(|shown| shown.starts_with(&format!("{key} = ")));
        assert!(is_shown || unlisted.contains(&key), "{key} is not in the packaged file");
    }
}

#[test]
fn roles_are_read_and_written_again() {
    let text = format!(
        "{}\n[access]\ndefault_role = \"read-only\"\n[[access.clients]]\nname = \"shop\"\nrole = \
         \"read-write\"\ntables = [\"carts\", \"orders\"]\n[[access.clients]]\nname = \"shop\"\nrole = \
         \"read-only\"\n[audit]\nfile = \"a/log\"\n",
        minimal()
    );
    let config = parse(&text).unwrap();
    assert_eq!(parse(&config.to_toml()).unwrap(), config);
    let rights = config.access.rules(false).rights_by_name("shop", None);
    assert_eq!(rights.role_in("carts"), Role::ReadWrite);
    assert_eq!(rights.role_in("salaries"), Role::ReadOnly);
    // What a certificate gives does not count beside it, and counts before the default.
    let own = [Grant { role: Role::Admin, tables: Vec::new() }];
    let rules = config.access.rules(false);
    assert_eq!(rules.rights_by_name("shop", Some(&own)).role_in("salaries"), Role::ReadOnly);
    assert_eq!(rules.rights_by_name("till", Some(&own)).role_in("salaries"), Role::Admin);
    assert_eq!(rules.rights_by_name("till", Some(&[])).role_in("salaries"), Role::None);
    assert_eq!(rules.rights_by_name("till", None).role_in("salaries"), Role::ReadOnly);

    // Nobody may anything where other hosts reach a member, unless it is written.
    let usual = parse(&minimal()).unwrap();
    let role = |config: &Config| {
        config.access.rules(config.is_local()).rights_by_name("till", None).role_in("carts")
    };
    assert_eq!(role(&usual), Role::Admin);
    let text = minimal().replace("127.0.0.1:7103", "192.0.2.3:7103");
    assert_eq!(role(&parse(&text).unwrap()), Role::None);

    let says = |lines: &str, expected: &str| {
        let told = parse(&format!("{}\n{lines}\n", minimal())).unwrap_err();
        assert!(told.len() == 1 && told[0].to_string().contains(expected), "{told:?}");
    };
    says("[access]\ndefault_role = \"root\"", "access.default_role: \"root\" is not understood");
    let client = |lines: &str| format!("[[access.clients]]\nname = \"shop\"\n{lines}");
    says(&client(""), "access.clients.role: is missing");
    says(&client("role = \"admin\"\ntables = \"carts\""), "write a list of texts");
    says(&client("role = \"admin\"\ntables = []"), "leave it out");
    says(&client("role = \"admin\"\ntable = [\"t\"]"), "did you mean tables?");
}
