//! stub
use quoit_session::{Configuration, Seed};
use tokio::sync::{mpsc, watch};
use crate::client::{Clock, Command, Known};
use crate::tls::ClientTls;
pub(crate) struct Driver { _commands: mpsc::Receiver<Command>, _known: watch::Sender<Known> }
impl Driver {
    pub(crate) fn new(_: Configuration, _: Seed, _: quinn::Endpoint, _: ClientTls, _: Clock, _commands: mpsc::Receiver<Command>, _known: watch::Sender<Known>) -> Self { Self { _commands, _known } }
    pub(crate) async fn run(self) {}
}
