//! One replica's durable state: versions and siblings, tables, digests, over a commit log and
//! sorted tables. Pure: files, clocks and threads are handed in, and every seam has a twin.
//!
//! A write goes this way: [`store::Writer::prepare`] merges it with what the key holds,
//! [`store::Writer::commit`] writes all that was prepared to the [`log`] with one write and one
//! fsync, and only then to the sorted tables behind [`engine::Engine`], where readers find it. So
//! a reader never sees what a crash could take back.

pub mod codec;
pub mod decoding;
pub mod digest;
pub mod disk;
pub mod engine;
pub mod layout;
pub mod log;
pub mod planted;
pub mod small_file;
pub mod store;
pub mod stored;
pub mod trees;
pub mod twin;
pub mod version;
