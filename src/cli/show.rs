//! `lvscope show`: packets, a line each.

use super::captures::Captures;
use super::output::{Output, complain};
use super::{FINE, Failure, Format, INPUT, WrittenAs};
use crate::capture::{CaptureFile, Interface, Merged};
use crate::case::{self, CaptureArg};
use crate::net::thousands;
use crate::packet::{Frame, Packet, dissect};
use crate::trace::Source;
use clap::Args;
use colored::Colorize;
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Write};

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope show director.eth0.pcap
  lvscope show *.pcap 'host 192.168.2.100 and port 80' -c 20")]
pub(super) struct Show {
    #[command(flatten)]
    captures: Captures,
    #[command(flatten)]
    written: WrittenAs,
}

#[derive(Serialize)]
struct Line<'a> {
    point: &'a str,
    file: &'a str,
    frame: u64,
    time: f64,
    length: u32,
    captured: usize,
    src_mac: Option<String>,
    dst_mac: Option<String>,
    packet: String,
}

pub(super) fn run(args: &Show, out: &mut Output) -> Result<u8, Failure> {
    let (captures, mut filter) = args.captures.sorted()?;
    let mut files = Vec::new();
    let mut args_of = Vec::new();
    let mut unreadable = Vec::new();
    for capture in captures {
        match CaptureFile::open(&capture.path) {
            Ok(file) => {
                files.push(file);
                args_of.push(capture);
            }
            Err(e) => unreadable.push(format!("{}: {e}", capture.path.display())),
        }
    }
    if files.is_empty() {
        return Err(Failure::input(unreadable.join("\nlvscope: ")));
    }
    unreadable.iter().for_each(|text| complain(text));
    let format = args.written.format();
    let mut names: Vec<Vec<String>> = vec![Vec::new(); files.len()];
    let mut written = Written::new(out, format);
    let most = args.captures.count().unwrap_or(u64::MAX);
    let (begins, mut numbers) = (case::begins(&args_of), HashMap::<usize, u64>::new());
    let mut merged = Merged::new(files);
    while let Some(at) = merged.advance() {
        if written.shown >= most || written.result.is_err() {
            break;
        }
        let file = &merged.files()[at];
        let Some(mut frame) = file.frame() else { continue };
        // Of a rotated capture as in the report; a line that names the file has the file's own numbers.
        if let (Some(first), Format::Table) = (begins[at], format) {
            let number = numbers.entry(first).or_insert(0);
            *number += 1;
            frame.number = *number;
        }
        if filter.as_mut().is_some_and(|f| !f.passes(&frame)) {
            continue;
        }
        if names[at].len() < file.interfaces().len() {
            names[at] = file.interfaces().iter().map(|i| point_name(&args_of[at], i, file.interfaces().len())).collect();
        }
        let name = names[at].get(frame.interface as usize).map_or("?", String::as_str);
        written.packet(name, file.name(), &frame);
    }
    written.end()?;
    let mut cut = false;
    for file in merged.files() {
        for damage in file.damage() {
            complain(&format!("{}: {damage}; {} packets before it were read", file.name(), thousands(file.frames())));
            cut |= !damage.cut_short;
        }
    }
    Ok(if cut || !unreadable.is_empty() { INPUT } else { FINE })
}

fn point_name(arg: &CaptureArg, interface: &Interface, interfaces: usize) -> String {
    let source = Source {
        file: 0,
        file_name: arg.path.display().to_string(),
        given: arg.point.clone(),
        interface_name: interface.name.clone(),
        one_of_several: interfaces > 1,
        part: false,
        link_type: interface.link_type,
        snap_len: interface.snap_len,
    };
    source.point_name()
}

/// Packets as they are written.
pub(super) struct Written<'o> {
    out: &'o mut Output,
    format: Format,
    shown: u64,
    result: io::Result<()>,
}

impl<'o> Written<'o> {
    pub(super) fn new(out: &'o mut Output, format: Format) -> Self {
        Written { out, format, shown: 0, result: Ok(()) }
    }

    pub(super) fn packet(&mut self, point: &str, file: &str, frame: &Frame<'_>) {
        let packet = dissect(frame);
        self.result = match self.format {
            Format::Table => self.text(point, frame, &packet),
            _ => self.json(point, file, frame, &packet),
        };
        self.shown += 1;
    }

    fn text(&mut self, point: &str, frame: &Frame<'_>, packet: &Packet<'_>) -> io::Result<()> {
        let mac = |mac: Option<crate::net::MacAddr>| mac.map_or_else(|| "-".to_string(), |mac| mac.to_string());
        let macs = match (packet.link.src, packet.link.dst) {
            (None, None) => String::new(),
            (src, dst) => format!("{} > {} ", mac(src), mac(dst)),
        };
        writeln!(self.out, "{} {} {} {}{packet}", point.bold(), format!("#{}", frame.number).cyan(), frame.time, macs.dimmed())
    }

    fn json(&mut self, point: &str, file: &str, frame: &Frame<'_>, packet: &Packet<'_>) -> io::Result<()> {
        let line = Line {
            point,
            file,
            frame: frame.number,
            time: frame.time.as_seconds(),
            length: frame.wire_len,
            captured: frame.bytes.len(),
            src_mac: packet.link.src.map(|mac| mac.to_string()),
            dst_mac: packet.link.dst.map(|mac| mac.to_string()),
            packet: packet.to_string(),
        };
        if self.format == Format::Json {
            self.out.write_all(if self.shown == 0 { b"[" } else { b",\n" })?;
        }
        serde_json::to_writer(&mut *self.out, &line)?;
        if self.format == Format::Ndjson { writeln!(self.out) } else { Ok(()) }
    }

    pub(super) fn end(self) -> io::Result<()> {
        self.result?;
        match (self.format, self.shown) {
            (Format::Json, 0) => writeln!(self.out, "[]"),
            (Format::Json, _) => writeln!(self.out, "]"),
            _ => Ok(()),
        }
    }
}
