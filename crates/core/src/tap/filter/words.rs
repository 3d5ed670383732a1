//! A filter's text in words.

use super::FilterError;

/// A word and the byte at which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub text: &'a str,
    pub at: usize,
    /// It stood behind a backslash: a name, even if it is a keyword as well.
    pub escaped: bool,
}

/// Words that a filter may have at the most.
const WORDS_MAX: usize = 1024;

/// Signs of two characters, before those of one.
const SIGNS: [&str; 8] = ["&&", "||", "==", "!=", "<=", ">=", "<<", ">>"];
const SIGN: &str = "()[]!=<>+-*/%&|^:";

/// An error at byte `at`.
pub(super) fn wrong(text: &str, word: &str, at: usize, why: impl Into<String>) -> FilterError {
    let column = text.get(..at).map_or(at, |before| before.chars().count()) + 1;
    FilterError { word: word.to_owned(), column, why: why.into() }
}

/// Splits at spaces and signs. Within brackets a colon is a sign, elsewhere it is part of an address.
pub(super) fn split(text: &str) -> Result<Vec<Word<'_>>, FilterError> {
    let mut words = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    while let Some(first) = text[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let escaped = first == '\\';
        let begin = at + usize::from(escaped);
        let len = word_len(&text[begin..], depth > 0);
        let sign = |s: &&&str| text[begin..].starts_with(**s);
        let n = if len > 0 {
            len
        } else if let Some(sign) = SIGNS.iter().find(sign).filter(|_| !escaped) {
            sign.len()
        } else if SIGN.contains(first) && !escaped {
            1
        } else {
            let odd = text[at..].chars().next().map_or(String::new(), String::from);
            return Err(wrong(text, &odd, at, "no filter has such a character"));
        };
        let word = &text[begin..begin + n];
        match word {
            "[" => depth += 1,
            "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if words.len() == WORDS_MAX {
            let why = format!("a filter has at most {WORDS_MAX} words");
            return Err(wrong(text, word, at, why));
        }
        words.push(Word { text: word, at, escaped });
        at = begin + n;
    }
    Ok(words)
}

/// Bytes of the name, number or address that `text` begins with; 0 if it begins with none.
fn word_len(text: &str, in_brackets: bool) -> usize {
    let bytes = text.as_bytes();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    let mut n = 0;
    while let Some(&b) = bytes.get(n) {
        let joins = match b {
            b':' => !in_brackets,
            // A hyphen inside a word: tcp-syn, 1000-2000; not one between two words.
            b'-' => {
                let letters = !in_brackets || bytes[0].is_ascii_alphabetic();
                n > 0 && letters && bytes.get(n + 1).is_some_and(|b| plain(*b))
            }
            b => plain(b),
        };
        if !joins {
            break;
        }
        n += 1;
    }
    n
}
