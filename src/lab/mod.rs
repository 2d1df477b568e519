//! WINDOW: a network on one machine: hosts as network namespaces, without root, and nothing is left of it.
//!
//! `sandbox` makes this process root in namespaces of its own; `netns` are its hosts; `command` does to them what administrators would.

pub mod command;
pub mod netns;
pub mod sandbox;
