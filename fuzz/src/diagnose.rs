use lvscope::capture::{Burst, CaptureFile, Merged};
use lvscope::host::Fleet;
use lvscope::rules::{Facts, diagnose};
use lvscope::trace::{Hints, Options, Source, Tracer};
use std::io::Cursor;

/// Names that say something and names that do not.
const NAMES: [&str; 4] = ["director.eth0.pcap", "b.pcap", "web1.eth0.pcap", "client.eth0.pcap"];

/// Captures one after the other, each with its length in two bytes in front; longer ones are what is left.
pub fn run(bytes: &[u8]) {
    let (mut rest, mut files) = (bytes, Vec::new());
    while let [low, high, tail @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (one, next) = tail.split_at(len);
        rest = next;
        if files.len() < NAMES.len()
            && !one.starts_with(&[0x1f, 0x8b])
            && let Ok(file) = CaptureFile::from_reader(NAMES[files.len()], Box::new(Cursor::new(one.to_vec())))
        {
            files.push(file);
        }
    }
    let mut tracer = Tracer::new(Options { packets: bytes.len().is_multiple_of(2), ..Options::default() });
    let mut points: Vec<Vec<u32>> = vec![Vec::new(); files.len()];
    Merged::new(files).for_each(|i, interfaces, burst| {
        for interface in &interfaces[points[i].len().min(interfaces.len())..] {
            points[i].push(tracer.point(&Source {
                file: i,
                file_name: NAMES[i].to_string(),
                given: None,
                interface_name: interface.name.clone(),
                one_of_several: interfaces.len() > 1,
                part: false,
                link_type: interface.link_type,
                snap_len: interface.snap_len,
            }));
        }
        match burst {
            Burst::One(frame) => tracer.observe(points[i][frame.interface as usize], &frame),
            Burst::Window(records) => {
                tracer.observe_all(points[i][0], records.window(), records);
            }
        }
        true
    });
    let trace = tracer.finish();
    let _ = trace.all_flows().count();
    let _ = trace.journeys().count();
    for finding in diagnose(&Facts { trace: &trace, hints: &Hints::default(), fleet: &Fleet::default() }).findings {
        assert!(!finding.evidence().is_empty());
        assert!(finding.flows.iter().all(|id| trace.flow(*id).is_some()));
    }
}
