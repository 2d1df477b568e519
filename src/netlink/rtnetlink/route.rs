//! Routes of all tables, and the kernel's answer to "which way?".

use super::{family_of, parts};
use crate::net::Prefix;
use crate::netlink::socket::NlmFlags;
use crate::netlink::{Attribute, Attributes, NetlinkError, Socket, attributes};
use nix::libc;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route, as `RTM_NEWROUTE` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Table; 254 is main, 255 local, 253 default.
    pub table: u32,
    /// `RTN_…`: 1 unicast, 2 local, 3 broadcast, 6 blackhole, 7 unreachable, 8 prohibit, 9 throw.
    pub kind: u8,
    /// `RTPROT_…`: who made it; 2 the kernel, 3 boot, 4 static.
    pub protocol: u8,
    /// `RT_SCOPE_…`.
    pub scope: u8,
    /// TOS that it is for; 0 is any.
    pub tos: u8,
    /// Where to.
    pub dst: Prefix,
    /// Sources that it is for (IPv6).
    pub src: Option<Prefix>,
    /// The ways; several where the kernel spreads connections over them. Empty where packets end here.
    pub hops: Vec<NextHop>,
    /// Source address that own packets take.
    pub prefsrc: Option<IpAddr>,
    /// Smaller is taken first.
    pub metric: u32,
    /// MTU that is written in the route.
    pub mtu: Option<u32>,
    /// The largest segment that is asked for (`advmss`).
    pub advmss: Option<u32>,
    /// `RTM_F_CLONED` and others of the route; `RTNH_F_…` in the lower bits.
    pub flags: u32,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Through whom; may be of the other family (RFC 5549).
    pub via: Option<IpAddr>,
    /// Out of which interface.
    pub index: u32,
    /// Weight among several, from 1.
    pub weight: u32,
    /// `RTNH_F_…`: 1 dead, 4 onlink, 16 linkdown.
    pub flags: u8,
}

/// `RTA_VIA` and what is in `RTA_METRICS`, which libc lacks for some C libraries.
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;

impl Route {
    fn read(body: &[u8]) -> Result<Option<Route>, NetlinkError> {
        let (header, rest) = parts(body, 12)?;
        let any: IpAddr = match i32::from(header.u8(0)) {
            libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return Ok(None), // multicast routing, MPLS
        };
        let (mut dst, mut src, mut single, mut hops) = (any, None, NextHop { weight: 1, ..NextHop::default() }, Vec::new());
        let mut route = Route {
            table: header.u8(4).into(),
            kind: header.u8(7),
            protocol: header.u8(5),
            scope: header.u8(6),
            tos: header.u8(3),
            dst: Prefix::new(any, 0).unwrap_or_else(|| unreachable!("every address has a /0")),
            src: None,
            hops: Vec::new(),
            prefsrc: None,
            metric: 0,
            mtu: None,
            advmss: None,
            flags: header.u32(8),
        };
        for a in attributes(rest) {
            match a.kind {
                libc::RTA_DST => dst = a.addr().unwrap_or(any),
                libc::RTA_SRC => src = a.addr(),
                libc::RTA_OIF => single.index = a.u32().unwrap_or(0),
                libc::RTA_GATEWAY => single.via = a.addr(),
                RTA_VIA => single.via = via(&a),
                libc::RTA_PREFSRC => route.prefsrc = a.addr(),
                libc::RTA_PRIORITY => route.metric = a.u32().unwrap_or(0),
                libc::RTA_TABLE => route.table = a.u32().unwrap_or(route.table),
                libc::RTA_METRICS => {
                    let metric = |kind: u16| a.nested().find(|a| a.kind == kind).and_then(|a| a.u32()).filter(|value| *value != 0);
                    (route.mtu, route.advmss) = (metric(RTAX_MTU), metric(RTAX_ADVMSS));
                }
                libc::RTA_MULTIPATH => hops = next_hops(a.value),
                _ => {}
            }
        }
        let Some(to) = Prefix::new(dst, header.u8(1)) else { return Ok(None) };
        route.dst = to;
        route.src = src.and_then(|src| Prefix::new(src, header.u8(2))).filter(|src| !src.is_empty());
        single.flags = header.u32(8) as u8;
        route.hops = if !hops.is_empty() {
            hops
        } else if single.index != 0 {
            vec![single]
        } else {
            Vec::new()
        };
        Ok(Some(route))
    }
}

/// `struct rtvia`: a family, and an address of it.
fn via(a: &Attribute<'_>) -> Option<IpAddr> {
    Attribute { kind: a.kind, value: a.value.get(2..)? }.addr()
}

/// `struct rtnexthop`, each with attributes of its own.
fn next_hops(mut rest: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let Some(&[a, b, flags, weight, c, d, e, f]) = rest.first_chunk::<8>() {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let Some(own) = rest.get(8..len) else { break };
        let index = u32::from_ne_bytes([c, d, e, f]);
        let mut hop = NextHop { via: None, index, weight: u32::from(weight) + 1, flags };
        for a in attributes(own) {
            match a.kind {
                libc::RTA_GATEWAY => hop.via = a.addr(),
                RTA_VIA => hop.via = via(&a),
                _ => {}
            }
        }
        hops.push(hop);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// A route to add or remove.
#[derive(Clone, Debug)]
pub struct RouteSpec {
    /// Where to.
    pub dst: Prefix,
    /// Table.
    pub table: u32,
    /// `RTN_…`.
    pub kind: u8,
    /// Through whom.
    pub via: Option<IpAddr>,
    /// Out of which interface.
    pub index: Option<u32>,
    /// Source address for own packets.
    pub prefsrc: Option<IpAddr>,
    /// Smaller is taken first.
    pub metric: Option<u32>,
    /// TOS that it is for.
    pub tos: u8,
    /// The gateway is on the wire whatever the addresses say.
    pub onlink: bool,
}

impl RouteSpec {
    /// A unicast route of the main table.
    pub fn to(dst: Prefix) -> Self {
        RouteSpec { dst, table: 254, kind: 1, via: None, index: None, prefsrc: None, metric: None, tos: 0, onlink: false }
    }

    fn body(&self) -> Vec<u8> {
        // A next hop on the wire has link scope, what ends here has host scope, others are global (ip-route(8)).
        let scope = match (self.kind, self.via) {
            (2, _) => libc::RT_SCOPE_HOST,
            (1, None) if self.dst.addr().is_ipv4() => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        let table = u8::try_from(self.table).unwrap_or(libc::RT_TABLE_UNSPEC);
        let mut header = [family_of(self.dst.addr()), self.dst.len(), 0, self.tos, table, libc::RTPROT_BOOT, scope, self.kind, 0, 0, 0, 0];
        let onlink = if self.onlink { 4u32 } else { 0 };
        header[8..].copy_from_slice(&onlink.to_ne_bytes());
        Attributes::new()
            .with((!self.dst.is_empty()).then(|| self.dst.addr()), |a, addr| a.addr(libc::RTA_DST, addr))
            .u32(libc::RTA_TABLE, self.table)
            .with(self.via, |a, via| a.addr(libc::RTA_GATEWAY, via))
            .with(self.index, |a, index| a.u32(libc::RTA_OIF, index))
            .with(self.prefsrc, |a, src| a.addr(libc::RTA_PREFSRC, src))
            .with(self.metric, |a, metric| a.u32(libc::RTA_PRIORITY, metric))
            .behind(&header)
    }

    fn words(&self) -> String {
        let via = self.via.map(|via| format!(" via {via}")).unwrap_or_default();
        format!("route {}{via} in table {}", self.dst, self.table)
    }
}

/// A packet whose way is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Where to.
    pub dst: IpAddr,
    /// From which address.
    pub src: Option<IpAddr>,
    /// Come in by this interface; `None` for an own packet.
    pub iif: Option<u32>,
    /// Bound to this interface.
    pub oif: Option<u32>,
    /// Firewall mark.
    pub mark: u32,
    /// Type of service.
    pub tos: u8,
}

impl Socket {
    /// All routes of all tables, of both families.
    ///
    /// # Errors
    /// When the dump fails.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let replies = self.dump(libc::RTM_GETROUTE, &[0; 12]).map_err(|e| e.attempting("list routes"))?;
        replies.iter().filter_map(|reply| Route::read(&reply.body).transpose()).collect()
    }

    /// The route that the kernel takes.
    ///
    /// # Errors
    /// `ENETUNREACH` when there is none, `EINVAL` for a martian source, `EHOSTUNREACH`, `EACCES` as the route says.
    pub fn way(&mut self, q: &Question) -> Result<Route, NetlinkError> {
        let width = if q.dst.is_ipv4() { 32 } else { 128 };
        let src_len = if q.src.is_some() { width } else { 0 };
        let header = [family_of(q.dst), width, src_len, q.tos, 0, 0, 0, 0, 0, 0, 0, 0];
        let body = Attributes::new()
            .addr(libc::RTA_DST, q.dst)
            .with(q.src, |a, src| a.addr(libc::RTA_SRC, src))
            .with(q.iif, |a, index| a.u32(libc::RTA_IIF, index))
            .with(q.oif, |a, index| a.u32(libc::RTA_OIF, index))
            .with((q.mark != 0).then_some(q.mark), |a, mark| a.u32(libc::RTA_MARK, mark))
            .behind(&header);
        let what = format!("ask for the way to {}", q.dst);
        let reply = self.ask(libc::RTM_GETROUTE, &body).map_err(|e| e.attempting(what))?;
        Route::read(&reply.body)?.ok_or_else(|| NetlinkError::other("the kernel's route is of another family"))
    }

    /// Adds a route.
    ///
    /// # Errors
    /// What the kernel refuses: `Nexthop has invalid gateway` and others.
    pub fn add_route(&mut self, spec: &RouteSpec) -> Result<(), NetlinkError> {
        self.change(libc::RTM_NEWROUTE, NlmFlags::add(), &spec.body()).map_err(|e| e.attempting(format!("add {}", spec.words())))
    }

    /// Removes a route.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn delete_route(&mut self, spec: &RouteSpec) -> Result<(), NetlinkError> {
        self.change(libc::RTM_DELROUTE, NlmFlags::CHANGE, &spec.body()).map_err(|e| e.attempting(format!("delete {}", spec.words())))
    }
}
