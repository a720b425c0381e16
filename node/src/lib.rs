//! The drivers of a Quoit node: what a core decides ([`quoit_core`]) is done here, on tokio, quinn
//! and the disk; and what surrounds it: configuration, certificates, identity, HTTP, `quoit up`.

pub mod authority;
pub mod clock;
pub mod config;
mod event_loop;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod serve;
pub mod stop;
pub mod storage_worker;
pub mod transport;
pub mod up;
