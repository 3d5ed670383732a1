#![doc = include_str!("README.md")]

mod consts;
mod engine;
mod info;
pub(crate) mod kernel;
mod lexer;
mod linerate;
mod packet;
mod parse;
mod runner;
mod script;
mod sign;
mod syscall;
mod target;
mod wire;

use std::fmt;

pub use consts::{constant, errno_name};
pub use engine::{Failure, Happened, Kind, Rules, run};
pub use kernel::{Kernel, in_namespace, permitted};
pub use linerate::Linerate;
pub use parse::parse;
pub use runner::{learn, load, on_kernel, on_linerate, scripts};
pub use script::{
    Action, Assert, Body, Ecn, Event, Expr, Icmp, Knob, Opt, Packet, Script, Segment, Syscall,
    When, Who,
};
pub use target::{Call, Fd, Outcome, Sent, Target, Value};

/// Why a script can not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// The script.
    pub file: String,
    /// The line.
    pub line: usize,
    /// What was expected, and what is there.
    pub what: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

impl std::error::Error for ScriptError {}
