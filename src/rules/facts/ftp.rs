//! Data connections of FTP: opened to an address and port that the control connection named, which nothing but its payload says.

use super::Facts;
use crate::net::Protocol;
use crate::trace::Flow;

/// FTP's own ports: of control, and of data that the server sends by itself.
const CONTROL: u16 = 21;
const ACTIVE: u16 = 20;
/// A client opens its data connection as soon as it is told where.
const SOON: i64 = 10_000_000_000;

impl<'a> Facts<'a> {
    /// The balanced control connection to which a data connection belongs that came to nothing: in passive mode from the same client to the
    /// virtual address or to the real server's own, in active mode from the real server's port 20 to the client.
    pub(in crate::rules) fn ftp_control(&self, flow: &Flow) -> Option<&'a Flow> {
        if flow.protocol != Protocol::Tcp || flow.state.is_complete() || !flow.from_start {
            return None;
        }
        self.flows().find(|control| {
            let asks = control.service.port == CONTROL || control.vip.is_some_and(|vip| vip.port == CONTROL);
            let served = control.protocol == Protocol::Tcp && control.director.is_some() && control.is_answered();
            let meanwhile = control.first < flow.first && flow.first - control.last <= SOON;
            if !(asks && served && meanwhile) {
                return false;
            }
            let server = control.real_server.map(|server| server.addr);
            let ends = [Some(control.service.addr), control.vip.map(|vip| vip.addr), server];
            let passive = flow.client.addr == control.client.addr && flow.service.port > 1023 && ends.contains(&Some(flow.service.addr));
            let active = Some(flow.client.addr) == server && flow.client.port == ACTIVE && flow.service.addr == control.client.addr;
            passive || active
        })
    }
}
