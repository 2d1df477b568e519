//! tcpdump's filter language, compiled by libpcap: the only place that knows the `pcap` crate.

use crate::packet::Frame;
#[cfg(feature = "live")]
use std::collections::HashMap;
use std::fmt;

/// A filter expression such as `host 192.168.2.100 and port 80` (pcap-filter(7)).
pub struct Filter {
    expression: String,
    /// Compiled for each link type that has come up; `None` where the expression makes no sense on it.
    #[cfg(feature = "live")]
    programs: HashMap<u16, Option<::pcap::BpfProgram>>,
}

impl fmt::Display for Filter {
    /// The expression.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expression)
    }
}

/// Why an expression is no filter.
#[derive(Debug)]
pub struct FilterError(String);

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FilterError {}

#[cfg(feature = "live")]
impl Filter {
    /// Checks the expression against Ethernet.
    ///
    /// # Errors
    /// In libpcap's words, when it is no valid expression.
    pub fn new(expression: &str) -> Result<Self, FilterError> {
        compile(expression, 1).map_err(|e| FilterError(said(expression, &e.to_string())))?;
        Ok(Filter { expression: expression.to_string(), programs: HashMap::new() })
    }

    /// True when the frame passes. On a link type for which the expression cannot be compiled nothing passes.
    pub fn passes(&mut self, frame: &Frame<'_>) -> bool {
        let link_type = frame.link_type.0;
        let program = self.programs.entry(link_type).or_insert_with(|| compile(&self.expression, link_type).ok());
        program.as_ref().is_some_and(|program| program.filter(frame.bytes))
    }
}

/// The error with its place, where libpcap does not name the word.
#[cfg(feature = "live")]
fn said(expression: &str, error: &str) -> String {
    let error = error.strip_prefix("libpcap error: ").unwrap_or(error);
    if !error.contains("syntax error") {
        return format!("filter '{expression}': {error}");
    }
    let at = super::syntax::place(expression, |text| compile(text, 1).is_ok());
    let column = expression[..at].chars().count() + 1;
    match expression[at..].split_whitespace().next() {
        Some(word) => format!("filter '{expression}', column {column}: syntax error at '{word}'"),
        None => format!("filter '{expression}', column {column}: syntax error, it ends too early"),
    }
}

#[cfg(feature = "live")]
pub(super) fn compile(expression: &str, link_type: u16) -> Result<::pcap::BpfProgram, ::pcap::Error> {
    // Raw IP has another number inside libpcap than in files (DLT_RAW 12, LINKTYPE_RAW 101).
    let dlt = if link_type == 101 { 12 } else { link_type };
    ::pcap::Capture::dead(::pcap::Linktype(i32::from(dlt)))?.compile(expression, true)
}

#[cfg(not(feature = "live"))]
impl Filter {
    /// Always an error: this build has no libpcap.
    ///
    /// # Errors
    /// That libpcap is missing, and how to get a build with it.
    pub fn new(expression: &str) -> Result<Self, FilterError> {
        Err(FilterError(format!("filter '{expression}': this lvscope was built without libpcap (cargo feature `live`)")))
    }

    /// Never called: there is no way to make a filter.
    pub fn passes(&mut self, _frame: &Frame<'_>) -> bool {
        true
    }
}
