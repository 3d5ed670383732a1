//! The generated pages are what the tables say.

use linerate_lab::docs::PAGES;
use linerate_lab::{conformance, tree};

/// Goal: docs/ never lies. Method: make every page anew and compare; LINERATE_BLESS=1 writes them.
#[test]
fn generated_pages_are_current() {
    let bless = std::env::var_os("LINERATE_BLESS").is_some();
    for (name, make) in PAGES {
        let path = tree::root().join("docs").join(name);
        let want = make();
        if bless {
            std::fs::write(&path, &want).expect("docs/ is writable");
        }
        let have = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            have == want,
            "docs/{name} is out of date: run LINERATE_BLESS=1 cargo test -p linerate-lab --test golden"
        );
    }
}

/// Goal: each rule of the doctor has its page, and no page has lost its rule. Method: as above.
#[test]
fn pages_of_rules_are_current() {
    let dir = tree::root().join("docs/rules");
    let pages: Vec<(String, String)> = linerate_host::rules::pages().collect();
    if std::env::var_os("LINERATE_BLESS").is_some() {
        std::fs::create_dir_all(&dir).expect("docs/ is writable");
        for (name, page) in &pages {
            std::fs::write(dir.join(name), page).expect("docs/ is writable");
        }
    }
    for (name, want) in &pages {
        let have = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(
            have == *want,
            "docs/rules/{name} is out of date: run LINERATE_BLESS=1 cargo test -p linerate-lab --test golden"
        );
    }
    for entry in std::fs::read_dir(&dir).expect("docs/rules is there") {
        let name = entry.expect("it can be read").file_name().into_string().unwrap_or_default();
        assert!(pages.iter().any(|(page, _)| *page == name), "docs/rules/{name} has no rule");
    }
}

/// Goal: a row of the conformance table counts as tested only if its tests exist.
#[test]
fn conformance_names_tests_that_exist() {
    let have = tree::test_names();
    for row in conformance::ROWS {
        for state in [row.own, row.host] {
            if let conformance::State::Tested(_, names) | conformance::State::Part(_, names, _) =
                state
            {
                assert!(!names.is_empty(), "{}: tested, but by nothing", row.what);
                for name in names {
                    assert!(have.contains(*name), "{}: no test is called {name}", row.what);
                }
            }
        }
    }
}
