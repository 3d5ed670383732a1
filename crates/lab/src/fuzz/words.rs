//! What people write: disciplines, rules, filters, knobs.

use linerate_core::link::{Iface, L2};
use linerate_core::rx::ingress::Command;
use linerate_core::rx::steer::ntuple;
use linerate_core::shard::Shard;
use linerate_core::table::Knobs;
use linerate_core::tap::Filter;
use linerate_core::tx::qdisc::Tree;
use linerate_core::wire::Mac;

/// The languages of tc, ethtool and pcap; what is written again in tc's means the same.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(tree) = Tree::parse(text) {
        let again = tree.text();
        let read = Tree::parse(&again).unwrap_or_else(|e| panic!("{again}: {e}"));
        assert_eq!(read.text(), again);
    }
    let _ = Command::parse(text);
    if let Ok((_, rule)) = ntuple::parse(text) {
        let _ = rule.to_string();
    }
    let _ = Filter::compile(text);
}

/// Lines `KNOB=VALUE` set on a stack; what a knob is said to be can be set again. A first byte names the
/// knob, so that its name need not be guessed.
pub fn knobs(data: &[u8]) {
    let mut shard = Shard::new(1);
    shard.add_iface(Iface::new("fuzz0", L2::Ethernet, Mac([2, 0, 0, 0, 0, 1]), 1500));
    for line in data.split(|b| *b == b'\n') {
        let Some((first, value)) = line.split_first() else { continue };
        let Ok(value) = std::str::from_utf8(value) else { continue };
        let path = Knobs::ROWS[usize::from(*first) % Knobs::ROWS.len()].path;
        if shard.set_knob(path, value).is_ok() {
            let said = shard.get_knob(path).expect("it was set");
            assert!(shard.set_knob(path, &said).is_ok(), "{path}: {said:?} from {value:?}");
        }
        if let Some((path, value)) = value.split_once('=') {
            let _ = shard.set_knob(path, value);
        }
    }
}
