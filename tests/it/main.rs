//! Tests of the whole, in one binary.

mod cases;
mod cli;
mod director;
mod docs;
mod lab;
mod lab_netlink;
mod replay;
mod robust;
mod support;
mod tidy;
