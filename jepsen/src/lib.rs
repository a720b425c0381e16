//! The consistency suite: real `quoit serve` processes as separate hosts, workloads through the
//! client library, faults, histories, checkers.

mod checker;
pub mod cli;
mod cluster;
mod history;
mod matrix;
mod nemesis;
mod planted;
mod recorder;
mod report;
mod runner;
mod workload;
