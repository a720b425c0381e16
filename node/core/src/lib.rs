//! Everything that a node decides, as one deterministic state machine.
//!
//! Under construction.

pub mod event;
pub mod handshake;
pub mod peer;
pub mod time;
