//! What the fuzz targets do with their bytes. The project's own tests run the same code (`tests/it/fuzzed.rs`).

pub mod compressed;
pub mod diagnose;
pub mod director;
pub mod dissect;
pub mod pcap;
pub mod pcapng;
mod readers;
