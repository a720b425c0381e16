//! `quoit hints`: what waits for nodes that missed writes, and how fast it is brought to them.

use clap::Args;
use quoit_client::Client;
use quoit_protocol::status::{HintStatus, NodeStatus};
use serde_json::{Value, json};

use crate::failure::CommandError;
use crate::output::{Output, note};
use crate::render::{Grid, bytes_text, count_text, list_text, uptime_text};
use crate::status::{ClusterView, Patience};

/// Show what waits for nodes that missed writes, and how fast it is brought to them.
#[derive(Debug, Args)]
pub struct HintsArguments {
    #[command(flatten)]
    patience: Patience,
}

pub(crate) async fn show(
    client: &Client,
    arguments: &HintsArguments,
    output: Output,
) -> Result<(), CommandError> {
    let view = arguments.patience.view(client).await?;
    if output.is_json() {
        return output.json(&shown_json(&view));
    }
    if !view.silent.is_empty() {
        let silent: Vec<_> = view.silent.keys().copied().collect();
        note(&format!("{} did not answer: what they keep is not shown", list_text(&silent)));
    }
    output.text(&shown(&view))
}

/// What is kept: which keys are to be brought, or what is written under them as well.
fn kind_text(hints: &HintStatus) -> &'static str {
    if hints.is_data { "data" } else { "reference" }
}

/// How long it takes at the rate of late; `None` while nothing goes.
fn left_seconds(hints: &HintStatus) -> Option<u64> {
    (hints.per_second > 0).then(|| hints.number.div_ceil(hints.per_second))
}

fn shown(view: &ClusterView) -> String {
    let mut grid = Grid::new(
        &["FOR", "KEPT BY", "AS", "KEYS", "BYTES", "OLDEST", "KEYS/S", "LEFT"],
        &[3, 4, 5, 6, 7],
    );
    let mut is_empty = true;
    for (holder, status) in &view.answers {
        for hints in &status.hints {
            is_empty = false;
            grid.row([
                hints.target.to_string(),
                holder.to_string(),
                kind_text(hints).to_owned(),
                count_text(hints.number),
                bytes_text(hints.bytes),
                uptime_text(hints.oldest_ms),
                count_text(hints.per_second),
                left_seconds(hints)
                    .map_or_else(|| "-".to_owned(), |seconds| uptime_text(seconds * 1_000)),
            ]);
        }
    }
    let dropped: u64 = view.answers.values().map(dropped).sum();
    let mut text = if is_empty { "no hints wait\n".to_owned() } else { grid.render() };
    if dropped > 0 {
        text.push_str(&format!(
            "{} hints were dropped since the nodes were started (`quoit hints --json` says why): \
             exchanges between replicas find what they stood for\n",
            count_text(dropped)
        ));
    }
    text
}

/// Counters of this node's hints, by their names without what they begin with.
fn counters(status: &NodeStatus) -> impl Iterator<Item = (&str, u64)> {
    status.counters.iter().filter_map(|(name, count)| Some((name.strip_prefix("hints_")?, *count)))
}

fn dropped(status: &NodeStatus) -> u64 {
    let is_of_drops = |name: &str| name != "noted" && name != "delivered";
    counters(status).filter(|(name, _)| is_of_drops(name)).map(|(_, count)| count).sum()
}

/// What one node keeps for another.
pub(crate) fn hint_json(hints: &HintStatus) -> Value {
    json!({
        "for": hints.target.to_string(),
        "as": kind_text(hints),
        "keys": hints.number,
        "bytes": hints.bytes,
        "oldest_ms": hints.oldest_ms,
        "keys_per_second": hints.per_second,
        "seconds_left": left_seconds(hints),
    })
}

fn shown_json(view: &ClusterView) -> Value {
    let nodes = view.answers.iter().map(|(holder, status)| {
        let hints = status.hints.iter().map(hint_json);
        json!({
            "node": holder.to_string(),
            "hints": hints.collect::<Vec<_>>(),
            "counters": counters(status).collect::<std::collections::BTreeMap<_, _>>(),
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

    fn view(hints: Vec<HintStatus>) -> ClusterView {
        let mut status = sample::status(1, &[]);
        status.hints = hints;
        status.counters = vec![
            ("hints_noted".to_owned(), 7),
            ("hints_expired".to_owned(), 2),
            ("writes".to_owned(), 9),
        ];
        ClusterView {
            record: sample::record().into(),
            answers: [(NodeId(1), status)].into(),
            silent: [(NodeId(3), "no answer".to_owned())].into(),
        }
    }

    #[test]
    fn what_waits_is_golden() {
        let hints = HintStatus {
            target: NodeId(2),
            is_data: false,
            number: 12_000,
            bytes: 600_000,
            oldest_ms: 61_000,
            per_second: 5_000,
        };
        assert_eq!(
            shown(&view(vec![HintStatus { is_data: true, per_second: 0, ..hints.clone() }, hints])),
            "FOR  KEPT BY  AS           KEYS      BYTES  OLDEST  KEYS/S  LEFT\n\
             n2   n1       data       12,000  585.9 KiB    1m1s       0     -\n\
             n2   n1       reference  12,000  585.9 KiB    1m1s   5,000    3s\n\
             2 hints were dropped since the nodes were started (`quoit hints --json` says why): \
             exchanges between replicas find what they stood for\n"
        );
    }

    #[test]
    fn nothing_waits_and_the_counters_are_told() {
        let view = view(Vec::new());
        assert!(shown(&view).starts_with("no hints wait\n"));
        let json = shown_json(&view);
        assert_eq!(json["nodes"][0]["counters"]["expired"], 2);
        assert_eq!(json["nodes"][0]["counters"].as_object().map(|it| it.len()), Some(2));
        assert_eq!(json["silent"][0], "n3");
    }
}
