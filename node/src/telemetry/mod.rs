//! Telemetry: traced requests as OpenTelemetry spans, sent to a collector by OTLP over HTTP.
//!
//! Whoever has finished a traced request says so ([`Telemetry::tell`]), which is a look at a queue and
//! never waits: what finds no room is counted and dropped. A thread of its own makes spans of it (`span`),
//! encodes them (`message`) and brings them to the collector in batches (`export`). Where no endpoint is
//! set there is neither thread nor queue.
//!
//! **Absent by design:** keys and values. What is told has none.

mod export;
mod message;
mod span;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver as Ended;
use std::time::Duration;

use quoit_ring::NodeId;
use tokio::sync::{mpsc, watch};

use crate::config::TelemetrySettings;
use crate::metrics::Metrics;
use export::Exporter;

pub(crate) use span::{Coordinated, Served, Told};

/// So many requests wait for the exporting thread; of more, nothing is exported.
const QUEUE_MAX: usize = 512;
/// A node that stops waits no longer than this for its last spans to be sent.
const STOP_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Where finished requests are told. Cheap to clone; the default is off.
#[derive(Debug, Clone, Default)]
pub struct Telemetry(Option<Queue>);

#[derive(Debug, Clone)]
struct Queue {
    sender: mpsc::Sender<Told>,
    metrics: Arc<Metrics>,
}

/// The exporting thread, if there is one. When this is dropped it sends what it has, and ends.
#[derive(Debug, Default)]
pub struct ExportThread(Option<Running>);

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    ended: Ended<()>,
}

impl Telemetry {
    /// Begins to export, where the settings say so.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        settings: &TelemetrySettings,
        node: NodeId,
        metrics: &Arc<Metrics>,
    ) -> io::Result<(Self, ExportThread)> {
        let Some(endpoint) = settings.otlp_endpoint.clone() else {
            return Ok((Self::default(), ExportThread::default()));
        };
        let (telemetry, queue) = Self::with_room_for(QUEUE_MAX, Arc::clone(metrics));
        let (stop, stopping) = watch::channel(false);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let exporter = Exporter::new(endpoint, node, queue, stopping, Arc::clone(metrics));
        let run = move || {
            runtime.block_on(exporter.run());
            // A name that is still being resolved is not waited for.
            runtime.shutdown_background();
            drop(end);
        };
        std::thread::Builder::new().name("telemetry".to_owned()).spawn(run)?;
        Ok((telemetry, ExportThread(Some(Running { stop, ended }))))
    }

    fn with_room_for(requests: usize, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Told>) {
        let (sender, queue) = mpsc::channel(requests);
        (Self(Some(Queue { sender, metrics })), queue)
    }

    /// Whether anything is exported.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A traced request has ended. Never waits.
    pub(crate) fn tell(&self, tell: impl FnOnce() -> Told) {
        let Some(Queue { sender, metrics }) = &self.0 else { return };
        match sender.try_reserve() {
            Ok(place) => place.send(tell()),
            Err(_) => metrics.spans_dropped(tell().span_count()),
        }
    }
}

impl Drop for ExportThread {
    fn drop(&mut self) {
        if let Some(Running { stop, ended }) = self.0.take() {
            stop.send_replace(true);
            // An error says that the thread has ended, or that it takes too long.
            let _ = ended.recv_timeout(STOP_TIMEOUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_dropped() {
        let metrics = Metrics::new();
        let (telemetry, mut queue) = Telemetry::with_room_for(2, Arc::clone(&metrics));
        for _ in 0..5 {
            telemetry.tell(span::tests::told);
        }
        let spans = span::tests::told().span_count();
        let dropped = format!("quoit_spans_total{{outcome=\"dropped\"}} {}\n", 3 * spans);
        assert!(metrics.text().contains(&dropped), "{}", metrics.text());
        assert!(queue.try_recv().is_ok() && queue.try_recv().is_ok() && queue.try_recv().is_err());
        drop(queue);
        telemetry.tell(span::tests::told);
        let dropped = format!("quoit_spans_total{{outcome=\"dropped\"}} {}\n", 4 * spans);
        assert!(metrics.text().contains(&dropped), "a thread that is gone takes nothing");
    }

    #[test]
    fn without_an_endpoint_there_is_neither_queue_nor_thread() {
        let settings = TelemetrySettings::default();
        let (telemetry, thread) = Telemetry::start(&settings, NodeId(1), &Metrics::new()).unwrap();
        assert!(!telemetry.is_on() && thread.0.is_none());
        telemetry.tell(|| unreachable!("nobody asks for it"));
    }
}
