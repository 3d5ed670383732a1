//! eBPF programs of users: read from a file, shown, and their maps seen and filled.
//!
//! The program of a device is a name like a knob's: `linerate set xdp.DEV=FILE[:SECTION]` gives a device of a
//! running instance a program in place of the one that it has, `xdp.DEV=off` takes it away; that happens
//! between two packets. A map is one, too: `linerate get xdp.map.NAME` prints its entries, `linerate set
//! xdp.map.NAME='KEY VALUE'` sets one, `'KEY -'` takes it out.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use linerate_bpf::maps::{Kind, Map, Values};
use linerate_bpf::object::Object;
use linerate_bpf::prog::Program;
use linerate_bpf::vm::Vm;
use linerate_core::shard::Shard;
use linerate_core::table::Stage;
use linerate_dev::ebpf;
use linerate_gateway::control::Response;
use linerate_gateway::control::snapshot::{Snapshot, XdpMapRow, XdpRow};

/// Bytes of an object at the most; the reader has the same bound.
const FILE_MAX: u64 = 16 << 20;
/// Entries that are printed of a map.
const ENTRIES_MAX: usize = 4096;
/// Records of a ring that are printed, and gone then.
const RECORDS_MAX: usize = 256;

/// A program, and where it is.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The device.
    pub device: String,
    /// Where it was read from.
    pub file: String,
    /// The program.
    pub program: Arc<Program>,
}

/// Reads the program that `FILE[:SECTION]` names, for so many shards.
///
/// # Errors
/// A sentence that names the file.
pub fn load(spec: &str, shards: usize) -> Result<(String, Arc<Program>), String> {
    let (file, section) = parts(spec);
    let wrong = |why: &dyn std::fmt::Display| format!("{file}: {why}");
    if file.is_empty() {
        return Err("no file is named: FILE or FILE:SECTION, such as prog.o:xdp".to_owned());
    }
    let opened = File::open(file).map_err(|e| wrong(&e))?;
    let mut bytes = Vec::new();
    opened.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| wrong(&e))?;
    let object = Object::parse(&bytes).map_err(|e| wrong(&e))?;
    let program = object.load(section, shards as u32).map_err(|e| wrong(&e))?;
    Ok((file.to_owned(), program))
}

/// Gives a device of a shard the program.
pub fn attach(program: &Arc<Program>, shard: &mut Shard, dev: u8) {
    let cpu = u32::from(shard.net.cpu);
    let vm = Vm::new(Arc::clone(program), cpu, shard.net.rng.next_u64());
    ebpf::attach(vm, shard, dev);
}

/// What takes a device's program away.
const OFF: &str = "off";

/// What is to be the program of a device, as it goes to the instance: `off`, or a path that means the same
/// there, of a file that can be loaded.
///
/// # Errors
/// A sentence that names the file.
pub fn wanted(spec: &str) -> Result<String, String> {
    if spec == OFF {
        return Ok(OFF.to_owned());
    }
    load(spec, 1)?;
    let path = std::path::absolute(spec).map_err(|e| format!("{spec}: {e}"))?;
    Ok(path.display().to_string())
}

/// Loads what [`wanted`] gave; `None` takes the program away.
///
/// # Errors
/// A sentence that names the file.
pub fn load_wanted(spec: &str, shards: usize) -> Result<Option<(String, Arc<Program>)>, String> {
    if spec == OFF {
        return Ok(None);
    }
    let (file, _) = parts(spec);
    // A pipe would keep the loop waiting for whoever writes into it.
    match std::fs::metadata(file) {
        Ok(meta) if !meta.is_file() => Err(format!("{file}: it is no file")),
        _ => load(spec, shards).map(Some),
    }
}

/// A device of a shard has the program now, or none.
pub fn change(program: Option<&Arc<Program>>, shard: &mut Shard, device: &str) {
    let Some(dev) = shard.net.ifaces.iter().position(|i| i.name == device) else { return };
    match program {
        Some(program) => attach(program, shard, dev as u8),
        None => shard.attach_xdp(dev as u8, None),
    }
}

/// The list of programs with this one as the device's, or none; what the device has now.
pub fn note(
    attached: &mut Vec<Attached>,
    device: &str,
    program: Option<(String, Arc<Program>)>,
) -> String {
    attached.retain(|a| a.device != device);
    let device = device.to_owned();
    attached.extend(program.map(|(file, program)| Attached {
        device: device.clone(),
        file,
        program,
    }));
    now(attached, &device)
}

/// The program that a device has now, as `get` prints it.
pub fn now(attached: &[Attached], device: &str) -> String {
    attached.iter().find(|a| a.device == device).map_or_else(
        || OFF.to_owned(),
        |Attached { file, program, .. }| format!("{file}:{}", program.name()),
    )
}

/// The file of `FILE[:SECTION]`, and the section. A file's name may have a colon in it.
fn parts(spec: &str) -> (&str, Option<&str>) {
    match spec.rsplit_once(':') {
        Some((file, section)) if !Path::new(spec).exists() => (file, Some(section)),
        _ => (spec, None),
    }
}

/// What is known of the programs, for a snapshot.
pub fn rows(attached: &[Attached]) -> Vec<XdpRow> {
    let row = |a: &Attached| {
        let program = &a.program;
        let runs = program.runs(None);
        let actions = [
            ("pass", runs.pass),
            ("drop", runs.drop),
            ("tx", runs.tx),
            ("redirect", runs.redirect),
            ("aborted", runs.aborted),
        ];
        let (faults, last) = program.faults();
        XdpRow {
            device: a.device.clone(),
            file: a.file.clone(),
            section: program.section().to_owned(),
            name: program.name().to_owned(),
            license: program.license().to_owned(),
            insns: program.code().len() as u64,
            functions: program.code().functions() as u64,
            actions: actions.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
            faults,
            last_error: last.map(|fault| fault.to_string()),
            maps: program.maps().iter().map(|m| map_row(m)).collect(),
        }
    };
    attached.iter().map(row).collect()
}

fn map_row(map: &Map) -> XdpMapRow {
    let def = map.def();
    XdpMapRow {
        name: def.name.clone(),
        kind: def.kind.name().to_owned(),
        key_size: def.key_size.into(),
        value_size: def.value_size.into(),
        max_entries: def.max_entries.into(),
        entries: map.len(),
        lost: map.lost(),
    }
}

/// `show xdp`.
pub fn text(s: &Snapshot) -> String {
    let mut out = String::new();
    for row in &s.xdp {
        let XdpRow { device, file, section, name, license, insns, functions, .. } = row;
        let plural = if *functions == 1 { "" } else { "s" };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{device}: {name} of {file}, section {section}, license {license}, {insns} instructions \
             in {functions} function{plural}"
        );
        let total: u64 = row.actions.values().sum();
        let _ = write!(out, "    runs {total}");
        for action in ["pass", "drop", "tx", "redirect", "aborted"] {
            let _ = write!(out, "  {action} {}", row.actions.get(action).copied().unwrap_or(0));
        }
        out.push('\n');
        if let Some(last) = &row.last_error {
            let _ = writeln!(out, "    {} faults, the last: {last}", row.faults);
        }
        for map in &row.maps {
            let XdpMapRow { name, kind, key_size, value_size, max_entries, entries, lost } = map;
            let _ = write!(out, "    map {name:<16} {kind:<16}");
            let _ = match kind.as_str() {
                "ringbuf" => write!(out, " {entries} records, of {max_entries} bytes"),
                "perf_event_array" => write!(out, " {entries} records"),
                _ => write!(out, " key {key_size}  value {value_size}  {entries} of {max_entries}"),
            };
            if *lost > 0 {
                let _ = write!(out, "  {lost} lost");
            }
            out.push('\n');
        }
    }
    let stage = s.stages.iter().find(|row| row.name == Stage::Xdp.name());
    if let Some(row) = stage.filter(|row| row.ns_pkts > 0 && !s.xdp.is_empty()) {
        let (each, n) = (row.ns / row.ns_pkts, row.ns_pkts);
        let _ = writeln!(out, "stage Xdp: {each} ns a packet, over {n} packets that were timed");
    }
    out
}

/// The map that a name means, if it means one: `xdp.map.NAME`.
pub fn map_name(knob: &str) -> Option<&str> {
    knob.strip_prefix("xdp.map.")
}

/// The device whose program a name means, if it means one: `xdp.DEV`.
pub fn device_name(knob: &str) -> Option<&str> {
    if map_name(knob).is_some() {
        return None;
    }
    knob.strip_prefix("xdp.").filter(|device| !device.is_empty())
}

/// Why a device that is named cannot be meant.
pub fn no_device(name: &str, have: &[&str]) -> String {
    format!("no device is called {name}; there is {}", have.join(", "))
}

/// Answers `get` and `set` of a map; `None` if the name is none of a map.
pub fn answer(attached: &[Attached], knob: &str, value: Option<&str>) -> Option<Response> {
    let name = map_name(knob)?;
    let maps = || attached.iter().flat_map(|a| a.program.maps());
    let said = match maps().find(|m| m.def().name == name) {
        None => Err(format!(
            "no program has a map {name}; there are: {}",
            maps().map(|m| m.def().name.as_str()).collect::<Vec<_>>().join(", ")
        )),
        Some(map) => match value {
            None => Ok(dump(map)),
            Some(entry) => set(map, entry).map(|()| entry.to_owned()),
        },
    };
    Some(match said {
        Ok(value) => Response::Value { knob: knob.to_owned(), value, note: None },
        Err(why) => Response::Error(why),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A key as people write it: an index, a prefix, or its bytes.
fn key_text(map: &Map, key: &[u8]) -> String {
    let def = map.def();
    match (def.kind, key) {
        (Kind::LpmTrie, [a, b, c, d, addr @ ..]) => {
            let len = u32::from_le_bytes([*a, *b, *c, *d]);
            let addr = match addr.len() {
                4 => <[u8; 4]>::try_from(addr).ok().map(IpAddr::from),
                16 => <[u8; 16]>::try_from(addr).ok().map(IpAddr::from),
                _ => None,
            };
            addr.map_or_else(|| format!("0x{}/{len}", hex(&key[4..])), |a| format!("{a}/{len}"))
        }
        (kind, [a, b, c, d]) if !kind.is_hash() => u32::from_le_bytes([*a, *b, *c, *d]).to_string(),
        _ => format!("0x{}", hex(key)),
    }
}

fn values_text(values: &Values) -> String {
    let each = |v: &Vec<u8>| match v.as_slice() {
        [_, _, _, _] | [_, _, _, _, _, _, _, _] => {
            let mut word = [0; 8];
            word[..v.len()].copy_from_slice(v);
            u64::from_le_bytes(word).to_string()
        }
        bytes => format!("0x{}", hex(bytes)),
    };
    values.iter().map(each).collect::<Vec<_>>().join(" ")
}

fn dump(map: &Map) -> String {
    let mut entries = map.entries(ENTRIES_MAX);
    entries.sort();
    let line = |(key, values): &(Vec<u8>, Values)| {
        format!("\n  {} {}", key_text(map, key), values_text(values))
    };
    let mut out: String = entries.iter().map(line).collect();
    for record in map.drain(RECORDS_MAX) {
        let _ = write!(out, "\n  shard {}: 0x{}", record.cpu, hex(&record.data));
    }
    if out.is_empty() { "nothing".to_owned() } else { out }
}

/// The bytes that a word means, in a field of this size: an address, a number, or bytes as 0x....
fn bytes(word: &str, size: usize) -> Result<Vec<u8>, String> {
    let wrong = |why: &str| format!("{word:?} {why}");
    let out = if let Some(digits) = word.strip_prefix("0x") {
        if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
            return Err(wrong("has half a byte: two digits for each, in the order of memory"));
        }
        let pairs = digits.as_bytes().chunks(2);
        let byte =
            |p: &[u8]| std::str::from_utf8(p).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
        pairs.map(byte).collect::<Option<Vec<u8>>>().ok_or_else(|| wrong("is not hexadecimal"))?
    } else if let Ok(addr) = word.parse::<IpAddr>() {
        match addr {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        }
    } else if let Ok(number) = word.parse::<u64>() {
        let bytes = number.to_le_bytes();
        let (low, high) = bytes.split_at(size.min(8));
        if high.iter().any(|b| *b != 0) {
            return Err(wrong(&format!("does not fit {size} bytes")));
        }
        let mut low = low.to_vec();
        low.resize(size.max(low.len()), 0);
        low
    } else {
        return Err(wrong("is no number, address, or bytes such as 0x0a000001"));
    };
    if out.len() != size {
        return Err(wrong(&format!("has {} bytes, and the map's field has {size}", out.len())));
    }
    Ok(out)
}

fn key(map: &Map, word: &str) -> Result<Vec<u8>, String> {
    let def = map.def();
    let size = def.key_size as usize;
    if def.kind != Kind::LpmTrie {
        return bytes(word, size);
    }
    let Some((addr, len)) = word.split_once('/') else {
        return Err(format!("{word:?} is no prefix: an address and its bits, such as 10.0.0.0/8"));
    };
    let len: u32 = len.parse().map_err(|_| format!("{word:?} has no number of bits"))?;
    Ok([&len.to_le_bytes()[..], &bytes(addr, size - 4)?].concat())
}

fn set(map: &Map, entry: &str) -> Result<(), String> {
    let words: Vec<&str> = entry.split_whitespace().collect();
    let [at, value] = words[..] else {
        return Err("an entry is set by 'KEY VALUE', and taken out by 'KEY -'".to_owned());
    };
    let at = key(map, at)?;
    let done = match value {
        "-" => map.remove(&at),
        value => map.set(&at, &[&bytes(value, map.def().value_size as usize)?], 0),
    };
    done.map_err(|e| format!("map {}: {entry}: {e}", map.def().name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use linerate_bpf::maps::{MapDef, NO_PREALLOC};

    fn map(kind: Kind, key_size: u32, value_size: u32) -> Map {
        let flags = if kind == Kind::LpmTrie { NO_PREALLOC } else { 0 };
        let name = "m".to_owned();
        let def = MapDef { name, kind, key_size, value_size, max_entries: 2, flags };
        Map::new(def, 2).expect("a map")
    }

    #[test]
    fn entries_are_set_as_people_write_them() {
        let list = map(Kind::LpmTrie, 8, 8);
        set(&list, "10.0.0.0/8 7").expect("set");
        assert_eq!(dump(&list), "\n  10.0.0.0/8 7");
        set(&list, "10.0.0.0/8 -").expect("taken out");
        assert_eq!(dump(&list), "nothing");
        for (bad, why) in [
            ("10.0.0.0 7", "is no prefix"),
            ("10.0.0.0/33 7", "Invalid argument"),
            ("::/8 7", "has 16 bytes, and the map's field has 4"),
            ("10.0.0.0/8", "'KEY VALUE'"),
            ("10.0.0.0/8 x", "is no number"),
            ("10.0.0.0/9 -", "No such file"),
        ] {
            let said = set(&list, bad).expect_err(bad);
            assert!(said.contains(why), "{bad}: {said}");
        }
        let table = map(Kind::PercpuHash, 6, 4);
        set(&table, "0x0a000001 1").expect_err("4 bytes of 6");
        set(&table, "0x0a00000100ff 300").expect("set");
        assert_eq!(dump(&table), "\n  0x0a00000100ff 300 300");
        let array = map(Kind::Array, 4, 12);
        set(&array, "1 0x0102").expect_err("2 bytes of 12");
        set(&array, "2 5").expect_err("there is no entry 2");
        set(&array, "1 5").expect("set");
        assert!(dump(&array).ends_with("1 0x050000000000000000000000"));
        set(&array, "4294967296 5").expect_err("does not fit");
        set(&array, "1 0xzz").expect_err("no hexadecimal");
        set(&array, "1 0xé").expect_err("no hexadecimal");
    }
}
