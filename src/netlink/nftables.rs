//! nf_tables, written: tables, chains and rules such as iptables-nft and arptables-nft make (linux/netfilter/nf_tables.h).
//!
//! Rules are kept with a text in their user data, by which they are found again.

use super::socket::NlmFlags;
use super::{Attributes, NetlinkError, Socket, attributes};
use std::net::IpAddr;

/// What a table is for: `NFPROTO_…`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableFamily {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Frames that a bridge forwards.
    Bridge,
}

/// A base chain.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    /// Its family.
    pub family: TableFamily,
    /// Its table.
    pub table: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `filter` or `nat`.
    pub kind: &'a str,
    /// `NF_INET_…`: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting; for ARP 0 input, 1 output.
    pub hook: u32,
    /// Smaller comes first.
    pub priority: i32,
}

/// Where a field stands.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// Ethernet header.
    Link = 0,
    /// IP or ARP header.
    Network = 1,
    /// TCP or UDP header.
    Transport = 2,
}

/// A step of a rule.
#[derive(Clone, Debug)]
pub enum Step {
    /// Goes on if bytes of the packet are these.
    Equal(Base, u32, Vec<u8>),
    /// Goes on if bytes of the packet, under a mask, are these.
    Masked(Base, u32, Vec<u8>, Vec<u8>),
    /// Goes on if bytes of the packet are one of these, all of one length: an anonymous set.
    Among(Base, u32, Vec<Vec<u8>>),
    /// Goes on if conntrack's state is one of these bits.
    State(u32),
    /// Goes on with every so many-th packet, the first one first.
    Every(u32),
    /// Goes on if the transport protocol is this.
    Protocol(u8),
    /// Goes on if the packet came in here, or (true) leaves here.
    Interface(String, bool),
    /// Writes bytes into the packet.
    Write(Base, u32, Vec<u8>),
    /// Destination (true) or source becomes this address, and perhaps this port.
    Nat(bool, IpAddr, Option<u16>),
    /// Source becomes the address of the interface out of which it goes.
    Masquerade,
    /// The largest segment that a SYN asks for becomes this.
    Mss(u16),
    /// Gets this mark.
    Mark(u32),
    /// Conntrack does not look at it.
    NoTrack,
    /// Ends here, and its sender is told: by a reset (true) or by ICMP port unreachable.
    Reject(bool),
    /// Ends here.
    Drop,
    /// Is let through.
    Accept,
}

const SUBSYSTEM: u16 = 10;
const fn message(number: u16) -> u16 {
    SUBSYSTEM << 8 | number
}
const NEW_TABLE: u16 = message(0);
const DEL_TABLE: u16 = message(2);
const NEW_CHAIN: u16 = message(3);
const NEW_RULE: u16 = message(6);
const GET_RULE: u16 = message(7);
const DEL_RULE: u16 = message(8);
const NEW_SET: u16 = message(9);
const NEW_ELEMENTS: u16 = message(12);

const NFT_REG_1: u32 = 1;
const NFT_REG_2: u32 = 2;

fn header(family: TableFamily) -> [u8; 4] {
    let family = match family {
        TableFamily::Ip => nix::libc::NFPROTO_IPV4,
        TableFamily::Arp => nix::libc::NFPROTO_ARP,
        TableFamily::Bridge => nix::libc::NFPROTO_BRIDGE,
        TableFamily::Ip6 => nix::libc::NFPROTO_IPV6,
    };
    [family as u8, 0, 0, 0]
}

/// nf_tables counts in the network's order.
fn be(attributes: Attributes, kind: u16, value: u32) -> Attributes {
    attributes.bytes(kind, &value.to_be_bytes())
}

/// `NFTA_LIST_ELEM` with an expression of a name.
fn expression(name: &str, data: &Attributes) -> Attributes {
    Attributes::new().nested(1, &Attributes::new().text(1, name).nested(2, data))
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(1, bytes)
}

/// `cmp reg 1 eq bytes`
fn compare(bytes: &[u8]) -> Attributes {
    expression("cmp", &be(be(Attributes::new(), 1, NFT_REG_1), 2, 0).nested(3, &value(bytes)))
}

fn immediate(register: u32, bytes: &[u8]) -> Attributes {
    expression("immediate", &be(Attributes::new(), 1, register).nested(2, &value(bytes)))
}

fn verdict(code: u32) -> Attributes {
    let verdict = Attributes::new().nested(2, &be(Attributes::new(), 1, code));
    expression("immediate", &be(Attributes::new(), 1, 0).nested(2, &verdict))
}

fn meta(key: u32) -> Attributes {
    expression("meta", &be(be(Attributes::new(), 1, NFT_REG_1), 2, key))
}

/// `bitwise reg 1 = (reg 1 & mask) ^ 0`
fn under(mask: &[u8]) -> Attributes {
    let sized = be(be(be(Attributes::new(), 1, NFT_REG_1), 2, NFT_REG_1), 3, mask.len() as u32);
    expression("bitwise", &sized.nested(4, &value(mask)).nested(5, &value(&vec![0; mask.len()])))
}

impl Step {
    /// True when it does something with the packet.
    pub fn ends(&self) -> bool {
        !matches!(
            self,
            Step::Equal(..)
                | Step::Masked(..)
                | Step::Among(..)
                | Step::State(_)
                | Step::Every(_)
                | Step::Protocol(_)
                | Step::Interface(..)
                | Step::Write(..)
        )
    }

    /// Its expressions; `number` tells its set from those of other steps.
    fn expressions(&self, number: u32) -> Vec<Attributes> {
        match self {
            Step::Among(base, offset, values) => {
                let len = values.first().map_or(0, Vec::len) as u32;
                let load = be(be(Attributes::new(), 1, NFT_REG_1), 2, *base as u32);
                let lookup = be(be(Attributes::new().text(1, ANONYMOUS), 2, NFT_REG_1), 4, number);
                vec![expression("payload", &be(be(load, 3, *offset), 4, len)), expression("lookup", &lookup)]
            }
            Step::Equal(base, offset, bytes) => {
                let load = be(be(Attributes::new(), 1, NFT_REG_1), 2, *base as u32);
                vec![expression("payload", &be(be(load, 3, *offset), 4, bytes.len() as u32)), compare(bytes)]
            }
            Step::Masked(base, offset, mask, bytes) => {
                let load = be(be(Attributes::new(), 1, NFT_REG_1), 2, *base as u32);
                vec![expression("payload", &be(be(load, 3, *offset), 4, mask.len() as u32)), under(mask), compare(bytes)]
            }
            // NFT_CT_STATE; any of the bits, which stand in the machine's order.
            Step::State(bits) => {
                let differs = be(be(Attributes::new(), 1, NFT_REG_1), 2, 1).nested(3, &value(&0_u32.to_ne_bytes()));
                let load = expression("ct", &be(be(Attributes::new(), 1, NFT_REG_1), 2, 0));
                vec![load, under(&bits.to_ne_bytes()), expression("cmp", &differs)]
            }
            // NFT_NG_INCREMENTAL
            Step::Every(n) => {
                let count = be(be(be(Attributes::new(), 1, NFT_REG_1), 2, *n), 3, 0);
                vec![expression("numgen", &count), compare(&0_u32.to_ne_bytes())]
            }
            // Option 2 of TCP, at offset 2 (NFT_EXTHDR_OP_TCPOPT).
            Step::Mss(mss) => {
                let to = Attributes::new().bytes(2, &[2]);
                let to = be(be(be(be(to, 3, 2), 4, 2), 6, 1), 7, NFT_REG_1);
                vec![immediate(NFT_REG_1, &mss.to_be_bytes()), expression("exthdr", &to)]
            }
            // NFT_META_MARK, written; a number of the host's, not of the network's.
            Step::Mark(mark) => {
                let set = be(be(Attributes::new(), 2, 3), 3, NFT_REG_1);
                vec![immediate(NFT_REG_1, &mark.to_ne_bytes()), expression("meta", &set)]
            }
            Step::NoTrack => vec![expression("notrack", &Attributes::new())],
            // NFT_REJECT_TCP_RST, NFT_REJECT_ICMP_UNREACH with port unreachable.
            Step::Reject(reset) => vec![expression("reject", &be(Attributes::new(), 1, u32::from(*reset)).bytes(2, &[3]))],
            // NFT_META_L4PROTO, NFT_META_IIFNAME, NFT_META_OIFNAME
            Step::Protocol(number) => vec![meta(16), compare(&[*number])],
            Step::Interface(name, out) => {
                let mut padded = name.as_bytes().to_vec();
                padded.resize(16, 0);
                vec![meta(if *out { 7 } else { 6 }), compare(&padded)]
            }
            Step::Write(base, offset, bytes) => {
                let store = be(be(Attributes::new(), 5, NFT_REG_1), 2, *base as u32);
                vec![immediate(NFT_REG_1, bytes), expression("payload", &be(be(store, 3, *offset), 4, bytes.len() as u32))]
            }
            Step::Nat(destination, addr, port) => {
                let octets = match addr {
                    IpAddr::V4(a) => a.octets().to_vec(),
                    IpAddr::V6(a) => a.octets().to_vec(),
                };
                let mut all = vec![immediate(NFT_REG_1, &octets)];
                let family = if addr.is_ipv4() { 2 } else { 10 };
                let mut nat = be(be(be(Attributes::new(), 1, u32::from(*destination)), 2, family), 3, NFT_REG_1);
                if let Some(port) = port {
                    // A register of 16 bytes stands behind the address.
                    all.push(immediate(NFT_REG_2, &port.to_be_bytes()));
                    nat = be(nat, 5, NFT_REG_2);
                }
                all.push(expression("nat", &nat));
                all
            }
            Step::Masquerade => vec![expression("masq", &Attributes::new())],
            Step::Drop => vec![verdict(0)],
            Step::Accept => vec![verdict(1)],
        }
    }
}

/// The kernel puts a number into it.
const ANONYMOUS: &str = "__set%d";

impl Chain<'_> {
    /// The set that a step compares with, and its elements.
    fn set(&self, number: u32, values: &[Vec<u8>]) -> [(u16, NlmFlags, Vec<u8>); 2] {
        // NFT_SET_ANONYMOUS, NFT_SET_CONSTANT; the type of a key is a word for those who print it.
        let named = Attributes::new().text(1, self.table).text(2, ANONYMOUS);
        let len = values.first().map_or(0, Vec::len) as u32;
        let set = be(be(be(be(named.clone(), 3, 3), 4, 0), 5, len), 10, number);
        let element = |list: Attributes, bytes: &Vec<u8>| list.nested(1, &Attributes::new().nested(1, &value(bytes)));
        let elements = be(named.nested(3, &values.iter().fold(Attributes::new(), element)), 4, number);
        let create = NlmFlags::make_sure();
        [(NEW_SET, create, set.behind(&header(self.family))), (NEW_ELEMENTS, create, elements.behind(&header(self.family)))]
    }

    fn made(&self) -> [(u16, NlmFlags, Vec<u8>); 2] {
        let table = Attributes::new().text(1, self.table).behind(&header(self.family));
        let hook = be(be(Attributes::new(), 1, self.hook), 2, self.priority.cast_unsigned());
        let chain = Attributes::new().text(1, self.table).text(3, self.name).nested(4, &hook).text(7, self.kind);
        let create = NlmFlags::make_sure();
        [(NEW_TABLE, create, table), (NEW_CHAIN, create, chain.behind(&header(self.family)))]
    }

    fn at(&self) -> Attributes {
        Attributes::new().text(1, self.table).text(2, self.name)
    }
}

impl Socket {
    /// True when the kernel's nf_tables is there and knows a family.
    pub fn has_nft(&mut self, family: TableFamily) -> bool {
        // A table that nobody keeps: made and gone in one batch.
        let table = Attributes::new().text(1, "lvscope").behind(&header(family));
        self.batch(SUBSYSTEM, &[(NEW_TABLE, NlmFlags::make_sure(), table.clone()), (DEL_TABLE, NlmFlags::CHANGE, table)]).is_ok()
    }

    /// Puts a rule at the end (or the beginning) of a chain, which is made if it is not there. `text` finds it again.
    ///
    /// # Errors
    /// What the kernel refuses; also when it lacks nf_tables or one of the expressions.
    pub fn add_nft_rule(&mut self, chain: &Chain<'_>, steps: &[Step], text: &str, first: bool) -> Result<(), NetlinkError> {
        let mut expressions = Attributes::new();
        let mut sets = Vec::new();
        for (number, step) in (1..).zip(steps) {
            expressions = step.expressions(number).iter().fold(expressions, |all, one| all.and(one));
            if let Step::Among(_, _, values) = step {
                sets.extend(chain.set(number, values));
            }
        }
        let rule = chain.at().nested(4, &expressions).bytes(7, text.as_bytes()).behind(&header(chain.family));
        let [table, made] = chain.made();
        let flags = if first { NlmFlags::insert() } else { NlmFlags::append() };
        let messages: Vec<_> = [table, made].into_iter().chain(sets).chain([(NEW_RULE, flags, rule)]).collect();
        self.batch(SUBSYSTEM, &messages).map_err(|e| e.attempting(format!("add rule to {} {}", chain.table, chain.name)))
    }

    /// Removes the first rule with this text; `None` removes all of the chain.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete_nft_rule(&mut self, chain: &Chain<'_>, text: Option<&str>) -> Result<(), NetlinkError> {
        let what = format!("delete rule of {} {}", chain.table, chain.name);
        let rules = self.dump(GET_RULE, &chain.at().behind(&header(chain.family))).map_err(|e| e.attempting(&what))?;
        let mut found = Vec::new();
        for reply in &rules {
            let Some(rest) = reply.body.get(4..) else { continue };
            let get = |kind: u16| attributes(rest).find(|a| a.kind == kind);
            let here = get(1).is_some_and(|a| a.text() == chain.table) && get(2).is_some_and(|a| a.text() == chain.name);
            if let Some(handle) = get(3).filter(|_| here && text.is_none_or(|text| get(7).is_some_and(|a| a.value == text.as_bytes()))) {
                found.push(handle.value.to_vec());
            }
        }
        let wanted = if text.is_some() { 1 } else { found.len() };
        if found.len() < wanted {
            return Err(NetlinkError::other("there is no such rule").attempting(what));
        }
        let one = |handle: &Vec<u8>| (DEL_RULE, NlmFlags::CHANGE, chain.at().bytes(3, handle).behind(&header(chain.family)));
        let messages: Vec<_> = found.iter().take(wanted).map(one).collect();
        if messages.is_empty() { Ok(()) } else { self.batch(SUBSYSTEM, &messages).map_err(|e| e.attempting(what)) }
    }
}
