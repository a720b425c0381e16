//! `quoit scrub`: what verifying all that the nodes hold has come to.

use clap::{Args, Subcommand};
use quoit_client::Client;
use quoit_protocol::status::ScrubStatus;
use serde_json::{Value, json};

use crate::failure::CommandError;
use crate::output::{Output, note};
use crate::render::{Grid, bytes_text, count_text, list_text, uptime_text};
use crate::status::{ClusterView, Patience};

/// Show what verifying all that the nodes hold has come to.
#[derive(Debug, Args)]
pub struct ScrubArguments {
    #[command(subcommand)]
    action: ScrubAction,
}

#[derive(Debug, Subcommand)]
enum ScrubAction {
    /// How far each node's pass is, and what was found and fetched from the others.
    Status(Patience),
}

pub(crate) async fn run(
    client: &Client,
    arguments: &ScrubArguments,
    output: Output,
) -> Result<(), CommandError> {
    let ScrubAction::Status(patience) = &arguments.action;
    let view = patience.view(client).await?;
    if output.is_json() {
        return output.json(&shown_json(&view));
    }
    if !view.silent.is_empty() {
        let silent: Vec<_> = view.silent.keys().copied().collect();
        note(&format!("{} did not answer", list_text(&silent)));
    }
    let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    output.text(&shown(&view, u64::try_from(now_ms).unwrap_or(u64::MAX)))
}

fn shown(view: &ClusterView, now_ms: u64) -> String {
    let headings = [
        "NODE",
        "PASS",
        "BEGAN",
        "LAST ENDED",
        "READ",
        "DAMAGED KEYS",
        "MENDED",
        "LEFT",
        "UNREADABLE BLOCKS",
        "TAKEN OUT",
    ];
    let mut grid = Grid::new(&headings, &[1, 4, 5, 6, 7, 8, 9]);
    let ago = |at_ms: u64| match at_ms {
        0 => "-".to_owned(),
        _ => format!("{} ago", uptime_text(now_ms.saturating_sub(at_ms))),
    };
    for (node, status) in &view.answers {
        let scrub = &status.scrub;
        grid.row([
            node.to_string(),
            pass(scrub),
            ago(scrub.began_ms),
            ago(scrub.ended_ms),
            bytes_text(scrub.bytes),
            count_text(scrub.damaged),
            count_text(scrub.mended),
            count_text(scrub.waiting),
            count_text(scrub.hidden.into()),
            count_text(scrub.dropped),
        ]);
    }
    let mut text = grid.render();
    let hidden = view.answers.iter().filter(|(_, status)| status.scrub.hidden > 0);
    let hidden: Vec<_> = hidden.map(|(node, _)| *node).collect();
    if !hidden.is_empty() {
        text.push_str(&format!(
            "blocks of {} cannot be read: what they hold is answered and brought by the others; once a \
             compaction meets them, the next start makes the tables anew from the others\n",
            list_text(&hidden)
        ));
    }
    text
}

/// How far the pass is.
fn pass(scrub: &ScrubStatus) -> String {
    match scrub.began_ms > scrub.ended_ms {
        true => format!("{}.{} %", scrub.permille / 10, scrub.permille % 10),
        false if scrub.began_ms == 0 => "-".to_owned(),
        false => "done".to_owned(),
    }
}

fn shown_json(view: &ClusterView) -> Value {
    let nodes = view.answers.iter().map(|(node, status)| {
        let scrub = &status.scrub;
        json!({
            "node": node.to_string(),
            "began_ms": scrub.began_ms,
            "ended_ms": scrub.ended_ms,
            "is_under_way": scrub.began_ms > scrub.ended_ms,
            "permille": scrub.permille,
            "bytes": scrub.bytes,
            "total_bytes": scrub.total_bytes,
            "damaged_keys": scrub.damaged,
            "mended_keys": scrub.mended,
            "damaged_keys_left": scrub.waiting,
            "unreadable_blocks": scrub.hidden,
            "dropped_keys_taken_out": scrub.dropped,
        })
    });
    let silent = view.silent.keys().map(ToString::to_string);
    json!({ "nodes": nodes.collect::<Vec<_>>(), "silent": silent.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use quoit_ring::NodeId;

    use super::*;
    use crate::sample;

    #[test]
    fn what_was_found_is_golden() {
        let mut statuses = [sample::status(1, &[]), sample::status(2, &[])];
        statuses[0].scrub = ScrubStatus {
            began_ms: 90_000,
            ended_ms: 60_000,
            permille: 505,
            bytes: 3 << 20,
            damaged: 3,
            mended: 2,
            waiting: 1,
            hidden: 1,
            ..ScrubStatus::default()
        };
        let view = ClusterView {
            record: sample::record().into(),
            answers: statuses.map(|status| (status.node, status)).into(),
            silent: [(NodeId(3), "no answer".to_owned())].into(),
        };
        let text = shown(&view, 100_000);
        assert!(
            text.contains("n1    50.5 %  10s ago  40s ago     3.0 MiB             3       2"),
            "{text}"
        );
        assert!(text.contains("n2         -  -        -"), "{text}");
        assert!(text.ends_with("from the others\n"), "{text}");
        assert_eq!(shown_json(&view)["nodes"][0]["damaged_keys_left"], 1);
    }
}
