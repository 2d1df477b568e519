//! Neighbours: the ARP and ND caches.

use super::{family_of, parts};
use crate::net::MacAddr;
use crate::netlink::socket::NlmFlags;
use crate::netlink::{Attributes, NetlinkError, Socket, attributes};
use nix::libc;
use std::net::IpAddr;

/// A neighbour, as `RTM_NEWNEIGH` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub index: u32,
    /// Whom it is about.
    pub addr: IpAddr,
    /// Its MAC address, where one is known.
    pub mac: Option<MacAddr>,
    /// `NUD_…` (linux/neighbour.h): 2 reachable, 4 stale, 32 failed, 128 permanent.
    pub state: u16,
    /// `NTF_…`: 8 is proxy.
    pub flags: u8,
}

/// A neighbour that is written down for good.
#[derive(Clone, Copy, Debug)]
pub struct NeighbourSpec {
    /// The interface.
    pub index: u32,
    /// Whom it is about.
    pub addr: IpAddr,
    /// Its MAC address.
    pub mac: MacAddr,
}

fn header(family: u8, index: u32, state: u16) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header
}

impl Socket {
    /// All neighbours of both families.
    ///
    /// # Errors
    /// When the dump fails.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        self.entries(&header(0, 0, 0))
    }

    /// All addresses of others for which this machine answers: they are in a table of their own.
    ///
    /// # Errors
    /// When the dump fails.
    pub fn neighbour_proxies(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut asked = header(0, 0, 0);
        asked[10] = libc::NTF_PROXY;
        let mut all = self.entries(&asked)?;
        // A kernel that does not look at the flag tells the other table.
        all.retain(|entry| entry.flags & libc::NTF_PROXY != 0);
        Ok(all)
    }

    fn entries(&mut self, asked: &[u8]) -> Result<Vec<Neighbour>, NetlinkError> {
        let replies = self.dump(libc::RTM_GETNEIGH, asked).map_err(|e| e.attempting("list neighbours"))?;
        let mut all = Vec::with_capacity(replies.len());
        for reply in &replies {
            let (header, rest) = parts(&reply.body, 12)?;
            let find = |kind: u16| attributes(rest).find(|a| a.kind == kind);
            // Entries of bridges' tables have no address.
            let Some(addr) = find(libc::NDA_DST).and_then(|a| a.addr()) else { continue };
            let mac = find(libc::NDA_LLADDR).and_then(|a| a.mac());
            all.push(Neighbour { index: header.u32(4), addr, mac, state: header.u16(8), flags: header.u8(10) });
        }
        Ok(all)
    }

    /// Writes a neighbour down for good, instead of what was known.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_neighbour(&mut self, spec: &NeighbourSpec) -> Result<(), NetlinkError> {
        let header = header(family_of(spec.addr), spec.index, libc::NUD_PERMANENT);
        let body = Attributes::new().addr(libc::NDA_DST, spec.addr).mac(libc::NDA_LLADDR, spec.mac).behind(&header);
        let what = format!("set neighbour {} to {} on interface {}", spec.addr, spec.mac, spec.index);
        self.change(libc::RTM_NEWNEIGH, NlmFlags::replace(), &body).map_err(|e| e.attempting(what))
    }

    /// Answers for an address of another from now on, or no longer: `ip neigh add proxy`, `ip neigh del proxy`.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn proxy_neighbour(&mut self, index: u32, addr: IpAddr, answer: bool) -> Result<(), NetlinkError> {
        let mut header = header(family_of(addr), index, libc::NUD_PERMANENT);
        header[10] = libc::NTF_PROXY;
        let body = Attributes::new().addr(libc::NDA_DST, addr).behind(&header);
        let (kind, flags) = if answer { (libc::RTM_NEWNEIGH, NlmFlags::replace()) } else { (libc::RTM_DELNEIGH, NlmFlags::CHANGE) };
        self.change(kind, flags, &body).map_err(|e| e.attempting(format!("proxy for neighbour {addr} on interface {index}")))
    }

    /// Forgets a neighbour.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn delete_neighbour(&mut self, index: u32, addr: IpAddr) -> Result<(), NetlinkError> {
        let body = Attributes::new().addr(libc::NDA_DST, addr).behind(&header(family_of(addr), index, 0));
        let what = format!("delete neighbour {addr} on interface {index}");
        self.change(libc::RTM_DELNEIGH, NlmFlags::CHANGE, &body).map_err(|e| e.attempting(what))
    }
}
