//! `lvscope trace`: connections and their hops, without judgement.

use super::live::{Given, Session, Source};
use super::output::Output;
use super::{FINE, Failure, Format, INPUT, NOTHING, WrittenAs};
use crate::report::{self, Page, Report};
use clap::Args;

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope trace *.pcap
  lvscope trace *.pcap --flow 1 --ladder
  lvscope trace *.pcap --packets --format ndjson
  lvscope trace -i eth0 --duration 10s 'port 80'")]
pub(super) struct Trace {
    #[command(flatten)]
    given: Given,
    /// Only this connection
    #[arg(long, value_name = "N")]
    flow: Option<u32>,
    /// Draw the connection as a ladder
    #[arg(long, requires = "flow")]
    ladder: bool,
    /// Every connection hop by hop, not examples
    #[arg(long, conflicts_with = "flow")]
    all: bool,
    /// Every packet's way, a JSON object a line
    #[arg(long, conflicts_with_all = ["ladder", "all"])]
    packets: bool,
    /// Show MAC addresses instead of host names
    #[arg(short = 'e', long = "macs")]
    macs: bool,
    #[command(flatten)]
    written: WrittenAs,
}

pub(super) fn run(args: &Trace, out: &mut Output) -> Result<u8, Failure> {
    let hints = args.given.hints()?;
    let traced = match Session::begin(Source { given: &args.given, packets: args.packets, recent: false, play: None }, &hints)? {
        Some(session) => session.until_end(),
        None => args.given.captures.trace(hints, args.packets)?,
    };
    let (trace, width) = (&traced.trace, out.width);
    let report = Report { inputs: &traced.inputs, trace, diagnosis: None, fleet: &crate::host::Fleet::default() };
    let one = match args.flow {
        None => None,
        Some(id) => Some(trace.flow(id).ok_or_else(|| {
            let count = trace.flow_count();
            Failure::usage(if count == 0 {
                "there is no connection in these captures".to_string()
            } else {
                format!("there is no connection {id}: they are numbered 1 to {count}")
            })
        })?),
    };
    let format = args.written.format();
    if args.packets || format != Format::Table {
        traced.warn();
    }
    match (format, one) {
        _ if args.packets => report::json::write_journeys(trace, args.flow, out)?,
        (Format::Table, Some(flow)) => {
            let page = &mut Page::new(out, width, args.macs);
            if args.ladder { report::ladder(page, trace, &flow)? } else { report::connection(page, trace, &flow)? }
        }
        (Format::Table, None) => report::trace(&mut Page::new(out, width, args.macs), &report, args.all)?,
        (_, Some(flow)) => report::json::write_flow(report, &flow, out)?,
        (Format::Json, None) => report::json::write_report(report, out)?,
        (Format::Ndjson, None) => report::json::write_flows(report, out)?,
    }
    Ok(match (traced.unreadable, trace.flow_count()) {
        (true, _) => INPUT,
        (false, 0) => NOTHING,
        _ => FINE,
    })
}
