#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lvscope_fuzz::pcapng::run(bytes));
