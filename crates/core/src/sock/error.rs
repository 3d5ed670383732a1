//! Why a call fails: one enum an operation, each variant with its errno and what to do about it.

macro_rules! errors {
    ($( $(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $vdoc:literal])+ $variant:ident = $errno:literal, $text:literal; )+ } )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name { $( $(#[doc = $vdoc])+ $variant ),+ }
        impl $name {
            /// The errno that Linux gives for this.
            pub fn errno(self) -> i32 {
                match self { $( $name::$variant => $errno ),+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $( $name::$variant => $text ),+ })
            }
        }
        impl std::error::Error for $name {}
    )+ };
}

errors! {
    /// Why a socket could not be bound.
    BindError {
        /// Another socket has the address (EADDRINUSE).
        AddrInUse = 98, "the address is in use by another socket: choose another port, or close that one";
        /// The address is not ours (EADDRNOTAVAIL).
        AddrNotAvailable = 99, "the address does not belong to this stack: add it to a device first";
        /// No local port is free (EADDRINUSE).
        NoPort = 98, "no local port is free: widen net.ipv4.ip_local_port_range";
        /// Too many sockets (ENFILE).
        TooMany = 23, "too many sockets are open: close some";
    }
    /// Why a connection could not be opened, or ended.
    TcpError {
        /// Nobody listens there (ECONNREFUSED).
        Refused = 111, "the peer refused the connection: nothing listens on that port";
        /// The peer reset the connection (ECONNRESET).
        Reset = 104, "the peer reset the connection";
        /// No answer (ETIMEDOUT).
        TimedOut = 110, "the peer does not answer";
        /// No route to the host (EHOSTUNREACH).
        HostUnreachable = 113, "no way leads to the host";
        /// No route to the network (ENETUNREACH).
        NetUnreachable = 101, "no route leads to the network: add one";
        /// The address may not be reached (EACCES).
        Prohibited = 13, "the route or a router on the way prohibits the connection";
        /// The port does not exist there (ECONNREFUSED).
        PortUnreachable = 111, "the host says that the port is unreachable";
        /// No local port is free (EADDRNOTAVAIL).
        NoPort = 99, "no local port is free: widen net.ipv4.ip_local_port_range";
        /// The same connection exists (EADDRINUSE).
        InUse = 98, "a connection between these two addresses exists already";
        /// We closed it ourselves (ECONNABORTED).
        Aborted = 103, "the connection was aborted locally";
        /// The socket is not connected (ENOTCONN).
        NotConnected = 107, "the socket is not connected";
        /// Sending after the sending side was shut down, or the connection ended (EPIPE).
        Closed = 32, "the sending side of the connection is closed";
        /// Nothing to do now (EAGAIN).
        WouldBlock = 11, "nothing can be done now: wait for the socket's event";
        /// Too many sockets (ENFILE).
        TooMany = 23, "too many sockets are open: close some";
        /// An option's value is out of range (EINVAL).
        Invalid = 22, "the option does not take this value";
        /// No such option (ENOPROTOOPT).
        NoOption = 92, "there is no such option";
        /// As many completions of zero-copy sends are due as may be (ENOBUFS).
        NoBuffers = 105, "too many zero-copy sends wait for their completions: read them, or raise net.core.optmem_max";
        /// Nothing is there to be taken away (ENOENT).
        NoKey = 2, "no key was set for these peers";
        /// A knob reserves it (EPERM).
        NotPermitted = 1, "the host does not allow that congestion control: name it in net.ipv4.tcp_allowed_congestion_control";
    }
    /// Why a datagram was not sent.
    SendError {
        /// No route (ENETUNREACH).
        NetUnreachable = 101, "no route leads to the destination: add one";
        /// Larger than a datagram may be (EMSGSIZE).
        MessageSize = 90, "the datagram is larger than 65507 bytes, or than the path allows unfragmented";
        /// The queue below is full (ENOBUFS).
        NoBuffers = 105, "the queue to the device is full: send more slowly, or raise dev.txqueuelen";
        /// The address families do not fit, or the address is not ours (EINVAL).
        Invalid = 22, "source and destination do not fit together";
        /// The socket is gone (EBADF).
        Closed = 9, "the socket is closed";
    }
}
