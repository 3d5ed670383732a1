//! Filters in the words of pcap-filter(7): compiled once, run on each packet that passes a tap.
//!
//! The usual part of the language: protocols, `host`, `net`, `port`, `portrange` with `src` and
//! `dst`, `ether` addresses, `broadcast`, `multicast`, `vlan`, `less`, `greater`, `inbound`,
//! `outbound`, and relations over `len` and bytes of headers (`tcp[tcpflags] & tcp-syn != 0`),
//! joined by `and`, `or`, `not` and parentheses. What it decides is what libpcap's program for the
//! same words decides; so a load beyond the packet's end rejects the whole packet, IPv6 extension
//! headers but a fragment header are not skipped, and `vlan` moves what follows behind the tag.
//! What is not there: names of hosts, `gateway`, `protochain`, MPLS, PPPoE and what tunnels carry.

mod eval;
mod parse;
mod words;

use std::fmt;

use eval::Test;

/// What a packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Ip,
}

/// What a filter sees of a packet.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What `bytes` begin with.
    pub link: Link,
    /// The packet from there on; its end may be missing, from [`Filter::reach`] bytes on.
    pub bytes: &'a [u8],
    /// Bytes the whole packet has.
    pub len: usize,
    /// Whether it is on its way out.
    pub outbound: bool,
}

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: String,
    test: Option<Test>,
    reach: usize,
}

/// What is wrong with a filter, and where (EINVAL).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// The word that can not be understood; empty at the end of the text.
    pub word: String,
    /// Where it stands, in characters from 1 on.
    pub column: usize,
    /// Why: the rest of a sentence.
    pub why: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FilterError { word, column, why } = self;
        if word.is_empty() {
            return write!(f, "the filter ends too early, at column {column}: {why}");
        }
        write!(f, "the filter's word {word:?} at column {column}: {why}")
    }
}
impl std::error::Error for FilterError {}

impl Filter {
    /// Compiles `text`; an empty one lets every packet through.
    ///
    /// # Errors
    /// [`FilterError`] (EINVAL).
    pub fn compile(text: &str) -> Result<Filter, FilterError> {
        let words = words::split(text)?;
        let test = if words.is_empty() { None } else { Some(parse::parse(&words, text)?) };
        let reach = test.as_ref().map_or(0, Test::reach);
        Ok(Filter { text: text.trim().to_owned(), test, reach })
    }

    /// Whether the packet is wanted.
    #[must_use]
    pub fn matches(&self, view: &View<'_>) -> bool {
        self.test.as_ref().is_none_or(|test| test.run(view) == Some(true))
    }

    /// Bytes from the packet's begin on that the filter may look at.
    #[must_use]
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests;
