//! `quoit import`: every record of a file becomes an item.
//!
//! The key is a column's or a field's bytes; the value is the whole record, byte for byte, without
//! its line end. So an export gives the same lines. A thread reads and cuts the file, one loop
//! writes with a bounded number of rows and bytes in flight.

pub(crate) mod columns;
pub(crate) mod reader;
pub(crate) mod records;
mod writer;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use quoit_client::{Client, Table, TableError};
use serde_json::{Value, json};

use crate::arguments::{ConnectionOptions, LevelArguments};
use crate::failure::CommandError;
use crate::output::{Output, note};
use crate::progress::{Progress, rate};
use crate::render::{bytes_text, count_text};
use crate::tables::default_options;

pub use columns::{Column, ColumnError, Delimiter, ParseDelimiterError};

use columns::KeyFinder;
use reader::{FileEnd, Reader};
use records::RecordCutter;
use writer::{Tally, Writer};

/// The longest record: longer ones are malformed whatever the cluster takes.
const RECORD_BYTES_MAX: usize = 16 << 20;
/// How long a row may take when nobody says otherwise: long enough for a node to be replaced in
/// the quorum by another, and for its retries.
const ROW_TIMEOUT: Duration = Duration::from_secs(30);

/// Store every line of a file, under a key that a column of it holds.
///
/// The value is the whole line as it is, so that `quoit export` gives the same lines. Repeating an
/// import does no harm. Of lines with the same key the last one stays.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// The file; '-' reads standard input.
    file: PathBuf,
    /// The table.
    #[arg(long, value_name = "NAME")]
    table: String,
    /// How the lines are read [default: jsonl for *.jsonl and *.ndjson, otherwise csv].
    #[arg(long)]
    format: Option<Format>,
    /// What stands between two columns: one character, or 'tab'.
    #[arg(long, value_name = "CHARACTER", default_value = ",")]
    delimiter: Delimiter,
    /// Which column holds the key: its number, from 1, or, with --header, its name; for jsonl the
    /// name of a field.
    #[arg(long, value_name = "COLUMN")]
    key: Column,
    /// Which column holds the sort key.
    #[arg(long, value_name = "COLUMN")]
    sort: Option<Column>,
    /// The first line names the columns and is not stored.
    #[arg(long)]
    header: bool,
    /// Quotes have no meaning: every line is one record.
    #[arg(long)]
    no_quote: bool,
    /// What happens at a malformed line.
    #[arg(long, default_value = "stop")]
    on_error: OnError,
    /// How many rows are written at once.
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 128,
        value_parser = clap::value_parser!(u16).range(1..=4_096)
    )]
    in_flight: u16,
    /// Make the table, with the default options, if it is not there.
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    levels: LevelArguments,
}

/// How a file's lines are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns with a delimiter between them; quotes as in RFC 4180, but for --no-quote.
    Csv,
    /// A JSON object on each line.
    Jsonl,
}

/// What happens at a malformed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// The import stops. All lines before it are stored.
    Stop,
    /// It is counted and left out; the first 20 are shown at the end.
    Count,
}

pub(crate) async fn run(
    client: &Client,
    arguments: &ImportArguments,
    options: &ConnectionOptions,
    output: Output,
) -> Result<(), CommandError> {
    // The file first: a wrong path must not leave a new table behind.
    let (input, total_bytes) = open(&arguments.file)?;
    let (reader, header_bytes) = prepare(input, arguments, client.limits().key_bytes_max as usize)?;
    let table = open_table(client, arguments).await?;
    let table = arguments
        .levels
        .apply(table)
        .with_timeout(options.timeout().unwrap_or(ROW_TIMEOUT))
        .idempotent(true);

    let mut progress = Progress::new("import", total_bytes);
    let mut writer = Writer::new(table, arguments.in_flight.into(), arguments.on_error);
    writer.tally.bytes = header_bytes;
    let result = writer.run(reader.start(), &mut progress).await;
    let seconds = progress.seconds();
    progress.finish();
    let report = Report { tally: writer.tally, seconds, header: arguments.header, result };
    report.show(arguments, output)
}

async fn open_table(client: &Client, arguments: &ImportArguments) -> Result<Table, CommandError> {
    let name = &arguments.table;
    match client.table(name).await {
        Err(TableError::Unknown { .. }) if arguments.create => {
            let options = default_options(client.record().members.len());
            client.create_table(name, options).await?;
            Ok(client.table(name).await?)
        }
        Err(error @ TableError::Unknown { .. }) => {
            Err(CommandError::from(error).advised("or let the import make it with --create"))
        }
        other => Ok(other?),
    }
}

/// Opens the file, and tells its length where it has one.
fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>), CommandError> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let unreadable = |error| unreadable(path, &error);
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), length))
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::BadInput(format!("{} cannot be read: {error}", path.display()))
}

/// Reads the header, if there is one, and finds the columns. Yields the header's bytes, too.
fn prepare(
    input: Box<dyn Read + Send>,
    arguments: &ImportArguments,
    key_bytes_max: usize,
) -> Result<(Reader, u64), CommandError> {
    let wrong = |text: String| CommandError::BadInput(format!("{text}; nothing was imported"));
    let is_json = is_json(arguments);
    if is_json && arguments.header {
        return Err(wrong("a file of JSON objects has no --header".to_owned()));
    }
    let Delimiter(delimiter) = arguments.delimiter;
    let quoting = !is_json && !arguments.no_quote;
    let quoted_by = quoting.then_some(delimiter);
    let mut cutter = RecordCutter::new(input, quoted_by, RECORD_BYTES_MAX);
    let (mut header, mut header_bytes) = (None, 0);
    if arguments.header {
        let cut = cutter.next().map_err(|error| unreadable(&arguments.file, &error))?;
        let cut = cut.ok_or_else(|| wrong("the file is empty: it has no header".to_owned()))?;
        header_bytes = cut.file_bytes;
        header = Some(cut.record.map_err(|why| wrong(format!("the header: {why}")))?);
    }
    let (key, sort) = (&arguments.key, arguments.sort.as_ref());
    let finder = if is_json {
        KeyFinder::json(key, sort)
    } else {
        KeyFinder::csv(delimiter, quoting, key, sort, header.as_deref())
            .map_err(|error| wrong(error.to_string()))?
    };
    Ok((Reader::new(cutter, finder, key_bytes_max), header_bytes))
}

fn is_json(arguments: &ImportArguments) -> bool {
    let extension = arguments.file.extension().and_then(|extension| extension.to_str());
    match arguments.format {
        Some(format) => format == Format::Jsonl,
        None => matches!(extension, Some("jsonl" | "ndjson")),
    }
}

/// How an import went.
struct Report {
    tally: Tally,
    seconds: f64,
    header: bool,
    result: Result<FileEnd, CommandError>,
}

impl Report {
    fn show(self, arguments: &ImportArguments, output: Output) -> Result<(), CommandError> {
        if output.is_json() {
            output.json(&self.json())?;
        } else {
            for (line, why) in &self.tally.examples {
                if self.tally.stopped_at != Some(*line) {
                    note(&format!("line {line}: {why}"));
                }
            }
            let hidden = self.tally.malformed - self.tally.examples.len() as u64;
            if hidden > 0 {
                note(&format!("and {} malformed lines more", count_text(hidden)));
            }
            note(&self.summary());
        }
        let end = self.result.map_err(|error| {
            error.prefixed(&arguments.file.display().to_string()).advised(
                "the import may be repeated: what is stored already is stored again, unharmed",
            )
        })?;
        if !output.is_json() {
            note(&order_text(&end, &self.tally, self.header));
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let Tally { lines, written, malformed, bytes, .. } = &self.tally;
        format!(
            "{} lines read, {} written, {} malformed; {} in {:.1} s, {} rows/s",
            count_text(*lines),
            count_text(*written),
            count_text(*malformed),
            bytes_text(*bytes),
            self.seconds,
            count_text(rate(*written, self.seconds)),
        )
    }

    fn json(&self) -> Value {
        let Tally { lines, written, malformed, bytes, examples, .. } = &self.tally;
        let examples = examples.iter().map(|(line, why)| json!({ "line": line, "why": why }));
        let end = self.result.as_ref().ok();
        json!({
            "complete": self.result.is_ok(),
            "lines": lines,
            "written": written,
            "malformed": malformed,
            "malformed_lines": examples.collect::<Vec<_>>(),
            "bytes": bytes,
            "seconds": self.seconds,
            "rows_per_second": rate(*written, self.seconds),
            "restoring_order": end.and_then(|end| end.restoring).map(|order| order.name()),
            "last_line_is_open": end.map(|end| end.last_line_is_open),
        })
    }
}

/// Says how an export gives the file back, and what it cannot give back.
fn order_text(end: &FileEnd, tally: &Tally, header: bool) -> String {
    let Some(order) = end.restoring else {
        return "the lines are not in an order of their keys, or keys repeat: an export writes the \
                last line of each key, in the order that it is asked for"
            .to_owned();
    };
    let mut lost = Vec::new();
    if tally.malformed > 0 {
        lost.push("the malformed lines");
    }
    if header {
        lost.push("the header (give it to the export with --header-line)");
    }
    let mut flags = String::new();
    if order != crate::order::Order::default() {
        flags.push_str(&format!(" --order {}", order.name()));
    }
    if end.last_line_is_open {
        flags.push_str(" --no-final-newline");
    }
    let what = if lost.is_empty() {
        "the same bytes".to_owned()
    } else {
        format!("all but {}", lost.join(" and "))
    };
    format!("an export of this table alone gives {what} back: quoit export --table NAME{flags}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Order;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: ImportArguments,
    }

    fn parse(line: &[&str]) -> ImportArguments {
        let line = ["import", "--table", "t", "--key", "1"].iter().chain(line);
        Line::try_parse_from(line).expect("a good line").arguments
    }

    fn prepare_text(text: &'static str, line: &[&str]) -> Result<(Reader, u64), CommandError> {
        prepare(Box::new(text.as_bytes()), &parse(line), 4_096)
    }

    #[test]
    fn the_format_follows_the_file_s_name_unless_said() {
        assert!(is_json(&parse(&["a.jsonl"])));
        assert!(!is_json(&parse(&["a.jsonl", "--format", "csv"])));
        assert!(!is_json(&parse(&["-"])));
        assert!(is_json(&parse(&["-", "--format", "jsonl"])));
    }

    #[test]
    fn a_wrong_column_is_told_before_anything_is_written() {
        for (text, line, why) in [
            ("a;b\n", vec!["-", "--delimiter", ";", "--sort", "code"], "needs a header line"),
            ("a,b\n", vec!["-", "--header", "--sort", "c"], "it has a, b"),
            ("", vec!["-", "--header"], "it has no header"),
            ("", vec!["a.jsonl", "--header"], "has no --header"),
        ] {
            let Err(error) = prepare_text(text, &line) else { panic!("{line:?} is wrong") };
            assert!(error.to_string().contains(why), "{error}");
            assert!(error.to_string().ends_with("nothing was imported"), "{error}");
        }
        assert_eq!(prepare_text("a,b\n1,2\n", &["-", "--header"]).expect("fine").1, 4);
    }

    #[test]
    fn the_report_says_how_to_get_the_file_back() {
        let tally = Tally::default();
        let mut end = FileEnd { restoring: Some(Order::Length), last_line_is_open: false };
        assert!(order_text(&end, &tally, false).ends_with("quoit export --table NAME"));
        end.last_line_is_open = true;
        end.restoring = Some(Order::Key);
        let text = order_text(&end, &tally, true);
        assert!(text.contains("all but the header"), "{text}");
        assert!(text.ends_with("--order key --no-final-newline"), "{text}");
        end.restoring = None;
        assert!(order_text(&end, &tally, false).contains("keys repeat"));
    }
}
