use super::*;

const FORMAT: &str = "name: kfree_skb\n\
    print fmt: \"skbaddr=%p reason: %s\", REC->skbaddr, __print_symbolic(REC->reason, \
    { 2, \"NOT_SPECIFIED\" }, { 3, \"NO_SOCKET\" }, { 0x10002, \"UNUSABLE\" })\n";

const EVENTS: &str = "\
          <idle>-0       [001] ..s2.  1234.567890: kfree_skb: skbaddr=00000000a1 rx_sk=0000000000000000 \
protocol=2048 location=__udp4_lib_rcv+0x3f2/0xa10 reason: NO_SOCKET
  name with blanks-77   [000] b.s2.  1234.567891: kfree_skb: skbaddr=00000000a2 protocol=34525 \
location=nf_hook_slow+0xa2/0xd0 [nf] reason: NETFILTER_DROP
CPU:1 [LOST 41 EVENTS]
          <idle>-0       [001] ..s2.  1234.567892: kfree_skb: skbaddr=00000000a3 rx_sk=0000000000000000 \
protocol=2048 location=__udp4_lib_rcv+0x3f2/0xa10 reason: NO_SOCKET
 old-1  [000] ..s2. 4.5: kfree_skb: skbaddr=00000000a2 protocol=2048 location=0xffffffff81a0
";

#[test]
fn events_are_counted_by_reason_and_function_however_they_are_cut() {
    let mut whole = BTreeMap::new();
    count(&mut EVENTS.as_bytes().to_vec(), &mut whole);
    let is = [
        ("NETFILTER_DROP@nf_hook_slow", 1),
        ("NO_SOCKET@__udp4_lib_rcv", 2),
        ("UNKNOWN@0xffffffff81a0", 1),
    ];
    assert_eq!(whole.iter().map(|(k, n)| (k.as_str(), *n)).collect::<Vec<_>>(), is);
    for cut in 0..EVENTS.len() {
        let (mut text, mut counts) = (EVENTS.as_bytes()[..cut].to_vec(), BTreeMap::new());
        count(&mut text, &mut counts);
        text.extend(&EVENTS.as_bytes()[cut..]);
        count(&mut text, &mut counts);
        assert_eq!(counts, whole, "cut at {cut}");
        assert!(text.is_empty());
    }
}

#[test]
fn histograms_use_the_kernels_own_names() {
    let text = "# event histogram\n#\n\n\
        { reason:          3, location: [ffffffffa2f1] __udp4_lib_rcv+0x10      } hitcount:   12\n\
        { reason:      65538, location: [ffffffffa2f2] ieee80211_rx             } hitcount:    1\n\
        { reason:         99, location: [ffffffffa2f3] tcp_v4_rcv               } hitcount:    2\n\
        \nTotals:\n    Hits: 15\n    Entries: 3\n    Dropped: 4\n";
    let (counts, lost) = hist(text, &reasons(FORMAT));
    let is =
        [("0x63@tcp_v4_rcv", 2), ("NO_SOCKET@__udp4_lib_rcv", 12), ("UNUSABLE@ieee80211_rx", 1)];
    assert_eq!(counts.iter().map(|(k, n)| (k.as_str(), *n)).collect::<Vec<_>>(), is);
    assert_eq!(lost, 4);
    for cut in 0..text.len() {
        let (some, _) = hist(&text[..cut], &BTreeMap::new());
        assert!(some.len() <= 3);
    }
}

#[test]
fn lines_are_read_back_and_garbage_is_not_believed() {
    let mut s = Snapshot::default();
    drops(
        b"NO_SOCKET@udp_rcv 7\nlost 2\n\xff\xfe 9\nno-at 4\nX@y -1\nX@z 99999999999999999999\n",
        &mut s,
    );
    let drops = s.drops.unwrap();
    assert_eq!(drops.by.iter().collect::<Vec<_>>(), [("NO_SOCKET@udp_rcv", 7)]);
    assert_eq!((drops.lost, drops.by.source()), (2, NAME));
}
