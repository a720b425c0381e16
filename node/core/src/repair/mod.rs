//! How replicas become equal again after whatever happened to one of them.
//!
//! - [`hints`], [`handoff`]: what a replica missed is noted by whoever coordinated it, and brought to it;
//! - [`anti_entropy`]: replicas compare all that they hold, and merge what differs;
//! - [`settle`]: when what was deleted may go;
//! - [`recovery`]: when a replica that lost what it held counts again;
//! - [`scrub`]: what a replica holds is verified, and what is damaged fetched again.

pub(crate) mod anti_entropy;
pub(crate) mod handoff;
pub(crate) mod hints;
pub(crate) mod messages;
pub(crate) mod recovery;
pub(crate) mod scrub;
pub(crate) mod settle;
