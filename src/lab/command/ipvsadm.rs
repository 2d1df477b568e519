//! `ipvsadm`, by generic netlink, for directors that are the kernel's own (linux/ip_vs.h).

use crate::ipvs::{Command, ForwardingMethod, Match, RealServer, TunnelChecksum, TunnelType, VirtualService};
use crate::net::Endpoint;
use crate::netlink::{Attributes, Generic};
use std::net::{IpAddr, Ipv4Addr};

const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DEL_SERVICE: u8 = 3;
const NEW_DEST: u8 = 5;
const SET_DEST: u8 = 6;
const DEL_DEST: u8 = 7;
const NEW_DAEMON: u8 = 9;
const DEL_DAEMON: u8 = 10;
const SET_CONFIG: u8 = 12;
const FLUSH: u8 = 17;
const SERVICE: u16 = 1;
const DEST: u16 = 2;
const DAEMON: u16 = 3;

/// Said where the kernel has none.
pub(in crate::lab) const NO_IPVS: &str = "this kernel has no IPVS (`modprobe ip_vs`, as root)";

/// Carries out a command in the calling thread's network namespace.
pub(in crate::lab) fn run(command: &Command) -> Result<(), String> {
    let mut kernel = open()?;
    let of = |matches: &Match| Attributes::new().nested(SERVICE, &key(matches));
    match command {
        Command::Clear => kernel.tell(FLUSH, &Attributes::new()),
        Command::AddService(service) => kernel.tell(NEW_SERVICE, &Attributes::new().nested(SERVICE, &whole(service))),
        Command::EditService(service) => kernel.tell(SET_SERVICE, &Attributes::new().nested(SERVICE, &whole(service))),
        Command::DeleteService(matches) => kernel.tell(DEL_SERVICE, &of(matches)),
        Command::AddServer(matches, server) => kernel.tell(NEW_DEST, &of(matches).nested(DEST, &server_of(matches, server))),
        Command::EditServer(matches, server) => kernel.tell(SET_DEST, &of(matches).nested(DEST, &server_of(matches, server))),
        Command::DeleteServer(matches, at) => kernel.tell(DEL_DEST, &of(matches).nested(DEST, &place(*at))),
    }
    .map_err(String::from)
}

/// `ipvsadm --set`: seconds of established TCP, TCP after FIN, UDP; 0 leaves one as it is.
pub(in crate::lab) fn set_timeouts(seconds: [u32; 3]) -> Result<(), String> {
    let wanted = (4..).zip(seconds).filter(|(_, seconds)| *seconds > 0);
    let timeouts = wanted.fold(Attributes::new(), |all, (kind, seconds)| all.u32(kind, seconds));
    Ok(open()?.tell(SET_CONFIG, &timeouts)?)
}

/// `ipvsadm --start-daemon`, or without a device `--stop-daemon`.
pub(in crate::lab) fn daemon(state: &str, device: Option<&str>) -> Result<(), String> {
    let number = match state {
        "master" => 1,
        "backup" => 2,
        other => return Err(format!("{other} is neither master nor backup")),
    };
    let told = Attributes::new().u32(1, number).with(device, |all, name| all.text(2, name).u32(3, 0));
    let what = if device.is_some() { NEW_DAEMON } else { DEL_DAEMON };
    Ok(open()?.tell(what, &Attributes::new().nested(DAEMON, &told))?)
}

/// True where the kernel has IPVS for the calling thread's network namespace.
pub(in crate::lab) fn is_there() -> bool {
    open().is_ok()
}

fn open() -> Result<Generic, String> {
    Generic::open("IPVS", 1)?.ok_or_else(|| NO_IPVS.to_string())
}

/// An address is a union as long as one of IPv6.
fn addr(attributes: Attributes, kind: u16, addr: IpAddr) -> Attributes {
    let mut bytes = [0; 16];
    match addr {
        IpAddr::V4(a) => bytes[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => bytes = a.octets(),
    }
    attributes.bytes(kind, &bytes)
}

fn family(v6: bool) -> u16 {
    if v6 { 10 } else { 2 }
}

/// What names a service.
fn key(matches: &Match) -> Attributes {
    match matches {
        Match::Mark(mark, v6) => Attributes::new().u16(1, family(*v6)).u32(5, *mark),
        Match::Endpoint(protocol, at) => {
            let key = Attributes::new().u16(1, family(at.addr.is_ipv6())).u16(2, protocol.number().into());
            addr(key, 3, at.addr).bytes(4, &at.port.to_be_bytes())
        }
    }
}

/// A service with all that the kernel wants to know of it.
fn whole(service: &VirtualService) -> Attributes {
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    // IP_VS_SVC_F_PERSISTENT, _ONEPACKET, and what schedulers take.
    let mut flags = flag(service.persistence.is_some(), 1) | flag(service.one_packet, 4);
    for name in &service.flags {
        flags |= match name.as_str() {
            "sh-fallback" | "mh-fallback" | "flag-1" => 0x8,
            "sh-port" | "mh-port" | "flag-2" => 0x10,
            _ => 0x20,
        };
    }
    let mask = service.netmask.as_deref().unwrap_or_default();
    let netmask = match service.is_ipv6() {
        true => mask.parse().unwrap_or(128_u32).to_ne_bytes(),
        false => mask.parse().unwrap_or(Ipv4Addr::BROADCAST).octets(),
    };
    key(&service.matches)
        .text(6, &service.scheduler)
        .bytes(7, &[flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat())
        .u32(8, service.persistence.unwrap_or(0))
        .bytes(9, &netmask)
        .with(service.engine.as_deref(), |all, engine| all.text(11, engine))
}

fn place(at: Endpoint) -> Attributes {
    addr(Attributes::new().u16(11, family(at.addr.is_ipv6())), 1, at.addr).bytes(2, &at.port.to_be_bytes())
}

/// A real server; one without a port has the service's.
fn server_of(of: &Match, server: &RealServer) -> Attributes {
    let mut at = server.endpoint();
    if let (Match::Endpoint(_, vip), 0) = (of, at.port) {
        at.port = vip.port;
    }
    let method = match server.method {
        ForwardingMethod::Nat => 0,
        ForwardingMethod::Tunnel => 2,
        ForwardingMethod::DirectRouting => 3,
    };
    let all = place(at).u32(3, method).u32(4, server.weight).u32(5, server.upper).u32(6, server.lower);
    // Kernels before 5.2 do not know the kinds of tunnels, and IPIP is what they make.
    let kind = match server.tunnel.kind {
        TunnelType::Ipip => return all,
        TunnelType::Gue => 1,
        TunnelType::Gre => 2,
    };
    let checksum = match server.tunnel.checksum {
        TunnelChecksum::None => 0,
        TunnelChecksum::Outer => 1,
        TunnelChecksum::Remote => 2,
    };
    all.u8(13, kind).bytes(14, &server.tunnel.port.to_be_bytes()).u16(15, checksum)
}
