//! Settings with the kernel's names and defaults (`/proc/sys/net/ipv4/vs/`), and which kernel is meant.

use std::fmt;
use std::str::FromStr;

/// The Linux version whose behaviour is copied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kernel {
    major: u16,
    minor: u16,
}

impl Default for Kernel {
    fn default() -> Self {
        Kernel::new(6, 1)
    }
}

impl Kernel {
    /// Linux `major.minor`.
    pub fn new(major: u16, minor: u16) -> Kernel {
        Kernel { major, minor }
    }

    /// 4.18 changed the hashes of `dh`, `sh`, `lblc` and `lblcr`.
    pub fn new_hash(self) -> bool {
        self >= Kernel::new(4, 18)
    }

    /// 4.10 began to decrement the TTL of forwarded requests.
    pub fn decrements_ttl(self) -> bool {
        self >= Kernel::new(4, 10)
    }

    /// 4.8 began to count half open TCP connections as active ("count pre-established TCP states as active").
    pub fn counts_half_open(self) -> bool {
        self >= Kernel::new(4, 8)
    }

    /// 5.9 began to schedule a packet anew at once when its real server is gone and `expire_nodest_conn` is set.
    pub fn reschedules_nodest(self) -> bool {
        self >= Kernel::new(5, 9)
    }

    /// 4.19 marks templates whose connections were established as assured.
    pub fn assures_templates(self) -> bool {
        self >= Kernel::new(4, 19)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Kernel {
    type Err = String;

    /// `6.1`, `4.17.3`, `6.1.0-18-amd64`: what `uname -r` prints.
    fn from_str(text: &str) -> Result<Kernel, String> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|n| n.parse().ok());
        match (next(), next()) {
            (Some(major), Some(minor)) => Ok(Kernel { major, minor }),
            _ => Err(format!("'{text}' is not a kernel version such as 6.1")),
        }
    }
}

/// What an administrator can set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whose behaviour.
    pub kernel: Kernel,
    /// A connection whose real server was removed expires at its next packet.
    pub expire_nodest_conn: bool,
    /// A persistence template whose real server has weight 0 is not used.
    pub expire_quiescent_template: bool,
    /// What to do when a client uses a port again.
    pub conn_reuse_mode: u8,
    /// Any TCP packet but RST creates a connection.
    pub sloppy_tcp: bool,
    /// Any SCTP packet but ABORT creates a connection.
    pub sloppy_sctp: bool,
    /// Copy DF to the outer header, and test the MTU, in tunnels.
    pub pmtu_disc: bool,
    /// Tell a real server that answers without a connection.
    pub nat_icmp_send: bool,
    /// The table against SYN floods.
    pub secure_tcp: bool,
    /// Connection tracking has looked at packets before IPVS does. Without it the kernel drops ICMPv6 errors of NAT real servers: it
    /// sums them without their pseudo-header (`handle_response_icmp` in `ip_vs_core.c`), unless somebody found them right before.
    pub conntrack: bool,
    /// `ipvsadm --set`: seconds of established TCP, TCP after FIN, UDP.
    pub timeouts: [u32; 3],
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kernel: Kernel::default(),
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            conn_reuse_mode: 1,
            sloppy_tcp: false,
            sloppy_sctp: false,
            pmtu_disc: true,
            nat_icmp_send: false,
            secure_tcp: false,
            conntrack: true,
            timeouts: [900, 120, 300],
        }
    }
}

/// The names that [`Settings::set`] takes.
pub const SETTINGS: [&str; 8] = [
    "expire_nodest_conn",
    "expire_quiescent_template",
    "conn_reuse_mode",
    "sloppy_tcp",
    "sloppy_sctp",
    "pmtu_disc",
    "nat_icmp_send",
    "secure_tcp",
];

impl Settings {
    /// The settings by their names, as /proc shows them.
    pub fn listed(&self) -> impl Iterator<Item = (&'static str, u8)> {
        let values = [
            self.expire_nodest_conn.into(),
            self.expire_quiescent_template.into(),
            self.conn_reuse_mode,
            self.sloppy_tcp.into(),
            self.sloppy_sctp.into(),
            self.pmtu_disc.into(),
            self.nat_icmp_send.into(),
            if self.secure_tcp { 3 } else { 0 },
        ];
        SETTINGS.into_iter().zip(values)
    }

    /// Sets what `sysctl net.ipv4.vs.NAME=VALUE` sets; the prefix may be left out.
    ///
    /// # Errors
    /// An unknown name, or a value that is not a number.
    pub fn set(&mut self, assignment: &str) -> Result<(), String> {
        let (name, value) = assignment.split_once('=').ok_or_else(|| format!("'{assignment}' is not NAME=VALUE"))?;
        let name = name.trim().trim_start_matches("net.ipv4.vs.");
        let value: u8 = value.trim().parse().map_err(|_| format!("'{}' is not a value of {name}", value.trim()))?;
        match name {
            "expire_nodest_conn" => self.expire_nodest_conn = value != 0,
            "expire_quiescent_template" => self.expire_quiescent_template = value != 0,
            "conn_reuse_mode" => self.conn_reuse_mode = value,
            "sloppy_tcp" => self.sloppy_tcp = value != 0,
            "sloppy_sctp" => self.sloppy_sctp = value != 0,
            "pmtu_disc" => self.pmtu_disc = value != 0,
            "nat_icmp_send" => self.nat_icmp_send = value != 0,
            // 1 and 2 switch it on under memory pressure, which there is none of here; 3 always.
            "secure_tcp" => self.secure_tcp = value == 3,
            _ => return Err(format!("unknown setting '{name}' (known: {})", SETTINGS.join(" "))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels() {
        assert_eq!("6.1.0-18-amd64".parse(), Ok(Kernel::new(6, 1)));
        assert!("4.17".parse::<Kernel>().unwrap() < Kernel::new(4, 18));
        assert!("2.6.32".parse::<Kernel>().unwrap() < Kernel::new(3, 0));
        assert!("six".parse::<Kernel>().is_err());
    }

    #[test]
    fn sysctl_words() {
        let mut settings = Settings::default();
        settings.set("net.ipv4.vs.conn_reuse_mode=3").unwrap();
        settings.set("expire_nodest_conn = 1").unwrap();
        assert!(settings.conn_reuse_mode == 3 && settings.expire_nodest_conn);
        assert_eq!(
            settings.set("expire_nodest=1").unwrap_err(),
            format!("unknown setting 'expire_nodest' (known: {})", SETTINGS.join(" "))
        );
        // Every name that is offered is taken.
        SETTINGS.iter().for_each(|name| settings.set(&format!("{name}=0")).unwrap());
    }
}
