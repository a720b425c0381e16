//! How replicas become equal again after whatever happened to one of them.

pub(crate) mod anti_entropy;
pub(crate) mod handoff;
pub(crate) mod hints;
pub(crate) mod messages;
pub(crate) mod recovery;
pub(crate) mod scrub;
pub(crate) mod settle;
