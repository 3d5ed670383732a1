#![doc = include_str!("README.md")]

mod btf;
mod code;
pub mod hist;
mod read;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use linerate_bpf::Insn;
use linerate_bpf::sys::{LoadError, Map, MapKind, ProgInfo, TraceKind, Tracing};

use self::btf::{Btf, Kind};
use self::code::{
    Code, Fields, HIST_SIZE, HISTS, Maps, NAME_SIZE, NAMES_MAX, Place, SLOT_SIZE, SLOTS, SOCK_SIZE,
    SOCKS, STATE_SIZE, TURN_SIZE, UdpFields, VECTORS_MAX,
};

pub use read::parse;

/// The name of what they give.
pub const NAME: &str = "bpf/probes";

/// One packet in so many is followed from stage to stage, unless another number is asked for.
pub const SAMPLE: u32 = 64;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// One packet in so many is followed; 1: each.
    pub sample: u32,
    /// Packets are followed in the network namespace of this inode only; `None`: in all.
    pub netns: Option<u32>,
}

impl Default for Config {
    fn default() -> Config {
        Config { sample: SAMPLE, netns: None }
    }
}

/// Programs of ours at the kernel's tracepoints, and what they have counted. They see the whole host.
/// They end with this, or with the process, whatever ends it.
#[derive(Debug)]
pub struct Probes {
    config: Config,
    /// The namespace whose devices are called by their names alone.
    here: Option<u32>,
    maps: Maps,
    vectors: Vec<String>,
    programs: Vec<Tracing>,
    // Closing them detaches the programs.
    _links: Vec<OwnedFd>,
    /// What could not be attached, and why.
    notes: Vec<(String, String)>,
}

/// Where a program is attached, and which.
struct Spot {
    kind: TraceKind,
    /// The tracepoint or function.
    at: &'static str,
    /// What is not known without it.
    what: &'static str,
    /// How many arguments are needed.
    arguments: usize,
    code: fn(&Code<'_>) -> Vec<Insn>,
}

const fn tracepoint(
    at: &'static str,
    what: &'static str,
    arguments: usize,
    code: fn(&Code<'_>) -> Vec<Insn>,
) -> Spot {
    // A tracepoint's function has the data of who asked before its arguments.
    Spot { kind: TraceKind::RawTp, at, what, arguments: arguments + 1, code }
}

const fn entry(
    at: &'static str,
    what: &'static str,
    arguments: usize,
    code: fn(&Code<'_>) -> Vec<Insn>,
) -> Spot {
    Spot { kind: TraceKind::Fentry, at, what, arguments, code }
}

/// Ends come before beginnings, so that nothing is followed whose end would not be seen.
const SPOTS: [Spot; 12] = [
    tracepoint("btf_trace_softirq_exit", "time of softirqs", 1, |c| c.softirq_exit()),
    tracepoint("btf_trace_softirq_entry", "time and delay of softirqs", 1, |c| c.softirq_entry()),
    tracepoint("btf_trace_softirq_raise", "delay of softirqs", 1, |c| c.softirq_raise()),
    tracepoint("btf_trace_napi_poll", "packets and time of polls", 3, |c| c.napi_poll()),
    tracepoint("btf_trace_kfree_skb", "packets that are dropped", 2, |c| c.gone(Place::Dropped)),
    tracepoint("btf_trace_consume_skb", "packets that nobody reads", 1, |c| {
        c.gone(Place::Consumed)
    }),
    tracepoint("btf_trace_skb_copy_datagram_iovec", "what TCP and raw sockets read", 2, |c| {
        c.read(0, Place::CopyRead, Place::CopyWaited)
    }),
    tracepoint("btf_trace_tcp_probe", "when packets reach TCP", 2, |c| c.queued(Place::TcpQueued)),
    tracepoint("btf_trace_netif_receive_skb", "packets on their way up", 1, |c| c.receive()),
    tracepoint("btf_trace_net_dev_xmit", "time in the driver", 4, |c| c.xmit()),
    tracepoint("btf_trace_net_dev_start_xmit", "time in the qdisc", 2, |c| c.start_xmit()),
    tracepoint("btf_trace_net_dev_queue", "packets on their way down", 1, |c| c.queue()),
];

/// When a poll begins. Without it a poll counts from the end of the last.
const POLL: [Spot; 1] =
    [entry("__napi_poll", "the exact begin of a poll, and all polls of threads", 2, |c| {
        c.poll_entry()
    })];

/// UDP sockets, exactly.
const UDP: [Spot; 2] = [
    entry("skb_consume_udp", "what UDP sockets read", 3, |c| {
        c.read(1, Place::UdpRead, Place::UdpWaited)
    }),
    entry("__udp_enqueue_schedule_skb", "when packets reach UDP sockets", 2, |c| {
        c.queued(Place::UdpQueued)
    }),
];

/// UDP sockets, where the entries of functions are not to be had.
const UDP_BY_QUEUE: [Spot; 2] = [
    tracepoint("btf_trace_sock_recv_length", "what UDP sockets read", 3, |c| c.udp_received()),
    tracepoint("btf_trace_sk_data_ready", "when packets reach UDP sockets", 1, |c| c.udp_ready()),
];

impl Probes {
    /// Begins to measure.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_BPF` and `CAP_PERFMON`, or where the kernel is locked down;
    /// `Unsupported` where it has no type information; what the kernel says if nothing could be
    /// attached.
    pub fn begin(config: Config) -> io::Result<Probes> {
        let maps = maps()?;
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => unsupported(
                "the kernel has no type information (CONFIG_DEBUG_INFO_BTF): probes need it to know \
                where fields lie",
            ),
            _ => e,
        })?;
        let btf = Btf::parse(bytes)
            .map_err(|why| unsupported(format!("/sys/kernel/btf/vmlinux: {why}")))?;
        let types = types(&btf);
        let fields = fields(&btf, &types)
            .map_err(|name| unsupported(format!("this kernel's structures have no {name}")))?;
        let vectors = vectors(&std::fs::read_to_string("/proc/softirqs").unwrap_or_default());
        let net_rx = vectors.iter().position(|name| name == "NET_RX");
        let net_rx = net_rx
            .and_then(|at| u8::try_from(at).ok())
            .ok_or_else(|| unsupported("/proc/softirqs has no NET_RX"))?;
        let udp = udp_fields(&btf, &types);
        let code = Code {
            maps: &maps,
            fields,
            udp: udp.unwrap_or_default(),
            net_rx,
            sample: config.sample.max(1),
            netns: config.netns,
        };
        let kernel = Kernel { btf: &btf, types: &types, code: &code };
        let mut attached = Attached::default();
        for spot in &SPOTS {
            attached.try_all(&kernel, std::slice::from_ref(spot))?;
        }
        if attached.links.is_empty() {
            let why = attached.last.unwrap_or_else(|| unsupported("there is nothing to attach to"));
            return Err(why);
        }
        // The kernel may have tracepoints and keep its functions to itself.
        if let Err(err) = attached.try_all(&kernel, &POLL) {
            attached.note(&POLL[0], &err);
        }
        if let Err(err) = attached.all(&kernel, &UDP) {
            match udp {
                Some(_) => attached.try_all(&kernel, &UDP_BY_QUEUE)?,
                None => attached.note(&UDP[0], &err),
            }
        }
        let own = || crate::netns::current().ok().and_then(|n| u32::try_from(n).ok());
        let here = config.netns.or_else(own);
        let Attached { programs, links, notes, .. } = attached;
        Ok(Probes { config, here, maps, vectors, programs, _links: links, notes })
    }

    /// What the kernel says of the programs: how long they ran, if that is counted.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn programs(&self) -> io::Result<Vec<ProgInfo>> {
        self.programs.iter().map(Tracing::info).collect()
    }
}

/// What the programs are made of.
struct Kernel<'a> {
    btf: &'a Btf,
    types: &'a HashMap<(Kind, &'static str), u32>,
    code: &'a Code<'a>,
}

/// What could be attached.
#[derive(Default)]
struct Attached {
    programs: Vec<Tracing>,
    links: Vec<OwnedFd>,
    notes: Vec<(String, String)>,
    last: Option<io::Error>,
}

impl Attached {
    /// Attaches these, or none of them; what prevents it is a note, except for a right.
    fn try_all(&mut self, kernel: &Kernel<'_>, spots: &[Spot]) -> io::Result<()> {
        match self.all(kernel, spots) {
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => Err(err),
            Err(err) => {
                self.note(&spots[0], &err);
                self.last = Some(err);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn note(&mut self, spot: &Spot, why: &io::Error) {
        self.notes.push((name(spot).into(), format!("{why}; not known: {}", spot.what)));
    }

    /// Attaches these, or none of them.
    fn all(&mut self, kernel: &Kernel<'_>, spots: &[Spot]) -> io::Result<()> {
        let (programs, links) = (self.programs.len(), self.links.len());
        let all = spots.iter().try_for_each(|spot| self.one(kernel, spot));
        if all.is_err() {
            self.links.truncate(links);
            self.programs.truncate(programs);
        }
        all
    }

    fn one(&mut self, kernel: &Kernel<'_>, spot: &Spot) -> io::Result<()> {
        let id = kernel.types.get(&key(spot)).copied();
        let id = id.ok_or_else(|| unsupported("this kernel has it not"))?;
        if kernel.btf.arguments(id).is_none_or(|n| n < spot.arguments) {
            return Err(unsupported("its arguments are others in this kernel"));
        }
        let code = (spot.code)(kernel.code);
        let program = Tracing::load(&code, &format!("lr_{}", name(spot)), spot.kind, id);
        let program = program.map_err(refused)?;
        self.links.push(program.attach()?);
        self.programs.push(program);
        Ok(())
    }
}

/// The tracepoint's or function's own name.
fn name(spot: &Spot) -> &'static str {
    spot.at.strip_prefix("btf_trace_").unwrap_or(spot.at)
}

/// The errno, with the last that the verifier said.
fn refused(err: LoadError) -> io::Error {
    let said = err.log.lines().rev().find(|l| !l.trim().is_empty() && !l.starts_with("processed"));
    match said {
        // The verifier's EACCES is about the program and not about a right.
        Some(said) => unsupported(format!("the verifier refuses it: {said}")),
        None => err.source,
    }
}

fn unsupported(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why.into())
}

fn key(spot: &Spot) -> (Kind, &'static str) {
    let kind = if spot.kind == TraceKind::RawTp { Kind::Typedef } else { Kind::Func };
    (kind, spot.at)
}

const STRUCTS: [&str; 6] = ["sk_buff", "napi_struct", "net_device", "net", "sock", "udp_sock"];
/// Makes a `struct udp_sock` of a `struct sock`.
const CAST: (Kind, &str) = (Kind::Func, "bpf_rdonly_cast");

fn types(btf: &Btf) -> HashMap<(Kind, &'static str), u32> {
    let spots = SPOTS.iter().chain(&POLL).chain(&UDP).chain(&UDP_BY_QUEUE).map(key);
    let structs = STRUCTS.map(|name| (Kind::Struct, name));
    let wanted: Vec<_> = spots.chain(structs).chain([CAST]).collect();
    btf.find(&wanted)
}

/// Where a field lies, if that is within reach of an instruction, with room for what is read beyond it.
fn offset(
    btf: &Btf,
    types: &HashMap<(Kind, &'static str), u32>,
    of: &'static str,
    path: &str,
) -> Option<i16> {
    let at = btf.offset(*types.get(&(Kind::Struct, of))?, path)?;
    i16::try_from(at).ok().filter(|at| *at < i16::MAX - 32)
}

/// What is needed for [`UDP_BY_QUEUE`], if all of it is there.
fn udp_fields(btf: &Btf, types: &HashMap<(Kind, &'static str), u32>) -> Option<UdpFields> {
    Some(UdpFields {
        protocol: offset(btf, types, "sock", "sk_protocol")?,
        last: offset(btf, types, "sock", "sk_receive_queue.prev")?,
        queued: offset(btf, types, "sock", "sk_receive_queue.qlen")?,
        aside: offset(btf, types, "udp_sock", "reader_queue.qlen")?,
        udp_sock: *types.get(&(Kind::Struct, "udp_sock"))?,
        cast: *types.get(&CAST)?,
    })
}

/// Where fields lie; the name of the first that is not there.
fn fields(btf: &Btf, types: &HashMap<(Kind, &'static str), u32>) -> Result<Fields, String> {
    let at = |of, path: &str| {
        offset(btf, types, of, path).ok_or_else(|| format!("{of}.{path} within reach"))
    };
    Ok(Fields {
        skb_dev: at("sk_buff", "dev")?,
        skb_iif: at("sk_buff", "skb_iif")?,
        napi_dev: at("napi_struct", "dev")?,
        dev_name: at("net_device", "name")?,
        dev_ifindex: at("net_device", "ifindex")?,
        dev_net: at("net_device", "nd_net.net")?,
        net_inum: at("net", "ns.inum")?,
    })
}

fn maps() -> io::Result<Maps> {
    let array = MapKind::PercpuArray;
    Ok(Maps {
        hists: Map::create(array, "lr_hists", 4, HIST_SIZE, HISTS)?,
        state: Map::create(array, "lr_state", 4, STATE_SIZE, 1)?,
        names: Map::create(MapKind::Hash, "lr_names", NAME_SIZE, 4, NAMES_MAX)?,
        given: Map::create(MapKind::Array, "lr_given", 4, 4, 1)?,
        rx: Map::create(MapKind::Array, "lr_rx", 4, SLOT_SIZE, SLOTS)?,
        tx: Map::create(MapKind::Array, "lr_tx", 4, SLOT_SIZE, SLOTS)?,
        socks: Map::create(MapKind::Array, "lr_socks", 4, SOCK_SIZE, SOCKS)?,
        turns: Map::create(MapKind::Array, "lr_turns", 4, TURN_SIZE, SLOTS)?,
    })
}

/// The names of softirqs by their number, as `/proc/softirqs` lists them.
fn vectors(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.take(VECTORS_MAX as usize).collect()
}
