//! The page of `--html` in a real browser.

use std::fs;
use std::process::Command;

use super::{Temp, exists, linerate, record, skip, text};

const BROWSERS: [&str; 5] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

#[test]
fn a_browser_draws_the_page() {
    let Some(browser) = BROWSERS.iter().find_map(|name| exists(name)) else {
        return skip("a_browser_draws_the_page", "there is no Chromium");
    };
    let temp = Temp::new();
    let (file, page) = (temp.path("host.lrec"), temp.path("page.html"));
    record(&file, "500ms");
    let made = linerate(&["doctor", "--from", &file, "--html", &page]);
    assert!(made.status.code() < Some(2), "{made:?}");
    let (shot, profile) = (temp.path("shot.png"), temp.path("profile"));
    let run = |args: &[&str]| {
        let mut browser = Command::new(&browser);
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        browser.args([&format!("--user-data-dir={profile}"), "--window-size=1280,1600"]);
        browser.args(args).arg(format!("file://{page}"));
        browser.env("HOME", &temp.0).output().expect("the browser starts")
    };
    let dom = text(&run(&["--dump-dom"]).stdout);
    for part in ["<svg", "NIC ring", "Socket", "<h2>Findings</h2>", "<h2>Over time</h2>"] {
        assert!(dom.contains(part), "{part:?} is missing in:\n{dom}");
    }
    run(&[&format!("--screenshot={shot}")]);
    let picture = fs::read(shot).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{} bytes", picture.len());
}
