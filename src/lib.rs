//! lvscope finds out why a Linux Virtual Server (LVS/IPVS) is broken.

pub mod capture;
pub mod ipvs;
pub mod net;
pub mod packet;
pub mod trace;
