//! A scheduler calculator: events in, decisions out, with the very code that forwards packets.

use super::balancer::{Balancer, Dial, Refusal, Scheduled};
use super::connection::{ConnId, Direction, Event, Key};
use super::settings::Settings;
use crate::ipvs::{Command, ForwardingMethod, Match, VirtualService};
use crate::net::{Endpoint, Protocol, Timestamp};
use crate::packet::TcpFlags;
use std::cell::RefCell;
use std::collections::HashMap;

/// What became of an opened connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picked {
    /// The real server, with the port there; `None` when the client was refused.
    pub server: Option<Endpoint>,
    /// The numbers that were compared.
    pub why: Vec<String>,
}

/// A director without packets: connections are opened and closed by name.
pub struct Simulator {
    balancer: Balancer,
    now: Timestamp,
    open: HashMap<u64, Open>,
}

#[derive(Clone, Copy)]
struct Open {
    key: Key,
    method: ForwardingMethod,
}

const SYN_ACK: TcpFlags = TcpFlags(0x12);
const FIN_ACK: TcpFlags = TcpFlags(0x11);

impl Simulator {
    /// With these rules, at time 0.
    ///
    /// # Errors
    /// The first rule that the kernel would refuse.
    pub fn new(settings: Settings, seed: u64, rules: &[VirtualService]) -> Result<Simulator, Refusal> {
        let balancer = Balancer::with_rules(settings, seed, rules)?;
        Ok(Simulator { balancer, now: Timestamp::default(), open: HashMap::new() })
    }

    /// The director.
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Time passes: what has expired is gone. It never goes back.
    pub fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        self.balancer.advance(self.now);
    }

    /// A client connects: the whole handshake, or one datagram. `number` is how the connection is called afterwards.
    ///
    /// # Errors
    /// There is no service for it.
    pub fn open(&mut self, number: u64, dial: &Dial, explain: bool) -> Result<Picked, Refusal> {
        let key = Key { protocol: dial.protocol.number(), client: dial.client, dialled: dial.dialled, template: false };
        // The same client port again: the connection that is there goes on, unless the SYN may begin a new one.
        let why = RefCell::new(Vec::new());
        let mode = self.balancer.settings.conn_reuse_mode;
        let mut found = self.balancer.table().of_request(&key);
        if let Some(id) = found
            && dial.protocol != Protocol::Udp
            && mode != 0
            && self.balancer.table().may_be_reused(id, mode)
        {
            self.balancer.expire_now(id);
            found = None;
        }
        let id = match found {
            Some(id) => {
                why.borrow_mut().push("a connection of this client and port exists already".to_string());
                id
            }
            None => {
                let service = self.balancer.service_of(dial).ok_or_else(|| format!("no service for {}", dial.dialled))?;
                match self.balancer.schedule(service, dial, self.now, explain.then_some(&why)) {
                    Scheduled::Conn(id) => id,
                    Scheduled::Nobody | Scheduled::Accept => return Ok(Picked { server: None, why: why.into_inner() }),
                }
            }
        };
        let conn = &self.balancer.table()[id];
        let dest = &self.balancer.pool()[conn.dest()];
        let server = Endpoint::new(dest.rule.addr, conn.dest_port());
        let method = dest.rule.method;
        self.open.insert(number, Open { key, method });
        self.handshake(id, dial.protocol, method);
        Ok(Picked { server: Some(server), why: why.into_inner() })
    }

    fn handshake(&mut self, id: ConnId, protocol: Protocol, method: ForwardingMethod) {
        let answered = method == ForwardingMethod::Nat;
        let events: &[(Direction, Event)] = match protocol {
            Protocol::Tcp => &[
                (Direction::Input, Event::Tcp(TcpFlags::SYN)),
                (Direction::Output, Event::Tcp(SYN_ACK)),
                (Direction::Input, Event::Tcp(TcpFlags::ACK)),
            ],
            Protocol::Sctp => &[
                (Direction::Input, Event::Sctp(1)),
                (Direction::Output, Event::Sctp(2)),
                (Direction::Input, Event::Sctp(10)),
                (Direction::Output, Event::Sctp(11)),
            ],
            _ => &[(Direction::Input, Event::Udp), (Direction::Output, Event::Udp)],
        };
        for (direction, event) in events.iter().filter(|(direction, _)| answered || *direction == Direction::Input) {
            self.balancer.transition(id, *direction, *event, self.now);
        }
    }

    /// Both sides close connection `number`; false when it is unknown or expired.
    pub fn close(&mut self, number: u64) -> bool {
        let Some(Open { key, method }) = self.open.remove(&number) else { return false };
        let Some(id) = self.balancer.table().of_request(&key) else { return false };
        let answered = method == ForwardingMethod::Nat;
        let events: &[(Direction, Event)] = match Protocol::from(key.protocol) {
            Protocol::Tcp => &[
                (Direction::Input, Event::Tcp(FIN_ACK)),
                (Direction::Output, Event::Tcp(FIN_ACK)),
                (Direction::Input, Event::Tcp(TcpFlags::ACK)),
            ],
            Protocol::Sctp => {
                &[(Direction::Input, Event::Sctp(7)), (Direction::Output, Event::Sctp(8)), (Direction::Input, Event::Sctp(14))]
            }
            _ => &[],
        };
        for (direction, event) in events.iter().filter(|(direction, _)| answered || *direction == Direction::Input) {
            self.balancer.transition(id, *direction, *event, self.now);
        }
        true
    }

    /// An administrator's command.
    ///
    /// # Errors
    /// Why the kernel would refuse it.
    pub fn command(&mut self, command: Command) -> Result<(), Refusal> {
        let settled = |matches: Match, mut server: crate::ipvs::RealServer| {
            if let (Match::Endpoint(_, vip), 0) = (matches, server.port) {
                server.port = vip.port;
            }
            server
        };
        match command {
            Command::AddService(rule) => self.balancer.add_service(&rule),
            Command::EditService(rule) => self.balancer.edit_service(&rule),
            Command::DeleteService(matches) => self.balancer.delete_service(&matches),
            Command::AddServer(matches, server) => self.balancer.add_server(&matches, settled(matches, server)),
            Command::EditServer(matches, server) => self.balancer.edit_server(&matches, settled(matches, server)),
            Command::DeleteServer(matches, server) => self.balancer.delete_server(&matches, server),
            Command::Clear => {
                let all: Vec<Match> = self.balancer.services().iter().map(|s| s.rule().matches).collect();
                all.iter().try_for_each(|matches| self.balancer.delete_service(matches))
            }
        }
    }
}
