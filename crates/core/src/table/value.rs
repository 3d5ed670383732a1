//! What the values of knobs are made of, and how they are written.

/// What a knob's value looks like.
pub trait KnobValue: Sized + Clone + PartialEq {
    /// Reads a value as `sysctl -w` would.
    fn parse(text: &str) -> Option<Self>;
    /// Writes it as `sysctl` prints it.
    fn show(&self) -> String;
    /// Whether it lies in `low..=high`.
    fn in_range(&self, low: u64, high: u64) -> bool;
}

impl KnobValue for u64 {
    fn parse(text: &str) -> Option<u64> {
        text.trim().parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn in_range(&self, low: u64, high: u64) -> bool {
        (low..=high).contains(self)
    }
}

impl KnobValue for bool {
    fn parse(text: &str) -> Option<bool> {
        match text.trim() {
            "1" | "on" | "true" => Some(true),
            "0" | "off" | "false" => Some(false),
            _ => None,
        }
    }
    fn show(&self) -> String {
        (*self as u8).to_string()
    }
    fn in_range(&self, _: u64, _: u64) -> bool {
        true
    }
}

impl KnobValue for [u64; 3] {
    fn parse(text: &str) -> Option<[u64; 3]> {
        let mut words = text.split([' ', '\t', ',']).filter(|w| !w.is_empty());
        let mut next = || words.next()?.parse().ok();
        let three = [next()?, next()?, next()?];
        words.next().is_none().then_some(three)
    }
    fn show(&self) -> String {
        format!("{}\t{}\t{}", self[0], self[1], self[2])
    }
    fn in_range(&self, low: u64, high: u64) -> bool {
        self.iter().all(|v| (low..=high).contains(v)) && self[0] <= self[1] && self[1] <= self[2]
    }
}

/// A set of processors or queues, written as sysfs writes it: hexadecimal, in groups of 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(pub u64);

impl Mask {
    /// Whether number `n` is in it.
    #[inline]
    pub fn has(self, n: usize) -> bool {
        n < 64 && self.0 >> n & 1 == 1
    }
    /// Its members, in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64u8).filter(move |n| self.has(*n as usize))
    }
}

impl KnobValue for Mask {
    fn parse(text: &str) -> Option<Mask> {
        let text = text.trim();
        let digits: String = text.strip_prefix("0x").unwrap_or(text).split(',').collect();
        u64::from_str_radix(&digits, 16).ok().map(Mask)
    }
    fn show(&self) -> String {
        match self.0 >> 32 {
            0 => format!("{:x}", self.0),
            high => format!("{high:x},{:08x}", self.0 as u32),
        }
    }
    fn in_range(&self, low: u64, high: u64) -> bool {
        (low..=high).contains(&self.0)
    }
}

/// Shares of the queues in the indirection table (`ethtool -X weight`); none given: all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    shares: [u16; 64],
    len: u8,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { shares: [0; 64], len: 0 }
    }
}

impl Weights {
    /// The share of each queue, from the first on; empty = all alike.
    pub fn shares(&self) -> &[u16] {
        &self.shares[..self.len as usize]
    }
}

impl KnobValue for Weights {
    fn parse(text: &str) -> Option<Weights> {
        let mut weights = Weights::default();
        if text.trim() == "equal" {
            return Some(weights);
        }
        for word in text.split([' ', '\t', ',']).filter(|w| !w.is_empty()) {
            *weights.shares.get_mut(weights.len as usize)? = word.parse().ok()?;
            weights.len += 1;
        }
        // Somebody must get the packets.
        (weights.shares().iter().any(|w| *w > 0)).then_some(weights)
    }
    fn show(&self) -> String {
        if self.len == 0 {
            return "equal".to_owned();
        }
        let words: Vec<String> = self.shares().iter().map(u16::to_string).collect();
        words.join(" ")
    }
    fn in_range(&self, low: u64, high: u64) -> bool {
        self.shares().iter().all(|w| (low..=high).contains(&(*w as u64)))
    }
}

/// What of a packet goes into its flow hash (`ethtool -N DEV rx-flow-hash TYPE`): `s` and `d` are the
/// addresses, `f` and `n` the ports, source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashFields {
    /// Source address.
    pub s: bool,
    /// Destination address.
    pub d: bool,
    /// Source port.
    pub f: bool,
    /// Destination port.
    pub n: bool,
}

impl HashFields {
    /// Both addresses and both ports.
    pub const ALL: HashFields = HashFields { s: true, d: true, f: true, n: true };
}

impl KnobValue for HashFields {
    fn parse(text: &str) -> Option<HashFields> {
        let text = text.trim();
        let known = text.chars().all(|c| "sdfn".contains(c)) && !text.is_empty();
        let has = |c: char| text.contains(c);
        known.then(|| HashFields { s: has('s'), d: has('d'), f: has('f'), n: has('n') })
    }
    fn show(&self) -> String {
        let letters = [(self.s, 's'), (self.d, 'd'), (self.f, 'f'), (self.n, 'n')];
        letters.iter().filter(|(on, _)| *on).map(|(_, c)| *c).collect()
    }
    fn in_range(&self, _: u64, _: u64) -> bool {
        true
    }
}

/// Congestion control algorithms that exist here (`net.ipv4.tcp_available_congestion_control`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CcName {
    /// RFC 9438.
    Cubic,
    /// RFC 5681.
    Reno,
    /// RFC 8257.
    Dctcp,
    /// draft-ietf-ccwg-bbr: version 3.
    Bbr,
}

impl CcName {
    /// All that there are, as Linux sorts them: the one that needs nothing first.
    pub const ALL: [CcName; 4] = [CcName::Reno, CcName::Cubic, CcName::Bbr, CcName::Dctcp];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            CcName::Cubic => "cubic",
            CcName::Reno => "reno",
            CcName::Dctcp => "dctcp",
            CcName::Bbr => "bbr",
        }
    }
    /// It wants its packets marked, whatever `tcp_ecn` says (`TCP_CONG_NEEDS_ECN`).
    pub fn needs_ecn(self) -> bool {
        self == CcName::Dctcp
    }
}

impl KnobValue for CcName {
    fn parse(text: &str) -> Option<CcName> {
        CcName::ALL.into_iter().find(|cc| cc.name() == text.trim())
    }
    fn show(&self) -> String {
        self.name().to_owned()
    }
    fn in_range(&self, _: u64, _: u64) -> bool {
        true
    }
}

/// Several congestion control algorithms (`net.ipv4.tcp_allowed_congestion_control`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CcNames(u8);

impl CcNames {
    /// All but DCTCP, which takes more than its share where routers do not mark early.
    pub const UNRESTRICTED: CcNames = CcNames(!(1 << CcName::Dctcp as u8));

    /// Whether it is one of them.
    pub fn has(self, name: CcName) -> bool {
        self.0 & 1 << name as u8 != 0
    }
}

impl KnobValue for CcNames {
    fn parse(text: &str) -> Option<CcNames> {
        let mut bits = 0;
        for name in text.split_whitespace() {
            bits |= 1 << CcName::parse(name)? as u8;
        }
        (bits > 0).then_some(CcNames(bits))
    }
    fn show(&self) -> String {
        let names = CcName::ALL.into_iter().filter(|name| self.has(*name));
        names.map(CcName::name).collect::<Vec<_>>().join(" ")
    }
    fn in_range(&self, _: u64, _: u64) -> bool {
        true
    }
}

/// All congestion control algorithms that exist here: a knob that is only read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CcAvailable;

impl KnobValue for CcAvailable {
    /// What it is already.
    fn parse(text: &str) -> Option<CcAvailable> {
        let same = text.split_whitespace().eq(CcName::ALL.into_iter().map(CcName::name));
        same.then_some(CcAvailable)
    }
    fn show(&self) -> String {
        CcName::ALL.map(CcName::name).join(" ")
    }
    fn in_range(&self, _: u64, _: u64) -> bool {
        true
    }
}

/// A queueing discipline that a device may have without being told parameters, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultQdisc(&'static str);

impl DefaultQdisc {
    /// What a device has if nobody says anything.
    pub const PFIFO_FAST: DefaultQdisc = DefaultQdisc("pfifo_fast");
    /// All that there are.
    const NAMES: [&'static str; 7] =
        ["pfifo_fast", "pfifo", "bfifo", "sfq", "codel", "fq", "fq_codel"];
    /// Its name.
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl KnobValue for DefaultQdisc {
    fn parse(text: &str) -> Option<DefaultQdisc> {
        let found = DefaultQdisc::NAMES.iter().find(|name| **name == text.trim());
        found.map(|name| DefaultQdisc(name))
    }
    fn show(&self) -> String {
        self.0.to_owned()
    }
    fn in_range(&self, _: u64, _: u64) -> bool {
        true
    }
}

/// Keys of Fast Open: none, one, or two with a comma between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FastOpenKeys(pub Vec<[u64; 2]>);

impl KnobValue for FastOpenKeys {
    fn parse(text: &str) -> Option<FastOpenKeys> {
        let key = |text: &str| {
            let words: Option<Vec<u32>> = text
                .split('-')
                .map(|word| u32::from_str_radix(word.trim(), 16).ok().filter(|_| word.len() <= 8))
                .collect();
            let [a, b, c, d] = *words?.as_slice() else { return None };
            let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
            Some([join(a, b), join(c, d)])
        };
        let text = text.trim();
        if text.is_empty() {
            return Some(FastOpenKeys::default());
        }
        let keys: Vec<[u64; 2]> = text.split(',').map(key).collect::<Option<_>>()?;
        (keys.len() <= 2).then_some(FastOpenKeys(keys))
    }
    fn show(&self) -> String {
        let word = |n: u64| format!("{:08x}-{:08x}", n as u32, n >> 32);
        let key = |key: &[u64; 2]| format!("{}-{}", word(key[0]), word(key[1]));
        self.0.iter().map(key).collect::<Vec<_>>().join(",")
    }
    fn in_range(&self, _: u64, _: u64) -> bool {
        true
    }
}
