//! The five scenes: what each loads, which knob it turns, what must be seen.

use linerate_core::table::{Counter, Reason, Stage};

/// One scene. Its texts hold no figures: those are measured.
pub struct Scene {
    /// Its name in `--json`.
    pub name: &'static str,
    /// Its headline.
    pub title: &'static str,
    /// Where it happens.
    pub stage: Stage,
    /// What happens, and what would happen in the kernel.
    pub lesson: &'static str,
    /// The load, in words, with its size.
    pub load_text: &'static str,
    /// The load.
    pub load: Load,
    /// The knob.
    pub knob: &'static str,
    /// A value that is too small for the load, and one that is not.
    pub values: [&'static str; 2],
    /// Why packets are dropped; none where the price is delay.
    pub reason: Option<Reason>,
    /// The counters that move.
    pub counters: &'static [Counter],
    /// Why the knob helps.
    pub cure: &'static str,
    /// Where a real host shows the same, and its knob.
    pub linux: &'static str,
}

/// What is done to the host.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// A burst of datagrams.
    Burst {
        /// Wires that it comes over.
        wires: usize,
        /// Datagrams on each.
        each: usize,
        /// The devices have no NAPI: they go by way of the backlog.
        netif_rx: bool,
        /// The application reads only when the burst is over.
        slow: bool,
    },
    /// So many connections, one after the other, to an application that is slow to accept.
    Connect(u32),
}

/// The scenes, in order of the journey.
pub const SCENES: [Scene; 5] = [
    Scene {
        name: "ring",
        title: "The receive ring overflows",
        stage: Stage::Ring,
        lesson: "A network card writes what arrives into a ring of buffers, and the poll loop takes \
            it out again. Between two polls the ring is all the room there is: what finds it full \
            is lost before any software has seen it, so no protocol can count it. Only the card can.",
        load_text: "512 datagrams arrive between two polls.",
        load: Load::Burst { wires: 1, each: 512, netif_rx: false, slow: false },
        knob: "ring.rx",
        values: ["64", "1024"],
        reason: Some(Reason::RingFull),
        counters: &[Counter::DevRxMissed],
        cure: "A longer ring rides out a longer absence of the CPU. It does not make the CPU faster: \
            under lasting overload it only adds delay.",
        linux: "`ip -s -s link show DEV` (missed), /sys/class/net/DEV/statistics/rx_missed_errors, \
            `ethtool -S DEV`; the knob is `ethtool -G DEV rx N`.",
    },
    Scene {
        name: "budget",
        title: "The poll budget squeezes",
        stage: Stage::Poll,
        lesson: "NAPI takes packets off the rings in passes of net_rx_action. A pass may take \
            netdev_budget packets from all devices together, at most dev_weight from one device at a \
            time; then it must yield, even if the rings are not empty. That is a squeeze. Nothing is \
            lost yet: what is left waits for the next pass, and the rings fill meanwhile.",
        load_text: "4 devices receive 200 datagrams each.",
        load: Load::Burst { wires: 4, each: 200, netif_rx: false, slow: false },
        knob: "net.core.netdev_budget",
        values: ["100", "1000"],
        reason: None,
        counters: &[
            Counter::SoftnetTimeSqueeze,
            Counter::SoftnetSqueezeBudget,
            Counter::SoftnetSqueezeTime,
            Counter::SoftirqNetRx,
        ],
        cure: "A larger budget finishes the work in one pass. The price is fairness: the \
            application waits while a pass lasts.",
        linux: "/proc/net/softnet_stat, third column (time_squeeze, one line a CPU), which does not \
            say whether packets or time ran out; here the cause is counted as well. The knobs are \
            `sysctl net.core.netdev_budget` and `net.core.netdev_budget_usecs`.",
    },
    Scene {
        name: "backlog",
        title: "The backlog fills",
        stage: Stage::Backlog,
        lesson: "Devices without NAPI (loopback, veth, tunnels) and packets that RPS steers to \
            another CPU do not wait in a ring: netif_rx puts them into the CPU's input queue, the \
            backlog, which process_backlog empties dev_weight packets at a time. The queue has one \
            limit for all who fill it.",
        load_text: "4 devices without NAPI receive 200 datagrams each.",
        load: Load::Burst { wires: 4, each: 200, netif_rx: true, slow: false },
        knob: "net.core.netdev_max_backlog",
        values: ["100", "1000"],
        reason: Some(Reason::CpuBacklog),
        counters: &[Counter::SoftnetDropped, Counter::DevRxDropped],
        cure: "The queue must hold what all producers bring between two rounds of process_backlog.",
        linux: "/proc/net/softnet_stat, second column (dropped, one line a CPU), and the drop reason \
            CPU_BACKLOG of `perf trace -e skb:kfree_skb`; the knob is \
            `sysctl net.core.netdev_max_backlog`.",
    },
    Scene {
        name: "rcvbuf",
        title: "A socket's receive buffer fills",
        stage: Stage::SockQueue,
        lesson: "A datagram that got this far has cost all the work there is, and can still be lost: \
            the socket's receive buffer counts the true size of packets (buffer and bookkeeping, \
            not just payload) against its limit, and UDP has nobody to ask to send more slowly.",
        load_text: "300 datagrams arrive while the application is busy with something else.",
        load: Load::Burst { wires: 1, each: 300, netif_rx: false, slow: true },
        knob: "net.core.rmem_default",
        values: ["65536", "4194304"],
        reason: Some(Reason::SocketRcvbuff),
        counters: &[Counter::UdpRcvbufErrors, Counter::UdpInErrors],
        cure: "The knob is read when a socket is opened, so the application was started anew. A \
            program may also ask by itself (SO_RCVBUF, up to net.core.rmem_max).",
        linux: "`nstat -az UdpRcvbufErrors` (/proc/net/snmp), the last column of /proc/net/udp, \
            and `ss -uam` (the d of skmem); the knobs are `sysctl net.core.rmem_default` and \
            `net.core.rmem_max`.",
    },
    Scene {
        name: "listen",
        title: "A listen queue overflows",
        stage: Stage::Transport,
        lesson: "A connection that has finished its handshake waits in the listener's accept queue. \
            Its length is the backlog that the application gave to listen(), but never more than \
            somaxconn. When it is full the kernel answers no more: SYNs are dropped, the client \
            repeats them after a second, and the user sees a slow service with an idle CPU.",
        load_text: "32 clients connect one after the other; the application listens with a backlog \
            of 32 and is slow to accept.",
        load: Load::Connect(32),
        knob: "net.core.somaxconn",
        values: ["4", "4096"],
        reason: Some(Reason::TcpListenOverflow),
        counters: &[Counter::TcpExtListenOverflows, Counter::TcpExtListenDrops],
        cure: "This stack reads the knob at each connection, so raising it helps listeners that are \
            open as well. Linux reads it in listen() (sk_max_ack_backlog): there the application must \
            listen anew. Here it was started anew, as on Linux.",
        linux: "`nstat -az TcpExtListenOverflows TcpExtListenDrops` (/proc/net/netstat); `ss -ltn` \
            shows a full queue as Recv-Q above Send-Q. The knob is `sysctl net.core.somaxconn`.",
    },
];
