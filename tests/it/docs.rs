//! Generated documentation is what the program says today. `LVSCOPE_BLESS=1` writes it anew.

use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Holds a file to its contents, or writes it.
fn hold(path: &Path, contents: &str) {
    if std::env::var_os("LVSCOPE_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, contents).expect("written");
        return;
    }
    let is = fs::read_to_string(path).unwrap_or_default();
    assert!(is == contents, "{} is not what the program says today; `make bless` writes it", path.display());
}

fn page(rule: &lvscope::rules::Rule) -> String {
    let body: Vec<String> = rule
        .page
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .map(|line| line.strip_prefix("# ").map_or_else(|| line.to_string(), |heading| format!("## {heading}")))
        .collect();
    format!("# {} {}\n\n{}\n", rule.code, rule.name, body.join("\n").trim())
}

#[test]
fn a_page_for_each_rule() {
    let folder = docs().join("rules");
    let mut list = "# Rules\n\nMade from the rules themselves (`make bless`). `lvscope explain CODE` prints a page.\n\n".to_string();
    for rule in lvscope::rules::ALL {
        hold(&folder.join(format!("{}.md", rule.code)), &page(rule));
        list += &format!("- [{} {}]({}.md)\n", rule.code, rule.name, rule.code);
    }
    list += "\nWithout a page, for no rule looks for them: what findings leave open, what neither packets nor snapshots prove, and what is no fault.\n\n";
    for cause in lvscope::rules::CAUSES {
        list += &format!("- {} {}: {}\n", cause.code, cause.name, cause.what);
    }
    hold(&folder.join("README.md"), &list);
    let pages = fs::read_dir(&folder).expect("docs/rules").count();
    assert_eq!(pages, lvscope::rules::ALL.len() + 1, "a page of a rule that is no more");
}

fn schema() -> Value {
    serde_json::from_str(&fs::read_to_string(docs().join("report.schema.json")).expect("the schema")).expect("JSON")
}

/// The keys of an object and of the objects in it, with what they mean.
fn keys(out: &mut String, object: &Map<String, Value>, prefix: &str) {
    for (key, value) in object {
        let list = value["type"] == "array";
        let name = format!("{prefix}{key}{}", if list { "[]" } else { "" });
        let words = value["description"].as_str().unwrap_or_default();
        let options: Vec<String> =
            value["enum"].as_array().into_iter().flatten().map(|v| format!("`{}`", v.as_str().unwrap_or_default())).collect();
        let options = if options.is_empty() { String::new() } else { format!(" One of {}.", options.join(" ")) };
        *out += &format!("| `{name}` | {words}{options} |\n");
        let inner = if list { &value["items"] } else { value };
        if let Some(inner) = inner["properties"].as_object() {
            keys(out, inner, &format!("{name}."));
        }
    }
}

#[test]
fn the_json_page_says_what_the_schema_says() {
    let schema = schema();
    let mut text = "# The JSON report, version 1\n\nMade from [report.schema.json](report.schema.json) (`make bless`). ".to_string();
    text += "Keys that are here keep their name and meaning; more may come.\n\n## Report\n\n| key | meaning |\n|---|---|\n";
    keys(&mut text, schema["properties"].as_object().expect("keys"), "");
    for (name, heading) in [("flow", "A flow"), ("hop", "A hop"), ("finding", "A finding")] {
        text += &format!("\n## {heading}\n\n| key | meaning |\n|---|---|\n");
        keys(&mut text, schema["$defs"][name]["properties"].as_object().expect("keys"), "");
    }
    text += "\n## A piece of evidence\n\n| key | meaning |\n|---|---|\n";
    for kind in schema["$defs"]["evidence"]["oneOf"].as_array().expect("kinds") {
        let word = kind["properties"]["kind"]["const"].as_str().expect("a kind");
        text += &format!("| `kind`: `{word}` | {} |\n", kind["description"].as_str().unwrap_or_default());
        keys(&mut text, kind["properties"].as_object().expect("keys"), &format!("{word}: "));
    }
    text += "\n## Lines (NDJSON)\n\n`diagnose --format ndjson` writes the same objects a line each, with `type`: `finding` `input` `host` `service` `flow` `not-judged` `clock`. ";
    text += "Of packets as they come it writes, whenever something has become clear, a line `moment` (`time`, `packets`, `flows`), then some of the flows that show it and the findings, each once; at the end a line `end` (with `forgotten` connections, if there were more than memory is for), then the rest of the report. Numbers of flows hold from one `moment` to the next. ";
    text += "`trace --format ndjson` writes a flow a line. `trace --packets` writes each packet's way:\n\n";
    text += "```json\n{\"flow\": 1, \"direction\": \"request\", \"sightings\": [{\"point\": \"client.eth0\", \"frame\": 3}], \"rewrites\": []}\n```\n\n";
    text += "A sighting in a file with several points names its `file` too. Where one frame is several at another point (GRO, TSO), `part` says which \
             bytes of the payload this one holds: `{\"offset\": 0, \"len\": 1448}`. `flooded` lists, in the same form, frames that a bridge flooded to hosts \
             which the packet did not concern; it is left out when there are none.\n";
    hold(&docs().join("json.md"), &text);
}
