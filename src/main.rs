//! tmp
use lvscope::{capture::*, trace::*};
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let json = args[0] == "diagnose";
    let files: Vec<_> = args.iter().filter(|a| a.contains(".pcap")).map(|p| CaptureFile::open(p.as_ref()).unwrap()).collect();
    let t0 = Instant::now();
    let mut tracer = Tracer::new(Options::default());
    let names: Vec<String> = files.iter().map(|f| f.name().to_string()).collect();
    let mut points: Vec<Vec<u32>> = names.iter().map(|_| vec![]).collect();
    Merged::new(files).for_each(|i, interfaces, f| {
        if points[i].len() <= f.interface as usize {
            while points[i].len() <= f.interface as usize {
                let n = points[i].len();
                let it = &interfaces[n];
                points[i].push(tracer.point(&Source {
                    file: i,
                    file_name: names[i].clone(),
                    given: None,
                    interface_name: it.name.clone(),
                    one_of_several: interfaces.len() > 1,
                    link_type: it.link_type,
                    snap_len: it.snap_len,
                }));
            }
        }
        tracer.observe(points[i][f.interface as usize], f);
    });
    let t1 = Instant::now();
    let trace = tracer.finish();
    let t2 = Instant::now();
    if !json {
        eprintln!(
            "{} flows {} groups {} closely; read {:?} finish {:?}",
            trace.flow_count(),
            trace.groups.len(),
            trace.flows.len(),
            t1 - t0,
            t2 - t1
        );
        for (k, v) in &trace.unplaced {
            eprintln!("  unplaced {k}: {v}");
        }
        for c in &trace.clocks {
            eprintln!("  {c:?}");
        }
        for h in &trace.hosts {
            eprintln!("  {} {} {:?} {:?} {:?}", h.name, h.role, h.macs, h.addresses.iter().take(4).collect::<Vec<_>>(), h.points);
        }
        if args[0] == "truth" {
            for f in trace.all_flows() {
                println!("{} {} {} {:?} {:?} {} {}", f.protocol, f.client, f.service, f.vip, f.real_server, f.method, f.state);
            }
            return;
        }
        for f in trace.flows.iter().take(20) {
            println!(
                "#{} {} {} > {} vip {:?} rs {:?} {} {} dir {} srv {}",
                f.id,
                f.protocol,
                f.client,
                f.service,
                f.vip,
                f.real_server,
                f.method,
                f.state,
                trace.host_name(f.director),
                trace.host_name(f.server_host)
            );
            for (n, p) in [("req", &f.request), ("rep", &f.reply)] {
                for h in &p.hops {
                    println!(
                        "   {n} {:<16} #{:<3} {} {} > {} {} > {} ttl {} {:?} {:?} {:?}>{:?}",
                        trace.points[h.point as usize].name,
                        h.frame,
                        h.time,
                        h.src_mac.unwrap_or_default(),
                        h.dst_mac.unwrap_or_default(),
                        h.src,
                        h.dst,
                        h.ttl,
                        h.rewrites,
                        h.first,
                        trace.host_name(h.from),
                        trace.host_name(h.to)
                    );
                }
                for h in &p.strays {
                    println!(
                        "   {n} STRAY {:<16} #{:<3} {} > {} ttl {} {:?}",
                        trace.points[h.point as usize].name,
                        h.frame,
                        h.src_mac.unwrap_or_default(),
                        h.dst_mac.unwrap_or_default(),
                        h.ttl,
                        h.first
                    );
                }
            }
        }
        return;
    }
    let hop = |h: &Hop| serde_json::json!({"point": trace.points[h.point as usize].name, "frame": h.frame, "src_mac": h.src_mac.map(|m| m.to_string()), "dst_mac": h.dst_mac.map(|m| m.to_string()), "src": h.src.to_string(), "dst": h.dst.to_string(), "ttl": h.ttl});
    let flows: Vec<_> = trace.flows.iter().map(|f| serde_json::json!({"protocol": f.protocol.to_string(), "client": f.client.to_string(), "service": f.service.to_string(), "vip": f.vip.map(|v| v.to_string()), "real_server": f.real_server.map(|v| v.to_string()), "method": f.method.to_string(), "request": f.request.hops.iter().map(hop).collect::<Vec<_>>(), "reply": f.reply.hops.iter().map(hop).collect::<Vec<_>>()})).collect();
    let hints = Hints::default();
    let d = lvscope::rules::diagnose(&lvscope::rules::Facts { trace: &trace, hints: &hints });
    let findings: Vec<_> = d.findings.iter().map(|f| serde_json::json!({"code": f.code, "severity": f.severity.to_string(), "confidence": f.confidence.to_string(), "subject": f.subject, "summary": f.summary, "alternatives": f.alternatives, "flows": f.flows})).collect();
    let inputs: Vec<_> = trace.points.iter().map(|p| serde_json::json!({"file": p.file_name, "point": p.name})).collect();
    println!("{}", serde_json::json!({"flows": flows, "findings": findings, "inputs": inputs}));
}
