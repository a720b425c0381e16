//! `quoit export`: a whole table as lines.

pub(crate) mod sorter;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use quoit_client::{Client, Item};

use crate::arguments::ReadLevelArguments;
use crate::failure::CommandError;
use crate::items::item_json;
use crate::order::Order;
use crate::output::{Output, note};
use crate::progress::{Progress, rate};
use crate::render::{bytes_text, count_text};

use sorter::{Line, Sorter};

/// Write a whole table, a line for each value.
///
/// With the format `raw` the lines are the values as they are, so that they are the lines that an
/// import stored. Their order is not stored: it is made from the keys, by --order. A file whose
/// keys ascend in that order, each once, comes back byte for byte; of any other file the last line
/// of each key comes back. An export is no snapshot: what is written meanwhile may be in it or not.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// The table.
    #[arg(long, value_name = "NAME")]
    table: String,
    /// What a line is.
    #[arg(long, default_value = "raw")]
    format: ExportFormat,
    /// Where the lines go [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// In which order.
    #[arg(long, default_value = "length")]
    order: Order,
    /// Write this line first, such as the header of an imported file.
    #[arg(long, value_name = "TEXT")]
    header_line: Option<String>,
    /// End the last line without a newline.
    #[arg(long)]
    no_final_newline: bool,
    /// How much memory sorting may take, in MiB; what is more is sorted through temporary files.
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=1_048_576)
    )]
    memory_mib: u32,
    #[command(flatten)]
    level: ReadLevelArguments,
}

/// What a line of an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// The value as it is; each sibling on a line.
    Raw,
    /// A JSON object: key, sort key, value and times, or all siblings.
    Jsonl,
}

pub(crate) async fn run(
    client: &Client,
    arguments: &ExportArguments,
    output: Output,
) -> Result<(), CommandError> {
    let table = arguments.level.apply(client.table(&arguments.table).await?);
    let mut lines = Lines::create(arguments)?;
    let mut tally = Tally::default();
    let mut progress = Progress::new("export", None);
    let mut pages = table.export();
    let memory_bytes_max = (arguments.memory_mib as usize) << 20;
    let mut sorter = Sorter::new(arguments.order, memory_bytes_max);
    while let Some(items) = pages.next().await.map_err(|error| {
        CommandError::from(error).advised("the export is not complete; start it again")
    })? {
        for item in &items {
            tally.take(item);
            for line in item_lines(item, arguments.format) {
                if arguments.order == Order::None {
                    lines.write(&line)?;
                } else {
                    sorter.push(line).map_err(unsorted)?;
                }
            }
        }
        progress.set(tally.bytes, tally.items);
    }
    sorter.finish(|line| lines.write_io(&line)).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CommandError::OutputClosed,
        _ => unsorted(error),
    })?;
    lines.finish(!arguments.no_final_newline)?;
    let seconds = progress.seconds();
    progress.finish();
    tally.report(arguments, seconds, output)
}

fn unsorted(error: io::Error) -> CommandError {
    CommandError::NotDone(format!(
        "the export is not complete: sorting or writing failed: {error}; --order none needs no \
         temporary files"
    ))
}

/// The lines of an item.
fn item_lines(item: &Item, format: ExportFormat) -> Vec<Line> {
    let line = |text: Vec<u8>| Line {
        partition: item.key.partition.to_vec(),
        sort: item.key.sort.to_vec(),
        text,
    };
    match format {
        ExportFormat::Raw => item.siblings.iter().map(|value| line(value.bytes.to_vec())).collect(),
        ExportFormat::Jsonl => vec![line(item_json(item).to_string().into_bytes())],
    }
}

/// Where the lines go. A line end is written before the next line, so that the last one may stay
/// open.
struct Lines {
    target: BufWriter<Box<dyn Write>>,
    begun: bool,
    /// A file that takes its name only once it is whole: an export that fails leaves an older one
    /// of that name as it is.
    partial: Option<Partial>,
}

/// A file under another name.
struct Partial {
    file: File,
    path: PathBuf,
    final_path: PathBuf,
}

impl Partial {
    fn create(final_path: &Path) -> io::Result<Self> {
        let mut name = final_path.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let file = File::create(&path)?;
        Ok(Self { file, path, final_path: final_path.to_owned() })
    }

    fn finish(&self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, &self.final_path)
    }
}

impl Lines {
    fn create(arguments: &ExportArguments) -> Result<Self, CommandError> {
        let (target, partial) = match &arguments.output {
            None => (Box::new(io::stdout()) as Box<dyn Write>, None),
            Some(path) => open(path).map_err(|error| {
                CommandError::BadInput(format!("{} cannot be written: {error}", path.display()))
            })?,
        };
        let target = BufWriter::with_capacity(256 << 10, target);
        let mut lines = Self { target, begun: false, partial };
        if let Some(header) = &arguments.header_line {
            lines.write_text(header.as_bytes()).map_err(CommandError::output)?;
        }
        Ok(lines)
    }

    fn write(&mut self, line: &Line) -> Result<(), CommandError> {
        self.write_io(line).map_err(CommandError::output)
    }

    fn write_io(&mut self, line: &Line) -> io::Result<()> {
        self.write_text(&line.text)
    }

    fn write_text(&mut self, text: &[u8]) -> io::Result<()> {
        if self.begun {
            self.target.write_all(b"\n")?;
        }
        self.begun = true;
        self.target.write_all(text)
    }

    fn finish(mut self, final_newline: bool) -> Result<(), CommandError> {
        let end = if self.begun && final_newline { &b"\n"[..] } else { b"" };
        self.target
            .write_all(end)
            .and_then(|()| self.target.flush())
            .and_then(|()| self.partial.as_ref().map_or(Ok(()), Partial::finish))
            .map_err(CommandError::output)
    }
}

/// Opens the file that the lines go to: pipes and devices as they are, others under another name
/// until they are whole.
fn open(path: &Path) -> io::Result<(Box<dyn Write>, Option<Partial>)> {
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let file = File::options().write(true).open(path)?;
        return Ok((Box::new(file), None));
    }
    let partial = Partial::create(path)?;
    Ok((Box::new(partial.file.try_clone()?), Some(partial)))
}

/// What was exported.
#[derive(Debug, Default)]
struct Tally {
    items: u64,
    values: u64,
    bytes: u64,
    with_siblings: u64,
}

impl Tally {
    fn take(&mut self, item: &Item) {
        self.items += 1;
        self.values += item.siblings.len() as u64;
        self.with_siblings += u64::from(item.siblings.len() > 1);
        self.bytes += item.siblings.iter().map(|value| value.bytes.len() as u64 + 1).sum::<u64>();
    }

    fn report(
        &self,
        arguments: &ExportArguments,
        seconds: f64,
        output: Output,
    ) -> Result<(), CommandError> {
        let Self { items, values, bytes, with_siblings } = self;
        if output.is_json() && arguments.output.is_some() {
            return output.json(&serde_json::json!({
                "items": items,
                "values": values,
                "bytes": bytes,
                "keys_with_siblings": with_siblings,
                "seconds": seconds,
                "rows_per_second": rate(*items, seconds),
            }));
        }
        if *with_siblings > 0 {
            note(&format!("{} keys have siblings: all were written", count_text(*with_siblings)));
        }
        note(&format!(
            "{} items, {} in {seconds:.1} s, {} rows/s",
            count_text(*items),
            bytes_text(*bytes),
            count_text(rate(*items, seconds)),
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use quoit_client::{Context, HybridTime, Key, Value};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn item(key: &str, values: &[&str]) -> Item {
        let value = |text: &&str| Value {
            bytes: Bytes::from(text.to_string()),
            expires: None,
            written: HybridTime::ZERO,
        };
        Item {
            key: Key { partition: Bytes::from(key.to_owned()), sort: Bytes::new() },
            siblings: values.iter().map(value).collect(),
            context: Context::none(),
        }
    }

    fn exported(items: &[Item], order: Order, final_newline: bool) -> String {
        let shared = Shared::default();
        let target: Box<dyn Write> = Box::new(shared.clone());
        let mut lines = Lines { target: BufWriter::new(target), begun: false, partial: None };
        let mut sorter = Sorter::new(order, 1 << 20);
        for line in items.iter().flat_map(|item| item_lines(item, ExportFormat::Raw)) {
            sorter.push(line).expect("memory");
        }
        sorter.finish(|line| lines.write_io(&line)).expect("memory");
        lines.finish(final_newline).expect("memory");
        String::from_utf8(shared.0.lock().unwrap().clone()).expect("text")
    }

    #[test]
    fn lines_come_back_as_they_were_with_their_line_ends() {
        let items = [item("10", &["10;b\r"]), item("9", &["9;a\r"]), item("x", &["1", "2"])];
        assert_eq!(exported(&items, Order::Length, true), "9;a\r\n1\n2\n10;b\r\n");
        assert_eq!(exported(&items, Order::Key, false), "10;b\r\n9;a\r\n1\n2");
        assert_eq!(exported(&[], Order::Length, true), "");
    }

    #[test]
    fn a_file_takes_its_name_only_once_it_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        std::fs::write(&path, "older").expect("writes");
        let (target, partial) = open(&path).expect("opens");
        let mut lines = Lines { target: BufWriter::new(target), begun: false, partial };
        lines.write_text(b"newer").expect("writes");
        assert_eq!(std::fs::read(&path).expect("reads"), b"older");
        lines.finish(true).expect("renames");
        assert_eq!(std::fs::read(&path).expect("reads"), b"newer\n");
        assert_eq!(std::fs::read_dir(directory.path()).expect("lists").count(), 1);
    }

    #[test]
    fn json_lines_hold_keys_and_values() {
        let lines = item_lines(&item("k", &["v"]), ExportFormat::Jsonl);
        let text = String::from_utf8(lines[0].text.clone()).expect("text");
        assert_eq!(text, r#"{"key":"k","value":"v","written_ms":0}"#);
    }
}
