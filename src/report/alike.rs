//! The same fault on many hosts is told once: findings that differ only in names, addresses and numbers, and lists of hosts in few words.

use crate::finding::{Evidence, Finding, Remedy};
use crate::net::{plural, thousands};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

/// Up to so many findings of a kind, each about a host or two, are told one by one: each of them can be read.
const FEW: usize = 3;
/// Hosts that are named one by one, and of which every proof is shown.
pub(super) const NAMED: usize = 4;
/// Hosts whose proofs stand for those of all others.
const EXAMPLES: usize = 2;

/// Proofs that are shown.
const PROOFS: usize = 12;

/// Findings that are told together: one, or all of a kind.
pub(super) struct Alike<'a> {
    /// The one whose words stand for all.
    pub(super) first: &'a Finding,
    /// What they are about, each once.
    pub(super) subjects: Vec<&'a str>,
    /// All of them.
    kind: Vec<&'a Finding>,
    /// Remedies, those that differ only in names and numbers together.
    remedies: Vec<Mending<'a>>,
}

/// A remedy on some hosts.
pub(super) struct Mending<'a> {
    /// The commands, as they are on the first of the hosts.
    pub(super) remedy: &'a Remedy,
    /// Where.
    pub(super) hosts: Vec<&'a str>,
    /// The same words are not right on all of them: each has its own addresses in it.
    pub(super) varies: bool,
}

impl<'a> Alike<'a> {
    /// Puts findings together, in the order of the first of each kind.
    pub(super) fn all(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<Alike<'a>> {
        let mut kinds: Vec<Vec<&Finding>> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for finding in findings {
            let at = *known.entry(kind(finding)).or_insert_with(|| {
                kinds.push(Vec::new());
                kinds.len() - 1
            });
            kinds[at].push(finding);
        }
        let told = |kind: Vec<&'a Finding>| match kind[..] {
            [first, ..] if kind.len() > FEW => vec![Alike::new(first, kind)],
            _ => kind.into_iter().map(Alike::one).collect(),
        };
        kinds.into_iter().flat_map(told).collect()
    }

    /// One alone.
    pub(super) fn one(finding: &'a Finding) -> Alike<'a> {
        Alike::new(finding, vec![finding])
    }

    fn new(first: &'a Finding, kind: Vec<&'a Finding>) -> Alike<'a> {
        let mut seen = HashSet::new();
        let subjects: Vec<&str> = kind.iter().flat_map(|f| f.subject.split(", ")).filter(|subject| seen.insert(*subject)).collect();
        let mut mendings: Vec<Mending<'_>> = Vec::new();
        let mut at: HashMap<String, usize> = HashMap::new();
        for remedy in kind.iter().flat_map(|f| &f.remedy) {
            // On a few hosts every command is printed as it has to be typed.
            let exact = subjects.len() <= NAMED && kind.len() == 1;
            let words = [&remedy.command, &remedy.permanent, &remedy.undo].map(|text| if exact { text.clone() } else { shape(text) });
            let index = *at.entry(words.join("\n")).or_insert_with(|| {
                mendings.push(Mending { remedy, hosts: Vec::new(), varies: false });
                mendings.len() - 1
            });
            let known = &mut mendings[index];
            let own = known.remedy;
            known.varies |= (&own.command, &own.permanent, &own.undo) != (&remedy.command, &remedy.permanent, &remedy.undo);
            known.hosts.extend(remedy.host.split(", "));
        }
        for mending in &mut mendings {
            let mut seen = HashSet::new();
            mending.hosts.retain(|host| seen.insert(*host));
        }
        Alike { first, kind, subjects, remedies: mendings }
    }

    /// Proofs to show, and how many more there are. Of many hosts the first two speak for the others, of many findings the first two.
    pub(super) fn proofs(&self) -> (Vec<&'a Evidence>, usize) {
        let total: usize = self.kind.iter().map(|f| f.evidence().len()).sum();
        let many = self.subjects.len() > NAMED;
        let mut hosts: Vec<&str> = Vec::new();
        let mut shown = Vec::new();
        for proof in self.kind.iter().take(EXAMPLES).flat_map(|f| f.evidence()) {
            if let Evidence::Host { host, .. } = proof
                && many
                && !hosts.contains(&host.as_str())
            {
                if hosts.len() == EXAMPLES {
                    continue;
                }
                hosts.push(host);
            }
            shown.push(proof);
        }
        shown.truncate(PROOFS);
        let left = total - shown.len();
        (shown, left)
    }

    /// Where several findings are about the same few hosts: what their sentences differ in.
    pub(super) fn instances(&self) -> Vec<&'a str> {
        if self.kind.len() <= self.subjects.len() {
            return Vec::new();
        }
        let words: Vec<Vec<&str>> = self.kind.iter().map(|f| f.summary.split(' ').collect()).collect();
        let differs = |at: &usize| words.iter().any(|w| w.get(*at) != words[0].get(*at));
        let Some(at) = (0..words[0].len()).find(differs) else { return Vec::new() };
        let mut seen = HashSet::new();
        let bare = |word: &&'a str| word.trim_matches(|c: char| matches!(c, ',' | ';' | '.' | ':' | '(' | ')'));
        words.iter().filter_map(|w| w.get(at)).map(bare).filter(|word| seen.insert(*word)).collect()
    }

    /// Its remedies.
    pub(super) fn remedies(&self) -> &[Mending<'a>] {
        &self.remedies
    }

    /// What it is about, for a headline: names, or how many.
    pub(super) fn about(&self) -> String {
        let addresses = self.subjects.iter().all(|s| s.parse::<IpAddr>().is_ok());
        let names = match self.subjects.len() {
            0..=NAMED => self.subjects.join(", "),
            many if addresses => format!("{} addresses", thousands(many as u64)),
            many => plural(many as u64, "host"),
        };
        match self.kind.len() {
            times if times > self.subjects.len() => format!("{names} ({} times)", thousands(times as u64)),
            _ => names,
        }
    }
}

/// What findings that are told together have in common.
fn kind(f: &Finding) -> String {
    let mut remedies: Vec<String> = f.remedy.iter().map(|r| shape(&r.command)).collect();
    remedies.sort_unstable();
    remedies.dedup();
    let settle = f.settle.as_deref().map(shape);
    format!(
        "{} {} {} {:?} {} {settle:?} {remedies:?}",
        f.code,
        f.severity,
        f.confidence,
        f.alternatives,
        shape(&without(&f.summary, &f.subject)),
    )
}

/// A text without the names of its subjects.
fn without(text: &str, subject: &str) -> String {
    let names: HashSet<&str> = subject.split(", ").collect();
    let bare = |word: &'_ str| word.trim_matches(|c: char| c.is_ascii_punctuation()).to_string();
    text.split(' ').map(|word| if names.contains(bare(word).as_str()) { "~" } else { word }).collect::<Vec<_>>().join(" ")
}

/// A text with its addresses and numbers blotted out.
fn shape(text: &str) -> String {
    let is_address = |word: &str| {
        let bare = word.trim_matches(|c: char| matches!(c, ',' | ';' | '.' | '(' | ')' | '`' | '\''));
        let addr = bare.split('/').next().unwrap_or_default();
        addr.contains(':') && (addr.parse::<IpAddr>().is_ok() || addr.parse::<std::net::SocketAddr>().is_ok() || is_mac(addr))
    };
    let mut out = String::with_capacity(text.len());
    for word in text.split(' ') {
        if is_address(word) {
            out.push('~');
        } else {
            let mut digits = false;
            for c in word.chars() {
                let digit = c.is_ascii_digit() || (digits && c == '.');
                match (digit, digits) {
                    (true, true) => {}
                    (true, false) => out.push('#'),
                    _ => out.push(c),
                }
                digits = digit;
            }
        }
        out.push(' ');
    }
    out
}

fn is_mac(word: &str) -> bool {
    word.parse::<crate::net::MacAddr>().is_ok()
}

/// A host's name as people count: what stands before and behind its number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Counted<'a> {
    before: &'a str,
    behind: &'a str,
    number: u64,
    width: usize,
    name: &'a str,
}

impl<'a> Counted<'a> {
    fn new(name: &'a str) -> Self {
        // The last number of an address, with a port or without.
        let (addr, _) = name.split_once(':').unwrap_or((name, ""));
        if let (Ok(_), Some(dot)) = (addr.parse::<std::net::Ipv4Addr>(), addr.rfind('.')) {
            let number = addr[dot + 1..].parse().unwrap_or_default();
            return Counted { before: &name[..=dot], behind: &name[addr.len()..], number, width: addr.len() - dot - 1, name };
        }
        let label = name.split('.').next().unwrap_or_default();
        let end = label.rfind(|c: char| c.is_ascii_digit()).map_or(0, |at| at + 1);
        let start =
            label[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + label[at..].chars().next().map_or(1, char::len_utf8));
        let (start, end) = if end == 0 { (name.len(), name.len()) } else { (start, end) };
        match name[start..end].parse() {
            Ok(number) => Counted { before: &name[..start], behind: &name[end..], number, width: end - start, name },
            Err(_) => Counted { before: name, behind: "", number: 0, width: 0, name },
        }
    }

    /// `web9` before `web10`, `web09` before `web10`.
    fn precedes(&self, next: &Counted<'_>) -> bool {
        let padded = self.name[self.before.len()..].starts_with('0') || next.name[next.before.len()..].starts_with('0');
        (self.before, self.behind) == (next.before, next.behind)
            && self.width > 0
            && self.number.checked_add(1) == Some(next.number)
            && (self.width == next.width || !padded)
    }
}

/// Hosts in few words: `web1–web300, web305 and 12 more`. At most so many names and ranges.
pub(super) fn hosts(names: &[&str], most: usize) -> String {
    let mut all: Vec<Counted<'_>> = names.iter().map(|name| Counted::new(name)).collect();
    all.sort_unstable();
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for at in 0..all.len() {
        match ranges.last_mut() {
            Some((_, last)) if all[*last].precedes(&all[at]) => *last = at,
            _ => ranges.push((at, at)),
        }
    }
    // Two in a row are two names.
    let pieces: Vec<(String, usize)> = ranges
        .into_iter()
        .flat_map(|(first, last)| match last - first {
            0 | 1 => all[first..=last].iter().map(|one| (one.name.to_string(), 1)).collect::<Vec<_>>(),
            more => vec![(format!("{}–{}", all[first].name, all[last].name), more + 1)],
        })
        .collect();
    let shown: Vec<&str> = pieces.iter().take(most).map(|(text, _)| text.as_str()).collect();
    let left: usize = pieces.iter().skip(most).map(|(_, count)| count).sum();
    let more = if left > 0 { format!(" and {} more", thousands(left as u64)) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Reasons that differ only in names and numbers, with what stands beside them: the first of each kind, and all that belongs to it.
pub(super) fn reasons<'a, T>(all: impl IntoIterator<Item = (&'a str, T)>) -> Vec<(&'a str, usize, Vec<T>)> {
    let mut found: Vec<(&str, HashSet<&str>, Vec<T>)> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (reason, beside) in all {
        let at = *known.entry(shape(reason)).or_insert_with(|| {
            found.push((reason, HashSet::new(), Vec::new()));
            found.len() - 1
        });
        found[at].1.insert(reason);
        found[at].2.push(beside);
    }
    found.into_iter().map(|(reason, different, beside)| (reason, different.len() - 1, beside)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Confidence, Severity};

    #[test]
    fn names_are_counted_as_people_do() {
        let told = |names: &[&str], most| hosts(names, most);
        assert_eq!(told(&["web10", "web2", "web9", "web8", "db"], 9), "db, web2, web8–web10");
        assert_eq!(told(&["w08", "w09", "w10", "w11"], 9), "w08–w11");
        assert_eq!(told(&["a1.x", "a2.x", "a3.y", "a3.x"], 9), "a1.x–a3.x, a3.y");
        assert_eq!(told(&["a1", "a2"], 9), "a1, a2");
        assert_eq!(told(&["a", "b", "x1", "x2", "x3"], 2), "a, b and 3 more");
        assert_eq!(told(&["99999999999999999999999", "é7", "é8", "é9", "7"], 9), "7, 99999999999999999999999, é7–é9");
        assert_eq!(told(&["10.0.0.9", "10.0.0.10", "10.0.0.11", "10.0.1.12", "::1"], 9), "10.0.0.9–10.0.0.11, 10.0.1.12, ::1");
        assert_eq!(told(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:443"], 9), "10.0.0.4:443, 10.0.0.1:80–10.0.0.3:80");
        assert_eq!(told(&[], 3), "");
    }

    fn finding(code: &'static str, host: &str, summary: &str, command: &str) -> Finding {
        let proof = Evidence::host(host, "no", "sysctl");
        let mut f =
            Finding::new(host, Severity::Broken, Confidence::Certain, summary, proof).mend([Remedy::new(host, command, "keep", "undo")]);
        f.code = code;
        f
    }

    /// The same fault with other addresses is one kind, another fault, severity or way to mend it is not.
    #[test]
    fn kinds() {
        let like = |n: usize| {
            let (host, ip) = (format!("web{n}"), format!("10.0.{n}.1"));
            finding("DR004", &host, &format!("no route to {ip} from {host}."), &format!("ip route add default via {ip}"))
        };
        let mut all: Vec<Finding> = (0..10).map(like).collect();
        all.push(finding("DR004", "db", "no route to 10.0.0.1 from db.", "ip route replace default via 10.0.0.1"));
        all.push(finding("DR003", "web1", "no route to 10.0.0.1 from web1.", "ip route add default via 10.0.0.1"));
        let told = Alike::all(&all);
        assert_eq!(told.iter().map(|a| a.about()).collect::<Vec<_>>(), ["10 hosts", "db", "web1"]);
        let (proofs, left) = told[0].proofs();
        assert_eq!((proofs.len(), left), (2, 8));
        let [mending] = told[0].remedies() else { panic!("one way to mend it") };
        assert_eq!((mending.hosts.len(), mending.varies), (10, true));
        let many: Vec<Finding> = (0..10).map(|n| finding("DR006", "lb", &format!("10.0.1.{n} is not on a link."), "ip link")).collect();
        let [one] = &Alike::all(&many)[..] else { panic!("one kind") };
        assert_eq!((one.about().as_str(), one.proofs().0.len(), one.proofs().1), ("lb (10 times)", 2, 8));
        assert_eq!(hosts(&one.instances(), 3), "10.0.1.0–10.0.1.9");
        // Three can be read one by one.
        assert_eq!(Alike::all(&all[..3]).len(), 3);
    }

    /// One finding of many hosts: two of them prove it, and the remedy that is the same on all stands once.
    #[test]
    fn one_of_many_hosts() {
        let mut one = finding("ARP001", "web0", "It answers.", "sysctl -w x=1");
        let names: Vec<String> = (0..500).map(|n| format!("web{n}")).collect();
        one.subject = names.join(", ");
        one = one.and((1..500).map(|n| Evidence::host(format!("web{n}"), "no", "sysctl")));
        one.remedy[0].host = names.join(", ");
        let told = Alike::one(&one);
        assert_eq!((told.about(), told.proofs().0.len(), told.proofs().1), ("500 hosts".to_string(), 2, 498));
        assert!(!told.remedies()[0].varies);
    }

    #[test]
    fn reasons_that_differ_in_numbers() {
        let told = reasons([("a snapshot of 10.0.0.1", 1), ("routes", 2), ("a snapshot of 10.0.0.2", 3), ("a snapshot of 10.0.0.1", 4)]);
        assert_eq!(told, [("a snapshot of 10.0.0.1", 1, vec![1, 3, 4]), ("routes", 0, vec![2])]);
        assert_eq!(shape("a 2001:db8::1/64, b"), shape("a fd00::2/48, b"));
        assert_ne!(shape("all.arp_ignore=1"), shape("all.arp_announce=1"));
    }
}
