//! From tokens to a script: options, knobs, events.

use super::consts::constant;
use super::lexer::{Comment, Lexed, Tok, lex};
use super::script::{Action, Assert, Event, Expr, Knob, Script, Syscall, When, Who};
use super::{ScriptError, packet};

/// Reads a script. `file` is only told in errors.
///
/// # Errors
/// [`ScriptError`]: the line, and what was expected there.
pub fn parse(file: &str, text: &str) -> Result<Script, ScriptError> {
    let mut script = Script {
        file: file.to_owned(),
        goal: String::new(),
        differs: None,
        v6: false,
        tolerance_us: None,
        knobs: Vec::new(),
        events: Vec::new(),
    };
    // Option lines stand first and have a grammar of their own.
    let mut skipped = String::new();
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next_if(|l| {
        let l = l.trim();
        l.is_empty() || l.starts_with("//") || l.starts_with("--")
    }) {
        let line_no = skipped.lines().count() + 1;
        if let Some(option) = line.trim().strip_prefix("--") {
            script.option(option, line_no)?;
            skipped.push('\n');
        } else {
            skipped += line;
        }
    }
    skipped.extend(lines);
    let Lexed { toks, comments } = lex(file, &skipped, 1)?;
    let mut cursor = Cursor { file, toks: &toks, at: 0 };
    script.header(&comments, toks.first().map_or(usize::MAX, |t| t.0));
    while matches!(cursor.peek(), Some(Tok::Shell(_))) {
        script.knobs.extend(cursor.knobs()?);
    }
    let mut last = 0;
    while cursor.peek().is_some() {
        let (line, from) = (cursor.line(), cursor.at);
        let when = cursor.when()?;
        let body = cursor.at;
        let action = cursor.action()?;
        let only = comments.iter().find(|c| !c.alone && c.line == cursor.line_before());
        let only = only.and_then(|c| whose(&c.text));
        let lead = comments.iter().filter(|c| c.alone && c.line > last && c.line < line);
        let lead = lead.filter(|c| !(script.events.is_empty() && header_of(&comments, c)));
        let lead = lead.map(|c| c.text.clone()).collect();
        last = line;
        debug_assert!(cursor.at > from, "an event has tokens");
        let text = source(&skipped, line, cursor.line_before(), toks.get(body).map(|t| &t.1));
        script.events.push(Event { line, text, when, only, lead, action });
    }
    if script.events.iter().any(|e| e.only.is_some()) != script.differs.is_some() {
        return cursor.fail("expected a comment `// differs: …` exactly where lines are `// linux only` or `// linerate only`");
    }
    Ok(script)
}

/// The lines of an event without the time before its first word and the comment behind.
fn source(text: &str, first: usize, last: usize, begin: Option<&Tok>) -> String {
    let lines: Vec<&str> = text.lines().skip(first - 1).take(last + 1 - first).collect();
    let joined = lines.iter().map(|l| l.split("//").next().unwrap_or(l).trim());
    let joined = joined.collect::<Vec<_>>().join("\n     ");
    // What follows the time: the first blank ends it, unless the action begins with a sign.
    let cut = match begin {
        Some(Tok::Ellipsis) => joined.find("..."),
        _ => joined.find(char::is_whitespace),
    };
    joined[cut.unwrap_or(0)..].trim().to_owned()
}

fn whose(comment: &str) -> Option<Who> {
    let rest = comment.strip_prefix("linux only").map(|_| Who::Linux);
    rest.or_else(|| comment.strip_prefix("linerate only").map(|_| Who::Linerate))
}

/// Whether a comment belongs to the first unbroken block.
fn header_of(comments: &[Comment], c: &Comment) -> bool {
    let Some(first) = comments.first() else { return false };
    let place = comments.iter().position(|o| o.line == c.line).unwrap_or(0);
    first.line + place == c.line
}

impl Script {
    fn option(&mut self, option: &str, line: usize) -> Result<(), ScriptError> {
        let fail =
            |what: &str| Err(ScriptError { file: self.file.clone(), line, what: what.to_owned() });
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match (name.trim(), value.trim()) {
            ("ip_version", "ipv4") => self.v6 = false,
            ("ip_version", "ipv6") => self.v6 = true,
            ("ip_version", _) => return fail("expected --ip_version=ipv4 or ipv6"),
            ("tolerance_usecs", n) => match n.parse() {
                Ok(n) => self.tolerance_us = Some(n),
                Err(_) => return fail("expected --tolerance_usecs=NUMBER"),
            },
            (name, _) => {
                return fail(&format!(
                    "expected --ip_version or --tolerance_usecs, found --{name}"
                ));
            }
        }
        Ok(())
    }
    fn header(&mut self, comments: &[Comment], first_token: usize) {
        let block = comments.iter().filter(|c| c.line < first_token && header_of(comments, c));
        let mut into_differs = false;
        for c in block {
            if let Some(why) = c.text.strip_prefix("differs:") {
                into_differs = true;
                self.differs = Some(why.trim().to_owned());
            } else if into_differs {
                let differs = self.differs.get_or_insert_default();
                *differs = format!("{differs} {}", c.text);
            } else {
                self.goal = format!("{} {}", self.goal, c.text).trim().to_owned();
            }
        }
    }
}

/// The tokens and how far they are read.
pub(super) struct Cursor<'a> {
    file: &'a str,
    toks: &'a [(usize, Tok)],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn peek(&self) -> Option<&'a Tok> {
        self.toks.get(self.at).map(|t| &t.1)
    }
    pub(super) fn peek_at(&self, n: usize) -> Option<&'a Tok> {
        self.toks.get(self.at + n).map(|t| &t.1)
    }
    pub(super) fn next(&mut self) -> Option<&'a Tok> {
        let tok = self.peek();
        self.at += usize::from(tok.is_some());
        tok
    }
    fn line(&self) -> usize {
        self.toks.get(self.at).or(self.toks.last()).map_or(1, |t| t.0)
    }
    fn line_before(&self) -> usize {
        self.toks.get(self.at.wrapping_sub(1)).map_or(1, |t| t.0)
    }
    pub(super) fn fail<T>(&self, what: &str) -> Result<T, ScriptError> {
        let found = self.peek().map_or("the end of the file".to_owned(), Tok::say);
        let what = format!("{what}, found {found}");
        Err(ScriptError { file: self.file.to_owned(), line: self.line(), what })
    }
    pub(super) fn is(&self, sign: char) -> bool {
        self.peek() == Some(&Tok::Sign(sign))
    }
    pub(super) fn take(&mut self, sign: char) -> bool {
        let is = self.is(sign);
        self.at += usize::from(is);
        is
    }
    pub(super) fn want(&mut self, sign: char) -> Result<(), ScriptError> {
        if self.take(sign) { Ok(()) } else { self.fail(&format!("expected {sign:?}")) }
    }
    pub(super) fn word(&self) -> Option<&'a str> {
        match self.peek() {
            Some(Tok::Word(w)) => Some(w),
            _ => None,
        }
    }
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let is = self.word() == Some(word);
        self.at += usize::from(is);
        is
    }
    pub(super) fn int(&mut self) -> Result<i64, ScriptError> {
        let Some(Tok::Int(n)) = self.peek() else { return self.fail("expected a number") };
        self.at += 1;
        Ok(*n)
    }
    /// A number that fits into `T`.
    pub(super) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, ScriptError> {
        let at = self.at;
        let n = self.int()?;
        T::try_from(n).or_else(|_| {
            self.at = at;
            self.fail("expected a number that fits its field")
        })
    }

    fn time(&mut self) -> Result<i64, ScriptError> {
        match self.peek() {
            Some(Tok::Micros(us)) => {
                self.at += 1;
                Ok(*us)
            }
            Some(Tok::Int(s)) if *s < 1 << 40 => {
                self.at += 1;
                Ok(s * 1_000_000)
            }
            _ => self.fail("expected a time in seconds"),
        }
    }
    fn when(&mut self) -> Result<When, ScriptError> {
        if self.take('*') {
            return Ok(When::Any);
        }
        let relative = self.take('+');
        let from = self.time()?;
        if !self.take('~') {
            return Ok(if relative { When::After(from) } else { When::At(from) });
        }
        if self.take('+') != relative {
            return self.fail("expected both ends of a range absolute, or both with +");
        }
        let to = self.time()?;
        Ok(if relative { When::AfterBetween(from, to) } else { When::Between(from, to) })
    }

    fn action(&mut self) -> Result<Action, ScriptError> {
        match self.peek() {
            Some(Tok::Sign('<')) => {
                self.at += 1;
                Ok(Action::Inject(packet::parse(self)?))
            }
            Some(Tok::Sign('>')) => {
                self.at += 1;
                Ok(Action::Expect(packet::parse(self)?))
            }
            Some(Tok::Shell(_)) => Ok(Action::Knobs(self.knobs()?)),
            Some(Tok::Code(code)) => {
                let asserts = asserts(code);
                let Some(asserts) = asserts else {
                    return self.fail(
                        "expected `assert tcpi_FIELD OP NUMBER` or a counter such as TcpExtTCPTimeouts, joined by `and`, commas or lines",
                    );
                };
                self.at += 1;
                Ok(Action::Assert(asserts))
            }
            Some(Tok::Word(w)) if w == "inject" => {
                self.at += 1;
                Ok(Action::Inject(packet::parse(self)?))
            }
            Some(Tok::Word(_) | Tok::Ellipsis) => Ok(Action::Call(self.call()?)),
            _ => self.fail("expected a packet (< or >), a system call, `…` or %{ … }%"),
        }
    }

    /// `` `sysctl -q net.ipv4.tcp_x=1 net.ipv4.tcp_y="1 2 3"` ``: no shell ever sees it.
    fn knobs(&mut self) -> Result<Vec<Knob>, ScriptError> {
        let Some(Tok::Shell(text)) = self.peek() else { return self.fail("expected `sysctl …`") };
        let mut knobs: Vec<Knob> = Vec::new();
        for command in text.split(['\n', ';']).map(str::trim).filter(|l| !l.is_empty()) {
            let Some(rest) = command.strip_prefix("sysctl ") else {
                return self.fail("expected only `sysctl -q NAME=VALUE …` between back-ticks");
            };
            let mut quoted = false;
            for word in rest.split_whitespace().filter(|w| *w != "-q" && *w != "-w") {
                match (quoted, word.split_once('='), knobs.last_mut()) {
                    (true, _, Some(knob)) => {
                        knob.value = format!("{} {}", knob.value, word.trim_end_matches('"'));
                        quoted = !word.ends_with('"');
                    }
                    (_, Some((path, value)), _) => {
                        quoted = value.starts_with('"') && !value[1..].ends_with('"');
                        let value = value.trim_matches('"').to_owned();
                        knobs.push(Knob { path: path.to_owned(), value });
                    }
                    _ => return self.fail("expected NAME=VALUE behind sysctl"),
                }
            }
        }
        self.at += 1;
        Ok(knobs)
    }

    fn call(&mut self) -> Result<Syscall, ScriptError> {
        let mut end = None;
        if self.next_if(&Tok::Ellipsis) {
            let relative = self.take('+');
            let us = self.time()?;
            end = Some(if relative { When::After(us) } else { When::At(us) });
        }
        let Some(name) = self.word() else {
            return self.fail("expected the name of a system call");
        };
        self.at += 1;
        self.want('(')?;
        let args = self.list(')')?;
        self.want('=')?;
        let result = self.expr()?;
        let errno = match self.word().filter(|w| w.starts_with('E')) {
            Some(w) => {
                self.at += 1;
                Some(w.to_owned())
            }
            None => None,
        };
        // strerror's words, for the reader.
        if self.take('(') {
            while self.peek().is_some() && !self.take(')') {
                self.at += 1;
            }
        }
        Ok(Syscall { name: name.to_owned(), args, result, errno, end })
    }
    fn next_if(&mut self, tok: &Tok) -> bool {
        let is = self.peek() == Some(tok);
        self.at += usize::from(is);
        is
    }
    fn list(&mut self, end: char) -> Result<Vec<Expr>, ScriptError> {
        let mut list = Vec::new();
        while !self.take(end) {
            if !list.is_empty() {
                self.want(',')?;
            }
            list.push(self.expr()?);
        }
        Ok(list)
    }

    fn expr(&mut self) -> Result<Expr, ScriptError> {
        match self.peek() {
            Some(Tok::Ellipsis) => {
                self.at += 1;
                Ok(Expr::Ellipsis)
            }
            Some(Tok::Sign('?')) => {
                self.at += 1;
                Ok(Expr::Learn)
            }
            Some(Tok::Str(s)) => {
                self.at += 1;
                // `"data"...` stands for any bytes that begin so.
                self.next_if(&Tok::Ellipsis);
                Ok(Expr::Str(s.clone()))
            }
            Some(Tok::Sign('[')) => {
                self.at += 1;
                Ok(Expr::List(self.list(']')?))
            }
            Some(Tok::Sign('{')) => {
                self.at += 1;
                self.fields()
            }
            _ => {
                let mut n = self.term()?;
                while self.take('|') {
                    n |= self.term()?;
                }
                Ok(Expr::Int(n))
            }
        }
    }
    fn fields(&mut self) -> Result<Expr, ScriptError> {
        let mut fields = Vec::new();
        while !self.take('}') {
            if !fields.is_empty() {
                self.want(',')?;
            }
            let named = self.peek_at(1) == Some(&Tok::Sign('='));
            let name = self.word().filter(|_| named).map(str::to_owned);
            if name.is_some() {
                self.at += 2;
            }
            fields.push((name.unwrap_or_default(), self.expr()?));
        }
        Ok(Expr::Struct(fields))
    }
    fn term(&mut self) -> Result<i64, ScriptError> {
        if self.take('-') {
            return Ok(-self.int()?);
        }
        let Some(word) = self.word() else { return self.int() };
        if word == "htons" {
            self.at += 1;
            self.want('(')?;
            let n = self.int()?;
            self.want(')')?;
            return Ok(n);
        }
        match constant(word) {
            Some(n) => {
                self.at += 1;
                Ok(n)
            }
            None => self.fail("expected a number or a constant that is known (see consts.rs)"),
        }
    }
}

/// `assert tcpi_x == 1 and TcpExtTCPTimeouts < 2`, one or more.
fn asserts(code: &str) -> Option<Vec<Assert>> {
    let clean: String = code.chars().map(|c| if "(),;\n".contains(c) { ' ' } else { c }).collect();
    let words = clean.split_whitespace().filter(|w| *w != "assert" && *w != "and");
    let words: Vec<&str> = words.collect();
    if words.is_empty() || !words.len().is_multiple_of(3) {
        return None;
    }
    let one = |w: &[&str]| {
        let op = w[1].to_owned();
        let ok = ["==", "!=", "<", "<=", ">", ">="].contains(&w[1])
            && ["tcpi_", "Tcp"].iter().any(|begin| w[0].starts_with(begin));
        let value = match w[2] {
            "?" => None,
            word => Some(word.parse().ok().or_else(|| constant(word))?),
        };
        ok.then(|| Assert { field: w[0].to_owned(), op, value })
    };
    words.chunks(3).map(one).collect()
}
