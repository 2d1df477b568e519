//! Tests of the whole, in one binary.

mod cases;
mod cli;
mod director;
mod docs;
mod replay;
mod robust;
mod support;
mod tidy;
