//! Tests of the whole, in one binary.

mod audit;
mod cases;
mod cli;
mod director;
mod docs;
mod ipvs;
mod lab;
mod lab_netlink;
mod live;
mod replay;
mod robust;
mod support;
mod tidy;
