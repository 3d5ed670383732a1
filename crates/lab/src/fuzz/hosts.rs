//! What a host says of itself, if it lies: files, messages, records.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use linerate_host::collect::{Collector, Tier};
use linerate_host::record::Reader;
use linerate_host::rules::{Limits, diagnose};
use linerate_host::source::Source;
use linerate_host::{Cx, Goal, Snapshot, Window};

use super::Draw;

/// A tree in memory.
#[derive(Clone, Default)]
struct Tree(BTreeMap<String, Vec<u8>>);

impl Tree {
    /// A recorded one of `crates/host/tests`.
    fn of(path: &str) -> Tree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/tests").join(path);
        let mut tree = Tree::default();
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("the recorded hosts are there") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    dirs.push(path);
                } else if let Ok(bytes) = std::fs::read(&path) {
                    let name = path.strip_prefix(&root).expect("it is below");
                    tree.0.insert(name.to_string_lossy().into_owned(), bytes);
                }
            }
        }
        tree
    }

    /// Some files become what the bytes say, whole or from a place on.
    fn spoil(&mut self, draw: &mut Draw<'_>) {
        let names: Vec<String> = self.0.keys().cloned().collect();
        while !draw.is_spent() {
            let name = &names[draw.below(names.len() as u64) as usize];
            let (whole, len) = (draw.below(2) == 0, draw.below(0x10_000));
            let bytes = self.0.get_mut(name).expect("it is one of the names");
            let at = if whole { 0 } else { draw.below(bytes.len() as u64 + 1) as usize };
            let new = draw.bytes(len as usize);
            let end = if whole { bytes.len() } else { (at + new.len()).min(bytes.len()) };
            bytes.splice(at..end, new.iter().copied());
            if draw.below(4) == 3 {
                return;
            }
        }
    }
}

impl Source for Tree {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        self.0.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        let below = self.0.keys().filter_map(|n| n.strip_prefix(dir)?.strip_prefix('/'));
        let mut names: Vec<_> =
            below.filter_map(|n| n.split('/').next()).map(String::from).collect();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }
}

/// Two moments of a host, and what the doctor says of them.
fn doctor(base: &Tree, data: &[u8]) {
    let mut draw = Draw::Bytes(data);
    let mut collector = Collector::new(Tier::Full).with_drops().with_probes();
    let moments: [Snapshot; 2] = std::array::from_fn(|_| {
        let mut tree = base.clone();
        tree.spoil(&mut draw);
        collector.collect(&mut tree)
    });
    let windows = vec![Window { from: Some(&moments[0]), to: &moments[1] }];
    let cx = Cx { windows, goal: Goal::Throughput, limits: Limits::default() };
    let said = diagnose(&cx);
    assert!(said.findings.len() < 10_000);
}

/// Files of `/proc` and `/sys`.
pub fn files(data: &[u8]) {
    thread_local! { static BASE: Tree = Tree::of("data/procfs"); }
    BASE.with(|base| doctor(base, data));
}

/// Messages of netlink.
pub fn messages(data: &[u8]) {
    thread_local! { static BASE: Tree = Tree::of("netlink/data/veth"); }
    BASE.with(|base| doctor(base, data));
}

/// A record. Where this is built for a fuzzer its checksums count as right.
pub fn record(data: &[u8]) {
    let path = std::env::temp_dir().join(format!("linerate-fuzz-{}.lrec", std::process::id()));
    std::fs::write(&path, data).expect("a temporary file can be written");
    if let Ok(mut reader) = Reader::open(&path) {
        let mut moments = 0;
        while let Ok(Some(_)) = reader.advance() {
            let mut collector = Collector::new(Tier::Full);
            let _ = collector.collect(&mut reader.source());
            moments += 1;
            assert!(moments <= data.len(), "each moment takes bytes of the file");
        }
    }
    let _ = std::fs::remove_file(&path);
}
