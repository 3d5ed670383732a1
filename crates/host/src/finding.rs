//! What a rule says.

use std::fmt;

use linerate_core::table::Stage;
use serde::{Serialize, Serializer};

use crate::change::Change;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth to know; no harm now.
    Info,
    /// Harm is likely, or small.
    Warning,
    /// Packets or time are lost now.
    Critical,
}

/// What a change may do beside what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Takes effect at run time; traffic is not disturbed.
    Safe,
    /// Takes memory.
    Mem,
    /// May add latency.
    Lat,
    /// May lose what is queued now.
    Loss,
    /// For the whole host, all its namespaces.
    Global,
    /// Weakens a protection.
    Sec,
    /// May take the link down for a moment.
    Flap,
}

/// A number or a word.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A number.
    Number(u64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(n) => n.fmt(f),
            Value::Text(t) => t.fmt(f),
        }
    }
}

/// What a finding rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// The file and line, or the message.
    pub source: String,
    /// The counter or setting.
    pub name: String,
    /// Before, for what moves.
    pub from: Option<Value>,
    /// Now.
    pub to: Value,
    /// Growth in a second, for what moves.
    pub per_s: Option<f64>,
}

impl Evidence {
    /// Something that is so, and did not move.
    #[must_use]
    pub fn state(
        source: impl Into<String>,
        name: impl Into<String>,
        to: impl Into<Value>,
    ) -> Evidence {
        Evidence {
            source: source.into(),
            name: name.into(),
            from: None,
            to: to.into(),
            per_s: None,
        }
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Number(n)
    }
}

impl From<&str> for Value {
    fn from(t: &str) -> Value {
        Value::Text(t.into())
    }
}

impl From<String> for Value {
    fn from(t: String) -> Value {
        Value::Text(t)
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// In words, one sentence.
    pub what: String,
    /// The setting to change, if it is one that `tune` can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// The exact command; empty if there is none.
    pub command: String,
    /// How it survives a boot; empty if there is no way or no need.
    pub persist: String,
    /// How to see that it helped.
    pub verify: String,
    /// How to undo it; empty if there is nothing to undo.
    pub rollback: String,
    /// What else it may do.
    pub risk: Risk,
}

/// Where, and what, and why, and what to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The rule's id, as `R43`.
    pub id: &'static str,
    /// The rule's name, as `udp-rcvbuf`.
    pub name: &'static str,
    /// In one line, with the device, processor or socket it is about.
    pub title: String,
    /// Where on the path.
    #[serde(serialize_with = "stage_name")]
    pub stage: Stage,
    /// How bad.
    pub severity: Severity,
    /// It rests on counters since boot alone: it need not be happening now.
    pub lifetime: bool,
    /// Packets (or connections, or calls) lost in a second by it; 0 for states.
    pub loss_per_s: f64,
    /// The device, processor or socket it is about; empty: the host.
    pub subject: String,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
    /// Which of the causes, and how that is known.
    pub cause: String,
    /// What to do, the best first.
    pub advice: Vec<Advice>,
}

fn stage_name<S: Serializer>(stage: &Stage, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format!("{stage:?}"))
}
