// lvsgen - deterministic generator of multi-vantage-point load-balancer captures.
// One file, no dependencies:   rustc --edition 2021 -O lvsgen.rs -o lvsgen   (benches/joins and benches/compare do that)
// Written for this project, first to try out designs, before there was a tracer; kept as it was, so that figures compare.
//
// Every original packet of every flow is "seen" at each vantage point that its
// mode lets it pass; each sighting has that hop's MACs, TTL and addresses, and
// correct IP and TCP/UDP checksums (as a real NAT would leave them).
//
//   --mode nat|fnat|dr|tun   what the director does (default nat)
//        nat : VIP:vport -> RIP:rport and back, TTL-1            (LVS-NAT)
//        fnat: as nat, and CIP:cport -> LIP:lport                (LVS-FULLNAT/SNAT)
//        dr  : MACs only, answers go RS -> client directly       (LVS-DR)
//        tun : IPIP towards the RS, answers directly             (LVS-TUN)
//   --flows N --pkts M       flows, original packets per flow
//   --active C               flows alive at once (default 4096)
//   --sizes mix|small|fixed:N   mix = 40% 64-128, 20% 576, 40% 1514
//   --snaplen S              bytes kept per packet (default 262144)
//   --points LIST            of client,dext,dint,rs (default all)
//   --out PREFIX             PREFIX.<point>.pcap, or with --merged PREFIX.pcap
//   --merged                 one time-ordered file (pcapng: one interface per point)
//   --format pcap|pcapng     --ns (nanosecond stamps)
//   --vlan PCT --udp PCT --retrans PCT --loss PCT --arp PCT (decimals allowed)
//   --skew NS                clock offset: point k is k*NS ahead (default 0)
//   --v6 PCT                 IPv6 flows (nat/fnat/dr only)
//   --seed S --vips V --rss R
//   --truth FILE             one line per flow: original and rewritten tuple
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufWriter, Write};

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 { // splitmix64
        self.0 = self.0.wrapping_add(0x9E3779B97F4A7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 { ((self.next() as u128 * n as u128) >> 64) as u64 }
    fn pct(&mut self, p: u32) -> bool { p != 0 && self.below(1_000_000) < p as u64 } // p in ppm
}
fn mix(mut z: u64) -> u64 { z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9); z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB); z ^ (z >> 31) }

#[derive(Clone, Copy, PartialEq)]
enum Mode { Nat, Fnat, Dr, Tun }

#[derive(Clone, Copy)]
struct Flow { id: u64, sent: u32, cseq: u32, sseq: u32, cipid: u16, sipid: u16, udp: bool, v6: bool, vlan: bool, again: Option<Pkt> }

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pkt { flow: u64, seq: u32, ack: u32, ipid: u16, plen: u16, flags: u8, c2s: bool, udp: bool, v6: bool, vlan: bool, arp: bool }

// a sighting waiting for its turn to be written: ordered by time, then by serial
type Ev = Reverse<(u64, u64, u8, Pkt)>;

struct Cfg { mode: Mode, vips: u32, rss: u32, seed: u64 }
struct Tuple { c: [u8; 16], cp: u16, v: [u8; 16], vp: u16, r: [u8; 16], rp: u16, l: [u8; 16], lp: u16, n: usize }

fn tuple(cfg: &Cfg, id: u64, v6: bool) -> Tuple {
    // distinct client (address, port) for every id below 2^31; looks random
    let h = mix(id ^ cfg.seed.rotate_left(17));
    let cp = 1024 + ((id >> 16) % 64000) as u16;
    let chost = (id as u32).wrapping_mul(2654435761) & 0xffff; // odd multiplier: a bijection on 16 bits
    let vi = (h % cfg.vips as u64) as u32;
    let ri = ((h >> 20) % cfg.rss as u64) as u32;
    let (lp, li) = (1024 + (id % 60000) as u16, (id / 60000) as u32);
    let vp = if vi & 1 == 0 { 80 } else { 443 };
    let rp = if cfg.mode == Mode::Dr || cfg.mode == Mode::Tun { vp } else { 8080 + (vi & 1) as u16 };
    let mut t = Tuple { c: [0; 16], cp, v: [0; 16], vp, r: [0; 16], rp, l: [0; 16], lp, n: 4 };
    if v6 {
        t.n = 16;
        for (a, net, x) in [(&mut t.c, 0xc0u8, chost), (&mut t.v, 0x11, vi), (&mut t.r, 0x22, ri), (&mut t.l, 0x33, li)] {
            a[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
            a[5] = net;
            a[12..].copy_from_slice(&x.to_be_bytes());
        }
    } else {
        t.c[..4].copy_from_slice(&(0x64000000u32 + chost).to_be_bytes());          // 100.x
        t.v[..4].copy_from_slice(&(0xCB007100u32 + vi).to_be_bytes());             // 203.0.113.x
        t.r[..4].copy_from_slice(&(0x0A010000u32 + 10 + ri).to_be_bytes());        // 10.1.x
        t.l[..4].copy_from_slice(&(0x0AC80000u32 + li).to_be_bytes());             // 10.200.x
    }
    t
}

fn add(sum: u64, b: &[u8]) -> u64 {
    let mut s = sum;
    let mut i = b.chunks_exact(2);
    for c in &mut i { s += u16::from_be_bytes([c[0], c[1]]) as u64; }
    if let [x] = i.remainder() { s += (*x as u64) << 8; }
    s
}
fn fold(mut s: u64) -> u16 { while s >> 16 != 0 { s = (s & 0xffff) + (s >> 16); } !(s as u16) }

const MAC_CLI: [u8; 6] = [2, 0, 0, 0, 0xc, 1];
const MAC_GW: [u8; 6] = [2, 0, 0, 0, 0xa, 1];
const MAC_DEXT: [u8; 6] = [2, 0, 0, 0, 0xd, 1];
const MAC_DINT: [u8; 6] = [2, 0, 0, 0, 0xd, 2];
fn mac_rs(ri: u32) -> [u8; 6] { let b = ri.to_be_bytes(); [2, 0, 1, b[1], b[2], b[3]] }

struct Payload { bytes: Vec<u8>, pre: Vec<u64> } // pre[i] = sum of the first i big-endian words
impl Payload {
    fn new(seed: u64) -> Self {
        let mut r = Rng(seed ^ 0xfeed);
        let n = 1 << 16;
        let mut bytes = vec![0u8; n];
        for c in bytes.chunks_exact_mut(8) { c.copy_from_slice(&r.next().to_le_bytes()); }
        let mut pre = vec![0u64; n / 2 + 1];
        for i in 0..n / 2 { pre[i + 1] = pre[i] + u16::from_be_bytes([bytes[2 * i], bytes[2 * i + 1]]) as u64; }
        Payload { bytes, pre }
    }
    fn at(&self, key: u64, len: usize) -> (&[u8], u64) {
        let off = (mix(key) as usize % (self.bytes.len() - 2048)) & !1;
        let w = len / 2;
        let mut s = self.pre[off / 2 + w] - self.pre[off / 2];
        if len & 1 == 1 { s += (self.bytes[off + len - 1] as u64) << 8; }
        (&self.bytes[off..off + len], s)
    }
}

fn build(cfg: &Cfg, p: &Pkt, point: u8, pay: &Payload, out: &mut Vec<u8>) {
    out.clear();
    if p.arp {
        out.extend_from_slice(&[0xff; 6]); out.extend_from_slice(&MAC_GW);
        out.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        out.extend_from_slice(&MAC_GW); out.extend_from_slice(&[203, 0, 113, 254]);
        out.extend_from_slice(&[0; 6]); out.extend_from_slice(&[203, 0, 113, (p.flow % 250) as u8]);
        out.resize(60, 0);
        return;
    }
    let t = tuple(cfg, p.flow, p.v6);
    let n = t.n;
    let h = mix(p.flow ^ cfg.seed.rotate_left(17));
    let rs = mac_rs(((h >> 20) % cfg.rss as u64) as u32);
    let inside = point >= 2;
    let rewritten = inside && (cfg.mode == Mode::Nat || cfg.mode == Mode::Fnat);
    let (ca, cp) = if rewritten && cfg.mode == Mode::Fnat { (&t.l, t.lp) } else { (&t.c, t.cp) };
    let (sa, sp) = if rewritten { (&t.r, t.rp) } else { (&t.v, t.vp) };
    let direct = !p.c2s && (cfg.mode == Mode::Dr || cfg.mode == Mode::Tun);
    let (dm, sm, ttl) = match (p.c2s, point) {
        (true, 0) => (MAC_GW, MAC_CLI, 64u8),
        (true, 1) => (MAC_DEXT, MAC_GW, 63),
        (true, _) => (rs, MAC_DINT, if cfg.mode == Mode::Dr || cfg.mode == Mode::Tun { 63 } else { 62 }),
        (false, 0) => (MAC_CLI, MAC_GW, if direct { 63 } else { 62 }),
        (false, 1) => (MAC_GW, MAC_DEXT, 63),
        (false, _) => (if direct { MAC_GW } else { MAC_DINT }, rs, 64),
    };
    out.extend_from_slice(&dm); out.extend_from_slice(&sm);
    if p.vlan { let vid: u16 = if inside { 200 } else { 100 }; out.extend_from_slice(&[0x81, 0]); out.extend_from_slice(&vid.to_be_bytes()); }
    out.extend_from_slice(if p.v6 { &[0x86, 0xdd] } else { &[8, 0] });
    let l4len = if p.udp { 8 } else if p.flags & 2 != 0 { 40 } else { 32 };
    let seglen = l4len + p.plen as usize;
    if cfg.mode == Mode::Tun && inside && p.c2s { // outer header, director -> real server
        let s = out.len();
        out.extend_from_slice(&[0x45, 0]); out.extend_from_slice(&((40 + seglen) as u16).to_be_bytes());
        out.extend_from_slice(&(p.ipid ^ 0x5a5a).to_be_bytes()); out.extend_from_slice(&[0x40, 0, 64, 4, 0, 0]);
        out.extend_from_slice(&[10, 1, 255, 1]); out.extend_from_slice(&t.r[..4]);
        let c = fold(add(0, &out[s..])); out[s + 10..s + 12].copy_from_slice(&c.to_be_bytes());
    }
    let (src, spt, dst, dpt) = if p.c2s { (ca, cp, sa, sp) } else { (sa, sp, ca, cp) };
    let proto = if p.udp { 17u8 } else { 6 };
    let s = out.len();
    if p.v6 {
        out.extend_from_slice(&[0x60, 0, 0, 0]); out.extend_from_slice(&(seglen as u16).to_be_bytes());
        out.extend_from_slice(&[proto, ttl]);
        out.extend_from_slice(src); out.extend_from_slice(dst);
    } else {
        out.extend_from_slice(&[0x45, 0]); out.extend_from_slice(&((20 + seglen) as u16).to_be_bytes());
        out.extend_from_slice(&p.ipid.to_be_bytes()); out.extend_from_slice(&[0x40, 0, ttl, proto, 0, 0]);
        out.extend_from_slice(&src[..4]); out.extend_from_slice(&dst[..4]);
        let c = fold(add(0, &out[s..])); out[s + 10..s + 12].copy_from_slice(&c.to_be_bytes());
    }
    let l4 = out.len();
    out.extend_from_slice(&spt.to_be_bytes()); out.extend_from_slice(&dpt.to_be_bytes());
    if p.udp {
        out.extend_from_slice(&(seglen as u16).to_be_bytes()); out.extend_from_slice(&[0, 0]);
    } else {
        out.extend_from_slice(&p.seq.to_be_bytes()); out.extend_from_slice(&p.ack.to_be_bytes());
        out.extend_from_slice(&[((l4len / 4) as u8) << 4, p.flags, 0xff, 0xff, 0, 0, 0, 0]);
        if l4len == 40 { out.extend_from_slice(&[2, 4, 5, 0xb4, 4, 2, 8, 10]); } else { out.extend_from_slice(&[1, 1, 8, 10]); }
        out.extend_from_slice(&(p.seq ^ 0x1234567).to_be_bytes()); out.extend_from_slice(&p.ack.to_be_bytes());
        if l4len == 40 { out.extend_from_slice(&[1, 3, 3, 7]); }
    }
    let (body, bsum) = pay.at(p.flow.wrapping_mul(31) ^ p.seq as u64 ^ ((p.ipid as u64) << 40), p.plen as usize);
    let sum = add(add(add(proto as u64 + seglen as u64, &src[..n]), &dst[..n]), &out[l4..]) + bsum;
    let c = fold(sum);
    let co = l4 + if p.udp { 6 } else { 16 };
    out[co..co + 2].copy_from_slice(&c.to_be_bytes());
    out.extend_from_slice(body);
    if out.len() < 60 { out.resize(60, 0); }
}

struct Sink { w: BufWriter<File>, ng: bool, ns: bool, snap: usize, n: u64, bytes: u64 }
impl Sink {
    fn new(path: &str, ng: bool, ns: bool, snap: usize, ifs: &[&str]) -> Sink {
        let mut w = BufWriter::with_capacity(1 << 20, File::create(path).expect(path));
        if ng {
            w.write_all(&0x0A0D0D0Au32.to_le_bytes()).unwrap();
            for x in [28u32, 0x1A2B3C4D, 1, 0xffffffff, 0xffffffff, 28] { w.write_all(&x.to_le_bytes()).unwrap(); }
            for name in ifs {
                let mut o = Vec::new();
                o.extend_from_slice(&2u16.to_le_bytes()); o.extend_from_slice(&(name.len() as u16).to_le_bytes());
                o.extend_from_slice(name.as_bytes()); while o.len() % 4 != 0 { o.push(0); }
                o.extend_from_slice(&[9, 0, 1, 0, if ns { 9 } else { 6 }, 0, 0, 0, 0, 0, 0, 0]);
                let len = (20 + o.len()) as u32;
                for x in [1u32, len, 1, snap as u32] { w.write_all(&x.to_le_bytes()).unwrap(); }
                w.write_all(&o).unwrap(); w.write_all(&len.to_le_bytes()).unwrap();
            }
        } else {
            for x in [if ns { 0xA1B23C4Du32 } else { 0xA1B2C3D4 }, 0x00040002, 0, 0, snap as u32, 1] { w.write_all(&x.to_le_bytes()).unwrap(); }
        }
        Sink { w, ng, ns, snap, n: 0, bytes: 0 }
    }
    fn put(&mut self, t: u64, ifi: u32, f: &[u8]) {
        let cap = f.len().min(self.snap);
        self.n += 1; self.bytes += cap as u64;
        if self.ng {
            let pad = (4 - cap % 4) % 4;
            let len = (32 + cap + pad) as u32;
            let ts = if self.ns { t } else { t / 1000 };
            for x in [6u32, len, ifi, (ts >> 32) as u32, ts as u32, cap as u32, f.len() as u32] { self.w.write_all(&x.to_le_bytes()).unwrap(); }
            self.w.write_all(&f[..cap]).unwrap(); self.w.write_all(&[0; 4][..pad]).unwrap(); self.w.write_all(&len.to_le_bytes()).unwrap();
        } else {
            let (s, u) = (t / 1_000_000_000, t % 1_000_000_000);
            let u = if self.ns { u } else { u / 1000 };
            let mut h = [0u8; 16];
            for (i, x) in [s as u32, u as u32, cap as u32, f.len() as u32].iter().enumerate() { h[i * 4..i * 4 + 4].copy_from_slice(&x.to_le_bytes()); }
            self.w.write_all(&h).unwrap(); self.w.write_all(&f[..cap]).unwrap();
        }
    }
}

fn main() {
    let mut a = std::env::args().skip(1);
    let (mut mode, mut flows, mut pkts, mut active, mut sizes) = (Mode::Nat, 1000u64, 33u32, 4096usize, "mix".to_string());
    let (mut snap, mut points, mut out, mut merged, mut ng, mut ns) = (262144usize, "client,dext,dint,rs".to_string(), "out".to_string(), false, false, false);
    let (mut vlan, mut udp, mut retr, mut loss, mut arp, mut v6) = (0u32, 50_000u32, 5_000u32, 1_000u32, 1_000u32, 0u32);
    let (mut seed, mut vips, mut rss, mut skew, mut truth) = (1u64, 8u32, 64u32, 0u64, None::<String>);
    while let Some(k) = a.next() {
        if k == "--merged" { merged = true; continue; }
        if k == "--ns" { ns = true; continue; }
        let v = a.next().unwrap_or_else(|| panic!("{k} needs a value"));
        let ppm = || (v.parse::<f64>().expect("percentage") * 10_000.0) as u32;
        match k.as_str() {
            "--mode" => mode = match v.as_str() { "nat" => Mode::Nat, "fnat" => Mode::Fnat, "dr" => Mode::Dr, "tun" => Mode::Tun, _ => panic!("mode") },
            "--flows" => flows = v.parse().unwrap(), "--pkts" => pkts = v.parse().unwrap(), "--active" => active = v.parse().unwrap(),
            "--sizes" => sizes = v, "--snaplen" => snap = v.parse().unwrap(), "--points" => points = v, "--out" => out = v,
            "--format" => ng = v == "pcapng",
            "--vlan" => vlan = ppm(), "--udp" => udp = ppm(), "--retrans" => retr = ppm(), "--loss" => loss = ppm(), "--arp" => arp = ppm(), "--v6" => v6 = ppm(),
            "--seed" => seed = v.parse().unwrap(), "--vips" => vips = v.parse().unwrap(), "--rss" => rss = v.parse().unwrap(),
            "--skew" => skew = v.parse().unwrap(), "--truth" => truth = Some(v),
            _ => panic!("unknown option {k}"),
        }
    }
    if mode == Mode::Tun { v6 = 0; }
    let cfg = Cfg { mode, vips, rss, seed };
    let names = ["client", "dext", "dint", "rs"];
    let want: Vec<u8> = points.split(',').map(|p| names.iter().position(|n| *n == p).expect("point") as u8).collect();
    let ext = if ng { "pcapng" } else { "pcap" };
    let mut sinks: Vec<Sink> = if merged {
        vec![Sink::new(&format!("{out}.{ext}"), ng, ns, snap, &want.iter().map(|p| names[*p as usize]).collect::<Vec<_>>())]
    } else {
        want.iter().map(|p| Sink::new(&format!("{out}.{}.{ext}", names[*p as usize]), ng, ns, snap, &[names[*p as usize]])).collect()
    };
    let mut slot_of = [usize::MAX; 4];
    for (i, p) in want.iter().enumerate() { slot_of[*p as usize] = i; }
    if let Some(f) = &truth {
        let mut w = BufWriter::new(File::create(f).expect("truth"));
        writeln!(w, "#flow client cport vip vport rip rport lip lport").unwrap();
        for id in 0..flows {
            let t = tuple(&cfg, id, false);
            let ip = |a: &[u8; 16]| format!("{}.{}.{}.{}", a[0], a[1], a[2], a[3]);
            writeln!(w, "{id} {} {} {} {} {} {} {} {}", ip(&t.c), t.cp, ip(&t.v), t.vp, ip(&t.r), t.rp, if mode == Mode::Fnat { ip(&t.l) } else { ip(&t.c) }, if mode == Mode::Fnat { t.lp } else { t.cp }).unwrap();
        }
    }
    let mut r = Rng(seed);
    let pay = Payload::new(seed);
    let mut heap: BinaryHeap<Ev> = BinaryHeap::new();
    let mut live: Vec<Flow> = Vec::new();
    let (mut next_flow, mut now, mut serial) = (0u64, 1_700_000_000_000_000_000u64, 0u64);
    let mut frame = Vec::with_capacity(2048);
    let mut emit = |ev: Ev, sinks: &mut Vec<Sink>| {
        let Reverse((t, _, pt, p)) = ev;
        build(&cfg, &p, pt, &pay, &mut frame);
        let i = slot_of[pt as usize];
        let (s, ifi) = if merged { (0, i as u32) } else { (i, 0) };
        sinks[s].put(t, ifi, &frame);
    };
    loop {
        while live.len() < active && next_flow < flows {
            let h = Rng(mix(next_flow ^ seed)).next();
            live.push(Flow { id: next_flow, sent: 0, cseq: h as u32, sseq: (h >> 32) as u32, cipid: mix(h) as u16, sipid: (mix(h) >> 16) as u16,
                udp: r.pct(udp), v6: r.pct(v6), vlan: r.pct(vlan), again: None });
            next_flow += 1;
        }
        if live.is_empty() { break; }
        now += 400 + r.below(1200); // about one million original packets a second
        let i = r.below(live.len() as u64) as usize;
        let f = &mut live[i];
        let resend = f.again.take();
        let p = if let Some(mut p) = resend {
            if p.c2s { f.cipid = f.cipid.wrapping_add(1); p.ipid = f.cipid } else { f.sipid = f.sipid.wrapping_add(1); p.ipid = f.sipid }
            p
        } else {
            let k = f.sent;
            f.sent += 1;
            let (c2s, flags, data) = if f.udp { (k % 2 == 0, 0, true) } else if k == 0 { (true, 2, false) } else if k == 1 { (false, 0x12, false) }
                else if k + 1 >= pkts { (true, 0x11, false) } else { (r.below(100) < 35 || k == 2, 0x18, k > 2 || pkts < 8) };
            let want = match sizes.as_str() {
                "mix" => { let d = r.below(100); if d < 40 { 64 + r.below(65) } else if d < 60 { 576 } else { 1514 } }
                "small" => 64 + r.below(65),
                s => s.strip_prefix("fixed:").expect("sizes").parse().unwrap(),
            } as usize;
            let over = 14 + if f.v6 { 40 } else { 20 } + if f.udp { 8 } else { 32 };
            let plen = if data { want.saturating_sub(over) as u16 } else { 0 };
            let adv = plen as u32 + (flags & 3 != 0) as u32;
            let (seq, ack, ipid);
            if c2s { f.cipid = f.cipid.wrapping_add(1); ipid = f.cipid; seq = f.cseq; ack = if k == 0 { 0 } else { f.sseq }; f.cseq = f.cseq.wrapping_add(adv) }
            else { f.sipid = f.sipid.wrapping_add(1); ipid = f.sipid; seq = f.sseq; ack = f.cseq; f.sseq = f.sseq.wrapping_add(adv) }
            Pkt { flow: f.id, seq, ack, ipid, plen, flags, c2s, udp: f.udp, v6: f.v6, vlan: f.vlan, arp: false }
        };
        if resend.is_none() && !f.udp && r.pct(retr) { f.again = Some(p); }
        let done = f.sent >= pkts && f.again.is_none();
        let order: [u8; 4] = if p.c2s { [0, 1, 2, 3] } else { [3, 2, 1, 0] };
        let lost = if r.pct(loss) { 1 + r.below(3) as usize } else { 9 };
        let mut t = now;
        for (hop, pt) in order.into_iter().enumerate() {
            if hop >= lost { break; }
            t += [0u64, 180_000, 9_000, 40_000][hop] + r.below(4000);
            if !p.c2s && (mode == Mode::Dr || mode == Mode::Tun) && (pt == 1 || pt == 2) { continue; }
            if slot_of[pt as usize] == usize::MAX { continue; }
            serial += 1;
            heap.push(Reverse((t + skew * pt as u64, serial, pt, p)));
        }
        if r.pct(arp) {
            for pt in &want { serial += 1; heap.push(Reverse((now, serial, *pt, Pkt { arp: true, flow: serial, ..p }))); }
        }
        if done { live.swap_remove(i); }
        while let Some(Reverse((t, ..))) = heap.peek() { if *t > now { break; } let e = heap.pop().unwrap(); emit(e, &mut sinks); }
    }
    while let Some(e) = heap.pop() { emit(e, &mut sinks); }
    let mut tot = (0u64, 0u64);
    for s in &mut sinks { s.w.flush().unwrap(); tot.0 += s.n; tot.1 += s.bytes; }
    eprintln!("{out}: {flows} flows, {} records, {} packet bytes", tot.0, tot.1);
}
