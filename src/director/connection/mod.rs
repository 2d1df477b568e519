//! The connection table: the kernel's entries, states and timers. `net/netfilter/ipvs/ip_vs_conn.c`.

mod sctp;
mod tcp;
mod wheel;

use super::pool::{DestId, Pool};
use super::settings::Settings;
use crate::net::{Endpoint, Protocol, Timestamp};
use crate::packet::TcpFlags;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};
use wheel::Wheel;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client.
    Input = 0,
    /// From the real server.
    Output = 1,
    /// From the client, of a connection whose answers go past the director.
    InputOnly = 2,
}

/// What a packet means to the state of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A TCP segment.
    Tcp(TcpFlags),
    /// An SCTP packet, with the chunk that counts.
    Sctp(u8),
    /// A UDP datagram.
    Udp,
}

impl Event {
    /// Of a segment (transport header first); `None` when it is too short to tell.
    pub fn of(protocol: Protocol, segment: &[u8]) -> Option<Event> {
        match protocol {
            Protocol::Tcp => Some(Event::Tcp(TcpFlags(*segment.get(13).filter(|_| segment.len() >= 20)?))),
            Protocol::Sctp => sctp::deciding_chunk(segment).map(Event::Sctp),
            Protocol::Udp => Some(Event::Udp),
            _ => None,
        }
    }

    /// It opens a connection (`is_new_conn`).
    pub fn opens(self) -> bool {
        match self {
            Event::Tcp(flags) => flags.has(TcpFlags::SYN),
            Event::Sctp(chunk) => chunk == sctp::INIT,
            Event::Udp => false,
        }
    }

    /// A connection may be created from it (`tcp_conn_schedule` and its kin).
    pub fn may_be_scheduled(self, settings: &Settings) -> bool {
        match self {
            Event::Tcp(flags) => !flags.has(TcpFlags::RST) && (settings.sloppy_tcp || flags.has(TcpFlags::SYN)),
            Event::Sctp(chunk) => chunk != sctp::ABORT && (settings.sloppy_sctp || chunk == sctp::INIT),
            Event::Udp => true,
        }
    }

    /// It only ends something: nobody is told that it found nothing.
    pub fn aborts(self) -> bool {
        match self {
            Event::Tcp(flags) => flags.has(TcpFlags::RST),
            Event::Sctp(chunk) => chunk == sctp::ABORT,
            Event::Udp => false,
        }
    }
}

/// Flags of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Bits(u8);

impl Bits {
    const TEMPLATE: Bits = Bits(1);
    const INACTIVE: Bits = Bits(2);
    const NO_OUTPUT: Bits = Bits(4);
    const IN_USE: Bits = Bits(8);
    const HASHED: Bits = Bits(16);
    const ASSURED: Bits = Bits(32);
    /// Answers are looked up too (NAT).
    const ANSWERED: Bits = Bits(64);

    fn has(self, other: Bits) -> bool {
        self.0 & other.0 != 0
    }

    fn set(&mut self, other: Bits, on: bool) {
        self.0 = if on { self.0 | other.0 } else { self.0 & !other.0 };
    }
}

/// No entry.
const NONE: u32 = u32::MAX;

/// A connection, by its place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnId(u32);

/// What a client's packet is looked up by. Of a template the client's port is 0, and its address is masked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Its protocol; 0 for the template of a fwmark service.
    pub protocol: u8,
    /// The client.
    pub client: Endpoint,
    /// What it dialled; of a fwmark template the mark stands in the address.
    pub dialled: Endpoint,
    /// A persistence template, no connection.
    pub template: bool,
}

impl Key {
    /// A mark in the place of an address.
    pub fn mark(mark: u32) -> Endpoint {
        Endpoint::new(IpAddr::V4(Ipv4Addr::from(mark)), 0)
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub struct Conn {
    client: Endpoint,
    dialled: Endpoint,
    expires: Timestamp,
    dest: DestId,
    control: u32,
    controls: u32,
    /// Seconds.
    timeout: u32,
    packets: u32,
    next: u32,
    previous: u32,
    slot: u16,
    port: u16,
    protocol: u8,
    state: u8,
    bits: Bits,
}

impl Conn {
    /// Its client.
    pub fn client(&self) -> Endpoint {
        self.client
    }

    /// What the client dialled.
    pub fn dialled(&self) -> Endpoint {
        self.dialled
    }

    /// Its real server.
    pub fn dest(&self) -> DestId {
        self.dest
    }

    /// The port at the real server.
    pub fn dest_port(&self) -> u16 {
        self.port
    }

    /// Its protocol; `Other(0)` for the template of a fwmark service.
    pub fn protocol(&self) -> Protocol {
        Protocol::from(self.protocol)
    }

    /// True for a persistence template.
    pub fn is_template(&self) -> bool {
        self.bits.has(Bits::TEMPLATE)
    }

    /// True when it counts as inactive.
    pub fn is_inactive(&self) -> bool {
        self.bits.has(Bits::INACTIVE)
    }

    /// True for an entry that lives for one packet (`-o`).
    pub fn is_one_packet(&self) -> bool {
        !self.bits.has(Bits::HASHED) && !self.is_template() && self.slot == wheel::NOWHERE
    }

    /// When it expires, if nothing comes.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Packets from the client.
    pub fn packets(&self) -> u32 {
        self.packets
    }

    /// The state's name, as `ipvsadm -lnc` prints it.
    pub fn state_name(&self) -> &'static str {
        let index = usize::from(self.state);
        match self.protocol() {
            _ if self.is_template() && self.bits.has(Bits::ASSURED) => "ASSURED",
            _ if self.is_template() => "NONE",
            Protocol::Tcp => tcp::NAMES.get(index).unwrap_or(&"ERR!"),
            Protocol::Sctp => sctp::NAMES.get(index).unwrap_or(&"ERR!"),
            Protocol::Udp => "UDP",
            _ => "NONE",
        }
    }

    fn key(&self) -> Key {
        Key { protocol: self.protocol, client: self.client, dialled: self.dialled, template: self.is_template() }
    }
}

/// A new entry lives this long until its first packet says more (`ip_vs_conn_new`).
const FIRST_TIMEOUT: u32 = 3;
/// A template with living connections is given this much more.
const REARM: u32 = 60;
const SECOND: i64 = 1_000_000_000;

/// All entries.
#[derive(Debug, Default)]
pub struct Table {
    conns: Chunks,
    free: Vec<u32>,
    requests: HashTable<u32>,
    answers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    wheel: Wheel,
    len: usize,
    ever: u64,
}

/// Entries in blocks: the table grows without ever holding them twice.
#[derive(Debug, Default)]
struct Chunks(Vec<Vec<Conn>>);

const CHUNK: usize = 4096;

impl Chunks {
    fn push(&mut self, conn: Conn) -> u32 {
        match self.0.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(conn),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(conn);
                self.0.push(chunk);
            }
        }
        let last = self.0.last().map_or(0, Vec::len);
        ((self.0.len() - 1) * CHUNK + last - 1) as u32
    }

    fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.0.iter().flatten()
    }
}

impl std::ops::Index<u32> for Chunks {
    type Output = Conn;
    fn index(&self, at: u32) -> &Conn {
        &self.0[at as usize / CHUNK][at as usize % CHUNK]
    }
}

impl std::ops::IndexMut<u32> for Chunks {
    fn index_mut(&mut self, at: u32) -> &mut Conn {
        &mut self.0[at as usize / CHUNK][at as usize % CHUNK]
    }
}

impl std::ops::Index<ConnId> for Table {
    type Output = Conn;
    fn index(&self, id: ConnId) -> &Conn {
        &self.conns[id.0]
    }
}

/// What a new entry is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewConn {
    /// What it is found by.
    pub key: Key,
    /// Its real server.
    pub dest: DestId,
    /// The port there.
    pub port: u16,
    /// Answers come back through the director (NAT).
    pub answered: bool,
    /// The template that it belongs to.
    pub control: Option<ConnId>,
    /// Lives for one packet: it is found by nobody else.
    pub one_packet: bool,
    /// Seconds that a template lives; a connection's protocol knows its own.
    pub timeout: Option<u32>,
}

impl Table {
    /// Living entries, templates included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that were ever made, templates included.
    pub fn ever(&self) -> u64 {
        self.ever
    }

    /// Memory that the table takes, in bytes: entries, both hash tables, free places and timers.
    pub fn bytes(&self) -> usize {
        let entries = self.conns.0.len() * CHUNK * size_of::<Conn>();
        entries + self.requests.allocation_size() + self.answers.allocation_size() + self.free.capacity() * 4 + self.wheel.bytes()
    }

    /// All living entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.conns.iter().filter(|conn| conn.bits.has(Bits::IN_USE))
    }

    /// The connection (or template) of a client's packet.
    pub fn of_request(&self, key: &Key) -> Option<ConnId> {
        let hash = self.hasher.hash_one(key);
        self.requests.find(hash, |at| self.conns[*at].key() == *key).map(|at| ConnId(*at))
    }

    /// The NAT connection of a real server's packet from `server` to `client`.
    pub fn of_answer(&self, protocol: u8, server: Endpoint, client: Endpoint, pool: &Pool) -> Option<ConnId> {
        let hash = self.hasher.hash_one((protocol, server, client));
        self.answers.find(hash, |at| answer_key(&self.conns[*at], pool) == (protocol, server, client)).map(|at| ConnId(*at))
    }

    /// Makes an entry. The real server counts it as inactive until its first packet.
    pub(super) fn insert(&mut self, new: NewConn, pool: &mut Pool, now: Timestamp) -> ConnId {
        let timeout = new.timeout.unwrap_or(FIRST_TIMEOUT);
        let mut bits = Bits::IN_USE;
        bits.set(Bits::TEMPLATE, new.key.template);
        bits.set(Bits::INACTIVE, true);
        bits.set(Bits::NO_OUTPUT, !new.answered);
        bits.set(Bits::ANSWERED, new.answered && !new.key.template && !new.one_packet);
        let conn = Conn {
            client: new.key.client,
            dialled: new.key.dialled,
            expires: now + i64::from(timeout) * SECOND,
            dest: new.dest,
            control: new.control.map_or(NONE, |id| id.0),
            controls: 0,
            timeout,
            packets: 0,
            next: NONE,
            previous: NONE,
            slot: wheel::NOWHERE,
            port: new.port,
            protocol: new.key.protocol,
            state: tcp::NONE,
            bits,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.conns[at] = conn;
                at
            }
            None => self.conns.push(conn),
        };
        self.len += 1;
        self.ever += 1;
        pool.bind(new.dest, new.key.template);
        if let Some(control) = new.control {
            self.conns[control.0].controls += 1;
        }
        if !new.one_packet {
            self.hash(at, pool);
            self.wheel.link(&mut self.conns, at);
        }
        ConnId(at)
    }

    fn hash(&mut self, at: u32, pool: &Pool) {
        let (conns, hasher) = (&self.conns, &self.hasher);
        let rehash = |at: &u32| hasher.hash_one(conns[*at].key());
        self.requests.insert_unique(hasher.hash_one(conns[at].key()), at, rehash);
        if conns[at].bits.has(Bits::ANSWERED) {
            let rehash = |at: &u32| hasher.hash_one(answer_key(&conns[*at], pool));
            self.answers.insert_unique(hasher.hash_one(answer_key(&conns[at], pool)), at, rehash);
        }
        self.conns[at].bits.set(Bits::HASHED, true);
    }

    fn unhash(&mut self, at: u32, pool: &Pool) {
        let conn = &self.conns[at];
        if !conn.bits.has(Bits::HASHED) {
            return;
        }
        if let Ok(entry) = self.requests.find_entry(self.hasher.hash_one(conn.key()), |other| *other == at) {
            entry.remove();
        }
        if conn.bits.has(Bits::ANSWERED)
            && let Ok(entry) = self.answers.find_entry(self.hasher.hash_one(answer_key(conn, pool)), |other| *other == at)
        {
            entry.remove();
        }
        self.conns[at].bits.set(Bits::HASHED, false);
    }

    /// A packet of `id` goes by: its state changes, its timer begins anew.
    pub(super) fn packet(&mut self, id: ConnId, direction: Direction, event: Event, settings: &Settings, pool: &mut Pool, now: Timestamp) {
        let conn = &mut self.conns[id.0];
        let direction = match (conn.bits.has(Bits::NO_OUTPUT), direction) {
            (true, Direction::Output) => {
                conn.bits.set(Bits::NO_OUTPUT, false);
                Direction::Output
            }
            (true, _) => Direction::InputOnly,
            (false, direction) => direction,
        };
        let (state, timeout, active) = match event {
            Event::Tcp(flags) => {
                let state = tcp::next(conn.state, direction, flags, settings);
                (state, tcp::timeout(state, settings), tcp::is_active(state, settings))
            }
            Event::Sctp(chunk) => {
                let state = sctp::next(conn.state, direction, chunk);
                (state, sctp::timeout(state), state == sctp::ESTABLISHED)
            }
            Event::Udp => (conn.state, settings.timeouts[2], false),
        };
        let assures = match event {
            Event::Tcp(_) => state != conn.state && state == tcp::ESTABLISHED,
            Event::Sctp(_) => state != conn.state && state == sctp::ESTABLISHED,
            Event::Udp => direction == Direction::Output,
        };
        if state != conn.state && conn.bits.has(Bits::INACTIVE) == active {
            conn.bits.set(Bits::INACTIVE, !active);
            pool.set_inactive(conn.dest, !active);
        }
        conn.state = state;
        conn.timeout = timeout;
        if direction != Direction::Output {
            conn.packets = conn.packets.saturating_add(1);
        }
        let control = conn.control;
        if assures && control != NONE && settings.kernel.assures_templates() {
            self.conns[control].bits.set(Bits::ASSURED, true);
        }
        self.touch(id, now);
    }

    /// The timer begins anew, with the present timeout (`ip_vs_conn_put`).
    pub(super) fn touch(&mut self, id: ConnId, now: Timestamp) {
        let conn = &mut self.conns[id.0];
        if conn.slot == wheel::NOWHERE {
            return;
        }
        let expires = now + i64::from(conn.timeout) * SECOND;
        let earlier = expires < conn.expires;
        conn.expires = expires;
        // A later end is noticed when the old one comes; an earlier one has to be put in its place.
        if earlier {
            self.wheel.unlink(&mut self.conns, id.0);
            self.wheel.link(&mut self.conns, id.0);
        }
    }

    /// A SYN may begin a new connection in place of `id` (`is_new_conn_expected`).
    pub(super) fn may_be_reused(&self, id: ConnId, mode: u8) -> bool {
        let conn = &self.conns[id.0];
        if conn.control != NONE {
            return false;
        }
        match conn.protocol() {
            Protocol::Tcp => match conn.state {
                tcp::TIME_WAIT | tcp::CLOSE => true,
                tcp::FIN_WAIT => mode & 2 != 0 && conn.bits.has(Bits::NO_OUTPUT),
                _ => false,
            },
            Protocol::Sctp => conn.state == sctp::CLOSED,
            _ => false,
        }
    }

    /// A template whose real server is no good is found by nobody any more, but ends in its own time (`ip_vs_check_template`).
    pub(super) fn invalidate(&mut self, id: ConnId, pool: &Pool) {
        self.unhash(id.0, pool);
    }

    /// Ends an entry now, unless it is a template with living connections.
    pub(super) fn expire_now(&mut self, id: ConnId, pool: &mut Pool) {
        if self.conns[id.0].controls == 0 {
            self.remove(id.0, pool);
        }
    }

    /// Ends every connection to removed real servers, and the templates that then control nobody (`ip_vs_expire_nodest_conn_flush`).
    pub(super) fn flush_removed(&mut self, pool: &mut Pool) {
        let mut gone: Vec<u32> = Vec::new();
        for (at, conn) in self.conns.iter().enumerate() {
            if conn.bits.has(Bits::IN_USE) && !pool[conn.dest].available {
                gone.push(at as u32);
            }
        }
        // Connections first: then no template controls anybody.
        gone.sort_by_key(|at| self.conns[*at].is_template());
        gone.into_iter().for_each(|at| self.expire_now(ConnId(at), pool));
    }

    fn remove(&mut self, at: u32, pool: &mut Pool) {
        self.unhash(at, pool);
        self.wheel.unlink(&mut self.conns, at);
        let conn = &mut self.conns[at];
        conn.bits.set(Bits::IN_USE, false);
        let (dest, template, inactive, control) = (conn.dest, conn.is_template(), conn.is_inactive(), conn.control);
        pool.unbind(dest, template, inactive);
        if control != NONE {
            self.conns[control].controls -= 1;
        }
        self.free.push(at);
        self.len -= 1;
    }

    /// Ends everything whose time has come (`ip_vs_conn_expire`).
    pub(super) fn advance(&mut self, now: Timestamp, pool: &mut Pool) {
        if self.len == 0 {
            self.wheel.skip_to(now);
            return;
        }
        while let Some(at) = self.wheel.next_due(&mut self.conns, now) {
            let conn = &mut self.conns[at];
            if conn.controls > 0 {
                conn.timeout = REARM;
                conn.expires = conn.expires + i64::from(REARM) * SECOND;
                self.wheel.link(&mut self.conns, at);
            } else {
                self.remove(at, pool);
            }
        }
    }
}

fn answer_key(conn: &Conn, pool: &Pool) -> (u8, Endpoint, Endpoint) {
    (conn.protocol, Endpoint::new(pool[conn.dest].rule.addr, conn.port), conn.client)
}

#[cfg(test)]
mod tests;
