//! A request's head, and why it may be refused.
//!
//! RFCs: 9112 §2–3, §6, §9.3; 9110 §14.2, §15

/// Headers at the most.
const HEADERS_MAX: usize = 100;

/// What may be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
}

/// A request that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// The path as it came, without query.
    pub(super) path: String,
    pub(super) keep_alive: bool,
    /// `Range`, if it can be honoured.
    pub(super) range: Option<Range>,
    /// `If-Modified-Since`, as it came.
    pub(super) since: Option<String>,
    /// Bytes of its head.
    pub(super) len: usize,
}

/// A range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// From the first to the last, or to the end.
    From(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Malformed,
    Method,
    Timeout,
    Body,
    Uri,
    Head,
    Internal,
    Busy,
    Version,
}

impl Refused {
    /// Status line, and a sentence.
    pub(super) fn says(self) -> (&'static str, &'static str) {
        match self {
            Refused::Malformed => ("400 Bad Request", "The request can not be read.\n"),
            Refused::Method => ("405 Method Not Allowed", "Files can be read, nothing else.\n"),
            Refused::Timeout => ("408 Request Timeout", "The request took too long.\n"),
            Refused::Body => ("413 Content Too Large", "Nothing is taken here.\n"),
            Refused::Uri => ("414 URI Too Long", "The address is too long.\n"),
            Refused::Head => {
                ("431 Request Header Fields Too Large", "The request's head is too long.\n")
            }
            Refused::Internal => ("500 Internal Server Error", "It is our fault.\n"),
            Refused::Busy => ("503 Service Unavailable", "Too many at once: come again.\n"),
            Refused::Version => ("505 HTTP Version Not Supported", "HTTP/1.0 or 1.1, please.\n"),
        }
    }
}

/// Reads a request's head from the front of `bytes`; `None` if it is not whole yet.
///
/// # Errors
/// Why it is refused.
pub(super) fn parse(bytes: &[u8], head_max: usize) -> Result<Option<Asked>, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= head_max => len,
        Ok(httparse::Status::Partial) if bytes.len() <= head_max => return Ok(None),
        Ok(_) => {
            let line_ends = bytes.contains(&b'\n');
            return Err(if line_ends { Refused::Head } else { Refused::Uri });
        }
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::Head),
        Err(httparse::Error::Version) => return Err(Refused::Version),
        Err(_) => return Err(Refused::Malformed),
    };
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        _ => return Err(Refused::Method),
    };
    let modern = request.version == Some(1);
    let mut asked = Asked {
        method,
        path: path(request.path.unwrap_or_default()).ok_or(Refused::Malformed)?,
        keep_alive: modern,
        range: None,
        since: None,
        len,
    };
    let mut hosts = 0;
    for header in request.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            hosts += 1;
        } else if is("connection") {
            let has = |w: &str| value.split(',').any(|v| v.trim().eq_ignore_ascii_case(w));
            asked.keep_alive = !has("close") && (modern || has("keep-alive"));
        } else if is("transfer-encoding") || (is("content-length") && value != "0") {
            return Err(Refused::Body);
        } else if is("range") {
            asked.range = range(value);
        } else if is("if-modified-since") {
            asked.since = Some(value.to_owned());
        }
    }
    // RFC 9112 §3.2: exactly one, in HTTP/1.1.
    if hosts > 1 || (modern && hosts == 0) {
        return Err(Refused::Malformed);
    }
    Ok(Some(asked))
}

/// The path of a request's target: also of one that names the host, as proxies are asked.
fn path(target: &str) -> Option<String> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let path = path.split(['?', '#']).next()?;
    path.starts_with('/').then(|| path.to_owned())
}

/// A single range; several, or other units, count as none (RFC 9110 §14.2).
fn range(value: &str) -> Option<Range> {
    let (first, last) = value.strip_prefix("bytes=")?.trim().split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", last) => last.parse().ok().map(Range::Last),
        (first, "") => first.parse().ok().map(|f| Range::From(f, None)),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(Range::From(first, Some(last)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> Asked {
        parse(text.as_bytes(), 8192).expect("no refusal").expect("it is whole")
    }

    #[test]
    fn a_request_is_read_and_its_length_told() {
        let text = "GET /a%20b?x=1 HTTP/1.1\r\nHost: h\r\nRange: bytes=5-9\r\n\r\n";
        let got = good(&format!("{text}GET / HTTP/1.1\r\n"));
        assert_eq!((got.path.as_str(), got.len, got.keep_alive), ("/a%20b", text.len(), true));
        assert_eq!(got.range, Some(Range::From(5, Some(9))));
        assert!(!good("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(good("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
        assert!(!good("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").keep_alive);
        assert_eq!(good("HEAD http://h:80 HTTP/1.1\r\nHost: h\r\n\r\n").path, "/");
    }

    #[test]
    fn what_is_refused_is_refused_by_its_reason() {
        let refused = |text: &str| parse(text.as_bytes(), 8192).expect_err(text);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Refused::Malformed, "no host");
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Refused::Malformed);
        assert_eq!(refused("\0\0 / HTTP/1.1\r\n\r\n"), Refused::Malformed);
        assert_eq!(refused("GET nothing HTTP/1.1\r\nHost: h\r\n\r\n"), Refused::Malformed);
        assert_eq!(refused("GET / HTTP/2.0\r\n\r\n"), Refused::Version);
        assert_eq!(refused("PUT / HTTP/1.1\r\nHost: h\r\n\r\n"), Refused::Method);
        let body = "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(refused(body), Refused::Body);
        let many = "X: y\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Refused::Head);
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(9000));
        assert_eq!(refused(&long), Refused::Head);
        assert_eq!(refused(&format!("GET /{}", "y".repeat(9000))), Refused::Uri);
    }

    #[test]
    fn every_beginning_of_a_request_is_one_that_is_not_whole() {
        let text = "GET /index.html HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..cut], 8192), Ok(None), "{cut}");
        }
    }

    #[test]
    fn ranges_that_are_none_are_passed_over() {
        assert_eq!(range("bytes=-5"), Some(Range::Last(5)));
        assert_eq!(range("bytes=7-"), Some(Range::From(7, None)));
        for odd in ["bytes=9-5", "bytes=0-1,5-6", "lines=1-2", "bytes=", "bytes=-", "bytes=a-b"] {
            assert_eq!(range(odd), None, "{odd}");
        }
    }
}
