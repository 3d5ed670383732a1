//! Objects as clang makes them: `clang -O2 -g -target bpf -c prog.c`.
//!
//! A program is a function in a section `xdp`, `xdp/NAME` or `xdp.frags`; what it calls may lie
//! anywhere. Whatever the file says is doubted: it may be cut short, or lie.
//!
//! Linux: tools/lib/bpf/libbpf.c

mod btf;
mod error;
mod link;
mod maps;

#[cfg(test)]
mod tests;

pub use error::ObjectError;

use std::collections::BTreeMap;
use std::sync::Arc;

use ::object::elf::{EM_BPF, ET_REL};
use ::object::read::elf::{ElfFile64, FileHeader};
use ::object::{
    LittleEndian, Object as _, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget,
    SymbolKind,
};

use crate::Insn;
use crate::prog::{Program, Source};

/// Bytes of an object at the most.
const SIZE_MAX: usize = 16 << 20;

/// A section, with what we need of it.
#[derive(Debug)]
struct Section<'a> {
    name: String,
    data: &'a [u8],
    /// Bytes in memory: of `.bss` there are none in the file.
    size: u64,
    /// What is referred to, by the offset of the reference.
    relocations: BTreeMap<u64, Reference>,
}

/// What an instruction or a datum refers to.
#[derive(Clone, Debug)]
struct Reference {
    symbol: String,
    /// The section that it is in; none if the symbol is defined elsewhere.
    section: Option<usize>,
    /// Where in that section.
    value: u64,
    kind: u32,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    name: String,
    section: usize,
    /// Where in its section, in bytes.
    start: u64,
    len: u64,
    global: bool,
}

/// An object that was read.
#[derive(Debug)]
pub struct Object<'a> {
    sections: BTreeMap<usize, Section<'a>>,
    functions: Vec<Function>,
    /// Symbols of maps: section, offset, size, name.
    symbols: Vec<(usize, u64, u64, String)>,
    btf: btf::Btf<'a>,
    license: String,
}

fn is_xdp(section: &str) -> bool {
    let rest = section.strip_prefix("xdp.frags").or(section.strip_prefix("xdp"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl<'a> Object<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// [`ObjectError`], if it is damaged, or none of eBPF.
    pub fn parse(bytes: &'a [u8]) -> Result<Object<'a>, ObjectError> {
        if bytes.len() > SIZE_MAX {
            return Err(ObjectError::Size(bytes.len()));
        }
        let elf = |err: ::object::Error| ObjectError::Elf(err.to_string());
        identify(bytes)?;
        let file = ElfFile64::<LittleEndian>::parse(bytes).map_err(elf)?;
        let header = file.elf_header();
        if header.e_machine(LittleEndian) != EM_BPF {
            return Err(ObjectError::NotBpf("an object of another machine"));
        }
        if header.e_type(LittleEndian) != ET_REL {
            return Err(ObjectError::NotBpf("no relocatable object"));
        }
        let mut object = Object {
            sections: BTreeMap::new(),
            functions: Vec::new(),
            symbols: Vec::new(),
            btf: btf::Btf::default(),
            license: String::new(),
        };
        for section in file.sections() {
            let name = section.name().map_err(elf)?.to_owned();
            let data = section.data();
            let damaged = |what: String| ObjectError::Section(name.clone(), what);
            let data = data.map_err(|err| damaged(err.to_string()))?;
            let size = section.size();
            let relocations = relocations(&file, &section).map_err(damaged)?;
            match name.as_str() {
                ".BTF" => object.btf = btf::Btf::parse(data).map_err(|err| damaged(err.into()))?,
                "license" => {
                    let text = data.split(|&b| b == 0).next().unwrap_or_default();
                    object.license = String::from_utf8_lossy(text).into_owned();
                }
                _ => {}
            }
            object.sections.insert(section.index().0, Section { name, data, size, relocations });
        }
        object.read_symbols(&file).map_err(elf)?;
        Ok(object)
    }

    fn read_symbols(&mut self, file: &ElfFile64<'a, LittleEndian>) -> Result<(), ::object::Error> {
        for symbol in file.symbols() {
            let Some(section) = symbol.section_index().map(|s| s.0) else { continue };
            let (start, len) = (symbol.address(), symbol.size());
            match symbol.kind() {
                SymbolKind::Text => self.functions.push(Function {
                    name: symbol.name()?.to_owned(),
                    section,
                    start,
                    len,
                    global: symbol.is_global() && !symbol.is_weak(),
                }),
                SymbolKind::Data => {
                    self.symbols.push((section, start, len, symbol.name()?.to_owned()));
                }
                _ => {}
            }
        }
        self.functions.sort_by_key(|f| (f.section, f.start));
        Ok(())
    }

    fn programs(&self) -> Vec<&Function> {
        let xdp = |f: &&Function| {
            f.global && self.sections.get(&f.section).is_some_and(|s| is_xdp(&s.name))
        };
        self.functions.iter().filter(xdp).collect()
    }
    fn section_of(&self, function: &Function) -> &str {
        self.sections.get(&function.section).map_or("", |s| &s.name)
    }

    /// The XDP programs that it has: section and function of each.
    pub fn names(&self) -> Vec<(String, String)> {
        let pair = |f: &&Function| (self.section_of(f).to_owned(), f.name.clone());
        self.programs().iter().map(pair).collect()
    }

    /// The program of a section or a function of this name; without a name, the only one.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn source(&self, name: Option<&str>) -> Result<Source, ObjectError> {
        let programs = self.programs();
        let say = |f: &&Function| match self.section_of(f) {
            section if section == f.name => f.name.clone(),
            section => format!("{section} ({})", f.name),
        };
        let all = || programs.iter().map(say).collect::<Vec<_>>();
        if programs.is_empty() {
            let names = self.sections.values().map(|s| s.name.clone());
            return Err(ObjectError::NoProgram(names.filter(|n| !n.is_empty()).collect()));
        }
        let found: Vec<&&Function> = match name {
            None => programs.iter().collect(),
            Some(name) => {
                let exact = programs.iter().find(|f| f.name == name);
                let section = programs.iter().filter(|f| self.section_of(f) == name);
                exact.map_or_else(|| section.collect(), |f| vec![f])
            }
        };
        match found.as_slice() {
            [one] => link::link(self, one),
            [] => Err(ObjectError::NoSuchProgram(name.unwrap_or_default().to_owned(), all())),
            _ => Err(ObjectError::Several(found.iter().map(|f| f.name.clone()).collect())),
        }
    }

    /// Loads a program of the object for so many shards.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn load(&self, name: Option<&str>, cpus: u32) -> Result<Arc<Program>, ObjectError> {
        let source = self.source(name)?;
        let place = source.name.clone();
        let program = Program::load(source, cpus);
        program.map_err(|err| ObjectError::Load(Some(format!("program {place}")), err))
    }

    /// Its license, as it says.
    pub fn license(&self) -> &str {
        &self.license
    }
}

/// What kind of ELF file it is says its beginning: another class or order is not damage.
fn identify(bytes: &[u8]) -> Result<(), ObjectError> {
    match bytes {
        [0x7f, b'E', b'L', b'F', 2, 1, ..] => Ok(()),
        [0x7f, b'E', b'L', b'F', 2, 2, ..] => Err(ObjectError::NotBpf(
            "a big-endian object (bpfeb); the machine here is little-endian",
        )),
        [0x7f, b'E', b'L', b'F', _, _, ..] => Err(ObjectError::NotBpf("no 64-bit object")),
        _ => Err(ObjectError::NotBpf("no ELF file")),
    }
}

fn relocations(
    file: &ElfFile64<'_, LittleEndian>,
    section: &::object::read::elf::ElfSection64<'_, '_, LittleEndian>,
) -> Result<BTreeMap<u64, Reference>, String> {
    let mut out = BTreeMap::new();
    // Tables of debuggers and of types refer to much that no program needs.
    let name = section.name().unwrap_or_default();
    if name.starts_with(".debug") || name.starts_with(".BTF") || name == ".eh_frame" {
        return Ok(out);
    }
    for (offset, relocation) in section.relocations() {
        let RelocationTarget::Symbol(index) = relocation.target() else {
            return Err(format!("the relocation at {offset:#x} is of no symbol"));
        };
        let symbol = file.symbol_by_index(index).map_err(|err| err.to_string())?;
        let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
        let section = symbol.section_index().map(|s| s.0);
        let name = symbol.name().unwrap_or_default().to_owned();
        let reference = Reference { symbol: name, section, value: symbol.address(), kind: r_type };
        out.insert(offset, reference);
    }
    Ok(out)
}

impl Section<'_> {
    /// The instruction at an offset.
    fn insn(&self, at: u64) -> Option<Insn> {
        let at = usize::try_from(at).ok()?;
        Some(Insn::from_le(*self.data.get(at..)?.first_chunk()?))
    }
}
