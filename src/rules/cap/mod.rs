//! cap
