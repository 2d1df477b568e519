//! The report for programs. Version 1 of its shape: `docs/report.schema.json`, explained in `docs/json.md`.

mod v1;

pub use v1::{write_end, write_flow, write_flows, write_journeys, write_lines, write_moment, write_report};
