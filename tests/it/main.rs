//! Tests of the whole, in one binary.

mod cases;
mod cli;
mod docs;
mod robust;
mod support;
mod tidy;
