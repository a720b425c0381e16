//! Twins in memory of what keeps bytes, for the simulator and for tests: same contract, faults on
//! demand, no clock, no thread, no file.

pub mod contract;
pub mod disk;
pub mod engine;
mod sectors;
mod state;
