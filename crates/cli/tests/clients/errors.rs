//! What goes wrong outside, or is forbidden, reaches the program as the kernel would say it; and
//! connections end as their ends say.

use crate::Outcome;
use crate::server::{CLOSED, ECHO, HALF, HALF_TOLD, RESET, SINK};
use crate::world::{
    GATEWAYS, HOST, HOST_V6, PROHIBITED, SERVERS, UNREACHABLE, World, at, need, own, until,
};

const ECONNREFUSED: &str = "111";
const EHOSTUNREACH: &str = "113";
const ENETUNREACH: &str = "101";
const EACCES: &str = "13";

/// Destinations with the error that each must bring.
fn errors() -> Vec<(String, &'static str)> {
    vec![
        (at(SERVERS[0], CLOSED), ECONNREFUSED),
        (at(SERVERS[1], CLOSED), ECONNREFUSED),
        (at(UNREACHABLE[0], ECHO), EHOSTUNREACH),
        (at(UNREACHABLE[1], ECHO), ENETUNREACH),
        (at(PROHIBITED[0], ECHO), EHOSTUNREACH),
        (at(PROHIBITED[1], ECHO), EACCES),
    ]
}

/// Runs a client with all destinations at once and compares line by line.
fn compare(world: &World<'_>, client: &str, options: &[&str], all: &[(String, &str)]) {
    let mut words = vec![client];
    words.extend(all.iter().map(|(to, _)| to.as_str()));
    let said = world.run_client(options, &words).good();
    let said: Vec<&str> = said.lines().collect();
    let want: Vec<&str> = all.iter().map(|(_, want)| *want).collect();
    assert_eq!(said, want, "{client} of {:?}", &words[1..]);
}

pub fn refusals(world: &World<'_>) -> Outcome {
    compare(world, "connect", &[], &errors());
    compare(world, "udp-error", &[], &errors());
    Ok(())
}

pub fn policy(world: &World<'_>) -> Outcome {
    // The host's server listens on every address of the host; none leads there.
    let all = [
        // Inside, these are the program's own loopback, where nobody listens.
        ("127.0.0.1", ECONNREFUSED),
        ("0.0.0.0", ECONNREFUSED),
        ("::1", ECONNREFUSED),
        ("::ffff:127.0.0.1", ECONNREFUSED),
        ("169.254.169.254", EHOSTUNREACH),
        (HOST, EHOSTUNREACH),
        (HOST_V6, EACCES),
        ("64:ff9b::7f00:1", EACCES),
        ("64:ff9b::c612:1", EACCES),
        ("fd00:ec2::254", EACCES),
        // The gateway is there, but what listens on the host does not listen on it.
        (GATEWAYS[0], ECONNREFUSED),
        (GATEWAYS[1], ECONNREFUSED),
    ];
    let all: Vec<_> = all.iter().map(|(host, want)| (at(host, ECHO), *want)).collect();
    compare(world, "connect", &[], &all);
    Ok(())
}

pub fn host_loopback(world: &World<'_>) -> Outcome {
    let all: Vec<_> =
        [GATEWAYS[0], GATEWAYS[1], HOST, HOST_V6].iter().map(|to| (at(to, ECHO), "ok")).collect();
    compare(world, "connect", &["--host-loopback"], &all);
    for gateway in GATEWAYS {
        let ran = world.run_client(&["--host-loopback"], &["udp", &at(gateway, ECHO)]);
        assert_eq!(ran.good(), "ok", "{gateway}");
    }
    Ok(())
}

pub fn half_close(world: &World<'_>) -> Outcome {
    let [sh, socat] = need(["sh", "socat"])?;
    for (server, family) in SERVERS.iter().zip(["TCP4", "TCP6"]) {
        // The program ends first; the answer still comes.
        let to = format!("{family}:{}", at(server, SINK));
        let script = format!("head -c 200000 /dev/zero | {socat} -t 100 - {to}");
        assert_eq!(world.run(&[], &[&sh, "-c", &script]).good(), "200000 false", "{server}");
        // The server ends first; what is sent after that still arrives.
        let to = format!("{family}:{}", at(server, HALF));
        let script = format!("(sleep 0.3; head -c 300000 /dev/zero) | {socat} -t 100 - {to}");
        assert_eq!(world.run(&[], &[&sh, "-c", &script]).good(), "bye", "{server}");
        assert_eq!(how_it_ended(world), "300000", "{server}");
    }
    Ok(())
}

/// What the last server that ended first saw of the other direction.
fn how_it_ended(world: &World<'_>) -> String {
    let mut said = String::new();
    until("the server saw an end", || {
        let told = at("127.0.0.1", HALF_TOLD);
        said = world.host.asked_of_internet(&[&own(), "client", "get", &told]).trim().to_owned();
        !said.is_empty()
    });
    said
}

pub fn resets(world: &World<'_>) -> Outcome {
    for server in SERVERS {
        let ran = world.run_client(&[], &["reset", &at(server, RESET)]);
        assert_eq!(ran.good(), "Err(ConnectionReset)", "{server}");
        let ran = world.run_client(&[], &["abort", &at(server, HALF)]);
        assert_eq!(ran.good(), "done", "{server}");
        assert_eq!(how_it_ended(world), "ConnectionReset", "{server}");
    }
    Ok(())
}

pub fn udp(world: &World<'_>) -> Outcome {
    for server in SERVERS {
        let ran = world.run_client(&[], &["udp", &at(server, ECHO)]);
        assert_eq!(ran.good(), "ok", "{server}");
    }
    let [sh, socat] = need(["sh", "socat"])?;
    for (server, family) in SERVERS.iter().zip(["UDP4", "UDP6"]) {
        // The answer goes to standard error, because standard output leads back into the socket.
        let to = format!("{family}:{}", at(server, ECHO));
        let script = format!("{socat} -t 0.1 SYSTEM:'printf hello; head -c 5 >&2' {to} 2>&1");
        assert_eq!(world.run(&[], &[&sh, "-c", &script]).good(), "hello", "{server}");
    }
    Ok(())
}
