//! From an object to one program: its functions one behind the other, calls and maps filled in.
//!
//! Linux: tools/lib/bpf/libbpf.c `bpf_program__record_reloc`, `bpf_object__reloc_code`

use std::collections::BTreeMap;

use super::{Function, Object, ObjectError, Reference, Section, maps};
use crate::Insn;
use crate::insn::code::{CALL, LD_IMM64, PSEUDO_CALL, PSEUDO_FUNC, PSEUDO_MAP, PSEUDO_MAP_VALUE};
use crate::maps::{Kind, MapDef, VALUE_MAX};
use crate::prog::{MAPS_MAX, MapSource, Source};

/// Instructions of all functions together at the most.
const INSNS_MAX: usize = crate::check::INSNS_MAX;
/// Programs that all prog_arrays together may begin with.
const TAIL_CALLS_MAX: usize = 1 << 16;

/// Keys and values that a map begins with.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A place in the object: a section, and an offset in it.
type Place = (usize, u64);

struct Linker<'o, 'a> {
    object: &'o Object<'a>,
    insns: Vec<Insn>,
    /// Where functions went.
    placed: BTreeMap<Place, usize>,
    /// Functions that are to follow.
    todo: Vec<Function<'a>>,
    /// Calls and addresses of functions, and where they lead.
    calls: Vec<(usize, Place)>,
    /// The maps so far, and from where each is.
    maps: Vec<MapSource>,
    known: BTreeMap<Place, usize>,
    /// Programs that may be tail-called.
    entries: Vec<Place>,
}

/// The place of a map of global variables: its section.
const WHOLE: u64 = u64::MAX;

/// Makes one program of an object.
pub(super) fn link<'a>(object: &Object<'a>, program: &Function<'a>) -> Result<Source, ObjectError> {
    let mut linker = Linker {
        object,
        insns: Vec::new(),
        placed: BTreeMap::new(),
        todo: vec![*program],
        calls: Vec::new(),
        maps: Vec::new(),
        known: BTreeMap::new(),
        entries: Vec::new(),
    };
    while let Some(function) = linker.todo.pop() {
        if !linker.placed.contains_key(&(function.section, function.start)) {
            linker.place(&function)?;
        }
    }
    for (at, place) in &linker.calls {
        let Some(&to) = linker.placed.get(place) else { continue };
        let imm = i32::try_from(to as i64 - *at as i64 - 1).unwrap_or(i32::MAX);
        linker.insns[*at] = linker.insns[*at].with_imm(imm);
    }
    let entries = linker.entries.iter().filter_map(|p| linker.placed.get(p)).copied().collect();
    Ok(Source {
        name: program.name.to_owned(),
        section: object.section_of(program).to_owned(),
        license: object.license().to_owned(),
        insns: linker.insns,
        entries,
        maps: linker.maps,
    })
}

impl<'a> Linker<'_, 'a> {
    fn section(&self, index: usize) -> Result<&Section<'a>, ObjectError> {
        let missing = || ObjectError::Section(format!("number {index}"), "it is not there".into());
        self.object.sections.get(&index).ok_or_else(missing)
    }

    /// Appends a function.
    fn place(&mut self, function: &Function<'a>) -> Result<(), ObjectError> {
        let section = self.section(function.section)?;
        let name = section.name;
        let damaged = |what: &str| {
            ObjectError::Section(name.to_owned(), format!("function {} {what}", function.name))
        };
        let (start, len) = (function.start, function.len);
        if !start.is_multiple_of(8) || !len.is_multiple_of(8) || len == 0 {
            return Err(damaged("is not made of whole instructions"));
        }
        let end = start.checked_add(len).filter(|end| *end <= section.data.len() as u64);
        let end = end.ok_or_else(|| damaged("reaches beyond its section"))?;
        if self.insns.len() as u64 + len / 8 > INSNS_MAX as u64 {
            return Err(damaged("makes the program too long"));
        }
        self.placed.insert((function.section, start), self.insns.len());
        let mut at = start;
        while at < end {
            let section = self.section(function.section)?;
            let whole = section.insn(at).ok_or_else(|| damaged("is cut short"))?;
            let reference = section.relocations.get(&at).copied();
            let second = if whole.code == LD_IMM64 {
                Some(section.insn(at + 8).filter(|_| at + 8 < end))
            } else {
                None
            };
            let fail =
                |what: String| ObjectError::Relocation(name.to_owned(), (at / 8) as usize, what);
            let done = match (whole.code, second) {
                (LD_IMM64, Some(Some(second))) => {
                    let two = self.constant(function.section, at, whole, second, reference);
                    let (first, second) = two.map_err(fail)?;
                    self.insns.extend([first, second]);
                    16
                }
                (LD_IMM64, _) => return Err(damaged("ends in the middle of a constant")),
                (CALL, _) if whole.src() == PSEUDO_CALL => {
                    let place =
                        self.callee(function.section, at, whole, reference).map_err(fail)?;
                    self.calls.push((self.insns.len(), place));
                    self.insns.push(whole);
                    8
                }
                _ => {
                    if let Some(reference) = reference {
                        let what =
                            format!("{} is referred to in a way we do not know", reference.symbol);
                        return Err(fail(what));
                    }
                    self.insns.push(whole);
                    8
                }
            };
            at += done;
        }
        Ok(())
    }

    /// The function at a place is to be part of the program.
    fn want(&mut self, place: Place) -> Result<Place, String> {
        let function = self.object.function_at(place.0, place.1).ok_or_else(|| {
            let name = self.object.sections.get(&place.0).map_or("?", |s| s.name);
            format!("no function begins at {:#x} of section {name}", place.1)
        })?;
        if !self.placed.contains_key(&place) {
            self.todo.push(function);
        }
        Ok(place)
    }

    fn callee(
        &mut self,
        section: usize,
        at: u64,
        insn: Insn,
        reference: Option<Reference<'_>>,
    ) -> Result<Place, String> {
        // Of a static function the symbol is its section, and the constant says which; a call
        // counts from the next instruction.
        let (section, base) = match reference {
            Some(r) => (r.section.ok_or_else(|| undefined(r.symbol))?, r.value as i64),
            None => (section, at as i64),
        };
        let to = i64::from(insn.imm).saturating_add(1).saturating_mul(8).saturating_add(base);
        let start = u64::try_from(to).map_err(|_| "a call leads before its section".to_owned())?;
        self.want((section, start))
    }

    fn constant(
        &mut self,
        section: usize,
        at: u64,
        first: Insn,
        second: Insn,
        reference: Option<Reference<'_>>,
    ) -> Result<(Insn, Insn), String> {
        let Some(reference) = reference else {
            if first.src() == PSEUDO_FUNC {
                let place = self.callee(section, at, first, None)?;
                self.calls.push((self.insns.len(), place));
            }
            return Ok((first, second));
        };
        let Reference { symbol, value, kind, .. } = &reference;
        if *kind != 1 {
            return Err(format!(
                "{symbol} is referred to by relocation {kind}, not by R_BPF_64_64"
            ));
        }
        let target = reference.section.ok_or_else(|| undefined(symbol))?;
        let name = match self.object.sections.get(&target) {
            Some(section) => section.name,
            None => return Err(undefined(symbol)),
        };
        let place = value.saturating_add_signed(i64::from(first.imm));
        if name == ".maps" || name == "maps" {
            let map = self.map(target, place, name == "maps")?;
            return Ok((first.with_src(PSEUDO_MAP).with_imm(map), second.with_imm(0)));
        }
        if maps::is_data(name) {
            let map = self.globals(target, name)?;
            let offset = i32::try_from(place)
                .map_err(|_| format!("{symbol} lies beyond the end of section {name}"))?;
            return Ok((first.with_src(PSEUDO_MAP_VALUE).with_imm(map), second.with_imm(offset)));
        }
        if self.object.has_functions(target) {
            let place = self.want((target, place))?;
            self.calls.push((self.insns.len(), place));
            return Ok((first.with_src(PSEUDO_FUNC), second.with_imm(0)));
        }
        Err(format!("{symbol} is in section {name}, which holds no maps, data or functions"))
    }

    fn add(&mut self, place: Place, def: MapDef, entries: Entries) -> Result<i32, String> {
        let number = self.maps.len();
        if number == MAPS_MAX {
            return Err(format!("the program has more than {MAPS_MAX} maps"));
        }
        self.known.insert(place, number);
        self.maps.push(MapSource { def, entries });
        Ok(number as i32)
    }

    fn map(&mut self, section: usize, at: u64, legacy: bool) -> Result<i32, String> {
        if let Some(&number) = self.known.get(&(section, at)) {
            return Ok(number as i32);
        }
        let Some((size, name)) = self.object.map_at(section, at) else {
            return Err(format!("there is no map at {at:#x} of its section"));
        };
        let declared = if legacy {
            let data = self.object.sections.get(&section).map_or(&[][..], |s| s.data);
            let start = usize::try_from(at).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
            maps::legacy(name, data.get(start..end).unwrap_or_default())?
        } else {
            maps::of_btf(self.object.btf.as_ref(), name, at)?
        };
        let def = declared.def().map_err(|err| format!("map {}: {err}", declared.name))?;
        let entries = match declared.values {
            Some(values) if def.kind == Kind::ProgArray => {
                self.tail_calls(section, values, &def)?
            }
            Some(_) => return Err(format!("map {} has initial values", declared.name)),
            None => Vec::new(),
        };
        self.add((section, at), def, entries)
    }

    /// The programs that a prog_array begins with.
    fn tail_calls(&mut self, section: usize, values: u32, def: &MapDef) -> Result<Entries, String> {
        let mut out = Vec::new();
        let from = u64::from(values);
        let to = from.saturating_add(u64::from(def.max_entries).saturating_mul(8));
        let Some(data) = self.object.sections.get(&section) else { return Ok(out) };
        for (&at, reference) in data.relocations.range(from..to) {
            let target = reference.section.ok_or_else(|| undefined(reference.symbol))?;
            let place = self.want((target, reference.value))?;
            if self.entries.len() == TAIL_CALLS_MAX {
                return Err(format!("more than {TAIL_CALLS_MAX} programs are tail-called"));
            }
            self.entries.push(place);
            let index = ((at - from) / 8) as u32;
            let number = self.entries.len() as u32;
            out.push((index.to_le_bytes().to_vec(), number.to_le_bytes().to_vec()));
        }
        Ok(out)
    }

    fn globals(&mut self, section: usize, name: &str) -> Result<i32, String> {
        if let Some(&number) = self.known.get(&(section, WHOLE)) {
            return Ok(number as i32);
        }
        let found = self.object.sections.get(&section);
        let Some(found) = found else { return Err(undefined(name)) };
        if let Some((at, r)) = found.relocations.first_key_value() {
            return Err(format!(
                "section {name} has the address of {} at {at:#x}: addresses in variables are not \
                 provided",
                r.symbol
            ));
        }
        let size = u32::try_from(found.size).ok().filter(|size| *size <= VALUE_MAX);
        let size = size.ok_or_else(|| {
            format!("section {name} has {} bytes, of {VALUE_MAX} of variables", found.size)
        })?;
        // What has no bytes in the file is zero, as the map is.
        let entries = match found.data {
            [] => Vec::new(),
            data => vec![(vec![0; 4], data.to_vec())],
        };
        self.add((section, WHOLE), maps::globals(name, size), entries)
    }
}

fn undefined(symbol: &str) -> String {
    format!(
        "{symbol} is defined nowhere in the object (kernel variables and functions are not here)"
    )
}
