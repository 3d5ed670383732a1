//! The kernel's constants, by the names that scripts use.

use nix::libc;

macro_rules! constants {
    ($($name:ident)+) => {
        const CONSTANTS: &[(&str, i64)] = &[$((stringify!($name), libc::$name as i64)),+];
    };
}
constants! {
    AF_INET AF_INET6 SOCK_STREAM SOCK_NONBLOCK IPPROTO_TCP IPPROTO_IP IPPROTO_IPV6 SOL_SOCKET SOL_TCP SOL_IP
    SO_REUSEADDR SO_REUSEPORT SO_RCVBUF SO_SNDBUF SO_RCVBUFFORCE SO_SNDBUFFORCE SO_KEEPALIVE SO_LINGER SO_ERROR
    SO_MAX_PACING_RATE SO_RCVLOWAT SO_SNDTIMEO SO_RCVTIMEO SO_INCOMING_CPU SO_OOBINLINE
    TCP_NODELAY TCP_MAXSEG TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_LINGER2
    TCP_DEFER_ACCEPT TCP_WINDOW_CLAMP TCP_INFO TCP_QUICKACK TCP_CONGESTION TCP_USER_TIMEOUT
    TCP_FASTOPEN TCP_FASTOPEN_CONNECT TCP_NOTSENT_LOWAT TCP_TIMESTAMP TCP_INQ TCP_SAVE_SYN TCP_MD5SIG
    IP_TOS IPV6_TCLASS IP_MTU_DISCOVER IP_MTU IP_PMTUDISC_DO IP_PMTUDISC_DONT IP_PMTUDISC_WANT
    O_RDWR O_NONBLOCK F_SETFL F_GETFL MSG_DONTWAIT MSG_PEEK MSG_MORE MSG_OOB MSG_EOR MSG_TRUNC MSG_NOSIGNAL
    MSG_FASTOPEN MSG_ZEROCOPY MSG_WAITALL
    SHUT_RD SHUT_WR SHUT_RDWR POLLIN POLLOUT POLLERR POLLHUP POLLRDHUP POLLPRI FIONREAD TIOCOUTQ
}

const MORE: &[(&str, i64)] = &[
    ("SIOCINQ", libc::FIONREAD as i64),
    ("SIOCOUTQ", libc::TIOCOUTQ as i64),
    ("TCP_CA_Open", 0),
    ("TCP_CA_Disorder", 1),
    ("TCP_CA_CWR", 2),
    ("TCP_CA_Recovery", 3),
    ("TCP_CA_Loss", 4),
    ("TCP_ESTABLISHED", 1),
    ("TCP_SYN_SENT", 2),
    ("TCP_SYN_RECV", 3),
    ("TCP_FIN_WAIT1", 4),
    ("TCP_FIN_WAIT2", 5),
    ("TCP_TIME_WAIT", 6),
    ("TCP_CLOSE", 7),
    ("TCP_CLOSE_WAIT", 8),
    ("TCP_LAST_ACK", 9),
    ("TCP_LISTEN", 10),
    ("TCP_CLOSING", 11),
    ("TCP_INFINITE_SSTHRESH", 0x7fff_ffff),
];

macro_rules! errnos {
    ($($name:ident)+) => { const ERRNOS: &[(&str, i32)] = &[$((stringify!($name), libc::$name)),+]; };
}
errnos! {
    EPERM EINTR EBADF EAGAIN EACCES EINVAL EPIPE EMSGSIZE EPROTO ENOPROTOOPT EOPNOTSUPP EADDRINUSE
    EADDRNOTAVAIL ENETUNREACH ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ETIMEDOUT
    ECONNREFUSED EHOSTUNREACH EALREADY EINPROGRESS EFAULT ENOTSOCK EDESTADDRREQ EDOM ENOMEM
}

/// The number behind a name.
pub fn constant(name: &str) -> Option<i64> {
    CONSTANTS.iter().chain(MORE).find(|(n, _)| *n == name).map(|(_, v)| *v)
}

/// The name of an errno.
pub fn errno_name(errno: i32) -> String {
    let known = ERRNOS.iter().find(|(_, n)| *n == errno);
    known.map_or_else(|| format!("E{errno}"), |(n, _)| (*n).to_owned())
}
