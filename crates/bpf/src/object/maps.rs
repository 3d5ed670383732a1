//! The maps of an object: those that are declared, and its global variables.
//!
//! Linux: tools/lib/bpf/libbpf.c `parse_btf_map_def`

use super::btf::{Btf, Type};
use crate::maps::{Kind, MapDef, RDONLY_PROG};

/// A map's definition as the object has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    pub name: String,
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
    /// Where in the section `.maps` its first entry of initial ones lies.
    pub values: Option<u32>,
}

impl Declared {
    /// The definition that it is.
    pub fn def(&self) -> Result<MapDef, String> {
        Ok(MapDef {
            name: self.name.clone(),
            kind: Kind::from_number(self.kind).map_err(|err| err.to_string())?,
            key_size: self.key_size,
            value_size: self.value_size,
            max_entries: self.max_entries,
            flags: self.flags,
        })
    }
}

/// The map of this name, at an offset of the section `.maps`. Offsets in BTF are filled in by whoever
/// links objects: symbols tell them here.
pub(super) fn of_btf(btf: Option<&Btf<'_>>, name: &str, at: u64) -> Result<Declared, String> {
    let var = btf.and_then(|btf| Some((btf, btf.variable(".maps", name)?)));
    let Some((btf, id)) = var else {
        return Err(format!("the type of map {name} is not known: it is BTF (clang -g)"));
    };
    let offset = u32::try_from(at).unwrap_or(u32::MAX);
    let mut map = Declared { name: name.to_owned(), ..Declared::default() };
    let Some(Type::Struct { members, .. }) = btf.resolve(id) else {
        return Err(format!("map {name} is no structure"));
    };
    for member in members {
        let field = btf.string(member.name);
        let wrong = |what: &str| format!("map {name}: {field} {what}");
        // A number is the length of an array that the member points to.
        let number = || match btf.resolve(member.of) {
            Some(Type::Ptr(to)) => match btf.resolve(*to) {
                Some(Type::Array { len, .. }) => Ok(*len),
                _ => Err(wrong("is not declared by __uint")),
            },
            _ => Err(wrong("is not declared by __uint")),
        };
        let size = || match btf.resolve(member.of) {
            Some(Type::Ptr(to)) => btf.size(*to).ok_or(wrong("has a type without a size")),
            _ => Err(wrong("is not declared by __type")),
        };
        match field {
            "type" => map.kind = number()?,
            "key_size" => map.key_size = number()?,
            "value_size" => map.value_size = number()?,
            "max_entries" => map.max_entries = number()?,
            "map_flags" => map.flags = number()?,
            "key" => map.key_size = size()?,
            "value" => map.value_size = size()?,
            "values" => {
                map.values = Some(offset.saturating_add(member.offset / 8));
                // A program, by its number.
                map.value_size = 4;
            }
            // Where it would be pinned, and near which memory it would lie: neither is here.
            "pinning" | "numa_node" | "map_extra" => {}
            _ => return Err(wrong("is no property of a map that we know")),
        }
    }
    Ok(map)
}

/// The map that `struct bpf_map_def` describes.
pub(super) fn legacy(name: &str, bytes: &[u8]) -> Result<Declared, String> {
    let (words, _) = bytes.as_chunks::<4>();
    let field = |n: usize| words.get(n).map(|w| u32::from_le_bytes(*w));
    let whole = field(0).zip(field(1)).zip(field(2)).zip(field(3)).zip(field(4));
    let Some(((((kind, key_size), value_size), max_entries), flags)) = whole else {
        return Err(format!("map {name} has less than the 20 bytes of struct bpf_map_def"));
    };
    Ok(Declared {
        name: name.to_owned(),
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
        values: None,
    })
}

/// The map that holds a section of global variables.
pub(super) fn globals(section: &str, size: u32) -> MapDef {
    let flags = if section.starts_with(".rodata") { RDONLY_PROG } else { 0 };
    let name = section.to_owned();
    MapDef { name, kind: Kind::Array, key_size: 4, value_size: size, max_entries: 1, flags }
}

/// Whether a section holds global variables.
pub(super) fn is_data(section: &str) -> bool {
    [".rodata", ".data", ".bss"].iter().any(|s| {
        section.strip_prefix(s).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}
