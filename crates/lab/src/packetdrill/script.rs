//! What a script says, as data.

use std::fmt;

/// Whose stack runs a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Ours.
    Linerate,
    /// The running kernel's.
    Linux,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Who::Linerate => "linerate",
            Who::Linux => "linux",
        })
    }
}

/// A whole script.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its path, as it is told in errors.
    pub file: String,
    /// What it shows: its first comment.
    pub goal: String,
    /// Where and why Linux does another thing (`// differs: …`).
    pub differs: Option<String>,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// How far from its time an event may be, in microseconds; `None` = as the runner does.
    pub tolerance_us: Option<i64>,
    /// Knobs that are set before anything else, by their Linux names.
    pub knobs: Vec<Knob>,
    /// What happens, in order.
    pub events: Vec<Event>,
}

/// A knob and its value, as `sysctl -w` takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    /// Such as `net.ipv4.tcp_sack`.
    pub path: String,
    /// Such as `0`, or three numbers.
    pub value: String,
}

/// When an event happens; microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// `1.5`: from the beginning.
    At(i64),
    /// `+.1`: after the event before.
    After(i64),
    /// `*`
    Any,
    /// `0~1`
    Between(i64, i64),
    /// `+0~+1`
    AfterBetween(i64, i64),
}

/// One line of a script.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its line in the file.
    pub line: usize,
    /// The line, without its time and comment.
    pub text: String,
    /// When.
    pub when: When,
    /// Only there, if it says so (`// linux only`).
    pub only: Option<Who>,
    /// Comments that stand before it.
    pub lead: Vec<String>,
    /// What.
    pub action: Action,
}

/// What an event does.
#[derive(Clone, Debug)]
pub enum Action {
    /// A packet that the script sends to the stack (`<`).
    Inject(Packet),
    /// A packet that the stack must send (`>`).
    Expect(Packet),
    /// A system call.
    Call(Syscall),
    /// Knobs that change during the run.
    Knobs(Vec<Knob>),
    /// What TCP_INFO must say.
    Assert(Vec<Assert>),
}

/// The two bits of RFC 3168 in the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    /// 00
    Not,
    /// 10
    Ect0,
    /// 01
    Ect1,
    /// 11
    Ce,
}

impl Ecn {
    /// As it stands in the header.
    pub fn bits(self) -> u8 {
        match self {
            Ecn::Not => 0,
            Ecn::Ect1 => 1,
            Ecn::Ect0 => 2,
            Ecn::Ce => 3,
        }
    }
    /// From the header.
    pub fn from_bits(bits: u8) -> Ecn {
        [Ecn::Not, Ecn::Ect1, Ecn::Ect0, Ecn::Ce][usize::from(bits & 3)]
    }
}

impl fmt::Display for Ecn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ecn::Not => "noecn",
            Ecn::Ect0 => "ect0",
            Ecn::Ect1 => "ect1",
            Ecn::Ce => "ce",
        })
    }
}

/// A packet as a script writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// `[ect0]`; `None` in an expectation = not looked at.
    pub ecn: Option<Ecn>,
    /// What it carries.
    pub body: Body,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A TCP segment.
    Tcp(Segment),
    /// An ICMP error that quotes a segment of ours.
    Icmp(Icmp),
}

/// A TCP segment; numbers are relative to the connection's first.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// `40001 > 8080`; `None` = the connection that the script is about.
    pub ports: Option<(u16, u16)>,
    /// The control bits of the header.
    pub flags: u8,
    /// First sequence number.
    pub seq: u32,
    /// Bytes of payload.
    pub len: u16,
    /// Acknowledgement number.
    pub ack: Option<u32>,
    /// The window as it stands in the header; `None` in an expectation = not looked at.
    pub win: Option<u16>,
    /// Urgent pointer.
    pub urg: u16,
    /// Options in order; `None` (`<...>`) = not looked at.
    pub options: Option<Vec<Opt>>,
}

/// A TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opt {
    /// `nop`
    Nop,
    /// `eol`
    Eol,
    /// `mss 1460`
    Mss(u16),
    /// `wscale 7`
    Wscale(u8),
    /// `sackOK`
    SackOk,
    /// `sack 1001:2001 …`
    Sack(Vec<(u32, u32)>),
    /// `TS val 100 ecr 0`; `None` (`...`) = not looked at.
    Ts(Option<u32>, Option<u32>),
    /// `FO 0123456789abcdef`; empty = a request.
    FastOpen(Vec<u8>),
    /// `md5`: a signature by the key `secret`; `md5wrong`: one that is wrong.
    Md5(bool),
    /// Any other, by its kind and its bytes.
    Other(u8, Vec<u8>),
}

/// An ICMP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// The type in the header.
    pub kind: u8,
    /// The code in the header.
    pub code: u8,
    /// The two words of type and code, as the script has them.
    pub words: String,
    /// `mtu 1200`
    pub mtu: Option<u32>,
    /// The first sequence number of the quoted segment, and its bytes.
    pub quoted: (u32, u16),
}

/// An argument or a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A number, or names of constants joined by `|`.
    Int(i64),
    /// `"cubic"`
    Str(String),
    /// `...`
    Ellipsis,
    /// `?`: to be learnt.
    Learn,
    /// `[1]`
    List(Vec<Expr>),
    /// `{fd=3, events=POLLIN}`, or `{1, 0}` with empty names.
    Struct(Vec<(String, Expr)>),
}

impl Expr {
    /// The number that it is, also as the only one of a list.
    pub fn int(&self) -> Option<i64> {
        match self {
            Expr::Int(n) => Some(*n),
            Expr::List(list) if list.len() == 1 => list[0].int(),
            _ => None,
        }
    }
    /// A field of a struct.
    pub fn field(&self, name: &str) -> Option<&Expr> {
        let Expr::Struct(fields) = self else { return None };
        fields.iter().find(|(n, _)| n == name).map(|(_, e)| e)
    }
}

/// A system call with what it must return.
#[derive(Clone, Debug)]
pub struct Syscall {
    /// Such as `write`.
    pub name: String,
    /// As the script has them.
    pub args: Vec<Expr>,
    /// The result.
    pub result: Expr,
    /// With a result of -1: the errno's name, such as `EAGAIN`.
    pub errno: Option<String>,
    /// It blocks, and returns then.
    pub end: Option<When>,
}

/// One comparison with a field of TCP_INFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assert {
    /// Such as `tcpi_snd_cwnd`, or a counter of the stack, such as `TcpExtTCPTimeouts`.
    pub field: String,
    /// `==`, `!=`, `<`, `<=`, `>`, `>=`
    pub op: String,
    /// The other side; `None` = to be learnt (`?`).
    pub value: Option<i64>,
}

impl Assert {
    /// Whether `have` is as asked.
    pub fn holds(&self, have: i64) -> bool {
        let Some(want) = self.value else { return true };
        match self.op.as_str() {
            "==" => have == want,
            "!=" => have != want,
            "<" => have < want,
            "<=" => have <= want,
            ">" => have > want,
            _ => have >= want,
        }
    }
}
