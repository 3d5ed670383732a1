//! The words in which disciplines are asked for: those of `tc qdisc add … root`.
//!
//! ```text
//! [root] [handle H:] KIND [PARAMETER …] [; parent H:N [handle H:] KIND [PARAMETER …]] …
//! ```
//!
//! Each part after a semicolon is a discipline in a class of one before it, as a further call of tc
//! would make it. Handles that are not given count up from `8001:`.
//!
//! Linux: iproute2's tc/tc_qdisc.c, tc/q_*.c; tc(8)

mod error;
mod fair;
mod kinds;
mod words;

pub use error::SpecError;
pub use words::Words;

use super::stats::{PFIFO_FAST, percent, rate, size, time};
use super::{Place, netem};
use super::{codel, fifo, fq, fq_codel, prio, sfq, tbf};

/// A discipline with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// `pfifo_fast`.
    PfifoFast,
    /// `pfifo`.
    Pfifo(fifo::Config),
    /// `bfifo`.
    Bfifo(fifo::Config),
    /// `tbf`.
    Tbf(tbf::Config),
    /// `netem`.
    Netem(Box<netem::Config>),
    /// `prio`.
    Prio(prio::Config),
    /// `sfq`.
    Sfq(sfq::Config),
    /// `codel`.
    Codel(codel::Config),
    /// `fq`.
    Fq(Box<fq::Config>),
    /// `fq_codel`.
    FqCodel(fq_codel::Config),
}

/// A discipline, and those in its classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// Its major number.
    pub handle: u16,
    /// What it is.
    pub spec: Spec,
    /// What hangs in its classes, by their minor numbers.
    pub children: Vec<(u16, Tree)>,
}

/// The first handle that is given to a discipline without one.
const HANDLE: u16 = 0x8001;
/// Disciplines of one tree, and how deep they may hang.
const MOST: usize = 64;
const DEEP: usize = 8;

impl Tree {
    /// Whether it is what a device has anyway.
    pub fn is_default(&self) -> bool {
        self.spec == Spec::PfifoFast
    }

    /// Reads a whole specification.
    ///
    /// # Errors
    /// [`SpecError`] (EINVAL) for the first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Tree, SpecError> {
        let mut parts = text.split(';').map(Words::new);
        let mut words = parts.next().unwrap_or_else(|| Words::new(""));
        words.skip("root");
        let mut next = HANDLE;
        let mut root = one(&mut words, &mut next)?;
        for (n, mut words) in parts.enumerate() {
            if words.is_empty() {
                continue;
            }
            if n >= MOST {
                return Err(SpecError::TooMany { most: MOST });
            }
            words.expect("parent")?;
            let (major, minor) = words.class()?;
            let child = one(&mut words, &mut next)?;
            root.hang(major, minor, child, DEEP)?;
        }
        Ok(root)
    }

    /// Puts `child` into class `major:minor`, at most `deep` levels down.
    fn hang(&mut self, major: u16, minor: u16, child: Tree, deep: usize) -> Result<(), SpecError> {
        let Some(place) = self.find(major, deep) else {
            return Err(SpecError::NoParent { major, minor });
        };
        let classes = place.spec.classes();
        if minor == 0 || minor > classes {
            return Err(SpecError::NoClass { kind: place.spec.kind(), major, minor, classes });
        }
        place.children.retain(|(m, _)| *m != minor);
        place.children.push((minor, child));
        Ok(())
    }
    fn find(&mut self, major: u16, deep: usize) -> Option<&mut Tree> {
        if self.handle == major {
            return (deep > 0).then_some(self);
        }
        let mut below = self.children.iter_mut().map(|(_, sub)| sub);
        below.find_map(|sub| sub.find(major, deep.checked_sub(1)?))
    }

    /// Whether it lets the largest frame of the device go, which else would be dropped for ever.
    ///
    /// # Errors
    /// [`SpecError::Range`]: a `tbf` whose bucket is smaller than that.
    pub fn check(&self, place: Place) -> Result<(), SpecError> {
        if let Spec::Tbf(c) = &self.spec {
            let least = place.mtu.saturating_add(c.overhead);
            let peak = if c.peakrate > 0 { c.mtu } else { u32::MAX };
            let (parameter, value) =
                if c.burst < least { ("burst", c.burst) } else { ("mtu", peak) };
            if value < least {
                return Err(SpecError::Range {
                    kind: "tbf",
                    parameter,
                    value: size(value.into()),
                    low: format!("{}, the device's largest frame,", size(least.into())),
                    high: size(1 << 30),
                });
            }
        }
        self.children.iter().try_for_each(|(_, sub)| sub.check(place))
    }

    /// As it would be asked for again.
    pub fn text(&self) -> String {
        let mut out = self.spec.text();
        if !self.children.is_empty() {
            // Those below name it by its handle.
            out.insert_str(0, &format!("handle {:x}: ", self.handle));
        }
        self.below(&mut out);
        out
    }
    fn below(&self, out: &mut String) {
        for (minor, sub) in &self.children {
            let handle = self.handle;
            out.push_str(&format!(
                "; parent {handle:x}:{minor:x} handle {:x}: {}",
                sub.handle,
                sub.spec.text()
            ));
        }
        self.children.iter().for_each(|(_, sub)| sub.below(out));
    }
}

/// One discipline: `[handle H:] KIND PARAMETERS`.
fn one(words: &mut Words<'_>, next: &mut u16) -> Result<Tree, SpecError> {
    let handle = match words.skip("handle") {
        true => words.handle()?,
        false => std::mem::replace(next, *next + 1),
    };
    let spec = kinds::parse(words)?;
    Ok(Tree { handle, spec, children: Vec::new() })
}

impl Spec {
    /// The kinds that there are.
    pub const KINDS: &'static [&'static str] = kinds::NAMES;

    /// Its name, as tc has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Spec::PfifoFast => "pfifo_fast",
            Spec::Pfifo(_) => "pfifo",
            Spec::Bfifo(_) => "bfifo",
            Spec::Tbf(_) => "tbf",
            Spec::Netem(_) => "netem",
            Spec::Prio(_) => "prio",
            Spec::Sfq(_) => "sfq",
            Spec::Codel(_) => "codel",
            Spec::Fq(_) => "fq",
            Spec::FqCodel(_) => "fq_codel",
        }
    }
    /// The same with what follows from the device, where nothing else was asked for.
    pub(super) fn resolved(mut self, place: Place) -> Spec {
        match &mut self {
            Spec::Pfifo(c) => _ = c.limit.get_or_insert(place.txqueuelen),
            Spec::Bfifo(c) => {
                _ = c.limit.get_or_insert(place.txqueuelen.saturating_mul(place.mtu));
            }
            Spec::Sfq(c) => _ = c.quantum.get_or_insert(place.mtu),
            Spec::FqCodel(c) => _ = c.quantum.get_or_insert(place.mtu),
            Spec::Fq(c) => {
                c.quantum.get_or_insert(place.mtu.saturating_mul(2));
                c.initial_quantum.get_or_insert(place.mtu.saturating_mul(10));
            }
            _ => {}
        }
        self
    }
    /// How many classes it has to hang others into.
    fn classes(&self) -> u16 {
        match self {
            Spec::Tbf(_) | Spec::Netem(_) => 1,
            Spec::Prio(c) => c.bands.into(),
            _ => 0,
        }
    }
    /// As it would be asked for again.
    pub fn text(&self) -> String {
        // What tc prints is not always all, and not always what it reads.
        let words = match self {
            Spec::PfifoFast => String::new(),
            Spec::Tbf(c) => tbf_words(c),
            Spec::Sfq(c) => fair::sfq_words(c),
            Spec::FqCodel(c) => fair::fq_codel_words(c),
            other => other.options(),
        };
        format!("{} {words}", self.kind()).trim_end().to_owned()
    }
    /// Its parameters, as tc prints them.
    pub fn options(&self) -> String {
        match self {
            Spec::PfifoFast => PFIFO_FAST.to_owned(),
            Spec::Pfifo(c) => c.limit.map_or_else(String::new, |n| format!("limit {n}p")),
            Spec::Bfifo(c) => {
                c.limit.map_or_else(String::new, |n| format!("limit {}", size(n as u64)))
            }
            Spec::Tbf(c) => tbf_options(c),
            Spec::Netem(c) => netem_options(c),
            Spec::Prio(c) => fair::prio_options(c),
            Spec::Sfq(c) => fair::sfq_options(c),
            Spec::Codel(c) => fair::codel_options(c),
            Spec::Fq(c) => fair::fq_options(c),
            Spec::FqCodel(c) => fair::fq_codel_options(c),
        }
    }
}

/// What tc prints of a `tbf`: of its limit, how long what waits takes then.
fn tbf_options(c: &tbf::Config) -> String {
    let mut out = tbf_rates(c);
    out += &match c.latency() {
        Some(ns) => format!(" lat {}", time(ns)),
        None => format!(" limit {}", size(c.limit_bytes().into())),
    };
    if c.overhead > 0 {
        out += &format!(" overhead {}", c.overhead);
    }
    out
}

/// The words by which it would be asked for.
fn tbf_words(c: &tbf::Config) -> String {
    let mut out = tbf_rates(c);
    out += &match c.limit {
        tbf::Limit::Bytes(bytes) => format!(" limit {}", size(bytes as u64)),
        tbf::Limit::Latency(ns) => format!(" latency {}", time(ns)),
    };
    if c.mpu > 0 {
        out += &format!(" mpu {}", size(c.mpu as u64));
    }
    if c.overhead > 0 {
        out += &format!(" overhead {}", c.overhead);
    }
    out
}

fn tbf_rates(c: &tbf::Config) -> String {
    let mut out = format!("rate {} burst {}", rate(c.rate), size(c.burst as u64));
    if c.peakrate > 0 {
        out += &format!(" peakrate {} minburst {}", rate(c.peakrate), size(c.mtu as u64));
    }
    out
}

fn slot_options(slot: &netem::Slot) -> String {
    use netem::Every;
    let mut out = match slot.every {
        Every::Within(low, high) => format!(" slot {} {}", time(low), time(high)),
        Every::Spread(dist, delay, jitter) => {
            format!(" slot distribution {} {} {}", dist.name(), time(delay), time(jitter))
        }
    };
    for (name, n) in [("packets", slot.packets), ("bytes", slot.bytes)] {
        if n > 0 {
            out += &format!(" {name} {n}");
        }
    }
    out
}

fn netem_options(c: &netem::Config) -> String {
    use netem::Loss;
    let pair = |name: &str, (share, corr): (u32, u32)| match (share, corr) {
        (0, _) => String::new(),
        (share, 0) => format!(" {name} {}", percent(share)),
        (share, corr) => format!(" {name} {} {}", percent(share), percent(corr)),
    };
    let mut out = format!("limit {}", c.limit);
    if c.delay > 0 || c.jitter > 0 {
        out += &format!(" delay {}", time(c.delay));
        if c.jitter > 0 {
            out += &format!("  {}", time(c.jitter));
        }
        if c.delay_corr > 0 {
            out += &format!(" {}", percent(c.delay_corr));
        }
        if c.distribution != netem::Distribution::Uniform {
            out += &format!(" distribution {}", c.distribution.name());
        }
    }
    out += &match c.loss {
        Loss::None => String::new(),
        Loss::Random(share, corr) => pair("loss", (share, corr)),
        Loss::State { p13, p31, p32, p23, p14 } => {
            let [p13, p31, p32, p23, p14] = [p13, p31, p32, p23, p14].map(percent);
            format!(" loss state p13 {p13} p31 {p31} p32 {p32} p23 {p23} p14 {p14}")
        }
        Loss::GeModel { p, r, h, k1 } => {
            let [p, r, h1, k1] = [p, r, u32::MAX - h, k1].map(percent);
            format!(" loss gemodel p {p} r {r} 1-h {h1} 1-k {k1}")
        }
    };
    out += &pair("duplicate", c.duplicate);
    out += &pair("reorder", c.reorder);
    out += &pair("corrupt", c.corrupt);
    if c.rate > 0 {
        out += &format!(" rate {}", rate(c.rate));
        let more = [
            ("packetoverhead", c.overhead.into()),
            ("cellsize", i64::from(c.cell_size)),
            ("celloverhead", c.cell_overhead.into()),
        ];
        let given = more.iter().filter(|(_, n)| *n != 0);
        given.for_each(|(name, n)| out += &format!(" {name} {n}"));
    }
    if let Some(slot) = &c.slot {
        out += &slot_options(slot);
    }
    if c.ecn {
        out += " ecn";
    }
    if c.gap > 0 {
        out += &format!(" gap {}", c.gap);
    }
    if let Some(seed) = c.seed {
        out += &format!(" seed {seed}");
    }
    out
}
