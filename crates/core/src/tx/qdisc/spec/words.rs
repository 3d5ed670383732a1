//! Words and values, with tc's units.
//!
//! Linux: iproute2's tc/tc_util.c `get_rate64`, `get_size`, `get_percent`, lib/utils_math.c,
//!        `get_time`

use std::ops::RangeInclusive;
use std::str::SplitWhitespace;

use super::SpecError;
use crate::tx::qdisc::stats;

/// The words of one discipline, from the front.
#[derive(Clone)]
pub struct Words<'a> {
    rest: std::iter::Peekable<SplitWhitespace<'a>>,
    kind: &'static str,
}

type Read<T> = Result<T, SpecError>;

const NUMBER: &str = "a number";
const TIME: &str = "a time such as 5ms, in s, ms, us or ns (us if nothing is said)";
const RATE: &str = "a rate such as 10mbit, in bit, kbit, mbit, gbit or bps, kbps, mbps";
const SIZE: &str = "a size such as 32k, in b, k, m or kbit, mbit";
const PERCENT: &str = "a percentage from 0% to 100%";
const CLASS: &str = "a class such as 1:1";
const HANDLE: &str = "a handle such as 1:";

impl<'a> Words<'a> {
    pub(super) fn new(text: &'a str) -> Words<'a> {
        Words { rest: text.split_whitespace().peekable(), kind: "" }
    }
    pub(super) fn of(&mut self, kind: &'static str) {
        self.kind = kind;
    }
    pub(super) fn is_empty(&mut self) -> bool {
        self.rest.peek().is_none()
    }
    pub(super) fn next(&mut self) -> Option<&'a str> {
        self.rest.next()
    }
    /// Takes the next word if it is `word`.
    pub(super) fn skip(&mut self, word: &str) -> bool {
        self.rest.next_if_eq(&word).is_some()
    }
    pub(super) fn expect(&mut self, what: &'static str) -> Read<()> {
        match self.next() {
            Some(word) if word == what => Ok(()),
            found => Err(SpecError::Expected { what, found: found.unwrap_or_default().to_owned() }),
        }
    }
    /// Whether the next word is a value, not a name.
    pub(super) fn number_follows(&mut self) -> bool {
        let begins = |w: &&str| w.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        self.rest.peek().is_some_and(begins)
    }
    fn value<T>(
        &mut self,
        parameter: &'static str,
        wants: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Read<(T, &'a str)> {
        let Some(word) = self.next() else { return Err(SpecError::NoValue { parameter, wants }) };
        let unreadable = || SpecError::Unreadable { parameter, value: word.to_owned(), wants };
        Ok((read(word).ok_or_else(unreadable)?, word))
    }
    fn within(
        &self,
        parameter: &'static str,
        (value, word): (u64, &str),
        range: RangeInclusive<u64>,
        show: impl Fn(u64) -> String,
    ) -> Read<u64> {
        if range.contains(&value) {
            return Ok(value);
        }
        let (low, high) = (show(*range.start()), show(*range.end()));
        Err(SpecError::Range { kind: self.kind, parameter, value: word.to_owned(), low, high })
    }

    pub(super) fn number(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Read<u64> {
        // tc takes hexadecimal numbers and prints packets with a `p`.
        let read = |w: &str| match w.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => w.strip_suffix('p').unwrap_or(w).parse().ok(),
        };
        let value = self.value(name, NUMBER, read)?;
        self.within(name, value, range, |n| n.to_string())
    }
    pub(super) fn u32(&mut self, name: &'static str, range: RangeInclusive<u32>) -> Read<u32> {
        let range = *range.start() as u64..=*range.end() as u64;
        Ok(self.number(name, range)? as u32)
    }
    pub(super) fn i32(&mut self, name: &'static str, range: RangeInclusive<i32>) -> Read<i32> {
        let (value, word) = self.value(name, NUMBER, |w| w.parse::<i64>().ok())?;
        if let Ok(value) = i32::try_from(value)
            && range.contains(&value)
        {
            return Ok(value);
        }
        let (low, high) = (range.start().to_string(), range.end().to_string());
        let value = word.to_owned();
        Err(SpecError::Range { kind: self.kind, parameter: name, value, low, high })
    }
    /// Nanoseconds.
    pub(super) fn time(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Read<u64> {
        let value = self.value(name, TIME, time)?;
        self.within(name, value, range, stats::time)
    }
    /// Bytes in a second.
    pub(super) fn rate(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Read<u64> {
        let value = self.value(name, RATE, rate)?;
        self.within(name, value, range, stats::rate)
    }
    /// Bytes.
    pub(super) fn size(&mut self, name: &'static str, range: RangeInclusive<u32>) -> Read<u32> {
        let value = self.value(name, SIZE, size)?;
        let range = *range.start() as u64..=*range.end() as u64;
        Ok(self.within(name, value, range, stats::size)? as u32)
    }
    /// A share of 2^32 - 1.
    pub(super) fn percent(&mut self, name: &'static str) -> Read<u32> {
        let (share, word) = self.value(name, PERCENT, |w| {
            w.strip_suffix('%').unwrap_or(w).parse::<f64>().ok().filter(|x| x.is_finite())
        })?;
        if !(0.0..=100.0).contains(&share) {
            let (low, high) = ("0%".to_owned(), "100%".to_owned());
            let value = word.to_owned();
            return Err(SpecError::Range { kind: self.kind, parameter: name, value, low, high });
        }
        Ok((share / 100.0 * u32::MAX as f64).round() as u32)
    }
    /// The same, if a number follows; else 0.
    pub(super) fn correlation(&mut self, name: &'static str) -> Read<u32> {
        if self.number_follows() { self.percent(name) } else { Ok(0) }
    }
    /// `H:`, hexadecimal.
    pub(super) fn handle(&mut self) -> Read<u16> {
        let read = |w: &str| u16::from_str_radix(w.strip_suffix(':')?, 16).ok().filter(|h| *h > 0);
        Ok(self.value("handle", HANDLE, read)?.0)
    }
    /// `H:N`, hexadecimal.
    pub(super) fn class(&mut self) -> Read<(u16, u16)> {
        let read = |w: &str| {
            let (major, minor) = w.split_once(':')?;
            let minor = if minor.is_empty() { "1" } else { minor };
            Some((u16::from_str_radix(major, 16).ok()?, u16::from_str_radix(minor, 16).ok()?))
        };
        Ok(self.value("parent", CLASS, read)?.0)
    }
}

/// A number and its unit, by the units of a table.
fn scaled(word: &str, units: &[(&str, f64)]) -> Option<u64> {
    let at = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    let (number, unit) = word.split_at(at);
    let factor = units.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name))?.1;
    let value = (number.parse::<f64>().ok()? * factor).round();
    (value.is_finite() && value < u64::MAX as f64).then_some(value as u64)
}

fn time(word: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 11] = [
        ("", 1e3),
        ("s", 1e9),
        ("sec", 1e9),
        ("secs", 1e9),
        ("ms", 1e6),
        ("msec", 1e6),
        ("msecs", 1e6),
        ("us", 1e3),
        ("usec", 1e3),
        ("usecs", 1e3),
        ("ns", 1.0),
    ];
    scaled(word, &UNITS)
}

fn rate(word: &str) -> Option<u64> {
    const K: f64 = 1024.0;
    const UNITS: [(&str, f64); 19] = [
        ("", 1.0),
        ("bit", 1.0),
        ("kbit", 1e3),
        ("mbit", 1e6),
        ("gbit", 1e9),
        ("tbit", 1e12),
        ("kibit", K),
        ("mibit", K * K),
        ("gibit", K * K * K),
        ("tibit", K * K * K * K),
        ("bps", 8.0),
        ("kbps", 8e3),
        ("mbps", 8e6),
        ("gbps", 8e9),
        ("tbps", 8e12),
        ("kibps", 8.0 * K),
        ("mibps", 8.0 * K * K),
        ("gibps", 8.0 * K * K * K),
        ("tibps", 8.0 * K * K * K * K),
    ];
    scaled(word, &UNITS).map(|bits| bits / 8)
}

fn size(word: &str) -> Option<u64> {
    const K: f64 = 1024.0;
    const UNITS: [(&str, f64); 10] = [
        ("", 1.0),
        ("b", 1.0),
        ("k", K),
        ("kb", K),
        ("m", K * K),
        ("mb", K * K),
        ("g", K * K * K),
        ("gb", K * K * K),
        ("kbit", K / 8.0),
        ("mbit", K * K / 8.0),
    ];
    scaled(word, &UNITS)
}
