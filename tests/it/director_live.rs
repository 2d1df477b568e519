//! `director run` on real interfaces: hosts of the lab, and the program itself in the director's place.
//!
//! The slow ones are run by hand: `cargo test --test it -- --ignored director_live`.

use crate::within::{inside, slow};
use lvscope::ipvs::to_text;
use lvscope::lab::build::{Balancing, Host, Network};
use lvscope::lab::netns::Namespace;
use lvscope::lab::{catalogue, command};
use lvscope::netlink::{Attributes, Generic};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Backlog, listen};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A method: its scenario, the director's words, the address that clients dial.
struct Setup {
    scenario: &'static str,
    words: &'static [&'static str],
    dial: &'static str,
}

const NAT: Setup = Setup {
    scenario: "nat-ok",
    words: &["-i", "ext", "-i", "int", "--address", "ext:192.168.2.10/24", "--address", "int:192.168.224.10/24"],
    dial: "192.168.2.59:80",
};
const DR: Setup = Setup {
    scenario: "dr-ok",
    // An address of its own, which real servers answer: they take the VIP for theirs.
    words: &["-i", "eth0", "--address", "eth0:192.168.224.20/24", "--gateway", "192.168.224.10"],
    dial: "192.168.2.59:80",
};
const TUN: Setup = Setup {
    scenario: "tun-ok",
    words: &["-i", "eth0", "--address", "eth0:203.0.113.2/24", "--gateway", "203.0.113.1"],
    dial: "203.0.113.80:80",
};

const NAT6: Setup = Setup {
    scenario: "nat6-ok",
    words: &["-i", "ext", "-i", "int", "--address", "ext:2001:db8:1::10/64", "--address", "int:2001:db8:2::10/64"],
    dial: "[2001:db8:1::59]:80",
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The network of a scenario, with `director run` as its director.
struct Live {
    network: Network,
    director: Child,
    news: BufReader<ChildStderr>,
    rules: tempfile::NamedTempFile,
    dial: SocketAddr,
}

impl Live {
    fn begin(setup: &Setup) -> Live {
        Live::begin_with(setup, |_| {})
    }

    /// With something done to the network before.
    fn begin_with(setup: &Setup, before: impl FnOnce(&Network)) -> Live {
        let scenario = catalogue::open(setup.scenario).expect("a scenario");
        let network = Network::build(&scenario, Balancing::Builtin).expect("a network");
        before(&network);
        let rules = tempfile::NamedTempFile::new().expect("a file");
        let host = network.host("director").expect("a director");
        fs::write(rules.path(), to_text(&host.rules())).expect("rules");
        let mut director = start(host, rules.path().to_str().expect("a path"), setup.words);
        let mut news = BufReader::new(director.stderr.take().expect("stderr"));
        let said = line(&mut news);
        assert!(said.contains("director on "), "{said}");
        for name in ["web1", "web2"] {
            serve(&network.host(name).expect("a real server").namespace, setup.dial.starts_with('['));
        }
        Live { network, director, news, rules, dial: setup.dial.parse().expect("an address") }
    }

    fn client(&self) -> &Namespace {
        &self.network.host("client").expect("a client").namespace
    }

    fn wires(&self) -> &Namespace {
        self.network.host("director").expect("a director").wire()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.director.id().cast_signed()), signal).expect("a signal");
    }

    /// Ends the director, and gives its summary.
    fn end(mut self, signal: Signal) -> String {
        self.signal(signal);
        let (mut said, mut summary) = (String::new(), String::new());
        self.director.stdout.take().expect("stdout").read_to_string(&mut summary).expect("text");
        self.news.read_to_string(&mut said).expect("text");
        let status = self.director.wait().expect("an end");
        assert!(status.success(), "{status}: {said}");
        summary
    }

    /// Segments with wrong checksums that any host was given.
    fn wrong_checksums(&self) -> u64 {
        self.network.hosts.iter().map(|host| host.namespace.run(|| snmp("Tcp", "InCsumErrors")).expect("a namespace")).sum()
    }
}

fn start(host: &Host, rules: &str, words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvscope"));
    command.args(["director", "run", "--rules", rules]).args(words).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    host.wire().run(|| command.spawn()).expect("a namespace").expect("lvscope")
}

fn line(news: &mut impl BufRead) -> String {
    let mut line = String::new();
    news.read_line(&mut line).expect("a line");
    line
}

fn snmp(protocol: &str, name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").expect("procfs");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split(' ').position(|n| n == name).expect("the counter");
    values.split(' ').nth(at).expect("a value").parse().expect("a number")
}

/// A server for `GET n` and `PUT n`, until the process ends.
fn serve(place: &Namespace, ipv6: bool) {
    let listener = place.run(|| TcpListener::bind(if ipv6 { "[::]:80" } else { "0.0.0.0:80" })).expect("a namespace").expect("port 80");
    listen(&listener, Backlog::MAXALLOWABLE).expect("a longer queue");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(answer(stream)));
        }
    });
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut asked = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut asked)?;
    let (what, count) = asked.trim().split_once(' ').ok_or(ErrorKind::InvalidData)?;
    let count: u64 = count.parse().map_err(|_| ErrorKind::InvalidData)?;
    if what == "GET" {
        io::copy(&mut filling(count), &mut stream)?;
    } else {
        let got = io::copy(&mut reader.take(count), &mut io::sink())?;
        writeln!(stream, "{got}")?;
    }
    Ok(())
}

/// So many bytes, large parts at a time.
fn filling(count: u64) -> impl Read {
    struct Filling(u64);
    impl Read for Filling {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(usize::try_from(self.0).unwrap_or(usize::MAX));
            buffer[..len].fill(0x5a);
            self.0 -= len as u64;
            Ok(len)
        }
    }
    BufReader::with_capacity(256 << 10, Filling(count))
}

/// Asks for `down` bytes, or brings `up` bytes; what came back.
fn transfer(to: SocketAddr, down: u64, up: u64) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if down > 0 {
        writeln!(stream, "GET {down}")?;
        return io::copy(&mut BufReader::with_capacity(256 << 10, stream), &mut io::sink());
    }
    writeln!(stream, "PUT {up}")?;
    io::copy(&mut filling(up), &mut stream)?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said)?;
    said.trim().parse().map_err(|_| ErrorKind::InvalidData.into())
}

const MEGABYTE: u64 = 1 << 20;

fn transfers(live: &Live, down: u64, up: u64, what: &str) {
    let began = Instant::now();
    let (got, brought) =
        live.client().run(|| (transfer(live.dial, down, 0), if up > 0 { transfer(live.dial, 0, up) } else { Ok(0) })).expect("a namespace");
    eprintln!("{what}: {:.2} s", began.elapsed().as_secs_f64());
    assert_eq!(got.expect(what), down, "{what}");
    assert_eq!(brought.expect(what), up, "{what}");
    assert_eq!(live.wrong_checksums(), 0, "{what}");
}

/// Checksums and segmentation of an interface: by the card, or by the host (`ethtool -K IF tx off tso off gso off gro off`).
fn offload(place: &Namespace, on: bool) {
    const NAMES: [&str; 5] = ["tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation", "rx-gro"];
    let asked = place.run(|| {
        let mut ethtool = Generic::open("ethtool", 1)?.expect("a kernel with ethtool netlink");
        let links = lvscope::netlink::Socket::open(lvscope::netlink::Family::Route)?.links()?;
        for link in links.iter().filter(|link| link.kind.as_deref() == Some("veth")) {
            let bit = |name: &&str| {
                let bit = Attributes::new().text(2, name);
                if on { bit.bytes(3, &[]) } else { bit }
            };
            let bits = NAMES.iter().fold(Attributes::new(), |bits, name| bits.nested(1, &bit(name)));
            let wanted = Attributes::new().nested(3, &bits);
            ethtool.ask(12, &Attributes::new().nested(1, &Attributes::new().text(2, &link.name)).nested(3, &wanted))?;
        }
        Ok::<(), lvscope::netlink::NetlinkError>(())
    });
    asked.expect("a namespace").expect("offloads");
}

/// 20 MB each way, with offloads on; off at the director alone, where a checksum that is half done shows; and off everywhere.
fn transfers_by(setup: &Setup) {
    let live = Live::begin(setup);
    transfers(&live, 20 * MEGABYTE, 5 * MEGABYTE, "offloads on");
    offload(live.wires(), false);
    transfers(&live, 20 * MEGABYTE, 5 * MEGABYTE, "offloads off at the director");
    live.network.hosts.iter().for_each(|host| offload(&host.namespace, false));
    offload(&live.network.switches, false);
    transfers(&live, 20 * MEGABYTE, 5 * MEGABYTE, "offloads off");
    let summary = live.end(Signal::SIGINT);
    assert!(summary.contains("director ran for ") && summary.contains("to real servers"), "{summary}");
}

#[test]
fn large_answers_come_through_nat() {
    if inside("director_live::large_answers_come_through_nat") {
        transfers_by(&NAT);
    }
}

#[test]
fn large_answers_come_through_nat_by_ipv6() {
    if inside("director_live::large_answers_come_through_nat_by_ipv6") {
        transfers_by(&NAT6);
    }
}

#[test]
fn large_answers_come_past_a_dr_director() {
    if inside("director_live::large_answers_come_past_a_dr_director") {
        transfers_by(&DR);
    }
}

#[test]
fn large_answers_come_past_a_tunnel() {
    if inside("director_live::large_answers_come_past_a_tunnel") {
        transfers_by(&TUN);
    }
}

/// A narrower link behind the director: its sender is told, and goes on with shorter segments.
#[test]
fn a_narrow_way_on_is_told() {
    if !inside("director_live::a_narrow_way_on_is_told") {
        return;
    }
    for (leg, down, up) in [("ext", 20 * MEGABYTE, 0), ("int", 1000, 20 * MEGABYTE)] {
        for on in [true, false] {
            let live = Live::begin_with(&NAT, |network| {
                let wires = network.host("director").expect("a director").wire();
                command::run(wires, &format!("ip link set {leg} mtu 1400")).expect("an MTU");
                network.hosts.iter().for_each(|host| offload(&host.namespace, on));
                offload(wires, on);
            });
            transfers(&live, down, up, &format!("{leg} takes 1400, offloads {}", if on { "on" } else { "off" }));
            let summary = live.end(Signal::SIGTERM);
            // Merged requests are cut into fragments as the kernel cuts them, and nobody is told.
            if down > up || !on {
                assert!(summary.contains("longer than the MTU"), "{leg}: {summary}");
            }
        }
    }
}

/// `per` connections at once, `rounds` times: how many did not get their answer.
fn crowd(live: &Live, per: usize, rounds: usize) -> u32 {
    let (lost, all_there) = (AtomicU32::new(0), Barrier::new(per));
    let one = || {
        let connected = TcpStream::connect_timeout(&live.dial, PATIENCE);
        // All at once, also when one did not get there.
        all_there.wait();
        let mut stream = connected?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "GET 2000")?;
        io::copy(&mut stream, &mut io::sink())
    };
    live.client()
        .run(|| {
            let inside = Namespace::current().expect("a namespace");
            std::thread::scope(|scope| {
                for _ in 0..per {
                    scope.spawn(|| {
                        inside.enter().expect("a namespace");
                        for _ in 0..rounds {
                            if !one().is_ok_and(|got| got == 2000) {
                                lost.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
        })
        .expect("a namespace");
    lost.into_inner()
}

/// Rules change while connections come and go: a real server drained and given back, one removed and added again.
fn connections_survive(per: usize, rounds: usize) {
    let live = Live::begin(&NAT);
    let rules = fs::read_to_string(live.rules.path()).expect("rules");
    let (drained, without) =
        (rules.replace("224.12:80 -m -w 1", "224.12:80 -m -w 0"), rules.lines().take(2).collect::<Vec<_>>().join("\n"));
    assert!(drained != rules && without.contains("224.11") && !without.contains("224.12"), "{rules}");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for text in [&drained, &rules, &without, &rules].into_iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                // In one piece: half a file would be half the rules.
                let new = live.rules.path().with_extension("new");
                fs::write(&new, text).and_then(|()| fs::rename(&new, live.rules.path())).expect("rules");
                live.signal(Signal::SIGHUP);
                // What belongs to a removed server is lost meanwhile, and sent again by its sender.
                std::thread::sleep(Duration::from_millis(150));
            }
        });
        let lost = crowd(&live, per, rounds);
        over.store(true, Ordering::Relaxed);
        assert_eq!(lost, 0);
    });
    // The other one is there or not, as it was when the last connection ended.
    let summary = live.end(Signal::SIGTERM);
    assert!(summary.contains("192.168.224.11:80"), "{summary}");
}

#[test]
fn no_connection_is_lost_while_rules_change() {
    if inside("director_live::no_connection_is_lost_while_rules_change") {
        connections_survive(100, 20);
    }
}

#[test]
fn no_connection_of_ten_thousand_is_lost() {
    if !slow() {
        eprintln!("not run: 10,000 connections, 1,000 at once (LVSCOPE_SLOW=1)");
        return;
    }
    if inside("director_live::no_connection_of_ten_thousand_is_lost") {
        connections_survive(1000, 10);
    }
}

#[test]
fn large_answers_survive_loss() {
    if !slow() {
        eprintln!("not run: a twentieth of all packets is lost (LVSCOPE_SLOW=1)");
        return;
    }
    if !inside("director_live::large_answers_survive_loss") {
        return;
    }
    for setup in [&NAT, &DR, &TUN] {
        let live = Live::begin_with(setup, |network| {
            for host in ["client", "web1", "web2"] {
                let place = &network.host(host).expect("a host").namespace;
                command::run(place, "iptables -A INPUT -p tcp -m statistic --mode nth --every 20 --packet 0 -j DROP").expect("a rule");
            }
        });
        transfers(&live, 20 * MEGABYTE, MEGABYTE, setup.scenario);
        live.end(Signal::SIGTERM);
    }
}

#[test]
fn an_interface_that_is_gone_ends_it() {
    if !inside("director_live::an_interface_that_is_gone_ends_it") {
        return;
    }
    let mut live = Live::begin(&NAT);
    command::run(live.wires(), "ip link set int down").expect("down");
    let said = line(&mut live.news);
    assert!(said.contains("int is down"), "{said}");
    command::run(live.wires(), "ip link set int up").expect("up");
    transfers(&live, 1000, 0, "after it was down");
    command::run(live.wires(), "ip link del int").expect("gone");
    let status = live.director.wait().expect("an end");
    let mut said = String::new();
    live.news.read_to_string(&mut said).expect("text");
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("int is gone"), "{said}");
}

#[test]
fn what_comes_faster_than_it_is_read_is_counted() {
    if !inside("director_live::what_comes_faster_than_it_is_read_is_counted") {
        return;
    }
    let live = Live::begin(&NAT);
    transfers(&live, 1000, 0, "first");
    // More than 8 MiB of room, twice counted, holds: a small frame takes some 768 bytes of it.
    let sent = 60_000;
    live.signal(Signal::SIGSTOP);
    let flood = || -> io::Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        (0..sent).try_for_each(|_| socket.send_to(&[0; 22], "192.168.2.59:9").map(|_| ()))
    };
    live.client().run(flood).expect("a namespace").expect("frames");
    live.signal(Signal::SIGCONT);
    transfers(&live, 1000, 0, "afterwards");
    let summary = live.end(Signal::SIGINT);
    let count = |what: &str| -> u64 {
        let line = summary.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {summary}"));
        line.rsplit(' ').next().expect("a number").replace(',', "").parse().expect("a number")
    };
    let unread = count("dropped: came faster than read");
    // What was read is none of the services'.
    assert!(unread > 0 && unread + count("not for IPVS") >= sent, "{summary}");
}

#[test]
fn an_address_of_the_host_is_refused() {
    if !inside("director_live::an_address_of_the_host_is_refused") {
        return;
    }
    let scenario = catalogue::open(NAT.scenario).expect("a scenario");
    let network = Network::build(&scenario, Balancing::Builtin).expect("a network");
    let host = network.host("director").expect("a director");
    let rules = tempfile::NamedTempFile::new().expect("a file");
    fs::write(rules.path(), to_text(&host.rules())).expect("rules");
    // A route of type local is enough.
    command::run(host.wire(), "ip route add local 192.168.2.59/32 dev lo").expect("a route");
    let output = start(host, rules.path().to_str().expect("a path"), NAT.words).wait_with_output().expect("lvscope");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("192.168.2.59 is an address of this host"), "{said}");
}

#[test]
fn without_the_right_it_says_which() {
    let rules = tempfile::NamedTempFile::new().expect("a file");
    fs::write(rules.path(), "-A -t 203.0.113.80:80 -s rr\n").expect("rules");
    let program = env!("CARGO_BIN_EXE_lvscope");
    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        // Nobody, who has to be able to read the rules.
        fs::set_permissions(rules.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("a mode");
        command.uid(65_534).gid(65_534);
    }
    command.args(["director", "run", "-i", "lo", "--rules", rules.path().to_str().expect("a path")]);
    // A program in a folder that nobody else may enter cannot be tried so.
    let Ok(output) = command.output() else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("CAP_NET_RAW is missing"), "{said}");
}
