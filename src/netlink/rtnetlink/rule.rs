//! Policy rules: which table is asked, and in which order.

use super::{family_of, parts};
use crate::net::Prefix;
use crate::netlink::socket::NlmFlags;
use crate::netlink::{Attributes, NetlinkError, Socket, attributes};
use nix::libc;
use std::net::IpAddr;

/// A policy rule, as `RTM_NEWRULE` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// IPv6.
    pub v6: bool,
    /// Smaller is asked first.
    pub priority: u32,
    /// Packets from here.
    pub src: Option<Prefix>,
    /// Packets to there.
    pub dst: Option<Prefix>,
    /// Come in by an interface of this name.
    pub iif: Option<String>,
    /// Bound to an interface of this name.
    pub oif: Option<String>,
    /// Mark and mask.
    pub mark: Option<(u32, u32)>,
    /// Type of service; 0 is any.
    pub tos: u8,
    /// `FR_ACT_…`: 1 ask the table, 2 goto, 3 nop, 6 blackhole, 7 unreachable, 8 prohibit.
    pub action: u8,
    /// The table.
    pub table: u32,
    /// Where a `goto` leads.
    pub goto: Option<u32>,
    /// `FIB_RULE_…`: 2 is invert (`not`).
    pub flags: u32,
    /// Routes with a prefix of so many bits or fewer are passed over (`suppress_prefixlength`).
    pub suppress: Option<u32>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Source ports, first and last.
    pub sport: Option<(u16, u16)>,
    /// Destination ports, first and last.
    pub dport: Option<(u16, u16)>,
    /// A condition beyond these, by its name.
    pub beyond: Option<&'static str>,
}

/// A rule to add or remove.
#[derive(Clone, Debug)]
pub struct RuleSpec {
    /// IPv6.
    pub v6: bool,
    /// Smaller is asked first.
    pub priority: u32,
    /// Packets from here.
    pub src: Option<Prefix>,
    /// Packets to there.
    pub dst: Option<Prefix>,
    /// Come in by an interface of this name.
    pub iif: Option<String>,
    /// The mark.
    pub mark: Option<u32>,
    /// The table.
    pub table: u32,
}

// linux/fib_rules.h
const DST: u16 = 1;
const SRC: u16 = 2;
const IIFNAME: u16 = 3;
const GOTO: u16 = 4;
const PRIORITY: u16 = 6;
const FWMARK: u16 = 10;
const SUPPRESS_PREFIXLEN: u16 = 14;
const TABLE: u16 = 15;
const FWMASK: u16 = 16;
const OIFNAME: u16 = 17;
const IP_PROTO: u16 = 22;
const SPORT_RANGE: u16 = 23;
const DPORT_RANGE: u16 = 24;
/// Conditions that seldom are.
const OTHERS: [(u16, &str); 7] =
    [(12, "tun_id"), (13, "suppress_ifgroup"), (19, "l3mdev"), (20, "uidrange"), (25, "dscp"), (26, "flowlabel"), (28, "sport mask")];

impl Rule {
    fn read(body: &[u8]) -> Result<Option<Rule>, NetlinkError> {
        let (header, rest) = parts(body, 12)?;
        if !matches!(i32::from(header.u8(0)), libc::AF_INET | libc::AF_INET6) {
            return Ok(None); // multicast routing
        }
        let mut rule = Rule {
            v6: i32::from(header.u8(0)) == libc::AF_INET6,
            tos: header.u8(3),
            table: header.u8(4).into(),
            action: header.u8(7),
            flags: header.u32(8),
            ..Rule::default()
        };
        let (mut mark, mut mask) = (None, u32::MAX);
        let range = |value: &[u8]| match *value {
            [a, b, c, d, ..] => Some((u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))),
            _ => None,
        };
        let prefix = |addr: Option<IpAddr>, len| addr.and_then(|addr| Prefix::new(addr, len));
        for a in attributes(rest) {
            match a.kind {
                DST => rule.dst = prefix(a.addr(), header.u8(1)),
                SRC => rule.src = prefix(a.addr(), header.u8(2)),
                IIFNAME => rule.iif = Some(a.text()),
                OIFNAME => rule.oif = Some(a.text()),
                GOTO => rule.goto = a.u32(),
                PRIORITY => rule.priority = a.u32().unwrap_or(0),
                FWMARK => mark = a.u32(),
                FWMASK => mask = a.u32().unwrap_or(u32::MAX),
                TABLE => rule.table = a.u32().unwrap_or(rule.table),
                SUPPRESS_PREFIXLEN => rule.suppress = a.u32().filter(|&bits| bits != u32::MAX),
                IP_PROTO => rule.protocol = a.u8(),
                SPORT_RANGE => rule.sport = range(a.value),
                DPORT_RANGE => rule.dport = range(a.value),
                // What is sent though it is not asked for: no group, no l3mdev.
                13 if a.u32() == Some(u32::MAX) => {}
                19 if a.u8() == Some(0) => {}
                kind => rule.beyond = OTHERS.iter().find(|(other, _)| *other == kind).map(|(_, name)| *name).or(rule.beyond),
            }
        }
        rule.mark = mark.map(|mark| (mark, mask));
        Ok(Some(rule))
    }
}

impl RuleSpec {
    fn body(&self) -> Vec<u8> {
        let any = if self.v6 { IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED) };
        let len = |prefix: Option<Prefix>| prefix.map_or(0, |p| p.len());
        // FR_ACT_TO_TBL
        let header = [family_of(any), len(self.dst), len(self.src), 0, 0, 0, 0, 1, 0, 0, 0, 0];
        Attributes::new()
            .u32(PRIORITY, self.priority)
            .u32(TABLE, self.table)
            .with(self.src, |a, p| a.addr(SRC, p.addr()))
            .with(self.dst, |a, p| a.addr(DST, p.addr()))
            .with(self.iif.as_deref(), |a, name| a.text(IIFNAME, name))
            .with(self.mark, |a, mark| a.u32(FWMARK, mark))
            .behind(&header)
    }
}

impl Socket {
    /// All policy rules of both families, in the order in which they are asked.
    ///
    /// # Errors
    /// When the dump fails.
    pub fn rules(&mut self) -> Result<Vec<Rule>, NetlinkError> {
        let replies = self.dump(libc::RTM_GETRULE, &[0; 12]).map_err(|e| e.attempting("list policy rules"))?;
        let mut rules = replies.iter().filter_map(|reply| Rule::read(&reply.body).transpose()).collect::<Result<Vec<_>, _>>()?;
        rules.sort_by_key(|rule| (rule.v6, rule.priority));
        Ok(rules)
    }

    /// Adds a policy rule.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn add_rule(&mut self, spec: &RuleSpec) -> Result<(), NetlinkError> {
        let what = format!("add rule {} to table {}", spec.priority, spec.table);
        self.change(libc::RTM_NEWRULE, NlmFlags::add(), &spec.body()).map_err(|e| e.attempting(what))
    }

    /// Removes a policy rule.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn delete_rule(&mut self, spec: &RuleSpec) -> Result<(), NetlinkError> {
        let what = format!("delete rule {} of table {}", spec.priority, spec.table);
        self.change(libc::RTM_DELRULE, NlmFlags::CHANGE, &spec.body()).map_err(|e| e.attempting(what))
    }
}
