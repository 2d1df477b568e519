//! Configuration files of a host of the lab: what would be after its next boot. They are kept in memory; nothing on a disk is touched.

use std::collections::BTreeMap;

/// The files, by their absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, String>);

/// Where configuration is kept; remedies write nowhere else.
const PLACE: &str = "/etc/";

impl Files {
    /// `command > FILE`.
    pub fn write(&mut self, file: &str, text: &str) -> Result<(), String> {
        self.open(file)?.clear();
        self.append(file, text)
    }

    /// `command >> FILE`.
    pub fn append(&mut self, file: &str, text: &str) -> Result<(), String> {
        let old = self.open(file)?;
        old.push_str(text.trim_end_matches('\n'));
        old.push('\n');
        Ok(())
    }

    /// `rm FILE`.
    pub fn remove(&mut self, file: &str) -> Result<(), String> {
        self.0.remove(file).map(|_| ()).ok_or_else(|| format!("{file}: No such file or directory"))
    }

    /// `sed -i '/^WORDS/d' FILE`: the lines that begin so go.
    pub fn delete_lines(&mut self, file: &str, script: &str) -> Result<(), String> {
        let pattern = script.strip_prefix("/^").and_then(|rest| rest.strip_suffix("/d"));
        let pattern = pattern.ok_or_else(|| format!("of sed only '/^WORDS/d' is understood, not '{script}'"))?;
        let (indented, words) = match pattern.strip_prefix("[[:space:]]*") {
            Some(words) => (true, words),
            None => (false, pattern),
        };
        let words = words.replace("\\.", ".").replace("\\/", "/");
        if words.contains(['*', '[', '\\', '$', '^']) {
            return Err(format!("of sed only '/^WORDS/d' is understood, not '{script}'"));
        }
        let text = self.0.get_mut(file).ok_or_else(|| format!("{file}: No such file or directory"))?;
        let goes = |line: &&str| if indented { line.trim_start() } else { line }.starts_with(&words);
        *text = text.lines().filter(|line| !goes(line)).map(|line| format!("{line}\n")).collect();
        Ok(())
    }

    fn open(&mut self, file: &str) -> Result<&mut String, String> {
        match file.starts_with(PLACE) && !file.contains("/../") {
            true => Ok(self.0.entry(file.to_string()).or_default()),
            false => Err(format!("{file}: hosts of the lab have files in {PLACE} alone")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_as_a_shell_does() {
        let mut files = Files::default();
        files.append("/etc/sysctl.d/90-lvs.conf", "net.ipv4.ip_forward = 1").unwrap();
        files.append("/etc/sysctl.d/90-lvs.conf", "net.ipv4.vs.conntrack = 1").unwrap();
        files.delete_lines("/etc/sysctl.d/90-lvs.conf", "/^net\\.ipv4\\.ip_forward/d").unwrap();
        assert_eq!(files.0["/etc/sysctl.d/90-lvs.conf"], "net.ipv4.vs.conntrack = 1\n");
        files.write("/etc/a", " vrrp_strict\nx\n").unwrap();
        files.delete_lines("/etc/a", "/^[[:space:]]*vrrp_strict/d").unwrap();
        assert_eq!(files.0["/etc/a"], "x\n");
        files.remove("/etc/a").unwrap();
        assert!(!files.0.contains_key("/etc/a"));
        assert!(files.write("/srv/x", "").is_err() && files.write("/etc/../x", "").is_err());
        assert!(files.delete_lines("/etc/none", "/^x/d").is_err() && files.delete_lines("/etc/sysctl.d/90-lvs.conf", "s/a/b/").is_err());
    }
}
