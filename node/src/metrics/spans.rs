//! Spans of traced requests: how many a collector has taken.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

type Label = Vec<(&'static str, &'static str)>;

/// The series.
#[derive(Debug)]
pub(super) struct Spans {
    pub(super) exported: Counter,
    pub(super) dropped: Counter,
}

impl Spans {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let spans = Family::<Label, Counter>::default();
        registry.register("spans", "Spans of traced requests, for a collector", spans.clone());
        let of = |outcome| spans.get_or_create_owned(&vec![("outcome", outcome)]);
        Self { exported: of("exported"), dropped: of("dropped") }
    }
}
