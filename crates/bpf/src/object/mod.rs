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
/// Bytes of a name at the most. In a file many symbols may have one name, so names are not copied, and a
/// file of long names is refused at the first.
const NAME_MAX: usize = 4096;
/// References of all sections together at the most: as many as a file has room for, and several sections
/// may say of the same ones that they are theirs.
const REFERENCES_MAX: usize = SIZE_MAX / 16;
/// Names that are listed of a file's at the most.
const LISTED_MAX: usize = 64;

/// A section, with what we need of it.
#[derive(Debug)]
struct Section<'a> {
    name: &'a str,
    data: &'a [u8],
    /// Bytes in memory: of `.bss` there are none in the file.
    size: u64,
    /// What is referred to, by the offset of the reference.
    relocations: BTreeMap<u64, Reference<'a>>,
}

/// What an instruction or a datum refers to.
#[derive(Clone, Copy, Debug)]
struct Reference<'a> {
    symbol: &'a str,
    /// The section that it is in; none if the symbol is defined elsewhere.
    section: Option<usize>,
    /// Where in that section.
    value: u64,
    kind: u32,
}

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Function<'a> {
    name: &'a str,
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
    /// In order of sections and beginnings.
    functions: Vec<Function<'a>>,
    /// Symbols of maps: section, offset, size, name; in order.
    symbols: Vec<(usize, u64, u64, &'a str)>,
    btf: Option<btf::Btf<'a>>,
    license: Option<String>,
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
            btf: None,
            license: None,
        };
        let mut references = 0;
        for section in file.sections() {
            let name = named(section.name())?;
            let data = section.data();
            let damaged = |what: String| ObjectError::Section(name.to_owned(), what);
            let data = data.map_err(|err| damaged(err.to_string()))?;
            let size = section.size();
            let relocations = relocations(&file, &section, &mut references).map_err(damaged)?;
            // Of several the first one is it.
            match name {
                ".BTF" if object.btf.is_none() => {
                    let btf = btf::Btf::parse(data).map_err(|err| damaged(err.into()))?;
                    object.btf = Some(btf);
                }
                "license" if object.license.is_none() => {
                    let text = data.get(..data.len().min(NAME_MAX)).unwrap_or_default();
                    let text = text.split(|&b| b == 0).next().unwrap_or_default();
                    object.license = Some(String::from_utf8_lossy(text).into_owned());
                }
                _ => {}
            }
            object.sections.insert(section.index().0, Section { name, data, size, relocations });
        }
        object.read_symbols(&file)?;
        Ok(object)
    }

    fn read_symbols(&mut self, file: &ElfFile64<'a, LittleEndian>) -> Result<(), ObjectError> {
        for symbol in file.symbols() {
            let Some(section) = symbol.section_index().map(|s| s.0) else { continue };
            let (start, len) = (symbol.address(), symbol.size());
            match symbol.kind() {
                SymbolKind::Text => self.functions.push(Function {
                    name: named(symbol.name())?,
                    section,
                    start,
                    len,
                    global: symbol.is_global() && !symbol.is_weak(),
                }),
                SymbolKind::Data => {
                    self.symbols.push((section, start, len, named(symbol.name())?));
                }
                _ => {}
            }
        }
        self.functions.sort_by_key(|f| (f.section, f.start));
        self.symbols.sort_by_key(|s| (s.0, s.1));
        Ok(())
    }

    /// The function that begins at a place.
    fn function_at(&self, section: usize, start: u64) -> Option<Function<'a>> {
        let at = self.functions.partition_point(|f| (f.section, f.start) < (section, start));
        self.functions.get(at).filter(|f| (f.section, f.start) == (section, start)).copied()
    }
    /// Whether a section holds functions.
    fn has_functions(&self, section: usize) -> bool {
        let at = self.functions.partition_point(|f| f.section < section);
        self.functions.get(at).is_some_and(|f| f.section == section)
    }
    /// The symbol of a map at a place: its size and name.
    fn map_at(&self, section: usize, start: u64) -> Option<(u64, &'a str)> {
        let at = self.symbols.partition_point(|s| (s.0, s.1) < (section, start));
        let found = self.symbols.get(at).filter(|s| (s.0, s.1) == (section, start));
        found.map(|&(_, _, size, name)| (size, name))
    }

    fn programs(&self) -> Vec<&Function<'a>> {
        let xdp = |f: &&Function<'_>| {
            f.global && self.sections.get(&f.section).is_some_and(|s| is_xdp(s.name))
        };
        self.functions.iter().filter(xdp).collect()
    }
    fn section_of(&self, function: &Function<'_>) -> &'a str {
        self.sections.get(&function.section).map_or("", |s| s.name)
    }

    /// The XDP programs that it has: section and function of each.
    pub fn names(&self) -> Vec<(String, String)> {
        let pair = |f: &&Function<'_>| (self.section_of(f).to_owned(), f.name.to_owned());
        self.programs().iter().map(pair).collect()
    }

    /// The program of a section or a function of this name; without a name, the only one.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn source(&self, name: Option<&str>) -> Result<Source, ObjectError> {
        let programs = self.programs();
        let say = |f: &&Function<'_>| match self.section_of(f) {
            section if section == f.name => f.name.to_owned(),
            section => format!("{section} ({})", f.name),
        };
        let all = || programs.iter().map(say).take(LISTED_MAX).collect::<Vec<_>>();
        if programs.is_empty() {
            let names = self.sections.values().map(|s| s.name).filter(|n| !n.is_empty());
            return Err(ObjectError::NoProgram(
                names.take(LISTED_MAX).map(str::to_owned).collect(),
            ));
        }
        let found: Vec<&&Function<'_>> = match name {
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
            several => {
                let names = several.iter().take(LISTED_MAX).map(|f| f.name.to_owned());
                Err(ObjectError::Several(names.collect()))
            }
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
        self.license.as_deref().unwrap_or_default()
    }
}

/// A name that is no longer than names are.
fn named(name: ::object::Result<&str>) -> Result<&str, ObjectError> {
    let name = name.map_err(|err| ObjectError::Elf(err.to_string()))?;
    if name.len() > NAME_MAX {
        return Err(ObjectError::Elf(format!("a name has {} bytes, of {NAME_MAX}", name.len())));
    }
    Ok(name)
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

fn relocations<'a>(
    file: &ElfFile64<'a, LittleEndian>,
    section: &::object::read::elf::ElfSection64<'a, '_, LittleEndian>,
    references: &mut usize,
) -> Result<BTreeMap<u64, Reference<'a>>, String> {
    let mut out = BTreeMap::new();
    // Tables of debuggers and of types refer to much that no program needs.
    let name = section.name().unwrap_or_default();
    if name.starts_with(".debug") || name.starts_with(".BTF") || name == ".eh_frame" {
        return Ok(out);
    }
    for (offset, relocation) in section.relocations() {
        *references += 1;
        if *references > REFERENCES_MAX {
            return Err(format!("more than {REFERENCES_MAX} relocations"));
        }
        let RelocationTarget::Symbol(index) = relocation.target() else {
            return Err(format!("the relocation at {offset:#x} is of no symbol"));
        };
        let symbol = file.symbol_by_index(index).map_err(|err| err.to_string())?;
        let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
        let section = symbol.section_index().map(|s| s.0);
        let name = match symbol.name() {
            Ok(name) if name.len() > NAME_MAX => return Err("a symbol's name is too long".into()),
            name => name.unwrap_or_default(),
        };
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
