//! The command line, as the program sees it.

use clap::{CommandFactory, Parser};
use proptest::prelude::*;

use super::*;
use crate::export::sorter::{Line, Sorter};
use crate::import::columns::KeyFinder;
use crate::import::reader::{FromReader, Reader};
use crate::import::records::RecordCutter;

#[derive(Debug, Parser)]
#[command(name = "quoit")]
struct Program {
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(subcommand)]
    command: ProgramCommand,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum ProgramCommand {
    /// Runs a node.
    Serve,
    #[command(flatten)]
    Client(ClientCommand),
}

fn parse(line: &str) -> Result<Program, clap::Error> {
    Program::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Program::command().debug_assert();
}

#[test]
fn the_lines_of_the_readme_parse() {
    for line in [
        "quoit put t k v",
        "quoit put t k",
        "quoit put t k -",
        "quoit put t k --file path --ttl 1h30m --w 2 --r all",
        "quoit put t k v --sort s --level quorum --context 00ff --json",
        "quoit put t k v --blind --timeout-ms 100",
        "quoit --json --client dir get t k --r one",
        "quoit get t k --level each-quorum",
        "quoit delete t k --sort s --w 3",
        "quoit scan t k --from a --to b --limit 10",
        "quoit tables",
        "quoit tables list --json",
        "quoit tables create t --n 3 --r one --w all --policy siblings --ttl 90s",
        "quoit tables drop t --yes",
        "quoit import --table unicode --format csv --delimiter ; --key 1 UnicodeData.txt",
        "quoit import --table t --key id --on-error count --in-flight 64 --create lines.jsonl",
        "quoit import --table t --key name --header --sort 2 --no-quote -",
        "quoit export --table t --format jsonl --output out --order key --memory-mib 64",
        "quoit bench --workload a --distribution zipfian --keys 10 --value-bytes 1 --seconds 2",
        "quoit bench --workload put --operations 100 --load --seed 7 --w 1 --threads 2",
        "quoit bench --workload e --rate 500 --arrivals uniform --backlog 10 --partition-items 50",
        "quoit bench --workload d --processes 2 --repeat 3 --warm-up 0 --output results --value-size 9",
        "quoit bench compare a.json b.json c.json --json",
        "quoit status --json",
        "quoit ring --vnodes",
        "quoit serve",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_lines_are_refused_with_a_reason() {
    for (line, reason) in [
        ("quoit put t k v --ttl 90", "needs a unit after 90"),
        ("quoit put t k v --ttl 0s", "at least 1ms"),
        ("quoit put t k v --file path", "cannot be used with"),
        ("quoit put t k v --blind --context 00", "cannot be used with"),
        ("quoit put t k v --context 0g", "hexadecimal"),
        ("quoit get t k --r most", "is not a level"),
        ("quoit get t k --w 2", "unexpected argument"),
        ("quoit put t k v --level one --w 2", "cannot be used with"),
        ("quoit tables create t --policy last", "is not a conflict policy"),
        ("quoit tables create t --n 0", "0 is not in 1.."),
        ("quoit import --table t file", "--key"),
        ("quoit import --table t --key 1 --delimiter ;; file", "cannot delimit columns"),
        ("quoit bench --workload a --in-flight 0", "0 is not in 1.."),
        ("quoit bench", "--workload"),
        ("quoit bench --workload gett", "a similar value exists: 'get'"),
        ("quoit bench --workload a --rate 0", "0 is not in 1.."),
        ("quoit bench --workload a --rate 99999999999", "is not in 1..=10000000"),
        ("quoit bench --workload a --rate 5 --operations 9", "cannot be used with"),
        ("quoit bench --workload a --backlog 5", "--rate"),
        ("quoit bench --workload a --keys 0", "0 is not in 1.."),
        ("quoit bench --workload a compare a.json b.json", "cannot be used with"),
        ("quoit bench compare a.json", "OTHER.json"),
        ("quoit status --timeout-ms 0", "0 is not in 1.."),
    ] {
        let error = parse(line).expect_err(line).to_string();
        assert!(error.contains(reason), "{line}: {error}");
    }
}

#[test]
fn every_command_says_what_it_does() {
    let program = Program::command();
    for (name, about) in [
        ("put", "Write a value"),
        ("get", "Read a value"),
        ("delete", "Delete a key"),
        ("scan", "List the items of one key"),
        ("tables", "List tables"),
        ("import", "Store every line of a file"),
        ("export", "Write a whole table"),
        ("bench", "Measure reads and writes"),
        ("status", "Show every node's state"),
        ("ring", "Show who owns how much"),
        ("serve", "Runs a node"),
    ] {
        let command = program.find_subcommand(name).expect("it is a subcommand");
        let found = command.get_about().expect("it says what it does").to_string();
        assert!(found.starts_with(about), "{name}: {found}");
    }
}

#[test]
fn a_missing_directory_is_bad_input_that_names_the_file() {
    let program = parse("quoit --client no/such/directory status").expect("a good line");
    let ProgramCommand::Client(command) = &program.command else { panic!("a client's command") };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let error = runtime.block_on(execute(command, &program.connection)).expect_err("it is missing");
    assert!(matches!(error, CommandError::BadInput(_)));
    let text = error.to_string();
    assert!(text.starts_with("no/such/directory/client.toml cannot be read: "), "{text}");
    assert!(text.contains("--client"), "{text}");
}

/// What an import stores of a file and an export in the order that the import names writes of it;
/// `None` where the import names no order.
fn there_and_back(file: &[u8]) -> Option<Vec<u8>> {
    let input: Box<dyn std::io::Read + Send> = Box::new(std::io::Cursor::new(file.to_vec()));
    let cutter = RecordCutter::new(input, Some(b';'), 1 << 20);
    let finder = KeyFinder::Csv { delimiter: b';', quoting: true, key: 0, sort: None };
    let mut receiver = Reader::new(cutter, finder, 4_096).start();
    let (mut stored, mut end) = (Vec::new(), None);
    while let Some(message) = receiver.blocking_recv() {
        match message {
            FromReader::Rows(rows) => stored.extend(rows),
            FromReader::End(found) => end = Some(found),
            FromReader::Failed(error) => panic!("memory reads: {error}"),
        }
    }
    let end = end.expect("the file ends");
    let mut sorter = Sorter::new(end.restoring?, 4_096);
    // The ring scatters the keys; backwards is as good a disorder as any.
    for row in stored.into_iter().rev() {
        let (key, value) = row.item.expect("good lines");
        let (partition, sort) = (key.partition.to_vec(), key.sort.to_vec());
        sorter.push(Line { partition, sort, text: value.to_vec() }).expect("temporary files work");
    }
    let mut exported = Vec::new();
    sorter
        .finish(|line| {
            exported.extend_from_slice(&line.text);
            exported.push(b'\n');
            Ok(())
        })
        .expect("temporary files work");
    if end.last_line_is_open {
        exported.pop();
    }
    Some(exported)
}

#[test]
fn a_file_like_unicode_data_comes_back_byte_for_byte() {
    let code_points = (0..0x11_0000u32).step_by(97);
    let file: String =
        code_points.map(|code| format!("{code:04X};NAME OF {code};Lu;0;;\n")).collect();
    assert_eq!(there_and_back(file.as_bytes()).as_deref(), Some(file.as_bytes()));
}

proptest! {
    #[test]
    fn a_file_of_ascending_keys_comes_back_byte_for_byte(
        keys in prop::collection::btree_set("[a-c1-3]{1,3}", 1..40),
        rest in "[a \\r\u{e9}]{0,3}",
        quoted in "(|\"x\n;y\"\r?)",
        is_open: bool,
    ) {
        let lines: Vec<_> = keys.iter().map(|key| format!("{key};{rest};{quoted}")).collect();
        let mut file = lines.join("\n");
        if !is_open {
            file.push('\n');
        }
        let back = there_and_back(file.as_bytes());
        prop_assert_eq!(back.as_deref(), Some(file.as_bytes()));
    }
}
