//! Tests of the whole, in one binary.

mod altered;
mod arp;
mod audit;
mod capture;
mod cases;
mod cli;
mod director;
mod director_live;
mod docs;
mod fuzzed;
mod ipvs;
mod lab;
mod lab_netlink;
mod live;
mod measured;
mod probe;
mod renumbered;
mod replay;
mod robust;
mod story;
mod stream;
mod support;
mod tidy;
mod twins;
mod within;
