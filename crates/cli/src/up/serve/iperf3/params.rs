//! What the client asks for, and the figures that it gets: the two JSON texts of a test.

use linerate_core::table::knob::{CcName, KnobValue};
use serde_json::{Value, json};

use super::STREAMS_MAX;

/// Bytes of the client's parameters at the most, as iperf3 has it.
pub(super) const PARAMS_MAX: usize = 8 * 1024;

/// Seconds of a test, and those that do not count, at the most.
const TIME_MAX: u64 = 86_400;
const OMIT_MAX: u64 = 600;
const BURST_MAX: u64 = 1000;
const WINDOW_MAX: u64 = 512 << 20;
const MSS_MAX: u64 = 32 * 1024 - 1;
/// Bytes of a block: of TCP, of a datagram.
const BLOCK_MAX: u64 = 1 << 20;
const DATAGRAM_MIN: u64 = 16;
const DATAGRAM_MAX: u64 = 65_507;
const BLOCK: u64 = 128 << 10;
const DATAGRAM: u64 = 1460;

/// Numbers that iperf3 gives its errors, told to the client with SERVER_ERROR.
pub(super) mod errno {
    pub const DURATION: u32 = 5;
    pub const NUM_STREAMS: u32 = 6;
    pub const BLOCK_SIZE: u32 = 7;
    pub const BUF_SIZE: u32 = 8;
    pub const MSS: u32 = 10;
    pub const OMIT: u32 = 12;
    pub const BURST: u32 = 15;
    pub const NO_SCTP: u32 = 17;
    pub const UDP_BLOCK_SIZE: u32 = 20;
    pub const BAD_TOS: u32 = 21;
    pub const REVERSE_BIDIR: u32 = 25;
    pub const MESSAGE: u32 = 110;
    pub const RECV_PARAMS: u32 = 114;
    pub const NO_MSG: u32 = 144;
}

/// What is to be tested.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Params {
    pub udp: bool,
    /// We send.
    pub reverse: bool,
    /// Both send, on streams of their own.
    pub both: bool,
    /// Streams in each direction.
    pub parallel: usize,
    /// Seconds; 0 = until the client has enough.
    pub time: u64,
    /// Seconds at the beginning that do not count.
    pub omit: u64,
    /// Bytes of a block, or of a datagram.
    pub len: usize,
    /// Bits a second of one stream that we send; 0 = as fast as it goes.
    pub rate: u64,
    /// Blocks sent together.
    pub burst: u64,
    /// Bytes of socket buffer asked for; 0 = none.
    pub window: usize,
    pub tos: u8,
    pub df: bool,
    /// Datagrams have numbers of 64 bits instead of 32.
    pub wide: bool,
    /// The congestion control asked for, if we have it.
    pub congestion: Option<CcName>,
    /// The bytes that we send, over and over.
    pub block: Vec<u8>,
}

impl Params {
    /// Reads what a client sent.
    ///
    /// # Errors
    /// iperf3's number for what is wrong with it.
    pub(super) fn read(text: &[u8]) -> Result<Params, u32> {
        let json: Value = serde_json::from_slice(text).map_err(|_| errno::RECV_PARAMS)?;
        if !json.is_object() {
            return Err(errno::RECV_PARAMS);
        }
        let is = |name: &str| json.get(name).and_then(Value::as_bool) == Some(true);
        let number = |name: &str, most: u64, wrong: u32| match json.get(name) {
            Some(value) => whole(value).filter(|n| *n <= most).ok_or(wrong),
            None => Ok(0),
        };
        if is("sctp") {
            return Err(errno::NO_SCTP);
        }
        let udp = is("udp");
        let (least, most, plain, wrong) = match udp {
            true => (DATAGRAM_MIN, DATAGRAM_MAX, DATAGRAM, errno::UDP_BLOCK_SIZE),
            false => (1, BLOCK_MAX, BLOCK, errno::BLOCK_SIZE),
        };
        let len = match number("len", most, wrong)? {
            0 => plain,
            len if len < least => return Err(wrong),
            len => len,
        };
        let parallel = match json.get("parallel") {
            Some(_) => number("parallel", STREAMS_MAX as u64, errno::NUM_STREAMS)?,
            None => 1,
        };
        if parallel == 0 {
            return Err(errno::NUM_STREAMS);
        }
        let (reverse, both) = (is("reverse"), is("bidirectional"));
        if reverse && both {
            return Err(errno::REVERSE_BIDIR);
        }
        number("MSS", MSS_MAX, errno::MSS)?;
        let congestion = json.get("congestion").and_then(Value::as_str);
        Ok(Params {
            udp,
            reverse,
            both,
            parallel: parallel as usize,
            time: number("time", TIME_MAX, errno::DURATION)?,
            omit: number("omit", OMIT_MAX, errno::OMIT)?,
            len: len as usize,
            rate: number("bandwidth", u64::MAX, errno::RECV_PARAMS)?,
            burst: number("burst", BURST_MAX, errno::BURST)?.max(1),
            window: number("window", WINDOW_MAX, errno::BUF_SIZE)? as usize,
            tos: number("TOS", 255, errno::BAD_TOS)? as u8,
            df: json.get("dont_fragment").and_then(whole).is_some_and(|n| n != 0),
            wide: json.get("udp_counters_64bit").is_some(),
            congestion: congestion.and_then(CcName::parse),
            block: block(json.get("repeating_payload").is_some()),
        })
    }

    /// Streams of all directions.
    pub(super) fn streams(&self) -> usize {
        if self.both { 2 * self.parallel } else { self.parallel }
    }

    /// Whether the client sends on the stream that it opened as this one, from 0. Of both directions
    /// it opens those first on which it sends.
    pub(super) fn receives(&self, at: usize) -> bool {
        if self.both { at < self.parallel } else { !self.reverse }
    }
}

/// A number without sign and fraction.
fn whole(value: &Value) -> Option<u64> {
    let exact = |n: &f64| (0.0..1.8e19).contains(n) && n.fract() == 0.0;
    value.as_u64().or_else(|| value.as_f64().filter(exact).map(|n| n as u64))
}

/// What we send: digits in turn, or what no link can compress.
fn block(digits: bool) -> Vec<u8> {
    const BYTES: usize = 64 << 10;
    if digits {
        return (b'0'..=b'9').cycle().take(BYTES).collect();
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut all = Vec::with_capacity(BYTES);
    while all.len() < BYTES {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all
}

/// What a stream counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub bytes: u64,
    pub packets: u64,
    pub lost: u64,
    pub retrans: u64,
}

/// What a stream's line of the results is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub sends: bool,
    pub now: Figures,
    /// What it had counted when the figures began anew.
    pub omitted: Figures,
    /// Seconds.
    pub jitter: f64,
}

/// What the whole test's results are made of.
pub(super) struct Summary<'a> {
    pub params: &'a Params,
    pub lines: &'a [Line],
    /// Seconds that count.
    pub seconds: f64,
    /// Percent of one processor: altogether, in user mode, in the kernel.
    pub cpu: [f64; 3],
    pub congestion: String,
}

/// The results as the client reads them.
pub(super) fn results(s: &Summary<'_>) -> Vec<u8> {
    let (udp, sends) = (s.params.udp, s.params.reverse || s.params.both);
    let streams = s.lines.iter().enumerate().map(|(i, line)| {
        let Line { now, omitted, .. } = line;
        let retrans = match line.sends && !udp {
            true => now.retrans.saturating_sub(omitted.retrans) as i64,
            false => -1,
        };
        json!({
            // iperf3 leaves out 2.
            "id": if i == 0 { 1 } else { i + 2 },
            "bytes": now.bytes.saturating_sub(omitted.bytes),
            "retransmits": retrans,
            "jitter": line.jitter,
            "errors": now.lost,
            "omitted_errors": omitted.lost,
            "packets": now.packets,
            "omitted_packets": omitted.packets,
            "start_time": 0,
            "end_time": s.seconds,
        })
    });
    let mut all = json!({
        "cpu_util_total": s.cpu[0],
        "cpu_util_user": s.cpu[1],
        "cpu_util_system": s.cpu[2],
        "sender_has_retransmits": if sends { i64::from(!udp) } else { -1 },
        "streams": streams.collect::<Vec<_>>(),
    });
    if !udp {
        all["congestion_used"] = json!(s.congestion);
    }
    all.to_string().into_bytes()
}
