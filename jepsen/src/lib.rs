//! The consistency suite: real `quoit serve` processes as separate hosts, workloads through the
//! client library, faults, histories, checkers.
//!
//! What is here so far is the name of the place; the end-to-end test of the program itself lives
//! with the node.
