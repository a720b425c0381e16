//! `quoit top`: the whole cluster as it is just now, on a terminal, until somebody presses q.
//!
//! Every second all members are asked what they do (see [`Picture`]); what is asked costs each of them
//! less than a request for data. With `--once`, and where nobody looks (standard output is no terminal),
//! one picture is written as plain text; with `--json`, as one document.

mod keyboard;
mod panes;
mod plain;
mod screen;
mod sorting;

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use quoit_client::Client;

use crate::failure::CommandError;
use crate::output::Output;
use crate::picture::Picture;

/// Show what the whole cluster does just now: rates, times, hot keys, large sibling sets, repair.
///
/// Keys: 1 to 6 or Tab switch panes, s sorts by the next column, r turns the order round, p pauses,
/// q or Ctrl-C ends.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// Write one picture and end.
    #[arg(long)]
    once: bool,
    /// How often all nodes are asked, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(250..=60_000))]
    interval_ms: u64,
    /// How long each node may take to answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(1..=60_000))]
    patience_ms: u64,
}

pub(crate) async fn run(
    client: &Client,
    arguments: &TopArguments,
    output: Output,
) -> Result<(), CommandError> {
    let patience = Duration::from_millis(arguments.patience_ms);
    if output.is_json() {
        return output.json(&Picture::take(client, patience).await.json());
    }
    if arguments.once || !std::io::stdout().is_terminal() {
        return output.text(&plain::render(&Picture::take(client, patience).await));
    }
    screen::run(client, patience, Duration::from_millis(arguments.interval_ms)).await
}
