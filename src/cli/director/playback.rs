//! A capture through the director, at the capture's own times.

use super::Behaviour;
use super::rules::Given;
use crate::capture::{CaptureFile, Merged, OpenError};
use crate::cli::Failure;
use crate::cli::captures::reason;
use crate::director::{Balancer, Director, Faults, MarkRule, Outcome, Survey, as_arrived};
use crate::net::{MacAddr, Prefix, Protocol, Timestamp};
use crate::packet::{Frame, Packet, dissect};
use clap::Args;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What a playback needs to know.
#[derive(Args)]
pub(super) struct Setup {
    /// The director's rules: as `ipvsadm -Sn` writes them, or its snapshot
    #[arg(long, value_name = "FILE")]
    pub(super) rules: PathBuf,
    /// An address of the director, where the capture does not show it
    #[arg(long = "address", value_name = "DIP")]
    addresses: Vec<IpAddr>,
    /// The longest packet that its interfaces take
    #[arg(long, default_value_t = 1500, value_name = "BYTES")]
    mtu: usize,
    /// Mark packets as a firewall does: 1=tcp:192.168.2.0/24:80 (protocol and ports may be left out)
    #[arg(long = "mark", value_name = "MARK=WHAT", value_parser = mark)]
    marks: Vec<MarkRule>,
    /// Be broken: drop-syn-ack=N wrong-mac=MAC keep-ttl old-mtu-test wrong-checksum delay-answer=MS keep-answer
    #[arg(long = "fault", value_name = "FAULT")]
    pub(super) faults: Vec<Faults>,
    #[command(flatten)]
    pub(super) behaviour: Behaviour,
}

/// `MARK=[PROTOCOL:]ADDRESS[/LEN][:PORT[-PORT]]`.
pub(super) fn mark(text: &str) -> Result<MarkRule, String> {
    let wrong = || format!("'{text}' is not MARK=[PROTOCOL:]ADDRESS[/LENGTH][:PORT[-PORT]]");
    let (number, what) = text.split_once('=').ok_or_else(wrong)?;
    let (protocol, rest) = match what.split_once(':') {
        Some(("tcp", rest)) => (Some(Protocol::Tcp), rest),
        Some(("udp", rest)) => (Some(Protocol::Udp), rest),
        Some(("sctp", rest)) => (Some(Protocol::Sctp), rest),
        _ => (None, what),
    };
    let whole: Option<Prefix> = rest.trim_matches(['[', ']']).parse().ok();
    let (to, ports) = match (whole, rest.rsplit_once(':')) {
        (Some(to), _) => (to, (0, u16::MAX)),
        (None, Some((addr, ports))) => {
            let (from, to) = ports.split_once('-').unwrap_or((ports, ports));
            let to_port = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
            (addr.trim_matches(['[', ']']).parse().map_err(|_| wrong())?, to_port)
        }
        _ => return Err(wrong()),
    };
    Ok(MarkRule { mark: number.parse().map_err(|_| wrong())?, protocol, to, ports })
}

/// Opens a capture.
pub(super) fn open(path: &Path) -> Result<CaptureFile, Failure> {
    CaptureFile::open(path).map_err(|e| {
        let why = match &e {
            OpenError::Io(e) => format!("cannot be read: {}", reason(e)),
            other => other.to_string(),
        };
        Failure::input(format!("{}: {why}", path.display()))
    })
}

/// The interface names of a capture; a file without names has its own.
fn interface_names(file: &CaptureFile, path: &Path) -> Vec<String> {
    let stem = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.trim_end_matches(".gz").trim_end_matches(".zst").trim_end_matches(".pcapng").trim_end_matches(".pcap").to_string();
    file.interfaces()
        .iter()
        .enumerate()
        .map(|(at, i)| i.name.clone().unwrap_or_else(|| if at == 0 { stem.clone() } else { format!("{stem}.{at}") }))
        .collect()
}

/// A capture played, with what came out of it.
pub(super) struct Playback {
    pub(super) director: Director,
    pub(super) interfaces: Vec<String>,
    /// MACs of the captured director.
    pub(super) macs: Vec<MacAddr>,
    pub(super) frames: u64,
    /// Frames that the captured director sent itself.
    pub(super) own: u64,
    pub(super) end: Timestamp,
}

/// Reads the captures twice: to learn who is who, and to play them, merged by time. `each` gets every frame with its outcome; the
/// director's own frames have none. Interfaces are numbered through all files.
pub(super) fn play(
    paths: &[PathBuf],
    rules: &Given,
    setup: &Setup,
    mut each: impl FnMut(&Frame<'_>, &Packet<'_>, Option<&Outcome>) -> Result<(), Failure>,
) -> Result<Playback, Failure> {
    if paths.iter().any(|path| path.as_os_str() == "-") {
        return Err(Failure::usage("captures are read twice: name files, standard input cannot be read again"));
    }
    let balancer = || {
        let made = Balancer::with_rules(setup.behaviour.settings(rules.settings)?, setup.behaviour.seed, &rules.services);
        made.map_err(|e| Failure::input(format!("{}: {e}", setup.rules.display())))
    };
    let (mut survey, known) = (Survey::default(), balancer()?);
    let mut start: Option<Timestamp> = None;
    let (mut interfaces, mut bases) = (Vec::new(), Vec::new());
    for path in paths {
        let mut file = open(path)?;
        let base = interfaces.len() as u32;
        while file.advance() {
            if let Some(frame) = file.frame() {
                start = Some(start.map_or(frame.time, |start| start.min(frame.time)));
                survey.frame(&Frame { interface: base + frame.interface, ..frame }, &known);
            }
        }
        bases.push(base);
        interfaces.extend(interface_names(&file, path));
    }
    let start = start.unwrap_or_default();
    let mut director = survey.director(balancer()?, &interfaces, &setup.addresses, setup.mtu, start);
    director.engine.marks = setup.marks.clone();
    director.engine.faults = setup.faults.iter().fold(Faults::default(), |all, one| all.and(*one));
    let macs = survey.macs();
    let mut played = Playback { director, interfaces, macs: macs.clone(), frames: 0, own: 0, end: start };
    let mut merged = Merged::new(paths.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?);
    while let Some(at) = merged.advance() {
        let Some(frame) = merged.files().get(at).and_then(CaptureFile::frame) else { continue };
        let packet = dissect(&frame);
        let frame = Frame { interface: bases[at] + frame.interface, ..frame };
        played.frames += 1;
        played.end = played.end.max(frame.time);
        match as_arrived(&frame, &packet, &macs) {
            None => {
                played.own += 1;
                each(&frame, &packet, None)?;
            }
            Some(bytes) => {
                let outcome = played.director.frame(frame.interface as usize, &bytes, &[0; 10], frame.time);
                each(&frame, &packet, Some(&outcome))?;
            }
        }
    }
    for (file, path) in merged.files().iter().zip(paths) {
        if let Some(damage) = file.damage().first() {
            crate::cli::output::complain(&format!("{}: {damage}; {} packets before it were read", path.display(), file.frames()));
        }
    }
    Ok(played)
}
