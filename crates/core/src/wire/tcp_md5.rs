//! TCP's signature option (RFC 2385 §3.0). Linux: `tcp_parse_md5sig_option`, `tcp_options_write`.

use super::tcp_options::each;

/// Kind of the option.
pub(super) const TCPOPT_MD5SIG: u8 = 19;
/// Bytes of the digest.
const DIGEST: usize = 16;
/// Bytes that the option takes, with two NOPs before it.
pub const TCPOLEN_MD5SIG_ALIGNED: usize = 20;

/// The digest among a segment's options.
#[must_use]
pub fn signature(options: &[u8]) -> Option<[u8; DIGEST]> {
    each(options).find_map(|(kind, data)| data.try_into().ok().filter(|_| kind == TCPOPT_MD5SIG))
}

/// Writes the option behind two NOPs.
///
/// # Panics
///
/// If `out` is shorter than 20 bytes: the caller owns the buffer.
pub fn emit(digest: &[u8; DIGEST], out: &mut [u8]) {
    out[..4].copy_from_slice(&[1, 1, TCPOPT_MD5SIG, 18]);
    out[4..TCPOLEN_MD5SIG_ALIGNED].copy_from_slice(digest);
}
