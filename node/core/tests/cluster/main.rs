//! Several cores together, on twins of disks and links, through everything that may fail.

#![allow(unreachable_pub, reason = "one test program: its modules are seen by nobody else")]

mod anti_entropy;
mod bounds;
mod clients;
mod clocks;
mod continuity;
mod damage;
mod faults;
mod forwards;
mod hints;
mod large_values;
mod latest;
mod pages;
mod reads;
mod record;
mod recovery;
mod scrub;
mod sessions;
mod settle;
mod siblings;
mod sloppy;
mod storage;
mod world;
mod writes;
