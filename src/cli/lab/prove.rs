//! `lvscope lab prove`: a table of what each stage said.

use super::super::output::Output;
use super::super::{FINDINGS, FINE, Failure};
use super::{Directors, Format, enter, failed};
use crate::lab::catalogue;
use crate::lab::prove::{Cause, Proof, Remedied, prove};
use crate::lab::scenario::Scenario;
use crate::lab::traffic::Saw;
use clap::Args;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Args)]
pub(super) struct Prove {
    /// Scenarios by name, or files that end with .toml
    #[arg(required_unless_present = "all", value_name = "NAME")]
    names: Vec<String>,
    /// All scenarios
    #[arg(long, conflicts_with = "names")]
    all: bool,
    #[command(flatten)]
    director: Directors,
    /// Play so many at once; they mostly wait
    #[arg(long, default_value_t = 6, value_name = "N")]
    jobs: usize,
    /// What to write
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
}

type Proved = Result<Proof, std::io::Error>;

pub(super) fn run(args: &Prove, out: &mut Output) -> Result<u8, Failure> {
    let names: Vec<String> = if args.all { catalogue::names().map(str::to_string).collect() } else { args.names.clone() };
    let scenarios: Vec<Scenario> = names.iter().map(|name| catalogue::open(name).map_err(failed)).collect::<Result<_, _>>()?;
    let builtin = args.director.is_builtin();
    // Of all, those that can be played.
    let (scenarios, others): (Vec<Scenario>, Vec<Scenario>) =
        scenarios.into_iter().partition(|scenario| !args.all || scenario.refuses(builtin).is_none());
    let begun = std::time::Instant::now();
    let scratch = enter()?;
    let next = AtomicUsize::new(0);
    let proofs = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, scenarios.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(at) else { return };
                    let proof = prove(scenario, builtin, &scratch.path().join(at.to_string()));
                    proofs.lock().unwrap_or_else(PoisonError::into_inner).push((at, proof));
                }
            });
        }
    });
    let mut proofs: Vec<(usize, Proved)> = proofs.into_inner().unwrap_or_else(PoisonError::into_inner);
    proofs.sort_by_key(|(at, _)| *at);
    let proofs: Vec<(&str, Proved)> = proofs.into_iter().map(|(at, proof)| (scenarios[at].name.as_str(), proof)).collect();
    let wrong = proofs.iter().filter(|(_, proof)| !proof.as_ref().is_ok_and(Proof::holds)).count();
    match args.format {
        Format::Table => {
            table(&proofs, wrong, begun.elapsed(), out)?;
            if !others.is_empty() {
                let names = others.iter().map(|scenario| scenario.name.as_str()).collect::<Vec<_>>().join(" ");
                let why = if builtin { "take the kernel's IPVS (--director kernel)" } else { "take the built-in director" };
                for line in textwrap::wrap(&format!("not played, for they {why}: {names}"), out.width.saturating_sub(4)) {
                    writeln!(out, "  {line}")?;
                }
            }
        }
        Format::Json => proofs.iter().try_for_each(|(name, proof)| writeln!(out, "{}", json(name, proof)))?,
    }
    Ok(if wrong > 0 { FINDINGS } else { FINE })
}

fn table(proofs: &[(&str, Proved)], wrong: usize, took: std::time::Duration, out: &mut Output) -> Result<(), Failure> {
    let good: Vec<&Proof> = proofs.iter().filter_map(|(_, proof)| proof.as_ref().ok()).collect();
    let count = |test: &dyn Fn(&&&Proof) -> bool| good.iter().filter(|proof| test(proof)).count();
    match wrong {
        0 => writeln!(out, "✓ all {} scenarios proved in {:.1} s\n", proofs.len(), took.as_secs_f64())?,
        _ => writeln!(out, "✗ {wrong} of {} scenarios not proved, in {:.1} s\n", proofs.len(), took.as_secs_f64())?,
    }
    let name = proofs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(8);
    writeln!(out, "  {:<name$}  {:<7}  {:<8}  {:<8}  {:<8}  remedy", "scenario", "cause", "packets", "hosts", "both")?;
    for (scenario, proof) in proofs {
        let proof = match proof {
            Ok(proof) => proof,
            Err(e) => {
                writeln!(out, "✗ {scenario:<name$}  could not be played: {e}")?;
                continue;
            }
        };
        let mark = if proof.holds() { "✓" } else { "✗" };
        let truth = proof.truth.as_deref().unwrap_or("healthy");
        let senses = [proof.by_captures, proof.by_hosts, proof.by_both].map(|cause| format!("{:<8}", named(cause))).join("  ");
        let line = format!("{mark} {scenario:<name$}  {truth:<7}  {senses}  {}", remedy(proof));
        writeln!(out, "{}", line.trim_end())?;
        if let Remedied::NotRun(why) | Remedied::StillBroken(why) = &proof.remedy {
            for line in textwrap::wrap(why, out.width.saturating_sub(4)) {
                writeln!(out, "    {line}")?;
            }
        }
        if !proof.holds() && !proof.found.is_empty() {
            writeln!(out, "    found: {}", proof.found.join(" "))?;
        }
        if !proof.holds() && !proof.others.is_empty() {
            writeln!(out, "    accused of what it is not about: {}", proof.others.join(" "))?;
        }
        if proof.by_both == Cause::Healthy && !proof.holds() {
            writeln!(out, "    it is healthy, and clients saw: {}", super::seen(&proof.broken))?;
        }
    }
    let faults = count(&|proof| proof.truth.is_some());
    writeln!(out)?;
    for (sense, of) in [("packets", (|p| p.by_captures) as fn(&Proof) -> Cause), ("hosts", |p| p.by_hosts), ("both", |p| p.by_both)] {
        let is = |cause: Cause| count(&|p| p.truth.is_some() && of(p) == cause);
        writeln!(
            out,
            "  {sense:<8} {faults} faults: {} named first, {} named, {} left open, {} not seen, {} missed",
            is(Cause::First),
            is(Cause::Found),
            is(Cause::Open),
            is(Cause::Unseen),
            is(Cause::Wrong),
        )?;
    }
    let silent = |p: &Proof| [p.by_captures, p.by_hosts, p.by_both].iter().all(|cause| *cause == Cause::Healthy);
    writeln!(
        out,
        "  remedies {} mend as printed, {} with blanks filled in, {} look first, {} take the kernel's IPVS\n  healthy  {}: {} silent",
        count(&|p| p.remedy == Remedied::Green),
        count(&|p| p.remedy == Remedied::Filled),
        count(&|p| p.remedy == Remedied::Looked),
        count(&|p| p.remedy == Remedied::NotHere),
        good.len() - faults,
        count(&|p| p.truth.is_none() && silent(p)),
    )?;
    let mut times: Vec<f64> = good.iter().map(|proof| proof.diagnosed.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    if let Some(median) = times.get(times.len() / 2) {
        writeln!(out, "  from the first command to the diagnosis: {median:.1} s (median)")?;
    }
    Ok(())
}

fn named(cause: Cause) -> &'static str {
    match cause {
        Cause::Healthy => "nobody",
        Cause::First => "first",
        Cause::Found => "too",
        Cause::Open => "open",
        Cause::Unseen => "–",
        Cause::Wrong => "wrong",
    }
}

fn remedy(proof: &Proof) -> &'static str {
    match proof.remedy {
        Remedied::Nothing => "",
        Remedied::Green => "green",
        Remedied::Filled => "filled in",
        Remedied::Looked => "looks",
        Remedied::NotHere => "not here",
        Remedied::NotRun(_) => "not run",
        Remedied::StillBroken(_) => "no help",
        Remedied::NotTried => "not tried",
    }
}

fn json(name: &str, proof: &Proved) -> serde_json::Value {
    match proof {
        Err(e) => serde_json::json!({ "name": name, "holds": false, "error": e.to_string() }),
        Ok(proof) => serde_json::json!({
            "name": name,
            "holds": proof.holds(),
            "cause": proof.truth,
            "found": proof.found,
            "others": proof.others,
            "by_captures": named(proof.by_captures),
            "by_hosts": named(proof.by_hosts),
            "by_both": named(proof.by_both),
            "remedy": remedy(proof),
            "why": match &proof.remedy { Remedied::NotRun(why) | Remedied::StillBroken(why) => Some(why), _ => None },
            "answered": proof.broken.iter().filter(|saw| **saw == Saw::Answer).count(),
            "asked": proof.broken.len(),
            "seconds": proof.diagnosed.as_secs_f64(),
        }),
    }
}
