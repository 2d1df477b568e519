//! SARIF 2.1.0, as code scanners and their viewers read it: <https://docs.oasis-open.org/sarif/sarif/v2.1.0/>.

use super::Report;
use crate::finding::{Evidence, Finding, Severity};
use crate::rules;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Writes the findings as a SARIF file.
///
/// # Errors
/// When `out` cannot be written.
pub fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let findings: Vec<&Finding> = report.diagnosis.iter().flat_map(|d| &d.findings).collect();
    let mut codes: Vec<&str> = findings.iter().map(|f| f.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let rule = |code: &&str| {
        let page = rules::find(code)
            .map_or_else(String::new, |rule| rule.page.lines().map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n"));
        let name = rules::name_of(code).unwrap_or_default();
        json!({ "id": code, "name": name, "shortDescription": { "text": name }, "help": { "text": format!("lvscope explain {code}"), "markdown": page } })
    };
    let result = |f: &&Finding| {
        let hosts: Vec<&str> = f.subject.split(", ").collect();
        let file = |host: &str| {
            let at = report.fleet.members.iter().position(|m| m.host.name == host)?;
            report.inputs.get(at).map(|input| input.file.as_str())
        };
        let location = |host: &&str| {
            let logical = json!([{ "name": host, "kind": "resource", "fullyQualifiedName": host }]);
            match file(host) {
                Some(file) => json!({ "physicalLocation": { "artifactLocation": { "uri": file } }, "logicalLocations": logical }),
                None => json!({ "logicalLocations": logical }),
            }
        };
        let proofs: Vec<String> = f
            .evidence()
            .iter()
            .filter_map(|e| if let Evidence::Host { host, fact, source } = e { Some(format!("{host}$ {source}: {fact}")) } else { None })
            .collect();
        let remedy: Vec<Value> =
            f.remedy.iter().map(|r| json!({ "host": r.host, "command": r.command, "permanent": r.permanent, "undo": r.undo })).collect();
        json!({
            "ruleId": f.code,
            "level": match f.severity { Severity::Broken => "error", Severity::Degraded | Severity::Risky => "warning", Severity::Note => "note" },
            "message": { "text": f.summary },
            "locations": hosts.iter().map(location).collect::<Vec<_>>(),
            "partialFingerprints": { "lvscope/v1": format!("{}/{}", f.code, f.subject) },
            "properties": { "severity": f.severity.to_string(), "confidence": f.confidence.to_string(), "evidence": proofs, "remedy": remedy }
        })
    };
    let document = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "lvscope", "version": env!("CARGO_PKG_VERSION"), "rules": codes.iter().map(rule).collect::<Vec<_>>() } },
            "results": findings.iter().map(result).collect::<Vec<_>>()
        }]
    });
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}
