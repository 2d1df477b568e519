//! Tables of pools and expected sequences; the kernel's own recordings are played in tests/it/director.rs.

use super::*;
use crate::director::{Balancer, Dial, Scheduled, Settings};
use crate::ipvs::{self, SCHEDULERS};
use crate::net::Protocol;

/// Who gets the next connections, by the last byte of the address; none of them ends.
fn picks(rules: &str, clients: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut balancer = Balancer::with_rules(Settings::default(), 7, &ipvs::parse(rules).unwrap()).unwrap();
    clients.into_iter().map(|client| pick(&mut balancer, client)).collect()
}

fn pick(balancer: &mut Balancer, client: u8) -> u8 {
    let dial = Dial {
        protocol: Protocol::Tcp,
        client: Endpoint::new(std::net::Ipv4Addr::new(10, 0, 0, client).into(), 40_000 + u16::from(client)),
        dialled: "192.168.2.59:80".parse().unwrap(),
        mark: 0,
    };
    match balancer.schedule(0, &dial, Timestamp::default(), None) {
        Scheduled::Conn(id) => match balancer.pool()[balancer.table()[id].dest()].rule.addr {
            std::net::IpAddr::V4(addr) => addr.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        },
        _ => 0,
    }
}

fn rules(scheduler: &str, weights: &[(u8, u32)]) -> String {
    let mut out = format!("-A -t 192.168.2.59:80 -s {scheduler}\n");
    for (host, weight) in weights {
        out += &format!("-a -t 192.168.2.59:80 -r 192.168.224.{host}:80 -m -w {weight}\n");
    }
    out
}

#[test]
fn every_scheduler_is_known() {
    for name in SCHEDULERS {
        assert!(new(name, &Pool::default(), &[]).is_some(), "{name}");
    }
    assert!(new("wrrr", &Pool::default(), &[]).is_none());
}

#[test]
fn newest_first_and_around() {
    assert_eq!(picks(&rules("rr", &[(11, 1), (12, 0), (13, 5)]), 0..5), [13, 11, 13, 11, 13]);
}

#[test]
fn weighted_round_robin_in_falling_passes() {
    // The demand was 1 when the first was added, and stays there (`ip_vs_wrr_dest_changed`): the last pass comes first.
    assert_eq!(picks(&rules("wrr", &[(11, 2), (12, 4), (13, 6)]), 0..9), [13, 12, 11, 13, 13, 12, 13, 12, 11]);
    assert_eq!(picks(&rules("wrr", &[(11, 0), (12, 0)]), 0..2), [0, 0]);
}

#[test]
fn nobody_is_there() {
    for name in SCHEDULERS {
        assert_eq!(picks(&rules(name, &[]), 0..2), [0, 0], "{name} without real servers");
        assert_eq!(picks(&rules(name, &[(11, 0), (12, 0)]), 0..2), [0, 0], "{name}, all quiesced");
    }
}

#[test]
fn a_removed_server_does_not_make_round_robin_skip() {
    let mut balancer =
        Balancer::with_rules(Settings::default(), 7, &ipvs::parse(&rules("rr", &[(11, 1), (12, 1), (13, 1)])).unwrap()).unwrap();
    let matches = balancer.services()[0].rule().matches;
    assert_eq!((pick(&mut balancer, 1), pick(&mut balancer, 2)), (13, 12));
    balancer.delete_server(&matches, "192.168.224.12:80".parse().unwrap()).unwrap();
    assert_eq!((pick(&mut balancer, 3), pick(&mut balancer, 4)), (11, 13));
}

#[test]
fn fallback_finds_somebody_when_the_bucket_is_quiesced() {
    for (name, flag) in [("sh", "sh-fallback"), ("mh", "mh-fallback")] {
        let plain = picks(&rules(name, &[(11, 1), (12, 0)]), 0..64);
        let fallback = picks(&rules(&format!("{name} -b {flag}"), &[(11, 1), (12, 0)]), 0..64);
        assert_eq!(fallback, [11; 64]);
        // Of mh a server that was added with weight 0 has no places at all.
        assert_eq!(plain.contains(&0), name == "sh");
    }
}

#[test]
fn twos_draws_the_same_for_the_same_seed() {
    let text = rules("twos", &[(11, 1), (12, 2), (13, 3)]);
    let once = picks(&text, 0..60);
    assert_eq!(once, picks(&text, 0..60));
    assert!([11, 12, 13].iter().all(|host| once.contains(host)));
}
