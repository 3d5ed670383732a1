//! `struct ifreq`: the argument of the interface ioctls.

use std::io;

/// An all-zero `ifreq` that carries `name`, NUL-terminated.
///
/// # Errors
/// `EINVAL` if the name is empty where one is required by the caller, has a NUL or a `/` in it, or
/// is longer than 15 bytes (`IFNAMSIZ` with its terminator).
pub(super) fn with_name(name: &str) -> io::Result<libc::ifreq> {
    let bytes = name.as_bytes();
    if bytes.len() >= libc::IFNAMSIZ || bytes.iter().any(|&b| b == 0 || b == b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `ifreq` is plain data (byte arrays, integers and one raw pointer); all-zero is a
    // valid value of it, with a null pointer nobody follows.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, &from) in req.ifr_name.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(req)
}

/// The name the kernel left in `req`.
pub(super) fn name(req: &libc::ifreq) -> String {
    let bytes: Vec<u8> =
        req.ifr_name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_long_ones_are_refused() {
        assert_eq!(name(&with_name("tun0").unwrap()), "tun0");
        assert_eq!(name(&with_name("abcdefghijklmno").unwrap()), "abcdefghijklmno");
        for bad in ["abcdefghijklmnop", "a/b", "a\0b"] {
            let Err(err) = with_name(bad) else { panic!("{bad:?} was taken") };
            assert_eq!(err.raw_os_error(), Some(libc::EINVAL));
        }
    }
}
