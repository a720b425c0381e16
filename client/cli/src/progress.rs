//! How far a long command is: a bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::note;
use crate::render::{bytes_text, count_text};

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(3);
/// How often the bar's words change.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// Shows bytes, rows and their rate on standard error.
pub struct Progress {
    label: &'static str,
    bar: Option<ProgressBar>,
    total_bytes: Option<u64>,
    started: Instant,
    shown_at: Instant,
}

impl Progress {
    /// Progress of `label`, of `total_bytes` where they are known.
    pub fn new(label: &'static str, total_bytes: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(total_bytes, target);
            let template = if total_bytes.is_some() {
                "{prefix} {bar:30} {bytes}/{total_bytes}, {msg}, {eta} left"
            } else {
                "{prefix} {spinner} {bytes}, {msg}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.with_prefix(label)
        });
        let started = Instant::now();
        Self { label, bar, total_bytes, started, shown_at: started }
    }

    /// So much is done. Cheap enough for every row.
    pub fn set(&mut self, bytes: u64, rows: u64) {
        let interval = if self.bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
        let now = Instant::now();
        if now - self.shown_at < interval {
            return;
        }
        self.shown_at = now;
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(self.rate_text(rows));
            return;
        }
        let total = self.total_bytes.map(|total| format!(" of {}", bytes_text(total)));
        let (label, total) = (self.label, total.unwrap_or_default());
        note(&format!("{label}: {}{total}, {}", bytes_text(bytes), self.rate_text(rows)));
    }

    fn rate_text(&self, rows: u64) -> String {
        let seconds = self.seconds();
        format!("{} rows, {} rows/s", count_text(rows), count_text(rate(rows, seconds)))
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Shows steps of a known number on standard error.
pub(crate) struct Steps {
    label: &'static str,
    bar: Option<ProgressBar>,
    count: u64,
    shown_at: Instant,
}

impl Steps {
    pub(crate) fn new(label: &'static str, count: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(Some(count), target);
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len}, {eta} left")
            {
                bar.set_style(style);
            }
            bar.with_prefix(label)
        });
        Self { label, bar, count, shown_at: Instant::now() }
    }

    /// So many are done.
    pub(crate) fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.shown_at.elapsed() >= LINE_INTERVAL {
            self.shown_at = Instant::now();
            note(&format!("{}: {} of {}", self.label, count_text(done), count_text(self.count)));
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Rows a second, rounded.
pub fn rate(rows: u64, seconds: f64) -> u64 {
    (rows as f64 / seconds.max(1e-6)).round() as u64
}
