#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bsfs_fuzz::against(data));
