#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringwatch::fuzzing::decode(bytes));
