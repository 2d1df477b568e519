//! Interfaces.

use super::parts;
use crate::net::MacAddr;
use crate::netlink::socket::NlmFlags;
use crate::netlink::{Attributes, NetlinkError, Socket, attributes};
use nix::libc;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An interface, as `RTM_NEWLINK` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `ARPHRD_…` (linux/if_arp.h).
    pub hardware: u16,
    /// `IFF_…` (netdevice(7)).
    pub flags: u32,
    /// `IF_OPER_…` (RFC 2863): 6 is up, 2 is down, 0 is unknown, as lo always is.
    pub oper_state: u8,
    /// Its link-layer address, where it has one of 6 bytes.
    pub mac: Option<MacAddr>,
    /// The longest IP packet, in bytes.
    pub mtu: u32,
    /// Bridge, bond, team or VRF that it belongs to.
    pub master: Option<u32>,
    /// The other end of a veth, the device below a VLAN or macvlan.
    pub lower: Option<u32>,
    /// The network namespace that `lower` is in, if it is another one.
    pub lower_netns: Option<i32>,
    /// `veth`, `bridge`, `ipip`, `vlan` …; none for hardware.
    pub kind: Option<String>,
    /// The other name under which it is known, if any.
    pub alias: Option<String>,
    /// `BR_STATE_…` of a bridge port: 3 is forwarding.
    pub bridge_port_state: Option<u8>,
    /// VLAN number of a VLAN device.
    pub vlan: Option<u16>,
    /// Both ends of a tunnel device; unspecified addresses take any.
    pub tunnel: Option<(std::net::IpAddr, std::net::IpAddr)>,
}

impl Link {
    /// Administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Carries packets: up, and a bridge port beyond listening and learning.
    pub fn is_ready(&self) -> bool {
        self.is_up() && (self.oper_state == 6 || self.oper_state == 0) && self.bridge_port_state.is_none_or(|state| state == 3)
    }

    fn read(body: &[u8]) -> Result<Link, NetlinkError> {
        let (header, rest) = parts(body, 16)?;
        let mut link = Link { hardware: header.u16(2), index: header.u32(4), flags: header.u32(8), ..Link::default() };
        for a in attributes(rest) {
            match a.kind {
                libc::IFLA_IFNAME => link.name = a.text(),
                libc::IFLA_ADDRESS => link.mac = a.mac(),
                libc::IFLA_MTU => link.mtu = a.u32().unwrap_or(0),
                libc::IFLA_OPERSTATE => link.oper_state = a.u8().unwrap_or(0),
                libc::IFLA_MASTER => link.master = a.u32(),
                libc::IFLA_LINK => link.lower = a.u32().filter(|&lower| lower != 0),
                libc::IFLA_LINK_NETNSID => link.lower_netns = a.u32().map(u32::cast_signed),
                libc::IFLA_IFALIAS => link.alias = Some(a.text()),
                libc::IFLA_LINKINFO => link.info(&mut a.nested()),
                _ => {}
            }
        }
        Ok(link)
    }

    fn info<'a>(&mut self, info: &mut dyn Iterator<Item = crate::netlink::Attribute<'a>>) {
        let mut data = None;
        for a in info {
            match a.kind {
                libc::IFLA_INFO_KIND => self.kind = Some(a.text()),
                libc::IFLA_INFO_DATA => data = Some(a),
                libc::IFLA_INFO_SLAVE_DATA => {
                    // IFLA_BRPORT_STATE
                    self.bridge_port_state = a.nested().find(|a| a.kind == 1).and_then(|a| a.u8());
                }
                _ => {}
            }
        }
        let Some(data) = data else { return };
        let value = |kind: u16| data.nested().find(|a| a.kind == kind);
        match self.kind.as_deref() {
            // IFLA_VLAN_ID
            Some("vlan") => self.vlan = value(1).and_then(|a| a.u16()),
            // IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE
            Some("ipip" | "sit" | "ip6tnl") => {
                self.tunnel = value(2).and_then(|a| a.addr()).zip(value(3).and_then(|a| a.addr()));
            }
            // IFLA_GRE_LOCAL, IFLA_GRE_REMOTE
            Some("gre" | "gretap" | "ip6gre" | "ip6gretap") => {
                self.tunnel = value(6).and_then(|a| a.addr()).zip(value(7).and_then(|a| a.addr()));
            }
            _ => {}
        }
    }
}

/// What kind of interface to make.
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    /// Two interfaces with a wire between them.
    Veth(Peer<'a>),
    /// A switch, which floods multicasts and says nothing itself.
    Bridge,
    /// A device that swallows packets.
    Dummy,
    /// An IPIP tunnel: its own end and the other one; `None`: any.
    Ipip(Option<(Ipv4Addr, Ipv4Addr)>),
    /// A VLAN on a device.
    Vlan {
        /// The device below.
        lower: u32,
        /// The VLAN's number.
        id: u16,
    },
}

/// The other end of a veth.
#[derive(Clone, Debug)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// The network namespace that it is born in, if it is another one.
    pub netns: Option<BorrowedFd<'a>>,
}

/// An interface to make.
#[derive(Clone, Debug)]
pub struct LinkSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address; the kernel takes a random one without.
    pub mac: Option<MacAddr>,
    /// Its kind.
    pub kind: Kind<'a>,
}

fn header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

impl Socket {
    /// All interfaces.
    ///
    /// # Errors
    /// When the dump fails.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let replies = self.dump(libc::RTM_GETLINK, &header(0, 0, 0)).map_err(|e| e.attempting("list interfaces"))?;
        replies.iter().map(|reply| Link::read(&reply.body)).collect()
    }

    /// The interface of a name.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let body = Attributes::new().text(libc::IFLA_IFNAME, name).behind(&header(0, 0, 0));
        let reply = self.ask(libc::RTM_GETLINK, &body).map_err(|e| e.attempting(format!("look at interface {name}")))?;
        Link::read(&reply.body)
    }

    /// Makes an interface.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn add_link(&mut self, spec: &LinkSpec<'_>) -> Result<(), NetlinkError> {
        let mut all = Attributes::new().text(libc::IFLA_IFNAME, spec.name).with(spec.mac, |a, mac| a.mac(libc::IFLA_ADDRESS, mac));
        let (kind, data) = match &spec.kind {
            Kind::Veth(peer) => {
                let told = Attributes::new()
                    .text(libc::IFLA_IFNAME, peer.name)
                    .with(peer.mac, |a, mac| a.mac(libc::IFLA_ADDRESS, mac))
                    .with(peer.netns, |a, fd| a.u32(libc::IFLA_NET_NS_FD, fd.as_raw_fd() as u32));
                // VETH_INFO_PEER: a whole message within an attribute.
                ("veth", Attributes::new().bytes(1, &told.behind(&header(0, 0, 0))))
            }
            // IFLA_BR_MCAST_SNOOPING: a bridge that snoops joins a group, and says so on every port.
            Kind::Bridge => ("bridge", Attributes::new().u8(23, 0)),
            Kind::Dummy => ("dummy", Attributes::new()),
            // IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE
            Kind::Ipip(ends) => {
                let with = |all: Attributes, (own, other): (Ipv4Addr, Ipv4Addr)| all.bytes(2, &own.octets()).bytes(3, &other.octets());
                ("ipip", Attributes::new().with(*ends, with))
            }
            Kind::Vlan { lower, id } => {
                all = all.u32(libc::IFLA_LINK, *lower);
                ("vlan", Attributes::new().u16(1, *id))
            }
        };
        let info = Attributes::new().text(libc::IFLA_INFO_KIND, kind).nested(libc::IFLA_INFO_DATA, &data);
        let body = all.nested(libc::IFLA_LINKINFO, &info).behind(&header(0, 0, 0));
        self.change(libc::RTM_NEWLINK, NlmFlags::add(), &body).map_err(|e| e.attempting(format!("add {kind} {}", spec.name)))
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let flag = libc::IFF_UP as u32;
        let body = header(index, if up { flag } else { 0 }, flag);
        let what = format!("set interface {index} {}", if up { "up" } else { "down" });
        self.change(libc::RTM_NEWLINK, NlmFlags::CHANGE, &body).map_err(|e| e.attempting(what))
    }

    /// Changes an interface's MTU, MAC address or master.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_link(&mut self, index: u32, mtu: Option<u32>, mac: Option<MacAddr>, master: Option<u32>) -> Result<(), NetlinkError> {
        let body = Attributes::new()
            .with(mtu, |a, mtu| a.u32(libc::IFLA_MTU, mtu))
            .with(mac, |a, mac| a.mac(libc::IFLA_ADDRESS, mac))
            .with(master, |a, master| a.u32(libc::IFLA_MASTER, master))
            .behind(&header(index, 0, 0));
        self.change(libc::RTM_NEWLINK, NlmFlags::CHANGE, &body).map_err(|e| e.attempting(format!("change interface {index}")))
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let body = header(index, 0, 0);
        self.change(libc::RTM_DELLINK, NlmFlags::CHANGE, &body).map_err(|e| e.attempting(format!("delete interface {index}")))
    }
}
