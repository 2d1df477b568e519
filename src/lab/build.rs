//! Hosts out of plans: namespaces with switches between them, ready when this returns.
//!
//! The switches stand in a namespace of their own, a bridge a segment; each host's interface is one end of a veth whose other end is a
//! port of its bridge.

use super::command::{self, CommandError};
use super::files::Files;
use super::netns::Namespace;
use super::scenario::Scenario;
use super::tunnel::Tunnel;
use crate::collect::{self, saved};
use crate::director::{MarkRule, Settings};
use crate::ipvs::{Command, Role, Rules, VirtualService, parse_command, to_text};
use crate::net::MacAddr;
use crate::netlink::rtnetlink::{Kind, Link, LinkSpec, Peer};
use crate::netlink::{Family, NetlinkError, Socket};
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A network that stands.
pub struct Network {
    /// Its hosts, in the order of the scenario.
    pub hosts: Vec<Host>,
    /// Where the bridges are, and the other ends of all interfaces.
    pub switches: Namespace,
}

/// A host of it.
pub struct Host {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Where its commands run, and its servers and clients.
    pub namespace: Namespace,
    /// Where its frames are, if that is another place: the built-in director's wires, of which the kernel of the host knows nothing.
    pub wires: Option<Namespace>,
    /// What `ipvsadm` says is noted and nothing more.
    noted: bool,
    /// Its interfaces: name and MAC address.
    pub interfaces: Vec<(String, MacAddr)>,
    /// Its place among the hosts.
    number: usize,
    /// The IPVS rules that were given to it.
    rules: Mutex<Rules>,
    /// `net.ipv4.vs` and timeouts of a built-in director.
    settings: Mutex<Settings>,
    /// Its configuration files.
    files: Mutex<Files>,
    /// Virtual routers whose master it says to be.
    masters: Mutex<Vec<command::vrrp::Master>>,
    /// The ends of its tunnels, where the kernel has none.
    tunnel: Mutex<Option<Tunnel>>,
    /// Bridges without ports that stand for dummies, where the kernel has none.
    dummies: Mutex<Vec<String>>,
    /// What its filter marks for the built-in director.
    marks: Mutex<Vec<MarkRule>>,
    /// The built-in director is as a kernel whose module is not loaded.
    unloaded: AtomicBool,
}

/// A network that could not be built.
#[derive(Debug)]
pub struct BuildError {
    /// The host that it was about; empty for the switches.
    pub host: String,
    /// What went wrong.
    pub what: String,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.is_empty() { "the switches" } else { &self.host };
        write!(f, "{host}: {}", self.what)
    }
}

impl std::error::Error for BuildError {}

/// Said of what the built-in director does not do.
pub const NEEDS_KERNEL: &str = "that takes the kernel's IPVS";
/// Who does what `ipvsadm` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Balancing {
    /// The built-in director, beside the kernel of each host that is one.
    Builtin,
    /// The kernel's IPVS.
    Kernel,
    /// Nobody: rules are noted, for snapshots.
    Nobody,
}

/// How long links may take to come up. They do in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every host has before its own set-up: nothing inherited from the machine.
const PLAIN: &[&str] = &[
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.arp_ignore=0",
    "net.ipv4.conf.default.arp_ignore=0",
    "net.ipv4.conf.all.arp_announce=0",
    "net.ipv4.conf.default.arp_announce=0",
    "net.ipv4.ip_forward=0",
];
/// Addresses are there at once, and nobody asks for routers.
const QUIET_IPV6: &[&str] = &[
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.router_solicitations=0",
    "net.ipv6.conf.default.router_solicitations=0",
];
const NO_IPV6: &[&str] = &["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"];

impl Network {
    /// Builds what a scenario describes, before anything is broken. To be called inside the sandbox.
    ///
    /// # Errors
    /// What the kernel refuses, and commands that are not understood.
    pub fn build(scenario: &Scenario, balancing: Balancing) -> Result<Network, BuildError> {
        let switches = |e: NetlinkError| BuildError { host: String::new(), what: e.to_string() };
        let room = bare(false).map_err(|what| BuildError { host: String::new(), what })?;
        let opened =
            room.run(|| Socket::open(Family::Route)).map_err(|errno| BuildError { host: String::new(), what: errno.to_string() })?;
        let mut sandbox = opened.map_err(switches)?;
        let segments = scenario.segments();
        let bridge = |segment: &str| format!("sw{}", segments.iter().position(|known| *known == segment).unwrap_or(0));
        for segment in &segments {
            let name = bridge(segment);
            sandbox.add_link(&LinkSpec { name: &name, mac: None, kind: Kind::Bridge }).map_err(switches)?;
            let index = sandbox.link(&name).map_err(switches)?.index;
            sandbox.set_up(index, true).map_err(switches)?;
        }
        let mut hosts = Vec::new();
        for (number, plan) in scenario.hosts.iter().enumerate() {
            let failed = |what: String| BuildError { host: plan.name.clone(), what };
            let on_wire = balancing == Balancing::Builtin && plan.role == Role::Director;
            let namespace = bare(scenario.ipv6).map_err(|e| failed(e.to_string()))?;
            let wires = if on_wire { Some(bare(false).map_err(|e| failed(e.to_string()))?) } else { None };
            let mut interfaces = Vec::new();
            for (at, interface) in plan.interfaces.iter().enumerate() {
                let mac = scenario.mac(number, at);
                let port = port(number, at);
                plug(&mut sandbox, &port, &interface.name, mac, wires.as_ref().unwrap_or(&namespace), Some(&bridge(&interface.segment)))
                    .map_err(|e| failed(e.to_string()))?;
                if on_wire {
                    // The same interface for the host's kernel, plugged into nothing.
                    plug(&mut sandbox, &kernel_port(number, at), &interface.name, mac, &namespace, None)
                        .map_err(|e| failed(e.to_string()))?;
                }
                interfaces.push((interface.name.clone(), mac));
            }
            let (name, role) = (plan.name.clone(), plan.role);
            let files = scenario.files.get(&name).cloned().unwrap_or_default();
            hosts.push(Host {
                name,
                role,
                namespace,
                wires,
                noted: balancing == Balancing::Nobody,
                interfaces,
                number,
                rules: Mutex::default(),
                settings: Mutex::default(),
                files: Mutex::new(Files(files)),
                masters: Mutex::default(),
                tunnel: Mutex::default(),
                dummies: Mutex::default(),
                marks: Mutex::default(),
                unloaded: AtomicBool::new(false),
            });
        }
        let network = Network { hosts, switches: room };
        network.wait()?;
        for plan in &scenario.hosts {
            for command in &plan.setup {
                network.run(&plan.name, command).map_err(|e| BuildError { host: plan.name.clone(), what: e.to_string() })?;
            }
        }
        Ok(network)
    }

    /// The host of a name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// Runs a command on a host.
    ///
    /// # Errors
    /// When it is not understood, or refused.
    pub fn run(&self, host: &str, command: &str) -> Result<(), CommandError> {
        let failed = |what: String| CommandError { command: command.to_string(), what };
        let host = self.host(host).ok_or_else(|| failed(format!("there is no host {host}")))?;
        let words = command::words(command).map_err(failed)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match &words[..] {
            ["ipvsadm", "-Sn", ">", file] | ["ipvsadm", "-S", "-n", ">", file] => {
                host.files().write(file, &to_text(&host.rules())).map_err(failed)
            }
            ["echo", text, ">", file] if !file.starts_with("/proc") => host.files().write(file, text).map_err(failed),
            ["echo", text, ">>", file] => host.files().append(file, text).map_err(failed),
            ["sed", "-i", script, file] => host.files().delete_lines(file, script).map_err(failed),
            ["rm", file] => host.files().remove(file).map_err(failed),
            ["systemctl", "start" | "restart" | "reload", "keepalived"] => host.keepalived().map_err(failed),
            ["ipvsadm", ..] if host.unloaded() => Err(failed("Can't initialize ipvs: Protocol not available".into())),
            ["ipvsadm", "--start-daemon", state, "--mcast-interface", device] => host.daemon(state, Some(device)).map_err(failed),
            ["ipvsadm", "--stop-daemon", state] => host.daemon(state, None).map_err(failed),
            ["ipvsadm", "-R", "<", file] | ["ipvsadm", "--restore", "<", file] => host.restore(file).map_err(failed),
            ["ipvsadm", "--set", tcp, fin, udp] => host.set_timeouts([tcp, fin, udp]).map_err(failed),
            ["ipvsadm", ..] => host.ipvsadm(&words[1..].join(" ")).map_err(failed),
            ["sysctl", "-w", settings @ ..] if host.wires.is_some() => {
                let (own, kernels): (Vec<&str>, Vec<&str>) = settings.iter().copied().partition(|s| s.starts_with("net.ipv4.vs."));
                if own.iter().any(|setting| setting.contains("vs.conntrack=1")) {
                    return Err(failed(format!("the built-in director does not translate sources; {NEEDS_KERNEL}")));
                }
                own.iter().try_for_each(|setting| host.set(setting.trim_start_matches("net.ipv4.vs."))).map_err(failed)?;
                match kernels[..] {
                    [] => Ok(()),
                    _ => command::run_words(&host.namespace, &[&["sysctl", "-w"], &kernels[..]].concat()),
                }
            }
            ["vrrpd", rest @ ..] => {
                let master = command::vrrp::begin(&host.namespace, host.wire(), rest).map_err(failed)?;
                host.masters.lock().unwrap_or_else(PoisonError::into_inner).push(master);
                Ok(())
            }
            ["kill", "vrrpd"] => {
                host.masters.lock().unwrap_or_else(PoisonError::into_inner).clear();
                Ok(())
            }
            ["modprobe", "-r", module] => host.unload(module).map_err(failed),
            ["modprobe", module] => host.load(module).map_err(failed),
            ["iptables" | "ip6tables", rest @ ..] if host.wires.is_some() && command::firewall::marks(rest).is_some() => {
                host.mark(rest).map_err(failed)?;
                command::run(&host.namespace, command)
            }
            ["ip", "link", "add", name, "type", "ipip", "local", local, "remote", remote] => {
                host.tunnel_between(name, [local, remote]).map_err(failed)
            }
            ["ip", "link", "add", "name", name, "type", "dummy"] | ["ip", "link", "add", name, "type", "dummy"] => {
                host.dummy(name).map_err(failed)
            }
            ["radvd", rest @ ..] => {
                host.namespace.run(|| command::router(rest)).map_err(|errno| failed(errno.desc().to_string()))?.map_err(failed)
            }
            ["fabric", rest @ ..] => {
                let ports: Vec<String> = (0..host.interfaces.len()).map(|at| host.port(at)).collect();
                self.switches.run(|| command::fabric(&ports, rest)).map_err(|errno| failed(errno.desc().to_string()))?.map_err(failed)
            }
            ["arping", rest @ ..] => {
                host.wire().run(|| command::announce(rest)).map_err(|errno| failed(errno.desc().to_string()))?.map_err(failed)
            }
            _ => command::run(&host.namespace, command),
        }
    }

    /// Until no host waits for a neighbour's answer any more: a question that was asked before somebody could answer it fails on its own time
    /// (3 s), and takes the packets with it that came meanwhile.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn be_quiet(&self) -> std::io::Result<()> {
        const NUD_INCOMPLETE: u16 = 1;
        let begun = Instant::now();
        let waits = |host: &Host| -> std::io::Result<bool> {
            let asked = host.namespace.run(|| Socket::open(Family::Route)?.neighbours()).map_err(std::io::Error::from)?;
            Ok(asked.map_err(std::io::Error::other)?.iter().any(|n| n.state == NUD_INCOMPLETE))
        };
        while begun.elapsed() < PATIENCE && self.hosts.iter().try_fold(false, |any, host| Ok::<_, std::io::Error>(any | waits(host)?))? {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Until every link carries packets: carriers and bridge ports come up on their own time, and what is sent before is lost.
    fn wait(&self) -> Result<(), BuildError> {
        let begun = Instant::now();
        let places =
            self.hosts.iter().flat_map(|host| std::iter::once(&host.namespace).chain(&host.wires).map(|ns| (host.name.as_str(), ns)));
        let places: Vec<(&str, &Namespace)> = places.chain(std::iter::once(("", &self.switches))).collect();
        loop {
            let late = |socket: &mut Socket| -> Result<Option<String>, NetlinkError> {
                // Others, such as tunl0, a kernel gives to each namespace.
                let ours = |link: &Link| link.kind.as_deref() == Some("veth");
                Ok(socket.links()?.into_iter().find(|link| ours(link) && !(link.is_ready() && link.oper_state == 6)).map(|l| l.name))
            };
            let mut waiting = None;
            for (host, namespace) in &places {
                let failed = |what: String| BuildError { host: host.to_string(), what };
                let found = namespace.run(|| late(&mut Socket::open(Family::Route)?));
                let found = found.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
                waiting = waiting.or(found.map(|link| (host.to_string(), link)));
            }
            match waiting {
                None => return Ok(()),
                Some((host, link)) if begun.elapsed() > PATIENCE => {
                    return Err(BuildError { host, what: format!("interface {link} did not come up within {} s", PATIENCE.as_secs()) });
                }
                Some(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Host {
    fn ipvsadm(&self, words: &str) -> Result<(), String> {
        match parse_command(words).map_err(|e| e.to_string())? {
            Some(command) => self.direct(command),
            None => Ok(()),
        }
    }

    /// `ipvsadm -R < file`: line by line, as ipvsadm(8) does it.
    fn restore(&self, file: &str) -> Result<(), String> {
        let text = self.files().0.get(file).cloned().ok_or_else(|| format!("{file}: No such file or directory"))?;
        text.lines().try_for_each(|line| self.ipvsadm(line))
    }

    /// Changes its rules: those of the built-in director, or the kernel's own.
    fn direct(&self, command: Command) -> Result<(), String> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut then = rules.clone();
        then.apply(command.clone())?;
        if self.wires.is_none() && !self.noted {
            self.namespace.run(|| command::ipvsadm::run(&command)).map_err(|errno| errno.desc().to_string())??;
        }
        *rules = then;
        Ok(())
    }

    /// What keepalived does when it starts: the table that its configuration says.
    fn keepalived(&self) -> Result<(), String> {
        let files = self.files().0.clone();
        let wanted = saved(collect::Files::These(&files)).services.unwrap_or_default();
        if wanted.is_empty() {
            return Ok(());
        }
        self.direct(Command::Clear)?;
        for service in (crate::host::IpvsTable { services: wanted, ..Default::default() }).rules() {
            let matches = service.matches;
            let servers = service.real_servers.clone();
            self.direct(Command::AddService(VirtualService { real_servers: Vec::new(), ..service }))?;
            servers.into_iter().try_for_each(|server| self.direct(Command::AddServer(matches, server)))?;
        }
        Ok(())
    }

    /// Its configuration files.
    pub fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its IPVS rules.
    pub fn rules(&self) -> Vec<VirtualService> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).services.clone()
    }

    /// Settings of its built-in director.
    pub fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its filter marks for the built-in director.
    pub fn marks(&self) -> Vec<MarkRule> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn mark(&self, words: &[&str]) -> Result<(), String> {
        let Some(told) = command::firewall::marks(words) else { return Ok(()) };
        let (goes, rules) = told?;
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        match goes {
            true => marks.retain(|old| !rules.contains(old)),
            false => marks.extend(rules),
        }
        Ok(())
    }

    /// True when its built-in director is out, as a kernel's that has no IPVS.
    pub fn unloaded(&self) -> bool {
        self.unloaded.load(Ordering::Relaxed)
    }

    /// Starts or stops (without a device) the synchronisation daemon, which the built-in director does not have.
    fn daemon(&self, state: &str, device: Option<&str>) -> Result<(), String> {
        match self.wires.is_some() || self.noted {
            true => Err(format!("the built-in director synchronises nothing; {NEEDS_KERNEL}")),
            false => self.namespace.run(|| command::ipvsadm::daemon(state, device)).map_err(|errno| errno.desc().to_string())?,
        }
    }

    fn set(&self, assignment: &str) -> Result<(), String> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).set(assignment)
    }

    fn set_timeouts(&self, words: [&&str; 3]) -> Result<(), String> {
        let mut seconds = [0; 3];
        for (at, word) in seconds.iter_mut().zip(words) {
            *at = word.parse().map_err(|_| format!("{word} is no number of seconds"))?;
        }
        if self.wires.is_none() && !self.noted {
            return self.namespace.run(|| command::ipvsadm::set_timeouts(seconds)).map_err(|errno| errno.desc().to_string())?;
        }
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        // 0 leaves one as it is (ipvsadm(8)).
        settings.timeouts.iter_mut().zip(seconds).filter(|(_, new)| *new > 0).for_each(|(old, new)| *old = new);
        Ok(())
    }

    /// The kernel's module, or what stands for it in the lab.
    fn load(&self, module: &str) -> Result<(), String> {
        match module {
            "ipip" => self.ipip(),
            "ip_vs" if self.wires.is_some() => {
                self.unloaded.store(false, Ordering::Relaxed);
                Ok(())
            }
            "ip_vs_ftp" if self.wires.is_some() => Err(format!("the built-in director does not read FTP; {NEEDS_KERNEL}")),
            other => Err(format!("the lab has no module {other}")),
        }
    }

    /// Takes a module out. The kernel's own are the whole machine's, and stay.
    fn unload(&self, module: &str) -> Result<(), String> {
        match module {
            "ip_vs" if self.wires.is_some() => {
                self.direct(Command::Clear)?;
                self.unloaded.store(true, Ordering::Relaxed);
                Ok(())
            }
            // It has none.
            "ip_vs_ftp" if self.wires.is_some() => Ok(()),
            other => Err(format!("the module {other} is the whole machine's")),
        }
    }

    /// Where the kernel has the module, each namespace has its device.
    fn ipip(&self) -> Result<(), String> {
        let there = self.namespace.run(|| Socket::open(Family::Route)?.links()).map_err(|errno| errno.to_string())??;
        let mut tunnel = self.tunnel.lock().unwrap_or_else(PoisonError::into_inner);
        if tunnel.is_none() && !there.iter().any(|link| link.name == super::tunnel::NAME) {
            *tunnel = Some(Tunnel::begin(&self.namespace, &self.interfaces)?);
        }
        Ok(())
    }

    /// A tunnel device that takes packets of one sender only.
    fn tunnel_between(&self, name: &str, ends: [&str; 2]) -> Result<(), String> {
        let [local, remote] = ends.map(|end| end.parse::<Ipv4Addr>().map_err(|_| format!("{end} is no IPv4 address")));
        let ends = (local?, remote?);
        self.ipip()?;
        match &mut *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(tunnel) => tunnel.add(&self.namespace, name, Some(ends)),
            None => {
                let spec = LinkSpec { name, mac: None, kind: Kind::Ipip(Some(ends)) };
                let made = self.namespace.run(|| Socket::open(Family::Route)?.add_link(&spec));
                Ok(made.map_err(|errno| errno.to_string())??)
            }
        }
    }

    /// A bridge without ports is as good, where the kernel has no dummy.
    fn dummy(&self, name: &str) -> Result<(), String> {
        let made = self.namespace.run(|| -> Result<bool, NetlinkError> {
            let mut socket = Socket::open(Family::Route)?;
            let mut add = |kind| socket.add_link(&LinkSpec { name, mac: None, kind });
            match add(Kind::Dummy) {
                Err(e) if e.is(nix::libc::EOPNOTSUPP) => add(Kind::Bridge).map(|()| true),
                made => made.map(|()| false),
            }
        });
        if made.map_err(|errno| errno.to_string())?? {
            self.dummies.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_string());
        }
        Ok(())
    }

    /// Devices that stand in for dummies.
    pub fn dummies(&self) -> Vec<String> {
        self.dummies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Devices that stand in for tunnels, and their ends.
    pub fn tunnels(&self) -> Vec<(String, Option<(Ipv4Addr, Ipv4Addr)>)> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Tunnel::devices).unwrap_or_default()
    }

    /// The switch's port of an interface.
    fn port(&self, interface: usize) -> String {
        port(self.number, interface)
    }

    /// Where an interface of its kernel is plugged in, if its frames are elsewhere.
    pub fn kernel_port(&self, interface: usize) -> String {
        kernel_port(self.number, interface)
    }

    /// Where its frames are.
    pub fn wire(&self) -> &Namespace {
        self.wires.as_ref().unwrap_or(&self.namespace)
    }
}

fn port(host: usize, interface: usize) -> String {
    format!("p{host}.{interface}")
}

fn kernel_port(host: usize, interface: usize) -> String {
    format!("x{host}.{interface}")
}

/// A namespace that has inherited nothing.
fn bare(ipv6: bool) -> Result<Namespace, String> {
    let namespace = Namespace::new().map_err(|e| e.to_string())?;
    namespace
        .run(|| {
            PLAIN.iter().try_for_each(|setting| command::here(&["sysctl", "-w", setting]))?;
            let six = if ipv6 { QUIET_IPV6 } else { NO_IPV6 };
            // Without a kernel that has IPv6 there is nothing to turn off.
            six.iter().for_each(|setting| drop(command::here(&["sysctl", "-w", setting])));
            command::here(&["ip", "link", "set", "lo", "up"])
        })
        .map_err(|e| e.to_string())??;
    Ok(namespace)
}

/// A cable: one end in the host, the other in the switch, or loose.
fn plug(switches: &mut Socket, port: &str, name: &str, mac: MacAddr, host: &Namespace, bridge: Option<&str>) -> Result<(), NetlinkError> {
    let peer = Peer { name, mac: Some(mac), netns: Some(host.as_fd()) };
    switches.add_link(&LinkSpec { name: port, mac: None, kind: Kind::Veth(peer) })?;
    let index = switches.link(port)?.index;
    if let Some(bridge) = bridge {
        let master = switches.link(bridge)?.index;
        switches.set_link(index, None, None, Some(master))?;
    }
    switches.set_up(index, true)?;
    let up = host.run(|| {
        let mut socket = Socket::open(Family::Route)?;
        let index = socket.link(name)?.index;
        socket.set_up(index, true)
    });
    up.unwrap_or_else(|errno| Err(NetlinkError { attempted: "enter a host".into(), errno: errno as i32, said: String::new() }))
}
