//! `getsockopt` and `setsockopt`: (level, name) to the stack's options.
//!
//! Linux: net/core/sock.c `sk_setsockopt`; net/ipv4/tcp.c `do_tcp_setsockopt`, `do_tcp_getsockopt`

use linerate_core::sock::error::TcpError;
use linerate_core::table::knob::KnobValue;
use linerate_core::tcp::info::TCP_INFO_LEN;
use linerate_core::tcp::{OptName, State, TcpOpt};

use crate::Errno;
use crate::calls::Calls;
use crate::files::Stand;

const TCP: i32 = libc::SOL_TCP;
const SOCKET: i32 = libc::SOL_SOCKET;

/// The kernel's TCP_FASTOPEN_KEY.
const TCP_FASTOPEN_KEY: i32 = 33;

/// A C `int`.
///
/// # Errors
/// EINVAL if there are fewer bytes.
fn int(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(libc::EINVAL)
}

/// Two C integers of the size of `long` (`struct timeval`) as milliseconds.
fn timeval_ms(value: &[u8]) -> Result<u64, Errno> {
    let long = |at: usize| {
        let bytes = value.get(at..at + 8).and_then(|b| b.first_chunk()).ok_or(libc::EINVAL)?;
        u64::try_from(i64::from_ne_bytes(*bytes)).map_err(|_| libc::EDOM)
    };
    let (seconds, us) = (long(0)?, long(8)?);
    if us >= 1_000_000 {
        return Err(libc::EDOM);
    }
    Ok(seconds.saturating_mul(1000).saturating_add(us.div_ceil(1000)))
}

/// A name of a congestion control, which a zero may end.
fn congestion(value: &[u8]) -> Result<TcpOpt, Errno> {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    let text = std::str::from_utf8(&value[..end]).map_err(|_| libc::ENOENT)?;
    KnobValue::parse(text).map(TcpOpt::Congestion).ok_or(libc::ENOENT)
}

impl Calls {
    /// `setsockopt`.
    ///
    /// # Errors
    /// EINVAL, ENOPROTOOPT, ENOENT (no such congestion control), EBADF, ENOTSOCK.
    pub fn setsockopt(
        &mut self,
        fd: i32,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let sock = self.files.sock(fd)?;
        match (level, name) {
            (TCP, libc::TCP_CONGESTION) => return self.set(fd, congestion(value)?),
            (SOCKET, libc::SO_LINGER) => {
                let (on, seconds) = (int(value)?, int(value.get(4..).unwrap_or_default())?);
                return self.set(fd, TcpOpt::Linger((on != 0).then_some(seconds as u32)));
            }
            (SOCKET, libc::SO_RCVTIMEO) => sock.timeo_ms.0 = timeval_ms(value)?,
            (SOCKET, libc::SO_SNDTIMEO) => sock.timeo_ms.1 = timeval_ms(value)?,
            (SOCKET, libc::SO_ZEROCOPY) => {
                sock.zerocopy = match int(value)? {
                    on @ 0..=1 => on == 1,
                    _ => return Err(libc::EINVAL),
                };
            }
            (SOCKET, libc::SO_TIMESTAMPING) => {
                let queued = sock.conn().map(|id| self.stack.shard.tcp_queued(id) as u64);
                let acked = queued.map(|queued| sock.stamps.queued.saturating_sub(queued));
                sock.stamps.set(int(value)? as u32, acked)?;
            }
            (SOCKET, libc::SO_BUSY_POLL) => {
                return self.set(fd, TcpOpt::BusyPoll(Some(int(value)? as u32)));
            }
            (TCP, libc::TCP_FASTOPEN_CONNECT) => {
                let on = int(value)?;
                if !(0..=1).contains(&on) || sock.stand != Stand::New {
                    return Err(libc::EINVAL);
                }
                if self.stack.shard.net.knobs.tcp_fastopen & 1 == 0 {
                    return Err(libc::EOPNOTSUPP);
                }
                sock.told.insert((level, name), on);
            }
            (TCP, libc::TCP_FASTOPEN) => {
                let most = int(value)?;
                match sock.stand {
                    Stand::New if most >= 0 => {}
                    Stand::Listens(id) if most >= 0 => {
                        self.stack.shard.tcp_listen_fastopen(id, most as u32);
                    }
                    _ => return Err(libc::EINVAL),
                }
                sock.told.insert((level, name), most);
            }
            (TCP, TCP_FASTOPEN_KEY) => {
                let (keys, rest) = value.as_chunks::<16>();
                if !(1..=2).contains(&keys.len()) || !rest.is_empty() {
                    return Err(libc::EINVAL);
                }
                sock.fastopen_keys = keys.to_vec();
                if let Stand::Listens(id) = sock.stand {
                    self.stack.shard.tcp_listen_fastopen_keys(id, keys);
                }
            }
            _ if PLAIN.contains(&(level, name)) => {
                sock.told.insert((level, name), int(value)?);
            }
            _ => {
                // Options of IP may be a byte.
                let byte = value.first().filter(|_| level != TCP && level != SOCKET);
                let number = int(value).or(byte.map(|b| i32::from(*b)).ok_or(libc::EINVAL))?;
                match TcpOpt::from_linux(level, name, number) {
                    Ok(opt) => return self.set(fd, opt),
                    Err(_) if [libc::SOL_IP, libc::SOL_IPV6].contains(&level) => {
                        sock.told.insert((level, name), number);
                    }
                    Err(err) => return Err(err.errno()),
                }
            }
        }
        Ok(())
    }

    /// Sets it on what is open, or notes it until something is.
    fn set(&mut self, fd: i32, opt: TcpOpt) -> Result<(), Errno> {
        let sock = self.files.sock(fd)?;
        let shard = &mut self.stack.shard;
        match sock.stand {
            Stand::Listens(id) | Stand::Connects(id) | Stand::Connected(id) => {
                match shard.tcp_set(id, opt) {
                    Ok(()) | Err(TcpError::NotConnected) => Ok(()),
                    Err(err) => Err(err.errno()),
                }
            }
            Stand::New | Stand::Defers(_) => {
                sock.opts.push(opt);
                shard.tcp_get_unopened(&sock.opts, OptName::NoDelay).map(|_| ()).map_err(|err| {
                    sock.opts.pop();
                    err.errno()
                })
            }
        }
    }

    /// `getsockopt`.
    ///
    /// # Errors
    /// ENOPROTOOPT, EBADF, ENOTSOCK.
    pub fn getsockopt(&mut self, fd: i32, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let sock = self.files.sock(fd)?;
        let shard = &mut self.stack.shard;
        let number = match (level, name) {
            (SOCKET, libc::SO_ERROR) => self.take_error(fd)?,
            (SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
            (SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
            (SOCKET, libc::SO_DOMAIN) => sock.domain,
            (SOCKET, libc::SO_ACCEPTCONN) => i32::from(matches!(sock.stand, Stand::Listens(_))),
            (SOCKET, libc::SO_ZEROCOPY) => i32::from(sock.zerocopy),
            (SOCKET, libc::SO_TIMESTAMPING) => {
                // Behind the flags: of which clock, and that is the system's.
                return Ok([sock.stamps.flags(), 0].iter().flat_map(|w| w.to_ne_bytes()).collect());
            }
            (TCP, TCP_FASTOPEN_KEY) => return Ok(sock.fastopen_keys.concat()),
            // Of those controls that are here, none but BBR and DCTCP has more to tell.
            (TCP, libc::TCP_CC_INFO) => return Ok(Vec::new()),
            (SOCKET, libc::SO_MEMINFO) => {
                // SK_MEMINFO_VARS; what is charged is no fixed number of bytes here.
                let info = sock.conn().and_then(|id| shard.tcp_info(id));
                let (rcvbuf, sndbuf) = info.map_or((0, 0), |info| (info.rcvbuf, info.sndbuf));
                let words = [0, rcvbuf, 0, sndbuf, 0, 0, 0, 0, 0];
                return Ok(words.iter().flat_map(|word| word.to_ne_bytes()).collect());
            }
            (TCP, libc::TCP_INFO) => {
                let info = sock.conn().and_then(|id| shard.tcp_info(id));
                let state = match sock.stand {
                    Stand::Listens(_) => State::Listen,
                    _ => State::Close,
                };
                // Of what is no connection the record says the state alone.
                let none = || [&[state as u8][..], &[0; TCP_INFO_LEN - 1]].concat();
                return Ok(info.map_or_else(none, |info| info.to_bytes().to_vec()));
            }
            _ => match OptName::from_linux(level, name) {
                Some(name) => {
                    let opt = match sock.stand {
                        Stand::New | Stand::Defers(_) => shard.tcp_get_unopened(&sock.opts, name),
                        Stand::Listens(id) | Stand::Connects(id) | Stand::Connected(id) => {
                            shard.tcp_get(id, name)
                        }
                    };
                    match opt.map_err(TcpError::errno)? {
                        TcpOpt::Linger(seconds) => {
                            let on = i32::from(seconds.is_some()).to_ne_bytes();
                            return Ok([on, seconds.unwrap_or(0).to_ne_bytes()].concat());
                        }
                        TcpOpt::Congestion(cc) => {
                            let mut bytes = cc.show().into_bytes();
                            bytes.resize(16, 0);
                            return Ok(bytes);
                        }
                        opt => opt.to_linux(),
                    }
                }
                None => match sock.told.get(&(level, name)) {
                    Some(value) => *value,
                    None if PLAIN.contains(&(level, name)) => 0,
                    None => return Err(libc::ENOPROTOOPT),
                },
            },
        };
        Ok(number.to_ne_bytes().to_vec())
    }
}

/// Options that are told back, and looked at where they matter here.
const PLAIN: &[(i32, i32)] =
    &[(SOCKET, libc::SO_REUSEADDR), (SOCKET, libc::SO_REUSEPORT), (SOCKET, libc::SO_MARK)];
