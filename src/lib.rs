//! lvscope finds out why a Linux Virtual Server (LVS/IPVS) is broken.

pub mod capture;
pub mod case;
pub mod cli;
pub mod collect;
pub mod director;
pub mod finding;
pub mod host;
pub mod ipvs;
pub mod lab;
pub mod net;
pub mod netlink;
pub mod packet;
pub mod probe;
pub mod report;
pub mod rules;
pub mod trace;
