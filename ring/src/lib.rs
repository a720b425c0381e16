//! ring
mod node;
pub use node::*;
