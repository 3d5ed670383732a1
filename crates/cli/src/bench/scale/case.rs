//! What a case is, and what its rows are held to.

/// What the median of a row is meant to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
}

impl Target {
    /// Whether `value` is as it is meant to be.
    pub fn met(self, value: f64) -> bool {
        match self {
            Target::AtMost(most) => value <= most,
            Target::AtLeast(least) => value >= least,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::AtMost(most) => write!(f, "<= {most}"),
            Target::AtLeast(least) => write!(f, ">= {least}"),
        }
    }
}

/// One line of the result.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is measured, with what.
    pub name: String,
    /// Whose work it is.
    pub who: &'static str,
    /// What its figures count.
    pub unit: &'static str,
    /// What it is meant to be.
    pub target: Option<Target>,
    /// One figure of each round.
    pub samples: Vec<f64>,
    /// A remark: why there is no figure, or what else was seen.
    pub note: Option<String>,
}

impl Row {
    /// A row of ours without figures.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Row {
        let (who, target, samples, note) = ("linerate", None, Vec::new(), None);
        Row { name: name.into(), who, unit, target, samples, note }
    }
    /// It is meant to be at most `most`.
    #[must_use]
    pub fn at_most(mut self, most: f64) -> Row {
        self.target = Some(Target::AtMost(most));
        self
    }
    /// It is meant to be at least `least`.
    #[must_use]
    pub fn at_least(mut self, least: f64) -> Row {
        self.target = Some(Target::AtLeast(least));
        self
    }
    /// It is a peer's.
    #[must_use]
    pub fn of(mut self, who: &'static str) -> Row {
        self.who = who;
        self
    }
}

/// Something that is measured once in each round, with one figure for each of its rows.
pub trait Case {
    /// What it is, for the progress line.
    fn name(&self) -> String;
    /// Its rows, without figures.
    fn rows(&self) -> Vec<Row>;
    /// Does it once; `part` = how much of the usual work, 1 = all of it. The figures of its rows, in their
    /// order; `None` = not in this round.
    fn round(&mut self, part: f64) -> Vec<Option<f64>>;
    /// What it has to say about each row when all is over.
    fn notes(&self) -> Vec<Option<String>> {
        Vec::new()
    }
}

/// So much of `usual`, at least `least`.
pub fn some(usual: u64, part: f64, least: u64) -> u64 {
    ((usual as f64 * part) as u64).max(least)
}

/// Nanoseconds that asking for the processor time takes: it is a system call, and inside what is timed.
pub fn clock_cost() -> f64 {
    use crate::bench::path::case::cpu_ns;
    const N: u32 = 1000;
    let once = |_| {
        let begun = cpu_ns();
        (0..N).for_each(|_| {
            std::hint::black_box(cpu_ns());
        });
        (cpu_ns() - begun) as f64 / f64::from(N)
    };
    // Whatever disturbs makes it more.
    (0..5).map(once).fold(f64::INFINITY, f64::min)
}

/// Bytes of this process that lie in memory now.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|kib| kib.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn targets_hold_at_their_edge() {
        assert!(Target::AtMost(2.0).met(2.0) && !Target::AtMost(2.0).met(2.1));
        assert!(Target::AtLeast(60.0).met(60.0) && !Target::AtLeast(60.0).met(59.9));
    }
}
