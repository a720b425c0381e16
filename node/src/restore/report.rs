//! What a restore has come to.

use std::collections::BTreeMap;

use quoit_cli::{CommandError, Output, bytes_text, count_text, note, rate};
use quoit_ring::{Table, TableId};
use serde_json::json;

use super::folders::Folders;
use super::merge::Passed;
use super::write::Tally;

/// Gathered on the way, shown at the end.
pub(super) struct Report {
    snapshot: String,
    nodes: Vec<String>,
    files: u64,
    file_bytes: u64,
    pub(super) tables: Vec<Table>,
    into: Option<String>,
    pub(super) tallies: BTreeMap<TableId, Tally>,
    pub(super) passed: Passed,
    pub(super) deleted: u64,
    pub(super) seconds: f64,
    /// A table was made.
    pub(super) created: bool,
    /// Nothing was written.
    pub(super) is_dry: bool,
}

impl Report {
    pub(super) fn new(folders: &Folders, tables: Vec<Table>, into: Option<&str>) -> Self {
        let (files, file_bytes) = folders.size();
        Self {
            snapshot: folders.name(),
            nodes: folders.nodes().iter().map(ToString::to_string).collect(),
            files,
            file_bytes,
            tables,
            into: into.map(str::to_owned),
            tallies: BTreeMap::new(),
            passed: Passed::default(),
            deleted: 0,
            seconds: 0.0,
            created: false,
            is_dry: false,
        }
    }

    fn tally(&self, table: &Table) -> Tally {
        self.tallies.get(&table.id).copied().unwrap_or_default()
    }

    fn target<'a>(&'a self, table: &'a Table) -> &'a str {
        self.into.as_deref().unwrap_or(&table.name)
    }

    /// Tells what was restored, and how it ended.
    pub(super) fn show(
        &self,
        result: Result<(), CommandError>,
        output: Output,
    ) -> Result<(), CommandError> {
        if output.is_json() {
            output.json(&self.json(result.is_ok()))?;
        } else {
            output.text(&self.text())?;
        }
        result.map_err(|error| {
            error.advised("the restore may be repeated: what is restored already is left as it is")
        })?;
        if self.passed.lost > 0 {
            return Err(CommandError::NotDone(format!(
                "{} keys had a value that is damaged in every folder: it is not restored",
                count_text(self.passed.lost)
            )));
        }
        Ok(())
    }

    fn text(&self) -> String {
        let Passed { gone, damaged, .. } = self.passed;
        let mut text = format!(
            "snapshot {} of {}: {} files, {}, verified\n",
            self.snapshot,
            self.nodes.join(", "),
            count_text(self.files),
            bytes_text(self.file_bytes)
        );
        for table in &self.tables {
            let Tally { keys, values, bytes, same } = self.tally(table);
            let values = match values == keys {
                true => String::new(),
                false => format!(" with {} values", count_text(values)),
            };
            let target = self.target(table);
            text.push_str(&match self.is_dry {
                true => format!(
                    "{}: {} keys{values}, {}, would be restored\n",
                    table.name,
                    count_text(keys),
                    bytes_text(bytes)
                ),
                false => format!(
                    "{target}: {} keys{values}, {}; {} written, {} were as they had been\n",
                    count_text(keys),
                    bytes_text(bytes),
                    count_text(keys - same),
                    count_text(same)
                ),
            });
        }
        if gone > 0 {
            text.push_str(&format!("{} keys deleted or expired: left out\n", count_text(gone)));
        }
        if self.deleted > 0 {
            text.push_str(&format!(
                "{} keys that the snapshot does not hold deleted\n",
                count_text(self.deleted)
            ));
        }
        if damaged > 0 {
            note(&format!(
                "{} records were damaged on their nodes before the snapshot: the other nodes' stand \
                 for them",
                count_text(damaged)
            ));
        }
        if !self.is_dry {
            let keys = self.tallies.values().map(|tally| tally.keys).sum();
            note(&format!(
                "{:.1} s, {} keys/s",
                self.seconds,
                count_text(rate(keys, self.seconds))
            ));
        }
        text
    }

    fn json(&self, complete: bool) -> serde_json::Value {
        let Passed { gone, lost, damaged } = self.passed;
        let tables = self.tables.iter().map(|table| {
            let Tally { keys, values, bytes, same } = self.tally(table);
            json!({
                "table": table.name,
                "into": self.target(table),
                "keys": keys,
                "values": values,
                "bytes": bytes,
                "unchanged": same,
            })
        });
        json!({
            "complete": complete,
            "dry_run": self.is_dry,
            "snapshot": self.snapshot,
            "nodes": self.nodes,
            "files": self.files,
            "file_bytes": self.file_bytes,
            "tables": tables.collect::<Vec<_>>(),
            "tables_made": self.created,
            "keys_gone": gone,
            "keys_deleted": self.deleted,
            "keys_lost": lost,
            "damaged_records": damaged,
            "seconds": self.seconds,
        })
    }
}
