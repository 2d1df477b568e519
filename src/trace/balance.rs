//! Who balances: which forwarder is the director, with which method, for which virtual service. Over all flows, because one flow alone
//! often leaves it open: a NAT director with one real server looks like a router's DNAT.

use super::claims::{ClaimKind, Claims};
use super::flow::Method;
use super::host::Hosts;
use super::path::{Hop, HostId, Path};
use crate::ipvs::{ForwardingMethod, Match, Role, VirtualService};
use crate::net::{Endpoint, MacAddr, Protocol};
use crate::packet::TunnelKind;
use hashbrown::{HashMap, HashSet};
use std::net::IpAddr;

/// What the user said about services.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// `--service VIP:PORT`: these are virtual services.
    pub services: Vec<Endpoint>,
    /// `--ipvs FILE`: the director's rules.
    pub rules: Vec<VirtualService>,
}

impl Hints {
    fn is_vip(&self, protocol: Protocol, endpoint: Endpoint) -> bool {
        let fits = |e: &Endpoint| e.addr == endpoint.addr && (e.port == endpoint.port || e.port == 0);
        self.services.iter().any(fits)
            || self.rules.iter().any(|rule| matches!(&rule.matches, Match::Endpoint(p, e) if *p == protocol && fits(e)))
    }

    fn is_real_server(&self, endpoint: Endpoint) -> bool {
        self.rules.iter().flat_map(|rule| &rule.real_servers).any(|server| server.addr == endpoint.addr)
    }

    /// The method that the rules give for a virtual service, when all its servers have the same.
    fn method(&self, protocol: Protocol, vip: Endpoint) -> Option<ForwardingMethod> {
        let rule = self.rules.iter().find(|rule| matches!(&rule.matches, Match::Endpoint(p, e) if *p == protocol && e.addr == vip.addr && (e.port == vip.port || e.port == 0)))?;
        let first = rule.real_servers.first()?.method;
        rule.real_servers.iter().all(|server| server.method == first).then_some(first)
    }
}

/// One forwarder's work on a request.
#[derive(Clone, Copy, Debug)]
struct Step<'a> {
    before: &'a Hop,
    after: &'a Hop,
}

impl<'a> Step<'a> {
    fn all(request: &'a Path) -> Vec<Step<'a>> {
        let links: Vec<&Hop> = request.links().collect();
        links.windows(2).map(|pair| Step { before: pair[0], after: pair[1] }).collect()
    }

    fn forwarder(&self) -> Option<HostId> {
        self.after.from.or(self.before.to)
    }

    fn translates_destination(&self) -> bool {
        self.before.dst != self.after.dst
    }

    fn translates_source(&self) -> bool {
        self.before.src != self.after.src
    }

    /// Into a tunnel of the kinds that IPVS uses.
    fn encapsulates(&self) -> bool {
        tunnel(self.before).is_none() && tunnel(self.after).is_some()
    }

    /// Neither addresses nor ports nor tunnel changed: routed, or balanced by direct routing.
    fn only_macs(&self) -> bool {
        !self.translates_destination() && !self.translates_source() && self.before.outer == self.after.outer && self.after.dst_mac.is_some()
    }
}

/// The tunnel that a hop is in, of the kinds that IPVS uses.
fn tunnel(hop: &Hop) -> Option<(TunnelKind, IpAddr, IpAddr)> {
    hop.outer.filter(|(kind, ..)| matches!(kind, TunnelKind::IpIp | TunnelKind::Gre | TunnelKind::Gue))
}

/// Whose each MAC is.
type Receivers = HashMap<MacAddr, Option<HostId>>;

/// What the flows showed together.
#[derive(Default)]
pub(super) struct Balance {
    /// Targets of each destination translation: by forwarder, protocol and destination before.
    targets: HashMap<(Option<HostId>, Protocol, Endpoint), Targets>,
    /// Addresses to which a forwarder translated, and which served.
    servers: HashMap<HostId, HashSet<IpAddr>>,
    /// MACs that one destination was handed to by a forwarder that left the addresses alone.
    handed_to: HashMap<(Option<HostId>, Protocol, Endpoint), Receivers>,
    /// Virtual services of directors that route directly or tunnel.
    vips: HashSet<(Protocol, Endpoint)>,
    /// Who handed requests for them on without a change.
    balancers: HashSet<(HostId, Protocol, Endpoint)>,
    /// Hosts that claim an address.
    claimants: HashMap<IpAddr, HashSet<HostId>>,
    /// Hosts that answered for an address, or announced it: not only used it as sender.
    answerers: HashMap<IpAddr, HashSet<HostId>>,
    /// Hosts that asked who has an address: to them it is a neighbour's.
    askers: HashMap<IpAddr, HashSet<HostId>>,
    /// Outer destinations of the tunnelled packets that each host was handed.
    tunnelled_to: HashMap<HostId, HashSet<IpAddr>>,
    /// Addresses whose host asks in vain for neighbours, with this address as sender.
    asks_in_vain: HashSet<IpAddr>,
    /// Capture points on machines that no flow reached.
    idle: usize,
    hints: Hints,
}

#[derive(Default, Debug)]
struct Targets {
    endpoints: HashSet<Endpoint>,
    /// Some connection to a target was answered in earnest, not refused.
    served: bool,
    flows: u32,
    ports_kept: u32,
    ports_changed: u32,
}

/// What is said of one flow.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) method: Method,
    pub(super) vip: Option<Endpoint>,
    pub(super) real_server: Option<Endpoint>,
    pub(super) director: Option<HostId>,
    pub(super) server_host: Option<HostId>,
    pub(super) routers: Vec<HostId>,
}

impl Balance {
    pub(super) fn new(hints: &Hints, claims: &Claims, hosts: &Hosts) -> Self {
        let mut balance = Balance { hints: hints.clone(), ..Balance::default() };
        for claim in &claims.claims {
            let Some(host) = hosts.of_mac(Some(claim.mac)) else { continue };
            if claim.kind != ClaimKind::Probe {
                balance.claimants.entry(claim.addr).or_default().insert(host);
            }
            if matches!(claim.kind, ClaimKind::Reply | ClaimKind::Announcement) {
                balance.answerers.entry(claim.addr).or_default().insert(host);
            }
        }
        for question in &claims.questions {
            if let (Some(host), Some(_)) = (hosts.of_mac(Some(question.mac)), question.asker) {
                balance.askers.entry(question.target).or_default().insert(host);
            }
            let answered =
                claims.claims.iter().any(|c| c.addr == question.target && matches!(c.kind, ClaimKind::Reply | ClaimKind::Announcement));
            if let (Some(asker), false, true) = (question.asker, answered, question.times.count >= 2) {
                balance.asks_in_vain.insert(asker);
            }
        }
        balance
    }

    /// What is counted is counted in one pass; what one flow proves stays proven.
    pub(super) fn count_anew(&mut self) {
        for targets in self.targets.values_mut() {
            (targets.flows, targets.ports_kept, targets.ports_changed) = (0, 0, 0);
        }
    }

    /// Takes in one flow.
    pub(super) fn learn(&mut self, protocol: Protocol, request: &Path, reply: &Path, served: bool) {
        for hop in request.links() {
            if let (Some(to), Some((_, _, dst))) = (hop.to, tunnel(hop)) {
                self.tunnelled_to.entry(to).or_default().insert(dst);
            }
        }
        // The last first: who hands on to a director delivers, and does not balance.
        for step in Step::all(request).into_iter().rev() {
            let key = (step.forwarder(), protocol, step.before.dst);
            if step.translates_destination() {
                let targets = self.targets.entry(key).or_default();
                targets.endpoints.insert(step.after.dst);
                targets.served |= served;
                if let (Some(host), true) = (step.forwarder(), served) {
                    self.servers.entry(host).or_default().insert(step.after.dst.addr);
                }
                targets.flows += 1;
                if step.translates_source() {
                    let kept = step.before.src.port == step.after.src.port;
                    *(if kept { &mut targets.ports_kept } else { &mut targets.ports_changed }) += 1;
                }
            } else if step.encapsulates() {
                self.vips.insert((protocol, step.before.dst));
            } else if step.only_macs() && !self.delivers(protocol, &step) {
                let dst = step.before.dst;
                let handed = self.handed_to.entry(key).or_default();
                handed.extend(step.after.dst_mac.map(|mac| (mac, step.after.to)));
                // An address that moves from one director to another is handed to both in turn by every router.
                let servers = handed.values().filter(|to| to.is_none_or(|host| !self.balancers.contains(&(host, protocol, dst)))).count();
                if servers > 1 || self.routes_directly(protocol, &step, reply) {
                    self.vips.insert((protocol, step.before.dst));
                    self.balancers.extend(step.forwarder().map(|f| (f, protocol, step.before.dst)));
                }
            }
        }
    }

    /// Counts the capture points on machines that no flow reached, though somebody thought them worth capturing on.
    pub(super) fn set_idle(&mut self, hosts: &Hosts, points: u32, seen: &HashSet<HostId>) {
        self.idle = (0..points).filter(|point| hosts.of_point(*point).is_none_or(|host| !seen.contains(&host))).count();
    }

    /// Whether a step that changes only MACs is a director's and not a router's.
    fn routes_directly(&self, protocol: Protocol, step: &Step<'_>, reply: &Path) -> bool {
        if self.hints.is_vip(protocol, step.before.dst) {
            return true;
        }
        let (forwarder, next) = (step.forwarder(), step.after.to);
        if self.is_from_server(step) {
            return false;
        }
        let empty = HashSet::new();
        let claimants = self.claimants.get(&step.before.dst.addr).unwrap_or(&empty);
        let answerers = self.answerers.get(&step.before.dst.addr).unwrap_or(&empty);
        // Its owner by ARP is the next host: plain delivery.
        if next.is_some_and(|next| claimants.contains(&next)) && !forwarder.is_some_and(|f| claimants.contains(&f)) {
            return false;
        }
        // A router does not claim the addresses that it routes to.
        if forwarder.is_some_and(|f| answerers.contains(&f)) {
            return true;
        }
        let same_arm = step.before.dst_mac.is_some() && step.before.dst_mac == step.after.src_mac;
        let passed_by = match (next, forwarder) {
            (Some(next), Some(forwarder)) => {
                reply.first().is_some_and(|hop| hop.from == Some(next) && hop.src == step.after.dst)
                    && reply.towards(forwarder).next().is_none()
            }
            _ => false,
        };
        passed_by || (same_arm && reply.is_empty())
    }

    /// Whether a forwarder hands on what one of its own real servers sends: it is their gateway there, and does not balance.
    fn is_from_server(&self, step: &Step<'_>) -> bool {
        step.forwarder().and_then(|host| self.servers.get(&host)).is_some_and(|servers| servers.contains(&step.before.src.addr))
    }

    /// Whether an address belongs to a virtual service that some host holds beside its own address.
    fn is_virtual(&self, protocol: Protocol, endpoint: Endpoint) -> bool {
        self.vips.contains(&(protocol, endpoint))
            || self.hints.is_vip(protocol, endpoint)
            || self.claimants.get(&endpoint.addr).is_some_and(|hosts| hosts.len() > 1)
    }

    /// Whether a destination translation is a director's. A router translates to one address, a virtual one; a director to real servers.
    fn balances(&self, protocol: Protocol, step: &Step<'_>, hosts: &Hosts) -> bool {
        let (before, after) = (step.before.dst, step.after.dst);
        if self.hints.is_vip(protocol, before) || self.hints.is_real_server(after) {
            return true;
        }
        let targets = self.targets.get(&(step.forwarder(), protocol, before));
        let called = hosts.called(step.forwarder());
        // A real server's address may be claimed twice by mistake, as a virtual one is claimed on purpose.
        let several = targets.is_some_and(|t| t.endpoints.len() > 1) && !self.vips.contains(&(protocol, after));
        if several || called == Role::Director {
            return true;
        }
        // What is translated once more, by somebody else, was the address of a virtual service and not of a real server.
        let again = |(host, p, dst): &(Option<HostId>, Protocol, Endpoint)| *host != step.forwarder() && *p == protocol && *dst == after;
        if self.is_virtual(protocol, after) || self.targets.keys().any(again) {
            return false;
        }
        let Some(targets) = targets else { return true };
        if targets.endpoints.len() > 1 || targets.served {
            return true;
        }
        // One target that never served: a real server that is down, or the address of a director behind a router.
        // A router with one target, which never served, does not look like a director, unless the user says so.
        if called == Role::Router {
            return false;
        }
        if self.asks_in_vain.contains(&after.addr) || hosts.called(step.after.to) == Role::Director {
            return false;
        }
        !(targets.flows >= 2 && self.idle >= 2)
    }

    /// What the way of one flow, and all others, say about it.
    pub(super) fn judge(&self, protocol: Protocol, request: &Path, reply: &Path, hosts: &Hosts) -> Verdict {
        let steps = Step::all(request);
        let wrapped = steps.iter().rposition(Step::encapsulates);
        let hands_on = |s: &Step<'_>| {
            s.only_macs()
                && !self.delivers(protocol, s)
                && !self.is_from_server(s)
                && (self.vips.contains(&(protocol, s.before.dst)) && !self.goes_past(protocol, s)
                    || self.routes_directly(protocol, s, reply))
                && self.still_at_director(s, &steps)
        };
        // In a loop, who hands a packet back to where it came from does not balance it, unless the address is its own.
        let onwards = (0..steps.len()).rev().find(|&i| hands_on(&steps[i]) && (!returns(&steps, i) || self.answers(&steps[i])));
        let direct = onwards.or_else(|| steps.iter().rposition(hands_on));
        let translated = steps.iter().rposition(|s| s.translates_destination() && self.balances(protocol, s, hosts));
        let last = request.last();
        let director_at = wrapped.or(translated.filter(|t| direct.is_none_or(|d| *t > d))).or(direct).or(translated);
        let mut verdict = Verdict {
            method: Method::Unknown,
            vip: last.map(|hop| hop.dst),
            real_server: None,
            director: None,
            server_host: None,
            routers: Vec::new(),
        };
        for (i, step) in steps.iter().enumerate() {
            if Some(i) != director_at {
                verdict.routers.extend(step.forwarder());
            }
        }
        let Some(at) = director_at else {
            if !self.out_of_tunnel(request, reply, &mut verdict) {
                self.without_director(protocol, request, reply, hosts, &mut verdict);
            }
            return verdict;
        };
        let step = steps[at];
        let end = request.links().last().unwrap_or(step.after);
        verdict.vip = Some(step.before.dst);
        verdict.director = step.forwarder();
        verdict.server_host = end.to.or(end.at);
        if wrapped == Some(at) {
            verdict.method = Method::Tunnel;
            verdict.real_server = step.after.outer.map(|(_, _, dst)| Endpoint::new(dst, step.before.dst.port));
            verdict.server_host = self.tunnel_end(request, reply, step.after);
        } else if translated == Some(at) {
            let key = (step.forwarder(), protocol, step.before.dst);
            let full = step.translates_source() && self.targets.get(&key).is_some_and(|t| t.ports_changed > t.ports_kept);
            verdict.method = if full { Method::FullNat } else { Method::Nat };
            verdict.real_server = Some(step.after.dst);
        } else {
            verdict.method = Method::DirectRouting;
            // A packet that went round and round was handed to whom the director gave it first; a router that had it before is no server.
            let round = returns(&steps, at) || steps[at + 1..].iter().any(|s| s.after.to.is_some() && s.after.to == verdict.director);
            verdict.server_host = if round { step.after.to.filter(|_| !returns(&steps, at)) } else { end.to };
            verdict.real_server = verdict.server_host.and_then(|host| self.own_address(protocol, host, step.before.dst, hosts));
        }
        verdict
    }

    /// Whether a step brings a packet to its owner on the link: its forwarder asked for that address and never claimed it; or, by other
    /// flows, the next host balances and the forwarder does not.
    fn delivers(&self, protocol: Protocol, step: &Step<'_>) -> bool {
        let dst = step.before.dst;
        let has = |hosts: Option<&HashSet<HostId>>| step.forwarder().is_some_and(|f| hosts.is_some_and(|hosts| hosts.contains(&f)));
        let balances = |host: Option<HostId>| host.is_some_and(|h| self.balancers.contains(&(h, protocol, dst)));
        (has(self.askers.get(&dst.addr)) && !has(self.claimants.get(&dst.addr))) || (balances(step.after.to) && !balances(step.forwarder()))
    }

    /// Whether a router hands a packet for an address that somebody else balances to a host that is none of his servers: the address is
    /// there as well, or was.
    fn goes_past(&self, protocol: Protocol, step: &Step<'_>) -> bool {
        let dst = step.before.dst;
        let balances = |host: Option<HostId>| host.is_some_and(|h| self.balancers.contains(&(h, protocol, dst)));
        let others = || self.handed_to.iter().filter(|((host, p, to), _)| (*p, *to) == (protocol, dst) && balances(*host));
        let servers = || others().flat_map(|(_, servers)| servers.keys());
        !balances(step.forwarder()) && others().next().is_some() && !servers().any(|mac| Some(*mac) == step.after.dst_mac)
    }

    /// Whether the forwarder of a step answered for the address that the packet is for.
    fn answers(&self, step: &Step<'_>) -> bool {
        step.forwarder().is_some_and(|f| self.answerers.get(&step.before.dst.addr).is_some_and(|hosts| hosts.contains(&f)))
    }

    /// A MAC-only step is the director's only if the packet had not been balanced before: behind a NAT director, a router may follow.
    fn still_at_director(&self, step: &Step<'_>, steps: &[Step<'_>]) -> bool {
        let at = steps.iter().position(|s| std::ptr::eq(s.before, step.before)).unwrap_or(0);
        !steps[..at].iter().any(Step::encapsulates)
    }

    /// The host that a tunnel ends at: the owner of its outer destination, or who was handed the packet last. The next hop may be a router,
    /// which also brings packets, is handed other tunnels, or has other addresses; only what it does itself proves that it is the end.
    fn tunnel_end(&self, request: &Path, reply: &Path, inside: &Hop) -> Option<HostId> {
        let (_, _, dst) = tunnel(inside)?;
        let last = request.links().filter(|hop| tunnel(hop).is_some_and(|(_, _, outer)| outer == dst)).last()?;
        let next = last.to.or(last.at);
        if let Some(owners) = self.claimants.get(&dst) {
            let mut owners = owners.iter().copied();
            return match (owners.next(), owners.next()) {
                (Some(owner), None) => Some(owner),
                _ => next.filter(|host| self.claimants[&dst].contains(host)),
            };
        }
        let next = next?;
        let answers = reply.first().is_some_and(|hop| hop.from == Some(next) && is_initial(hop.ttl));
        let brings = request.links().any(|hop| hop.from == Some(next));
        let several = self.tunnelled_to.get(&next).is_some_and(|outer| outer.len() > 1);
        let elsewhere = |(addr, hosts): (&IpAddr, &HashSet<HostId>)| {
            *addr != inside.dst.addr && addr.is_ipv4() == dst.is_ipv4() && hosts.contains(&next)
        };
        (answers || !(brings || several || self.claimants.iter().any(elsewhere))).then_some(next)
    }

    /// Nobody was seen to put the request into the tunnel in which it comes, as when only real servers were captured. The tunnel tells where
    /// it goes, and where from; answers of a tunnel between two networks come back through it.
    fn out_of_tunnel(&self, request: &Path, reply: &Path, verdict: &mut Verdict) -> bool {
        let Some((hop, (_, src, dst))) = request.hops.iter().find_map(|hop| Some((hop, tunnel(hop)?))) else { return false };
        if reply.hops.iter().any(|hop| hop.outer.is_some()) {
            return false;
        }
        verdict.method = Method::Tunnel;
        verdict.real_server = Some(Endpoint::new(dst, hop.dst.port));
        verdict.server_host = self.tunnel_end(request, reply, hop);
        verdict.director = hop.from.filter(|from| self.claimants.get(&src).is_some_and(|hosts| hosts.contains(from)));
        true
    }

    /// No forwarder balanced it: it ended before, or went past the director.
    fn without_director(&self, protocol: Protocol, request: &Path, reply: &Path, hosts: &Hosts, verdict: &mut Verdict) {
        let Some(end) = request.links().last() else {
            verdict.vip = reply.first().map(|hop| hop.src);
            return;
        };
        let served =
            reply.first().is_some_and(|hop| hop.from.is_some() && hop.from == end.to && hop.first != super::table::PacketKind::Reset);
        if self.hints.method(protocol, end.dst).is_some() && !served {
            return;
        }
        if served {
            verdict.server_host = end.to;
            verdict.method = if verdict.routers.is_empty() && !is_initial(end.ttl) { Method::Unknown } else { Method::Direct };
            verdict.real_server = end.to.and_then(|host| {
                let virtual_here = self.is_virtual(protocol, end.dst);
                if virtual_here { self.own_address(protocol, host, end.dst, hosts) } else { Some(end.dst) }
            });
        }
    }

    /// The address of a real server that is its own: claimed by it, of the service's family, and no virtual one.
    fn own_address(&self, protocol: Protocol, host: HostId, vip: Endpoint, hosts: &Hosts) -> Option<Endpoint> {
        let own = |addr: &&IpAddr| {
            let link_local = matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
            addr.is_ipv4() == vip.addr.is_ipv4()
                && **addr != vip.addr
                && !link_local
                && !self.is_virtual(protocol, Endpoint::new(**addr, vip.port))
        };
        hosts.list.get(host)?.addresses.iter().find(own).map(|addr| Endpoint::new(*addr, vip.port))
    }
}

/// True when a step hands the packet to a host that had it before.
fn returns(steps: &[Step<'_>], at: usize) -> bool {
    let next = steps[at].after.to;
    next.is_some() && steps[..at].iter().any(|s| s.forwarder() == next)
}

/// A TTL that a host sets itself; forwarded packets have less (Linux 64, Windows 128, others 255 or 32).
pub(super) fn is_initial(ttl: u8) -> bool {
    matches!(ttl, 32 | 64 | 128 | 255)
}
