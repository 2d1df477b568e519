//! What a report left open, as something to capture: its services, their servers, and the hosts at which nobody looked.

use super::Known;
use crate::cli::Failure;
use crate::cli::captures::reason;
use crate::ipvs;
use crate::net::Endpoint;
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;

/// A service of a report, and what is known of it.
pub(super) struct Open {
    pub(super) service: Endpoint,
    pub(super) known: Known,
    /// What is not certain: a line each.
    pub(super) doubts: Vec<String>,
}

/// Reads what `diagnose --json` wrote.
pub(super) fn read(path: &Path) -> Result<Vec<Open>, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| Failure::input(format!("{name}: cannot be read: {}", reason(&e))))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| Failure::input(format!("{name}: not what diagnose --json writes: {e}")))?;
    if report["schema"] != 1 || !report["services"].is_array() {
        return Err(Failure::input(format!("{name}: not what diagnose --json writes: it has no services")));
    }
    Ok(of(&report))
}

fn of(report: &Value) -> Vec<Open> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut names: Vec<(IpAddr, String)> = Vec::new();
    for host in list(report, "hosts") {
        let addresses = list(&host, "addresses");
        names.extend(addresses.iter().filter_map(|a| Some((a.as_str()?.parse().ok()?, host["name"].as_str()?.to_string()))));
    }
    let seen: Vec<String> = list(report, "inputs").iter().filter_map(|i| i["point"].as_str()).map(str::to_string).collect();
    let mut open = Vec::new();
    for service in list(report, "services") {
        let end = |key: &str| service[key].as_str().and_then(|text| text.parse::<Endpoint>().ok());
        let Some(vip) = end("vip").or_else(|| end("service")) else { continue };
        let (letter, way) = match (service["protocol"].as_str(), service["method"].as_str()) {
            (Some("udp"), way) => ("-u", way),
            (Some("sctp"), way) => ("--sctp-service", way),
            (_, way) => ("-t", way),
        };
        let way = match way {
            Some("nat" | "fullnat") => "-m",
            Some("tun") => "-i",
            _ => "-g",
        };
        let mut rules = format!("-A {letter} {vip} -s rr\n");
        for server in list(&service, "real_servers") {
            if let Some(server) = server["address"].as_str().and_then(|text| text.parse::<Endpoint>().ok()).filter(|s| s.addr != vip.addr) {
                rules += &format!("-a {letter} {vip} -r {server} {way}\n");
            }
        }
        let known = Known { rules: ipvs::parse(&rules).unwrap_or_default(), hosts: Vec::new(), names: names.clone(), seen: seen.clone() };
        open.push(Open { service: vip, known, doubts: doubts(report) });
    }
    open
}

fn doubts(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |f: &Value, key: &str| f[key].as_str().unwrap_or_default().to_string();
    let unsure = findings.iter().filter(|f| f["confidence"] != "certain" && f["severity"] != "note");
    let words = |f: &Value| {
        let settle = text(f, "settle");
        let settle = if settle.is_empty() { settle } else { format!("; to settle it: {settle}") };
        format!("{} {} ({}, {}){settle}", text(f, "code"), text(f, "name"), text(f, "confidence"), text(f, "subject"))
    };
    unsure.map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_doubts() {
        let report = serde_json::json!({
            "schema": 1,
            "inputs": [{"point": "director.eth0"}],
            "hosts": [{"name": "web1", "addresses": ["10.0.0.11"]}],
            "services": [
                {"service": "192.0.2.9:80", "vip": "10.0.0.80:80", "protocol": "tcp", "method": "tun", "real_servers": [{"address": "10.0.0.11:80"}, {"address": null}]},
                {"service": "10.0.0.81:53", "vip": null, "protocol": "udp", "method": "unknown"},
                {"service": 7}
            ],
            "findings": [
                {"code": "DR004", "name": "x", "severity": "broken", "confidence": "likely", "subject": "web1", "settle": "look"},
                {"code": "NAT001", "severity": "broken", "confidence": "certain"}
            ]
        });
        let open = of(&report);
        assert_eq!(open.iter().map(|o| o.service.to_string()).collect::<Vec<_>>(), ["10.0.0.80:80", "10.0.0.81:53"]);
        assert_eq!(open[0].known.rules[0].real_servers[0].addr.to_string(), "10.0.0.11");
        assert_eq!(
            (open[0].known.names.len(), open[0].doubts.clone()),
            (1, vec!["DR004 x (likely, web1); to settle it: look".to_string()])
        );
        assert!(of(&serde_json::json!({})).is_empty());
    }
}
