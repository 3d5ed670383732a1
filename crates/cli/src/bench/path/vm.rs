//! Cases of eBPF programs: what stage Xdp calls for each packet, and the same instructions run by the
//! kernel.

use linerate_bpf::Insn;
use linerate_bpf::asm::{Asm, Op, Reg};
use linerate_bpf::insn::code::PSEUDO_MAP;
use linerate_bpf::maps::{Kind, MapDef};
use linerate_bpf::prog::{MapSource, Program as Code, Source};
use linerate_bpf::sys;
use linerate_bpf::vm::Vm;
use linerate_core::pkt::{Pkt, Pool};
use linerate_core::rx::xdp::{Action, Program};
use linerate_dev::ebpf;

use super::case::{Case, Maker, Parts, Row, timed};
use super::filter::filter;
use super::stack::{self, FROM, PEER, PORT};

/// Packets that the program sees one after another.
const SIZE: u64 = 32;
/// Runs of a program in one call of the kernel's: short, so that some are not disturbed.
const RUNS: u32 = 2000;

/// The cases of this file.
pub fn makers() -> Vec<Maker> {
    let ours = |name: &str, target: f64, what: What| -> Maker {
        let row = Row::new(format!("xdp-vm {name}, 60 B, batch {SIZE}")).target(target);
        (row, Box::new(move |row| Box::new(Ours::new(row, what))))
    };
    let theirs = |name: &str, what: What| -> Maker {
        let row = Row::new(format!("xdp-vm {name}, BPF_PROG_TEST_RUN")).of("kernel").slower(10);
        (row, Box::new(move |row| Box::new(Theirs::new(row, what))))
    };
    let (trivial, filter) = ("return XDP_PASS", "100 instructions, one hash look-up");
    vec![
        ours(trivial, 40.0, What::Trivial),
        theirs(trivial, What::Trivial),
        ours(filter, 250.0, What::Filter),
        theirs(filter, What::Filter),
    ]
}

#[derive(Clone, Copy)]
enum What {
    Trivial,
    /// Checks of the headers and their sum, a list of addresses, and a count for the flow.
    Filter,
}

impl What {
    /// The instructions; where they name the map, if they do.
    fn insns(self) -> (Vec<Insn>, Option<usize>) {
        match self {
            What::Trivial => {
                let mut asm = Asm::new();
                asm.op(Op::Mov, Reg::R0, 2);
                asm.exit();
                (asm.finish(), None)
            }
            What::Filter => {
                let insns = filter();
                let map = insns.iter().position(|i| i.code == linerate_bpf::insn::code::LD_IMM64);
                (insns, map)
            }
        }
    }

    /// For our machine, with the entry that the look-up finds.
    fn source(self) -> Source {
        let (mut insns, map) = self.insns();
        let mut source = Source { name: "bench".to_owned(), ..Source::default() };
        if let Some(at) = map {
            insns[at] = insns[at].with_src(PSEUDO_MAP).with_imm(0);
            source.maps.push(MapSource { def: flows(), entries: entries() });
        }
        Source { insns, ..source }
    }
}

/// The map of flows.
fn flows() -> MapDef {
    let (name, kind) = ("flows".to_owned(), Kind::Hash);
    MapDef { name, kind, key_size: 8, value_size: 8, max_entries: 1024, flags: 0 }
}

/// The packet's flow, and others.
fn entries() -> Vec<(Vec<u8>, Vec<u8>)> {
    let key = |port: u16| {
        let mut key = PEER.octets().to_vec();
        key.extend(port.to_be_bytes());
        key.extend(PORT.to_be_bytes());
        (key, vec![0; 8])
    };
    (0..512).map(|n| key(FROM + n)).collect()
}

/// By our machine, as a device's program.
struct Ours {
    row: Row,
    program: Program,
    pkts: Vec<Pkt>,
}

impl Ours {
    fn new(row: Row, what: What) -> Ours {
        let code = Code::load(what.source(), 1).expect("a sound program");
        let program = ebpf::program(Vm::new(code, 0, 1), true);
        let mut pool = Pool::new(SIZE as usize * 2, 2);
        let frame = stack::frame(18);
        let pkts = (0..SIZE).map(|_| {
            let mut pkt = pool.alloc().expect("there is memory");
            pkt.put(frame.len()).copy_from_slice(&frame);
            pkt.dev = 0;
            pkt
        });
        let pkts = pkts.collect();
        Ours { row, program, pkts }
    }
}

impl Case for Ours {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        let (program, pkts) = (&mut self.program, &mut self.pkts);
        let turn = || {
            for pkt in pkts.iter_mut() {
                assert_eq!(program(pkt), Action::Pass, "the program passes this packet");
            }
        };
        Some(timed(packets, SIZE, turn).0)
    }
}

/// By the kernel, as `BPF_PROG_TEST_RUN` measures it: by the wall's clock.
struct Theirs {
    row: Row,
    prog: Result<(sys::Prog, Option<sys::Map>), String>,
    frame: Vec<u8>,
}

impl Theirs {
    fn new(row: Row, what: What) -> Theirs {
        Theirs { row, prog: load(what), frame: stack::frame(18) }
    }
}

/// Loads the program into the kernel, with its map.
fn load(what: What) -> Result<(sys::Prog, Option<sys::Map>), String> {
    let (mut insns, at) = what.insns();
    let mut map = None;
    if let Some(at) = at {
        let made = sys::Map::create_as(&flows()).map_err(|err| err.to_string())?;
        for (key, value) in entries() {
            made.update(&key, &value).map_err(|err| err.to_string())?;
        }
        insns[at] = insns[at].with_src(PSEUDO_MAP).with_imm(made.number());
        map = Some(made);
    }
    let prog = sys::Prog::load(&insns, "bench").map_err(|err| err.source.to_string())?;
    Ok((prog, map))
}

impl Case for Theirs {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        let (prog, _) = self.prog.as_ref().ok()?;
        let mut least = f64::INFINITY;
        for _ in 0..packets.div_ceil(RUNS.into()) {
            let (said, ns) = prog.test_run(&self.frame, RUNS).ok()?;
            assert_eq!(said, 2, "the program passes this packet");
            least = least.min(ns.into());
        }
        Some(least)
    }
    fn parts(&mut self) -> Parts {
        let jit = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
        let how = if jit.trim() == "0" { "interpreted" } else { "compiled to machine code" };
        let note = match &self.prog {
            Ok(_) => format!("{how}; the least of calls of {RUNS} runs, by the wall's clock"),
            Err(why) => format!("the kernel takes no program: {why}"),
        };
        Parts { note: Some(note), ..Parts::default() }
    }
}
