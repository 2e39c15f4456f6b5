#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| envoy_sds::fuzzing::run("delta", data));
