//! The deterministic simulator: the node's own core, store and client session in virtual time.

pub mod invariants;
pub mod plan;
pub mod report;
pub mod run;
pub mod shrink;
pub mod workloads;

mod ledger;
mod world;
