//! BTF: the types of an object's variables, of which the maps in `.maps` are made.
//!
//! Linux: Documentation/bpf/btf.rst, include/uapi/linux/btf.h

/// A type, as far as maps need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// An integer, an enumeration, a floating-point number: so many bytes.
    Scalar(u32),
    Ptr(u32),
    Array {
        element: u32,
        len: u32,
    },
    Struct {
        size: u32,
        members: Vec<Member>,
    },
    /// Another name, or a qualifier, of a type.
    Alias(u32),
    Var(u32),
    /// A section: each variable's type.
    Section(Vec<u32>),
    /// A function, a declaration, a tag.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub name: u32,
    pub of: u32,
    /// Where it lies, in bits.
    pub offset: u32,
}

/// The types of an object.
#[derive(Debug, Default)]
pub(super) struct Btf<'a> {
    strings: &'a [u8],
    types: Vec<(u32, Type)>,
}

/// Bytes of a name at the most (`KSYM_NAME_LEN`).
const NAME_MAX: usize = 512;
/// How many names and qualifiers a type may have, and arrays in arrays.
const DEPTH: usize = 32;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl<'a> Btf<'a> {
    /// Reads a section `.BTF`; what is wrong with it otherwise.
    pub fn parse(bytes: &'a [u8]) -> Result<Btf<'a>, &'static str> {
        let field = |at| word(bytes, at).ok_or("its header is cut short");
        if field(0)? & 0xff_ffff != 0x01_eb9f {
            return Err("it is not of version 1, or not little-endian");
        }
        let part = |off: u32, len: u32| {
            let start = (field(4)? as usize).checked_add(off as usize);
            let end = start.and_then(|s| s.checked_add(len as usize));
            let part = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
            part.ok_or("its types or strings lie outside of it")
        };
        let strings = part(field(16)?, field(20)?)?;
        let types = types(part(field(8)?, field(12)?)?)?;
        Ok(Btf { strings, types })
    }

    /// A name; what is longer than names are is none.
    pub fn string(&self, at: u32) -> &'a str {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        let end = rest.iter().take(NAME_MAX).position(|&b| b == 0).unwrap_or(0);
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    }

    /// Whether a name is this one.
    fn is(&self, at: u32, name: &str) -> bool {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn get(&self, id: u32) -> Option<&(u32, Type)> {
        self.types.get((id as usize).checked_sub(1)?)
    }

    /// The type without its other names and qualifiers.
    pub fn resolve(&self, mut id: u32) -> Option<&Type> {
        for _ in 0..DEPTH {
            match &self.get(id)?.1 {
                Type::Alias(of) | Type::Var(of) => id = *of,
                found => return Some(found),
            }
        }
        None
    }

    /// Bytes of a type.
    pub fn size(&self, mut id: u32) -> Option<u32> {
        let mut times = 1u32;
        for _ in 0..DEPTH {
            match self.resolve(id)? {
                Type::Scalar(size) | Type::Struct { size, .. } => return size.checked_mul(times),
                Type::Ptr(_) => return 8u32.checked_mul(times),
                Type::Array { element, len } => {
                    times = times.checked_mul(*len)?;
                    id = *element;
                }
                _ => return None,
            }
        }
        None
    }

    /// The type of a variable of a section.
    pub fn variable(&self, section: &str, name: &str) -> Option<u32> {
        let vars = self.types.iter().find_map(|(n, t)| match t {
            Type::Section(vars) if self.is(*n, section) => Some(vars),
            _ => None,
        })?;
        let named = |of: &&u32| self.get(**of).is_some_and(|(n, _)| self.is(*n, name));
        vars.iter().find(named).copied()
    }
}

fn types(bytes: &[u8]) -> Result<Vec<(u32, Type)>, &'static str> {
    let short = "its last type is cut short";
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let field = |n: usize| word(bytes, at + 4 * n).ok_or(short);
        let (name, info, size) = (field(0)?, field(1)?, field(2)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        // Some bit fields have their size in the offset's upper byte.
        let bits = |offset: u32| if info >> 31 != 0 { offset & 0xff_ffff } else { offset };
        let triples = || {
            let triple = |i: usize| Ok((field(3 + 3 * i)?, field(4 + 3 * i)?, field(5 + 3 * i)?));
            (0..count).map(triple).collect::<Result<Vec<_>, &'static str>>()
        };
        let (what, words) = match kind {
            1 => (Type::Scalar(size), 1),
            2 => (Type::Ptr(size), 0),
            3 => (Type::Array { element: field(3)?, len: field(5)? }, 3),
            4 | 5 => {
                let members = triples()?.into_iter();
                let members = members
                    .map(|(name, of, offset)| Member { name, of, offset: bits(offset) })
                    .collect();
                (Type::Struct { size, members }, 3 * count)
            }
            6 => (Type::Scalar(size), 2 * count),
            7 | 12 => (Type::Other, 0),
            8..=11 | 18 => (Type::Alias(size), 0),
            13 => (Type::Other, 2 * count),
            14 => (Type::Var(size), 1),
            15 => (Type::Section(triples()?.iter().map(|v| v.0).collect()), 3 * count),
            16 => (Type::Scalar(size), 0),
            17 => (Type::Other, 1),
            19 => (Type::Scalar(size), 3 * count),
            _ => return Err("it has a kind of type that we do not know"),
        };
        at += 12 + 4 * words;
        if at > bytes.len() {
            return Err(short);
        }
        out.push((name, what));
    }
    Ok(out)
}
