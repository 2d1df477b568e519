//! Programs that see to virtual services: they take dead servers out, move addresses, load tables.

/// As the kernel names them (`comm`, 15 characters).
pub const MANAGERS: [&str; 9] =
    ["keepalived", "ldirectord", "nanny", "lvsd", "surealived", "kube-proxy", "kube-router", "cilium-agent", "dockerd"];

/// Those among the processes of `ps -eo comm` or `ps -ef`, each once.
pub fn managers_of(text: &str) -> Vec<String> {
    let runs = |name: &&&str| {
        let is = |word: &str| word.rsplit('/').next() == Some(**name);
        // The program itself, or the script that an interpreter runs.
        text.lines().any(|line| line.split_whitespace().any(is))
    };
    MANAGERS.iter().filter(runs).map(|name| (*name).to_string()).collect()
}

/// True for a module of the kernel that matters to a virtual server: IPVS, its schedulers and helpers, tunnels, filters of bridges.
pub fn is_module_of_note(name: &str) -> bool {
    let exact =
        ["ipip", "ip_gre", "gre", "fou", "fou6", "sit", "ip6_tunnel", "ip6_gre", "tunnel4", "tunnel6", "br_netfilter", "nf_conntrack"];
    name.starts_with("ip_vs") || exact.contains(&name)
}

/// Modules of note in the output of lsmod(8) or in /proc/modules.
pub fn modules_of(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| is_module_of_note(name)).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_list_of_processes() {
        assert_eq!(managers_of("COMMAND\nsystemd\nkeepalived\nkeepalived\nsshd\n"), ["keepalived"]);
        assert_eq!(managers_of("root 812 1 0 ? 00:00:01 /usr/bin/perl -w /usr/sbin/ldirectord start\n"), ["ldirectord"]);
        assert!(managers_of("COMMAND\nkeepalived-exporter\n").is_empty());
    }

    #[test]
    fn modules_that_matter() {
        let text =
            "Module                  Size  Used by\nip_vs_ftp              16384  0\nip_vs                 200704  2 ip_vs_ftp\nsnd 9 0\n";
        assert_eq!(modules_of(text), ["ip_vs_ftp", "ip_vs"]);
    }
}
