//! What a trace makes of whole stories, told in the test world: who balances, how, for whom, and how a connection ended.

use super::nat::nat008::NAT008;
use super::svc::svc012::SVC012;
use super::testing::{ACK, PSH, RST, SYN, SYN_ACK, World, end};
use crate::trace::{ClaimKind, Flow, FlowState, Method, Trace, Way};

fn director<'a>(trace: &'a Trace, flow: &Flow) -> &'a str {
    flow.director.map_or("nobody", |host| trace.host_name(Some(host)))
}

/// The flow to a service, as its client dialled it.
fn to<'a>(trace: &'a Trace, service: &str) -> &'a Flow {
    trace.flows.iter().find(|f| f.service == end(service)).expect("such a flow")
}

/// A director is the gateway of its real servers: what they ask of others it hands on, and does not balance.
#[test]
fn a_real_server_asks_somebody_else() {
    let mut w = World::new()
        .plug("client.eth0", "lan", "10.2.0.100")
        .plug("director.eth0", "lan", "10.2.0.1")
        .plug("web1.eth0", "lan", "10.2.0.11")
        .plug("ns.eth0", "lan", "10.2.0.53");
    let c = World::tcp("10.2.0.100:40001", "10.2.0.1:80").dnat("director", "10.2.0.11:80");
    w.talk(&c, "client director web1", "web1 director client");
    w.talk(&World::tcp("10.2.0.11:50001", "10.2.0.53:53"), "web1 director ns", "ns web1");
    let trace = w.trace();
    let flow = to(&trace, "10.2.0.53:53");
    assert_eq!((director(&trace, flow), flow.real_server), ("nobody", Some(end("10.2.0.53:53"))));
    assert_ne!(flow.method, Method::DirectRouting);
}

/// A router translates to one address, a virtual one, which the director translates once more; also where a request got no further.
#[test]
fn a_router_in_front_of_a_nat_director() {
    let mut w = World::new()
        .plug("client.eth0", "ext", "10.1.0.100")
        .plug("edge.ext", "ext", "10.1.0.1")
        .plug("edge.mid", "mid", "10.3.0.254")
        .plug("box.mid", "mid", "10.3.0.1")
        .plug("box.int", "int", "10.2.0.1")
        .plug("web1.eth0", "int", "10.2.0.11");
    let c = |port: u16| World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("edge", "10.3.0.1:80").dnat("box", "10.2.0.11:80");
    w.talk(&c(40001), "client edge box web1", "web1 box edge client");
    w.syn(&c(40002), "client edge box", 3);
    let trace = w.trace();
    for flow in &trace.flows {
        assert_ne!(director(&trace, flow), "edge", "{}", flow.client);
    }
    assert!(trace.flows.iter().any(|f| director(&trace, f) == "box"));
}

/// Somebody translates to a machine that never answers, and there were captures on others that nothing reached: that is a router in front of
/// a director, and not a director.
#[test]
fn nothing_comes_any_further() {
    let mut w = World::new()
        .plug("client.eth0", "ext", "10.1.0.100")
        .plug("x.ext", "ext", "10.1.0.1")
        .plug("x.int", "int", "10.2.0.1")
        .plug("y.eth0", "int", "10.2.0.100")
        .plug("a.eth0", "int", "10.2.0.11")
        .plug("b.eth0", "int", "10.2.0.12");
    for port in [40001, 40002] {
        w.syn(&World::tcp(&format!("10.1.0.100:{port}"), "10.1.0.1:80").dnat("x", "10.2.0.100:80"), "client x y", 3);
    }
    let trace = w.unnamed().trace();
    assert!(!trace.flows.is_empty() && trace.flows.iter().all(|f| f.director.is_none()));
}

/// A single question that nobody answers says nothing about who asks: one neighbour may be down.
#[test]
fn one_question_in_vain() {
    let story = |times| {
        let mut w = World::new()
            .plug("client.eth0", "ext", "10.1.0.100")
            .plug("edge.ext", "ext", "10.1.0.1")
            .plug("edge.int", "int", "10.2.0.1")
            .plug("node.eth0", "int", "10.2.0.11");
        w.syn(&World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("edge", "10.2.0.11:80"), "client edge node", 3);
        for _ in 0..times {
            w.who_has("node", "int", "10.2.0.254", &[]);
            w.wait(1.0);
        }
        w.trace().flows.iter().any(|f| f.director.is_some())
    };
    assert_eq!([story(1), story(3)], [true, false]);
}

/// A director whose real servers are behind the router gets its packets back; it is still the one that balances.
#[test]
fn round_and_round() {
    let mut w = World::dr();
    w.who_has("router", "int", "10.2.0.100", &["director"]);
    let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
    w.syn(&c, "client router director router director router director", 2);
    let trace = w.trace();
    assert_eq!(director(&trace, &trace.flows[0]), "director");
}

/// A NAT box keeps the client's port unless it is taken; a FULLNAT balancer gives each connection one of its own.
#[test]
fn ports_that_are_kept_mostly() {
    for (taken, method) in [(1, Method::Nat), (5, Method::FullNat)] {
        let mut w = World::nat();
        for n in 0..5u16 {
            let port = if n < taken { 61_000 + n } else { 40_001 + n };
            let c = World::tcp(&format!("10.1.0.100:{}", 40_001 + n), "10.1.0.1:80")
                .dnat("director", "10.2.0.11:80")
                .snat("director", &format!("10.2.0.1:{port}"));
            w.talk(&c, "client director web1", "web1 director client");
        }
        let trace = w.trace();
        assert!(trace.flows.iter().all(|f| f.method == method), "{taken}: {:?}", trace.flows.iter().map(|f| f.method).collect::<Vec<_>>());
    }
}

/// Before it takes the VIP, a director may ask whether anybody has it.
#[test]
fn a_director_that_asked_first() {
    let mut w = World::dr();
    w.who_has_tell("director", "int", "10.2.0.100", "10.2.0.9".parse().expect("an address"), &[]);
    w.wait(2.0);
    w.who_has("router", "int", "10.2.0.100", &["director"]);
    let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("router", "10.2.0.100:80");
    w.talk(&c, "client router director web1", "web1 router client");
    let trace = w.trace();
    assert_eq!((director(&trace, &trace.flows[0]), trace.flows[0].method), ("director", Method::DirectRouting));
}

/// Two machines say that they have the address at which a tunnel ends: which of them it is, the router before them cannot tell.
#[test]
fn a_tunnel_with_two_ends() {
    let mut w = World::new()
        .plug("client.eth0", "ext", "10.1.0.100")
        .plug("director.ext", "ext", "10.1.0.1")
        .plug("director.mid", "mid", "10.3.0.1")
        .plug("router.mid", "mid", "10.3.0.254")
        .plug("router.int", "int", "10.2.0.1")
        .plug("web1.eth0", "int", "10.2.0.11")
        .plug("web2.eth0", "int", "10.2.0.12")
        .without(&["router.int", "web1"]);
    w.announce("web1", "int", "10.2.0.11");
    w.announce("web2", "int", "10.2.0.11");
    let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").tunnel("director", 4, "10.3.0.1", "10.2.0.11");
    w.syn(&c, "client director router", 3);
    let trace = w.trace();
    assert_eq!((trace.flows[0].method, trace.flows[0].server_host), (Method::Tunnel, None));
}

/// Between two networks, answers come back through the tunnel: nobody balances there.
#[test]
fn a_tunnel_between_two_networks() {
    let mut w = World::new()
        .plug("a.eth0", "left", "10.8.0.1")
        .plug("gw1.left", "left", "10.8.0.254")
        .plug("gw1.wan", "wan", "192.0.2.1")
        .plug("gw2.wan", "wan", "192.0.2.2")
        .plug("gw2.right", "right", "10.9.0.254")
        .plug("b.eth0", "right", "10.9.0.1")
        .without(&["a", "b", "gw1.left", "gw2.right"]);
    let there = World::udp("10.8.0.1:5000", "10.9.0.1:53").tunnel("gw1", 4, "192.0.2.1", "192.0.2.2");
    let back = World::udp("10.9.0.1:53", "10.8.0.1:5000").tunnel("gw2", 4, "192.0.2.2", "192.0.2.1");
    w.carry(&there, false, 0, b"question", "a gw1 gw2");
    w.carry(&back, false, 0, b"answer", "b gw2 gw1");
    let trace = w.trace();
    let flow = to(&trace, "10.9.0.1:53");
    assert!(flow.request.hops[0].outer.is_some() && flow.reply.hops[0].outer.is_some());
    assert_ne!(flow.method, Method::Tunnel);
}

/// How far a connection came, by what was said about it.
#[test]
fn how_it_ended() {
    for (v6, error, state) in [
        (false, (3, 3, 0), FlowState::Refused),
        (false, (3, 2, 0), FlowState::Refused),
        (false, (3, 1, 0), FlowState::Unreachable),
        (true, (1, 4, 0), FlowState::Refused),
        (true, (1, 3, 0), FlowState::Unreachable),
    ] {
        let (mut w, client, server) = match v6 {
            false => (World::dr(), "10.1.0.100", "10.2.0.11"),
            true => (World::dr6(), "2001:db8:1::100", "2001:db8:2::11"),
        };
        let endpoint = |addr: &str, port: u16| if v6 { format!("[{addr}]:{port}") } else { format!("{addr}:{port}") };
        let c = World::udp(&endpoint(client, 40001), &endpoint(server, 53));
        w.carry(&c, false, 0, b"question", "client router web1");
        w.icmp(&c, false, error, server, client, "web1", "web1 router client");
        let trace = w.trace();
        assert_eq!(trace.flows[0].state, state, "{error:?}");
        assert_eq!(trace.flows[0].errors[0].about, Way::Request);
    }
    // The answer is what a client's machine refuses.
    let mut w = World::dr();
    let c = World::udp("10.1.0.100:40001", "10.2.0.11:53");
    w.talk(&c, "client router web1", "web1 router client");
    w.icmp(&c, true, (3, 3, 0), "10.1.0.100", "10.2.0.11", "client", "client router web1");
    assert_eq!(w.trace().flows[0].errors[0].about, Way::Reply);
    // A client that resets the answer of somebody else has none.
    let mut w = World::dr();
    let c = World::tcp("10.1.0.100:40001", "10.2.0.11:80");
    w.carry(&c, false, SYN, b"", "client router web1");
    w.carry(&c, true, SYN_ACK, b"", "web1 router client");
    assert_eq!(w.trace().flows[0].state, FlowState::HalfOpen);
    w.carry(&c, false, RST, b"", "client router web1");
    assert_eq!(w.trace().flows[0].state, FlowState::Unanswered);
}

/// A request that was forwarded before it was first seen comes from a router, and not from the client's machine.
#[test]
fn clients_far_away() {
    for (ttl, known) in [(64, true), (57, false)] {
        let mut w = World::nat().without(&["client", "web1", "web2"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.carry_from(&c, false, SYN, b"", "client director web1", ttl);
        assert_eq!(w.trace().flows[0].client_host.is_some(), known, "TTL {ttl}");
    }
}

/// Bytes that are sent again and again: a connection that hangs, or one that goes on, or one of which too little is seen.
#[test]
fn what_hangs() {
    let begin = |w: &mut World, there: &str, back: &str| {
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80").dnat("director", "10.2.0.11:80");
        w.carry(&c, false, SYN, b"", there);
        w.carry(&c, true, SYN_ACK, b"", back);
        w.carry(&c, false, ACK, b"", there);
        c
    };
    let (there, back) = ("client director web1", "web1 director client");
    let again = |pause: f64, far: u32, hidden: &[&str]| {
        let mut w = World::nat().without(hidden);
        let c = begin(&mut w, there, back);
        w.carry(&c, false, PSH, &[7; 400], there);
        if far > 0 {
            w.carry(&c.later(far), false, PSH, &[7; 400], there);
        }
        for _ in 0..4 {
            w.wait(pause);
            w.carry(&c, false, PSH, &[7; 400], there);
        }
        w.trace().flows[0].stalled
    };
    assert_eq!(again(0.4, 0, &[]), Some(Way::Request));
    assert_eq!(again(0.02, 0, &[]), None, "too soon to tell from loss");
    assert_eq!(again(0.4, 10_000, &[]), Some(Way::Request), "what was on its way when it stopped");
    assert_eq!(again(0.4, 300_000, &[]), None, "it has gone on");
    // Requests alone, as a director with direct routing sees them: nothing is known of answers.
    let mut w = World::dr().without(&["client", "router", "web1", "web2"]);
    let c = World::tcp("10.1.0.100:40001", "10.2.0.100:80");
    let there = "client router director web1";
    w.carry(&c, false, SYN, b"", there);
    w.carry(&c, true, SYN_ACK, b"", "web1 router client");
    for n in 0..5 {
        w.carry(&c, false, if n == 0 { ACK } else { PSH }, if n == 0 { &[] } else { &[7; 400] }, there);
        w.wait(0.4);
    }
    let trace = w.trace();
    assert_eq!((trace.flows[0].state, trace.flows[0].stalled), (FlowState::Established, None));
}

/// How addresses are spoken for.
#[test]
fn probes_questions_and_announcements() {
    let mut w = World::nat();
    w.who_has_tell("web1", "int", "10.2.0.11", "0.0.0.0".parse().expect("an address"), &[]);
    let trace = w.trace();
    assert!(trace.claims.claims.is_empty() && trace.claims.questions.iter().all(|q| q.asker.is_none()));
    assert!(!trace.claims.questions.is_empty());
    let mut w = World::dr6();
    w.neighbour("web1", "int", "2001:db8:2::11", false);
    assert!(w.trace().claims.claims.iter().all(|c| c.kind == ClaimKind::Announcement && c.about.is_none()));
    w.neighbour("web1", "int", "2001:db8:2::11", true);
    w.neighbour("web1", "int", "2001:db8:2::99", true);
    let trace = w.trace();
    assert!(trace.claims.claims.iter().any(|c| c.kind == ClaimKind::Probe && !c.is_earnest()));
    let addresses: Vec<String> = trace.hosts.iter().flat_map(|h| &h.addresses).map(|a| a.to_string()).collect();
    assert_eq!(addresses, ["2001:db8:2::11"], "who asks whether he may have an address has it not yet");
}

/// Who was not watching has not seen that nothing left: a capture that lost packets, or one of another time.
#[test]
fn silence_that_proves_nothing() {
    let lost = |w: &mut World| {
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w.syn(&World::tcp("10.1.0.100:40002", "10.1.0.1:80"), "client director", 3);
    };
    let mut w = World::nat().without(&["web1", "web2"]);
    lost(&mut w);
    w.finding(&NAT008);
    let mut w = World::nat().without(&["web1", "web2"]).lossy("director.int", 5);
    lost(&mut w);
    w.deny(&NAT008);
    let mut w = World::nat().without(&["web1", "web2"]);
    w.who_has("director", "int", "10.2.0.11", &["web1"]);
    w.wait(300.0);
    lost(&mut w);
    w.deny(&NAT008);
}

/// In the middle of a connection one repeat is loss; several that go no further are swallowed.
#[test]
fn one_repeat_is_loss() {
    let story = |times| {
        let mut w = World::nat();
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        let c = World::tcp("10.1.0.100:40001", "10.1.0.1:80");
        for n in 0..times {
            w.carry(&c, false, PSH, b"question", "client director");
            w.wait(f64::from(1u32 << n));
        }
        w.who_has("client", "ext", "10.1.0.1", &["director"]);
        w
    };
    story(2).deny(&SVC012);
    story(4).finding(&SVC012);
}
