#![no_main]
//! See the function that this calls.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quoit_node::decoding::http_requests(bytes));
