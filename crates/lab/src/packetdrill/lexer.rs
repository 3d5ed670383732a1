//! Words, numbers and signs of a script, each with its line.

use super::ScriptError;

/// What a script is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok {
    /// A whole number, decimal or `0x…`.
    Int(i64),
    /// A number of seconds with a fraction, in microseconds.
    Micros(i64),
    /// Letters, digits, underscores.
    Word(String),
    /// `"…"`, without the quotes.
    Str(String),
    /// `` `…` ``: what packetdrill gives a shell.
    Shell(String),
    /// `%{ … }%`
    Code(String),
    /// `...`
    Ellipsis,
    /// A single sign.
    Sign(char),
}

impl Tok {
    /// The token as a reader would write it.
    pub(super) fn say(&self) -> String {
        match self {
            Tok::Int(n) => n.to_string(),
            Tok::Micros(us) => format!("{}", *us as f64 / 1e6),
            Tok::Word(w) => w.clone(),
            Tok::Str(s) => format!("{s:?}"),
            Tok::Shell(_) => "`…`".to_owned(),
            Tok::Code(_) => "%{ … }%".to_owned(),
            Tok::Ellipsis => "...".to_owned(),
            Tok::Sign(c) => c.to_string(),
        }
    }
}

/// A comment, for what a header tells and for what a line is meant for.
#[derive(Clone, Debug)]
pub(super) struct Comment {
    pub line: usize,
    pub text: String,
    /// Nothing but it stands on its line.
    pub alone: bool,
}

/// A script's tokens with their lines, and its comments.
#[derive(Debug, Default)]
pub(super) struct Lexed {
    pub toks: Vec<(usize, Tok)>,
    pub comments: Vec<Comment>,
}

struct Lexer<'a> {
    file: &'a str,
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    out: Lexed,
}

/// Reads the tokens of `text`, whose first line has the number `line`.
pub(super) fn lex(file: &str, text: &str, line: usize) -> Result<Lexed, ScriptError> {
    let rest = text.chars().peekable();
    let mut lexer = Lexer { file, rest, line, out: Lexed::default() };
    while lexer.token()? {}
    Ok(lexer.out)
}

impl Lexer<'_> {
    fn fail<T>(&self, what: &str) -> Result<T, ScriptError> {
        Err(ScriptError { file: self.file.to_owned(), line: self.line, what: what.to_owned() })
    }
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        self.line += usize::from(c == Some('\n'));
        c
    }
    fn ahead(&self, n: usize) -> Option<char> {
        self.rest.clone().nth(n)
    }
    fn push(&mut self, line: usize, tok: Tok) {
        self.out.toks.push((line, tok));
    }
    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(&c) = self.rest.peek().filter(|c| c.is_alphanumeric() || **c == '_') {
            word.push(c);
            self.next();
        }
        word
    }
    /// Everything up to `end`, which is taken, too.
    fn until(&mut self, end: &str) -> Result<String, ScriptError> {
        let mut text = String::new();
        while !text.ends_with(end) {
            match self.next() {
                Some(c) => text.push(c),
                None => return self.fail(&format!("expected {end} before the end of the file")),
            }
        }
        text.truncate(text.len() - end.len());
        Ok(text)
    }

    /// Takes one token; false at the end.
    fn token(&mut self) -> Result<bool, ScriptError> {
        let Some(&c) = self.rest.peek() else { return Ok(false) };
        let line = self.line;
        match c {
            _ if c.is_whitespace() => {
                self.next();
            }
            '/' if self.ahead(1) == Some('/') => self.comment(line),
            '/' if self.ahead(1) == Some('*') => {
                self.until("*/")?;
            }
            '"' => {
                self.next();
                let text = self.until("\"")?;
                self.push(line, Tok::Str(text));
            }
            '`' => {
                self.next();
                let text = self.until("`")?;
                self.push(line, Tok::Shell(text));
            }
            '%' if self.ahead(1) == Some('{') => {
                self.next();
                self.next();
                let text = self.until("}%")?;
                self.push(line, Tok::Code(text));
            }
            '.' if self.ahead(1) == Some('.') && self.ahead(2) == Some('.') => {
                self.next();
                self.next();
                self.next();
                self.push(line, Tok::Ellipsis);
            }
            '.' if self.ahead(1).is_some_and(|c| c.is_ascii_digit()) => self.number(line, true)?,
            _ if c.is_ascii_digit() => self.number(line, false)?,
            _ if c.is_alphabetic() || c == '_' => {
                let word = self.word();
                self.push(line, Tok::Word(word));
            }
            _ => {
                self.next();
                self.push(line, Tok::Sign(c));
            }
        }
        Ok(true)
    }

    fn comment(&mut self, line: usize) {
        let mut text = String::new();
        while let Some(&c) = self.rest.peek().filter(|c| **c != '\n') {
            text.push(c);
            self.next();
        }
        let alone = self.out.toks.last().is_none_or(|(at, _)| *at != line);
        let text = text[2..].trim().to_owned();
        self.out.comments.push(Comment { line, text, alone });
    }

    /// `7`, `0x1f`, `.25`, `1.5`; but `0...1` is 0, an ellipsis and 1.
    fn number(&mut self, line: usize, fraction_only: bool) -> Result<(), ScriptError> {
        let whole = if fraction_only { "0".to_owned() } else { self.word() };
        let fraction = self.rest.peek() == Some(&'.')
            && self.ahead(1).is_some_and(|c| c.is_ascii_digit() || c.is_whitespace());
        if !fraction {
            let parsed = match whole.strip_prefix("0x") {
                Some(hex) => i64::from_str_radix(hex, 16),
                None => whole.parse(),
            };
            // Cookies of Fast Open are hexadecimal digits without a prefix.
            let tok = parsed.map_or(Tok::Word(whole), Tok::Int);
            self.push(line, tok);
            return Ok(());
        }
        self.next();
        let digits = self.word();
        let micros = format!("{digits:0<6}");
        let (Ok(s), Ok(us)) = (whole.parse::<i64>(), micros[..6].parse::<i64>()) else {
            return self.fail(&format!("expected a number of seconds, found {whole}.{digits}"));
        };
        match s.checked_mul(1_000_000).and_then(|s| s.checked_add(us)) {
            Some(all) => self.push(line, Tok::Micros(all)),
            None => return self.fail("expected fewer seconds"),
        }
        Ok(())
    }
}
