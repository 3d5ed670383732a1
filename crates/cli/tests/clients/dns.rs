//! The name server that the program sees, with real resolvers of the host behind it.

use crate::world::{World, need, until};
use crate::{Outcome, Skip};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::OnceLock;
use std::thread::spawn;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As the program sees it.
const FORWARDERS: [&str; 2] = ["@10.0.2.3", "@fd00:6c69:6e65::3"];
/// Last octets of the resolvers' addresses in 127.0.0.0/8, and of what each answers in 192.0.2.0/24.
const RESOLVERS: [u8; 2] = [53, 54];

/// What the resolver answers: its address for every name. Names that begin with `b` get an answer that
/// fits no datagram, so that it is cut there.
fn answer(resolver: u8, query: &[u8], datagram: bool) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let end = question.iter().position(|&byte| byte == 0)? + 5;
    let question = question.get(..end)?;
    let big = question.get(1) == Some(&b'b');
    let records: u8 = if big && !datagram { 100 } else { u8::from(!big) };
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([if big && datagram { 0x83 } else { 0x81 }, 0x80, 0, 1, 0, records, 0, 0, 0, 0]);
    answer.extend(question);
    for i in 0..records {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, resolver + i]);
    }
    Some(answer)
}

/// Starts both resolvers on the host, once; makes /etc ours to change.
fn resolvers() -> Result<(), Skip> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED.get_or_init(start).clone().map_err(Skip)
}

fn start() -> Result<(), String> {
    // What is written there is seen in this mount namespace only.
    let script = "set -e; d=$(mktemp -d); mount -t tmpfs tmpfs $d; mkdir $d/up $d/work; \
                  mount -t overlay overlay -o lowerdir=/etc,upperdir=$d/up,workdir=$d/work /etc; \
                  umount -l $d; rmdir $d";
    let mounted = Command::new("sh").args(["-c", script]).output().expect("sh");
    if !mounted.status.success() {
        let said = String::from_utf8_lossy(&mounted.stderr);
        return Err(format!("/etc can not be covered: {}", said.trim()));
    }
    for resolver in RESOLVERS {
        let udp = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, resolver), 53)).expect("binding");
        spawn(move || {
            let mut query = [0; 4096];
            while let Ok((n, from)) = udp.recv_from(&mut query) {
                if let Some(answer) = answer(resolver, &query[..n], true) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let tcp = TcpListener::bind((Ipv4Addr::new(127, 0, 0, resolver), 53)).expect("binding");
        spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let (mut len, mut query) = ([0; 2], Vec::new());
                let got = stream.read_exact(&mut len).and_then(|()| {
                    query.resize(u16::from_be_bytes(len).into(), 0);
                    stream.read_exact(&mut query)
                });
                if let (Ok(()), Some(answer)) = (got, answer(resolver, &query, false)) {
                    let _ = stream.write_all(&(answer.len() as u16).to_be_bytes());
                    let _ = stream.write_all(&answer);
                }
            }
        });
    }
    Ok(())
}

/// As programs on the host change it: whole, by a new file.
fn replace(text: &str) {
    let new = "/etc/resolv.conf.new";
    fs::write(new, text).expect("a file");
    fs::rename(new, RESOLV_CONF).expect("a new resolv.conf");
}

fn nameserver(resolver: u8) -> String {
    format!("nameserver 127.0.0.{resolver}\n")
}

pub fn dig(world: &World<'_>) -> Outcome {
    let [dig] = need(["dig"])?;
    resolvers()?;
    replace(&nameserver(53));
    for forwarder in FORWARDERS {
        let ask = |how: &str, name: &str| {
            let words = [&dig, "+short", "+tries=1", "+time=100", how, forwarder, name];
            world.run(&[], &words).good()
        };
        assert_eq!(ask("+notcp", "name.example"), "192.0.2.53", "{forwarder}");
        assert_eq!(ask("+tcp", "name.example"), "192.0.2.53", "{forwarder}");
        // Cut as a datagram, so dig asks again over TCP.
        assert_eq!(ask("+notcp", "big.example").lines().count(), 100, "{forwarder}");
    }
    // By what the program finds in its own resolv.conf.
    let words = [dig.as_str(), "+short", "+tries=1", "+time=100", "name.example"];
    assert_eq!(world.run(&[], &words).good(), "192.0.2.53");
    Ok(())
}

pub fn resolver_changes(world: &World<'_>) -> Outcome {
    let [dig, sh] = need(["dig", "sh"])?;
    resolvers()?;
    replace(&nameserver(53));
    let ask = format!("{dig} +short +tries=1 +time=100 {} name.example", FORWARDERS[0]);
    let script = format!("while read x; do {ask}; done");
    let mut running = world.start(&[], &[&sh, "-c", &script]);
    let mut asked = || {
        running.tell("go");
        running.line()
    };
    assert_eq!(asked(), "192.0.2.53");
    replace(&nameserver(54));
    until("the new resolver is asked", || asked() == "192.0.2.54");
    // In place, as an editor does.
    fs::write(RESOLV_CONF, nameserver(53)).expect("resolv.conf");
    until("the old resolver is asked again", || asked() == "192.0.2.53");
    // The first does not exist: the second answers.
    replace(&format!("{}{}", nameserver(99), nameserver(54)));
    until("the resolver that is there is asked", || asked() == "192.0.2.54");
    running.finish();
    // Over TCP too.
    let words = [&dig, "+short", "+tries=1", "+time=100", "+tcp", FORWARDERS[0], "name.example"];
    assert_eq!(world.run(&[], &words).good(), "192.0.2.54");
    replace(&nameserver(53));
    Ok(())
}

pub fn no_resolver(world: &World<'_>) -> Outcome {
    let [dig] = need(["dig"])?;
    resolvers()?;
    // One that nobody is behind, and none.
    for text in [&*nameserver(99), "# none\n"] {
        replace(text);
        let ask = |how: &str| {
            let words = [&dig, "+tries=1", "+time=100", how, FORWARDERS[0], "name.example"];
            world.run(&[], &words).stdout()
        };
        let said = ask("+notcp");
        assert!(said.contains("status: SERVFAIL"), "{text:?}: {said}");
        // Over TCP, a connection that leads nowhere is refused.
        let said = ask("+tcp");
        let refused = said.contains("connection refused");
        assert!(refused || said.contains("status: SERVFAIL"), "{text:?}: {said}");
    }
    replace(&nameserver(53));
    Ok(())
}
