//! The source tree, as text.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate lies two folders below the root").to_path_buf()
}

/// A source file: its path from the root, and its text.
pub struct Source {
    /// Path from the root, with slashes.
    pub path: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// The text without items that only tests see: what ships.
    pub fn shipped(&self) -> String {
        let mut out = String::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            if line.trim_start().starts_with("#[cfg(test)]") {
                let indent = &line[..line.len() - line.trim_start().len()];
                skip_item(&mut lines, indent);
            } else {
                out += line;
                out.push('\n');
            }
        }
        out
    }
    /// The code of what ships: no comments.
    pub fn code(&self) -> String {
        let shipped = self.shipped();
        let lines = shipped.lines().filter(|l| !l.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }
    /// Whether the file itself is a test.
    pub fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.contains("/benches/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("testkit.rs")
    }
}

/// Passes over the item that follows an attribute at this indentation. The tree is formatted: an
/// item ends with the first line that closes it at its own indentation, or is one line.
fn skip_item<'a>(lines: &mut impl Iterator<Item = &'a str>, indent: &str) {
    let mut open = false;
    for line in lines {
        let inner = line.strip_prefix(indent).unwrap_or(line.trim_start());
        if inner.starts_with("#[") || inner.starts_with("//") {
            continue;
        }
        let closes = inner.starts_with(['}', ')', ']']);
        let done = if open { closes } else { inner.ends_with([';', '}', ',']) };
        if done && !inner.ends_with('{') {
            return;
        }
        open |= inner.ends_with(['{', '(', '[']);
    }
}

/// Every file below `crates/` whose name ends in `ending`, sorted by path.
pub fn sources(ending: &str) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root().join("crates"), ending, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(dir: &Path, ending: &str, found: &mut Vec<Source>) {
    let entries = std::fs::read_dir(dir).expect("the source tree is readable");
    for entry in entries {
        let path = entry.expect("the source tree is readable").path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("data") {
                walk(&path, ending, found);
            }
        } else if path.to_string_lossy().ends_with(ending) {
            let text = std::fs::read_to_string(&path).expect("a source file is text");
            let path = path.strip_prefix(root()).expect("below the root");
            found.push(Source { path: path.to_string_lossy().into_owned(), text });
        }
    }
}

/// The names of all test functions in the tree (`fn name` behind a `#[test]`, or a proptest's).
pub fn test_names() -> std::collections::BTreeSet<String> {
    let mut names = std::collections::BTreeSet::new();
    for source in sources(".rs") {
        let mut armed = false;
        for line in source.text.lines().map(str::trim) {
            if line.starts_with("#[test]") {
                armed = true;
            } else if armed && let Some(rest) = line.strip_prefix("fn ") {
                names.extend(rest.split(['(', '<']).next().map(str::to_owned));
                armed = false;
            }
        }
        // Tests with a runner of their own are entries of a list: ("name", function),
        for line in source.text.lines().filter(|_| source.is_test()) {
            let entry = line.trim().strip_prefix("(\"").and_then(|r| r.split_once("\", "));
            if let Some((name, rest)) = entry
                && let Some(function) = rest.strip_suffix("),")
                && function.starts_with(|c: char| c.is_lowercase())
                && function.chars().all(|c| c.is_alphanumeric() || "_:".contains(c))
            {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(text: &str) -> String {
        Source { path: String::new(), text: text.to_owned() }.shipped()
    }

    #[test]
    fn what_only_tests_see_does_not_ship() {
        let text = "use a;\n#[cfg(test)]\nuse b;\nfn c() {\n    d();\n}\n\
                    impl E {\n    #[cfg(test)]\n    fn f(\n        &self,\n    ) {\n        g();\n    }\n    fn h() {}\n}\n\
                    #[cfg(test)]\nmod i;\n#[cfg(test)]\n#[allow(j)]\nmod k {\n    fn l() {\n    }\n}\nfn m() {}\n";
        let want = "use a;\nfn c() {\n    d();\n}\nimpl E {\n    fn h() {}\n}\nfn m() {}\n";
        assert_eq!(shipped(text), want);
    }

    #[test]
    fn tests_are_found_wherever_they_are_declared() {
        let names = test_names();
        for name in [
            "tests_are_found_wherever_they_are_declared",
            // Behind a line of documentation, in a module of a crate.
            "knob_net_ipv4_tcp_rmem",
            // An entry of a list with a runner of its own.
            "udp_echo",
        ] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!names.contains("made"), "a list of widths is none of tests");
    }
}
