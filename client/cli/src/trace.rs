//! `--trace`: where a request's time went, stage by stage.

use clap::Args;
use quoit_client::{Profile, Service, Table, TraceId, new_trace_id};
use serde_json::{Map, Value as Json, json};

use crate::output::note;
use crate::render::Grid;

/// Whether a request is traced, and under which id.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct TraceArguments {
    /// Show where the time went: each stage on each node that had a part. The nodes name the trace's id
    /// in their logs; one of your own is 32 hexadecimal digits (`--trace=ID`).
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "clap's way to say: a flag that may have a value")]
    trace: Option<Option<TraceId>>,
}

impl TraceArguments {
    /// The id, if the request is traced.
    pub(crate) fn id(self) -> Option<TraceId> {
        self.trace.map(|id| id.unwrap_or_else(new_trace_id))
    }
}

/// Has a table's requests traced.
pub(crate) fn apply(table: Table, trace: Option<TraceId>) -> Table {
    match trace {
        Some(id) => table.with_profile(&Profile::new().trace(id)),
        None => table,
    }
}

/// Shows to people where the time of a request went that was traced.
pub(crate) fn tell(what: &str, trace: Option<TraceId>, service: &Service) {
    let Some(id) = trace else { return };
    note(&format!(
        "{what}: trace {id}, {} ms, coordinator {}, {} attempt(s)\n{}",
        milliseconds(u64::try_from(service.took.as_micros()).unwrap_or(u64::MAX)),
        service.coordinator,
        service.trail.attempts,
        render(service)
    ));
}

/// The stages as a table; ends with no line end.
fn render(service: &Service) -> String {
    let mut table = Grid::new(&["NODE", "STAGE", "FROM", "TOOK ms"], &[2, 3]);
    for stage in &service.stages {
        table.row([
            stage.node.to_string(),
            stage.kind.name().to_owned(),
            milliseconds(stage.began_us),
            milliseconds(stage.took_us),
        ]);
    }
    table.render().trim_end().to_owned()
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03}", microseconds / 1_000, microseconds % 1_000)
}

/// Puts a traced request's stages into a JSON object, under `trace`.
pub(crate) fn put(object: &mut Map<String, Json>, trace: Option<TraceId>, service: &Service) {
    let Some(id) = trace else { return };
    let stages = service.stages.iter().map(|stage| {
        json!({
            "node": stage.node.0,
            "stage": stage.kind.name(),
            "from_us": stage.began_us,
            "took_us": stage.took_us,
        })
    });
    let told = json!({
        "id": id.to_string(),
        "coordinator": service.coordinator.0,
        "took_us": u64::try_from(service.took.as_micros()).unwrap_or(u64::MAX),
        "stages": stages.collect::<Vec<_>>(),
    });
    object.insert("trace".into(), told);
}
