//! The frames of a run, as pcapng: an interface for each device, and what becomes of a frame as its comment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use linerate_core::link::L2;
use linerate_dev::pcap::{Direction, Info, LinkType, Writer};
use linerate_sim::{Passing, Port};

use super::scenario::Scenario;

pub(super) struct Recorder {
    out: Writer<BufWriter<File>>,
    link: LinkType,
    interfaces: BTreeMap<Port, u32>,
}

impl Recorder {
    /// Begins a file. A trace that can not be written is a fault of who asked for it.
    pub fn new(path: &Path, scenario: &Scenario) -> Recorder {
        let file = File::create(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let info = Info { application: "linerate-lab", ..Info::default() };
        let out = Writer::new(BufWriter::new(file), info).expect("the disk takes it");
        let link = if scenario.l2 == L2::Ethernet { LinkType::ETHERNET } else { LinkType::RAW };
        Recorder { out, link, interfaces: BTreeMap::new() }
    }

    pub fn write(&mut self, frame: &Passing<'_>) {
        let (out, Port { node, dev }) = (&mut self.out, frame.from);
        let interface = *self.interfaces.entry(frame.from).or_insert_with(|| {
            let name = format!("node{}-sim{dev}", node.0);
            out.add_interface(&name, self.link, 0).expect("the disk takes it")
        });
        let fate: Vec<String> =
            frame.arrives.iter().map(|at| format!("+{} us", at.since(frame.at) / 1000)).collect();
        let fate = if fate.is_empty() { "lost".to_owned() } else { fate.join(", ") };
        let parts = [frame.bytes];
        let written =
            out.packet(interface, frame.at.ns(), &parts, Direction::Outbound, Some(&fate));
        written.expect("the disk takes it");
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // What is lost here is the end of a trace, and the run says by itself how it ended.
        let _ = self.out.flush();
    }
}
