//! `lvscope lab list`.

use super::super::output::Output;
use super::super::{FINE, Failure};
use super::{Format, failed};
use crate::lab::catalogue;
use crate::lab::scenario::Scenario;
use clap::Args;
use std::io::Write;

#[derive(Args)]
pub(super) struct List {
    /// Only scenarios with this word in their name, codes or text
    #[arg(value_name = "WORD")]
    word: Option<String>,
    /// What to write
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
}

/// Whose director can play a scenario.
fn director(scenario: &Scenario) -> &'static str {
    match (scenario.refuses(true).is_none(), scenario.refuses(false).is_none()) {
        (true, true) => "any",
        (true, false) => "builtin",
        (false, _) => "kernel",
    }
}

pub(super) fn run(args: &List, out: &mut Output) -> Result<u8, Failure> {
    let all: Vec<Scenario> = catalogue::names().map(|name| catalogue::open(name).map_err(failed)).collect::<Result<_, _>>()?;
    let has = |scenario: &&Scenario| {
        let text = format!("{} {} {} {}", scenario.name, scenario.codes.join(" "), scenario.title, scenario.client_sees).to_lowercase();
        args.word.as_ref().is_none_or(|word| text.contains(&word.to_lowercase()))
    };
    let (healthy, faults): (Vec<&Scenario>, Vec<&Scenario>) = all.iter().filter(has).partition(|scenario| scenario.is_healthy());
    if args.format == Format::Json {
        for scenario in faults.iter().chain(&healthy) {
            let line = serde_json::json!({
                "name": scenario.name, "fault": scenario.title, "codes": scenario.codes, "client_sees": scenario.client_sees,
                "director": director(scenario),
            });
            writeln!(out, "{line}")?;
        }
        return Ok(FINE);
    }
    let name = all.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    let text = out.width.saturating_sub(name + 11).max(30);
    let row = |out: &mut Output, scenario: &Scenario| -> Result<(), Failure> {
        let kernel = if director(scenario) == "kernel" { " (--director kernel)" } else { "" };
        let title = format!("{}{kernel}", scenario.title);
        let fault = textwrap::wrap(&title, text);
        let sees = match scenario.client_sees.as_str() {
            "" => Vec::new(),
            sees => textwrap::wrap(sees, textwrap::Options::new(text).initial_indent("> ").subsequent_indent("  ")),
        };
        for (at, line) in fault.iter().chain(&sees).enumerate() {
            let (first, code) =
                if at == 0 { (scenario.name.as_str(), scenario.codes.first().map_or("", String::as_str)) } else { ("", "") };
            writeln!(out, "{}", format!("{first:<name$}  {code:<7}  {line}").trim_end())?;
        }
        Ok(())
    };
    if !faults.is_empty() {
        writeln!(out, "{} faults, and what the client sees (>):\n", faults.len())?;
        faults.iter().try_for_each(|scenario| row(out, scenario))?;
    }
    if !healthy.is_empty() {
        writeln!(out, "\n{} healthy ones, some of which look like faults:\n", healthy.len())?;
        healthy.iter().try_for_each(|scenario| row(out, scenario))?;
    }
    Ok(FINE)
}
