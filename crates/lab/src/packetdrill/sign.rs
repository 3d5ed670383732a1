//! The signatures of RFC 2385, of a segment as bytes.

use std::net::IpAddr;

use md5::{Digest, Md5};

use super::wire::octets;

/// The key by which scripts sign: their sockets are given the same.
const KEY: &[u8] = b"secret";

/// The digest of a segment whose options end at `hlen`.
pub(super) fn signature((from, to): (IpAddr, IpAddr), tcp: &[u8], hlen: usize) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(octets(from));
    md5.update(octets(to));
    let len = tcp.len() as u32;
    if from.is_ipv4() {
        md5.update([0, 6]);
        md5.update((len as u16).to_be_bytes());
    } else {
        md5.update(len.to_be_bytes());
        md5.update([0, 0, 0, 6]);
    }
    md5.update(&tcp[..16]);
    md5.update([0, 0]);
    md5.update(&tcp[18..20]);
    md5.update(&tcp[hlen..]);
    md5.update(KEY);
    md5.finalize().into()
}
