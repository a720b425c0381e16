//! The program's log: lines to standard error, which the journal takes, with a level that can be
//! changed while the program runs.

use std::io::{self, IsTerminal};

use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogSettings};

/// The log cannot be started or changed. It goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is none.
    #[error("log.level is not understood: {0}")]
    Level(String),
    /// Something else in this process keeps it.
    #[error("the log cannot be changed: {0}")]
    Taken(String),
}

/// The level of a log that was started.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// Takes another level, such as `info,quoit_node=debug`.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        let filter = targets(level)?;
        self.0.reload(filter).map_err(|error| LogError::Taken(error.to_string()))
    }
}

/// Starts the log of this process, once.
///
/// # Errors
/// See [`LogError`].
pub fn start(settings: &LogSettings) -> Result<LogLevel, LogError> {
    let (filter, handle) = reload::Layer::new(targets(&settings.level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.format {
        LogFormat::Text => registry.with(lines.with_ansi(io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    }
    .map_err(|error| LogError::Taken(error.to_string()))?;
    Ok(LogLevel(handle))
}

fn targets(level: &str) -> Result<Targets, LogError> {
    level.parse().map_err(|error| LogError::Level(format!("{error}")))
}
