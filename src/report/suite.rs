//! Checks that were run and what became of them: what JUnit and TAP files are made of.

/// Checks, in the order in which they were run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suite {
    /// What they are called together.
    pub name: String,
    /// The checks.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// What became of it.
    pub end: End,
}

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As it had to be; the text says what was seen.
    Passed(String),
    /// As it had to be, which is less than it ought to be one day: what was seen, and what is missing.
    NotYet(String, String),
    /// Not as it had to be: in a line, and in full.
    Failed(String, String),
    /// Could not be made at all.
    Error(String),
}
