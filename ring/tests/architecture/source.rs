//! A cheap look for impure words in Rust sources: comments and literals are taken out, imports are
//! spelt out, and what is left is compared word by word. It is no parser and can be outwitted on
//! purpose; `clippy.toml` and the manifests ban the same things in their own ways.

/// What no pure source has, as words in a row.
const BANNED: [&str; 14] = [
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "std::time::Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "tokio",
    "async",
    "static mut",
];

/// Modules that hold both pure and impure things: to be imported item by item, so that this check
/// sees which.
const BY_ITEM: [&str; 3] = ["std::time", "std::net", "std"];

/// The banned things in a source, each with the number of its line; empty for a pure one.
pub(super) fn impurities(source: &str) -> Vec<String> {
    let code = without_comments_and_literals(source);
    let mut found = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        let hits = BANNED.iter().filter(|banned| has_words(&words(line), &words(banned)));
        found.extend(hits.map(|banned| format!("line {number}: {banned}")));
    }
    for path in imports(&words(&code)) {
        let hits = BANNED.iter().filter(|banned| has_words(&words(&path), &words(banned)));
        found.extend(hits.map(|banned| format!("imported: {banned}")));
        let module = path.trim_end_matches("::*").trim_end_matches("::self");
        if BY_ITEM.contains(&module) {
            found.push(format!("imported: all of {module}; name the items instead"));
        }
    }
    found
}

/// Cuts a text into names and single signs, without the space between.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut in_name = false;
    for sign in text.chars() {
        let of_name = sign.is_alphanumeric() || sign == '_';
        match words.last_mut() {
            Some(word) if in_name && of_name => word.push(sign),
            _ if !sign.is_whitespace() => words.push(sign.to_string()),
            _ => {}
        }
        in_name = of_name;
    }
    words
}

fn has_words(words: &[String], wanted: &[String]) -> bool {
    words.windows(wanted.len()).any(|window| window == wanted)
}

/// The full paths of all imports: `use a::{b, c::d};` is `a::b` and `a::c::d`.
fn imports(words: &[String]) -> Vec<String> {
    let mut paths = Vec::new();
    for start in words.iter().enumerate().filter(|(_, word)| *word == "use").map(|(at, _)| at + 1) {
        let end = words[start..].iter().position(|word| word == ";");
        let end = end.map_or(words.len(), |length| start + length);
        spell_out("", &words[start..end], &mut paths);
    }
    paths
}

fn spell_out(prefix: &str, tree: &[String], paths: &mut Vec<String>) {
    let mut path = prefix.to_owned();
    let mut at = 0;
    while at < tree.len() {
        match tree[at].as_str() {
            "{" => {
                let end = closing(tree, at);
                spell_out(&path, &tree[at + 1..end], paths);
                path.clear();
                at = end;
            }
            "," => {
                paths.push(std::mem::replace(&mut path, prefix.to_owned()));
            }
            "as" => at += 1,
            word => path.push_str(word),
        }
        at += 1;
    }
    if path != prefix {
        paths.push(path);
    }
}

/// Where the brace at `open` is closed.
fn closing(tree: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, word) in tree.iter().enumerate().skip(open) {
        match word.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tree.len()
}

/// The source with every comment, text and character literal left out; lines stay lines.
fn without_comments_and_literals(source: &str) -> String {
    let mut code = String::new();
    let mut rest = source;
    while let Some(sign) = rest.chars().next() {
        let skipped = literal_or_comment(rest, code.chars().next_back());
        if skipped == 0 {
            code.push(sign);
            rest = &rest[sign.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|&sign| sign == '\n'));
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of the comment or literal that a text begins with, 0 if it begins with neither.
fn literal_or_comment(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    let in_name = before.is_some_and(|sign| sign.is_alphanumeric() || sign == '_');
    if text.starts_with('r') && (!in_name || before == Some('b')) {
        let fence = text[1..].len() - text[1..].trim_start_matches('#').len();
        if text[1 + fence..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(fence));
            let from = fence + 2;
            return text[from..].find(&end).map_or(text.len(), |at| from + at + end.len());
        }
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    // A quotation mark also begins a lifetime, which has no second one after one sign.
    let mut signs = text.chars();
    match (signs.next(), signs.next(), signs.next()) {
        (Some('\''), Some('\\'), _) | (Some('\''), Some(_), Some('\'')) => quoted(text, '\''),
        _ => 0,
    }
}

fn quoted(text: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, sign) in text.char_indices().skip(1) {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if sign == mark => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

#[test]
fn planted_impurities_are_found() {
    for planted in [
        "fn f() { std::fs::read(\"x\"); }",
        "use std::thread;",
        "use std::{cmp, thread};",
        "use std::{collections::{BTreeMap, HashMap}, fmt};",
        "use std::{\n    time::{Duration, Instant},\n};",
        "use std::{time::{self, Duration}};",
        "use std::time;",
        "use std::net::*;",
        "use std as pure;",
        "use std::net::{SocketAddr, UdpSocket};",
        "fn f(c: char) -> std::time::SystemTime { match c { '\"' => todo!(), _ => todo!() } }",
        "fn f<'a>(x: &'a str) { tokio::spawn(x) }",
        "let t = \"// no comment\"; let m = HashSet::new();",
        "let t = r#\"a \" quote\"#; let m = std::env::var(t);",
        "/* a /* nested */ comment */ async fn f() {}",
        "let b = b'\\''; let m: HashMap<u8, u8>;",
        "pub static mut COUNT: u8 = 0;",
    ] {
        assert!(!impurities(planted).is_empty(), "nothing was found in {planted}");
    }
}

#[test]
fn pure_sources_are_left_alone() {
    for pure in [
        "// std::fs and HashMap\nfn f() {}",
        "//! tokio\n/* async /* SystemTime */ HashSet */ fn f() {}",
        "let t = \"std::thread \\\" HashMap\"; let r = br##\"tokio \"# async\"##;",
        "use std::net::{IpAddr, SocketAddr};\nuse std::{fmt, time::Duration};",
        "struct Instant(u64); fn handle(now: Instant, tokio_like: u8) {}",
        "fn f<'a>(x: &'a str) -> char { 'a' } // SystemTime",
        "use std::fmt::{self as format};",
    ] {
        assert_eq!(impurities(pure), Vec::<String>::new(), "in {pure}");
    }
}

#[test]
fn a_finding_names_its_line() {
    assert_eq!(impurities("/* one\ntwo */\nfn f(m: HashMap<u8, u8>) {}"), ["line 3: HashMap"]);
}
