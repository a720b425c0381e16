//! stub
use std::net::SocketAddr;
use std::sync::Arc;
use quoit_protocol::{ClientRequest, ClientResponse, Limits};
use quoit_ring::{ClusterId, ClusterRecord, NodeId};
use crate::{Answer, Instant, Operation, OperationError, OperationId, Seed};
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration { pub cluster: ClusterId, pub contact_points: Vec<SocketAddr>, pub client: String, pub in_flight_max: usize }
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFailure { Refused(String), Unreachable(String) }
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event { Tick, Submitted(OperationId, Operation), Opened(LinkId), Received(LinkId, u64, ClientResponse), Lost(LinkId, LinkFailure) }
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect { Connect(LinkId, SocketAddr, Option<NodeId>), Close(LinkId), Send(LinkId, u64, ClientRequest), Complete(OperationId, Result<Answer, OperationError>), RecordChanged(Arc<ClusterRecord>) }
#[derive(Debug)]
pub struct Session {}
impl Session {
    pub fn new(_: Configuration, _: Seed) -> Self { Self {} }
    pub fn handle(&mut self, _: Instant, _: Event, _: &mut Vec<Effect>) {}
    pub fn limits(&self) -> Option<Limits> { None }
}
