//! Why no program comes of an object.

use std::fmt;

use crate::prog::LoadError;

/// Why no program comes of an object. The sentences name sections, symbols and instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectError {
    /// It is no ELF file, or a damaged one.
    Elf(String),
    /// It is an ELF file of another machine, or no relocatable one.
    NotBpf(&'static str),
    /// It is larger than an object may be, in bytes.
    Size(usize),
    /// It has no XDP program; the sections that it has.
    NoProgram(Vec<String>),
    /// It has no such program; the ones that it has.
    NoSuchProgram(String, Vec<String>),
    /// It has several programs, and none was named.
    Several(Vec<String>),
    /// A section is damaged: which, and how.
    Section(String, String),
    /// A map's definition is damaged, or asks for what is not provided: which, and how.
    Map(String, String),
    /// An instruction refers to something that cannot be: section, instruction, what.
    Relocation(String, usize, String),
    /// The program is whole, and may not run: where in the object, and why.
    Load(Option<String>, LoadError),
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectError::Elf(err) => write!(f, "it is no whole ELF file: {err}"),
            ObjectError::NotBpf(what) => write!(
                f,
                "it is {what}; an object for eBPF is made by: clang -O2 -g -target bpf -c PROG.c"
            ),
            ObjectError::Size(n) => {
                write!(f, "it has {} MiB; objects have 16 at the most", n >> 20)
            }
            ObjectError::NoProgram(have) => write!(
                f,
                "it has no XDP program, which would be a function in a section xdp, xdp/NAME or \
                 xdp.frags; its sections: {}",
                have.join(", ")
            ),
            ObjectError::NoSuchProgram(name, have) => {
                write!(f, "it has no section or program {name}; it has: {}", have.join(", "))
            }
            ObjectError::Several(have) => {
                write!(f, "it has several programs; name one of them: {}", have.join(", "))
            }
            ObjectError::Section(name, what) => write!(f, "section {name}: {what}"),
            ObjectError::Map(name, what) => write!(f, "map {name}: {what}"),
            ObjectError::Relocation(section, insn, what) => {
                write!(f, "section {section}, instruction {insn}: {what}")
            }
            ObjectError::Load(Some(place), err) => write!(f, "{place}: {err}"),
            ObjectError::Load(None, err) => err.fmt(f),
        }
    }
}
impl std::error::Error for ObjectError {}
