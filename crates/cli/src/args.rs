//! The command line: every command, its options and its help.
//!
//! What can be judged without looking at the machine (an address, a port, a knob's range) is judged
//! here, so that a wrong value ends with usage and exit status 2 before anything is started.

mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use linerate_core::tx::qdisc::Tree;

use crate::bench;
use crate::capture::args::CaptureArgs;
use crate::doctor::args::{DoctorArgs, RecordArgs, TopArgs};
use crate::tune::args::TuneArgs;
use crate::up::args::UpArgs;

pub use values::{Cidr, Publish, SetWord, Setting};
use values::{dns_server, net4, net6, seconds};
pub(crate) use values::{instance_name, qdisc_tree};

/// See and tune the Linux network path: the kernel's, as it runs on this host (doctor, record, top,
/// tune), and a complete one in user space that any program can run on (run, up, demo, replay).
#[derive(Debug, Parser)]
#[command(
    name = "linerate",
    version,
    max_term_width = 100,
    after_help = "\
Exit status: 0 success; 1 failure; 2 wrong usage or unreadable input. `run` exits with the
program's own status, or 128 + n if signal n killed it; `doctor` with 1 if something is wrong.

Examples:
  linerate demo
  linerate run -- curl -sS https://example.com
  linerate run -p 127.0.0.1:8080:80 -- python3 -m http.server 80
  linerate up --dev veth0 --addr 10.9.0.2/24 --serve echo --serve http=/srv/www
  linerate doctor
  linerate top
  linerate show path
  linerate explain UdpRcvbufErrors
  linerate replay capture.pcapng
  linerate capture --stage Ip --filter 'tcp port 80' -w out.pcapng"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

// The help of a command is the doc comment of its arguments.
/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(DemoArgs),
    Run(Box<RunArgs>),
    Up(Box<UpArgs>),
    Doctor(DoctorArgs),
    Record(RecordArgs),
    Top(TopArgs),
    Tune(TuneArgs),
    Show(ShowArgs),
    Get(GetArgs),
    Set(SetArgs),
    Explain(ExplainArgs),
    Replay(ReplayArgs),
    Capture(CaptureArgs),
    Whatif(Box<crate::whatif::WhatifArgs>),
    /// Measure, beside peers
    #[command(subcommand)]
    Bench(BenchCommand),
    Completions(CompletionsArgs),
    Man(ManArgs),
    /// One end of the traffic of `bench run`
    #[command(name = "__traffic", hide = true)]
    Traffic(bench::TrafficArgs),
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Run(bench::BenchRunArgs),
    /// Measure what each stage costs a packet, with nothing but memory below the stack
    Path(bench::BenchPathArgs),
    /// Measure TCP with a million connections, connects, one stream, losses and a SYN flood, in memory
    TcpScale(bench::BenchTcpScaleArgs),
    /// Measure datagrams over a veth pair, into the stack by every way there is and into the kernel's
    /// sockets
    Devices(bench::BenchDevicesArgs),
    /// Measure what a second shard gains, a hop to it costs, and a packet by 1 to 64 queues; check the order of flows
    Steering(bench::BenchSteeringArgs),
    /// Measure what reaches the application when more comes than it can work on
    Livelock(bench::BenchLivelockArgs),
    /// Show what a queue at a slow link does to a ping beside downloads, by one discipline and another
    Bufferbloat(bench::BenchBufferbloatArgs),
    /// Measure what it costs to read the kernel's path, beside nstat, ss and node_exporter
    Host(bench::BenchHostArgs),
    Tun(bench::BenchTunArgs),
    All(bench::BenchAllArgs),
}

/// Move real traffic of a kernel TCP client through the path and print the path report.
///
/// Starts an HTTP server on the host's side and a client in a network namespace whose only network
/// is linerate; downloads, uploads, ping-pongs; verifies every byte. Needs no rights and no network.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  linerate demo\n  linerate demo --tour")]
pub struct DemoArgs {
    /// The lesson: cause each kind of loss, see it at its stage, set the knob, see it stop
    #[arg(long)]
    pub tour: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How long the traffic runs, in seconds
    #[arg(long, hide = true, default_value_t = 5.0, value_parser = seconds)]
    pub secs: f64,
}

/// Run a program in a private network namespace whose every packet goes through linerate.
///
/// Needs no root. The program sees 10.0.2.100, gateway 10.0.2.2, name server 10.0.2.3, and the same
/// over IPv6. Connections are made by linerate's own sockets on the host; the host's loopback,
/// link-local addresses and own addresses are refused unless --host-loopback is given. This isolates
/// the network only: files and UNIX sockets stay reachable.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate run -- curl -sS https://example.com
  linerate run -p 127.0.0.1:8080:80 -- python3 -m http.server 80
  linerate run --pcap out.pcapng --report json --set net.core.netdev_budget=600 -- iperf3 -c HOST

Exit status: the program's own; 128 + n if signal n killed it; 125 if linerate itself failed; 126 if
the program can not be executed; 127 if it was not found; 2 for wrong usage.")]
pub struct RunArgs {
    /// Open a port on the host for a port of the program, on 127.0.0.1 unless ADDR says otherwise; repeatable
    #[arg(short = 'p', long = "publish", value_name = "[ADDR:]HOST:PROGRAM[/udp]")]
    pub publish: Vec<Publish>,
    /// Record both directions to this file, as pcapng
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// What to print on standard error when the program has ended; by default nothing, so that the
    /// program's own output stays as it is
    #[arg(long, value_enum, default_value_t = Report::None, value_name = "FORMAT")]
    pub report: Report,
    /// Set a knob from the start; repeatable (`linerate show knobs` and `explain` know their names)
    #[arg(long, value_name = "KNOB=VALUE")]
    pub set: Vec<Setting>,
    /// What the program receives passes this queueing discipline, in tc's words: 'netem delay 40ms loss
    /// 1%', 'tbf rate 20mbit burst 32k latency 50ms'
    #[arg(long, value_name = "SPEC", value_parser = qdisc_tree)]
    pub qdisc: Option<Tree>,
    /// What the program sends passes this one
    #[arg(long, value_name = "SPEC", value_parser = qdisc_tree)]
    pub qdisc_in: Option<Tree>,
    /// An eBPF program, as clang makes it, that sees each packet of the program first: drops it, sends
    /// it back, or changes it
    #[arg(long, value_name = "FILE[:SECTION]")]
    pub xdp: Option<String>,
    /// The largest IP packet that the program may send, in bytes [default: 65520; 1500 with a queueing
    /// discipline, so that packets are those of a real link]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65520))]
    pub mtu: Option<u32>,
    /// How packets reach linerate: a TUN device, or AF_PACKET on a veth where TUN may not be opened
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
    /// Let the program reach the host's own addresses, loopback (as the gateway's address) and link-local ones
    #[arg(long)]
    pub host_loopback: bool,
    /// What `show`, `get` and `set` call this instance [default: the program's name and process number]
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    pub name: Option<String>,
    /// Map the user's subordinate ids (/etc/subuid), for programs that change user; needs newuidmap
    #[arg(long)]
    pub subuid: bool,
    /// No IPv6 inside
    #[arg(long)]
    pub no_ipv6: bool,
    /// Ask this name server instead of the host's; repeatable
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = dns_server)]
    pub dns: Vec<SocketAddr>,
    /// The IPv4 network inside: the program is its .100, the gateway .2, the name server .3
    #[arg(long, value_name = "CIDR", default_value = "10.0.2.0/24", value_parser = net4)]
    pub net4: Cidr,
    /// The IPv6 network inside
    #[arg(long, value_name = "CIDR", default_value = "fd00:6c69:6e65::/64", value_parser = net6)]
    pub net6: Cidr,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// Look at a running instance, in the kernel's own file formats where the kernel has one; or, with
/// --host, at the kernel's path of this host.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate show path
  linerate show snmp | grep ^Tcp
  linerate show sockets --json --name curl-4711
  linerate show --host softnet
  linerate show --host path --name curl-4711
  linerate show --host drops --netns web
  linerate show --host latency --for 5s
  linerate show --host qdisc --from host.lrec

With --host: path, softnet, softirqs, dev, rings, channels, coalesce, irqs, rss, rps, xps, qdisc, snmp,
snmp6, netstat, sockstat, statistics, sockets, drops, latency, knobs.")]
pub struct ShowArgs {
    /// What to look at
    #[arg(value_enum)]
    pub what: What,
    /// Which instance, by name or by the path of its socket; needed if there are several
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The kernel's path instead of an instance; `path` with --name: both, side by side
    #[arg(long)]
    pub host: bool,
    /// With --host: of a record, or of a directory with proc/ and sys/ in it
    #[arg(long, value_name = "PATH", requires = "host")]
    pub from: Option<PathBuf>,
    /// With --host: of another network namespace: a name of `ip netns`, a process number, or a path
    #[arg(long, value_name = "NAME|PID|PATH", requires = "host", conflicts_with = "from")]
    pub netns: Option<String>,
    /// With --host: how long to look at what is counted over a time: drops, path, latency [default: 2s;
    /// latency: 5s]
    #[arg(long = "for", value_name = "TIME", requires = "host", conflicts_with = "from",
          value_parser = crate::doctor::args::duration)]
    pub period: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `show` can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The path report: stages in journey order, drops by reason, queues, top flows
    Path,
    /// As /proc/net/softnet_stat
    Softnet,
    /// As /proc/softirqs
    Softirqs,
    /// As /proc/net/snmp
    Snmp,
    /// As /proc/net/snmp6
    Snmp6,
    /// As /proc/net/netstat
    Netstat,
    /// As /proc/net/dev
    Dev,
    /// As /proc/net/sockstat
    Sockstat,
    /// As /proc/net/sockstat6
    Sockstat6,
    /// As /proc/net/udp
    Udp,
    /// As /proc/net/udp6
    Udp6,
    /// As /proc/net/tcp
    Tcp,
    /// As /proc/net/tcp6
    Tcp6,
    /// Sockets with their queues, round-trip times, congestion windows (like `ss -tui`)
    Sockets,
    /// Sizes of the devices' rings, as ethtool -g
    Rings,
    /// Queues of the devices, as ethtool -l
    Channels,
    /// Interrupt moderation, as ethtool -c
    Coalesce,
    /// How devices distribute over their queues, as ethtool -x
    Rss,
    /// Rules that send chosen flows to queues, as ethtool -n
    Ntuple,
    /// Shards that queues are spread over, as sysfs
    Rps,
    /// Tables by which flows follow their readers, as sysfs
    Rfs,
    /// Which shards and receive queues a transmit queue serves, as sysfs
    Xps,
    /// What driver or socket counts of each queue, as ethtool -S
    Statistics,
    /// Connections, with the shard that each lives on
    Flows,
    /// What woke the shards, as /proc/interrupts
    Irqs,
    /// Queueing disciplines of the devices, as tc -s qdisc
    Qdisc,
    /// How long softirqs, polls and packets between stages take, by probes; with --host alone
    Latency,
    /// eBPF programs at the stage Xdp, what they said of packets, and their maps
    Xdp,
    /// Bytes that transmit rings may hold, as sysfs byte_queue_limits
    Bql,
    /// Rules of match and action at ingress, as tc -s filter
    Filter,
    /// Drops by reason, with the knob that governs each
    Drops,
    /// Every knob with value, default and source
    Knobs,
    /// The instances that run now
    Instances,
}

/// Read a knob of a running instance.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  linerate get net.core.netdev_budget\n  linerate get ring.rx --json"
)]
pub struct GetArgs {
    /// The knob, as sysctl, ethtool or tc name it
    #[arg(value_name = "KNOB")]
    pub knob: String,
    /// Which instance; needed if there are several
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Change a knob of a running instance; it counts from the moment that `explain KNOB` names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate set net.core.netdev_budget=600
  linerate set net.ipv4.tcp_rmem='4096 131072 16777216'
  linerate set channels.combined=2
  linerate set rps_cpus=3
  linerate set ntuple add flow-type udp4 dst-port 53 action 1 loc 0
  linerate set ntuple delete 0
  linerate set ingress.eth0 add prio 10 protocol ip flower ip_proto udp dst_port 53 action drop
  linerate set ingress.eth0 del prio 10")]
pub struct SetArgs {
    /// The knob and its new value; or `ntuple add RULE`, `ntuple delete N`, as ethtool -N has them; or
    /// `ingress.DEV add RULE`, `ingress.DEV del [prio N]`, as tc filter has them
    #[arg(value_name = "KNOB=VALUE", required = true, allow_negative_numbers = true)]
    pub words: Vec<SetWord>,
    /// Which instance; needed if there are several
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Say what a counter, knob, stage or drop reason is: meaning, stage, unit, Linux's name, what moves it;
/// the kernel's as well, and the rules of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate explain UdpRcvbufErrors
  linerate explain TcpExt:ListenOverflows
  linerate explain SKB_DROP_REASON_SOCKET_RCVBUFF
  linerate explain net.core.netdev_budget
  linerate explain Gro
  linerate explain rx_missed_errors
  linerate explain R43
  linerate explain limits")]
pub struct ExplainArgs {
    /// Our name, Linux's name, or Linux's name with its group
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Send a recorded capture (pcap or pcapng) through the receive path and print the path report.
///
/// The real path, with the capture's own clock: checks, reassembly, routing, demultiplexing. Every
/// destination counts as local; no sockets are open, so intact packets end where a socket is missing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate replay capture.pcapng
  linerate replay capture.pcap --json | jq .counters.Ip
  linerate replay capture.pcap --trace 17

Exit status: 2 if the file is truncated, corrupt, or no capture; the error names the byte offset.")]
pub struct ReplayArgs {
    /// The capture
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only these destinations are local; repeatable [default: all]
    #[arg(long, value_name = "CIDR")]
    pub local: Vec<Cidr>,
    /// Walk packet N (from 1) stage by stage to its verdict
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub trace: Option<u32>,
    /// Set a knob first; repeatable
    #[arg(long, value_name = "KNOB=VALUE")]
    pub set: Vec<Setting>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Print a completion script for a shell on standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate completions bash > ~/.local/share/bash-completion/completions/linerate
  linerate completions zsh > ~/.zfunc/_linerate")]
pub struct CompletionsArgs {
    /// Whose language it is written in
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Print the manual page, or write those of all commands into a directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate man | man -l -
  linerate man --dir ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Write one page a command here instead
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// The report at the end of `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Report {
    /// The path report for people
    Text,
    /// The whole snapshot as JSON
    Json,
    /// Nothing
    None,
}

/// How packets reach linerate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// TUN where it may be opened, else AF_PACKET
    Auto,
    /// A TUN device
    Tun,
    /// AF_PACKET on a veth pair
    Packet,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
