//! One replica's durable state.
pub mod disk;
pub mod engine;
