//! The README's examples work as they are written.

use super::*;

const README: &str = include_str!("../../../README.md");
const END: &str = "-- end of an answer --";

/// The commands of a section, and what each prints.
fn examples(heading: &str) -> Vec<(String, String)> {
    let section = README.split(heading).nth(1).expect("the section is there");
    let section = section.split("\n## ").next().expect("it has an end");
    let mut examples: Vec<(String, String)> = Vec::new();
    for block in section.split("```console\n").skip(1) {
        let block = block.split("```").next().expect("it has an end");
        for line in block.lines() {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push((command.to_owned(), String::new())),
                (None, Some((command, _))) if command.ends_with('|') => {
                    command.push('\n');
                    command.push_str(line);
                }
                (None, Some((_, printed))) => printed.push_str(&format!("{line}\n")),
                (None, None) => panic!("the block does not begin with a command"),
            }
        }
    }
    examples
}

/// Whether a text is the expected one, where `...` stands for anything.
fn is_like(text: &str, expected: &str) -> bool {
    let mut parts = expected.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        (rest, last) = (after, Some(part));
    }
    match last {
        None => rest.is_empty(),
        Some(part) => rest.is_empty() || text.ends_with(part),
    }
}

#[tokio::test]
async fn the_examples_of_the_readme_print_what_it_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("there is no curl here: the README's examples were not tried");
        return;
    }
    let nodes = Nodes::start().await;
    let examples = examples("\n## Over HTTP\n");
    assert!(examples.len() > 8, "{examples:?}");
    let script: String =
        examples.iter().map(|(command, _)| format!("{command}\necho '{END}'\n")).collect();
    let script = script.replace("127.0.0.1:7201", &nodes.address(0).to_string());
    let printed = tokio::task::spawn_blocking(move || shell(&script)).await.expect("it ends");
    let printed: Vec<_> = printed.split(&format!("{END}\n")).collect();
    assert_eq!(printed.len(), examples.len() + 1, "{printed:?}");
    for ((command, expected), printed) in examples.iter().zip(printed) {
        // Documents and values have no line end of their own.
        let printed = printed.trim_end();
        let expected = expected.trim_end();
        assert!(is_like(printed, expected), "{command}\nprints {printed}\nand not {expected}");
    }
    nodes.stop().await;
}
