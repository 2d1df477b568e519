//! How a packet gets to its real server: a pure function a method. `net/netfilter/ipvs/ip_vs_xmit.c`.
//!
//! What each changes is the very rewrite that `trace` recognises: MACs alone (DR), the destination (NAT), a header around it (TUN).

pub(super) mod dr;
pub(super) mod local;
pub(super) mod nat;
pub(super) mod tun;

use super::settings::Settings;
use crate::packet::{IcmpError, IpHeader, decrement_ttl};

/// What the way to the real server demands.
pub(super) struct Way {
    /// Bytes that fit, after what the method adds.
    pub(super) mtu: usize,
    /// Deviations that were asked for.
    pub(super) keep_ttl: bool,
    /// The MTU test of RHEL 6: it looks at merged packets too.
    pub(super) test_merged: bool,
    /// The packet was merged by GRO, or not yet cut by TSO.
    pub(super) merged: bool,
    /// A tunnel does not test when it may fragment (`pmtu_disc` 0).
    pub(super) tested: bool,
}

/// What all methods do first: one hop less, and does it fit (`decrement_ttl`, `ensure_mtu_is_adequate`)? The error quotes the packet as it
/// is then.
pub(super) fn prepare(bytes: &mut [u8], header: &IpHeader, way: &Way, settings: &Settings) -> Result<(), IcmpError> {
    if settings.kernel.decrements_ttl() && !way.keep_ttl {
        if header.ttl <= 1 {
            return Err(IcmpError::TimeExceeded);
        }
        decrement_ttl(bytes);
    }
    let too_long = header.total > way.mtu && (!way.merged || way.test_merged);
    if too_long && way.tested && header.dont_fragment {
        return Err(IcmpError::TooBig(way.mtu as u32));
    }
    Ok(())
}
