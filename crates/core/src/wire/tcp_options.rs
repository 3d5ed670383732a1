//! The options of TCP (RFC 9293 §3.2, RFC 7323, RFC 2018). Linux: `tcp_parse_options`,
//! `tcp_options_write`.

use super::tcp_md5::TCPOPT_MD5SIG;

/// Most bytes of options.
pub const TCP_OPTIONS_MAX: usize = 40;
/// Most SACK blocks in one segment.
pub const SACK_BLOCKS_MAX: usize = 4;
/// The largest shift that a window scale option may ask for (RFC 7323 §2.3). Linux:
/// `TCP_MAX_WSCALE`.
pub const TCP_MAX_WSCALE: u8 = 14;

/// SACK blocks: left edge, right edge (RFC 2018 §3), in the order of the option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [(u32, u32); SACK_BLOCKS_MAX],
    len: u8,
}

impl SackBlocks {
    /// None.
    pub const NONE: SackBlocks = SackBlocks { blocks: [(0, 0); SACK_BLOCKS_MAX], len: 0 };

    /// Adds a block; false if there are four already.
    #[inline]
    pub fn push(&mut self, left: u32, right: u32) -> bool {
        let Some(slot) = self.blocks.get_mut(usize::from(self.len)) else { return false };
        *slot = (left, right);
        self.len += 1;
        true
    }

    /// The blocks.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[(u32, u32)] {
        self.blocks.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Number of blocks, 0..=4.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl FromIterator<(u32, u32)> for SackBlocks {
    /// The first four.
    fn from_iter<I: IntoIterator<Item = (u32, u32)>>(blocks: I) -> SackBlocks {
        let mut all = SackBlocks::NONE;
        for (left, right) in blocks.into_iter().take(SACK_BLOCKS_MAX) {
            all.push(left, right);
        }
        all
    }
}

/// The options that are understood. Linux: `struct tcp_options_received`, `struct tcp_out_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size in bytes, never 0. Counts on a SYN only.
    pub mss: Option<u16>,
    /// Window scale, 0..=14 (a larger one is read as 14). Counts on a SYN only.
    pub wscale: Option<u8>,
    /// SACK permitted. Counts on a SYN only.
    pub sack_permitted: bool,
    /// Timestamps: value and echo reply.
    pub ts: Option<(u32, u32)>,
    /// Selective acknowledgments.
    pub sack: SackBlocks,
    /// A signature came with them (RFC 2385); it is read, and written, by [`super::tcp_md5`].
    pub signed: bool,
}

const TCPOPT_EOL: u8 = 0;
const TCPOPT_NOP: u8 = 1;
const TCPOPT_MSS: u8 = 2;
const TCPOPT_WINDOW: u8 = 3;
const TCPOPT_SACK_PERM: u8 = 4;
const TCPOPT_SACK: u8 = 5;
const TCPOPT_TIMESTAMP: u8 = 8;
pub(crate) const TCPOLEN_TSTAMP_ALIGNED: usize = 12;
const TCPOLEN_SACK_BASE_ALIGNED: usize = 4;
const TCPOLEN_SACK_PERBLOCK: usize = 8;

/// The options with their kinds and data, as far as their lengths are possible.
#[inline]
pub(super) fn each(options: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = options;
    std::iter::from_fn(move || {
        while let &[kind, ref after @ ..] = rest {
            match kind {
                TCPOPT_EOL => return None,
                TCPOPT_NOP => rest = after,
                _ => {
                    let (opt, next) = rest.split_at_checked(usize::from(*after.first()?))?;
                    let &[_, _, ref data @ ..] = opt else { return None };
                    rest = next;
                    return Some((kind, data));
                }
            }
        }
        None
    })
}

impl TcpOptions {
    /// No options.
    pub const NONE: TcpOptions = TcpOptions {
        mss: None,
        wscale: None,
        sack_permitted: false,
        ts: None,
        sack: SackBlocks::NONE,
        signed: false,
    };

    /// Reads options as tolerantly as the kernel does: unknown ones and known ones of a wrong size
    /// are passed over, an impossible length ends the reading, and of two equal ones the last
    /// counts. Linux: `tcp_parse_options`.
    #[inline]
    #[must_use]
    pub fn parse(options: &[u8]) -> TcpOptions {
        // The layout of nearly every segment of a connection: NOP NOP timestamp. Linux:
        // `tcp_parse_aligned_timestamp`.
        if let Some(ts) = Self::parse_aligned_timestamp(options)
            && options.len() == TCPOLEN_TSTAMP_ALIGNED
        {
            return TcpOptions { ts: Some(ts), ..TcpOptions::NONE };
        }
        if options.is_empty() { TcpOptions::NONE } else { Self::parse_all(options) }
    }

    /// The timestamps, if the options begin with NOP NOP timestamp. Linux:
    /// `tcp_parse_aligned_timestamp`.
    #[inline]
    #[must_use]
    pub fn parse_aligned_timestamp(options: &[u8]) -> Option<(u32, u32)> {
        match *options.first_chunk::<TCPOLEN_TSTAMP_ALIGNED>()? {
            [TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, 10, a, b, c, d, e, f, g, h] => {
                Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
            }
            _ => None,
        }
    }

    fn parse_all(options: &[u8]) -> TcpOptions {
        let mut found = TcpOptions::NONE;
        for (kind, data) in each(options) {
            match (kind, data) {
                (TCPOPT_MSS, &[a, b]) => {
                    // Zero is no size: as if it had not been sent.
                    found.mss =
                        Some(u16::from_be_bytes([a, b])).filter(|&mss| mss != 0).or(found.mss);
                }
                (TCPOPT_WINDOW, &[shift]) => found.wscale = Some(shift.min(TCP_MAX_WSCALE)),
                (TCPOPT_SACK_PERM, &[]) => found.sack_permitted = true,
                (TCPOPT_TIMESTAMP, &[a, b, c, d, e, f, g, h]) => {
                    found.ts =
                        Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
                }
                (TCPOPT_SACK, blocks) => {
                    let (pairs, odd) = blocks.as_chunks::<TCPOLEN_SACK_PERBLOCK>();
                    if odd.is_empty() && !pairs.is_empty() {
                        found.sack = pairs.iter().map(|pair| block(*pair)).collect();
                    }
                }
                (TCPOPT_MD5SIG, data) if data.len() == 16 => found.signed = true,
                _ => {}
            }
        }
        found
    }

    /// Bytes that [`emit`](TcpOptions::emit) writes, 0..=40, a multiple of 4.
    #[inline]
    #[must_use]
    pub const fn emit_len(&self) -> usize {
        let fixed = self.fixed_len();
        match self.sack_fit(fixed) {
            0 => fixed,
            blocks => fixed + TCPOLEN_SACK_BASE_ALIGNED + blocks * TCPOLEN_SACK_PERBLOCK,
        }
    }

    /// Writes the options in Linux's layout: MSS; SACK-permitted with timestamps, or either behind
    /// two NOPs; NOP and window scale; two NOPs and as many SACK blocks as fit into 40 bytes (3
    /// beside timestamps). Returns the bytes written, a multiple of 4. Linux: `tcp_options_write`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than [`emit_len`](TcpOptions::emit_len): the caller owns the buffer.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> usize {
        // Nearly every segment of a connection: timestamps and nothing else, or nothing at all.
        if self.mss.is_none()
            && self.wscale.is_none()
            && !self.sack_permitted
            && self.sack.is_empty()
        {
            let Some((val, ecr)) = self.ts else { return 0 };
            let kind = u32::from_be_bytes([TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, 10]);
            let (words, _) = out[..TCPOLEN_TSTAMP_ALIGNED].as_chunks_mut::<4>();
            words.iter_mut().zip([kind, val, ecr]).for_each(|(to, word)| *to = word.to_be_bytes());
            return TCPOLEN_TSTAMP_ALIGNED;
        }
        self.emit_all(out)
    }

    fn emit_all(&self, out: &mut [u8]) -> usize {
        let len = self.emit_len();
        let mut words = out[..len].as_chunks_mut::<4>().0.iter_mut();
        let mut put = |word: [u8; 4]| {
            *words.next().expect("emit_len counts every word that emit writes") = word;
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put([TCPOPT_MSS, 4, a, b]);
        }
        let lead = if self.sack_permitted { [TCPOPT_SACK_PERM, 2] } else { [TCPOPT_NOP; 2] };
        if let Some((val, ecr)) = self.ts {
            put([lead[0], lead[1], TCPOPT_TIMESTAMP, 10]);
            put(val.to_be_bytes());
            put(ecr.to_be_bytes());
        } else if self.sack_permitted {
            put([TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK_PERM, 2]);
        }
        if let Some(shift) = self.wscale {
            put([TCPOPT_NOP, TCPOPT_WINDOW, 3, shift]);
        }
        let blocks = self.sack_fit(self.fixed_len());
        if blocks > 0 {
            put([TCPOPT_NOP, TCPOPT_NOP, TCPOPT_SACK, (2 + blocks * TCPOLEN_SACK_PERBLOCK) as u8]);
            for (left, right) in self.sack.as_slice().iter().take(blocks) {
                put(left.to_be_bytes());
                put(right.to_be_bytes());
            }
        }
        len
    }

    /// Bytes of everything but SACK blocks, at most 20.
    #[inline]
    const fn fixed_len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let wscale = if self.wscale.is_some() { 4 } else { 0 };
        let ts = match (self.ts, self.sack_permitted) {
            (Some(_), _) => TCPOLEN_TSTAMP_ALIGNED,
            (None, true) => 4,
            (None, false) => 0,
        };
        mss + wscale + ts
    }

    /// SACK blocks that fit behind `fixed` bytes.
    #[inline]
    const fn sack_fit(&self, fixed: usize) -> usize {
        let fit = (TCP_OPTIONS_MAX - TCPOLEN_SACK_BASE_ALIGNED - fixed) / TCPOLEN_SACK_PERBLOCK;
        if self.sack.len() < fit { self.sack.len() } else { fit }
    }
}

/// One SACK block.
#[inline]
fn block([a, b, c, d, e, f, g, h]: [u8; 8]) -> (u32, u32) {
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}
