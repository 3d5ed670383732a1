//! The host around us: what stays with its kernel, what happens to the interface, who is refused, what is left behind.

use super::*;

/// Only the ports that were asked for are taken; the kernel has the same address and the rest.
#[test]
fn other_ports_reach_the_kernel() {
    const TEST: &str = "host::other_ports_reach_the_kernel";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 1500, false) else { return };
    for (addr, len) in addrs().into_iter().zip([24, 64]) {
        wire.netdev.add_addr(wire.link.index, addr, len).unwrap();
    }
    let filter = Filter {
        services: Some(vec![Service::Udp(ECHO)]),
        neighbours: false,
        ..Filter::addrs(addrs())
    };
    let Some(opened) = open(TEST, &Config { filter: filter.clone(), ..config(1, Mode::Auto) })
    else {
        return;
    };
    let attached = Arc::clone(&opened.attached);
    assert_eq!(attached.filter(), filter);
    let (mut drive, mut app) = serve(opened.queues);
    // The kernel answers for the addresses, so we have to be told of the neighbours.
    let mac = wire.peer_mac();
    for peer in ["10.78.0.2", "fd78::2"] {
        assert!(drive.shard.neigh_add(0, peer.parse().unwrap(), Mac(mac)));
    }
    const KERNEL: u16 = 4242;
    for addr in [OWN4, OWN6] {
        let server = UdpSocket::bind((addr, KERNEL)).unwrap();
        std::thread::spawn(move || {
            let mut buf = [0; 2048];
            while let Ok((n, from)) = server.recv_from(&mut buf) {
                let _ = server.send_to(&buf[..n], from);
            }
        });
    }
    for addr in [OWN4, OWN6] {
        for port in [ECHO, KERNEL] {
            let line = format!("echo {addr} {port} 0 1000 50");
            while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        }
    }
    let ours = |drive: &Drive| {
        let counts = &drive.shard.net.counts;
        counts.get(Counter::UdpInDatagrams) + counts.get(Counter::Udp6InDatagrams)
    };
    let first = ours(&drive);
    assert!((42..100).contains(&first), "the kernel's datagrams did not come here: {first}");
    // At run time the filter takes another port, and the first one is the kernel's: nobody there.
    let filter = Filter { services: Some(vec![Service::Udp(DISCARD)]), ..filter };
    attached.set_filter(&filter).unwrap();
    while_peer(&mut wire, &mut drive, &mut app, &format!("mute {OWN4} {ECHO}"), "silence");
    while_peer(&mut wire, &mut drive, &mut app, &format!("flood {OWN4} {DISCARD} 20 9"), "flooded");
    while app.discarded < 20 {
        drive.turn(&mut app).unwrap();
    }
    assert_eq!(ours(&drive), first + 20);
    check_balance(&mut drive);
}

#[test]
fn a_link_goes_down_and_comes_up() {
    const TEST: &str = "host::a_link_goes_down_and_comes_up";
    if !in_netns(TEST) {
        return;
    }
    for mode in [Mode::Native, Mode::Generic] {
        let Some(mut wire) = wire(TEST, 1, 1500, false) else { return };
        let Some(opened) = open(TEST, &config(1, mode)) else { return };
        let (mut drive, mut app) = serve(opened.queues);
        let line = format!("echo {OWN6} {ECHO} 0 1000 200");
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        wire.netdev.set_up(wire.link.index, false).unwrap();
        // Sent into nothing; it waits in the ring or is dropped, and is no error.
        let to = SendTo::to("10.78.0.2:9".parse().unwrap());
        for _ in 0..50 {
            let _ = drive.shard.udp_send(app.echo, to, &[b"hello"]);
            wire.peer.set_waker(drive.poller.waker());
            drive.poller.waker().wake();
            drive.turn(&mut app).unwrap();
        }
        wire.netdev.set_up(wire.link.index, true).unwrap();
        while !wire.netdev.link("xa").unwrap().running {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        check_balance(&mut drive);
        wire.netdev.del_link(wire.link.index).unwrap();
    }
}

/// The interface is deleted while packets come in and go out: an error, in bounded time, and
/// everything is still accounted for.
#[test]
fn a_device_is_deleted_under_load() {
    const TEST: &str = "host::a_device_is_deleted_under_load";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 2, 1500, false) else { return };
    let Some(opened) = open(TEST, &config(2, Mode::Auto)) else { return };
    let (mut drive, mut app) = serve(opened.queues);
    while_peer(&mut wire, &mut drive, &mut app, &format!("echo {OWN4} {ECHO} 0 100 50"), "echoed");
    while_peer(&mut wire, &mut drive, &mut app, &format!("storm {OWN4} {ECHO}"), "storms");
    for _ in 0..200 {
        drive.turn(&mut app).unwrap();
    }
    wire.netdev.del_link(wire.link.index).unwrap();
    let err = loop {
        drive.shard.set_knob("net.core.busy_poll", "1000000").unwrap();
        match drive.turn(&mut app) {
            Ok(()) => {}
            Err(err) => break err,
        }
    };
    assert_eq!(err.raw_os_error(), Some(libc::ENODEV), "{err}");
    for queue in [0, 1] {
        let mut dev = drive.remove_queue(0, queue).expect("it is still there");
        assert_eq!(dev.tx_pending(), 0);
        let (mut ring, mut done) = (VecDeque::new(), Vec::new());
        let gone = dev.tx_burst(&mut ring, &mut done);
        assert!(queue == 1 || gone.is_err() || done.is_empty());
    }
    assert_eq!(drive.shard.net.counts.unaccounted(), []);
}

/// A program that is attached is never replaced, whichever mode is asked for.
#[test]
fn a_second_program_is_refused() {
    const TEST: &str = "host::a_second_program_is_refused";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 1500, false) else { return };
    let Some(opened) = open(TEST, &config(1, Mode::Native)) else { return };
    for mode in [Mode::Auto, Mode::Native, Mode::Generic] {
        let err = xdp::open(&config(1, mode)).expect_err("one is attached");
        assert!(matches!(err, OpenError::Attached { .. }), "{err}");
        let errno = err.errno().unwrap();
        assert!([libc::EBUSY, libc::EEXIST].contains(&errno), "{err}");
        assert!(err.to_string().contains("ip link set dev xa xdp off"), "{err}");
    }
    let (mut drive, mut app) = serve(opened.queues);
    while_peer(&mut wire, &mut drive, &mut app, &format!("mute {OWN4} {ECHO}"), "answered");
}

#[test]
fn queues_that_do_not_exist_and_zero_copy_are_refused_with_advice() {
    const TEST: &str = "host::queues_that_do_not_exist_and_zero_copy_are_refused_with_advice";
    if !in_netns(TEST) {
        return;
    }
    let Some(_wire) = wire(TEST, 2, 1500, false) else { return };
    let Some(opened) = open(TEST, &config(2, Mode::Auto)) else { return };
    assert!(opened.queues.iter().all(|q| !q.is_zero_copy()));
    assert!(opened.notes.iter().any(|n| n.contains("no zero-copy")), "{:?}", opened.notes);
    assert!(!opened.notes.iter().any(|n| n.contains("combined")), "{:?}", opened.notes);
    drop(opened);
    let one = xdp::open(&config(1, Mode::Auto)).unwrap();
    assert!(one.notes.iter().any(|n| n.contains("ethtool -L xa combined 1")), "{:?}", one.notes);
    drop(one);
    let err = xdp::open(&config(3, Mode::Auto)).expect_err("there are two");
    assert!(matches!(err, OpenError::NoQueue { queue: 2, has: 2, .. }), "{err}");
    assert!(err.to_string().contains("ethtool -L xa combined 3"), "{err}");
    let wanted = Config { copy: CopyMode::ZeroCopy, ..config(1, Mode::Auto) };
    let err = xdp::open(&wanted).expect_err("a veth has no zero-copy mode");
    assert!(matches!(err, OpenError::NotByDriver { .. }), "{err}");
    assert_eq!(err.errno(), Some(libc::EOPNOTSUPP));
    // What failed left nothing behind, and what was closed can be opened again at once.
    for _ in 0..5 {
        drop(xdp::open(&config(2, Mode::Auto)).unwrap());
    }
    assert!(!shows_xdp());
}

/// Whether `ip link` shows a program on our end.
pub fn shows_xdp() -> bool {
    let out = Command::new("ip").args(["link", "show", "dev", "xa"]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).contains("xdp")
}

#[test]
fn sigkill_leaves_no_program_behind() {
    const TEST: &str = "host::sigkill_leaves_no_program_behind";
    if again::role() == "holder" {
        let opened = xdp::open(&config(1, Mode::Auto)).unwrap();
        println!("@open");
        let _ = io::stdin().read_line(&mut String::new());
        drop(opened);
        return;
    }
    if !in_netns(TEST) {
        return;
    }
    let Some(_wire) = wire(TEST, 1, 1500, false) else { return };
    let Some(opened) = open(TEST, &config(1, Mode::Auto)) else { return };
    drop(opened);
    assert!(!shows_xdp());
    let this = Command::new("env");
    let mut child = again::again(this, TEST, "holder")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    use io::BufRead;
    let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("@open")));
    assert!(shows_xdp());
    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel closes the last descriptors behind the exit.
    while shows_xdp() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    drop(xdp::open(&config(1, Mode::Auto)).unwrap());
}

/// Without privileges the error says which ones are needed.
#[test]
fn without_capabilities_the_error_names_them() {
    const TEST: &str = "host::without_capabilities_the_error_names_them";
    if again::role() == "nobody" {
        let err = xdp::open(&Config::new("lo")).expect_err("not allowed");
        assert!(matches!(err, OpenError::Privilege { .. }), "{err}");
        assert_eq!(err.errno(), Some(libc::EPERM));
        assert!(err.to_string().contains("CAP_BPF"), "{err}");
        return;
    }
    // In a user namespace of its own a process has no rights over BPF.
    let mut command = Command::new("unshare");
    let works = Command::new("unshare").args(["-rn", "true"]).status();
    if !works.is_ok_and(|s| s.success()) {
        return skip(TEST, "no user namespace may be made here (unshare -rn fails)");
    }
    command.arg("-rn");
    let out = again::again(command, TEST, "nobody").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

/// A tagged frame is not ours, although its address is: the same frame without a tag is.
#[test]
fn tagged_frames_stay_with_the_kernel() {
    const TEST: &str = "host::tagged_frames_stay_with_the_kernel";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 1500, false) else { return };
    let Some(opened) = open(TEST, &config(1, Mode::Auto)) else { return };
    let mut queue = opened.queues.into_iter().next().unwrap();
    let mut pool = Pool::new(64, 0);
    wire.peer.run(&format!("raw {OWN4} 10"), "sent");
    let mut seen = Vec::new();
    // They came in the order in which they were sent, before the peer said so.
    while poll(&mut queue, &mut pool, |pkt, pool| {
        seen.push(pkt.head().to_vec());
        pool.free(pkt);
    })
    .unwrap()
        > 0
    {}
    assert_eq!(seen.len(), 10);
    assert!(seen.iter().all(|frame| frame[12..14] == [8, 0]), "{seen:02x?}");
}

/// Somebody tries to take our program off, and changes the MTU of both ends.
#[test]
fn settings_change_behind_our_back() {
    const TEST: &str = "host::settings_change_behind_our_back";
    if !in_netns(TEST) {
        return;
    }
    for mode in [Mode::Native, Mode::Generic] {
        let Some(mut wire) = wire(TEST, 1, 1500, false) else { return };
        let Some(opened) = open(TEST, &config(1, mode)) else { return };
        let (mut drive, mut app) = serve(opened.queues);
        let line = format!("echo {OWN4} {ECHO} 0 1472 92");
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        for flag in ["xdp", "xdpdrv", "xdpgeneric"] {
            let mut off = Command::new("ip");
            let _ =
                off.args(["link", "set", "dev", "xa", flag, "off"]).stderr(Stdio::null()).status();
        }
        assert!(shows_xdp(), "what is attached by a link stays");
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        // What comes is longer now; what we send is as long as we were told at the start.
        wire.netdev.set_mtu(wire.link.index, 9000).unwrap();
        let netns = format!("--net=/proc/{}/ns/net", wire.peer.id());
        let ip = ["ip", "link", "set", "dev", "xb", "mtu", "9000"];
        assert!(Command::new("nsenter").arg(netns).args(ip).status().unwrap().success());
        let line = format!("echo {OWN4} {ECHO} 0 8972 690");
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        // Shorter than we were told: what fits the wire goes on.
        wire.netdev.set_mtu(wire.link.index, 1400).unwrap();
        let line = format!("echo {OWN4} {ECHO} 0 1372 98");
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        check_balance(&mut drive);
        wire.netdev.del_link(wire.link.index).unwrap();
    }
}
