//! The name server of the link: a forwarder to the host's resolvers, without a cache.
//!
//! Each query leaves by a socket of its own, connected to the resolver, so that port and identifier
//! are fresh and the kernel lets nothing in but that resolver's answers (RFC 5452 section 9). The
//! answer must bear the identifier and repeat the question. Everything else in the messages, EDNS
//! and the TC bit among it, passes untouched. Over TCP the connection is relayed to the first
//! resolver that can be connected to. The host's resolvers may be on its loopback: for this forwarder alone.
//! RFCs: 1035 §4, 5452, 5625, 7766.

use crate::config::Config;
use crate::count::Count;
use crate::gateway::{Cx, Kind, Token};
use crate::host;
use linerate_core::rand::KeyedMap;
use linerate_core::shard::Shard;
use linerate_core::sock::{Slab, SocketId};
use linerate_core::time::{Instant, SEC, Wheel};
use linerate_core::udp::api::{Datagram, UdpBind};
use linerate_core::udp::output::SendTo;
use linerate_dev::poller::Interest;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The port of DNS.
pub const PORT: u16 = 53;
/// Nanoseconds that a resolver has to answer before the next one is asked.
const TRY_NS: u64 = 2 * SEC;
/// Rounds over all resolvers.
const ROUNDS: usize = 2;
/// Resolvers that are used (glibc uses three).
const SERVERS_MAX: usize = 4;
/// Nanoseconds between two looks at the file that lists the resolvers.
const LOOK_NS: u64 = SEC;
/// Queries taken in one turn.
const TURN: usize = 128;
/// The longest message that is forwarded.
const MESSAGE_MAX: usize = 4096;

const HEADER: usize = 12;
const SERVFAIL: u8 = 2;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;
const FORMERR: u8 = 1;

struct Query {
    client: SocketAddr,
    /// The name server's address that was asked.
    asked: SocketAddr,
    /// The program's query, to be sent again.
    message: Box<[u8]>,
    /// Bytes of header and question.
    question: usize,
    /// The identifier outside.
    id: [u8; 2],
    tries: usize,
    host: Option<OwnedFd>,
}

/// The forwarder.
pub(crate) struct Forwarder {
    sockets: Vec<SocketId>,
    pending: bool,
    path: PathBuf,
    /// The servers were given, and are not those of the file.
    given: bool,
    servers: Vec<SocketAddr>,
    /// What the file was when it was read: device, inode, size, time of change.
    seen: Option<(u64, u64, u64, i64, i64)>,
    looked: Option<Instant>,
    queries: Slab<Query>,
    by_client: KeyedMap<(SocketAddr, [u8; 2]), u32>,
    timers: Wheel,
    due: Vec<u32>,
    buf: Box<[u8]>,
}

impl Forwarder {
    /// Opens the name server's sockets on the stack.
    pub fn new(config: &Config, shard: &mut Shard) -> io::Result<Forwarder> {
        let mut sockets = Vec::new();
        let v6 = config.v6.map(|v6| IpAddr::V6(v6.dns));
        for addr in std::iter::once(IpAddr::V4(config.v4.dns)).chain(v6) {
            let user = Token::new(Kind::DnsSocket, sockets.len() as u32, 0).0;
            let bind = UdpBind { addr: Some(addr), port: PORT, user, ..UdpBind::default() };
            sockets.push(shard.udp_bind(bind).map_err(io::Error::other)?);
        }
        Ok(Forwarder {
            sockets,
            pending: false,
            path: config.resolv_conf.clone(),
            given: !config.resolvers.is_empty(),
            servers: config.resolvers.clone(),
            seen: None,
            looked: None,
            queries: Slab::default(),
            by_client: KeyedMap::with_hasher(shard.net.rng.keyed()),
            timers: Wheel::default(),
            due: Vec::new(),
            buf: vec![0; MESSAGE_MAX * 16].into_boxed_slice(),
        })
    }

    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The stack has queries, or errors about answers, which change nothing.
    pub fn handle_stack(&mut self, cx: &mut Cx<'_>) {
        self.pending = true;
        for &socket in &self.sockets {
            while cx.shard.udp_take_error(socket).is_some() {}
        }
    }

    /// Reads the list of resolvers again if it has changed.
    pub fn reload(&mut self, now: Instant) {
        if self.given || self.looked.is_some_and(|at| now.since(at) < LOOK_NS) {
            return;
        }
        self.looked = Some(now);
        let seen = std::fs::metadata(&self.path)
            .map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
            .ok();
        if seen.is_some() && seen == self.seen {
            return;
        }
        self.seen = seen;
        self.servers = read_servers(&self.path);
    }

    /// Whether a connection to the name server leads anywhere.
    pub fn has_resolver(&mut self, cx: &mut Cx<'_>) -> bool {
        self.reload(cx.shard.net.now);
        if self.servers.is_empty() {
            cx.counts.inc(Count::DnsNoResolver);
        }
        !self.servers.is_empty()
    }

    /// Begins a connection to the resolver of number `from`, or to the first behind it that does
    /// not fail at once: its number, and what [`host::connect`] returns. The error is the last
    /// one's, or that nobody is left.
    pub fn connect(&self, from: usize) -> Result<(usize, OwnedFd, bool), Errno> {
        let mut failed = Errno::CONNREFUSED;
        for (at, &server) in self.servers.iter().enumerate().skip(from) {
            match host::connect(server) {
                Ok((host, connected)) => return Ok((at, host, connected)),
                Err(err) => failed = err,
            }
        }
        Err(failed)
    }

    /// Takes queries, and gives up on those that nobody answered. Whether more is to do.
    pub fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        self.timers.expire(cx.shard.net.now, &mut self.due);
        while let Some(index) = self.due.pop() {
            self.ask(cx, index);
        }
        if !self.pending {
            return false;
        }
        self.reload(cx.shard.net.now);
        let mut left = TURN;
        for at in 0..self.sockets.len() {
            let Some(&socket) = self.sockets.get(at) else { break };
            while left > 0 {
                let Some(datagram) = cx.shard.udp_recv(socket) else { break };
                self.take(cx, &datagram);
                cx.shard.udp_done(datagram);
                left -= 1;
            }
        }
        self.pending = left == 0;
        self.pending
    }

    /// A query of the program.
    fn take(&mut self, cx: &mut Cx<'_>, datagram: &Datagram) {
        if datagram.len() > MESSAGE_MAX || datagram.segment_size().is_some() {
            return self.take_parts(cx, datagram);
        }
        let message: Vec<u8> = datagram.slices().flatten().copied().collect();
        self.take_one(cx, datagram.src(), datagram.dst(), message.into());
    }

    /// Several queries in one super-datagram; resolvers with many sockets do not send these, but
    /// nothing forbids it.
    #[cold]
    fn take_parts(&mut self, cx: &mut Cx<'_>, datagram: &Datagram) {
        let Some(size) = datagram.segment_size().filter(|&size| size > 0) else {
            return cx.counts.inc(Count::DnsInvalid);
        };
        let whole: Vec<u8> = datagram.slices().flatten().copied().collect();
        for part in whole.chunks(size) {
            self.take_one(cx, datagram.src(), datagram.dst(), part.into());
        }
    }

    fn take_one(
        &mut self,
        cx: &mut Cx<'_>,
        client: SocketAddr,
        asked: SocketAddr,
        message: Box<[u8]>,
    ) {
        let (Some(&flags), Some(&id)) = (message.get(2), message.first_chunk::<2>()) else {
            return cx.counts.inc(Count::DnsInvalid);
        };
        // An answer, which nobody asked the name server for.
        if message.len() < HEADER || flags & 0x80 != 0 {
            return cx.counts.inc(Count::DnsInvalid);
        }
        let Some(question) = question_end(&message) else {
            cx.counts.inc(Count::DnsInvalid);
            return self.fail(cx, client, asked, &message, HEADER, FORMERR);
        };
        if self.by_client.contains_key(&(client, id)) {
            // Asked again before it was answered: it is under way.
            return;
        }
        if self.servers.is_empty() {
            cx.counts.inc(Count::DnsNoResolver);
            return self.fail(cx, client, asked, &message, question, SERVFAIL);
        }
        if self.queries.len() >= cx.config.limits.queries {
            cx.counts.inc(Count::DnsFull);
            return self.fail(cx, client, asked, &message, question, SERVFAIL);
        }
        cx.counts.inc(Count::DnsQueries);
        let (tries, host) = (0, None);
        let query = Query { client, asked, message, question, id: [0; 2], tries, host };
        let (index, _) = self.queries.insert(query);
        self.by_client.insert((client, id), index);
        self.ask(cx, index);
    }

    /// Asks the next resolver; gives up after all were asked often enough.
    fn ask(&mut self, cx: &mut Cx<'_>, index: u32) {
        loop {
            let generation = self.queries.generation(index);
            let Some(query) = self.queries.at_mut(index) else { return };
            query.host = None;
            let rounds = self.servers.len() * ROUNDS;
            let server = match query.tries < rounds {
                true => self.servers.get(query.tries % self.servers.len().max(1)).copied(),
                false => None,
            };
            let Some(server) = server else {
                cx.counts.inc(Count::DnsTimeout);
                return self.give_up(cx, index);
            };
            query.tries += 1;
            let token = Token::new(Kind::DnsQuery, index, generation);
            if query.send(cx, server, token).is_ok() {
                self.timers.arm(index, cx.shard.net.now.plus(TRY_NS));
                return;
            }
        }
    }

    fn remove(&mut self, index: u32) -> Option<Query> {
        self.timers.cancel(index);
        let query = self.queries.remove(index)?;
        if let Some(&id) = query.message.first_chunk::<2>() {
            self.by_client.remove(&(query.client, id));
        }
        Some(query)
    }

    fn give_up(&mut self, cx: &mut Cx<'_>, index: u32) {
        if let Some(query) = self.remove(index) {
            self.fail(cx, query.client, query.asked, &query.message, query.question, SERVFAIL);
        }
    }

    /// A resolver has answered, or can not be reached.
    pub fn handle_host(&mut self, cx: &mut Cx<'_>, token: Token) {
        let Some(query) = token.find(&mut self.queries) else { return };
        let Some(host) = &query.host else { return };
        loop {
            let got = match rustix::net::recv(host, &mut self.buf[..], RecvFlags::empty()) {
                Ok((_, got)) => got,
                Err(Errno::AGAIN | Errno::INTR) => return,
                // Nobody listens there: the next one.
                Err(_) => return self.ask(cx, token.index()),
            };
            let Some(answer) = self.buf.get_mut(..got) else { return };
            if !query.matches(answer) {
                cx.counts.inc(Count::DnsInvalid);
                continue;
            }
            let code = answer.get(3).map_or(0, |flags| flags & 0xf);
            let others = self.servers.len() > 1 && query.tries < self.servers.len();
            if matches!(code, SERVFAIL | NOTIMP | REFUSED) && others {
                return self.ask(cx, token.index());
            }
            if let (Some(id), Some(own)) = (answer.get_mut(..2), query.message.get(..2)) {
                id.copy_from_slice(own);
            }
            let (client, asked) = (query.client, query.asked);
            let socket = socket_for(&self.sockets, asked);
            let how = SendTo { src: Some(asked), ..SendTo::to(client) };
            if let Some(socket) = socket
                && cx.shard.udp_send(socket, how, &[answer]).is_ok()
            {
                cx.counts.inc(Count::DnsAnswers);
            }
            self.remove(token.index());
            return;
        }
    }

    /// Answers with an error code and nothing but the question.
    fn fail(
        &self,
        cx: &mut Cx<'_>,
        client: SocketAddr,
        asked: SocketAddr,
        message: &[u8],
        question: usize,
        code: u8,
    ) {
        let mut answer = message.get(..question).unwrap_or_default().to_vec();
        let [_, _, flags, more, counts @ ..] = &mut answer[..] else { return };
        // QR is set; opcode and RD are the query's; RA is set.
        *flags = *flags & 0x79 | 0x80;
        *more = 0x80 | code;
        if let Some(counts) = counts.get_mut(..8) {
            counts.fill(0);
            if question > HEADER {
                counts[1] = 1;
            }
        }
        let how = SendTo { src: Some(asked), ..SendTo::to(client) };
        if let Some(socket) = socket_for(&self.sockets, asked) {
            // Without room the program asks again.
            let _ = cx.shard.udp_send(socket, how, &[&answer]);
        }
    }
}

fn socket_for(sockets: &[SocketId], asked: SocketAddr) -> Option<SocketId> {
    sockets.get(usize::from(asked.is_ipv6())).copied()
}

impl Query {
    fn send(&mut self, cx: &mut Cx<'_>, server: SocketAddr, token: Token) -> io::Result<()> {
        let host = host::datagram(server.is_ipv6())?;
        rustix::net::connect(&host, &server)?;
        // The kernel's randomness: the stack's own is reproducible by design.
        rustix::rand::getrandom(&mut self.id[..], rustix::rand::GetRandomFlags::empty())?;
        let mut message = self.message.clone();
        if let Some(id) = message.get_mut(..2) {
            id.copy_from_slice(&self.id);
        }
        cx.poller.add(&host, token.0, Interest::READ)?;
        rustix::net::send(&host, &message, SendFlags::NOSIGNAL)?;
        self.host = Some(host);
        Ok(())
    }

    /// Whether `answer` is one to this query.
    fn matches(&self, answer: &[u8]) -> bool {
        let (Some(id), Some(flags), Some(code)) = (answer.get(..2), answer.get(2), answer.get(3))
        else {
            return false;
        };
        if answer.len() < HEADER || id != self.id || flags & 0x80 == 0 {
            return false;
        }
        // A server that could not read the question need not repeat it (RFC 1035 section 4.1.1).
        if answer.get(4..6) == Some(&[0, 0]) {
            return code & 0xf != 0;
        }
        let (Some(asked), Some(told)) =
            (self.message.get(HEADER..self.question), answer.get(HEADER..self.question))
        else {
            return false;
        };
        asked.eq_ignore_ascii_case(told)
    }
}

/// Where the only question of a message ends; `None` if there is not exactly one, or it is
/// malformed.
fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        match len {
            0 => break,
            // Nothing before the question could be pointed to.
            64.. => return None,
            _ => at += len,
        }
        if at > HEADER + 255 {
            return None;
        }
    }
    let end = at + 4;
    (end <= message.len()).then_some(end)
}

/// The resolvers that a file lists.
fn read_servers(path: &Path) -> Vec<SocketAddr> {
    std::fs::read_to_string(path).map(|text| parse_servers(&text)).unwrap_or_default()
}

fn parse_servers(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    words.filter_map(parse_server).take(SERVERS_MAX).collect()
}

fn parse_server(word: &str) -> Option<SocketAddr> {
    if let Ok(addr) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(addr, PORT));
    }
    // A link-local resolver names its link.
    let (addr, link) = word.split_once('%')?;
    let addr = addr.parse().ok()?;
    let scope = match link.parse() {
        Ok(number) => number,
        Err(_) => {
            let any = host::datagram(true).ok()?;
            rustix::net::netdevice::name_to_index(&any, link).ok()?
        }
    };
    Some(SocketAddr::V6(SocketAddrV6::new(addr, PORT, 0, scope)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u16, flags: u16, name: &[u8], more: &[u8]) -> Vec<u8> {
        let mut m = Vec::new();
        m.extend(id.to_be_bytes());
        m.extend(flags.to_be_bytes());
        m.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        m.extend(name);
        m.extend([0, 1, 0, 1]);
        m.extend(more);
        m
    }

    #[test]
    fn resolvers_are_read_as_glibc_does() {
        let text = "# nameserver 1.1.1.1\n;nameserver 2.2.2.2\nsearch example.com\n\
            nameserver 10.0.0.1\n  nameserver\t2001:db8::1 # note\nnameserver fe80::1%7\n\
            nameserver nonsense\nnameserver\nnameservers 3.3.3.3\nnameserver 4.4.4.4\n\
            nameserver 5.5.5.5\n";
        let want: Vec<SocketAddr> = vec![
            "10.0.0.1:53".parse().unwrap(),
            "[2001:db8::1]:53".parse().unwrap(),
            SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7)),
            "4.4.4.4:53".parse().unwrap(),
        ];
        assert_eq!(parse_servers(text), want);
        assert_eq!(parse_servers(""), []);
        assert_eq!(read_servers(Path::new("/nonexistent")), []);
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let sent: Box<[u8]> = message(7, 0x0100, b"\x03www\x07example\x00", b"").into();
        let question = question_end(&sent).unwrap();
        assert_eq!(question, sent.len());
        let query = Query {
            client: "10.0.2.100:4000".parse().unwrap(),
            asked: "10.0.2.3:53".parse().unwrap(),
            message: sent,
            question,
            id: [0x12, 0x34],
            tries: 1,
            host: None,
        };
        let answer = |id, flags, name: &[u8]| query.matches(&message(id, flags, name, b"rest"));
        assert!(answer(0x1234, 0x8180, b"\x03www\x07example\x00"));
        assert!(answer(0x1234, 0x8180, b"\x03WWW\x07eXample\x00"));
        assert!(!answer(0x1235, 0x8180, b"\x03www\x07example\x00"));
        assert!(!answer(0x1234, 0x0180, b"\x03www\x07example\x00"));
        assert!(!answer(0x1234, 0x8180, b"\x03wwx\x07example\x00"));
        assert!(!query.matches(&[0x12, 0x34, 0x81, 0x80]));
        let mut bare = message(0x1234, 0x8181, b"", b"");
        bare.truncate(HEADER);
        bare[5] = 0;
        assert!(query.matches(&bare));
        bare[3] = 0x80;
        assert!(!query.matches(&bare));
    }

    #[test]
    fn malformed_questions_have_no_end() {
        assert_eq!(question_end(&message(1, 0, b"\x40", b"")), None);
        assert_eq!(question_end(&message(1, 0, b"\xc0\x0c", b"")), None);
        assert_eq!(question_end(&message(1, 0, &[1, b'a'].repeat(200), b"\0\0\0\0\0")), None);
        let whole = message(1, 0, b"\x01a\x00", b"");
        for n in 0..whole.len() {
            assert_eq!(question_end(&whole[..n]), None, "{n}");
        }
        let mut two = whole.clone();
        two[5] = 2;
        assert_eq!(question_end(&two), None);
    }
}
