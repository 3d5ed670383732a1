use linerate_host::{Counters, Goal, Snapshot};

use super::*;

#[test]
fn text_of_the_host_stays_text() {
    assert_eq!(esc("<script>&\"'\x1b"), "&lt;script&gt;&amp;&quot;&#39;\u{fffd}");
}

#[test]
fn dates_are_right() {
    assert_eq!(date(0), "1970-01-01 00:00:00");
    assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
    assert_eq!(date(1_700_000_000), "2023-11-14 22:13:20");
    assert_eq!(date(4_102_444_799), "2099-12-31 23:59:59");
}

fn second(n: u64) -> Snapshot {
    let mut s = Snapshot { monotonic_ns: n * 1_000_000_000, ..Snapshot::default() };
    s.host.name = "<b>web</b>".into();
    let mut udp = Counters::new("/proc/net/snmp");
    udp.set("RcvbufErrors", 7 * n);
    udp.set("InDatagrams", 100 * n);
    s.mib.insert("Udp".into(), udp);
    s
}

#[test]
fn the_page_is_whole_and_loads_nothing() {
    let snapshots: Vec<Snapshot> = (0..5).map(second).collect();
    let looked = Looked {
        origin: "a test",
        snapshots: &snapshots,
        between: &[],
        goal: Goal::Throughput,
        limits: Default::default(),
    };
    let mut diagnosis = linerate_host::rules::diagnose(&looked.cx());
    diagnosis.skipped.push(linerate_host::snapshot::Note {
        what: "<img src=x onerror=alert(1)>".into(),
        why: "\"&\"".into(),
    });
    let page = page(&looked, &diagnosis);
    assert!(!page.contains("<b>web") && !page.contains("<img"), "{page}");
    for outside in ["http://", "https://", "src=\"", "url(", "@import", "<script", "<link", "href"]
    {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("UDP receive buffer full") && page.contains("7.0/s"), "{page}");
    for tag in ["svg", "section", "table", "figure", "article", "main", "g", "text", "details"] {
        let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
        let opened = page
            .match_indices(&open)
            .filter(|(at, _)| page[at + open.len()..].starts_with([' ', '>']));
        assert_eq!(opened.count(), page.matches(&close).count(), "{tag}");
    }
}
