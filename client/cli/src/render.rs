//! Tables, sizes and counts as people read them.

use std::net::SocketAddr;

use comfy_table::{CellAlignment, Table, presets};
use quoit_ring::{ClusterRecord, NodeId, Zone};

/// One line of the table of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// The node.
    pub id: NodeId,
    /// Where peers and clients reach it.
    pub address: SocketAddr,
    /// Where it stands.
    pub zone: Zone,
    /// How many virtual nodes it is an owner of.
    pub vnodes_owned: usize,
    /// What it does, in a word or a few.
    pub state: String,
}

/// A row for each member of a record, its state given by `state`.
pub fn node_rows(record: &ClusterRecord, state: impl Fn(NodeId) -> String) -> Vec<NodeRow> {
    record
        .members
        .iter()
        .map(|member| NodeRow {
            id: member.id,
            address: member.address,
            zone: member.zone.clone(),
            vnodes_owned: record.owned_vnodes(member.id),
            state: state(member.id),
        })
        .collect()
}

/// The table of nodes: id, address, zone, vnodes owned, state. Ends with a line end.
pub fn render_nodes_table(rows: &[NodeRow]) -> String {
    let mut table = Grid::new(&["NODE", "ADDRESS", "ZONE", "VNODES", "STATE"], &[3]);
    for row in rows {
        table.row([
            row.id.to_string(),
            row.address.to_string(),
            row.zone.to_string(),
            row.vnodes_owned.to_string(),
            row.state.clone(),
        ]);
    }
    table.render()
}

/// A table without lines: columns that fit their content, a heading in capitals.
pub(crate) struct Grid {
    table: Table,
}

impl Grid {
    /// A table with headings; the columns in `numeric` are aligned to the right.
    pub(crate) fn new(headings: &[&str], numeric: &[usize]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(headings.iter().copied());
        for &column in numeric {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table }
    }

    /// Adds a row of as many cells as there are headings.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.table.add_row(cells);
    }

    /// The table's lines, without the blank that each cell begins with and those at the end.
    pub(crate) fn render(&self) -> String {
        let lines = self.table.lines();
        lines
            .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end()))
            .collect()
    }
}

/// A count with its thousands set apart: `34,924`.
pub fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves at least one: `1.5 MiB`.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    // 1023.95 and more would be shown as 1024.0.
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long something runs, in its two largest units: `3d4h`, `5m12s`, `0s`.
pub(crate) fn uptime_text(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// Names in a sentence: `n1`, `n1 and n3`, `n1, n2 and n3`.
pub(crate) fn list_text(nodes: &[NodeId]) -> String {
    let names: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
    match names.as_slice() {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_table_is_golden() {
        let row = |id, state: &str| NodeRow {
            id: NodeId(id),
            address: SocketAddr::from(([127, 0, 0, 1], 7_400 + u16::try_from(id).expect("small"))),
            zone: Zone { datacenter: "local".into(), rack: format!("rack{id}") },
            vnodes_owned: 1_024,
            state: state.into(),
        };
        assert_eq!(
            render_nodes_table(&[row(1, "serving"), row(12, "down")]),
            "NODE  ADDRESS         ZONE          VNODES  STATE\n\
             n1    127.0.0.1:7401  local/rack1     1024  serving\n\
             n12   127.0.0.1:7412  local/rack12    1024  down\n"
        );
    }

    #[test]
    fn figures_are_short_and_right() {
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count_text(count), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
        for (milliseconds, text) in
            [(900, "0s"), (65_000, "1m5s"), (7_260_000, "2h1m"), (90_000_000, "1d1h")]
        {
            assert_eq!(uptime_text(milliseconds), text);
        }
        assert_eq!(list_text(&[NodeId(1), NodeId(2), NodeId(3)]), "n1, n2 and n3");
    }
}
