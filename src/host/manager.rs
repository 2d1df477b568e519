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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_list_of_processes() {
        assert_eq!(managers_of("COMMAND\nsystemd\nkeepalived\nkeepalived\nsshd\n"), ["keepalived"]);
        assert_eq!(managers_of("root 812 1 0 ? 00:00:01 /usr/bin/perl -w /usr/sbin/ldirectord start\n"), ["ldirectord"]);
        assert!(managers_of("COMMAND\nkeepalived-exporter\n").is_empty());
    }
}
