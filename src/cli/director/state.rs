//! The director's state, for people and for programs.

use crate::cli::output::Output;
use crate::director::{Balancer, Tally};
use crate::net::{Timestamp, thousands};
use serde_json::{Value, json};
use std::io::{self, Write};

/// What was done, a line a kind.
pub(super) fn tally(out: &mut Output, tally: &Tally) -> io::Result<()> {
    let lines = [
        ("to real servers", tally.requests),
        ("to clients", tally.answers),
        ("ICMP errors made", tally.told),
        ("ARP and ND answered", tally.resolved),
        ("not for IPVS", tally.passed),
        ("for other hosts", tally.ignored),
    ];
    let longest = tally.dropped.keys().map(|reason| format!("  dropped: {reason}").chars().count()).max();
    let width = longest.unwrap_or_default().max(30);
    for (what, count) in lines.iter().filter(|(_, count)| *count > 0) {
        writeln!(out, "{:<width$} {:>12}", format!("  {what}"), thousands(*count))?;
    }
    for (reason, count) in &tally.dropped {
        writeln!(out, "{:<width$} {:>12}", format!("  dropped: {reason}"), thousands(*count))?;
    }
    Ok(())
}

/// Services, connections and counters.
pub(super) fn json(balancer: &Balancer, now: Timestamp, tally: &Tally) -> Value {
    let numbers = |t: [u64; 5]| json!({"conns": t[0], "in_packets": t[1], "out_packets": t[2], "in_bytes": t[3], "out_bytes": t[4]});
    let rates = balancer.listed(true);
    let services: Vec<Value> = balancer
        .listed(false)
        .iter()
        .zip(&rates)
        .map(|(listed, rate)| {
            let name = crate::ipvs::to_text(std::slice::from_ref(&listed.service));
            let name = name.lines().next().and_then(|l| l.strip_prefix("-A ")).and_then(|l| l.split(" -s ").next()).unwrap_or_default();
            let servers: Vec<Value> = listed
                .servers
                .iter()
                .zip(&rate.servers)
                .map(|(s, r)| {
                    json!({"address": s.server.endpoint().to_string(), "method": s.server.method.to_string(), "weight": s.server.weight,
                        "active": s.active, "inactive": s.inactive, "persistent": s.persistent,
                        "stats": numbers(s.traffic), "rate": numbers(r.traffic)})
                })
                .collect();
            json!({"service": name, "scheduler": listed.service.scheduler, "flags": listed.service.flags,
                "persistence": listed.service.persistence, "stats": numbers(listed.traffic), "rate": numbers(rate.traffic), "real_servers": servers})
        })
        .collect();
    let connections: Vec<Value> = balancer
        .connections(now)
        .iter()
        .map(|c| {
            json!({"protocol": c.protocol.to_string(), "expires": c.expires, "state": c.state, "client": c.client.to_string(),
                "service": c.service.to_string(), "real_server": c.server.to_string()})
        })
        .collect();
    let dropped: serde_json::Map<String, Value> = tally.dropped.iter().map(|(reason, n)| (reason.to_string(), (*n).into())).collect();
    json!({"services": services, "connections": connections,
        "packets": {"to_real_servers": tally.requests, "to_clients": tally.answers, "icmp_errors": tally.told, "passed": tally.passed,
            "ignored": tally.ignored, "dropped": dropped}})
}
