//! Where the captures end before the answer: what to capture next.

use super::Page;
use super::services::{Outcome, Service};
use crate::net::span;
use crate::trace::Trace;
use std::io;

/// Says where the requests of a service were last seen, and how to see further.
pub(super) fn settle(page: &mut Page<'_>, trace: &Trace, service: &Service) -> io::Result<()> {
    let mut examples = service.groups.iter().flat_map(|g| &trace.groups[*g].examples);
    let Some(flow) = examples.find_map(|id| trace.flow(*id).filter(|flow| Outcome::of(flow) == Outcome::Unseen)) else { return Ok(()) };
    let Some(hop) = flow.request.last() else { return Ok(()) };
    let point = &trace.points[hop.point as usize].name;
    if trace.points[hop.point as usize].last - hop.time < 1_000_000_000 && flow.reply.is_empty() {
        let rest = span(trace.points[hop.point as usize].last - hop.time);
        let text = format!("The capture at {point} ends {rest} after the request ({point} #{}): too soon to miss an answer.", hop.frame);
        return page.wrapped("  ", "  ", &text);
    }
    let next = match (hop.to, hop.dst_mac) {
        (Some(host), _) => trace.host_name(Some(host)).to_string(),
        (None, Some(mac)) => format!("the host with MAC {mac}"),
        (None, None) => "the next hop".to_string(),
    };
    let text = match flow.reply.last() {
        None => format!("Requests leave for {next} ({point} #{}), and no capture shows what it did with them.", hop.frame),
        Some(answer) => {
            let seen = &trace.points[answer.point as usize].name;
            format!("Answers were last seen at {seen} (#{}), and no capture shows whether they arrive.", answer.frame)
        }
    };
    page.wrapped("  ", "  ", &text)?;
    let watch = if flow.reply.is_empty() { next } else { "the client".to_string() };
    page.wrapped("  ", "    ", &format!("To go on, capture on {watch}:"))?;
    page.line(&format!(
        "    tcpdump -i IF -w HOST.IF.pcap 'host {} or arp'",
        if flow.reply.is_empty() { hop.src.addr } else { flow.client.addr }
    ))
}
