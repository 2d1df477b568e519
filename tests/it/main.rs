//! Tests of the whole, in one binary.

mod cases;
mod robust;
mod support;
