//! What is fuzzed: for each parser, and for a whole stack, a function from bytes to nothing. One that
//! panics, hangs or takes memory without bound has found a fault.
//!
//! The functions know no fuzzer. `linerate-fuzz` (feature `fuzz`) gives them to libFuzzer, which looks for
//! bytes that reach code which no bytes reached before; the tests give them what it found and kept
//! (`data/corpus/`), and damaged variants of that.

mod draw;
pub mod frames;
mod hosts;
mod parsers;
mod programs;
mod words;
pub mod world;

pub use draw::Draw;

use linerate_core::time::SEC;

/// Something that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its folder in the corpus.
    pub name: &'static str,
    /// The most bytes that are of use to it.
    pub max_len: usize,
    /// What it does with them.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "stack", max_len: 4096, run: stack },
    Target { name: "wire", max_len: 512, run: parsers::wire },
    Target { name: "frames", max_len: 1024, run: parsers::frames },
    Target { name: "pcap", max_len: 4096, run: parsers::pcap },
    Target { name: "words", max_len: 256, run: words::words },
    Target { name: "knobs", max_len: 256, run: words::knobs },
    Target { name: "ebpf", max_len: 1024, run: programs::instructions },
    Target { name: "elf", max_len: 16384, run: programs::object },
    Target { name: "procfs", max_len: 4096, run: hosts::files },
    Target { name: "netlink", max_len: 2048, run: hosts::messages },
    Target { name: "record", max_len: 8192, run: hosts::record },
];

/// The target with this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// A whole stack: bytes decide what its peer sends, when, and what its application does meanwhile. Once
/// all sockets are closed, nothing may be left.
fn stack(data: &[u8]) {
    thread_local! {
        static CAPTURED: Vec<Vec<u8>> = frames::captured();
    }
    CAPTURED.with(|captured| {
        let mut world = world::World::new(1, Draw::Bytes(data), captured);
        world.storm();
        world.close(3600 * SEC);
    });
}
