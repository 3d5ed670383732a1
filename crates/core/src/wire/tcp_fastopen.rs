//! TCP's Fast Open option (RFC 7413 §4.1.1), and its forerunner in the experimental option (RFC 6994).
//! Linux: `tcp_parse_fastopen_option`, `tcp_options_write`.

/// Kind of the option.
const TCPOPT_FASTOPEN: u8 = 34;
/// Kind of the experimental option, and the magic that means Fast Open in it.
const TCPOPT_EXP: u8 = 254;
const TCPOPT_FASTOPEN_MAGIC: [u8; 2] = [0xf9, 0x89];
/// The shortest and the longest cookie in bytes.
const COOKIE_MIN: usize = 4;
/// The longest cookie in bytes.
pub const COOKIE_MAX: usize = 16;

/// A Fast Open cookie, or, empty, the wish for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastOpen {
    bytes: [u8; COOKIE_MAX],
    len: u8,
    /// It came, or is to go, in the experimental option.
    pub exp: bool,
}

impl FastOpen {
    /// The wish for a cookie.
    pub const fn request(exp: bool) -> FastOpen {
        FastOpen { bytes: [0; COOKIE_MAX], len: 0, exp }
    }
    /// A cookie of 4 to 16 bytes, an even number of them; `None` for others.
    #[must_use]
    pub fn cookie(bytes: &[u8], exp: bool) -> Option<FastOpen> {
        let valid =
            (COOKIE_MIN..=COOKIE_MAX).contains(&bytes.len()) && bytes.len().is_multiple_of(2);
        valid.then(|| {
            let mut all = [0; COOKIE_MAX];
            all[..bytes.len()].copy_from_slice(bytes);
            FastOpen { bytes: all, len: bytes.len() as u8, exp }
        })
    }
    /// The cookie's bytes; none = a wish for one.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
    /// The last option of this kind among the options of a SYN, if it is well formed.
    #[must_use]
    pub fn parse(options: &[u8]) -> Option<FastOpen> {
        let mut found = None;
        for (kind, data) in super::tcp_options::each(options) {
            let cookie = match (kind, data) {
                (TCPOPT_FASTOPEN, cookie) => Some((cookie, false)),
                (TCPOPT_EXP, [a, b, cookie @ ..]) if [*a, *b] == TCPOPT_FASTOPEN_MAGIC => {
                    Some((cookie, true))
                }
                _ => None,
            };
            match cookie {
                Some(([], exp)) => found = Some(FastOpen::request(exp)),
                Some((cookie, exp)) => found = FastOpen::cookie(cookie, exp).or(found),
                None => {}
            }
        }
        found
    }
    /// The option, filled up with NOPs to a multiple of four bytes: at most 20.
    #[must_use]
    pub fn option(&self) -> Vec<u8> {
        let mut out = match self.exp {
            true => vec![TCPOPT_EXP, 4 + self.len],
            false => vec![TCPOPT_FASTOPEN, 2 + self.len],
        };
        if self.exp {
            out.extend(TCPOPT_FASTOPEN_MAGIC);
        }
        out.extend(self.bytes());
        out.resize(out.len().next_multiple_of(4), 1);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_back_as_they_went() {
        for exp in [false, true] {
            let request = FastOpen::request(exp);
            assert_eq!(FastOpen::parse(&request.option()), Some(request));
            let cookie = FastOpen::cookie(b"abcdefgh", exp).expect("eight bytes");
            assert_eq!(cookie.option().len() % 4, 0);
            assert_eq!(FastOpen::parse(&cookie.option()), Some(cookie));
        }
        assert_eq!(FastOpen::request(false).option(), [34, 2, 1, 1]);
        assert_eq!(FastOpen::request(true).option(), [254, 4, 0xf9, 0x89]);
    }

    #[test]
    fn what_is_no_cookie_is_passed_over() {
        assert_eq!(FastOpen::cookie(b"abc", false), None);
        assert_eq!(FastOpen::cookie(b"abcde", false), None);
        assert_eq!(FastOpen::cookie(&[0; 18], false), None);
        assert_eq!(FastOpen::parse(&[34, 5, 1, 2, 3]), None);
        assert_eq!(FastOpen::parse(&[34]), None);
        assert_eq!(FastOpen::parse(&[34, 0, 34, 2]), None);
        assert_eq!(FastOpen::parse(&[254, 4, 0, 0]), None);
        assert_eq!(FastOpen::parse(&[0, 34, 2]), None);
    }
}
