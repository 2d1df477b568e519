//! `lvscope director diff`: what IPVS should have sent against what was captured.

use super::playback::{Setup, open, play};
use super::rules::given;
use crate::cli::output::Output;
use crate::cli::{FINDINGS, FINE, Failure, NOTHING};
use crate::director::{Director, Fate};
use crate::net::{Endpoint, MacAddr, Protocol, Timestamp, plural};
use crate::packet::{ChecksumState, Frame, LinkType, Packet, TcpFlags, Transport, checksum_state, dissect};
use clap::Args;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
The last capture holds what the director sent; with one capture alone, that one
holds both (frames from the director's MAC are what it sent).

Examples:
  lvscope director diff --rules rules.ipvs director.ext.pcap director.int.pcap
  lvscope director diff --rules rules.ipvs director.eth0.pcap

Exit status: 0 no difference, 1 differences, 2 wrong usage, 3 unreadable input,
4 nothing to compare.")]
pub(super) struct Diff {
    /// What the director received, then what it sent
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    #[command(flatten)]
    setup: Setup,
}

/// A packet that went out, as far as it is compared.
#[derive(Clone, Debug)]
struct Seen {
    number: u64,
    time: Timestamp,
    src: Endpoint,
    dst: Endpoint,
    outer: Option<(IpAddr, IpAddr)>,
    ttl: u8,
    tos: u8,
    id: u32,
    dst_mac: Option<MacAddr>,
    checksum: ChecksumState,
    /// What no rewrite changes.
    digest: u64,
    /// Sequence number and length of TCP data; segments may be merged or cut on the way.
    data: Option<(u32, u32)>,
    /// A TCP reset.
    reset: bool,
}

/// A frame that is kept until all are read.
struct Kept {
    number: u64,
    time: Timestamp,
    link_type: LinkType,
    bytes: Vec<u8>,
}

impl Kept {
    fn new(of: &Frame<'_>, link_type: LinkType, bytes: &[u8]) -> Kept {
        Kept { number: of.number, time: of.time, link_type, bytes: bytes.to_vec() }
    }
}

/// A flow: its protocol, its client, and which way.
type Flow = (Protocol, Endpoint, bool);

fn seen(packet: &Packet<'_>, number: u64, time: Timestamp, is_answer: impl Fn(IpAddr) -> bool) -> Option<(Flow, Seen)> {
    let (mut tuple, ip) = (packet.five_tuple()?, *packet.ip()?);
    let mut hasher = DefaultHasher::new();
    // An error belongs to the flow that it quotes: what is compared are its ends, and the server's port in the quotation.
    let quoted = match &packet.transport {
        Transport::Icmp(icmp) => Some((icmp, icmp.quoted.as_ref()?.five_tuple()?)),
        _ => None,
    };
    if let Some((icmp, quoted)) = quoted {
        let (client, server) = if is_answer(quoted.src.addr) { (quoted.dst, quoted.src) } else { (quoted.src, quoted.dst) };
        (icmp.type_number, icmp.code, client).hash(&mut hasher);
        let to_client = ip.dst == client.addr;
        tuple.src = if to_client { Endpoint::new(ip.src, server.port) } else { client };
        tuple.dst = if to_client { client } else { Endpoint::new(ip.dst, server.port) };
        let seen = Seen {
            number,
            time,
            src: tuple.src,
            dst: tuple.dst,
            outer: packet.tunnels.first().map(|t| t.ends()),
            ttl: ip.ttl,
            tos: ip.tos,
            // Errors of the director's own are numbered at random.
            id: 0,
            dst_mac: packet.link.dst,
            checksum: ChecksumState::Unknown,
            digest: hasher.finish(),
            data: None,
            reset: false,
        };
        return Some(((tuple.protocol, client, to_client), seen));
    }
    match &packet.transport {
        Transport::Tcp(tcp) => (tcp.seq, tcp.ack, tcp.flags.0).hash(&mut hasher),
        Transport::Udp(_) => {}
        _ => return None,
    }
    packet.payload.hash(&mut hasher);
    let answer = is_answer(tuple.src.addr);
    let client = if answer { tuple.dst } else { tuple.src };
    let outer = packet.tunnels.first().map(|t| t.ends());
    Some((
        (tuple.protocol, client, answer),
        Seen {
            number,
            time,
            src: tuple.src,
            dst: tuple.dst,
            outer,
            ttl: ip.ttl,
            tos: ip.tos,
            id: ip.id,
            dst_mac: packet.link.dst,
            checksum: checksum_state(packet),
            digest: hasher.finish(),
            data: match &packet.transport {
                Transport::Tcp(tcp) if packet.payload_len > 0 => Some((tcp.seq, packet.payload_len)),
                _ => None,
            },
            reset: matches!(&packet.transport, Transport::Tcp(tcp) if tcp.flags.has(TcpFlags::RST)),
        },
    ))
}

/// True for addresses that answers come from.
fn is_server(director: &Director, addr: IpAddr) -> bool {
    let balancer = &director.engine.balancer;
    balancer.is_vip(addr) || balancer.pool().iter().any(|(_, dest)| dest.rule.addr == addr)
}

pub(super) fn run(args: &Diff, out: &mut Output) -> Result<u8, Failure> {
    let rules = given(&args.setup.rules)?;
    let (mut sent, mut own): (Vec<Kept>, Vec<Kept>) = (Vec::new(), Vec::new());
    let inputs = if args.captures.len() > 1 { &args.captures[..args.captures.len() - 1] } else { &args.captures[..] };
    // A two-armed director receives answers on the side where it sends requests: all captures are played.
    let mut local: HashSet<Endpoint> = HashSet::new();
    let played = play(&args.captures, &rules, &args.setup, |frame, packet, outcome| {
        if let (Some(Fate::Local), Some(tuple)) = (outcome.and_then(|o| o.fate), packet.five_tuple()) {
            local.insert(tuple.src);
        }
        match outcome {
            Some(outcome) => sent.extend(outcome.sent.iter().map(|s| Kept::new(frame, LinkType::ETHERNET, &s.bytes))),
            None => own.push(Kept::new(frame, frame.link_type, frame.bytes)),
        }
        Ok(())
    })?;
    // A capture from elsewhere (a real server, a link without MACs): all that is in it was sent by the director.
    if own.is_empty() && inputs.len() < args.captures.len() {
        let mut file = open(&args.captures[args.captures.len() - 1])?;
        while file.advance() {
            own.extend(file.frame().map(|f| Kept::new(&f, f.link_type, f.bytes)));
        }
    }
    let is_answer = |addr| is_server(&played.director, addr);
    let read = |kept: &Kept| {
        let Kept { number, time, link_type, bytes } = kept;
        let wire_len = bytes.len() as u32;
        let frame = Frame { bytes, wire_len, link_type: *link_type, time: *time, number: *number, interface: 0, heading: None };
        seen(&dissect(&frame), *number, *time, is_answer)
    };
    let mut flows: BTreeMap<(Timestamp, Flow), (Vec<Seen>, Vec<Seen>)> = BTreeMap::new();
    let mut begun: HashMap<Flow, Timestamp> = HashMap::new();
    for kept in &sent {
        if let Some((flow, one)) = read(kept) {
            let begin = *begun.entry(flow).or_insert(kept.time);
            flows.entry((begin, flow)).or_default().0.push(one);
        }
    }
    for kept in &own {
        if let Some((flow, one)) = read(kept) {
            // What belongs to no connection goes to the host's own stack, which refuses it.
            if one.reset && flow.2 && local.contains(&flow.1) {
                continue;
            }
            // What the director says for itself (health checks) is no flow of a service.
            if !begun.contains_key(&flow) && !flow.2 && !played.director.engine.balancer.is_vip(one.dst.addr) {
                continue;
            }
            let begin = *begun.entry(flow).or_insert(kept.time);
            flows.entry((begin, flow)).or_default().1.push(one);
        }
    }
    if flows.is_empty() {
        writeln!(out, "Nothing to compare: no packet of a service of the rules is in the captures.")?;
        return Ok(NOTHING);
    }
    let mut different = 0;
    for ((_, (protocol, client, answer)), (expected, captured)) in &flows {
        let Some((at, what)) = first_difference(expected, captured, *answer, &played.macs) else { continue };
        different += 1;
        let way = if *answer { "to" } else { "from" };
        writeln!(out, "✗ {protocol} {way} {client}")?;
        for (n, line) in textwrap::wrap(&what, out.width.saturating_sub(4)).iter().enumerate() {
            writeln!(out, "{}{line}", if n == 0 { format!("  {at}: ") } else { "    ".to_string() })?;
        }
    }
    let all = plural(flows.len() as u64, "flow");
    match different {
        0 => writeln!(out, "✓ {all}, all as IPVS sends them")?,
        n => writeln!(out, "{all}, {n} different from what IPVS sends")?,
    }
    Ok(if different == 0 { FINE } else { FINDINGS })
}

/// True when the data of `one` went by in other segments.
fn covered(one: &Seen, others: &[Seen]) -> bool {
    let Some((seq, len)) = one.data else { return false };
    let mut spans: Vec<(u32, u32)> = others
        .iter()
        .filter_map(|o| o.data)
        .map(|(at, n)| (at.wrapping_sub(seq), n))
        .filter(|(at, n)| at.wrapping_add(*n) as i32 > 0)
        .collect();
    // Those that begin before count from their beginning on: their distance is negative.
    spans.sort_by_key(|(at, _)| *at as i32);
    let mut reached = 0i64;
    for (at, n) in spans {
        if i64::from(at as i32) <= reached {
            reached = reached.max(i64::from(at as i32) + i64::from(n));
        }
    }
    reached >= i64::from(len)
}

/// Where two flows part, and how.
fn first_difference(expected: &[Seen], captured: &[Seen], answer: bool, macs: &[MacAddr]) -> Option<(String, String)> {
    let mut used = vec![false; captured.len()];
    for wanted in expected {
        let place = format!("#{}", wanted.number);
        let found = captured.iter().enumerate().find(|(at, c)| !used[*at] && c.digest == wanted.digest);
        let Some((at, got)) = found else {
            if covered(wanted, captured) {
                continue;
            }
            // A capture that ends before the packet could leave is no witness.
            let later = captured.iter().any(|c| c.time > wanted.time);
            let what = format!("IPVS sends it on ({} > {}), the captured director did not", wanted.src, wanted.dst);
            match later || captured.is_empty() {
                true => return Some((place, what)),
                false => continue,
            }
        };
        used[at] = true;
        if let Some(what) = difference(wanted, got, answer, macs) {
            return Some((format!("#{}", got.number), what));
        }
    }
    let extra = captured.iter().zip(&used).find(|(c, used)| !**used && !covered(c, expected)).map(|(c, _)| c)?;
    Some((format!("#{}", extra.number), format!("sent ({} > {}), though IPVS would not", extra.src, extra.dst)))
}

fn difference(wanted: &Seen, got: &Seen, answer: bool, macs: &[MacAddr]) -> Option<String> {
    let mut all = Vec::new();
    match (wanted.outer, got.outer) {
        (None, None) => {}
        (Some(a), Some(b)) if a == b => {}
        (Some((from, to)), Some((other_from, other_to))) => {
            all.push(format!("in a tunnel {other_from} > {other_to}; IPVS has {from} > {to}"))
        }
        (Some((from, to)), None) => all.push(format!("not in a tunnel; IPVS puts it into {from} > {to}")),
        (None, Some((from, to))) => all.push(format!("in a tunnel {from} > {to}; IPVS uses none")),
    }
    if wanted.dst != got.dst {
        all.push(format!("went to {}; IPVS sends it to {}", got.dst, wanted.dst));
    }
    if wanted.src != got.src {
        let not = if answer { " (not translated?)" } else { "" };
        all.push(format!("left with source {}{not}; IPVS makes it {}", got.src, wanted.src));
    }
    if wanted.ttl != got.ttl {
        all.push(format!("TTL {}; IPVS leaves {}", got.ttl, wanted.ttl));
    }
    if wanted.tos != got.tos {
        all.push(format!("type of service 0x{:02x}; IPVS keeps 0x{:02x}", got.tos, wanted.tos));
    }
    if wanted.id != got.id {
        all.push(format!("IP identification {}; IPVS keeps {}", got.id, wanted.id));
    }
    if got.checksum == ChecksumState::Bad && wanted.checksum != ChecksumState::Bad {
        all.push("its checksum is wrong; IPVS mends it".to_string());
    }
    // An invented MAC says nothing.
    if let (Some(a), Some(b)) = (wanted.dst_mac, got.dst_mac)
        && a != b
        && a.0[..2] != [2, 0]
        && !macs.contains(&b)
    {
        all.push(format!("went to MAC {b}; IPVS sends it to {a}"));
    }
    (!all.is_empty()).then(|| all.join("; "))
}
