#![no_main]

use bsfs::codec::Codec;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bsfs_fuzz::decode_against(Codec::Difference, data));
