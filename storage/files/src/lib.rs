//! The real disk and the real sorted tables, and snapshots of them.

pub mod disk;
pub mod snapshot;
pub mod tables;
