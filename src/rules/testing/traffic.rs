//! Connections on their way, packet by packet, and the ICMP errors about them.

use super::conn::{ACK, Addresses, Conn, FIN, PSH, RST, SYN, SYN_ACK};
use super::{World, ip};
use crate::net::MacAddr;
use crate::packet::build;

impl World {
    /// Carries one packet along a route of hosts; a reply (`back`) is translated back where the request was translated.
    pub(in crate::rules) fn carry(&mut self, conn: &Conn, back: bool, flags: u8, payload: &[u8], route: &str) {
        self.carry_from(conn, back, flags, payload, route, 64);
    }

    /// The same with another TTL at the beginning of the route.
    pub(in crate::rules) fn carry_from(&mut self, conn: &Conn, back: bool, flags: u8, payload: &[u8], route: &str, mut ttl: u8) {
        let hosts: Vec<&str> = route.split_whitespace().collect();
        // Whoever is at the beginning of the route has the addresses that its place on the whole way gives it.
        let mut at = self.view(conn, hosts[0], back);
        let id = self.ids.entry(conn.client.port).or_insert(conn.client.port);
        *id = id.wrapping_add(1);
        let id = if back && flags & SYN != 0 || flags & RST != 0 { 0 } else { *id };
        for pair in hosts.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if from != hosts[0] {
                ttl -= 1;
                at = conn.pass(from, back, at);
            }
            let packet = conn.packet(back, flags, payload, ttl, id, &at);
            self.cross(from, to, |src, dst| build::ethernet(src, dst, &[], &packet));
        }
    }

    /// The last request packet of a connection, unpacked on a tunnel device of its server.
    pub(in crate::rules) fn unpack(&mut self, conn: &Conn, flags: u8, payload: &[u8], device: &str, ttl: u8) {
        let host = device.split('.').next().unwrap_or_default();
        let (id, at) = (self.ids.get(&conn.client.port).copied().unwrap_or(0), self.view(conn, host, false));
        let packet = conn.packet(false, flags, payload, ttl, id, &at);
        self.seen(device.to_string(), &build::ethernet(MacAddr::ZERO, MacAddr::ZERO, &[], &packet));
    }

    /// The addresses as they stand where a request arrives at `host`, or where a reply leaves it.
    fn view(&self, conn: &Conn, host: &str, back: bool) -> Addresses {
        let is_client = !back && self.interfaces.iter().any(|i| i.host == host && i.addr == conn.client.addr) || host == "client";
        // A host that translates is met by the packet before its own work; one that does not is behind all of it.
        let up_to = conn.work.iter().position(|(h, _)| h == host).unwrap_or(if is_client { 0 } else { conn.work.len() });
        let (src, dst) = conn.behind(up_to);
        if back { (dst, src, None) } else { (src, dst, None) }
    }

    /// The client's SYN and its repetitions after 1, 3, 7 … seconds, all along one route.
    pub(in crate::rules) fn syn(&mut self, conn: &Conn, route: &str, copies: u32) {
        for copy in 0..copies {
            if copy > 0 {
                self.wait(f64::from(1u32 << (copy - 1)));
            }
            self.carry(conn, false, SYN, b"", route);
        }
    }

    /// Handshake, request and answer of a healthy connection.
    pub(in crate::rules) fn talk(&mut self, conn: &Conn, there: &str, back: &str) {
        if conn.udp {
            self.carry(conn, false, 0, format!("question {}", conn.client.port).as_bytes(), there);
            self.carry(conn, true, 0, format!("answer {}", conn.client.port).as_bytes(), back);
            return;
        }
        for (reply, flags, payload) in [
            (false, SYN, &b""[..]),
            (true, SYN_ACK, b""),
            (false, ACK, b""),
            (false, PSH, b"GET /"),
            (true, PSH, b"200 OK"),
            (false, FIN, b""),
            (true, FIN, b""),
            (false, ACK, b""),
        ] {
            self.carry(conn, reply, flags, payload, if reply { back } else { there });
        }
    }

    /// An ICMP error from `route`'s first host about the connection's request as that host has it; `mtu` or gateway in `rest`.
    #[expect(clippy::too_many_arguments, reason = "one call, one line of a story")]
    pub(in crate::rules) fn icmp(
        &mut self,
        conn: &Conn,
        about_reply: bool,
        (type_number, code, rest): (u8, u8, u32),
        src: &str,
        dst: &str,
        quoted_at: &str,
        route: &str,
    ) {
        let at = self.view(conn, quoted_at, about_reply);
        let quoted = conn.packet(about_reply, if conn.udp { 0 } else { SYN }, b"", 62, 7, &at);
        self.icmp_quoting(&quoted, (type_number, code, rest), src, dst, route);
    }

    /// An ICMP error about a request in the tunnel into which `director` puts it.
    pub(in crate::rules) fn icmp_about_tunnel(
        &mut self,
        conn: &Conn,
        what: (u8, u8, u32),
        src: &str,
        dst: &str,
        director: &str,
        route: &str,
    ) {
        let at = conn.pass(director, false, self.view(conn, director, false));
        let quoted = conn.packet(false, if conn.udp { 0 } else { SYN }, b"", 62, 7, &at);
        self.icmp_quoting(&quoted, what, src, dst, route);
    }

    fn icmp_quoting(&mut self, quoted: &[u8], (type_number, code, rest): (u8, u8, u32), src: &str, dst: &str, route: &str) {
        let (src, dst) = (ip(src), ip(dst));
        let message = build::icmp(src, dst, type_number, code, rest, quoted);
        let protocol = if src.is_ipv4() { 1 } else { 58 };
        let hosts: Vec<&str> = route.split_whitespace().collect();
        for (hop, pair) in hosts.windows(2).enumerate() {
            let packet = build::ip(src, dst, protocol, build::IpFields { ttl: 64 - hop as u8, id: 9, flags: 0 }, &message);
            self.cross(pair[0], pair[1], |a, b| build::ethernet(a, b, &[], &packet));
        }
    }
}
