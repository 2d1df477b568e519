use lvscope::director::{Balancer, Director, Engine, Port, Route, Routes, Settings};
use lvscope::net::{MacAddr, Timestamp};

const RULES: &str = "-A -t 192.168.2.59:80 -s wlc -p 10\n-a -t 192.168.2.59:80 -r 192.168.224.11:8080 -m\n\
                     -A -u 192.168.2.59:53 -s rr -o\n-a -u 192.168.2.59:53 -r 192.168.224.12 -g\n\
                     -A -t [2001:db8::59]:80 -s mh\n-a -t [2001:db8::59]:80 -r [2001:db8:224::11]:80 -i --tun-type gre\n\
                     -A --sctp-service 192.168.2.59:99 -s lblcr\n-a --sctp-service 192.168.2.59:99 -r 192.168.224.11:98 -m\n";

/// Frames with their lengths in front, one after the other, into a director.
pub fn run(bytes: &[u8]) {
    if let Some(rules) = std::str::from_utf8(bytes).ok().and_then(|text| lvscope::ipvs::read(text).ok()) {
        let written = lvscope::ipvs::to_text(&rules.services);
        assert_eq!(lvscope::ipvs::parse(&written).as_ref(), Ok(&rules.services));
    }
    let rules = lvscope::ipvs::parse(RULES).expect("rules");
    let balancer = Balancer::with_rules(Settings::default(), 1, &rules).expect("rules");
    let all = |to: &str| Route { to: to.parse().expect("a prefix"), via: None, port: 0, mtu: 1500 };
    let own = ["192.168.224.10", "2001:db8::10"].map(|a| (a.parse().expect("an address"), 0)).to_vec();
    let mac = MacAddr([2, 0, 0x5e, 0, 1, 0x64]);
    let ports = vec![Port { name: "eth0".to_string(), mac, addresses: Vec::new() }];
    let mut director = Director::new(Engine::new(balancer, Routes { routes: vec![all("0.0.0.0/0"), all("::/0")], own }), ports);
    director.invent = true;
    let (mut rest, mut now) = (bytes, Timestamp::new(1_763_000_000, 0));
    while let [len, step, more @ ..] = rest {
        let (frame, after) = more.split_at(usize::from(*len).min(more.len()));
        now = now + i64::from(*step) * 100_000_000;
        // Nothing but frames to its own MAC gets far, and a fuzzer is long in guessing six bytes.
        let mut frame = frame.to_vec();
        if step & 4 != 0 && frame.len() > 6 {
            frame[..6].copy_from_slice(&mac.0);
        }
        // Of long ones only the headers are copied.
        if step & 8 != 0 {
            frame.resize(frame.len() + 1500, *len);
        }
        director.frame(0, &frame, &[step & 1, step & 2, 0, 0, *len, 0, 0, 0, 0, 0], now);
        director.tick(now);
        rest = after;
    }
}
