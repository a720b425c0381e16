//! Clusters of real gossip over a network in memory, under tokio's paused clock.
//!
//! The figures that the crate's documentation states are asserted here, and printed with
//! `cargo test -p quoit-gossip --test cluster -- --nocapture`.

mod hostile;
mod membership;
mod network;
mod scale;
mod trouble;
