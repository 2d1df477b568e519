//! What the host says of its interfaces: addresses, gateways, MTUs. Read once at the start.

use crate::net::Prefix;
use crate::netlink::rtnetlink::{Address, Link, Question, Route};
use crate::netlink::{Family, NetlinkError, Socket};
use nix::libc;
use nix::net::if_::if_nametoindex;
use std::net::IpAddr;

/// An interface of the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Interface {
    pub(super) networks: Vec<Prefix>,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) mtu: usize,
}

/// The host, as its kernel describes it.
pub(super) struct Machine {
    socket: Socket,
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

/// True while there is an interface of this name.
pub(super) fn is_there(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

impl Machine {
    pub(super) fn read() -> Result<Machine, NetlinkError> {
        let mut socket = Socket::open(Family::Route)?;
        let (links, addresses, routes) = (socket.links()?, socket.addresses()?, socket.routes()?);
        Ok(Machine { socket, links, addresses, routes })
    }

    /// All interfaces' names.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// An interface; `None` when there is none of this name.
    pub(super) fn interface(&self, name: &str) -> Option<Interface> {
        let link = self.links.iter().find(|link| link.name == name)?;
        let own = self.addresses.iter().filter(|a| a.index == link.index);
        let main = self.routes.iter().filter(|route| route.table == u32::from(libc::RT_TABLE_MAIN) && route.dst.is_empty());
        let gateways = main.flat_map(|route| &route.hops).filter(|hop| hop.index == link.index).filter_map(|hop| hop.via);
        Some(Interface { networks: own.map(|a| a.prefix).collect(), gateways: gateways.collect(), mtu: link.mtu as usize })
    }

    /// True when the host itself takes packets to this address: then its stack would answer too. A route of type local is enough for that.
    pub(super) fn is_local(&mut self, addr: IpAddr) -> bool {
        let configured = self.addresses.iter().any(|a| a.prefix.addr() == addr);
        let question = Question { dst: addr, src: None, iif: None, oif: None, mark: 0, tos: 0 };
        configured || self.socket.way(&question).is_ok_and(|route| route.kind == libc::RTN_LOCAL)
    }
}
