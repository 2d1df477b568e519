use super::*;
use crate::ipvs::{ForwardingMethod, RealServer, TunnelOptions};
use proptest::prelude::*;

fn pool() -> (Pool, DestId) {
    let mut pool = Pool::default();
    let rule = RealServer {
        addr: "192.168.224.11".parse().unwrap(),
        port: 80,
        method: ForwardingMethod::Nat,
        weight: 1,
        upper: 0,
        lower: 0,
        tunnel: TunnelOptions::default(),
    };
    let id = pool.add(0, rule);
    (pool, id)
}

fn key(port: u16, template: bool) -> Key {
    Key {
        protocol: 6,
        client: Endpoint::new("10.0.0.1".parse().unwrap(), if template { 0 } else { port }),
        dialled: "192.168.2.59:80".parse().unwrap(),
        template,
    }
}

fn new(key: Key, dest: DestId) -> NewConn {
    NewConn { key, dest, port: 80, answered: true, control: None, one_packet: false, timeout: None }
}

const START: Timestamp = Timestamp(1_763_000_000_000_000_000);

#[test]
fn a_connection_takes_little() {
    let (mut pool, dest) = pool();
    let mut table = Table::default();
    // The worst moment of a hash table is when it has just grown.
    for count in [20_000u32, 28_000, 29_000, 58_000] {
        while table.len() < count as usize {
            let n = table.len() as u32;
            let client = Endpoint::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n / 60_000)), (1 + n % 60_000) as u16);
            table.insert(new(Key { client, ..key(1, false) }, dest), &mut pool, START);
        }
        assert!(table.bytes() / table.len() <= 160, "{} bytes for each of {count}", table.bytes() / table.len());
    }
    // Timers fire, places are used again: it does not grow.
    let before = table.bytes();
    table.advance(START + 10 * SECOND, &mut pool);
    assert!(table.is_empty() && pool[dest].inactive == 0);
    for port in 1..20_000 {
        table.insert(new(key(port, false), dest), &mut pool, START + 10 * SECOND);
    }
    assert!(table.bytes() <= before + 58_000 * 8);
}

#[test]
fn timers_begin_anew_with_each_packet() {
    let (mut pool, dest) = pool();
    let settings = Settings::default();
    let mut table = Table::default();
    let id = table.insert(new(key(1, false), dest), &mut pool, START);
    table.packet(id, Direction::Input, Event::Tcp(TcpFlags::SYN), &settings, &mut pool, START);
    table.packet(id, Direction::Input, Event::Tcp(TcpFlags::ACK), &settings, &mut pool, START);
    assert_eq!((pool[dest].active, pool[dest].inactive, table[id].state_name()), (1, 0, "ESTABLISHED"));
    table.advance(START + 899 * SECOND, &mut pool);
    table.packet(id, Direction::Input, Event::Tcp(TcpFlags::ACK), &settings, &mut pool, START + 899 * SECOND);
    table.advance(START + 1798 * SECOND, &mut pool);
    assert_eq!(table.len(), 1);
    table.advance(START + 1799 * SECOND, &mut pool);
    assert_eq!((table.len(), pool[dest].active), (0, 0));
}

#[test]
fn a_shorter_timeout_counts_at_once() {
    let (mut pool, dest) = pool();
    let settings = Settings::default();
    let mut table = Table::default();
    let id = table.insert(new(key(1, false), dest), &mut pool, START);
    for flags in [TcpFlags::SYN, TcpFlags::ACK, TcpFlags::RST] {
        table.packet(id, Direction::Input, Event::Tcp(flags), &settings, &mut pool, START);
    }
    assert_eq!(table[id].state_name(), "CLOSE");
    table.advance(START + (10 * SECOND - 1), &mut pool);
    assert_eq!(table.len(), 1);
    table.advance(START + 10 * SECOND, &mut pool);
    assert!(table.is_empty());
}

#[test]
fn a_template_waits_for_its_connections() {
    let (mut pool, dest) = pool();
    let settings = Settings::default();
    let mut table = Table::default();
    let template = table.insert(NewConn { timeout: Some(10), ..new(key(0, true), dest) }, &mut pool, START);
    let id = table.insert(NewConn { control: Some(template), ..new(key(1, false), dest) }, &mut pool, START);
    table.packet(id, Direction::Input, Event::Tcp(TcpFlags::SYN), &settings, &mut pool, START);
    assert_eq!((pool[dest].persistent, table[template].state_name()), (1, "NONE"));
    // SYN_RECV lasts 60 s; the template is armed again at 10 s and expires at 70 s.
    table.advance(START + 69 * SECOND, &mut pool);
    assert!(table.of_request(&key(1, false)).is_none() && table.of_request(&key(0, true)).is_some());
    table.advance(START + 70 * SECOND, &mut pool);
    assert!(table.is_empty());
    assert_eq!((pool[dest].persistent, pool[dest].active, pool[dest].inactive), (0, 0, 0));
}

proptest! {
    /// Whatever happens, counters and table agree, and in the end everything is gone.
    #[test]
    fn nothing_leaks(events in proptest::collection::vec((0u16..40, 0u8..6, 0i64..40_000_000_000), 1..400)) {
        let (mut pool, dest) = pool();
        let settings = Settings::default();
        let mut table = Table::default();
        let mut now = START;
        for (port, what, wait) in events {
            now = now + wait;
            table.advance(now, &mut pool);
            let key = key(port, false);
            let id = match table.of_request(&key) {
                Some(id) => id,
                None => table.insert(new(key, dest), &mut pool, now),
            };
            let flags = [TcpFlags::SYN, TcpFlags::ACK, TcpFlags(0x11), TcpFlags::RST, TcpFlags(0x12), TcpFlags(0)][usize::from(what)];
            let direction = if what == 4 { Direction::Output } else { Direction::Input };
            table.packet(id, direction, Event::Tcp(flags), &settings, &mut pool, now);
            let active = table.iter().filter(|c| !c.is_inactive()).count() as u32;
            prop_assert_eq!((pool[dest].active, pool[dest].inactive), (active, table.len() as u32 - active));
            prop_assert!(table.iter().all(|c| c.expires > now));
            prop_assert_eq!(table.of_answer(6, "192.168.224.11:80".parse().unwrap(), key.client, &pool), Some(id));
        }
        table.advance(now + 901 * SECOND, &mut pool);
        prop_assert_eq!((table.len(), table.requests.len(), table.answers.len()), (0, 0, 0));
        prop_assert_eq!((pool[dest].active, pool[dest].inactive), (0, 0));
    }
}
