//! `lvscope director replay`: a capture through the director; what it would have sent, dropped, and why.

use super::playback::{Setup, play};
use super::rules::given;
use crate::capture::PcapngWriter;
use crate::cli::captures::reason;
use crate::cli::output::Output;
use crate::cli::{FINE, Failure};
use crate::director::{Fate, Outcome};
use crate::ipvs::{ForwardingMethod, Listing, list, list_connections};
use crate::net::{plural, thousands};
use crate::packet::{Frame, LinkType, Packet, dissect};
use clap::Args;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope director replay --rules rules.ipvs director.ext.pcap director.int.pcap
  lvscope director replay --rules rules.ipvs client.pcap -o out.pcapng --packets
  lvscope director replay --rules rules.ipvs client.pcap -o - | lvscope show -

Frames that the captured director sent itself are left out of account.")]
pub(super) struct Replay {
    /// Captures (pcap, pcapng, also .gz and .zst); of several interfaces together
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Write what the director would have sent (pcapng; `-` is standard output)
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A line a packet: what became of it
    #[arg(long)]
    packets: bool,
    /// Print the connection table at the end, as `ipvsadm -lnc`
    #[arg(long)]
    connections: bool,
    /// Print traffic instead of connections, as `ipvsadm -ln --stats`
    #[arg(long)]
    stats: bool,
    /// Print the end as JSON
    #[arg(short = 'j', long)]
    json: bool,
    #[command(flatten)]
    setup: Setup,
}

pub(super) fn run(args: &Replay, out: &mut Output) -> Result<u8, Failure> {
    let rules = given(&args.setup.rules)?;
    let to_stdout = args.output.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let mut frames = Vec::new();
    let talk = !to_stdout;
    let played = play(&args.captures, &rules, &args.setup, |frame, packet, outcome| {
        let Some(outcome) = outcome else { return Ok(()) };
        if args.packets && talk {
            line(out, frame, packet, outcome)?;
        }
        if args.output.is_some() {
            for sent in &outcome.sent {
                frames.push((sent.port as u32, frame.time, sent.bytes.clone(), format!("of #{}", frame.number)));
            }
        }
        Ok(())
    })?;
    if let Some(path) = &args.output {
        let wrong = |e: std::io::Error| Failure::input(format!("{}: cannot be written: {}", path.display(), reason(&e)));
        let to: Box<dyn Write + '_> = match to_stdout {
            true => Box::new(&mut *out),
            false => Box::new(BufWriter::new(File::create(path).map_err(wrong)?)),
        };
        let mut writer = PcapngWriter::new(to, concat!("lvscope ", env!("CARGO_PKG_VERSION"))).map_err(wrong)?;
        for name in &played.interfaces {
            writer.interface(name, LinkType::ETHERNET).map_err(wrong)?;
        }
        for (port, time, bytes, comment) in &frames {
            writer.frame(*port, *time, bytes, Some(comment)).map_err(wrong)?;
        }
        writer.finish().map_err(wrong)?;
    }
    if to_stdout {
        return Ok(FINE);
    }
    let (director, tally) = (&played.director, &played.director.tally);
    if args.json {
        let state = super::state::json(&director.engine.balancer, played.end, tally);
        serde_json::to_writer_pretty(&mut *out, &state).map_err(|e| Failure::input(format!("cannot write the output: {e}")))?;
        writeln!(out)?;
        return Ok(FINE);
    }
    if args.packets {
        writeln!(out)?;
    }
    let mut left_out = String::new();
    if played.own > 0 {
        left_out = format!(", {} sent by the captured director left out", thousands(played.own));
    }
    writeln!(out, "{} played{left_out}", plural(played.frames, "frame"))?;
    super::state::tally(out, tally)?;
    writeln!(out)?;
    let listing = if args.stats { Listing::Stats } else { Listing::Connections };
    write!(out, "{}", list(&director.engine.balancer.listed(false), listing))?;
    if args.connections {
        write!(out, "\n{}", list_connections(&director.engine.balancer.connections(played.end)))?;
    }
    Ok(FINE)
}

/// `#12  192.168.2.100:40002 > 192.168.2.59:80  nat to 192.168.224.11:80`.
fn line(out: &mut Output, frame: &Frame<'_>, packet: &Packet<'_>, outcome: &Outcome) -> Result<(), Failure> {
    let Some(what) = describe(outcome) else { return Ok(()) };
    let Some(tuple) = packet.five_tuple() else { return Ok(()) };
    writeln!(out, "#{:<5} {}  {} > {}", frame.number, frame.time, tuple.src, tuple.dst)?;
    writeln!(out, "       {what}")?;
    Ok(())
}

/// What became of a packet, in words.
fn describe(outcome: &Outcome) -> Option<String> {
    Some(match outcome.fate? {
        Fate::Forwarded { to, method } => {
            let bytes = outcome.sent.first().map_or(&[][..], |sent| &sent.bytes);
            let seen = dissect(&Frame::whole(LinkType::ETHERNET, bytes));
            let ends = seen.five_tuple().map(|t| format!("{} > {}", t.src, t.dst)).unwrap_or_default();
            match method {
                Some(ForwardingMethod::Nat) => format!("nat: {ends}"),
                Some(ForwardingMethod::DirectRouting) => format!("dr: to the MAC of {to}"),
                Some(ForwardingMethod::Tunnel) => {
                    let outer = seen.tunnels.first().map(|t| t.ends());
                    outer.map_or_else(|| "tun".to_string(), |(from, to)| format!("tun: in {from} > {to}"))
                }
                None => format!("answer: {ends}"),
            }
        }
        Fate::Refused(reason) => format!("refused: {reason}; its sender is told by ICMP"),
        Fate::Local => "for the director itself".to_string(),
        Fate::Pass => "not for IPVS".to_string(),
        Fate::Held => "a fragment; the rest is waited for".to_string(),
        Fate::Dropped(reason) => format!("dropped: {reason}"),
    })
}
