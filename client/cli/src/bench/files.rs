//! What `--output DIR` holds: `result.json`; and for each run percentiles by kind (`.hgrm`), the
//! series as an interval log (`.hlog`), and plots. With several runs each has a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::document::Document;
use super::measured::histogram;
use super::percentiles::percentile_output;
use super::plots;
use super::results::Results;
use crate::failure::CommandError;

const RESULT: &str = "result.json";
/// The result is written here and then renamed: there is a whole one, or none.
const RESULT_PARTIAL: &str = "result.json.partial";
/// From microseconds to the interval log's maximum column in milliseconds.
const MAX_VALUE_DIVISOR: f64 = 1_000.0;

/// A directory for results.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    has_folders: bool,
}

impl Files {
    /// Makes the directory, and makes sure before anything is measured that it can be written.
    pub(super) fn prepare(directory: &Path, runs: u16) -> Result<Self, CommandError> {
        let result = directory.join(RESULT);
        if result.exists() {
            return Err(CommandError::BadInput(format!(
                "{} is there already: choose another --output",
                result.display()
            )));
        }
        let files = Self { directory: directory.to_owned(), has_folders: runs > 1 };
        fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
        files.write(&directory.join(RESULT_PARTIAL), "")?;
        Ok(files)
    }

    /// Writes what one run found.
    pub(super) fn write_run(
        &self,
        run: u16,
        results: &Results,
        started: SystemTime,
        title: &str,
    ) -> Result<(), CommandError> {
        let folder = match self.has_folders {
            true => self.directory.join(format!("run-{}", run + 1)),
            false => self.directory.clone(),
        };
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
        for kind in &results.kinds {
            let path = folder.join(format!("{}.hgrm", kind.name));
            self.write(&path, &percentile_output(&kind.latencies))?;
        }
        let path = folder.join("intervals.hlog");
        let log = interval_log(results, started).map_err(|error| failed(&path, &error))?;
        self.write(&path, &log)?;
        let drawn = |error: plots::PlotError| CommandError::NotDone(error.to_string());
        let throughput = plots::throughput(results, title).map_err(drawn)?;
        self.write(&folder.join("throughput.svg"), &throughput)?;
        let latency = plots::latency(results, title).map_err(drawn)?;
        self.write(&folder.join("latency.svg"), &latency)
    }

    /// Writes everything once more for programs; yields where.
    pub(super) fn write_result(&self, document: &Document) -> Result<PathBuf, CommandError> {
        let partial = self.directory.join(RESULT_PARTIAL);
        let path = self.directory.join(RESULT);
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| CommandError::NotDone(format!("{}: {error}", path.display())))?;
        self.write(&partial, &text)?;
        fs::rename(&partial, &path).map_err(|error| failed(&path, &error))?;
        Ok(path)
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), CommandError> {
        fs::write(path, text).map_err(|error| failed(path, &error))
    }
}

fn failed(path: &Path, error: &io::Error) -> CommandError {
    CommandError::NotDone(format!("{} cannot be written: {error}", path.display()))
}

/// HdrHistogram's log of intervals, each kind under its tag.
fn interval_log(results: &Results, started: SystemTime) -> Result<String, io::Error> {
    let wrong = |error: &dyn std::fmt::Debug| io::Error::other(format!("{error:?}"));
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[latencies in microseconds; maxima in milliseconds]")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(&mut bytes, &mut serializer)?;
    for interval in &results.series {
        for kind in &interval.kinds {
            let mut latencies = histogram();
            kind.latencies.add_to(&mut latencies).map_err(|error| wrong(&error))?;
            let begins = Duration::from_secs_f64(interval.begins_s);
            let length = Duration::from_secs_f64(interval.seconds);
            writer
                .write_histogram(&latencies, begins, length, Tag::new(kind.name))
                .map_err(|error| wrong(&error))?;
        }
    }
    String::from_utf8(bytes).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::bench::document::tests::document;
    use crate::bench::results::tests::measured;

    #[test]
    fn a_directory_holds_what_every_run_found_and_is_not_written_over() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let directory = folder.path().join("made/when/missing");
        let files = Files::prepare(&directory, 2).expect("it can be made");
        let results = Results::new(&[measured()], 1_000, false).expect("packed here");
        for run in 0..2 {
            files.write_run(run, &results, SystemTime::UNIX_EPOCH, "a").expect("written");
        }
        let path = files.write_result(&document(2)).expect("written");
        assert_eq!(Document::read(&path).expect("as written"), document(2));
        for name in
            ["get.hgrm", "put.hgrm", "all.hgrm", "intervals.hlog", "throughput.svg", "latency.svg"]
        {
            assert!(directory.join("run-2").join(name).is_file(), "{name}");
        }
        assert!(!directory.join(RESULT_PARTIAL).exists());
        let error = Files::prepare(&directory, 1).expect_err("there is a result");
        assert!(matches!(error, CommandError::BadInput(_)));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_before_anything_is_measured() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("the directory is there");
        let error = Files::prepare(&file.join("below"), 1).expect_err("a file is no directory");
        assert!(error.to_string().contains("cannot be written"), "{error}");
    }

    #[test]
    fn the_interval_log_is_read_by_its_reader() {
        let results = Results::new(&[measured()], 1_000, false).expect("packed here");
        let log = interval_log(&results, SystemTime::UNIX_EPOCH).expect("memory takes it");
        let tags: Vec<String> = IntervalLogIterator::new(log.as_bytes())
            .filter_map(|entry| match entry.expect("a good line") {
                LogEntry::Interval(it) => Some(it.tag().expect("tagged").as_str().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(tags, ["get", "put"]);
    }
}
