//! `-g`: the packet stays as it is, and goes to the MAC of the real server (`ip_vs_dr_xmit`).

/// Nothing is changed above the link layer but the TTL, which [`super::prepare`] has seen to.
pub(in crate::director) fn request(_bytes: &mut [u8]) {}
