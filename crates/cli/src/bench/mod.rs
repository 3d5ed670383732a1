//! `linerate bench`: measurements beside peers, in one run.
//!
//! | file | what |
//! |---|---|
//! | [`run`] | `linerate bench run`: arguments, rounds, the order of measuring |
//! | [`inside`], [`cases`] | the measurement itself, in namespaces of its own; each of its cases |
//! | [`peers`] | how each tool is started, and reached by the program |
//! | [`traffic`] | `linerate __traffic` (hidden): the parts to play, and the commands they take |
//! | [`host_end`], [`program_end`], [`relay`] | the server, the client and the kernel relay |
//! | `tun2socks` | the peer made of Rust's crates, with `--features bench-peers` |
//! | [`udp_flow`] | both ends of a UDP flow that is acknowledged |
//! | [`http`] | nginx and wrk |
//! | [`sockperf`] | sockperf at both ends |
//! | [`memory`] | what a process and its children take of it |
//! | [`stats`] | median, spread, percentile |
//! | [`table`] | what is printed |
//! | [`devices`] | `linerate bench devices`: datagrams over a veth pair, by every way there is |
//! | [`steering`] | `linerate bench steering`: a second shard, a hop to it, order, many queues |
//! | [`livelock`] | `linerate bench livelock`: what reaches the application at overload |
//! | [`path`] | `linerate bench path`: nanoseconds a packet and stage, in memory |
//! | [`all`] | `linerate bench all`: every benchmark into one result, a page and BENCHMARKS.md |
//! | [`tun`] | `linerate bench tun`: the library alone on a TUN, against the kernel's TCP |
//! | [`scale`] | `linerate bench tcp-scale`: TCP with a million connections, connects, one stream, losses, a SYN flood |
//! | [`bufferbloat`] | `linerate bench bufferbloat`: a ping beside downloads, in virtual time |
//! | [`host`] | `linerate bench host`: what reading the kernel's path costs, beside other tools |
//!
//! Nothing here touches the host's network: `run` first enters a new network, PID and mount namespace,
//! and all that it starts lives and dies with that PID namespace; the others have their traffic in
//! memory or in network namespaces of their own.

pub mod all;
pub mod bufferbloat;
pub mod cases;
pub mod devices;
pub mod host;
pub mod host_end;
pub mod http;
pub mod inside;
pub mod livelock;
pub mod memory;
pub mod path;
pub mod peers;
pub mod program_end;
pub mod relay;
pub mod run;
pub mod scale;
pub mod sockperf;
pub mod stats;
pub mod steering;
pub mod table;
pub mod traffic;
pub mod tun;
#[cfg(feature = "bench-peers")]
pub mod tun2socks;
pub mod udp_flow;

pub use all::BenchAllArgs;
pub use bufferbloat::BenchBufferbloatArgs;
pub use devices::BenchDevicesArgs;
pub use host::BenchHostArgs;
pub use livelock::BenchLivelockArgs;
pub use path::BenchPathArgs;
pub use run::BenchRunArgs;
pub use scale::BenchTcpScaleArgs;
pub use steering::BenchSteeringArgs;
pub use traffic::TrafficArgs;
pub use tun::BenchTunArgs;
