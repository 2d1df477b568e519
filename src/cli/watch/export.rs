//! The chosen connection into files: its page as text, its packets as pcapng.

use super::view::{Moment, whole_flow};
use crate::capture::PcapngWriter;
use crate::cli::live::Recent;
use crate::net::{FiveTuple, plural};
use crate::packet::{Transport, dissect};
use crate::trace::{Flow, Trace};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes `lvscope-CLIENT-PORT.txt` and `.pcapng` into a folder, and says what was written.
pub(super) fn export(folder: &Path, moment: &Moment, flow: &Flow, recent: &Recent) -> io::Result<String> {
    let name = format!("lvscope-{}-{}", flow.client.addr.to_string().replace(':', "_"), flow.client.port);
    let (text, packets): (PathBuf, PathBuf) = (folder.join(format!("{name}.txt")), folder.join(format!("{name}.pcapng")));
    let mut file = io::BufWriter::new(File::create(&text)?);
    for row in whole_flow(&moment.trace, flow, 100) {
        writeln!(file, "{}", row.text)?;
    }
    for finding in moment.diagnosis.findings.iter().filter(|f| f.flows.binary_search(&flow.id).is_ok()) {
        writeln!(
            file,
            "\n{} {}  {} · {} · {}\n{}",
            finding.code, finding.name, finding.severity, finding.confidence, finding.subject, finding.summary
        )?;
    }
    file.flush()?;
    let count = write(io::BufWriter::new(File::create(packets)?), &moment.trace, &tuples(flow), recent)?;
    let lost = if recent.is_whole() { "" } else { ", older ones are gone" };
    Ok(format!("written: {name}.txt and .pcapng ({}{lost})", plural(count, "packet")))
}

/// The addresses that its packets have, at any point, in either direction.
fn tuples(flow: &Flow) -> Vec<FiveTuple> {
    let mut tuples = Vec::new();
    for hop in flow.request.hops.iter().chain(&flow.request.strays).chain(&flow.reply.hops).chain(&flow.reply.strays) {
        let tuple = FiveTuple { protocol: flow.protocol, src: hop.src, dst: hop.dst };
        if !tuples.contains(&tuple) {
            tuples.extend([tuple, tuple.reversed()]);
        }
    }
    tuples
}

fn write(to: impl Write, trace: &Trace, tuples: &[FiveTuple], recent: &Recent) -> io::Result<u64> {
    let mut writer = PcapngWriter::new(to, concat!("lvscope ", env!("CARGO_PKG_VERSION")))?;
    for point in &trace.points {
        writer.interface(&point.name, point.link_type)?;
    }
    let mut count = 0;
    for (point, frame) in recent.frames().filter(|(point, _)| (*point as usize) < trace.points.len()) {
        let packet = dissect(&frame);
        let about = match &packet.transport {
            // An error about one of its packets belongs to it.
            Transport::Icmp(icmp) if icmp.is_error() => icmp.quoted.as_ref().and_then(|quoted| quoted.five_tuple()),
            _ => packet.five_tuple(),
        };
        if about.is_some_and(|tuple| tuples.contains(&tuple)) {
            writer.packet(point, frame.time, frame.bytes, frame.wire_len, None)?;
            count += 1;
        }
    }
    writer.finish()?.flush()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::super::view::listed;
    use super::*;
    use crate::capture::{CaptureFile, Merged};
    use crate::case::{Case, declare};
    use crate::host::Fleet;
    use crate::rules::{Facts, diagnose};
    use crate::trace::{Hints, Options, Tracer};

    #[test]
    fn a_connection_and_nothing_else() {
        colored::control::set_override(false);
        let case = Case::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/faults/nat-no-ip-forward")).unwrap();
        let files = case.captures.iter().map(|arg| CaptureFile::open(&arg.path).unwrap()).collect();
        let (mut tracer, mut recent, mut points) =
            (Tracer::new(Options::default()), Recent::default(), vec![Vec::new(); case.captures.len()]);
        let mut merged = Merged::new(files);
        while let Some(at) = merged.advance() {
            let file = &merged.files()[at];
            declare(&mut tracer, at, &case.captures[at], &mut points[at], file.interfaces());
            let frame = file.frame().unwrap();
            let point = points[at][frame.interface as usize];
            recent.push(point, &frame);
            tracer.observe(point, &frame);
        }
        let trace = tracer.finish();
        let diagnosis = diagnose(&Facts { trace: &trace, hints: &Hints::default(), fleet: &Fleet::default() });
        let moment = Moment { trace, diagnosis, gone: Vec::new(), from: String::new(), state: "live", forgotten: 0 };
        let folder = tempfile::tempdir().unwrap();
        let flow = &listed(&moment.trace, false)[0];
        let said = export(folder.path(), &moment, flow, &recent).unwrap();
        let name = format!("lvscope-{}-{}", flow.client.addr, flow.client.port);
        assert!(said.contains(&name) && said.contains("packets"), "{said}");
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.txt"))).unwrap();
        assert!(text.contains(&flow.client.to_string()) && text.contains("NAT005") && text.contains('▶'), "{text}");
        let mut file = CaptureFile::open(&folder.path().join(format!("{name}.pcapng"))).unwrap();
        let mut count = 0;
        while file.advance() {
            let frame = file.frame().unwrap();
            let tuple = dissect(&frame).five_tuple().unwrap();
            assert!(tuple.src.port == flow.client.port || tuple.dst.port == flow.client.port, "{tuple:?}");
            count += 1;
        }
        assert!(count >= 4 && count < moment.trace.packets && file.damage().is_empty(), "{count}");
        let names: Vec<&str> = file.interfaces().iter().filter_map(|i| i.name.as_deref()).collect();
        assert!(names.contains(&"director.ext"), "{names:?}");
        // Where nothing can be written that is said.
        assert!(export(Path::new("/no/such/folder"), &moment, flow, &recent).is_err());
    }
}
