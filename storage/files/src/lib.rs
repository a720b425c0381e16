//! The real disk and the real sorted tables.

pub mod disk;
pub mod tables;
