#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_jumpcloud::sim::fuzzing::jumpcloud_sync(data));
