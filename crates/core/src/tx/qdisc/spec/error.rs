//! What can be wrong with a specification.

use std::fmt;

/// Why a specification was refused (EINVAL).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecError {
    /// Nothing was asked for.
    Empty,
    /// There is no discipline of this kind.
    UnknownKind {
        /// What was asked for.
        kind: String,
        /// What there is.
        kinds: &'static [&'static str],
    },
    /// The discipline has no such parameter.
    UnknownParameter {
        /// The discipline.
        kind: &'static str,
        /// What was given.
        word: String,
        /// What it takes.
        takes: &'static str,
    },
    /// A parameter without its value.
    NoValue {
        /// The parameter.
        parameter: &'static str,
        /// What it should be.
        wants: &'static str,
    },
    /// A value that can not be read.
    Unreadable {
        /// The parameter.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// What it should be.
        wants: &'static str,
    },
    /// A value out of its range.
    Range {
        /// The discipline.
        kind: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// The smallest value.
        low: String,
        /// The largest one.
        high: String,
    },
    /// The discipline can not be without this.
    Missing {
        /// The discipline.
        kind: &'static str,
        /// What it needs.
        parameter: &'static str,
    },
    /// Parameters that contradict each other: a sentence.
    Contradiction {
        /// The discipline.
        kind: &'static str,
        /// Why.
        why: &'static str,
    },
    /// Another word was expected.
    Expected {
        /// What.
        what: &'static str,
        /// What was found.
        found: String,
    },
    /// No discipline has this handle, or it hangs too deep.
    NoParent {
        /// The handle.
        major: u16,
        /// The class.
        minor: u16,
    },
    /// The discipline has no such class.
    NoClass {
        /// The discipline.
        kind: &'static str,
        /// Its handle.
        major: u16,
        /// The class.
        minor: u16,
        /// How many it has.
        classes: u16,
    },
    /// Too many disciplines.
    TooMany {
        /// As many as there may be.
        most: usize,
    },
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Empty => f.write_str("a queueing discipline is needed, such as fq_codel"),
            SpecError::UnknownKind { kind, kinds } => {
                write!(
                    f,
                    "no queueing discipline is called {kind:?}; there are {}",
                    kinds.join(", ")
                )
            }
            SpecError::UnknownParameter { kind, word, takes: "" } => {
                write!(f, "{kind} takes no parameters, and so no {word:?}")
            }
            SpecError::UnknownParameter { kind, word, takes } => {
                write!(f, "{kind} has no parameter {word:?}; it takes {takes}")
            }
            SpecError::NoValue { parameter, wants } => {
                write!(f, "{parameter} needs a value: {wants}")
            }
            SpecError::Unreadable { parameter, value, wants } => {
                write!(f, "{parameter} can not be {value:?}: it is {wants}")
            }
            SpecError::Range { kind, parameter, value, low, high } => {
                write!(f, "{parameter} of {kind} can not be {value}: it is from {low} to {high}")
            }
            SpecError::Missing { kind, parameter } => write!(f, "{kind} needs {parameter}"),
            SpecError::Contradiction { kind, why } => write!(f, "{kind}: {why}"),
            SpecError::Expected { what, found } => write!(f, "expected {what}, found {found:?}"),
            SpecError::NoParent { major, minor } => {
                write!(
                    f,
                    "parent {major:x}:{minor:x}: no discipline before it has the handle {major:x}:"
                )
            }
            SpecError::NoClass { kind, major, minor, classes: 0 } => {
                write!(f, "parent {major:x}:{minor:x}: {kind} has no classes")
            }
            SpecError::NoClass { kind, major, minor, classes } => {
                write!(
                    f,
                    "parent {major:x}:{minor:x}: the classes of {kind} are {major:x}:1 to \
                     {major:x}:{classes:x}"
                )
            }
            SpecError::TooMany { most } => write!(f, "more than {most} disciplines"),
        }
    }
}
impl std::error::Error for SpecError {}
