//! WINDOW: a network on one machine: hosts as network namespaces, without root, and nothing is left of it.
//!
//! `sandbox` makes this process root in namespaces of its own; `netns` are its hosts; `command` does to them what administrators would.

pub mod balance;
pub mod build;
pub mod catalogue;
pub mod command;
pub mod draw;
pub mod files;
mod ftp;
pub mod netns;
pub mod play;
pub mod prove;
pub mod record;
pub mod sandbox;
pub mod scenario;
pub mod scratch;
pub mod survey;
pub mod traffic;
pub mod tunnel;
