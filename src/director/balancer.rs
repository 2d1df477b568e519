//! Services, real servers and connections together: who gets the next connection. `net/netfilter/ipvs/ip_vs_ctl.c` and `ip_vs_core.c`.

use super::connection::{ConnId, Event, Key, NewConn, Table};
use super::pool::{DestId, Pool};
use super::scheduler::{self, Change, Flags, Random, Request, Scheduler};
use super::settings::Settings;
use super::stats::{Estimator, Stats};
use crate::ipvs::{ForwardingMethod, Match, RealServer, VirtualService};
use crate::net::{Endpoint, Protocol, Timestamp};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

const FTP: u16 = 21;
const FTP_DATA: u16 = 20;

/// A virtual service while it serves.
pub struct Service {
    /// As the administrator wrote it, without its real servers.
    rule: VirtualService,
    /// Its real servers, newest first: the kernel's list.
    list: Vec<DestId>,
    scheduler: Box<dyn Scheduler>,
    flags: Flags,
    id: u32,
    stats: Stats,
}

impl Service {
    /// Its real servers, newest first.
    pub fn list(&self) -> &[DestId] {
        &self.list
    }

    /// Its rule; the real servers are in [`Service::list`].
    pub fn rule(&self) -> &VirtualService {
        &self.rule
    }

    /// Its traffic.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn port(&self) -> u16 {
        match self.rule.matches {
            Match::Endpoint(_, vip) => vip.port,
            Match::Mark(..) => 0,
        }
    }

    fn mark(&self) -> u32 {
        match self.rule.matches {
            Match::Mark(mark, _) => mark,
            Match::Endpoint(..) => 0,
        }
    }
}

/// A change that cannot be made, in words.
pub type Refusal = String;

/// What came of an attempt to schedule (`ip_vs_schedule`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheduled {
    /// A new connection.
    Conn(ConnId),
    /// Nobody is there: the client is told so.
    Nobody,
    /// Not IPVS's business.
    Accept,
}

/// A client's packet that may begin a connection.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Where it comes from.
    pub client: Endpoint,
    /// Where it goes.
    pub dialled: Endpoint,
    /// Its firewall mark.
    pub mark: u32,
}

/// The whole of IPVS but the packets.
pub struct Balancer {
    /// Settings; they may be changed at any time.
    pub settings: Settings,
    services: Vec<Service>,
    by_match: HashMap<Match, usize>,
    by_id: HashMap<u32, usize>,
    pool: Pool,
    table: Table,
    random: RefCell<Random>,
    totals: Stats,
    estimator: Estimator,
    /// Numbers of all services that ever were: one that comes back finds its real servers, and their connections, again.
    numbers: HashMap<Match, u32>,
}

impl Balancer {
    /// Without services. `seed` is for `twos`.
    pub fn new(settings: Settings, seed: u64) -> Balancer {
        Balancer {
            settings,
            services: Vec::new(),
            by_match: HashMap::new(),
            by_id: HashMap::new(),
            pool: Pool::default(),
            table: Table::default(),
            random: RefCell::new(Random::new(seed)),
            totals: Stats::default(),
            estimator: Estimator::default(),
            numbers: HashMap::new(),
        }
    }

    /// With the services of `rules`.
    ///
    /// # Errors
    /// The first rule that the kernel would refuse.
    pub fn with_rules(settings: Settings, seed: u64, rules: &[VirtualService]) -> Result<Balancer, Refusal> {
        let mut balancer = Balancer::new(settings, seed);
        for rule in rules {
            balancer.add_service(rule)?;
        }
        Ok(balancer)
    }

    /// Services in the order in which they were added.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Real servers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Connections.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Traffic of all services.
    pub fn totals(&self) -> &Stats {
        &self.totals
    }

    /// The rules as they are now, real servers in the order in which they were added.
    pub fn rules(&self) -> Vec<VirtualService> {
        let with = |service: &Service| VirtualService {
            real_servers: service.list.iter().rev().map(|id| self.pool[*id].rule.clone()).collect(),
            ..service.rule.clone()
        };
        self.services.iter().map(with).collect()
    }

    fn index(&self, matches: &Match) -> Result<usize, Refusal> {
        self.by_match.get(matches).copied().ok_or_else(|| "No such service".to_string())
    }

    fn reindex(&mut self) {
        self.by_match = self.services.iter().enumerate().map(|(at, service)| (service.rule.matches, at)).collect();
        self.by_id = self.services.iter().enumerate().map(|(at, service)| (service.id, at)).collect();
    }

    /// `ipvsadm -A`, with the real servers of `rule` after it.
    ///
    /// # Errors
    /// It is there already, or its scheduler is unknown.
    pub fn add_service(&mut self, rule: &VirtualService) -> Result<(), Refusal> {
        if self.by_match.contains_key(&rule.matches) {
            return Err("Service already exists".to_string());
        }
        let scheduler =
            scheduler::new(&rule.scheduler, &self.pool, &[]).ok_or_else(|| format!("Scheduler not found: {}", rule.scheduler))?;
        let next = self.numbers.len() as u32;
        let id = *self.numbers.entry(rule.matches).or_insert(next);
        self.services.push(Service {
            rule: VirtualService { real_servers: Vec::new(), ..rule.clone() },
            list: Vec::new(),
            scheduler,
            flags: Flags::from_words(&rule.flags),
            id,
            stats: Stats::default(),
        });
        self.reindex();
        for server in &rule.real_servers {
            self.add_server(&rule.matches, server.clone())?;
        }
        Ok(())
    }

    /// `ipvsadm -E`: all but the real servers. Another scheduler begins afresh.
    ///
    /// # Errors
    /// No such service, or its scheduler is unknown.
    pub fn edit_service(&mut self, rule: &VirtualService) -> Result<(), Refusal> {
        let at = self.index(&rule.matches)?;
        let service = &mut self.services[at];
        if service.rule.scheduler != rule.scheduler {
            service.scheduler = scheduler::new(&rule.scheduler, &self.pool, &service.list)
                .ok_or_else(|| format!("Scheduler not found: {}", rule.scheduler))?;
        }
        service.rule = VirtualService { real_servers: Vec::new(), ..rule.clone() };
        service.flags = Flags::from_words(&rule.flags);
        Ok(())
    }

    /// `ipvsadm -D`. Its connections live on without a service, until they end, or until it is back (`ip_vs_trash_get_dest` compares
    /// addresses, not services).
    ///
    /// # Errors
    /// No such service.
    pub fn delete_service(&mut self, matches: &Match) -> Result<(), Refusal> {
        let at = self.index(matches)?;
        let service = self.services.remove(at);
        for id in service.list {
            self.pool[id].available = false;
        }
        self.reindex();
        self.removed_some();
        Ok(())
    }

    /// `ipvsadm -a`: the new one stands first in the list (`list_add_rcu` in `__ip_vs_update_dest`).
    ///
    /// # Errors
    /// No such service, it is there already, or its thresholds contradict each other.
    pub fn add_server(&mut self, matches: &Match, server: RealServer) -> Result<(), Refusal> {
        let at = self.index(matches)?;
        if self.find_server(at, server.endpoint()).is_some() {
            return Err("Destination already exists".to_string());
        }
        check_thresholds(&server)?;
        let service = &mut self.services[at];
        let id = self.pool.add(service.id, server);
        service.list.insert(0, id);
        service.scheduler.changed(&self.pool, &service.list, Change::Added);
        Ok(())
    }

    /// `ipvsadm -e`.
    ///
    /// # Errors
    /// No such service or server, or its thresholds contradict each other.
    pub fn edit_server(&mut self, matches: &Match, server: RealServer) -> Result<(), Refusal> {
        let at = self.index(matches)?;
        let id = self.find_server(at, server.endpoint()).ok_or_else(|| "No such destination".to_string())?;
        check_thresholds(&server)?;
        self.pool.update(id, server);
        let service = &mut self.services[at];
        service.scheduler.changed(&self.pool, &service.list, Change::Updated);
        Ok(())
    }

    /// `ipvsadm -d`. Its connections stay, and are back if it comes back.
    ///
    /// # Errors
    /// No such service or server.
    pub fn delete_server(&mut self, matches: &Match, server: Endpoint) -> Result<(), Refusal> {
        let at = self.index(matches)?;
        let id = self.find_server(at, server).ok_or_else(|| "No such destination".to_string())?;
        let service = &mut self.services[at];
        let place = service.list.iter().position(|other| *other == id).unwrap_or(0);
        service.list.remove(place);
        self.pool[id].available = false;
        service.scheduler.changed(&self.pool, &service.list, Change::Removed(id, place));
        self.removed_some();
        Ok(())
    }

    /// A real server's id.
    pub fn find_server(&self, service: usize, server: Endpoint) -> Option<DestId> {
        self.services.get(service)?.list.iter().copied().find(|id| self.pool[*id].endpoint() == server)
    }

    fn removed_some(&mut self) {
        if self.settings.expire_nodest_conn && self.settings.kernel.reschedules_nodest() {
            self.table.flush_removed(&mut self.pool);
        }
    }

    /// Makes the rules those of `wanted`, changing no more than differs. Connections are kept.
    ///
    /// # Errors
    /// The first change that the kernel would refuse; those before it are made.
    pub fn reload(&mut self, wanted: &[VirtualService]) -> Result<Reloaded, Refusal> {
        let mut done = Reloaded::default();
        let gone: Vec<Match> =
            self.services.iter().map(|s| s.rule.matches).filter(|m| !wanted.iter().any(|rule| rule.matches == *m)).collect();
        for matches in gone {
            self.delete_service(&matches)?;
            done.removed += 1;
        }
        for rule in wanted {
            let Ok(at) = self.index(&rule.matches) else {
                self.add_service(rule)?;
                done.added += 1;
                continue;
            };
            if self.services[at].rule != (VirtualService { real_servers: Vec::new(), ..rule.clone() }) {
                self.edit_service(rule)?;
                done.changed += 1;
            }
            let present: Vec<RealServer> = self.services[at].list.iter().map(|id| self.pool[*id].rule.clone()).collect();
            for server in present.iter().filter(|s| !rule.real_servers.iter().any(|w| w.endpoint() == s.endpoint())) {
                self.delete_server(&rule.matches, server.endpoint())?;
                done.removed += 1;
            }
            for server in &rule.real_servers {
                match present.iter().find(|s| s.endpoint() == server.endpoint()) {
                    None => {
                        self.add_server(&rule.matches, server.clone())?;
                        done.added += 1;
                    }
                    Some(same) if same == server => {}
                    Some(_) => {
                        self.edit_server(&rule.matches, server.clone())?;
                        done.changed += 1;
                    }
                }
            }
        }
        Ok(done)
    }

    /// Ends what has expired.
    pub fn advance(&mut self, now: Timestamp) {
        self.table.advance(now, &mut self.pool);
        let (services, totals, pool) = (&mut self.services, &mut self.totals, &mut self.pool);
        self.estimator.advance(now, || {
            let mut all: Vec<&mut Stats> = services.iter_mut().map(|s| &mut s.stats).collect();
            all.push(totals);
            all.extend(pool.stats_mut());
            all
        });
    }

    /// The service of a client's packet (`ip_vs_service_find`): by mark, by address and port, FTP's for its data connections, by
    /// address alone.
    pub fn service_of(&self, dial: &Dial) -> Option<usize> {
        let find = |matches: Match| self.by_match.get(&matches).copied();
        let at_port = |port| find(Match::Endpoint(dial.protocol, Endpoint::new(dial.dialled.addr, port)));
        let marked = (dial.mark != 0).then(|| find(Match::Mark(dial.mark, dial.dialled.addr.is_ipv6()))).flatten();
        let ftp_data = dial.protocol == Protocol::Tcp && (dial.dialled.port == FTP_DATA || dial.dialled.port >= 1024);
        marked.or_else(|| at_port(dial.dialled.port)).or_else(|| if ftp_data { at_port(FTP) } else { None }).or_else(|| at_port(0))
    }

    /// Picks a real server for a new connection, and makes the connection.
    pub fn schedule(&mut self, service: usize, dial: &Dial, now: Timestamp, why: Option<&RefCell<Vec<String>>>) -> Scheduled {
        let Some(rule) = self.services.get(service).map(|s| &s.rule) else { return Scheduled::Accept };
        // The data connection of an active FTP session begins at the real server.
        if dial.client.port == FTP_DATA {
            return Scheduled::Accept;
        }
        let one_packet = rule.one_packet && dial.protocol == Protocol::Udp;
        let connection = match rule.persistence {
            Some(timeout) => self.persistent(service, dial, timeout, now, why),
            None => {
                let of = &self.services[service];
                if of.mark() == 0 && dial.dialled.port != of.port() {
                    None
                } else {
                    self.pick(service, dial, now, why).map(|dest| (dest, None))
                }
            }
        };
        let Some((dest, control)) = connection else {
            let service = &self.services[service];
            return if service.port() == FTP && dial.dialled.port != FTP { Scheduled::Accept } else { Scheduled::Nobody };
        };
        let service_port = self.services[service].port();
        let server_port = self.pool[dest].rule.port;
        // A persistent service of port 0 passes other ports on as they are.
        let port = match control {
            Some(_) if dial.dialled.port != service_port => dial.dialled.port,
            _ if server_port != 0 => server_port,
            _ => dial.dialled.port,
        };
        let key = Key { protocol: dial.protocol.number(), client: dial.client, dialled: dial.dialled, template: false };
        let answered = self.pool[dest].rule.method == ForwardingMethod::Nat;
        let id = self.table.insert(NewConn { key, dest, port, answered, control, one_packet, timeout: None }, &mut self.pool, now);
        for stats in [&mut self.pool[dest].stats, &mut self.services[service].stats, &mut self.totals] {
            stats.scheduled();
        }
        Scheduled::Conn(id)
    }

    /// Asks the scheduler.
    fn pick(&mut self, service: usize, dial: &Dial, now: Timestamp, why: Option<&RefCell<Vec<String>>>) -> Option<DestId> {
        let Service { list, scheduler, flags, .. } = &mut self.services[service];
        scheduler.schedule(&Request {
            pool: &self.pool,
            list,
            client: dial.client,
            dialled: dial.dialled,
            flags: *flags,
            kernel: self.settings.kernel,
            now,
            random: &self.random,
            why,
        })
    }

    /// The template of the client decides, or a new one is made (`ip_vs_sched_persist`).
    fn persistent(
        &mut self,
        service: usize,
        dial: &Dial,
        timeout: u32,
        now: Timestamp,
        why: Option<&RefCell<Vec<String>>>,
    ) -> Option<(DestId, Option<ConnId>)> {
        let of = &self.services[service];
        let network = of.rule.mask(dial.client.addr);
        let (port, own_port) = (of.port(), dial.dialled.port == of.port());
        let key = Key {
            protocol: if !own_port && of.mark() != 0 { 0 } else { dial.protocol.number() },
            client: Endpoint::new(network, 0),
            dialled: match (own_port, of.mark()) {
                (true, _) if port != FTP => dial.dialled,
                (false, mark) if mark != 0 => Key::mark(mark),
                _ => Endpoint::new(dial.dialled.addr, 0),
            },
            template: true,
        };
        if let Some(template) = self.table.of_request(&key) {
            let dest = self.table[template].dest();
            let quiescent = self.settings.expire_quiescent_template && self.pool[dest].weight() == 0;
            if self.pool[dest].available && !quiescent {
                if let Some(why) = why {
                    why.borrow_mut().push(format!("{} is held by its persistence template: {}", network, self.pool[dest].endpoint()));
                }
                self.table.touch(template, now);
                return Some((dest, Some(template)));
            }
            self.table.invalidate(template, &self.pool);
        }
        let dest = self.pick(service, dial, now, why)?;
        let port = if own_port && port != FTP { self.pool[dest].rule.port } else { 0 };
        let new = NewConn { key, dest, port, answered: false, control: None, one_packet: false, timeout: Some(timeout) };
        let template = self.table.insert(new, &mut self.pool, now);
        Some((dest, Some(template)))
    }

    /// Counts a packet from a client (`ip_vs_in_stats`); of a removed real server nothing is counted.
    pub(super) fn count_in(&mut self, id: ConnId, bytes: usize) {
        self.count(self.table[id].dest(), |stats| stats.incoming(bytes));
    }

    /// Counts a packet to a client (`ip_vs_out_stats`).
    pub(super) fn count_out(&mut self, id: ConnId, bytes: usize) {
        self.count(self.table[id].dest(), |stats| stats.outgoing(bytes));
    }

    fn count(&mut self, dest: DestId, mut how: impl FnMut(&mut Stats)) {
        if !self.pool[dest].available {
            return;
        }
        let service = self.pool[dest].service;
        how(&mut self.pool[dest].stats);
        if let Some(service) = self.by_id.get(&service).and_then(|at| self.services.get_mut(*at)) {
            how(&mut service.stats);
        }
        how(&mut self.totals);
    }

    /// A packet of `id` goes by.
    pub fn transition(&mut self, id: ConnId, direction: super::Direction, event: Event, now: Timestamp) {
        self.table.packet(id, direction, event, &self.settings, &mut self.pool, now);
    }

    pub(super) fn expire_now(&mut self, id: ConnId) {
        self.table.expire_now(id, &mut self.pool);
    }

    /// True when `endpoint` is a NAT real server (`ip_vs_has_real_service`).
    pub(super) fn is_nat_server(&self, protocol: Protocol, endpoint: Endpoint) -> bool {
        self.services.iter().any(|service| {
            let of_protocol = match service.rule.matches {
                Match::Endpoint(p, _) => p == protocol,
                Match::Mark(..) => true,
            };
            of_protocol
                && service.list.iter().any(|id| {
                    let rule = &self.pool[*id].rule;
                    rule.method == ForwardingMethod::Nat && rule.addr == endpoint.addr && (rule.port == endpoint.port || rule.port == 0)
                })
        })
    }

    /// True when some service has this address.
    pub fn is_vip(&self, addr: IpAddr) -> bool {
        self.services.iter().any(|service| service.rule.is_for(addr))
    }

    /// The addresses of all services.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.services.iter().filter_map(|service| match service.rule.matches {
            Match::Endpoint(_, vip) => Some(vip.addr),
            Match::Mark(..) => None,
        })
    }
}

/// What [`Balancer::reload`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reloaded {
    /// Services and real servers added.
    pub added: usize,
    /// Services and real servers changed.
    pub changed: usize,
    /// Services and real servers removed.
    pub removed: usize,
}

fn check_thresholds(server: &RealServer) -> Result<(), Refusal> {
    if server.lower > server.upper {
        return Err(format!("{}: lower threshold {} is above the upper one, {}", server.endpoint(), server.lower, server.upper));
    }
    Ok(())
}
