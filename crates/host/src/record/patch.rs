//! The difference of two answers of one name.
//!
//! Three ways, of which the writer takes the first that fits:
//!
//! - *words*, where both are text of the same number of words: what stayed is skipped, and a number that
//!   moved is stored as by how much;
//! - *runs*, where both are as long: the bytes that differ;
//! - *blocks*: what to copy from the old one, and what to put in.

use std::collections::HashMap;

use super::wire::{Take, put, put_bytes, unzigzag, zigzag};

/// Words: letters and digits, or what is between them.
const WORDS: u8 = 0;
const RUNS: u8 = 1;
const BLOCKS: u8 = 2;
/// Bytes of a block that is looked for in the old answer.
const BLOCK: usize = 16;

/// How `new` differs from `old`; [`apply`] makes `new` of it.
#[must_use]
pub fn diff(old: &[u8], new: &[u8]) -> Vec<u8> {
    if let Some(patch) = words(old, new) {
        return patch;
    }
    if old.len() == new.len() {
        return runs(old, new);
    }
    blocks(old, new)
}

/// `new` again, of at most `max` bytes; `None` if `patch` does not fit to `old`.
#[must_use]
pub fn apply(old: &[u8], patch: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut from = Take(patch);
    let new = match from.byte()? {
        WORDS => apply_words(old, &mut from, max),
        RUNS => apply_runs(old, &mut from),
        BLOCKS => apply_blocks(old, &mut from, max),
        _ => None,
    }?;
    (new.len() <= max).then_some(new)
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

/// The words of a text, one behind the other without gaps.
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let kind = is_word(*self.0.first()?);
        let len = self.0.iter().position(|b| is_word(*b) != kind).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(word)
    }
}

/// A number as it is written: decimal without zeros in front, or hexadecimal of a fixed width.
#[derive(Clone, Copy)]
enum Number {
    Decimal(u64),
    Hex(u64, usize),
}

impl Number {
    fn of(word: &[u8]) -> Option<Number> {
        let text = std::str::from_utf8(word).ok()?;
        let decimal = word.iter().all(u8::is_ascii_digit) && (word.len() == 1 || word[0] != b'0');
        if decimal {
            return text.parse().ok().map(Number::Decimal);
        }
        let hex = word.len() == 8 || word.len() == 16;
        let lower = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        if hex && word.iter().all(lower) {
            return u64::from_str_radix(text, 16).ok().map(|n| Number::Hex(n, word.len()));
        }
        None
    }

    fn value(self) -> u64 {
        match self {
            Number::Decimal(n) | Number::Hex(n, _) => n,
        }
    }

    /// Written as this one is.
    fn write(self, value: u64) -> String {
        match self {
            Number::Decimal(_) => value.to_string(),
            Number::Hex(_, width) => format!("{value:0width$x}"),
        }
    }
}

/// How far the number moved, if writing it so gives `new` again.
fn step(old: &[u8], new: &[u8]) -> Option<u64> {
    // The width of a hexadecimal number is the old one's; eight decimal digits are read as decimal.
    let (was, is) = (Number::of(old)?, Number::of(new)?);
    let value = match (was, is) {
        (Number::Decimal(_), Number::Decimal(n)) => n,
        _ => u64::from_str_radix(std::str::from_utf8(new).ok()?, 16).ok()?,
    };
    let by = zigzag(value.wrapping_sub(was.value()) as i64);
    (by < 1 << 62 && was.write(value).as_bytes() == new).then_some(by)
}

fn words(old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    if !old.is_ascii() || !new.is_ascii() {
        return None;
    }
    let mut patch = vec![WORDS];
    let (mut olds, mut skip) = (Words(old), 0u64);
    for word in Words(new) {
        let was = olds.next()?;
        if was == word {
            skip += 1;
            continue;
        }
        put(&mut patch, skip);
        skip = 0;
        match step(was, word) {
            Some(by) => put(&mut patch, by << 1 | 1),
            None => {
                put(&mut patch, (word.len() as u64) << 1);
                patch.extend_from_slice(word);
            }
        }
        // Text that is not the same text at all is stored whole, which is shorter.
        if patch.len() > 64 + new.len() {
            return None;
        }
    }
    olds.next().is_none().then_some(patch)
}

fn apply_words(old: &[u8], from: &mut Take<'_>, max: usize) -> Option<Vec<u8>> {
    let mut new = Vec::with_capacity(old.len());
    let mut words = Words(old);
    while !from.is_empty() {
        for _ in 0..from.count(old.len())? {
            new.extend_from_slice(words.next()?);
        }
        let was = words.next()?;
        let op = from.number()?;
        if op & 1 == 1 {
            let number = Number::of(was)?;
            let value = number.value().wrapping_add(unzigzag(op >> 1) as u64);
            new.extend_from_slice(number.write(value).as_bytes());
        } else {
            new.extend_from_slice(from.slice(usize::try_from(op >> 1).ok()?)?);
        }
        if new.len() > max {
            return None;
        }
    }
    words.for_each(|word| new.extend_from_slice(word));
    Some(new)
}

fn runs(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut patch = vec![RUNS];
    let (mut at, mut done) = (0, 0);
    while at < new.len() {
        if old[at] == new[at] {
            at += 1;
            continue;
        }
        // Two bytes that stayed in between cost less than a run of their own.
        let (start, mut end) = (at, at + 1);
        while at < new.len() && at < end + 3 {
            if old[at] != new[at] {
                end = at + 1;
            }
            at += 1;
        }
        put(&mut patch, (start - done) as u64);
        put_bytes(&mut patch, &new[start..end]);
        (at, done) = (end, end);
    }
    patch
}

fn apply_runs(old: &[u8], from: &mut Take<'_>) -> Option<Vec<u8>> {
    let mut new = old.to_vec();
    let mut at = 0usize;
    while !from.is_empty() {
        at = at.checked_add(from.count(old.len())?)?;
        let run = from.bytes(old.len())?;
        let end = at.checked_add(run.len())?;
        new.get_mut(at..end)?.copy_from_slice(run);
        at = end;
    }
    Some(new)
}

fn blocks(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    for (i, block) in old.chunks_exact(BLOCK).enumerate() {
        places.entry(block).or_insert(i * BLOCK);
    }
    let mut patch = vec![BLOCKS];
    let (mut at, mut pending) = (0, 0);
    while at + BLOCK <= new.len() {
        let Some(&place) = places.get(&new[at..at + BLOCK]) else {
            at += 1;
            continue;
        };
        let same = |(a, b): &(&u8, &u8)| a == b;
        let back = old[..place].iter().rev().zip(new[pending..at].iter().rev());
        let back = back.take_while(same).count();
        let ahead = old[place..].iter().zip(&new[at..]).take_while(same).count();
        put_bytes(&mut patch, &new[pending..at - back]);
        put(&mut patch, (place - back) as u64);
        put(&mut patch, (back + ahead) as u64);
        at += ahead;
        pending = at;
    }
    put_bytes(&mut patch, &new[pending..]);
    patch
}

fn apply_blocks(old: &[u8], from: &mut Take<'_>, max: usize) -> Option<Vec<u8>> {
    let mut new = Vec::new();
    loop {
        new.extend_from_slice(from.bytes(max)?);
        if from.is_empty() {
            return Some(new);
        }
        let place = from.count(old.len())?;
        let len = from.count(old.len())?;
        new.extend_from_slice(old.get(place..place.checked_add(len)?)?);
        if new.len() > max {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back_and_forth(old: &[u8], new: &[u8]) -> Vec<u8> {
        let patch = diff(old, new);
        assert_eq!(apply(old, &patch, 1 << 20).as_deref(), Some(new), "{patch:?}");
        patch
    }

    #[test]
    fn counters_that_grow_cost_two_bytes_each() {
        let old = b"cpu  4705 356 584 3699176 23060\ncpu0 2350 178 290 1849588 11530\n";
        let new = b"cpu  4706 356 584 3699276 23060\ncpu0 2350 178 290 1849688 11530\n";
        let patch = back_and_forth(old, new);
        // The kind; then skip and step of three numbers, two of which are steps of 100.
        assert_eq!(patch.len(), 1 + 2 + 3 + 3);
    }

    #[test]
    fn hexadecimal_columns_keep_their_width() {
        let patch =
            back_and_forth(b"0000ffff 00000000 0000000a\n", b"00010001 00000000 00000010\n");
        assert!(patch.len() <= 6, "{patch:?}");
        // Looks decimal before or after, but is not: the width stays.
        back_and_forth(b"00000099", b"0000009a");
        back_and_forth(b"12345678", b"1234567f");
        back_and_forth(b"0000009f", b"10000000");
        back_and_forth(b"99999999", b"100000000");
    }

    #[test]
    fn anything_becomes_anything() {
        let texts: [&[u8]; 11] = [
            b"",
            b"0",
            b"007",
            b"18446744073709551615",
            b"a b c",
            b"a b c d",
            b"\xff\xfe\x00binary",
            b"\xff\xfe\x01binarz",
            b"one line\nand another line that is longer than a block\n",
            b"one line\nput in between\nand another line that is longer than a block\n",
            &[7; 300],
        ];
        for old in texts {
            for new in texts {
                back_and_forth(old, new);
            }
        }
    }

    #[test]
    fn a_message_put_into_many_is_found() {
        let old: Vec<u8> =
            (0..4096u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut new = old.clone();
        new.splice(5003..5003, [9; 40]);
        assert!(back_and_forth(&old, &new).len() < 80);
    }

    #[test]
    fn a_patch_that_is_not_one_is_refused() {
        let old = b"cpu 1 2 3 4 5 6 7 8 9 and a tail that makes it longer than one block is\n";
        let patches = [diff(old, b"cpu 2 2 3"), diff(old, &[b'x'; 72]), diff(old, b"\xff")];
        for patch in patches {
            for cut in 0..patch.len() {
                // Any result is fine, but no panic and nothing above the limit.
                let _ = apply(old, &patch[..cut], 100);
            }
            for at in 0..patch.len() {
                for byte in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bad = patch.clone();
                    bad[at] = byte;
                    assert!(apply(old, &bad, 100).is_none_or(|new| new.len() <= 100));
                }
            }
        }
    }
}
