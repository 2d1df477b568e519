//! The scenarios that come with the program.

use super::scenario::{Scenario, ScenarioError};
use std::borrow::Cow;

macro_rules! sheets {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("scenarios/", $folder, $name, ".toml")))),*]
    };
}

/// Healthy set-ups that scenarios stand on.
static BASES: &[(&str, &str)] = sheets!("base/": "dr" "dr-nodes" "dr-routed" "dr-two-nets" "dr-two-nic" "dr-vlan" "dr6" "ha" "nat" "nat-ha" "nat-onearm" "nat-wide" "nat6" "tun" "tun-lan");

/// Faults, and what looks like them and is none.
static SCENARIOS: &[(&str, &str)] = sheets!("":
    "dr-all-masq"
    "dr-announces-ok"
    "dr-arp-announce"
    "dr-arp-leak"
    "dr-arp-level"
    "dr-arp-lo-only"
    "dr-arp-nic-ok"
    "dr-arptables-half"
    "dr-arptables-ok"
    "dr-backlog"
    "dr-conntrack"
    "dr-dip-is-vip"
    "dr-director-quiet"
    "dr-dnat-missing"
    "dr-dnat-wrong-iface"
    "dr-dummy-ok"
    "dr-duplicate-rip"
    "dr-fabric-in"
    "dr-fabric-ok"
    "dr-fabric-one"
    "dr-fabric-out"
    "dr-far-arp-ok"
    "dr-far-nic-ok"
    "dr-forwards-back"
    "dr-ftp"
    "dr-ftp-ok"
    "dr-gateway-director"
    "dr-gateway-server"
    "dr-idle"
    "dr-large-ok"
    "dr-lo-bare"
    "dr-lo-mask"
    "dr-lo-mask-hijack"
    "dr-local-node"
    "dr-local-node-ok"
    "dr-mtu"
    "dr-mtu-ok"
    "dr-no-forwarding-ok"
    "dr-no-gateway"
    "dr-no-real-servers"
    "dr-no-service"
    "dr-no-vip"
    "dr-ok"
    "dr-other-router"
    "dr-other-router-ok"
    "dr-own-source-ok"
    "dr-ping-pong"
    "dr-port-remap"
    "dr-proxy-arp"
    "dr-rip-only"
    "dr-routed-no-gateway"
    "dr-routed-no-vip"
    "dr-routed-ok"
    "dr-routed-vip-ok"
    "dr-router-answers-stay"
    "dr-router-no-forwarding"
    "dr-rp-filter"
    "dr-rp-filter-ok"
    "dr-rs-drops"
    "dr-rs-far"
    "dr-rs-filter-ok"
    "dr-rs-link-down"
    "dr-rs-rejects"
    "dr-server-dies"
    "dr-server-down"
    "dr-slow-ok"
    "dr-snat-no-gateway-ok"
    "dr-snat-ok"
    "dr-snat-persistent"
    "dr-stale-gateway"
    "dr-stale-vip"
    "dr-standby-ok"
    "dr-state-filter-ok"
    "dr-static-ok"
    "dr-static-stale"
    "dr-test-from-director"
    "dr-test-from-inside"
    "dr-test-inside-ok"
    "dr-two-nic-ok"
    "dr-udp-from-rip"
    "dr-udp-ok"
    "dr-uplinks"
    "dr-vip-as-source"
    "dr-vip-nowhere"
    "dr-vip-on-nic"
    "dr-vip-only-ok"
    "dr-vlan-arp-leak"
    "dr-vlan-ok"
    "dr-volatile-arp"
    "dr-wide-mask"
    "dr6-nd-filter"
    "dr6-no-gateway"
    "dr6-no-link-local"
    "dr6-no-vip"
    "dr6-ok"
    "dr6-own-link-local-ok"
    "dr6-ra-ok"
    "dr6-ra-unheard"
    "dr6-server-down"
    "dr6-vip-on-nic"
    "ha-failover-ok"
    "ha-kept-ok"
    "ha-no-garp"
    "ha-no-sync"
    "ha-ok"
    "ha-rehash"
    "ha-split-brain"
    "ha-two-groups-ok"
    "ha-two-masters-garp"
    "ha-vrrp-strict"
    "k8s-strict-arp"
    "k8s-strict-arp-ok"
    "nat-all-other-router"
    "nat-all-quiescent"
    "nat-all-route"
    "nat-all-to-one"
    "nat-client-on-server-net"
    "nat-clients-ok"
    "nat-dead-drained-ok"
    "nat-dead-scheduled"
    "nat-director-filter"
    "nat-director-filter-ok"
    "nat-drain-ok"
    "nat-drained-ok"
    "nat-drops-always"
    "nat-drops-auto-ok"
    "nat-duplicate-rip"
    "nat-ftp"
    "nat-ftp-ports-ok"
    "nat-ha-node-gateway"
    "nat-ha-ok"
    "nat-kept-ok"
    "nat-large-ok"
    "nat-late-answers"
    "nat-late-answers-ok"
    "nat-long-ok"
    "nat-loss-ok"
    "nat-mark-missing"
    "nat-mark-ok"
    "nat-method-route"
    "nat-module-ok"
    "nat-new-card-ok"
    "nat-no-forwarding"
    "nat-no-forwarding-iface"
    "nat-no-module"
    "nat-no-service"
    "nat-ok"
    "nat-onearm-neighbour"
    "nat-onearm-no-gateway"
    "nat-onearm-ok"
    "nat-onearm-redirect"
    "nat-onearm-snat-lost"
    "nat-onearm-snat-ok"
    "nat-onearm-wrong-gateway"
    "nat-persistent-dead"
    "nat-persistent-drain"
    "nat-persistent-ok"
    "nat-persistent-spread-ok"
    "nat-persistent-test"
    "nat-port-zero-ok"
    "nat-removed-server"
    "nat-reroute"
    "nat-reroute-ok"
    "nat-reuse-drain"
    "nat-routed-no-way-back"
    "nat-router-no-forwarding"
    "nat-rs-bypass"
    "nat-rs-drops"
    "nat-rs-is-client"
    "nat-rs-link-down"
    "nat-rs-no-gateway"
    "nat-rs-other-router"
    "nat-rs-outbound"
    "nat-rs-outbound-ok"
    "nat-rs-rejects"
    "nat-rs-strict-rp-filter-ok"
    "nat-rs-wrong-gateway"
    "nat-rule-in-the-way"
    "nat-server-down"
    "nat-sh-drained"
    "nat-sh-fallback-ok"
    "nat-sh-ok"
    "nat-stale-client"
    "nat-stale-gateway"
    "nat-static-stale"
    "nat-test-from-director-ok"
    "nat-threshold"
    "nat-threshold-all"
    "nat-threshold-ok"
    "nat-two-default-routes"
    "nat-two-ports"
    "nat-two-ports-ok"
    "nat-udp-no-gateway"
    "nat-udp-ok"
    "nat-udp-removed"
    "nat-udp-server-down"
    "nat-vip-missing"
    "nat-vip-routed-ok"
    "nat-vlan"
    "nat-volatile-forwarding"
    "nat-volatile-route"
    "nat-volatile-table"
    "nat-wide-mask"
    "nat-wide-mask-ok"
    "nat-wide-no-gateway"
    "nat-wide-ok"
    "nat-wide-server-down"
    "nat-wrong-port"
    "nat6-no-forwarding"
    "nat6-no-gateway"
    "nat6-no-link-local"
    "nat6-ok"
    "tun-arp-leak"
    "tun-fabric"
    "tun-far-arp-ok"
    "tun-filter"
    "tun-gre"
    "tun-lan-ok"
    "tun-loose-addressless"
    "tun-loose-ok"
    "tun-mss-ok"
    "tun-no-decap"
    "tun-no-gateway"
    "tun-no-vip"
    "tun-ok"
    "tun-outer-vip"
    "tun-remote"
    "tun-remote-ok"
    "tun-rp-filter"
    "tun-rp-filter-all"
    "tun-rs-filter-ok"
    "tun-server-down"
    "tun-uploads"
    "tun-uploads-lost");

/// The text of a base: one of ours, or a file that ends with `.toml`.
pub(super) fn base(name: &str) -> Option<Cow<'static, str>> {
    match BASES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Some(Cow::Borrowed(*text)),
        None if name.ends_with(".toml") => std::fs::read_to_string(name).ok().map(Cow::Owned),
        None => None,
    }
}

/// The names of the bases.
pub(super) fn bases() -> impl Iterator<Item = &'static str> {
    BASES.iter().map(|(name, _)| *name)
}

/// The names of all scenarios, in reading order.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|(name, _)| *name)
}

/// A scenario by its name, or from a file that ends with `.toml`.
///
/// # Errors
/// When there is none, or it is wrong.
pub fn open(name: &str) -> Result<Scenario, ScenarioError> {
    if let Some((name, text)) = SCENARIOS.iter().find(|(known, _)| *known == name) {
        return Scenario::read(name, text);
    }
    let failed = |what: String| ScenarioError { name: name.to_string(), what };
    if !name.ends_with(".toml") {
        let near = names().filter(|known| known.contains(name) || name.contains(known)).collect::<Vec<_>>().join(" ");
        let hint = if near.is_empty() { "`lvscope lab list` lists them".to_string() } else { format!("perhaps: {near}") };
        return Err(failed(format!("there is no such scenario ({hint})")));
    }
    let text = std::fs::read_to_string(name).map_err(|e| failed(e.to_string()))?;
    let stem = std::path::Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Scenario::read(&stem, &text).map_err(|e| ScenarioError { name: name.to_string(), what: e.what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_sheet_is_in_the_catalogue() {
        for (folder, known) in [("src/lab/scenarios", SCENARIOS), ("src/lab/scenarios/base", BASES)] {
            let files = std::fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
            let files: BTreeSet<String> = files
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .filter_map(|name| name.strip_suffix(".toml").map(str::to_string))
                .collect();
            assert_eq!(files, known.iter().map(|(name, _)| name.to_string()).collect());
        }
    }

    #[test]
    fn every_scenario_can_be_read() {
        for name in names() {
            let scenario = open(name).unwrap_or_else(|e| panic!("{e}"));
            assert!(!scenario.title.is_empty() && !scenario.traffic.is_empty(), "{name}");
            assert!(scenario.is_healthy() || !scenario.client_sees.is_empty(), "{name}: what does the client see?");
            for code in scenario.codes.iter().chain(&scenario.may) {
                assert!(crate::rules::name_of(code).is_some(), "{name}: there is no code {code}");
            }
        }
    }

    #[test]
    fn a_name_that_is_not_there() {
        assert!(open("nat-rs-no-gate").expect_err("none").to_string().contains("perhaps: nat-rs-no-gateway"));
        assert!(open("no/such.toml").is_err());
    }
}
