use super::params::{Figures, Line, Params, Summary, errno, results};
use super::*;

fn peer(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([10, 9, 0, 1]), port)
}

fn params(text: &str) -> Result<Params, u32> {
    Params::read(text.as_bytes())
}

/// A test whose client wants what `text` says.
fn begun(server: &Arc<Server>, text: &str) -> Arc<Test> {
    let Entry::Control(test) = server.enter(&[7; COOKIE], peer(1000), 0) else {
        panic!("nobody else is there");
    };
    test.params.set(params(text).expect("good parameters")).expect("set once");
    test.set_phase(Phase::Streams);
    test
}

#[test]
fn there_is_one_test_at_a_time_and_its_cookie_leads_to_it() {
    let server = Arc::<Server>::default();
    let test = begun(&server, r#"{"tcp":true,"parallel":2}"#);
    assert!(matches!(server.enter(&[8; COOKIE], peer(1), 1), Entry::Busy), "another client");
    for (port, complete) in [(2, Phase::Streams), (3, Phase::Complete)] {
        assert!(matches!(server.enter(&[7; COOKIE], peer(port), 2), Entry::Data(..)));
        assert_eq!(test.phase(), complete);
    }
    assert!(matches!(server.enter(&[7; COOKIE], peer(4), 3), Entry::Busy), "one too many");
    server.leave(&test);
    assert_eq!(test.phase(), Phase::Over);
    assert!(matches!(server.enter(&[8; COOKIE], peer(1), 4), Entry::Control(_)));
    // The old one says again that it is over: the new one goes on.
    server.leave(&test);
    assert!(matches!(server.enter(&[9; COOKIE], peer(1), 5), Entry::Busy));
}

#[test]
fn before_its_parameters_are_known_a_test_has_no_streams() {
    let server = Arc::<Server>::default();
    let entry = server.enter(&[7; COOKIE], peer(1), 0);
    assert!(matches!(entry, Entry::Control(_)));
    assert!(matches!(server.enter(&[7; COOKIE], peer(2), 1), Entry::Busy));
}

/// The client opens first those on which it sends; which came first to be counted does not matter.
#[test]
fn the_order_of_syns_says_which_way_a_stream_goes() {
    let server = Arc::<Server>::default();
    let test = begun(&server, r#"{"tcp":true,"parallel":2,"bidirectional":true}"#);
    for order in [13, 10, 12, 11] {
        assert!(test.join(order, peer(order as u16)).is_some());
    }
    let roles: Vec<(u16, Role)> =
        lock(&test.streams).iter().map(|s| (s.peer.port(), s.role())).collect();
    use Role::{Receives, Sends};
    assert_eq!(roles, [(10, Receives), (11, Receives), (12, Sends), (13, Sends)]);
}

#[test]
fn a_server_is_found_again_as_long_as_somebody_has_it() {
    let one = Server::at(None, 60_001);
    assert!(Arc::ptr_eq(&one, &Server::at(None, 60_001)));
    assert!(!Arc::ptr_eq(&one, &Server::at(None, 60_002)));
    let test = begun(&one, r#"{"tcp":true}"#);
    drop(one);
    drop(test);
    let entry = Server::at(None, 60_001).enter(&[8; COOKIE], peer(1), 0);
    assert!(matches!(entry, Entry::Control(_)), "a new one");
}

#[test]
fn parameters_are_read_as_iperf3_sends_them() {
    let plain = r#"{"tcp":true,"omit":0,"time":10,"num":0,"blockcount":0,"parallel":1,
        "len":131072,"pacing_timer":1000,"client_version":"3.12"}"#;
    let plain = params(plain).expect("what a client sends");
    assert!(!plain.udp && plain.streams() == 1 && plain.receives(0));
    assert_eq!((plain.len, plain.time, plain.rate), (131_072, 10, 0));
    let udp = r#"{"udp":true,"omit":2,"time":1,"parallel":3,"reverse":true,"len":1448,
        "bandwidth":1e8,"TOS":16,"udp_counters_64bit":1,"window":100000,"dont_fragment":1}"#;
    let udp = params(udp).expect("what a client sends");
    assert!(udp.udp && udp.wide && udp.df && !udp.receives(0) && udp.streams() == 3);
    assert_eq!((udp.rate, udp.tos, udp.window, udp.omit), (100_000_000, 16, 100_000, 2));
    let both = params(r#"{"tcp":true,"parallel":2,"bidirectional":true}"#).expect("both ways");
    assert_eq!((0..4).map(|i| both.receives(i)).collect::<Vec<_>>(), [true, true, false, false]);
    let digits = params(r#"{"repeating_payload":1}"#).expect("a payload");
    assert!(digits.block.starts_with(b"01234567890"));
}

#[test]
fn parameters_that_are_none_are_refused_with_the_number_that_iperf3_has_for_it() {
    for (text, errno) in [
        ("", errno::RECV_PARAMS),
        ("{", errno::RECV_PARAMS),
        ("[]", errno::RECV_PARAMS),
        ("7", errno::RECV_PARAMS),
        ("{\"tcp\":true} x", errno::RECV_PARAMS),
        ("\u{fffd}", errno::RECV_PARAMS),
        (r#"{"sctp":true}"#, errno::NO_SCTP),
        (r#"{"parallel":0}"#, errno::NUM_STREAMS),
        (r#"{"parallel":129}"#, errno::NUM_STREAMS),
        (r#"{"parallel":-1}"#, errno::NUM_STREAMS),
        (r#"{"parallel":1.5}"#, errno::NUM_STREAMS),
        (r#"{"parallel":"9"}"#, errno::NUM_STREAMS),
        (r#"{"time":86401}"#, errno::DURATION),
        (r#"{"omit":601}"#, errno::OMIT),
        (r#"{"len":1048577}"#, errno::BLOCK_SIZE),
        (r#"{"udp":true,"len":15}"#, errno::UDP_BLOCK_SIZE),
        (r#"{"udp":true,"len":65508}"#, errno::UDP_BLOCK_SIZE),
        (r#"{"bandwidth":-1}"#, errno::RECV_PARAMS),
        (r#"{"bandwidth":1e300}"#, errno::RECV_PARAMS),
        (r#"{"burst":1001}"#, errno::BURST),
        (r#"{"window":536870913}"#, errno::BUF_SIZE),
        (r#"{"MSS":32768}"#, errno::MSS),
        (r#"{"TOS":256}"#, errno::BAD_TOS),
        (r#"{"reverse":true,"bidirectional":true}"#, errno::REVERSE_BIDIR),
    ] {
        assert_eq!(params(text), Err(errno), "{text}");
    }
    let deep = "[".repeat(params::PARAMS_MAX);
    assert_eq!(params(&deep), Err(errno::RECV_PARAMS), "no stack is deep enough");
}

#[test]
fn results_say_what_was_counted_since_the_figures_began_anew() {
    let figures = |bytes, packets, lost, retrans| Figures { bytes, packets, lost, retrans };
    let line = |sends| Line {
        sends,
        now: figures(1000, 40, 6, 5),
        omitted: figures(400, 10, 2, 1),
        jitter: 0.25,
    };
    let read = |text: &str| -> serde_json::Value {
        let params = params(text).expect("good parameters");
        let summary = Summary {
            params: &params,
            lines: &[line(false), line(true), line(true)],
            seconds: 2.5,
            cpu: [30.0, 20.0, 10.0],
            congestion: "cubic".to_owned(),
        };
        serde_json::from_slice(&results(&summary)).expect("JSON")
    };
    let tcp = read(r#"{"tcp":true,"bidirectional":true}"#);
    assert_eq!(
        (&tcp["sender_has_retransmits"], &tcp["congestion_used"]),
        (&1.into(), &"cubic".into())
    );
    let ids: Vec<_> = (0..3).map(|i| tcp["streams"][i]["id"].as_u64()).collect();
    assert_eq!(ids, [Some(1), Some(3), Some(4)]);
    let (receives, sends) = (&tcp["streams"][0], &tcp["streams"][1]);
    assert_eq!((&receives["bytes"], &receives["retransmits"]), (&600.into(), &(-1).into()));
    assert_eq!((&sends["retransmits"], &sends["end_time"]), (&4.into(), &2.5.into()));
    // The client takes away what was omitted by itself.
    let udp = read(r#"{"udp":true}"#);
    let stream = &udp["streams"][0];
    assert_eq!((&stream["packets"], &stream["omitted_packets"]), (&40.into(), &10.into()));
    assert_eq!((&stream["errors"], &stream["omitted_errors"]), (&6.into(), &2.into()));
    assert_eq!(udp["sender_has_retransmits"], -1);
}

#[test]
fn a_sender_has_paid_for_what_it_sent() {
    assert_eq!((allowed(8_000_000_000, SEC), allowed(1_000_000, SEC / 2)), (1_000_000_000, 62_500));
    assert_eq!(due(1_000_000, 62_500), SEC / 2);
    assert_eq!((allowed(u64::MAX, u64::MAX), due(0, u64::MAX)), (u64::MAX, u64::MAX));
}
