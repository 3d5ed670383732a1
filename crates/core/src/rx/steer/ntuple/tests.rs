use super::*;

fn keys(proto: u8, src: &str, dst: &str, ports: Option<(u16, u16)>) -> FlowKeys {
    let addr = |text: &str| text.parse().expect("an address");
    FlowKeys { src: addr(src), dst: addr(dst), ports, proto }
}

fn rule(text: &str) -> (Option<u32>, Rule) {
    parse(text).unwrap_or_else(|err| panic!("{text}: {err}"))
}

#[test]
fn is_read_as_ethtool_takes_it_and_printed_back() {
    let (loc, dns) = rule("flow-type udp4 dst-port 53 action 1 loc 3");
    assert_eq!(loc, Some(3));
    assert_eq!(
        (dns.flow_type, dns.dport, dns.action),
        (FlowType::Udp4, Some(53), RuleAction::Queue(1))
    );
    for text in [
        "flow-type udp4 dst-port 53 action 1",
        "flow-type tcp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 1 dst-port 65535 action 255",
        "flow-type tcp6 src-ip fd00::1 action -1",
        "flow-type udp6 action 0",
    ] {
        assert_eq!(rule(text).1.to_string(), text);
    }
}

#[test]
fn what_is_no_rule_is_refused_with_a_reason() {
    for (text, say) in [
        ("", "begins with flow-type"),
        ("flow-type sctp4 action 1", "\"flow-type sctp4\""),
        ("type udp4 action 1", "begins with flow-type"),
        ("flow-type udp4", "does not say what to do"),
        ("flow-type udp4 dst-port 53", "does not say what to do"),
        ("flow-type udp4 dst-port 65536 action 1", "dst-port can not be \"65536\""),
        ("flow-type udp4 action 256", "action can not be \"256\""),
        ("flow-type udp4 action", "action can not be \"\""),
        ("flow-type udp4 src-ip fd00::1 action 1", "an address of the rule's version"),
        ("flow-type udp6 src-ip 10.0.0.1 action 1", "an address of the rule's version"),
        ("flow-type udp4 vlan 5 action 1", "a rule has no \"vlan\""),
        ("flow-type udp4 action 1 loc -1", "loc can not be \"-1\""),
    ] {
        let err = parse(text).expect_err(text).to_string();
        assert!(err.contains(say), "{text}: {err}");
    }
}

#[test]
fn the_lowest_location_that_matches_counts() {
    let mut rules = Rules::new(16, 1);
    let set = |rules: &mut Rules, text: &str| {
        let (loc, rule) = rule(text);
        rules.set(loc, rule).expect("there is room")
    };
    let dns = keys(17, "10.0.0.1", "10.0.0.2", Some((999, 53)));
    assert_eq!(rules.find(&dns), None);
    set(&mut rules, "flow-type udp4 dst-port 53 action 2 loc 5");
    assert_eq!(rules.find(&dns), Some(RuleAction::Queue(2)));
    set(&mut rules, "flow-type udp4 src-ip 10.0.0.1 action -1 loc 4");
    assert_eq!(rules.find(&dns), Some(RuleAction::Drop));
    // A rule for this flow alone, behind and before the others.
    let exact = "flow-type udp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 999 dst-port 53";
    set(&mut rules, &format!("{exact} action 7 loc 9"));
    assert_eq!(rules.find(&dns), Some(RuleAction::Drop));
    set(&mut rules, &format!("{exact} action 8 loc 1"));
    assert_eq!(rules.find(&dns), Some(RuleAction::Queue(8)));
    assert_eq!(rules.delete(1).expect("it is there").action, RuleAction::Queue(8));
    rules.delete(4).expect("it is there");
    rules.delete(5).expect("it is there");
    assert_eq!(rules.find(&dns), Some(RuleAction::Queue(7)));
    assert_eq!(rules.delete(5), Err(RuleError::Unknown(5)));
    // Other protocols, versions, fragments.
    for other in [
        keys(6, "10.0.0.1", "10.0.0.2", Some((999, 53))),
        keys(17, "fd00::1", "fd00::2", Some((999, 53))),
        keys(17, "10.0.0.1", "10.0.0.2", None),
        keys(1, "10.0.0.1", "10.0.0.2", None),
    ] {
        assert_eq!(rules.find(&other), None, "{other:?}");
    }
    assert_eq!(set(&mut rules, "flow-type tcp4 action 1"), 0, "the first free place");
    assert_eq!(set(&mut rules, "flow-type tcp4 action 1"), 1);
}

#[test]
fn is_bounded() {
    let mut rules = Rules::new(2, 1);
    let (_, any) = rule("flow-type tcp4 action 1");
    assert_eq!(rules.set(None, any.clone()), Ok(0));
    assert_eq!(rules.set(Some(9), any.clone()), Ok(9));
    assert_eq!(rules.set(None, any.clone()), Err(RuleError::Full));
    assert_eq!(rules.set(Some(9), any), Ok(9), "in place of another there is room");
    assert_eq!(RuleError::Full.errno(), 28);
}

#[test]
fn many_rules_for_single_flows_agree_with_asking_them_all() {
    let mut rng = Rng::new(4);
    let mut rules = Rules::new(10_000, 1);
    let flow = |rng: &mut Rng| {
        let port = |n| rng_port(n);
        keys(6, "10.0.0.1", "10.0.0.2", Some((port(rng.below(20)), port(rng.below(20)))))
    };
    fn rng_port(n: u64) -> u16 {
        n as u16
    }
    for _ in 0..5000 {
        match rng.below(4) {
            0 => {
                let key = flow(&mut rng);
                let mut one = Rule::exact(&key, rng.below(8) as u8).expect("it has ports");
                if rng.below(4) == 0 {
                    one.sport = None;
                }
                rules.set(Some(rng.below(64) as u32), one).expect("there is room");
            }
            1 => {
                let _ = rules.delete(rng.below(64) as u32);
            }
            _ => {
                let key = flow(&mut rng);
                let first = rules.iter().find(|(_, r)| r.matches(&key)).map(|(_, r)| r.action);
                assert_eq!(rules.find(&key), first);
            }
        }
    }
}

#[test]
fn is_shown_as_ethtool_does() {
    let mut rules = Rules::new(16, 1);
    let (loc, dns) = rule("flow-type udp4 dst-port 53 action 1 loc 3");
    rules.set(loc, dns).expect("there is room");
    let want = "2 RX rings available\nTotal 1 rules\n\nFilter: 3\n\tRule Type: UDP over IPv4\n\
        \tSrc IP addr: 0.0.0.0 mask: 255.255.255.255\n\
        \tDest IP addr: 0.0.0.0 mask: 255.255.255.255\n\tTOS: 0x0 mask: 0xff\n\
        \tSrc port: 0 mask: 0xffff\n\tDest port: 53 mask: 0x0\n\tAction: Direct to queue 1\n";
    assert_eq!(rules.show(2), want);
}
