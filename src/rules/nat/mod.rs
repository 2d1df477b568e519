//! Masquerading.

pub mod nat001;
