//! `lvscope diagnose` on packets as they come: each finding once, when it has become clear, and at the end what it all came to.

use super::{Forgotten, LOOK, Session, Teller};
use crate::cli::output::Output;
use crate::cli::{Failure, Format};
use crate::finding::Finding;
use crate::host::Fleet;
use crate::net::Timestamp;
use crate::report::{self, Page, Report};
use crate::rules::{self, Diagnosis, Facts};
use crate::trace::{Hints, Trace};
use std::io::Write;
use std::time::{Duration, Instant};

/// How to tell.
pub(in crate::cli) struct Telling<'a> {
    pub(in crate::cli) format: Format,
    pub(in crate::cli) macs: bool,
    pub(in crate::cli) not_judged: bool,
    pub(in crate::cli) hints: &'a Hints,
    pub(in crate::cli) fleet: &'a Fleet,
}

/// What came of it.
pub(in crate::cli) struct Ended {
    pub(in crate::cli) trace: Trace,
    /// Everything that was told, too.
    pub(in crate::cli) diagnosis: Diagnosis,
    pub(in crate::cli) trouble: bool,
}

/// Looks until the end.
pub(in crate::cli) fn run(
    mut session: Session,
    telling: &Telling<'_>,
    name_hosts: impl Fn(&mut Trace),
    out: &mut Output,
) -> Result<Ended, Failure> {
    let (mut teller, mut forgotten) = (Teller::default(), Forgotten::default());
    let mut rest = Duration::ZERO;
    loop {
        let over = session.wait(rest);
        if !over && !session.is_happening() {
            // The page at the end tells it all.
            rest = LOOK;
            continue;
        }
        let begun = Instant::now();
        if over {
            session.end();
        }
        let mut trace = session.look();
        name_hosts(&mut trace);
        let mut diagnosis = rules::diagnose(&Facts { trace: &trace, hints: telling.hints, fleet: telling.fleet });
        if over {
            return end(&session, telling, (trace, diagnosis), (&mut teller, &forgotten), out);
        }
        let inputs = session.inputs();
        diagnosis.findings = teller.news(&diagnosis, begun, false).into_iter().cloned().collect();
        let report = Report { inputs: &inputs, trace: &trace, diagnosis: Some(&diagnosis), fleet: telling.fleet };
        tell(telling, &report, out)?;
        session.forget(&trace, &mut forgotten);
        // A look that takes long comes seldom.
        rest = LOOK.max(begun.elapsed() * 2);
    }
}

/// The findings of a report, as news.
fn tell(telling: &Telling<'_>, report: &Report<'_>, out: &mut Output) -> Result<(), Failure> {
    let findings = report.diagnosis.map(|d| &d.findings[..]).unwrap_or_default();
    if findings.is_empty() {
        return Ok(());
    }
    let when = report.trace.points.iter().filter(|p| p.frames > 0).map(|p| p.last).max().unwrap_or(Timestamp(0));
    match telling.format {
        Format::Table => {
            let width = out.width;
            for finding in findings {
                report::told(&mut Page::new(out, width, telling.macs), report.trace, finding, when)?;
            }
        }
        Format::Ndjson => report::json::write_moment(*report, when, out)?,
        // One object, at the end.
        Format::Json => {}
    }
    out.flush()?;
    Ok(())
}

fn end(
    session: &Session,
    telling: &Telling<'_>,
    (trace, mut diagnosis): (Trace, Diagnosis),
    (teller, forgotten): (&mut Teller, &Forgotten),
    out: &mut Output,
) -> Result<Ended, Failure> {
    let inputs = session.inputs();
    let fresh = teller.told().is_empty() && forgotten.total() == 0;
    let last: Vec<Finding> = teller.news(&diagnosis, Instant::now(), true).into_iter().cloned().collect();
    // The connections of what is gone have other numbers now, or none.
    let mut gone: Vec<Finding> = teller.gone(&diagnosis).cloned().collect();
    gone.iter_mut().for_each(|f| f.flows.clear());
    match telling.format {
        Format::Table => {
            let width = out.width;
            let report = Report { inputs: &inputs, trace: &trace, diagnosis: Some(&diagnosis), fleet: telling.fleet };
            if fresh {
                report::diagnosis(&mut Page::new(out, width, telling.macs), &report, telling.not_judged)?;
            } else {
                tell(telling, &Report { diagnosis: Some(&Diagnosis { findings: last, ..Diagnosis::default() }), ..report }, out)?;
                let page = &mut Page::new(out, width, telling.macs);
                report::summary(page, &report, teller.told(), (forgotten.total(), forgotten.failed()))?;
            }
        }
        Format::Json => {
            diagnosis.findings.extend(gone.iter().cloned());
            let report = Report { inputs: &inputs, trace: &trace, diagnosis: Some(&diagnosis), fleet: telling.fleet };
            report::json::write_report(report, out)?;
        }
        Format::Ndjson => {
            let all = std::mem::replace(&mut diagnosis.findings, last);
            let report = Report { inputs: &inputs, trace: &trace, diagnosis: Some(&diagnosis), fleet: telling.fleet };
            if !fresh {
                report::json::write_end(report, (forgotten.total(), forgotten.failed()), out)?;
            }
            report::json::write_lines(report, out)?;
            diagnosis.findings = all;
        }
    }
    if telling.format != Format::Json {
        diagnosis.findings.extend(gone);
    }
    Ok(Ended { trace, diagnosis, trouble: session.had_trouble() })
}
