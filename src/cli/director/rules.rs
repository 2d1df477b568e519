//! Where a director's rules come from: a file as `ipvsadm -Sn` writes it, or a snapshot of a host.

use crate::case::parse_host;
use crate::cli::Failure;
use crate::cli::captures::reason;
use crate::cli::output::{Output, complain};
use crate::director::{SETTINGS, Settings};
use crate::host::{Host, IpvsTable};
use crate::ipvs::{VirtualService, read, to_text};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Rules, and what is known of the kernel that they were of.
pub(super) struct Given {
    /// Services with their real servers, in the order in which they were added.
    pub(super) services: Vec<VirtualService>,
    /// Kernel, sysctls and timeouts of a snapshot; else the defaults.
    pub(super) settings: Settings,
    /// They are of a snapshot, which nobody may write to.
    pub(super) snapshot: bool,
}

/// Reads rules, and complains of what is odd in them.
pub(super) fn given(path: &Path) -> Result<Given, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| Failure::input(format!("{name}: cannot be read: {}", reason(&e))))?;
    // No line of ipvsadm begins so.
    if text.trim_start().starts_with('{') {
        let host = parse_host(&text).map_err(|why| Failure::input(format!("{name}: {why}")))?;
        return of_snapshot(&host).map_err(|why| Failure::input(format!("{name}: {why}")));
    }
    let rules = read(&text).map_err(|e| Failure::input(format!("{name} {e}")))?;
    for warning in &rules.warnings {
        complain(&format!("{name} {warning}"));
    }
    Ok(Given { services: rules.services, settings: Settings::default(), snapshot: false })
}

fn of_snapshot(host: &Host) -> Result<Given, String> {
    let Some(table) = &host.ipvs else {
        let why = host.why_absent("ipvs");
        return match host.saved.as_ref().and_then(|saved| saved.services.as_ref()).filter(|services| !services.is_empty()) {
            // What is configured for the next boot is not what the host does; but it is better than nothing, and said.
            Some(saved) => {
                complain(&format!("the snapshot of {} has no IPVS table ({why}): its saved configuration is taken", host.name));
                let table = IpvsTable { services: saved.clone(), ..IpvsTable::default() };
                Ok(Given { services: rules_of(&table), settings: settings_of(host, &table), snapshot: true })
            }
            None => Err(format!("the snapshot of {} has no IPVS table: {why}", host.name)),
        };
    };
    if table.services.is_empty() {
        return Err(format!("the IPVS table of {} is empty: it was no director when the snapshot was taken", host.name));
    }
    let mut services = rules_of(table);
    // The kernel lists its real servers newest first; texts of ipvsadm, from which a snapshot without a time was made, sort them.
    if host.taken.is_some() {
        services.iter_mut().for_each(|service| service.real_servers.reverse());
    }
    Ok(Given { services, settings: settings_of(host, table), snapshot: true })
}

fn rules_of(table: &IpvsTable) -> Vec<VirtualService> {
    for service in &table.services {
        for server in service.destinations.iter().filter(|d| d.forwarding().is_none()) {
            complain(&format!("{}: real server {} is left out: its method is '{}'", service.option(), server.address, server.method));
        }
    }
    table.rules()
}

/// The settings that the host's kernel had, as far as the director knows them.
fn settings_of(host: &Host, table: &IpvsTable) -> Settings {
    let mut settings = Settings::default();
    if let Some(kernel) = host.kernel.as_ref().and_then(|text| text.parse().ok()) {
        settings.kernel = kernel;
    }
    if let Some(sysctls) = &host.sysctls {
        for name in SETTINGS {
            if let Some(value) = sysctls.0.get(&format!("net.ipv4.vs.{name}")) {
                // A value that no kernel has leaves the default.
                let _ = settings.set(&format!("{name}={value}"));
            }
        }
    }
    if let Some(timeouts) = table.timeouts {
        settings.timeouts = [timeouts.tcp, timeouts.tcp_fin, timeouts.udp];
    }
    settings
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  lvscope director save director.host.json > rules.ipvs
  lvscope director save rules.ipvs         (checked, and put in order)")]
pub(super) struct Save {
    /// A rules file, or a snapshot of a director (`lvscope snapshot`)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn save(args: &Save, out: &mut Output) -> Result<(), Failure> {
    write!(out, "{}", to_text(&given(&args.file)?.services))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::director::Kernel;
    use crate::host::{Service, Sysctls, Timeouts};

    const RULES: &str = "-A -t 192.168.2.59:80 -s wlc -p 10\n-a -t 192.168.2.59:80 -r 192.168.224.11:80 -m -w 2\n\
        -a -t 192.168.2.59:80 -r 192.168.224.12:80 -m -w 1\n";

    fn host() -> Host {
        let services: Vec<Service> = crate::ipvs::parse(RULES).unwrap().iter().map(Service::from).collect();
        let timeouts = Some(Timeouts { tcp: 60, tcp_fin: 7, udp: 8 });
        let sysctls = [("net.ipv4.vs.sloppy_tcp", "1"), ("net.ipv4.vs.conn_reuse_mode", "many")];
        Host {
            kernel: Some("4.9.0-13-amd64".into()),
            sysctls: Some(Sysctls(sysctls.map(|(k, v)| (k.to_string(), v.to_string())).into())),
            ipvs: Some(IpvsTable { services, timeouts, ..IpvsTable::default() }),
            ..Host::new("director")
        }
    }

    #[test]
    fn a_snapshot_gives_rules_and_settings() {
        let given = of_snapshot(&host()).unwrap();
        assert_eq!(to_text(&given.services), RULES);
        let Settings { kernel, sloppy_tcp, conn_reuse_mode, timeouts, .. } = given.settings;
        assert_eq!((kernel, sloppy_tcp, conn_reuse_mode, timeouts), (Kernel::new(4, 9), true, 1, [60, 7, 8]));
        // The kernel itself names the newest first: the scheduler begins with that one again.
        let live = of_snapshot(&Host { taken: Some(1_763_000_000), ..host() }).unwrap();
        let order: Vec<String> = live.services[0].real_servers.iter().map(|s| s.addr.to_string()).collect();
        assert_eq!(order, ["192.168.224.12", "192.168.224.11"]);
    }

    #[test]
    fn a_snapshot_without_rules_says_why() {
        let mut host = Host { ipvs: None, ..host() };
        host.leave_out("ipvs", "CAP_NET_ADMIN is missing");
        let why = of_snapshot(&host).err().unwrap();
        assert_eq!(why, "the snapshot of director has no IPVS table: CAP_NET_ADMIN is missing");
        host.ipvs = Some(IpvsTable::default());
        assert!(of_snapshot(&host).err().unwrap().contains("is empty"));
    }
}
