//! The tables of `quoit top`: what is in their columns, for the terminal and for plain text alike.

use quoit_protocol::activity::{OperationActivity, ShownKey};

use crate::picture::Picture;
use crate::render::{bytes_text, count_text, uptime_text};

/// A key takes no more columns on a screen.
const KEY_WIDTH_MAX: usize = 40;

/// What one table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Nodes,
    Operations,
    HotKeys,
    LargeSets,
    SlowKeys,
    Repair,
}

/// A table: a row's cells are as many as the headings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) headings: &'static [&'static str],
    /// Columns of numbers, which are aligned to the right.
    pub(super) numeric: &'static [usize],
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A cell, and what it is sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) rank: Rank,
}

/// Numbers come before texts, and what is not known after both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Number(u64),
    Text(String),
    Unknown,
}

impl Pane {
    pub(super) const ALL: [Self; 6] = [
        Self::Nodes,
        Self::Operations,
        Self::HotKeys,
        Self::LargeSets,
        Self::SlowKeys,
        Self::Repair,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Operations => "operations",
            Self::HotKeys => "hot keys",
            Self::LargeSets => "sibling sets",
            Self::SlowKeys => "slow keys",
            Self::Repair => "hints and repair",
        }
    }

    /// What is said where the table is empty.
    pub(super) fn nothing(self) -> &'static str {
        match self {
            Self::Nodes => "no node has answered",
            Self::Operations => "nothing was asked of late",
            Self::HotKeys => "no key is asked for often",
            Self::LargeSets => "no key that was met of late has several values",
            Self::SlowKeys => "no request took 10 ms in the last minute",
            Self::Repair => "no hints wait, and no comparison is under way",
        }
    }

    pub(super) fn rows(self, picture: &Picture) -> Rows {
        match self {
            Self::Nodes => nodes(picture),
            Self::Operations => operations(picture),
            Self::HotKeys => hot_keys(picture),
            Self::LargeSets => large_sets(picture),
            Self::SlowKeys => slow_keys(picture),
            Self::Repair => repair(picture),
        }
    }
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { rank: Rank::Text(text.clone()), text }
    }

    fn shown(number: u64, text: String) -> Self {
        Self { text, rank: Rank::Number(number) }
    }

    fn count(number: u64) -> Self {
        Self::shown(number, count_text(number))
    }

    fn bytes(number: u64) -> Self {
        Self::shown(number, bytes_text(number))
    }

    fn time(micros: u64) -> Self {
        Self::shown(micros, time_text(micros))
    }

    fn unknown() -> Self {
        Self { text: "-".into(), rank: Rank::Unknown }
    }

    fn maybe(number: Option<u64>, cell: impl Fn(u64) -> Self) -> Self {
        number.map_or_else(Self::unknown, cell)
    }
}

fn nodes(picture: &Picture) -> Rows {
    let record = picture.record();
    let row = |member: &quoit_ring::Member| {
        let status = picture.view.answers.get(&member.id);
        let measured = picture.measured(member.id);
        let rate = measured.map(|measured| {
            measured.operations.iter().map(|operation| operation.per_second).sum::<u64>()
        });
        let p99 = |name: &str| {
            measured
                .and_then(|measured| measured.operations.iter().find(|kind| kind.name == name))
                .map(|operation| operation.p99_us)
                .filter(|micros| *micros > 0)
        };
        vec![
            Cell::text(member.id.to_string()),
            Cell::text(member.zone.to_string()),
            Cell::text(picture.view.state(member.id)),
            Cell::maybe(rate, Cell::count),
            Cell::maybe(p99("get"), Cell::time),
            Cell::maybe(p99("put"), Cell::time),
            Cell::maybe(measured.map(|it| it.sync_p99_us).filter(|micros| *micros > 0), Cell::time),
            Cell::maybe(measured.map(|it| u64::from(it.busy_permille)), |permille| {
                Cell::shown(permille, format!("{} %", permille / 10))
            }),
            Cell::maybe(measured.map(|it| it.in_flight), Cell::count),
            Cell::maybe(measured.map(|it| it.resident_bytes).filter(|it| *it > 0), Cell::bytes),
            Cell::maybe(status.map(|status| status.storage.disk_bytes), Cell::bytes),
        ]
    };
    Rows {
        headings: &[
            "NODE",
            "ZONE",
            "STATE",
            "OPS/S",
            "GET P99",
            "PUT P99",
            "SYNC P99",
            "BUSY",
            "IN FLIGHT",
            "MEMORY",
            "DISK",
        ],
        numeric: &[3, 4, 5, 6, 7, 8, 9, 10],
        rows: record.members.iter().map(row).collect(),
    }
}

fn operations(picture: &Picture) -> Rows {
    let time = |micros: u64| Cell::maybe((micros > 0).then_some(micros), Cell::time);
    let row = |operation: &OperationActivity| {
        vec![
            Cell::text(operation.name.clone()),
            Cell::count(operation.per_second),
            Cell::count(operation.failed_per_second),
            time(operation.p50_us),
            time(operation.p99_us),
            time(operation.max_us),
        ]
    };
    Rows {
        headings: &["OPERATION", "DONE/S", "NOT DONE/S", "P50", "P99", "MAX"],
        numeric: &[1, 2, 3, 4, 5],
        rows: picture.operations.iter().map(row).collect(),
    }
}

fn hot_keys(picture: &Picture) -> Rows {
    let rows = picture.hot_keys.iter().map(|hot| {
        let nodes: Vec<_> = hot.nodes.iter().map(ToString::to_string).collect();
        vec![
            Cell::text(picture.table_name(&hot.key)),
            Cell::text(key_text(&hot.key)),
            Cell::count(hot.per_second),
            Cell::count(hot.writes_per_second),
            Cell::count(u64::from(hot.key.vnode.0)),
            Cell::text(nodes.join(" ")),
        ]
    });
    Rows {
        headings: &["TABLE", "KEY", "AT LEAST/S", "WRITES/S", "VNODE", "COORDINATED BY"],
        numeric: &[2, 3, 4],
        rows: rows.collect(),
    }
}

fn large_sets(picture: &Picture) -> Rows {
    let rows = picture.large_sets.iter().map(|set| {
        vec![
            Cell::text(picture.table_name(&set.key)),
            Cell::text(key_text(&set.key)),
            Cell::count(u64::from(set.siblings)),
            Cell::bytes(set.bytes),
            Cell::count(u64::from(set.key.vnode.0)),
            Cell::shown(set.age_ms, format!("{} ago", uptime_text(set.age_ms))),
        ]
    });
    Rows {
        headings: &["TABLE", "KEY", "SIBLINGS", "BYTES", "VNODE", "MET"],
        numeric: &[2, 3, 4, 5],
        rows: rows.collect(),
    }
}

fn slow_keys(picture: &Picture) -> Rows {
    let rows = picture.slow_keys.iter().map(|row| {
        vec![
            Cell::text(picture.table_name(&row.slow.key)),
            Cell::text(key_text(&row.slow.key)),
            Cell::text(row.operation()),
            Cell::time(row.slow.took_us),
            Cell::shown(row.slow.age_ms, format!("{} ago", uptime_text(row.slow.age_ms))),
            Cell::text(row.node.to_string()),
        ]
    });
    Rows {
        headings: &["TABLE", "KEY", "OPERATION", "TOOK", "ENDED", "COORDINATED BY"],
        numeric: &[3, 4],
        rows: rows.collect(),
    }
}

fn repair(picture: &Picture) -> Rows {
    let mut rows = Vec::new();
    for (node, status) in &picture.view.answers {
        for hints in &status.hints {
            rows.push(vec![
                Cell::text("hints"),
                Cell::text(node.to_string()),
                Cell::text(hints.target.to_string()),
                Cell::count(hints.number),
                Cell::bytes(hints.bytes),
                Cell::shown(hints.per_second, format!("{}/s", count_text(hints.per_second))),
            ]);
        }
        let exchanges = status.activity.iter().flat_map(|activity| &activity.exchanges);
        for exchange in exchanges {
            let Some(running) = exchange.running else { continue };
            let done = running.vnodes.saturating_sub(running.left);
            rows.push(vec![
                Cell::text("comparison"),
                Cell::text(node.to_string()),
                Cell::text(exchange.peer.to_string()),
                Cell::count(running.keys),
                Cell::bytes(running.bytes),
                Cell::shown(u64::from(done), format!("{done} of {} vnodes", running.vnodes)),
            ]);
        }
    }
    Rows {
        headings: &["WHAT", "BY", "WITH", "KEYS", "BYTES", "PROGRESS"],
        numeric: &[3, 4, 5],
        rows,
    }
}

/// Microseconds, in three digits or so.
pub(super) fn time_text(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..10_000 => format!("{:.2} ms", micros as f64 / 1_000.0),
        10_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1_000.0),
        _ => format!("{:.1} s", micros as f64 / 1_000_000.0),
    }
}

/// A key on a terminal: what would move its cursor, or is no text, is written as an escape.
fn key_text(key: &ShownKey) -> String {
    let part = |bytes: &[u8]| {
        let mut text = String::new();
        for chunk in bytes.utf8_chunks() {
            for letter in chunk.valid().chars() {
                match letter {
                    ' '..='~' => text.push(letter),
                    _ if letter.is_alphanumeric() => text.push(letter),
                    _ => text.extend(letter.escape_default()),
                }
            }
            text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        }
        text
    };
    let mut text = part(&key.key.partition);
    if !key.key.sort.is_empty() {
        text = format!("{text} / {}", part(&key.key.sort));
    }
    if key.is_cut || text.chars().count() > KEY_WIDTH_MAX {
        text = text.chars().take(KEY_WIDTH_MAX - 3).chain("...".chars()).collect();
    }
    text
}

#[cfg(test)]
mod tests {
    use quoit_ring::{TableId, VnodeIndex};

    use super::*;

    #[test]
    fn keys_do_nothing_to_a_terminal() {
        let text = |partition: &[u8], sort: &[u8]| {
            key_text(&ShownKey::new(TableId(1), VnodeIndex(0), partition, sort))
        };
        assert_eq!(text(b"\x1b[2Jalice\n\xff", b""), "\\u{1b}[2Jalice\\n\\xff");
        assert_eq!(text("käse".as_bytes(), b"1"), "käse / 1");
        // What turns text round, or takes no room, is no letter.
        assert_eq!(text("a\u{202e}b\u{200b}".as_bytes(), b""), "a\\u{202e}b\\u{200b}");
        assert_eq!(text(&[b'x'; 200], b"").len(), KEY_WIDTH_MAX);
    }

    #[test]
    fn times_are_short() {
        for (micros, text) in
            [(7, "7 us"), (1_234, "1.23 ms"), (12_345, "12 ms"), (1_500_000, "1.5 s")]
        {
            assert_eq!(time_text(micros), text);
        }
    }
}
