use super::*;

/// A tree of somebody's configuration.
struct Tree(PathBuf);

impl Tree {
    fn new(test: &str, files: &[(&str, &str)]) -> Tree {
        let at =
            std::env::temp_dir().join(format!("linerate-owners-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&at);
        for (file, text) in files {
            let file = at.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        Tree(at)
    }

    fn owners(&self, change: &str) -> Vec<Owner> {
        Files::below(&self.0).owners(&change.parse().unwrap())
    }

    /// Who else sets it: the file, the value, and whether that wins.
    fn others(&self, change: &str) -> Vec<(String, String, bool)> {
        let others = Files::below(&self.0).others(&change.parse().unwrap());
        let below = |file: &Path| file.strip_prefix(&self.0).unwrap().display().to_string();
        others.into_iter().map(|o| (below(&o.file), o.value, o.wins)).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const INDEX: (&str, &str) = ("sys/class/net/eth0/ifindex", "2\n");

#[test]
fn network_manager_is_named_with_its_command() {
    let tree = Tree::new(
        "nm",
        &[
            INDEX,
            ("run/NetworkManager/devices/2", "[device]\nmanaged=true\nconnection-uuid=11-22\n"),
            (
                "etc/NetworkManager/system-connections/other.nmconnection",
                "[connection]\nid=other\nuuid=99\ninterface-name=eth0\n",
            ),
            (
                "etc/NetworkManager/system-connections/w.nmconnection",
                "[connection]\nid=Wired 1\nuuid=11-22\n\n[ethtool]\nring-rx=256\n[ethernet]\nmtu=9000\n",
            ),
        ],
    );
    let command = |change: &str| {
        let owners = tree.owners(change);
        assert_eq!(owners[0].manager, Manager::NetworkManager);
        assert!(owners[0].what.contains("manages eth0 with connection \"Wired 1\""), "{owners:?}");
        owners[0].command.clone()
    };
    for (change, set) in [
        ("ethtool -G eth0 rx 1024 tx 512", "ethtool.ring-rx 1024 ethtool.ring-tx 512"),
        ("ethtool -L eth0 combined 4", "ethtool.channels-combined 4"),
        (
            "ethtool -C eth0 adaptive-rx off rx-usecs 8",
            "ethtool.coalesce-adaptive-rx 0 ethtool.coalesce-rx-usecs 8",
        ),
        ("ethtool -K eth0 rx-gro on", "ethtool.feature-gro on"),
        ("ethtool -A eth0 rx off", "ethtool.pause-rx off"),
        ("ip link set eth0 mtu 1500", "802-3-ethernet.mtu 1500"),
        ("tc qdisc replace dev eth0 root fq limit 5", "tc.qdiscs 'root fq limit 5'"),
    ] {
        assert_eq!(command(change), format!("nmcli connection modify 'Wired 1' {set}"));
    }
    assert_eq!(command("ethtool -X eth0 equal 2"), "", "it has no property for the table");
    let file = "etc/NetworkManager/system-connections/w.nmconnection".to_owned();
    assert_eq!(tree.others("ethtool -G eth0 rx 1024"), [(file.clone(), "256".into(), true)]);
    assert_eq!(tree.others("ip link set eth0 mtu 1500"), [(file, "9000".into(), true)]);
    assert!(tree.others("ethtool -G eth0 tx 1024").is_empty());
    assert!(tree.owners("ethtool -G eth1 rx 9").is_empty());
    assert!(tree.owners("sysctl net.core.somaxconn=9").is_empty());
    assert_eq!(tree.owners("sysctl net.ipv4.conf.eth0.rp_filter=0")[0].command, "");
}

#[test]
fn a_connection_without_a_file_is_asked_for_and_an_unmanaged_device_is_nobodys() {
    let state = "run/NetworkManager/devices/2";
    let tree = Tree::new("nm-none", &[INDEX, (state, "[device]\nmanaged=true\n")]);
    assert_eq!(
        tree.owners("ethtool -G eth0 rx 512")[0].command,
        "nmcli connection modify \"$(nmcli -g GENERAL.CONNECTION device show eth0)\" ethtool.ring-rx 512"
    );
    let tree = Tree::new("nm-off", &[INDEX, (state, "[device]\nmanaged=false\n")]);
    assert!(tree.owners("ethtool -G eth0 rx 512").is_empty());
}

#[test]
fn networkd_is_named_with_what_to_add_to_its_file() {
    let state = "ADMIN_STATE=configured\nNETWORK_FILE=/usr/lib/systemd/network/80-wired.network\n";
    let tree = Tree::new("networkd", &[INDEX, ("run/systemd/netif/links/2", state)]);
    let owners = tree.owners("ip link set eth0 mtu 1400");
    assert_eq!(owners[0].manager, Manager::Networkd);
    assert!(owners[0].what.contains("/usr/lib/systemd/network/80-wired.network"), "{owners:?}");
    assert_eq!(
        owners[0].command,
        "mkdir -p /etc/systemd/network/80-wired.network.d && printf '[Link]\\nMTUBytes=1400\\n' > \
         /etc/systemd/network/80-wired.network.d/90-linerate.conf"
    );
    assert_eq!(tree.owners("ethtool -G eth0 rx 512")[0].command, "");
    let unmanaged = state.replace("configured", "unmanaged");
    let tree = Tree::new("networkd-off", &[INDEX, ("run/systemd/netif/links/2", &unmanaged)]);
    assert!(tree.owners("ip link set eth0 mtu 1400").is_empty());
}

#[test]
fn irqbalance_owns_interrupts_that_it_was_not_told_to_leave() {
    let change = "echo 1 > /proc/irq/41/smp_affinity_list";
    assert!(Tree::new("irq-none", &[("etc/x", "")]).owners(change).is_empty());
    let pid = ("run/irqbalance.pid", "9\n");
    let tree =
        Tree::new("irq", &[pid, ("etc/default/irqbalance", "#IRQBALANCE_ARGS=\"--banirq=41\"\n")]);
    let owners = tree.owners(change);
    assert_eq!(owners[0].manager, Manager::Irqbalance);
    assert_eq!(
        owners[0].command,
        "add --banirq=41 to IRQBALANCE_ARGS in /etc/default/irqbalance, then systemctl restart irqbalance"
    );
    let banned = "IRQBALANCE_ARGS=\"--banirq=4 --banirq=41\"\n";
    let tree = Tree::new("irq-ban", &[pid, ("etc/default/irqbalance", banned)]);
    assert!(tree.owners(change).is_empty());
    assert_eq!(tree.owners("echo 1 > /proc/irq/42/smp_affinity_list").len(), 1);
}

#[test]
fn profiles_of_tuned_are_read_with_what_they_include() {
    let files = [
        ("etc/tuned/active_profile", "mine\n"),
        (
            "etc/tuned/mine/tuned.conf",
            "[main]\ninclude=network-latency\n[net]\nring=rx 512 tx 512\n",
        ),
        (
            "usr/lib/tuned/network-latency/tuned.conf",
            "[main]\ninclude=mine\n[sysctl]\nnet.core.busy_read=50\n#net.core.somaxconn=1\n",
        ),
    ];
    let tree = Tree::new("tuned", &files);
    let file = "usr/lib/tuned/network-latency/tuned.conf".to_owned();
    assert_eq!(tree.others("sysctl net.core.busy_read=0"), [(file.clone(), "50".into(), false)]);
    assert!(tree.others("sysctl net.core.somaxconn=9").is_empty(), "a remark");
    let ring = tree.others("ethtool -G eth0 rx 1024");
    assert_eq!(ring, [("etc/tuned/mine/tuned.conf".into(), "rx 512 tx 512".into(), true)]);
    assert!(tree.others("ethtool -G eth0 rx-mini 1024").is_empty());
    let main = ("etc/tuned/tuned-main.conf", "reapply_sysctl = 0\n");
    let tree = Tree::new("tuned-last", &[files.as_slice(), &[main]].concat());
    assert_eq!(tree.others("sysctl net.core.busy_read=0"), [(file, "50".into(), true)]);
}

#[test]
fn files_of_udev_and_of_debian_are_named() {
    let tree = Tree::new(
        "udev",
        &[
            INDEX,
            ("run/udev/data/n2", "I:1\nE:ID_NET_LINK_FILE=/etc/systemd/network/10-eth0.link\n"),
            ("etc/systemd/network/10-eth0.link", "[Match]\nName=x\n[Link]\nRxBufferSize=300\n"),
            ("etc/systemd/network/10-eth0.link.d/a.conf", "[Link]\nMTUBytes=1400\n"),
            (
                "etc/udev/rules.d/99-late.rules",
                "# ACTION==\"add\", ATTR{mtu}=\"1\"\n\
             ACTION==\"add\", SUBSYSTEM==\"net\", KERNEL==\"eth0\", ATTR{mtu}=\"1300\"\n\
             SUBSYSTEM==\"net\", KERNEL==\"eth1\", ATTR{mtu}=\"1301\"\n\
             SUBSYSTEM==\"net\", KERNEL==\"eth0\", ATTR{mtu}==\"1302\"\n",
            ),
            (
                "usr/lib/udev/rules.d/10-a.rules",
                "SUBSYSTEM==\"net\", KERNEL==\"eth0\", RUN+=\"/sbin/ethtool -G eth0 rx 400\"\n",
            ),
            (
                "etc/network/interfaces",
                "iface eth1 inet dhcp\n  mtu 9\niface eth0 inet dhcp\n  mtu 1200\n  \
             post-up ethtool -K eth0 tso off\n",
            ),
        ],
    );
    let three = |a: &str, b: &str, c| (a.to_owned(), b.to_owned(), c);
    assert_eq!(
        tree.others("ethtool -G eth0 rx 512"),
        [
            three("usr/lib/udev/rules.d/10-a.rules", "ethtool -G eth0 rx 400", false),
            three("etc/systemd/network/10-eth0.link", "300", false),
        ]
    );
    assert_eq!(
        tree.others("ip link set eth0 mtu 1500"),
        [
            three("etc/network/interfaces", "1200", true),
            three("etc/udev/rules.d/99-late.rules", "1300", true),
            three("etc/systemd/network/10-eth0.link.d/a.conf", "1400", false),
        ]
    );
    let off = three("etc/network/interfaces", "ethtool -K eth0 tso off", true);
    assert_eq!(tree.others("ethtool -K eth0 tso on"), [off]);
}

#[test]
fn files_that_are_none_are_passed_over() {
    let tree = Tree::new(
        "odd",
        &[
            INDEX,
            ("run/NetworkManager/devices/2/inside", "a directory where a file should be"),
            ("etc/tuned/active_profile", "../../../etc a/b loop"),
            ("etc/tuned/loop/tuned.conf", "[main]\ninclude=loop\n"),
            ("etc/sysctl.d/99-x.conf/inside", ""),
            ("etc/udev/rules.d/99-x.rules", "\u{0}=\"\"\"\n,,,RUN+=\n"),
        ],
    );
    fs::write(tree.0.join("etc/network"), b"\xff\xfe").unwrap();
    for change in ["ethtool -G eth0 rx 1", "ip link set eth0 mtu 1", "sysctl net.core.somaxconn=1"]
    {
        assert!(tree.owners(change).is_empty() && tree.others(change).is_empty(), "{change}");
    }
}
