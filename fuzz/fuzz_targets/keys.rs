//! Bytes from libFuzzer for `harness::keys`.

#![no_main]

#[path = "../harness.rs"]
#[allow(dead_code, reason = "each target is one of its functions")]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::keys(bytes));
