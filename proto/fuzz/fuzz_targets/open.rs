//! Runs `bodies::open` on what libFuzzer invents.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::open(data));
