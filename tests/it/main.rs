//! One integration binary.

mod cli;
mod docs;
mod tidy;
