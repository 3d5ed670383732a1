//! What the house holds itself to, checked on the source tree.

use std::collections::BTreeSet;

use linerate_core::table::{Counter, Knobs, Reason, Stage};
use linerate_lab::tree::{self, Source};

fn complain(faults: &[String], what: &str) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

/// Code lines: comments and strings that only speak of a word do not count.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim()));
    lines.filter(|(_, l)| !l.starts_with("//"))
}

/// Goal: `unsafe` stays where it is reviewed.
#[test]
fn unsafe_code_lies_in_arch_and_sys_only() {
    let mut faults = Vec::new();
    for source in tree::sources(".rs") {
        let allowed = source.path.starts_with("crates/arch/")
            || source.path.starts_with("crates/bpf/src/sys/")
            || source.path.starts_with("crates/dev/src/sys/")
            || source.path.starts_with("crates/host/src/sys/")
            || source.path.starts_with("crates/packetdrill/src/sys/")
            || source.path.starts_with("crates/packetdrill/tests/")
            || source.path == "crates/lab/tests/tidy.rs"
            || source.path == "crates/lab/tests/alloc.rs";
        if allowed {
            continue;
        }
        for (n, line) in code_lines(&source.text) {
            let word = line
                .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
                .any(|w| w == "unsafe");
            if word && !line.contains("forbid(unsafe") {
                faults.push(format!("{}:{n}: {line}", source.path));
            }
        }
    }
    complain(&faults, "unsafe outside of arch, and of src/sys of bpf, dev, host and packetdrill");
}

/// Goal: core has no clock, no randomness of its own, no threads, no output, no table that a peer
/// can fill without a key.
#[test]
fn core_asks_nobody_for_the_time() {
    let banned = [
        "Instant::now",
        "SystemTime",
        "std::thread",
        "println!",
        "eprintln!",
        "std::net::TcpStream",
        "std::fs",
        "std::env",
        "HashMap::new()",
        "RandomState",
        "std::process",
    ];
    let mut faults = Vec::new();
    for source in tree::sources(".rs").iter().filter(|s| s.path.starts_with("crates/core/src/")) {
        if source.is_test() {
            continue;
        }
        let shipped = source.shipped();
        for (n, line) in code_lines(&shipped) {
            if let Some(word) = banned.iter().find(|w| line.contains(**w)) {
                faults.push(format!("{}:{n}: {word}", source.path));
            }
        }
    }
    complain(&faults, "core does what its caller should");
}

/// Goal: no room so large that it hides its doors. Tables hold nothing but rows and are exempt.
#[test]
fn files_stay_below_800_lines() {
    let mut faults = Vec::new();
    for source in tree::sources(".rs") {
        let lines = source.shipped().lines().count();
        if lines > 800 && !source.is_test() && !source.path.contains("/table/") {
            faults.push(format!("{}: {lines} lines", source.path));
        }
    }
    complain(&faults, "files to split by the standard's own steps");
}

/// The code of every crate that is no test.
fn shipped_code(skip: &str) -> String {
    let sources = tree::sources(".rs");
    let code = sources.iter().filter(|s| !s.is_test() && !s.path.contains(skip));
    code.map(Source::code).collect::<Vec<_>>().join("\n")
}

/// The words that follow `what` in the code, such as a reason's name after `Reason::`.
fn words_after<'a>(code: &'a str, what: &str) -> BTreeSet<&'a str> {
    code.split(what).skip(1).filter_map(words_first).collect()
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').collect()
}

/// Goal: a row that nothing uses is a promise that nobody keeps.
#[test]
fn every_row_of_the_tables_is_used() {
    let code = shipped_code("/table/");
    // A counter that is only read is not counted: what counts says `id::`.
    let counted = words_after(&code, "id::");
    let given = words_after(&code, "Reason::");
    let read = words_after(&code, "knobs.");
    let by_reason: BTreeSet<&str> =
        Reason::ROWS.iter().flat_map(|r| r.also.iter().map(|c| c.row().name)).collect();
    let mut faults: Vec<String> = Vec::new();
    for row in Counter::ROWS {
        if !counted.contains(row.name) && !by_reason.contains(row.name) {
            faults.push(format!("counter {}", row.name));
        }
    }
    faults.extend(
        Reason::ROWS
            .iter()
            .filter(|r| !given.contains(r.name))
            .map(|r| format!("reason {}", r.name)),
    );
    let table = std::fs::read_to_string(tree::root().join("crates/core/src/table/knob.rs"));
    let table = table.expect("the knob table is readable");
    // What can only be read says something, and asks for nothing.
    for row in Knobs::ROWS.iter().filter(|row| row.unit != "only read") {
        let at = table.find(&format!("\"{}\"", row.path)).expect("the row is in the table");
        let field = table[..at].rsplit(':').nth(2).and_then(|s| s.split_whitespace().last());
        let field = field.expect("a row begins with its field");
        if !read.contains(field) {
            faults.push(format!("knob {} ({field})", row.path));
        }
    }
    complain(&faults, "rows that nothing uses");
}

/// Goal: the `drops:` line of a stage's file is what the file really gives; a file of core that
/// drops packets has one.
#[test]
fn drops_lists_are_exact() {
    let mut faults = Vec::new();
    let stage = |s: &&Source| {
        s.path.starts_with("crates/core/src/") && !s.path.contains("/table/") && !s.is_test()
    };
    for source in tree::sources(".rs").iter().filter(stage) {
        let at = source.text.find("//! drops:").unwrap_or(source.text.len());
        let mut listed = BTreeSet::new();
        for (i, line) in source.text[at..].lines().enumerate() {
            let Some(text) = line.strip_prefix("//!") else { break };
            if i > 0 && (text.trim().is_empty() || text.contains(": ")) {
                break;
            }
            listed.extend(
                words(text).into_iter().filter(|w| Reason::ROWS.iter().any(|r| r.name == *w)),
            );
        }
        let code = source.code();
        let mut used = words_after(&code, "Reason::");
        used.retain(|w| Reason::ROWS.iter().any(|r| r.name == *w));
        for extra in used.difference(&listed) {
            faults.push(format!("{}: gives {extra}, does not list it", source.path));
        }
        for extra in listed.difference(&used) {
            faults.push(format!("{}: lists {extra}, does not give it", source.path));
        }
    }
    complain(&faults, "drops: lines that lie");
}

fn words_first(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Goal: the map follows the packet. Every stage stands in it, in order.
#[test]
fn the_map_names_every_stage_in_order() {
    let map = std::fs::read_to_string(tree::root().join("crates/core/src/README.md"));
    let map = map.expect("the map is readable");
    let mut from = 0;
    for row in Stage::ROWS {
        let line = format!("\n| {} |", row.name);
        let at = map[from..].find(&line);
        from += at.unwrap_or_else(|| panic!("the map lacks {}, or has it out of order", row.name));
    }
}

/// Goal: a reader is never sent to a file that is not there, and each page has one title.
#[test]
fn pages_have_one_title_and_no_dead_links() {
    let mut faults = Vec::new();
    let mut pages = tree::sources(".md");
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md"] {
        let text = std::fs::read_to_string(tree::root().join(name));
        match text {
            Ok(text) => pages.push(Source { path: name.to_owned(), text }),
            Err(err) => faults.push(format!("{name}: {err}")),
        }
    }
    for page in &pages {
        let mut fenced = false;
        let mut titles = 0;
        for line in page.text.lines() {
            fenced ^= line.trim_start().starts_with("```");
            titles += usize::from(!fenced && line.starts_with("# "));
        }
        if titles != 1 {
            faults.push(format!("{}: {titles} titles", page.path));
        }
        let dir = tree::root().join(&page.path);
        let dir = dir.parent().expect("a page lies in a folder");
        for link in page.text.split("](").skip(1).filter_map(|l| l.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let relative = !file.is_empty()
                && !file.contains("://")
                && !file.contains("::")
                && file.contains('.');
            if relative && !dir.join(file).exists() {
                faults.push(format!("{}: {link} is not there", page.path));
            }
        }
    }
    complain(&faults, "pages");
}

/// Goal: the project stands alone: nothing refers to what is not in it.
#[test]
fn nothing_points_out_of_the_project() {
    let mut faults = Vec::new();
    for source in tree::sources(".rs").iter().chain(&tree::sources(".md")) {
        for (n, line) in source.text.lines().enumerate() {
            let out = ["/work/", concat!("../sha", "red"), concat!(".lib", "rary")];
            if source.path != "crates/lab/tests/tidy.rs" && out.iter().any(|w| line.contains(w)) {
                faults.push(format!("{}:{}: {}", source.path, n + 1, line.trim()));
            }
        }
    }
    complain(&faults, "pointers out of the project");
}

/// Goal: each drop reason is provoked by a test of its own (`drop_<reason>`), each knob by one that
/// shows its effect (`knob_<name>`). The lists of those that lack one may only shrink.
#[test]
fn reasons_and_knobs_have_their_tests() {
    let have = tree::test_names();
    let snake = |name: &str| {
        let mut out = String::new();
        for (i, c) in name.char_indices() {
            if c.is_uppercase() && i > 0 {
                out.push('_');
            }
            out.extend(c.to_lowercase());
        }
        out
    };
    let lacking: Vec<&str> =
        include_str!("untested.txt").lines().filter(|l| !l.starts_with('#')).collect();
    let mut faults = Vec::new();
    let mut want: Vec<String> =
        Reason::ROWS.iter().map(|r| format!("drop_{}", snake(r.name))).collect();
    want.extend(Knobs::ROWS.iter().map(|r| format!("knob_{}", r.path.replace(['.', '-'], "_"))));
    for test in &want {
        match (have.contains(test), lacking.contains(&test.as_str())) {
            (false, false) => faults.push(format!("no test {test}")),
            (true, true) => faults.push(format!("{test} exists: take it off untested.txt")),
            _ => {}
        }
    }
    complain(&faults, "tests of reasons and knobs");
}
