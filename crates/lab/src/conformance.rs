//! Every mechanism, monitor and knob of the Linux network path that guides to its performance
//! name, and whether it works here. A row is done when a test shows that moving the knob moves its
//! counter; a row without a test is open and says so.

use std::fmt::Write;

/// Whether a row works on one side: our own path, or the kernel's as the doctor reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has no meaning there.
    None,
    /// Not there yet.
    Open,
    /// In part: the command, the tests, what is missing.
    Part(&'static str, &'static [&'static str], &'static str),
    /// The command that shows or sets it, and the tests that prove it.
    Tested(&'static str, &'static [&'static str]),
}

/// One row.
pub struct Row {
    /// Where on the path.
    pub stage: &'static str,
    /// The mechanism, under Linux's names.
    pub what: &'static str,
    /// On our own path.
    pub own: State,
    /// On the kernel's.
    pub host: State,
}

use State::{None as Nothing, Open, Part, Tested};

/// The table, in the order of the journey.
pub const ROWS: &[Row] = include!("conformance.in");

fn cell(state: State) -> String {
    let tests =
        |names: &[&str]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    match state {
        Nothing => "–".into(),
        Open => "open".into(),
        Part(command, names, missing) => {
            format!("in part: `{command}`; tests {}; missing: {missing}", tests(names))
        }
        Tested(command, names) => format!("`{command}`; tests {}", tests(names)),
    }
}

/// The page.
pub fn page() -> String {
    let mut out = String::from(
        "# Conformance\n\n<!-- Generated: LINERATE_BLESS=1 cargo test -p linerate-lab --test golden -->\n\n",
    );
    let count = |f: fn(&Row) -> State| {
        let has = |s: &dyn Fn(State) -> bool| ROWS.iter().filter(|r| s(f(r))).count();
        let done = has(&|s| matches!(s, Tested(..)));
        let part = has(&|s| matches!(s, Part(..)));
        let open = has(&|s| matches!(s, Open));
        format!("{done} tested, {part} in part, {open} open")
    };
    let _ = writeln!(
        out,
        "What guides to the performance of the Linux network path name, and whether it works: on \
         our own path ({}), and on the kernel's as `linerate doctor` reads it ({}). A row is \
         tested when a test moves the knob and sees its counter move, or the mechanism at work.\n",
        count(|r| r.own),
        count(|r| r.host)
    );
    out += "| stage | mechanism, knob or monitor | our path | the kernel's |\n|---|---|---|---|\n";
    for row in ROWS {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            row.stage,
            row.what,
            cell(row.own),
            cell(row.host)
        );
    }
    out
}
