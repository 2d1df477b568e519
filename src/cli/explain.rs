//! `lvscope explain`: the page of a fault.

use super::output::Output;
use super::{FINE, Failure};
use crate::rules::{self, ALL, Cause, Rule};
use clap::Args;
use colored::Colorize;
use std::io::Write;

#[derive(Args)]
pub(super) struct Explain {
    /// A code or a name, such as NAT001 or rs-no-default-route; without one all are listed
    code: Option<String>,
}

pub(super) fn run(args: &Explain, out: &mut Output) -> Result<u8, Failure> {
    match &args.code {
        None => list(out)?,
        Some(code) => {
            let by_name = || ALL.iter().find(|rule| rule.name.eq_ignore_ascii_case(code)).copied();
            let cause = || rules::cause_of(code).or_else(|| rules::CAUSES.iter().find(|c| c.name.eq_ignore_ascii_case(code)));
            match (rules::find(code).or_else(by_name), cause()) {
                (Some(rule), _) => page(out, rule)?,
                (None, Some(cause)) => short(out, cause)?,
                (None, None) => return Err(unknown(code)),
            }
        }
    }
    Ok(FINE)
}

fn list(out: &mut Output) -> std::io::Result<()> {
    for rule in ALL {
        writeln!(out, "{}  {}", format!("{:<7}", rule.code).bold(), rule.name)?;
    }
    writeln!(out, "\nIn a few words, for no rule looks for them:\n")?;
    for cause in rules::CAUSES {
        writeln!(out, "{}  {}", format!("{:<7}", cause.code).bold(), cause.name)?;
    }
    Ok(())
}

fn page(out: &mut Output, rule: &Rule) -> std::io::Result<()> {
    writeln!(out, "{} {}", rule.code.bold(), rule.name)?;
    let width = out.width.min(100);
    let mut paragraph = String::new();
    for line in rule.page.lines().map(str::trim_end).chain([""]) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        let starts = line.is_empty() || line.starts_with(['#', '|', '-', ' ']);
        if starts && !paragraph.is_empty() {
            writeln!(
                out,
                "{}",
                textwrap::fill(&std::mem::take(&mut paragraph), textwrap::Options::new(width).initial_indent("  ").subsequent_indent("  "))
            )?;
        }
        match line.strip_prefix("# ") {
            Some(heading) => writeln!(out, "\n{}", heading.bold())?,
            None if line.starts_with(['|', '-', ' ']) => writeln!(out, "  {line}")?,
            None if line.is_empty() => {}
            None => {
                if !paragraph.is_empty() {
                    paragraph.push(' ');
                }
                paragraph += line;
            }
        }
    }
    Ok(())
}

/// What no rule proves has no page, but a word on where to look.
fn short(out: &mut Output, cause: &Cause) -> std::io::Result<()> {
    let options = textwrap::Options::new(out.width.min(100)).initial_indent("  ").subsequent_indent("  ");
    writeln!(out, "{} {}\n", cause.code.bold(), cause.name)?;
    writeln!(out, "{}", textwrap::fill(cause.what, &options))?;
    if cause.is_left_open {
        writeln!(out, "{}", textwrap::fill("Packets alone never prove it; findings name it where they cannot exclude it.", &options))?;
    }
    Ok(())
}

fn unknown(code: &str) -> Failure {
    let family: String = code.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_uppercase();
    let known = ALL.iter().map(|rule| rule.code).chain(rules::CAUSES.iter().map(|cause| cause.code));
    let mut near: Vec<&str> = known.filter(|c| !family.is_empty() && c.starts_with(&family)).collect();
    near.sort_unstable();
    let hint = if near.is_empty() { "`lvscope explain` lists them all".to_string() } else { format!("known: {}", near.join(" ")) };
    Failure::usage(format!("nothing is called '{code}'; {hint}"))
}
