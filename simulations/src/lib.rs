//! The deterministic simulator: the node's own core, store and client session in virtual time.
//!
//! What is here so far is the name of the place; the core's own tests (`node/core/tests`) run
//! several cores over the twin disk and the twin tables in virtual time.
