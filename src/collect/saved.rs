//! Configuration files: what will be after the next boot. Best effort; a file that cannot be understood says nothing, and is never fatal.

use super::proc;
use crate::host::{Destination, NetworkConfig, Saved, SavedSysctl, Service, VrrpInstance};
use crate::ipvs;
use crate::net::{Endpoint, Prefix, Protocol};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Where the files are.
#[derive(Clone, Copy, Debug)]
pub enum Files<'a> {
    /// Below this folder.
    Root(&'a Path),
    /// These, by their absolute paths.
    These(&'a BTreeMap<String, String>),
}

impl Files<'_> {
    fn read(&self, path: &str) -> Option<String> {
        match self {
            Files::Root(root) => proc::read(root.join(path.trim_start_matches('/'))).ok(),
            Files::These(files) => files.get(path).cloned(),
        }
    }

    /// The files of a folder whose names end so, by their names.
    fn folder(&self, path: &str, end: &str) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Files::Root(root) => {
                let files = fs::read_dir(root.join(path.trim_start_matches('/'))).into_iter().flatten().filter_map(Result::ok);
                files.filter(|e| e.path().is_file()).map(|e| e.file_name().to_string_lossy().into_owned()).collect()
            }
            Files::These(files) => {
                let below = files.keys().filter_map(|file| file.strip_prefix(path)?.strip_prefix('/'));
                below.filter(|name| !name.contains('/')).map(str::to_string).collect()
            }
        };
        names.retain(|name| name.ends_with(end));
        names.sort();
        names.into_iter().map(|name| format!("{path}/{name}")).collect()
    }
}

/// Reads what the files say.
pub fn saved(files: Files<'_>) -> Saved {
    let mut saved = Saved { sysctls: sysctls(files), ..Saved::default() };
    network(files, &mut saved);
    let keepalived = "/etc/keepalived/keepalived.conf";
    if let Some(text) = files.read(keepalived) {
        saved.files.push(keepalived.to_string());
        let (services, vrrp) = keepalived_conf(&text);
        saved.vrrp = vrrp;
        if !services.is_empty() {
            saved.services = Some(services);
            saved.services_file = Some(keepalived.to_string());
        }
    }
    for path in ["/etc/sysconfig/ipvsadm", "/etc/ipvsadm.rules", "/etc/ipvsadm.save"] {
        let Some(rules) = files.read(path).and_then(|text| ipvs::parse(&text).ok()) else { continue };
        saved.files.push(path.to_string());
        if saved.services.is_none() && !rules.is_empty() {
            saved.services = Some(rules.iter().map(Service::from).collect());
            saved.services_file = Some(path.to_string());
        }
    }
    let mut named: Vec<String> =
        saved.sysctls.values().map(|s| s.file.clone()).chain(saved.network.iter().map(|n| n.file.clone())).collect();
    saved.files.append(&mut named);
    saved.files.sort();
    saved.files.dedup();
    saved
}

/// sysctl.d(5): of files of one name that in /etc wins over /run and /usr/lib; they are read by their names, and `sysctl.conf` last.
fn sysctls(files: Files<'_>) -> BTreeMap<String, SavedSysctl> {
    let mut by_name: BTreeMap<String, String> = BTreeMap::new();
    for place in ["/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d"] {
        for file in files.folder(place, ".conf") {
            by_name.insert(file.rsplit('/').next().unwrap_or_default().to_string(), file);
        }
    }
    let mut found = BTreeMap::new();
    for path in by_name.into_values().chain(["/etc/sysctl.conf".to_string()]) {
        let Some(text) = files.read(&path) else { continue };
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
            let Some((key, value)) = line.split_once('=') else { continue };
            let key = key.trim().trim_start_matches('-');
            // Both spellings are allowed; slashes first means that dots belong to names.
            let slash_first = key.find('/').is_some_and(|s| key.find('.').is_none_or(|d| s < d));
            let key = if slash_first {
                key.chars()
                    .map(|c| match c {
                        '/' => '.',
                        '.' => '/',
                        c => c,
                    })
                    .collect()
            } else {
                key.to_string()
            };
            found.insert(key, SavedSysctl { value: value.trim().to_string(), file: path.clone() });
        }
    }
    found
}

fn network(files: Files<'_>, saved: &mut Saved) {
    let of = |path: &str, found: NetworkConfig| NetworkConfig { file: path.to_string(), ..found };
    for path in files.folder("/etc/sysconfig/network-scripts", "") {
        let device = path.rsplit('/').next().and_then(|name| name.strip_prefix("ifcfg-"));
        if let (Some(device), Some(text)) = (device, files.read(&path)) {
            saved.network.push(of(&path, ifcfg(device, &text)));
        }
    }
    for path in files.folder("/etc/netplan", ".yaml") {
        saved.network.extend(files.read(&path).iter().flat_map(|text| netplan(text)).map(|n| of(&path, n)));
    }
    for path in files.folder("/etc/systemd/network", ".network") {
        saved.network.extend(files.read(&path).map(|text| of(&path, networkd(&text))));
    }
    for path in files.folder("/etc/NetworkManager/system-connections", ".nmconnection") {
        saved.network.extend(files.read(&path).map(|text| of(&path, keyfile(&text))));
    }
    let interfaces = [vec!["/etc/network/interfaces".to_string()], files.folder("/etc/network/interfaces.d", "")].concat();
    for path in interfaces {
        saved.network.extend(files.read(&path).iter().flat_map(|text| ifupdown(text)).map(|n| of(&path, n)));
    }
}

fn config(system: &str, device: Option<String>) -> NetworkConfig {
    NetworkConfig { system: system.to_string(), device, ..NetworkConfig::default() }
}

/// `192.168.1.1/24`, or an address with a netmask beside it.
fn prefix(addr: &str, mask: Option<&str>) -> Option<Prefix> {
    let len = mask.and_then(|m| m.parse::<Ipv4Addr>().ok().map(|m| u32::from(m).leading_ones() as u8).or_else(|| m.parse().ok()));
    match len {
        Some(len) => Prefix::new(addr.parse().ok()?, len),
        None => addr.parse().ok(),
    }
}

fn ifcfg(device: &str, text: &str) -> NetworkConfig {
    let values: BTreeMap<&str, &str> = text
        .lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.trim(), v.trim().trim_matches(['"', '\''])))
        .collect();
    let mut found = config("ifcfg", Some(values.get("DEVICE").copied().unwrap_or(device).to_string()));
    let mask = values.get("PREFIX").or(values.get("NETMASK")).copied();
    found.addresses = ["IPADDR", "IPADDR0", "IPADDR1"].iter().filter_map(|k| prefix(values.get(k)?, mask)).collect();
    found.gateways = ["GATEWAY", "GATEWAY0", "IPV6_DEFAULTGW"].iter().filter_map(|k| values.get(k)?.parse().ok()).collect();
    found.dhcp = values.get("BOOTPROTO").is_some_and(|v| v.eq_ignore_ascii_case("dhcp"));
    found
}

/// Enough of netplan's YAML: what is indented below a device is the device's.
fn netplan(text: &str) -> Vec<NetworkConfig> {
    let mut found: Vec<NetworkConfig> = Vec::new();
    let (mut kind_at, mut device_at, mut default_route) = (None::<usize>, None::<usize>, false);
    for line in text.lines().map(|l| l.split(" #").next().unwrap_or_default()).filter(|l| !l.trim().is_empty()) {
        let indent = line.len() - line.trim_start().len();
        let body = line.trim();
        let key = body.trim_start_matches("- ").split(':').next().unwrap_or_default().trim_matches('"');
        if ["ethernets", "bonds", "bridges", "vlans", "dummy-devices", "tunnels"].contains(&key) {
            (kind_at, device_at) = (Some(indent), None);
        } else if kind_at.is_some_and(|at| indent > at) && device_at.is_none_or(|at| indent <= at) && body.ends_with(':') {
            device_at = Some(indent);
            found.push(config("netplan", Some(key.to_string())));
        } else if let Some(last) = found.last_mut() {
            let words = |text: &str| {
                text.split(['[', ']', ',', ' ', '"', '\'', '{', '}']).filter(|w| !w.is_empty()).map(str::to_string).collect::<Vec<_>>()
            };
            let value = body.split_once(':').map_or(body, |(_, v)| v).trim();
            match key {
                "addresses" => {
                    last.addresses.extend(words(value).iter().filter(|w| w.contains('/')).filter_map(|w| w.parse::<Prefix>().ok()))
                }
                "gateway4" | "gateway6" => last.gateways.extend(value.trim_matches('"').parse::<IpAddr>()),
                "dhcp4" | "dhcp6" => last.dhcp |= matches!(value, "true" | "yes"),
                "to" => {
                    default_route = body.contains("default") || body.contains("0.0.0.0/0") || body.contains("::/0");
                    if let Some((_, via)) = body.split_once("via:").filter(|_| default_route) {
                        last.gateways.extend(words(via).first().and_then(|w| w.parse::<IpAddr>().ok()));
                    }
                }
                "via" if default_route => last.gateways.extend(value.trim_matches('"').parse::<IpAddr>()),
                _ => last.addresses.extend(
                    body.strip_prefix("- ").and_then(|w| w.trim_matches(['"', '\'']).parse::<Prefix>().ok()).filter(|_| body.contains('/')),
                ),
            }
        }
    }
    found
}

/// Sections and keys of an INI file.
fn ini(text: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_string();
        } else if let Some((key, value)) = line.split_once('=') {
            found.push((section.clone(), key.trim().to_string(), value.trim().to_string()));
        }
    }
    found
}

fn networkd(text: &str) -> NetworkConfig {
    let mut found = config("networkd", None);
    for (section, key, value) in ini(text) {
        match (section.as_str(), key.as_str()) {
            ("Match", "Name") => found.device = Some(value),
            ("Network" | "Address", "Address") => found.addresses.extend(value.parse::<Prefix>()),
            ("Network" | "Route", "Gateway") => found.gateways.extend(value.parse::<IpAddr>()),
            ("Network", "DHCP") => found.dhcp = !matches!(value.as_str(), "no" | "false" | "none"),
            _ => {}
        }
    }
    found
}

fn keyfile(text: &str) -> NetworkConfig {
    let mut found = config("networkmanager", None);
    for (section, key, value) in ini(text) {
        match (section.as_str(), key.as_str()) {
            ("connection", "interface-name") => found.device = Some(value),
            ("ipv4" | "ipv6", "method") => found.dhcp |= value == "auto",
            ("ipv4" | "ipv6", "gateway") => found.gateways.extend(value.parse::<IpAddr>()),
            // `address1=192.168.1.2/24,192.168.1.1`: with the gateway behind.
            ("ipv4" | "ipv6", key) if key.starts_with("address") => {
                let mut parts = value.split([',', ';']).map(str::trim);
                found.addresses.extend(parts.next().and_then(|p| p.parse::<Prefix>().ok()));
                found.gateways.extend(parts.next().and_then(|p| p.parse::<IpAddr>().ok()));
            }
            _ => {}
        }
    }
    found
}

fn ifupdown(text: &str) -> Vec<NetworkConfig> {
    let mut found: Vec<NetworkConfig> = Vec::new();
    let mut mask: Option<String> = None;
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), found.last_mut()) {
            (["iface", device, _, method, ..], _) => {
                mask = None;
                found.push(NetworkConfig {
                    dhcp: *method == "dhcp" || *method == "auto",
                    ..config("ifupdown", Some((*device).to_string()))
                });
            }
            (["netmask", value, ..], Some(last)) => {
                mask = Some((*value).to_string());
                if let Some(address) = last.addresses.pop() {
                    last.addresses.extend(prefix(&address.addr().to_string(), Some(value)));
                }
            }
            (["address", value, ..], Some(last)) => last.addresses.extend(prefix(value, mask.as_deref())),
            (["gateway", value, ..], Some(last)) => last.gateways.extend(value.parse::<IpAddr>()),
            _ => {}
        }
    }
    found
}

/// A block of keepalived.conf: its words, its lines, the blocks in it.
#[derive(Default)]
struct Block {
    words: Vec<String>,
    lines: Vec<Vec<String>>,
    blocks: Vec<Block>,
}

fn blocks(text: &str) -> Block {
    let mut open = vec![Block::default()];
    let mut line: Vec<String> = Vec::new();
    let bare = text.lines().map(|l| l.split(['#', '!']).next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let spaced = bare.replace('{', " { ").replace('}', " } ");
    for raw in spaced.lines() {
        for word in raw.split_whitespace() {
            match word {
                "{" => {
                    // The brace may stand on a line of its own.
                    let mut words = std::mem::take(&mut line);
                    if words.is_empty() {
                        words = open.last_mut().and_then(|b| b.lines.pop()).unwrap_or_default();
                    }
                    open.push(Block { words, ..Block::default() });
                }
                "}" => {
                    let mut done = if open.len() > 1 { open.pop().unwrap_or_default() } else { continue };
                    if !line.is_empty() {
                        done.lines.push(std::mem::take(&mut line));
                    }
                    if let Some(parent) = open.last_mut() {
                        parent.blocks.push(done);
                    }
                }
                word => line.push(word.trim_matches('"').to_string()),
            }
        }
        if !line.is_empty()
            && let Some(block) = open.last_mut()
        {
            block.lines.push(std::mem::take(&mut line));
        }
    }
    while open.len() > 1 {
        let done = open.pop().unwrap_or_default();
        if let Some(parent) = open.last_mut() {
            parent.blocks.push(done);
        }
    }
    open.pop().unwrap_or_default()
}

impl Block {
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Block> {
        self.blocks.iter().filter(move |b| b.words.first().is_some_and(|w| w == name))
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.lines.iter().find(|l| l[0] == key).and_then(|l| l.get(1)).map(String::as_str)
    }

    fn has(&self, key: &str) -> bool {
        self.lines.iter().any(|l| l[0] == key)
    }
}

fn keepalived_conf(text: &str) -> (Vec<Service>, Vec<VrrpInstance>) {
    let root = blocks(text);
    let strict = root.named("global_defs").any(|b| b.has("vrrp_strict"));
    let addresses = |b: &Block, name: &str| {
        let lines = b.named(name).flat_map(|b| &b.lines);
        lines.filter_map(|l| l[0].split('/').next()?.parse().ok()).collect::<Vec<IpAddr>>()
    };
    let instance = |b: &Block| VrrpInstance {
        name: b.words.get(1).cloned().unwrap_or_default(),
        interface: b.value("interface").map(str::to_string),
        router_id: b.value("virtual_router_id").and_then(|v| v.parse().ok()),
        priority: b.value("priority").and_then(|v| v.parse().ok()),
        addresses: [addresses(b, "virtual_ipaddress"), addresses(b, "virtual_ipaddress_excluded")].concat(),
        options: strict
            .then(|| "vrrp_strict".to_string())
            .into_iter()
            .chain(["accept", "no_accept", "nopreempt"].iter().filter(|o| b.has(o)).map(|o| (*o).to_string()))
            .collect(),
    };
    let groups: BTreeMap<String, Vec<Endpoint>> = root
        .named("virtual_server_group")
        .map(|b| {
            (
                b.words.get(1).cloned().unwrap_or_default(),
                b.lines.iter().filter_map(|l| endpoint(l.first()?, l.get(1).map_or("0", String::as_str))).collect(),
            )
        })
        .collect();
    let mut services = Vec::new();
    for block in root.named("virtual_server") {
        let (first, second) = (block.words.get(1).map_or("", String::as_str), block.words.get(2).map_or("0", String::as_str));
        let plain = service(block);
        match first {
            "fwmark" => services.push(Service { fwmark: second.parse().ok(), protocol: None, ..plain }),
            "group" => services.extend(groups.get(second).into_iter().flatten().map(|e| at(&plain, *e))),
            addr => services.extend(endpoint(addr, second).map(|e| at(&plain, e))),
        }
    }
    (services, root.named("vrrp_instance").map(instance).collect())
}

fn at(service: &Service, endpoint: Endpoint) -> Service {
    Service { address: Some(endpoint), v6: endpoint.addr.is_ipv6(), ..service.clone() }
}

fn endpoint(addr: &str, port: &str) -> Option<Endpoint> {
    Some(Endpoint::new(addr.parse().ok()?, port.parse().ok()?))
}

fn service(block: &Block) -> Service {
    let method = match block.value("lvs_method").or(block.value("lb_kind")).unwrap_or("NAT").to_ascii_uppercase().as_str() {
        "DR" => "dr",
        "TUN" => "tun",
        _ => "nat",
    };
    let server = |b: &Block| {
        let address = endpoint(b.words.get(1)?, b.words.get(2).map_or("0", String::as_str))?;
        let weight = b.value("weight").and_then(|w| w.parse().ok()).unwrap_or(1);
        let own = b.value("lvs_method").map(str::to_ascii_lowercase);
        Some(Destination {
            address,
            method: own.unwrap_or_else(|| method.to_string()),
            weight,
            upper: b.value("uthreshold").and_then(|v| v.parse().ok()).unwrap_or(0),
            lower: b.value("lthreshold").and_then(|v| v.parse().ok()).unwrap_or(0),
            tunnel: None,
            tunnel_port: None,
            active: None,
            inactive: None,
            persistent: None,
            counters: None,
        })
    };
    Service {
        protocol: Some(block.value("protocol").and_then(|p| p.to_ascii_lowercase().parse().ok()).unwrap_or(Protocol::Tcp)),
        scheduler: block.value("lvs_sched").or(block.value("lb_algo")).unwrap_or("wlc").to_string(),
        persistence: block.value("persistence_timeout").and_then(|t| t.parse().ok()),
        one_packet: block.has("ops"),
        destinations: block.named("real_server").filter_map(server).collect(),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_last_file_wins() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "usr/lib/sysctl.d/50-default.conf", "net.ipv4.conf.all.rp_filter = 2\n# net.ipv4.ip_forward=1\n");
        write(root.path(), "etc/sysctl.d/90-lvs.conf", "net.ipv4.conf.all.arp_ignore=1\nnet/ipv4/conf/eth0.7/arp_ignore = 1\n");
        write(root.path(), "etc/sysctl.conf", "net.ipv4.conf.all.arp_ignore=0\n");
        let saved = saved(Files::Root(root.path()));
        let is = |key: &str| saved.sysctls.get(key).map(|s| format!("{} {}", s.value, s.file));
        assert_eq!(is("net.ipv4.conf.all.arp_ignore").as_deref(), Some("0 /etc/sysctl.conf"));
        assert_eq!(is("net.ipv4.conf.eth0/7.arp_ignore").as_deref(), Some("1 /etc/sysctl.d/90-lvs.conf"));
        assert_eq!((is("net.ipv4.ip_forward"), saved.files.len()), (None, 3));
    }

    #[test]
    fn keepalived_and_its_blocks() {
        let text = "global_defs {\n vrrp_strict\n}\nvrrp_instance VI_1 {\n interface eth0\n virtual_router_id 51\n priority 100\n virtual_ipaddress {\n 192.168.224.13/32 dev eth0\n }\n}\n\
            virtual_server 192.168.224.13 80 {\n lb_algo rr # comment\n lb_kind DR\n persistence_timeout 50\n protocol TCP\n real_server 192.168.224.11 80 { weight 3 }\n real_server 192.168.224.12 80\n {\n weight 0\n TCP_CHECK { connect_timeout 3 }\n }\n}\nvirtual_server fwmark 7 { protocol UDP }\n";
        let (services, vrrp) = keepalived_conf(text);
        assert_eq!(
            (services.len(), services[0].name().as_str(), services[0].scheduler.as_str(), services[0].persistence),
            (2, "192.168.224.13:80", "rr", Some(50))
        );
        let servers: Vec<(String, &str, u32)> =
            services[0].destinations.iter().map(|d| (d.address.to_string(), d.method.as_str(), d.weight)).collect();
        assert_eq!(servers, [("192.168.224.11:80".to_string(), "dr", 3), ("192.168.224.12:80".to_string(), "dr", 0)]);
        assert_eq!(
            (services[1].fwmark, vrrp[0].router_id, vrrp[0].options.as_slice()),
            (Some(7), Some(51), ["vrrp_strict".to_string()].as_slice())
        );
        assert_eq!(vrrp[0].addresses, ["192.168.224.13".parse::<IpAddr>().unwrap()]);
        let _ = (keepalived_conf("}}}{{{ virtual_server"), keepalived_conf("virtual_server 1.2.3.4 80 {"));
    }

    #[test]
    fn files_at_hand_are_read_as_those_of_a_disk() {
        let files =
            [("/etc/sysctl.d/90-lvs.conf", "a.b = 1"), ("/etc/sysctl.d/old/x.conf", "a.b = 2"), ("/etc/sysctl.d/README", "a.b = 3")];
        let files = files.map(|(path, text)| (path.to_string(), text.to_string())).into();
        let saved = saved(Files::These(&files));
        assert_eq!(saved.sysctls["a.b"], SavedSysctl { value: "1".into(), file: "/etc/sysctl.d/90-lvs.conf".into() });
        assert_eq!(saved.files, ["/etc/sysctl.d/90-lvs.conf"]);
    }

    #[test]
    fn every_system_that_configures_networks() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "etc/sysconfig/network-scripts/ifcfg-lo:0", "DEVICE=lo:0\nIPADDR=192.168.224.13\nNETMASK=255.255.255.255\n");
        write(
            root.path(),
            "etc/netplan/01.yaml",
            "network:\n  version: 2\n  ethernets:\n    eth0:\n      addresses: [192.168.224.11/24]\n      routes:\n        - to: default\n          via: 192.168.224.10\n    eth1:\n      dhcp4: true\n",
        );
        write(root.path(), "etc/systemd/network/a.network", "[Match]\nName=eth2\n[Network]\nAddress=10.0.0.2/24\nGateway=10.0.0.1\n");
        write(
            root.path(),
            "etc/NetworkManager/system-connections/x.nmconnection",
            "[connection]\ninterface-name=eth3\n[ipv4]\naddress1=10.1.0.2/24,10.1.0.1\nmethod=manual\n",
        );
        write(
            root.path(),
            "etc/network/interfaces",
            "auto eth4\niface eth4 inet static\n  address 10.2.0.2\n  netmask 255.255.0.0\n  gateway 10.2.0.1\n",
        );
        let told: Vec<String> = saved(Files::Root(root.path()))
            .network
            .iter()
            .map(|n| format!("{} {} {:?} {:?} {}", n.system, n.device.as_deref().unwrap_or("?"), n.addresses, n.gateways, n.dhcp))
            .collect();
        assert_eq!(
            told,
            [
                "ifcfg lo:0 [192.168.224.13/32] [] false",
                "netplan eth0 [192.168.224.11/24] [192.168.224.10] false",
                "netplan eth1 [] [] true",
                "networkd eth2 [10.0.0.2/24] [10.0.0.1] false",
                "networkmanager eth3 [10.1.0.2/24] [10.1.0.1] false",
                "ifupdown eth4 [10.2.0.2/16] [10.2.0.1] false",
            ]
        );
    }
}
