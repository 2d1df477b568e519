//! The netlink room against a living kernel: what is written can be read back. Each test runs itself again inside `lvscope lab enter`.

use crate::within::inside;
use lvscope::net::MacAddr;
use lvscope::netlink::nftables::{Base, Chain, Step, TableFamily};
use lvscope::netlink::rtnetlink::{AddressSpec, Kind, LinkSpec, NeighbourSpec, Peer, Question, RouteSpec, RuleSpec};
use lvscope::netlink::{Family, Socket};

fn socket() -> Socket {
    Socket::open(Family::Route).unwrap()
}

/// Two ends of a cable, up, the first with an address.
fn cable(socket: &mut Socket) -> u32 {
    let mac = MacAddr([2, 0, 0, 0, 0, 7]);
    let peer = Peer { name: "far", mac: Some(mac), netns: None };
    socket.add_link(&LinkSpec { name: "near", mac: None, kind: Kind::Veth(peer) }).unwrap();
    assert_eq!(socket.link("far").unwrap().mac, Some(mac));
    let index = socket.link("near").unwrap().index;
    for end in [index, socket.link("far").unwrap().index] {
        socket.set_up(end, true).unwrap();
    }
    let spec = AddressSpec { index, prefix: "10.9.0.1/24".parse().unwrap(), scope: 0, nodad: false };
    socket.add_address(&spec).unwrap();
    index
}

#[test]
fn links_and_addresses() {
    if !inside("lab_netlink::links_and_addresses") {
        return;
    }
    let mut socket = socket();
    let index = cable(&mut socket);
    socket.set_link(index, Some(1400), None, None).unwrap();
    assert_eq!(socket.link("near").unwrap().mtu, 1400);
    let has = |socket: &mut Socket| socket.addresses().unwrap().iter().any(|a| a.index == index && a.prefix.to_string() == "10.9.0.1/24");
    assert!(has(&mut socket));
    let spec = AddressSpec { index, prefix: "10.9.0.1/24".parse().unwrap(), scope: 0, nodad: false };
    let twice = socket.add_address(&spec).expect_err("it is there").to_string();
    assert!(twice.contains("already") || twice.contains("exists"), "{twice}");
    socket.delete_address(&spec).unwrap();
    assert!(!has(&mut socket));
    socket.delete_link(index).unwrap();
    assert!(socket.link("near").is_err() && socket.link("far").is_err(), "both ends go");
}

#[test]
fn routes_rules_and_the_way() {
    if !inside("lab_netlink::routes_rules_and_the_way") {
        return;
    }
    let mut socket = socket();
    let index = cable(&mut socket);
    let question = |dst: &str, src: Option<&str>| Question {
        dst: dst.parse().unwrap(),
        src: src.map(|s| s.parse().unwrap()),
        iif: None,
        oif: None,
        mark: 0,
        tos: 0,
    };
    assert!(socket.way(&question("192.0.2.1", None)).is_err(), "there is no default route");
    let via = |gateway: &str| RouteSpec { via: Some(gateway.parse().unwrap()), ..RouteSpec::to("0.0.0.0/0".parse().unwrap()) };
    socket.add_route(&via("10.9.0.254")).unwrap();
    let hop = socket.way(&question("192.0.2.1", None)).unwrap().hops[0];
    assert_eq!((hop.via, hop.index), (Some("10.9.0.254".parse().unwrap()), index));
    let error = socket.add_route(&via("172.16.0.1")).expect_err("a gateway that is nobody's neighbour").to_string();
    assert!(error.contains("gateway") || error.contains("unreachable") || error.contains("exists"), "{error}");
    // A rule for one source, with a table of its own.
    socket.add_route(&RouteSpec { table: 100, ..via("10.9.0.253") }).unwrap();
    let rule =
        RuleSpec { v6: false, priority: 77, src: Some("10.9.0.1/32".parse().unwrap()), dst: None, iif: None, mark: None, table: 100 };
    socket.add_rule(&rule).unwrap();
    let read = socket.rules().unwrap().into_iter().find(|r| r.priority == 77).expect("the rule");
    assert_eq!((read.src, read.table), (rule.src, 100));
    let hop = socket.way(&question("192.0.2.1", Some("10.9.0.1"))).unwrap().hops[0];
    assert_eq!(hop.via, Some("10.9.0.253".parse().unwrap()));
    socket.delete_rule(&rule).unwrap();
    assert!(!socket.rules().unwrap().iter().any(|r| r.priority == 77));
    socket.delete_route(&via("10.9.0.254")).unwrap();
    assert!(socket.way(&question("192.0.2.1", None)).is_err());
}

#[test]
fn neighbours() {
    if !inside("lab_netlink::neighbours") {
        return;
    }
    let mut socket = socket();
    let index = cable(&mut socket);
    let (addr, mac) = ("10.9.0.5".parse().unwrap(), MacAddr([2, 0, 0, 0, 0, 9]));
    socket.set_neighbour(&NeighbourSpec { index, addr, mac }).unwrap();
    let read = socket.neighbours().unwrap().into_iter().find(|n| n.addr == addr).expect("the neighbour");
    assert_eq!((read.mac, read.state), (Some(mac), nix::libc::NUD_PERMANENT));
    socket.delete_neighbour(index, addr).unwrap();
    assert!(!socket.neighbours().unwrap().iter().any(|n| n.addr == addr && n.mac.is_some()));
}

/// A rule that drops what comes to a port: the kernel's own socket does not get it.
#[test]
fn filter_rules() {
    if !inside("lab_netlink::filter_rules") {
        return;
    }
    let mut route = socket();
    let lo = route.link("lo").unwrap().index;
    route.set_up(lo, true).unwrap();
    let server = std::net::UdpSocket::bind("127.0.0.1:5353").unwrap();
    server.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let arrives = || {
        client.send_to(b"x", "127.0.0.1:5353").unwrap();
        server.recv(&mut [0; 8]).is_ok()
    };
    assert!(arrives());
    let mut nft = Socket::open(Family::Netfilter).unwrap();
    let chain = Chain { family: TableFamily::Ip, table: "filter", name: "INPUT", kind: "filter", hook: 1, priority: 0 };
    let steps = [
        Step::Protocol(17),
        Step::Masked(Base::Network, 12, vec![0xff, 0, 0, 0], vec![127, 0, 0, 0]),
        Step::Equal(Base::Transport, 2, 5353_u16.to_be_bytes().to_vec()),
        Step::Drop,
    ];
    nft.add_nft_rule(&chain, &steps, "mine", false).unwrap();
    assert!(!arrives());
    nft.add_nft_rule(&chain, &[Step::Protocol(17), Step::Accept], "before", true).unwrap();
    assert!(arrives(), "the first rule that decides decides");
    nft.delete_nft_rule(&chain, Some("before")).unwrap();
    assert!(!arrives());
    assert!(nft.delete_nft_rule(&chain, Some("nobody's")).is_err());
    nft.delete_nft_rule(&chain, None).unwrap();
    assert!(arrives());
    // Every second one, beginning with the first.
    nft.add_nft_rule(&chain, &[Step::Protocol(17), Step::Every(2), Step::Drop], "loss", false).unwrap();
    assert_eq!([arrives(), arrives(), arrives(), arrives()], [false, true, false, true]);
}
