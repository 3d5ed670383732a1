//! The demo's two programs: an HTTP server on the host, and a client inside the namespace, which
//! uses nothing but the kernel's TCP there.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use super::figures::{PingPong, Stream, Traffic};
use super::pattern::Pattern;

/// Bytes of one request's body: small enough that the time for a phase is kept well.
const BODY: u64 = 32 << 20;
/// Bytes read or written at once.
const CHUNK: usize = 256 << 10;
/// Bytes of a line, and of the headers together, at the most.
const HEAD_MAX: u64 = 8192;
/// The answer to a ping.
const PONG: &[u8] = b"pong\n";

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The head of a message: its first line, and how long its body is.
struct Head {
    first: String,
    length: u64,
}

/// Reads a head; `None` if the connection ended before one.
fn read_head(from: &mut BufReader<TcpStream>) -> io::Result<Option<Head>> {
    let mut limited = from.take(HEAD_MAX);
    let mut head = Head { first: String::new(), length: 0 };
    if limited.read_line(&mut head.first)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Err(broken("the head has no end"));
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(head));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            head.length = value.trim().parse().map_err(|_| broken("a length that is no number"))?;
        }
    }
}

/// Writes `length` bytes of the pattern.
fn write_pattern(to: &mut TcpStream, pattern: &Pattern, length: u64) -> io::Result<()> {
    let mut pos = 0;
    while pos < length {
        let bytes = pattern.at(pos, CHUNK.min((length - pos) as usize));
        to.write_all(bytes)?;
        pos += bytes.len() as u64;
    }
    Ok(())
}

/// Reads `length` bytes; whether they were those of the pattern.
fn read_pattern(
    from: &mut BufReader<TcpStream>,
    pattern: &Pattern,
    buf: &mut [u8],
    length: u64,
) -> io::Result<bool> {
    let (mut pos, mut good) = (0, true);
    while pos < length {
        let room = buf.len().min((length - pos) as usize);
        let n = from.read(&mut buf[..room])?;
        if n == 0 {
            return Err(broken("the body ended early"));
        }
        good &= pattern.holds(pos, &buf[..n]);
        pos += n as u64;
    }
    Ok(good)
}

/// Serves connections, each in a thread, until the process ends. What the client reports in the end
/// goes to `result`.
pub fn serve(listener: TcpListener, result: Sender<Traffic>) {
    let pattern = Arc::new(Pattern::new());
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let (pattern, result) = (Arc::clone(&pattern), result.clone());
        thread::spawn(move || {
            if let Err(e) = serve_one(stream, &pattern, &result) {
                eprintln!("linerate demo: the server's side of a connection failed: {e}");
            }
        });
    }
}

fn serve_one(mut to: TcpStream, pattern: &Pattern, result: &Sender<Traffic>) -> io::Result<()> {
    to.set_nodelay(true)?;
    let mut from = BufReader::with_capacity(CHUNK, to.try_clone()?);
    let mut buf = vec![0; CHUNK];
    while let Some(head) = read_head(&mut from)? {
        let mut words = head.first.split_whitespace();
        match (words.next(), words.next()) {
            (Some("GET"), Some("/ping")) => answer(&mut to, PONG)?,
            (Some("GET"), Some("/download")) => {
                write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n")?;
                write_pattern(&mut to, pattern, BODY)?;
            }
            (Some("POST"), Some("/upload")) => {
                let good = read_pattern(&mut from, pattern, &mut buf, head.length)?;
                answer(&mut to, if good { b"verified\n" } else { b"damaged\n" })?;
            }
            (Some("POST"), Some("/result")) => {
                let mut body = Vec::new();
                (&mut from).take(head.length.min(HEAD_MAX)).read_to_end(&mut body)?;
                let traffic = serde_json::from_slice(&body)?;
                answer(&mut to, b"thanks\n")?;
                // Nobody waits for a second report.
                let _ = result.send(traffic);
            }
            _ => {
                to.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            }
        }
    }
    Ok(())
}

fn answer(to: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    let mut message =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    message.extend_from_slice(body);
    to.write_all(&message)
}

/// The client's end of a connection.
struct Client {
    to: TcpStream,
    from: BufReader<TcpStream>,
    buf: Vec<u8>,
}

impl Client {
    fn connect(addr: SocketAddr) -> io::Result<Client> {
        let to = TcpStream::connect(addr)?;
        to.set_nodelay(true)?;
        let from = BufReader::with_capacity(CHUNK, to.try_clone()?);
        Ok(Client { to, from, buf: vec![0; CHUNK] })
    }

    fn head(&mut self) -> io::Result<u64> {
        let head = read_head(&mut self.from)?.ok_or_else(|| broken("no answer"))?;
        if head.first.split_whitespace().nth(1) != Some("200") {
            return Err(broken(head.first.trim_end()));
        }
        Ok(head.length)
    }

    fn body(&mut self) -> io::Result<Vec<u8>> {
        let length = self.head()?;
        let mut body = Vec::new();
        (&mut self.from).take(length).read_to_end(&mut body)?;
        Ok(body)
    }

    fn download(&mut self, pattern: &Pattern, time: Duration) -> io::Result<Stream> {
        let begun = Instant::now();
        let mut seen = Stream { verified: true, ..Stream::default() };
        while begun.elapsed() < time {
            self.to.write_all(b"GET /download HTTP/1.1\r\nHost: demo\r\n\r\n")?;
            let length = self.head()?;
            seen.verified &= read_pattern(&mut self.from, pattern, &mut self.buf, length)?;
            seen.bytes += length;
        }
        seen.seconds = begun.elapsed().as_secs_f64();
        Ok(seen)
    }

    fn upload(&mut self, pattern: &Pattern, time: Duration) -> io::Result<Stream> {
        let begun = Instant::now();
        let mut seen = Stream { verified: true, ..Stream::default() };
        while begun.elapsed() < time {
            let head = "POST /upload HTTP/1.1\r\nHost: demo\r\nContent-Length";
            write!(self.to, "{head}: {BODY}\r\n\r\n")?;
            write_pattern(&mut self.to, pattern, BODY)?;
            seen.verified &= self.body()? == b"verified\n";
            seen.bytes += BODY;
        }
        seen.seconds = begun.elapsed().as_secs_f64();
        Ok(seen)
    }

    fn pingpong(&mut self, time: Duration) -> io::Result<PingPong> {
        let (begun, mut took_ns, mut good) = (Instant::now(), Vec::new(), true);
        while begun.elapsed() < time {
            let asked = Instant::now();
            self.to.write_all(b"GET /ping HTTP/1.1\r\nHost: demo\r\n\r\n")?;
            good &= self.body()? == PONG;
            took_ns.push(asked.elapsed().as_nanos() as u64);
        }
        Ok(PingPong::of(took_ns, good))
    }
}

/// The client: three phases that take `time` in all, then its report.
pub fn client(addr: SocketAddr, time: Duration) -> io::Result<()> {
    let pattern = Pattern::new();
    let (long, short) = (time.mul_f64(0.4), time.mul_f64(0.2));
    let traffic = Traffic {
        download: Client::connect(addr)?.download(&pattern, long)?,
        upload: Client::connect(addr)?.upload(&pattern, long)?,
        pingpong: Client::connect(addr)?.pingpong(short)?,
    };
    let body = serde_json::to_vec(&traffic)?;
    let mut last = Client::connect(addr)?;
    let head = "POST /result HTTP/1.1\r\nHost: demo\r\nContent-Length";
    write!(last.to, "{head}: {}\r\n\r\n", body.len())?;
    last.to.write_all(&body)?;
    last.body()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn client_and_server_understand_each_other() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (to, result) = mpsc::channel();
        thread::spawn(move || serve(listener, to));
        client(addr, Duration::from_millis(50)).expect("all phases");
        let traffic = result.recv().expect("a report");
        assert!(traffic.download.verified && traffic.download.bytes >= BODY);
        assert!(traffic.upload.verified && traffic.upload.bytes >= BODY);
        assert!(traffic.pingpong.verified && traffic.pingpong.count > 0);
    }

    #[test]
    fn a_wrong_request_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let (to, _result) = mpsc::channel();
        thread::spawn(move || serve(listener, to));
        let mut client = Client::connect(addr).expect("a connection");
        client.to.write_all(b"BREW /tea HTTP/1.1\r\n\r\n").expect("sent");
        assert!(client.body().is_err());
    }
}
