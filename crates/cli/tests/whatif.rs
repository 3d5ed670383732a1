//! Goal: `linerate whatif` answers as its users see it: text, JSON, pages; and says what can not be.

use std::process::{Command, Output};

use serde_json::Value;

fn whatif(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.arg("whatif").args(line.split_whitespace()).output().expect("linerate starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_host_that_is_not_there_answers() {
    let out = whatif(
        "--nic 4x1024 --cpus 16 --rate 2.5Mpps --size 64 --flows 10000 --for 10 \
         --set net.core.netdev_budget=600",
    );
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.contains("4 queues of 1024, 16 processors; 2.500 Mpps of 64 bytes"), "{said}");
    assert!(said.contains("net.core.netdev_budget = 600") && said.contains("cpu 15"), "{said}");
    assert!(said.contains("delivered   2.") && said.contains("p99"), "{said}");
}

#[test]
fn a_sweep_shows_what_a_larger_ring_is_good_for() {
    let dir = std::env::temp_dir().join(format!("linerate-whatif-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (page, svg) = (dir.join("out.html"), dir.join("out.svg"));
    let out = whatif(&format!(
        "--rate 200k --arrivals burst=1000 --flows 1 --for 50 --sweep ring=128,2048 --json \
         --html {} --svg {}",
        page.display(),
        svg.display()
    ));
    assert!(out.status.success(), "{}", text(&out.stderr));
    let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let answers = told["answers"].as_array().expect("answers");
    let lost: Vec<f64> = answers.iter().map(|a| a["lost"].as_f64().expect("a share")).collect();
    // What the ring takes then is too much for the socket.
    assert!(lost[0] > 0.5 && lost[1] < lost[0] / 2.0, "{lost:?}");
    assert_eq!(answers[0]["first_lost"]["stage"], "Ring");
    assert_eq!(answers[1]["first_lost"]["stage"], "SockQueue");
    for file in [page, svg] {
        let written = std::fs::read_to_string(file).expect("it was written");
        assert!(written.contains("2048") && written.contains("<rect"));
    }
    std::fs::remove_dir_all(dir).expect("it goes");
}

#[test]
fn what_can_not_be_is_said() {
    for (line, said) in [
        ("--nic 4", "QUEUESxRING"),
        ("--rate fast", "no rate"),
        ("--size 20", "64..=1518"),
        ("--cost Nowhere=3", "neither turn nor irq nor a stage: Ring"),
        ("--sweep nonsense=1,2", "besides knobs there are rate"),
        ("--set net.core.netdev_budget=-5", "netdev_budget"),
        ("--for 0", "--for"),
        ("--for 1 --html /nowhere/at/all.html", "/nowhere/at/all.html"),
    ] {
        let out = whatif(line);
        assert_eq!(out.status.code(), Some(2), "{line}: {out:?}");
        assert!(text(&out.stderr).contains(said), "{line}: {}", text(&out.stderr));
    }
}
