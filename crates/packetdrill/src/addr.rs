//! `struct sockaddr` as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Errno;

/// Reads a `sockaddr_in` or `sockaddr_in6`; an IPv4-mapped address is IPv4. `None` is AF_UNSPEC.
///
/// # Errors
/// EINVAL if it is too short, EAFNOSUPPORT for other families.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<SocketAddr>, Errno> {
    let family = bytes.first_chunk().ok_or(libc::EINVAL)?;
    match u16::from_ne_bytes(*family) as i32 {
        libc::AF_INET => {
            let [_, _, p0, p1, a, b, c, d, ..] = *bytes else { return Err(libc::EINVAL) };
            let addr = Ipv4Addr::new(a, b, c, d);
            Ok(Some(SocketAddr::new(addr.into(), u16::from_be_bytes([p0, p1]))))
        }
        libc::AF_INET6 => {
            let port = bytes.get(2..4).and_then(|p| p.first_chunk()).ok_or(libc::EINVAL)?;
            let addr: &[u8; 16] =
                bytes.get(8..24).and_then(|a| a.first_chunk()).ok_or(libc::EINVAL)?;
            let addr = Ipv6Addr::from(*addr);
            let addr = match addr.to_ipv4_mapped() {
                Some(v4) => IpAddr::V4(v4),
                None => IpAddr::V6(addr),
            };
            Ok(Some(SocketAddr::new(addr, u16::from_be_bytes(*port))))
        }
        libc::AF_UNSPEC => Ok(None),
        _ => Err(libc::EAFNOSUPPORT),
    }
}

/// The address as a socket of `domain` tells it.
pub(crate) fn emit(addr: SocketAddr, domain: i32) -> Vec<u8> {
    let mut out = Vec::with_capacity(28);
    match (addr.ip(), domain) {
        (IpAddr::V4(ip), libc::AF_INET) => {
            out.extend((libc::AF_INET as u16).to_ne_bytes());
            out.extend(addr.port().to_be_bytes());
            out.extend(ip.octets());
            out.extend([0; 8]);
        }
        (ip, _) => {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            out.extend((libc::AF_INET6 as u16).to_ne_bytes());
            out.extend(addr.port().to_be_bytes());
            out.extend([0; 4]);
            out.extend(ip.octets());
            out.extend([0; 4]);
        }
    }
    out
}

/// No address, as an error queue's message of that level tells it (`SO_EE_OFFENDER`).
pub(crate) fn none(level: i32) -> &'static [u8] {
    // `struct sockaddr_in`, `struct sockaddr_in6`.
    if level == libc::SOL_IP { &[0; 16] } else { &[0; 28] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for (text, domain) in [("192.0.2.1:80", libc::AF_INET), ("[fd00::1]:443", libc::AF_INET6)] {
            let addr: SocketAddr = text.parse().expect("an address");
            assert_eq!(parse(&emit(addr, domain)), Ok(Some(addr)));
        }
        let addr: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        let mapped = emit(addr, libc::AF_INET6);
        assert_eq!(mapped.len(), 28);
        assert_eq!(parse(&mapped), Ok(Some(addr)));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert_eq!(parse(&[]), Err(libc::EINVAL));
        assert_eq!(parse(&[2, 0, 1]), Err(libc::EINVAL));
        assert_eq!(parse(&[10, 0, 1, 2, 3]), Err(libc::EINVAL));
        assert_eq!(parse(&[77, 0]), Err(libc::EAFNOSUPPORT));
        assert_eq!(parse(&[0, 0]), Ok(None));
    }
}
