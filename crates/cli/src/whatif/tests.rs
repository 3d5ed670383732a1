use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: WhatifArgs,
}

fn args(line: &str) -> WhatifArgs {
    let words = ["whatif"].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}")).args
}

/// The machine of a command line.
pub(super) fn spec_of(line: &str) -> Spec {
    spec(&args(line)).expect("a machine")
}

#[test]
fn rates_are_read_as_people_write_them() {
    for (text, pps) in
        [("2.5Mpps", 2.5e6), ("500k", 5e5), ("1000", 1e3), ("1Gpps", 1e9), ("3 kpps", 3e3)]
    {
        assert_eq!(text.parse::<Rate>().expect("a rate").0, pps, "{text}");
    }
    for text in ["", "pps", "k", "-1", "nan", "inf", "2G", "1e20", "µ"] {
        assert!(text.parse::<Rate>().is_err(), "{text}");
    }
    for text in ["4", "0x1024", "65x1024", "4x0", "4x99999999", "x", "4x1024x2"] {
        assert!(text.parse::<Nic>().is_err(), "{text}");
    }
}

#[test]
fn a_sweep_varies_one_thing() {
    let base = spec(&args("--nic 4x512 --cpus 4 --rate 1M")).expect("a machine");
    let varied = |what: &str, value: &str| {
        let mut one = base.clone();
        vary(&mut one, what, value).map(|()| one)
    };
    assert_eq!(varied("ring", "64").expect("a ring").ring, 64);
    assert_eq!(varied("size", "1518").expect("a size").frame, 1514);
    assert_eq!(varied("rate", "3M").expect("a rate").pps, 3e6);
    let knob = varied("netdev_budget", "600").expect("a knob").knobs;
    assert_eq!(knob, [("net.core.netdev_budget".to_owned(), "600".to_owned())]);
    for (what, value) in [("ring", "0"), ("size", "63"), ("nonsense", "1"), ("netdev_budget", "x")]
    {
        assert!(varied(what, value).is_err(), "{what}={value}");
    }
}

#[test]
fn answers_are_shown_in_every_form() {
    let asked = args("--for 10 --rate 3M --sweep ring=64,1024 --seed 3");
    let base = spec(&asked).expect("a machine");
    let sweep = asked.sweep.as_ref().expect("a sweep");
    let specs = vary_all(&base, Some(sweep)).expect("machines");
    let all: Result<Vec<Answer>, String> =
        specs.into_iter().map(|(value, one)| answer(value, one, 0.0, 1.0)).collect();
    let answers = all.expect("answers");
    assert_eq!(answers.len(), 2);
    let table = text::table(sweep, &answers);
    assert!(table.contains("first lost") && table.lines().any(|l| l.trim().starts_with("1024 ")));
    let one = text::one(&answers[0]);
    assert!(one.contains("delivered") && one.contains("cpu 0"), "{one}");
    let json = text::json(&asked, &answers);
    assert_eq!(json["answers"][1]["machine"]["ring"], 1024);
    let page = page::page(&asked, &answers);
    assert!(page.matches("<svg").count() == 4 && page.ends_with("</html>\n"));
    assert!(!page.contains("http"), "nothing is loaded from elsewhere");
    let svg = page::svg(&asked, &answers);
    assert!(svg.matches("<g ").count() == 4 && svg.ends_with("</svg>\n"), "{svg}");
}
