//! Addresses of interfaces.

use super::{family_of, parts};
use crate::net::Prefix;
use crate::netlink::socket::NlmFlags;
use crate::netlink::{Attributes, NetlinkError, Socket, attributes};
use nix::libc;
use std::net::IpAddr;

/// An address, as `RTM_NEWADDR` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address with the length of its network.
    pub prefix: Prefix,
    /// The other end, on interfaces that have one (`ip addr add … peer …`).
    pub peer: Option<IpAddr>,
    /// `RT_SCOPE_…`: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// `IFA_F_…`: secondary, tentative, deprecated, permanent …
    pub flags: u32,
    /// Label, `eth0:1` (IPv4).
    pub label: Option<String>,
    /// Seconds that it is valid for; `None` is for ever.
    pub valid: Option<u32>,
    /// Seconds that it is preferred for; `None` is for ever.
    pub preferred: Option<u32>,
}

impl Address {
    fn read(body: &[u8]) -> Result<Option<Address>, NetlinkError> {
        let (header, rest) = parts(body, 8)?;
        let (len, mut flags) = (header.u8(1), u32::from(header.u8(2)));
        let (mut address, mut local, mut label, mut lifetimes) = (None, None, None, None);
        for a in attributes(rest) {
            match a.kind {
                libc::IFA_ADDRESS => address = a.addr(),
                libc::IFA_LOCAL => local = a.addr(),
                libc::IFA_LABEL => label = Some(a.text()),
                libc::IFA_FLAGS => flags = a.u32().unwrap_or(flags),
                libc::IFA_CACHEINFO => {
                    let word = |at: usize| a.value.get(at..).and_then(|b| b.first_chunk()).map(|b| u32::from_ne_bytes(*b));
                    lifetimes = word(0).zip(word(4));
                }
                _ => {}
            }
        }
        // With a peer, `IFA_ADDRESS` is the peer (include/uapi/linux/if_addr.h).
        let own = local.or(address);
        let Some(prefix) = own.and_then(|own| Prefix::new(own, len)) else { return Ok(None) };
        let forever = |seconds: u32| (seconds != u32::MAX).then_some(seconds);
        Ok(Some(Address {
            index: header.u32(4),
            prefix,
            peer: address.filter(|a| local.is_some_and(|local| local != *a)),
            scope: header.u8(3),
            flags,
            label,
            valid: lifetimes.and_then(|(_, valid)| forever(valid)),
            preferred: lifetimes.and_then(|(preferred, _)| forever(preferred)),
        }))
    }
}

/// An address to add or remove.
#[derive(Clone, Debug)]
pub struct AddressSpec {
    /// The interface.
    pub index: u32,
    /// The address with the length of its network.
    pub prefix: Prefix,
    /// `RT_SCOPE_…`; the kernel does not derive it from the address.
    pub scope: u8,
    /// IPv6: take it at once, without asking whether another host has it.
    pub nodad: bool,
}

impl AddressSpec {
    fn body(&self) -> Vec<u8> {
        let addr = self.prefix.addr();
        let flags = if self.nodad { libc::IFA_F_NODAD } else { 0 };
        let mut header = [family_of(addr), self.prefix.len(), flags as u8, self.scope, 0, 0, 0, 0];
        header[4..].copy_from_slice(&self.index.to_ne_bytes());
        Attributes::new().addr(libc::IFA_LOCAL, addr).addr(libc::IFA_ADDRESS, addr).behind(&header)
    }
}

impl Socket {
    /// All addresses of both families.
    ///
    /// # Errors
    /// When the dump fails.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let replies = self.dump(libc::RTM_GETADDR, &[0; 8]).map_err(|e| e.attempting("list addresses"))?;
        replies.iter().filter_map(|reply| Address::read(&reply.body).transpose()).collect()
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn add_address(&mut self, spec: &AddressSpec) -> Result<(), NetlinkError> {
        let what = format!("add address {} to interface {}", spec.prefix, spec.index);
        self.change(libc::RTM_NEWADDR, NlmFlags::add(), &spec.body()).map_err(|e| e.attempting(what))
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn delete_address(&mut self, spec: &AddressSpec) -> Result<(), NetlinkError> {
        let what = format!("delete address {} of interface {}", spec.prefix, spec.index);
        self.change(libc::RTM_DELADDR, NlmFlags::CHANGE, &spec.body()).map_err(|e| e.attempting(what))
    }
}
