//! Where fields lie in the running kernel's structures: its type information, as far as it is needed.
//!
//! Everything that the bytes say is doubted: a type that is cut off, loops or points outside is one that
//! is not found. Linux: Documentation/bpf/btf.rst

use std::collections::HashMap;

/// Kinds of types that are looked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `BTF_KIND_STRUCT`.
    Struct = 4,
    /// `BTF_KIND_TYPEDEF`.
    Typedef = 8,
    /// `BTF_KIND_FUNC`.
    Func = 12,
}

const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC_PROTO: u32 = 13;
/// typedef, volatile, const, restrict, func, type tag: what stands before the type that matters.
const PASSED: [u32; 6] = [8, 9, 10, 11, 12, 18];

const MAGIC: u16 = 0xeb9f;
/// The bytes before a type's own.
const HEAD: usize = 12;
/// Members that one search looks at.
const LOOKS: u32 = 1 << 16;
/// Structures without names in one another.
const DEPTH: u32 = 8;

/// Types by number.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Where each type begins; that of number 0, which is `void`, is no place.
    types: Vec<usize>,
    strings: std::ops::Range<usize>,
}

/// A type's head.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// Whether members' offsets have the sizes of bit fields in them.
    flag: bool,
    members: usize,
    /// Its size, or the type it is about.
    of: u32,
    /// Where its members begin.
    body: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// How many bytes stand behind a type's head.
fn behind(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        4 | 5 | 15 | 19 => 12 * members,
        6 | 13 => 8 * members,
        _ => return None,
    })
}

impl Btf {
    /// Reads the heads of all types. The bytes have to be of this machine's byte order.
    ///
    /// # Errors
    /// A sentence: what is wrong with the bytes.
    pub fn parse(bytes: Vec<u8>) -> Result<Btf, &'static str> {
        let magic = bytes.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
        if magic != Some(MAGIC) {
            return Err("it does not begin as type information does");
        }
        let cut = "its head is cut off";
        let at = |at| word(&bytes, at).map(|n| n as usize).ok_or(cut);
        let head = at(4)?;
        let section = |offset: usize, length: usize| {
            let from = head.checked_add(offset)?;
            let to = from.checked_add(length)?;
            (to <= bytes.len()).then_some(from..to)
        };
        let outside = "a section lies outside of it";
        let body = section(at(8)?, at(12)?).ok_or(outside)?;
        let strings = section(at(16)?, at(20)?).ok_or(outside)?;
        let mut types = vec![usize::MAX];
        let mut next = body.start;
        while next < body.end {
            let info = word(&bytes, next + 4).ok_or("a type is cut off")?;
            let rest = behind(info >> 24 & 0x1f, info as usize & 0xffff)
                .ok_or("a type is of a kind that is not known")?;
            types.push(next);
            next = next.saturating_add(HEAD + rest);
        }
        if next != body.end {
            return Err("the last type is cut off");
        }
        Ok(Btf { bytes, types, strings })
    }

    fn get(&self, id: u32) -> Option<Type> {
        let at = *self.types.get(id as usize)?;
        let name = word(&self.bytes, at)?;
        let info = word(&self.bytes, at.checked_add(4)?)?;
        let of = word(&self.bytes, at.checked_add(8)?)?;
        let (kind, members) = (info >> 24 & 0x1f, info as usize & 0xffff);
        Some(Type { name, kind, flag: info >> 31 == 1, members, of, body: at + HEAD })
    }

    fn text(&self, at: u32) -> Option<&[u8]> {
        let strings = self.bytes.get(self.strings.clone())?;
        strings.get(at as usize..)?.split(|b| *b == 0).next()
    }

    /// The numbers of types by kind and name, all found in one go; the first of each.
    #[must_use]
    pub fn find<'n>(&self, wanted: &[(Kind, &'n str)]) -> HashMap<(Kind, &'n str), u32> {
        let mut open: HashMap<(u32, &[u8]), (Kind, &'n str)> =
            wanted.iter().map(|w| ((w.0 as u32, w.1.as_bytes()), *w)).collect();
        let mut found = HashMap::new();
        for id in 1..self.types.len() as u32 {
            let Some(kind) = self.get(id) else { continue };
            if ![4, 8, 12].contains(&kind.kind) || open.is_empty() {
                continue;
            }
            if let Some(name) = self.text(kind.name)
                && let Some(key) = open.remove(&(kind.kind, name))
            {
                found.insert(key, id);
            }
        }
        found
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<(u32, Type)> {
        const STEPS: u32 = 32;
        for _ in 0..STEPS {
            let kind = self.get(id)?;
            if !PASSED.contains(&kind.kind) {
                return Some((id, kind));
            }
            id = kind.of;
        }
        None
    }

    /// How many arguments a function has; or a tracepoint, whose type is a pointer to a function.
    #[must_use]
    pub fn arguments(&self, id: u32) -> Option<usize> {
        let (_, mut kind) = self.resolve(id)?;
        if kind.kind == PTR {
            kind = self.resolve(kind.of)?.1;
        }
        (kind.kind == FUNC_PROTO).then_some(kind.members)
    }

    /// Where the member lies in structure `id`, in bytes: `nd_net.net` goes through the members, and
    /// those without a name are looked through.
    #[must_use]
    pub fn offset(&self, id: u32, path: &str) -> Option<u32> {
        let (mut id, mut sum) = (id, 0u32);
        for name in path.split('.') {
            let mut looks = LOOKS;
            let (offset, member) = self.member(id, name.as_bytes(), DEPTH, &mut looks)?;
            sum = sum.checked_add(offset)?;
            id = member;
        }
        Some(sum)
    }

    fn member(&self, id: u32, name: &[u8], depth: u32, looks: &mut u32) -> Option<(u32, u32)> {
        let (_, kind) = self.resolve(id)?;
        if ![STRUCT, UNION].contains(&kind.kind) || depth == 0 || name.is_empty() {
            return None;
        }
        for at in 0..kind.members {
            *looks = looks.checked_sub(1)?;
            let at = kind.body + 12 * at;
            let (called, of, bits) =
                (word(&self.bytes, at)?, word(&self.bytes, at + 4)?, word(&self.bytes, at + 8)?);
            let (width, bits) = if kind.flag { (bits >> 24, bits & 0xff_ffff) } else { (0, bits) };
            let called = self.text(called)?;
            if called == name {
                // A bit field is none that can be read by its bytes.
                return (width == 0 && bits % 8 == 0).then_some((bits / 8, of));
            }
            if called.is_empty()
                && let Some((offset, of)) = self.member(of, name, depth - 1, looks)
            {
                return Some((offset.checked_add(bits / 8)?, of));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type information, written by hand.
    #[derive(Default)]
    struct Made {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Made {
        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn put(&mut self, name: &str, kind: u32, members: u32, of: u32, rest: &[u32]) -> &mut Made {
            let name = self.name(name);
            for word in [name, kind << 24 | members, of].iter().chain(rest) {
                self.types.extend_from_slice(&word.to_ne_bytes());
            }
            self
        }

        fn bytes(&self) -> Vec<u8> {
            let mut out = MAGIC.to_ne_bytes().to_vec();
            out.extend([1, 0]);
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            for word in [24, 0, types, types, strings] {
                out.extend_from_slice(&u32::to_ne_bytes(word));
            }
            out.extend_from_slice(&self.types);
            out.extend_from_slice(&self.strings);
            out
        }
    }

    /// `struct outer { int a; union { long b; struct inner { int c, d; } in; }; unsigned e:3; }` and
    /// what leads to a function of three arguments.
    fn example() -> Vec<u8> {
        let mut made = Made::default();
        made.put("int", 1, 0, 4, &[32]);
        let (c, d) = (made.name("c"), made.name("d"));
        made.put("inner", 4, 2, 8, &[c, 1, 0, d, 1, 32]);
        let (b, inside) = (made.name("b"), made.name("in"));
        made.put("", 5, 2, 8, &[b, 1, 0, inside, 2, 0]);
        let (a, e) = (made.name("a"), made.name("e"));
        made.put("outer", 4 | 0x80, 3, 16, &[a, 1, 0, 0, 3, 64, e, 1, 3 << 24 | 128]);
        made.put("", 13, 3, 0, &[0, 1, 0, 1, 0, 1]);
        made.put("", 2, 0, 5, &[]);
        made.put("btf_trace_it", 8, 0, 6, &[]);
        made.put("it", 12, 0, 5, &[]);
        // A typedef of itself.
        made.put("loop", 8, 0, 9, &[]);
        made.bytes()
    }

    const NAMES: [(Kind, &str); 5] = [
        (Kind::Struct, "outer"),
        (Kind::Typedef, "btf_trace_it"),
        (Kind::Func, "it"),
        (Kind::Typedef, "loop"),
        (Kind::Struct, "nothing"),
    ];

    #[test]
    fn members_are_found_through_those_without_names() {
        let btf = Btf::parse(example()).expect("it is well made");
        let found = btf.find(&NAMES);
        let outer = found[&NAMES[0]];
        assert_eq!(btf.offset(outer, "a"), Some(0));
        assert_eq!(btf.offset(outer, "b"), Some(8));
        assert_eq!(btf.offset(outer, "in.d"), Some(12));
        for absent in ["e", "d", "in.x", "a.b", "", "."] {
            assert_eq!(btf.offset(outer, absent), None, "{absent}");
        }
        assert_eq!(btf.arguments(found[&NAMES[1]]), Some(3));
        assert_eq!(btf.arguments(found[&NAMES[2]]), Some(3));
        assert_eq!(btf.arguments(found[&NAMES[3]]), None, "it never ends");
        assert_eq!(btf.arguments(outer), None);
        assert!(!found.contains_key(&NAMES[4]));
    }

    /// Asks everything of what may be nonsense.
    fn ask(bytes: Vec<u8>) {
        let Ok(btf) = Btf::parse(bytes) else { return };
        for id in btf.find(&NAMES).into_values().chain([0, 1, 7, u32::MAX]) {
            _ = btf.arguments(id);
            for path in ["a", "in.d", "e", "b.c"] {
                _ = btf.offset(id, path);
            }
        }
    }

    #[test]
    fn cut_and_damaged_bytes_are_an_error_or_an_absence() {
        let whole = example();
        for end in 0..whole.len() {
            assert!(Btf::parse(whole[..end].to_vec()).is_err(), "{end}");
        }
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..=random() % 4 {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
            ask(bytes);
        }
        for length in 0..200 {
            let garbage = (0..length).map(|_| random() as u8);
            ask(MAGIC.to_ne_bytes().into_iter().chain(garbage).collect());
        }
    }

    #[test]
    fn structures_that_hold_themselves_without_a_name_are_given_up() {
        let mut made = Made::default();
        let members: Vec<u32> = std::iter::repeat_n([0, 1, 0], 60).flatten().collect();
        made.put("outer", 4, 60, 8, &members);
        let btf = Btf::parse(made.bytes()).expect("its heads are well made");
        assert_eq!(btf.offset(1, "a"), None);
    }

    #[test]
    fn the_running_kernels_types_are_read_where_it_has_them() {
        // Without the file there is nothing to compare.
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        let btf = Btf::parse(bytes).expect("the kernel's own is well made");
        let found = btf.find(&[(Kind::Struct, "sk_buff"), (Kind::Struct, "net_device")]);
        let skb = found[&(Kind::Struct, "sk_buff")];
        // The first two members, in every kernel.
        assert_eq!(btf.offset(skb, "next"), Some(0));
        assert_eq!(btf.offset(skb, "prev"), Some(size_of::<usize>() as u32));
        assert!(btf.offset(found[&(Kind::Struct, "net_device")], "nd_net.net").is_some());
    }
}
